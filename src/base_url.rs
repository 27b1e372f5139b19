//! Base URLs, validated and normalised, so that two spellings of a URL have the same origin and the
//! same store.

use std::fmt::{self, Write as _};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// An origin and an optional path that precedes the paths of the protocol, without a trailing
/// slash. Equivalent URLs have equal values.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct BaseUrl(String);

impl BaseUrl {
    /// Parses a URL. Plain http is allowed only for loopback, unless `insecure` is set.
    ///
    /// # Errors
    /// A description of the problem and of the expected form.
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
        if !authority.is_ascii() {
            return Err("its host has characters beyond ASCII: write the name in its ASCII form, \
                        such as xn--bcher-kva.example for b\u{fc}cher.example"
                .to_owned());
        }
        if !matches!(&*scheme, "http" | "https") {
            return Err(format!("its scheme is neither https nor http, {expected}"));
        }
        let Some((host, port)) = normal_authority(&scheme, authority) else {
            return Err(format!("it has no valid host or port, {expected}"));
        };
        if scheme == "http" && !insecure && !is_loopback(&host) {
            return Err("plain http would show tokens to the network: use https (a program that \
                        trusts its network can say `allow_insecure_http`)"
                .to_owned());
        }
        let path = normal_path(path).ok_or(
            "its path has characters that a URL does not have: write them as %XX, in UTF-8",
        )?;
        Ok(Self(format!("{scheme}://{host}{port}{path}")))
    }

    /// Returns the URL of a path, which must begin with a slash.
    pub(crate) fn join(&self, path: &str) -> String {
        [&*self.0, path].concat()
    }

    pub(crate) fn is_https(&self) -> bool {
        self.0.starts_with("https:")
    }

    /// Returns the default URL for WebSockets, with the same host and path.
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

/// Returns the normalised scheme, host and port of an absolute http or https URL. `None` if the URL
/// has a user name or no valid host.
pub(crate) fn origin(url: &str) -> Option<String> {
    let (scheme, rest) = url.split_once("://")?;
    let scheme = scheme.to_ascii_lowercase();
    let authority = &rest[..rest.find(['/', '?', '#']).unwrap_or(rest.len())];
    let (host, port) = normal_authority(&scheme, authority)?;
    Some(format!("{scheme}://{host}{port}"))
}

/// Returns `true` if a URL's host is this machine: a name or an address, with or without brackets.
pub(crate) fn is_loopback(host: &str) -> bool {
    let host = host.trim_start_matches('[').trim_end_matches(']');
    host.eq_ignore_ascii_case("localhost")
        || host.parse::<IpAddr>().is_ok_and(|address| address.to_canonical().is_loopback())
}

/// Returns the normalised host, and the port unless it is the default of the scheme.
///
/// Source: RFC 3986, section 6.2.
fn normal_authority(scheme: &str, authority: &str) -> Option<(String, String)> {
    let default = match scheme {
        "http" => 80,
        "https" => 443,
        _ => return None,
    };
    let (host, port) = match authority.rsplit_once(':') {
        // A colon inside an IPv6 address does not begin a port.
        Some((host, port)) if !port.ends_with(']') => (host, port),
        _ => (authority, ""),
    };
    if !port.bytes().all(|digit| digit.is_ascii_digit()) {
        return None;
    }
    let port: u16 = if port.is_empty() { default } else { port.parse().ok()? };
    let port = if port == default { String::new() } else { format!(":{port}") };
    Some((normal_host(host)?, port))
}

fn normal_host(host: &str) -> Option<String> {
    if let Some(address) = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')) {
        return address.parse::<Ipv6Addr>().ok().map(|address| format!("[{address}]"));
    }
    // A trailing dot only marks the name as fully qualified.
    let host = host.strip_suffix('.').unwrap_or(host).to_ascii_lowercase();
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"-_~".contains(&byte);
    if !host.split('.').all(|label| !label.is_empty() && label.bytes().all(allowed)) {
        return None;
    }
    // A DNS name does not end in a number: systems parse such a host as an address, in many forms.
    let last = host.rsplit('.').next()?;
    let is_number = last.bytes().all(|digit| digit.is_ascii_digit()) || last.starts_with("0x");
    if is_number && host.parse::<Ipv4Addr>().is_err() {
        return None;
    }
    Some(host)
}

/// Returns a normalised path: escapes in upper case and only where needed, `.` and `..` resolved,
/// no trailing slash. `None` if it has characters that are invalid in a URL.
fn normal_path(path: &str) -> Option<String> {
    let mut plain = String::with_capacity(path.len());
    let mut bytes = path.bytes();
    while let Some(byte) = bytes.next() {
        if byte != b'%' {
            plain.push(Some(char::from(byte)).filter(|_| is_in_path(byte))?);
            continue;
        }
        let digit = |byte: Option<u8>| char::from(byte?).to_digit(16);
        let value = u8::try_from(digit(bytes.next())? * 16 + digit(bytes.next())?).ok()?;
        if is_unreserved(value) {
            plain.push(value.into());
        } else {
            write!(plain, "%{value:02X}").ok()?;
        }
    }
    let mut segments = Vec::new();
    for segment in plain.split('/').skip(1) {
        match segment {
            "." => {}
            ".." => drop(segments.pop()),
            segment => segments.push(segment),
        }
    }
    let path: String = segments.iter().flat_map(|segment| ["/", segment]).collect();
    Some(path.trim_end_matches('/').to_owned())
}

