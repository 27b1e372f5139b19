//! One connection to a Redis server over TCP or TLS. Each read and write respects the limit of the
//! current operation.
//!
//! The redis crate encodes commands and parses replies, but does not connect: its timeouts apply to
//! each read and each address separately, and its TLS panics in programs with two cryptography
//! providers.

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::time::{Duration, Instant};

use ::redis::{Cmd, FromRedisValue, Parser, Value, from_redis_value};
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection, StreamOwned};

use super::address::{Account, Address};
use super::failure::Failure;
use super::limit::Limit;
use super::resolver::Resolver;
use super::scripts::Lua;
use crate::happy_eyeballs::Race;

/// The maximum size of a reply, in bytes.
const LARGEST_ANSWER: u64 = 64 * 1024 * 1024;

/// The maximum time to connect to any address of a host, and the maximum time of the TLS handshake
/// after it.
const CONNECT_LIMIT: Duration = Duration::from_secs(10);

/// An authenticated connection.
pub(super) struct Connection {
    stream: Stream,
    parser: Parser,
    since: Instant,
}

enum Stream {
    Plain(Socket),
    Tls(Box<StreamOwned<ClientConnection, Socket>>),
}

/// A TCP socket with a limit for blocking operations.
struct Socket {
    tcp: TcpStream,
    limit: Limit,
}

/// A server's address and the settings of a connection to it.
#[derive(Clone)]
pub(super) struct Target {
    pub(super) address: Address,
    pub(super) account: Account,
    pub(super) database: i64,
    pub(super) tls: Option<Arc<ClientConfig>>,
}

/// The role that the server reports.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Role {
    Primary,
    Replica,
    /// The account has no permission to ask.
    Unknown,
}

impl Connection {
    /// Connects, and authenticates if there is an account.
    pub(super) fn open(
        target: &Target,
        resolver: &Resolver,
        race: &Race,
        limit: Limit,
    ) -> Result<(Self, Role), Failure> {
        let tcp = connect(&target.address, resolver, race, limit)?;
        tcp.set_nodelay(true).map_err(|error| Failure::Connect(error.kind()))?;
        // A server without TLS may treat the handshake as an incomplete command and wait for the
        // rest, so limit the handshake.
        let socket = Socket { tcp, limit: limit.at_most(CONNECT_LIMIT) };
        let stream = match &target.tls {
            None => Stream::Plain(socket),
            Some(config) => {
                let name = ServerName::try_from(target.address.host.clone());
                let name = name.map_err(|_| Failure::Tls)?;
                let client = ClientConnection::new(Arc::clone(config), name);
                let mut stream = StreamOwned::new(client.map_err(|_| Failure::Tls)?, socket);
                let shaken = stream.conn.complete_io(&mut stream.sock);
                shaken.map_err(|error| Failure::of_handshake(&error))?;
                Stream::Tls(Box::new(stream))
            }
        };
        let mut connection = Self { stream, parser: Parser::new(), since: Instant::now() };
        let role = connection.within(limit).introduce(target)?;
        Ok((connection, role))
    }

    /// Returns the time since the connection was opened.
    pub(super) fn age(&self) -> Duration {
        self.since.elapsed()
    }

    /// Sets the limit of all further operations.
    pub(super) fn within(&mut self, limit: Limit) -> &mut Self {
        match &mut self.stream {
            Stream::Plain(socket) => socket.limit = limit,
            Stream::Tls(stream) => stream.sock.limit = limit,
        }
        self
    }

    /// Sends a command and reads the reply.
    pub(super) fn ask<T: FromRedisValue>(&mut self, command: &Cmd) -> Result<T, Failure> {
        self.send(command)?;
        let answer = self.read()?;
        from_redis_value(answer).map_err(|_| Failure::Broken("its answer has an unexpected form"))
    }

    /// Runs a script. Its code is sent only if the server does not have it cached.
    pub(super) fn run<T: FromRedisValue>(
        &mut self,
        script: &Lua,
        keys: &[&[u8]],
        arguments: &[&[u8]],
    ) -> Result<T, Failure> {
        let command = |name: &str, script: &str| {
            let mut command = ::redis::cmd(name);
            command.arg(script).arg(keys.len());
            for argument in keys.iter().chain(arguments) {
                command.arg(*argument);
            }
            command
        };
        match self.ask(&command("EVALSHA", &script.hash)) {
            Err(Failure::Refused("NOSCRIPT")) => self.ask(&command("EVAL", &script.code)),
            answer => answer,
        }
    }

    pub(super) fn send(&mut self, command: &Cmd) -> Result<(), Failure> {
        self.write(&command.get_packed_command())
    }

    /// Reads the next reply, or the next message of a subscription.
    pub(super) fn read(&mut self) -> Result<Value, Failure> {
        let mut stream = (&mut self.stream).take(LARGEST_ANSWER);
        match self.parser.parse_value(&mut stream) {
            Ok(Value::ServerError(error)) => Err(Failure::refused(error.code())),
            Ok(answer) => Ok(answer),
            Err(_) if stream.limit() == 0 => Err(Failure::Broken("its answer is too large")),
            Err(error) if error.is_timeout() => Err(Failure::TimedOut),
            Err(error) if error.is_io_error() => Err(Failure::Broken("the connection broke")),
            Err(_) => Err(Failure::Broken("its answer is not the Redis protocol")),
        }
    }

