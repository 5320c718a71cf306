//! A process that starts llq and says what it took. The most memory that a process is said to have
//! taken is at least what its parent had when it started it, so the parent has to be a small one: this
//! test's own program, started anew before it makes its inputs.

use std::{
    fs::File,
    io::{self, BufRead, BufReader, Write},
    path::PathBuf,
    process::{Child, ChildStdin, ChildStdout, Command, Stdio},
    time::Duration,
};

use rustix::process::{Pid, Resource, Rlimit, prlimit};
use serde::{Deserialize, Serialize};
use wait4::Wait4;

use crate::harness::llq_in;

/// Processor seconds after which the system ends a run. A hundred times what the slowest takes, as
/// tests also run under instruments; it is there for those that would never end.
const MOST_SECONDS: u64 = 60;

/// Set for the program that is to be the launcher.
const VARIABLE: &str = "LLQ_TEST_LAUNCHER";

/// Stands before an answer, as the test harness writes lines of its own.
const ANSWER: &str = "launcher: ";

/// A run of llq in a folder, with files for its output.
#[derive(Serialize, Deserialize)]
pub(crate) struct Job {
    pub(crate) arguments: Vec<String>,
    pub(crate) folder: PathBuf,
    pub(crate) stdout: PathBuf,
    pub(crate) stderr: PathBuf,
}

/// How a run ended.
#[derive(Serialize, Deserialize)]
pub(crate) struct Ended {
    /// `None` where a signal ended it.
    pub(crate) code: Option<i32>,
    /// The most bytes of memory it had at a time.
    pub(crate) memory: u64,
    /// Of the processor, in user and system mode.
    pub(crate) time: Duration,
}

/// The launcher, seen from the test.
pub(crate) struct Launcher {
    child: Child,
    jobs: Option<ChildStdin>,
    answers: BufReader<ChildStdout>,
}

impl Launcher {
    pub(crate) fn start() -> Launcher {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["--exact", "launcher::serve", "--nocapture", "--test-threads=1"]);
        command.env(VARIABLE, "1").stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let (jobs, answers) = (child.stdin.take(), child.stdout.take().unwrap());
        Launcher { child, jobs, answers: BufReader::new(answers) }
    }

    pub(crate) fn run(&mut self, job: &Job) -> Ended {
        writeln!(self.jobs.as_mut().unwrap(), "{}", serde_json::to_string(job).unwrap()).unwrap();
        let mut line = String::new();
        while !line.starts_with(ANSWER) {
            line.clear();
            assert!(self.answers.read_line(&mut line).unwrap() > 0, "the launcher has ended");
        }
        serde_json::from_str(&line[ANSWER.len()..]).unwrap()
    }
}

impl Drop for Launcher {
    fn drop(&mut self) {
        drop(self.jobs.take());
        let _ = self.child.wait();
    }
}

/// The launcher itself; no test where it is not asked for.
#[test]
fn serve() {
    if std::env::var_os(VARIABLE).is_none() {
        return;
    }
    for line in io::stdin().lines() {
        let job: Job = serde_json::from_str(&line.unwrap()).unwrap();
        let answer = serde_json::to_string(&launched(&job)).unwrap();
        // At the start of a line, whatever the harness has written.
        writeln!(io::stdout(), "\n{ANSWER}{answer}").unwrap();
    }
}

fn launched(job: &Job) -> Ended {
    let mut command = llq_in(&job.folder);
    command.args(&job.arguments).stdin(Stdio::null());
    command.stdout(File::create(&job.stdout).unwrap());
    command.stderr(File::create(&job.stderr).unwrap());
    let mut child = command.spawn().unwrap();
    let limit = Rlimit { current: Some(MOST_SECONDS), maximum: Some(MOST_SECONDS) };
    // It may have ended.
    let _ = prlimit(Some(Pid::from_child(&child)), Resource::Cpu, limit);
    let ended = child.wait4().unwrap();
    let time = ended.rusage.utime + ended.rusage.stime;
    Ended { code: ended.status.code(), memory: ended.rusage.maxrss, time }
}
