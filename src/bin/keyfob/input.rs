//! Secrets from standard input, which no list of processes and no shell history shows.

use std::io::{self, IsTerminal, Read};

use keyfob::Secret;

use crate::failure::Failure;

/// The longest secret that is read, in bytes.
const LIMIT: u64 = 64 * 1024;

/// Reads a password, as [`secret`] does. A new one is asked for twice on a terminal.
pub(crate) fn password(is_new: bool) -> Result<Secret, Failure> {
    let password = secret("password")?;
    if is_new && io::stdin().is_terminal() && prompt("password, once more: ")? != password {
        return Err(Failure::Usage("the two passwords differ".to_owned()));
    }
    Ok(password)
}

/// Reads a secret: without echo if standard input is a terminal, otherwise all of standard input
/// without one line end.
pub(crate) fn secret(what: &str) -> Result<Secret, Failure> {
    let secret = if io::stdin().is_terminal() {
        prompt(&format!("{what}: "))?
    } else {
        piped(what, io::stdin().lock())?
    };
    if secret.expose().is_empty() {
        return Err(Failure::Usage(format!("the {what}, read from standard input, is empty")));
    }
    Ok(secret)
}

fn prompt(text: &str) -> Result<Secret, Failure> {
    rpassword::prompt_password(text)
        .map(Secret::from)
        .map_err(|error| Failure::Usage(format!("nothing can be read from the terminal: {error}")))
}

fn piped(what: &str, input: impl Read) -> Result<Secret, Failure> {
    // As large as it can get, so that growing leaves no copies behind.
    let mut text = Vec::with_capacity(LIMIT as usize + 1);
    input
        .take(LIMIT + 1)
        .read_to_end(&mut text)
        .map_err(|error| Failure::Usage(format!("standard input cannot be read: {error}")))?;
    if text.len() as u64 > LIMIT {
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
        for text in [b"hunter\xff".to_vec(), vec![b'h'; LIMIT as usize + 1]] {
            let message = piped("password", &text[..]).unwrap_err().message();
            assert!(!message.contains("hh") && !message.contains("hunter"), "{message}");
        }
    }
}
