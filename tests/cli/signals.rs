//! How `keyfob serve` ends: SIGTERM and SIGINT, in a shell and as process 1.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use rustix::pipe::fcntl_setpipe_size;
use rustix::process::{Pid, Signal, kill_process};

use crate::command::{EMAIL, PASSWORD, Running, keyfob};

const LOGIN: &str = "/api/client/v2.0/app/keyfob-local/auth/providers/local-userpass/login";

/// A backend, and its process if that is not the one that was started.
struct Served {
    running: Running,
    address: SocketAddr,
    process: Pid,
}

impl Served {
    fn start(command: Command) -> Self {
        let mut running = Running::start(command);
        let line = running.stdout.next();
        let url = line.strip_prefix("keyfob: serving app keyfob-local at http://").unwrap();
        let process = Pid::from_child(&running.child);
        Self { address: url.parse().unwrap(), running, process }
    }

    fn signal(&self, signal: Signal) {
        kill_process(self.process, signal).unwrap();
    }

    /// Waits until the backend accepts no connections any more.
    fn wait_until_stopping(&self) {
        while TcpStream::connect(self.address).is_ok() {
            std::thread::yield_now();
        }
    }

    fn exit_code(&mut self) -> Option<i32> {
        self.running.child.wait().unwrap().code()
    }

    /// Sends a log-in but for the last byte of its body, and waits until the backend reads it.
    fn begin_log_in(&self) -> TcpStream {
        let body = format!(r#"{{"username":"{EMAIL}","password":"{PASSWORD}"}}"#);
        let (rest, last) = body.split_at(body.len() - 1);
        assert_eq!(last, "}");
        let length = body.len();
        let mut stream = TcpStream::connect(self.address).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
        let head = format!(
            "POST {LOGIN} HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\n\
             Content-Length: {length}\r\n\r\n"
        );
        stream.write_all(head.as_bytes()).unwrap();
        let mut go_on = [0; 25];
        stream.read_exact(&mut go_on).unwrap();
        assert_eq!(&go_on, b"HTTP/1.1 100 Continue\r\n\r\n");
        stream.write_all(rest.as_bytes()).unwrap();
        stream
    }
}

fn serve() -> Command {
    keyfob(&["serve", "--addr", "127.0.0.1:0"])
}

/// Ends a request that [`Served::begin_log_in`] began, and returns the response.
fn finish(mut stream: TcpStream) -> String {
    stream.write_all(b"}").unwrap();
    let mut response = String::new();
    stream.read_to_string(&mut response).unwrap();
    response
}

fn assert_graceful(mut served: Served, signal: Signal) {
    let requests: Vec<_> = (0..12).map(|_| served.begin_log_in()).collect();
    let idle = TcpStream::connect(served.address).unwrap();
    served.signal(signal);
    served.wait_until_stopping();
    for request in requests {
        let response = finish(request);
        assert!(response.starts_with("HTTP/1.1 401 "), "{response}");
        assert!(response.contains("\r\nConnection: close\r\n"), "{response}");
    }
    assert_eq!(served.exit_code(), Some(0), "{signal:?}");
    drop(idle);
}

#[test]
fn signal_lets_requests_in_progress_complete() {
    for signal in [Signal::TERM, Signal::INT] {
        assert_graceful(Served::start(serve()), signal);
    }
}

#[test]
fn shutdown_ends_despite_stuck_request() {
    let mut served = Served::start(serve());
    let _request = served.begin_log_in();
    served.signal(Signal::TERM);
    let started = Instant::now();
    assert_eq!(served.exit_code(), Some(0));
    assert!(started.elapsed() < Duration::from_secs(60), "{:?}", started.elapsed());
}

#[test]
fn second_signal_ends_process_immediately() {
    let mut served = Served::start(serve());
    let _request = served.begin_log_in();
    served.signal(Signal::TERM);
    served.wait_until_stopping();
    served.signal(Signal::INT);
    assert_eq!(served.exit_code(), Some(128 + 2));
}

/// A full pipe must not keep the process from ending.
#[test]
fn signal_ends_serve_with_unread_output() {
    let mut command = keyfob(&["serve", "--mail", "--addr", "127.0.0.1:0"]);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    let mut stdout = BufReader::with_capacity(1, child.stdout.take().unwrap());
    fcntl_setpipe_size(stdout.get_ref(), 4096).unwrap();
    let mut first = String::new();
    stdout.read_line(&mut first).unwrap();
    let url = first.trim_end().strip_prefix("keyfob: serving app keyfob-local at ").unwrap();
    let store = keyfob::store::MemoryStore::new();
    let session = keyfob::Session::builder("keyfob-local", url).store(store).open().unwrap();
    // Each one prints a mail of 250 bytes and more.
    for number in 0..20 {
        session.email_password().register(&format!("{number}-{EMAIL}"), PASSWORD).unwrap();
    }
    kill_process(Pid::from_child(&child), Signal::TERM).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(0));
    drop(stdout);
}

/// The system ignores signals without a handler for process 1.
#[test]
#[ignore = "needs `unshare` and the right to use it"]
fn process_1_shuts_down_on_signal() {
    for signal in [Signal::TERM, Signal::INT] {
        let serve = serve();
        let mut unshare = Command::new("unshare");
        unshare.args(["--pid", "--fork", "--kill-child"]).arg(serve.get_program());
        unshare.args(serve.get_args()).env_remove("KEYFOB_APP_ID");
        let mut served = Served::start(unshare);
        let parent = served.process.as_raw_nonzero();
        let children = fs::read_to_string(format!("/proc/{parent}/task/{parent}/children"));
        let child = children.unwrap().trim().parse().unwrap();
        served.process = Pid::from_raw(child).unwrap();
        let status = fs::read_to_string(format!("/proc/{child}/status")).unwrap();
        let namespaces = status.lines().find(|line| line.starts_with("NSpid:")).unwrap();
        assert!(namespaces.ends_with("\t1"), "{namespaces}");
        assert_graceful(served, signal);
    }
}
