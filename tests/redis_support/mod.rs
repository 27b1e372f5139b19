//! A redis-server of the test's own: started on a free port, killed when it is dropped.

#![allow(dead_code, reason = "each test binary uses its own part")]
#![allow(unreachable_pub, reason = "it is a module of several test binaries")]

use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use keyfob::EncryptionKey;
use keyfob::store::{RedisStore, RedisStoreBuilder};

/// A namespace for tests that need only one.
pub const NAMESPACE: &str = "app@https://backend.example.org";

/// The command of the manual's page that creates an account for keyfob, on one line.
pub const ACL: &str = "ACL SETUSER keyfob on >PASSWORD resetkeys ~{*}:* resetchannels &{*}:* -@all \
                       +auth +select +ping +role +wait +eval +evalsha +get +set +del +pexpire \
                       +type +hget +hset +hmget +hdel +hlen +hincrby +zadd +zrem +zrangebylex \
                       +zrevrange +rpush +lpop +llen +lrange +publish +subscribe";

/// A running redis-server.
pub struct RedisServer {
    child: Child,
    port: u16,
    dir: PathBuf,
    arguments: Vec<String>,
}

impl RedisServer {
    /// Starts a server that keeps nothing on disk.
    pub fn start() -> Self {
        Self::with(&["--save", "", "--appendonly", "no"])
    }

    /// Starts a server that appends every write to a file, and syncs it as it is told.
    pub fn durable(fsync: &str) -> Self {
        Self::with(&["--save", "", "--appendonly", "yes", "--appendfsync", fsync])
    }

    /// Starts a server with these arguments.
    pub fn with(arguments: &[&str]) -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("redis-{}-{count}", std::process::id());
        let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
        let _ = std::fs::remove_dir_all(&dir);
        std::fs::create_dir_all(&dir).unwrap();
        let arguments: Vec<_> = arguments.iter().map(|argument| (*argument).to_owned()).collect();
        // Another program may take the port before the server does.
        for _ in 0..20 {
            let port = free_port();
            let child = launch(port, &dir, &arguments);
            let mut server = Self { child, port, dir: dir.clone(), arguments: arguments.clone() };
            if server.answers() {
                return server;
            }
        }
        panic!("redis-server does not start: is it installed?");
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    pub fn dir(&self) -> &Path {
        &self.dir
    }

    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    /// A builder for an unencrypted store on this server.
    pub fn builder(&self) -> RedisStoreBuilder {
        builder(&self.url())
    }

    /// Runs a command on a connection of its own.
    pub fn run<T: redis::FromRedisValue>(&self, words: &[&str]) -> T {
        self.try_run(words).unwrap()
    }

    pub fn try_run<T: redis::FromRedisValue>(&self, words: &[&str]) -> redis::RedisResult<T> {
        let client = redis::Client::open(self.url()).unwrap();
        let mut connection = client.get_connection_with_timeout(Duration::from_secs(5))?;
        let mut command = redis::cmd(words[0]);
        for word in &words[1..] {
            command.arg(*word);
        }
        command.query(&mut connection)
    }

