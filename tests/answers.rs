//! Tests each row of the manual's page about responses, so that the page and the code agree.

#![allow(clippy::expect_used, clippy::unwrap_used, reason = "a test may panic")]

mod answers_support;
mod support;

use std::collections::{BTreeMap, BTreeSet};

use answers_support::*;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use keyfob::Error;
use keyfob::transport::Response;
use serde::Deserialize;
use serde_json::Value;
use support::START;

/// A row of a table of outcomes.
#[derive(Clone)]
struct Row {
    /// For what goes wrong.
    text: String,
    requests: Vec<String>,
    answers: Vec<String>,
    /// The variant of `Error`; nothing for a success.
    gets: Option<String>,
    user: String,
    /// Retryable, log in, ambiguous; of a success they are not said.
    is: [String; 3],
    sent: usize,
}

impl Row {
    fn read(table: &Table, row: &[String], answers: &str) -> Self {
        let gets = match table.cell(row, "the caller gets") {
            "nothing else" => None,
            variant => Some(word(variant)),
        };
        let is = ["retryable", "log in", "ambiguous"].map(|column| table.cell(row, column).into());
        for said in &is {
            let said: &String = said;
            let known: &[&str] = if gets.is_some() { &["no", "yes"] } else { &[""] };
            assert!(known.contains(&said.as_str()), "{said:?} in {row:?}");
        }
        let (requests, answers) =
            (words(table.cell(row, "request")), words(table.cell(row, answers)));
        assert!(!requests.is_empty() && !answers.is_empty(), "{row:?}");
        Self {
            text: row.join(" | "),
            requests,
            answers,
            gets,
            user: table.cell(row, "the user is").to_owned(),
            is,
            sent: table.cell(row, "sent").parse().unwrap_or_else(|_| panic!("sent: {row:?}")),
        }
    }

    /// Says what is otherwise than the row says.
    fn differences(&self, played: &Played, answer: &Reply) -> Vec<String> {
        let mut differences = Vec::new();
        let mut expect = |what: &str, said: &str, seen: String| {
            if said != seen {
                differences.push(format!("{what}: {seen}, not {said}"));
            }
        };
        let gets = played.outcome.as_ref().err().map_or("nothing else".into(), variant);
        expect("the caller gets", self.gets.as_deref().unwrap_or("nothing else"), gets);
        if let Err(error) = &played.outcome {
            let yes_or_no = |is: bool| if is { "yes" } else { "no" }.to_owned();
            let seen = [error.is_retryable(), error.needs_login(), error.is_ambiguous()];
            for ((what, said), seen) in
                ["retryable", "log in", "ambiguous"].into_iter().zip(&self.is).zip(seen)
            {
                expect(what, said, yes_or_no(seen));
            }
            // The error is that of this answer.
            match (error, answer) {
                (Error::Server(_) | Error::LoginEnded(_), Reply::Whole(status)) => {
                    expect("status", &status.to_string(), error.status().unwrap().to_string());
                }
                (Error::Server(_) | Error::LoginEnded(_), Reply::Answer(answer)) => {
                    let status = error.status().unwrap().to_string();
                    expect("status", &answer.status().to_string(), status);
                    let code = error.server_code().map(|code| code.as_str().to_owned());
                    expect("code", &code_of(answer), code.unwrap_or_default());
                }
                (Error::Transport(error), Reply::Failure { kind, .. }) => {
                    expect("kind", &format!("{kind:?}"), format!("{:?}", error.kind));
                }
                _ => {}
            }
        }
        if !played.user_is(&self.user) {
            expect("the user is", &self.user, format!("{:?}", played.user()));
        }
        expect("sent", &self.sent.to_string(), played.sent.to_string());
        differences
    }
}

fn variant(error: &Error) -> String {
    match error {
        Error::Config { .. } => "Config",
        Error::Decode(_) => "Decode",
        Error::LocalState(_) => "LocalState",
        Error::LoginEnded(_) => "LoginEnded",
        Error::Server(_) => "Server",
        Error::Store(_) => "Store",
        Error::Transport(_) => "Transport",
        _ => "something new",
    }
    .to_owned()
}

/// Returns the code in a body, read by other means than the library's.
fn code_of(answer: &Response) -> String {
    let body: serde_json::Value = serde_json::from_slice(answer.body()).unwrap_or_default();
    body["error_code"].as_str().unwrap_or_default().to_owned()
}

fn rows(answers: &str) -> Vec<Row> {
    let mut rows = Vec::new();
    for table in tables(PAGE) {
        if table.columns[0] == "request" && table.columns[1] == answers {
            assert!(!table.rows.is_empty(), "an empty table");
            rows.extend(table.rows.iter().map(|row| Row::read(&table, row, answers)));
        }
    }
    rows
}

