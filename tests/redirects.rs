//! Redirects: followed if the request is unchanged and its secrets stay at their origin; otherwise
//! an error. No response after a redirect ends a login.

#![allow(clippy::expect_used, clippy::unwrap_used, reason = "a test may panic")]

mod support;

use std::io::Write;
use std::net::TcpListener;
use std::thread;
use std::time::Duration;

use keyfob::store::MemoryStore;
use keyfob::transport::Response;
use keyfob::{ApiKeyId, Error, Result, Secret, Session, User, UserState};
use support::net::read_request;
use support::web::{HERE, THERE, Web, located, sends_to};
use support::{
    APP, CALL, LOCATION, LOGIN, LOGOUT, ManualClock, PROFILE, REFRESH, error_body, json_answer,
    password,
};

const STATUSES: [u16; 5] = [301, 302, 303, 307, 308];

type Operation = fn(&Session, &User) -> Result<()>;

/// Every route of the protocol but the question where the backend is, and whether it may be sent
/// twice.
const OPERATIONS: [(&str, bool, Operation); 15] = [
    (LOGIN, false, |session, _| session.log_in(&password()).map(drop)),
    ("POST /auth/providers/local-userpass/login?link=true", false, |_, user| {
        user.link(&password())
    }),
    ("POST /auth/providers/local-userpass/register", false, |session, _| {
        session.email_password().register("eve@example.org", Secret::new("pw"))
    }),
    ("POST /auth/providers/local-userpass/confirm", false, |session, _| {
        session.email_password().confirm(Secret::new("t"), "i")
    }),
    ("POST /auth/providers/local-userpass/confirm/send", false, |session, _| {
        session.email_password().resend_confirmation("eve@example.org")
    }),
    ("POST /auth/providers/local-userpass/reset/send", false, |session, _| {
        session.email_password().send_reset("eve@example.org")
    }),
    ("POST /auth/providers/local-userpass/reset", false, |session, _| {
        session.email_password().complete_reset(Secret::new("pw"), Secret::new("t"), "i")
    }),
    (REFRESH, true, |_, user| user.refresh_access_token().map(drop)),
    (PROFILE, true, |_, user| user.refresh_profile().map(drop)),
    (CALL, false, |_, user| user.functions().call::<i64>("f", ()).map(drop)),
    ("GET /auth/api_keys", true, |_, user| user.api_keys().list().map(drop)),
    ("POST /auth/api_keys", false, |_, user| user.api_keys().create("k").map(drop)),
    ("DELETE /auth/delete", false, |session, user| session.delete_user(user)),
    ("DELETE /auth/api_keys/k", true, |_, user| user.api_keys().delete(&ApiKeyId::new("k"))),
    (LOGOUT, true, |_, user| user.log_out()),
];

fn status(error: &Error) -> Option<u16> {
    error.status()
}

#[test]
fn cross_origin_redirect_sends_nothing() {
    for (route, repeatable, operation) in OPERATIONS {
        for code in STATUSES {
            for target in [
                "http://127.0.0.1:11/x",
                "http://localhost:9/x",
                "https://127.0.0.1:9/x",
                "//evil.example/x",
                "https://evil.example/api/client/v2.0/auth/session",
                "http://evil.example",
            ] {
                let what = format!("{code} of {route} to {target}");
                let web = Web::new();
                let (_, session, user) = web.logged_in(HERE);
                web.answers(move |seen| (seen.route == route).then(|| Ok(sends_to(code, target))));
                let error = operation(&session, &user).expect_err(&what);
                assert_eq!(status(&error), Some(code), "{what}: {error}");
                assert_eq!(error.is_retryable(), matches!(code, 302 | 303 | 307), "{what}");
                assert_eq!(error.is_ambiguous(), !repeatable && code < 304, "{what}");
                let named = error.to_string().contains("it redirects to ");
                assert!(named || target.starts_with("//"), "{what}: {error}");
                let arrived = web.arrived();
                assert!(arrived.iter().all(|seen| seen.origin == HERE), "{what}: {arrived:?}");
                assert_eq!(web.count(HERE, route), 1, "{what}");
                // Asked where it is once more, at most, and then told to log out after a failed log-in.
                assert!(arrived.len() <= 3, "{what}: {arrived:?}");
                if route != LOGOUT {
                    assert_eq!(user.state().unwrap(), UserState::LoggedIn, "{what}");
                }
            }
        }
    }
}

