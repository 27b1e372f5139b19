//! Secrets are used everywhere, and all output is checked: every public type, every error, events,
//! the server's journal, logs, and panic messages. None of them contains a secret.

#![cfg(all(feature = "browser", feature = "encryption", feature = "server"))]
#![allow(clippy::expect_used, clippy::unwrap_used, reason = "a test may panic")]

mod answers_support;
mod support;

use std::any::type_name;
use std::collections::BTreeSet;
use std::error::Error as _;
use std::fmt::{Debug, Display, Write as _};
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::{STANDARD_NO_PAD, URL_SAFE_NO_PAD};
use keyfob::browser::{Endpoints, Page, RedirectHost};
use keyfob::ejson::{Binary, DateTime, Decimal128, Double, Int64, ObjectId};
use keyfob::server::{
    Apple, AuthFunctionAnswer, Confirmation, Context, CustomJwt, Facebook, Fault, FunctionError,
    Google, JwtKeys, MetadataField, Reset, Route, Server, Verdict,
};
use keyfob::store::{
    Change, EncryptionKey, MemoryStore, OnDamage, RecentEvents, RefreshLock, SledStore, Store,
    StoredUser,
};
use keyfob::transport::{Method, Request, Response, Transport, UreqTransport};
use keyfob::{
    ApiKeyId, CancelToken, Credentials, Deadline, Error, Event, LocalState, LogoutReason, Provider,
    RemovalReason, Secret, ServerErrorCode, Session, StoreError, StoreErrorKind, SystemClock,
    TransportError, TransportErrorKind, UserState,
};
use serde_json::{Value, json};
use support::provider::{Person, TestProvider, json_reply};
use support::*;

/// What every secret holds. Its characters change with each way of escaping.
const CORE: &str = "Pl4nt\"ed/+s3kr\u{e9}t";

fn secret(of: &str) -> String {
    format!("{of}-{CORE}-{of}")
}

/// Every form in which a secret may turn up.
struct Wanted(Vec<String>);

impl Wanted {
    /// The core of all that is planted, and secrets that were made on the way.
    fn new(made: &[String]) -> Self {
        let mut forms = Vec::new();
        for secret in std::iter::once(CORE.to_owned()).chain(made.iter().cloned()) {
            let json = json!(secret).to_string();
            let debug = format!("{secret:?}");
            for text in [secret.as_str(), json.trim_matches('"'), debug.trim_matches('"')] {
                forms.push(text.to_owned());
                let percent = |upper: bool| {
                    text.bytes().fold(String::new(), |mut out, byte| {
                        let _ = match byte {
                            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' => {
                                write!(out, "{}", char::from(byte))
                            }
                            _ if upper => write!(out, "%{byte:02X}"),
                            _ => write!(out, "%{byte:02x}"),
                        };
                        out
                    })
                };
                forms.extend([percent(true), percent(false)]);
                let bytes = text.as_bytes();
                let join = |shown: Vec<String>, by: &str| shown.join(by);
                forms.push(join(bytes.iter().map(|byte| format!("{byte:02x}")).collect(), ""));
                forms.push(join(bytes.iter().map(|byte| byte.to_string()).collect(), ", "));
                // Inside a longer text it may begin at each of three places.
                for skipped in 0..3 {
                    let whole = &bytes[skipped..bytes.len() - (bytes.len() - skipped) % 3];
                    forms.push(STANDARD_NO_PAD.encode(whole));
                    forms.push(URL_SAFE_NO_PAD.encode(whole));
                }
            }
        }
        forms.sort();
        forms.dedup();
        assert!(forms.iter().all(|form| form.len() > 12), "{forms:?}");
        Self(forms)
    }

    #[track_caller]
    fn in_none_of(&self, texts: &[String]) {
        for text in texts {
            for form in &self.0 {
                assert!(!text.contains(form.as_str()), "{form:.99} is in {text:.999}");
            }
        }
    }
}

/// What was shown, and of which types.
#[derive(Default)]
struct Shown {
    texts: Vec<String>,
    types: BTreeSet<String>,
}

impl Shown {
    fn debug<T: Debug>(&mut self, value: &T) {
        self.texts.push(format!("{value:?}"));
        self.texts.push(format!("{value:#?}"));
        let name = type_name::<T>();
        let name = name.split('<').next().unwrap();
        self.types.insert(name.rsplit("::").next().unwrap().to_owned());
    }

    fn both<T: Debug + Display>(&mut self, value: &T) {
        self.debug(value);
        self.texts.push(value.to_string());
    }

