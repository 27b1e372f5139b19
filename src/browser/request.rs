//! Parses the bytes that arrive at the listener: an HTTP request from a browser, or arbitrary bytes
//! from another local program.
//!
//! These functions do no I/O. They accept only what browsers send: `GET` and form `POST` to one
//! path, with the listener's own `Host`. Every other request is refused with a status.
//!
//! Source: RFC 9112, sections 2 to 6. Where the RFC leaves a choice, the parser takes the stricter
//! one.

/// The maximum size of the request head, in bytes.
pub(super) const MAX_HEAD: usize = 16 * 1024;

/// The maximum size of the request body, in bytes.
pub(super) const MAX_BODY: usize = 64 * 1024;

/// The maximum number of header fields.
const MAX_FIELDS: usize = 100;

const FORM: &str = "application/x-www-form-urlencoded";

/// The expected destination of requests.
#[derive(Debug)]
pub(super) struct Address {
    /// The accepted values of `Host`, in lower case. A page of another origin whose name resolves
    /// to this machine (DNS rebinding) sends that name instead.
    pub(super) hosts: Vec<String>,
    /// The path of the callback.
    pub(super) path: String,
}

/// The state of a request after the bytes so far.
pub(super) enum Parsed {
    /// The parameters of a request to the callback, still encoded.
    Callback(String),
    /// The request is not complete yet.
    Incomplete,
    /// The request is refused.
    Refused(Refusal),
}

/// The status and reason of a refusal.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Refusal {
    pub(super) status: u16,
    pub(super) reason: &'static str,
}

/// The relevant parts of a request head.
struct Head<'a> {
    method: &'a str,
    target: &'a str,
    host: &'a str,
    content_type: Option<&'a str>,
    content_length: Option<&'a str>,
}

/// Parses the bytes that a connection has received.
pub(super) fn parse(bytes: &[u8], address: &Address) -> Parsed {
    match callback(bytes, address) {
        Ok(Some(parameters)) => Parsed::Callback(parameters),
        Ok(None) => Parsed::Incomplete,
        Err((status, reason)) => Parsed::Refused(Refusal { status, reason }),
    }
}

fn callback(bytes: &[u8], address: &Address) -> Result<Option<String>, (u16, &'static str)> {
    // Reject early, for example a TLS handshake, without waiting for more bytes.
    if bytes.first().is_some_and(|byte| !byte.is_ascii_uppercase()) {
        return Err((400, "this is not an HTTP request"));
    }
    let Some(end) = bytes.windows(4).position(|end| end == b"\r\n\r\n") else {
        let too_large = bytes.len() > MAX_HEAD;
        return if too_large { Err((431, "the request head is too large")) } else { Ok(None) };
    };
    if end > MAX_HEAD {
        return Err((431, "the request head is too large"));
    }
    let head = Head::parse(&bytes[..end])?;
    if !address.hosts.iter().any(|host| head.host.eq_ignore_ascii_case(host)) {
        return Err((421, "the Host field names another server"));
    }
    let (path, query) = match head.target.split_once('?') {
        Some((path, query)) => (path, Some(query)),
        None => (head.target, None),
    };
    if path != address.path {
        return Err((404, "there is nothing here"));
    }
    match head.method {
        "GET" => {
            let query = query.unwrap_or_default();
            Ok(Some(query.split('#').next().unwrap_or_default().to_owned()))
        }
        "POST" => head.form(&bytes[end + 4..]),
        _ => Err((405, "only GET and POST are allowed here")),
    }
}

