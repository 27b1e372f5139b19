//! Errors before a request was sent, which ureq does not distinguish from later ones.

use std::sync::Arc;
use std::{fmt, io};

use ureq::Error;
use ureq::unversioned::transport::{ConnectionDetails, Connector, Transport};

use super::addresses::{AddressBook, key};

/// Marks all errors of the TCP connection, the proxy's tunnel and the TLS handshake, after which the
/// host is looked up again.
#[derive(Debug)]
pub(super) struct TagConnectErrors<C> {
    pub(super) inner: C,
    pub(super) book: Arc<AddressBook>,
}

impl<In: Transport, C: Connector<In>> Connector<In> for TagConnectErrors<C> {
    type Out = C::Out;

    fn connect(
        &self,
        details: &ConnectionDetails<'_>,
        chained: Option<In>,
    ) -> Result<Option<Self::Out>, Error> {
        self.inner.connect(details, chained).map_err(|error| {
            self.book.failed(key(details.uri));
            io::Error::other(ConnectError(error)).into()
        })
    }
}

#[derive(Debug)]
struct ConnectError(Error);

impl fmt::Display for ConnectError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl std::error::Error for ConnectError {}

/// Returns the original error, and `true` if nothing had been sent.
pub(super) fn split_connect_error(mut error: Error) -> (Error, bool) {
    let mut unsent = false;
    loop {
        error = match error {
            Error::Io(error) => match error.downcast::<ConnectError>() {
                // A proxy's tunnel is a connection in a connection.
                Ok(ConnectError(error)) => {
                    unsent = true;
                    error
                }
                Err(error) => return (error.into(), unsent),
            },
            // The look-up comes before connecting, and has a timeout of its own.
            Error::HostNotFound | Error::Timeout(ureq::Timeout::Resolve) => return (error, true),
            other => return (other, unsent),
        };
    }
}
