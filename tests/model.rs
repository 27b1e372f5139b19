//! Random operations on users, compared with a model of the documented behaviour.
//!
//! `KEYFOB_MODEL_OPERATIONS` sets the number of operations (two million take minutes).
//! `KEYFOB_SEED` repeats a run.

#![allow(clippy::expect_used, clippy::unwrap_used, reason = "a test may panic")]

mod support;

use std::time::Duration;

use keyfob::store::{MemoryStore, OnDamage, SledStore, Store};
use keyfob::{Credentials, Deadline, Error, Event, Session, UserId, UserState};
use support::backend::{Backend, Random, seed, setting};
use support::{APP, Dir, ManualClock, START, URL};

/// What the manual says of one user.
#[derive(Clone, Debug)]
struct ModelUser {
    id: String,
    logged_in: bool,
    used: u64,
    identities: Vec<String>,
}

/// What the manual says of a session.
#[derive(Default)]
struct Model {
    users: Vec<ModelUser>,
    current: Option<String>,
    uses: u64,
    expected_events: Vec<String>,
}

impl Model {
    fn at(&mut self, id: &str) -> Option<&mut ModelUser> {
        self.users.iter_mut().find(|user| user.id == id)
    }

    fn make_current(&mut self, id: Option<String>) {
        if self.current != id {
            self.expected_events.push(format!("current {:?}", id));
            self.current = id;
        }
    }

    fn came(&mut self, id: &str, identities: Vec<String>) {
        self.uses += 1;
        let used = self.uses;
        match self.at(id) {
            Some(user) => {
                (user.logged_in, user.used, user.identities) = (true, used, identities);
            }
            None => {
                self.users.push(ModelUser { id: id.to_owned(), logged_in: true, used, identities })
            }
        }
        self.expected_events.push(format!("in {id}"));
        self.make_current(Some(id.to_owned()));
    }

    fn switched(&mut self, id: &str) {
        if self.current.as_deref() != Some(id) {
            self.uses += 1;
            let used = self.uses;
            self.at(id).unwrap().used = used;
            self.make_current(Some(id.to_owned()));
        }
    }

    fn left(&mut self, id: &str, removed: bool) {
        if removed {
            self.users.retain(|user| user.id != id);
        } else {
            self.at(id).unwrap().logged_in = false;
        }
        self.expected_events.push(format!("{} {id}", if removed { "removed" } else { "out" }));
        if self.current.as_deref() == Some(id) {
            let rest = self.users.iter().filter(|user| user.logged_in && user.id != id);
            let next = rest.max_by_key(|user| user.used).map(|user| user.id.clone());
            self.make_current(next);
        }
    }

    fn anonymous(&self) -> Option<String> {
        let is_anonymous = |user: &&ModelUser| {
            user.logged_in
                && user.identities.iter().all(|identity| identity.starts_with("anon-user"))
        };
        let current = self.users.iter().find(|user| Some(&user.id) == self.current.as_ref());
        let current = current.filter(is_anonymous);
        let best = current.or(self.users.iter().filter(is_anonymous).max_by_key(|user| user.used));
        best.map(|user| user.id.clone())
    }
}

fn name(event: &Event) -> String {
    match event {
        Event::CurrentUserChanged { to, .. } => {
            format!("current {:?}", to.as_ref().map(UserId::as_str))
        }
        Event::IdentityLinked { user, .. } => format!("linked {user}"),
        Event::LoggedIn { user, .. } => format!("in {user}"),
        Event::LoggedOut { user, .. } => format!("out {user}"),
        Event::Removed { user, .. } => format!("removed {user}"),
        Event::TokenRefreshed { user, .. } => format!("token {user}"),
        other => format!("{other:?}"),
    }
}

