//! Secrets from standard input, which appear in no process list and no shell history.

use std::io::{self, BufRead, ErrorKind, IsTerminal, Read};

use keyfob::Secret;

use crate::failure::Failure;
use crate::output::note;
#[cfg(unix)]
use crate::terminal::prompt;
use crate::unprintable::trim;

/// The maximum size of a secret, in bytes.
const LIMIT: usize = 64 * 1024;

/// Reads a password without any changes. On a terminal, prompts twice for a new password.
pub(crate) fn password(is_new: bool) -> Result<Secret, Failure> {
    let password = read("password", |_| false)?;
    if is_new && io::stdin().is_terminal() {
        let again = prompt("password, once more: ", LIMIT, |_| false).map_err(unread)?;
        if again != password {
            return Err(Failure::Usage("the two passwords differ".to_owned()));
        }
    }
    not_empty("password", password)
}

/// Reads a key, token or code. Removes surrounding blanks, empty lines, a byte order mark and other
/// invisible characters, which are never part of the secret.
pub(crate) fn token(what: &str) -> Result<Secret, Failure> {
    let secret = read(what, |line| trim(line).is_empty())?;
    not_empty(what, Secret::new(trim(secret.expose())))
}

/// Removes the same surrounding characters from a key in the environment.
pub(crate) fn trimmed(variable: &str, key: Secret) -> Result<Secret, Failure> {
    match trim(key.expose()) {
        "" => Err(Failure::Usage(format!("{variable} has nothing but blanks"))),
        key => Ok(Secret::new(key)),
    }
}

/// Asks a question on the terminal. Returns `None` if there is no terminal.
pub(crate) fn confirm(question: &str) -> Option<bool> {
    if !(io::stdin().is_terminal() && io::stderr().is_terminal()) {
        return None;
    }
    note(format_args!("{question} Type yes to confirm:"));
    let mut answer = String::new();
    let read = io::stdin().lock().take(LIMIT as u64).read_line(&mut answer);
    Some(read.is_ok() && answer.trim() == "yes")
}

/// Reads a secret. From a terminal, reads a line without echo and skips blank lines. Otherwise
/// reads all of standard input, without one line end.
fn read(what: &str, is_blank: fn(&str) -> bool) -> Result<Secret, Failure> {
    if io::stdin().is_terminal() {
        prompt(&format!("{what}: "), LIMIT, is_blank).map_err(unread)
    } else {
        piped(what, io::stdin().lock())
    }
}

fn not_empty(what: &str, secret: Secret) -> Result<Secret, Failure> {
    if secret.expose().is_empty() {
        return Err(Failure::Usage(format!("the {what}, read from standard input, is empty")));
    }
    Ok(secret)
}

fn unread(error: io::Error) -> Failure {
    let why = match error.kind() {
        ErrorKind::UnexpectedEof => "the input ended".to_owned(),
        _ => error.to_string(),
    };
    Failure::Usage(format!("nothing can be read from the terminal: {why}"))
}

/// rpassword turns the echo off. If the command is killed, the shell turns it on again.
#[cfg(not(unix))]
fn prompt(text: &str, limit: usize, is_blank: fn(&str) -> bool) -> io::Result<Secret> {
    loop {
        let line = rpassword::prompt_password(text).map(Secret::from)?;
        if line.expose().len() > limit {
            let reason = format!("the line is longer than {limit} bytes");
            return Err(io::Error::new(ErrorKind::InvalidInput, reason));
        }
        if !is_blank(line.expose()) {
            return Ok(line);
        }
    }
}

fn piped(what: &str, input: impl Read) -> Result<Secret, Failure> {
    // Reserve the maximum size, because growing would leave copies of the secret in memory.
    let mut text = Vec::with_capacity(LIMIT + 1);
    input
        .take(LIMIT as u64 + 1)
        .read_to_end(&mut text)
        .map_err(|error| Failure::Usage(format!("standard input cannot be read: {error}")))?;
    if text.len() > LIMIT {
        return Err(Failure::Usage(format!("the {what} is longer than {LIMIT} bytes")));
    }
    if text.ends_with(b"\n") {
        text.pop();
        if text.ends_with(b"\r") {
            text.pop();
        }
    }
    String::from_utf8(text)
        .map(Secret::from)
        .map_err(|_| Failure::Usage(format!("the {what} is not UTF-8")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_one_line_end_is_trimmed() {
        let read = |text: &[u8]| piped("password", text).unwrap().expose().to_owned();
        assert_eq!(read(b"secret"), "secret");
        assert_eq!(read(b"secret\n"), "secret");
        assert_eq!(read(b"secret\r\n"), "secret");
        assert_eq!(read(b" two\nlines \n\n"), " two\nlines \n");
    }

    #[test]
    fn invalid_password_is_not_echoed() {
        for text in [b"hunter\xff".to_vec(), vec![b'h'; LIMIT + 1]] {
            let message = piped("password", &text[..]).unwrap_err().message();
            assert!(!message.contains("hh") && !message.contains("hunter"), "{message}");
        }
    }
}
