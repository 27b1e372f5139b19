//! `keyfob demo`: runs the main features against a local backend, and checks each step.

use std::fmt::Display;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};
use std::{env, fs, io, process, thread};

use keyfob::browser::SignIn;
use keyfob::server::{Route, Server};
use keyfob::transport::Request;
use keyfob::{
    Clock, Credentials, Error, Event, LocalState, LogoutReason, Provider, RemovalReason,
    ServerErrorCode, Session, SystemClock, TransportError, TransportErrorKind, User, UserState,
};
use serde_json::{Value, json};

use crate::failure::{Failure, Obstacle};
use crate::output::{Output, note};
use crate::signals::Interrupts;

const APP_ID: &str = "keyfob-demo";
const EMAIL: &str = "ada@example.org";
const OTHER_EMAIL: &str = "eve@example.org";
const NAME: &str = "Grace Hopper";
const PASSWORD: &str = "correct horse battery staple";
const ACCESS_LIFETIME: Duration = Duration::from_secs(30 * 60);

/// The timeout of each wait in the demo.
const PATIENCE: Duration = Duration::from_secs(10);

/// Runs the demo.
///
/// # Errors
/// [`Failure::Demo`] with the first step that failed.
pub(crate) fn run(out: &Output) -> Result<(), Failure> {
    let mut story = Story { out, steps: Vec::new(), interrupts: Interrupts::new() };
    let played = Scratch::new().and_then(|scratch| {
        play(&mut story, &scratch.0)?;
        scratch.remove()
    });
    // The directory has been removed by now.
    story.interrupts.check()?;
    if let Err(failure) = played {
        let (step, message) = (story.steps.len(), failure.message());
        let title = story.steps.last().copied().unwrap_or("Before the first step");
        return Err(Failure::Demo(format!("step {step} failed: {title}: {message}")));
    }
    story.show("Every step succeeded.");
    story.show("Next: `keyfob serve`, and the quick start in README.md.");
    if out.is_json() { out.json_line(&json!({"steps": story.steps})) } else { Ok(()) }
}

