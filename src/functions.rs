//! Calls the app's functions by name; they run on the backend as a user.

use std::borrow::Cow;

use serde::de::DeserializeOwned;

use crate::arguments::Arguments;
use crate::deadline::Deadline;
use crate::ejson;
use crate::error::{Error, Result};
use crate::transport::Response;
use crate::untrusted_json;
use crate::user::User;
use crate::wire::Route;

/// The client for the app's functions, which run as one user; returned by [`User::functions`].
#[derive(Debug)]
pub struct Functions<'a> {
    user: &'a User,
    service: Option<String>,
}

impl<'a> Functions<'a> {
    pub(crate) fn new(user: &'a User) -> Self {
        Self { user, service: None }
    }

    /// Returns the client for the functions of one of the app's services, selected by name.
    ///
    /// # Examples
    ///
    /// ```
    /// # #[cfg(feature = "server")]
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// use keyfob::server::Server;
    /// use keyfob::store::MemoryStore;
    /// use keyfob::{Credentials, Session};
    /// use serde_json::json;
    ///
    /// let server = Server::builder()
    ///     .service_function("clock", "zone", |_, _| Ok(json!("Europe/Berlin")))
    ///     .start()?;
    /// let session = Session::builder(server.app_id(), server.base_url())
    ///     .store(MemoryStore::new())
    ///     .open()?;
    /// let user = session.log_in(&Credentials::anonymous())?;
    /// let zone: String = user.functions().of_service("clock").call("zone", ())?;
    /// assert_eq!(zone, "Europe/Berlin");
    /// # Ok(())
    /// # }
    /// # #[cfg(not(feature = "server"))]
    /// # fn main() {}
    /// ```
    ///
    /// Source: the field `service` of a call, realm-core `app.cpp`, `App::call_function`.
    #[must_use]
    pub fn of_service(self, service: impl Into<String>) -> Self {
        Self { service: Some(service.into()), ..self }
    }

    /// Calls a function and returns its result.
    ///
    /// `arguments` is a list: a tuple, an array, a slice or a `Vec`; `()` for none. keyfob does not
    /// check the arguments and the result against the function, because the backend does not
    /// publish its signature.
    ///
    /// The result is decoded into the type that the caller names, as in `let sum: i64 = …` or
    /// `call::<i64>(…)`. `call::<()>` accepts any result and ignores it. `serde_json::Value`
    /// accepts any result and has plain numbers in place of extended JSON's number wrappers;
    /// [`ejson::Value`] does too, and keeps the order of fields.
    /// Numbers are sent and received as extended JSON, so `i64` and `f64` keep every digit. The
    /// module [`ejson`] has types for dates, ids, decimals and bytes.
    ///
    /// If the access token is due, keyfob refreshes it first. If the backend rejects the token,
    /// keyfob refreshes it once and repeats the call once, which is safe because a rejected call
    /// did not run. Blocks for the call, and for a refresh if it is due, within the session's
    /// deadline. A response that was received in time is decoded even after the deadline.
    ///
    /// # Errors
    /// - [`Error::Server`] if the function failed (`FunctionExecutionError`), does not exist
    ///   (`FunctionNotFound`) or may not be called.
    /// - [`Error::LoginEnded`] if the backend ended the login; [`Error::LocalState`] if the user is
    ///   not logged in.
    /// - [`Error::Transport`] if no usable response was received, or if the response is larger than
    ///   64 MiB. If the error [`is_ambiguous`](Error::is_ambiguous), the function may have run.
    /// - [`Error::Decode`] if the result does not fit `T`. The function has run.
    /// - [`Error::Store`] if the user cannot be read or a new token cannot be stored.
    /// - [`Error::ShutDown`] if the session was shut down.
    ///
    /// # Examples
    ///
    /// ```
    /// # #[cfg(feature = "server")]
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let server = keyfob::server::Server::builder().built_in_functions().start()?;
    /// # let session = keyfob::Session::builder(server.app_id(), server.base_url())
    /// #     .store(keyfob::store::MemoryStore::new())
    /// #     .open()?;
    /// # let user = session.log_in(&keyfob::Credentials::anonymous())?;
    /// use serde_json::{Value, json};
    ///
    /// let sum: i64 = user.functions().call("sum", (1, 2))?;
    /// assert_eq!(sum, 3);
    /// // One argument is a tuple with a trailing comma.
    /// let echo = user.functions().call::<Vec<String>>("echo", (["a", "b"],))?;
    /// assert_eq!(echo, ["a", "b"]);
    /// let any: Value = user.functions().call("echo", (json!({"n": 1}),))?;
    /// assert_eq!(any, json!({"n": 1}));
    /// user.functions().call::<()>("echo", ("ignored",))?; // whatever the function returns
    ///
    /// let wrong = user.functions().call::<i64>("echo", ("three",)).unwrap_err();
    /// assert_eq!(
    ///     wrong.to_string(),
    ///     "the result of function `echo` cannot be read: expected a whole number (i64), got a string"
    /// );
    /// # Ok(())
    /// # }
    /// # #[cfg(not(feature = "server"))]
    /// # fn main() {}
    /// ```
    ///
    /// Arguments that are not a list do not compile:
    ///
    /// ```compile_fail
    /// # fn example(user: keyfob::User) -> keyfob::Result<()> {
    /// let greeting: String = user.functions().call("greet", "Ada")?; // expected `("Ada",)`
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// Source: realm-core `app.cpp`, `App::call_function`.
    pub fn call<T: DeserializeOwned>(&self, name: &str, arguments: impl Arguments) -> Result<T> {
        let arguments = ejson::list(&arguments)?;
        let session = self.user.session();
        session.within(|deadline| {
            let answer = self.send_until(name, &arguments, deadline)?;
            let text = repaired(name, answer.body())?;
            let text = ejson::without_undefined(&text);
            ejson::from_slice(&text).map_err(|error| unreadable(name, &error, &text))
        })
    }

