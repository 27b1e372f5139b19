//! Completions in real shells, and the man pages.

use std::path::Path;
use std::process::Command;

use crate::command::{Dir, Place, finish, keyfob};
use crate::terminal::{Attached, Terminal};

/// Completes `keyfob logo` and `--he` with the tabulator, and runs the line.
fn check_shell(shell: &[&str], setup: &str) {
    let dir = Dir::new(&format!("completions-{}", shell[0]));
    let place = Place::new("http://127.0.0.1:9", dir.0.clone());
    let terminal = Terminal::start(&place, Attached::Controlling, shell);
    terminal.wait_for("READY> ");
    terminal.type_in(&format!("PATH=$(dirname \"$KEYFOB\"):$PATH; {setup}; echo 'DO''NE'\n"));
    terminal.wait_for("DONE");
    terminal.wait_for("READY> ");
    // Without completion, this is an unknown command.
    terminal.type_in("keyfob logo\t--he\t\n");
    terminal.wait_for("Log a user out, by default");
}

#[test]
#[ignore = "needs bash"]
fn bash_completes_commands_and_options() {
    check_shell(&["bash", "--norc", "-i"], "source <(keyfob completions bash)");
}

#[test]
#[ignore = "needs zsh"]
fn zsh_completes_commands_and_options() {
    let setup = "autoload -U compinit; compinit -D -u; source <(keyfob completions zsh)";
    check_shell(&["zsh", "-f", "-i"], setup);
}

#[test]
#[ignore = "needs fish"]
fn fish_completes_commands_and_options() {
    let path = Path::new(env!("CARGO_BIN_EXE_keyfob")).parent().unwrap();
    let complete = |line: &str| {
        let script = format!("keyfob completions fish | source; complete -C '{line}'");
        let mut fish = Command::new("fish");
        fish.args(["--no-config", "-c", &script]);
        let paths = std::env::var("PATH").unwrap();
        fish.env("PATH", format!("{}:{paths}", path.display()));
        let run = finish(fish, "");
        assert_eq!((run.code, &*run.stderr), (0, ""));
        let words = run.stdout.lines().map(|line| line.split('\t').next().unwrap().to_owned());
        words.collect::<Vec<_>>()
    };
    assert_eq!(complete("keyfob log"), ["login", "logout"]);
    assert_eq!(complete("keyfob login --anon"), ["--anonymous"]);
}

#[test]
fn help_is_coloured_on_terminal_only() {
    let dir = Dir::new("colours");
    let place = Place::new("http://127.0.0.1:9", dir.0.clone());
    for (environment, is_coloured) in [("-u NO_COLOR", true), ("NO_COLOR=1", false)] {
        let script = format!("env {environment} TERM=xterm \"$KEYFOB\" --help; echo 'DO''NE'");
        let terminal = Terminal::start(&place, Attached::Controlling, &["sh", "-c", &script]);
        let shown = terminal.wait_for("DONE");
        assert!(shown.contains("Usage:"), "{shown:?}");
        assert_eq!(shown.contains('\u{1b}'), is_coloured, "{shown:?}");
    }
    assert!(!finish(keyfob(&["--help"]), "").stdout.contains('\u{1b}'));
}

#[test]
fn powershell_script_names_every_command() {
    let script = finish(keyfob(&["completions", "powershell"]), "");
    assert_eq!((script.code, &*script.stderr), (0, ""));
    assert!(
        script.stdout.trim_start().starts_with("using namespace System.Management.Automation\n")
    );
    for command in ["'login'", "'api-keys'", "'--anonymous'"] {
        assert!(script.stdout.contains(command), "{command}");
    }
}

#[test]
#[ignore = "needs mandoc"]
fn man_pages_have_no_warnings() {
    let dir = Dir::new("man");
    let pages = dir.0.join("man1");
    let run = finish(keyfob(&["man", "--dir", pages.to_str().unwrap()]), "");
    assert_eq!((run.code, &*run.stdout, &*run.stderr), (0, "", ""));
    let main = finish(keyfob(&["man"]), "").stdout;
    assert_eq!(std::fs::read_to_string(pages.join("keyfob.1")).unwrap(), main);
    assert!(pages.join("keyfob-api-keys-create.1").exists());
    for page in std::fs::read_dir(&pages).unwrap() {
        // The level below is style, such as the length of lines in the source.
        let mut lint = Command::new("mandoc");
        lint.args(["-Tlint", "-W", "warning"]).arg(page.unwrap().path());
        let run = finish(lint, "");
        assert_eq!((run.code, &*run.stdout, &*run.stderr), (0, "", ""));
    }
}

#[test]
fn unwritable_man_directory_names_option() {
    let dir = Dir::new("man-file");
    let file = dir.0.join("file");
    std::fs::write(&file, "").unwrap();
    let run = finish(keyfob(&["man", "--dir", file.to_str().unwrap()]), "");
    assert_eq!((run.code, &*run.stdout), (2, ""));
    assert!(run.stderr.contains("(--dir)"), "{run:?}");
}
