//! The app's functions, called by name and run on the backend as a user.

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::ejson;
use crate::error::{Error, Result};
use crate::transport::Response;
use crate::user::User;
use crate::wire::Route;

/// The client for a user's function calls; had from [`User::functions`].
#[derive(Debug)]
pub struct Functions<'a> {
    user: &'a User,
    service: Option<String>,
}

impl<'a> Functions<'a> {
    pub(crate) fn new(user: &'a User) -> Self {
        Self { user, service: None }
    }

    /// Returns the client for the functions of one of the app's services, by the service's name.
    ///
    /// Source: the field `service` of a call, realm-core `app.cpp`, `App::call_function`.
    #[must_use]
    pub fn of_service(self, service: impl Into<String>) -> Self {
        Self { service: Some(service.into()), ..self }
    }

    /// Calls a function and returns its result.
    ///
    /// `arguments` is anything that serialises to a list: a tuple, a slice, a `Vec`; `()` for none.
    /// Numbers travel as extended JSON and are read back from it, so `i64` and `f64` keep every
    /// digit. `serde_json::Value` takes any result; number wrappers are plain numbers in it.
    ///
    /// An access token that is due is refreshed first. If the backend refuses it all the same, it
    /// is refreshed once and the call is sent once more: a refused call was not run. Blocks for the
    /// call and, if need be, one refresh, within the session's deadline.
    ///
    /// # Errors
    /// [`Error::Server`] if the function failed (`FunctionExecutionError`), does not exist
    /// (`FunctionNotFound`) or may not be called; [`Error::LoginEnded`] if the backend ended the
    /// login; [`Error::LocalState`] if the user is not logged in; [`Error::Transport`] if no answer
    /// came, and if that [`is_ambiguous`](Error::is_ambiguous) the function may have run;
    /// [`Error::Decode`] if the result does not fit `T`, or the arguments are not a list.
    ///
    /// # Examples
    ///
    /// ```no_run
    /// # fn example(user: keyfob::User) -> keyfob::Result<()> {
    /// let sum: i64 = user.functions().call("sum", (1, 2))?;
    /// let longest = user.functions().call::<String>("longest", (["a", "bcd"],))?;
    /// user.functions().call::<()>("forget", ())?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// Source: realm-core `app.cpp`, `App::call_function`.
    pub fn call<T: DeserializeOwned>(&self, name: &str, arguments: impl Serialize) -> Result<T> {
        let answer = self.send(name, &arguments)?;
        ejson::from_slice(answer.body()).map_err(|error| {
            Error::decode(format!("the result of function `{name}`"), ejson::explain(&error))
        })
    }

    /// Calls a function and returns the text of its result, as the backend sent it.
    ///
    /// # Errors
    /// As [`Functions::call`].
    pub fn call_text(&self, name: &str, arguments: impl Serialize) -> Result<String> {
        String::from_utf8(self.send(name, &arguments)?.into_body()).map_err(|_| {
            Error::decode(format!("the result of function `{name}`"), "it is not UTF-8")
        })
    }

    /// Calls a function with BSON values, and returns its result as one: every type of BSON comes
    /// through as it is, 32-bit numbers too.
    ///
    /// # Errors
    /// As [`Functions::call`].
    #[cfg(feature = "bson")]
    pub fn call_bson(&self, name: &str, arguments: &[bson::Bson]) -> Result<bson::Bson> {
        let wrong = |reason: &dyn std::fmt::Display| {
            Error::decode(format!("the result of function `{name}`"), reason)
        };
        let arguments = arguments.iter().cloned().map(bson::Bson::into_canonical_extjson);
        let arguments = serde_json::Value::Array(arguments.collect()).to_string();
        let answer = self.send_text(name, arguments.as_bytes())?;
        let result: serde_json::Value = match answer.body().trim_ascii() {
            b"" => serde_json::Value::Null,
            body => serde_json::from_slice(body).map_err(|error| wrong(&ejson::explain(&error)))?,
        };
        // Its own words may quote the value.
        bson::Bson::try_from(result).map_err(|_| wrong(&"it is no extended JSON"))
    }

    fn send(&self, name: &str, arguments: &impl Serialize) -> Result<Response> {
        self.send_text(name, &ejson::list(arguments)?)
    }

    fn send_text(&self, name: &str, arguments: &[u8]) -> Result<Response> {
        let session = self.user.session();
        let service = self.service.as_deref();
        let route = Route::call(session.app_id(), name, service, arguments);
        session.within(|deadline| session.inner.send_as(self.user.id(), &route, deadline))
    }
}
