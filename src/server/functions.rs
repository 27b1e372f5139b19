//! Functions: code on the server that logged-in users call by name.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::budget::Reservation;
use super::ejson::{self, AnyNumber};
use super::error::ApiError;
use super::http::Request;
use super::json_body::{body, memory_as_values};
use super::service::{Caller, Reply, Service};
use super::state::User;
use super::token::Access;
use crate::UserId;

/// How long a call waits for the memory of its arguments.
const ARGUMENT_WAIT: Duration = Duration::from_secs(10);

/// The caller of a function.
#[derive(Clone)]
pub struct Context {
    user_id: UserId,
    identities: Vec<UserIdentity>,
    user: Arc<User>,
    access: Arc<Access>,
}

/// One of the identities with which a user logs in.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct UserIdentity {
    id: String,
    provider_type: String,
}

/// The failure of a function. The server sends the message to the caller, with the code
/// `FunctionExecutionError`. A `&str` or a `String` converts into it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct FunctionError(String);

type Function = dyn Fn(&Context, &[Value]) -> Result<Value, FunctionError> + Send + Sync;

/// The functions of an app and of its services, by name.
#[derive(Default)]
pub(super) struct Functions {
    own: BTreeMap<String, Box<Function>>,
    services: BTreeMap<String, BTreeMap<String, Box<Function>>>,
}

impl Context {
    fn new(user: Arc<User>, access: Arc<Access>) -> Self {
        let identity = |identity: &super::state::Identity| UserIdentity {
            id: identity.id.clone(),
            provider_type: identity.provider_type.clone(),
        };
        Self {
            user_id: UserId::new(&user.id),
            identities: user.identities.iter().map(identity).collect(),
            user,
            access,
        }
    }

    /// Returns the caller's user id.
    pub fn user_id(&self) -> &UserId {
        &self.user_id
    }

    /// Returns the caller's identities, in the order they were linked.
    pub fn identities(&self) -> &[UserIdentity] {
        &self.identities
    }

    /// Returns the caller's profile: the fields that the providers supplied, such as `email`.
    pub fn data(&self) -> &Map<String, Value> {
        &self.user.data
    }

    /// Returns the caller's custom user data as of the time when the access token was issued.
    pub fn custom_data(&self) -> Option<&Map<String, Value>> {
        self.access.user_data.as_ref()
    }
}

/// Omits the profile, which is personal data.
impl fmt::Debug for Context {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Context")
            .field("user_id", &self.user_id)
            .field("identities", &self.identities)
            .finish_non_exhaustive()
    }
}

impl UserIdentity {
    /// Returns the identity's id, which differs from the user's id.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Returns the provider's name on the wire, such as `local-userpass`.
    pub fn provider_type(&self) -> &str {
        &self.provider_type
    }
}

impl FunctionError {
    /// Creates a failure with a message for the caller.
    pub fn new(message: impl Into<String>) -> Self {
        Self(message.into())
    }
}

impl fmt::Display for FunctionError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for FunctionError {}

impl From<&str> for FunctionError {
    fn from(message: &str) -> Self {
        Self::new(message)
    }
}

impl From<String> for FunctionError {
    fn from(message: String) -> Self {
        Self(message)
    }
}

impl Functions {
    /// Adds a function, replacing an earlier one of the same name.
    pub(super) fn add<F>(&mut self, name: String, function: F)
    where
        F: Fn(&Context, &[Value]) -> Result<Value, FunctionError> + Send + Sync + 'static,
    {
        self.own.insert(name, Box::new(function));
    }

    /// Adds a service's function, replacing an earlier one of the same name.
    pub(super) fn add_to_service<F>(&mut self, service: String, name: String, function: F)
    where
        F: Fn(&Context, &[Value]) -> Result<Value, FunctionError> + Send + Sync + 'static,
    {
        self.services.entry(service).or_default().insert(name, Box::new(function));
    }

    /// Adds `sum`, `echo` and `whoami`.
    pub(super) fn add_built_in(&mut self) {
        self.add("echo".into(), |_, args| Ok(args.first().cloned().unwrap_or(Value::Null)));
        self.add("sum".into(), |_, args| sum(args));
        self.add("whoami".into(), |context, _| Ok(whoami(context)));
    }

    pub(super) fn names(&self) -> impl Iterator<Item = &str> {
        self.own.keys().map(String::as_str)
    }
}

