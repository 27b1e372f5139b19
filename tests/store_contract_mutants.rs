//! Mutants of a store. Each one violates one requirement and must fail its test in the conformance
//! test suite.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test may panic")]
#![allow(clippy::type_complexity, reason = "a method of the trait each, as it is")]

#[path = "support/store.rs"]
#[allow(dead_code, unreachable_pub, reason = "it is a part of what other tests share")]
mod support;

use std::collections::{BTreeSet, HashMap};
use std::panic::AssertUnwindSafe;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, RwLock};
use std::thread;
use std::time::{Duration, Instant};

use keyfob::store::contract::{REQUIREMENTS, StoreFactory};
use keyfob::store::{
    Change, Decide, Lease, MemoryStore, RecentEvents, RefreshLock, Store, StoreView, StoredUser,
};
use keyfob::{Deadline, StoreError, StoreErrorKind, UserId, UserState};
use support::{HookedStore, StoreHooks};

type Result<T> = std::result::Result<T, StoreError>;
type After<'a> = Option<(u64, &'a UserId)>;
type Method<F> = Option<Box<F>>;

const SECOND: Duration = Duration::from_secs(1);

/// What one handle does in its own way.
#[derive(Default)]
struct Mutant {
    current: Method<dyn Fn(&dyn Store, Deadline) -> Result<Option<UserId>> + Send + Sync>,
    location: Method<dyn Fn(&dyn Store, Deadline) -> Result<Option<String>> + Send + Sync>,
    user: Method<
        dyn Fn(&dyn Store, &UserId, Deadline) -> Result<Option<Arc<StoredUser>>> + Send + Sync,
    >,
    users: Method<
        dyn Fn(&dyn Store, After<'_>, Deadline) -> Result<Vec<Arc<StoredUser>>> + Send + Sync,
    >,
    commit: Method<dyn Fn(&dyn Store, Deadline, &mut Decide<'_>) -> Result<u64> + Send + Sync>,
    recent: Method<dyn Fn(&dyn Store, Option<u64>, Deadline) -> Result<RecentEvents> + Send + Sync>,
    staleness: Option<Duration>,
    flight:
        Method<dyn Fn(&dyn Store, &UserId, Deadline) -> Result<Option<RefreshLock>> + Send + Sync>,
}

impl StoreHooks for Mutant {
    fn current(&self, store: &dyn Store, deadline: Deadline) -> Result<Option<UserId>> {
        self.current.as_ref().map_or_else(|| store.current(deadline), |does| does(store, deadline))
    }

    fn location(&self, store: &dyn Store, deadline: Deadline) -> Result<Option<String>> {
        let does = self.location.as_ref();
        does.map_or_else(|| store.location(deadline), |does| does(store, deadline))
    }

    fn user(
        &self,
        store: &dyn Store,
        id: &UserId,
        deadline: Deadline,
    ) -> Result<Option<Arc<StoredUser>>> {
        let does = self.user.as_ref();
        does.map_or_else(|| store.user(id, deadline), |does| does(store, id, deadline))
    }

    fn users_after(
        &self,
        store: &dyn Store,
        after: After<'_>,
        deadline: Deadline,
    ) -> Result<Vec<Arc<StoredUser>>> {
        let does = self.users.as_ref();
        does.map_or_else(|| store.users_after(after, deadline), |does| does(store, after, deadline))
    }

    fn commit(
        &self,
        store: &dyn Store,
        deadline: Deadline,
        decide: &mut Decide<'_>,
    ) -> Result<u64> {
        match &self.commit {
            Some(does) => does(store, deadline, decide),
            None => store.commit(deadline, decide),
        }
    }

    fn recent(
        &self,
        store: &dyn Store,
        number: Option<u64>,
        deadline: Deadline,
    ) -> Result<RecentEvents> {
        let does = self.recent.as_ref();
        does.map_or_else(|| store.recent(number, deadline), |does| does(store, number, deadline))
    }

    fn staleness(&self, store: &dyn Store) -> Duration {
        self.staleness.unwrap_or_else(|| store.staleness())
    }

    fn lock_refresh(
        &self,
        store: &dyn Store,
        user: &UserId,
        deadline: Deadline,
    ) -> Result<Option<RefreshLock>> {
        let does = self.flight.as_ref();
        does.map_or_else(|| store.lock_refresh(user, deadline), |does| does(store, user, deadline))
    }
}

macro_rules! mutant {
    ($method:ident: $does:expr) => {
        Mutant { $method: Some(Box::new($does)), ..Mutant::default() }
    };
}

/// A store that does something else with what was decided.
fn changing(
    change: impl Fn(&dyn StoreView, Vec<Change>) -> Result<Vec<Change>> + Send + Sync + 'static,
) -> Mutant {
    mutant!(commit: move |store, deadline, decide| {
        store.commit(deadline, &mut |tables| change(tables, decide(tables)?))
    })
}

/// A store that writes something else than the record it is given.
fn writing(write: impl Fn(&mut StoredUser) + Send + Sync + 'static) -> Mutant {
    changing(move |_, mut changes| {
        for change in &mut changes {
            if let Change::Put(user) = change {
                write(user);
            }
        }
        Ok(changes)
    })
}

/// A store whose decisions see something else.
fn showing(show: impl Fn(&dyn StoreView) -> Shown<'_> + Send + Sync + 'static) -> Mutant {
    mutant!(commit: move |store, deadline, decide| {
        store.commit(deadline, &mut |tables| decide(&show(tables)))
    })
}

/// What a decision sees, a little wrong.
struct Shown<'a> {
    tables: &'a dyn StoreView,
    number: u64,
    user: Option<Box<dyn Fn(Arc<StoredUser>) -> Option<Arc<StoredUser>>>>,
    ignores_wish: bool,
    by_created: bool,
}

impl<'a> Shown<'a> {
    fn right(tables: &'a dyn StoreView) -> Self {
        let number = tables.number();
        Self { tables, number, user: None, ignores_wish: false, by_created: false }
    }
}

impl StoreView for Shown<'_> {
    fn number(&self) -> u64 {
        self.number
    }

