//! The options `--oidc ISSUER --oidc-client-id ID …` of `keyfob serve`. A client id belongs to the
//! preceding issuer.

use clap::{Arg, ArgAction, ArgMatches, Args, Command, FromArgMatches};
use keyfob::server::Oidc;

use crate::failure::Failure;

const ISSUER: &str = "oidc";
const CLIENT_ID: &str = "oidc-client-id";

/// The values of both options in command-line order, which separate derived lists would lose.
#[derive(Clone, Debug)]
pub(crate) struct OidcArgs(Vec<Value>);

#[derive(Clone, Debug)]
enum Value {
    ClientId(String),
    Issuer(String),
}

impl OidcArgs {
    /// Returns the OpenID Connect providers, each with its client ids.
    pub(crate) fn providers(&self) -> Result<Vec<Oidc>, Failure> {
        let usage = |text: &str| Failure::Usage(format!("{text}; see `keyfob serve --help`"));
        let mut issuers: Vec<(&String, Vec<&String>)> = Vec::new();
        for value in &self.0 {
            match (value, issuers.last_mut()) {
                (Value::Issuer(issuer), _) => issuers.push((issuer, Vec::new())),
                (Value::ClientId(id), Some((_, ids))) => ids.push(id),
                (Value::ClientId(_), None) => {
                    return Err(usage("--oidc-client-id must come after the --oidc it belongs to"));
                }
            }
        }
        let provider = |(issuer, ids): (&String, Vec<&String>)| {
            let (first, others) = ids.split_first()?;
            Some(others.iter().fold(Oidc::new(issuer, *first), |oidc, id| oidc.client_id(*id)))
        };
        let providers: Option<Vec<_>> = issuers.into_iter().map(provider).collect();
        providers.ok_or_else(|| usage("--oidc needs an --oidc-client-id after it"))
    }
}

impl Args for OidcArgs {
    fn augment_args(command: Command) -> Command {
        let option = |name, value: &'static str, help: &'static str| {
            Arg::new(name).long(name).value_name(value).help(help).action(ArgAction::Append)
        };
        command
            .arg(option(ISSUER, "ISSUER", "Accept ID tokens of this OpenID Connect provider; repeatable"))
            .arg(option(
                CLIENT_ID,
                "ID",
                "Accept those for this client of the --oidc before it; at least one for each, repeatable",
            ))
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

impl FromArgMatches for OidcArgs {
    fn from_arg_matches(matches: &ArgMatches) -> clap::error::Result<Self> {
        let values = |name, make: fn(String) -> Value| {
            let places = matches.indices_of(name).into_iter().flatten();
            let values = matches.get_many::<String>(name).into_iter().flatten().cloned();
            places.zip(values.map(make)).collect::<Vec<_>>()
        };
        let mut all = values(ISSUER, Value::Issuer);
        all.extend(values(CLIENT_ID, Value::ClientId));
        all.sort_by_key(|(place, _)| *place);
        Ok(Self(all.into_iter().map(|(_, value)| value).collect()))
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> clap::error::Result<()> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}
