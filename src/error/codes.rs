//! The backend's symbolic error codes.

use std::fmt;

macro_rules! codes {
    ($($variant:ident = $name:literal,)*) => {
        /// The `error_code` of an error body. An unknown code is kept as text.
        ///
        /// Source: realm-core `src/realm/error_codes.cpp`, the codes from 4300 on.
        #[derive(Clone, Debug, Eq, Hash, PartialEq)]
        #[non_exhaustive]
        pub enum ServerErrorCode {
            $(#[doc = concat!("`", $name, "`")] $variant,)*
            /// Any other code, as sent.
            Other(String),
        }

        impl ServerErrorCode {
            /// Returns the code as it is on the wire.
            pub fn as_str(&self) -> &str {
                match self {
                    $(Self::$variant => $name,)*
                    Self::Other(name) => name,
                }
            }
        }

        impl From<&str> for ServerErrorCode {
            fn from(name: &str) -> Self {
                match name {
                    $($name => Self::$variant,)*
                    other => Self::Other(other.to_owned()),
                }
            }
        }
    };
}

codes! {
    AccountNameInUse = "AccountNameInUse",
    ApiKeyAlreadyExists = "APIKeyAlreadyExists",
    ApiKeyNotFound = "APIKeyNotFound",
    ArgumentsNotAllowed = "ArgumentsNotAllowed",
    AuthError = "AuthError",
    AuthProviderAlreadyExists = "AuthProviderAlreadyExists",
    AuthProviderDuplicateName = "AuthProviderDuplicateName",
    AuthProviderNotFound = "AuthProviderNotFound",
    AwsError = "AWSError",
    BadRequest = "BadRequest",
    DomainNotAllowed = "DomainNotAllowed",
    ExecutionTimeLimitExceeded = "ExecutionTimeLimitExceeded",
    FunctionAlreadyExists = "FunctionAlreadyExists",
    FunctionDuplicateName = "FunctionDuplicateName",
    FunctionExecutionError = "FunctionExecutionError",
    FunctionInvalid = "FunctionInvalid",
    FunctionNotFound = "FunctionNotFound",
    FunctionSyntaxError = "FunctionSyntaxError",
    GcmError = "GCMError",
    IncomingWebhookAlreadyExists = "IncomingWebhookAlreadyExists",
    IncomingWebhookAuthFailed = "IncomingWebhookAuthFailed",
    IncomingWebhookDuplicateName = "IncomingWebhookDuplicateName",
    IncomingWebhookNotFound = "IncomingWebhookNotFound",
    InternalServerError = "InternalServerError",
    InvalidParameter = "InvalidParameter",
    InvalidPassword = "InvalidPassword",
    InvalidSession = "InvalidSession",
    MaintenanceInProgress = "MaintenanceInProgress",
    MissingAuthReq = "MissingAuthReq",
    MissingParameter = "MissingParameter",
    MongoDbError = "MongoDBError",
    NoMatchingRuleFound = "NoMatchingRuleFound",
    NotCallable = "NotCallable",
    ReadSizeLimitExceeded = "ReadSizeLimitExceeded",
    RestrictedHost = "RestrictedHost",
    RuleAlreadyExists = "RuleAlreadyExists",
    RuleDuplicateName = "RuleDuplicateName",
    RuleNotFound = "RuleNotFound",
    SchemaValidationFailedWrite = "SchemaValidationFailedWrite",
    ServiceAlreadyExists = "ServiceAlreadyExists",
    ServiceCommandNotFound = "ServiceCommandNotFound",
    ServiceNotFound = "ServiceNotFound",
    ServiceTypeNotFound = "ServiceTypeNotFound",
    TwilioError = "TwilioError",
    UserAlreadyConfirmed = "UserAlreadyConfirmed",
    UserAppDomainMismatch = "UserAppDomainMismatch",
    UserDisabled = "UserDisabled",
    UserNotFound = "UserNotFound",
    UserpassTokenInvalid = "UserpassTokenInvalid",
    ValueAlreadyExists = "ValueAlreadyExists",
    ValueDuplicateName = "ValueDuplicateName",
    ValueNotFound = "ValueNotFound",
}

impl fmt::Display for ServerErrorCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unknown_codes_keep_their_name() {
        assert_eq!(ServerErrorCode::from("InvalidPassword"), ServerErrorCode::InvalidPassword);
        assert_eq!(ServerErrorCode::from("FromTheFuture").as_str(), "FromTheFuture");
        assert_eq!(ServerErrorCode::from("APIKeyNotFound").as_str(), "APIKeyNotFound");
    }
}
