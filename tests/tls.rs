//! HTTPS with a real server on this machine and a certificate authority of the test.

#![cfg(feature = "tls")]
#![allow(clippy::expect_used, clippy::unwrap_used, reason = "a test may panic")]

mod support;

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use keyfob::store::MemoryStore;
use keyfob::transport::UreqTransport;
use keyfob::{Error, Session, TransportError, TransportErrorKind};
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, date_time_ymd};
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::{ServerConfig, ServerConnection, StreamOwned};
use serde_json::Value;
use support::net::{Seen, WRONG_PASSWORD, proxy, raw, read_request, serve};
use support::{APP, password};

type TlsStream = StreamOwned<ServerConnection, TcpStream>;

/// A certificate authority that no certificate store has.
struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pem: String,
}

impl Authority {
    fn new(name: &str) -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        let pem = params.self_signed(&key).unwrap().pem();
        Self { issuer: Issuer::new(params, key), pem }
    }

    /// Starts a backend with a certificate for these hosts that refuses all log-ins.
    fn backend(&self, hosts: &[&str], expired: bool) -> (SocketAddr, Seen) {
        self.answering(hosts, expired, |stream| {
            let _ = stream.write_all(raw(401, WRONG_PASSWORD).as_bytes());
            stream.conn.send_close_notify();
            let _ = stream.flush();
        })
    }

    /// Starts a backend that answers each request in some way.
    fn answering(
        &self,
        hosts: &[&str],
        expired: bool,
        answer: impl Fn(&mut TlsStream) + Clone + Send + 'static,
    ) -> (SocketAddr, Seen) {
        let hosts: Vec<_> = hosts.iter().map(|host| (*host).to_owned()).collect();
        let mut params = CertificateParams::new(hosts).unwrap();
        if expired {
            params.not_before = date_time_ymd(2020, 1, 1);
            params.not_after = date_time_ymd(2021, 1, 1);
        }
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.serialize_der()));
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![certificate.der().clone()], key)
            .unwrap();
        let (config, seen) = (Arc::new(config), Seen::default());
        let noted = seen.clone();
        let address = serve(move |stream| {
            let mut stream =
                StreamOwned::new(ServerConnection::new(config.clone()).unwrap(), stream);
            match read_request(&mut stream) {
                Some((head, _)) => noted.note(format!("{head}{:?}", stream.conn.handshake_kind())),
                None => return noted.note("no request"),
            }
            answer(&mut stream);
        });
        (address, seen)
    }
}

fn session(url: &str, transport: UreqTransport) -> Session {
    Session::builder(APP, url)
        .transport(transport)
        .store(MemoryStore::new())
        .deadline(Duration::from_secs(20))
        .open()
        .unwrap()
}

fn trusting(authority: &Authority) -> UreqTransport {
    UreqTransport::builder().root_certificates(&*authority.pem).build().unwrap()
}

/// Logs in where TLS is refused, and returns how.
fn refused(session: &Session) -> TransportError {
    let error = session.log_in(&password()).unwrap_err();
    assert!(!error.is_ambiguous() && !error.needs_login(), "{error}");
    match error {
        Error::Transport(error) => *error,
        other => panic!("{other}"),
    }
}

#[test]
fn own_root_certificate_is_trusted() {
    let authority = Authority::new("ours");
    let (backend, seen) = authority.backend(&["localhost", "127.0.0.1"], false);
    for host in ["localhost", "127.0.0.1"] {
        let url = format!("https://{host}:{}", backend.port());
        let error = session(&url, trusting(&authority)).log_in(&password()).unwrap_err();
        assert_eq!(error.status(), Some(401), "{error}");
    }
    let location = format!("GET /api/client/v2.0/app/{APP}/location");
    assert!(seen.all()[0].starts_with(&location), "{:?}", seen.all());
}

#[test]
fn truncated_tls_response_is_error() {
    use support::{ManualClock, START, Script, access, builder, refresh};
    let authority = Authority::new("ours");
    let body = Arc::new(Mutex::new("12"));
    let says = Arc::clone(&body);
    let (backend, _) = authority.answering(&["localhost"], false, move |stream| {
        let _ = write!(stream, "HTTP/1.1 200 OK\r\n\r\n{}", says.lock().unwrap());
        // Without a close notification: anyone on the network can do that.
        let _ = stream.sock.shutdown(std::net::Shutdown::Both);
    });
    let (script, clock, store) = (Script::new(), ManualClock::at(START), MemoryStore::new());
    script.accept_login("ada", &access("a1"), &refresh("r1"));
    builder(&script, &clock).store(store.clone()).open().unwrap().log_in(&password()).unwrap();
    let session = Session::builder(APP, format!("https://localhost:{}", backend.port()))
        .transport(trusting(&authority))
        .clock(clock)
        .store(store)
        .location_lookup(false)
        .open()
        .unwrap();
    let user = session.current_user().unwrap().unwrap();
    for half in ["12", "", r#"{"a":12"#, "[12", r#"{"a":"}"#, "[]]"] {
        *body.lock().unwrap() = half;
        match user.functions().call::<Value>("f", ()) {
            Err(Error::Transport(error)) => assert_eq!(error.kind, TransportErrorKind::Interrupted),
            other => panic!("{half}: {other:?}"),
        }
    }
    // Some servers end all responses like this.
    for whole in [r#"{"a":12}"#, "[12]\r\n"] {
        *body.lock().unwrap() = whole;
        let read: Value = user.functions().call("f", ()).unwrap();
        assert_eq!(read, serde_json::from_str::<Value>(whole).unwrap());
    }
}