/// Sends every request against every response and compares the outcome with the manual's page.
#[test]
fn outcomes_match_manual_for_all_responses() {
    let (requests, answers, rows) = (requests(), answers(), rows("answer"));
    assert!(requests.len() > 20 && answers.len() > 500 && rows.len() > 40);
    let names: BTreeSet<_> = requests.iter().map(|request| request.name.as_str()).collect();
    for row in &rows {
        for name in &row.requests {
            let known = names.contains(name.as_str()) || name == "any" || name == "harmless";
            assert!(known, "no such request: {name}");
        }
        for pattern in &row.answers {
            let known = answers.iter().any(|answer| stands_for(pattern, &answer.name));
            assert!(known, "no such answer: {pattern}");
        }
    }
    // By row, by request and by pattern: what decides nothing has no place on the page.
    let mut decides = BTreeSet::new();
    let (mut plays, mut wrong) = (0, Vec::new());
    for request in &requests {
        for answer in &answers {
            let decision = rows.iter().enumerate().find_map(|(at, row)| {
                let of = row.requests.iter().find(|name| {
                    **name == request.name
                        || *name == "any"
                        || *name == "harmless" && request.harmless
                })?;
                let pattern = row.answers.iter().find(|name| stands_for(name, &answer.name))?;
                Some((at, of, pattern, row))
            });
            let cell = format!("`{}` with `{}`", request.name, answer.name);
            let Some((at, of, pattern, row)) = decision else {
                wrong.push(format!("{cell}: no row says what happens"));
                continue;
            };
            decides.insert((at, of.clone()));
            decides.insert((at, pattern.clone()));
            plays += 1;
            let played = play(request, answer, START);
            if played.carried != request.carries {
                wrong.push(format!("{cell} carried {}", played.carried));
            }
            for difference in row.differences(&played, answer.last()) {
                wrong.push(format!("{cell}: {difference} ({})", row.text));
            }
        }
    }
    for (at, row) in rows.iter().enumerate() {
        for word in row.requests.iter().chain(&row.answers) {
            if !decides.contains(&(at, word.clone())) {
                wrong.push(format!("`{word}` decides nothing: {}", row.text));
            }
        }
    }
    println!("{} requests with {} answers: {plays} plays", requests.len(), answers.len());
    let shown = wrong.iter().take(40).cloned().collect::<Vec<_>>().join("\n");
    assert!(wrong.is_empty(), "{} differences:\n{shown}", wrong.len());
    assert!(plays > 10_000, "{plays}");
}

#[test]
fn flowerbase_outcomes_match_manual() {
    /// When the recording was made.
    const RECORDED: i64 = 1_795_377_831;
    #[derive(Deserialize)]
    struct Recorded {
        status: u16,
        content_type: String,
        body: String,
    }
    #[derive(Deserialize)]
    struct Recording {
        answers: BTreeMap<String, Recorded>,
    }
    let recording: Recording = serde_json::from_str(include_str!("wire/flowerbase.json")).unwrap();
    let (requests, rows) = (requests(), rows("recording"));
    assert!(rows.len() > 20, "{}", rows.len());
    let mut wrong = Vec::new();
    for row in &rows {
        let request = requests.iter().find(|request| request.name == row.requests[0]).unwrap();
        let title = &row.answers[0];
        let recorded = recording.answers.get(title).unwrap_or_else(|| panic!("no {title}"));
        let answer = Response::new(recorded.status, recorded.body.clone())
            .with_header("Content-Type", recorded.content_type.clone());
        let reply = Reply::Answer(answer);
        let (first, then) = (reply.clone(), reply.clone());
        let answer = Answer { name: title.clone(), first, then, there: Reply::Whole(200) };
        // The location that was recorded names a host that the script does not ask for.
        // A link is answered with a log-in of another user.
        let user = owner(&recorded.body).filter(|_| request.name != "link");
        let user = user.unwrap_or_else(|| "ada".to_owned());
        let played = play_as(&user, request, &answer, RECORDED);
        for difference in row.differences(&played, &reply) {
            wrong.push(format!("{difference} ({})", row.text));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// Returns whose response this is, if it says so.
fn owner(body: &str) -> Option<String> {
    let body: Value = serde_json::from_str(body).ok()?;
    let claims = || {
        let payload = body["access_token"].as_str()?.split('.').nth(1)?;
        serde_json::from_slice::<Value>(&URL_SAFE_NO_PAD.decode(payload).ok()?).ok()
    };
    let user = body["user_id"].as_str().map(str::to_owned);
    user.or_else(|| Some(claims()?["sub"].as_str()?.to_owned()))
}

#[test]
fn manual_tables_are_parsed_as_rendered() {
    let table = &tables("x\n\n| a | b |\n| --- | --- |\n| `c`, `d e` | |\n\ny")[0];
    assert_eq!(table.columns, ["a", "b"]);
    assert_eq!(table.rows, [["`c`, `d e`", ""]]);
    assert_eq!(words(&table.rows[0][0]), ["c", "d e"]);
    for (pattern, answer, expected) in [
        ("any", "401 HTML", true),
        ("4xx any", "401 HTML", true),
        ("4xx any", "500 HTML", false),
        ("401 HTML", "401 HTML", true),
        ("401 HTML", "401 cut", false),
        ("401 HTML", "401 HTML then whole", true),
        ("401 HTML then whole", "401 HTML", false),
        ("Timeout", "Timeout unsent", false),
        ("4xx any", "Connect", false),
        ("307 any", "307 elsewhere", true),
        ("307 any", "307 within, 401 refusal", false),
    ] {
        assert_eq!(stands_for(pattern, answer), expected, "{pattern} {answer}");
    }
}
