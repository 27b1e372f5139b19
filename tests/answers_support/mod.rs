//! The manual's page of answers, read and played: each request with each answer, through the public
//! API, on a script.

#![allow(dead_code, unreachable_pub, reason = "each test file uses its own part")]

use std::collections::BTreeMap;
use std::time::Duration;

use keyfob::store::{MemoryStore, Store};
use keyfob::transport::{Request as HttpRequest, Response, Transport};
use keyfob::{
    ApiKeyId, Credentials, Deadline, Error, Secret, Session, TransportErrorKind, User, UserState,
};
use serde_json::{Value, json};

use crate::support::*;

/// The page itself.
pub const PAGE: &str = include_str!("../../src/manual/design/answers.md");

const HALF_AN_HOUR: i64 = 1800;
const DAY: i64 = 86_400;

/// A table of the page: its columns' names, and its rows.
pub struct Table {
    pub columns: Vec<String>,
    pub rows: Vec<Vec<String>>,
}

impl Table {
    /// Returns a cell by its column's name.
    pub fn cell<'a>(&self, row: &'a [String], column: &str) -> &'a str {
        let at = self.columns.iter().position(|name| name == column);
        &row[at.unwrap_or_else(|| panic!("no column `{column}` in {:?}", self.columns))]
    }
}

/// Reads all tables of a page.
pub fn tables(page: &str) -> Vec<Table> {
    let mut tables: Vec<Table> = Vec::new();
    let mut inside = false;
    for line in page.lines() {
        let Some(line) = line.strip_prefix("| ") else {
            inside = false;
            continue;
        };
        let cells: Vec<String> = line
            .strip_suffix('|')
            .expect("a row ends with a line")
            .split("| ")
            .map(|cell| cell.trim().to_owned())
            .collect();
        if !inside {
            tables.push(Table { columns: cells, rows: Vec::new() });
            inside = true;
        } else if cells.iter().any(|cell| !cell.chars().all(|c| c == '-') || cell.is_empty()) {
            let table = tables.last_mut().unwrap();
            assert_eq!(cells.len(), table.columns.len(), "{line}");
            table.rows.push(cells);
        }
    }
    tables
}

/// Returns the words in backticks of a text.
pub fn words(text: &str) -> Vec<String> {
    text.split('`').skip(1).step_by(2).map(str::to_owned).collect()
}

/// Returns the one word in backticks of a cell.
pub fn word(cell: &str) -> String {
    let words = words(cell);
    assert_eq!(words.len(), 1, "{cell}");
    words[0].clone()
}

/// A request of the page.
#[derive(Clone)]
pub struct Request {
    pub name: String,
    pub route: String,
    pub carries: String,
    pub harmless: bool,
}

/// Returns the page's requests.
pub fn requests() -> Vec<Request> {
    let tables = tables(PAGE);
    let table = tables.iter().find(|table| table.columns.contains(&"route".into())).unwrap();
    let read = |row: &Vec<String>| Request {
        name: word(table.cell(row, "request")),
        route: word(table.cell(row, "route")),
        carries: table.cell(row, "carries").to_owned(),
        harmless: match table.cell(row, "harmless") {
            "yes" => true,
            "no" => false,
            other => panic!("harmless: {other}"),
        },
    };
    table.rows.iter().map(read).collect()
}

/// One answer to one sending of a request.
#[derive(Clone)]
pub enum Reply {
    /// What was asked for, with a status.
    Whole(u16),
    Answer(Response),
    Failure {
        kind: TransportErrorKind,
        unsent: bool,
    },
}

/// An answer of the page: what comes first, and what comes when the request is sent again.
#[derive(Clone)]
pub struct Answer {
    pub name: String,
    pub first: Reply,
    pub then: Reply,
    /// What is answered where a redirect leads to.
    pub there: Reply,
}

impl Answer {
    /// Returns the reply that an error is about.
    pub fn last(&self) -> &Reply {
        if matches!(self.there, Reply::Whole(_)) { &self.first } else { &self.there }
    }
}

