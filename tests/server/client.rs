//! A bare client, raw sockets, and a clock to set.

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use keyfob::Clock;
use keyfob::server::Server;
use serde_json::{Value, json};

pub const CLIENT: &str = "/api/client/v2.0";
pub const JSON: &str = "application/json;charset=utf-8";

/// Asks a server, and never follows, refreshes or retries anything.
pub struct Client {
    agent: ureq::Agent,
    base_url: String,
    app_id: String,
}

/// An answer, read to its end.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub text: String,
}

/// What a log-in answers.
#[derive(Clone, Debug, PartialEq)]
pub struct LogIn {
    pub access: String,
    pub refresh: String,
    pub user_id: String,
}

/// A clock that stands still until it is moved.
#[derive(Clone, Debug)]
pub struct ManualClock(Arc<Mutex<Duration>>);

impl Client {
    pub fn new(server: &Server) -> Self {
        let config = ureq::Agent::config_builder()
            .http_status_as_error(false)
            .max_redirects(0)
            .proxy(None)
            .timeout_global(Some(Duration::from_secs(20)));
        Self {
            agent: config.build().into(),
            base_url: server.base_url().to_owned(),
            app_id: server.app_id().to_owned(),
        }
    }

    /// A client that reaches the server at another URL than its own.
    pub fn at(server: &Server, url: &str) -> Self {
        Self { base_url: url.to_owned(), ..Self::new(server) }
    }

    /// Logs in through a proxy that says whom it forwards.
    pub fn try_forwarded(&self, provider: &str, body: &str, forwarded: &str) -> Answer {
        let path = self.app(&format!("/auth/providers/{provider}/login"));
        self.send_with("POST", &path, &[("X-Forwarded-For", forwarded)], body)
    }

    /// Sends a request whose path is below the client API.
    pub fn send(&self, method: &str, path: &str, token: Option<&str>, body: &str) -> Answer {
        let bearer = token.map(|token| format!("Bearer {token}"));
        let bearer = bearer.as_deref().map(|bearer| ("Authorization", bearer));
        self.send_with(method, path, bearer.as_slice(), body)
    }

    pub fn send_with(
        &self,
        method: &str,
        path: &str,
        fields: &[(&str, &str)],
        body: &str,
    ) -> Answer {
        let mut request = ureq::http::Request::builder()
            .method(method)
            .uri(format!("{}{CLIENT}{path}", self.base_url))
            .header("Content-Type", JSON);
        for (name, value) in fields {
            request = request.header(*name, *value);
        }
        let mut response = self.agent.run(request.body(body.to_owned()).unwrap()).unwrap();
        let header = |(name, value): (&ureq::http::HeaderName, &ureq::http::HeaderValue)| {
            (name.to_string(), value.to_str().unwrap().to_owned())
        };
        Answer {
            status: response.status().as_u16(),
            headers: response.headers().iter().map(header).collect(),
            text: response.body_mut().read_to_string().unwrap(),
        }
    }

    /// Returns a path below the app, as [`send`](Self::send) wants it.
    pub fn app(&self, path: &str) -> String {
        format!("/app/{}{path}", self.app_id)
    }

    pub fn register(&self, email: &str, password: &str) -> Answer {
        let body = json!({"email": email, "password": password}).to_string();
        self.send("POST", &self.app("/auth/providers/local-userpass/register"), None, &body)
    }

    pub fn try_log_in(&self, provider: &str, body: &str) -> Answer {
        self.send("POST", &self.app(&format!("/auth/providers/{provider}/login")), None, body)
    }

    pub fn try_password(&self, email: &str, password: &str) -> Answer {
        let body = json!({"username": email, "password": password}).to_string();
        self.try_log_in("local-userpass", &body)
    }

    pub fn anonymous(&self) -> LogIn {
        LogIn::read(&self.try_log_in("anon-user", "{}"))
    }

    pub fn ada(&self) -> LogIn {
        self.register("ada@example.org", "hunter22");
        LogIn::read(&self.try_password("ada@example.org", "hunter22"))
    }

    pub fn profile(&self, access: &str) -> Answer {
        self.send("GET", "/auth/profile", Some(access), "")
    }

    pub fn refresh(&self, refresh: &str) -> Answer {
        self.send("POST", "/auth/session", Some(refresh), "")
    }

    pub fn log_out(&self, refresh: &str) -> Answer {
        self.send("DELETE", "/auth/session", Some(refresh), "")
    }

    pub fn call(&self, access: &str, name: &str, arguments: &Value) -> Answer {
        let body = json!({"name": name, "arguments": arguments}).to_string();
        self.send("POST", &self.app("/functions/call"), Some(access), &body)
    }
}

