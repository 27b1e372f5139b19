//! Copies of records in this process. A call with a fresh token rarely has to ask the server, and
//! calls still work while the server is unreachable.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::{Duration, Instant};

use crate::id::UserId;
use crate::store::{Change, StoredUser};

/// The maximum number of users with a copy.
const USERS: usize = 1024;

/// How long reads with a copy skip the server after it was unreachable.
const PAUSE: Duration = Duration::from_secs(1);

/// The copies of one store.
#[derive(Debug)]
pub(super) struct Copies {
    lifetime: Duration,
    state: RwLock<State>,
}

#[derive(Debug, Default)]
struct State {
    /// The newest commit that this store knows of. Copies from before it may be outdated.
    newest: u64,
    users: HashMap<UserId, Copy<Arc<StoredUser>>>,
    current: Option<Copy<UserId>>,
    /// When the server may be asked again.
    away: Option<Instant>,
}

#[derive(Debug)]
struct Copy<T> {
    value: T,
    /// The newest commit at the time of the read, and when the read was sent.
    number: u64,
    since: Instant,
}

impl Copies {
    pub(super) fn new(lifetime: Duration) -> Self {
        Self { lifetime, state: RwLock::default() }
    }

    pub(super) fn lifetime(&self) -> Duration {
        self.lifetime
    }

    /// Returns a user's record if the copy still counts as current.
    pub(super) fn user(&self, id: &UserId) -> Option<Arc<StoredUser>> {
        let state = self.read();
        state.users.get(id).filter(|copy| self.serves(copy, &state)).map(|copy| copy.value.clone())
    }

    /// Returns the current user if the copy still counts as current.
    pub(super) fn current(&self) -> Option<UserId> {
        let state = self.read();
        state
            .current
            .as_ref()
            .filter(|copy| self.serves(copy, &state))
            .map(|copy| copy.value.clone())
    }

    /// Returns the copy of a user's record regardless of its age, if the user has tokens in it. For
    /// use while the server is unreachable.
    pub(super) fn last_user(&self, id: &UserId) -> Option<Arc<StoredUser>> {
        let state = self.read();
        let copy = state.users.get(id).filter(|copy| copy.value.is_logged_in());
        copy.map(|copy| copy.value.clone())
    }

    /// Returns the copy of the current user if that user has tokens. For use while the server is
    /// unreachable.
    pub(super) fn last_current(&self) -> Option<UserId> {
        let current = self.read().current.as_ref().map(|copy| copy.value.clone());
        current.filter(|current| self.last_user(current).is_some())
    }

    fn serves<T>(&self, copy: &Copy<T>, state: &State) -> bool {
        copy.number >= state.newest && copy.since.elapsed() < self.lifetime
    }

    /// Stores a copy of a record that was requested at `since`, when `number` was the newest
    /// commit.
    pub(super) fn note_user(
        &self,
        id: &UserId,
        user: Option<&Arc<StoredUser>>,
        number: u64,
        since: Instant,
    ) {
        let mut state = self.write();
        state.newest = state.newest.max(number);
        match user {
            Some(user) => {
                if state.users.get(id).is_some_and(|copy| copy.number > number) {
                    return;
                }
                if state.users.len() >= USERS && !state.users.contains_key(id) {
                    let oldest = state.users.iter().min_by_key(|(_, copy)| copy.since);
                    if let Some(oldest) = oldest.map(|(id, _)| id.clone()) {
                        state.users.remove(&oldest);
                    }
                }
                let value = Arc::clone(user);
                state.users.insert(id.clone(), Copy { value, number, since });
            }
            None => {
                if state.users.get(id).is_some_and(|copy| copy.number <= number) {
                    state.users.remove(id);
                }
            }
        }
    }

    /// Like [`Self::note_user`], for the current user.
    pub(super) fn note_current(&self, current: Option<&UserId>, number: u64, since: Instant) {
        let mut state = self.write();
        state.newest = state.newest.max(number);
        if state.current.as_ref().is_none_or(|copy| copy.number <= number) {
            state.current = current.map(|id| Copy { value: id.clone(), number, since });
        }
    }

    /// Marks copies from before this commit as possibly outdated.
    pub(super) fn outdate(&self, number: u64) {
        if self.read().newest < number {
            let mut state = self.write();
            state.newest = state.newest.max(number);
        }
    }

    /// Applies a commit of this store to the copies. Copies that were current before the commit
    /// stay current.
    pub(super) fn apply(&self, number: u64, changes: &[Change], since: Instant) {
        let mut state = self.write();
        let before = number.saturating_sub(1);
        for copy in state.users.values_mut().filter(|copy| copy.number == before) {
            copy.number = number;
        }
        if let Some(current) = state.current.as_mut().filter(|copy| copy.number == before) {
            current.number = number;
        }
        drop(state);
        for change in changes {
            match change {
                Change::Put(user) => {
                    self.note_user(&user.id, Some(&Arc::new((**user).clone())), number, since);
                }
                Change::Remove(user) => self.note_user(user, None, number, since),
                Change::Current(current) => self.note_current(current.as_ref(), number, since),
                _ => {}
            }
        }
        self.outdate(number);
    }

    /// Removes all copies. Used when the server has lost commits, because the copies may include
    /// those.
    pub(super) fn clear(&self) {
        let mut state = self.write();
        *state = State { away: state.away, ..State::default() };
    }

    /// Returns `true` if the server was unreachable a moment ago.
    pub(super) fn is_away(&self) -> bool {
        self.read().away.is_some_and(|until| Instant::now() < until)
    }

    pub(super) fn note_away(&self, away: bool) {
        if away || self.read().away.is_some() {
            self.write().away = away.then(|| Instant::now() + PAUSE);
        }
    }

    fn read(&self) -> RwLockReadGuard<'_, State> {
        self.state.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, State> {
        self.state.write().unwrap_or_else(PoisonError::into_inner)
    }
}
