//! An identity provider in the hand of a test, and a browser that goes where it is sent.

use std::collections::HashMap;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use keyfob::browser::SignIn;
use ring::{digest, hmac};
use serde_json::{Value, json};

use super::net::{read_request, serve};

pub const CLIENT: &str = "my client/1";

/// The parameters of a query or a form.
pub type Form = HashMap<String, String>;

/// A request that a provider received.
#[derive(Clone, Debug)]
pub struct Asked {
    pub path: String,
    pub head: String,
    pub form: Form,
}

/// What a provider sends back: bytes of HTTP, or nothing before it closes the connection.
pub type Reply = Option<String>;

type Answer = Arc<dyn Fn(&TestProvider, &Asked) -> Reply + Send + Sync>;

/// A provider that answers as one does, except for what a test replaces. Clones are one.
#[derive(Clone)]
pub struct TestProvider {
    pub address: SocketAddr,
    shared: Arc<Mutex<Shared>>,
}

#[derive(Default)]
struct Shared {
    answers: HashMap<String, Answer>,
    asked: Vec<Asked>,
    /// By code: the parameters of its authorization request.
    codes: HashMap<String, Form>,
    /// Another client than [`CLIENT`], and the secret that its ID tokens are signed with (HS256).
    client: Option<(String, String)>,
}

impl TestProvider {
    pub fn start() -> Self {
        let shared: Arc<Mutex<Shared>> = Arc::default();
        let known = Arc::new(Mutex::new(None::<SocketAddr>));
        let (state, own) = (shared.clone(), known.clone());
        let address = serve(move |stream| {
            let Some(address) = *own.lock().unwrap() else { return };
            Self { address, shared: state.clone() }.respond(stream);
        });
        *known.lock().unwrap() = Some(address);
        Self { address, shared }
    }

    pub fn issuer(&self) -> String {
        format!("http://{}", self.address)
    }

    pub fn sign_in(&self) -> SignIn {
        SignIn::oidc(self.issuer(), CLIENT).deadline(Duration::from_secs(20))
    }

    /// Issues tokens for this client from now on, signed with this secret.
    pub fn sign_for(&self, client_id: &str, secret: &str) {
        self.shared.lock().unwrap().client = Some((client_id.to_owned(), secret.to_owned()));
    }