    /// An error, and everything in its chain.
    fn error(&mut self, error: &Error) {
        self.both(error);
        match error {
            Error::Decode(inner) => self.both(&**inner),
            Error::LocalState(inner) => self.both(inner),
            Error::LoginEnded(inner) | Error::Server(inner) => {
                self.both(&**inner);
                if let Some(code) = &inner.code {
                    self.both(code);
                }
            }
            Error::Store(inner) => {
                self.both(&**inner);
                self.debug(&inner.kind);
            }
            Error::Transport(inner) => {
                self.both(&**inner);
                self.debug(&inner.kind);
            }
            _ => {}
        }
        let mut cause = error.source();
        while let Some(error) = cause {
            self.texts.push(format!("{error} {error:?}"));
            cause = error.source();
        }
    }
}

/// A token with a secret in it.
fn token(of: &str, life: i64) -> String {
    jwt_with(
        &secret(of),
        json!({
            "iat": START, "exp": START + life,
            "user_data": {"secret": secret("custom data"), "n": 1},
        }),
    )
}

/// A session on a script that hands out secrets.
fn secretive() -> (Script, MemoryStore, Session) {
    let (script, store) = (Script::new(), MemoryStore::new());
    script.reply(LOGIN, 200, login_body("ada", &token("a", 1800), &token("r", 5_000_000)));
    script.reply(PROFILE, 200, profile_body("ada"));
    script.reply(LOGOUT, 204, Value::Null);
    let builder = builder(&script, &ManualClock::at(START)).store(store.clone());
    (script, store, builder.open().unwrap())
}

fn credentials() -> Vec<Credentials> {
    let secret = |of: &str| Secret::new(secret(of));
    let fields = json!({"password": secret("field").expose(), "n": 1});
    vec![
        Credentials::email_password("ada@example.org", secret("password")),
        Credentials::api_key(secret("key")),
        Credentials::apple(secret("apple")),
        Credentials::facebook(secret("facebook")),
        Credentials::function(&fields).unwrap(),
        Credentials::google_auth_code(secret("code")),
        Credentials::google_id_token(secret("google")),
        Credentials::jwt(secret("jwt")),
        Credentials::other("oauth1-x", &fields).unwrap(),
        Credentials::anonymous(),
        Credentials::new_anonymous(),
    ]
}

fn deadline() -> Deadline {
    Deadline::after(Duration::from_secs(20))
}

/// One test at a time: what one of them logs is heard by the one that listens.
fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

#[test]
fn public_types_show_no_secret() {
    let _alone = alone();
    let mut shown = Shown::default();
    let (script, store, session) = secretive();
    the_client(&mut shown, &script, &store, &session);
    the_store(&mut shown, &store);
    errors_of_answers(&mut shown, &script, &session);
    the_browser(&mut shown);
    the_server(&mut shown);
    #[cfg(feature = "redis")]
    the_redis_store(&mut shown);
    plain_data(&mut shown);
    Wanted::new(&[]).in_none_of(&shown.texts);
    // None is forgotten: the source says which there are.
    #[cfg(feature = "testing")]
    shown.debug(&keyfob::store::contract::REQUIREMENTS[0]);
    let mut public = public_types();
    if cfg!(not(feature = "testing")) {
        public.remove("Requirement");
    }
    if cfg!(not(feature = "redis")) {
        public.retain(|name| {
            !matches!(name.as_str(), "OnRollback" | "RedisStore" | "RedisStoreBuilder")
        });
    }
    assert!(public.len() > 60, "{public:?}");
    let forgotten: Vec<_> = public.difference(&shown.types).collect();
    assert!(forgotten.is_empty(), "public types that this test does not show: {forgotten:?}");
}

/// Returns the names of all `pub` structs and enums. The lint `unreachable_pub` sees to it that what
/// is `pub` can be reached.
fn public_types() -> BTreeSet<String> {
    fn visit(dir: &Path, names: &mut BTreeSet<String>) {
        for entry in std::fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                if !path.ends_with("bin") {
                    visit(&path, names);
                }
                continue;
            }
            if path.extension().is_none_or(|extension| extension != "rs") {
                continue;
            }
            for line in std::fs::read_to_string(&path).unwrap().lines() {
                let line = line.trim_start();
                let rest = ["pub struct ", "pub enum ", "pub union "]
                    .iter()
                    .find_map(|start| line.strip_prefix(start));
                if let Some(rest) = rest {
                    let end = rest.find(|c: char| !c.is_alphanumeric() && c != '_');
                    names.insert(rest[..end.unwrap_or(rest.len())].to_owned());
                }
            }
        }
    }
    let mut names = BTreeSet::new();
    visit(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"), &mut names);
    names
}

