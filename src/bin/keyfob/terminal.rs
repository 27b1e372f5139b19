//! Reads secrets from a terminal without echo, and restores the terminal in every case.
//!
//! After a signal that can be caught, the terminal echoes again, and then the signal has its
//! default effect. If a signal stops the process, the terminal is restored first; when the process
//! continues, the echo is turned off again and the prompt is repeated. SIGILL, SIGFPE and SIGSEGV
//! are not caught, because they indicate a bug in the program.
//!
//! A crate that only turns the echo off (rpassword) leaves it off when a signal ends the process.

use std::fs::File;
use std::io::{self, ErrorKind, IsTerminal, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{LazyLock, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use keyfob::Secret;
use rustix::process::getpgrp;
use rustix::termios::{
    LocalModes, OptionalActions, SpecialCodeIndex, Termios, tcgetattr, tcgetpgrp, tcsetattr,
};
use signal_hook::consts::signal::{
    SIGCHLD, SIGCONT, SIGFPE, SIGILL, SIGIO, SIGKILL, SIGSEGV, SIGSTOP, SIGTSTP, SIGTTIN, SIGTTOU,
    SIGURG, SIGWINCH,
};
use signal_hook::flag::{register, register_conditional_default, register_conditional_shutdown};
use signal_hook::low_level::{emulate_default_handler, exit};

use crate::signals::ignored;

/// The timeout of a read in tenths of a second. Signals are checked between reads.
const READ_TENTHS: u8 = 1;

/// Shows `text` on the terminal that is standard input, and returns the typed line. Skips lines for
/// which `is_blank` returns `true`.
pub(crate) fn prompt(text: &str, limit: usize, is_blank: fn(&str) -> bool) -> io::Result<Secret> {
    let signals = SIGNALS.lock().unwrap_or_else(PoisonError::into_inner);
    let mut prompt = Prompt::show(text, &signals)?;
    let mut line = Line::new(limit);
    loop {
        match prompt.next_key()? {
            Key::Enter if line.is(is_blank) => line.erase_to(0),
            Key::Enter => break,
            Key::EndOfInput if line.bytes.is_empty() => return Err(ErrorKind::UnexpectedEof.into()),
            Key::EndOfInput => break,
            Key::EraseCharacter => line.erase_character(),
            Key::EraseLine => line.erase_to(0),
            Key::EraseWord => line.erase_word(),
            Key::Other(byte) => line.push(byte)?,
            Key::Restart => line.erase_to(0),
        }
    }
    drop(prompt);
    line.into_secret()
}

/// The signals that end, stop or continue a process, each with a flag that its handler sets.
struct Signals {
    flags: Vec<(i32, Arc<AtomicBool>)>,
    /// Set while there is no prompt. Signals then have their default effect immediately.
    is_idle: Arc<AtomicBool>,
}

/// Registered once: signal-hook cannot restore the default handler of a signal.
static SIGNALS: LazyLock<Mutex<Signals>> = LazyLock::new(|| Mutex::new(Signals::register()));

impl Signals {
    fn register() -> Self {
        const LAST: i32 = if cfg!(target_os = "linux") { 64 } else { 31 };
        /// Signals that cannot be caught, indicate a bug, or have no effect by default.
        const OTHERS: [i32; 8] =
            [SIGCHLD, SIGFPE, SIGILL, SIGKILL, SIGSEGV, SIGSTOP, SIGURG, SIGWINCH];
        let (is_ignored, is_idle) = (ignored(), Arc::new(AtomicBool::new(true)));
        let is_wanted = |signal: &i32| !OTHERS.contains(signal) && !is_ignored(*signal);
        // Numbers that the C library reserves cannot be registered.
        let flag = |signal| {
            let (flag, idle) = (Arc::new(AtomicBool::new(false)), || Arc::clone(&is_idle));
            match signal {
                SIGIO => register_conditional_shutdown(signal, 128 + signal, idle()),
                _ => register_conditional_default(signal, idle())
                    .or_else(|_| register_conditional_shutdown(signal, 128 + signal, idle())),
            }
            .and_then(|_| register(signal, Arc::clone(&flag)))
            .ok()?;
            Some((signal, flag))
        };
        let flags = (1..=LAST).filter(is_wanted).filter_map(flag).collect();
        Self { flags, is_idle }
    }

    /// Returns a caught signal, and clears its flag.
    fn take(&self) -> Option<i32> {
        let caught = self.flags.iter().find(|(_, flag)| flag.swap(false, Ordering::SeqCst));
        caught.map(|(signal, _)| *signal)
    }

    /// Clears the flag of a signal.
    fn clear(&self, signal: i32) {
        for (_, flag) in self.flags.iter().filter(|(number, _)| *number == signal) {
            flag.store(false, Ordering::SeqCst);
        }
    }
}

/// The meaning of an input byte.
enum Key {
    EndOfInput,
    Enter,
    EraseCharacter,
    EraseLine,
    EraseWord,
    Other(u8),
    /// The prompt was shown again.
    Restart,
}

/// A prompt on the terminal with the echo turned off.
struct Prompt<'a> {
    text: &'a str,
    signals: &'a Signals,
    input: File,
    output: Box<dyn Write>,
    /// The original terminal modes; `None` while the terminal echoes.
    saved: Option<Termios>,
}

impl<'a> Prompt<'a> {
    fn show(text: &'a str, signals: &'a Signals) -> io::Result<Self> {
        let input = stdin()?;
        let mut prompt = Self { text, signals, input, output: output()?, saved: None };
        // Signals caught after the last prompt already had their effect.
        while signals.take().is_some() {}
        signals.is_idle.store(false, Ordering::SeqCst);
        prompt.silence(OptionalActions::Now)?;
        Ok(prompt)
    }

    /// Turns the echo off and shows the prompt. [`OptionalActions::Flush`] discards what was typed
    /// before.
    fn silence(&mut self, action: OptionalActions) -> io::Result<()> {
        self.wait_for_foreground();
        let saved = tcgetattr(&self.input)?;
        let mut silent = saved.clone();
        // Without canonical mode the terminal driver does not truncate lines at 4,095 bytes.
        silent.local_modes -=
            LocalModes::ECHO | LocalModes::ECHONL | LocalModes::ICANON | LocalModes::IEXTEN;
        silent.special_codes[SpecialCodeIndex::VMIN] = 0;
        silent.special_codes[SpecialCodeIndex::VTIME] = READ_TENTHS;
        self.saved = Some(saved);
        tcsetattr(&self.input, action, &silent)?;
        write!(self.output, "{}", self.text)?;
        self.output.flush()
    }

    /// Restores the terminal. [`OptionalActions::Flush`] discards unread input.
    fn restore(&mut self, action: OptionalActions) {
        if let Some(saved) = self.saved.take()
            && is_in_foreground(&self.input)
        {
            let _ = tcsetattr(&self.input, action, &saved);
            let _ = self.output.write_all(b"\n").and_then(|()| self.output.flush());
        }
    }

    /// Stops the process while another job has the terminal. Otherwise reading or setting modes
    /// would raise the same signal again and again.
    fn wait_for_foreground(&self) {
        while !is_in_foreground(&self.input) {
            let _ = emulate_default_handler(SIGSTOP);
        }
    }

    fn next_key(&mut self) -> io::Result<Key> {
        loop {
            if self.handle_signals()? {
                return Ok(Key::Restart);
            }
            let mut byte = [0];
            match self.input.read(&mut byte) {
                Ok(1..) => return Ok(self.key(byte[0])),
                // The read timed out, or the terminal is gone.
                Ok(0) => {
                    tcgetattr(&self.input)?;
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                // The parent process made the input non-blocking.
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    thread::sleep(Duration::from_millis(10));
                }
                Err(error) => return Err(error),
            }
        }
    }

    fn key(&self, byte: u8) -> Key {
        let code = |index| {
            let code = self.saved.as_ref().map_or(0, |saved| saved.special_codes[index]);
            code != 0 && code == byte
        };
        match byte {
            b'\n' | b'\r' => Key::Enter,
            _ if code(SpecialCodeIndex::VEOF) => Key::EndOfInput,
            _ if code(SpecialCodeIndex::VKILL) => Key::EraseLine,
            _ if code(SpecialCodeIndex::VWERASE) => Key::EraseWord,
            0x08 | 0x7f => Key::EraseCharacter,
            _ if code(SpecialCodeIndex::VERASE) => Key::EraseCharacter,
            byte => Key::Other(byte),
        }
    }

    /// Restores the echo and gives a caught signal its default effect. Returns `true` if the prompt
    /// was shown again after that.
    fn handle_signals(&mut self) -> io::Result<bool> {
        let Some(signal) = self.signals.take() else {
            self.wait_for_foreground();
            return Ok(false);
        };
        // Discard the rest of a password, which the shell would receive otherwise.
        self.restore(OptionalActions::Flush);
        have_effect(signal);
        self.signals.clear(SIGCONT);
        self.silence(OptionalActions::Flush)?;
        Ok(true)
    }
}

impl Drop for Prompt<'_> {
    fn drop(&mut self) {
        self.restore(OptionalActions::Now);
        self.signals.is_idle.store(true, Ordering::SeqCst);
        while let Some(signal) = self.signals.take() {
            have_effect(signal);
        }
    }
}

