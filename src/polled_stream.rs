//! A TCP connection whose reads and writes another thread can end, on Windows.
//!
//! On Unix `shutdown` wakes a thread that is blocked in a read of the same socket. On Windows it
//! does not, a read time-out has a resolution of half a second, and the state of a socket after a
//! time-out is undefined. So the socket is non-blocking here, and a wait is a loop that looks at
//! the socket and at a flag, and sleeps.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

/// How long the loop only yields: a response from the same machine arrives within this time.
const BUSY: Duration = Duration::from_micros(100);
/// The longest sleep, and so the longest time until a wait notices its end.
const LONGEST_SLEEP: Duration = Duration::from_millis(10);

/// A connection in non-blocking mode.
#[derive(Debug)]
pub(crate) struct PolledStream {
    stream: TcpStream,
    /// Whether reads have been ended.
    read_ended: AtomicBool,
    /// Whether writes have been ended.
    write_ended: AtomicBool,
}

impl PolledStream {
    pub(crate) fn new(stream: TcpStream) -> io::Result<Self> {
        stream.set_nonblocking(true)?;
        let (read_ended, write_ended) = (AtomicBool::new(false), AtomicBool::new(false));
        Ok(Self { stream, read_ended, write_ended })
    }

    /// Waits for bytes, at most so long. Zero bytes are the end of the stream.
    pub(crate) fn read(&self, bytes: &mut [u8], at_most: Duration) -> io::Result<usize> {
        let read = poll(at_most, &self.read_ended, || (&self.stream).read(bytes))?;
        // Wine reports a reset as the end of the stream. The connection is gone then, and
        // after an orderly end it is still there in the other direction.
        if read == 0 && !bytes.is_empty() && self.stream.peer_addr().is_err() {
            return Err(ErrorKind::ConnectionReset.into());
        }
        Ok(read)
    }

    /// Writes some of the bytes, as many as there is room for within the time.
    pub(crate) fn write(&self, bytes: &[u8], at_most: Duration) -> io::Result<usize> {
        poll(at_most, &self.write_ended, || (&self.stream).write(bytes))
    }

    /// Writes all bytes within the time.
    pub(crate) fn write_all(&self, mut bytes: &[u8], at_most: Duration) -> io::Result<()> {
        let began = Instant::now();
        while !bytes.is_empty() {
            match self.write(bytes, at_most.saturating_sub(began.elapsed()))? {
                0 => return Err(ErrorKind::WriteZero.into()),
                written => bytes = &bytes[written..],
            }
        }
        Ok(())
    }

    /// Returns `true` if the connection is open and the other side has sent nothing.
    pub(crate) fn is_idle(&self) -> bool {
        matches!(self.stream.peek(&mut [0]), Err(error) if error.kind() == ErrorKind::WouldBlock)
    }

    /// Ends reads or writes or both, also those in progress in other threads: they fail with
    /// `ConnectionAborted`.
    pub(crate) fn shutdown(&self, how: Shutdown) {
        if how != Shutdown::Write {
            self.read_ended.store(true, Ordering::SeqCst);
        }
        if how != Shutdown::Read {
            self.write_ended.store(true, Ordering::SeqCst);
        }
        // An error means that the connection has ended already.
        let _ = self.stream.shutdown(how);
    }
}

/// Repeats an attempt until it would not block, the time is up, or the flag is set.
fn poll(
    at_most: Duration,
    ended: &AtomicBool,
    mut attempt: impl FnMut() -> io::Result<usize>,
) -> io::Result<usize> {
    let began = Instant::now();
    loop {
        let attempted = attempt();
        match attempted {
            Ok(amount) if amount > 0 => return Ok(amount),
            // Ignore what the socket returns then: on Windows the read reports an orderly end.
            _ if ended.load(Ordering::SeqCst) => return Err(ErrorKind::ConnectionAborted.into()),
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            done => return done,
        }
        let waited = began.elapsed();
        if waited >= at_most {
            return Err(ErrorKind::TimedOut.into());
        }
        match pause(waited) {
            Some(pause) => thread::sleep(pause.min(at_most - waited)),
            None => thread::yield_now(),
        }
    }
}

