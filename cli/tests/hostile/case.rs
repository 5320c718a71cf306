//! A hostile input, what is asked of llq about it, and what the answer has to be.

use std::{
    fs,
    io::{self, Write},
    path::PathBuf,
    time::Duration,
};

use crate::{
    harness::{Outcome, Place},
    launcher::{Ended, Job, Launcher},
};

/// What every case has in its folder besides its own files: a text to measure with.
pub(crate) const TEXT: &str = "text";

/// The most memory that a run may take, in bytes.
const MOST_MEMORY: u64 = 100_000_000;

/// A hostile input.
pub(crate) struct Case {
    name: String,
    write: Box<dyn FnOnce(&Place)>,
    runs: Vec<Run>,
    most_memory: u64,
}

struct Run {
    line: String,
    answer: Answer,
}

enum Answer {
    /// Exit code 2 and one message with these parts.
    Refused(Vec<String>),
    /// Exit code 1, and these parts among the faults that are listed.
    FoundBad(Vec<String>),
    /// Exit code 0; then the check.
    Accepted(fn(&Place)),
    /// Exit code 0, and these parts in a note.
    Noted(Vec<String>),
}

impl Case {
    /// Of what `write` puts into an empty folder.
    pub(crate) fn new(name: impl Into<String>, write: impl FnOnce(&Place) + 'static) -> Case {
        let (write, most_memory) = (Box::new(write), MOST_MEMORY);
        Case { name: name.into(), write, runs: Vec::new(), most_memory }
    }

    /// Each of the command lines is refused, in one message that has all of `parts`: the file, and
    /// the place in it.
    pub(crate) fn refused(mut self, lines: &[&str], parts: &[&str]) -> Case {
        let parts: Vec<String> = parts.iter().map(|&part| part.into()).collect();
        let run =
            |line: &&str| Run { line: (*line).into(), answer: Answer::Refused(parts.clone()) };
        self.runs.extend(lines.iter().map(run));
        self
    }

    /// The command line looks at the file and finds it bad, for a reason that has all of `parts`.
    pub(crate) fn found_bad(mut self, line: &str, parts: &[&str]) -> Case {
        let parts = parts.iter().map(|&part| part.into()).collect();
        self.runs.push(Run { line: line.into(), answer: Answer::FoundBad(parts) });
        self
    }

    /// The command lines do their work: the input is legal, or what is wrong with it is nothing to
    /// them.
    pub(crate) fn accepted(mut self, lines: &[&str]) -> Case {
        let run = |line: &&str| Run { line: (*line).into(), answer: Answer::Accepted(|_| ()) };
        self.runs.extend(lines.iter().map(run));
        self
    }

    /// The command lines do their work and note what is wrong, with all of `parts`: a model is copied
    /// or quantized with the metadata that it has.
    pub(crate) fn noted(mut self, lines: &[&str], parts: &[&str]) -> Case {
        let parts: Vec<String> = parts.iter().map(|&part| part.into()).collect();
        let run = |line: &&str| Run { line: (*line).into(), answer: Answer::Noted(parts.clone()) };
        self.runs.extend(lines.iter().map(run));
        self
    }

    /// The command line does its work, and what it has made passes `check`.
    pub(crate) fn accepted_as(mut self, line: &str, check: fn(&Place)) -> Case {
        self.runs.push(Run { line: line.into(), answer: Answer::Accepted(check) });
        self
    }

    /// The input is itself large and legal: that much more memory than `bytes` may be taken.
    pub(crate) fn with_bytes(mut self, bytes: u64) -> Case {
        self.most_memory = MOST_MEMORY + bytes;
        self
    }
}

/// Runs all cases of a table, says what they took, and fails with all that went wrong.
pub(crate) fn check(table: &str, cases: fn() -> Vec<Case>) {
    let mut launcher = Launcher::start();
    let mut tally = Tally::default();
    let mut failures = Vec::new();
    for case in cases() {
        failures.extend(run(case, &mut launcher, &mut tally));
    }
    let Tally { inputs, runs, memory, time } = &tally;
    // The macros' output is captured while a test passes; this is to be seen.
    let _ = writeln!(
        io::stdout(),
        "{table}: {inputs} inputs, {runs} runs; most memory {:.1} MB ({}); most processor time {:.2} s ({})",
        memory.0 as f64 / 1e6,
        memory.1,
        time.0.as_secs_f64(),
        time.1,
    );
    assert!(failures.is_empty(), "{} failures\n{}", failures.len(), failures.join("\n"));
}