    /// Calls a function and returns its result as the text that the backend sent. keyfob removes a
    /// byte order mark and replaces unpaired surrogates, which most JSON parsers reject, with
    /// U+FFFD. Blocks as [`Functions::call`] does.
    ///
    /// # Errors
    /// As [`Functions::call`].
    ///
    /// # Examples
    ///
    /// ```
    /// # #[cfg(feature = "server")]
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let server = keyfob::server::Server::builder().built_in_functions().start()?;
    /// # let session = keyfob::Session::builder(server.app_id(), server.base_url())
    /// #     .store(keyfob::store::MemoryStore::new())
    /// #     .open()?;
    /// # let user = session.log_in(&keyfob::Credentials::anonymous())?;
    /// let text = user.functions().call_text("sum", (1, 2))?;
    /// assert_eq!(text, r#"{"$numberInt":"3"}"#);
    /// # Ok(())
    /// # }
    /// # #[cfg(not(feature = "server"))]
    /// # fn main() {}
    /// ```
    pub fn call_text(&self, name: &str, arguments: impl Arguments) -> Result<String> {
        let arguments = ejson::list(&arguments)?;
        let session = self.user.session();
        let answer = session.within(|deadline| self.send_until(name, &arguments, deadline))?;
        let text = repaired(name, answer.body())?.into_owned();
        String::from_utf8(text).map_err(|_| Error::decode(result_of(name), "it is not UTF-8"))
    }

    /// Calls a function with BSON values and returns its result as a BSON value. This keeps every
    /// BSON type, including 32-bit numbers, and the order of fields. Blocks as [`Functions::call`]
    /// does.
    ///
    /// # Errors
    /// As [`Functions::call`].
    ///
    /// # Examples
    ///
    /// ```
    /// # #[cfg(feature = "server")]
    /// # fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let server = keyfob::server::Server::builder().built_in_functions().start()?;
    /// # let session = keyfob::Session::builder(server.app_id(), server.base_url())
    /// #     .store(keyfob::store::MemoryStore::new())
    /// #     .open()?;
    /// # let user = session.log_in(&keyfob::Credentials::anonymous())?;
    /// use bson::{Bson, doc};
    ///
    /// let order = doc! {"tea": 2_i32, "placed": bson::DateTime::now()};
    /// let echo = user.functions().call_bson("echo", &[Bson::Document(order.clone())])?;
    /// assert_eq!(echo, Bson::Document(order));
    /// # Ok(())
    /// # }
    /// # #[cfg(not(feature = "server"))]
    /// # fn main() {}
    /// ```
    #[cfg(feature = "bson")]
    pub fn call_bson(&self, name: &str, arguments: &[bson::Bson]) -> Result<bson::Bson> {
        let arguments = ejson::bson_list(arguments)
            .map_err(|error| Error::decode("the arguments of a function", error))?;
        let session = self.user.session();
        session.within(|deadline| {
            let answer = self.send_until(name, &arguments, deadline)?;
            let text = repaired(name, answer.body())?;
            let text = match text.trim_ascii() {
                b"" => b"null",
                text => text,
            };
            let result = serde_json::from_slice::<ejson::Value>(text)
                .map_err(|error| unreadable(name, &error, text))?;
            result
                .into_bson()
                .ok_or_else(|| Error::decode(result_of(name), "it is no extended JSON"))
        })
    }

    fn send_until(&self, name: &str, arguments: &[u8], deadline: Deadline) -> Result<Response> {
        let session = self.user.session();
        let service = self.service.as_deref();
        let route = Route::call(session.app_id(), name, service, arguments);
        session.inner.send_as(self.user.id(), &route, deadline)
    }
}

fn result_of(name: &str) -> String {
    format!("the result of function `{name}`")
}

/// Repairs sequences in a result that JSON parsers reject.
fn repaired<'a>(name: &str, body: &'a [u8]) -> Result<Cow<'a, [u8]>> {
    untrusted_json::repair(body).map_err(|reason| Error::decode(result_of(name), reason))
}

/// Returns the error for a result that does not fit the type. The function has run.
fn unreadable(name: &str, error: &serde_json::Error, text: &[u8]) -> Error {
    Error::decode(result_of(name), ejson::explain(error, text))
}
