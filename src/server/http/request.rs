//! Requests, and the parser for their heads.

use std::borrow::Cow;
use std::net::IpAddr;

/// Requests with more header fields than this are rejected.
const MAX_HEADERS: usize = 100;

/// A request. Its body is empty until it was received completely.
pub(in crate::server) struct Request {
    /// The method, as sent.
    pub method: String,
    /// The path, still percent-encoded, beginning with `/` (or `*`, for `OPTIONS`).
    pub path: String,
    /// The query after the `?`, still percent-encoded.
    pub query: Option<String>,
    /// Header fields, with names in lower case.
    pub headers: Vec<(String, String)>,
    /// The body, decoded if it was sent in chunks.
    pub body: Vec<u8>,
    /// The address of the peer: the client or a proxy.
    pub peer: IpAddr,
}

/// Why a request could not be parsed.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(in crate::server) struct Rejection {
    /// The status of the response.
    pub status: u16,
    /// The reason, for the author of the client.
    pub reason: Cow<'static, str>,
    /// The first line, if it could be parsed.
    pub line: Option<Line>,
}

/// The first line of a request, with the parts as in [`Request`].
#[derive(Clone, Debug, Eq, PartialEq)]
pub(in crate::server) struct Line {
    pub method: String,
    pub path: String,
    pub query: Option<String>,
}

/// A parsed head: everything before the body.
pub(super) struct Head {
    pub method: String,
    pub path: String,
    pub query: Option<String>,
    pub headers: Vec<(String, String)>,
    pub framing: Framing,
    /// Whether the client allows the connection to be reused.
    pub keep_alive: bool,
    /// Whether the response must have `Connection: keep-alive` if the connection is kept: HTTP/1.0.
    pub says_keep_alive: bool,
    /// Whether the client waits for `100 Continue` before it sends its body.
    pub expects_continue: bool,
}

/// How the length of a body is determined.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(in crate::server) enum Framing {
    Chunked,
    /// `usize::MAX` for larger lengths.
    Length(usize),
}

impl Request {
    /// Returns the value of a header field, the first one if there are several. `name` is in lower
    /// case.
    pub(in crate::server) fn header(&self, name: &str) -> Option<&str> {
        find(&self.headers, name)
    }

    /// Returns a copy of the first line.
    pub(in crate::server) fn line(&self) -> Line {
        let Self { method, path, query, .. } = self;
        Line { method: method.clone(), path: path.clone(), query: query.clone() }
    }
}

impl Rejection {
    pub(super) fn new(status: u16, reason: impl Into<Cow<'static, str>>) -> Self {
        Self { status, reason: reason.into(), line: None }
    }
}

impl Head {
    /// Parses a head, including the empty line at its end.
    ///
    /// Source: RFC 9112 sections 3 and 6; where it leaves a choice, this takes the stricter one.
    pub(super) fn parse(bytes: &[u8]) -> Result<Self, Rejection> {
        // RFC 9112 allows a parser to accept a lone line feed as the end of a line, but a proxy in
        // front may not.
        if bytes.starts_with(b"\n") || has_lone_line_feed(bytes) {
            return Err(Rejection::new(400, "lines must end with CRLF"));
        }
        let mut fields = [httparse::EMPTY_HEADER; MAX_HEADERS];
        let mut parsed = httparse::Request::new(&mut fields);
        match parsed.parse(bytes) {
            Ok(httparse::Status::Complete(length)) if length == bytes.len() => {}
            Ok(_) => return Err(Rejection::new(400, "malformed request head")),
            Err(httparse::Error::TooManyHeaders) => {
                return Err(Rejection::new(431, "too many header fields"));
            }
            Err(httparse::Error::Version) => {
                return Err(Rejection::new(505, "only HTTP/1.0 and HTTP/1.1 are spoken here"));
            }
            Err(_) => return Err(Rejection::new(400, "malformed request head")),
        }
        let method = parsed.method.unwrap_or_default().to_owned();
        let target = parsed.path.unwrap_or_default();
        let http_1_1 = parsed.version == Some(1);
        let mut headers = Vec::with_capacity(parsed.headers.len());
        for field in parsed.headers.iter() {
            // Bytes beyond ASCII have no meaning in the fields that the server uses, so none of
            // them is space.
            let value = String::from_utf8_lossy(field.value);
            let value = value.trim_matches(is_space).to_owned();
            headers.push((field.name.to_ascii_lowercase(), value));
        }

        let (path, query) = split_target(&method, target)?;
        let line = || Line { method: method.clone(), path: path.clone(), query: query.clone() };
        let head = |rejection: Rejection| Rejection { line: Some(line()), ..rejection };
        let hosts = headers.iter().filter(|(name, _)| name == "host").count();
        if hosts > 1 || (hosts == 0 && http_1_1) {
            return Err(head(Rejection::new(400, "exactly one Host field is required")));
        }
        let framing = framing(&headers, http_1_1).map_err(head)?;
        if framing != Framing::Length(0) && is_compressed(&headers) {
            return Err(head(Rejection::new(415, "compressed request bodies are not supported")));
        }
        let expects_continue = match find(&headers, "expect") {
            None => false,
            Some(value) if value.eq_ignore_ascii_case("100-continue") => http_1_1,
            Some(_) => return Err(head(Rejection::new(417, "unknown expectation"))),
        };
        let keep_alive = if has_token(&headers, "close") {
            false
        } else {
            http_1_1 || has_token(&headers, "keep-alive")
        };
        Ok(Self {
            says_keep_alive: keep_alive && !http_1_1,
            method,
            path,
            query,
            headers,
            framing,
            keep_alive,
            expects_continue,
        })
    }
}

