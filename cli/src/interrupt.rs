//! Ctrl-C: temporary files are removed, whatever the run is doing.
//!
//! While a file is being written, its writer owns the temporary, so the run unwinds and the writer
//! removes it. At any other time the handler removes the temporary folder, if there is one, and
//! ends the process at once. Whoever ends the process holds the folder's lock until it is gone, so
//! that no other thread can fill the folder again or report what it misses there.

use std::{
    io::{self, IsTerminal, Write},
    panic::{self, AssertUnwindSafe},
    path::{Path, PathBuf},
    process::{self, ExitCode},
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst},
    },
    thread,
};

use tempfile::TempDir;

use crate::failure::Refusal;

/// What shells give for a process that SIGINT ended.
const INTERRUPTED: u8 = 130;

static PRESSED: AtomicBool = AtomicBool::new(false);
static WRITERS: AtomicUsize = AtomicUsize::new(0);
static FOLDER: Mutex<Option<TempDir>> = Mutex::new(None);

/// Runs `work` with Ctrl-C (and SIGTERM, SIGHUP) handled.
pub(crate) fn guard(work: impl FnOnce() -> anyhow::Result<ExitCode>) -> anyhow::Result<ExitCode> {
    ctrlc::set_handler(on_signal)
        .map_err(|error| Refusal::new(format!("cannot handle Ctrl-C: {error}")))?;
    match panic::catch_unwind(AssertUnwindSafe(work)) {
        Err(_) | Ok(Err(_)) if PRESSED.load(SeqCst) => leave(),
        Ok(result) => result,
        Err(fault) => panic::resume_unwind(fault),
    }
}

/// The second signal does not wait for writers.
fn on_signal() {
    let again = PRESSED.swap(true, SeqCst);
    if again || WRITERS.load(SeqCst) == 0 {
        leave();
    }
}

fn leave() -> ! {
    let mut folder = temporary_folder();
    drop(folder.take());
    end_line();
    process::exit(i32::from(INTERRUPTED))
}

/// Keeps the shell's prompt from standing behind a progress bar.
fn end_line() {
    if io::stderr().is_terminal() {
        let _ = io::stderr().write_all(b"\n");
    }
}

/// Held while a file is written whose writer removes it when it is dropped.
pub(crate) struct Writing(());

impl Writing {
    pub(crate) fn start() -> Writing {
        WRITERS.fetch_add(1, SeqCst);
        // Either this sees the signal or the handler sees the writer.
        if PRESSED.load(SeqCst) {
            leave();
        }
        Writing(())
    }

    /// Unwinds from here where Ctrl-C was pressed. Called as progress is made, from any thread; the
    /// thread pool carries the unwinding to [`guard`].
    pub(crate) fn check(&self) {
        if PRESSED.load(SeqCst) {
            panic::resume_unwind(Box::new("interrupted"));
        }
    }
}

impl Drop for Writing {
    fn drop(&mut self) {
        let last = WRITERS.fetch_sub(1, SeqCst) == 1;
        if last && PRESSED.load(SeqCst) && !thread::panicking() {
            leave();
        }
    }
}

fn temporary_folder() -> MutexGuard<'static, Option<TempDir>> {
    FOLDER.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The one temporary folder of a run; removed at its end, however it ends.
pub(crate) struct TemporaryFolder(PathBuf);

impl TemporaryFolder {
    pub(crate) fn new() -> io::Result<TemporaryFolder> {
        TemporaryFolder::create(|| tempfile::Builder::new().prefix("llq-").tempdir())
    }

    /// In `parent`, so that a file can be moved from here to there.
    pub(crate) fn beside(parent: &Path) -> io::Result<TemporaryFolder> {
        TemporaryFolder::create(|| tempfile::Builder::new().prefix(".llq-").tempdir_in(parent))
    }

    fn create(make: impl FnOnce() -> io::Result<TempDir>) -> io::Result<TemporaryFolder> {
        let mut folder = temporary_folder();
        let created = make()?;
        let path = created.path().to_owned();
        *folder = Some(created);
        Ok(TemporaryFolder(path))
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for TemporaryFolder {
    fn drop(&mut self) {
        drop(temporary_folder().take());
    }
}
