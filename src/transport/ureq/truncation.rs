//! Half an answer is none: one whose length nobody said ends with its connection, and ureq takes a
//! connection that was reset, and a TLS stream that was cut off, for one that has ended.

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
        Ok(self.0.connect(details, chained)?.map(Whole))
    }
}

/// A connection that ends as the other side said that it does, or with an error.
pub(super) struct Whole<T>(T);

impl<T: Transport> Transport for Whole<T> {
    fn buffers(&mut self) -> &mut dyn Buffers {
        self.0.buffers()
    }

    fn transmit_output(&mut self, amount: usize, timeout: NextTimeout) -> Result<(), Error> {
        self.0.transmit_output(amount, timeout)
    }

    fn await_input(&mut self, timeout: NextTimeout) -> Result<bool, Error> {
        use ErrorKind::{ConnectionAborted, ConnectionReset, UnexpectedEof};
        self.0.await_input(timeout).map_err(|error| match error {
            Error::Io(cause)
                if matches!(cause.kind(), ConnectionAborted | ConnectionReset | UnexpectedEof) =>
            {
                // Of a kind that ureq passes on.
                io::Error::new(ErrorKind::BrokenPipe, cause).into()
            }
            other => other,
        })
    }

    fn is_open(&mut self) -> bool {
        self.0.is_open()
    }

    fn is_tls(&self) -> bool {
        self.0.is_tls()
    }
}

impl<T: fmt::Debug> fmt::Debug for Whole<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Whole").field(&self.0).finish()
    }
}
