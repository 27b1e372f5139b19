//! Wrong, adjusted and stopped clocks. The backend's clock counts. No clock logs a user out, causes
//! a refresh loop, or makes keyfob send a token that is known to have expired.

#![allow(clippy::expect_used, clippy::unwrap_used, reason = "a test may panic")]

mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, SystemTime};

use keyfob::store::MemoryStore;
use keyfob::transport::Response;
use keyfob::{Clock, Credentials, Session, TransportErrorKind, User, UserState};
use serde_json::json;
use support::world::{Asked, Judge, Seen, SimulatedWorld, Trouble, http_date};
use support::{APP, URL, json_answer};

const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(3600);
const DAY: i64 = 86_400;
const YEAR: i64 = 365 * DAY;

/// What clocks are set to, in seconds ahead of the truth.
const WRONG: [i64; 10] = [-10 * YEAR, -YEAR, -DAY, -7200, -1200, 1200, 7200, DAY, YEAR, 10 * YEAR];

struct Scenario {
    world: SimulatedWorld,
    judge: Judge,
    store: MemoryStore,
    user: User,
}

impl Scenario {
    /// Logs in, after `prepare` has set up the clocks and the backend.
    fn begin(prepare: impl FnOnce(&SimulatedWorld, &mut Judge)) -> Self {
        let world = SimulatedWorld::default();
        let mut judge = Judge::new(&world);
        prepare(&world, &mut judge);
        let store = MemoryStore::new();
        let user = judge.open(&world, &store).log_in(&Credentials::jwt("ada")).unwrap();
        Self { world, judge, store, user }
    }

    /// What happens when the program ends and starts again.
    fn restart(&mut self) {
        let session = self.judge.open(&self.world, &self.store);
        self.user = session.current_user().unwrap().expect("nobody was logged out");
    }

    fn call(&self) {
        assert_eq!(self.user.functions().call::<String>("echo", ("hi",)).unwrap(), "hi");
    }

    /// Makes a call each eleven minutes, and returns what the backend has seen of it.
    fn run(&self, time: Duration) -> Seen {
        for _ in 0..time.as_secs() / 660 {
            self.call();
            self.world.pass(MINUTE * 11);
        }
        self.call();
        assert_eq!(self.user.state().unwrap(), UserState::LoggedIn);
        self.seen()
    }

    fn seen(&self) -> Seen {
        self.judge.seen("ada")
    }
}

/// How many refreshes a day of a call each eleven minutes takes at most: a token serves for 25
/// minutes, so each third call needs another one.
const REFRESHES_A_DAY: usize = 24 * 60 / 33 + 2;

/// Up to ten years in either direction.
#[test]
fn constant_skew_costs_no_extra_refresh() {
    for wrong in WRONG {
        for dates in [true, false] {
            let scenario = Scenario::begin(|world, judge| {
                world.set_wall(wrong);
                judge.dates = dates;
            });
            let seen = scenario.run(HOUR * 24);
            assert!(seen.refreshes <= REFRESHES_A_DAY, "{wrong}: {seen:?}");
            assert_eq!((seen.expired, seen.needless.len()), (0, 0), "{wrong}: {seen:?}");
        }
    }
}

#[test]
fn skew_is_persisted() {
    for wrong in WRONG {
        let mut scenario = Scenario::begin(|world, _| world.set_wall(wrong));
        for _ in 0..100 {
            scenario.world.pass(MINUTE * 11);
            scenario.restart();
            scenario.call();
        }
        let seen = scenario.seen();
        assert_eq!((seen.expired, seen.needless.len()), (0, 0), "{wrong}: {seen:?}");
        assert!(seen.refreshes <= 100 / 3 + 1, "{wrong}: {seen:?}");
    }
}

/// The clock is set while the program runs.
#[test]
fn clock_step_costs_at_most_one_refresh() {
    for wrong in WRONG {
        let scenario = Scenario::begin(|_, _| {});
        scenario.run(HOUR);
        scenario.world.set_wall(wrong);
        let seen = scenario.run(HOUR * 24);
        // Forward may be a sleep, and costs one; back is seen through.
        let needless = usize::from(wrong > 0);
        assert_eq!((seen.expired, seen.needless.len()), (0, needless), "{wrong}: {seen:?}");
        scenario.world.set_wall(0);
        let seen = scenario.run(HOUR * 24);
        let back = usize::from(wrong < 0);
        assert_eq!((seen.expired, seen.needless.len()), (0, needless + back), "{wrong}: {seen:?}");
    }
}

