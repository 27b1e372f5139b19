//! TCP connections, with overlapping attempts if a host has several addresses.

use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};

use ureq::Error;
use ureq::unversioned::resolver::{DefaultResolver, Resolver as _};
use ureq::unversioned::transport::{
    ConnectionDetails, Connector, NextTimeout, ShutdownHandle, Transport, time,
};

use super::addresses::{AddressBook, key};
use super::call::Call;
use crate::happy_eyeballs::Race;

/// Connects to one address.
#[cfg(windows)]
type Sockets = super::polled::PolledConnector;
#[cfg(not(windows))]
type Sockets = ureq::unversioned::transport::TcpConnector;

/// Opens connections with [`Sockets`], one attempt for each address, and records in the address book
/// which one connected.
#[derive(Debug)]
pub(super) struct RacingConnector {
    book: Arc<AddressBook>,
    race: Race,
}

impl RacingConnector {
    pub(super) fn new(book: Arc<AddressBook>) -> Self {
        Self { book, race: Race::default() }
    }
}

/// A connection on [`Sockets`].
pub(super) type Socket<In> = <Sockets as Connector<In>>::Out;

/// A connection, and what ends it from another thread.
type Opened<T> = (Option<T>, Option<Weak<dyn ShutdownHandle>>);

impl RacingConnector {
    /// Connects, unless there is a connection already.
    pub(super) fn connect<In: Transport>(
        &self,
        details: &ConnectionDetails<'_>,
        chained: Option<In>,
    ) -> Result<Opened<Socket<In>>, Error> {
        if chained.is_some() {
            return Ok((Sockets::default().connect(details, chained)?, None));
        }
        // Owned, because an attempt may outlive this call.
        let (uri, config) = (details.uri.clone(), Arc::new(details.config.clone()));
        let (timeout, request_level) = (details.timeout, details.request_level);
        let current_time = details.current_time.clone();
        let run_connector = details.run_connector.clone();
        let register_shutdown = details.register_shutdown.clone();
        let open = move |address, left: Duration| {
            let handle = Arc::new(Mutex::new(None));
            let register = {
                let (handle, register) = (Arc::clone(&handle), register_shutdown.clone());
                move |registered: Weak<dyn ShutdownHandle>| {
                    let mut handle = handle.lock().unwrap_or_else(PoisonError::into_inner);
                    *handle = Some(registered.clone());
                    register(registered)
                }
            };
            let resolver = DefaultResolver::default();
            let mut addrs = resolver.empty();
            addrs.push(address);
            let details = ConnectionDetails {
                uri: &uri,
                addrs,
                config: &config,
                request_level,
                resolver: &resolver,
                now: time::Instant::Exact(Instant::now()),
                timeout: NextTimeout { after: left.into(), ..timeout },
                current_time: current_time.clone(),
                run_connector: run_connector.clone(),
                register_shutdown: Arc::new(register),
            };
            let connection = Sockets::default().connect(&details, None)?;
            let handle = handle.lock().unwrap_or_else(PoisonError::into_inner).take();
            Ok((connection, handle))
        };
        match self.race.connect(&details.addrs, *timeout.after, Call::cancellable(), open) {
            Ok((address, opened)) => {
                self.book.connected(key(details.uri), address);
                Ok(opened)
            }
            Err(Some(error)) => Err(error),
            Err(None) => Err(Error::Timeout(timeout.reason)),
        }
    }
}
