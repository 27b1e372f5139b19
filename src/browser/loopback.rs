//! The loopback flow: authorization code with PKCE, in a browser that is redirected to a listener
//! on this machine.
//!
//! Source: RFC 8252 (native apps), RFC 7636 (PKCE), RFC 9207 (issuer of the response), OpenID
//! Connect Core section 3.1.

use std::time::Duration;

use super::attempt::{Attempt, POLL};
use super::connection::Held;
use super::endpoints::Endpoints;
use super::inbox::has_state;
use super::listener::{Listener, Poll};
use super::page::Outcome;
use super::request::Refusal;
use super::{ProviderTokens, SignIn, random};
use crate::deadline::Deadline;
use crate::diagnostics::note;
use crate::error::{Error, Result, SignInError, SignInErrorKind as Kind};
use crate::form::{self, Parameters};
use crate::secret::Secret;

/// The initial polling interval of the listener, and the interval after activity.
const BUSY: Duration = Duration::from_millis(1);

/// The secrets of one authorization request.
struct Request {
    state: Secret,
    nonce: Secret,
    /// Proves to the token endpoint that the code belongs to this request (PKCE).
    verifier: Secret,
}

/// Signs in, and runs `then` with the tokens while the browser waits for its page.
pub(super) fn run<T>(
    sign_in: &SignIn,
    deadline: Deadline,
    success: Outcome<'static>,
    then: impl FnOnce(ProviderTokens) -> Result<T>,
) -> Result<T> {
    let mut attempt = Attempt::new(sign_in, deadline)?;
    let endpoints = attempt.endpoints()?;
    let request =
        Request { state: attempt.secret()?, nonce: attempt.secret()?, verifier: attempt.secret()? };
    let mut listener = listen(&attempt)?;
    let redirect_uri = listener.redirect_uri().to_owned();
    let url = authorization_url(&attempt, &endpoints, &request, &redirect_uri)?;
    let pasted = sign_in.inbox.wait_for(&request.state);
    note!(debug, "waiting for a sign-in at {redirect_uri}");
    sign_in.show(&url);
    sign_in.open.start(&url);

    let mut wait = BUSY;
    let (response, held) = loop {
        // Poll before checking the deadline, so that a request that arrived in time counts.
        let poll = listener.poll(|parameters| judge(&attempt, &endpoints, &request, parameters));
        match poll {
            Poll::Found(response, connection) => break (response, Some(connection.into_stream())),
            Poll::Active => wait = BUSY,
            Poll::Idle => wait = POLL.min(wait * 2),
        }
        if let Some(parameters) = pasted.take() {
            break (respond(&attempt, &endpoints, &parameters), None);
        }
        attempt.check()?;
        std::thread::sleep(wait);
    };
    // From here on only the browser that delivered the response is served.
    drop((listener, pasted));
    let page = &sign_in.page;
    let held = Held::new(held, page.response(Outcome::Failure("")));
    let tokens =
        response.and_then(|code| redeem(&mut attempt, &endpoints, &request, &redirect_uri, &code));
    attempt.note(&tokens);
    let outcome = tokens.and_then(then);
    match &outcome {
        Ok(_) => held.show(&page.response(success)),
        Err(error) => held.show(&page.response(Outcome::Failure(&error.to_string()))),
    }
    outcome
}

fn listen(attempt: &Attempt<'_>) -> Result<Listener> {
    let SignIn { redirect_host, ports, redirect_path, .. } = attempt.sign_in;
    Listener::bind(*redirect_host, ports, redirect_path).map_err(|error| {
        let ports: Vec<_> = ports.iter().map(u16::to_string).collect();
        let reason = match ports.as_slice() {
            [port] if port == "0" => "no port is free".to_owned(),
            [port] => format!("port {port} is not free"),
            ports => format!("none of the ports {} is free", ports.join(", ")),
        };
        SignInError::new(Kind::Listener, attempt.sign_in.source.issuer(), reason)
            .retryable()
            .because(error)
            .into()
    })
}