#[cfg(feature = "redis")]
fn the_redis_store(shown: &mut Shown) {
    use keyfob::store::{OnRollback, RedisStore};

    let key = EncryptionKey::from_slice(&secret("0123456789").as_bytes()[..32]).unwrap();
    let password = Secret::new(secret("redis-password"));
    let builder =
        || RedisStore::builder("redis://127.0.0.1:1").namespace("n").password(password.clone());
    shown.debug(&builder().encryption(key));
    shown.debug(&OnRollback::default());
    // Nothing is connected before the first use.
    shown.debug(&builder().plaintext().open().unwrap());
}

fn the_client(shown: &mut Shown, script: &Script, store: &MemoryStore, session: &Session) {
    let clock = ManualClock::at(START);
    let key = EncryptionKey::from_slice(&secret("0123456789").as_bytes()[..32]).unwrap();
    shown.debug(&key);
    shown.debug(&EncryptionKey::key_file());
    shown.debug(&builder(script, &clock).encryption(key).app_info("app", "1"));
    shown.debug(session);
    for credentials in credentials() {
        shown.both(&credentials.provider());
        shown.debug(&credentials);
    }
    shown.debug(&Secret::new(secret("any")));
    let mut events = session.events().unwrap();
    shown.debug(&events);
    let heard = Arc::new(Mutex::new(Vec::new()));
    let inner = heard.clone();
    let subscription =
        session.subscribe(move |event| inner.lock().unwrap().push(format!("{event:?}"))).unwrap();
    shown.debug(&subscription);
    let user = session.log_in(&credentials()[0]).unwrap();
    shown.debug(&user);
    shown.debug(&user.retry());
    shown.both(user.id());
    shown.debug(&user.access_token().unwrap());
    shown.debug(&user.state().unwrap());
    shown.debug(&user.identities().unwrap()[0]);
    shown.debug(&user.profile().unwrap());
    shown.debug(&user.functions().of_service("s"));
    shown.debug(&user.api_keys());
    shown.debug(&session.email_password());
    script.reply(
        "POST /auth/providers/api-key/login?link=true",
        200,
        json!({"access_token": token("linked", 1800)}),
    );
    user.link(&credentials()[1]).unwrap();
    script.reply(REFRESH, 200, json!({"access_token": token("next", 1800)}));
    user.refresh_access_token().unwrap();
    script.reply("POST /auth/api_keys", 201, json!({"_id": "k", "name": "n", "key": secret("k")}));
    let (key, value) = user.api_keys().create("n").unwrap();
    shown.debug(&key);
    shown.both(&key.id);
    shown.debug(&value);
    let record = store.user(user.id(), deadline()).unwrap().unwrap();
    shown.debug(record.refresh_token.as_ref().unwrap());
    shown.debug(&serde_json::from_value::<keyfob::DeviceId>(json!("d")).unwrap());
    let dir = Dir::new();
    let on_disk = Session::builder(APP, URL).transport(script.clone()).clock(clock.clone());
    let on_disk = on_disk.data_dir(dir.path());
    let on_disk = on_disk.open().unwrap();
    let ada = on_disk.log_in(&credentials()[0]).unwrap();
    match ada.sync_flexible() {
        Ok(configuration) => shown.debug(&configuration),
        Err(error) => panic!("{error}"),
    }
    let mut listed = session.users_iter();
    shown.debug(&listed);
    shown.debug(&listed.next().unwrap().unwrap());
    // A proxy that wants a password, and does not answer. Loopback is asked without it.
    let password = "Pl4nt%22ed%2F%2Bs3kr%C3%A9t";
    for proxy in [format!("http://me:{password}@127.0.0.1:9"), format!("odd://me:{password}@h")] {
        let proxied = UreqTransport::builder().proxy(&proxy);
        shown.debug(&proxied);
        match proxied.build() {
            Ok(transport) => {
                shown.debug(&transport);
                let builder = Session::builder(APP, "https://keyfob.invalid").transport(transport);
                let far = builder.store(MemoryStore::new()).open().unwrap();
                shown.error(&far.log_in(&credentials()[0]).unwrap_err());
            }
            Err(error) => shown.error(&error),
        }
    }
    // What went to the transport, and what came back.
    let (inner, seen) = (script.clone(), Arc::new(Mutex::new(Shown::default())));
    let log = seen.clone();
    let watched = builder(script, &clock)
        .store(store.clone())
        .transport(move |request: &Request| {
            let answer = inner.send(request);
            let mut log = log.lock().unwrap();
            log.debug(request);
            log.debug(&request.method());
            if let Ok(answer) = &answer {
                log.debug(answer);
            }
            answer
        })
        .open()
        .unwrap();
    script.reply(CALL, 200, json!({"secret": secret("result")}));
    let arguments = (json!({"password": secret("argument")}),);
    let user = watched.current_user().unwrap().unwrap();
    user.functions().call::<Value>("f", &arguments).unwrap();
    for error in [
        user.functions().call::<i32>("f", &arguments).unwrap_err(),
        user.functions().call::<std::net::Ipv4Addr>("f", &arguments).unwrap_err(),
        user.custom_data::<i64>().unwrap_err(),
        user.functions().call::<i32>("f", (secret("argument"), u64::MAX)).unwrap_err(),
        Credentials::function(secret("no object")).unwrap_err(),
        EncryptionKey::from_slice(secret("short").as_bytes()).unwrap_err(),
    ] {
        shown.error(&error);
    }
    watched.log_in(&credentials()[0]).unwrap();
    let mut seen = std::mem::take(&mut *seen.lock().unwrap());
    assert!(seen.texts.len() > 10);
    shown.texts.append(&mut seen.texts);
    shown.types.append(&mut seen.types);
    user.log_out().unwrap();
    session.remove_user(&user).unwrap();
    loop {
        let event = events.next().unwrap();
        shown.debug(&event);
        shown.texts.push(serde_json::to_string(&event).unwrap());
        if matches!(event, Event::Removed { .. }) {
            break;
        }
    }
    drop(subscription);
    shown.texts.append(&mut heard.lock().unwrap());
}