impl<'a> Head<'a> {
    fn parse(bytes: &'a [u8]) -> Result<Self, (u16, &'static str)> {
        const MALFORMED: (u16, &str) = (400, "the request head is malformed");
        let text = std::str::from_utf8(bytes).map_err(|_| MALFORMED)?;
        let mut lines = text.split("\r\n");
        let mut line = lines.next().unwrap_or_default().split(' ');
        let (Some(method), Some(target), Some(version), None) =
            (line.next(), line.next(), line.next(), line.next())
        else {
            return Err(MALFORMED);
        };
        let is_version = matches!(version, "HTTP/1.0" | "HTTP/1.1");
        let is_target = target.starts_with('/') && target.bytes().all(|b| b.is_ascii_graphic());
        if !is_version || !is_target || !method.bytes().all(|byte| byte.is_ascii_uppercase()) {
            return Err(MALFORMED);
        }
        let (mut host, mut content_type, mut content_length) = (None, None, None);
        for (count, line) in lines.enumerate() {
            if count == MAX_FIELDS {
                return Err((431, "there are too many header fields"));
            }
            let (name, value) = line.split_once(':').ok_or(MALFORMED)?;
            // A space would be a folded line, or a name that other parsers read differently.
            let is_name =
                |byte: u8| byte.is_ascii_graphic() && !b"\"(),/:;<=>?@[\\]{}".contains(&byte);
            if name.is_empty() || !name.bytes().all(is_name) || value.contains(is_control) {
                return Err(MALFORMED);
            }
            let value = value.trim_matches([' ', '\t']);
            let place = match name.to_ascii_lowercase().as_str() {
                "host" => &mut host,
                "content-type" => &mut content_type,
                "content-length" => &mut content_length,
                "transfer-encoding" => return Err((411, "a Content-Length is required")),
                _ => continue,
            };
            if place.replace(value).is_some() {
                return Err((400, "a header field is repeated"));
            }
        }
        let host = host.ok_or((400, "the Host field is missing"))?;
        Ok(Self { method, target, host, content_type, content_length })
    }

    /// Returns the form body, or `None` if it has not fully arrived.
    fn form(&self, body: &[u8]) -> Result<Option<String>, (u16, &'static str)> {
        let length = self.content_length.ok_or((411, "a Content-Length is required"))?;
        if length.is_empty() || !length.bytes().all(|digit| digit.is_ascii_digit()) {
            return Err((400, "the Content-Length is not a number"));
        }
        let length = match length.parse() {
            Ok(length @ 0..=MAX_BODY) => length,
            _ => return Err((413, "the body is too large")),
        };
        let media_type = self.content_type.unwrap_or_default().split(';').next();
        if !media_type.unwrap_or_default().trim().eq_ignore_ascii_case(FORM) {
            return Err((415, "the body must be a form"));
        }
        let Some(body) = body.get(..length) else { return Ok(None) };
        match std::str::from_utf8(body) {
            Ok(body) => Ok(Some(body.to_owned())),
            Err(_) => Err((400, "the body is not UTF-8")),
        }
    }
}

