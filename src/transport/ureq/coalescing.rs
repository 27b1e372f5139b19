//! Sends the head and the body of a request in one write.
//!
//! ureq writes them one after the other, which wakes the server twice.
//!
//! A server that rejects a request early stops reading, and further writes fail. That is not an
//! error here, because the response may already have arrived.

use std::fmt;
use std::io::ErrorKind;
use std::sync::Weak;
use std::time::Instant;

use ureq::Error;
use ureq::unversioned::transport::{
    Buffers, ConnectionDetails, Connector, NextTimeout, ShutdownHandle, Transport, time,
};

use super::call::{Call, end_with};
use super::tcp::{RacingConnector, Socket};

/// How many bytes are held back at most until the response is awaited.
const MAX_PENDING: usize = 16 * 1024;

/// Opens connections as [`RacingConnector`] does.
#[derive(Debug)]
pub(super) struct CoalescingConnector(pub(super) RacingConnector);

impl<In: Transport> Connector<In> for CoalescingConnector {
    type Out = CoalescingTransport<Socket<In>>;

    fn connect(
        &self,
        details: &ConnectionDetails<'_>,
        chained: Option<In>,
    ) -> Result<Option<Self::Out>, Error> {
        let (connected, handle) = self.0.connect(details, chained)?;
        Ok(connected.map(|inner| CoalescingTransport { handle, ..CoalescingTransport::new(inner) }))
    }
}

/// A connection that sends its pending bytes when a response is awaited.
pub(super) struct CoalescingTransport<T> {
    inner: T,
    /// Bytes that ureq has written and that are not sent yet.
    pending: Vec<u8>,
    /// Whether the server no longer reads.
    is_rejected: bool,
    /// Ends the connection from another thread, if a socket lies directly below.
    handle: Option<Weak<dyn ShutdownHandle>>,
}

impl<T: Transport> CoalescingTransport<T> {
    fn new(inner: T) -> Self {
        Self { inner, pending: Vec::new(), is_rejected: false, handle: None }
    }

    /// Waits for the socket, until the call is cancelled.
    fn wait<R>(
        &mut self,
        timeout: NextTimeout,
        wait: impl FnOnce(&mut Self) -> Result<R, Error>,
    ) -> Result<R, Error> {
        let (Some(call), Some(handle)) = (Call::cancellable(), &self.handle) else {
            return wait(self);
        };
        let _ends = end_with(call, handle);
        let waited = wait(self);
        // The end of the connection may look like the end of a response.
        if call.was_interrupted() { Err(Error::Timeout(timeout.reason)) } else { waited }
    }

    /// Sends the pending bytes, and returns the rest of the timeout.
    fn flush(&mut self, timeout: NextTimeout) -> Result<NextTimeout, Error> {
        use ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionReset};
        let begin = Instant::now();
        let left = || match timeout.after {
            time::Duration::Exact(after) => {
                NextTimeout { after: after.saturating_sub(begin.elapsed()).into(), ..timeout }
            }
            time::Duration::NotHappening => timeout,
        };
        let mut rest = &self.pending[..];
        while !rest.is_empty() && !self.is_rejected {
            let output = self.inner.buffers().output();
            let (next, later) = rest.split_at(rest.len().min(output.len()));
            output[..next.len()].copy_from_slice(next);
            match self.inner.transmit_output(next.len(), left()) {
                Err(Error::Io(cause))
                    if matches!(cause.kind(), BrokenPipe | ConnectionAborted | ConnectionReset) =>
                {
                    self.is_rejected = true;
                }
                sent => sent?,
            }
            rest = later;
        }
        self.pending.clear();
        self.pending.shrink_to(MAX_PENDING);
        Ok(left())
    }
}

impl<T: Transport> Transport for CoalescingTransport<T> {
    fn buffers(&mut self) -> &mut dyn Buffers {
        self.inner.buffers()
    }

    fn transmit_output(&mut self, amount: usize, timeout: NextTimeout) -> Result<(), Error> {
        self.pending.extend_from_slice(&self.inner.buffers().output()[..amount]);
        if self.pending.len() <= MAX_PENDING {
            return Ok(());
        }
        self.wait(timeout, |this| this.flush(timeout).map(drop))
    }

    fn await_input(&mut self, timeout: NextTimeout) -> Result<bool, Error> {
        self.wait(timeout, |this| {
            let left = this.flush(timeout)?;
            this.inner.await_input(left)
        })
    }

    fn is_open(&mut self) -> bool {
        self.pending.is_empty() && !self.is_rejected && self.inner.is_open()
    }