fn run(
    operations: usize,
    seed: u64,
    store: &dyn Fn() -> Box<dyn Fn(keyfob::SessionBuilder) -> Session>,
) {
    println!("KEYFOB_SEED={seed} KEYFOB_MODEL_OPERATIONS={operations}");
    let mut random = Random(seed);
    let clock = ManualClock::at(START);
    let backend = Backend::new(&clock);
    let open = store();
    let open = || {
        let builder = Session::builder(APP, URL).clock(clock.clone()).transport(backend.clone());
        open(builder.location_lookup(false))
    };
    let mut sessions = [open(), open()];
    let ghost = sessions[0].log_in(&Credentials::jwt("ghost")).unwrap();
    sessions[0].remove_user(&ghost).unwrap();
    let mut listening = 0;
    let mut events = sessions[0].events().unwrap();
    let mut model = Model::default();
    for step in 0..operations {
        let which = random.below(2);
        let session = &sessions[which];
        // Half of the time a user who is known, else any.
        let id = match model.users.len() {
            0 => "nobody".to_owned(),
            users => model.users[random.below(users)].id.clone(),
        };
        let known = model.at(&id).cloned();
        let user = session.user(&UserId::new(&id)).unwrap();
        assert_eq!(user.is_some(), known.is_some(), "step {step}");
        let provider = random.below(2);
        let account = format!("account-{}", random.below(5));
        let credentials = match provider {
            0 => Credentials::jwt(account.as_str()),
            _ => Credentials::api_key(account.as_str()),
        };
        let identities = |id: &str| backend.identities(id);
        match (random.below(16), user, known) {
            (0..4, _, _) => {
                let user = session.log_in(&credentials).unwrap();
                let id = user.id().to_string();
                model.came(&id, identities(&id));
            }
            (4, _, _) => {
                let user = session.log_in(&Credentials::new_anonymous()).unwrap();
                let id = user.id().to_string();
                model.came(&id, identities(&id));
            }
            (5, _, _) => {
                let expected = model.anonymous();
                let user = session.log_in(&Credentials::anonymous()).unwrap();
                let id = user.id().to_string();
                match expected {
                    Some(expected) => {
                        assert_eq!(id, expected, "step {step}");
                        model.switched(&id);
                    }
                    None => model.came(&id, identities(&id)),
                }
            }
            (6 | 7, Some(user), Some(known)) => match session.switch_user(&user) {
                Ok(()) => {
                    assert!(known.logged_in, "step {step}");
                    model.switched(&id);
                }
                Err(Error::LocalState(_)) => assert!(!known.logged_in, "step {step}"),
                Err(error) => panic!("step {step}: {error}"),
            },
            (8 | 9, Some(user), Some(known)) => {
                user.log_out().unwrap();
                let anonymous =
                    known.identities.iter().all(|identity| identity.starts_with("anon-user"));
                if known.logged_in {
                    model.left(&id, anonymous);
                }
            }
            (10, Some(user), Some(_)) => {
                session.remove_user(&user).unwrap();
                model.left(&id, true);
            }
            (11, Some(user), Some(known)) => match session.delete_user(&user) {
                Ok(()) => {
                    assert!(known.logged_in, "step {step}");
                    model.left(&id, true);
                }
                Err(Error::LocalState(_)) => assert!(!known.logged_in, "step {step}"),
                // Deleted by its other login: the backend knows it no more.
                Err(error) => panic!("step {step}: {error}"),
            },
            (12, Some(user), Some(known)) => match user.link(&credentials) {
                Ok(()) => {
                    assert!(known.logged_in, "step {step}");
                    model.uses += 1;
                    let used = model.uses;
                    let linked = identities(&id);
                    let at = model.at(&id).unwrap();
                    (at.used, at.identities) = (used, linked);
                    model.expected_events.push(format!("linked {id}"));
                    model.make_current(Some(id.clone()));
                }
                Err(Error::LocalState(_)) => assert!(!known.logged_in, "step {step}"),
                Err(error) => assert_eq!(
                    error.link_refusal(),
                    Some(keyfob::LinkRefusal::IdentityAlreadyInUse),
                    "step {step}: {error}"
                ),
            },
            (13, Some(user), Some(known)) if known.logged_in => {
                clock.advance(Duration::from_secs(1));
                user.refresh_access_token().unwrap();
                model.expected_events.push(format!("token {id}"));
            }
            (14, _, _) => {
                let same = which == listening;
                sessions[which] = open();
                if same {
                    listening = 1 - which;
                    events = sessions[listening].events().unwrap();
                }
            }
            _ => {}
        }
        let session = &sessions[random.below(2)];
        let current = session.current_user().unwrap().map(|user| user.id().to_string());
        assert_eq!(current, model.current, "step {step}");
        if random.below(4) == 0 {
            let users = session.users().unwrap();
            let ids: Vec<_> = users.iter().map(|user| user.id().as_str()).collect();
            let expected: Vec<_> = model.users.iter().map(|user| user.id.as_str()).collect();
            assert_eq!(ids, expected, "step {step}");
            for (user, known) in users.iter().zip(&model.users) {
                let logged_in = user.state().unwrap() == UserState::LoggedIn;
                assert_eq!(logged_in, known.logged_in, "step {step}");
                let identities = user.identities().unwrap().into_iter();
                let identities: Vec<_> = identities
                    .map(|identity| format!("{} {}", identity.provider, identity.id))
                    .collect();
                assert_eq!(identities, known.identities, "step {step}");
            }
        }
        // A session looks at once when it has tried to commit itself, and ten times a second else.
        sessions[listening].remove_user(&ghost).unwrap_err();
        for expected in model.expected_events.drain(..) {
            let emitted = events.next_timeout(Duration::from_secs(60));
            assert_eq!(emitted.as_ref().map(name), Some(expected), "step {step}");
        }
    }
    assert_eq!(events.try_next(), None);
}

#[test]
fn random_operations_of_sessions_match_model() {
    let operations = setting("KEYFOB_MODEL_OPERATIONS").unwrap_or(20_000);
    run(usize::try_from(operations).unwrap(), seed(), &|| {
        let store = MemoryStore::new();
        Box::new(move |builder| builder.store(store.clone()).open().unwrap())
    });
}

#[test]
fn random_operations_on_disk_match_model() {
    let dir = Dir::new();
    let path = dir.path().to_owned();
    let operations = setting("KEYFOB_MODEL_DISK_OPERATIONS").unwrap_or(300);
    run(usize::try_from(operations).unwrap(), seed(), &|| {
        let path = path.clone();
        Box::new(move |builder| builder.data_dir(&path).open().unwrap())
    });
    let deadline = Deadline::after(Duration::from_secs(60));
    let app_dir = std::fs::read_dir(dir.path()).unwrap().next().unwrap().unwrap().path();
    let store = SledStore::open(&app_dir, &format!("{APP}\n{URL}"), OnDamage::Refuse, deadline);
    store.unwrap().users(deadline).unwrap();
}
