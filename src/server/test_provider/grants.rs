//! State that sign-ins have created and that is not redeemed yet: authorization codes, device
//! codes, and recent names. It is in memory and bounded.

use std::collections::VecDeque;
use std::io;
use std::time::Duration;

use super::person::Person;
use crate::server::{digest, random};

/// The lifetime of an authorization code.
const CODE_LIFETIME: Duration = Duration::from_secs(60);
/// The lifetime of a device code.
pub(super) const DEVICE_LIFETIME: Duration = Duration::from_secs(600);
/// The maximum number of codes of each kind; a new code replaces the oldest.
const MAX_CODES: usize = 256;
/// The maximum number of names that the page offers.
const MAX_RECENT: usize = 5;

/// The names that the page offers in addition to recent ones.
const PEOPLE: [&str; 3] = ["Ada Lovelace", "Grace Hopper", "Alan Turing"];

#[derive(Default)]
pub(super) struct Grants {
    codes: VecDeque<(String, Duration, CodeGrant)>,
    devices: VecDeque<DeviceGrant>,
    recent: VecDeque<String>,
}

/// The sign-in that an authorization code belongs to.
pub(super) struct CodeGrant {
    pub person: Person,
    pub client_id: String,
    pub redirect_uri: String,
    pub scope: String,
    pub nonce: Option<String>,
    /// The `code_challenge` (S256).
    pub challenge: String,
}

/// A sign-in in the device flow.
pub(super) struct DeviceGrant {
    /// The hash of the device code.
    hash: String,
    pub user_code: String,
    pub client_id: String,
    pub scope: String,
    ends: Duration,
    pub state: DeviceState,
}

#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) enum DeviceState {
    Approved(Person),
    Pending,
    Refused,
}

impl Grants {
    /// Stores a sign-in, and returns its authorization code.
    pub(super) fn add_code(&mut self, grant: CodeGrant, now: Duration) -> io::Result<String> {
        let code = random::hex(&random::bytes::<32>()?);
        self.codes.retain(|(_, ends, _)| now < *ends);
        make_room(&mut self.codes);
        self.remember(&grant.person);
        self.codes.push_back((digest::sha256(&code), now + CODE_LIFETIME, grant));
        Ok(code)
    }

    /// Removes a code and returns its sign-in, so that a code can be used only once.
    pub(super) fn take_code(&mut self, code: &str, now: Duration) -> Option<CodeGrant> {
        let hash = digest::sha256(code);
        let at = self.codes.iter().position(|(other, ..)| *other == hash)?;
        let (_, ends, grant) = self.codes.remove(at)?;
        (now < ends).then_some(grant)
    }

    /// Starts a sign-in in the device flow, and returns the device code and the user code.
    pub(super) fn add_device(
        &mut self,
        client_id: String,
        scope: String,
        now: Duration,
    ) -> io::Result<(String, String)> {
        let device_code = random::hex(&random::bytes::<32>()?);
        let mut letters = random::letters(8)?.to_ascii_uppercase();
        letters.insert(4, '-');
        self.devices.retain(|device| now < device.ends);
        make_room(&mut self.devices);
        self.devices.push_back(DeviceGrant {
            hash: digest::sha256(&device_code),
            user_code: letters.clone(),
            client_id,
            scope,
            ends: now + DEVICE_LIFETIME,
            state: DeviceState::Pending,
        });
        Ok((device_code, letters))
    }

    /// Returns the pending sign-in with this user code. Case and separators do not matter.
    pub(super) fn pending_device(
        &mut self,
        user_code: &str,
        now: Duration,
    ) -> Option<&mut DeviceGrant> {
        let letters = |code: &str| -> String {
            code.chars().filter(char::is_ascii_alphabetic).map(|c| c.to_ascii_uppercase()).collect()
        };
        let wanted = letters(user_code);
        self.devices.iter_mut().find(|device| {
            now < device.ends
                && device.state == DeviceState::Pending
                && letters(&device.user_code) == wanted
        })
    }

    /// Returns the state of a sign-in in the device flow, or `None` if the code is unknown or has
    /// expired. Removes the sign-in unless it is pending.
    pub(super) fn poll_device(
        &mut self,
        device_code: &str,
        client_id: &str,
        now: Duration,
    ) -> Option<(DeviceState, String)> {
        let hash = digest::sha256(device_code);
        let is_it = |device: &DeviceGrant| device.hash == hash && device.client_id == client_id;
        let at = self.devices.iter().position(is_it)?;
        let device = self.devices.get(at)?;
        let found = (now < device.ends).then(|| (device.state.clone(), device.scope.clone()));
        if !matches!(found, Some((DeviceState::Pending, _))) {
            self.devices.remove(at);
        }
        found
    }

    /// Adds a name to the recent names.
    pub(super) fn remember(&mut self, person: &Person) {
        let name = person.name();
        self.recent.retain(|other| other != name);
        self.recent.push_front(name.to_owned());
        self.recent.truncate(MAX_RECENT);
    }

    /// Returns the names that the page offers.
    pub(super) fn names(&self) -> Vec<String> {
        let fixed = PEOPLE.iter().map(|name| (*name).to_owned());
        let fixed = fixed.filter(|name| !self.recent.contains(name));
        self.recent.iter().cloned().chain(fixed).take(MAX_RECENT).collect()
    }
}

fn make_room<T>(queue: &mut VecDeque<T>) {
    while queue.len() >= MAX_CODES {
        queue.pop_front();
    }
}
