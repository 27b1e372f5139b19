//! One connection, from its first request to its last.

use std::io::{Read, Write};
use std::net::{IpAddr, Shutdown, TcpStream};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant};

use super::body::{Failure, Reader};
use super::request::{Head, Line, Rejection, Request};
use super::response::{Outcome, Response, write_by};
use super::{Handler, Limits};

/// Answers a connection's requests, one after the other, until either side has had enough.
pub(super) fn serve(
    stream: &TcpStream,
    peer: IpAddr,
    limits: &Limits,
    handler: &dyn Handler,
    stopping: &dyn Fn() -> bool,
) {
    // Without this an answer may wait 40 ms for the acknowledgement of an earlier one.
    let _ = stream.set_nodelay(true);
    if stream.set_write_timeout(Some(limits.response)).is_err() {
        return;
    }
    let mut reader = Reader::new(stream, limits);
    while !stopping() && reader.wait() {
        let closing = match exchange(&mut reader, stream, peer, limits, handler, stopping) {
            Ok(true) => continue,
            Ok(false) => true,
            Err(Failure::Gone) => false,
            Err(Failure::Rejected(rejection)) => {
                let response = handler.reject(&rejection);
                write(stream, &response, Some("close"), true, limits).is_ok()
            }
        };
        if closing {
            linger(stream, Duration::from_secs(1));
        }
        break;
    }
    let _ = stream.shutdown(Shutdown::Both);
}

/// Reads a request and answers it. True if the connection can be used for another one.
fn exchange(
    reader: &mut Reader<'_>,
    stream: &TcpStream,
    peer: IpAddr,
    limits: &Limits,
    handler: &dyn Handler,
    stopping: &dyn Fn() -> bool,
) -> Result<bool, Failure> {
    let head = reader.head()?;
    let body = reader.body(&head).map_err(|failure| match failure {
        Failure::Rejected(rejection) => {
            Failure::Rejected(Rejection { line: Some(head.line()), ..rejection })
        }
        Failure::Gone => Failure::Gone,
    })?;
    let Head { method, path, query, headers, keep_alive, says_keep_alive, .. } = head;
    let with_body = method != "HEAD";
    let request = Request { method, path, query, headers, body, peer };
    let outcome = catch_unwind(AssertUnwindSafe(|| handler.handle(&request)));
    let Ok(outcome) = outcome else {
        return Err(Failure::Rejected(Rejection {
            status: 500,
            reason: "internal server error",
            line: Some(Line { method: request.method, path: request.path, query: request.query }),
        }));
    };
    match outcome {
        Outcome::Answer(response) => {
            let keep_alive = keep_alive && !stopping();
            let connection = match (keep_alive, says_keep_alive) {
                (false, _) => Some("close"),
                (true, true) => Some("keep-alive"),
                (true, false) => None,
            };
            write(stream, &response, connection, with_body, limits).map_err(|()| Failure::Gone)?;
            return Ok(keep_alive);
        }
        Outcome::Bytes(bytes) => write_bytes(stream, &bytes, limits),
        Outcome::Cut => return Err(Failure::Gone),
        Outcome::Drip { response, size, pause } => {
            drip(stream, &response.to_bytes(Some("close"), with_body), size, &pause, limits)
        }
        Outcome::Half(response) => write_bytes(stream, &response.half(with_body), limits),
    }
    .map_err(|()| Failure::Gone)?;
    Ok(false)
}

/// Writes a piece, pauses, and so on; all that is left once a pause says so.
fn drip(
    stream: &TcpStream,
    bytes: &[u8],
    size: usize,
    pause: &dyn Fn() -> bool,
    limits: &Limits,
) -> Result<(), ()> {
    let mut written = 0;
    for piece in bytes.chunks(size) {
        if written > 0 && !pause() {
            break;
        }
        write_bytes(stream, piece, limits)?;
        written += piece.len();
    }
    write_bytes(stream, &bytes[written..], limits)
}

/// Tells a client that there is no room for it. Runs on the thread that accepts, so it spends next
/// to no time.
pub(super) fn turn_away(stream: &TcpStream, handler: &dyn Handler) {
    let briefly = Duration::from_millis(20);
    let rejection = Rejection { status: 503, reason: "too many open connections", line: None };
    let mut response = handler.reject(&rejection);
    response.headers.push(("Retry-After", "1".to_owned()));
    let mut out = stream;
    if stream.set_write_timeout(Some(briefly)).is_ok()
        && response.write_to(&mut out, Some("close"), true, Instant::now() + briefly).is_ok()
    {
        linger(stream, briefly);
    }
}

fn write(
    stream: &TcpStream,
    response: &Response,
    connection: Option<&str>,
    with_body: bool,
    limits: &Limits,
) -> Result<(), ()> {
    write_bytes(stream, &response.to_bytes(connection, with_body), limits)
}

fn write_bytes(mut stream: &TcpStream, bytes: &[u8], limits: &Limits) -> Result<(), ()> {
    write_by(&mut stream, bytes, Instant::now() + limits.response)
        .and_then(|()| stream.flush())
        .map_err(|_| ())
}

/// Ends our side and reads away what the client is still sending. A socket that is closed with
/// unread bytes in it resets the connection, and the reset can overtake the answer. A client that
/// has nothing to say closes at once, so this takes no time.
fn linger(mut stream: &TcpStream, at_most: Duration) {
    let deadline = Instant::now() + at_most;
    let mut left = 1024 * 1024_usize;
    let mut sink = [0; 16 * 1024];
    let _ = stream.shutdown(Shutdown::Write);
    loop {
        let time = deadline.saturating_duration_since(Instant::now());
        if time.is_zero() || left == 0 || stream.set_read_timeout(Some(time)).is_err() {
            return;
        }
        match stream.read(&mut sink) {
            Ok(0) | Err(_) => return,
            Ok(read) => left = left.saturating_sub(read),
        }
    }
}