/// At most one refresh an hour, however often the clock is set.
#[test]
fn repeated_clock_steps_cost_hourly_refresh() {
    let scenario = Scenario::begin(|_, _| {});
    for minute in 0..24 * 60 {
        scenario.world.set_wall(WRONG[minute % 10]);
        scenario.call();
        scenario.world.pass(MINUTE);
    }
    let seen = scenario.seen();
    assert_eq!(seen.expired, 0, "{seen:?}");
    assert!(seen.needless.len() <= 24, "{seen:?}");
    for pair in seen.needless.windows(2) {
        assert!(pair[1] - pair[0] >= 3_600_000, "{seen:?}");
    }
    assert_eq!(scenario.user.state().unwrap(), UserState::LoggedIn);
}

/// A machine's clock that somebody sets forward for a moment: for one look of the program's at it,
/// after so many others.
#[derive(Clone)]
struct Flickering {
    world: SimulatedWorld,
    looks: Arc<AtomicUsize>,
}

impl Clock for Flickering {
    fn now(&self) -> SystemTime {
        let now = self.world.now();
        let left = |looks: usize| looks.checked_sub(1);
        match self.looks.fetch_update(Ordering::SeqCst, Ordering::SeqCst, left) {
            Ok(1) => now + HOUR,
            _ => now,
        }
    }

    fn monotonic(&self) -> Duration {
        self.world.monotonic()
    }
}

/// The clock is set back to the right time each time.
#[test]
fn repeated_brief_clock_steps_cost_hourly_refresh() {
    for look in 1..=6 {
        let (world, store) = (SimulatedWorld::default(), MemoryStore::new());
        let judge = Judge::new(&world);
        let clock = Flickering { world: world.clone(), looks: Arc::default() };
        let session = Session::builder(APP, URL)
            .transport(judge.clone())
            .clock(clock.clone())
            .store(store)
            .location_lookup(false)
            .open()
            .unwrap();
        let user = session.log_in(&Credentials::jwt("ada")).unwrap();
        for _ in 0..60 {
            clock.looks.store(look, Ordering::SeqCst);
            user.functions().call::<String>("echo", ("hello",)).unwrap();
            world.pass(MINUTE);
        }
        let seen = judge.seen("ada");
        assert_eq!(seen.expired, 0, "look {look}: {seen:?}");
        assert!(seen.needless.len() <= 1, "look {look}: {seen:?}");
    }
}

#[test]
fn clock_step_between_runs_costs_one_request() {
    for wrong in WRONG {
        for age in [1, 20, 40] {
            let mut scenario = Scenario::begin(|_, _| {});
            scenario.world.pass(MINUTE * age);
            scenario.world.set_wall(wrong);
            scenario.restart();
            let seen = scenario.run(HOUR * 24);
            // It cannot know before the first answer.
            assert!(seen.expired <= usize::from(wrong < 0), "{wrong} {age}: {seen:?}");
            assert!(seen.needless.len() <= usize::from(wrong > 0), "{wrong} {age}: {seen:?}");
            assert!(seen.refreshes <= REFRESHES_A_DAY + 1, "{wrong} {age}: {seen:?}");
        }
    }
}

/// The clock was set before the program started.
#[test]
fn earlier_clock_step_is_distrusted_for_hour() {
    for dates in [true, false] {
        let mut scenario = Scenario::begin(|_, judge| judge.dates = dates);
        scenario.world.set_wall(YEAR);
        scenario.restart();
        for minute in 1..60 {
            scenario.call();
            scenario.world.set_wall(YEAR + minute * DAY);
            scenario.world.pass(MINUTE);
        }
        let seen = scenario.seen();
        assert_eq!((seen.expired, seen.needless.len()), (0, 1), "{dates}: {seen:?}");
    }
}

#[test]
fn clock_step_during_request_costs_one_refresh() {
    for wrong in WRONG {
        for asked in [Asked::LogIn, Asked::Refresh] {
            let scenario = Scenario::begin(|world, judge| {
                let clock = world.clone();
                judge.during(asked, move || clock.set_wall(wrong));
            });
            let seen = scenario.run(HOUR * 24);
            assert_eq!(seen.expired, 0, "{wrong} {asked:?}: {seen:?}");
            let most = usize::from(wrong > 0);
            assert!(seen.needless.len() <= most, "{wrong} {asked:?}: {seen:?}");
        }
    }
}

/// After a suspend no expired token is sent.
#[test]
fn suspend_costs_one_refresh() {
    for wrong in [0, -10 * YEAR, 10 * YEAR] {
        for hours in [1, 8, 24 * 30] {
            let scenario = Scenario::begin(|world, _| world.set_wall(wrong));
            scenario.call();
            scenario.world.sleep(HOUR * hours);
            scenario.call();
            scenario.call();
            let seen = scenario.seen();
            assert_eq!((seen.expired, seen.refreshes, seen.needless.len()), (0, 1, 0), "{hours}");
            assert_eq!(scenario.user.state().unwrap(), UserState::LoggedIn);
        }
    }
}