    fn current(&self) -> Option<UserId> {
        self.tables.current()
    }

    fn location(&self) -> Option<String> {
        self.tables.location()
    }

    fn user(&self, id: &UserId) -> Result<Option<Arc<StoredUser>>> {
        let user = self.tables.user(id)?;
        Ok(match &self.user {
            Some(shown) => user.and_then(shown),
            None => user,
        })
    }

    fn last_used(&self, wanted: &dyn Fn(&StoredUser) -> bool) -> Result<Option<Arc<StoredUser>>> {
        if self.by_created {
            let newest = Mutex::new(None::<Arc<StoredUser>>);
            self.tables.last_used(&|user| {
                let mut newest = newest.lock().unwrap();
                if wanted(user)
                    && newest
                        .as_ref()
                        .is_none_or(|known| known.created_commit < user.created_commit)
                {
                    *newest = Some(Arc::new(user.clone()));
                }
                false
            })?;
            return Ok(newest.into_inner().unwrap());
        }
        self.tables.last_used(&|user| self.ignores_wish || wanted(user))
    }
}

/// A store whose reads see only what this handle has committed or first saw.
fn stale() -> Mutant {
    let first = OnceLock::new();
    mutant!(current: move |store, deadline| {
        Ok(first.get_or_init(|| store.current(deadline).unwrap()).clone())
    })
}

/// A store whose handles read a user again only after a while.
fn lagging(lifetime: Duration) -> Mutant {
    type Copies = HashMap<UserId, (Instant, Option<Arc<StoredUser>>)>;
    let copies = Arc::new(Mutex::new(Copies::new()));
    let forget = move |copies: &Mutex<Copies>| copies.lock().unwrap().clear();
    let [read, written, seen, found, locked] = [(); 5].map(|()| Arc::clone(&copies));
    Mutant {
        user: Some(Box::new(move |store, id, deadline| {
            let mut copies = read.lock().unwrap();
            match copies.get(id) {
                Some((since, user)) if since.elapsed() < lifetime => Ok(user.clone()),
                _ => {
                    let (since, user) = (Instant::now(), store.user(id, deadline)?);
                    copies.insert(id.clone(), (since, user.clone()));
                    Ok(user)
                }
            }
        })),
        commit: Some(Box::new(move |store, deadline, decide| {
            let number = store.commit(deadline, decide);
            forget(&written);
            number
        })),
        recent: Some(Box::new(move |store, number, deadline| {
            forget(&seen);
            store.recent(number, deadline)
        })),
        location: Some(Box::new(move |store, deadline| {
            forget(&found);
            store.location(deadline)
        })),
        flight: Some(Box::new(move |store, user, deadline| {
            let lock = store.lock_refresh(user, deadline);
            forget(&locked);
            lock
        })),
        staleness: Some(lifetime),
        ..Mutant::default()
    }
}