fn the_store(shown: &mut Shown, memory: &MemoryStore) {
    shown.debug(memory);
    let mut record = StoredUser::new("ada".into_id());
    let token = |of: &str| serde_json::from_value(json!(token(of, 1800))).unwrap();
    record.state = UserState::LoggedIn;
    record.access_token = Some(token("stored"));
    record.refresh_token = serde_json::from_value(json!(self::token("stored", 1))).unwrap();
    record.pending_revocation = record.refresh_token.clone();
    // From a newer version, which may have secrets of its own.
    record.unknown_fields.insert("newer".into(), json!({"token": secret("newer")}));
    shown.debug(&record);
    let put = Change::Put(Box::new(record));
    shown.debug(&put);
    for encrypted in [false, true] {
        let dir = Dir::new();
        let key = EncryptionKey::from_slice(&secret("0123456789").as_bytes()[..32]).unwrap();
        let refuse = OnDamage::Refuse;
        let store = match encrypted {
            true => SledStore::open_encrypted(dir.path(), "app", &key, refuse, deadline()),
            false => SledStore::open(dir.path(), "app", refuse, deadline()),
        }
        .unwrap();
        let logged_out = Change::Emit(Event::LoggedOut {
            user: "ada".into_id(),
            reason: LogoutReason::Requested,
        });
        let changes = [put.clone(), logged_out];
        store.commit(deadline(), &mut |_| Ok(changes.to_vec())).unwrap();
        shown.debug(&store);
        shown.debug(&store.recent(Some(0), deadline()).unwrap());
        shown.debug(&store.user(&"ada".into_id(), deadline()).unwrap());
        let flight = store.lock_refresh(&"ada".into_id(), deadline()).unwrap().unwrap();
        shown.debug(&flight);
    }
    shown.debug(&RecentEvents::default());
    shown.debug(&RefreshLock::new(secret("held")));
    // Every file that is damaged, and what is said of it.
    let dir = Dir::new();
    let open = || SledStore::open(dir.path(), "app", OnDamage::Refuse, deadline());
    open().unwrap().commit(deadline(), &mut |_| Ok(vec![put.clone()])).unwrap();
    let files: Vec<_> =
        std::fs::read_dir(dir.path()).unwrap().map(|file| file.unwrap().path()).collect();
    for file in files.iter().filter(|file| file.is_file()) {
        let bytes = std::fs::read(file).unwrap();
        for bytes in [secret("garbage").into_bytes(), bytes[..bytes.len() / 2].to_vec()] {
            std::fs::write(file, bytes).unwrap();
            if let Err(error) = open().and_then(|store| store.users(deadline())) {
                shown.error(&error.into());
            }
        }
    }
}