/// Method, body and token are kept.
#[test]
fn same_origin_307_and_308_keep_request() {
    for (route, _, operation) in OPERATIONS {
        for code in [307, 308] {
            let web = Web::new();
            let (_, session, user) = web.logged_in(HERE);
            web.answers(move |seen| {
                (seen.route == route).then(|| {
                    let path = route.split_once(' ').unwrap().1;
                    let app = format!("/api/client/v2.0/app/{APP}");
                    let prefix = if path.contains("/providers/") || path == "/functions/call" {
                        &app
                    } else {
                        "/api/client/v2.0"
                    };
                    // Elsewhere on the same host; what is asked for stays recognisable.
                    Ok(sends_to(code, &format!("/moved{prefix}{path}")))
                })
            });
            let outcome = operation(&session, &user);
            let arrived = web.arrived();
            let first = arrived.iter().position(|seen| seen.route == route).unwrap();
            let (before, after) = (&arrived[first], &arrived[first + 1]);
            assert!(after.route.contains("/moved"), "{route}: {arrived:?}");
            assert_eq!(before.route.split(' ').next(), after.route.split(' ').next());
            assert_eq!((&before.bearer, before.has_body), (&after.bearer, after.has_body));
            // The other end knows only empty answers here; those are enough for what returns nothing.
            match outcome {
                Ok(()) | Err(Error::Decode(_)) => {}
                Err(error) => panic!("{route}: {error}"),
            }
        }
    }
}

/// The same holds for every method other than GET.
#[test]
fn redirected_post_never_becomes_get() {
    for (route, repeatable, operation) in OPERATIONS {
        if route.starts_with("GET") {
            continue;
        }
        for code in [301, 302, 303] {
            let web = Web::new();
            let (_, session, user) = web.logged_in(HERE);
            web.answers(move |seen| (seen.route == route).then(|| Ok(sends_to(code, "/welcome"))));
            let error = operation(&session, &user).unwrap_err();
            assert_eq!(status(&error), Some(code), "{route}: {error}");
            assert_eq!(error.is_ambiguous(), !repeatable, "{route}");
            assert!(!web.arrived().iter().any(|seen| seen.route.contains("/welcome")), "{route}");
        }
    }
}

#[test]
fn same_origin_get_is_followed() {
    for code in STATUSES {
        let web = Web::new();
        let (_, _session, user) = web.logged_in(HERE);
        web.answers(move |seen| match &*seen.route {
            PROFILE => Some(Ok(sends_to(code, "/elsewhere/profile?x=1"))),
            "GET /elsewhere/profile?x=1" => {
                assert!(seen.bearer.is_some());
                let mut body = support::profile_body("ada");
                body["data"]["email"] = "eve@example.org".into();
                Some(Ok(json_answer(200, &body)))
            }
            _ => None,
        });
        assert_eq!(user.refresh_profile().unwrap().email(), Some("eve@example.org"), "{code}");
    }
}

#[test]
fn redirect_loop_is_bounded() {
    for code in STATUSES {
        let web = Web::new();
        let (_, _session, user) = web.logged_in(HERE);
        web.answers(move |seen| {
            let next = format!("/round?{}", seen.route.len());
            (seen.route != LOCATION).then(|| Ok(sends_to(code, &next)))
        });
        let error = user.refresh_profile().unwrap_err();
        assert_eq!(status(&error), Some(code));
        let hops = web.arrived().iter().filter(|seen| seen.route != LOCATION).count();
        assert_eq!(hops, 6, "the request and five redirects");
    }
}

#[test]
fn redirect_without_target_is_status_error() {
    for code in STATUSES {
        for target in [
            None,
            Some(""),
            Some("javascript:alert(1)"),
            Some("ftp://127.0.0.1:9/x"),
            Some("http://user:pw@127.0.0.1:9/x"),
            Some("http:///x"),
            Some("/a b"),
            Some("/../../auth/delete"),
            Some("\u{1b}[2J"),
        ] {
            let web = Web::new();
            let (_, _session, user) = web.logged_in(HERE);
            web.answers(move |seen| {
                (seen.route == PROFILE).then(|| match target {
                    Some(target) => Ok(sends_to(code, target)),
                    None => Ok(Response::new(code, "")),
                })
            });
            let error = user.refresh_profile().unwrap_err();
            assert_eq!(status(&error), Some(code), "{target:?}");
            assert!(!error.to_string().contains(['\u{1b}', '@']), "{error}");
            assert_eq!(web.count(HERE, PROFILE), 1, "{target:?}");
        }
    }
    // These send nowhere, whatever they say.
    for code in [300, 304, 305, 306] {
        let web = Web::new();
        let (_, _session, user) = web.logged_in(HERE);
        web.answers(move |seen| (seen.route == PROFILE).then(|| Ok(sends_to(code, "/x"))));
        assert_eq!(status(&user.refresh_profile().unwrap_err()), Some(code));
        assert_eq!(web.arrived().len(), 1);
    }
}

#[test]
fn refusal_after_redirect_keeps_login() {
    for code in [307, 308] {
        for refused in ["InvalidSession", "UserDisabled", ""] {
            let web = Web::new();
            let (_, _session, user) = web.logged_in(HERE);
            web.answers(move |seen| match &*seen.route {
                REFRESH => Some(Ok(sends_to(code, "/sso/session"))),
                "GET /auth/api_keys" => Some(Ok(sends_to(code, "/sso/keys"))),
                route if route.contains("/sso/") => Some(Ok(match refused {
                    "" => json_answer(401, &serde_json::json!({})),
                    refused => json_answer(401, &error_body(refused, "no")),
                })),
                _ => None,
            });
            let error = user.refresh_access_token().unwrap_err();
            assert_eq!((status(&error), error.needs_login()), (Some(401), false), "{refused}");
            let error = user.api_keys().list().unwrap_err();
            assert_eq!((status(&error), error.needs_login()), (Some(401), false), "{refused}");
            assert_eq!(user.state().unwrap(), UserState::LoggedIn, "{refused}");
        }
    }
}

