//! A backend in the foreground.

use keyfob::server::Server;
use serde_json::json;

use crate::args::Serve;
use crate::failure::Failure;
use crate::output::{Output, note};
use crate::words::Settings;

/// Runs a backend until the process is ended.
pub(crate) fn run(settings: &Settings, options: &Serve, out: &Output) -> Result<(), Failure> {
    let mut builder = Server::builder().addr(options.addr).built_in_functions();
    if let Some(app_id) = settings.app_id()? {
        builder = builder.app_id(app_id);
    }
    if let Some(dir) = &options.data {
        builder = builder.data_dir(dir);
    }
    if let Some(lifetime) = options.access_ttl {
        builder = builder.access_token_lifetime(lifetime);
    }
    if let Some(lifetime) = options.refresh_ttl {
        builder = builder.refresh_token_lifetime(lifetime);
    }
    let server = builder.start().map_err(Failure::Serve)?;
    let (app_id, base_url) = (server.app_id(), server.base_url());
    out.result(
        &json!({"base_url": base_url, "app_id": app_id}),
        format_args!("keyfob: serving app {app_id} at {base_url}"),
    )?;
    if !out.is_json() {
        note(format_args!(
            "in another terminal: KEYFOB_APP_ID={app_id} KEYFOB_BASE_URL={base_url} \
             keyfob login --anonymous"
        ));
    }
    loop {
        std::thread::park();
    }
}
