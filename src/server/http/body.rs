//! Reads requests from a stream: a head, then a body.

use std::io;
use std::thread;
use std::time::{Duration, Instant};

use super::limits::Limits;
use super::request::{Framing, Head, Rejection, has_lone_line_feed};
use super::socket::Socket;

/// The size of one read.
const BUFFER: usize = 16 * 1024;
/// Maximum length of a line of the chunked coding, including extensions.
const MAX_CHUNK_LINE: usize = 1024;
/// Maximum total length of everything besides sizes in those lines.
const MAX_EXTENSIONS: usize = 16 * 1024;
/// Length allowance for the digits of a size, and as many blanks.
const SIZE: usize = 32;
/// Maximum total length of the fields after the last chunk, which are ignored.
const MAX_TRAILER: usize = 8 * 1024;

/// Reads of a request before small reads are slowed down.
const FREE_READS: usize = 512;
/// A read of fewer bytes than this is small.
const SMALL_READ: usize = 64;
/// How long to wait after a small read, so that the next one returns more.
const SMALL_READ_PAUSE: Duration = Duration::from_millis(5);

/// Why reading ended without a request.
#[derive(Debug)]
pub(super) enum Failure {
    /// The client closed the connection, or was idle for too long. No response is sent.
    Gone,
    /// The input is not an acceptable request. An error response is sent.
    Rejected(Rejection),
}

/// The input buffer of a connection, and the limits on reading.
pub(super) struct Reader<'a> {
    socket: &'a Socket,
    limits: &'a Limits,
    /// Received bytes. Those from `start` on are unread, and may contain the start of the next
    /// request.
    buffer: Vec<u8>,
    start: usize,
    /// The buffer for the next read from the stream.
    chunk: Box<[u8]>,
    deadline: Instant,
    /// Reads since the request began.
    reads: usize,
    /// The number of bytes of the last read.
    last_read: usize,
}

impl<'a> Reader<'a> {
    pub(super) fn new(socket: &'a Socket, limits: &'a Limits) -> Self {
        Self {
            socket,
            limits,
            buffer: Vec::new(),
            start: 0,
            chunk: vec![0; BUFFER].into(),
            deadline: Instant::now(),
            reads: 0,
            last_read: 0,
        }
    }

    /// Waits for the first byte of the next request. Returns `false` if the client has closed the
    /// connection or left it idle for too long.
    pub(super) fn wait(&mut self) -> bool {
        // Empty lines do not extend the deadline, because they do not start a request.
        self.deadline = Instant::now() + self.limits.idle;
        self.reads = 0;
        loop {
            self.skip_empty_lines();
            if !self.unread().is_empty() {
                break;
            }
            // Free the memory of an earlier large body while the connection is idle.
            self.buffer.shrink_to(BUFFER);
            if self.fill().is_err() {
                return false;
            }
        }
        self.deadline = Instant::now() + self.limits.request;
        self.reads = 0;
        true
    }

    /// Skips empty lines before a request, which some old clients send.
    ///
    /// Source: RFC 9112, section 2.2.
    fn skip_empty_lines(&mut self) {
        while self.unread().starts_with(b"\r\n") {
            self.start += 2;
        }
    }

    /// Reads up to the empty line that ends a head, and parses the head.
    pub(super) fn head(&mut self) -> Result<Head, Failure> {
        let mut searched = 0;
        loop {
            if searched == 0 {
                self.skip_empty_lines();
            }
            let unread = self.unread();
            let fresh = &unread[searched..];
            if let Some(end) = fresh.windows(4).position(|bytes| bytes == b"\r\n\r\n") {
                let length = searched + end + 4;
                if length > self.limits.head {
                    return Err(rejected(431, "the request head is too large"));
                }
                let head = Head::parse(&unread[..length]);
                self.start += length;
                return head.map_err(Failure::Rejected);
            }
            if has_lone_line_feed(fresh) {
                return Err(rejected(400, "lines must end with CRLF"));
            }
            if unread.len() > self.limits.head {
                return Err(rejected(431, "the request head is too large"));
            }
            searched = unread.len().saturating_sub(3);
            self.fill()?;
        }
    }

    /// Reads a body of at most `limit` bytes. Sends `100 Continue` first if the client waits for
    /// it.
    pub(super) fn body(
        &mut self,
        framing: Framing,
        expects_continue: bool,
        limit: usize,
    ) -> Result<Vec<u8>, Failure> {
        if let Framing::Length(length) = framing
            && length > limit
        {
            return Err(too_large(limit));
        }
        let waits = expects_continue && framing != Framing::Length(0);
        if waits && self.unread().is_empty() {
            let granted = b"HTTP/1.1 100 Continue\r\n\r\n";
            self.socket.write_all(granted, self.deadline).map_err(|_| Failure::Gone)?;
        }
        match framing {
            Framing::Chunked => self.chunks(limit),
            Framing::Length(length) => {
                let mut body = Vec::with_capacity(length);
                self.take(length, &mut body)?;
                Ok(body)
            }
        }
    }

