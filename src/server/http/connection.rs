//! A connection: reads requests and writes responses until it is closed.

use std::io::ErrorKind;
use std::net::{IpAddr, Shutdown};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::body::{Failure, Reader, pause_after};
use super::connections::{Phase, Progress};
use super::handler::Handler;
use super::limits::{Limits, SMALL_BODY};
use super::request::{Framing, Head, Rejection, Request};
use super::response::{Outcome, Response};
use super::socket::Socket;
use crate::server::budget::{Budget, Reservation};

/// The minimum speed for a client that receives a large response while others wait for the memory,
/// after a grace time: bytes per millisecond.
const SLOWEST: u128 = 1024;
const GRACE: Duration = Duration::from_secs(1);
/// How long a request with a large body waits for memory.
const BODY_WAIT: Duration = Duration::from_secs(10);
/// How many bytes are still read from a client after the last response of a connection.
const LINGER_BYTES: usize = 16 * 1024 * 1024;
/// How long those bytes are read.
const LINGER: Duration = Duration::from_secs(2);

/// A connection, and the state needed to handle its requests.
pub(super) struct Connection<'a> {
    pub socket: &'a Socket,
    pub peer: IpAddr,
    pub progress: &'a Progress,
    pub limits: &'a Limits,
    /// The memory for large bodies.
    pub bodies: &'a Arc<Budget>,
    pub handler: &'a dyn Handler,
    pub stopping: &'a dyn Fn() -> bool,
}