    fn is_tls(&self) -> bool {
        self.inner.is_tls()
    }
}

impl<T: fmt::Debug> fmt::Debug for CoalescingTransport<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CoalescingTransport").field("inner", &self.inner).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};
    use std::time::Duration;

    use ureq::unversioned::transport::LazyBuffers;

    use super::*;

    /// A connection that records its calls.
    #[derive(Debug)]
    struct Recorder {
        buffers: LazyBuffers,
        calls: Arc<Mutex<Vec<String>>>,
        /// How long a write takes.
        delay: Duration,
        timeouts: Arc<Mutex<Vec<Duration>>>,
        /// Whether writes fail.
        is_closed: bool,
    }

    impl Recorder {
        fn record(&self, call: String, timeout: NextTimeout) {
            self.calls.lock().unwrap().push(call);
            self.timeouts.lock().unwrap().push(*timeout.after);
        }
    }

    impl Transport for Recorder {
        fn buffers(&mut self) -> &mut dyn Buffers {
            &mut self.buffers
        }

        fn transmit_output(&mut self, amount: usize, timeout: NextTimeout) -> Result<(), Error> {
            let text = String::from_utf8(self.buffers.output()[..amount].to_vec()).unwrap();
            let text = if amount > 20 { format!("{amount} bytes") } else { text };
            self.record(format!("send {text}"), timeout);
            let begin = Instant::now();
            while begin.elapsed() < self.delay {
                std::thread::yield_now();
            }
            if self.is_closed { Err(Error::Io(ErrorKind::BrokenPipe.into())) } else { Ok(()) }
        }

        fn await_input(&mut self, timeout: NextTimeout) -> Result<bool, Error> {
            self.record("receive".to_owned(), timeout);
            Ok(true)
        }

        fn is_open(&mut self) -> bool {
            true
        }
    }

    fn connection() -> CoalescingTransport<Recorder> {
        CoalescingTransport::new(Recorder {
            buffers: LazyBuffers::new(1024, 128 * 1024),
            calls: Arc::default(),
            delay: Duration::ZERO,
            timeouts: Arc::default(),
            is_closed: false,
        })
    }

    fn timeout() -> NextTimeout {
        NextTimeout { after: time::Duration::from_secs(64), ..NextTimeout::default() }
    }

    fn write(connection: &mut CoalescingTransport<Recorder>, bytes: &[u8]) {
        connection.buffers().output()[..bytes.len()].copy_from_slice(bytes);
        connection.transmit_output(bytes.len(), timeout()).unwrap();
    }

    fn calls(connection: &CoalescingTransport<Recorder>) -> Vec<String> {
        connection.inner.calls.lock().unwrap().clone()
    }

    #[test]
    fn small_request_is_sent_in_one_write() {
        let mut connection = connection();
        write(&mut connection, b"head, ");
        write(&mut connection, b"body");
        assert!(calls(&connection).is_empty());
        assert!(!connection.is_open(), "the request is not sent yet");
        assert!(connection.await_input(timeout()).unwrap());
        assert!(connection.await_input(timeout()).unwrap());
        assert_eq!(calls(&connection), ["send head, body", "receive", "receive"]);
        assert!(connection.is_open());
    }

    #[test]
    fn large_request_is_sent_in_order() {
        let mut connection = connection();
        write(&mut connection, b"head");
        write(&mut connection, &[b'x'; 100_000]);
        write(&mut connection, &[b'y'; 100_000]);
        write(&mut connection, b"end");
        connection.await_input(timeout()).unwrap();
        let expected = ["send 100004 bytes", "send 100000 bytes", "send end", "receive"];
        assert_eq!(calls(&connection), expected);
    }

    #[test]
    fn sending_and_receiving_share_one_timeout() {
        let mut connection = connection();
        connection.inner.delay = Duration::from_millis(20);
        write(&mut connection, b"head");
        connection.await_input(timeout()).unwrap();
        let [send, receive] = connection.inner.timeouts.lock().unwrap()[..] else { panic!() };
        assert!(send <= *timeout().after && receive + connection.inner.delay <= send);
    }

    #[test]
    fn response_is_read_after_rejected_write() {
        let mut connection = connection();
        connection.inner.is_closed = true;
        write(&mut connection, &[b'x'; 100_000]);
        write(&mut connection, &[b'y'; 100_000]);
        assert!(connection.await_input(timeout()).unwrap());
        assert_eq!(calls(&connection), ["send 100000 bytes", "receive"]);
        assert!(!connection.is_open());
    }
}
