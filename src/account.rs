//! User and API key data shared by the wire format, the store and the user handle.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::credentials::Provider;
use crate::id::ApiKeyId;

/// Whether a user is logged in on this device; returned by [`User::state`](crate::User::state).
#[derive(Clone, Copy, Debug, Deserialize, Eq, Hash, PartialEq, Serialize)]
#[non_exhaustive]
pub enum UserState {
    /// The user has tokens here.
    #[serde(rename = "logged-in")]
    LoggedIn,
    /// The user is known here, with profile and identities, but without tokens.
    #[serde(rename = "logged-out")]
    LoggedOut,
    /// The user is no longer known here. A handle stays in this state until the same user logs in.
    #[serde(rename = "removed")]
    Removed,
}

/// Whether the backend has completed an accepted request, if it reports that; returned by
/// [`EmailPassword`](crate::EmailPassword).
///
/// Source: `status` in the responses of Flowerbase and of keyfob's own server. App Services returns
/// an empty object.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
#[non_exhaustive]
pub enum RequestOutcome {
    /// The backend has completed the request.
    Done,
    /// The request is not complete: the address or the new password has to be confirmed first.
    Pending,
    /// The backend accepted the request and does not report whether it is complete.
    Unknown,
}

/// An account with a provider that is attached to a user.
///
/// Source: `identities` of the profile response, realm-core `app.cpp`, `App::refresh_profile`.
#[derive(Clone, Debug, Deserialize, Eq, Hash, PartialEq, Serialize)]
#[non_exhaustive]
pub struct Identity {
    /// The provider's id of the account. It is not the user's id.
    pub id: String,
    /// The provider.
    pub provider: Provider,
}

/// An API key without its secret, which only [`ApiKeys::create`](crate::ApiKeys::create) returns.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
#[non_exhaustive]
pub struct ApiKey {
    /// The id.
    pub id: ApiKeyId,
    /// The name, unique among the user's keys.
    pub name: String,
    /// Whether log-ins with the key are allowed.
    pub is_enabled: bool,
}

/// A user's profile on the backend: name, e-mail address, and other fields that the providers
/// supply. Returned by [`User::profile`](crate::User::profile).
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
/// # session.email_password().register("ada@example.org", "correct horse")?;
/// # let ada = keyfob::Credentials::email_password("ada@example.org", "correct horse");
/// # let user = session.log_in(&ada)?;
/// let profile = user.profile()?;
/// assert_eq!(profile.email(), Some("ada@example.org"));
/// for (field, value) in profile.data() {
///     println!("{field}: {value}");
/// }
/// # Ok(())
/// # }
/// # #[cfg(not(feature = "server"))]
/// # fn main() {}
/// ```
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub struct Profile {
    #[serde(default)]
    data: Map<String, Value>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    kind: Option<String>,
}

impl UserState {
    /// Returns the state as text: `logged-in`, `logged-out` or `removed`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::LoggedIn => "logged-in",
            Self::LoggedOut => "logged-out",
            Self::Removed => "removed",
        }
    }
}

impl Identity {
    pub(crate) fn new(id: String, provider: Provider) -> Self {
        Self { id, provider }
    }
}

impl Profile {
    pub(crate) fn new(data: Map<String, Value>, kind: Option<String>) -> Self {
        Self { data, kind }
    }

    /// Returns all fields, as the backend sent them.
    pub fn data(&self) -> &Map<String, Value> {
        &self.data
    }

    /// Returns the kind of user, such as `normal` or `server`, if the backend sent it.
    pub fn kind(&self) -> Option<&str> {
        self.kind.as_deref()
    }

    /// Returns the full name.
    pub fn name(&self) -> Option<&str> {
        self.text(&["name"])
    }

    /// Returns the e-mail address.
    pub fn email(&self) -> Option<&str> {
        self.text(&["email"])
    }

    /// Returns the URL of a picture.
    pub fn picture_url(&self) -> Option<&str> {
        self.text(&["picture_url", "pictureUrl", "picture"])
    }

    /// Returns the first name.
    pub fn first_name(&self) -> Option<&str> {
        self.text(&["first_name", "firstName"])
    }

    /// Returns the last name.
    pub fn last_name(&self) -> Option<&str> {
        self.text(&["last_name", "lastName"])
    }

    /// Returns the gender.
    pub fn gender(&self) -> Option<&str> {
        self.text(&["gender"])
    }

    /// Returns the birthday, in the provider's format.
    pub fn birthday(&self) -> Option<&str> {
        self.text(&["birthday", "birthDay"])
    }

    /// Returns the lower end of the age range, in the provider's format.
    pub fn min_age(&self) -> Option<&str> {
        self.text(&["min_age", "minAge"])
    }

    /// Returns the upper end of the age range, in the provider's format.
    pub fn max_age(&self) -> Option<&str> {
        self.text(&["max_age", "maxAge"])
    }

    /// Returns the first of the keys that holds text: the spelling differs between SDKs.
    fn text(&self, keys: &[&str]) -> Option<&str> {
        keys.iter().find_map(|key| self.data.get(*key)?.as_str())
    }
}
