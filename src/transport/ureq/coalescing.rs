//! One TCP connection, with as few system calls as a request needs.
//!
//! ureq sets both time-outs of the socket anew for each request, since ours have a deadline and so
//! another time left each; it sends head and body apart, which wakes the other side twice; and it
//! looks whether a connection is still open both before it keeps it and before it uses it again.
//! On a fast network that is a good part of what a call costs.

use std::io::ErrorKind;
use std::sync::{Arc, Weak};
use std::time::Duration;
use std::{fmt, mem};

use ureq::Error;
use ureq::unversioned::transport::time::{Duration as TimeLeft, Instant};
use ureq::unversioned::transport::{
    Buffers, ConnectionDetails, Connector, NextTimeout, ShutdownHandle, Transport,
};

use super::call::{Call, end_with};
use super::tcp::{RacingConnector, Socket};

/// How many bytes wait for more to go along with them.
const MOST_WAITING: usize = 16 * 1024;

/// Opens connections as [`RacingConnector`] does.
#[derive(Debug)]
pub(super) struct ThriftyConnector(pub(super) RacingConnector);

impl<In: Transport> Connector<In> for ThriftyConnector {
    type Out = CoalescingTransport<Socket<In>>;

    fn connect(
        &self,
        details: &ConnectionDetails<'_>,
        chained: Option<In>,
    ) -> Result<Option<Self::Out>, Error> {
        // What comes from a proxy's connector is one of these already, and must not have two that
        // each trust the other to look.
        let is_direct = chained.is_none();
        let (connected, handle) = self.0.connect(details, chained)?;
        let now = &details.current_time;
        Ok(connected.map(|inner| CoalescingTransport {
            handle,
            ..CoalescingTransport::new(inner, is_direct, now.clone())
        }))
    }
}

/// A connection that sends what there is to send when an answer is awaited.
pub(super) struct CoalescingTransport<T> {
    inner: T,
    /// What was given to be sent and was not yet.
    waiting: Vec<u8>,
    /// Whether the other side was heard since the connection was last looked at.
    has_heard: bool,
    /// Whether a socket lies directly below.
    is_direct: bool,
    /// Whether the other side takes no more: it may have said why.
    is_refused: bool,
    /// Ends the connection from another thread, where a socket lies directly below.
    handle: Option<Weak<dyn ShutdownHandle>>,
    now: Arc<dyn Fn() -> Instant + Send + Sync>,
}

impl<T: Transport> CoalescingTransport<T> {
    fn new(inner: T, is_direct: bool, now: Arc<dyn Fn() -> Instant + Send + Sync>) -> Self {
        let waiting = Vec::new();
        let (has_heard, is_refused, handle) = (false, false, None);
        Self { inner, waiting, has_heard, is_direct, is_refused, handle, now }
    }

    /// Waits for the socket, until the call is cancelled.
    fn wait<R>(
        &mut self,
        timeout: NextTimeout,
        wait: impl FnOnce(&mut Self) -> Result<R, Error>,
    ) -> Result<R, Error> {
        let (Some(call), Some(handle)) = (Call::cancellable(), &self.handle) else {
            return wait(self);
        };
        let _ends = end_with(call, handle);
        let waited = wait(self);
        // The end of the connection may look like the end of a response.
        if call.was_interrupted() { Err(Error::Timeout(timeout.reason)) } else { waited }
    }

    /// Sends what waits, and returns what is left of the time-out.
    fn flush(&mut self, mut timeout: NextTimeout) -> Result<NextTimeout, Error> {
        let mut rest = &self.waiting[..];
        while !rest.is_empty() {
            let began = (self.now)();
            let output = self.inner.buffers().output();
            let (now, later) = rest.split_at(rest.len().min(output.len()));
            output[..now.len()].copy_from_slice(now);
            let sent = self.inner.transmit_output(now.len(), rounded(timeout));
            self.is_refused |= is_refused(sent)?;
            rest = if self.is_refused { &[] } else { later };
            if let (Instant::Exact(began), Instant::Exact(now), TimeLeft::Exact(left)) =
                (began, (self.now)(), timeout.after)
            {
                let spent = now.saturating_duration_since(began);
                timeout.after = left.saturating_sub(spent).into();
            }
        }
        self.waiting.clear();
        self.waiting.shrink_to(MOST_WAITING);
        Ok(timeout)
    }
}

