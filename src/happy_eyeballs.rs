//! Connects to a host with several addresses as RFC 8305 ("Happy Eyeballs") describes: the attempts
//! overlap, so that an unresponsive address delays a connection by a quarter of a second and not by
//! its whole timeout.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::thread;
use std::time::{Duration, Instant};

use crate::deadline::{Deadline, receive};

/// How long an attempt runs alone before the next address is tried beside it.
///
/// Source: RFC 8305, section 5, "Connection Attempt Delay".
const STAGGER: Duration = Duration::from_millis(250);

/// The largest number of attempts that run at once, over all calls. An attempt cannot be
/// cancelled: it ends with its timeout, perhaps after the call that started it.
const MAX_ATTEMPTS: usize = 128;

/// The stack of an attempt's thread, in bytes: the thread connects a socket and nothing else.
const STACK: usize = 256 * 1024;

/// Starts attempts and counts those that run. Clones share the count.
#[derive(Clone, Debug, Default)]
pub(crate) struct Race {
    running: Arc<AtomicUsize>,
}

/// One running attempt, counted until it is dropped.
struct Slot(Arc<AtomicUsize>);

/// The address of an attempt, and how the attempt ended.
type Report<C, E> = (SocketAddr, Result<C, E>);

impl Race {
    /// Connects to the first address that responds. `open` connects to one address within a timeout.
    /// The addresses are tried in their order: the next one as soon as an attempt fails, or after
    /// [`STAGGER`] without a response. The last one runs on the calling thread, unless `call` can be
    /// cancelled.
    ///
    /// # Errors
    /// The error of the attempt that failed last, or `None` if the timeout elapsed first.
    pub(crate) fn connect<C, E, F>(
        &self,
        addresses: &[SocketAddr],
        timeout: Duration,
        call: Option<Deadline>,
        open: F,
    ) -> Result<(SocketAddr, C), Option<E>>
    where
        C: Send + 'static,
        E: Send + 'static,
        F: Fn(SocketAddr, Duration) -> Result<C, E> + Clone + Send + 'static,
    {
        if addresses.is_empty() {
            return Err(None);
        }
        let begin = Instant::now();
        let left = || match call {
            Some(call) if call.has_passed() => Duration::ZERO,
            _ => timeout.saturating_sub(begin.elapsed()),
        };
        let (report, reports) = mpsc::channel();
        let (mut waiting, mut running) = (addresses, 0_usize);
        loop {
            if let [next, rest @ ..] = waiting {
                if running == 0 && rest.is_empty() && call.is_none() {
                    return open(*next, left()).map(|open| (*next, open)).map_err(Some);
                }
                if self.start(*next, left(), &open, &report) {
                    (waiting, running) = (rest, running + 1);
                } else if running == 0 {
                    // Too many attempts run: one after the other, with a share of the time each.
                    let share = left() / u32::try_from(waiting.len()).unwrap_or(u32::MAX);
                    if let Ok(open) = open(*next, share) {
                        return Ok((*next, open));
                    }
                    waiting = rest;
                    continue;
                }
            }
            let patience = if waiting.is_empty() { left() } else { STAGGER.min(left()) };
            match receive(&reports, patience, call) {
                Ok((address, Ok(open))) => return Ok((address, open)),
                Ok((_, Err(error))) if running == 1 && waiting.is_empty() => {
                    return Err(Some(error));
                }
                Ok((_, Err(_))) => running -= 1,
                Err(RecvTimeoutError::Timeout) if !left().is_zero() => {}
                Err(_) => return Err(None),
            }
        }
    }

    /// Starts an attempt on a thread of its own. Returns `false` if too many run already.
    fn start<C, E, F>(
        &self,
        address: SocketAddr,
        left: Duration,
        open: &F,
        report: &Sender<Report<C, E>>,
    ) -> bool
    where
        C: Send + 'static,
        E: Send + 'static,
        F: Fn(SocketAddr, Duration) -> Result<C, E> + Clone + Send + 'static,
    {
        let Some(slot) = self.slot() else { return false };
        let (open, report) = (open.clone(), report.clone());
        let attempt = move || {
            let outcome = open(address, left);
            drop(slot);
            // The call may have ended; then what was opened is closed here.
            let _ = report.send((address, outcome));
        };
        thread::Builder::new().stack_size(STACK).spawn(attempt).is_ok()
    }

    fn slot(&self) -> Option<Slot> {
        let slot = Slot(self.running.clone());
        let before = self.running.fetch_add(1, Ordering::Relaxed);
        (before < MAX_ATTEMPTS).then_some(slot)
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Mutex, PoisonError};

