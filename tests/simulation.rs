//! Simulation of months of faults. Many threads make calls while requests and responses are lost,
//! corrupted or forged, clocks are adjusted by up to years, the machine is suspended, and the
//! backend ends server sessions. A user is logged out only by a response that says so. Each call
//! returns the right result or an error, and there are no more refreshes than the rules allow.
//!
//! `KEYFOB_SIMULATION_FAULTS` sets the number of faults (a million are some months, and take about
//! half a minute in an optimised build). `KEYFOB_SIMULATION_THREADS` sets the number of threads.
//! `KEYFOB_SEED` repeats the faults; with one thread it repeats the run.
//!
//! # The bound on refreshes
//!
//! A token is used for its lifetime minus the margin: 25 of 30 minutes. A refresh that succeeds
//! must therefore meet one of these conditions:
//!
//! - It is at least 25 minutes after the previous one.
//! - The token was rejected.
//! - The response with the next token was lost.
//!
//! At most one refresh an hour may meet none of them, and only because a clock was adjusted.
//!
//! A refresh that fails is followed by a back-off of two to four seconds, or of the time in
//! `Retry-After` up to five minutes. During the back-off, another attempt is allowed only after a
//! timeout. A lost request is sent once more without a delay. The checker in `support::world`
//! counts all of these.

#![allow(clippy::expect_used, clippy::unwrap_used, reason = "a test may panic")]

mod support;

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use keyfob::store::MemoryStore;
use keyfob::transport::Response;
use keyfob::{Credentials, Error, Session, TransportErrorKind, User, UserId, UserState};
use serde_json::json;
use support::backend::{Random, seed, setting};
use support::world::{Asked, Judge, Seen, SimulatedWorld, Trouble, http_date};
use support::{error_body, json_answer};

const USERS: usize = 16;
/// In milliseconds, as the world's clocks count.
const HOUR: i64 = 3_600_000;
/// In seconds, as clocks are set.
const DAY: i64 = 86_400;
const YEAR: i64 = 365 * DAY;
/// Calls that each thread makes between two changes of the fault rate.
const CALLS: usize = 12;

/// The numbers of a run.
#[derive(Debug, Default)]
struct Tally {
    answers: AtomicUsize,
    errors: AtomicUsize,
    faults: AtomicUsize,
}

/// What may go wrong with one request, drawn anew for each.
struct FaultPlan {
    random: Random,
    world: SimulatedWorld,
    tally: Arc<Tally>,
    /// Of a hundred requests, so many meet a fault.
    rate: usize,
}

impl FaultPlan {
    fn meet(&mut self, asked: Asked) -> Trouble {
        use TransportErrorKind::*;
        self.world.pass(Duration::from_millis(self.random.below(4).try_into().unwrap()));
        if self.random.below(100) >= self.rate {
            return Trouble::None;
        }
        self.tally.faults.fetch_add(1, Ordering::Relaxed);
        let status = |status, body: &str| Trouble::Answer(Response::new(status, body));
        let refusal = |status, code| json_answer(status, &error_body(code, "not today"));
        match self.random.below(20) {
            0 => Trouble::Before(Connect),
            1 => Trouble::Before(Interrupted),
            2 => Trouble::Before(Resolve),
            3 => Trouble::Before(Tls),
            4 | 5 => Trouble::After(Interrupted),
            6 => {
                self.world.pass(Duration::from_millis(100));
                Trouble::Before(Timeout)
            }
            7 => {
                self.world.pass(Duration::from_millis(100));
                Trouble::After(Timeout)
            }
            8 => Trouble::Truncated,
            9 => status([500, 502, 504][self.random.below(3)], "<html>sorry</html>"),
            10 => status(503, ""),
            11 => {
                let pause = [1, 30, 200, 100_000][self.random.below(4)].to_string();
                let status = [429, 503][self.random.below(2)];
                let busy = json_answer(status, &json!({"error": "busy"}));
                Trouble::Answer(busy.with_header("Retry-After", pause))
            }
            12 => status([200, 201][self.random.below(2)], "<html>log in to this network</html>"),
            13 => status(200, "\0\u{fffd} garbage"),
            14 => {
                let away = Response::new([301, 302, 303, 307, 308][self.random.below(5)], "");
                Trouble::Answer(away.with_header("Location", "http://127.0.0.2:9/elsewhere"))
            }
            15 => status([401, 407][self.random.below(2)], "<html>who are you?</html>"),
            // Somebody on the way speaks JSON, but is not the backend.
            16 => {
                let dated = http_date(
                    self.world.server() + i64::try_from(self.random.below(1000)).unwrap(),
                );
                let blocked = refusal([400, 403, 404][self.random.below(3)], "Blocked");
                Trouble::Answer(match self.random.below(2) {
                    0 => blocked,
                    _ => blocked.with_header("Date", dated),
                })
            }
            17 => Trouble::Answer(refusal(401, "AuthError")),
            // The backend itself errs, and refuses a good access token.
            18 if asked == Asked::Call => Trouble::Answer(refusal(401, "InvalidSession")),
            _ => {
                let ahead = clock(&mut self.random);
                self.world.set_wall(ahead);
                Trouble::None
            }
        }
    }
}

