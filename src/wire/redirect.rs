//! Where an answer sends its request instead.

use crate::base_url::origin;
use crate::transport::{Method, Response};

/// The longest `Location` that is looked at, in bytes.
const LONGEST: usize = 8 * 1024;

/// An answer's wish to have its request sent elsewhere.
#[derive(Debug, Eq, PartialEq)]
pub(crate) struct Redirect {
    /// The absolute URL, without a fragment.
    pub(crate) url: String,
    /// Scheme, host and port of it, as [`origin`] writes them.
    pub(crate) origin: String,
}

/// Tells whether a status sends elsewhere.
///
/// Source: RFC 9110, section 15.4. The other 3xx are no redirects of a request.
pub(crate) fn is_redirect(status: u16) -> bool {
    matches!(status, 301 | 302 | 303 | 307 | 308)
}

/// Tells whether a redirect with this status keeps a request as it is. For the others, agents turn
/// any other method into a GET without a body, whose answer would read as a success although
/// nothing was done.
pub(crate) fn keeps_request(status: u16, method: Method) -> bool {
    method == Method::Get || matches!(status, 307 | 308)
}

/// Reads where an answer sends the request for `from`, an absolute URL. Nothing if it is no
/// redirect, or if its `Location` is missing or nothing that a client should follow: with a user
/// name, another scheme, odd characters, or a path that climbs.
pub(crate) fn redirect(from: &str, answer: &Response) -> Option<Redirect> {
    if !is_redirect(answer.status()) {
        return None;
    }
    let wanted = answer.header("location")?.trim();
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

/// Returns where the path of an absolute URL begins, or would.
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
    fn references_are_read_as_the_rfc_says() {
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
    fn what_nobody_should_follow_leads_nowhere() {
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
