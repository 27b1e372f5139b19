//! Every blocking call ends within its deadline, regardless of the cause of the delay. The tests
//! check that the call ends, its error, and what the error means. The time limits are generous
//! because machines differ.

#![allow(clippy::expect_used, clippy::unwrap_used, reason = "a test may panic")]

mod support;

use std::fs::File;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::channel;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use keyfob::store::{MemoryStore, Store, StoredUser};
#[cfg(feature = "tls")]
use keyfob::transport::UreqTransport;
use keyfob::transport::{Request, Response, Transport};
use keyfob::{
    Deadline, Error, Result, Session, StoreError, TransportErrorKind, User, UserId, UserState,
};
use serde_json::{Value, json};
use support::net::{read_request, serve};
use support::store::{HookedStore, StoreHooks};
use support::*;

const DEADLINE: Duration = Duration::from_millis(300);

/// Long enough for any machine, and far from a minute: what has no end is told from what is slow.
const SLACK: Duration = Duration::from_secs(20);

/// Runs a call on a thread of its own, and expects it to end.
fn ends<T: Send + 'static>(what: &str, call: impl FnOnce() -> T + Send + 'static) -> T {
    let (done, outcome) = channel();
    thread::spawn(move || {
        let _ = done.send(call());
    });
    outcome.recv_timeout(SLACK).unwrap_or_else(|_| panic!("it does not end: {what}"))
}

type Operation = fn(&Session, &User) -> Result<()>;

/// One of each kind: without a token, with either, and what has a local part.
const OPERATIONS: [(&str, Operation); 6] = [
    ("log in", |session, _| session.log_in(&password()).map(drop)),
    ("refresh", |_, user| user.refresh_access_token().map(drop)),
    ("call", |_, user| user.functions().call::<Value>("f", ()).map(drop)),
    ("fetch the profile", |_, user| user.refresh_profile().map(drop)),
    ("list keys", |_, user| user.api_keys().list().map(drop)),
    ("log out", |_, user| user.log_out()),
];

/// A store with `ada` in it, whose token is fresh at [`START`].
fn with_ada() -> MemoryStore {
    let (script, clock, store) = (Script::new(), ManualClock::at(START), MemoryStore::new());
    script.accept_login("ada", &access("a1"), &refresh("r1"));
    let session = builder(&script, &clock).store(store.clone()).open().unwrap();
    session.log_in(&password()).unwrap();
    store
}

fn session(url: &str, store: MemoryStore) -> Session {
    Session::builder(APP, url)
        .allow_insecure_http(true)
        .clock(ManualClock::at(START))
        .store(store)
        .location_lookup(false)
        .deadline(DEADLINE)
        .open()
        .unwrap()
}

/// Writes the same for ever, a little at a time.
fn drip(mut stream: TcpStream, head: &str, drop: &str) {
    let _ = read_request(&mut stream);
    let _ = stream.write_all(head.as_bytes());
    while stream.write_all(drop.as_bytes()).is_ok() {
        thread::sleep(Duration::from_millis(10));
    }
}

/// Backends that hold a connection without end, each in its own way.
fn holders() -> Vec<(&'static str, SocketAddr)> {
    const OK: &str = "HTTP/1.1 200 OK\r\n";
    let silent = |mut stream: TcpStream| {
        let _ = stream.read_to_end(&mut Vec::new());
    };
    vec![
        ("never answers", serve(silent)),
        ("drips a head", serve(|stream| drip(stream, OK, "X-Drop: 1\r\n"))),
        ("drips half a line", serve(|stream| drip(stream, OK, "x"))),
        (
            "drips a body",
            serve(|stream| {
                drip(stream, &format!("{OK}Content-Length: 1000000\r\n\r\n"), " ");
            }),
        ),
        (
            "drips chunks",
            serve(|stream| {
                drip(stream, &format!("{OK}Transfer-Encoding: chunked\r\n\r\n"), "1\r\n \r\n");
            }),
        ),
        ("says to wait", serve(|stream| drip(stream, "", "HTTP/1.1 100 Continue\r\n\r\n"))),
        (
            "sends around",
            serve(|mut stream| {
                let _ = read_request(&mut stream);
                thread::sleep(DEADLINE / 2);
                let head = "HTTP/1.1 307 Round\r\nLocation: /again\r\nContent-Length: 0\r\nConnection: close\r\n\r\n";
                let _ = stream.write_all(head.as_bytes());
            }),
        ),
    ]
}