impl Answer {
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_else(|_| panic!("no JSON: {self:?}"))
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(field, _)| field == name).map(|(_, value)| value.as_str())
    }

    /// Returns status, code (empty without one) and message of an error.
    pub fn error(&self) -> (u16, String, String) {
        let body = self.json();
        let text = |name: &str| body[name].as_str().unwrap_or_default().to_owned();
        (self.status, text("error_code"), text("error"))
    }

    #[track_caller]
    pub fn assert_error(&self, status: u16, code: &str, message: &str) {
        assert_eq!(self.error(), (status, code.to_owned(), message.to_owned()));
    }
}

impl LogIn {
    #[track_caller]
    pub fn read(answer: &Answer) -> Self {
        assert_eq!(answer.status, 200, "{answer:?}");
        let body = answer.json();
        let text = |name: &str| body[name].as_str().expect(name).to_owned();
        Self {
            access: text("access_token"),
            refresh: text("refresh_token"),
            user_id: text("user_id"),
        }
    }
}

impl ManualClock {
    pub fn new() -> Self {
        Self(Arc::default())
    }

    pub fn advance(&self, seconds: u64) {
        *self.0.lock().unwrap() += Duration::from_secs(seconds);
    }
}

impl Clock for ManualClock {
    fn now(&self) -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(1_700_000_000) + self.monotonic()
    }

    fn monotonic(&self) -> Duration {
        *self.0.lock().unwrap()
    }
}

/// Opens a connection that gives up reading after ten seconds.
pub fn connect(server: &Server) -> TcpStream {
    let stream = TcpStream::connect(server.local_addr()).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
    stream
}

/// Sends bytes on a connection of their own and returns all that comes back until it is closed.
pub fn raw(server: &Server, bytes: impl AsRef<[u8]>) -> String {
    let mut stream = connect(server);
    stream.write_all(bytes.as_ref()).unwrap();
    read_to_end(&mut stream)
}

/// Reads until the other end closes, in whatever way.
pub fn read_to_end(stream: &mut TcpStream) -> String {
    let mut bytes = Vec::new();
    let mut chunk = [0; 4096];
    loop {
        match stream.read(&mut chunk) {
            Ok(0) => break,
            Ok(read) => bytes.extend_from_slice(&chunk[..read]),
            Err(error) if error.kind() == ErrorKind::ConnectionReset => break,
            Err(error) => panic!("the connection stayed open: {error}"),
        }
    }
    String::from_utf8(bytes).unwrap()
}

/// Reads one answer with a `Content-Length` off a connection.
pub fn read_answer(stream: &mut TcpStream) -> String {
    let mut bytes = Vec::new();
    let mut byte = [0];
    while !bytes.ends_with(b"\r\n\r\n") {
        assert_eq!(stream.read(&mut byte).unwrap(), 1, "closed early");
        bytes.push(byte[0]);
    }
    let head = String::from_utf8(bytes).unwrap();
    let length = head
        .lines()
        .find_map(|line| line.strip_prefix("Content-Length: "))
        .map_or(0, |length| length.parse().unwrap());
    let mut body = vec![0; length];
    stream.read_exact(&mut body).unwrap();
    head + &String::from_utf8(body).unwrap()
}

/// Returns the statuses in a text of several answers.
pub fn statuses(text: &str) -> Vec<u16> {
    let status = |answer: &str| answer.get(..3)?.parse().ok();
    text.split("HTTP/1.1 ").skip(1).filter_map(status).collect()
}

impl Client {
    /// Links credentials to the user of an access token.
    pub fn link(&self, access: &str, provider: &str, body: &Value) -> Answer {
        let path = self.app(&format!("/auth/providers/{provider}/login?link=true"));
        self.send("POST", &path, Some(access), &body.to_string())
    }

    pub fn log_in(&self, provider: &str, body: &Value) -> LogIn {
        LogIn::read(&self.try_log_in(provider, &body.to_string()))
    }

    /// Sends something about an e-mail account.
    pub fn email(&self, operation: &str, body: &Value) -> Answer {
        let path = self.app(&format!("/auth/providers/local-userpass/{operation}"));
        self.send("POST", &path, None, &body.to_string())
    }

    pub fn create_key(&self, refresh: &str, name: &str) -> Answer {
        self.send("POST", "/auth/api_keys", Some(refresh), &json!({"name": name}).to_string())
    }

    pub fn delete_user(&self, access: &str) -> Answer {
        self.send("DELETE", "/auth/delete", Some(access), "")
    }
}

/// Returns the provider types of a user's identities, in their order.
#[track_caller]
pub fn providers(profile: &Answer) -> Vec<String> {
    let profile = profile.json();
    let identities = profile["identities"].as_array().expect("identities").iter();
    identities.map(|identity| identity["provider_type"].as_str().unwrap().to_owned()).collect()
}
