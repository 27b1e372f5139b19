//! A disk that forgets: what a recorded process wrote, and what of it a power cut may leave.
//!
//! The rules are those that a program may count on, and no more. What a file holds is safe after
//! `fsync` or `fdatasync` of the file, names are safe after `fsync` of their directory. Of all else
//! anything may be lost: any write, or the end of one from any sector on, in any order; and names
//! from any point on, in the order in which they were made. `sync_file_range` promises nothing.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};

use super::Random;

const SECTOR: usize = 512;

/// How much a power cut takes.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Loss {
    /// Nothing: as after a kill.
    Nothing,
    /// All that was not synced.
    All,
    /// What was written; names stay.
    Contents,
    /// Names; what was written stays.
    Names,
    /// By chance.
    Some,
}

impl Loss {
    pub const EVERY: [Self; 5] =
        [Self::Nothing, Self::All, Self::Contents, Self::Names, Self::Some];
}

/// What one system call did.
enum Effect {
    Truncate,
    Write(usize, Vec<u8>),
}

#[derive(Default)]
struct File {
    synced: Vec<u8>,
    /// What came since, each with the number of its call.
    pending: Vec<(usize, Effect)>,
    /// Where the next `write` goes.
    position: usize,
}

/// A change of a name; `None` removes it.
struct Naming {
    call: usize,
    name: PathBuf,
    what: Option<Node>,
}

#[derive(Clone, Copy)]
enum Node {
    Dir,
    File(usize),
}

type Names = BTreeMap<PathBuf, Node>;

/// What is below one directory, as it seems and as it is.
pub struct Disk {
    root: PathBuf,
    files: Vec<File>,
    names: Names,
    synced_names: Names,
    pending_names: Vec<Naming>,
    /// How many calls there have been.
    calls: usize,
    /// Arguments of calls that have begun and not ended, by thread.
    begun: HashMap<String, (String, usize)>,
}

impl Disk {
    /// Returns an empty disk on which a recorded process created this directory.
    pub fn new(root: &Path) -> Self {
        Self {
            root: root.to_owned(),
            files: Vec::new(),
            names: Names::new(),
            synced_names: Names::new(),
            pending_names: Vec::new(),
            calls: 0,
            begun: HashMap::new(),
        }
    }

    /// Follows a line that `strace -f -y -xx` wrote. Returns what was written to standard output,
    /// if that is what it was, and whether the disk was changed.
    pub fn follow(&mut self, line: &str) -> (Option<String>, bool) {
        let Some((thread, rest)) = line.split_once(' ') else { return (None, false) };
        self.calls += 1;
        let (text, begun) = if let Some(begun) = rest.strip_suffix(" <unfinished ...>") {
            self.begun.insert(thread.to_owned(), (begun.to_owned(), self.calls));
            return (None, false);
        } else if let Some((_, end)) = rest.split_once(" resumed>") {
            let (begun, call) = self.begun.remove(thread).expect("what is resumed has begun");
            (begun + end, call)
        } else {
            (rest.to_owned(), self.calls)
        };
        let Some((call, result)) = text.rsplit_once(" = ") else { return (None, false) };
        if result.starts_with('-') || result.starts_with('?') {
            return (None, false);
        }
        let (name, arguments) = call.trim_start().split_once('(').expect("a call");
        let arguments: Vec<_> = arguments.trim_end().trim_end_matches(')').split(", ").collect();
        if name == "write" && arguments[0].starts_with("1<") {
            return (Some(String::from_utf8(quoted(arguments[1])).unwrap()), false);
        }
        (None, self.apply(name, &arguments, begun).is_some())
    }

    fn apply(&mut self, name: &str, arguments: &[&str], begun: usize) -> Option<()> {
        match name {
            "openat" => {
                let path = self.below(&at(arguments[0], arguments[1]))?;
                let flags = arguments[2];
                match self.names.get(&path) {
                    None if flags.contains("O_CREAT") => {
                        self.files.push(File::default());
                        self.name(path, Some(Node::File(self.files.len() - 1)));
                    }
                    Some(&Node::File(file)) => {
                        self.files[file].position = 0;
                        if !flags.contains("O_TRUNC") {
                            return None;
                        }
                        self.change(file, Effect::Truncate);
                    }
                    _ => return None,
                }
            }
            "mkdir" => self.name(self.below(&text(arguments[0]))?, Some(Node::Dir)),
            "rename" => {
                let [from, to] = [0, 1].map(|at| self.below(&text(arguments[at])));
                let (from, to) = (from?, to?);
                let what = self.names.remove(&from)?;
                // One call: both or neither.
                self.name(to, Some(what));
                let call = self.calls;
                self.pending_names.push(Naming { call, name: from, what: None });
            }
            "unlink" | "rmdir" => self.name(self.below(&text(arguments[0]))?, None),
            "unlinkat" => self.name(self.below(&at(arguments[0], arguments[1]))?, None),
            "write" => {
                let file = self.file(arguments[0])?;
                let (offset, bytes) = (self.files[file].position, quoted(arguments[1]));
                self.files[file].position += bytes.len();
                self.change(file, Effect::Write(offset, bytes));
            }
            "pwrite64" => {
                let file = self.file(arguments[0])?;
                let offset = arguments[3].parse().unwrap();
                self.change(file, Effect::Write(offset, quoted(arguments[1])));
            }
            "ftruncate" => panic!("not expected of a store: {name} {arguments:?}"),
            "fsync" | "fdatasync" => self.sync(&self.below(&open(arguments[0]))?, begun),
            _ => return None,
        }
        Some(())
    }

