//! One connection to the listener: non-blocking, with limits on bytes and time, closed after one
//! response.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::time::{Duration, Instant};

use super::page;
use super::request::{self, Address, MAX_BODY, MAX_HEAD, Parsed};

/// The maximum lifetime of a connection.
const LIFETIME: Duration = Duration::from_secs(2);

/// How many bytes one turn reads from a connection before the other connections are served.
const TURN: usize = 128 * 1024;

/// An accepted connection.
pub(super) struct Connection {
    stream: TcpStream,
    ends_at: Instant,
    state: State,
}

enum State {
    /// The bytes of the request so far.
    Reading(Vec<u8>),
    /// The response, and how many of its bytes have been sent.
    Writing(Vec<u8>, usize),
    /// The response was sent. Further input is read and discarded: closing a socket with unread
    /// bytes sends a reset, and the peer may then discard the response.
    Draining,
}

/// The result of one turn of a connection.
pub(super) enum Turn {
    /// No bytes were transferred.
    Idle,
    /// Bytes were transferred.
    Active,
    /// A request to the callback arrived. The parameters are still encoded.
    Callback(String),
    /// The connection is finished.
    Over,
}

impl Connection {
    /// Takes ownership of a stream. Returns `None` if the stream is broken.
    pub(super) fn new(stream: TcpStream, now: Instant) -> Option<Self> {
        stream.set_nonblocking(true).ok()?;
        // The response is one small write.
        let _ = stream.set_nodelay(true);
        Some(Self { stream, ends_at: now + LIFETIME, state: State::Reading(Vec::new()) })
    }

    /// Reads and writes as much as possible without blocking.
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

    /// Queues a response, which ends the connection.
    pub(super) fn respond(&mut self, response: Vec<u8>) {
        self.state = State::Writing(response, 0);
    }

    /// Returns the stream, for a response that is sent later.
    pub(super) fn into_stream(self) -> TcpStream {
        self.stream
    }

    fn read(&mut self, address: &Address) -> Turn {
        let State::Reading(bytes) = &mut self.state else { return Turn::Idle };
        let (mut turn, mut has_ended) = (Turn::Idle, false);
        let mut chunk = [0; 8 * 1024];
        // The maximum request size, plus one byte to detect larger requests.
        while bytes.len() <= MAX_HEAD + MAX_BODY + 4 {
            match self.stream.read(&mut chunk) {
                // The peer closed its sending side but may still wait for the response.
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

/// The connection of the browser that delivered the response. It receives a page when the outcome
/// of the sign-in is known, or the failure page if this is dropped before.
pub(super) struct Held {
    stream: Option<TcpStream>,
    unless_shown: Vec<u8>,
}

impl Held {
    /// Holds a connection, or `None` if the redirect URL was pasted.
    pub(super) fn new(stream: Option<TcpStream>, unless_shown: Vec<u8>) -> Self {
        Self { stream, unless_shown }
    }

    /// Sends a response and closes the connection. Errors are ignored, because the browser may be
    /// gone.
    pub(super) fn show(mut self, response: &[u8]) {
        self.send(response);
    }

    fn send(&mut self, response: &[u8]) {
        let Some(mut stream) = self.stream.take() else { return };
        // The response fits into any socket buffer, so this does not block.
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
