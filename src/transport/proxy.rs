//! Selects the proxy of a request: the one that the program names, or one from the environment.
//!
//! The environment is interpreted as curl does, except that an unusable proxy is an error: a direct
//! connection would reveal to the network what the proxy is meant to hide.
//!
//! ureq's own rule is not used, because it ignores a proxy that it cannot use and connects directly,
//! uses one proxy for both http and https, and trusts `HTTP_PROXY` in a CGI program.

use std::net::IpAddr;

use crate::base_url::is_loopback;

/// The proxies for plain http and for https. Loopback never goes through one.
#[derive(Clone, Debug)]
pub(super) struct Proxies {
    http: Choice,
    https: Choice,
    except: Vec<Exception>,
}

/// A proxy's URL, none, or the reason why the given one cannot be used.
type Choice = Result<Option<Proxy>, String>;

/// The URL of a proxy, which may hold a password.
#[derive(Clone, Eq, PartialEq)]
pub(super) struct Proxy(String);

/// Hosts that are reached directly.
#[derive(Clone, Debug, Eq, PartialEq)]
enum Exception {
    All,
    /// A host with its subdomains, on one port or on all.
    Host {
        name: String,
        port: Option<u16>,
    },
    /// A block of addresses, which share this many leading bits.
    Block {
        address: IpAddr,
        bits: u32,
    },
}

impl Proxies {
    /// Reads `https_proxy`, `http_proxy`, `all_proxy` and `no_proxy`, lower case first.
    ///
    /// `HTTP_PROXY` is ignored if a web server started this process (CGI), because any client of
    /// that server can set it. With `ignores_case`, as on Windows, `http_proxy` is the same variable.
    pub(super) fn from_environment(
        variable: impl Fn(&str) -> Option<String>,
        ignores_case: bool,
    ) -> Self {
        let is_cgi = variable("REQUEST_METHOD").is_some();
        let is_forged =
            |name: &str| is_cgi && (name == "HTTP_PROXY" || ignores_case && name == "http_proxy");
        let read = |name: &str| variable(name).filter(|value| !value.trim().is_empty());
        let first = |names: &[&'static str]| -> Choice {
            let names = names.iter().filter(|name| !is_forged(name));
            let found = names.filter_map(|name| Some((name, read(name)?))).next();
            let Some((name, url)) = found else { return Ok(None) };
            Proxy::parse(&url).map(Some).map_err(|reason| format!("`{name}` {reason}"))
        };
        let except = read("no_proxy").or_else(|| read("NO_PROXY")).unwrap_or_default();
        Self {
            http: first(&["http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"]),
            https: first(&["https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"]),
            except: except.split([',', ' ']).filter_map(Exception::parse).collect(),
        }
    }

    /// No proxy for anything.
    pub(super) fn none() -> Self {
        Self { http: Ok(None), https: Ok(None), except: Vec::new() }
    }

    /// One proxy for everything but loopback.
    pub(super) fn one(url: &str) -> Result<Self, String> {
        let proxy = Proxy::parse(url).map_err(|reason| format!("its URL {reason}"))?;
        Ok(Self { http: Ok(Some(proxy.clone())), https: Ok(Some(proxy)), except: Vec::new() })
    }

    /// Returns the proxy for a host, if any, or the reason why it cannot be used.
    pub(super) fn for_host(
        &self,
        is_https: bool,
        host: &str,
        port: Option<u16>,
    ) -> Result<Option<&Proxy>, &str> {
        let choice = if is_https { &self.https } else { &self.http };
        let host = host.trim_start_matches('[').trim_end_matches(']');
        let port = port.unwrap_or(if is_https { 443 } else { 80 });
        if *choice == Ok(None)
            || is_loopback(host)
            || self.except.iter().any(|except| except.covers(host, port))
        {
            return Ok(None);
        }
        choice.as_ref().map(Option::as_ref).map_err(String::as_str)
    }

    /// Parses the URLs of the http and the https proxy. One that `parse` rejects becomes an unusable
    /// proxy.
    pub(super) fn each<T>(&mut self, parse: impl Fn(&str) -> Option<T>) -> [Option<T>; 2] {
        [&mut self.http, &mut self.https].map(|choice| {
            let parsed = parse(choice.as_ref().ok()?.as_ref()?.url());
            if parsed.is_none() {
                *choice = Err("is not the URL of a proxy".to_owned());
            }
            parsed
        })
    }
}

