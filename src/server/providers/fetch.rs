//! Asking other servers: for their keys, for a token, for who somebody is.

use std::io;
use std::net::IpAddr;
use std::time::Duration;

use serde_json::Value;
use ureq::http::Uri;
use ureq::{Agent, Body};

use crate::untrusted_json;

/// An answer may take this long, connecting and all.
const TIMEOUT: Duration = Duration::from_secs(5);
/// An answer may be this large.
const MAX_ANSWER: u64 = 256 * 1024;

/// Another server's address, and how to ask it.
pub(super) struct Remote {
    url: String,
    agent: Agent,
}

/// That there was no answer, or none that could be read, and why.
#[derive(Clone, Copy, Debug)]
pub(super) struct Unreachable(pub &'static str);

impl Remote {
    /// Takes `https` to anywhere, and `http` to this machine.
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

    /// Asks with `GET`.
    pub(super) fn get(
        &self,
        query: &[(&str, &str)],
        bearer: Option<&str>,
    ) -> Result<(u16, Value), Unreachable> {
        let mut request = self.agent.get(&self.url).query_pairs(query.iter().copied());
        if let Some(token) = bearer {
            // A line break would not be a header any more; ureq refuses it.
            request = request.header("Authorization", format!("Bearer {token}"));
        }
        read(request.call())
    }

    /// Asks with `POST`, as a form does.
    pub(super) fn post(&self, form: &[(&str, &str)]) -> Result<(u16, Value), Unreachable> {
        read(self.agent.post(&self.url).send_form(form.iter().copied()))
    }
}

/// Reads an answer. One that is no JSON is null.
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
    fn plain_http_stays_on_this_machine() {
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