/// Gives a signal its default effect. Returns only after signals that stop or continue the process,
/// once it continues.
fn have_effect(signal: i32) {
    match signal {
        SIGCONT => {}
        SIGTSTP | SIGTTIN | SIGTTOU => {
            let _ = emulate_default_handler(signal);
        }
        SIGIO => exit(128 + signal),
        _ => {
            let _ = emulate_default_handler(signal);
            exit(128 + signal);
        }
    }
}

/// Returns `true` if the process may read from the terminal, or if there is no job control.
fn is_in_foreground(terminal: &File) -> bool {
    tcgetpgrp(terminal).map_or(true, |group| group == getpgrp())
}

/// Returns standard input without its buffer.
fn stdin() -> io::Result<File> {
    let own: OwnedFd = io::stdin().as_fd().try_clone_to_owned()?;
    Ok(own.into())
}

/// Returns the output for the prompt: standard error if it is a terminal, otherwise the controlling
/// terminal, otherwise the terminal that is standard input.
fn output() -> io::Result<Box<dyn Write>> {
    if io::stderr().is_terminal() {
        return Ok(Box::new(io::stderr()));
    }
    let terminal = File::options().write(true).open("/dev/tty").or_else(|_| stdin())?;
    Ok(Box::new(terminal))
}

/// The line so far.
struct Line {
    bytes: Vec<u8>,
    limit: usize,
}

