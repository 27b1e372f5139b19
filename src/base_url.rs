//! Base URLs: checked once, so that joining a path to one cannot go wrong.

use std::fmt;
use std::net::Ipv6Addr;

use crate::transport::is_loopback;

/// An origin and perhaps a path in front of the protocol's own, without a slash at the end.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct BaseUrl(String);

impl BaseUrl {
    /// Checks a URL. Plain http is for loopback alone, unless `insecure` says otherwise.
    ///
    /// # Errors
    /// With what is wrong and what would be right.
    pub(crate) fn parse(text: &str, insecure: bool) -> Result<Self, String> {
        let expected = "expected something like https://example.org";
        if text.chars().any(|c| c.is_whitespace() || c.is_control() || c == '\\') {
            return Err(format!("it has spaces or control characters, {expected}"));
        }
        let (scheme, rest) =
            text.split_once("://").ok_or_else(|| format!("it has no scheme, {expected}"))?;
        let scheme = scheme.to_ascii_lowercase();
        let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
        if authority.contains('@') {
            return Err("it has a user name in it, which would end up in logs".to_owned());
        }
        if rest.contains(['?', '#']) {
            return Err(format!("it has a query or a fragment, {expected}"));
        }
        let (host, port) = split_port(authority);
        if !is_host(host) || !port.is_none_or(is_port) {
            return Err(format!("it has no valid host or port, {expected}"));
        }
        match scheme.as_str() {
            "https" => {}
            "http" if insecure || is_loopback(host) => {}
            "http" => {
                return Err("plain http would show tokens to the network: use https (a program \
                            that trusts its network can say `allow_insecure_http`)"
                    .to_owned());
            }
            _ => return Err(format!("its scheme is neither https nor http, {expected}")),
        }
        if !path.bytes().all(is_in_path) {
            return Err("its path has characters that a URL does not have: write them as %XX, in \
                        UTF-8"
                .to_owned());
        }
        let authority = authority.to_ascii_lowercase();
        Ok(Self(format!("{scheme}://{authority}{}", path.trim_end_matches('/'))))
    }

    /// Returns the URL of a path, which begins with a slash.
    pub(crate) fn join(&self, path: &str) -> String {
        [&*self.0, path].concat()
    }

    pub(crate) fn is_https(&self) -> bool {
        self.0.starts_with("https:")
    }

    /// Returns where websockets are, if nobody says otherwise: at the same place.
    pub(crate) fn websocket(&self) -> String {
        format!("ws{}", &self.0["http".len()..])
    }

    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for BaseUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

fn split_port(authority: &str) -> (&str, Option<&str>) {
    match authority.rsplit_once(':') {
        // The colons inside an IPv6 address are not a port's.
        Some((host, port)) if !port.ends_with(']') => (host, Some(port)),
        _ => (authority, None),
    }
}

/// Tells whether this is a name or an address; names beyond ASCII are written as `xn--…`.
fn is_host(host: &str) -> bool {
    match host.strip_prefix('[').and_then(|host| host.strip_suffix(']')) {
        Some(address) => address.parse::<Ipv6Addr>().is_ok(),
        None => {
            let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~".contains(&byte);
            !host.is_empty() && host.bytes().all(allowed)
        }
    }
}

/// Source: RFC 3986, section 3.3.
fn is_in_path(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"-._~!$&'()*+,;=:@%/".contains(&byte)
}

fn is_port(port: &str) -> bool {
    port.bytes().all(|digit| digit.is_ascii_digit()) && port.parse::<u16>().is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_has_what_a_url_may_have() {
        for path in ["/<x>", "/`", "/a\"b", "/{x}", "/\u{e4}"] {
            let error = BaseUrl::parse(&format!("https://h{path}"), false).unwrap_err();
            assert!(error.contains("write them as %XX"), "{error}");
        }
        assert!(BaseUrl::parse("https://h/a-b_c~d/%C3%A4/@:1", false).is_ok());
    }

    #[test]
    fn trailing_slashes_and_case_do_not_matter() {
        for text in ["https://Example.org", "https://example.org/", "HTTPS://example.org///"] {
            assert_eq!(BaseUrl::parse(text, false).unwrap().as_str(), "https://example.org");
        }
        let nested = BaseUrl::parse("https://h:8443/proxy/", false).unwrap();
        assert_eq!(nested.join("/api"), "https://h:8443/proxy/api");
        assert_eq!(nested.websocket(), "wss://h:8443/proxy");
    }

    #[test]
    fn plain_http_is_for_loopback() {
        for text in ["http://127.0.0.1:9090", "http://localhost", "http://[::1]:1"] {
            assert!(BaseUrl::parse(text, false).is_ok(), "{text}");
        }
        assert!(BaseUrl::parse("http://10.0.0.1", false).unwrap_err().contains("https"));
        assert!(BaseUrl::parse("http://10.0.0.1", true).is_ok());
    }

    #[test]
    fn what_is_no_base_url_is_refused() {
        for text in [
            "",
            "example.org",
            "https://",
            "https://:80",
            "https://h:99999",
            "https://h:+80",
            "https://h:",
            "https://[::1",
            "https://[x]",
            "https://a[b",
            "https://ä",
            "https://h\0/",
            "https://h%2f",
            "ftp://h",
            "https://u:p@h",
            "https://h?x",
            "https://h/#x",
            "https://h /",
            "https://h\r\n",
            "https://h\\x",
        ] {
            assert!(BaseUrl::parse(text, true).is_err(), "{text}");
        }
    }
}