/// Reads a whole request from memory as a connection does, except for chunked bodies.
#[cfg(test)]
pub(in crate::server) fn read(bytes: &[u8]) -> Result<Request, Rejection> {
    let end = bytes.windows(4).position(|end| end == b"\r\n\r\n").map_or(bytes.len(), |at| at + 4);
    let Head { method, path, query, headers, framing, .. } = Head::parse(&bytes[..end])?;
    let body = match framing {
        Framing::Chunked => bytes[end..].to_vec(),
        Framing::Length(length) => bytes[end..].iter().copied().take(length).collect(),
    };
    Ok(Request { method, path, query, headers, body, peer: std::net::Ipv4Addr::LOCALHOST.into() })
}

/// Returns `true` if there is a line feed without a carriage return.
pub(super) fn has_lone_line_feed(bytes: &[u8]) -> bool {
    bytes.windows(2).any(|pair| pair[1] == b'\n' && pair[0] != b'\r')
}

/// Splits a request target into path and query. Scheme and host are removed, because this server is
/// the only host.
fn split_target(method: &str, target: &str) -> Result<(String, Option<String>), Rejection> {
    let local = if target.starts_with('/') || (target == "*" && method == "OPTIONS") {
        target
    } else {
        let scheme = target.get(..7).is_some_and(|start| start.eq_ignore_ascii_case("http://"));
        let Some(rest) = target.get(7..).filter(|_| scheme) else {
            return Err(Rejection::new(400, "the request target must be a path"));
        };
        rest.find(['/', '?', '#']).map_or("/", |end| &rest[end..])
    };
    // Clients should not send fragments; a fragment is ignored.
    let local = local.split_once('#').map_or(local, |(local, _)| local);
    let (path, query) = match local.split_once('?') {
        None => (local, None),
        Some((path, query)) => (path, Some(query.to_owned())),
    };
    let path = if path.is_empty() { "/" } else { path };
    Ok((path.to_owned(), query))
}

/// Determines where the body ends. An ambiguous request is rejected, because a proxy may have read
/// it in the other way.
fn framing(headers: &[(String, String)], http_1_1: bool) -> Result<Framing, Rejection> {
    let all = |wanted: &'static str| {
        headers.iter().filter(move |(name, _)| name == wanted).map(|(_, value)| value.as_str())
    };
    let mut codings = all("transfer-encoding");
    let mut lengths = all("content-length");
    match (codings.next(), lengths.next()) {
        (None, None) => Ok(Framing::Length(0)),
        (Some(_), Some(_)) => {
            Err(Rejection::new(400, "Content-Length and Transfer-Encoding exclude each other"))
        }
        (Some(_), None) if !http_1_1 => {
            Err(Rejection::new(400, "HTTP/1.0 has no Transfer-Encoding"))
        }
        (Some(coding), None) => {
            if codings.next().is_some() {
                Err(Rejection::new(400, "more than one Transfer-Encoding"))
            } else if coding.eq_ignore_ascii_case("chunked") {
                Ok(Framing::Chunked)
            } else {
                Err(Rejection::new(501, "the only transfer coding known here is chunked"))
            }
        }
        (None, Some(length)) => {
            if lengths.next().is_some() {
                return Err(Rejection::new(400, "more than one Content-Length"));
            }
            if length.is_empty() || !length.bytes().all(|byte| byte.is_ascii_digit()) {
                return Err(Rejection::new(400, "Content-Length must be a number"));
            }
            // The value has only digits, so parsing can fail only because it is too large.
            Ok(Framing::Length(length.parse().unwrap_or(usize::MAX)))
        }
    }
}

/// Returns `true` if a character is white space in a header field. Proxies in front treat no other
/// character as white space.
///
/// Source: RFC 9110 section 5.6.3.
fn is_space(character: char) -> bool {
    matches!(character, ' ' | '\t')
}

fn find<'a>(headers: &'a [(String, String)], name: &str) -> Option<&'a str> {
    headers.iter().find(|(field, _)| field == name).map(|(_, value)| value.as_str())
}