    use super::*;

    const LONG: Duration = Duration::from_secs(60);

    /// Attempts by port: below 100 they are silent until this is dropped, below 200 they fail.
    struct Net {
        tried: Arc<Mutex<Vec<u16>>>,
        silence: Option<Sender<()>>,
        ended: Arc<Mutex<mpsc::Receiver<()>>>,
    }

    impl Net {
        fn new() -> Self {
            let (silence, ended) = mpsc::channel();
            let ended = Arc::new(Mutex::new(ended));
            Self { tried: Arc::default(), silence: Some(silence), ended }
        }

        fn open(
            &self,
        ) -> impl Fn(SocketAddr, Duration) -> Result<u16, String> + Clone + Send + 'static {
            let (tried, ended) = (self.tried.clone(), self.ended.clone());
            move |address, _| {
                let port = address.port();
                tried.lock().unwrap().push(port);
                match port {
                    ..100 => {
                        let ended = ended.lock().unwrap_or_else(PoisonError::into_inner);
                        let _ = ended.recv();
                        Err("silent".to_owned())
                    }
                    100..200 => Err(format!("{port} refused")),
                    port => Ok(port),
                }
            }
        }

        fn tried(&self) -> Vec<u16> {
            self.tried.lock().unwrap().clone()
        }
    }

    fn at(ports: &[u16]) -> Vec<SocketAddr> {
        ports.iter().map(|port| ([127, 0, 0, 1], *port).into()).collect()
    }

    #[test]
    fn responsive_first_address_is_used() {
        let net = Net::new();
        let (address, opened) =
            Race::default().connect(&at(&[200, 201]), LONG, None, net.open()).unwrap();
        assert_eq!((address.port(), opened), (200, 200));
        assert_eq!(net.tried(), [200]);
    }

    #[test]
    fn refused_addresses_are_skipped_at_once() {
        let net = Net::new();
        let begin = Instant::now();
        let ports = [100, 101, 102, 103, 104, 105, 106, 107, 108, 109, 200, 201];
        let (_, opened) = Race::default().connect(&at(&ports), LONG, None, net.open()).unwrap();
        assert_eq!((opened, net.tried()), (200, ports[..11].to_vec()));
        assert!(begin.elapsed() < STAGGER * 9, "no attempt waits for its turn");
    }

    #[test]
    fn silent_address_delays_by_one_stagger() {
        let net = Net::new();
        let begin = Instant::now();
        let (_, opened) = Race::default().connect(&at(&[1, 200]), LONG, None, net.open()).unwrap();
        let took = begin.elapsed();
        assert_eq!((opened, net.tried()), (200, vec![1, 200]));
        assert!(took >= STAGGER && took < STAGGER * 8, "{took:?}");
    }

    #[test]
    fn deadline_ends_wait_for_silent_addresses() {
        let net = Net::new();
        let (begin, short) = (Instant::now(), Duration::from_millis(600));
        let outcome = Race::default().connect(&at(&[1, 2, 3, 4, 5]), short, None, net.open());
        assert_eq!(outcome, Err(None));
        assert!(begin.elapsed() >= short && begin.elapsed() < LONG / 2);
        assert_eq!(net.tried(), [1, 2, 3]);
    }

    #[test]
    fn last_error_is_returned() {
        let net = Net::new();
        for ports in [&[100][..], &[101, 100], &[102, 101, 100]] {
            let outcome = Race::default().connect(&at(ports), LONG, None, net.open());
            assert_eq!(outcome, Err(Some("100 refused".to_owned())));
        }
        assert_eq!(Race::default().connect(&[], LONG, None, net.open()), Err(None));
    }

    #[test]
    fn attempts_are_bounded_and_counted() {
        let mut net = Net::new();
        let race = Race::default();
        let short = Duration::from_millis(1);
        for _ in 0..MAX_ATTEMPTS {
            assert_eq!(race.connect(&at(&[1, 2]), short, None, net.open()), Err(None));
        }
        assert_eq!(race.running.load(Ordering::Relaxed), MAX_ATTEMPTS);
        // Without a thread an address is tried by the caller.
        let (_, opened) = race.connect(&at(&[100, 200, 1]), LONG, None, net.open()).unwrap();
        assert_eq!(opened, 200);
        drop(net.silence.take());
        while race.running.load(Ordering::Relaxed) > 0 {
            thread::yield_now();
        }
    }
}
