//! Login with an authentication function.

use std::fmt;

use serde_json::{Map, Value};

use crate::server::functions::FunctionError;

/// The result of an [authentication function](crate::server::ServerBuilder::auth_function): the
/// identity of the person who logs in, and profile fields.
#[derive(Clone)]
pub struct AuthFunctionAnswer {
    pub(in crate::server) id: String,
    pub(in crate::server) data: Map<String, Value>,
}

pub(in crate::server) type AuthFunction =
    dyn Fn(&Value) -> Result<AuthFunctionAnswer, FunctionError> + Send + Sync;

impl AuthFunctionAnswer {
    /// Creates a result with the id of the identity. The same id always belongs to the same user.
    pub fn new(id: impl Into<String>) -> Self {
        Self { id: id.into(), data: Map::new() }
    }

    /// Sets a profile field.
    #[must_use]
    pub fn data(mut self, name: impl Into<String>, value: impl Into<Value>) -> Self {
        self.data.insert(name.into(), value.into());
        self
    }
}

/// Omits the profile.
impl fmt::Debug for AuthFunctionAnswer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AuthFunctionAnswer").field("id", &self.id).finish_non_exhaustive()
    }
}
