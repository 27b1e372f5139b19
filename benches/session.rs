//! What a session costs, beside the least that the same thing can cost on this machine.
//!
//! Each pair is measured in one run: `floor` is the bare thing, `session` is ours. Read the ratio;
//! the times are the machine's. Every answer is checked. Many users are in `growth`, calls and all
//! that takes more than one thread in `programs`.

#![allow(clippy::expect_used, clippy::unwrap_used, reason = "a bench may panic")]

use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use keyfob::server::Server;
use keyfob::store::MemoryStore;
use keyfob::{Credentials, Session, User};

fn main() {
    divan::main();
    let _ = std::fs::remove_dir_all(&LIVE.dir);
}

/// A server, and a user on disk who is logged in to it.
struct Live {
    server: Server,
    dir: PathBuf,
    user: User,
}

static LIVE: LazyLock<Live> = LazyLock::new(|| {
    let server = Server::builder().built_in_functions().start().unwrap();
    let dir = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("bench-{}", std::process::id()));
    let user = open(&server, &dir).log_in(&Credentials::anonymous()).unwrap();
    Live { server, dir, user }
});

fn open(server: &Server, dir: &Path) -> Session {
    Session::builder(server.app_id(), server.base_url()).data_dir(dir).open().unwrap()
}

/// The directory of the one app in the data directory.
fn app_dir() -> PathBuf {
    std::fs::read_dir(&LIVE.dir).unwrap().next().unwrap().unwrap().path()
}

mod fresh_token {
    use std::sync::atomic::{AtomicU64, Ordering};
    use std::sync::{Arc, RwLock};

    use super::*;

    /// One positioned read of 32 bytes of an open file.
    #[cfg(unix)]
    #[divan::bench]
    fn disk_floor(bencher: divan::Bencher<'_, '_>) {
        use std::fs::File;
        use std::os::unix::fs::FileExt;

        LazyLock::force(&LIVE);
        let file = File::open(app_dir().join("generation")).unwrap();
        bencher.bench_local(|| {
            let mut bytes = [0; 32];
            file.read_exact_at(&mut bytes, 0).unwrap();
            bytes
        });
    }

    #[divan::bench]
    fn disk_session(bencher: divan::Bencher<'_, '_>) {
        let user = &LIVE.user;
        let token = user.access_token().unwrap();
        bencher.bench_local(|| assert!(user.valid_access_token().unwrap() == token));
    }

    /// An atomic load and the clone of an `Arc`.
    #[divan::bench]
    fn memory_floor(bencher: divan::Bencher<'_, '_>) {
        let (number, value) = (AtomicU64::new(7), RwLock::new(Arc::new(7)));
        bencher.bench_local(|| {
            assert_eq!(number.load(Ordering::Acquire), 7);
            Arc::clone(&value.read().unwrap())
        });
    }

    #[divan::bench]
    fn memory_session(bencher: divan::Bencher<'_, '_>) {
        let server = &LIVE.server;
        let builder = Session::builder(server.app_id(), server.base_url());
        let session = builder.store(MemoryStore::new()).open().unwrap();
        let user = session.log_in(&Credentials::anonymous()).unwrap();
        let token = user.access_token().unwrap();
        bencher.bench_local(|| assert!(user.valid_access_token().unwrap() == token));
    }
}

mod open_and_know_the_current_user {
    use super::*;

    /// Two small files, opened, read and parsed.
    #[divan::bench]
    fn floor(bencher: divan::Bencher<'_, '_>) {
        LazyLock::force(&LIVE);
        let dir = app_dir();
        bencher.bench_local(|| {
            let generation = std::fs::read(dir.join("generation")).unwrap();
            let snapshot = std::fs::read(dir.join("snapshot")).unwrap();
            let body = snapshot.splitn(2, |byte| *byte == b'\n').last().unwrap();
            let parsed =
                serde_json::Deserializer::from_slice(body).into_iter::<serde_json::Value>();
            let parsed: Vec<_> = parsed.map(Result::unwrap).collect();
            assert!(parsed.len() > 1 && parsed.iter().all(serde_json::Value::is_object));
            (generation, parsed)
        });
    }

    #[divan::bench]
    fn session(bencher: divan::Bencher<'_, '_>) {
        let Live { server, dir, user } = &*LIVE;
        bencher.bench_local(|| {
            assert_eq!(open(server, dir).current_user().unwrap().as_ref(), Some(user));
        });
    }
}