    fn write(&mut self, bytes: &[u8]) -> Result<(), Failure> {
        let written = self.stream.write_all(bytes).and_then(|()| self.stream.flush());
        written.map_err(|error| Failure::of_socket(&error))
    }

    /// Authenticates, selects the database and requests the server's role, in one round trip.
    fn introduce(&mut self, target: &Target) -> Result<Role, Failure> {
        let mut commands = Vec::new();
        if let Some(password) = &target.account.password {
            let mut login = ::redis::cmd("AUTH");
            login.arg(target.account.username.as_deref()).arg(password.expose());
            commands.push(login);
        }
        if target.database != 0 {
            let mut select = ::redis::cmd("SELECT");
            select.arg(target.database);
            commands.push(select);
        }
        let expected = commands.len();
        commands.push(::redis::cmd("ROLE"));
        let mut bytes = Vec::new();
        for command in &commands {
            bytes.extend(command.get_packed_command());
        }
        let sent = self.write(&bytes);
        crate::secret::wipe(&mut bytes);
        sent?;
        if let Stream::Plain(socket) = &mut self.stream {
            socket.expect_no_tls()?;
        }
        for _ in 0..expected {
            self.read()?;
        }
        match self.read() {
            Ok(Value::Array(role)) => Ok(match role.first() {
                Some(Value::BulkString(name)) if name == b"master" => Role::Primary,
                Some(Value::BulkString(name)) if name == b"slave" => Role::Replica,
                _ => Role::Unknown,
            }),
            Err(Failure::Refused("NOPERM")) => Ok(Role::Unknown),
            Err(failure) => Err(failure),
            Ok(_) => Ok(Role::Unknown),
        }
    }
}

/// Connects to the first address that accepts the connection.
fn connect(
    address: &Address,
    resolver: &Resolver,
    race: &Race,
    limit: Limit,
) -> Result<TcpStream, Failure> {
    let addresses = resolver.resolve(&address.host, address.port, limit)?;
    let time = limit.remaining().min(CONNECT_LIMIT);
    if time.is_zero() {
        return Err(Failure::TimedOut);
    }
    let open = |address, left: Duration| match left.is_zero() {
        true => Err(io::ErrorKind::TimedOut.into()),
        false => TcpStream::connect_timeout(&address, left),
    };
    match race.connect(&addresses, time, limit.interruptible(), open) {
        Ok((_, stream)) => Ok(stream),
        Err(failed) => {
            let kind = failed.map_or(io::ErrorKind::TimedOut, |error| error.kind());
            match kind == io::ErrorKind::TimedOut && limit.is_late() {
                true => Err(Failure::TimedOut),
                false => Err(Failure::Connect(kind)),
            }
        }
    }
}

impl Read for Stream {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Plain(socket) => socket.read(buffer),
            Self::Tls(stream) => stream.read(buffer),
        }
    }
}

impl Write for Stream {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Plain(socket) => socket.write(bytes),
            Self::Tls(stream) => stream.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        match self {
            Self::Plain(_) => Ok(()),
            Self::Tls(stream) => stream.flush(),
        }
    }
}

impl Socket {
    /// Waits for the first byte. Returns an error if it is from a TLS server, or if the server
    /// closed the connection.
    fn expect_no_tls(&mut self) -> Result<(), Failure> {
        /// The type of the TLS record that a server sends if it receives anything but TLS.
        ///
        /// Source: RFC 8446, section 5.1.
        const ALERT: u8 = 21;
        let mut first = [0];
        match self.patiently(TcpStream::set_read_timeout, |tcp| tcp.peek(&mut first)) {
            Ok(0) => Err(Failure::WantsTls),
            Ok(_) if first == [ALERT] => Err(Failure::WantsTls),
            Ok(_) => Ok(()),
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => Err(Failure::WantsTls),
            Err(error) => Err(Failure::of_socket(&error)),
        }
    }

    /// Repeats a socket operation until it completes or the limit has passed.
    fn patiently<T>(
        &mut self,
        set_timeout: fn(&TcpStream, Option<Duration>) -> io::Result<()>,
        mut act: impl FnMut(&TcpStream) -> io::Result<T>,
    ) -> io::Result<T> {
        loop {
            let wait = self.limit.wait();
            if wait.is_zero() {
                return Err(io::ErrorKind::TimedOut.into());
            }
            set_timeout(&self.tcp, Some(wait))?;
            match act(&self.tcp) {
                Err(error)
                    if matches!(
                        error.kind(),
                        io::ErrorKind::WouldBlock
                            | io::ErrorKind::TimedOut
                            | io::ErrorKind::Interrupted
                    ) => {}
                done => return done,
            }
        }
    }
}

impl Read for Socket {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.patiently(TcpStream::set_read_timeout, |mut tcp| tcp.read(buffer))
    }
}

impl Write for Socket {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.patiently(TcpStream::set_write_timeout, |mut tcp| tcp.write(bytes))
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
