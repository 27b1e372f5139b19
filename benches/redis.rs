//! What the store on Redis costs: a call with a fresh token beside `MemoryStore`, and commits and
//! refreshes a second from 1, 4 and 16 processes beside a bare client that does the same writes.
//!
//! Needs `redis-server`. The program starts itself again as its own processes.

#![allow(clippy::expect_used, clippy::unwrap_used, reason = "a bench may panic")]

#[path = "../tests/redis_support/mod.rs"]
mod redis_support;
#[path = "../tests/support/mod.rs"]
mod support;

use std::hint::black_box;
use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use keyfob::store::{Change, MemoryStore, RedisStore, Store, StoredUser};
use keyfob::{Deadline, UserId};
use redis_support::{NAMESPACE, RedisServer, builder};
use serde_json::json;
use support::{CALL, ManualClock, START, Script, access, password, refresh};

/// How long each figure is measured.
const TIME: Duration = Duration::from_secs(2);

fn soon() -> Deadline {
    Deadline::after(Duration::from_secs(60))
}

fn main() {
    if let Ok(role) = std::env::var("KEYFOB_BENCH_ROLE") {
        return child(&role, &std::env::var("KEYFOB_BENCH_REDIS").unwrap());
    }
    if std::env::args().any(|argument| argument == "--test") {
        return;
    }
    fresh_calls();
    sizing();
    for fsync in ["everysec", "always"] {
        println!("\nappendfsync {fsync}, operations a second");
        println!("| processes | bare client | commits | refreshes |\n| --- | --- | --- | --- |");
        for processes in [1, 4, 16] {
            let rates = ["bare", "commit", "refresh"].map(|role| {
                let server = RedisServer::durable(fsync);
                rate(&server, role, processes)
            });
            println!("| {processes} | {} | {} | {} |", rates[0], rates[1], rates[2]);
        }
    }
}

/// A whole call on a scripted transport.
fn fresh_calls() {
    let server = RedisServer::start();
    let (script, clock) = (Script::new(), ManualClock::at(START));
    script.accept_login("ada", &access("a1"), &refresh("r1")).reply(CALL, 200, json!(7));
    let redis = builder(&server.url()).open().unwrap();
    let redis = support::builder(&script, &clock).store(redis).open().unwrap();
    let memory = support::builder(&script, &clock).store(MemoryStore::new()).open().unwrap();
    let users = [&memory, &redis].map(|session| session.log_in(&password()).unwrap());
    let mut best = [Duration::MAX; 2];
    // In turn, so that a busy machine is busy for both.
    for _ in 0..40 {
        for (user, best) in users.iter().zip(&mut best) {
            script.clear();
            let began = Instant::now();
            for _ in 0..500 {
                black_box(user.functions().call::<i64>("f", ()).unwrap());
            }
            *best = (began.elapsed() / 500).min(*best);
        }
    }
    let ratio = best[1].as_secs_f64() / best[0].as_secs_f64();
    println!(
        "call with a fresh token: MemoryStore {:?}, RedisStore {:?}, ratio {ratio:.2}",
        best[0], best[1]
    );
}

/// What the server spends: memory for a user, and what commits, refreshes and polling cost. Commands
/// that scripts run are counted, too.
fn sizing() {
    const USERS: u64 = 1000;
    let server = RedisServer::start();
    let info = |section: &str, name: &str| -> u64 {
        let text: String = server.run(&["INFO", section]);
        let line = text.lines().find_map(|line| line.strip_prefix(&format!("{name}:")));
        line.unwrap().trim().parse().unwrap()
    };
    let commands = || info("stats", "total_commands_processed");
    let reads = || info("stats", "total_reads_processed");
    let bytes = || info("stats", "total_net_input_bytes") + info("stats", "total_net_output_bytes");
    for is_encrypted in [false, true] {
        server.run::<()>(&["FLUSHALL"]);
        let builder = RedisStore::builder(server.url()).namespace(NAMESPACE);
        let builder = match is_encrypted {
            true => builder.encryption(redis_support::key()),
            false => builder.plaintext(),
        };
        let store = builder.open().unwrap();
        commit(&store, "first");
        let before = info("memory", "used_memory");
        for user in 0..USERS {
            commit(&store, &format!("user {user}"));
        }
        let memory = (info("memory", "used_memory") - before) / USERS;
        println!(
            "memory for a user with a profile of 1.5 kB, encrypted {is_encrypted}: {memory} bytes"
        );
        let each = |name: &str, act: &mut dyn FnMut()| {
            act();
            let before = [commands(), reads(), bytes()];
            (0..100).for_each(|_| act());
            let now = [commands(), reads(), bytes()];
            let [commands, reads, bytes] = [0, 1, 2].map(|at| (now[at] - before[at]) / 100);
            println!("{name}: {reads} round trips, {commands} commands, {bytes} bytes");
        };
        each("commit", &mut || commit(&store, "first"));
        each("refresh", &mut || refresh_once(&store));
        each("look for events", &mut || drop(store.recent(Some(u64::MAX / 2), soon())));
    }
}

