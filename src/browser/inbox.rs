//! Redirect URLs that do not arrive through the listener: a person pastes them if the browser runs
//! on another machine.

use std::sync::{Mutex, MutexGuard, PoisonError};

use super::random;
use crate::error::{Error, Result};
use crate::form;
use crate::secret::Secret;

/// The pending sign-ins, and the parameters submitted for each.
#[derive(Default)]
pub(super) struct Inbox(Mutex<Vec<Entry>>);

struct Entry {
    state: Secret,
    parameters: Option<Secret>,
}

/// A pending sign-in. Dropping it removes it from the inbox.
pub(super) struct Waiting<'a> {
    inbox: &'a Inbox,
    state: Secret,
}

impl Inbox {
    pub(super) fn wait_for(&self, state: &Secret) -> Waiting<'_> {
        self.lock().push(Entry { state: state.clone(), parameters: None });
        Waiting { inbox: self, state: state.clone() }
    }

    /// Delivers a redirect URL to the sign-in with its state.
    ///
    /// # Errors
    /// [`Error::Config`] if no pending sign-in has that state. The error does not repeat the text,
    /// which may contain a code.
    pub(super) fn submit(&self, url: &str) -> Result<()> {
        let url = url.trim();
        let query = url.split_once('?').map_or(url, |(_, query)| query);
        let query = query.split('#').next().unwrap_or_default();
        let mut entries = self.lock();
        match entries.iter_mut().find(|entry| has_state(query, &entry.state)) {
            Some(entry) => {
                entry.parameters.get_or_insert_with(|| Secret::from(query));
                Ok(())
            }
            None => Err(Error::config(
                "the redirect URL",
                "it is not the response to a sign-in in progress: paste the whole address of the \
                 page on which the browser ended, with `code=` and `state=` in it",
            )),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Entry>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Waiting<'_> {
    /// Takes the submitted parameters, if any.
    pub(super) fn take(&self) -> Option<String> {
        let mut entries = self.inbox.lock();
        let entry = entries.iter_mut().find(|entry| entry.state == self.state)?;
        Some(entry.parameters.take()?.expose().to_owned())
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.inbox.lock().retain(|entry| entry.state != self.state);
    }
}

/// Returns `true` if there is exactly one `state` parameter and it equals `state`.
pub(super) fn has_state(parameters: &str, state: &Secret) -> bool {
    let mut states = form::values(parameters, "state");
    match (states.next(), states.next()) {
        (Some(found), None) => random::same(&found, state.expose()),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn submitted_url_reaches_its_sign_in() {
        let inbox = Inbox::default();
        let (one, other) = (inbox.wait_for(&"s1".into()), inbox.wait_for(&"s2".into()));
        for text in
            ["", "code=1", "http://127.0.0.1:1/callback?code=1&state=s3", "state=s1&state=s1"]
        {
            assert!(matches!(inbox.submit(text), Err(Error::Config { .. })), "{text}");
        }
        inbox.submit(" http://127.0.0.1:1/callback?code=1&state=s2#x\r\n").unwrap();
        assert_eq!(one.take(), None);
        assert_eq!(other.take().as_deref(), Some("code=1&state=s2"));
        assert_eq!(other.take(), None);
        inbox.submit("code=3&state=s1").unwrap();
        inbox.submit("code=4&state=s1").unwrap();
        assert_eq!(one.take().as_deref(), Some("code=3&state=s1"));
        drop(one);
        assert!(inbox.submit("code=5&state=s1").is_err());
    }
}
