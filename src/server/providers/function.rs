//! Log-in by a function.

use std::fmt;

use serde_json::{Map, Value};

use crate::server::functions::FunctionError;

/// Who an [authentication function](crate::server::ServerBuilder::auth_function) found somebody to
/// be.
#[derive(Clone)]
pub struct AuthFunctionAnswer {
    pub(in crate::server) id: String,
    pub(in crate::server) data: Map<String, Value>,
}

pub(in crate::server) type AuthFunction =
    dyn Fn(&Value) -> Result<AuthFunctionAnswer, FunctionError> + Send + Sync;

impl AuthFunctionAnswer {
    /// Names the identity. The same id is the same user, every time.
    pub fn new(id: impl Into<String>) -> Self {
        Self { id: id.into(), data: Map::new() }
    }

    /// Sets a field of the profile.
    #[must_use]
    pub fn data(mut self, name: impl Into<String>, value: impl Into<Value>) -> Self {
        self.data.insert(name.into(), value.into());
        self
    }
}

/// Leaves the profile out.
impl fmt::Debug for AuthFunctionAnswer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AuthFunctionAnswer").field("id", &self.id).finish_non_exhaustive()
    }
}