/// Runs a role in several processes at once, and returns how often all of them did it in a second.
fn rate(server: &RedisServer, role: &str, processes: usize) -> u64 {
    let children: Vec<_> = (0..processes)
        .map(|_| {
            Command::new(std::env::current_exe().unwrap())
                .env("KEYFOB_BENCH_ROLE", role)
                .env("KEYFOB_BENCH_REDIS", server.url())
                .stdout(Stdio::piped())
                .spawn()
                .unwrap()
        })
        .collect();
    let counts = children.into_iter().map(|mut child| {
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        child.wait().unwrap();
        line.trim().parse::<u64>().unwrap()
    });
    counts.sum::<u64>() / TIME.as_secs()
}

fn user(name: &str, number: u64) -> StoredUser {
    let record = json!({
        "id": name, "state": "logged-in", "epoch": 1, "created_commit": 1,
        "last_used_commit": number, "access_token": access("a"),
        "refresh_token": refresh(&number.to_string()), "profile": {"data": {"x": "p".repeat(1500)}},
        "created": 1, "used": number,
    });
    serde_json::from_value(record).unwrap()
}

fn child(role: &str, url: &str) {
    let name = format!("user {}", std::process::id());
    let mut count = 0;
    let began = Instant::now();
    match role {
        "bare" => bare(url, &name, began, &mut count),
        role => {
            let store = builder(url).open().unwrap();
            while began.elapsed() < TIME {
                match role {
                    "commit" => commit(&store, &name),
                    _ => refresh_once(&store),
                }
                count += 1;
            }
        }
    }
    println!("{count}");
}

fn commit(store: &RedisStore, name: &str) {
    let committed = store.commit(soon(), &mut |view| {
        black_box(view.user(&UserId::new(name))?);
        Ok(vec![Change::Put(Box::new(user(name, view.number())))])
    });
    committed.unwrap();
}

/// What a session does to the store for one refresh, all processes for the same user.
fn refresh_once(store: &RedisStore) {
    let lock = store.lock_refresh(&UserId::new("ada"), soon()).unwrap().unwrap();
    black_box(store.user(&UserId::new("ada"), soon()).unwrap());
    assert!(lock.is_held());
    commit(store, "ada");
}

/// The same writes in one transaction, without lock, fence and decision.
fn bare(url: &str, name: &str, began: Instant, count: &mut u64) {
    let client = redis::Client::open(url).unwrap();
    let mut connection = client.get_connection().unwrap();
    let key = |key: &str| format!("{{{NAMESPACE}}}:{key}");
    while began.elapsed() < TIME {
        let number = format!("{count:020}");
        let record = serde_json::to_vec(&user(name, *count)).unwrap();
        let mut pipe = redis::pipe();
        pipe.atomic();
        pipe.cmd("HSET").arg(key("head")).arg("number").arg(&number).arg("mark").arg(name).ignore();
        pipe.cmd("HSET").arg(key("users")).arg(name).arg(&record).ignore();
        pipe.cmd("HSET").arg(key("places")).arg(name).arg(&number).ignore();
        pipe.cmd("ZADD").arg(key("order")).arg(0).arg(name).ignore();
        pipe.cmd("ZADD").arg(key("used")).arg(0).arg(name).ignore();
        pipe.query::<()>(&mut connection).unwrap();
        *count += 1;
    }
}
