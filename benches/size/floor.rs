//! A log-in, kept on disk, and a call, by hand.

use std::error::Error;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::{Deserialize, Serialize};
use sled::transaction::ConflictableTransactionError;

#[derive(Deserialize, Serialize)]
struct Login {
    access_token: String,
    refresh_token: String,
    user_id: String,
}

#[derive(Deserialize)]
struct Claims {
    exp: i64,
}

fn main() -> Result<(), Box<dyn Error>> {
    let [url, dir] = [1, 2].map(|number| std::env::args().nth(number).unwrap_or_default());
    let post =
        |path: &str| ureq::post(format!("{url}/{path}")).header("content-type", "application/json");
    let mut answer = post("login").send(r#"{"username":"ada","password":"hunter22"}"#)?;
    let login: Login = serde_json::from_slice(&answer.body_mut().read_to_vec()?)?;
    let payload = login.access_token.split('.').nth(1).unwrap_or_default();
    let claims: Claims = serde_json::from_slice(&URL_SAFE_NO_PAD.decode(payload)?)?;
    let db = sled::open(dir)?;
    let record = serde_json::to_vec(&login)?;
    db.transaction(|tree| {
        tree.insert("user", &record[..])?;
        tree.insert("current", login.user_id.as_bytes())?;
        Ok::<_, ConflictableTransactionError>(())
    })?;
    db.flush()?;
    let bearer = format!("Bearer {}", login.access_token);
    let mut answer = post("call").header("authorization", bearer).send("[]")?;
    println!("{} {}", claims.exp, answer.body_mut().read_to_string()?);
    Ok(())
}