/// Each route's answer, wrong in each way that can hold a secret.
fn errors_of_answers(shown: &mut Shown, script: &Script, session: &Session) {
    let user = session.log_in(&credentials()[0]).unwrap();
    let wrong = [
        json!({"access_token": secret("x")}),
        json!({"access_token": {"x": secret("x")}}),
        json!({"access_token": format!("a.{}.c", secret("x")), "user_id": secret("x")}),
        json!({"access_token": token("x", 1800), "refresh_token": secret("x"), "user_id": "u"}),
        json!({"_id": 7, "name": secret("n"), "key": secret("k"), "identities": secret("i")}),
        json!({"identities": [{"id": secret("i")}], "hostname": [secret("h")]}),
        json!([secret("x")]),
        json!(secret("x")),
    ];
    let routes = [
        LOGIN,
        PROFILE,
        REFRESH,
        CALL,
        LOCATION,
        "POST /auth/api_keys",
        "GET /auth/api_keys",
        "GET /auth/api_keys/k",
        "POST /auth/providers/api-key/login?link=true",
    ];
    for body in wrong {
        for status in [200, 400, 401, 500] {
            for route in routes {
                // Words of a refusal are the backend's, and shown; these are none.
                script.reply(route, status, body.clone());
            }
            let keys = user.api_keys();
            let key = ApiKeyId::new("k");
            let errors = [
                session.log_in(&credentials()[0]).err(),
                user.refresh_profile().err(),
                user.refresh_access_token().err(),
                user.functions().call::<i32>("f", ()).err(),
                keys.create("n").err(),
                keys.list().err(),
                keys.get(&key).err(),
                user.link(&credentials()[1]).err(),
            ];
            errors.iter().flatten().for_each(|error| shown.error(error));
            if user.state().unwrap() != UserState::LoggedIn {
                script.reply(LOGIN, 200, login_body("ada", &token("a", 1800), &token("r", 9)));
                script.reply(PROFILE, 200, profile_body("ada"));
                session.log_in(&credentials()[0]).unwrap();
            }
        }
    }
}

trait IntoId {
    fn into_id(self) -> keyfob::UserId;
}

impl IntoId for &str {
    fn into_id(self) -> keyfob::UserId {
        keyfob::UserId::new(self)
    }
}

/// A sign-in with secrets everywhere, against a provider that repeats what it is sent.
fn the_browser(shown: &mut Shown) {
    let provider = TestProvider::start();
    let endpoints = Endpoints::new("https://id.example.org", "https://a", "https://b");
    shown.debug(&endpoints);
    shown.debug(&RedirectHost::Localhost);
    shown.debug(&Page::new("Notes"));
    shown.debug(&CancelToken::new());
    let sign_in = provider.sign_in().client_secret(secret("client"));
    shown.debug(&sign_in);
    let person = Person::default();
    let agrees = person.agrees(&provider, sign_in.clone());
    provider.claim(|claims| claims["mark"] = secret("claim").into());
    let tokens = agrees.loopback().unwrap();
    shown.texts.push(person.page().html);
    shown.debug(&tokens);
    shown.debug(&tokens.credentials());
    provider.on("/token", |_, asked| {
        let said: Vec<_> = asked.form.values().cloned().chain([secret("client")]).collect();
        let said = json!({"error": said.join(" "), "error_description": said.join(" ")});
        Some(json_reply(400, &said))
    });
    let error = agrees.loopback().unwrap_err();
    shown.texts.push(person.page().html);
    shown.error(&error);
    let Error::SignIn(inner) = &error else { panic!("{error:?}") };
    shown.both(&**inner);
    shown.debug(&inner.kind);
    let device = json!({
        "device_code": secret("device"),
        "user_code": "ABCD",
        "verification_uri": "https://id.example.org/device",
        "expires_in": 600,
        "interval": 1,
    });
    provider.on("/device", move |_, _| Some(json_reply(200, &device)));
    let codes = Arc::new(Mutex::new(Vec::new()));
    let kept = codes.clone();
    let sign_in = sign_in.on_code(move |code| kept.lock().unwrap().push(code.clone()));
    shown.error(&sign_in.device().unwrap_err());
    shown.debug(&codes.lock().unwrap()[0]);
}