fn play(story: &mut Story<'_>, dir: &Path) -> Result<(), Failure> {
    let clock = DemoClock::default();

    story.step("A backend starts, in this process")?;
    let server = Server::builder()
        .app_id(APP_ID)
        .access_token_lifetime(ACCESS_LIFETIME)
        .clock(clock.clone())
        .built_in_functions()
        .test_identity_provider()
        .start()
        .map_err(|error| Failure::Serve(Obstacle::Other, error))?;
    story.show(format_args!("app {} at {}", server.app_id(), server.base_url()));
    let builder = || {
        Session::builder(server.app_id(), server.base_url())
            .data_dir(dir)
            .clock(clock.clone())
            .deadline(PATIENCE)
    };
    let session = builder().open()?;

    story.step("Ada registers with e-mail address and password")?;
    session.email_password().register(EMAIL, PASSWORD)?;
    story.show(EMAIL);

    story.step("The backend refuses a wrong password, with an error that programs can match")?;
    match session.log_in(&Credentials::email_password(EMAIL, "wrong")) {
        Err(error) if error.server_code() == Some(&ServerErrorCode::InvalidPassword) => {
            story.show(format_args!("ServerErrorCode::InvalidPassword: {error}"));
        }
        Err(error) => return Err(error.into()),
        Ok(_) => return unmet("the wrong password was accepted"),
    }
    ensure(session.users()?.is_empty(), "there is a user, although nobody has logged in")?;

    story.step("Ada logs in")?;
    let ada = session.log_in(&Credentials::email_password(EMAIL, PASSWORD))?;
    ensure(session.current_user()?.as_ref() == Some(&ada), "Ada is not the current user")?;
    story.show(format_args!("user {}, the current one", ada.id()));

    story.step("A function runs on the backend, as Ada")?;
    story.show(format_args!("sum(1, 2) = {}", sum(&ada)?));

    story.step("The session is closed and opened again from disk, without a network")?;
    let id = ada.id().clone();
    drop((ada, session));
    let no_network = |request: &Request| {
        Err(TransportError::new(TransportErrorKind::Connect, origin(request.url()))
            .because("the network is off"))
    };
    let offline = builder().transport(no_network).open()?;
    let ada = current(&offline)?;
    ensure(*ada.id() == id, "the current user is not Ada")?;
    ensure(ada.profile()?.email() == Some(EMAIL), "the profile is missing")?;
    let identities = ada.identities()?;
    ensure(
        identities.iter().any(|identity| identity.provider == Provider::EmailPassword),
        "the identity is missing",
    )?;
    story.show(format_args!("from disk: user {id}, profile {}", json!(ada.profile()?.data())));
    match sum(&ada) {
        Err(Failure::Keyfob(error @ Error::Transport(_))) if error.is_retryable() => {
            story.show(format_args!("a call fails, and can be retried: {error}"));
        }
        Err(failure) => return Err(failure),
        Ok(_) => return unmet("a call succeeded without a network"),
    }
    ensure(ada.state()? == UserState::LoggedIn, "Ada is not logged in any more")?;
    drop((ada, offline));

    story.step("The access token expires, and the next call gets a new one first")?;
    let session = builder().open()?;
    let ada = current(&session)?;
    let mut events = session.events()?;
    let expired = ada.access_token_expires_at()?;
    clock.advance(ACCESS_LIFETIME);
    story.show(format_args!("half an hour later: sum(1, 2) = {}", sum(&ada)?));
    let expires_at = ada.access_token_expires_at()?;
    ensure(expires_at > expired, "the token is the old one")?;
    let refreshes = server.journal().count(Route::Refresh);
    ensure(refreshes == 1, "there was not exactly one refresh")?;

    story.step("A guest logs in anonymously, and both users stay logged in")?;
    let guest = session.log_in(&Credentials::anonymous())?;
    ensure(current(&session)? == guest, "the guest is not the current user")?;
    for user in session.users()? {
        let seen: Value = user.functions().call("whoami", ())?;
        ensure(seen["user_id"] == user.id().as_str(), "the backend confuses the two users")?;
        story.show(format_args!("the backend knows user {}", user.id()));
    }

    story.step("Ada becomes the current user again")?;
    session.switch_user(&ada)?;
    ensure(current(&session)? == ada, "Ada is not the current user")?;

    story
        .step("Ada logs out, and the guest becomes the current user; then the guest is removed")?;
    ada.log_out()?;
    ensure(ada.state()? == UserState::LoggedOut, "Ada is not logged out")?;
    ensure(ada.profile()?.email() == Some(EMAIL), "the log-out removed the profile")?;
    ensure(current(&session)? == guest, "the guest is not the current user")?;
    match sum(&ada) {
        Err(Failure::Keyfob(error @ Error::LocalState(LocalState::NotLoggedIn(_)))) => {
            story.show(format_args!("a call as Ada: {error}"));
        }
        Err(failure) => return Err(failure),
        Ok(_) => return unmet("a call was made as a user who is logged out"),
    }
    session.remove_user(&guest)?;
    ensure(session.users()? == [ada.clone()], "the guest is still here")?;
    ensure(session.current_user()?.is_none(), "there is a current user")?;

    story.step("Eve logs in anonymously, links an account, and stays the same user")?;
    let eve = session.log_in(&Credentials::new_anonymous())?;
    let credentials = Credentials::email_password(OTHER_EMAIL, PASSWORD);
    session.email_password().register(OTHER_EMAIL, PASSWORD)?;
    eve.link(&credentials)?;
    let linked = eve.identities()?;
    ensure(linked.len() == 2, "the account is not linked")?;
    ensure(session.log_in(&credentials)? == eve, "the account belongs to another user")?;
    story.show(format_args!("{} and {}", linked[0].provider, linked[1].provider));

    story.step("Eve deletes the account, and cannot log in any more")?;
    session.delete_user(&eve)?;
    ensure(eve.state()? == UserState::Removed, "the user is still here")?;
    match session.log_in(&credentials) {
        Err(error) if error.server_code() == Some(&ServerErrorCode::InvalidPassword) => {
            story.show(error);
        }
        Err(error) => return Err(error.into()),
        Ok(_) => return unmet("the deleted account can still log in"),
    }

    story.step("Grace signs in with the browser, at a test provider in place of Google")?;
    let grace = sign_in(&server, &session)?;
    let identity = grace.identities()?.into_iter().next();
    let identity = identity.filter(|identity| identity.provider == Provider::Google);
    let identity = identity.ok_or_else(|| Failure::Demo("she has no identity".to_owned()))?;
    ensure(grace.profile()?.name() == Some(NAME), "the name is another one")?;
    ensure(current(&session)? == grace, "Grace is not the current user")?;
    story.show(format_args!("{}, {} {}", NAME, identity.provider, identity.id));

    story.step("A listener received every event, in order")?;
    let (ada, guest, eve) = (ada.id().clone(), guest.id().clone(), eve.id().clone());
    let grace = grace.id().clone();
    let change = |from: Option<_>, to: Option<_>| Event::CurrentUserChanged { from, to };
    let expected = [
        Event::TokenRefreshed { user: ada.clone(), expires_at },
        Event::LoggedIn { user: guest.clone(), provider: Provider::Anonymous },
        change(Some(ada.clone()), Some(guest.clone())),
        change(Some(guest.clone()), Some(ada.clone())),
        Event::LoggedOut { user: ada.clone(), reason: LogoutReason::Requested },
        change(Some(ada), Some(guest.clone())),
        Event::Removed { user: guest.clone(), reason: RemovalReason::Requested },
        change(Some(guest), None),
        Event::LoggedIn { user: eve.clone(), provider: Provider::Anonymous },
        change(None, Some(eve.clone())),
        Event::IdentityLinked { user: eve.clone(), provider: Provider::EmailPassword },
        Event::LoggedIn { user: eve.clone(), provider: Provider::EmailPassword },
        Event::Removed { user: eve.clone(), reason: RemovalReason::Deleted },
        change(Some(eve), None),
        Event::LoggedIn { user: grace.clone(), provider: Provider::Google },
        change(None, Some(grace)),
    ];
    for expected in expected {
        let received = events.next_timeout(PATIENCE);
        if received.as_ref() != Some(&expected) {
            return unmet(format!("expected {expected:?}, received {received:?}"));
        }
        story.show(json!(expected));
    }
    Ok(())
}