    /// Source: RFC 9112 section 7.1.
    fn chunks(&mut self, limit: usize) -> Result<Vec<u8>, Failure> {
        let mut body = Vec::new();
        let mut extensions = MAX_EXTENSIONS;
        loop {
            let line = self.line(MAX_CHUNK_LINE)?;
            let (size, beyond) = (chunk_size(line), line.len().saturating_sub(SIZE));
            let size = size.ok_or(rejected(400, "malformed chunk size"))?;
            // Extensions are ignored, but many of them cost more than the body.
            extensions = extensions
                .checked_sub(beyond)
                .ok_or(rejected(400, "the chunk extensions are too large"))?;
            if size == 0 {
                break;
            }
            if size > limit.saturating_sub(body.len()) {
                return Err(too_large(limit));
            }
            self.take(size, &mut body)?;
            if !self.line(0)?.is_empty() {
                return Err(rejected(400, "a chunk is longer than its size"));
            }
        }
        let mut left = MAX_TRAILER;
        loop {
            let line = self.line(left)?;
            if has_control(line) {
                return Err(rejected(400, "malformed line in a chunked body"));
            }
            let length = line.len();
            if length == 0 {
                return Ok(body);
            }
            left = left.saturating_sub(length + 2);
        }
    }

    /// Reads a line of at most this many bytes, not counting its CRLF.
    fn line(&mut self, at_most: usize) -> Result<&[u8], Failure> {
        let length = loop {
            let unread = self.unread();
            let window = &unread[..unread.len().min(at_most + 2)];
            if let Some(feed) = window.iter().position(|&byte| byte == b'\n') {
                break feed + 1;
            }
            if window.len() == at_most + 2 {
                return Err(rejected(400, "malformed line in a chunked body"));
            }
            self.fill()?;
        };
        let line = self.start..self.start + length;
        self.start = line.end;
        self.buffer[line]
            .strip_suffix(b"\r\n")
            .ok_or(rejected(400, "malformed line in a chunked body"))
    }

    /// Moves exactly `length` bytes to the end of `body`.
    fn take(&mut self, length: usize, body: &mut Vec<u8>) -> Result<(), Failure> {
        let mut left = length;
        loop {
            let unread = self.unread();
            let take = left.min(unread.len());
            body.extend_from_slice(&unread[..take]);
            self.start += take;
            left -= take;
            if left == 0 {
                return Ok(());
            }
            self.fill()?;
        }
    }

    fn unread(&self) -> &[u8] {
        &self.buffer[self.start..]
    }

    /// Reads more bytes of a request.
    fn fill(&mut self) -> Result<(), Failure> {
        self.reads += 1;
        if self.reads > FREE_READS {
            pause_after(self.last_read);
        }
        let left = self.deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(rejected(408, "the request took too long to arrive"));
        }
        self.read(left).map_err(|error| match error.kind() {
            io::ErrorKind::TimedOut | io::ErrorKind::WouldBlock => {
                rejected(408, "the request took too long to arrive")
            }
            io::ErrorKind::UnexpectedEof => rejected(400, "the request ended too early"),
            _ => Failure::Gone,
        })
    }

    fn read(&mut self, timeout: Duration) -> io::Result<()> {
        self.buffer.drain(..self.start);
        self.start = 0;
        let read = self.socket.read(&mut self.chunk, timeout)?;
        if read == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.last_read = read;
        self.buffer.extend_from_slice(&self.chunk[..read]);
        Ok(())
    }
}

/// Waits briefly after a small read, so that the next read returns more. Otherwise a client that
/// sends byte by byte would cost one system call per byte.
pub(super) fn pause_after(read: usize) {
    if read < SMALL_READ {
        thread::sleep(SMALL_READ_PAUSE);
    }
}

fn rejected(status: u16, reason: &'static str) -> Failure {
    Failure::Rejected(Rejection::new(status, reason))
}

fn too_large(limit: usize) -> Failure {
    let reason = format!("the request body is too large: at most {limit} bytes are allowed here");
    Failure::Rejected(Rejection::new(413, reason))
}

/// Returns `true` if a line contains a control byte other than the tab.
fn has_control(line: &[u8]) -> bool {
    line.iter().any(|byte| byte.is_ascii_control() && *byte != b'\t')
}

/// Parses a chunk's size: hexadecimal digits, then nothing or an extension, which is ignored. At
/// most 15 digits are allowed, so that the size cannot overflow. Control bytes are rejected,
/// because a proxy in front may take one for the end of the line, in particular a carriage return.
fn chunk_size(line: &[u8]) -> Option<usize> {
    let digits = line.iter().take_while(|byte| byte.is_ascii_hexdigit()).count();
    let after = line[digits..].iter().find(|byte| !matches!(byte, b' ' | b'\t'));
    if !(1..=15).contains(&digits) || !matches!(after, None | Some(b';')) || has_control(line) {
        return None;
    }
    usize::from_str_radix(std::str::from_utf8(&line[..digits]).ok()?, 16).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chunk_sizes_are_plain_hexadecimal() {
        assert_eq!(chunk_size(b"0"), Some(0));
        assert_eq!(chunk_size(b"1aF"), Some(0x1af));
        assert_eq!(chunk_size(b"5;name=value"), Some(5));
        assert_eq!(chunk_size(b"5 \t; name=\xc3\xa4\t"), Some(5));
        assert_eq!(chunk_size(b"5 "), Some(5));
        let bad = ["", " 5", "0x5", "+5", "-5", "5 5", "g", "1111111111111111"];
        let control = ["5\r", "5\x0c", "5;a\r=b", "5;a\0", "5\x0b;a", "5;\x7f", "5\u{a0}"];
        for bad in bad.into_iter().chain(control) {
            assert_eq!(chunk_size(bad.as_bytes()), None, "{bad:?}");
        }
    }
}
