//! Children under `strace`, which can kill them at any one of their system calls, or write down
//! what they did to the disk.

use std::path::Path;
use std::process::Command;

/// The system calls that change what is on disk, or who holds a lock. A question mark: not every
/// kind of machine has it.
const CALLS: &[&str] = &[
    "?chmod",
    "?fchmod",
    "?fchmodat",
    "?fdatasync",
    "?flock",
    "?fsync",
    "?ftruncate",
    "?mkdir",
    "?mkdirat",
    "?open",
    "?openat",
    "?pwrite64",
    "?rename",
    "?renameat",
    "?renameat2",
    "?rmdir",
    "?sync_file_range",
    "?unlink",
    "?unlinkat",
    "?write",
];

/// Which file each call means, and all that is written.
const EVERYTHING: [&str; 4] = ["-y", "-xx", "-s", "100000000"];

/// A system call of a traced child.
#[derive(Clone, Debug)]
pub struct Call {
    /// The thread that called it.
    pub thread: u32,
    pub name: String,
    /// The arguments, and the result if the line has it.
    pub rest: String,
}

/// A command that runs what is appended to it, and writes down its calls.
pub fn record(to: &Path) -> Command {
    let mut command = writing_to(to);
    command.arg("--seccomp-bpf");
    command
}

/// The same with everything in the calls: all that is written, and which file is meant.
pub fn record_all(to: &Path) -> Command {
    let mut command = record(to);
    command.args(EVERYTHING);
    command
}

/// A command that runs what is appended to it, and kills it as one of its threads begins its
/// `when`th call of this name.
pub fn kill_at(call: &str, when: usize) -> Command {
    // Not with `--seccomp-bpf`: it is faster, but strace 6.1 loses count.
    let mut command = strace();
    command.args(["-o", "/dev/null", "-e", &format!("trace={call}")]);
    command.args(["-e", &format!("inject={call}:signal=KILL:when={when}")]);
    command
}

/// The same, and writes down everything as [`record_all`] does.
pub fn record_until(to: &Path, call: &str, when: usize) -> Command {
    let mut command = writing_to(to);
    command.args(EVERYTHING);
    command.args(["-e", &format!("inject={call}:signal=KILL:when={when}")]);
    command
}

/// A command that runs what is appended to it, stops it once it has opened this file for the first
/// time, and writes down how it goes on with it.
pub fn stop_after_opening(file: &Path, log: &Path) -> Command {
    let mut command = strace();
    command.arg("-o").arg(log).arg("-P").arg(file);
    command.args(["-e", "trace=openat,flock", "-e", "inject=openat:signal=STOP:when=1"]);
    command
}

fn writing_to(log: &Path) -> Command {
    let mut command = strace();
    command.arg("-o").arg(log).arg("-e").arg(format!("trace={}", CALLS.join(",")));
    command
}

fn strace() -> Command {
    let mut command = Command::new("strace");
    command.args(["-f", "-qq"]);
    command
}

/// Reads what [`record`] wrote: the calls in the order in which they began.
pub fn calls(recorded: &str) -> Vec<Call> {
    let call = |line: &str| {
        let (thread, rest) = line.split_once(' ')?;
        let (name, rest) = rest.trim_start().split_once('(')?;
        let is_name = name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
        let (name, rest) = (name.to_owned(), rest.to_owned());
        is_name.then_some(Call { thread: thread.parse().ok()?, name, rest })
    };
    recorded.lines().filter_map(call).collect()
}