#[test]
fn silent_backend_keeps_deadline() {
    let holders: Vec<_> = holders()
        .into_iter()
        .map(|(manner, address)| {
            thread::spawn(move || {
                for (name, operation) in OPERATIONS {
                    let session = session(&format!("http://{address}"), with_ada());
                    let user = session.current_user().unwrap().unwrap();
                    let what = format!("to {name} where the backend {manner}");
                    let caller = (session.clone(), user.clone());
                    let error =
                        ends(&what, move || operation(&caller.0, &caller.1)).expect_err(&what);
                    let is_protocol = matches!(&error, Error::Transport(error)
                        if error.kind == TransportErrorKind::Protocol);
                    assert!(error.is_timeout() || is_protocol, "{what}: {error:?}");
                    assert!(error.is_retryable() && !error.needs_login(), "{what}: {error:?}");
                    // Between two redirects, nothing is on its way.
                    let changes = matches!(name, "log in" | "call");
                    let is_clear = changes && manner != "sends around";
                    assert!(error.is_ambiguous() || !is_clear, "{what}: {error:?}");
                    assert!(!error.is_ambiguous() || changes, "{what}: {error:?}");
                    let state =
                        if name == "log out" { UserState::LoggedOut } else { UserState::LoggedIn };
                    assert_eq!(user.state().unwrap(), state, "{what}");
                }
            })
        })
        .collect();
    holders.into_iter().for_each(|holder| holder.join().unwrap());
}

#[test]
fn non_reading_backend_keeps_deadline() {
    // Taken and kept, and nothing else.
    let taken = Mutex::new(Vec::new());
    let address = serve({
        let taken = Arc::new(taken);
        move |stream| taken.lock().unwrap().push(stream)
    });
    let session = session(&format!("http://{address}"), with_ada());
    let user = session.current_user().unwrap().unwrap();
    let error = ends("a large argument", move || {
        user.functions().call::<()>("f", ("x".repeat(32 * 1024 * 1024),))
    });
    assert!(error.unwrap_err().is_timeout());
}

#[test]
fn unanswered_location_request_keeps_deadline() {
    let (_, address) = holders().remove(0);
    let builder = || {
        Session::builder(APP, format!("http://{address}"))
            .clock(ManualClock::at(START))
            .store(with_ada())
    };
    let session = builder().deadline(Duration::from_secs(3600)).open().unwrap();
    let user = session.current_user().unwrap().unwrap();
    // One thread asks, with all the time in the world; another one waits for it, without.
    let patient = thread::spawn({
        let user = user.clone();
        move || user.functions().call::<()>("f", ())
    });
    let hasty = session.with_deadline(DEADLINE);
    let error = ends("to wait for a look-up", move || {
        hasty.current_user().unwrap().unwrap().functions().call::<()>("f", ())
    });
    let error = error.unwrap_err();
    assert!(error.is_timeout() && !error.is_ambiguous(), "{error:?}");
    session.shut_down();
    patient.join().unwrap().unwrap_err();
}

