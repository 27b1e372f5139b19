//! TCP connections: ureq's own, with overlapping attempts where a host has several addresses.

use std::sync::Arc;
use std::time::Instant;

use ureq::Error;
use ureq::unversioned::resolver::{DefaultResolver, Resolver as _};
use ureq::unversioned::transport::{ConnectionDetails, Connector, NextTimeout, Transport, time};

use super::addresses::{AddressBook, key};
use super::happy_eyeballs::Race;

/// Opens a socket.
#[cfg(windows)]
type Sockets = super::polled::PolledConnector;
#[cfg(not(windows))]
type Sockets = ureq::unversioned::transport::TcpConnector;

/// Opens connections on [`Sockets`], one attempt for each address, and notes in the address book
/// which one answered.
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

impl<In: Transport> Connector<In> for RacingConnector {
    type Out = <Sockets as Connector<In>>::Out;

    fn connect(
        &self,
        details: &ConnectionDetails<'_>,
        chained: Option<In>,
    ) -> Result<Option<Self::Out>, Error> {
        if chained.is_some() {
            return Sockets::default().connect(details, chained);
        }
        // Owned, for attempts that outlast this call.
        let (uri, config) = (details.uri.clone(), Arc::new(details.config.clone()));
        let (timeout, request_level) = (details.timeout, details.request_level);
        let current_time = details.current_time.clone();
        let run_connector = details.run_connector.clone();
        let register_shutdown = details.register_shutdown.clone();
        let open = move |address, left: std::time::Duration| {
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
                register_shutdown: register_shutdown.clone(),
            };
            Sockets::default().connect(&details, None)
        };
        match self.race.connect(&details.addrs, *timeout.after, open) {
            Ok((address, connection)) => {
                self.book.connected(key(details.uri), address);
                Ok(connection)
            }
            Err(Some(error)) => Err(error),
            Err(None) => Err(Error::Timeout(timeout.reason)),
        }
    }
}
