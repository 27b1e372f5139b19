//! The commands of `api-keys`.

use keyfob::{ApiKey, ApiKeyId, Session};
use serde_json::{Value, json};

use crate::args::{ApiKeys, KeyId};
use crate::failure::Failure;
use crate::named_user::current;
use crate::output::{Output, note, printable};

pub(crate) fn run(session: &Session, command: ApiKeys, out: &Output) -> Result<(), Failure> {
    let user = current(session)?;
    let keys = user.api_keys();
    match command {
        ApiKeys::Create { name } => {
            let (key, secret) = keys.create(&name)?;
            let mut json = described(&key);
            json["key"] = secret.expose().into();
            if !out.is_json() {
                note("the second line is the key; it cannot be shown again");
            }
            out.result(&json, format_args!("{}\n{}", line(&key), secret.expose()))
        }
        ApiKeys::Delete(KeyId { id }) => {
            keys.delete(&ApiKeyId::new(&*id))?;
            out.result(&json!({}), format_args!("{} is deleted", printable(&id)))
        }
        ApiKeys::Disable(KeyId { id }) => {
            keys.disable(&ApiKeyId::new(&*id))?;
            out.result(&json!({}), format_args!("{} is disabled", printable(&id)))
        }
        ApiKeys::Enable(KeyId { id }) => {
            keys.enable(&ApiKeyId::new(&*id))?;
            out.result(&json!({}), format_args!("{} is enabled", printable(&id)))
        }
        ApiKeys::Get(KeyId { id }) => match keys.get(&ApiKeyId::new(&*id))? {
            Some(key) => out.result(&described(&key), line(&key)),
            None => out.result(&Value::Null, "there is no such key"),
        },
        ApiKeys::List => {
            let keys = keys.list()?;
            let json: Vec<_> = keys.iter().map(described).collect();
            let lines: Vec<_> = keys.iter().map(line).collect();
            out.result(&json, lines.join("\n"))
        }
    }
}

fn described(key: &ApiKey) -> Value {
    json!({"id": key.id.as_str(), "name": key.name, "enabled": key.is_enabled})
}

fn line(key: &ApiKey) -> String {
    let state = if key.is_enabled { "enabled" } else { "disabled" };
    format!("{} {} ({state})", printable(key.id.as_str()), printable(&key.name))
}
