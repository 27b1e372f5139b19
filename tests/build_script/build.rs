//! What a build script does with keyfob: log in, call a function, and bake the answer in.

use std::error::Error;

use keyfob::{Credentials, Session};

fn main() -> Result<(), Box<dyn Error>> {
    let variable = |name: &str| {
        println!("cargo::rerun-if-env-changed={name}");
        std::env::var(name).map_err(|_| format!("{name} is not set"))
    };
    let session = Session::builder(variable("KEYFOB_APP_ID")?, variable("KEYFOB_BASE_URL")?)
        .data_dir(variable("KEYFOB_STORE")?)
        .open()?;
    // The builds share one store: the first one logs in, the others may find the user there.
    let user = match session.current_user()? {
        Some(user) => user,
        None => {
            session.log_in(&Credentials::email_password("build@example.org", "hunter22"))?
        }
    };
    let sum: i64 = user.functions().call("sum", (40, 2))?;
    println!("cargo::rustc-env=ANSWER={sum}");
    Ok(())
}