impl Proxy {
    /// Parses a URL such as `http://user:password@proxy.example.org:8080`.
    fn parse(url: &str) -> Result<Self, String> {
        const EXPECTED: &str = "expected something like http://proxy.example.org:8080";
        let url = url.trim();
        let (scheme, rest) = url.split_once("://").unwrap_or(("http", url));
        match &*scheme.to_ascii_lowercase() {
            "http" => {}
            "https" if cfg!(feature = "tls") => {}
            "https" => return Err("names an https proxy, which needs feature `tls`".to_owned()),
            scheme if scheme.starts_with("socks") => {
                return Err(format!("names a SOCKS proxy, which is not supported, {EXPECTED}"));
            }
            _ => return Err(format!("is not the URL of an http proxy, {EXPECTED}")),
        }
        let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
        let host = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
        let (name, port) = match host.rsplit_once(':') {
            Some((name, port)) if !port.ends_with(']') => (name, Some(port)),
            _ => (host, None),
        };
        let is_odd =
            |byte: u8| !byte.is_ascii_graphic() || matches!(byte, b'\\' | b'"' | b'<' | b'>');
        if name.is_empty()
            || port.is_some_and(|port| port.parse::<u16>().map_or(true, |port| port == 0))
            || authority.bytes().any(is_odd)
        {
            return Err(format!("has no host, or no valid port, {EXPECTED}"));
        }
        Ok(Self(format!("{}://{authority}", scheme.to_ascii_lowercase())))
    }

    pub(super) fn url(&self) -> &str {
        &self.0
    }
}

impl Exception {
    fn parse(text: &str) -> Option<Self> {
        let text = text.trim().to_ascii_lowercase();
        if text == "*" {
            return Some(Self::All);
        }
        if let Some((address, bits)) = text.split_once('/')
            && let (Ok(address), Ok(bits)) = (address.parse(), bits.parse())
        {
            return Some(Self::Block { address, bits });
        }
        let bare = |text: &str| text.trim_start_matches('[').trim_end_matches(']').to_owned();
        if let Ok(address) = bare(&text).parse::<IpAddr>() {
            return Some(Self::Block { address, bits: 128 });
        }
        let (name, port) = match text.rsplit_once(':') {
            Some((name, port)) => (name.to_owned(), Some(port.parse().ok()?)),
            None => (text, None),
        };
        let name = bare(name.trim_start_matches("*.").trim_start_matches('.'));
        (!name.is_empty()).then_some(Self::Host { name, port })
    }

    fn covers(&self, host: &str, at: u16) -> bool {
        match self {
            Self::All => true,
            Self::Host { name, port } => {
                let host = host.trim_end_matches('.').to_ascii_lowercase();
                let above = host.strip_suffix(&**name);
                port.is_none_or(|port| port == at)
                    && above.is_some_and(|below| below.is_empty() || below.ends_with('.'))
            }
            Self::Block { address, bits } => match (address, host.parse::<IpAddr>()) {
                (IpAddr::V4(block), Ok(IpAddr::V4(host))) => {
                    let differs = u32::from(*block) ^ u32::from(host);
                    differs.leading_zeros() >= (*bits).min(32)
                }
                (IpAddr::V6(block), Ok(IpAddr::V6(host))) => {
                    let differs = u128::from(*block) ^ u128::from(host);
                    differs.leading_zeros() >= (*bits).min(128)
                }
                _ => false,
            },
        }
    }
}

