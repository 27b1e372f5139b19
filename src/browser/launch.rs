//! Starts a browser: the programs in `$BROWSER` first, then the desktop's default browser.

use std::ffi::OsString;
use std::fmt;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use crate::diagnostics::note;

/// A program that still runs after this time counts as started.
const STARTED: Duration = Duration::from_millis(500);

/// The separator between programs in `$BROWSER`.
const SEPARATOR: char = if cfg!(windows) { ';' } else { ':' };

/// A callback provided by the program.
pub(super) type Callback<T> = Arc<dyn Fn(&T) + Send + Sync>;

/// How to open the URL.
#[derive(Clone, Default)]
pub(super) enum Open {
    /// Use the browser of this desktop.
    #[default]
    System,
    /// Start no browser; a person opens the URL.
    Nothing,
    /// Call a function of the program.
    With(Callback<str>),
}

impl Open {
    /// Starts a browser in the background, best effort. The person sees the URL in any case.
    pub(super) fn start(&self, url: &str) {
        match self {
            Self::Nothing => {}
            Self::With(open) => open(url),
            Self::System if can_open_browser() => {
                let url = url.to_owned();
                let named = std::env::var_os("BROWSER").unwrap_or_default();
                let run = move || {
                    if !start_named(&named, &url) && open::that_detached(&url).is_err() {
                        note!(debug, "no browser could be started");
                    }
                };
                let _ = thread::Builder::new().name("keyfob-browser".to_owned()).spawn(run);
            }
            Self::System => note!(debug, "no browser is started: this is no desktop session"),
        }
    }
}

impl fmt::Debug for Open {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::System => "System",
            Self::Nothing => "Nothing",
            Self::With(_) => "With(..)",
        })
    }
}

/// Returns `true` if a browser can be started on this machine and the person would see it.
///
/// This is the case if `$BROWSER` is set. Otherwise the result is `false` for an SSH connection
/// and, on Linux and the BSDs, for a session without a display. If the result is `false`, a sign-in
/// does not start a browser: the person opens the URL elsewhere and pastes the redirect URL
/// ([`SignIn::submit_redirect`](super::SignIn::submit_redirect)).
pub fn can_open_browser() -> bool {
    is_desktop(|name| std::env::var_os(name))
}

fn is_desktop(variable: impl Fn(&str) -> Option<OsString>) -> bool {
    let is_set = |name: &&str| variable(name).is_some_and(|value| !value.is_empty());
    if is_set(&"BROWSER") {
        return true;
    }
    if ["SSH_CONNECTION", "SSH_CLIENT", "SSH_TTY"].iter().any(is_set) {
        return false;
    }
    // Other systems need no variable for a desktop. WSL opens URLs in Windows.
    let has_displays = cfg!(all(unix, not(target_os = "macos")));
    !has_displays || ["DISPLAY", "WAYLAND_DISPLAY", "WSL_DISTRO_NAME"].iter().any(is_set)
}

/// Starts the first of the named programs that can be started.
fn start_named(named: &OsString, url: &str) -> bool {
    let Some(named) = named.to_str() else { return false };
    commands(named, url).any(|mut command| {
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        #[cfg(unix)]
        {
            // Do not pass Ctrl-C from the terminal to the browser.
            use std::os::unix::process::CommandExt;
            command.process_group(0);
        }
        command.spawn().is_ok_and(has_started)
    })
}

/// Returns `true` if a program is still running or has exited with success. If it is running, this
/// thread waits for it, so that no zombie remains.
fn has_started(mut program: Child) -> bool {
    let begun = Instant::now();
    while begun.elapsed() < STARTED {
        match program.try_wait() {
            Ok(Some(status)) => return status.success(),
            Ok(None) => thread::sleep(Duration::from_millis(10)),
            Err(_) => return true,
        }
    }
    let _ = program.wait();
    true
}

/// Returns the commands in `$BROWSER`: programs with arguments, in which `%s` is replaced by the
/// URL. Without `%s` the URL is the last argument. No shell is used.
fn commands<'a>(named: &'a str, url: &'a str) -> impl Iterator<Item = Command> + 'a {
    named.split(SEPARATOR).filter_map(move |entry| {
        // The path of a program may contain spaces.
        let is_path = std::path::Path::new(entry).is_file();
        let words = if is_path { entry.split('\0') } else { entry.split(' ') };
        let mut words = words.filter(|word| !word.is_empty());
        let mut command = Command::new(words.next()?);
        let mut has_url = false;
        for word in words {
            has_url |= word.contains("%s");
            command.arg(word.replace("%s", url));
        }
        if !has_url {
            command.arg(url);
        }
        Some(command)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn desktop_differs_from_remote_session() {
        let is_desktop =
            |set: &[&str]| is_desktop(|name| set.contains(&name).then(|| OsString::from("x")));
        assert!(is_desktop(&["DISPLAY"]) && is_desktop(&["WAYLAND_DISPLAY"]));
        assert!(is_desktop(&["WSL_DISTRO_NAME"]));
        assert!(!is_desktop(&["DISPLAY", "SSH_CONNECTION"]));
        assert!(is_desktop(&["BROWSER", "SSH_CONNECTION"]));
        assert_eq!(is_desktop(&[]), cfg!(any(windows, target_os = "macos")));
    }

    #[test]
    fn named_programs_receive_url() {
        let url = "https://a/?x=1&y=%20";
        let named = format!("one{SEPARATOR}{SEPARATOR}two --new %s --{SEPARATOR}three -n");
        let all: Vec<_> = commands(&named, url)
            .map(|command| {
                let mut words = vec![command.get_program().to_owned()];
                words.extend(command.get_args().map(ToOwned::to_owned));
                words
            })
            .collect();
        assert_eq!(
            all,
            [vec!["one", url], vec!["two", "--new", url, "--"], vec!["three", "-n", url]]
        );
    }
}
