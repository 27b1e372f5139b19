//! Dispatches requests to handlers, and builds the parts that all responses share.

use std::net::SocketAddr;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::UNIX_EPOCH;

use serde_json::{Value, json};

use super::budget::{Budget, Reservation};
use super::client_address::TrustedProxies;
use super::clock::{ServerClock, Time};
use super::confirmation::EmailSettings;
use super::endpoint::{Endpoint, find, segments};
use super::error::ApiError;
use super::faults::{Faults, TriggeredFault};
use super::functions::Functions;
use super::http::{Framing, Handler, Line, Outcome, Rejection, Request, Response, SMALL_BODY};
use super::journal::{JournalEntry, Recorder};
use super::pages;
use super::password::Passwords;
use super::providers::Providers;
use super::random::Ids;
use super::state::State;
use super::test_provider::{self, TestProvider};
use super::throttle::Throttle;
use super::token::Tokens;
use crate::http_date;
use crate::{Clock, UserId};

/// The state that request handling needs.
pub(super) struct Service {
    pub app_id: String,
    /// The memory that the arguments of all function calls in progress share.
    pub argument_memory: Arc<Budget>,
    pub base_url: String,
    /// Whether a public URL was set, which clients must use.
    pub is_public: bool,
    pub local_addr: SocketAddr,
    /// Maximum size of the body of a function call, in bytes.
    pub max_body_size: usize,
    pub clock: ServerClock,
    pub custom_data_source: Option<Box<CustomData>>,
    pub email: EmailSettings,
    pub faults: Faults,
    pub functions: Functions,
    pub passwords: Passwords,
    pub providers: Providers,
    pub recorder: Recorder,
    /// In seconds.
    pub refresh_lifetime: i64,
    pub request_ids: Ids,
    pub rotate_refresh_tokens: bool,
    /// In seconds.
    pub rotation_grace: i64,
    pub state: State,
    pub test_provider: Option<TestProvider>,
    pub throttle: Throttle,
    pub tokens: Tokens,
    pub trusted_proxies: TrustedProxies,
}

/// realm-core does not parse an error if anything follows this, such as a charset.
const JSON: &str = "application/json";

/// The source of custom user data, by user id.
pub(super) type CustomData = dyn Fn(&str) -> Option<Value> + Send + Sync;

/// A successful response.
pub(super) enum Reply {
    /// Status 204.
    Empty,
    Html(String),
    Json(u16, Value),
    /// The result of a function, and the memory that was reserved for the call.
    Result {
        json: Vec<u8>,
        memory: Reservation,
    },
    Text(String),
}

/// The user who sent the request, once known.
#[derive(Default)]
pub(super) struct Caller {
    pub user_id: Option<UserId>,
}

impl Service {
    /// Returns the time in seconds since the epoch, by the server's clock.
    pub(super) fn now(&self) -> i64 {
        let since = self.clock.now().duration_since(UNIX_EPOCH).unwrap_or_default();
        i64::try_from(since.as_secs()).unwrap_or(i64::MAX)
    }

