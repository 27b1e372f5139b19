//! Redirects: where a response sends its request.

use crate::base_url::origin;
use crate::transport::{Method, Response};

/// The longest `Location` that is accepted, in bytes.
const LONGEST: usize = 8 * 1024;

/// The target of a redirect.
#[derive(Debug, Eq, PartialEq)]
pub(crate) struct Redirect {
    /// The absolute URL, without a fragment.
    pub(crate) url: String,
    /// Its scheme, host and port, as [`origin`] writes them.
    pub(crate) origin: String,
}

/// Returns `true` for the status of a redirect.
///
/// Source: RFC 9110, section 15.4. The other 3xx do not redirect a request.
pub(crate) fn is_redirect(status: u16) -> bool {
    matches!(status, 301 | 302 | 303 | 307 | 308)
}

/// Returns `true` if a redirect with this status keeps method and body. With the others, clients
/// send a GET without a body, whose response would look like a success although nothing was done.
pub(crate) fn keeps_request(status: u16, method: Method) -> bool {
    method == Method::Get || matches!(status, 307 | 308)
}

/// Returns the target of a redirect of a request for `from`, an absolute URL.
///
/// `None` if the response is not a redirect, or if its `Location` is missing or unsafe: it has a
/// user name, another scheme, odd characters, or a path with `.` or `..`.
pub(crate) fn redirect(from: &str, response: &Response) -> Option<Redirect> {
    if !is_redirect(response.status()) {
        return None;
    }
    let wanted = response.header("location")?.trim();
    let wanted = wanted.split_once('#').map_or(wanted, |(wanted, _)| wanted);
    let is_odd = |byte: u8| byte == b'\\' || !byte.is_ascii_graphic();
    if wanted.is_empty() || wanted.len() > LONGEST || wanted.bytes().any(is_odd) {
        return None;
    }
    let (from, path_at) = (from.split(['?', '#']).next()?, path_at(from)?);
    let (scheme, _) = from.split_once("://")?;
    let url = if has_scheme(wanted) {
        wanted.to_owned()
    } else if wanted.starts_with("//") {
        format!("{scheme}:{wanted}")
    } else if wanted.starts_with('/') {
        format!("{}{wanted}", &from[..path_at])
    } else if wanted.starts_with('?') {
        format!("{from}{wanted}")
    } else {
        format!("{}{wanted}", &from[..=from.rfind('/').filter(|slash| *slash >= path_at)?])
    };
    let target = url.get(self::path_at(&url)?..)?;
    let path = target.split('?').next()?.to_ascii_lowercase().replace("%2e", ".");
    if path.split('/').any(|segment| matches!(segment, "." | "..")) {
        return None;
    }
    let origin = origin(&url)?;
    Some(Redirect { url: format!("{origin}{target}"), origin })
}

/// Returns where the path of an absolute URL begins, or would begin.
fn path_at(url: &str) -> Option<usize> {
    let host = url.find("://")? + 3;
    Some(url[host..].find(['/', '?', '#']).map_or(url.len(), |end| host + end))
}

fn has_scheme(reference: &str) -> bool {
    let end = reference.find([':', '/', '?']).unwrap_or(reference.len());
    end > 0 && reference[end..].starts_with(':')
}

#[cfg(test)]
mod tests {
    use super::*;

    const FROM: &str = "https://h.example/api/v2/auth/session?x=1";

    fn led(location: &str) -> Option<Redirect> {
        redirect(FROM, &Response::new(307, "").with_header("Location", location))
    }

    #[test]
    fn location_is_resolved_as_in_rfc_3986() {
        for (location, url) in [
            ("https://h.example/b", "https://h.example/b"),
            ("HTTPS://H.example.:443/b#part", "https://h.example/b"),
            ("//h.example/b?y", "https://h.example/b?y"),
            ("/b", "https://h.example/b"),
            ("session2", "https://h.example/api/v2/auth/session2"),
            ("?y=2", "https://h.example/api/v2/auth/session?y=2"),
        ] {
            let redirect = led(location).unwrap();
            assert_eq!(
                (&*redirect.url, &*redirect.origin),
                (url, "https://h.example"),
                "{location}"
            );
        }
        assert_eq!(led("https://h.example:8443/").unwrap().origin, "https://h.example:8443");
        assert_eq!(led("http://h.example/").unwrap().origin, "http://h.example");
    }

    #[test]
    fn unsafe_location_is_not_followed() {
        let long = format!("/{}", "a".repeat(LONGEST));
        for location in [
            "",
            " ",
            "#top",
            "javascript:alert(1)",
            "ftp://h.example/",
            "https://",
            "https:///path",
            "https://:443/",
            "https://user:pw@h.example/",
            "/a b",
            "/a\\b",
            "/caf\u{e9}",
            "/../admin",
            "https://h.example/a/../b",
            "https://h.example/a/%2e%2E/b",
            "../b",
            "/a\r\nX: y",
            &long,
        ] {
            assert_eq!(led(location), None, "{location:?}");
        }
        assert_eq!(redirect(FROM, &Response::new(307, "")), None);
        let other = Response::new(304, "").with_header("Location", "/b");
        assert_eq!(redirect(FROM, &other), None);
    }
}
