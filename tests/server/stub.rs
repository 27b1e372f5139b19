//! What the providers need from elsewhere: keys, tokens signed with them, and servers to ask.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

use aws_lc_rs::encoding::{AsBigEndian, AsDer, EcPublicKeyUncompressedBin, PublicKeyX509Der};
use aws_lc_rs::hmac;
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::KeySize;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair, RSA_PKCS1_SHA256,
    RsaKeyPair,
};
use base64::Engine;
use base64::prelude::{BASE64_STANDARD, BASE64_URL_SAFE_NO_PAD};
use serde_json::{Value, json};

/// A key to sign with.
pub enum Key {
    Ed25519(Ed25519KeyPair),
    Es256(EcdsaKeyPair),
    Hs256(String),
    Rs256(Box<RsaKeyPair>),
}

impl Key {
    pub fn rsa() -> Self {
        Self::Rs256(Box::new(RsaKeyPair::generate(KeySize::Rsa2048).unwrap()))
    }

    pub fn ec() -> Self {
        Self::Es256(EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).unwrap())
    }

    pub fn ed() -> Self {
        Self::Ed25519(Ed25519KeyPair::generate().unwrap())
    }

    pub fn algorithm(&self) -> &'static str {
        match self {
            Self::Ed25519(_) => "EdDSA",
            Self::Es256(_) => "ES256",
            Self::Hs256(_) => "HS256",
            Self::Rs256(_) => "RS256",
        }
    }

    fn der(&self) -> Vec<u8> {
        let der: PublicKeyX509Der = match self {
            Self::Es256(key) => key.public_key().as_der().unwrap(),
            Self::Rs256(key) => key.public_key().as_der().unwrap(),
            Self::Ed25519(_) | Self::Hs256(_) => panic!("it is in no PEM form"),
        };
        der.as_ref().to_vec()
    }

    pub fn pem(&self) -> String {
        let text = BASE64_STANDARD.encode(self.der());
        let lines: Vec<_> =
            text.as_bytes().chunks(64).map(|line| std::str::from_utf8(line).unwrap()).collect();
        format!("-----BEGIN PUBLIC KEY-----\n{}\n-----END PUBLIC KEY-----\n", lines.join("\n"))
    }

    pub fn jwk(&self, id: &str) -> Value {
        let text = |bytes: &[u8]| BASE64_URL_SAFE_NO_PAD.encode(bytes);
        match self {
            Self::Rs256(key) => {
                let key = key.public_key();
                let (n, e) = (key.modulus(), key.exponent());
                let (n, e) =
                    (n.big_endian_without_leading_zero(), { e.big_endian_without_leading_zero() });
                json!({"kty": "RSA", "use": "sig", "alg": "RS256", "kid": id, "n": text(n), "e": text(e)})
            }
            Self::Es256(key) => {
                let point: EcPublicKeyUncompressedBin = key.public_key().as_be_bytes().unwrap();
                let point = point.as_ref();
                let (x, y) = (text(&point[1..33]), text(&point[33..]));
                json!({"kty": "EC", "crv": "P-256", "kid": id, "x": x, "y": y})
            }
            Self::Ed25519(key) => {
                let x = text(key.public_key().as_ref());
                json!({"kty": "OKP", "crv": "Ed25519", "alg": "EdDSA", "kid": id, "x": x})
            }
            Self::Hs256(secret) => json!({"kty": "oct", "kid": id, "k": text(secret.as_bytes())}),
        }
    }

    pub fn token(&self, claims: &Value) -> String {
        self.token_with(&json!({"alg": self.algorithm(), "typ": "JWT"}), claims)
    }

    pub fn token_with(&self, header: &Value, claims: &Value) -> String {
        let part = |value: &Value| BASE64_URL_SAFE_NO_PAD.encode(value.to_string());
        let text = format!("{}.{}", part(header), part(claims));
        let signature = match self {
            Self::Ed25519(key) => key.sign(text.as_bytes()).as_ref().to_vec(),
            Self::Hs256(secret) => {
                let key = hmac::Key::new(hmac::HMAC_SHA256, secret.as_bytes());
                hmac::sign(&key, text.as_bytes()).as_ref().to_vec()
            }
            Self::Es256(key) => {
                key.sign(&SystemRandom::new(), text.as_bytes()).unwrap().as_ref().to_vec()
            }
            Self::Rs256(key) => {
                let mut signature = vec![0; key.public_modulus_len()];
                let random = SystemRandom::new();
                key.sign(&RSA_PKCS1_SHA256, &random, text.as_bytes(), &mut signature).unwrap();
                signature
            }
        };
        format!("{text}.{}", BASE64_URL_SAFE_NO_PAD.encode(signature))
    }
}

