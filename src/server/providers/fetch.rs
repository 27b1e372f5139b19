//! HTTP requests to other servers, for keys, tokens and user profiles.

use std::io;
use std::net::IpAddr;
use std::time::Duration;

use serde_json::Value;
use ureq::http::Uri;
use ureq::{Agent, Body};

use crate::untrusted_json;

/// The time limit of a request, including connecting.
const TIMEOUT: Duration = Duration::from_secs(5);
/// The maximum size of a response, in bytes.
const MAX_ANSWER: u64 = 256 * 1024;

/// The URL of another server, and an HTTP client for it.
pub(super) struct Remote {
    url: String,
    agent: Agent,
}

/// There was no response, or it could not be read, for this reason.
#[derive(Clone, Copy, Debug)]
pub(super) struct Unreachable(pub &'static str);

impl Remote {
    /// Accepts an `https` URL, or an `http` URL to this machine.
    pub(super) fn new(url: String) -> io::Result<Self> {
        let invalid =
            |what: &str| io::Error::new(io::ErrorKind::InvalidInput, format!("{url:?} {what}"));
        let uri: Uri = url.parse().map_err(|_| invalid("is not a URL"))?;
        let local = uri.host().is_some_and(is_loopback);
        match uri.scheme_str() {
            Some("https") if cfg!(feature = "tls") => {}
            Some("https") => return Err(invalid("needs the feature `tls`")),
            Some("http") if local => {}
            _ => return Err(invalid("must begin with https://, or http:// and this machine")),
        }
        let mut config = Agent::config_builder()
            .http_status_as_error(false)
            .max_redirects(0)
            .timeout_global(Some(TIMEOUT));
        if local {
            config = config.proxy(None);
        }
        Ok(Self { url, agent: config.build().into() })
    }

    /// Sends a `GET` request.
    pub(super) fn get(
        &self,
        query: &[(&str, &str)],
        bearer: Option<&str>,
    ) -> Result<(u16, Value), Unreachable> {
        let mut request = self.agent.get(&self.url).query_pairs(query.iter().copied());
        if let Some(token) = bearer {
            // ureq rejects a token with a line break, which would be an invalid header value.
            request = request.header("Authorization", format!("Bearer {token}"));
        }
        read(request.call())
    }

    /// Sends a form with `POST`.
    pub(super) fn post(&self, form: &[(&str, &str)]) -> Result<(u16, Value), Unreachable> {
        read(self.agent.post(&self.url).send_form(form.iter().copied()))
    }
}

/// Reads a response. A body that is not JSON becomes null.
fn read(
    answer: Result<ureq::http::Response<Body>, ureq::Error>,
) -> Result<(u16, Value), Unreachable> {
    let mut answer = answer.map_err(|_| Unreachable("it does not respond"))?;
    let status = answer.status().as_u16();
    let body = answer.body_mut().with_config().limit(MAX_ANSWER).read_to_vec();
    let body = body.map_err(|_| Unreachable("its response is too large, or breaks off"))?;
    Ok((status, untrusted_json::from_slice(&body).unwrap_or_default()))
}

fn is_loopback(host: &str) -> bool {
    let host = host.trim_start_matches('[').trim_end_matches(']');
    host == "localhost" || host.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_http_is_for_loopback_only() {
        for good in ["http://127.0.0.1:1/a", "http://localhost/a", "http://[::1]:80/a"] {
            assert!(Remote::new(good.into()).is_ok(), "{good}");
        }
        assert_eq!(Remote::new("https://example.org/a".into()).is_ok(), cfg!(feature = "tls"));
        for bad in ["http://example.org/a", "ftp://localhost/a", "localhost", "", "http://"] {
            let error = Remote::new(bad.into()).err().unwrap();
            assert_eq!(error.kind(), io::ErrorKind::InvalidInput, "{bad}");
        }
    }
}
