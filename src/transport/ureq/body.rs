//! Reads response bodies, and decodes those that ureq does not decode.
//!
//! ureq takes an empty body for a broken gzip stream, and knows the encoding only as `gzip`. RFC 9110
//! says that a 204 or a 304 has no body whatever its headers are (section 6.4.1), that the names of
//! encodings are case-insensitive, and that `x-gzip` is the same as `gzip` (section 8.4.1).

use std::fmt;
use std::io::{self, Cursor, Read};
use std::sync::{Mutex, PoisonError};

use ureq::http::{HeaderMap, Response};
use ureq::unversioned::resolver::DefaultResolver;
use ureq::unversioned::transport::{
    Buffers, ConnectionDetails, Connector, LazyBuffers, NextTimeout, Transport,
};
use ureq::{Agent, Body, Error};

/// The encoding of a body that ureq has not decoded.
enum Encoding {
    None,
    Gzip,
    Other(String),
}

/// Reads the body of a response, at most `limit` bytes of it. If the body cannot be read to its end,
/// this returns the bytes before the error, and the error.
pub(super) fn read(response: &mut Response<Body>, limit: u64) -> (Vec<u8>, Result<(), Error>) {
    let mut body = Vec::new();
    if matches!(response.status().as_u16(), 100..=199 | 204 | 304) {
        return (body, Ok(()));
    }
    let encoding = Encoding::of(response.headers());
    let mut reader = response.body_mut().with_config().limit(limit).reader();
    match (reader.read_to_end(&mut body).map_err(Error::from), encoding) {
        // An empty body needs no decoding.
        (Err(Error::Decompress(_, cause)), _)
            if body.is_empty() && cause.kind() == io::ErrorKind::UnexpectedEof =>
        {
            (body, Ok(()))
        }
        (Err(error), _) => (body, Err(error)),
        (Ok(_), Encoding::Gzip) if !body.is_empty() => gunzip(body, limit),
        (Ok(_), Encoding::Other(name)) if !body.is_empty() => {
            let cause = format!("the body is encoded as {name:?}, expected gzip or no encoding");
            (Vec::new(), Err(Error::Decompress("response", io::Error::other(cause))))
        }
        (Ok(_), _) => (body, Ok(())),
    }
}

impl Encoding {
    /// Returns the encoding that is left in the headers. ureq removes the one that it decodes.
    fn of(headers: &HeaderMap) -> Self {
        let fields = headers.get_all("content-encoding").into_iter();
        let fields: Vec<_> =
            fields.map(|field| String::from_utf8_lossy(field.as_bytes())).collect();
        let names = fields.iter().flat_map(|field| field.split(',')).map(str::trim);
        let is_one = |name: &&str| !name.is_empty() && !name.eq_ignore_ascii_case("identity");
        let names: Vec<_> = names.filter(is_one).collect();
        match names[..] {
            [] => Self::None,
            [name] if ["gzip", "x-gzip"].iter().any(|gzip| name.eq_ignore_ascii_case(gzip)) => {
                Self::Gzip
            }
            _ => Self::Other(names.join(", ").chars().take(40).collect()),
        }
    }
}

/// Decodes a body with ureq's decoder, which is the only one here: ureq receives the body again, in a
/// response with the encoding `gzip`.
fn gunzip(body: Vec<u8>, limit: u64) -> (Vec<u8>, Result<(), Error>) {
    let head = "HTTP/1.1 200 OK\r\ncontent-encoding: gzip\r\ncontent-length: ";
    let mut response = format!("{head}{}\r\n\r\n", body.len()).into_bytes();
    response.extend_from_slice(&body);
    let config = Agent::config_builder().proxy(None).build();
    let agent = Agent::with_parts(config, Replay(Mutex::new(response)), DefaultResolver::default());
    match agent.get("http://127.0.0.1/").call() {
        Ok(mut response) => read(&mut response, limit),
        Err(error) => (Vec::new(), Err(error)),
    }
}

/// Opens one connection that returns a given response.
struct Replay(Mutex<Vec<u8>>);

impl Connector for Replay {
    type Out = Replayed;

    fn connect(
        &self,
        details: &ConnectionDetails<'_>,
        _: Option<()>,
    ) -> Result<Option<Replayed>, Error> {
        let response = std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner));
        let config = details.config;
        let buffers = LazyBuffers::new(config.input_buffer_size(), config.output_buffer_size());
        Ok(Some(Replayed { buffers, response: Cursor::new(response) }))
    }
}

struct Replayed {
    buffers: LazyBuffers,
    response: Cursor<Vec<u8>>,
}

impl Transport for Replayed {
    fn buffers(&mut self) -> &mut dyn Buffers {
        &mut self.buffers
    }

    fn transmit_output(&mut self, _: usize, _: NextTimeout) -> Result<(), Error> {
        Ok(())
    }

    fn await_input(&mut self, _: NextTimeout) -> Result<bool, Error> {
        let length = self.response.read(self.buffers.input_append_buf())?;
        self.buffers.input_appended(length);
        Ok(length > 0)
    }

    fn is_open(&mut self) -> bool {
        false
    }
}

impl fmt::Debug for Replay {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Replay")
    }
}

impl fmt::Debug for Replayed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Replayed")
    }
}
