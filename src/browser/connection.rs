//! One connection to the listener: bounded in bytes and in time, never blocking, answered once and
//! closed.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::time::{Duration, Instant};

use super::page;
use super::request::{self, Address, MAX_BODY, MAX_HEAD, Parsed};

/// How long a connection may take, from its acceptance to its end.
const LIFETIME: Duration = Duration::from_secs(2);

/// How many bytes are read of one connection before the others get their turn.
const TURN: usize = 128 * 1024;

/// A connection that was accepted.
pub(super) struct Connection {
    stream: TcpStream,
    ends_at: Instant,
    state: State,
}

enum State {
    /// What has arrived of the request.
    Reading(Vec<u8>),
    /// What is left to send of the response.
    Writing(Vec<u8>, usize),
    /// The response was sent. What still arrives is discarded, since closing a connection with
    /// unread bytes resets it, and a reset may discard the response at the other end.
    Draining,
}

/// What a turn of a connection came to.
pub(super) enum Turn {
    /// Nothing moved.
    Idle,
    /// Something moved.
    Active,
    /// A request to the callback arrived: its parameters, still encoded.
    Callback(String),
    /// The connection has ended.
    Over,
}

impl Connection {
    /// Takes over a stream. `None` if it is broken already.
    pub(super) fn new(stream: TcpStream, now: Instant) -> Option<Self> {
        stream.set_nonblocking(true).ok()?;
        // The response is one small write.
        let _ = stream.set_nodelay(true);
        Some(Self { stream, ends_at: now + LIFETIME, state: State::Reading(Vec::new()) })
    }

    /// Reads and writes what is possible without waiting.
    pub(super) fn turn(&mut self, address: &Address, now: Instant) -> Turn {
        if now >= self.ends_at {
            return Turn::Over;
        }
        match &mut self.state {
            State::Reading(_) => self.read(address),
            State::Writing(..) => self.write(),
            State::Draining => self.drain(),
        }
    }

    /// Sends a response that ends the connection.
    pub(super) fn respond(&mut self, response: Vec<u8>) {
        self.state = State::Writing(response, 0);
    }

    /// Returns the stream, for a response that comes later.
    pub(super) fn into_stream(self) -> TcpStream {
        self.stream
    }

    fn read(&mut self, address: &Address) -> Turn {
        let State::Reading(bytes) = &mut self.state else { return Turn::Idle };
        let (mut turn, mut has_ended) = (Turn::Idle, false);
        let mut chunk = [0; 8 * 1024];
        // Enough for the largest request, and one byte to see that it is too large.
        while bytes.len() <= MAX_HEAD + MAX_BODY + 4 {
            match self.stream.read(&mut chunk) {
                // The other end may wait for the response all the same.
                Ok(0) => {
                    has_ended = true;
                    break;
                }
                Ok(count) => {
                    bytes.extend_from_slice(&chunk[..count]);
                    turn = Turn::Active;
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(_) => return Turn::Over,
            }
        }
        if matches!(turn, Turn::Idle) && !has_ended {
            return turn;
        }
        match request::parse(bytes, address) {
            Parsed::Incomplete if has_ended => Turn::Over,
            Parsed::Incomplete => turn,
            Parsed::Callback(parameters) => Turn::Callback(parameters),
            Parsed::Refused(refusal) => {
                self.respond(page::refusal(refusal));
                self.write()
            }
        }
    }

    fn write(&mut self) -> Turn {
        let State::Writing(response, sent) = &mut self.state else { return Turn::Idle };
        while let Some(rest) = response.get(*sent..).filter(|rest| !rest.is_empty()) {
            match self.stream.write(rest) {
                Ok(0) => return Turn::Over,
                Ok(count) => *sent += count,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Turn::Idle,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(_) => return Turn::Over,
            }
        }
        let _ = self.stream.shutdown(Shutdown::Write);
        self.state = State::Draining;
        Turn::Active
    }

    fn drain(&mut self) -> Turn {
        let mut chunk = [0; 8 * 1024];
        let mut turn = Turn::Idle;
        for _ in 0..TURN / chunk.len() {
            match self.stream.read(&mut chunk) {
                Ok(0) => return Turn::Over,
                Ok(_) => turn = Turn::Active,
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(_) => return Turn::Over,
            }
        }
        turn
    }
}

/// The connection of the browser that brought the response: it gets a page once it is known what
/// became of the sign-in, or the page of a failure when it is dropped before.
pub(super) struct Held {
    stream: Option<TcpStream>,
    unless_shown: Vec<u8>,
}

impl Held {
    /// Holds a connection. There is none if the redirect URL was pasted.
    pub(super) fn new(stream: Option<TcpStream>, unless_shown: Vec<u8>) -> Self {
        Self { stream, unless_shown }
    }

    /// Sends a response, and closes the connection. The browser may be gone; then nothing happens.
    pub(super) fn show(mut self, response: &[u8]) {
        self.send(response);
    }

    fn send(&mut self, response: &[u8]) {
        let Some(mut stream) = self.stream.take() else { return };
        // It fits into the buffer of any socket, so this does not wait.
        let _ = stream.set_nonblocking(false);
        let _ = stream.set_write_timeout(Some(LIFETIME));
        let _ = stream.write_all(response);
        let _ = stream.shutdown(Shutdown::Write);
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        let response = std::mem::take(&mut self.unless_shown);
        self.send(&response);
    }
}
