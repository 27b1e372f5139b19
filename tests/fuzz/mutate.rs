//! Inputs that are nearly right: a corpus, mutated at random by a seed, and runs that report.
//!
//! An input whose outcome was not seen before joins the corpus for the rest of the run, so that the
//! search goes on from there.

use std::collections::HashSet;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::Path;
use std::time::Instant;

/// Runs of each target, unless `KEYFOB_FUZZ_RUNS` says otherwise.
const RUNS: u64 = 3000;
/// Inputs do not grow beyond this.
const LONGEST: usize = 8 * 1024;
/// So many inputs join the corpus at most.
const MOST_JOINED: usize = 400;

/// What parsers trip over.
const WORDS: [&str; 61] = [
    "null",
    "true",
    "false",
    "{}",
    "[]",
    "\"\"",
    ",",
    ":",
    "{",
    "}",
    "[",
    "]",
    "\"",
    "\\",
    "\\u0000",
    "\\ud800",
    "\\u202e",
    "\0",
    "\u{7f}",
    "\u{1b}[2J",
    "\r\n",
    "\n",
    "\t",
    "é",
    "𝄞",
    "\u{feff}",
    "-0",
    "1e999",
    "0.1",
    "1E-400",
    "-",
    "NaN",
    "Infinity",
    "{\"$numberInt\":\"1\"}",
    "{\"$numberLong\":\"9223372036854775807\"}",
    "{\"$numberDouble\":\"NaN\"}",
    "{\"$numberDouble\":\"-Infinity\"}",
    "{\"$numberDecimal\":\"1E+6144\"}",
    "{\"$oid\":\"5f5f5f5f5f5f5f5f5f5f5f5f\"}",
    "{\"$date\":\"2026-01-31T12:00:00Z\"}",
    "{\"$date\":{\"$numberLong\":\"-1\"}}",
    "{\"$serde_json::private::RawValue\":\"1\"}",
    "{\"$undefined\":true}",
    "\"$serde_json::private::RawValue\"",
    "{\"$serde_json::private::Number\":\"1\"}",
    "\"exp\":",
    "\"iat\":",
    "\"access_token\":",
    "\"refresh_token\":",
    "\"user_id\":",
    "\"error_code\":\"InvalidSession\"",
    "\"error\":",
    ".",
    "..",
    "/",
    "%2e%2e%2f",
    "%00",
    "==",
    "eyJ",
    "Bearer ",
    "a",
];

/// Numbers at which something changes.
const NUMBERS: [&str; 22] = [
    "0",
    "-1",
    "1",
    "127",
    "128",
    "255",
    "256",
    "2147483647",
    "2147483648",
    "-2147483649",
    "4294967296",
    "9007199254740993",
    "9223372036854775807",
    "9223372036854775808",
    "-9223372036854775808",
    "-9223372036854775809",
    "18446744073709551615",
    "18446744073709551616",
    "253402300799",
    "253402300800",
    "1.5",
    "1e18",
];

/// xorshift64*: the same numbers for the same seed, everywhere.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 32
    }

    fn below(&mut self, limit: usize) -> usize {
        usize::try_from(self.next()).unwrap_or_default() % limit.max(1)
    }

    fn of<'a, T>(&mut self, choices: &'a [T]) -> &'a T {
        &choices[self.below(choices.len())]
    }
}

/// Runs a target on mutations of its corpus, `tests/fuzz/corpus/NAME/*`. The target panics if
/// something is wrong, and returns a number that tells outcomes apart.
pub(crate) fn fuzz(name: &str, mut target: impl FnMut(&[u8]) -> u64) {
    let runs = setting("KEYFOB_FUZZ_RUNS").unwrap_or(RUNS);
    let seed = setting("KEYFOB_SEED").unwrap_or_else(|| {
        let now = std::time::UNIX_EPOCH.elapsed().map_or(1, |now| now.as_nanos());
        u64::try_from(now & 0xffff_ffff).unwrap_or_default() | 1
    });
    println!("fuzz {name}: {runs} runs, seed {seed}");
    let mut corpus = corpus(name);
    assert!(!corpus.is_empty(), "no corpus for {name}");
    let (begun, given) = (Instant::now(), corpus.len());
    let (mut random, mut outcomes) = (Random(seed.max(1)), HashSet::new());
    for run in 0..runs {
        // The corpus itself comes first.
        let input = match usize::try_from(run).ok().filter(|run| *run < given) {
            Some(run) => corpus[run].clone(),
            None => mutate(&mut random, &corpus),
        };
        match catch_unwind(AssertUnwindSafe(|| target(&input))) {
            Ok(outcome) => {
                if outcomes.insert(outcome) && corpus.len() < given + MOST_JOINED {
                    corpus.push(input);
                }
            }
            Err(panic) => {
                eprintln!(
                    "fuzz {name}: seed {seed}, run {run}, input \"{}\"",
                    input.escape_ascii()
                );
                resume_unwind(panic);
            }
        }
    }
    let seconds = begun.elapsed().as_secs_f64();
    println!(
        "fuzz {name}: {runs} runs done, {} outcomes, {seconds:.1} s, seed {seed}",
        outcomes.len()
    );
}

