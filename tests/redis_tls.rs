//! TLS to a real redis-server: private certificate authorities, client certificates, and rejected
//! connections.

#![allow(clippy::expect_used, clippy::unwrap_used, reason = "a test may panic")]

mod redis_support;
mod support;

use std::path::PathBuf;
use std::time::{Duration, Instant};

use keyfob::store::{RedisStoreBuilder, Store};
use keyfob::{Deadline, Error, Secret, StoreError, StoreErrorKind};
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use redis_support::*;

/// An authority of our own.
struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pem: String,
}

impl Authority {
    fn new() -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.distinguished_name.push(DnType::CommonName, "test authority");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        let pem = params.self_signed(&key).unwrap().pem();
        Self { issuer: Issuer::new(params, key), pem }
    }

    /// A certificate for a host, and its key.
    fn certificate(&self, host: &str) -> (String, Secret) {
        let params = CertificateParams::new(vec![host.to_owned()]).unwrap();
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        (certificate.pem(), Secret::new(key.serialize_pem()))
    }

    /// Starts a server for this host, which wants a client certificate or not.
    fn server(&self, host: &str, clients: &str) -> (RedisServer, u16) {
        let dir =
            std::env::temp_dir().join(format!("keyfob-tls-{}-{}", std::process::id(), free_port()));
        std::fs::create_dir_all(&dir).unwrap();
        let (certificate, key) = self.certificate(host);
        let write = |name: &str, text: &str| -> PathBuf {
            let path = dir.join(name);
            std::fs::write(&path, text).unwrap();
            path
        };
        let paths = [
            write("server.crt", &certificate),
            write("server.key", key.expose()),
            write("ca.crt", &self.pem),
        ];
        let paths = paths.each_ref().map(|path| path.to_str().unwrap());
        let port = free_port();
        let server = RedisServer::with(&[
            "--save",
            "",
            "--tls-port",
            &port.to_string(),
            "--tls-cert-file",
            paths[0],
            "--tls-key-file",
            paths[1],
            "--tls-ca-cert-file",
            paths[2],
            "--tls-auth-clients",
            clients,
        ]);
        std::fs::remove_dir_all(dir).unwrap();
        (server, port)
    }
}

fn read(builder: RedisStoreBuilder) -> Result<(), StoreError> {
    let deadline = Deadline::after(Duration::from_secs(5));
    builder.open().unwrap().current(deadline).map(drop)
}

fn at(host: &str, port: u16) -> RedisStoreBuilder {
    builder(&format!("rediss://{host}:{port}"))
}

#[test]
#[ignore = "needs redis-server"]
fn private_authority_and_client_certificate_are_used() {
    let authority = Authority::new();
    let (_server, port) = authority.server("localhost", "yes");
    let trusting = || at("localhost", port).root_certificates(authority.pem.clone());
    let (chain, key) = authority.certificate("machine");
    read(trusting().client_certificate(chain, key)).unwrap();
    assert_eq!(read(trusting()).unwrap_err().kind, StoreErrorKind::Io);
}

#[test]
#[ignore = "needs redis-server"]
fn unknown_authority_and_other_host_are_refused() {
    let authority = Authority::new();
    let (_server, port) = authority.server("localhost", "no");
    read(at("localhost", port).root_certificates(authority.pem.clone())).unwrap();
    for refused in [
        at("localhost", port),
        at("localhost", port).root_certificates(Authority::new().pem),
        at("127.0.0.1", port).root_certificates(authority.pem.clone()),
    ] {
        let error = read(refused).unwrap_err();
        assert_eq!(error.kind, StoreErrorKind::Io);
        assert!(error.to_string().contains("TLS"), "{error}");
    }
}

#[test]
#[ignore = "needs redis-server"]
fn other_protocol_is_named() {
    let authority = Authority::new();
    let (server, port) = authority.server("localhost", "no");
    let error = read(builder(&format!("redis://localhost:{port}"))).unwrap_err();
    assert_eq!(error.kind, StoreErrorKind::Io);
    assert!(error.to_string().contains("use a rediss:// URL"), "{error}");
    // The server waits for the rest of what it takes for a command.
    let store = at("localhost", server.port()).open().unwrap();
    let error = store.current(Deadline::after(Duration::from_secs(1))).unwrap_err();
    assert_eq!(error.kind, StoreErrorKind::Busy);
    assert!(error.to_string().contains("check that it speaks TLS on this port"), "{error}");
    // Other servers answer.
    let other = support::net::serve(|mut stream| {
        let _ = std::io::Write::write_all(&mut stream, b"-ERR what is this\r\n");
        let _ = std::io::Read::read(&mut stream, &mut [0; 4096]);
    });
    let error = read(at("127.0.0.1", other.port())).unwrap_err();
    assert_eq!(error.kind, StoreErrorKind::Io);
    assert!(error.to_string().contains("does not speak TLS on this port"), "{error}");
}

/// The server accepts the connection and says nothing.
#[test]
#[ignore = "needs redis-server"]
fn silent_handshake_keeps_deadline() {
    let listener = std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let store = at("127.0.0.1", listener.local_addr().unwrap().port()).open().unwrap();
    let began = Instant::now();
    let error = store.current(Deadline::after(Duration::from_millis(200))).unwrap_err();
    assert_eq!(error.kind, StoreErrorKind::Busy);
    assert!(began.elapsed() < Duration::from_millis(500), "{:?}", began.elapsed());
}

#[test]
fn bad_certificates_are_config_errors() {
    let authority = Authority::new();
    let (chain, key) = authority.certificate("machine");
    let (_, other) = authority.certificate("machine");
    let host = || at("localhost", 1);
    let bad = [
        host().root_certificates("hush"),
        host().root_certificates(""),
        host().client_certificate("hush", key.clone()),
        host().client_certificate(chain.clone(), Secret::new("hush")),
        host().client_certificate(chain.clone(), other),
        // Without TLS they would be of no use.
        builder("redis://localhost:1").root_certificates(authority.pem.clone()),
    ];
    for bad in bad {
        let error = bad.open().unwrap_err();
        assert!(matches!(error, Error::Config { .. }), "{error}");
        assert!(!format!("{error} {error:?}").contains("hush"), "{error}");
    }
    assert!(host().client_certificate(chain, key).open().is_ok());
}
