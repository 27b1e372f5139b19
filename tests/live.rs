//! The client with the real server, over real sockets and on a real disk: every provider and every
//! operation, end to end.

#![cfg(feature = "server")]
#![allow(clippy::expect_used, clippy::unwrap_used, reason = "a test may panic")]

mod support;

use std::time::{Duration, SystemTime};

use keyfob::server::{
    AuthFunctionAnswer, Confirmation, CustomJwt, JwtKeys, MailKind, MetadataField, Reset, Route,
    Server, ServerBuilder,
};
use keyfob::{
    Clock, Credentials, Deadline, Error, LinkRefusal, Provider, Secret, ServerErrorCode, Session,
    SystemClock, User, UserState,
};
use serde_json::{Value, json};
use support::{Dir, ManualClock};

struct Live {
    server: Server,
    session: Session,
    clock: ManualClock,
    dir: Dir,
}

/// A server as configured, and a session on it; both live by one clock.
fn live(configure: impl FnOnce(ServerBuilder) -> ServerBuilder) -> Live {
    let now = SystemClock.now().duration_since(SystemTime::UNIX_EPOCH).unwrap();
    let clock = ManualClock::at(i64::try_from(now.as_secs()).unwrap());
    let builder = Server::builder().clock(clock.clone()).built_in_functions();
    let server = configure(builder).start().unwrap();
    let dir = Dir::new();
    let session = open(&server, &dir, &clock);
    Live { server, session, clock, dir }
}

fn open(server: &Server, dir: &Dir, clock: &ManualClock) -> Session {
    let builder = Session::builder(server.app_id(), server.base_url()).clock(clock.clone());
    builder.data_dir(dir.path()).open().unwrap()
}

fn ada() -> Credentials {
    Credentials::email_password("ada@example.org", "hunter22")
}

fn register(session: &Session, email: &str) {
    session.email_password().register(email, Secret::new("hunter22")).unwrap();
}

fn providers(user: &User) -> Vec<Provider> {
    user.identities().unwrap().into_iter().map(|identity| identity.provider).collect()
}

/// A token that a test's own issuer signs with a secret.
fn signed(claims: &Value) -> String {
    let key = jsonwebtoken::EncodingKey::from_secret(b"0123456789abcdef0123456789abcdef");
    jsonwebtoken::encode(&jsonwebtoken::Header::default(), claims, &key).unwrap()
}

#[test]
fn linked_identities_log_in_same_user() {
    let Live { session, server, clock, dir: _dir } = live(|server| server);
    register(&session, "ada@example.org");
    let user = session.log_in(&Credentials::anonymous()).unwrap();
    let refused = user.link(&Credentials::email_password("ada@example.org", "wrong!")).unwrap_err();
    assert_eq!(refused.link_refusal(), Some(LinkRefusal::RegisterFirst), "{refused}");
    user.link(&ada()).unwrap();
    user.link(&ada()).unwrap();
    assert_eq!(providers(&user), [Provider::Anonymous, Provider::EmailPassword]);
    let (key, secret) = user.api_keys().create("ci").unwrap();
    let again = session.log_in(&Credentials::api_key(secret.expose())).unwrap();
    assert_eq!(again, user);
    assert_eq!(session.log_in(&ada()).unwrap(), user);
    assert!(providers(&user).contains(&Provider::ApiKey));
    // Somebody else cannot have the same account.
    let other = session.log_in(&Credentials::new_anonymous()).unwrap();
    let refused = other.link(&ada()).unwrap_err();
    assert_eq!(refused.link_refusal(), Some(LinkRefusal::IdentityAlreadyInUse), "{refused}");
    user.log_out().unwrap();
    assert_eq!(user.state().unwrap(), UserState::LoggedOut, "it is no longer anonymous");
    // Linking with a token that has expired refreshes first.
    session.log_in(&ada()).unwrap();
    clock.advance(Duration::from_secs(31 * 60));
    let refreshes = server.journal().count(Route::Refresh);
    user.link(&ada()).unwrap();
    assert_eq!(server.journal().count(Route::Refresh), refreshes + 1);
    assert_eq!(user.api_keys().get(&key.id).unwrap().unwrap().name, "ci");
}

#[test]
fn api_keys_are_managed() {
    let Live { session, server: _server, clock: _clock, dir: _dir } = live(|server| server);
    register(&session, "ada@example.org");
    let user = session.log_in(&ada()).unwrap();
    let keys = user.api_keys();
    assert_eq!(keys.list().unwrap(), []);
    let (key, secret) = keys.create("ci-1").unwrap();
    let error = keys.create("ci-1").unwrap_err();
    assert_eq!(error.server_code(), Some(&ServerErrorCode::ApiKeyAlreadyExists));
    let error = keys.create("no spaces").unwrap_err();
    assert_eq!(error.server_code(), Some(&ServerErrorCode::InvalidParameter));
    assert_eq!(keys.list().unwrap(), std::slice::from_ref(&key));
    let credentials = Credentials::api_key(secret.expose());
    session.log_in(&credentials).unwrap();
    keys.disable(&key.id).unwrap();
    assert!(!keys.get(&key.id).unwrap().unwrap().is_enabled);
    let error = session.log_in(&credentials).unwrap_err();
    assert_eq!((error.status(), error.needs_login()), (Some(401), false));
    keys.enable(&key.id).unwrap();
    assert_eq!(session.log_in(&credentials).unwrap(), user);
    session.log_in(&ada()).unwrap();
    keys.delete(&key.id).unwrap();
    keys.delete(&key.id).unwrap();
    assert_eq!(keys.get(&key.id).unwrap(), None);
    let error = keys.enable(&key.id).unwrap_err();
    assert_eq!(error.server_code(), Some(&ServerErrorCode::ApiKeyNotFound));
    session.log_in(&credentials).unwrap_err();
}