/// Signs a person in as a desktop program does. A thread replaces the browser and the person: it
/// submits the form of the provider's page and follows the redirect.
fn sign_in(server: &Server, session: &Session) -> Result<User, Failure> {
    let issuer = server.test_issuer().unwrap_or_default();
    let sign_in = SignIn::google("keyfob-demo.apps.googleusercontent.com")
        .issuer(issuer)
        .deadline(PATIENCE)
        .on_url(|_| {})
        .open_with(|url| {
            let url = url.to_owned();
            let agent: ureq::Agent = ureq::Agent::config_builder()
                .proxy(None)
                .timeout_global(Some(PATIENCE))
                .build()
                .into();
            // If this fails, the sign-in times out.
            thread::spawn(move || agent.post(url).send_form([("name", NAME)]));
        });
    Ok(session.sign_in(&sign_in)?)
}

fn sum(user: &User) -> Result<i64, Failure> {
    let sum = user.functions().call("sum", (1, 2))?;
    ensure(sum == 3, "the backend cannot add")?;
    Ok(sum)
}

fn current(session: &Session) -> Result<User, Failure> {
    session.current_user()?.ok_or_else(|| Failure::Demo("there is no current user".to_owned()))
}

fn ensure(holds: bool, otherwise: &str) -> Result<(), Failure> {
    if holds { Ok(()) } else { unmet(otherwise) }
}

fn unmet<T>(what: impl Into<String>) -> Result<T, Failure> {
    Err(Failure::Demo(what.into()))
}

fn origin(url: &str) -> &str {
    let end = url.match_indices('/').nth(2).map_or(url.len(), |(at, _)| at);
    &url[..end]
}

struct Story<'a> {
    out: &'a Output,
    /// The titles of the steps so far.
    steps: Vec<&'static str>,
    interrupts: Interrupts,
}

impl Story<'_> {
    /// Starts a step, unless the demo was interrupted during the previous one.
    fn step(&mut self, title: &'static str) -> Result<(), Failure> {
        self.interrupts.check()?;
        self.steps.push(title);
        self.line(&format!("{:2}. {title}", self.steps.len()));
        Ok(())
    }

    fn show(&self, what: impl Display) {
        self.line(&format!("    {what}"));
    }

    fn line(&self, line: &str) {
        if self.out.is_json() {
            note(line);
        } else {
            // Ignore write errors: the exit code still reports the outcome.
            let _ = self.out.text(line);
        }
    }
}

/// A clock that runs ahead of the system clock, used by both the backend and the session.
#[derive(Clone, Default)]
struct DemoClock(Arc<AtomicU64>);

impl DemoClock {
    fn advance(&self, by: Duration) {
        self.0.fetch_add(by.as_secs(), Ordering::SeqCst);
    }

    fn ahead(&self) -> Duration {
        Duration::from_secs(self.0.load(Ordering::SeqCst))
    }
}

impl Clock for DemoClock {
    fn now(&self) -> SystemTime {
        SystemClock.now() + self.ahead()
    }

    fn monotonic(&self) -> Duration {
        SystemClock.monotonic() + self.ahead()
    }
}

/// A temporary directory, removed when dropped.
struct Scratch(PathBuf);

impl Scratch {
    fn new() -> Result<Self, Failure> {
        let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let name = format!("keyfob-demo-{}-{}", process::id(), since.as_nanos());
        let dir = env::temp_dir().join(name);
        #[cfg_attr(not(unix), expect(unused_mut))]
        let mut builder = fs::DirBuilder::new();
        #[cfg(unix)]
        std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
        builder.create(&dir).map_err(|error| no_scratch("made", &dir, &error))?;
        Ok(Self(dir))
    }

    fn remove(self) -> Result<(), Failure> {
        fs::remove_dir_all(&self.0).map_err(|error| no_scratch("removed", &self.0, &error))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // The directory is already removed on success; otherwise another failure is reported.
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn no_scratch(what: &str, dir: &Path, error: &io::Error) -> Failure {
    Failure::Demo(format!("the directory {} cannot be {what}: {error}", dir.display()))
}