impl std::fmt::Debug for Proxy {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Proxy")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn environment(variables: &[(&str, &str)]) -> Proxies {
        let find = |name: &str| variables.iter().find(|(other, _)| *other == name);
        let variable = |name: &str| find(name).map(|(_, value)| (*value).to_owned());
        Proxies::from_environment(variable, false)
    }

    /// An environment as on Windows.
    fn caseless(variables: &[(&str, &str)]) -> Proxies {
        let find =
            |name: &str| variables.iter().find(|(other, _)| other.eq_ignore_ascii_case(name));
        let variable = |name: &str| find(name).map(|(_, value)| (*value).to_owned());
        Proxies::from_environment(variable, true)
    }

    fn chosen(proxies: &Proxies, is_https: bool, host: &str) -> Option<String> {
        proxies.for_host(is_https, host, None).unwrap().map(|proxy| proxy.url().to_owned())
    }

    #[test]
    fn each_scheme_has_its_variable() {
        let both = environment(&[
            ("HTTPS_PROXY", "http://s:1"),
            ("http_proxy", "h:2"),
            ("HTTP_PROXY", "x:3"),
            ("ALL_PROXY", "http://a:4"),
        ]);
        assert_eq!(chosen(&both, true, "example.org").unwrap(), "http://s:1");
        assert_eq!(chosen(&both, false, "example.org").unwrap(), "http://h:2");
        let all = environment(&[("ALL_PROXY", "HTTP://u:p@a:4/"), ("https_proxy", " ")]);
        assert_eq!(chosen(&all, true, "example.org").unwrap(), "http://u:p@a:4");
        assert_eq!(chosen(&all, false, "example.org").unwrap(), "http://u:p@a:4");
        let cgi = environment(&[("HTTP_PROXY", "http://evil:1"), ("REQUEST_METHOD", "GET")]);
        assert_eq!(chosen(&cgi, false, "example.org"), None);
        assert_eq!(chosen(&environment(&[]), true, "example.org"), None);
    }

    #[test]
    fn cgi_ignores_http_proxy() {
        for name in ["HTTP_PROXY", "http_proxy", "Http_Proxy"] {
            let cgi = caseless(&[(name, "http://evil:1"), ("REQUEST_METHOD", "GET")]);
            assert_eq!(chosen(&cgi, false, "example.org"), None, "{name}");
            let other = caseless(&[(name, "http://p:1")]);
            assert_eq!(chosen(&other, false, "example.org").unwrap(), "http://p:1", "{name}");
        }
        let all = caseless(&[("All_Proxy", "http://p:1"), ("REQUEST_METHOD", "GET")]);
        assert_eq!(chosen(&all, false, "example.org").unwrap(), "http://p:1");
    }

    #[test]
    fn loopback_and_no_proxy_are_direct() {
        let proxies = environment(&[
            ("ALL_PROXY", "http://p:1"),
            (
                "NO_PROXY",
                "corp.example, .dot.example,*.star.example,10.0.0.0/8,fd00::/8,port.example:8443,::2",
            ),
        ]);
        for direct in [
            "localhost",
            "127.0.0.1",
            "127.8.8.8",
            "[::1]",
            "corp.example",
            "CORP.example.",
            "a.b.corp.example",
            "dot.example",
            "a.dot.example",
            "a.star.example",
            "10.255.0.1",
            "[fd12::1]",
            "[::2]",
        ] {
            assert_eq!(chosen(&proxies, true, direct), None, "{direct}");
        }
        for through in [
            "example",
            "notcorp.example",
            "11.0.0.1",
            "corp.example.org",
            "[fe80::1]",
            "port.example",
        ] {
            assert!(chosen(&proxies, true, through).is_some(), "{through}");
        }
        assert_eq!(proxies.for_host(true, "port.example", Some(8443)), Ok(None));
        let all = environment(&[("ALL_PROXY", "http://p:1"), ("no_proxy", "*")]);
        assert_eq!(chosen(&all, true, "example.org"), None);
    }

    #[test]
    fn unusable_proxy_is_error_without_password() {
        for url in [
            "socks5://u:secret@p:1080",
            "SOCKS4://p",
            "ftp://secret@p",
            "http://",
            "http://u:secret@:80",
            "http://secret@p:99999",
            "http://secret@p:0",
            "http://u:sec ret@p:1",
            "http://secret@p\\q:1",
        ] {
            let proxies = environment(&[("HTTPS_PROXY", url)]);
            let reason = proxies.for_host(true, "example.org", None).unwrap_err();
            assert!(reason.starts_with("`HTTPS_PROXY` "), "{reason}");
            assert!(!reason.contains("sec"), "{reason}");
            assert_eq!(chosen(&proxies, true, "127.0.0.1"), None, "it is not needed for {url}");
            assert_eq!(chosen(&proxies, false, "example.org"), None);
            assert!(Proxies::one(url).is_err(), "{url}");
            assert!(!format!("{proxies:?}").contains("sec"));
        }
    }
}