/// Nothing has been sent.
#[cfg(feature = "tls")]
#[test]
fn stuck_handshake_or_proxy_keeps_deadline() {
    let (_, silent) = holders().remove(0);
    let proxied = || UreqTransport::builder().proxy(&format!("http://{silent}")).build().unwrap();
    for (what, url, transport) in [
        ("a handshake", format!("https://{silent}"), UreqTransport::new()),
        ("a proxy", "http://backend.invalid".to_owned(), proxied()),
        ("a proxy, for https", "https://backend.invalid".to_owned(), proxied()),
    ] {
        let session = Session::builder(APP, url)
            .allow_insecure_http(true)
            .transport(transport)
            .store(MemoryStore::new())
            .location_lookup(false)
            .deadline(DEADLINE)
            .open()
            .unwrap();
        let error = ends(what, move || session.log_in(&password())).unwrap_err();
        assert!(error.is_timeout(), "{what}: {error:?}");
        assert!(!error.is_ambiguous(), "{what}: {error:?}");
    }
}

#[test]
fn held_lock_keeps_deadline() {
    let dir = Dir::new();
    let (script, clock) = (Script::new(), ManualClock::at(START));
    script.accept_login("ada", &access("a1"), &refresh("r1"));
    let session = Session::builder(APP, URL)
        .transport(script.clone())
        .clock(clock.clone())
        .data_dir(dir.path())
        .open()
        .unwrap();
    let user = session.log_in(&password()).unwrap();
    let hasty = session.with_deadline(DEADLINE).user(user.id()).unwrap().unwrap();
    clock.advance(Duration::from_secs(3600));
    script.clear();
    let files = std::fs::read_dir(dir.path()).unwrap().next().unwrap().unwrap().path();
    let hold = |name: String| {
        let file = File::options().write(true).create(true).truncate(false).open(files.join(name));
        let file = file.unwrap();
        file.lock().unwrap();
        file
    };
    let writers = hold("lock".to_owned());
    let leaving = hasty.clone();
    let error = ends("to log out", move || leaving.log_out()).unwrap_err();
    assert!(matches!(error, Error::Store(_)) && error.is_timeout() && error.is_retryable());
    assert_eq!(user.state().unwrap(), UserState::LoggedIn, "readers wait for nobody");
    drop(writers);
    let flights: Vec<_> = (0..16).map(|number| hold(format!("refresh.{number}"))).collect();
    let refreshing = hasty.clone();
    let error = ends("to refresh", move || refreshing.valid_access_token()).unwrap_err();
    assert!(error.is_timeout() && error.is_retryable() && !error.is_ambiguous(), "{error:?}");
    assert!(script.sent().is_empty(), "{script:?}");
    drop(flights);
    let now = clock.seconds();
    script.reply(REFRESH, 201, json!({"access_token": jwt("a2", now, now + 1800)}));
    user.valid_access_token().unwrap();
}

#[test]
fn stuck_refresh_of_other_thread_keeps_deadline() {
    let (script, clock, session, user) = logged_in();
    clock.advance(Duration::from_secs(3600));
    let (in_the_air, is_in_the_air) = channel();
    let (land, landing) = channel::<()>();
    script.on(REFRESH, move |_| {
        in_the_air.send(()).unwrap();
        let _ = landing.recv();
        Err(TransportErrorKind::Timeout)
    });
    let stuck = thread::spawn(move || user.valid_access_token());
    is_in_the_air.recv().unwrap();
    let hasty = session.with_deadline(DEADLINE).current_user().unwrap().unwrap();
    for explicit in [false, true] {
        let user = hasty.clone();
        let error = ends("to share a flight", move || match explicit {
            true => user.refresh_access_token(),
            false => user.valid_access_token(),
        });
        assert!(error.unwrap_err().is_timeout());
    }
    drop(land);
    stuck.join().unwrap().unwrap_err();
}

#[test]
fn blocked_listener_keeps_deadline() {
    let (_, _, session, user) = logged_in();
    let (stuck, is_stuck) = channel();
    let (free, freed) = channel::<()>();
    let freed = Mutex::new(freed);
    let subscription = session
        .subscribe(move |_| {
            let _ = stuck.send(());
            let _ = freed.lock().unwrap().recv();
        })
        .unwrap();
    ends("events", {
        let user = user.clone();
        move || user.log_out()
    })
    .unwrap();
    is_stuck.recv().unwrap();
    ends("everything else", move || {
        session.log_in(&password()).unwrap();
        drop(subscription);
        drop((session, user));
    });
    drop(free);
}

