//! Prompts on a real terminal: the echo is off while a secret is typed, and on again whatever ends
//! the prompt.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{Read, Write};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Condvar, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{LocalModes, tcgetattr};

use crate::command::{Backend, EMAIL, PASSWORD, Place};

/// Longer than anything here takes.
const PATIENCE: Duration = Duration::from_secs(60);

/// A terminal with a program on it.
pub(crate) struct Terminal {
    master: File,
    screen: Arc<(Mutex<Screen>, Condvar)>,
    child: Child,
}

/// What was printed and not waited for yet.
#[derive(Default)]
struct Screen {
    text: VecDeque<u8>,
    is_closed: bool,
}

/// How a program gets its terminal.
#[derive(Clone, Copy)]
pub(crate) enum Attached {
    /// It is the controlling terminal.
    Controlling,
    /// It is standard input only.
    InputOnly,
}

impl Terminal {
    pub(crate) fn start(at: &Place, attached: Attached, program: &[&str]) -> Self {
        let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY).unwrap();
        grantpt(&master).unwrap();
        unlockpt(&master).unwrap();
        let name = ptsname(&master, Vec::new()).unwrap().into_string().unwrap();
        let open = || File::options().read(true).write(true).open(&name).unwrap();
        let mut command = Command::new("setsid");
        match attached {
            Attached::Controlling => command.arg("--ctty").stdout(open()).stderr(open()),
            Attached::InputOnly => command.stdout(Stdio::piped()).stderr(Stdio::piped()),
        };
        command.args(program).stdin(open()).env("PS1", "READY> ").env("HISTFILE", "/dev/null");
        command.env("KEYFOB_APP_ID", &at.app_id).env("KEYFOB_BASE_URL", &at.base_url);
        command.env("KEYFOB_STORE", &at.store).env("KEYFOB", env!("CARGO_BIN_EXE_keyfob"));
        let child = command.spawn().unwrap();
        let master = File::from(master);
        let screen = Arc::<(Mutex<Screen>, Condvar)>::default();
        let (mut reader, shown) = (master.try_clone().unwrap(), Arc::clone(&screen));
        thread::spawn(move || {
            let mut bytes = [0; 4096];
            loop {
                let read = reader.read(&mut bytes).unwrap_or_default();
                let mut screen = shown.0.lock().unwrap();
                screen.text.extend(&bytes[..read]);
                screen.is_closed = read == 0;
                shown.1.notify_all();
                if read == 0 {
                    return;
                }
            }
        });
        Self { master, screen, child }
    }

    /// Waits for a text and returns what was printed up to its end.
    pub(crate) fn wait_for(&self, text: &str) -> String {
        let mut screen = self.screen.0.lock().unwrap();
        let end = Instant::now() + PATIENCE;
        loop {
            let bytes = screen.text.make_contiguous();
            let found = bytes.windows(text.len()).position(|part| part == text.as_bytes());
            if let Some(at) = found {
                let shown: Vec<_> = screen.text.drain(..at + text.len()).collect();
                return String::from_utf8_lossy(&shown).into_owned();
            }
            let left = end.saturating_duration_since(Instant::now());
            let shown = String::from_utf8_lossy(bytes).into_owned();
            assert!(!left.is_zero() && !screen.is_closed, "{text:?} is missing in {shown:?}");
            screen = self.screen.1.wait_timeout(screen, left).unwrap().0;
        }
    }

    pub(crate) fn type_in(&self, text: &str) {
        (&self.master).write_all(text.as_bytes()).unwrap();
    }

    fn echoes(&self) -> bool {
        tcgetattr(&self.master).unwrap().local_modes.contains(LocalModes::ECHO)
    }

    /// Waits for the prompt, and until nothing is echoed.
    fn wait_for_prompt(&self) {
        self.wait_for("password: ");
        wait_until("the echo is off", || !self.echoes());
    }

    /// Returns the process of the command on this terminal.
    fn keyfob(&self) -> Pid {
        let session = self.child.id().to_string();
        let is_ours = |process: &str| {
            let status = std::fs::read_to_string(format!("/proc/{process}/stat")).ok()?;
            let exe = std::fs::read_link(format!("/proc/{process}/exe")).ok()?;
            // After the name in brackets: state, parent, group, session.
            let found = status.rsplit(") ").next()?.split(' ').nth(3)?.to_owned();
            (found == session && exe == Path::new(env!("CARGO_BIN_EXE_keyfob"))).then_some(())
        };
        let processes = std::fs::read_dir("/proc").unwrap();
        let names = processes.map(|entry| entry.unwrap().file_name().into_string().unwrap());
        let mut numbers = names.filter(|name| is_ours(name).is_some());
        let number = numbers.next().expect("a keyfob").parse().unwrap();
        Pid::from_raw(number).unwrap()
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn wait_until(what: &str, mut is_so: impl FnMut() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !is_so() {
        assert!(Instant::now() < end, "{what}: not within {PATIENCE:?}");
        thread::sleep(Duration::from_millis(5));
    }
}

fn state(process: Pid) -> Option<char> {
    let path = format!("/proc/{}/stat", process.as_raw_nonzero());
    std::fs::read_to_string(path).ok()?.rsplit(") ").next()?.chars().next()
}

/// What is run at the prompt of a shell.
const LOGIN: &str = "\"$KEYFOB\" login --email ada@example.org";
/// What a shell runs that is not interactive.
const PROGRAM: &str = "\"$KEYFOB\" login --email ada@example.org; echo READY'> '";
/// What both kinds of shells print when they are done.
const READY: &str = "READY> ";

fn is_interactive(shell: &[&str]) -> bool {
    shell.contains(&"-i")
}

fn on_prompt(at: &Place, shell: &[&str]) -> Terminal {
    let terminal = Terminal::start(at, Attached::Controlling, shell);
    if is_interactive(shell) {
        terminal.wait_for(READY);
        terminal.type_in(&format!("{LOGIN}\n"));
    }
    terminal.wait_for_prompt();
    terminal
}

/// Waits until the shell goes on, and finds the terminal with its echo on.
fn check_echo(terminal: &Terminal, shell: &[&str], why: &str) {
    terminal.wait_for(READY);
    if is_interactive(shell) {
        // The shell itself turns the echo off while a line is edited.
        terminal.type_in("stty -a\n");
        let modes = terminal.wait_for(READY);
        assert!(modes.contains(" echo "), "{shell:?} {why}: {modes}");
    } else {
        assert!(terminal.echoes(), "{shell:?} {why}");
    }
}

fn check_signals(at: &Place, shell: &[&str]) {
    // Those that can be caught, are no fault, and end a process by default.
    let ending = [
        Signal::HUP,
        Signal::INT,
        Signal::QUIT,
        Signal::TRAP,
        Signal::ABORT,
        Signal::BUS,
        Signal::USR1,
        Signal::USR2,
        Signal::ALARM,
        Signal::TERM,
        Signal::STKFLT,
        Signal::XCPU,
        Signal::XFSZ,
        Signal::VTALARM,
        Signal::PROF,
        Signal::IO,
        Signal::POWER,
        Signal::SYS,
    ];
    for signal in ending {
        let terminal = on_prompt(at, shell);
        kill_process(terminal.keyfob(), signal).unwrap();
        check_echo(&terminal, shell, &format!("{signal:?}"));
    }
    let terminal = on_prompt(at, shell);
    let keyfob = terminal.keyfob();
    for signal in [Signal::TSTP, Signal::TTIN, Signal::TTOU] {
        terminal.type_in("forgotten");
        kill_process(keyfob, signal).unwrap();
        wait_until("stopped", || state(keyfob) == Some('T'));
        if is_interactive(shell) {
            check_echo(&terminal, shell, &format!("{signal:?}"));
            terminal.type_in("fg\n");
        } else {
            assert!(terminal.echoes(), "{shell:?} {signal:?}");
            kill_process(keyfob, Signal::CONT).unwrap();
        }
        terminal.wait_for_prompt();
    }
    terminal.type_in(&format!("{PASSWORD}x\u{7f}\n"));
    terminal.wait_for("logged in as");
    check_echo(&terminal, shell, "done");
}

#[test]
fn every_signal_restores_echo() {
    let backend = Backend::start(&[]);
    let at = backend.place("terminal-store");
    at.json_with(PASSWORD, &["register", "--email", EMAIL]);
    check_signals(&at, &["sh", "-c", PROGRAM]);
}

#[test]
#[ignore = "needs bash, dash and zsh"]
fn every_signal_restores_echo_in_every_shell() {
    let backend = Backend::start(&[]);
    let at = backend.place("shells-store");
    at.json_with(PASSWORD, &["register", "--email", EMAIL]);
    for shell in [
        &["bash", "--norc", "-i"][..],
        &["dash", "-i"],
        &["zsh", "-f", "-i"],
        &["bash", "-c", PROGRAM],
        &["dash", "-c", PROGRAM],
        &["zsh", "-c", PROGRAM],
    ] {
        check_signals(&at, shell);
    }
}

#[test]
fn terminal_without_job_control_is_read() {
    let backend = Backend::start(&[]);
    let at = backend.place("no-control-store");
    at.json_with(PASSWORD, &["register", "--email", EMAIL]);
    let program = [env!("CARGO_BIN_EXE_keyfob"), "login", "--email", EMAIL];
    let mut terminal = Terminal::start(&at, Attached::InputOnly, &program);
    terminal.wait_for_prompt();
    terminal.type_in(&format!("{PASSWORD}\n"));
    assert!(terminal.child.wait().unwrap().success());
    assert!(terminal.echoes());
}

#[test]
fn long_key_is_not_truncated() {
    let backend = Backend::start(&[]);
    let at = backend.place("long-key-store");
    let program = [env!("CARGO_BIN_EXE_keyfob"), "login", "--api-key"];
    let terminal = Terminal::start(&at, Attached::Controlling, &program);
    terminal.wait_for("API key: ");
    // Longer than a line that a terminal reads by itself; blank lines come first.
    let key = "k".repeat(10_000);
    terminal.type_in(&format!("\n \n{key}\n"));
    let shown = terminal.wait_for("401");
    assert!(!shown.contains("kkk"), "{shown}");
}

#[test]
fn new_password_is_asked_for_twice() {
    let backend = Backend::start(&[]);
    let at = backend.place("twice-store");
    let program = [env!("CARGO_BIN_EXE_keyfob"), "register", "--email", EMAIL];
    for (again, answer) in [("other", "the two passwords differ"), (PASSWORD, "registered")] {
        let terminal = Terminal::start(&at, Attached::Controlling, &program);
        terminal.wait_for_prompt();
        terminal.type_in(&format!("{PASSWORD}\n"));
        terminal.wait_for("password, once more: ");
        terminal.type_in(&format!("{again}\n"));
        terminal.wait_for(answer);
    }
}

#[test]
fn delete_asks_for_confirmation() {
    let backend = Backend::start(&[]);
    let at = backend.place("delete-store");
    at.json_with(PASSWORD, &["register", "--email", EMAIL]);
    at.json_with(PASSWORD, &["login", "--email", EMAIL]);
    let program = [env!("CARGO_BIN_EXE_keyfob"), "delete"];
    for (answer, response, left) in [("y", "nothing was deleted", 1), ("yes", "is deleted", 0)] {
        let mut terminal = Terminal::start(&at, Attached::Controlling, &program);
        terminal.wait_for(EMAIL);
        terminal.wait_for("Type yes to confirm");
        terminal.type_in(&format!("{answer}\n"));
        terminal.wait_for(response);
        terminal.child.wait().unwrap();
        assert_eq!(at.json(&["users"]).as_array().unwrap().len(), left);
    }
}