/// Source: RFC 3986, section 2.3.
fn is_unreserved(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"-._~".contains(&byte)
}

/// Source: RFC 3986, section 3.3.
fn is_in_path(byte: u8) -> bool {
    is_unreserved(byte) || b"!$&'()*+,;=:@/".contains(&byte)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn normal(text: &str) -> String {
        let url = BaseUrl::parse(text, false).unwrap_or_else(|error| panic!("{text}: {error}"));
        assert_eq!(BaseUrl::parse(url.as_str(), false).as_ref(), Ok(&url), "it is normal");
        url.as_str().to_owned()
    }

    #[test]
    fn path_characters_are_checked() {
        for path in ["/<x>", "/`", "/a\"b", "/{x}", "/\u{e4}", "/%", "/%4", "/%g0", "/%+1"] {
            let error = BaseUrl::parse(&format!("https://h{path}"), false).unwrap_err();
            assert!(error.contains("write them as %XX"), "{error}");
        }
        assert_eq!(normal("https://h/a-b_c~d/%C3%A4/@:1"), "https://h/a-b_c~d/%C3%A4/@:1");
    }

    #[test]
    fn spellings_of_one_place_are_equal() {
        for (expected, spellings) in [
            (
                "https://example.org",
                &[
                    "https://Example.ORG",
                    "https://example.org/",
                    "HTTPS://example.org///",
                    "https://example.org:443",
                    "https://example.org:0443/",
                    "https://example.org:",
                    "https://example.org.",
                    "https://example.org.:443/./",
                    "https://example.org/a/..",
                ][..],
            ),
            ("http://localhost", &["http://localhost:80", "http://LOCALHOST.:80/"]),
            ("http://localhost:443", &["http://localhost:443", "http://localhost.:00443"]),
            (
                "https://[2001:db8::1]",
                &[
                    "https://[2001:DB8::1]:443",
                    "https://[2001:db8:0:0:0:0:0:1]",
                    "https://[2001:0db8::0001]/",
                    "https://[2001:db8::0.0.0.1]",
                ],
            ),
            (
                "https://h/a%2Fb/~c",
                &[
                    "https://h/a%2fb/%7Ec",
                    "https://h/%61%2Fb/%7ec/",
                    "https://h/x/%2e%2E/a%2fb/./~c",
                ],
            ),
            ("https://h:8443/proxy", &["https://h:8443/proxy/"]),
        ] {
            for spelling in spellings {
                assert_eq!(normal(spelling), expected, "{spelling}");
            }
        }
        for other in
            ["https://h/a", "https://h/A", "https://h/a//b", "https://h/a/b", "https://h:1"]
        {
            assert_eq!(normal(other), other);
        }
    }

    #[test]
    fn urls_are_joined() {
        let nested = BaseUrl::parse("https://h:8443/proxy/", false).unwrap();
        assert_eq!(nested.join("/api"), "https://h:8443/proxy/api");
        assert_eq!(nested.websocket(), "wss://h:8443/proxy");
    }

    #[test]
    fn origins_of_one_place_are_equal() {
        for url in ["HTTPS://H.example:443/b?x", "https://h.example./", "https://h.example#x"] {
            assert_eq!(origin(url).as_deref(), Some("https://h.example"), "{url}");
        }
        for url in ["https://", "https:///path", "https://:443/", "https://u@h/", "ftp://h", "h"] {
            assert_eq!(origin(url), None, "{url}");
        }
    }

    #[test]
    fn plain_http_is_for_loopback() {
        for text in [
            "http://127.0.0.1:9090",
            "http://localhost.",
            "http://[::1]:1",
            "http://[::ffff:127.0.0.1]",
        ] {
            assert!(BaseUrl::parse(text, false).is_ok(), "{text}");
        }
        assert!(BaseUrl::parse("http://10.0.0.1", false).unwrap_err().contains("https"));
        assert!(BaseUrl::parse("http://10.0.0.1", true).is_ok());
    }

    #[test]
    fn invalid_urls_are_rejected() {
        for text in [
            "",
            "example.org",
            "https://",
            "https://.",
            "https://:80",
            "https://h:99999",
            "https://h:+80",
            "https://h:8o",
            "https://a..b",
            "https://.h",
            "https://h..",
            "https://[::1",
            "https://[x]",
            "https://[fe80::1%25eth0]",
            "https://a[b",
            "https://ä",
            "https://h\0/",
            "https://h%2f",
            "https://127.1",
            "https://0x7f.0.0.1",
            "https://0x7f000001",
            "https://2130706433",
            "https://127.0.0.01",
            "ftp://h",
            "https://u:p@h",
            "https://@h",
            "https://h?x",
            "https://h/#x",
            "https://h /",
            "https://h\r\n",
            "https://h\\x",
        ] {
            assert!(BaseUrl::parse(text, true).is_err(), "{text}");
        }
        let error = BaseUrl::parse("https://b\u{fc}cher.example", false).unwrap_err();
        assert!(error.contains("xn--bcher-kva.example"), "{error}");
    }

    #[test]
    fn loopback_hosts_are_recognised() {
        for host in
            ["localhost", "LOCALHOST", "127.0.0.1", "127.9.9.9", "[::1]", "[::ffff:127.0.0.1]"]
        {
            assert!(is_loopback(host), "{host}");
        }
        for host in ["localhost.example.org", "10.0.0.1", "example.org", ""] {
            assert!(!is_loopback(host), "{host}");
        }
    }
}
