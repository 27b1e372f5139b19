//! TLS: whose certificates are trusted.

use ureq::tls::{PemItem, RootCerts, TlsConfig, parse_pem};
use ureq::unversioned::transport::{ConnectionDetails, Connector, RustlsConnector, Transport};

use crate::error::{Error, Result};

/// Whose certificates are trusted.
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
            Err(_) => return Err(Error::config(WHAT, "it is no PEM")),
        }
    }
    if certificates.is_empty() {
        return Err(Error::config(WHAT, "there is no certificate in it"));
    }
    Ok(RootCerts::new_with_certs(&certificates))
}

/// rustls with one configuration for all connections.
///
/// ureq makes one for each connection of a request that has any setting of its own, and ours all
/// have: their time. That costs, with the platform's verifier most of all, and no session is
/// resumed.
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
            // Only the settings for TLS count here, and those no request has of its own.
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
