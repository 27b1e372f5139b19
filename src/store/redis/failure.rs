//! Failures between keyfob and a Redis server. They omit the server's error texts, which may repeat
//! arguments, and arguments may be tokens.

use std::io;

use super::address::Address;
use crate::error::{StoreError, StoreErrorKind};

/// Why a request to a server failed.
#[derive(Clone, Debug)]
pub(super) enum Failure {
    /// The connection broke, or the bytes were not the Redis protocol.
    Broken(&'static str),
    /// No connection could be made.
    Connect(io::ErrorKind),
    /// The server refused the request, with this code.
    Refused(&'static str),
    /// The reply did not arrive in time.
    TimedOut,
    /// The TLS handshake failed.
    Tls,
    /// The TLS handshake did not complete in time.
    TlsTimedOut,
    /// The server does not support TLS.
    WantsNoTls,
    /// The server closed a new connection at once, as a TLS server does if the URL has no TLS.
    WantsTls,
}

/// The known codes of error replies. Any other code counts as `ERR`.
const CODES: &[&str] = &[
    "ASK",
    "BUSY",
    "CLUSTERDOWN",
    "CROSSSLOT",
    "LOADING",
    "MASTERDOWN",
    "MISCONF",
    "MOVED",
    "NOAUTH",
    "NOPERM",
    "NOREPLICAS",
    "NOSCRIPT",
    "OOM",
    "READONLY",
    "TRYAGAIN",
    "WRONGPASS",
    "WRONGTYPE",
];

impl Failure {
    /// Converts the code of an error reply.
    pub(super) fn refused(code: &str) -> Self {
        Self::Refused(CODES.iter().find(|known| **known == code).copied().unwrap_or("ERR"))
    }

    /// Converts an error of a connected socket.
    pub(super) fn of_socket(error: &io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::TimedOut | io::ErrorKind::WouldBlock => Self::TimedOut,
            _ => Self::Broken("the connection broke"),
        }
    }

    /// Converts an error of a TLS handshake.
    pub(super) fn of_handshake(error: &io::Error) -> Self {
        let cause = error.get_ref().and_then(|cause| cause.downcast_ref());
        match (Self::of_socket(error), cause) {
            (Self::TimedOut, _) => Self::TlsTimedOut,
            (_, Some(rustls::Error::InvalidMessage(_))) => Self::WantsNoTls,
            _ => Self::Tls,
        }
    }

    /// Returns the store error for this failure.
    pub(super) fn at(&self, address: &Address) -> StoreError {
        use StoreErrorKind::{Access, Busy, Damaged, Full, Io};
        let (kind, what) = match self {
            Self::Broken(what) => (Io, *what),
            Self::Connect(kind) => {
                let reason = format!("cannot connect to the Redis server at {address}");
                return StoreError::new(Io, reason).because(io::Error::from(*kind));
            }
            Self::WantsTls => {
                (Io, "it closed the connection at once, if it speaks TLS there use a rediss:// URL")
            }
            Self::WantsNoTls => {
                (Io, "it does not speak TLS on this port, use its TLS port or a redis:// URL")
            }
            Self::TlsTimedOut => (
                Busy,
                "it did not answer the TLS handshake in time, try again later, and check that it \
                 speaks TLS on this port",
            ),
            Self::TimedOut => (Busy, "it did not answer in time, try again later"),
            Self::Tls => (Io, "TLS failed, check its certificate and your root certificates"),
            Self::Refused(code) => match *code {
                "LOADING" | "BUSY" | "TRYAGAIN" => (Busy, "it is busy, try again later"),
                "MASTERDOWN" | "READONLY" => (Busy, "it is a replica, connect to the primary"),
                "MISCONF" => (Io, "it cannot save its data"),
                "NOAUTH" => (Access, "it requires a password"),
                "NOPERM" => (Access, "the account lacks a permission, see the manual page redis"),
                "NOREPLICAS" => (Busy, "it has too few replicas to write, try again later"),
                "OOM" => (Full, "it has reached its memory limit"),
                "WRONGPASS" => (Access, "the user name or the password is wrong"),
                "WRONGTYPE" => (Damaged, "another program uses keys of this namespace"),
                "ASK" | "CLUSTERDOWN" | "CROSSSLOT" | "MOVED" => {
                    (Io, "it belongs to a cluster, which is not supported")
                }
                _ => (Io, "it refused a command"),
            },
        };
        StoreError::new(kind, format!("the Redis server at {address}: {what}"))
    }
}
