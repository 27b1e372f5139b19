//! Calls of functions, and the memory that calls share.

use std::time::Duration;

use serde::Deserialize;
use serde_json::Value;

use super::budget::Reservation;
use super::ejson;
use super::error::ApiError;
use super::functions::{Context, FunctionError, Missing};
use super::http::Request;
use super::json_body::body;
use super::json_memory::memory_as_values;
use super::service::{Caller, Reply, Service};

/// How long a call waits for the memory of its arguments.
const ARGUMENT_WAIT: Duration = Duration::from_secs(10);

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
        let service = call.service.filter(|service| !service.is_empty());
        let function = self.functions.find(service.as_deref(), &name).map_err(|missing| {
            let (code, text) = match missing {
                Missing::Function => ("FunctionNotFound", format!("function not found: '{name}'")),
                Missing::Service => {
                    let service = service.as_deref().unwrap_or_default();
                    ("ServiceNotFound", format!("service not found: '{service}'"))
                }
                Missing::ServiceCommand => {
                    ("ServiceCommandNotFound", format!("service command not found: '{name}'"))
                }
            };
            ApiError::new(404, code, text)
        })?;
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