/// A clock's error in seconds: none, minutes, hours, days or years.
fn clock(random: &mut Random) -> i64 {
    let most = [0, 600, 10 * 3600, 10 * DAY, 10 * YEAR][random.below(5)];
    let amount = i64::try_from(random.below(usize::try_from(most).unwrap() + 1)).unwrap();
    if random.below(2) == 0 { amount } else { -amount }
}

/// What is known of a user between two rounds.
#[derive(Default)]
struct Known {
    /// What the judge had seen when the round began.
    before: Seen,
    logged_in: bool,
    log_outs: usize,
    /// How many needless refreshes were looked at, when the last one was, and whether the next may
    /// come sooner, since a new process knows nothing of it.
    needless: usize,
    last_needless: Option<i64>,
    excused: bool,
    /// Whether something happened since the last answer with a token that nobody could know of
    /// before the next one: a sleep, a new process, a backend whose clock was set.
    surprised: bool,
}

struct Simulation {
    world: SimulatedWorld,
    judge: Judge,
    store: MemoryStore,
    session: Session,
    tally: Arc<Tally>,
    known: Vec<Known>,
    fault_plan: Arc<Mutex<FaultPlan>>,
    /// When the round began, by the monotonic clock.
    began: i64,
}

fn name(user: usize) -> String {
    format!("user-{user}")
}

impl Simulation {
    fn new(seed: u64, rotates: bool) -> Self {
        let world = SimulatedWorld::default();
        let mut judge = Judge::new(&world);
        judge.rotates = rotates;
        let tally = Arc::new(Tally::default());
        let fault_plan = FaultPlan {
            random: Random(seed),
            world: world.clone(),
            tally: tally.clone(),
            rate: 30,
        };
        let fault_plan = Arc::new(Mutex::new(fault_plan));
        let drawn = fault_plan.clone();
        judge.plan(move |asked, _| drawn.lock().unwrap().meet(asked));
        let store = MemoryStore::new();
        let session = judge.open(&world, &store);
        let known = (0..USERS).map(|_| Known::default()).collect();
        Self { world, judge, store, session, tally, known, fault_plan, began: 0 }
    }

    fn user(&self, user: usize) -> Option<User> {
        self.session.user(&UserId::new(name(user))).unwrap()
    }

    fn is_logged_in(&self, user: usize) -> bool {
        self.user(user).is_some_and(|user| user.state().unwrap() == UserState::LoggedIn)
    }

    /// Logs in every user who is logged out, best effort.
    fn log_in(&mut self) {
        self.began = self.world.awake();
        for user in 0..USERS {
            if !self.is_logged_in(user) {
                let name = name(user);
                match self.session.log_in(&Credentials::jwt(name.as_str())) {
                    Ok(logged_in) => assert_eq!(logged_in.id().as_str(), name),
                    Err(error) => assert_typed(&error),
                }
            }
            self.known[user].logged_in = self.is_logged_in(user);
            self.known[user].before = self.judge.seen(&name(user));
        }
    }

    /// Many threads make calls at the same time.
    fn call(&self, threads: usize) {
        thread::scope(|scope| {
            for number in 0..threads {
                let (user, tally) = (self.user(number % USERS), &self.tally);
                scope.spawn(move || {
                    let Some(user) = user else { return };
                    for call in 0..CALLS {
                        let sent = format!("{number} {call}");
                        match user.functions().call::<String>("echo", (sent.as_str(),)) {
                            Ok(answer) => {
                                assert_eq!(answer, sent);
                                tally.answers.fetch_add(1, Ordering::Relaxed);
                            }
                            Err(error) => {
                                assert_typed(&error);
                                tally.errors.fetch_add(1, Ordering::Relaxed);
                            }
                        }
                    }
                });
            }
        });
    }

    /// Something happens that no process can know of before the next answer.
    fn surprise(&mut self) {
        self.known.iter_mut().for_each(|known| known.surprised = true);
    }

    /// Holds what happened to the users since the round began against the rules.
    fn check(&mut self, round: usize, threads: usize) {
        let took = usize::try_from(self.world.awake() - self.began).unwrap();
        for user in 0..USERS {
            let (seen, logged_in) = (self.judge.seen(&name(user)), self.is_logged_in(user));
            let known = &mut self.known[user];
            let since = |of: fn(&Seen) -> usize| of(&seen) - of(&known.before);
            let at = format!("round {round} of {took} ms, {}: {seen:?}", name(user));
            let ended = since(|seen| seen.ended);
            if known.logged_in && logged_in {
                assert_eq!(ended, 0, "an answer that ends a login did not: {at}");
            } else if known.logged_in {
                let said = ended + since(|seen| seen.may_have_ended);
                assert!(said > 0, "logged out without a word: {at}");
                known.log_outs += 1;
            }

            let expired = since(|seen| seen.expired);
            assert!(expired == 0 || known.surprised, "{expired} expired tokens were sent: {at}");
            // Other threads may be on their way when the refusal arrives, and before it is noted.
            let again = since(|seen| seen.expired_again);
            let most = if threads > USERS { CALLS } else { 0 };
            assert!(again <= most, "{again} were sent again: {at}");
            known.surprised &= since(|seen| seen.refreshed) == 0;

            for when in &seen.needless[known.needless..] {
                let soon = known.last_needless.is_some_and(|last| when - last < HOUR);
                assert!(!soon || std::mem::take(&mut known.excused), "two in an hour: {at}");
                known.last_needless = Some(*when);
            }
            known.needless = seen.needless.len();

            // See the top of this file. Each may be sent twice.
            let reasons = since(|seen| seen.refreshed + seen.refused + seen.timed_out);
            let flights = reasons + took / 2000 + 2;
            let refreshes = since(|seen| seen.refreshes);
            assert!(refreshes <= 2 * flights, "{refreshes} refreshes, not {flights}: {at}");
        }
    }
}