/// Returns every answer that the page names.
pub fn answers() -> Vec<Answer> {
    let bodies = bodies();
    let statuses = PAGE.lines().skip_while(|line| !line.ends_with("These statuses are played:"));
    let statuses = statuses.skip(1).take_while(|line| line.starts_with('`')).flat_map(words);
    let mut answers = Vec::new();
    for status in statuses {
        for body in bodies.keys() {
            let reply = reply(&format!("{status} {body}"), &bodies);
            let name = format!("{status} {body}");
            let there = Reply::Whole(200);
            answers.push(Answer { name, first: reply.clone(), then: reply, there });
        }
    }
    let tables = tables(PAGE);
    let others = tables.iter().find(|table| table.columns == ["answer", "what it is"]).unwrap();
    for row in &others.rows {
        let name = word(others.cell(row, "answer"));
        let (first, there) = match name.split_once(", ") {
            Some((first, there)) => (first, reply(there, &bodies)),
            None => (name.trim_end_matches(" then whole"), Reply::Whole(200)),
        };
        let first = reply(first, &bodies);
        let then = if name.ends_with(" then whole") { Reply::Whole(200) } else { first.clone() };
        answers.push(Answer { name, first, then, there });
    }
    answers
}

/// Returns the bodies of the page: by name, their content type and their text.
fn bodies() -> BTreeMap<String, (String, String)> {
    let tables = tables(PAGE);
    let table = tables.iter().find(|table| table.columns[0] == "body").unwrap();
    let text = |cell: &str| words(cell).first().cloned().unwrap_or_default();
    let read = |row: &Vec<String>| {
        let content_type = text(table.cell(row, "content type"));
        (word(table.cell(row, "body")), (content_type, text(table.cell(row, "text"))))
    };
    table.rows.iter().map(read).collect()
}

fn reply(name: &str, bodies: &BTreeMap<String, (String, String)>) -> Reply {
    let kinds = [
        TransportErrorKind::BodyTooLarge,
        TransportErrorKind::Connect,
        TransportErrorKind::Interrupted,
        TransportErrorKind::InvalidUrl,
        TransportErrorKind::Protocol,
        TransportErrorKind::Proxy,
        TransportErrorKind::Resolve,
        TransportErrorKind::Timeout,
        TransportErrorKind::Tls,
    ];
    let kind = name.trim_end_matches(" unsent");
    if let Some(kind) = kinds.into_iter().find(|known| format!("{known:?}") == kind) {
        return Reply::Failure { kind, unsent: name.ends_with(" unsent") };
    }
    let (status, body) = name.split_once(' ').unwrap_or_else(|| panic!("no answer: {name}"));
    let status = status.parse().unwrap_or_else(|_| panic!("no answer: {name}"));
    match body {
        "whole" => Reply::Whole(status),
        "elsewhere" | "within" => {
            let origin = if body == "within" { URL } else { "https://elsewhere.test" };
            let to = format!("{origin}/api/client/v2.0/moved");
            Reply::Answer(Response::new(status, "").with_header("Location", to))
        }
        _ => {
            let (content_type, text) =
                bodies.get(body).unwrap_or_else(|| panic!("no such body: {name}"));
            let answer = Response::new(status, text.clone());
            Reply::Answer(match content_type.as_str() {
                "" => answer,
                content_type => answer.with_header("Content-Type", content_type),
            })
        }
    }
}

/// Tells whether a row's answer stands for one that is played. `any` may stand for a status, for a
/// body and for everything.
pub fn stands_for(pattern: &str, answer: &str) -> bool {
    let first = answer.trim_end_matches(" then whole");
    if pattern == "any" || pattern == answer || pattern == first {
        return true;
    }
    let (Some((status, body)), Some((sent, with))) =
        (pattern.split_once(' '), first.split_once(' '))
    else {
        return false;
    };
    // What follows a redirect has rows of its own.
    if sent.parse::<u16>().is_err() || with.starts_with("within") {
        return false;
    }
    let same_status = status == sent || status.ends_with("xx") && status[..1] == sent[..1];
    same_status && (body == "any" || body == with)
}

/// What a play has shown.
pub struct Played {
    pub outcome: Result<(), Error>,
    /// Whether the user is as a row's word says.
    is: BTreeMap<&'static str, bool>,
    pub sent: usize,
    /// What the request carried, in the page's words.
    pub carried: &'static str,
}

impl Played {
    /// Tells whether the user is now as a row says.
    pub fn user_is(&self, word: &str) -> bool {
        *self.is.get(word).unwrap_or_else(|| panic!("no such outcome: {word}"))
    }

    /// Returns the words that are true of the user.
    pub fn user(&self) -> Vec<&'static str> {
        self.is.iter().filter(|(_, is)| **is).map(|(word, _)| *word).collect()
    }
}

/// The tokens that a script gives out, told apart by their first letter.
fn token(kind: char, mark: &str, now: i64) -> String {
    let life = if kind == 'a' { HALF_AN_HOUR } else { 60 * DAY };
    jwt(&format!("{kind}-{mark}"), now, now + life)
}