    fn answer(
        &self,
        request: &Request,
        found: Option<(Option<&str>, Endpoint<'_>)>,
        caller: &mut Caller,
    ) -> Result<Reply, ApiError> {
        // A CORS preflight request. It must succeed, so that the browser sends the actual request.
        if request.method == "OPTIONS" {
            return Ok(Reply::Empty);
        }
        let endpoint = match found {
            Some((Some(app), _)) if app != self.app_id => {
                let message = format!("cannot find app using Client App ID '{app}'");
                return Err(ApiError::without_code(404, message));
            }
            Some((_, endpoint)) => endpoint,
            None => {
                let message = format!("no route for {}", request.path);
                return Err(ApiError::without_code(404, message));
            }
        };
        if let Some(provider) = endpoint.provider().filter(|name| self.providers.is_disabled(name))
        {
            return Err(ApiError::unsupported_provider(provider));
        }
        let method = if request.method == "HEAD" { "GET" } else { &request.method };
        match (&endpoint, method) {
            (Endpoint::ApiKey { id }, "GET") => self.api_key(request, id, caller),
            (Endpoint::ApiKey { id }, "DELETE") => self.delete_api_key(request, id, caller),
            (Endpoint::ApiKeys, "GET") => self.list_api_keys(request, caller),
            (Endpoint::ApiKeys, "POST") => self.create_api_key(request, caller),
            (Endpoint::CallConfirmation, "POST") => self.call_confirmation(request),
            (Endpoint::CallFunction, "POST") => self.call_function(request, caller),
            (Endpoint::CallReset, "POST") => self.call_reset(request),
            (Endpoint::Confirm, "POST") => self.confirm(request),
            (Endpoint::DeleteUser, "DELETE") => self.delete_user(request, caller),
            (Endpoint::DisableApiKey { id }, "PUT") => {
                self.set_api_key_disabled(request, id, true, caller)
            }
            (Endpoint::EnableApiKey { id }, "PUT") => {
                self.set_api_key_disabled(request, id, false, caller)
            }
            (Endpoint::Health, "GET") => Ok(Reply::Json(200, json!({"status": "ok"}))),
            (Endpoint::Location, "GET") => Ok(self.location(request)),
            (Endpoint::Log { group, app }, "GET") => self.log(request, group, app),
            (Endpoint::LogIn { provider }, "POST") => self.log_in(request, provider, caller),
            (Endpoint::Page(page), "GET") => Ok(Reply::Html(page.html(&self.app_id))),
            (Endpoint::Profile, "GET") => self.profile(request, caller),
            (Endpoint::Register, "POST") => self.register(request),
            (Endpoint::Reset, "POST") => self.reset(request),
            (Endpoint::SendConfirmation, "POST") => self.send_confirmation(request),
            (Endpoint::SendReset, "POST") => self.send_reset(request),
            (Endpoint::Session, "POST") => self.refresh(request, caller),
            (Endpoint::Session, "DELETE") => self.log_out(request, caller),
            _ => {
                let message = format!("method {} is not allowed here", request.method);
                Err(ApiError::without_code(405, message).with_header("Allow", endpoint.allow()))
            }
        }
    }

    /// `GET …/location`: the URL for the app's requests. It is the public URL if one was set, and
    /// otherwise the URL that this request was sent to.
    ///
    /// Source: realm-core `object-store/sync/app.cpp`, `App::update_location`; the last two fields
    /// are for clients before version 14.
    fn location(&self, request: &Request) -> Reply {
        let hostname = self.reachable_url(request.header("host"));
        // `https` becomes `wss`.
        let ws_hostname = hostname.replacen("http", "ws", 1);
        Reply::Json(
            200,
            json!({
                "hostname": hostname,
                "ws_hostname": ws_hostname,
                "deployment_model": "GLOBAL",
                "location": "US-VA",
            }),
        )
    }

    /// Returns the URL by which the client with this `Host` field reaches the server. The name that
    /// the client used works for it; the server's own may not, for example behind a port mapping.
    fn reachable_url(&self, host: Option<&str>) -> String {
        let host = host.filter(|host| !self.is_public && is_authority(host));
        host.map_or(self.base_url.clone(), |host| format!("http://{host}"))
    }

    /// `GET /groups/…/apps/…/logs?co_id=…`, which errors link to: the journal entry of the request
    /// with this id. The id is random, and only the client of that request knows it.
    fn log(&self, request: &Request, group: &str, app: &str) -> Result<Reply, ApiError> {
        let names = self.state.deployment();
        let query = request.query.as_deref().unwrap_or_default();
        let id = query.split('&').find_map(|pair| pair.strip_prefix("co_id="));
        let is_ours = group == names.group_id && app == names.app_id;
        let entry = id.filter(|_| is_ours).and_then(|id| self.recorder.find(id));
        let missing = "no request with this id is among the newest ones, which are kept";
        let entry = entry.ok_or_else(|| ApiError::without_code(404, missing))?;
        let id = entry.request_id.clone();
        Ok(Reply::Text(format!(
            "request {id}: {} {}\nstatus {}\n",
            entry.method, entry.path, entry.status
        )))
    }

    /// Builds the response to the request with this id.
    fn respond(
        &self,
        answer: Result<Reply, ApiError>,
        request_id: &str,
        host: Option<&str>,
        preflight: bool,
    ) -> Response {
        let mut headers = vec![
            ("Date", http_date::format(self.clock.now())),
            ("X-Appservices-Request-Id", request_id.to_owned()),
            ("Access-Control-Allow-Origin", "*".to_owned()),
            ("Access-Control-Expose-Headers", "X-Appservices-Request-Id".to_owned()),
            // Most responses contain a token, a key or personal data (RFC 6749 section 5.1).
            ("Cache-Control", "no-store".to_owned()),
        ];
        if preflight {
            let allowed = "authorization, content-type, accept";
            headers.push(("Access-Control-Allow-Headers", allowed.to_owned()));
            let methods = "DELETE, GET, HEAD, OPTIONS, POST, PUT";
            headers.push(("Access-Control-Allow-Methods", methods.to_owned()));
            headers.push(("Access-Control-Max-Age", "600".to_owned()));
        }
        let (status, body) = match answer {
            Ok(Reply::Empty) => return Response::new(204, headers, Vec::new()),
            Ok(Reply::Html(page)) => {
                headers.extend(pages::HEADERS.map(|(name, value)| (name, value.to_owned())));
                headers.push(("Content-Type", "text/html; charset=utf-8".to_owned()));
                return Response::new(200, headers, page.into_bytes());
            }
            Ok(Reply::Text(text)) => {
                headers.push(("X-Content-Type-Options", "nosniff".to_owned()));
                headers.push(("Content-Type", "text/plain; charset=utf-8".to_owned()));
                return Response::new(200, headers, text.into_bytes());
            }
            Ok(Reply::Result { json, memory }) => {
                headers.push(("Content-Type", JSON.to_owned()));
                let memory = Some(memory).filter(|_| json.len() > SMALL_BODY);
                return Response { memory, ..Response::new(200, headers, json) };
            }
            Ok(Reply::Json(status, value)) => (status, value),
            Err(refusal) => {
                headers.extend(refusal.headers);
                let names = self.state.deployment();
                let base = self.reachable_url(host);
                let (group, app) = (&names.group_id, &names.app_id);
                let link = format!("{base}/groups/{group}/apps/{app}/logs?co_id={request_id}");
                let mut body = json!({"error": refusal.message, "link": link});
                if let Some(code) = refusal.code {
                    body["error_code"] = code.into();
                }
                (refusal.status, body)
            }
        };
        headers.push(("Content-Type", JSON.to_owned()));
        Response::new(status, headers, body.to_string().into_bytes())
    }
}

impl Service {
    /// Handles a request to the test identity provider, if there is one.
    fn ask_test_provider(&self, request: &Request) -> Option<Response> {
        let provider = self.test_provider.as_ref()?;
        let path = request.path.strip_prefix(test_provider::PATH)?;
        let time = Time { now: self.now(), monotonic: self.clock.monotonic() };
        let mut response = provider.respond(request, path, time);
        response.headers.push(("Date", http_date::format(self.clock.now())));
        Some(response)
    }

