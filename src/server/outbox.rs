//! The outbox: mails that the server creates but does not send.

use std::collections::VecDeque;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use crate::{Deadline, Secret};

/// Maximum number of mails; the oldest ones are dropped.
const CAPACITY: usize = 1024;

/// A mail that a mail server would have sent.
#[derive(Clone, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub struct Mail {
    /// The recipient's address, without control characters.
    pub to: String,
    /// The purpose of the mail.
    pub kind: MailKind,
    /// The token that the mail contains.
    pub token: Secret,
    /// The id of the token.
    pub token_id: String,
    /// The link in the mail, which contains the token and its id.
    pub link: Secret,
}

/// The purpose of a mail.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
#[non_exhaustive]
pub enum MailKind {
    /// Confirms the address.
    Confirmation,
    /// Allows the password to be replaced.
    PasswordReset,
}

pub(super) type OnMail = dyn Fn(&Mail) + Send + Sync;

/// Stores the mails.
#[derive(Default)]
pub(super) struct Outbox {
    mails: Mutex<VecDeque<Mail>>,
    arrived: Condvar,
    pub on_mail: Option<Box<OnMail>>,
}

impl Outbox {
    pub(super) fn put(&self, mail: Mail) {
        {
            let mut mails = self.mails();
            if mails.len() == CAPACITY {
                mails.pop_front();
            }
            mails.push_back(mail.clone());
        }
        self.arrived.notify_all();
        // No lock is held here, because the callback is foreign code.
        if let Some(on_mail) = &self.on_mail {
            on_mail(&mail);
        }
    }

    pub(super) fn to_vec(&self) -> Vec<Mail> {
        self.mails().iter().cloned().collect()
    }

    /// Removes and returns the oldest mail of this kind to this address, waiting for one until the
    /// deadline.
    pub(super) fn take(&self, to: &str, kind: MailKind, deadline: Deadline) -> Option<Mail> {
        let mut mails = self.mails();
        loop {
            let wanted = |mail: &Mail| mail.to == to && mail.kind == kind;
            if let Some(index) = mails.iter().position(wanted) {
                return mails.remove(index);
            }
            if deadline.has_passed() {
                return None;
            }
            mails = self
                .arrived
                .wait_timeout(mails, deadline.remaining())
                .unwrap_or_else(PoisonError::into_inner)
                .0;
        }
    }

    fn mails(&self) -> MutexGuard<'_, VecDeque<Mail>> {
        self.mails.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn mail(to: usize) -> Mail {
        Mail {
            to: to.to_string(),
            kind: MailKind::Confirmation,
            token: Secret::new("planted"),
            token_id: String::new(),
            link: Secret::new("http://planted"),
        }
    }

    #[test]
    fn outbox_is_bounded_and_debug_hides_secrets() {
        let outbox = Outbox::default();
        (0..=CAPACITY).for_each(|to| outbox.put(mail(to)));
        assert_eq!(outbox.to_vec().len(), CAPACITY);
        assert_eq!(outbox.to_vec()[0].to, "1");
        assert!(!format!("{:?}", outbox.to_vec()).contains("planted"));
    }

    #[test]
    fn waiting_receives_each_mail_once() {
        let outbox = Outbox::default();
        let now = Deadline::after(Duration::ZERO);
        std::thread::scope(|scope| {
            let (outbox, soon) = (&outbox, Deadline::after(Duration::from_secs(10)));
            let taken = scope.spawn(move || outbox.take("7", MailKind::Confirmation, soon));
            outbox.put(mail(6));
            outbox.put(mail(7));
            assert_eq!(taken.join().unwrap(), Some(mail(7)));
        });
        assert_eq!(outbox.take("7", MailKind::Confirmation, now), None);
        assert_eq!(outbox.take("6", MailKind::PasswordReset, now), None);
        assert_eq!(outbox.take("6", MailKind::Confirmation, now), Some(mail(6)));
    }
}