/// Returns a number from the environment.
fn setting(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|value| value.parse().expect("a number in the environment"))
}

fn corpus(name: &str) -> Vec<Vec<u8>> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fuzz/corpus").join(name);
    let mut files: Vec<_> = std::fs::read_dir(&dir)
        .unwrap_or_else(|error| panic!("{}: {error}", dir.display()))
        .map(|entry| entry.expect("an entry").path())
        .collect();
    files.sort();
    files.iter().map(|file| std::fs::read(file).expect("a file")).collect()
}

fn mutate(random: &mut Random, corpus: &[Vec<u8>]) -> Vec<u8> {
    let mut input = random.of(corpus).clone();
    for _ in 0..=random.below(5) {
        change(random, &mut input, corpus);
    }
    input.truncate(LONGEST);
    input
}

fn change(random: &mut Random, input: &mut Vec<u8>, corpus: &[Vec<u8>]) {
    let at = random.below(input.len() + 1);
    let end = at + random.below((input.len() - at).min(64) + 1);
    match random.below(14) {
        0 if at < input.len() => input[at] ^= 1 << random.below(8),
        1 if at < input.len() => input[at] = u8::try_from(random.below(256)).unwrap_or_default(),
        2 => drop(input.drain(at..end)),
        3 => {
            let piece = input[at..end].to_vec();
            let times = 1 + random.below(4);
            let copies = piece.repeat(times);
            input.splice(at..at, copies);
        }
        4 | 5 => drop(input.splice(at..at, random.of(&WORDS).bytes())),
        6 => drop(input.splice(at..end, random.of(&WORDS).bytes())),
        7 | 8 => {
            // A number for another, where there is one.
            let digits = |byte: &u8| byte.is_ascii_digit();
            let Some(from) = input[at..].iter().position(digits).map(|from| at + from) else {
                return;
            };
            let length = input[from..].iter().take_while(|byte| digits(byte)).count();
            input.splice(from..from + length, random.of(&NUMBERS).bytes());
        }
        9 => {
            let other = random.of(corpus);
            let from = random.below(other.len() + 1);
            let to = from + random.below(other.len() - from + 1);
            input.splice(at..end, other[from..to].iter().copied());
        }
        10 => input.truncate(at),
        11 => {
            // Deeper than anybody means.
            let (open, close) =
                *random.of(&[("[", "]"), ("{\"a\":", "}"), ("{\"$numberInt\":", "}")]);
            let depth = *random.of(&[1, 2, 20, 126, 127, 128, 129, 400]);
            let nested = open.repeat(depth) + "1" + &close.repeat(random.below(2) * depth);
            input.splice(at..end, nested.into_bytes());
        }
        12 => {
            // A whole value for another: from one quote to the next.
            let quote = |input: &[u8], from: usize| {
                input[from..].iter().position(|byte| *byte == b'"').map(|found| from + found)
            };
            let Some(from) = quote(input, at) else { return };
            let Some(to) = quote(input, from + 1) else { return };
            input.splice(from..=to, random.of(&WORDS).bytes());
        }
        _ => {
            let other = random.below(input.len() + 1);
            if at < input.len() && other < input.len() {
                input.swap(at, other);
            }
        }
    }
}

/// Returns a number that tells texts apart, digits aside: positions are no outcomes of their own.
pub(crate) fn outcome_of(kind: u64, text: &str) -> u64 {
    let bytes = text.bytes().filter(|byte| !byte.is_ascii_digit()).take(200);
    bytes.fold(0xcbf2_9ce4_8422_2325 ^ kind, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    })
}