fn error(kind: StoreErrorKind) -> StoreError {
    StoreError::new(kind, "planned")
}

fn all(store: &dyn Store, deadline: Deadline) -> Vec<Arc<StoredUser>> {
    store.users(deadline).unwrap()
}

fn token(user: &StoredUser) -> serde_json::Value {
    serde_json::to_value(user).unwrap()["refresh_token"].take()
}

fn cut(text: &str, bytes: usize) -> UserId {
    UserId::new(text.get(..bytes).unwrap_or(text))
}

/// Gives a flight back only if nothing went wrong.
struct Forgetful(Option<RefreshLock>);

impl Drop for Forgetful {
    fn drop(&mut self) {
        if thread::panicking() {
            std::mem::forget(self.0.take());
        }
    }
}

/// Gives its flights back with the handle.
#[derive(Default)]
struct Clinging(Mutex<Vec<Arc<Mutex<Option<RefreshLock>>>>>);

struct Shared(Arc<Mutex<Option<RefreshLock>>>);

impl Drop for Shared {
    fn drop(&mut self) {
        self.0.lock().unwrap().take();
    }
}

impl Drop for Clinging {
    fn drop(&mut self) {
        for flight in self.0.get_mut().unwrap() {
            flight.lock().unwrap().take();
        }
    }
}

/// Makes the mutant of a handle; what the handles of a place share is made before.
type Make = Box<dyn Fn() -> Mutant + Send + Sync>;

fn each(make: fn() -> Mutant) -> Make {
    Box::new(make)
}

