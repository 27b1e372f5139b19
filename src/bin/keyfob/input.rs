//! Secrets from standard input, which no list of processes and no shell history shows.

use std::io::{self, BufRead, ErrorKind, IsTerminal, Read};

use keyfob::Secret;

use crate::failure::Failure;
use crate::output::note;
#[cfg(unix)]
use crate::terminal::prompt;
use crate::unprintable::trim;

/// The longest secret that is read, in bytes.
const LIMIT: usize = 64 * 1024;

/// Reads a password, byte for byte. A new one is asked for twice on a terminal.
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

/// Reads a key, token or code. What is around it is removed: blanks, empty lines, a byte order mark
/// and other characters that cannot be seen. It has none of them itself.
pub(crate) fn token(what: &str) -> Result<Secret, Failure> {
    let secret = read(what, |line| trim(line).is_empty())?;
    not_empty(what, Secret::new(trim(secret.expose())))
}

/// Removes what is around a key from the environment.
pub(crate) fn trimmed(variable: &str, key: Secret) -> Result<Secret, Failure> {
    match trim(key.expose()) {
        "" => Err(Failure::Usage(format!("{variable} has nothing but blanks"))),
        key => Ok(Secret::new(key)),
    }
}

/// Asks a question on the terminal, if there is one. Returns `None` if not.
pub(crate) fn confirm(question: &str) -> Option<bool> {
    if !(io::stdin().is_terminal() && io::stderr().is_terminal()) {
        return None;
    }
    note(format_args!("{question} Type yes to confirm:"));
    let mut answer = String::new();
    let read = io::stdin().lock().take(LIMIT as u64).read_line(&mut answer);
    Some(read.is_ok() && answer.trim() == "yes")
}

/// Reads a secret: without echo if standard input is a terminal, otherwise all of standard input
/// without one line end. On a terminal, lines that are blank are skipped.
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

/// The echo is turned off by rpassword, and turned on again by the shell if the command is ended.
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
    // As large as it can get, so that growing leaves no copies behind.
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
    fn one_line_end_is_dropped_and_no_more() {
        let read = |text: &[u8]| piped("password", text).unwrap().expose().to_owned();
        assert_eq!(read(b"secret"), "secret");
        assert_eq!(read(b"secret\n"), "secret");
        assert_eq!(read(b"secret\r\n"), "secret");
        assert_eq!(read(b" two\nlines \n\n"), " two\nlines \n");
    }

    #[test]
    fn what_is_no_password_is_not_repeated() {
        for text in [b"hunter\xff".to_vec(), vec![b'h'; LIMIT + 1]] {
            let message = piped("password", &text[..]).unwrap_err().message();
            assert!(!message.contains("hh") && !message.contains("hunter"), "{message}");
        }
    }
}
