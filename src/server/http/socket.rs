//! The socket of a connection: each wait has a time limit, and another thread can end it.

use std::io;
use std::net::{Shutdown, TcpStream};
use std::time::{Duration, Instant};

#[cfg(not(windows))]
use self::blocking as system;
#[cfg(windows)]
use self::polled as system;

/// A connection that one thread reads and writes, and that other threads may shut down.
pub(super) struct Socket(system::Stream);

impl Socket {
    pub(super) fn new(stream: TcpStream) -> io::Result<Self> {
        // Otherwise a response may be delayed by 40 ms until an earlier one is acknowledged.
        let _ = stream.set_nodelay(true);
        system::new(stream).map(Self)
    }

    /// Reads some bytes. Zero bytes mean the end of the stream, or that reading was shut down.
    pub(super) fn read(&self, bytes: &mut [u8], at_most: Duration) -> io::Result<usize> {
        loop {
            match system::read(&self.0, bytes, at_most) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                read => return read,
            }
        }
    }

    /// Writes some bytes, at least one.
    pub(super) fn write(&self, bytes: &[u8], at_most: Duration) -> io::Result<usize> {
        loop {
            match system::write(&self.0, bytes, at_most) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                written => return written,
            }
        }
    }

    /// Writes all bytes. Fails at the deadline if the client reads too slowly.
    pub(super) fn write_all(&self, mut bytes: &[u8], deadline: Instant) -> io::Result<()> {
        while !bytes.is_empty() {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(io::ErrorKind::TimedOut.into());
            }
            bytes = &bytes[self.write(bytes, left)?..];
        }
        Ok(())
    }

    /// Ends reads or writes or both, including those in progress in other threads. Errors are
    /// ignored: they mean that the connection has already ended.
    pub(super) fn shutdown(&self, how: Shutdown) {
        system::shutdown(&self.0, how);
    }
}

/// On these systems, a shutdown wakes a thread that waits for the socket.
#[cfg(not(windows))]
mod blocking {
    use std::io::{Read, Write};

    use super::*;

    pub(super) type Stream = TcpStream;

    /// The shortest time-out that a socket supports.
    const SHORTEST: Duration = Duration::from_millis(1);

    pub(super) fn new(stream: TcpStream) -> io::Result<Stream> {
        Ok(stream)
    }

    pub(super) fn read(
        mut stream: &Stream,
        bytes: &mut [u8],
        at_most: Duration,
    ) -> io::Result<usize> {
        stream.set_read_timeout(Some(at_most.max(SHORTEST)))?;
        stream.read(bytes)
    }

    pub(super) fn write(mut stream: &Stream, bytes: &[u8], at_most: Duration) -> io::Result<usize> {
        stream.set_write_timeout(Some(at_most.max(SHORTEST)))?;
        stream.write(bytes)
    }

    pub(super) fn shutdown(stream: &Stream, how: Shutdown) {
        let _ = stream.shutdown(how);
    }
}

/// On Windows, a shutdown does not wake a waiting thread.
#[cfg(windows)]
mod polled {
    use super::*;
    use crate::polled_stream::PolledStream;

    pub(super) type Stream = PolledStream;

    pub(super) fn new(stream: TcpStream) -> io::Result<Stream> {
        PolledStream::new(stream)
    }

    pub(super) fn read(stream: &Stream, bytes: &mut [u8], at_most: Duration) -> io::Result<usize> {
        match stream.read(bytes, at_most) {
            // The same result as on Unix.
            Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => Ok(0),
            read => read,
        }
    }

    pub(super) fn write(stream: &Stream, bytes: &[u8], at_most: Duration) -> io::Result<usize> {
        stream.write(bytes, at_most)
    }

    pub(super) fn shutdown(stream: &Stream, how: Shutdown) {
        stream.shutdown(how);
    }
}
