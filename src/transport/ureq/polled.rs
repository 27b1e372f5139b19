//! TCP connections on Windows, on [`PolledStream`]: ureq's own cannot be shut down there while a
//! request waits for its response.

use std::fmt;
use std::io::{self, ErrorKind};
use std::net::{Shutdown, TcpStream};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use ureq::unversioned::transport::{
    Buffers, ConnectionDetails, Connector, Either, LazyBuffers, NextTimeout, ShutdownHandle,
    Transport,
};
use ureq::{Error, Timeout};

use crate::polled_stream::PolledStream;

/// Opens connections as ureq's `TcpConnector` does.
#[derive(Debug, Default)]
pub(super) struct PolledConnector;

impl<In: Transport> Connector<In> for PolledConnector {
    type Out = Either<In, PolledTransport>;

    fn connect(
        &self,
        details: &ConnectionDetails<'_>,
        chained: Option<In>,
    ) -> Result<Option<Self::Out>, Error> {
        if let Some(chained) = chained {
            return Ok(Some(Either::A(chained)));
        }
        let stream = connect(details)?;
        stream.set_nodelay(details.config.no_delay())?;
        let stream = Arc::new(PolledStream::new(stream)?);
        let handle: Weak<PolledStream> = Arc::downgrade(&stream);
        (details.register_shutdown)(handle)?;
        let config = details.config;
        let buffers = LazyBuffers::new(config.input_buffer_size(), config.output_buffer_size());
        Ok(Some(Either::B(PolledTransport { stream, buffers })))
    }
}

impl ShutdownHandle for PolledStream {
    fn shutdown(&self) {
        self.shutdown(Shutdown::Both);
    }
}

/// Tries the addresses in turn. Each attempt gets half of the time that is left, the last one all.
fn connect(details: &ConnectionDetails<'_>) -> Result<TcpStream, Error> {
    let (began, at_most) = (Instant::now(), *details.timeout.after);
    let mut failed = io::Error::from(ErrorKind::ConnectionRefused);
    for (tried, address) in details.addrs.iter().enumerate() {
        let left = at_most.saturating_sub(began.elapsed());
        let is_last = tried + 1 == details.addrs.len();
        let share = if is_last { left } else { left / 2 };
        match TcpStream::connect_timeout(address, share.max(Duration::from_millis(1))) {
            Ok(stream) => return Ok(stream),
            Err(error) => failed = error,
        }
    }
    Err(in_time(failed, Timeout::Connect))
}

/// A connection whose waits end when the agent is shut down.
pub(super) struct PolledTransport {
    stream: Arc<PolledStream>,
    buffers: LazyBuffers,
}

impl Transport for PolledTransport {
    fn buffers(&mut self) -> &mut dyn Buffers {
        &mut self.buffers
    }

    fn transmit_output(&mut self, amount: usize, timeout: NextTimeout) -> Result<(), Error> {
        let timeout = timeout.for_write();
        let output = &self.buffers.output()[..amount];
        let sent = self.stream.write_all(output, *timeout.after);
        sent.map_err(|error| in_time(error, timeout.reason))
    }

    fn await_input(&mut self, timeout: NextTimeout) -> Result<bool, Error> {
        let timeout = timeout.for_read();
        let read = self.stream.read(self.buffers.input_append_buf(), *timeout.after);
        let read = read.map_err(|error| in_time(error, timeout.reason))?;
        self.buffers.input_appended(read);
        Ok(read > 0)
    }

    fn is_open(&mut self) -> bool {
        self.stream.is_idle()
    }
}

impl fmt::Debug for PolledTransport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PolledTransport").field("stream", &self.stream).finish_non_exhaustive()
    }
}

/// Converts a timeout to ureq's error.
fn in_time(error: io::Error, reason: Timeout) -> Error {
    match error.kind() {
        ErrorKind::TimedOut => Error::Timeout(reason),
        _ => error.into(),
    }
}