/// Returns how long to sleep after so much waiting: a sixteenth of it, so that no wait becomes
/// longer by more than that.
fn pause(waited: Duration) -> Option<Duration> {
    (waited >= BUSY).then(|| (waited / 16).min(LONGEST_SLEEP))
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;
    use std::sync::mpsc;

    use super::*;

    /// Longer than any test may take.
    const FOREVER: Duration = Duration::from_secs(3600);

    fn connection() -> (PolledStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let stream = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        (PolledStream::new(stream).unwrap(), listener.accept().unwrap().0)
    }

    /// Ends a wait that is in progress, or about to begin, in another thread.
    fn interrupt<T: Send>(
        stream: &PolledStream,
        how: Shutdown,
        wait: impl FnOnce() -> io::Result<T> + Send,
    ) -> ErrorKind {
        thread::scope(|scope| {
            let (begins, has_begun) = mpsc::channel();
            let waiting = scope.spawn(move || {
                begins.send(()).unwrap();
                wait().map(drop)
            });
            has_begun.recv().unwrap();
            stream.shutdown(how);
            waiting.join().unwrap().unwrap_err().kind()
        })
    }

    #[test]
    fn shutdown_ends_read_in_progress() {
        let (stream, _other) = connection();
        let kind = interrupt(&stream, Shutdown::Read, || stream.read(&mut [0; 8], FOREVER));
        assert_eq!(kind, ErrorKind::ConnectionAborted);
        // The other direction still works.
        stream.write_all(b"answer", FOREVER).unwrap();
    }

    #[test]
    fn shutdown_ends_write_in_progress() {
        let (stream, _other) = connection();
        let much = vec![b'x'; 64 * 1024 * 1024];
        let kind = interrupt(&stream, Shutdown::Both, || stream.write_all(&much, FOREVER));
        assert_eq!(kind, ErrorKind::ConnectionAborted);
    }

    #[test]
    fn bytes_arrive_and_end_is_zero() {
        let (stream, mut other) = connection();
        assert!(stream.is_idle());
        other.write_all(b"hello").unwrap();
        let mut bytes = [0; 8];
        assert_eq!(stream.read(&mut bytes, FOREVER).unwrap(), 5);
        drop(other);
        assert_eq!(stream.read(&mut bytes, FOREVER).unwrap(), 0);
        assert!(!stream.is_idle());
    }

    #[test]
    fn timeout_is_error() {
        let (stream, _other) = connection();
        let read = stream.read(&mut [0; 8], Duration::from_millis(20));
        assert_eq!(read.unwrap_err().kind(), ErrorKind::TimedOut);
    }

    #[test]
    fn reset_after_bytes_is_error() {
        let (stream, mut other) = connection();
        stream.write_all(b"what is sent and not read makes a reset of the end", FOREVER).unwrap();
        other.peek(&mut [0]).unwrap();
        other.write_all(b"half").unwrap();
        drop(other);
        let mut bytes = [0; 8];
        let mut read = stream.read(&mut bytes, FOREVER);
        if matches!(read, Ok(4)) {
            read = stream.read(&mut bytes, FOREVER);
        }
        assert_eq!(read.unwrap_err().kind(), ErrorKind::ConnectionReset);
    }

    #[test]
    fn pause_is_fraction_of_wait() {
        for micros in (0..1_000_000).step_by(37) {
            let waited = Duration::from_micros(micros);
            let pause = pause(waited).unwrap_or_default();
            assert!(pause <= waited / 16 && pause <= LONGEST_SLEEP);
        }
        assert_eq!(pause(FOREVER), Some(LONGEST_SLEEP));
    }
}