#[test]
fn deleted_user_is_removed_everywhere() {
    let Live { session, server, clock, dir } = live(|server| server);
    register(&session, "ada@example.org");
    let user = session.log_in(&ada()).unwrap();
    let elsewhere = Dir::new();
    let other = open(&server, &elsewhere, &clock);
    let there = other.log_in(&ada()).unwrap();
    session.delete_user(&user).unwrap();
    assert_eq!(user.state().unwrap(), UserState::Removed);
    assert_eq!(open(&server, &dir, &clock).users().unwrap(), []);
    let error = session.log_in(&ada()).unwrap_err();
    assert_eq!(error.server_code(), Some(&ServerErrorCode::InvalidPassword));
    // Another device finds out with its next call.
    let error = there.functions().call::<i64>("sum", (1, 2)).unwrap_err();
    assert!(matches!(error, Error::LoginEnded(_)), "{error}");
    assert_eq!(there.state().unwrap(), UserState::LoggedOut);
}

#[test]
fn repeated_jwt_and_function_logins_keep_user() {
    let Live { session, server, clock, dir: _dir } = live(|server| {
        let keys = JwtKeys::hs256("0123456789abcdef0123456789abcdef");
        let field = MetadataField::new("person.name", "name");
        server.custom_jwt(CustomJwt::new(keys).metadata_field(field)).auth_function(|payload| {
            match payload["badge"].as_str() {
                Some(badge) => Ok(AuthFunctionAnswer::new(badge)),
                None => Err("no badge".into()),
            }
        })
    });
    let exp = clock.seconds() + 600;
    let claims =
        json!({"sub": "s-1", "aud": server.app_id(), "exp": exp, "person": {"name": "Ada"}});
    let user = session.log_in(&Credentials::jwt(signed(&claims))).unwrap();
    assert_eq!(session.log_in(&Credentials::jwt(signed(&claims))).unwrap(), user);
    assert_eq!(user.identities().unwrap()[0].id, "s-1");
    assert_eq!(user.profile().unwrap().name(), Some("Ada"));
    for wrong in [
        json!({"sub": "s-1", "aud": "another-app", "exp": exp}),
        json!({"sub": "s-1", "aud": server.app_id(), "exp": exp - 1200}),
        json!({"aud": server.app_id(), "exp": exp}),
    ] {
        let error = session.log_in(&Credentials::jwt(signed(&wrong))).unwrap_err();
        assert_eq!(error.server_code(), Some(&ServerErrorCode::AuthError), "{wrong}");
    }
    let badge = |badge: &Value| Credentials::function(json!({"badge": badge})).unwrap();
    let guard = session.log_in(&badge(&json!("b-7"))).unwrap();
    assert_eq!(session.log_in(&badge(&json!("b-7"))).unwrap(), guard);
    assert_eq!(providers(&guard), [Provider::Function]);
    let error = session.log_in(&badge(&json!(null))).unwrap_err();
    assert!(error.to_string().contains("no badge"), "{error}");
}

#[test]
fn mails_confirm_address_and_reset_password() {
    let Live { session, server, clock, .. } =
        live(|server| server.confirmation(Confirmation::Email).reset(Reset::Email));
    let accounts = session.email_password();
    let mail = |kind| {
        let deadline = Deadline::after(Duration::from_secs(30));
        server.wait_for_mail("ada@example.org", kind, deadline).expect("a mail")
    };
    register(&session, "ada@example.org");
    assert_eq!(
        session.log_in(&ada()).unwrap_err().server_code(),
        Some(&ServerErrorCode::AuthError)
    );
    let first = mail(MailKind::Confirmation);
    clock.advance(Duration::from_secs(31 * 60));
    let error = accounts.confirm(&first.token, &first.token_id).unwrap_err();
    assert_eq!(error.server_code(), Some(&ServerErrorCode::UserpassTokenInvalid));
    accounts.resend_confirmation("ada@example.org").unwrap();
    let second = mail(MailKind::Confirmation);
    accounts.confirm(&second.token, &second.token_id).unwrap();
    let user = session.log_in(&ada()).unwrap();
    let error = accounts.resend_confirmation("ada@example.org").unwrap_err();
    assert_eq!(error.server_code(), Some(&ServerErrorCode::UserAlreadyConfirmed));
    let error = accounts.send_reset("eve@example.org").unwrap_err();
    assert_eq!(error.server_code(), Some(&ServerErrorCode::UserNotFound));
    accounts.send_reset("ada@example.org").unwrap();
    let reset = mail(MailKind::PasswordReset);
    let error = accounts.complete_reset(Secret::new("x"), &reset.token, &reset.token_id);
    assert_eq!(error.unwrap_err().status(), Some(400));
    accounts.complete_reset(Secret::new("another1"), &reset.token, &reset.token_id).unwrap();
    session.log_in(&ada()).unwrap_err();
    let credentials = Credentials::email_password("ada@example.org", "another1");
    assert_eq!(session.log_in(&credentials).unwrap(), user);
}

