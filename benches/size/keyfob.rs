//! A log-in, kept on disk, and a call.

use keyfob::{Credentials, Session};

fn main() -> keyfob::Result<()> {
    let [url, dir] = [1, 2].map(|number| std::env::args().nth(number).unwrap_or_default());
    let session = Session::builder("app", url).data_dir(dir).open()?;
    let user = session.log_in(&Credentials::email_password("ada", "hunter22"))?;
    println!("{}", user.functions().call::<String>("greet", ())?);
    Ok(())
}