#[test]
fn next_connection_resumes_tls_session() {
    let authority = Authority::new("ours");
    let (backend, seen) = authority.backend(&["localhost"], false);
    let session = session(&format!("https://localhost:{}", backend.port()), trusting(&authority));
    session.log_in(&password()).unwrap_err();
    let seen = seen.all();
    assert!(seen.len() >= 2, "the backend closes each: {seen:?}");
    assert!(seen[0].ends_with("Some(Full)"), "{seen:?}");
    assert!(seen[1].ends_with("Some(Resumed)"), "{seen:?}");
}

#[test]
fn invalid_certificate_is_rejected_before_sending() {
    let (ours, theirs) = (Authority::new("ours"), Authority::new("theirs"));
    let local = ["localhost", "127.0.0.1"];
    for (what, (backend, seen), transport) in [
        ("another's", theirs.backend(&local, false), trusting(&ours)),
        ("nobody's", ours.backend(&local, false), UreqTransport::new()),
        ("expired", ours.backend(&local, true), trusting(&ours)),
        ("for another host", ours.backend(&["example.org"], false), trusting(&ours)),
    ] {
        let url = format!("https://127.0.0.1:{}", backend.port());
        let session = session(&url, transport);
        let error = refused(&session);
        assert_eq!(error.kind, TransportErrorKind::Tls, "{what}: {error:?}");
        assert!(!error.may_have_arrived(), "{what}");
        assert!(!Error::from(error).is_retryable(), "{what}");
        assert!(seen.all().len() <= 1, "it is not tried again, {what}: {:?}", seen.all());
        assert!(seen.all().iter().all(|head| head == "no request"), "{what}: {:?}", seen.all());
    }
}

#[test]
fn plain_server_is_not_tls_error() {
    let authority = Authority::new("ours");
    let address = serve(|mut stream| {
        let _ = stream.write_all(raw(200, "{}").as_bytes());
    });
    let session = session(&format!("https://{address}"), trusting(&authority));
    assert_eq!(refused(&session).kind, TransportErrorKind::Tls);
}

#[test]
fn interrupted_handshake_has_sent_nothing() {
    let authority = Authority::new("ours");
    for (breaks_off, expected, connections) in
        [(true, TransportErrorKind::Connect, 2), (false, TransportErrorKind::Timeout, 1)]
    {
        let seen = Seen::default();
        let noted = seen.clone();
        let address = serve(move |mut stream| {
            noted.note("a connection");
            let mut hello = [0; 16];
            stream.read_exact(&mut hello).unwrap();
            if !breaks_off {
                // Until the client leaves.
                let _ = stream.read_to_end(&mut Vec::new());
            }
        });
        let session = Session::builder(APP, format!("https://{address}"))
            .transport(trusting(&authority))
            .store(MemoryStore::new())
            .location_lookup(false)
            .deadline(Duration::from_millis(500))
            .open()
            .unwrap();
        let error = refused(&session);
        assert_eq!((error.kind, seen.all().len()), (expected, connections), "{error:?}");
        assert!(!error.may_have_arrived(), "{error:?}");
        assert!(Error::from(error).is_retryable());
    }
}

#[test]
fn corrupt_record_after_request_is_ambiguous() {
    let authority = Authority::new("ours");
    let (backend, seen) = authority.answering(&["127.0.0.1"], false, |stream| {
        // As a bit that flips on the way, or a box that breaks in.
        let _ = stream.sock.write_all(&[0x17, 0x03, 0x03, 0x00, 0x20]);
        let _ = stream.sock.write_all(&[7; 32]);
    });
    let session = Session::builder(APP, format!("https://{backend}"))
        .transport(trusting(&authority))
        .store(MemoryStore::new())
        .location_lookup(false)
        .open()
        .unwrap();
    let error = session.log_in(&password()).unwrap_err();
    assert!(
        matches!(&error, Error::Transport(error) if error.kind == TransportErrorKind::Interrupted)
    );
    assert!(error.is_ambiguous() && error.is_retryable(), "{error:?}");
    assert_eq!(seen.all().len(), 1, "{:?}", seen.all());
}

#[test]
fn proxy_sees_only_host() {
    let authority = Authority::new("ours");
    let (backend, _) = authority.backend(&["backend.invalid"], false);
    let (proxy, asked) = proxy(backend);
    let transport = UreqTransport::builder()
        .proxy(&format!("http://{proxy}"))
        .root_certificates(&*authority.pem)
        .build()
        .unwrap();
    let session = session("https://backend.invalid", transport);
    assert_eq!(session.log_in(&password()).unwrap_err().status(), Some(401));
    assert!(asked.all()[0].starts_with("CONNECT backend.invalid:443 "), "{:?}", asked.all());
}

#[test]
fn text_without_certificates_is_rejected() {
    for pem in ["", "hello", "-----BEGIN CERTIFICATE-----\n!!!\n-----END CERTIFICATE-----\n"] {
        let error = UreqTransport::builder().root_certificates(pem).build().unwrap_err();
        assert!(matches!(error, Error::Config { .. }), "{pem}: {error}");
    }
    let key = KeyPair::generate().unwrap().serialize_pem();
    let error = UreqTransport::builder().root_certificates(&*key).build().unwrap_err();
    assert!(error.to_string().contains("no certificate"), "{error}");
}

/// The certificate store of this machine does not have a new authority.
#[cfg(feature = "platform-verifier")]
#[test]
fn platform_verifier_rejects_unknown_root() {
    let (backend, seen) = Authority::new("ours").backend(&["localhost", "127.0.0.1"], false);
    let transport = UreqTransport::builder().platform_verifier().build().unwrap();
    let session = session(&format!("https://127.0.0.1:{}", backend.port()), transport);
    assert_eq!(refused(&session).kind, TransportErrorKind::Tls);
    assert!(seen.all().iter().all(|head| head == "no request"), "{:?}", seen.all());
}
