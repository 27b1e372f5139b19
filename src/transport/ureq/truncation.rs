//! Where a response begins and ends, as ureq does not see it.
//!
//! - A response without a length ends with its connection. ureq takes a connection that was reset,
//!   and a TLS stream that was cut off, for one that has ended: here they are errors.
//! - ureq rejects `100 Continue` with header fields, which RFC 9110, section 15.2, allows: here
//!   interim responses are skipped.

use std::fmt;
use std::io::{self, ErrorKind};

use ureq::Error;
use ureq::unversioned::transport::{Buffers, ConnectionDetails, Connector, NextTimeout, Transport};

/// Makes an error of such an end, on all connections.
#[derive(Debug)]
pub(super) struct RejectTruncated<C>(pub(super) C);

impl<In: Transport, C: Connector<In>> Connector<In> for RejectTruncated<C> {
    type Out = Whole<C::Out>;

    fn connect(
        &self,
        details: &ConnectionDetails<'_>,
        chained: Option<In>,
    ) -> Result<Option<Self::Out>, Error> {
        let connected = self.0.connect(details, chained)?;
        Ok(connected.map(|inner| Whole { inner, is_at_head: false }))
    }
}

/// A connection that ends as the other side said that it does, or with an error.
pub(super) struct Whole<T> {
    inner: T,
    /// Whether the head of a response comes next.
    is_at_head: bool,
}

impl<T: Transport> Whole<T> {
    /// Consumes complete interim responses (1xx), but for 101, which is a final one.
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
}

impl<T: Transport> Transport for Whole<T> {
    fn buffers(&mut self) -> &mut dyn Buffers {
        self.inner.buffers()
    }

    fn transmit_output(&mut self, amount: usize, timeout: NextTimeout) -> Result<(), Error> {
        self.is_at_head = true;
        self.inner.transmit_output(amount, timeout)
    }

    fn await_input(&mut self, timeout: NextTimeout) -> Result<bool, Error> {
        use ErrorKind::{ConnectionAborted, ConnectionReset, UnexpectedEof};
        let has_more = self.inner.await_input(timeout).map_err(|error| match error {
            Error::Io(cause)
                if matches!(cause.kind(), ConnectionAborted | ConnectionReset | UnexpectedEof) =>
            {
                // Of a kind that ureq passes on.
                io::Error::new(ErrorKind::BrokenPipe, cause).into()
            }
            other => other,
        })?;
        self.skip_interim();
        Ok(has_more)
    }

    fn is_open(&mut self) -> bool {
        self.inner.is_open()
    }

    fn is_tls(&self) -> bool {
        self.inner.is_tls()
    }
}

impl<T: fmt::Debug> fmt::Debug for Whole<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Whole").field(&self.inner).finish()
    }
}
