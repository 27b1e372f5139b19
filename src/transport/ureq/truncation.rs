//! Rejects truncated responses, and skips interim ones.
//!
//! - A response without a length ends when its connection closes. ureq treats a reset connection or
//!   a truncated TLS stream as a normal end. Here both are errors.
//! - ureq rejects `100 Continue` with header fields, which RFC 9110, section 15.2, allows. Here
//!   interim responses are skipped.
//! - ureq takes only 200 for a proxy's consent to CONNECT, where RFC 9110, section 9.3.6, allows
//!   every 2xx: here another one becomes a 200 without header fields, which mean nothing there.

use std::fmt;
use std::io::{self, ErrorKind};

use ureq::Error;
use ureq::unversioned::transport::{Buffers, ConnectionDetails, Connector, NextTimeout, Transport};

/// Wraps the connections of another connector.
#[derive(Debug)]
pub(super) struct RejectTruncated<C>(pub(super) C);

impl<In: Transport, C: Connector<In>> Connector<In> for RejectTruncated<C> {
    type Out = CheckedTransport<C::Out>;

    fn connect(
        &self,
        details: &ConnectionDetails<'_>,
        chained: Option<In>,
    ) -> Result<Option<Self::Out>, Error> {
        let connected = self.0.connect(details, chained)?;
        Ok(connected.map(|inner| CheckedTransport { inner, is_at_head: false, tunnel: None }))
    }
}

/// A connection whose unexpected end is an error.
pub(super) struct CheckedTransport<T> {
    inner: T,
    /// Whether the head of a response is next.
    is_at_head: bool,
    /// Whether this is a connection to a proxy whose response to CONNECT comes next. `None` before
    /// anything was sent.
    tunnel: Option<bool>,
}

/// The response that ureq takes for a proxy's consent.
const CONSENT: &[u8] = b"HTTP/1.1 200 OK\r\n\r\n";

impl<T: Transport> CheckedTransport<T> {
    /// Consumes complete interim responses (1xx), except 101, which is final.
    fn skip_interim(&mut self) {
        while self.is_at_head {
            let input = self.inner.buffers().input();
            let Some(line) = input.get(..b"HTTP/1.1 100".len()) else { return };
            self.is_at_head = line.starts_with(b"HTTP/1.1 1") && !line.ends_with(b"101");
            if !self.is_at_head {
                return;
            }
            let end = input.windows(4).position(|four| four == b"\r\n\r\n");
            let Some(end) = end else { return };
            self.inner.buffers().input_consume(end + 4);
        }
    }

    /// Replaces a complete 2xx response to CONNECT with [`CONSENT`].
    fn read_consent(&mut self) {
        if self.tunnel != Some(true) || self.is_at_head {
            return;
        }
        let input = self.inner.buffers().input();
        let is_consent = input.starts_with(b"HTTP/1.1 2") || input.starts_with(b"HTTP/1.0 2");
        let end = input.windows(4).position(|four| four == b"\r\n\r\n").map(|at| at + 4);
        // Nothing follows it before the client sends something.
        let Some(end) = end.filter(|end| is_consent && *end == input.len()) else { return };
        self.tunnel = Some(false);
        let buffers = self.inner.buffers();
        buffers.input_consume(end);
        if let Some(room) = buffers.input_append_buf().get_mut(..CONSENT.len()) {
            room.copy_from_slice(CONSENT);
            buffers.input_appended(CONSENT.len());
        }
    }
}

impl<T: Transport> Transport for CheckedTransport<T> {
    fn buffers(&mut self) -> &mut dyn Buffers {
        self.inner.buffers()
    }

    fn transmit_output(&mut self, amount: usize, timeout: NextTimeout) -> Result<(), Error> {
        self.is_at_head = true;
        if self.tunnel.is_none() {
            let output = self.inner.buffers().output();
            self.tunnel =
                Some(output.get(..amount).is_some_and(|sent| sent.starts_with(b"CONNECT ")));
        }
        self.inner.transmit_output(amount, timeout)
    }

    fn await_input(&mut self, timeout: NextTimeout) -> Result<bool, Error> {
        use ErrorKind::{ConnectionAborted, ConnectionReset, UnexpectedEof};
        let has_more = self.inner.await_input(timeout).map_err(|error| match error {
            Error::Io(cause)
                if matches!(cause.kind(), ConnectionAborted | ConnectionReset | UnexpectedEof) =>
            {
                // ureq passes this kind on.
                io::Error::new(ErrorKind::BrokenPipe, cause).into()
            }
            other => other,
        })?;
        self.skip_interim();
        self.read_consent();
        Ok(has_more)
    }

    fn is_open(&mut self) -> bool {
        self.inner.is_open()
    }

    fn is_tls(&self) -> bool {
        self.inner.is_tls()
    }
}

impl<T: fmt::Debug> fmt::Debug for CheckedTransport<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("CheckedTransport").field(&self.inner).finish()
    }
}
