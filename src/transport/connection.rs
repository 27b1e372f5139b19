//! One TCP connection, with as few system calls as a request needs.
//!
//! ureq sets both time-outs of the socket anew for each request, since ours have a deadline and so
//! another time left each; it sends head and body apart, which wakes the other side twice; and it
//! looks whether a connection is still open both before it keeps it and before it uses it again.
//! On a fast network that is a good part of what a call costs.

use std::mem;
use std::time::Duration;

use ureq::Error;
use ureq::unversioned::transport::time::Duration as TimeLeft;
use ureq::unversioned::transport::{
    Buffers, ConnectionDetails, Connector, NextTimeout, TcpConnector, Transport,
};

/// How many bytes wait for more to go along with them.
const MOST_WAITING: usize = 16 * 1024;

/// Opens connections as [`TcpConnector`] does.
#[derive(Debug, Default)]
pub(super) struct ThriftyConnector(TcpConnector);

impl<In: Transport> Connector<In> for ThriftyConnector {
    type Out = Thrifty<<TcpConnector as Connector<In>>::Out>;

    fn connect(
        &self,
        details: &ConnectionDetails<'_>,
        chained: Option<In>,
    ) -> Result<Option<Self::Out>, Error> {
        let connected = self.0.connect(details, chained)?;
        Ok(connected.map(|inner| Thrifty { inner, waiting: Vec::new(), has_heard: false }))
    }
}

/// A connection that sends what there is to send when an answer is awaited.
#[derive(Debug)]
pub(super) struct Thrifty<T> {
    inner: T,
    /// What was given to be sent and was not yet.
    waiting: Vec<u8>,
    /// Whether the other side was heard since the connection was last looked at.
    has_heard: bool,
}

impl<T: Transport> Thrifty<T> {
    fn flush(&mut self, timeout: NextTimeout) -> Result<(), Error> {
        let mut rest = &self.waiting[..];
        while !rest.is_empty() {
            let output = self.inner.buffers().output();
            let (now, later) = rest.split_at(rest.len().min(output.len()));
            output[..now.len()].copy_from_slice(now);
            self.inner.transmit_output(now.len(), timeout)?;
            rest = later;
        }
        self.waiting.clear();
        self.waiting.shrink_to(MOST_WAITING);
        Ok(())
    }
}

impl<T: Transport> Transport for Thrifty<T> {
    fn buffers(&mut self) -> &mut dyn Buffers {
        self.inner.buffers()
    }

    fn transmit_output(&mut self, amount: usize, timeout: NextTimeout) -> Result<(), Error> {
        if self.waiting.is_empty() && amount > MOST_WAITING {
            return self.inner.transmit_output(amount, rounded(timeout));
        }
        self.waiting.extend_from_slice(&self.inner.buffers().output()[..amount]);
        if self.waiting.len() > MOST_WAITING { self.flush(rounded(timeout)) } else { Ok(()) }
    }

    fn await_input(&mut self, timeout: NextTimeout) -> Result<bool, Error> {
        let timeout = rounded(timeout);
        self.flush(timeout)?;
        let has_more = self.inner.await_input(timeout)?;
        self.has_heard = has_more;
        Ok(has_more)
    }

    /// Looks only where nothing was heard since the last time: before a connection that was idle is
    /// used again, and not when it becomes so.
    fn is_open(&mut self) -> bool {
        self.waiting.is_empty() && (mem::take(&mut self.has_heard) || self.inner.is_open())
    }

    fn is_tls(&self) -> bool {
        self.inner.is_tls()
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
    use super::*;

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
