//! Publish and subscribe: a thread hears of commits as soon as they are made.
//!
//! Messages only say that there is something to read. If one is lost, the next poll finds it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use ::redis::{Value, from_redis_value};

use super::connection::Connection;
use super::failure::Failure;
use super::limit::Limit;
use super::{Inner, jittered};

/// How long the thread waits before it looks whether it is still wanted.
const LOOK: Duration = Duration::from_millis(250);

/// After how long without a message the server is asked whether it is there, and how long it has to
/// answer that.
const QUIET: Duration = Duration::from_secs(10);

/// The shortest and the longest pause after a failure.
const PAUSE: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));

/// How long connecting may take.
const CONNECT: Duration = Duration::from_secs(5);

/// Ends the thread when it is dropped.
pub(super) struct Watch(Arc<AtomicBool>);

/// Starts a thread that calls `notify` after commits of others. `None` if no thread could be
/// started: then polling has to do.
pub(super) fn watch(store: Arc<Inner>, notify: Box<dyn Fn() + Send + Sync>) -> Option<Watch> {
    let is_over = Arc::new(AtomicBool::new(false));
    let watch = Watch(Arc::clone(&is_over));
    let thread = thread::Builder::new().name("keyfob-redis-watch".to_owned());
    thread
        .spawn(move || {
            let mut pause = PAUSE.0;
            while !is_over.load(Ordering::Relaxed) {
                let since = Instant::now();
                let _ = listen(&store, &*notify, &is_over);
                if since.elapsed() > QUIET {
                    pause = PAUSE.0;
                }
                sleep(jittered(pause), &is_over);
                pause = (pause * 2).min(PAUSE.1);
            }
        })
        .ok()?;
    Some(watch)
}

/// Listens on a connection of its own until it fails.
fn listen(store: &Inner, notify: &dyn Fn(), is_over: &AtomicBool) -> Result<(), Failure> {
    let mut connection = store.pool.open(Limit::after(CONNECT))?;
    let mut subscribe = ::redis::cmd("SUBSCRIBE");
    subscribe.arg(&store.keys.channel);
    connection.send(&subscribe)?;
    // Commits may have been made before.
    notify();
    let mut heard = Instant::now();
    let mut was_asked = false;
    while !is_over.load(Ordering::Relaxed) {
        match connection.within(Limit::after(LOOK)).read() {
            Ok(message) => {
                (heard, was_asked) = (Instant::now(), false);
                if let Some(number) = commit_number(message) {
                    store.copies.outdate(number);
                    notify();
                }
            }
            Err(Failure::TimedOut) if heard.elapsed() < QUIET => {}
            Err(Failure::TimedOut) if !was_asked => {
                (heard, was_asked) = (Instant::now(), true);
                ping(&mut connection)?;
            }
            Err(failure) => return Err(failure),
        }
    }
    Ok(())
}

fn ping(connection: &mut Connection) -> Result<(), Failure> {
    connection.within(Limit::after(LOOK)).send(&::redis::cmd("PING"))
}

/// Returns the number in a message of the channel, and `None` for everything else.
fn commit_number(message: Value) -> Option<u64> {
    let (kind, _, number): (String, Value, u64) = from_redis_value(message).ok()?;
    (kind == "message").then_some(number)
}

fn sleep(time: Duration, is_over: &AtomicBool) {
    let until = Instant::now() + time;
    while !is_over.load(Ordering::Relaxed) {
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return;
        }
        thread::sleep(left.min(LOOK));
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}