    /// Responds to a request that was rejected before its body was read.
    fn refuse(&self, line: Option<&Line>, error: ApiError) -> Response {
        let (route, method, path) = match line {
            Some(Line { method, path, query }) => {
                let segments = segments(path);
                let segments: Vec<_> = segments.iter().map(|segment| &**segment).collect();
                let endpoint = find(&segments).map(|(_, endpoint)| endpoint);
                let route = endpoint.and_then(|endpoint| endpoint.route(method, query.as_deref()));
                (route, method.clone(), path.clone())
            }
            None => (None, "-".to_owned(), "-".to_owned()),
        };
        let (status, user_id, fault) = (error.status, None, None);
        let request_id = self.request_ids.next();
        let response = self.respond(Err(error), &request_id, None, false);
        self.recorder.add(JournalEntry { route, method, path, status, user_id, fault, request_id });
        response
    }
}

impl Handler for Service {
    /// Only function calls of logged-in users may have large bodies.
    fn admit(&self, request: &Request, framing: Framing) -> Result<usize, Response> {
        let small = self.max_body_size.min(SMALL_BODY);
        let is_small = matches!(framing, Framing::Length(length) if length <= small);
        let segments = segments(&request.path);
        let segments: Vec<_> = segments.iter().map(|segment| &**segment).collect();
        let is_call = matches!(find(&segments), Some((_, Endpoint::CallFunction)));
        if is_small || !is_call || request.method != "POST" {
            return Ok(small);
        }
        match self.caller_of_access_token(request, &mut Caller::default()) {
            Ok(_) => Ok(self.max_body_size),
            Err(error) => Err(self.refuse(Some(&request.line()), error)),
        }
    }

