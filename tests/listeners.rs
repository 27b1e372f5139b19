//! All methods called from listeners, on many threads at once. No call hangs, and every listener
//! receives every event once, in the order of the commits.
//!
//! `KEYFOB_LISTENER_OPERATIONS` sets the number of operations (a million take minutes).
//! `KEYFOB_SEED` repeats the choices of a run, but not the interleaving of its threads.

#![allow(clippy::expect_used, clippy::unwrap_used, reason = "a test may panic")]

mod support;

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use keyfob::store::{Change, Store};
use keyfob::{Credentials, Deadline, Event, Session, UserId};
use support::backend::{Backend, Random, seed, setting};
use support::store::EventRecorder;
use support::{APP, ManualClock, START, URL};

/// Does something at random; whether it works is another matter.
fn act(session: &Session, random: &mut Random) {
    let account = format!("account-{}", random.below(6));
    let user = session.users().unwrap();
    let user = (!user.is_empty()).then(|| user[random.below(user.len())].clone());
    let _ = match (random.below(12), user) {
        (0 | 1, _) => session.log_in(&Credentials::jwt(account.as_str())).map(drop),
        (2, _) => session.log_in(&Credentials::anonymous()).map(drop),
        (3 | 4, Some(user)) => session.switch_user(&user),
        (5, Some(user)) => user.log_out(),
        (6, Some(user)) => session.remove_user(&user),
        (7, Some(user)) => user.refresh_access_token().map(drop),
        (8, Some(user)) => user.link(&Credentials::api_key(account.as_str())),
        (9, Some(user)) => user.valid_access_token().map(drop),
        (10, Some(user)) => user.refresh_profile().map(drop),
        (11, Some(user)) => user.changes().map(drop),
        _ => session.current_user().map(drop),
    };
}

/// Any API may be called in any listener without a deadlock.
#[test]
fn calls_in_listeners_deliver_each_event_once() {
    const THREADS: usize = 6;
    const LISTENERS: usize = 3;
    let operations =
        usize::try_from(setting("KEYFOB_LISTENER_OPERATIONS").unwrap_or(6_000)).unwrap();
    let seed = seed();
    println!("KEYFOB_SEED={seed} KEYFOB_LISTENER_OPERATIONS={operations}");
    let clock = ManualClock::at(START);
    let store = EventRecorder::default();
    let session = Session::builder(APP, URL)
        .clock(clock.clone())
        .transport(Backend::new(&clock))
        .store(store.clone())
        .location_lookup(false)
        .deadline(Duration::from_secs(60))
        .open()
        .unwrap();
    let heard: Vec<Arc<Mutex<Vec<Event>>>> = (0..LISTENERS).map(|_| Arc::default()).collect();
    // What listeners do makes events, which make listeners do more: only so much of it.
    let allowance = Arc::new(AtomicUsize::new(operations));
    let seeds = Arc::new(AtomicU64::new(seed));
    // A listener that falls behind by a queue's length gets `Lagged`. That is not tested here, so no
    // operation starts while any listener is far behind.
    let counts: Arc<Vec<AtomicUsize>> =
        Arc::new(heard.iter().map(|_| AtomicUsize::new(0)).collect());
    let all_keep_up = {
        let (counts, store) = (counts.clone(), store.clone());
        move || {
            let emitted = store.recorded().len();
            counts.iter().all(|heard| emitted < heard.load(Ordering::SeqCst) + 200)
        }
    };
    let subscriptions: Vec<_> = heard
        .iter()
        .enumerate()
        .map(|(number, heard)| {
            let (heard, session) = (heard.clone(), session.clone());
            let (counts, all_keep_up) = (counts.clone(), all_keep_up.clone());
            let (allowance, seeds) = (allowance.clone(), seeds.clone());
            let listener = session.clone();
            session
                .subscribe(move |event| {
                    heard.lock().unwrap().push(event.clone());
                    counts[number].fetch_add(1, Ordering::SeqCst);
                    let spend = |left: usize| left.checked_sub(1);
                    if all_keep_up()
                        && allowance.fetch_update(Ordering::SeqCst, Ordering::SeqCst, spend).is_ok()
                    {
                        let seed = seeds.fetch_add(0x9e37_79b9, Ordering::SeqCst) | 1;
                        act(&listener, &mut Random(seed));
                    }
                })
                .unwrap()
        })
        .collect();
    thread::scope(|scope| {
        for thread in 0..THREADS {
            let (session, clock) = (session.clone(), clock.clone());
            let (all_keep_up, heard) = (&all_keep_up, &heard);
            scope.spawn(move || {
                let mut random = Random(seed.wrapping_add(thread as u64 * 7919) | 1);
                for _ in 0..operations / THREADS {
                    while !all_keep_up() {
                        let lagged = |heard: &Arc<Mutex<Vec<Event>>>| {
                            heard.lock().unwrap().last() == Some(&Event::Lagged)
                        };
                        assert!(!heard.iter().any(lagged), "events were lost, as reported");
                        thread::yield_now();
                    }
                    clock.advance(Duration::from_millis(10));
                    act(&session, &mut random);
                }
            });
        }
    });
    // Quiet comes once the listeners have spent what they may and heard what there is to hear.
    allowance.store(0, Ordering::SeqCst);
    let mark = Event::LoggedIn { user: UserId::new("mark"), provider: keyfob::Provider::Jwt };
    let emit = |tables: &dyn keyfob::store::StoreView| {
        assert!(tables.number() > 0);
        Ok(vec![Change::Emit(mark.clone())])
    };
    let deadline = || Deadline::after(Duration::from_secs(60));
    // A call still inside a listener emits after the mark, so it is set again until none is.
    loop {
        store.commit(deadline(), &mut |tables| emit(tables)).unwrap();
        let end = deadline();
        let all_heard =
            || heard.iter().all(|heard| heard.lock().unwrap().len() >= store.recorded().len());
        while !all_heard() && !end.has_passed() {
            thread::yield_now();
        }
        assert!(!end.has_passed(), "a listener never heard all of it");
        if store.recorded().last() == Some(&mark) {
            break;
        }
    }
    drop(subscriptions);
    let emitted = store.recorded();
    for heard in heard {
        let heard = heard.lock().unwrap();
        let first = heard.iter().zip(emitted.iter()).position(|(heard, emitted)| heard != emitted);
        assert_eq!((heard.len(), first), (emitted.len(), None), "{:?}", first.map(|at| &heard[at]));
    }
    println!("{} events", emitted.len());
}