/// The requirements, each with a store that breaks it.
fn mutants() -> Vec<(&'static str, Make)> {
    vec![
        (
            "new_store_is_empty",
            each(|| mutant!(location: |_, _| Ok(Some("https://elsewhere.example.org".into())))),
        ),
        ("commit_is_visible_to_all_at_once", each(stale)),
        (
            "commit_is_visible_to_all_at_once",
            each(|| mutant!(recent: |_, _, _| Ok(RecentEvents::default()))),
        ),
        (
            "current_user_and_location_are_set_and_cleared",
            each(|| {
                changing(|_, mut changes| {
                    changes.retain(|change| !matches!(change, Change::Location(None)));
                    Ok(changes)
                })
            }),
        ),
        (
            "current_user_and_location_are_set_and_cleared",
            each(|| {
                changing(|_, mut changes| {
                    if changes.iter().any(|change| matches!(change, Change::Current(None))) {
                        changes.push(Change::Location(None));
                    }
                    Ok(changes)
                })
            }),
        ),
        (
            "commit_numbers_rise_by_one",
            each(|| {
                showing(|tables| Shown { number: tables.number() + 1, ..Shown::right(tables) })
            }),
        ),
        (
            "empty_decision_commits_nothing",
            each(|| {
                changing(|_, mut changes| {
                    changes.push(Change::Location(None));
                    Ok(changes)
                })
            }),
        ),
        (
            "decision_error_changes_nothing",
            each(|| {
                mutant!(commit: |store, deadline, decide| {
                    store.commit(deadline, decide).map_err(|_| error(StoreErrorKind::Io))
                })
            }),
        ),
        (
            "decision_error_changes_nothing",
            each(|| {
                mutant!(commit: |store, deadline, decide| {
                    store.commit(deadline, decide).or_else(|_| {
                        Ok(store.recent(None, deadline)?.number)
                    })
                })
            }),
        ),
        ("decision_panic_changes_nothing", {
            let lock = Arc::new(Mutex::new(()));
            Box::new(move || {
                let lock = Arc::clone(&lock);
                mutant!(commit: move |store, deadline, decide| {
                    let _held = lock.lock().map_err(|_| error(StoreErrorKind::Io))?;
                    store.commit(deadline, decide)
                })
            })
        }),
        (
            "rejected_change_rejects_whole_commit",
            each(|| {
                mutant!(commit: |store, deadline, decide| {
                    let mut changes = Vec::new();
                    let mut number = store.commit(deadline, &mut |tables| {
                        changes = decide(tables)?;
                        Ok(vec![])
                    })?;
                    for change in changes {
                        number = store.commit(deadline, &mut |_| Ok(vec![change.clone()]))?;
                    }
                    Ok(number)
                })
            }),
        ),
        (
            "decision_sees_newest_state",
            each(|| {
                let seen = Arc::new(Mutex::new(HashMap::<UserId, Arc<StoredUser>>::new()));
                showing(move |tables| {
                    let seen = Arc::clone(&seen);
                    let user = move |user: Arc<StoredUser>| {
                        let mut old = StoredUser::clone(&user);
                        old.epoch = 1;
                        Some(
                            seen.lock()
                                .unwrap()
                                .entry(user.id.clone())
                                .or_insert(old.into())
                                .clone(),
                        )
                    };
                    Shown { user: Some(Box::new(user)), ..Shown::right(tables) }
                })
            }),
        ),
        (
            "decision_sees_state_of_readers",
            each(|| {
                showing(|tables| Shown { user: Some(Box::new(|_| None)), ..Shown::right(tables) })
            }),
        ),
        (
            "last_change_of_user_wins",
            each(|| {
                changing(|_, mut changes| {
                    changes.sort_by_key(|change| matches!(change, Change::Put(_)));
                    Ok(changes)
                })
            }),
        ),
        (
            "removing_unknown_user_is_commit",
            each(|| {
                changing(|tables, mut changes| {
                    let known = |id: &UserId| matches!(tables.user(id), Ok(Some(_)));
                    changes.retain(|change| match change {
                        Change::Remove(id) => known(id),
                        _ => true,
                    });
                    Ok(changes)
                })
            }),
        ),
        (
            "concurrent_commits_lose_nothing",
            each(|| {
                mutant!(commit: |store, deadline, decide| {
                    let mut changes = Vec::new();
                    store.commit(deadline, &mut |tables| {
                        changes = decide(tables)?;
                        Ok(vec![])
                    })?;
                    thread::yield_now();
                    store.commit(deadline, &mut |_| Ok(changes.clone()))
                })
            }),
        ),
        (
            "reads_never_return_older_state",
            each(|| {
                let last = AtomicU64::new(0);
                mutant!(recent: move |store, number, deadline| {
                    let mut recent = store.recent(number, deadline)?;
                    recent.number = last.swap(recent.number, Ordering::SeqCst);
                    Ok(recent)
                })
            }),
        ),
        (
            "users_are_ordered_by_creation",
            each(|| {
                mutant!(users: |store, after, deadline| {
                    let mut users = all(store, deadline);
                    users.sort_by(|a, b| a.id.cmp(&b.id));
                    Ok(if after.is_some() { vec![] } else { users })
                })
            }),
        ),
        (
            "users_are_ordered_by_creation",
            each(|| {
                mutant!(users: |store, after, deadline| {
                    let mut page = store.users_after(after, deadline)?;
                    page.extend(after.map(|(_, id)| store.user(id, deadline)).transpose()?.flatten());
                    page.sort_by(|a, b| (a.created_commit, &a.id).cmp(&(b.created_commit, &b.id)));
                    Ok(page)
                })
            }),
        ),
        (
            "listing_shows_each_user_once",
            each(|| {
                mutant!(users: |store, after, deadline| {
                    // It looks for the one that was shown last, who is gone.
                    match after.map(|(_, id)| store.user(id, deadline)).transpose()? {
                        Some(None) => Ok(vec![]),
                        _ => store.users_after(after, deadline),
                    }
                })
            }),
        ),
        (
            "listing_shows_each_user_once",
            each(|| {
                let shown = AtomicU64::new(0);
                mutant!(users: move |store, after, deadline| {
                    // It counts how many were shown, and some of those are gone.
                    if after.is_none() {
                        shown.store(0, Ordering::SeqCst);
                    }
                    let users = all(store, deadline);
                    let skip = shown.load(Ordering::SeqCst) as usize;
                    let page: Vec<_> = users.into_iter().skip(skip).take(100).collect();
                    shown.fetch_add(page.len() as u64, Ordering::SeqCst);
                    Ok(page)
                })
            }),
        ),
        (
            "listing_shows_each_user_once",
            each(|| {
                mutant!(users: |store, after, deadline| {
                    let users = all(store, deadline).into_iter();
                    Ok(users.filter(|user| after.is_none_or(|at| (user.created_commit, &user.id) > at)).collect())
                })
            }),
        ),
        (
            "page_is_from_one_state",
            each(|| {
                mutant!(users: |store, after, deadline| {
                    let page = store.users_after(after, deadline)?;
                    let mut again = Vec::new();
                    for user in page {
                        again.extend(store.user(&user.id, deadline)?);
                        // Until somebody has committed, and not for ever.
                        let (number, patience) =
                            (store.recent(None, deadline)?.number, deadline.at_most(SECOND));
                        while !patience.has_passed()
                            && store.recent(None, deadline)?.number == number
                        {
                            thread::yield_now();
                        }
                    }
                    Ok(again)
                })
            }),
        ),
        (
            "last_used_is_highest_matching_user",
            each(|| showing(|tables| Shown { ignores_wish: true, ..Shown::right(tables) })),
        ),
        (
            "last_used_follows_changes",
            each(|| showing(|tables| Shown { by_created: true, ..Shown::right(tables) })),
        ),
        (
            "users_beyond_snapshot_are_found",
            each(|| {
                mutant!(user: |store, id, deadline| {
                    let first = store.users_after(None, deadline)?.into_iter().take(50);
                    Ok(first.into_iter().find(|user| user.id == *id))
                })
            }),
        ),
        (
            "values_of_any_size_round_trip",
            each(|| {
                changing(|_, mut changes| {
                    for change in &mut changes {
                        if let Change::Location(Some(location)) = change {
                            location.truncate(65_536);
                        }
                    }
                    Ok(changes)
                })
            }),
        ),
        (
            "ids_can_be_any_text",
            each(|| {
                mutant!(user: |store, id, deadline| {
                    store.user(&UserId::new(id.as_str().trim_end_matches('\0')), deadline)
                })
            }),
        ),
        ("ids_can_be_any_text", each(|| writing(|user| user.id = cut(user.id.as_str(), 1023)))),
        ("long_ids_are_rejected", {
            each(|| writing(|user| user.id = cut(user.id.as_str(), 1024)))
        }),
        ("unknown_fields_survive_a_rewrite", each(|| writing(|user| user.unknown_fields.clear()))),
        ("records_round_trip", each(|| writing(|user| user.epoch = user.epoch as f64 as u64 - 1))),
        ("records_round_trip", each(|| writing(|user| user.state = UserState::LoggedIn))),
        ("debug_shows_no_secret", {
            each(|| {
                writing(|user| {
                    let token = token(user).to_string();
                    user.identities[0].id = token;
                })
            })
        }),
        (
            "errors_show_no_secret",
            each(|| {
                mutant!(commit: |store, deadline, decide| {
                    let mut tokens = Vec::new();
                    let done = store.commit(deadline, &mut |tables| {
                        let changes = decide(tables)?;
                        tokens.extend(changes.iter().filter_map(|change| match change {
                            Change::Put(user) => Some(token(user).to_string()),
                            _ => None,
                        }));
                        Ok(changes)
                    });
                    done.map_err(|error| error.because(tokens.join(" ")))
                })
            }),
        ),
        (
            "events_follow_commit_order",
            each(|| {
                mutant!(recent: |store, number, deadline| {
                    let mut recent = store.recent(number, deadline)?;
                    recent.events.reverse();
                    Ok(recent)
                })
            }),
        ),
        (
            "events_follow_commit_order",
            each(|| {
                mutant!(recent: |store, number, deadline| {
                    store.recent(Some(number.unwrap_or(0)), deadline)
                })
            }),
        ),
        (
            "events_of_commit_stay_together",
            each(|| {
                mutant!(recent: |store, number, deadline| {
                    let mut recent = store.recent(number, deadline)?;
                    let surplus = recent.events.len().saturating_sub(100);
                    recent.events.drain(..surplus);
                    recent.lagged |= surplus > 0;
                    Ok(recent)
                })
            }),
        ),
        (
            "events_before_log_are_lagged",
            each(|| {
                mutant!(recent: |store, number, deadline| {
                    let mut recent = store.recent(number, deadline)?;
                    recent.lagged = false;
                    Ok(recent)
                })
            }),
        ),
        (
            "events_before_log_are_lagged",
            each(|| {
                mutant!(recent: |store, number, deadline| {
                    let mut recent = store.recent(number, deadline)?;
                    let surplus = recent.events.len().saturating_sub(5);
                    recent.events.drain(..surplus);
                    recent.lagged |= surplus > 0;
                    Ok(recent)
                })
            }),
        ),
        (
            "higher_number_is_lagged",
            each(|| {
                mutant!(recent: |store, number, deadline| {
                    let newest = store.recent(None, deadline)?.number;
                    store.recent(number.map(|number| number.min(newest)), deadline)
                })
            }),
        ),
        (
            "events_alone_are_commit",
            each(|| {
                changing(|_, changes| {
                    let only_events =
                        changes.iter().all(|change| matches!(change, Change::Emit(_)));
                    Ok(if only_events { vec![] } else { changes })
                })
            }),
        ),
        ("reads_continue_during_decision", {
            let lock = Arc::new(RwLock::new(()));
            Box::new(move || {
                let (written, read) = (Arc::clone(&lock), Arc::clone(&lock));
                Mutant {
                    commit: Some(Box::new(move |store, deadline, decide| {
                        let _held = written.write().unwrap();
                        store.commit(deadline, decide)
                    })),
                    current: Some(Box::new(move |store, deadline| {
                        let _held = read.read().unwrap();
                        store.current(deadline)
                    })),
                    ..Mutant::default()
                }
            })
        }),
        ("waiting_read_ends_at_deadline", {
            let lock = Arc::new(RwLock::new(()));
            Box::new(move || {
                let (written, read) = (Arc::clone(&lock), Arc::clone(&lock));
                Mutant {
                    commit: Some(Box::new(move |store, deadline, decide| {
                        let _held = written.write().unwrap();
                        store.commit(deadline, decide)
                    })),
                    user: Some(Box::new(move |store, id, deadline| {
                        let _held = read.read().unwrap();
                        store.user(id, deadline)
                    })),
                    ..Mutant::default()
                }
            })
        }),
        (
            "commit_timeout_is_busy",
            each(|| {
                mutant!(commit: |store, _, decide| {
                    store.commit(Deadline::after(Duration::from_secs(60)), decide)
                })
            }),
        ),
        (
            "commit_timeout_is_busy",
            each(|| {
                mutant!(commit: |store, deadline, decide| {
                    store.commit(deadline, decide).map_err(|_| error(StoreErrorKind::Io))
                })
            }),
        ),
        (
            "passed_deadline_tries_once",
            each(|| {
                mutant!(commit: |store, deadline, decide| match deadline.has_passed() {
                    true => Err(error(StoreErrorKind::Busy)),
                    false => store.commit(deadline, decide),
                })
            }),
        ),
        (
            "refresh_lock_has_one_holder",
            each(|| mutant!(flight: |_, _, _| Ok(Some(RefreshLock::new(()))))),
        ),
        (
            "refresh_lock_has_one_holder",
            each(|| {
                // One that excludes the threads of one handle alone.
                let own = MemoryStore::new();
                mutant!(flight: move |_, user, deadline| own.lock_refresh(user, deadline))
            }),
        ),
        (
            "panic_releases_refresh_lock",
            each(|| {
                mutant!(flight: |store, user, deadline| {
                    let flight = store.lock_refresh(user, deadline)?;
                    Ok(flight.map(|flight| RefreshLock::new(Forgetful(Some(flight)))))
                })
            }),
        ),
        (
            "refresh_lock_can_be_sent_to_threads",
            each(|| {
                let held = Clinging::default();
                mutant!(flight: move |store, user, deadline| {
                    let Some(flight) = store.lock_refresh(user, deadline)? else { return Ok(None) };
                    let shared = Arc::new(Mutex::new(Some(flight)));
                    held.0.lock().unwrap().push(Arc::clone(&shared));
                    Ok(Some(RefreshLock::new(Shared(shared))))
                })
            }),
        ),
        (
            "refresh_lock_waits_until_deadline",
            each(|| {
                mutant!(flight: |store, user, _| {
                    store.lock_refresh(user, Deadline::after(Duration::ZERO))
                })
            }),
        ),
        (
            "refresh_lock_waits_until_deadline",
            each(|| {
                mutant!(flight: |store, user, _| {
                    store.lock_refresh(user, Deadline::after(Duration::from_secs(6)))
                })
            }),
        ),
        (
            "refresh_lock_allows_commits_and_reads",
            each(|| {
                mutant!(commit: |store, deadline, decide| {
                    let now = Deadline::after(Duration::ZERO);
                    match store.lock_refresh(&UserId::new("ada"), now)? {
                        Some(_flight) => store.commit(deadline, decide),
                        None => Err(error(StoreErrorKind::Busy)),
                    }
                })
            }),
        ),
        (
            "lock_refresh_shows_newest_commits",
            each(|| Mutant { flight: None, ..lagging(Duration::from_secs(60)) }),
        ),
        (
            "refresh_lock_is_held_until_dropped",
            each(|| {
                mutant!(flight: |store, user, deadline| {
                    let lock = store.lock_refresh(user, deadline)?;
                    Ok(lock.map(|lock| RefreshLock::leased(Lost(lock))))
                })
            }),
        ),
        (
            "declared_staleness_is_within_bound",
            each(|| Mutant { staleness: Some(SECOND), ..Mutant::default() }),
        ),
        ("refresh_locks_exclude_threads", {
            let taken = Arc::new(AtomicBool::new(false));
            Box::new(move || {
                let taken = Arc::clone(&taken);
                mutant!(flight: move |_, _, _| {
                    // Looked at and taken in two steps.
                    while taken.load(Ordering::SeqCst) {
                        thread::yield_now();
                    }
                    thread::yield_now();
                    taken.store(true, Ordering::SeqCst);
                    Ok(Some(RefreshLock::new(GiveBack(Arc::clone(&taken)))))
                })
            })
        }),
    ]
}