/// What is asked for, as a backend gives it to a user now.
fn whole(request: &str, user: &str, now: i64) -> String {
    let body = match request {
        "log-in" => login_body(user, &token('a', "in", now), &token('r', "in", now)),
        "link" => json!({"access_token": token('a', "linked", now), "user_id": user}),
        "log-in's profile" | "profile" => json!({
            "identities": [{"id": "i-ada", "provider_type": "local-userpass"}],
            "data": {"name": "Ada, renamed"},
        }),
        "link's profile" => json!({
            "identities": [
                {"id": "i-ada", "provider_type": "local-userpass"},
                {"id": "k", "provider_type": "api-key"},
            ],
            "data": {"email": "ada@example.org"},
        }),
        "refresh" | "call's refresh" | "early refresh" | "late refresh" | "custom data" => {
            json!({"access_token": token('a', "refreshed", now)})
        }
        "call" => json!(42),
        "create key" => json!({"_id": "k", "name": "n", "key": "key-itself"}),
        "list keys" => json!([{"_id": "k", "name": "n", "disabled": true}]),
        "get key" => json!({"_id": "k", "name": "n", "disabled": true}),
        "location" => json!({"hostname": URL}),
        _ => return String::new(),
    };
    body.to_string()
}

/// Does what sends the request, on a session in which `ada` is logged in (but for a log-in).
fn act(request: &str, session: &Session, user: Option<&User>) -> Result<(), Error> {
    let accounts = session.email_password();
    let (email, password) = ("ada@example.org", Secret::new("hunter22"));
    let (one_time, one_time_id) = (Secret::new("one-time"), "one-time-id");
    let key = ApiKeyId::new("k");
    let user = || user.expect("a user");
    match request {
        "log-in" | "log-in's profile" => {
            session.log_in(&Credentials::email_password(email, password)).map(|_| ())
        }
        "register" => accounts.register(email, &password),
        "confirm" => accounts.confirm(&one_time, one_time_id),
        "resend" => accounts.resend_confirmation(email),
        "retry" => accounts.retry_custom_confirmation(email),
        "send reset" => accounts.send_reset(email),
        "reset" => accounts.complete_reset(&password, &one_time, one_time_id),
        "call reset" => {
            accounts.call_reset_function(email, &password, ("argument-of",)).map(|_| ())
        }
        "link" | "link's profile" => user().link(&Credentials::api_key("key-in-hand")),
        "refresh" | "late refresh" | "location" => user().refresh_access_token().map(|_| ()),
        "custom data" => user().refresh_custom_data::<Value>().map(|_| ()),
        "call's refresh" | "early refresh" | "call" => {
            let result: Result<i64, Error> = user().functions().call("sum", (2, 40, "argument-of"));
            result.map(|sum| assert_eq!(sum, 42))
        }
        "profile" => user().refresh_profile().map(|_| ()),
        "log-out" => user().log_out(),
        "remove" => session.remove_user(user()),
        "delete" => session.delete_user(user()),
        "create key" => user().api_keys().create("n").map(|_| ()),
        "list keys" => user().api_keys().list().map(|_| ()),
        "get key" => user().api_keys().get(&key).map(|_| ()),
        "enable key" => user().api_keys().enable(&key),
        "disable key" => user().api_keys().disable(&key),
        "delete key" => user().api_keys().delete(&key),
        other => panic!("the page has a request that nobody sends: {other}"),
    }
}

/// Plays a request of `ada` with an answer, from a moment on.
pub fn play(request: &Request, answer: &Answer, start: i64) -> Played {
    play_as("ada", request, answer, start)
}

