//! What keyfob adds to a program: to its size, to the crates it is built from, and to the time of a
//! cold build. The floor is a program that does a log-in and a call by hand with the five
//! dependencies, with the same features.
//!
//! `cargo bench --bench size` builds both, as a release and as small as it goes, each in a directory
//! of its own, with the versions of our lock file and without network, which takes minutes. A
//! program for Linux and its like.

#![allow(clippy::unwrap_used, reason = "a bench may panic")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

/// How a program is built.
const RELEASE: &str = "strip = true";
const SMALL: &str =
    "strip = true\nopt-level = \"z\"\nlto = true\ncodegen-units = 1\npanic = \"abort\"";

/// What was built, and how.
struct Built {
    took: Duration,
    size: u64,
    crates: usize,
}

fn main() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let keyfob = format!("keyfob = {{ path = {root:?} }}");
    let build = |profile| {
        let floor = build("floor", &dependencies(root), include_str!("size/floor.rs"), profile);
        (floor, build("keyfob", &keyfob, include_str!("size/keyfob.rs"), profile))
    };
    let (floor, ours) = build(RELEASE);
    let (small_floor, small) = build(SMALL);
    println!("{:<34}{:>10}{:>10}{:>10}{:>8}", "what", "floor", "keyfob", "more", "aim");
    let line = |what: &str, floor: u64, ours: u64, aim: &str| {
        let more = i64::try_from(ours).unwrap() - i64::try_from(floor).unwrap();
        println!("{what:<34}{floor:>10}{ours:>10}{more:>+10}{aim:>8}");
    };
    line("stripped program, bytes", floor.size, ours.size, "+400000");
    line("the same, built for size", small_floor.size, small.size, "+400000");
    line("crates, keyfob not counted", floor.crates as u64, ours.crates as u64 - 1, "+0");
    line("cold release build, seconds", floor.took.as_secs(), ours.took.as_secs(), "-");
}

/// Returns keyfob's own dependencies, as its manifest has them, with TLS.
fn dependencies(root: &Path) -> String {
    let manifest = fs::read_to_string(root.join("Cargo.toml")).unwrap();
    let lines = manifest.lines().skip_while(|line| *line != "[dependencies]").skip(1);
    let lines = lines.take_while(|line| !line.starts_with('['));
    let own: Vec<_> = lines.filter(|line| !line.is_empty() && !line.contains("optional")).collect();
    let own = own.join("\n");
    let with_tls = own.replace(r#"features = ["gzip"]"#, r#"features = ["gzip", "rustls"]"#);
    assert!(with_tls != own, "ureq is not where it was: {own}");
    with_tls
}

fn build(name: &str, dependencies: &str, program: &str, profile: &str) -> Built {
    let dir = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("size").join(name);
    let _ = fs::remove_dir_all(&dir);
    fs::create_dir_all(dir.join("src")).unwrap();
    let manifest = format!(
        "[package]\nname = \"program\"\nedition = \"2024\"\n\n[dependencies]\n{dependencies}\n\n\
         [profile.release]\n{profile}\n\n[workspace]\n"
    );
    fs::write(dir.join("Cargo.toml"), manifest).unwrap();
    fs::write(dir.join("src/main.rs"), program).unwrap();
    fs::copy(Path::new(env!("CARGO_MANIFEST_DIR")).join("Cargo.lock"), dir.join("Cargo.lock"))
        .unwrap();
    let start = Instant::now();
    cargo(&dir, &["build", "--release", "--offline", "--quiet"]);
    let took = start.elapsed();
    let size = fs::metadata(dir.join("target/release/program")).unwrap().len();
    let tree = cargo(&dir, &["tree", "--offline", "--edges", "normal", "--prefix", "none"]);
    let mut crates: Vec<_> = tree.lines().map(|line| line.trim_end_matches(" (*)")).collect();
    crates.sort_unstable();
    crates.dedup();
    // The program is none of them.
    Built { took, size, crates: crates.len() - 1 }
}

fn cargo(dir: &Path, arguments: &[&str]) -> String {
    let mut command = Command::new(env!("CARGO"));
    command.args(arguments).current_dir(dir).env("CARGO_TARGET_DIR", dir.join("target"));
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}