impl Line {
    fn new(limit: usize) -> Self {
        // Reserve the maximum size, because growing would leave copies of the secret in memory.
        Self { bytes: Vec::with_capacity(limit), limit }
    }

    fn push(&mut self, byte: u8) -> io::Result<()> {
        if self.bytes.len() == self.limit {
            let reason = format!("the line is longer than {} bytes", self.limit);
            return Err(io::Error::new(ErrorKind::InvalidInput, reason));
        }
        self.bytes.push(byte);
        Ok(())
    }

    fn is(&self, is_blank: fn(&str) -> bool) -> bool {
        std::str::from_utf8(&self.bytes).is_ok_and(is_blank)
    }

    /// Removes the last character with all its bytes.
    fn erase_character(&mut self) {
        let is_start = |byte: &u8| byte & 0xc0 != 0x80;
        self.erase_to(self.bytes.iter().rposition(is_start).unwrap_or_default());
    }

    /// Removes the last word and the blanks after it.
    fn erase_word(&mut self) {
        let end = self.bytes.iter().rposition(|byte| *byte != b' ').map_or(0, |last| last + 1);
        let start = self.bytes[..end].iter().rposition(|byte| *byte == b' ');
        self.erase_to(start.map_or(0, |blank| blank + 1));
    }

    fn erase_to(&mut self, length: usize) {
        self.bytes[length..].fill(0);
        self.bytes.truncate(length);
    }

    fn into_secret(mut self) -> io::Result<Secret> {
        let text = String::from_utf8(std::mem::take(&mut self.bytes));
        text.map(Secret::from).map_err(|error| {
            error.into_bytes().fill(0);
            io::Error::new(ErrorKind::InvalidData, "the line is not UTF-8")
        })
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        self.erase_to(0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn erased_characters_are_fully_removed() {
        let mut line = Line::new(64);
        for byte in "sécret wörd  ".bytes() {
            line.push(byte).unwrap();
        }
        line.erase_word();
        assert_eq!(line.bytes, "sécret ".as_bytes());
        line.erase_word();
        assert!(line.bytes.is_empty());
        line.erase_word();
        line.erase_character();
        for byte in "xé€".bytes() {
            line.push(byte).unwrap();
        }
        line.erase_character();
        line.erase_character();
        assert_eq!(line.into_secret().unwrap().expose(), "x");
    }

    #[test]
    fn overlong_line_is_rejected_without_echo() {
        let mut line = Line::new(3);
        for byte in *b"abc" {
            line.push(byte).unwrap();
        }
        let error = line.push(b'd').unwrap_err().to_string();
        assert!(!error.contains("abc"), "{error}");
    }
}