/// The server's types, its journal, and what its functions and providers are given.
fn the_server(shown: &mut Shown) {
    let seen = Arc::new(Mutex::new(Shown::default()));
    let keys = || JwtKeys::hs256(secret("jwt-key-of-more-than-32-bytes"));
    let google = Google::new("web").client_secret(secret("google")).keys(keys());
    let facebook = Facebook::new().app_secret(secret("facebook"));
    let apple = Apple::new("bundle").keys(keys());
    let field = MetadataField::new("name", "name");
    let jwt = CustomJwt::new(keys()).metadata_field(field.clone());
    shown.debug(&keys());
    shown.debug(&google);
    shown.debug(&facebook);
    shown.debug(&apple);
    shown.debug(&field);
    shown.debug(&jwt);
    let confirmation = {
        let seen = seen.clone();
        Confirmation::function(move |call| {
            seen.lock().unwrap().debug(call);
            Verdict::Success
        })
    };
    let reset = {
        let seen = seen.clone();
        Reset::function(move |call| {
            seen.lock().unwrap().debug(call);
            Verdict::Success
        })
    };
    shown.debug(&confirmation);
    shown.debug(&reset);
    shown.debug(&Verdict::Success);
    let (asked, called) = (seen.clone(), seen.clone());
    let builder = Server::builder()
        .server_api_key("machine", secret("server-key"))
        .google(google)
        .facebook(facebook)
        .apple(apple)
        .custom_jwt(jwt)
        .confirmation(confirmation)
        .reset(reset)
        .auth_function(move |payload| {
            let answer = AuthFunctionAnswer::new("ada").data("payload", payload.clone());
            asked.lock().unwrap().debug(&answer);
            Ok(answer)
        })
        .function("show", move |context: &Context, _arguments| {
            let mut seen = called.lock().unwrap();
            seen.debug(context);
            for identity in context.identities() {
                seen.debug(identity);
            }
            Ok(Value::Null)
        });
    shown.debug(&builder);
    let server = builder.start().unwrap();
    shown.debug(&server);
    let session = Session::builder(server.app_id(), server.base_url())
        .store(MemoryStore::new())
        .open()
        .unwrap();
    let accounts = session.email_password();
    let password = Secret::new(secret("password"));
    accounts.register("ada@example.org", &password).unwrap();
    let user = session.log_in(&credentials()[0]).unwrap();
    server.set_custom_data(user.id(), Some(json!({"secret": secret("custom data")}))).unwrap();
    user.refresh_access_token().unwrap();
    user.functions().call::<()>("show", (secret("argument"),)).unwrap();
    let by_function = Credentials::function(json!({"secret": secret("payload")})).unwrap();
    session.log_in(&by_function).unwrap().functions().call::<()>("show", ()).unwrap();
    session.log_in(&Credentials::api_key(secret("server-key"))).unwrap();
    let arguments = (secret("argument"),);
    accounts.call_reset_function("ada@example.org", &password, arguments).unwrap();
    for credentials in credentials() {
        if let Err(error) = session.log_in(&credentials) {
            shown.error(&error);
        }
    }
    let (_, key) = user.api_keys().create("k").unwrap();
    session.log_in(&Credentials::api_key(key.expose())).unwrap();
    let made = [key.expose().to_owned(), user.access_token().unwrap().expose().to_owned()];
    for entry in server.journal() {
        shown.debug(&entry);
    }
    assert!(server.journal().len() > 20);
    shown.debug(&server.journal());
    shown.debug(&server.clock());
    // What a fault answers and adds may be a secret of the test's own.
    let fault = Fault::status(418)
        .on(Route::Profile)
        .header("X-Token", secret("header"))
        .body("application/json", secret("body"))
        .error("Teapot", "no");
    shown.debug(&fault);
    shown.debug(&Fault::bytes(secret("bytes")));
    shown.debug(&Fault::status(503).body("text/plain", secret("body")));
    shown.debug(&Route::Profile);
    shown.debug(&server.faults().add(fault));
    shown.debug(server.faults());
    shown.error(&user.refresh_profile().unwrap_err());
    shown.debug(&FunctionError::from("words"));
    shown.debug(&server);
    let mut seen = std::mem::take(&mut *seen.lock().unwrap());
    shown.texts.append(&mut seen.texts);
    shown.types.append(&mut seen.types);
    // A mail holds what only its reader may know.
    let mails = Server::builder().confirmation(Confirmation::Email).start().unwrap();
    let session = Session::builder(mails.app_id(), mails.base_url())
        .store(MemoryStore::new())
        .open()
        .unwrap();
    session.email_password().register("ada@example.org", &password).unwrap();
    let mail = mails.outbox().remove(0);
    shown.debug(&mail);
    shown.debug(&mail.kind);
    let made = [made.to_vec(), vec![mail.token.expose().to_owned()]].concat();
    Wanted::new(&made).in_none_of(&shown.texts);
}