impl Connection<'_> {
    /// Handles requests one after the other, until the client or the server closes the connection.
    pub(super) fn serve(&self) {
        let mut reader = Reader::new(self.socket, self.limits);
        loop {
            let may_wait = !(self.stopping)() && self.progress.enter(Phase::Idle);
            if !may_wait || !reader.wait() || !self.progress.enter(Phase::Head) {
                break;
            }
            let lingers = match self.exchange(&mut reader) {
                Ok(true) => continue,
                Ok(false) => true,
                Err(Failure::Gone) => false,
                // No response is possible if the connection was closed to make room.
                Err(Failure::Rejected(rejection)) => {
                    self.progress.enter(Phase::Response)
                        && self.write(&self.handler.reject(&rejection), Some("close"), true).is_ok()
                }
            };
            if lingers {
                linger(self.socket, LINGER_BYTES, LINGER);
            }
            break;
        }
        self.socket.shutdown(Shutdown::Both);
    }

    /// Reads a request and writes the response. Returns `true` if the connection can be reused.
    fn exchange(&self, reader: &mut Reader<'_>) -> Result<bool, Failure> {
        let Head {
            method,
            path,
            query,
            headers,
            framing,
            keep_alive,
            says_keep_alive,
            expects_continue,
        } = reader.head()?;
        let with_body = method != "HEAD";
        let mut request =
            Request { method, path, query, headers, body: Vec::new(), peer: self.peer };
        let limit = match self.handler.admit(&request, framing) {
            Ok(limit) => limit,
            Err(response) => {
                self.enter(Phase::Response)?;
                self.write(&response, Some("close"), with_body)?;
                return Ok(false);
            }
        };
        let reserved = self.reserve(framing, limit, &request)?;
        if framing != Framing::Length(0) {
            self.enter(Phase::Body)?;
        }
        request.body =
            reader.body(framing, expects_continue, limit).map_err(|failure| match failure {
                Failure::Rejected(rejection) => {
                    Failure::Rejected(Rejection { line: Some(request.line()), ..rejection })
                }
                Failure::Gone => Failure::Gone,
            })?;
        self.enter(Phase::Handling)?;
        let outcome = catch_unwind(AssertUnwindSafe(|| self.handler.handle(&request)));
        self.enter(Phase::Response)?;
        let Ok(outcome) = outcome else {
            let line = Some(request.line());
            let rejection = Rejection { line, ..Rejection::new(500, "internal server error") };
            return Err(Failure::Rejected(rejection));
        };
        // Free the memory now, because writing the response may take long.
        drop((request, reserved));
        match outcome {
            Outcome::Answer(response) => {
                let keep_alive = keep_alive && !(self.stopping)();
                let connection = match (keep_alive, says_keep_alive) {
                    (false, _) => Some("close"),
                    (true, true) => Some("keep-alive"),
                    (true, false) => None,
                };
                self.write(&response, connection, with_body)?;
                return Ok(keep_alive);
            }
            Outcome::Bytes(bytes) => self.write_bytes(&bytes)?,
            Outcome::Cut => return Err(Failure::Gone),
            Outcome::Drip { response, size, pause } => {
                self.drip(&response.to_bytes(Some("close"), with_body), size, &pause)?;
            }
            Outcome::Half(response) => self.write_bytes(&response.half(with_body))?,
        }
        Ok(false)
    }

    /// Reserves memory for a large body. Waits for it if other bodies use it.
    fn reserve(
        &self,
        framing: Framing,
        limit: usize,
        request: &Request,
    ) -> Result<Option<Reservation>, Failure> {
        let size = match framing {
            Framing::Chunked => limit,
            Framing::Length(length) => length,
        };
        // A body that is too large is rejected when it is read.
        if size <= SMALL_BODY || size > limit {
            return Ok(None);
        }
        self.enter(Phase::Handling)?;
        self.bodies.reserve(size, BODY_WAIT.min(self.limits.request)).map(Some).ok_or_else(|| {
            let rejection =
                Rejection::new(503, "other requests with large bodies use too much memory");
            Failure::Rejected(Rejection { line: Some(request.line()), ..rejection })
        })
    }

    fn enter(&self, phase: Phase) -> Result<(), Failure> {
        if self.progress.enter(phase) { Ok(()) } else { Err(Failure::Gone) }
    }

    /// Writes the pieces with a pause after each. Once a pause returns `false`, writes the rest at
    /// once.
    fn drip(&self, bytes: &[u8], size: usize, pause: &dyn Fn() -> bool) -> Result<(), Failure> {
        let mut written = 0;
        for piece in bytes.chunks(size) {
            if written > 0 && !pause() {
                break;
            }
            self.write_bytes(piece)?;
            written += piece.len();
        }
        self.write_bytes(&bytes[written..])
    }

    fn write(
        &self,
        response: &Response,
        connection: Option<&str>,
        with_body: bool,
    ) -> Result<(), Failure> {
        let body = response.sent_body(with_body);
        if body.len() <= SMALL_BODY {
            // One write, which is one packet in most cases.
            return self.write_bytes(&response.to_bytes(connection, with_body));
        }
        self.write_bytes(&response.head(connection))?;
        match &response.memory {
            Some(memory) => self.write_while_wanted(body, memory),
            None => self.write_bytes(body),
        }
    }

    /// Writes a large body. If others wait for its memory and the client reads too slowly, the
    /// connection is closed.
    fn write_while_wanted(&self, mut body: &[u8], memory: &Reservation) -> Result<(), Failure> {
        let (began, mut written) = (Instant::now(), 0);
        while !body.is_empty() {
            let piece = &body[..body.len().min(SMALL_BODY)];
            match self.socket.write(piece, GRACE.min(self.limits.response)) {
                Ok(count) => {
                    written += count;
                    body = &body[count..];
                }
                Err(error)
                    if matches!(error.kind(), ErrorKind::TimedOut | ErrorKind::WouldBlock) => {}
                Err(_) => return Err(Failure::Gone),
            }
            let time = began.elapsed();
            let due = time.saturating_sub(GRACE).as_millis() * SLOWEST;
            let is_slow = memory.is_wanted() && due > written as u128;
            if !body.is_empty() && (is_slow || time >= self.limits.response) {
                return Err(Failure::Gone);
            }
        }
        Ok(())
    }

    fn write_bytes(&self, bytes: &[u8]) -> Result<(), Failure> {
        let deadline = Instant::now() + self.limits.response;
        self.socket.write_all(bytes, deadline).map_err(|_| Failure::Gone)
    }
}

/// Rejects a connection that exceeds the limit.
pub(super) fn turn_away(socket: &Socket, handler: &dyn Handler) {
    let briefly = Duration::from_millis(20);
    let response = handler.reject(&Rejection::new(503, "too many open connections"));
    let written = response.to_bytes(Some("close"), true);
    if socket.write_all(&written, Instant::now() + briefly).is_ok() {
        linger(socket, 64 * 1024, briefly);
    }
}

/// Shuts down the write side and discards what the client still sends. Closing a socket with unread
/// bytes resets the connection, and the reset can overtake the response. A client with nothing to
/// send closes immediately, so this takes no time.
fn linger(socket: &Socket, at_most: usize, time: Duration) {
    let deadline = Instant::now() + time;
    let mut left = at_most;
    let mut sink = [0; 16 * 1024];
    socket.shutdown(Shutdown::Write);
    loop {
        let time = deadline.saturating_duration_since(Instant::now());
        if time.is_zero() || left == 0 {
            return;
        }
        match socket.read(&mut sink, time) {
            Ok(0) | Err(_) => return,
            Ok(read) => {
                left = left.saturating_sub(read);
                pause_after(read);
            }
        }
    }
}
