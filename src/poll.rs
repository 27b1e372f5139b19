//! Sleeps between attempts to get something that another process holds.

use std::thread;
use std::time::{Duration, Instant};

use crate::deadline::Deadline;

/// The sleep after the first attempt.
const FIRST_SLEEP: Duration = Duration::from_micros(50);

/// The longest sleep between two attempts.
const LONGEST_SLEEP: Duration = Duration::from_millis(2);

/// The longest sleep of the next process in line.
const SHORT_SLEEP: Duration = Duration::from_micros(200);

/// Sleeps between attempts, until a deadline.
pub(crate) struct Poller {
    pace: Pace,
    deadline: Deadline,
}

/// The lengths of the sleeps.
enum Pace {
    /// Doubled each time.
    Exponential { next: Duration, longest: Duration },
    /// Shorter the longer the wait, which began at this time. So among many processes that wait for
    /// one lock, the longest waiting one tries most often.
    Aging(Instant),
}

impl Poller {
    /// Sleeps that grow, up to two milliseconds.
    pub(crate) fn until(deadline: Deadline) -> Self {
        let (next, longest) = (FIRST_SLEEP, LONGEST_SLEEP);
        Self { pace: Pace::Exponential { next, longest }, deadline }
    }

    /// Sleeps that grow up to 200 us, for the next process in line.
    pub(crate) fn often(deadline: Deadline) -> Self {
        let (next, longest) = (FIRST_SLEEP, SHORT_SLEEP);
        Self { pace: Pace::Exponential { next, longest }, deadline }
    }

    /// Sleeps that shrink, from two milliseconds to 200 us.
    pub(crate) fn aging(deadline: Deadline) -> Self {
        Self { pace: Pace::Aging(Instant::now()), deadline }
    }

    /// Sleeps. Returns `false`, without a sleep, if the deadline has passed.
    pub(crate) fn wait(&mut self) -> bool {
        let left = self.deadline.remaining();
        if left.is_zero() {
            return false;
        }
        let time = match &mut self.pace {
            Pace::Exponential { next, longest } => {
                let time = *next;
                *next = (time * 2).min(*longest);
                time
            }
            Pace::Aging(since) => after_waiting(since.elapsed()),
        };
        thread::sleep(time.min(left));
        true
    }
}

/// Returns the length of the next sleep: 2 ms at first, 200 us after a wait of 200 ms.
fn after_waiting(waited: Duration) -> Duration {
    const YOUNG: Duration = Duration::from_millis(20);
    let share = YOUNG.as_secs_f64() / waited.max(YOUNG).as_secs_f64();
    LONGEST_SLEEP.mul_f64(share).max(SHORT_SLEEP)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sleep_is_shorter_after_longer_wait() {
        let poll_interval = |millis| after_waiting(Duration::from_millis(millis)).as_micros();
        assert_eq!(
            [0, 20, 40, 200, 1000, 1 << 40].map(poll_interval),
            [2000, 2000, 1000, 200, 200, 200]
        );
    }
}
