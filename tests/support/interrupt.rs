//! Calls on other threads that a test interrupts, and what holds them up.

use std::fs::File;
use std::io::Read;
use std::net::{TcpListener, TcpStream};
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::Duration;

use keyfob::store::{MemoryStore, Store};
use keyfob::{Deadline, Result, Session, User};
use serde_json::json;

use super::*;

/// Longer than any test may take.
pub const FOR_EVER: Duration = Duration::from_secs(3600);

/// How soon an interrupted call ends on a busy machine; 50 ms is usual.
const AT_ONCE: Duration = Duration::from_secs(20);

pub fn soon() -> Deadline {
    Deadline::after(Duration::from_secs(60))
}

/// Runs a call on a thread of its own, and sends its result through the channel.
pub fn apart<T: Send + 'static>(call: impl FnOnce() -> T + Send + 'static) -> Receiver<T> {
    let (done, outcome) = channel();
    thread::spawn(move || {
        let _ = done.send(call());
    });
    outcome
}

/// Runs a call on a thread of its own, and returns when it has probably begun to wait.
pub fn waiting<T: Send + 'static>(
    yields: usize,
    call: impl FnOnce() -> T + Send + 'static,
) -> Receiver<T> {
    let (begun, begins) = channel();
    let outcome = apart(move || {
        begun.send(()).unwrap();
        call()
    });
    begins.recv().unwrap();
    (0..yields).for_each(|_| thread::yield_now());
    outcome
}

/// Returns the result of a call that ends at once.
pub fn at_once<T>(outcome: &Receiver<T>) -> T {
    outcome.recv_timeout(AT_ONCE).expect("it ends")
}

/// A session with a user whose token has expired, on a store.
pub fn expired(store: impl Store) -> (Script, ManualClock, Session, User) {
    let (script, clock) = (Script::new(), ManualClock::at(START));
    script.accept_login("ada", &access("a1"), &refresh("r1"));
    let session = builder(&script, &clock).store(store).deadline(FOR_EVER).open().unwrap();
    let user = session.log_in(&password()).unwrap();
    clock.advance(Duration::from_secs(3600));
    script.clear();
    (script, clock, session, user)
}

/// A backend that accepts connections, reads the beginning of a request and never answers. Each
/// connection is sent through the channel.
pub fn black_hole() -> (String, Receiver<TcpStream>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let (came, comes) = channel();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let _ = stream.read(&mut [0; 1024]).unwrap();
            if came.send(stream).is_err() {
                return;
            }
        }
    });
    (url, comes)
}

/// A session of a user who is logged in with a fresh token, at a backend that never answers.
pub fn at_black_hole() -> (Session, Receiver<TcpStream>) {
    let (script, clock, store) = (Script::new(), ManualClock::at(START), MemoryStore::new());
    script.accept_login("ada", &access("a1"), &refresh("r1"));
    builder(&script, &clock).store(store.clone()).open().unwrap().log_in(&password()).unwrap();
    let (url, comes) = black_hole();
    let session = Session::builder(APP, url).clock(clock).store(store).location_lookup(false);
    (session.deadline(FOR_EVER).open().unwrap(), comes)
}

/// Delays the refresh until the test calls the function, and then returns a new access token and
/// another refresh token.
pub fn slow_rotation(script: &Script, clock: &ManualClock) -> (Receiver<()>, impl FnOnce()) {
    let (sent, is_sent) = channel();
    let (answer, answers) = channel::<()>();
    let now = clock.seconds();
    script.on(REFRESH, move |_| {
        sent.send(()).unwrap();
        answers.recv().unwrap();
        let rotated = json!({
            "access_token": jwt("a2", now, now + 1800),
            "refresh_token": jwt("r2", now, now + 5_000_000),
        });
        Ok(json_answer(201, &rotated))
    });
    (is_sent, move || answer.send(()).unwrap())
}

/// Begins a commit on another thread. The function ends it.
pub fn slow_commit(store: MemoryStore) -> impl FnOnce() {
    let (inside, is_inside) = channel();
    let (leave, leaving) = channel::<()>();
    let holder = thread::spawn(move || {
        store.commit(soon(), &mut |_| {
            inside.send(()).unwrap();
            leaving.recv().unwrap();
            Ok(Vec::new())
        })
    });
    is_inside.recv().unwrap();
    move || {
        leave.send(()).unwrap();
        holder.join().unwrap().unwrap();
    }
}

/// Locks files of the one app in a data directory, as another process does.
pub fn locked_files(dir: &Dir, names: &[String]) -> Vec<File> {
    let app = std::fs::read_dir(dir.path()).unwrap().next().unwrap().unwrap().path();
    let lock = |name| {
        let options = File::options().read(true).write(true).create(true).truncate(false).clone();
        let file = options.open(app.join(name)).unwrap();
        file.lock().unwrap();
        file
    };
    names.iter().map(lock).collect()
}

/// The lock files that a call waits for, and the call.
type LockedCall = (Vec<String>, fn(User) -> Result<()>);

pub fn locked_calls() -> [LockedCall; 2] {
    let refresh_locks = (0..16).map(|number| format!("refresh.{number}")).collect();
    [
        (vec!["lock".to_owned()], |user| user.log_out()),
        (refresh_locks, |user| user.valid_access_token().map(drop)),
    ]
}
