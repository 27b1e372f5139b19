//! Signals that end the command, delayed until it has cleaned up.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

#[cfg(unix)]
use signal_hook::consts::signal::{SIGHUP, SIGQUIT};
use signal_hook::consts::signal::{SIGINT, SIGTERM};

use crate::failure::Failure;

/// Catches the usual termination signals while the command has to clean up.
pub(crate) struct Interrupts(Vec<(i32, Arc<AtomicBool>)>);

impl Interrupts {
    pub(crate) fn new() -> Self {
        let signals: &[i32] = &[
            SIGINT,
            SIGTERM,
            #[cfg(unix)]
            SIGHUP,
            #[cfg(unix)]
            SIGQUIT,
        ];
        let is_ignored = ignored();
        let wanted = signals.iter().copied().filter(|signal| !is_ignored(*signal));
        let register = |signal| {
            let flag = Arc::new(AtomicBool::new(false));
            signal_hook::flag::register(signal, Arc::clone(&flag)).ok()?;
            Some((signal, flag))
        };
        Self(wanted.filter_map(register).collect())
    }

    /// Returns an error if a signal was received.
    pub(crate) fn check(&self) -> Result<(), Failure> {
        match self.0.iter().find(|(_, flag)| flag.load(Ordering::SeqCst)) {
            Some((signal, _)) => Err(Failure::Interrupted(*signal)),
            None => Ok(()),
        }
    }
}

/// Returns a flag that the first SIGINT or SIGTERM sets, for a graceful shutdown. The second signal
/// ends the process immediately.
///
/// The handlers are also needed in a container: process 1 receives only signals that it has
/// handlers for.
pub(crate) fn shutdown_flag() -> io::Result<Arc<AtomicBool>> {
    let flag = Arc::new(AtomicBool::new(false));
    let is_ignored = ignored();
    // A shell without job control starts background processes with SIGINT ignored.
    for signal in [SIGINT, SIGTERM].into_iter().filter(|it| *it == SIGTERM || !is_ignored(*it)) {
        // The order matters: only the second signal must find the flag set.
        signal_hook::flag::register_conditional_shutdown(signal, 128 + signal, Arc::clone(&flag))?;
        signal_hook::flag::register(signal, Arc::clone(&flag))?;
    }
    Ok(flag)
}

/// Returns a predicate for the signals that the process was started to ignore, for example by
/// `nohup`. It is always `false` if the system does not provide this information.
pub(crate) fn ignored() -> impl Fn(i32) -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let mask = mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or_default();
    move |signal| mask >> (signal - 1) & 1 == 1
}

/// Ends the process with the default effect of the signal.
pub(crate) fn end_by(signal: i32) {
    let _ = signal_hook::low_level::emulate_default_handler(signal);
}