#[derive(Deserialize)]
struct Call {
    name: Option<String>,
    arguments: Option<Vec<Value>>,
    service: Option<String>,
}

impl Service {
    /// `POST …/functions/call`: responds with the function's result.
    ///
    /// Source: realm-core `object-store/sync/app.cpp`, `App::call_function`.
    pub(super) fn call_function(
        &self,
        request: &Request,
        caller: &mut Caller,
    ) -> Result<Reply, ApiError> {
        let (user, access) = self.caller_of_access_token(request, caller)?;
        let memory = self.reserve_arguments(request)?;
        let invalid = || ApiError::bad_request("invalid function call request");
        let call: Call = body(request).map_err(|_| invalid())?;
        let name = call.name.ok_or_else(invalid)?;
        let not_found = |code, what: &str, name: &str| {
            Err(ApiError::new(404, code, format!("{what} not found: '{name}'")))
        };
        let function = match call.service.filter(|service| !service.is_empty()) {
            None => match self.functions.own.get(&name) {
                Some(function) => function,
                None => return not_found("FunctionNotFound", "function", &name),
            },
            Some(service) => match self.functions.services.get(&service) {
                None => return not_found("ServiceNotFound", "service", &service),
                Some(commands) => match commands.get(&name) {
                    Some(function) => function,
                    None => {
                        return not_found("ServiceCommandNotFound", "service command", &name);
                    }
                },
            },
        };
        let context = Context::new(user, access);
        let arguments = call.arguments.unwrap_or_default();
        // No lock is held here: a function may run long, or panic.
        let result = function(&context, &arguments);
        // Free the memory now, because the result may be as large.
        drop(arguments);
        match result {
            Ok(value) => {
                let json = ejson::to_canonical(&value)
                    .map_err(|_| ApiError::internal("the result of the function is no JSON"))?;
                Ok(Reply::Result { json, memory })
            }
            Err(FunctionError(message)) => {
                Err(ApiError::new(400, "FunctionExecutionError", message))
            }
        }
    }
}

impl Service {
    /// Reserves memory for the arguments of a call. Waits for it if other calls use it.
    fn reserve_arguments(&self, request: &Request) -> Result<Reservation, ApiError> {
        let memory = memory_as_values(&request.body);
        self.argument_memory.reserve(memory, ARGUMENT_WAIT).ok_or_else(|| {
            let most = self.argument_memory.size();
            if memory > most {
                let message = format!(
                    "the arguments of the function call have too many values: they take about \
                     {memory} bytes of memory, and at most {most} are allowed"
                );
                return ApiError::new(413, "ReadSizeLimitExceeded", message);
            }
            ApiError::without_code(503, "other function calls use too much memory")
                .with_header("Retry-After", "1")
        })
    }
}

/// Adds numbers. Whole numbers stay whole while the sum fits in 64 bits.
fn sum(args: &[Value]) -> Result<Value, FunctionError> {
    let mut whole = Some(0_i64);
    let mut double = 0.0;
    for (index, arg) in args.iter().enumerate() {
        match ejson::number(arg) {
            Some(AnyNumber::Int(int)) => {
                whole = whole.and_then(|sum| sum.checked_add(int));
                double += int as f64;
            }
            Some(AnyNumber::Double(value)) => {
                whole = None;
                double += value;
            }
            None => return Err(format!("sum: argument {} is not a number", index + 1).into()),
        }
    }
    Ok(whole.map_or_else(|| ejson::double(double), Value::from))
}

fn whoami(context: &Context) -> Value {
    let identity = |identity: &UserIdentity| json!({"id": identity.id, "provider_type": identity.provider_type});
    json!({
        "user_id": context.user_id.as_str(),
        "identities": context.identities.iter().map(identity).collect::<Vec<_>>(),
        "data": context.data(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_stay_whole_while_they_can() {
        assert_eq!(sum(&[]), Ok(json!(0)));
        assert_eq!(sum(&[json!(1), json!({"$numberLong": "2"})]), Ok(json!(3)));
        assert_eq!(sum(&[json!(1), json!(0.5)]), Ok(json!({"$numberDouble": "1.5"})));
        assert_eq!(
            sum(&[json!(i64::MAX), json!(1)]),
            Ok(json!({"$numberDouble": "9.223372036854776e18"}))
        );
        let error = sum(&[json!(1), json!("2")]).unwrap_err();
        assert_eq!(error.to_string(), "sum: argument 2 is not a number");
    }
}