#[test]
fn permanent_redirect_causes_location_lookup() {
    for code in [301, 308] {
        for (route, _, operation) in OPERATIONS {
            let web = Web::new();
            let (_, session, user) = web.logged_in(HERE);
            web.answers(move |seen| match (&*seen.origin, &*seen.route) {
                (HERE, LOCATION) => Some(Ok(located(THERE))),
                (HERE, _) => Some(Ok(sends_to(code, THERE))),
                (THERE, "POST /auth/api_keys") => {
                    let key = serde_json::json!({"_id": "k", "key": "s", "name": "k"});
                    Some(Ok(json_answer(201, &key)))
                }
                _ => None,
            });
            operation(&session, &user).unwrap_or_else(|error| panic!("{code} {route}: {error}"));
            assert_eq!(web.count(HERE, LOCATION), 1, "{route}");
            assert_eq!((web.count(HERE, route), web.count(THERE, route)), (1, 1), "{route}");
            let (first, last) = (&web.arrived()[0], web.arrived());
            let there = last.iter().find(|seen| seen.route == route && seen.origin == THERE);
            let there = there.unwrap();
            assert_eq!((&first.bearer, first.has_body), (&there.bearer, there.has_body));
        }
    }
}

/// The request carries no token.
#[test]
fn location_lookup_follows_permanent_redirect() {
    for code in STATUSES {
        let web = Web::new();
        web.answers(move |seen| match (&*seen.origin, &*seen.route) {
            (HERE, LOCATION) => {
                let path = format!("{THERE}/api/client/v2.0/app/{APP}/location");
                Some(Ok(sends_to(code, &path)))
            }
            (THERE, LOCATION) => Some(Ok(located(THERE))),
            _ => None,
        });
        let session = web.builder(HERE, &ManualClock::at(support::START)).open().unwrap();
        session.log_in(&password()).unwrap();
        let moved = matches!(code, 301 | 308);
        assert_eq!(web.count(THERE, LOGIN), usize::from(moved), "{code}");
        assert_eq!(web.count(HERE, LOGIN), usize::from(!moved), "{code}");
        let asked = web.arrived().into_iter().filter(|seen| seen.route == LOCATION);
        assert!(asked.into_iter().all(|seen| seen.bearer.is_none() && !seen.has_body));
    }
}

#[test]
fn redirects_never_downgrade_https() {
    let secure = "https://example.org";
    for code in STATUSES {
        let web = Web::new();
        web.answers(move |seen| match (&*seen.origin, &*seen.route) {
            ("https://example.org", LOCATION | LOGIN) => {
                Some(Ok(sends_to(code, "http://127.0.0.1:10/api")))
            }
            _ => None,
        });
        let session = web.builder(secure, &ManualClock::at(support::START)).open().unwrap();
        assert_eq!(status(&session.log_in(&password()).unwrap_err()), Some(code));
        assert!(web.arrived().iter().all(|seen| seen.origin == secure), "{web:?}");
    }
}

/// A redirect within the origin keeps the method.
#[test]
fn socket_post_is_not_redirected_to_other_port() {
    let (here, other) = ("127.0.0.1:0", "127.0.0.1:0");
    let (here, other) = (TcpListener::bind(here).unwrap(), TcpListener::bind(other).unwrap());
    let url = format!("http://{}", here.local_addr().unwrap());
    let elsewhere = format!("http://{}/x", other.local_addr().unwrap());
    let backend = thread::spawn(move || {
        let mut seen = Vec::new();
        let replies = [
            "HTTP/1.1 307 Temporary Redirect\r\nLocation: /once/more\r\nContent-Length: 0\r\n"
                .to_owned(),
            format!(
                "HTTP/1.1 307 Temporary Redirect\r\nLocation: {elsewhere}\r\nContent-Length: 0\r\n"
            ),
        ];
        for reply in replies {
            let (mut stream, _) = here.accept().unwrap();
            seen.push(read_request(&mut stream).unwrap());
            stream.write_all(format!("{reply}Connection: close\r\n\r\n").as_bytes()).unwrap();
        }
        seen
    });
    let session = Session::builder(APP, url)
        .store(MemoryStore::new())
        .location_lookup(false)
        .deadline(Duration::from_secs(20))
        .open()
        .unwrap();
    let error = session.log_in(&password()).unwrap_err();
    assert_eq!(status(&error), Some(307));
    let seen = backend.join().unwrap();
    assert!(seen[0].0.starts_with("POST /api/client/v2.0/app/"), "{}", seen[0].0);
    assert!(seen[1].0.starts_with("POST /once/more HTTP/1.1"), "{}", seen[1].0);
    assert_eq!(seen[0].1, seen[1].1);
    assert!(seen[1].1.contains("hunter22"));
    other.set_nonblocking(true).unwrap();
    assert!(other.accept().is_err(), "nobody came to the other port");
}