#[test]
fn result_received_in_time_is_decoded() {
    struct Late(String);
    impl Transport for Late {
        fn send(&self, request: &Request) -> Result<Response, keyfob::TransportError> {
            thread::sleep(request.deadline().remaining());
            Ok(Response::new(200, self.0.clone()))
        }
    }
    let large = format!("[{}1]", "{\"$numberInt\":\"1\"},".repeat(50_000));
    let builder = Session::builder(APP, URL)
        .clock(ManualClock::at(START))
        .store(with_ada())
        .location_lookup(false)
        .deadline(DEADLINE);
    let session = builder.transport(Late(large)).open().unwrap();
    let user = session.current_user().unwrap().unwrap();
    let caller = user.clone();
    let result = ends("to read", move || caller.functions().call::<Vec<i32>>("f", ())).unwrap();
    assert_eq!(result, [1; 50_001]);
}

#[test]
fn zero_deadline_sends_nothing_and_reads_store() {
    let (script, _, session, _) = logged_in();
    let hasty = session.with_deadline(Duration::ZERO);
    let user = hasty.current_user().unwrap().unwrap();
    assert_eq!(user.state().unwrap(), UserState::LoggedIn);
    for (name, operation) in OPERATIONS {
        let (hasty, user) = (hasty.clone(), user.clone());
        let error = ends(name, move || operation(&hasty, &user)).unwrap_err();
        assert!(error.is_timeout() && !error.is_ambiguous(), "{name}: {error:?}");
    }
    assert!(script.sent().is_empty(), "{script:?}");
}

/// A store with pages of one user, whose first page does something before it is given.
#[derive(Clone)]
struct Pages(Arc<dyn Fn(Deadline) + Send + Sync>, Arc<AtomicUsize>);

impl StoreHooks for Pages {
    fn users_after(
        &self,
        store: &dyn Store,
        after: Option<(u64, &UserId)>,
        deadline: Deadline,
    ) -> std::result::Result<Vec<Arc<StoredUser>>, StoreError> {
        let mut page = store.users_after(after, deadline)?;
        page.truncate(1);
        if self.1.fetch_add(1, Ordering::SeqCst) == 0 {
            self.0(deadline);
        }
        Ok(page)
    }
}

#[test]
fn listing_ends_at_deadline_or_shutdown() {
    let (script, clock) = (Script::new(), ManualClock::at(START));
    let store = with_ada();
    let list = |before: Arc<dyn Fn(Deadline) + Send + Sync>| {
        let pages = Arc::new(AtomicUsize::new(0));
        let hooks = Pages(before, pages.clone());
        let store = HookedStore { store: store.clone(), hooks };
        (builder(&script, &clock).store(store).deadline(DEADLINE).open().unwrap(), pages)
    };
    let (session, pages) = list(Arc::new(|deadline| {
        while !deadline.has_passed() {
            thread::yield_now();
        }
    }));
    let error = session.users().unwrap_err();
    assert!(matches!(error, Error::Store(_)) && error.is_timeout(), "{error:?}");
    assert_eq!(pages.load(Ordering::SeqCst), 1);
    assert_eq!(session.users().unwrap().len(), 1, "and another time it has its time");
    let ends: Arc<Mutex<Option<Session>>> = Arc::default();
    let ended = ends.clone();
    let (session, pages) =
        list(Arc::new(move |_| ended.lock().unwrap().take().unwrap().shut_down()));
    *ends.lock().unwrap() = Some(session.clone());
    assert!(matches!(session.users().unwrap_err(), Error::ShutDown { ambiguous: false }));
    assert_eq!(pages.load(Ordering::SeqCst), 1);
}