    /// Returns a path below the root; the root itself is empty.
    fn below(&self, path: &Path) -> Option<PathBuf> {
        path.strip_prefix(&self.root).ok().map(Path::to_owned)
    }

    fn file(&self, argument: &str) -> Option<usize> {
        match self.names.get(&self.below(&open(argument))?)? {
            Node::File(file) => Some(*file),
            Node::Dir => None,
        }
    }

    fn name(&mut self, name: PathBuf, what: Option<Node>) {
        match what {
            Some(node) => self.names.insert(name.clone(), node),
            None => self.names.remove(&name),
        };
        self.pending_names.push(Naming { call: self.calls, name, what });
    }

    fn change(&mut self, file: usize, effect: Effect) {
        self.files[file].pending.push((self.calls, effect));
    }

    /// Makes safe what came before this call.
    fn sync(&mut self, path: &Path, call: usize) {
        if let Some(&Node::File(file)) = self.names.get(path) {
            let File { synced, pending, .. } = &mut self.files[file];
            for (_, effect) in pending.extract_if(.., |(at, _)| *at < call) {
                effect.reach(synced);
            }
            return;
        }
        let is_safe =
            |naming: &mut Naming| naming.call < call && naming.name.parent() == Some(path);
        for Naming { name, what, .. } in self.pending_names.extract_if(.., is_safe) {
            match what {
                Some(node) => self.synced_names.insert(name, node),
                None => self.synced_names.remove(&name),
            };
        }
    }

    /// Writes what a power cut at this moment may leave into an empty directory.
    pub fn cut(&self, loss: Loss, random: &mut Random, to: &Path) {
        let kept = match loss {
            Loss::Nothing | Loss::Contents => usize::MAX,
            Loss::All | Loss::Names => 0,
            Loss::Some => match self.pending_names.last() {
                Some(last) => {
                    let first = self.pending_names[0].call;
                    first + random.below((last.call - first + 2) as u64) as usize
                }
                None => 0,
            },
        };
        let mut names = self.synced_names.clone();
        for Naming { name, what, .. } in self.pending_names.iter().filter(|n| n.call < kept) {
            match what {
                Some(node) => names.insert(name.clone(), *node),
                None => names.remove(name),
            };
        }
        // Directories come before what is in them. What has lost its directory is lost.
        for (name, node) in names {
            let path = to.join(&name);
            let has_parent = path.parent().is_some_and(Path::is_dir);
            match node {
                Node::Dir if has_parent => std::fs::create_dir(path).unwrap(),
                Node::File(file) if has_parent => {
                    std::fs::write(path, self.files[file].left(loss, random)).unwrap();
                }
                _ => {}
            }
        }
    }
}

impl File {
    fn left(&self, loss: Loss, random: &mut Random) -> Vec<u8> {
        let mut bytes = self.synced.clone();
        for (_, effect) in &self.pending {
            match loss {
                Loss::Nothing | Loss::Names => effect.reach(&mut bytes),
                Loss::All | Loss::Contents => {}
                Loss::Some => match (random.below(3), effect) {
                    (0, _) => {}
                    (1, Effect::Write(offset, written)) => {
                        let sectors = (offset % SECTOR + written.len()) / SECTOR + 1;
                        let whole = random.below(sectors as u64) as usize * SECTOR;
                        let end = whole.saturating_sub(offset % SECTOR).min(written.len());
                        Effect::Write(*offset, written[..end].to_owned()).reach(&mut bytes);
                    }
                    _ => effect.reach(&mut bytes),
                },
            }
        }
        bytes
    }
}

impl Effect {
    fn reach(&self, bytes: &mut Vec<u8>) {
        match self {
            Self::Write(offset, written) if !written.is_empty() => {
                let end = offset + written.len();
                bytes.resize(bytes.len().max(end), 0);
                bytes[*offset..end].copy_from_slice(written);
            }
            Self::Write(..) => {}
            Self::Truncate => bytes.clear(),
        }
    }
}

/// Reads `"\x2f\x74…"`.
fn quoted(argument: &str) -> Vec<u8> {
    let argument = argument.trim_start_matches('"').trim_end_matches('"');
    let digits = argument.split("\\x").skip(1);
    digits.map(|digits| u8::from_str_radix(digits, 16).expect("a byte")).collect()
}

fn text(argument: &str) -> PathBuf {
    String::from_utf8(quoted(argument)).unwrap().into()
}

/// Reads the path in `7<\x2f\x74…>`.
fn open(argument: &str) -> PathBuf {
    let path = argument.split_once('<').map_or("", |(_, path)| path.trim_end_matches('>'));
    text(path)
}

fn at(dir: &str, path: &str) -> PathBuf {
    open(dir).join(text(path))
}