    fn handle(&self, request: &Request) -> Outcome {
        let segments = segments(&request.path);
        let segments: Vec<_> = segments.iter().map(|segment| &**segment).collect();
        let found = find(&segments);
        let endpoint = found.as_ref().map(|(_, endpoint)| endpoint);
        let mut entry = JournalEntry {
            route: endpoint
                .and_then(|endpoint| endpoint.route(&request.method, request.query.as_deref())),
            method: request.method.clone(),
            path: request.path.clone(),
            status: 0,
            user_id: None,
            fault: None,
            request_id: self.request_ids.next(),
        };
        let met = self.faults.trigger(entry.route);
        entry.fault = met.as_ref().map(TriggeredFault::name);
        if let Some((status, outcome)) = met.as_ref().and_then(TriggeredFault::replacement) {
            entry.status = status;
            self.recorder.add(entry);
            return outcome;
        }
        let mut caller = Caller::default();
        let response = self.ask_test_provider(request).unwrap_or_else(|| {
            // The app's functions run here. If one panics, the request still gets a response, a
            // journal entry and its fault.
            let answer =
                catch_unwind(AssertUnwindSafe(|| self.answer(request, found, &mut caller)));
            let answer =
                answer.unwrap_or_else(|_| Err(ApiError::internal("internal server error")));
            let preflight = request.method == "OPTIONS";
            let host = request.header("host");
            self.respond(answer, &entry.request_id, host, preflight)
        });
        (entry.status, entry.user_id) = (response.status, caller.user_id);
        // Recorded before the response is written, so that a client that has it finds it in the
        // journal.
        self.recorder.add(entry);
        match met {
            Some(met) => met.apply_to(response),
            None => Outcome::Answer(response),
        }
    }

    fn reject(&self, rejection: &Rejection) -> Response {
        let reason = &*rejection.reason;
        let error = match rejection.status {
            413 => ApiError::new(413, "ReadSizeLimitExceeded", reason),
            400 => ApiError::bad_request(reason),
            500 => ApiError::internal(reason),
            503 => ApiError::without_code(503, reason).with_header("Retry-After", "1"),
            status => ApiError::without_code(status, reason),
        };
        self.refuse(rejection.line.as_ref(), error)
    }
}

/// Returns `true` if a `Host` field can be part of a URL without changes.
fn is_authority(host: &str) -> bool {
    !host.is_empty()
        && host.bytes().all(|byte| byte.is_ascii_alphanumeric() || b".:-_[]".contains(&byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_plain_host_names_are_repeated() {
        assert!(is_authority("localhost:80") && is_authority("[::1]:80"));
        assert!(!is_authority("") && !is_authority("a/b") && !is_authority("a\"b"));
    }
}
