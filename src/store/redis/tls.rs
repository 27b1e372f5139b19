//! TLS settings: the trusted certificates and the client certificate.

use std::sync::Arc;

use rustls::crypto::ring;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, RootCertStore};

use crate::error::{Error, Result};
use crate::secret::Secret;

/// The settings from the builder.
#[derive(Clone, Default)]
pub(super) struct TlsSettings {
    /// Root certificates in PEM. If `None`, Mozilla's are trusted.
    pub(super) roots: Option<Vec<u8>>,
    /// The client certificate chain and its private key, in PEM.
    pub(super) client: Option<(Vec<u8>, Secret)>,
}

impl TlsSettings {
    pub(super) fn is_set(&self) -> bool {
        self.roots.is_some() || self.client.is_some()
    }

    /// Returns the rustls configuration. It uses ring, regardless of the program's default
    /// provider.
    pub(super) fn config(&self) -> Result<Arc<ClientConfig>> {
        let refused = |what, reason: &str| Error::config(what, reason);
        let mut roots = RootCertStore::empty();
        match &self.roots {
            None => roots.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned()),
            Some(pem) => {
                const WHAT: &str = "the root certificates";
                let expected = "expected certificates in PEM format";
                for certificate in CertificateDer::pem_slice_iter(pem) {
                    let certificate = certificate.map_err(|_| refused(WHAT, expected))?;
                    roots.add(certificate).map_err(|_| {
                        refused(WHAT, "one of them is not a certificate of an authority")
                    })?;
                }
                if roots.is_empty() {
                    return Err(refused(WHAT, expected));
                }
            }
        }
        let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .map_err(|_| refused("TLS", "no version of it is available"))?
            .with_root_certificates(roots);
        let config = match &self.client {
            None => builder.with_no_client_auth(),
            Some((chain, key)) => {
                const WHAT: &str = "the client certificate";
                let chain: Vec<_> = CertificateDer::pem_slice_iter(chain)
                    .collect::<Result<_, _>>()
                    .map_err(|_| refused(WHAT, "expected a chain of certificates in PEM format"))?;
                let key = PrivateKeyDer::from_pem_slice(key.expose().as_bytes())
                    .map_err(|_| refused(WHAT, "expected its private key in PEM format"))?;
                builder
                    .with_client_auth_cert(chain, key)
                    .map_err(|_| refused(WHAT, "the certificate and its key do not fit"))?
            }
        };
        Ok(Arc::new(config))
    }
}