impl<T: Transport> Transport for CoalescingTransport<T> {
    fn buffers(&mut self) -> &mut dyn Buffers {
        self.inner.buffers()
    }

    fn transmit_output(&mut self, amount: usize, timeout: NextTimeout) -> Result<(), Error> {
        if self.is_refused {
            return Ok(());
        }
        if self.waiting.is_empty() && amount > MOST_WAITING {
            return self.wait(timeout, |this| {
                let sent = this.inner.transmit_output(amount, rounded(timeout));
                is_refused(sent).map(|is_refused| this.is_refused = is_refused)
            });
        }
        self.waiting.extend_from_slice(&self.inner.buffers().output()[..amount]);
        if self.waiting.len() <= MOST_WAITING {
            return Ok(());
        }
        self.wait(timeout, |this| this.flush(timeout).map(drop))
    }

    fn await_input(&mut self, timeout: NextTimeout) -> Result<bool, Error> {
        let has_more = self.wait(timeout, |this| {
            let left = this.flush(timeout)?;
            this.inner.await_input(rounded(left))
        })?;
        self.has_heard = has_more && self.is_direct;
        Ok(has_more)
    }

    /// Looks only where nothing was heard since the last time: before a connection that was idle is
    /// used again, and not when it becomes so.
    fn is_open(&mut self) -> bool {
        self.waiting.is_empty()
            && !self.is_refused
            && (mem::take(&mut self.has_heard) || self.inner.is_open())
    }

    fn is_tls(&self) -> bool {
        self.inner.is_tls()
    }
}

impl<T: fmt::Debug> fmt::Debug for CoalescingTransport<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CoalescingTransport").field("inner", &self.inner).finish_non_exhaustive()
    }
}

/// Tells whether nothing can be sent any more. That is no error yet: a server that has refused a
/// request takes no more of it, and its answer may be here.
fn is_refused(sent: Result<(), Error>) -> Result<bool, Error> {
    use ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionReset};
    match sent {
        Ok(()) => Ok(false),
        Err(Error::Io(cause))
            if matches!(cause.kind(), BrokenPipe | ConnectionAborted | ConnectionReset) =>
        {
            Ok(true)
        }
        Err(error) => Err(error),
    }
}