/// A request that a [`Stub`] got.
#[derive(Clone, Debug)]
pub struct Asked {
    pub line: String,
    pub authorization: String,
    pub body: String,
}

/// A server that answers everything in the same way but for some paths, which can be changed.
pub struct Stub {
    pub url: String,
    answers: Arc<Mutex<Answers>>,
    asked: Arc<Mutex<Vec<Asked>>>,
}

struct Answers {
    usual: (u16, String),
    by_path: HashMap<String, (u16, String)>,
    /// Requests wait while this is locked.
    gate: Arc<Mutex<()>>,
}

impl Stub {
    pub fn start(answer: &Value) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let usual = (200, answer.to_string());
        let by_path = HashMap::new();
        let answers = Arc::new(Mutex::new(Answers { usual, by_path, gate: Arc::default() }));
        let asked = Arc::default();
        let (replies, log) = (Arc::clone(&answers), Arc::clone(&asked));
        // It ends with the test's process.
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                serve(stream, &replies, &log);
            }
        });
        Self { url, answers, asked }
    }

    pub fn set(&self, status: u16, answer: impl ToString) {
        self.answers.lock().unwrap().usual = (status, answer.to_string());
    }

    pub fn set_path(&self, path: &str, status: u16, answer: impl ToString) {
        let answer = (status, answer.to_string());
        self.answers.lock().unwrap().by_path.insert(path.to_owned(), answer);
    }

    /// Returns what holds answers back while it is locked.
    pub fn gate(&self) -> Arc<Mutex<()>> {
        Arc::clone(&self.answers.lock().unwrap().gate)
    }

    pub fn asked(&self) -> Vec<Asked> {
        self.asked.lock().unwrap().clone()
    }
}

fn serve(stream: TcpStream, answers: &Mutex<Answers>, log: &Mutex<Vec<Asked>>) {
    let mut reader = BufReader::new(stream);
    let mut asked =
        Asked { line: String::new(), authorization: String::new(), body: String::new() };
    reader.read_line(&mut asked.line).unwrap();
    let mut length = 0;
    loop {
        let mut line = String::new();
        reader.read_line(&mut line).unwrap();
        let Some((name, value)) = line.trim_end().split_once(':') else { break };
        match name.to_ascii_lowercase().as_str() {
            "authorization" => asked.authorization = value.trim().to_owned(),
            "content-length" => length = value.trim().parse().unwrap(),
            _ => {}
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body).unwrap();
    asked.body = String::from_utf8(body).unwrap();
    let path = asked.line.split(' ').nth(1).unwrap_or_default().to_owned();
    log.lock().unwrap().push(asked);
    let gate = Arc::clone(&answers.lock().unwrap().gate);
    drop(gate.lock().unwrap());
    let (status, text) = {
        let answers = answers.lock().unwrap();
        answers.by_path.get(&path).unwrap_or(&answers.usual).clone()
    };
    let head = format!(
        "HTTP/1.1 {status} S\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\
         Connection: close\r\n\r\n",
        text.len()
    );
    let _ = reader.get_mut().write_all((head + &text).as_bytes());
}