fn is_compressed(headers: &[(String, String)]) -> bool {
    let mut codings = headers.iter().filter(|(name, _)| name == "content-encoding");
    codings.any(|(_, coding)| !(coding.is_empty() || coding.eq_ignore_ascii_case("identity")))
}

/// Returns `true` if a `Connection` field lists this option.
fn has_token(headers: &[(String, String)], token: &str) -> bool {
    headers
        .iter()
        .filter(|(name, _)| name == "connection")
        .flat_map(|(_, value)| value.split(','))
        .any(|option| option.trim_matches(is_space).eq_ignore_ascii_case(token))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Head, Rejection> {
        Head::parse(text.as_bytes())
    }

    fn status(text: &str) -> u16 {
        parse(text).err().map_or(200, |rejection| rejection.status)
    }

    #[test]
    fn request_head_is_parsed() {
        let head =
            parse("POST /a/b?c=d HTTP/1.1\r\nHost: h\r\nContent-Length: 12\r\n\r\n").unwrap();
        assert_eq!((head.method.as_str(), head.path.as_str()), ("POST", "/a/b"));
        assert_eq!(head.query.as_deref(), Some("c=d"));
        assert_eq!(head.framing, Framing::Length(12));
        assert!(head.keep_alive && !head.says_keep_alive);
    }

    #[test]
    fn ambiguous_framing_is_refused() {
        let with =
            |fields: &str| status(&format!("POST / HTTP/1.1\r\nHost: h\r\n{fields}\r\n\r\n"));
        assert_eq!(with("Content-Length: 3\r\nTransfer-Encoding: chunked"), 400);
        assert_eq!(with("Content-Length: 3\r\nContent-Length: 3"), 400);
        assert_eq!(with("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked"), 400);
        assert_eq!(with("Transfer-Encoding: gzip, chunked"), 501);
        assert_eq!(with("Transfer-Encoding: xchunked"), 501);
        assert_eq!(with("Transfer-Encoding: \u{a0}chunked"), 501);
        assert_eq!(with("Transfer-Encoding: chunked\u{3000}"), 501);
        assert_eq!(with("Transfer-Encoding: \t chunked \t"), 200);
        assert_eq!(with("Transfer-Encoding : chunked"), 400);
        for length in ["+3", "-3", "3, 3", "0x3", "3 3", "", "3a", "\u{a0}3", "3\u{3000}"] {
            assert_eq!(with(&format!("Content-Length: {length}")), 400, "{length:?}");
        }
        let length = |text: &str| {
            parse(&format!("POST / HTTP/1.1\r\nHost: h\r\nContent-Length: {text}\r\n\r\n"))
                .unwrap()
                .framing
        };
        assert_eq!(length("1000"), Framing::Length(1000));
        assert_eq!(length("99999999999999999999999"), Framing::Length(usize::MAX));
        assert_eq!(status("POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n"), 400);
    }

    #[test]
    fn hosts_versions_and_folds_are_checked() {
        assert_eq!(status("GET / HTTP/1.1\r\n\r\n"), 400);
        assert_eq!(status("GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n"), 400);
        assert_eq!(status("GET / HTTP/1.0\r\n\r\n"), 200);
        assert_eq!(status("GET / HTTP/2.0\r\nHost: a\r\n\r\n"), 505);
        assert_eq!(status("GET / HTTP/1.1\r\nHost: a\r\n folded: b\r\n\r\n"), 400);
        assert_eq!(status("GET / HTTP/1.1\nHost: a\r\n\r\n"), 400);
        assert_eq!(status("GET a HTTP/1.1\r\nHost: a\r\n\r\n"), 400);
    }

    #[test]
    fn absolute_target_keeps_path() {
        let head = parse("GET http://a:1/b?c HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
        assert_eq!((head.path.as_str(), head.query.as_deref()), ("/b", Some("c")));
        for (target, path, query) in [
            ("http://a", "/", None),
            ("http://a?b=c/d", "/", Some("b=c/d")),
            ("HTTP://a#b/c", "/", None),
            ("http://a/b#c?d", "/b", None),
            ("/b?c#d", "/b", Some("c")),
        ] {
            let head = parse(&format!("GET {target} HTTP/1.1\r\nHost: a\r\n\r\n")).unwrap();
            assert_eq!((head.path.as_str(), head.query.as_deref()), (path, query), "{target}");
        }
    }

    #[test]
    fn http_version_decides_keep_alive() {
        let keeps = |text| parse(text).unwrap().keep_alive;
        assert!(!keeps("GET / HTTP/1.0\r\n\r\n"));
        assert!(keeps("GET / HTTP/1.0\r\nConnection: Keep-Alive\r\n\r\n"));
        assert!(!keeps("GET / HTTP/1.1\r\nHost: a\r\nConnection: x, Close\r\n\r\n"));
    }
}