/// Shortens a time-out by a thirtieth at most, so that those of one call after the other are the
/// same and need not be set again.
fn rounded(timeout: NextTimeout) -> NextTimeout {
    let TimeLeft::Exact(left) = timeout.after else { return timeout };
    let millis = u64::try_from(left.as_millis()).unwrap_or(u64::MAX);
    let Some(dropped) = millis.checked_ilog2().and_then(|bits| bits.checked_sub(5)) else {
        return timeout;
    };
    let millis = millis >> dropped << dropped;
    NextTimeout { after: Duration::from_millis(millis).into(), ..timeout }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use ureq::unversioned::transport::LazyBuffers;

    use super::*;

    /// What a connection was asked to do, in its order.
    type Log = Arc<Mutex<Vec<String>>>;

    /// A connection that notes what it is asked, hears something each time, and takes its time.
    #[derive(Debug)]
    struct Noting {
        buffers: LazyBuffers,
        log: Log,
        clock: Arc<Mutex<std::time::Instant>>,
        takes: Duration,
    }

    impl Noting {
        fn note(&self, what: &str, timeout: NextTimeout) {
            self.log.lock().unwrap().push(format!("{what} within {:?}", *timeout.after));
            *self.clock.lock().unwrap() += self.takes;
        }
    }

    impl Transport for Noting {
        fn buffers(&mut self) -> &mut dyn Buffers {
            &mut self.buffers
        }

        fn transmit_output(&mut self, amount: usize, timeout: NextTimeout) -> Result<(), Error> {
            let text = String::from_utf8(self.buffers.output()[..amount].to_vec()).unwrap();
            let text = if amount > 20 { format!("{amount} bytes") } else { text };
            self.note(&format!("send {text}"), timeout);
            Ok(())
        }

        fn await_input(&mut self, timeout: NextTimeout) -> Result<bool, Error> {
            self.note("hear", timeout);
            Ok(true)
        }

        fn is_open(&mut self) -> bool {
            self.log.lock().unwrap().push("look".to_owned());
            true
        }
    }

    fn connection(takes: Duration) -> (CoalescingTransport<Noting>, Log) {
        let (log, clock) = (Log::default(), Arc::new(Mutex::new(std::time::Instant::now())));
        let buffers = LazyBuffers::new(1024, 128 * 1024);
        let inner = Noting { buffers, log: log.clone(), clock: clock.clone(), takes };
        let now = move || Instant::Exact(*clock.lock().unwrap());
        (CoalescingTransport::new(inner, true, Arc::new(now)), log)
    }

    fn write(connection: &mut CoalescingTransport<Noting>, bytes: &[u8]) {
        connection.buffers().output()[..bytes.len()].copy_from_slice(bytes);
        connection.transmit_output(bytes.len(), within(64)).unwrap();
    }

    fn within(seconds: u64) -> NextTimeout {
        NextTimeout { after: TimeLeft::from_secs(seconds), ..NextTimeout::default() }
    }

    #[test]
    fn a_request_goes_out_in_one_piece_when_its_answer_is_awaited() {
        let (mut connection, log) = connection(Duration::ZERO);
        write(&mut connection, b"head, ");
        write(&mut connection, b"body");
        assert!(log.lock().unwrap().is_empty());
        assert!(connection.await_input(within(64)).unwrap());
        assert!(connection.await_input(within(64)).unwrap());
        let sent = ["send head, body within 63.488s", "hear within 63.488s", "hear within 63.488s"];
        assert_eq!(*log.lock().unwrap(), sent);
    }

    #[test]
    fn what_is_large_does_not_wait_and_keeps_its_order() {
        let (mut connection, log) = connection(Duration::ZERO);
        write(&mut connection, b"head");
        write(&mut connection, &[b'x'; 100_000]);
        write(&mut connection, &[b'y'; 100_000]);
        write(&mut connection, b"end");
        connection.await_input(within(64)).unwrap();
        let sent: Vec<_> = log.lock().unwrap().iter().map(|line| line[..10].to_owned()).collect();
        assert_eq!(sent, ["send 10000", "send 10000", "send end w", "hear withi"]);
    }

    #[test]
    fn a_connection_is_looked_at_before_it_is_used_again_and_not_when_it_is_kept() {
        let (mut connection, log) = connection(Duration::ZERO);
        assert!(connection.is_open());
        write(&mut connection, b"head");
        assert!(!connection.is_open(), "something was not sent");
        connection.await_input(within(64)).unwrap();
        assert!(connection.is_open());
        assert_eq!(log.lock().unwrap().iter().filter(|line| *line == "look").count(), 1);
        assert!(connection.is_open());
        assert_eq!(log.lock().unwrap().iter().filter(|line| *line == "look").count(), 2);
    }

    #[test]
    fn through_a_proxy_it_is_looked_at_as_well() {
        let (direct, log) = connection(Duration::ZERO);
        let now = direct.now.clone();
        let mut tunnel = CoalescingTransport::new(direct, false, now);
        for uses in 1..=3 {
            tunnel.await_input(within(64)).unwrap();
            assert!(tunnel.is_open(), "it is kept");
            assert!(tunnel.is_open(), "it is used again");
            assert_eq!(log.lock().unwrap().iter().filter(|line| *line == "look").count(), uses);
        }
    }

    #[test]
    fn sending_and_hearing_together_have_the_time_of_one() {
        let (mut connection, log) = connection(Duration::from_secs(48));
        write(&mut connection, b"head");
        connection.await_input(within(64)).unwrap();
        assert_eq!(*log.lock().unwrap(), ["send head within 63.488s", "hear within 15.872s"]);
    }

    #[test]
    fn time_outs_lose_a_thirtieth_at_most_and_are_never_nothing() {
        for micros in (0..200_000).chain((200_000..600_000_000).step_by(977)) {
            let exact = Duration::from_micros(micros);
            let timeout = NextTimeout { after: exact.into(), ..NextTimeout::default() };
            let TimeLeft::Exact(shorter) = rounded(timeout).after else { panic!("it has an end") };
            assert!(shorter <= exact && exact <= shorter + exact / 30 + Duration::from_millis(1));
            assert_eq!(shorter.is_zero(), exact.is_zero(), "{exact:?}");
        }
    }

    #[test]
    fn one_call_after_the_other_has_the_same_time_outs() {
        let rounded = |left| *rounded(NextTimeout { after: left, ..NextTimeout::default() }).after;
        let [first, next] =
            [59_999_900, 59_400_000].map(|micros| rounded(Duration::from_micros(micros).into()));
        assert_eq!(first, next);
        assert_eq!(rounded(TimeLeft::NotHappening), *TimeLeft::NotHappening);
    }
}