    /// Writes an ID token.
    pub fn id_token(&self, claims: &Value) -> String {
        let header = URL_SAFE_NO_PAD.encode(r#"{"alg":"HS256"}"#);
        let signed = format!("{header}.{}", URL_SAFE_NO_PAD.encode(claims.to_string()));
        let secret = self.shared.lock().unwrap().client.as_ref().map(|(_, secret)| secret.clone());
        let secret = secret.unwrap_or_default();
        let key = hmac::Key::new(hmac::HMAC_SHA256, secret.as_bytes());
        format!("{signed}.{}", URL_SAFE_NO_PAD.encode(hmac::sign(&key, signed.as_bytes())))
    }

    /// Answers requests to a path differently from now on.
    pub fn on(&self, path: &str, answer: impl Fn(&Self, &Asked) -> Reply + Send + Sync + 'static) {
        self.shared.lock().unwrap().answers.insert(path.to_owned(), Arc::new(answer));
    }

    /// Changes the discovery document.
    pub fn describe(&self, change: impl Fn(&mut Value) + Send + Sync + 'static) {
        self.on("/.well-known/openid-configuration", move |provider, _| {
            let mut document = provider.document();
            change(&mut document);
            Some(json_reply(200, &document))
        });
    }

    /// Changes the claims of the ID tokens.
    pub fn claim(&self, change: impl Fn(&mut Value) + Send + Sync + 'static) {
        self.on("/token", move |provider, asked| {
            let nonce = provider.nonce_of(asked);
            let mut claims = provider.claims(nonce);
            change(&mut claims);
            Some(json_reply(
                200,
                &json!({"id_token": provider.id_token(&claims), "access_token": "at"}),
            ))
        });
    }

    pub fn asked(&self, path: &str) -> Vec<Asked> {
        let shared = self.shared.lock().unwrap();
        shared.asked.iter().filter(|asked| asked.path == path).cloned().collect()
    }

    /// Remembers a code for an authorization request.
    pub fn grant(&self, code: &str, request: Form) {
        self.shared.lock().unwrap().codes.insert(code.to_owned(), request);
    }

    pub fn claims(&self, nonce: Option<String>) -> Value {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
        let client = self.shared.lock().unwrap().client.as_ref().map(|(id, _)| id.clone());
        let mut claims = json!({
            "iss": self.issuer(), "aud": client.as_deref().unwrap_or(CLIENT), "sub": "ada", "exp": now + 600, "iat": now,
        });
        if let Some(nonce) = nonce {
            claims["nonce"] = nonce.into();
        }
        claims
    }

    fn document(&self) -> Value {
        let issuer = self.issuer();
        json!({
            "issuer": issuer,
            "authorization_endpoint": format!("{issuer}/authorize"),
            "token_endpoint": format!("{issuer}/token"),
            "device_authorization_endpoint": format!("{issuer}/device"),
            "response_modes_supported": ["query", "form_post"],
        })
    }

    pub fn nonce_of(&self, asked: &Asked) -> Option<String> {
        let shared = self.shared.lock().unwrap();
        shared.codes.get(asked.form.get("code")?)?.get("nonce").cloned()
    }

    fn respond(&self, mut stream: TcpStream) {
        let Some((head, body)) = read_request(&mut stream) else { return };
        let path = head.split(' ').nth(1).unwrap().to_owned();
        let asked = Asked { path: path.clone(), head, form: form(&body) };
        let answer = {
            let mut shared = self.shared.lock().unwrap();
            shared.asked.push(asked.clone());
            shared.answers.get(&path).cloned()
        };
        let reply = match answer {
            Some(answer) => answer(self, &asked),
            None => self.usual(&asked),
        };
        if let Some(reply) = reply {
            let _ = stream.write_all(reply.as_bytes());
        }
    }

    /// What a provider answers by itself.
    pub fn usual(&self, asked: &Asked) -> Reply {
        match asked.path.as_str() {
            "/.well-known/openid-configuration" => Some(json_reply(200, &self.document())),
            "/token" => {
                let request = {
                    let mut shared = self.shared.lock().unwrap();
                    asked.form.get("code").and_then(|code| shared.codes.remove(code))
                };
                let Some(request) = request else {
                    return Some(json_reply(400, &json!({"error": "invalid_grant"})));
                };
                let verifier = asked.form["code_verifier"].as_bytes();
                let hash = digest::digest(&digest::SHA256, verifier);
                assert_eq!(request["code_challenge"], URL_SAFE_NO_PAD.encode(hash));
                assert_eq!(request["redirect_uri"], asked.form["redirect_uri"]);
                let token = self.id_token(&self.claims(request.get("nonce").cloned()));
                Some(json_reply(200, &json!({"id_token": token, "access_token": "at"})))
            }
            _ => Some(json_reply(404, &json!({}))),
        }
    }
}

pub fn json_reply(status: u16, body: &Value) -> String {
    super::net::raw(status, &body.to_string())
}

/// Parses a query or a form; a repeated parameter is a mistake of the client.
pub fn form(text: &str) -> Form {
    let mut form = Form::new();
    for pair in text.split('&').filter(|pair| !pair.is_empty()) {
        let (name, value) = pair.split_once('=').unwrap();
        assert_eq!(form.insert(decoded(name), decoded(value)), None, "{name}");
    }
    form
}

fn decoded(text: &str) -> String {
    let (mut bytes, mut rest) = (Vec::new(), text.as_bytes());
    while let [first, tail @ ..] = rest {
        if *first == b'%' {
            let digits = std::str::from_utf8(&tail[..2]).unwrap();
            bytes.push(u8::from_str_radix(digits, 16).unwrap());
            rest = &tail[2..];
        } else {
            assert_ne!(*first, b'+');
            bytes.push(*first);
            rest = tail;
        }
    }
    String::from_utf8(bytes).unwrap()
}

pub fn encoded(text: &str) -> String {
    text.bytes().map(|byte| format!("%{byte:02x}")).collect()
}

/// What a browser got from the listener.
#[derive(Clone, Debug, Default)]
pub struct Page {
    pub status: u16,
    pub head: String,
    pub html: String,
}

/// Sends bytes to a listener and reads what comes back until the connection ends.
pub fn send(address: &str, request: &[u8]) -> Page {
    let Ok(mut stream) = TcpStream::connect(address) else { return Page::default() };
    let _ = stream.set_read_timeout(Some(Duration::from_secs(30)));
    let _ = stream.write_all(request);
    let mut text = Vec::new();
    let _ = stream.read_to_end(&mut text);
    let text = String::from_utf8_lossy(&text).into_owned();
    let (head, html) = text.split_once("\r\n\r\n").unwrap_or((&text, ""));
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or(0);
    Page { status, head: head.to_owned(), html: html.to_owned() }
}

/// The address and the path of a redirect URI.
pub fn split(redirect_uri: &str) -> (&str, &str) {
    let rest = redirect_uri.strip_prefix("http://").unwrap();
    rest.split_at(rest.find('/').unwrap_or(rest.len()))
}

/// Follows a redirect as a browser does.
pub fn get(redirect_uri: &str, query: &str) -> Page {
    let (host, path) = split(redirect_uri);
    let request = format!(
        "GET {path}?{query} HTTP/1.1\r\nHost: {host}\r\nConnection: keep-alive\r\n\
         Accept: text/html\r\n\r\n"
    );
    send(host, request.as_bytes())
}

/// Submits a form as a browser does.
pub fn post(redirect_uri: &str, body: &str) -> Page {
    let (host, path) = split(redirect_uri);
    let request = format!(
        "POST {path} HTTP/1.1\r\nHost: {host}\r\nOrigin: null\r\n\
         Content-Type: application/x-www-form-urlencoded\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    );
    send(host, request.as_bytes())
}

/// The authorization request that a URL is.
pub fn authorization(url: &str) -> Form {
    form(url.split_once('?').unwrap().1)
}

/// A person with a browser, who acts on a thread of their own.
#[derive(Clone, Default)]
pub struct Person(Arc<Mutex<Vec<JoinHandle<Page>>>>);

impl Person {
    /// Lets a person act on the URL of a sign-in.
    pub fn at(
        &self,
        sign_in: SignIn,
        act: impl Fn(Form) -> Page + Send + Sync + Clone + 'static,
    ) -> SignIn {
        let hands = self.0.clone();
        sign_in.on_url(|_| {}).open_with(move |url| {
            let (act, request) = (act.clone(), authorization(url));
            hands.lock().unwrap().push(thread::spawn(move || act(request)));
        })
    }

    /// Lets a person agree: the provider grants a code, and the browser carries it over.
    pub fn agrees(&self, provider: &TestProvider, sign_in: SignIn) -> SignIn {
        let provider = provider.clone();
        self.at(sign_in, move |request| {
            let (uri, state) = (request["redirect_uri"].clone(), request["state"].clone());
            provider.grant("c0de", request);
            get(&uri, &format!("code=c0de&state={state}"))
        })
    }

    /// Returns the page on which the browser ended.
    pub fn page(&self) -> Page {
        let hand = self.0.lock().unwrap().pop().expect("the person was asked");
        hand.join().unwrap()
    }
}