fn is_control(character: char) -> bool {
    character.is_control() && character != '\t'
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<String, u16> {
        let address =
            Address { hosts: vec!["127.0.0.1:4711".to_owned()], path: "/callback".to_owned() };
        match parse(text.as_bytes(), &address) {
            Parsed::Callback(parameters) => Ok(parameters),
            Parsed::Incomplete => Err(0),
            Parsed::Refused(refusal) => Err(refusal.status),
        }
    }

    fn get(target: &str, fields: &str) -> Result<String, u16> {
        read(&format!("GET {target} HTTP/1.1\r\nHost: 127.0.0.1:4711\r\n{fields}\r\n"))
    }

    fn post(fields: &str, body: &str) -> Result<String, u16> {
        let form = "Content-Type: application/x-www-form-urlencoded; charset=utf-8\r\n";
        read(&format!(
            "POST /callback HTTP/1.1\r\nHost: 127.0.0.1:4711\r\n{form}{fields}\r\n{body}"
        ))
    }

    #[test]
    fn callback_is_read_by_get_and_post() {
        assert_eq!(get("/callback?code=1&state=2", "").unwrap(), "code=1&state=2");
        assert_eq!(get("/callback?code=1#x", "Accept: */*\r\n").unwrap(), "code=1");
        assert_eq!(get("/callback", "").unwrap(), "");
        assert_eq!(post("Content-Length: 6\r\n", "code=1").unwrap(), "code=1");
        assert_eq!(post("Content-Length: 7\r\n", "code=1"), Err(0));
        assert_eq!(post("Content-Length: 4\r\n", "code=1").unwrap(), "code");
    }

    #[test]
    fn other_paths_methods_and_hosts_are_refused() {
        for target in ["/favicon.ico", "/", "/callback/", "/Callback", "//callback", "/%63allback"]
        {
            assert_eq!(get(target, ""), Err(404), "{target}");
        }
        for method in ["HEAD", "PUT", "OPTIONS", "CONNECT", "DELETE"] {
            let text = format!("{method} /callback HTTP/1.1\r\nHost: 127.0.0.1:4711\r\n\r\n");
            assert_eq!(read(&text), Err(405), "{method}");
        }
        for host in ["evil.example:4711", "127.0.0.1", "127.0.0.1:4712", "localhost:4711", ""] {
            let text = format!("GET /callback HTTP/1.1\r\nHost: {host}\r\n\r\n");
            assert_eq!(read(&text), Err(421), "{host}");
        }
        assert_eq!(read("GET /callback HTTP/1.1\r\n\r\n"), Err(400));
        assert_eq!(get("/callback", "Host: 127.0.0.1:4711\r\n"), Err(400));
    }

    #[test]
    fn malformed_heads_are_refused() {
        for text in [
            "\u{16}\u{3}\u{1}",
            "get / HTTP/1.1\r\n\r\n",
            "\r\n\r\n",
            "GET\r\n\r\n",
            "GET  /callback HTTP/1.1\r\nHost: 127.0.0.1:4711\r\n\r\n",
            "GET /callback HTTP/2.0\r\nHost: 127.0.0.1:4711\r\n\r\n",
            "GET http://127.0.0.1:4711/callback HTTP/1.1\r\nHost: 127.0.0.1:4711\r\n\r\n",
            "GET /callback HTTP/1.1\nHost: 127.0.0.1:4711\r\n\r\n",
            "GET /callback HTTP/1.1\r\nHost: 127.0.0.1:4711\r\n folded: x\r\n\r\n",
            "GET /callback HTTP/1.1\r\nHost : 127.0.0.1:4711\r\n\r\n",
            "GET /callback HTTP/1.1\r\nHost: 127.0.0.1:4711\r\nX: a\0b\r\n\r\n",
            "GET /callback?\u{e4} HTTP/1.1\r\nHost: 127.0.0.1:4711\r\n\r\n",
        ] {
            assert_eq!(read(text), Err(400), "{text:?}");
        }
    }

    #[test]
    fn oversized_requests_are_refused() {
        assert_eq!(get("/callback", &format!("X: {}\r\n", "x".repeat(MAX_HEAD))), Err(431));
        assert_eq!(read(&format!("GET /{}", "x".repeat(MAX_HEAD))), Err(431));
        assert_eq!(get("/callback", &"X: y\r\n".repeat(MAX_FIELDS + 1)), Err(431));
        assert_eq!(post("Content-Length: 65537\r\n", ""), Err(413));
        assert_eq!(post("Content-Length: 99999999999999999999999\r\n", ""), Err(413));
        assert_eq!(post(&format!("Content-Length: {MAX_BODY}\r\n"), ""), Err(0));
    }

    #[test]
    fn bodies_without_clear_end_are_refused() {
        assert_eq!(post("", "code=1"), Err(411));
        assert_eq!(post("Transfer-Encoding: chunked\r\n", "0\r\n\r\n"), Err(411));
        for length in ["-1", "+1", "", "1, 1", "0x1"] {
            assert_eq!(post(&format!("Content-Length: {length}\r\n"), ""), Err(400), "{length}");
        }
        assert_eq!(post("Content-Length: 1\r\nContent-Length: 1\r\n", "a"), Err(400));
        let json = "POST /callback HTTP/1.1\r\nHost: 127.0.0.1:4711\r\nContent-Length: 2\r\n\r\n{}";
        assert_eq!(read(json), Err(415));
    }
}