fn authorization_url(
    attempt: &Attempt<'_>,
    endpoints: &Endpoints,
    request: &Request,
    redirect_uri: &str,
) -> Result<String> {
    let sign_in = attempt.sign_in;
    let Some(endpoint) = &endpoints.authorization else {
        let reason = "its discovery document names no authorization endpoint";
        return Err(attempt.failure(Kind::InvalidResponse, reason));
    };
    if sign_in.form_post && !endpoints.has_form_post {
        let reason = "the provider does not list form_post among its response modes";
        return Err(Error::config("the response mode", reason));
    }
    let scope = sign_in.scopes.join(" ");
    let challenge = random::challenge(&request.verifier);
    let own = [
        ("response_type", "code"),
        ("client_id", &sign_in.client_id),
        ("redirect_uri", redirect_uri),
        ("scope", &scope),
        ("state", request.state.expose()),
        ("nonce", request.nonce.expose()),
        ("code_challenge", &challenge),
        ("code_challenge_method", "S256"),
    ];
    let mode = sign_in.form_post.then_some(("response_mode", "form_post"));
    let more = sign_in.parameters.iter().map(|(name, value)| (name.as_str(), value.as_str()));
    let query = form::encode(own.into_iter().chain(mode).chain(more));
    let separator = if endpoint.contains('?') { '&' } else { '?' };
    Ok(format!("{endpoint}{separator}{query}"))
}

/// Decides whether a request to the callback is the response to this sign-in. Only a request with
/// the right state counts, regardless of its other parameters.
fn judge(
    attempt: &Attempt<'_>,
    endpoints: &Endpoints,
    request: &Request,
    parameters: &str,
) -> Result<Result<Secret>, Refusal> {
    match has_state(parameters, &request.state) {
        true => Ok(respond(attempt, endpoints, parameters)),
        false => Err(Refusal {
            status: 400,
            reason: "this is not the response to a sign-in that is in progress here",
        }),
    }
}

/// Parses a response with the right state. Returns the code, or the provider's error.
fn respond(attempt: &Attempt<'_>, endpoints: &Endpoints, parameters: &str) -> Result<Secret> {
    let invalid = |reason: &str| attempt.failure(Kind::InvalidResponse, reason);
    let parameters = Parameters::parse(parameters).map_err(invalid)?;
    match parameters.get("iss") {
        Some(issuer) if endpoints.issuers.iter().any(|wanted| wanted == issuer) => {}
        Some(_) => return Err(invalid("it names another issuer (`iss`)")),
        None if endpoints.promises_issuer && !attempt.sign_in.allow_missing_issuer => {
            return Err(invalid(
                "it names no issuer (`iss`), although the discovery document promises one",
            ));
        }
        None => {}
    }
    match (parameters.get("code"), parameters.get("error")) {
        (Some(code), None) => Ok(Secret::from(code)),
        (None, Some(error)) => {
            let description = parameters.get("error_description").unwrap_or_default();
            Err(attempt.refused(error, description))
        }
        _ => Err(invalid("expected either a code or an error")),
    }
}

/// Exchanges the code for tokens. The code is sent only once, even if the response is lost.
///
/// Source: RFC 6749, section 4.1.3; RFC 7636, section 4.5.
fn redeem(
    attempt: &mut Attempt<'_>,
    endpoints: &Endpoints,
    request: &Request,
    redirect_uri: &str,
    code: &Secret,
) -> Result<ProviderTokens> {
    attempt.keep_quiet(code);
    let fields = [
        ("grant_type", "authorization_code"),
        ("code", code.expose()),
        ("redirect_uri", redirect_uri),
        ("code_verifier", request.verifier.expose()),
    ];
    match attempt.post(endpoints, &endpoints.token, &fields)? {
        Ok(response) => attempt.accept(endpoints, &response, Some(&request.nonce)),
        Err(error) if error.may_have_arrived() => Err(attempt.lost(error)),
        Err(error) => Err(error.into()),
    }
}