/// Types that hold nothing of anybody's; shown so that all are.
fn plain_data(shown: &mut Shown) {
    shown.debug(&ObjectId::new([7; 12]));
    shown.debug(&DateTime::from_millis(7));
    shown.debug(&keyfob::ejson::Value::Null);
    shown.debug(&Int64(7));
    shown.debug(&Double(0.5));
    shown.debug(&Decimal128("1.5".into()));
    shown.debug(&Binary { subtype: 0, bytes: vec![7] });
    shown.debug(&SystemClock);
    shown.debug(&deadline());
    shown.debug(&UreqTransport::new());
    shown.debug(&Method::Get);
    shown.debug(&Response::new(200, secret("body")));
    shown.debug(&OnDamage::Refuse);
    shown.debug(&RemovalReason::Requested);
    shown.debug(&LogoutReason::Requested);
    shown.debug(&keyfob::LinkRefusal::NotLinkable);
    shown.both(&Provider::Other("x".into()));
    shown.both(&ServerErrorCode::from("x"));
    shown.error(&LocalState::NoCurrentUser.into());
    shown.error(&StoreError::new(StoreErrorKind::Busy, "x").into());
    let cause = std::io::Error::other("x");
    shown.error(&TransportError::new(TransportErrorKind::Connect, URL).because(cause).into());
    shown.both(&keyfob::server::FunctionError::from("words"));
    shown.debug(&keyfob::server::AuthProvider::Anonymous);
    shown.debug(&keyfob::server::Oidc::new("https://id.example.org", "my-client"));
    shown.debug(&keyfob::RequestOutcome::Pending);
    let limits = keyfob::server::RateLimits::default();
    shown.debug(&limits);
    shown.debug(&limits.mails);
}