/// The token received by a refresh during which the machine was suspended is not taken for a new
/// one.
#[test]
fn suspend_during_refresh_ages_token() {
    let scenario = Scenario::begin(|_, _| {});
    scenario.world.pass(MINUTE * 40);
    let mut asleep = false;
    scenario.judge.plan(move |asked, _| match asked {
        Asked::Refresh if !std::mem::replace(&mut asleep, true) => Trouble::Asleep(HOUR * 8),
        _ => Trouble::None,
    });
    scenario.user.refresh_access_token().unwrap();
    scenario.call();
    let seen = scenario.seen();
    assert_eq!((seen.expired, seen.refreshes, seen.needless.len()), (0, 2, 0), "{seen:?}");
}

/// No user is logged out.
#[test]
fn backend_clock_step_costs_one_request() {
    for wrong in [-10 * YEAR, -YEAR, -DAY, -7200, -1200, 1200, 7200, DAY, 30 * DAY] {
        for dates in [true, false] {
            let scenario = Scenario::begin(|_, judge| judge.dates = dates);
            scenario.run(HOUR);
            scenario.world.set_server(wrong);
            let seen = scenario.run(HOUR * 24);
            // Forward, the next call learns it.
            assert!(seen.expired <= usize::from(wrong > 0), "{wrong}: {seen:?}");
            assert_eq!(seen.needless.len(), 0, "{wrong}: {seen:?}");
            assert!(seen.refreshes <= REFRESHES_A_DAY + 4, "{wrong}: {seen:?}");
        }
    }
}

#[test]
fn refused_token_is_not_resent_after_failed_refresh() {
    let scenario = Scenario::begin(|_, judge| judge.dates = false);
    scenario.call();
    scenario.world.set_server(DAY);
    scenario.judge.plan(|asked, _| match asked {
        Asked::Refresh => Trouble::Before(TransportErrorKind::Connect),
        _ => Trouble::None,
    });
    for _ in 0..20 {
        scenario.user.functions().call::<String>("echo", ("hi",)).unwrap_err();
        scenario.world.pass(MINUTE);
    }
    assert_eq!(scenario.seen().expired, 1);
    scenario.judge.plan(|_, _| Trouble::None);
    scenario.call();
    assert_eq!(scenario.seen().expired, 1);
}

/// The refusal comes from a gateway in between, not from the backend.
#[test]
fn wrong_clock_and_gateway_refusal_keep_login() {
    let dates = [None, Some(0), Some(10 * YEAR)];
    for (date, restarts) in dates.iter().flat_map(|date| [(*date, false), (*date, true)]) {
        let mut scenario = Scenario::begin(|_, _| {});
        scenario.world.set_wall(10 * YEAR);
        if restarts {
            scenario.restart();
        }
        let world = scenario.world.clone();
        scenario.judge.plan(move |_, _| {
            // Not the backend's word on the refresh token, unless that one's time is over.
            let answer = json_answer(403, &json!({"error": "blocked", "error_code": "Forbidden"}));
            let date = date.map(|wrong: i64| http_date(world.server() + wrong * 1000));
            Trouble::Answer(match date {
                Some(date) => answer.with_header("Date", date),
                None => answer,
            })
        });
        for _ in 0..3 {
            let error = scenario.user.refresh_access_token().unwrap_err();
            let surely_over = date == Some(10 * YEAR);
            assert_eq!(error.needs_login(), surely_over, "{date:?}: {error}");
            if surely_over {
                break;
            }
            assert_eq!(scenario.user.state().unwrap(), UserState::LoggedIn, "{date:?}");
        }
    }
}

/// The `Date` of a web page that is not from the backend does not correct the clock.
#[test]
fn gateway_page_date_is_ignored() {
    let mut scenario = Scenario::begin(|_, judge| judge.dates = false);
    scenario.restart();
    scenario.judge.plan(|_, _| {
        let page = Response::new(200, "<html>log in to the hotel's network</html>");
        let page = page.with_header("Content-Type", "text/html");
        Trouble::Answer(page.with_header("Date", http_date(4_000_000_000_000)))
    });
    scenario.user.functions().call::<String>("echo", ("hi",)).unwrap_err();
    scenario.judge.plan(|_, _| Trouble::None);
    let seen = scenario.run(HOUR);
    assert_eq!((seen.needless.len(), seen.expired), (0, 0), "{seen:?}");
}
