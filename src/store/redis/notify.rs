//! Publish and subscribe: a thread receives notifications of commits.
//!
//! A message only announces that there is something to read. If a message is lost, the next poll
//! finds the commit.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use ::redis::{Value, from_redis_value};

use super::connection::Connection;
use super::failure::Failure;
use super::limit::Limit;
use super::{Inner, jittered};

/// How often the thread checks whether it should stop.
const LOOK: Duration = Duration::from_millis(250);

/// The time without messages after which a `PING` is sent, and how long to wait for its reply.
const QUIET: Duration = Duration::from_secs(10);

/// The minimum and maximum pause after a failure.
const PAUSE: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));

/// The time limit of connecting.
const CONNECT: Duration = Duration::from_secs(5);

/// Stops the thread when dropped.
pub(super) struct Watch(Arc<AtomicBool>);

/// Starts a thread that calls `notify` after commits of other processes. Returns `None` if the
/// thread could not be started; polling still works then.
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

/// Listens on a connection of its own until that fails.
fn listen(store: &Inner, notify: &dyn Fn(), is_over: &AtomicBool) -> Result<(), Failure> {
    let mut connection = store.pool.open(Limit::after(CONNECT))?;
    let mut subscribe = ::redis::cmd("SUBSCRIBE");
    subscribe.arg(&store.keys.channel);
    connection.send(&subscribe)?;
    // There may have been commits before the subscription.
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

/// Returns the commit number in a message of the channel, or `None` for any other message.
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