/// Every error that the manual's page of answers brings about.
#[test]
fn response_errors_show_no_secret() {
    let _alone = alone();
    let mut shown = Shown::default();
    for request in answers_support::requests() {
        for answer in answers_support::answers() {
            // Statuses of a hundred say the same.
            let skipped = ["202", "204", "30", "402", "405", "409", "41", "45", "51", "59"];
            if skipped.iter().any(|status| answer.name.starts_with(status)) {
                continue;
            }
            if let Err(error) = answers_support::play(&request, &answer, START).outcome {
                shown.error(&error);
            }
        }
    }
    assert!(shown.texts.len() > 5000, "{}", shown.texts.len());
    shown.texts.sort();
    shown.texts.dedup();
    // Each token begins like this.
    let header = URL_SAFE_NO_PAD.encode(r#"{"alg":"HS256"}"#);
    for text in &shown.texts {
        for secret in ["hunter22", "one-time", "key-in-hand", "key-itself", "argument-of", &header]
        {
            assert!(!text.contains(secret), "{secret} is in {text}");
        }
    }
}

/// What ureq and we log, down to the last detail.
#[test]
fn log_lines_show_no_secret() {
    let _alone = alone();
    struct Log(Mutex<Vec<(String, log::Level, String)>>);
    impl log::Log for Log {
        fn enabled(&self, _: &log::Metadata<'_>) -> bool {
            true
        }
        fn log(&self, record: &log::Record<'_>) {
            let line = format!("{}: {}", record.target(), record.args());
            self.0.lock().unwrap().push((record.target().to_owned(), record.level(), line));
        }
        fn flush(&self) {}
    }
    static LOG: Log = Log(Mutex::new(Vec::new()));
    log::set_logger(&LOG).unwrap();
    log::set_max_level(log::LevelFilter::Trace);
    for encrypted in [false, true] {
        let made = busy_day(encrypted);
        let lines = std::mem::take(&mut *LOG.0.lock().unwrap());
        assert!(lines.iter().any(|(target, ..)| target.starts_with("ureq")), "{lines:?}");
        // At its most talkative sled logs what it writes, byte for byte: see the manual's page on
        // storage. What is encrypted is encrypted there too.
        let bytes = |target: &str, level| target.starts_with("sled") && level == log::Level::Trace;
        let lines =
            lines.into_iter().filter(|(target, level, _)| encrypted || !bytes(target, *level));
        let lines: Vec<_> = lines.map(|(_, _, line)| line).collect();
        assert!(lines.len() > 20, "{lines:?}");
        Wanted::new(&made).in_none_of(&lines);
    }
}

/// Does everything that has a secret in it, and returns those that were made on the way.
fn busy_day(encrypted: bool) -> Vec<String> {
    let server = Server::builder().built_in_functions().start().unwrap();
    let dir = Dir::new();
    let builder = Session::builder(server.app_id(), server.base_url()).data_dir(dir.path());
    let builder = if encrypted { builder.encryption(EncryptionKey::key_file()) } else { builder };
    let session = builder.open().unwrap();
    session.email_password().register("ada@example.org", secret("password")).unwrap();
    let user = session.log_in(&credentials()[0]).unwrap();
    let first = user.access_token().unwrap();
    user.functions().call::<Value>("echo", (secret("argument"),)).unwrap();
    let second = user.refresh_access_token().unwrap();
    let (_, key) = user.api_keys().create("k").unwrap();
    for credentials in credentials() {
        let _ = session.log_in(&credentials);
    }
    user.log_out().unwrap();
    server.shut_down();
    session.log_in(&credentials()[0]).unwrap_err();
    [first.expose(), second.expose(), key.expose()].map(str::to_owned).to_vec()
}

/// What is printed when something of the program's panics in here, and what goes on afterwards.
#[test]
fn panics_show_no_secret_and_session_continues() {
    let _alone = alone();
    let said = Arc::new(Mutex::new(Vec::new()));
    let log = said.clone();
    let before = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        let thread = std::thread::current().name().map(str::to_owned);
        log.lock().unwrap().push(format!("{thread:?} {panic}"));
    }));
    let (script, _, session) = secretive();
    let user = session.log_in(&credentials()[0]).unwrap();
    let panics = |route: &str| {
        script.on(route, |_| panic!("a transport of the program's"));
    };
    let catch = |act: &dyn Fn()| {
        std::panic::catch_unwind(std::panic::AssertUnwindSafe(act)).unwrap_err();
    };
    panics(REFRESH);
    catch(&|| drop(user.refresh_access_token()));
    script.reply(REFRESH, 200, json!({"access_token": token("next", 1800)}));
    user.refresh_access_token().unwrap();
    panics(LOGIN);
    catch(&|| drop(session.log_in(&credentials()[0])));
    script.reply(LOGIN, 200, login_body("ada", &token("a", 1800), &token("r", 5_000_000)));
    session.log_in(&credentials()[0]).unwrap();
    panics(CALL);
    catch(&|| drop(user.functions().call::<()>("f", (secret("argument"),))));
    // A type that panics while it is read.
    #[derive(Debug)]
    struct Picky;
    impl<'de> serde::Deserialize<'de> for Picky {
        fn deserialize<D: serde::Deserializer<'de>>(_: D) -> Result<Self, D::Error> {
            panic!("a type of the program's")
        }
    }
    script.reply(CALL, 200, json!(secret("result")));
    catch(&|| drop(user.functions().call::<Picky>("f", ())));
    assert_eq!(user.functions().call::<String>("f", ()).unwrap(), secret("result"));
    // A listener on its own thread.
    let (sender, heard) = std::sync::mpsc::channel();
    let subscription = session
        .subscribe(move |event| {
            let _ = sender.send(event.clone());
            panic!("a listener of the program's")
        })
        .unwrap();
    user.log_out().unwrap();
    let event = heard.recv_timeout(Duration::from_secs(60)).unwrap();
    assert!(matches!(event, Event::LoggedOut { .. }), "{event:?}");
    drop(subscription);
    // A server's function.
    let server = Server::builder()
        .function("f", |_, _| panic!("a function of the program's"))
        .start()
        .unwrap();
    let live = Session::builder(server.app_id(), server.base_url())
        .store(MemoryStore::new())
        .open()
        .unwrap();
    let ada = live.log_in(&Credentials::anonymous()).unwrap();
    let error = ada.functions().call::<()>("f", (secret("argument"),)).unwrap_err();
    let shown = format!("{error} {error:?}");
    let made = vec![ada.access_token().unwrap().expose().to_owned()];
    std::panic::set_hook(before);
    let mut said = std::mem::take(&mut *said.lock().unwrap());
    assert!(said.len() >= 6, "{said:?}");
    said.push(shown);
    Wanted::new(&made).in_none_of(&said);
}

#[test]
fn search_finds_every_encoding_of_secret() {
    let wanted = Wanted::new(&[]);
    let found =
        |text: &str| std::panic::catch_unwind(|| wanted.in_none_of(&[text.to_owned()])).is_err();
    let secret = secret("password");
    assert!(found(&secret));
    assert!(found(&json!({"password": secret}).to_string()));
    assert!(found(&format!("{secret:?}")));
    for before in ["", "x", "xx"] {
        let text = format!("{before}{}", json!({"password": secret}));
        assert!(found(&URL_SAFE_NO_PAD.encode(&text)), "{text}");
        assert!(found(&STANDARD_NO_PAD.encode(&text)), "{text}");
    }
    assert!(found(&format!("{:?}", secret.as_bytes())));
    assert!(found(&token("a", 1)));
    assert!(!found("nothing of the kind"));
}