/// A lock that says it is lost.
struct Lost(#[allow(dead_code, reason = "held for its drop")] RefreshLock);

impl Lease for Lost {
    fn is_held(&self) -> bool {
        false
    }
}

struct GiveBack(Arc<AtomicBool>);

impl Drop for GiveBack {
    fn drop(&mut self) {
        self.0.store(false, Ordering::SeqCst);
    }
}

fn place(make: Make) -> impl StoreFactory {
    let store = MemoryStore::new();
    move || Box::new(HookedStore { store: store.clone(), hooks: make() }) as Box<dyn Store>
}

/// A place whose stores lag, and the bound that the suite is given.
struct Lagging {
    store: MemoryStore,
    lifetime: Duration,
    bound: Duration,
}

impl StoreFactory for Lagging {
    fn open(&self) -> Box<dyn Store> {
        Box::new(HookedStore { store: self.store.clone(), hooks: lagging(self.lifetime) })
    }

    fn staleness(&self) -> Duration {
        self.bound
    }
}

#[test]
fn stale_reads_within_bound_pass() {
    let lifetime = Duration::from_millis(5);
    for requirement in REQUIREMENTS {
        requirement.check(&Lagging { store: MemoryStore::new(), lifetime, bound: lifetime });
    }
}

/// Copies that outlive the bound that the suite is given.
#[test]
fn stale_reads_beyond_bound_fail() {
    let (lifetime, bound) = (Duration::from_secs(60), Duration::from_millis(5));
    let place = Lagging { store: MemoryStore::new(), lifetime, bound };
    let requirement = "commit_is_visible_to_all_at_once";
    let requirement = REQUIREMENTS.iter().find(|known| known.name == requirement).unwrap();
    assert!(std::panic::catch_unwind(AssertUnwindSafe(|| requirement.check(&place))).is_err());
}

#[test]
fn each_requirement_rejects_its_mutants() {
    // About sixty panics are expected and not printed.
    let hook = std::panic::take_hook();
    std::panic::set_hook(Box::new(|_| {}));
    let missed: Vec<_> = thread::scope(|scope| {
        let check = |requirement: &str, make| {
            let mut all = REQUIREMENTS.iter();
            all.find(|known| known.name == requirement).unwrap().check(&place(make));
        };
        let checks: Vec<_> = mutants()
            .into_iter()
            .map(|(requirement, make)| (requirement, scope.spawn(move || check(requirement, make))))
            .collect();
        let passed =
            |(number, (requirement, check)): (_, (_, thread::ScopedJoinHandle<'_, ()>))| {
                check.join().is_ok().then_some((number, requirement))
            };
        checks.into_iter().enumerate().filter_map(passed).collect()
    });
    std::panic::set_hook(hook);
    assert_eq!(missed, [], "mutants that passed");
}

#[test]
fn each_requirement_has_mutant() {
    let broken: BTreeSet<_> = mutants().into_iter().map(|(requirement, _)| requirement).collect();
    let requirements: BTreeSet<_> =
        REQUIREMENTS.iter().map(|requirement| requirement.name).collect();
    assert_eq!(broken, requirements);
}

#[test]
fn unmodified_store_meets_all_requirements() {
    for requirement in REQUIREMENTS {
        requirement.check(&place(each(Mutant::default)));
    }
}
