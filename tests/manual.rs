//! The manual's page of messages: each message occurs in the sources, and the most common ones are
//! produced.

#![allow(clippy::expect_used, clippy::unwrap_used, reason = "a test may panic")]

use std::fs;
use std::path::Path;

const PAGE: &str = include_str!("../src/manual/guide/troubleshooting.md");

/// Returns the messages of the page, with `…` for a part that varies.
fn messages() -> Vec<&'static str> {
    let rows = PAGE.lines().filter_map(|line| line.strip_prefix("| `"));
    rows.map(|row| row.split_once(" | ").unwrap().0.trim_matches('`').trim()).collect()
}

/// Returns the sources as one text, in which strings that go on in another line are one.
fn sources() -> String {
    fn add(dir: &Path, into: &mut String) {
        for entry in fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                add(&path, into);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                into.push_str(&fs::read_to_string(&path).unwrap());
            }
        }
    }
    let mut text = String::new();
    add(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"), &mut text);
    let mut lines = text.split("\\\n");
    let mut joined = lines.next().unwrap().to_owned();
    lines.for_each(|line| joined.push_str(line.trim_start()));
    joined
}

#[test]
fn each_message_occurs_in_sources() {
    let (messages, sources) = (messages(), sources());
    let mut found = 0;
    for message in messages {
        // What `Display` of several variants adds is looked for once, here.
        let rest = message
            .replace("the store cannot be used: ", "…")
            .replace("the backend refused to ", "…")
            .replace(" cannot be used: ", "…")
            .replace(" cannot be read: ", "…");
        let rest = rest.replace("(status ", "…").replace(", ", "…");
        let parts = rest.split('…').map(|part| part.trim_matches([' ', ':', ')', '(']));
        let parts: Vec<_> = parts.filter(|part| part.len() > 3).collect();
        for part in parts {
            found += 1;
            assert!(sources.contains(part), "`{part}` of `{message}` is not in the sources");
        }
    }
    assert!(found > 40, "{found}");
}

#[cfg(feature = "server")]
mod produced {
    use std::time::Duration;

    use keyfob::server::{Confirmation, Fault, Route, Server, ServerBuilder};
    use keyfob::store::MemoryStore;
    use keyfob::{Credentials, Error, Session};

    use super::messages;

    fn matches(pattern: &str, text: &str) -> bool {
        let mut parts = pattern.split('…');
        let first = parts.next().unwrap();
        let Some(mut rest) = text.strip_prefix(first) else { return false };
        let parts: Vec<_> = parts.collect();
        let Some((last, middle)) = parts.split_last() else { return rest.is_empty() };
        for part in middle {
            let Some(at) = rest.find(part) else { return false };
            rest = &rest[at + part.len()..];
        }
        rest.ends_with(last)
    }

    #[track_caller]
    fn assert_listed<T>(result: Result<T, Error>) {
        let Err(error) = result else { panic!("it succeeded") };
        let text = error.to_string();
        let known = messages().into_iter().any(|message| matches(message, &text));
        assert!(known, "the page does not list `{text}`");
    }

    fn start(builder: ServerBuilder) -> (Server, Session) {
        let server = builder.built_in_functions().start().unwrap();
        let session = open(server.app_id(), server.base_url()).unwrap();
        (server, session)
    }

    fn open(app_id: &str, base_url: &str) -> keyfob::Result<Session> {
        Session::builder(app_id, base_url).store(MemoryStore::new()).open()
    }

    fn ada(password: &str) -> Credentials {
        Credentials::email_password("ada@example.org", password)
    }

    #[test]
    fn unusable_settings_are_listed() {
        assert_listed(open("", "https://example.org"));
        assert_listed(open("app", "example.org"));
        assert_listed(open("app", "http://example.org"));
    }

    #[test]
    fn network_failures_are_listed() {
        let (server, session) = start(Server::builder());
        let user = session.log_in(&Credentials::anonymous()).unwrap();
        let call = |fault: Fault| {
            server.faults().add(fault.on(Route::CallFunction));
            user.functions().call::<i64>("sum", (1, 2))
        };
        assert_listed(call(Fault::html(200)));
        assert_listed(call(Fault::cut_in_body()));
        assert_listed(call(Fault::status(429)));
        let held = server.faults().add(Fault::hold().on(Route::Refresh));
        let impatient = session.with_deadline(Duration::from_millis(200));
        let impatient = impatient.user(user.id()).unwrap().unwrap();
        assert_listed(impatient.refresh_access_token());
        held.remove();
        server.shut_down();
        assert_listed(user.refresh_access_token());
    }

    #[test]
    fn refused_log_ins_are_listed() {
        let (server, session) = start(Server::builder().confirmation(Confirmation::Email));
        assert_listed(session.log_in(&ada("correct horse")));
        session.email_password().register("ada@example.org", "correct horse").unwrap();
        assert_listed(session.email_password().register("ada@example.org", "correct horse"));
        assert_listed(session.log_in(&ada("correct horse")));
        assert_listed(session.log_in(&Credentials::jwt("a.b.c")));
        assert_listed(session.log_in(&Credentials::api_key("unknown")));
        let user = session.log_in(&Credentials::anonymous()).unwrap();
        assert_listed(user.link(&ada("wrong horse")));
        let unknown = open("another-app", server.base_url()).unwrap();
        assert_listed(unknown.log_in(&Credentials::anonymous()));
    }

    #[test]
    fn failures_of_users_are_listed() {
        let (server, session) = start(Server::builder().function("fail", |_, _| Err("no".into())));
        session.email_password().register("ada@example.org", "correct horse").unwrap();
        let user = session.log_in(&ada("correct horse")).unwrap();
        assert_listed(user.functions().call::<()>("missing", ()));
        assert_listed(user.functions().call::<()>("fail", ()));
        assert_listed(user.functions().call::<Vec<i64>>("echo", ("text",)));
        server.disable_user(user.id()).unwrap();
        assert_listed(session.log_in(&ada("correct horse")));
        assert_listed(user.refresh_access_token());
        assert_listed(user.refresh_access_token());
        session.remove_user(&user).unwrap();
        assert_listed(user.profile());
        assert_listed::<()>(Err(keyfob::LocalState::NoCurrentUser.into()));
        session.shut_down();
        assert_listed(session.current_user());
    }

    #[cfg(feature = "encryption")]
    #[test]
    fn wrong_keys_are_listed() {
        use keyfob::EncryptionKey;

        let dir = std::path::Path::new(env!("CARGO_TARGET_TMPDIR")).join("manual-keys");
        let _ = std::fs::remove_dir_all(&dir);
        let server = Server::builder().start().unwrap();
        let builder = || Session::builder(server.app_id(), server.base_url()).data_dir(&dir);
        let key = |byte| EncryptionKey::from_bytes([byte; 32]);
        let session = builder().encryption(key(1)).open().unwrap();
        session.log_in(&Credentials::anonymous()).unwrap();
        drop(session);
        let used = |opened: keyfob::Result<Session>| opened?.current_user();
        assert_listed(used(builder().open()));
        assert_listed(used(builder().encryption(key(2)).open()));
        let builder = || {
            Session::builder(server.app_id(), server.base_url()).data_dir(dir.join("unencrypted"))
        };
        let session = builder().open().unwrap();
        session.log_in(&Credentials::anonymous()).unwrap();
        assert_listed(used(builder().encryption(key(1)).open()));
        // On Windows the files of an open session cannot be removed.
        drop(session);
        std::fs::remove_dir_all(&dir).unwrap();
    }
}