/// An error of a call in this simulation is one that says what it is.
#[track_caller]
fn assert_typed(error: &Error) {
    let expected = matches!(
        error,
        Error::Decode(_)
            | Error::LocalState(_)
            | Error::LoginEnded(_)
            | Error::Server(_)
            | Error::Transport(_)
    );
    assert!(expected, "{error:?}");
}

fn run(faults: usize, seed: u64, threads: usize, rotates: bool) {
    println!(
        "KEYFOB_SEED={seed} KEYFOB_SIMULATION_FAULTS={faults} \
         KEYFOB_SIMULATION_THREADS={threads} rotates={rotates}"
    );
    let began = Instant::now();
    let mut random = Random(seed.rotate_left(17) | 1);
    let mut simulation = Simulation::new(seed, rotates);
    let (mut rounds, mut restarts, mut revoked) = (0, 0, 0);
    while simulation.tally.faults.load(Ordering::Relaxed) < faults {
        rounds += 1;
        let world = simulation.world.clone();
        let mut minutes = |most| Duration::from_secs(60 * random.below(most) as u64);
        match rounds % 10 {
            0 => world.pass(Duration::from_secs(5)),
            1 | 4 | 6 | 8 => world.pass(minutes(20)),
            2 | 5 | 9 => world.pass(minutes(110)),
            3 => {
                world.sleep(minutes(240));
                simulation.surprise();
            }
            _ => world.set_wall(clock(&mut random)),
        }
        let who = name(random.below(USERS));
        match random.below(300) {
            0 => {
                simulation.judge.revoke(&who);
                revoked += 1;
            }
            1 => simulation.judge.set_disabled(&who, true),
            2..5 => (0..USERS).for_each(|user| simulation.judge.set_disabled(&name(user), false)),
            // By days at most: a clock that is years ahead ends all logins.
            5 => {
                world.set_server(clock(&mut random) % (5 * DAY));
                simulation.surprise();
            }
            6 => {
                simulation.session = simulation.judge.open(&world, &simulation.store);
                simulation.known.iter_mut().for_each(|known| known.excused = true);
                simulation.judge.forget_refusals();
                simulation.surprise();
                restarts += 1;
            }
            7..14 => simulation.fault_plan.lock().unwrap().rate = 95,
            14..40 => simulation.fault_plan.lock().unwrap().rate = 30,
            _ => {}
        }
        simulation.log_in();
        simulation.call(threads);
        simulation.check(rounds, threads);
    }
    let seen: Vec<_> = (0..USERS).map(|user| simulation.judge.seen(&name(user))).collect();
    let sum = |of: fn(&Seen) -> usize| seen.iter().map(of).sum::<usize>();
    let days = simulation.world.truth() / (24 * HOUR);
    println!(
        "{days} days in {:.1?}: {rounds} rounds, {:?}, {} log-outs ({} definite answers, {revoked} \
         revoked), {restarts} restarts, {} requests for a refresh, {} refreshed, {} needless, {} \
         tokens sent after their end",
        began.elapsed(),
        simulation.tally,
        simulation.known.iter().map(|known| known.log_outs).sum::<usize>(),
        sum(|seen| seen.ended + seen.may_have_ended),
        sum(|seen| seen.refreshes),
        sum(|seen| seen.refreshed),
        sum(|seen| seen.needless.len()),
        sum(|seen| seen.expired),
    );
    assert!(simulation.tally.answers.load(Ordering::Relaxed) > 0);
}

fn threads() -> usize {
    setting("KEYFOB_SIMULATION_THREADS").map_or(64, |threads| threads.try_into().unwrap())
}

fn faults() -> usize {
    setting("KEYFOB_SIMULATION_FAULTS").map_or(20_000, |faults| faults.try_into().unwrap())
}

#[test]
fn network_faults_keep_logins_without_refresh_storm() {
    run(faults(), seed(), threads(), false);
}

/// One thread per user, so that each knows what it has sent.
#[test]
fn network_faults_never_resend_expired_token() {
    run(faults() / 4, seed(), USERS, false);
}

#[test]
fn network_faults_keep_logins_with_rotation() {
    run(faults() / 4, seed(), threads(), true);
}
