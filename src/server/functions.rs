//! Functions: code on the server that logged-in users call by name.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use serde_json::{Map, Value, json};

use super::ejson::{self, AnyNumber};
use super::state::User;
use super::token::Access;
use crate::UserId;

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
pub struct FunctionError(pub(super) String);

pub(super) type Function = dyn Fn(&Context, &[Value]) -> Result<Value, FunctionError> + Send + Sync;

/// The functions of an app and of its services, by name.
#[derive(Default)]
pub(super) struct Functions {
    own: BTreeMap<String, Box<Function>>,
    services: BTreeMap<String, BTreeMap<String, Box<Function>>>,
}

/// What a call names and the app does not have.
pub(super) enum Missing {
    Function,
    Service,
    ServiceCommand,
}

impl Context {
    pub(super) fn new(user: Arc<User>, access: Arc<Access>) -> Self {
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

    /// Finds a function of the app, or one of a service.
    pub(super) fn find(&self, service: Option<&str>, name: &str) -> Result<&Function, Missing> {
        let (functions, missing) = match service {
            None => (&self.own, Missing::Function),
            Some(service) => {
                let commands = self.services.get(service).ok_or(Missing::Service)?;
                (commands, Missing::ServiceCommand)
            }
        };
        functions.get(name).map(Box::as_ref).ok_or(missing)
    }

    pub(super) fn names(&self) -> impl Iterator<Item = &str> {
        self.own.keys().map(String::as_str)
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
    fn sum_of_integers_is_integer_until_overflow() {
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
