//! TLS settings: the trusted certificates, and one configuration for all connections.

use ureq::tls::{PemItem, RootCerts, TlsConfig, parse_pem};
use ureq::unversioned::transport::{ConnectionDetails, Connector, RustlsConnector, Transport};

use crate::error::{Error, Result};

/// The trusted certificates.
pub(super) enum Roots {
    Mozilla,
    Pem(Vec<u8>),
    #[cfg(feature = "platform-verifier")]
    Platform,
}

impl Roots {
    pub(super) fn config(self) -> Result<TlsConfig> {
        let roots = match self {
            Self::Mozilla => RootCerts::WebPki,
            Self::Pem(pem) => certificates(&pem)?,
            #[cfg(feature = "platform-verifier")]
            Self::Platform => RootCerts::PlatformVerifier,
        };
        Ok(TlsConfig::builder().root_certs(roots).build())
    }
}

fn certificates(pem: &[u8]) -> Result<RootCerts> {
    const WHAT: &str = "the text of the root certificates";
    let mut certificates = Vec::new();
    for item in parse_pem(pem) {
        match item {
            Ok(PemItem::Certificate(certificate)) => certificates.push(certificate),
            Ok(_) => {}
            Err(_) => return Err(Error::config(WHAT, "it is not PEM")),
        }
    }
    if certificates.is_empty() {
        return Err(Error::config(WHAT, "it has no certificate"));
    }
    Ok(RootCerts::new_with_certs(&certificates))
}

/// ureq's TLS connector with one rustls configuration for all connections.
///
/// ureq creates a configuration for each connection of a request with settings of its own, which all
/// requests here have: their timeouts. That is slow, above all with the platform's verifier, and
/// prevents the resumption of TLS sessions.
#[derive(Debug, Default)]
pub(super) struct OneTlsConfig(RustlsConnector);

impl<In: Transport> Connector<In> for OneTlsConfig {
    type Out = <RustlsConnector as Connector<In>>::Out;

    fn connect(
        &self,
        details: &ConnectionDetails<'_>,
        chained: Option<In>,
    ) -> Result<Option<Self::Out>, ureq::Error> {
        let details = ConnectionDetails {
            // Only the TLS settings are used here, and no request has its own ones.
            request_level: false,
            addrs: details.resolver.empty(),
            uri: details.uri,
            config: details.config,
            resolver: details.resolver,
            now: details.now,
            timeout: details.timeout,
            current_time: details.current_time.clone(),
            run_connector: details.run_connector.clone(),
            register_shutdown: details.register_shutdown.clone(),
        };
        self.0.connect(&details, chained)
    }
}