    /// Ends the server at once, as `kill -9` does.
    pub fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }

    /// Starts the server again, on the same port and directory.
    pub fn start_again(&mut self) {
        self.child = launch(self.port, &self.dir, &self.arguments);
        assert!(self.answers(), "the server does not start again");
    }

    /// Stops the process, or lets it go on.
    pub fn signal(&self, signal: &str) {
        signal_process(self.pid(), signal);
    }

    /// Makes this server a replica, and waits until it has the data of the primary.
    pub fn follow(&self, primary: &Self) {
        self.run::<()>(&["REPLICAOF", "127.0.0.1", &primary.port.to_string()]);
        self.wait_for_link();
    }

    /// Waits until the replica is connected to its primary.
    pub fn wait_for_link(&self) {
        self.wait_for("master_link_status:up");
    }

    /// Waits until the server is a primary.
    pub fn wait_for_promotion(&self) {
        self.wait_for("role:master");
    }

    fn wait_for(&self, text: &str) {
        let until = Instant::now() + Duration::from_secs(60);
        while !self
            .try_run::<String>(&["INFO", "replication"])
            .is_ok_and(|info| info.contains(text))
        {
            assert!(Instant::now() < until, "{text} does not come");
            thread::sleep(Duration::from_millis(10));
        }
    }

    /// Waits until somebody subscribes to the commits of [`NAMESPACE`].
    pub fn wait_for_subscriber(&self) {
        let channel = format!("{{{NAMESPACE}}}:commits");
        let until = Instant::now() + Duration::from_secs(30);
        loop {
            let found: (String, u32) = self.run(&["PUBSUB", "NUMSUB", &channel]);
            if found.1 > 0 {
                return;
            }
            assert!(Instant::now() < until, "nobody subscribes");
            thread::sleep(Duration::from_millis(5));
        }
    }

    /// Waits until the server answers; `false` if it has ended.
    fn answers(&mut self) -> bool {
        let until = Instant::now() + Duration::from_secs(20);
        while Instant::now() < until {
            if self.child.try_wait().unwrap().is_some() {
                return false;
            }
            if self.try_run::<String>(&["PING"]).is_ok() {
                return true;
            }
            thread::sleep(Duration::from_millis(10));
        }
        false
    }
}

/// A Sentinel of the test's own, which promotes a replica half a second after the primary went.
pub struct Sentinel {
    child: Child,
    port: u16,
}

impl Sentinel {
    /// Watches a primary with one replica under the name `fleet`.
    pub fn watch(primary: &RedisServer) -> Self {
        let port = free_port();
        let file = primary.dir.join("sentinel.conf");
        let settings = format!(
            "port {port}\nbind 127.0.0.1\nsentinel monitor fleet 127.0.0.1 {} 1\n\
             sentinel down-after-milliseconds fleet 500\nsentinel failover-timeout fleet 5000\n",
            primary.port
        );
        std::fs::write(&file, settings).unwrap();
        let child = Command::new("redis-server")
            .arg(&file)
            .arg("--sentinel")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("redis-server can be started");
        let sentinel = Self { child, port };
        let until = Instant::now() + Duration::from_secs(60);
        while !sentinel.knows_replica() {
            assert!(Instant::now() < until, "the sentinel does not find the replica");
            thread::sleep(Duration::from_millis(20));
        }
        sentinel
    }

    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    fn knows_replica(&self) -> bool {
        let client = redis::Client::open(self.url()).unwrap();
        let Ok(mut connection) = client.get_connection_with_timeout(Duration::from_secs(1)) else {
            return false;
        };
        let mut question = redis::cmd("SENTINEL");
        question.arg("replicas").arg("fleet");
        question
            .query::<Vec<redis::Value>>(&mut connection)
            .is_ok_and(|replicas| !replicas.is_empty())
    }
}

impl Drop for Sentinel {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for RedisServer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if !thread::panicking() {
            let _ = std::fs::remove_dir_all(&self.dir);
        }
    }
}

pub fn builder(url: &str) -> RedisStoreBuilder {
    RedisStore::builder(url).namespace(NAMESPACE).plaintext()
}

pub fn key() -> EncryptionKey {
    EncryptionKey::from_bytes([7; 32])
}

pub fn signal_process(pid: u32, signal: &str) {
    let status = Command::new("kill").args([signal, &pid.to_string()]).status().unwrap();
    assert!(status.success(), "kill {signal} {pid}");
}

#[cfg(unix)]
pub fn set_mode(path: &Path, mode: u32) {
    use std::os::unix::fs::PermissionsExt;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
}

pub fn free_port() -> u16 {
    TcpListener::bind(("127.0.0.1", 0)).unwrap().local_addr().unwrap().port()
}

fn launch(port: u16, dir: &Path, arguments: &[String]) -> Child {
    Command::new("redis-server")
        .args(["--port", &port.to_string(), "--bind", "127.0.0.1", "--dir"])
        .arg(dir)
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("redis-server can be started")
}