/// Plays a request of a user.
pub fn play_as(user_id: &str, request: &Request, answer: &Answer, start: i64) -> Played {
    let name = request.name.as_str();
    let (script, clock, store) = (Script::new(), ManualClock::at(start), MemoryStore::new());
    let unsent = matches!(answer.first, Reply::Failure { unsent: true, .. });
    let open = |asks_location| {
        let inner = script.clone();
        let transport = move |request: &HttpRequest| {
            let outcome = inner.send(request);
            outcome.map_err(|error| if unsent { error.before_sending() } else { error })
        };
        let builder = Session::builder(APP, URL).transport(transport).clock(clock.clone());
        let builder = builder.store(store.clone()).deadline(Duration::from_secs(20));
        builder.location_lookup(asks_location).open().unwrap()
    };
    // So that the location is asked for by the play alone.
    let session = open(false);
    script.reply(LOGOUT, 204, Value::Null);
    let on_whole = |route: &str, request: &str, now| {
        let body = whole(request, user_id, now);
        script.on(route, move |_| Ok(Response::new(200, body.clone())));
    };
    on_whole(LOGIN, "log-in", start);
    let mut profile = profile_body("ada");
    profile["user_id"] = user_id.into();
    script.reply(PROFILE, 200, profile);
    let logs_in = name.starts_with("log-in");
    let user = (!logs_in).then(|| session.log_in(&password()).unwrap());
    let session = if name == "location" { open(true) } else { session };
    let user = user.map(|user| session.user(user.id()).unwrap().unwrap());
    clock.advance(Duration::from_secs(match name {
        "call's refresh" => 2000,
        "early refresh" => 1600,
        "late refresh" => 61 * 86_400,
        _ => 60,
    }));
    let now = clock.seconds();
    on_whole(REFRESH, "refresh", now);
    on_whole(CALL, "call", now);
    if name == "link" || name == "link's profile" {
        on_whole("POST /auth/providers/api-key/login?link=true", "link", now);
        on_whole(PROFILE, "link's profile", now);
    }
    script.clear();
    let before = stored(&store);
    let (played, whole, mut count) = (answer.clone(), whole(name, user_id, now), 0);
    let reply = move |reply: &Reply| match reply {
        Reply::Whole(status) => Ok(Response::new(*status, whole.clone())),
        Reply::Answer(answer) => Ok(answer.clone()),
        Reply::Failure { kind, .. } => Err(*kind),
    };
    let (there, reply_there) = (answer.there.clone(), reply.clone());
    let method = request.route.split(' ').next().unwrap();
    script.on(&format!("{method} /moved"), move |_| reply_there(&there));
    script.on(&request.route, move |_| {
        count += 1;
        reply(if count == 1 { &played.first } else { &played.then })
    });
    let outcome = act(name, &session, user.as_ref());
    let sent = script.sent();
    let first = sent.iter().find(|sent| sent.route == request.route);
    Played {
        outcome,
        is: states(&before, &stored(&store)),
        sent: script.count(&request.route),
        carried: carried(first.and_then(|sent| sent.bearer.as_deref())),
    }
}

/// Returns what a token is, by the letter that its mark begins with.
fn carried(bearer: Option<&str>) -> &'static str {
    use base64::Engine;
    let Some(token) = bearer else { return "nothing" };
    let mark = token.rsplit('.').next().unwrap();
    match base64::engine::general_purpose::URL_SAFE_NO_PAD.decode(mark).unwrap()[0] {
        b'a' => "access token",
        b'r' => "refresh token",
        _ => "something else",
    }
}

/// Everything that a store holds.
fn stored(store: &MemoryStore) -> Value {
    let deadline = Deadline::after(Duration::from_secs(5));
    let users = store.users(deadline).unwrap();
    let users: Vec<_> = users.iter().map(|user| serde_json::to_value(&**user).unwrap()).collect();
    json!({"current": store.current(deadline).unwrap(), "users": users})
}

/// Says which words of the page are true of what is stored.
fn states(before: &Value, after: &Value) -> BTreeMap<&'static str, bool> {
    let (old, new) = (&before["users"][0], &after["users"][0]);
    let is_current = |user: &Value| user.is_object() && after["current"] == user["id"];
    let logged_in = serde_json::to_value(UserState::LoggedIn).unwrap();
    let is_in = is_current(new) && new["state"] == logged_in && new["refresh_token"].is_string();
    let same = |fields: &[&str]| fields.iter().all(|field| old[*field] == new[*field]);
    let known = is_in && same(&["id", "epoch", "created_commit", "refresh_token", "device_id"]);
    let renewed = old["access_token"] != new["access_token"] && new["access_token"].is_string();
    let accounts = |user: &Value| user["identities"].as_array().map_or(0, Vec::len);
    let count = after["users"].as_array().unwrap().len();
    let has_token = new["access_token"].is_string() || new["refresh_token"].is_string();
    BTreeMap::from([
        ("as before", before == after),
        ("logged in", old.is_null() && count == 1 && is_in && renewed && accounts(new) == 1),
        ("linked", known && renewed && accounts(new) == accounts(old) + 1),
        ("refreshed", known && renewed && same(&["identities", "profile"])),
        ("new profile", known && !same(&["profile"]) && accounts(new) == 1),
        (
            "logged out",
            old.is_object()
                && count == 1
                && new["state"] == serde_json::to_value(UserState::LoggedOut).unwrap()
                && !has_token
                && after["current"].is_null()
                && same(&["identities", "profile"]),
        ),
        ("removed", old.is_object() && count == 0 && after["current"].is_null()),
    ])
}