#[test]
fn next_token_has_custom_data() {
    let Live { session, server, clock: _clock, dir: _dir } = live(|server| server);
    register(&session, "ada@example.org");
    let user = session.log_in(&ada()).unwrap();
    assert_eq!(user.custom_data::<Value>().unwrap(), None);
    let data = json!({"language": "de", "count": 7});
    server.set_custom_data(user.id(), Some(data)).unwrap();
    assert_eq!(user.custom_data::<Value>().unwrap(), None, "it is as old as the token");
    let fresh: Value = user.refresh_custom_data().unwrap().unwrap();
    assert_eq!((&fresh["language"], &fresh["count"]), (&json!("de"), &json!(7)));
    server.shut_down();
    assert_eq!(user.custom_data::<Value>().unwrap(), Some(fresh));
}

#[test]
fn disabling_or_revoking_ends_only_login() {
    let Live { session, server, clock: _clock, dir: _dir } = live(|server| server);
    register(&session, "ada@example.org");
    let user = session.log_in(&ada()).unwrap();
    server.revoke_sessions(user.id()).unwrap();
    let sum: i64 = user.functions().call("sum", (1, 2)).unwrap();
    assert_eq!(sum, 3, "an access token outlives its session");
    assert!(user.refresh_access_token().unwrap_err().needs_login());
    assert_eq!(user.state().unwrap(), UserState::LoggedOut);
    session.log_in(&ada()).unwrap();
    server.disable_user(user.id()).unwrap();
    assert!(user.functions().call::<i64>("sum", (1, 2)).unwrap_err().needs_login());
    let error = session.log_in(&ada()).unwrap_err();
    assert_eq!(error.server_code(), Some(&ServerErrorCode::UserDisabled));
    server.enable_user(user.id()).unwrap();
    assert_eq!(session.log_in(&ada()).unwrap(), user);
}

#[test]
fn service_functions_are_called_by_their_service() {
    let Live { session, server: _server, clock: _clock, dir: _dir } = live(|server| {
        server.service_function("clock", "now", |_, _| Ok(json!({"$date": {"$numberLong": "5"}})))
    });
    let user = session.log_in(&Credentials::anonymous()).unwrap();
    let now: keyfob::ejson::DateTime =
        user.functions().of_service("clock").call("now", ()).unwrap();
    assert_eq!(now.millis(), 5);
    let error = user.functions().of_service("calendar").call::<()>("now", ()).unwrap_err();
    assert_eq!(error.server_code(), Some(&ServerErrorCode::ServiceNotFound));
}

#[test]
fn concurrent_users_get_own_results() {
    let Live { session, server: _server, clock: _clock, dir: _dir } = live(|server| server);
    let users: Vec<_> =
        (0..4).map(|_| session.log_in(&Credentials::new_anonymous()).unwrap()).collect();
    std::thread::scope(|scope| {
        for user in &users {
            scope.spawn(move || {
                for _ in 0..50 {
                    let who: Value = user.functions().call("whoami", ()).unwrap();
                    assert_eq!(who["user_id"], user.id().as_str());
                }
            });
        }
    });
}

#[test]
fn oversized_arguments_return_backend_error() {
    let live = live(|server| server);
    let user = live.session.log_in(&Credentials::anonymous()).unwrap();
    // The backend has answered, and takes no more, long before all of it was sent.
    for megabytes in [17, 40] {
        let text = "x".repeat(megabytes << 20);
        let error = user.functions().call::<()>("echo", (text,)).unwrap_err();
        assert_eq!(error.status(), Some(413), "{error}");
        assert!(!error.is_ambiguous() && !error.is_retryable());
    }
}

#[test]
fn arguments_of_any_size_arrive_unchanged() {
    let live = live(|server| server.function("mirror", |_, arguments| Ok(arguments[0].clone())));
    let user = live.session.log_in(&Credentials::anonymous()).unwrap();
    // Around what fits into one segment, and into the buffers on the way.
    for size in [0, 1, 1400, 15_000, 16_384, 17_000, 131_072, 140_000, 262_144, 1_000_000] {
        let text: String = ('a'..='z').cycle().take(size).collect();
        let answer: String = user.functions().call("mirror", (text.as_str(),)).unwrap();
        assert!(answer == text, "{size}");
    }
}