#[derive(Default)]
struct Tally {
    inputs: usize,
    runs: usize,
    /// The most bytes of a run, and which it was.
    memory: (u64, String),
    /// The most processor time of a run, and which it was.
    time: (Duration, String),
}

/// What is wrong with the answers to a case.
fn run(case: Case, launcher: &mut Launcher, tally: &mut Tally) -> Vec<String> {
    let place = Place::new();
    place.write(TEXT, "abcdefghijklm".repeat(3));
    (case.write)(&place);
    let before = place.files();
    tally.inputs += 1;
    let mut failures = Vec::new();
    for Run { line, answer } in case.runs {
        let (outcome, used) = measured(launcher, &place, &line);
        let label = format!("{}: llq {line}", case.name);
        tally.runs += 1;
        tally.memory = tally.memory.clone().max((used.memory, label.clone()));
        tally.time = tally.time.clone().max((used.time, label.clone()));
        let mut problems = problems(&outcome, &answer);
        if used.memory > case.most_memory && !is_instrumented() {
            problems.push(format!("took {} bytes of memory", used.memory));
        }
        match answer {
            Answer::Accepted(check) if outcome.code == Some(0) => {
                check(&place);
                remove_new(&place, &before);
            }
            Answer::Noted(_) if outcome.code == Some(0) => remove_new(&place, &before),
            _ if place.files() != before => {
                problems.push(format!("left {:?}", place.files()));
                remove_new(&place, &before);
            }
            _ => {}
        }
        if !problems.is_empty() {
            failures.push(format!("{label}: {}\n{outcome}", problems.join("; ")));
        }
    }
    failures
}

/// Whether the tests run under AddressSanitizer, which takes memory of its own.
fn is_instrumented() -> bool {
    std::env::var_os("ASAN_OPTIONS").is_some()
}

fn remove_new(place: &Place, before: &[String]) {
    for name in place.files().iter().filter(|name| !before.contains(name)) {
        let path = place.path(name);
        fs::remove_file(&path).or_else(|_| fs::remove_dir_all(&path)).unwrap();
    }
}

fn problems(outcome: &Outcome, answer: &Answer) -> Vec<String> {
    let mut problems = Vec::new();
    let mut demand = |holds: bool, problem: &dyn Fn() -> String| {
        if !holds {
            problems.push(problem());
        }
    };
    let Outcome { code, stdout, stderr } = outcome;
    let is_steering =
        |c: char| c != '\n' && (c.is_control() || ('\u{202a}'..='\u{202e}').contains(&c));
    demand(!stdout.contains(is_steering), &|| "a control character on standard output".into());
    demand(!stderr.contains(is_steering), &|| "a control character on standard error".into());
    let (expected, told, parts): (_, &str, &[String]) = match answer {
        Answer::Refused(parts) => {
            demand(stdout.is_empty(), &|| "refused, but something is on standard output".into());
            let errors = stderr.lines().filter(|line| line.starts_with("error: ")).count();
            demand(errors == 1, &|| format!("{errors} messages"));
            (2, stderr, parts)
        }
        Answer::FoundBad(parts) => (1, stdout, parts),
        Answer::Accepted(_) => (0, stdout, &[]),
        Answer::Noted(parts) => {
            demand(stderr.contains("note: "), &|| "no note".into());
            (0, stderr, parts)
        }
    };
    demand(*code == Some(expected), &|| format!("not exit code {expected}"));
    for part in parts {
        demand(told.contains(part.as_str()), &|| format!("no {part:?}"));
    }
    problems
}

/// Runs a command line in a folder; its output goes to files elsewhere.
fn measured(launcher: &mut Launcher, place: &Place, line: &str) -> (Outcome, Ended) {
    let output = tempfile::tempdir().unwrap();
    let [stdout, stderr] = ["stdout", "stderr"].map(|name| output.path().join(name));
    let arguments = line.split(' ').map(str::to_owned).collect();
    let job = Job { arguments, folder: place.path(""), stdout, stderr };
    let ended = launcher.run(&job);
    let text = |path| fs::read_to_string(path).unwrap();
    let outcome =
        Outcome { code: ended.code, stdout: text(&job.stdout), stderr: text(&job.stderr) };
    (outcome, ended)
}

/// The commands that read a checkpoint in the folder `model`.
pub(crate) const CHECKPOINT: &[&str] = &["convert model -o out.gguf --type q8_0", "verify model"];

/// The empty folder `model`.
pub(crate) fn checkpoint(place: &Place) -> PathBuf {
    let folder = place.path("model");
    fs::create_dir(&folder).unwrap();
    folder
}
