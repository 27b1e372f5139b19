//! The commands `login` and `link`.

use keyfob::{Credentials, Provider, Session};
use serde_json::json;

use crate::args::{Account, LoginArgs};
use crate::common_args::Common;
use crate::failure::Failure;
use crate::input;
use crate::named_user::{current, shown};
use crate::output::Output;

pub(crate) fn log_in(
    session: &Session,
    args: LoginArgs,
    common: &Common,
    out: &Output,
) -> Result<(), Failure> {
    let (user, provider) = if args.anonymous {
        let credentials = match args.new {
            false => Credentials::anonymous(),
            true => Credentials::new_anonymous(),
        };
        (session.log_in(&credentials)?, Provider::Anonymous)
    } else if let Some(browser) = args.account.browser.login() {
        (browser.log_in(session, common, out)?, browser.provider())
    } else {
        let credentials = credentials(args.account)?;
        (session.log_in(&credentials)?, credentials.provider())
    };
    out.result(
        &json!({"user_id": user.id(), "provider": provider}),
        format_args!("logged in as {} with {provider}", shown(&user)),
    )
}

pub(crate) fn link(
    session: &Session,
    account: Account,
    common: &Common,
    out: &Output,
) -> Result<(), Failure> {
    let user = current(session)?;
    let provider = if let Some(browser) = account.browser.login() {
        browser.link(&user, common, out)?;
        browser.provider()
    } else {
        let credentials = credentials(account)?;
        user.link(&credentials)?;
        credentials.provider()
    };
    out.result(
        &json!({"user_id": user.id(), "identities": user.identities()?}),
        format_args!("linked {provider} to {}", shown(&user)),
    )
}

/// Reads the secret for a login method.
fn credentials(account: Account) -> Result<Credentials, Failure> {
    Ok(match account {
        Account { email: Some(email), .. } => {
            Credentials::email_password(email, input::password(false)?)
        }
        Account { function: Some(payload), .. } => Credentials::function(payload)?,
        Account { api_key: true, .. } => Credentials::api_key(input::token("API key")?),
        Account { apple: true, .. } => Credentials::apple(input::token("token")?),
        Account { facebook: true, .. } => Credentials::facebook(input::token("token")?),
        Account { google_auth_code: true, .. } => {
            Credentials::google_auth_code(input::token("code")?)
        }
        Account { google_id_token: true, .. } => {
            Credentials::google_id_token(input::token("token")?)
        }
        // One method is required, and this is the only one left.
        _ => Credentials::jwt(input::token("token")?),
    })
}
