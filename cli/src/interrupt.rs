//! Ctrl-C: temporary files are removed, whatever the run is doing.
//!
//! While a file is being written, its writer owns the temporary, so the run unwinds and the writer
//! removes it. At any other time the handler removes the temporary folder, if there is one, and
//! ends the process at once.

use std::{
    fs,
    io::{self, IsTerminal, Write},
    panic::{self, AssertUnwindSafe},
    path::{Path, PathBuf},
    process::{self, ExitCode},
    sync::{
        Mutex, PoisonError,
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
static FOLDER: Mutex<Option<PathBuf>> = Mutex::new(None);

/// Runs `work` with Ctrl-C (and SIGTERM, SIGHUP) handled.
pub(crate) fn guard(work: impl FnOnce() -> anyhow::Result<ExitCode>) -> anyhow::Result<ExitCode> {
    ctrlc::set_handler(on_signal)
        .map_err(|error| Refusal::new(format!("cannot handle Ctrl-C: {error}")))?;
    match panic::catch_unwind(AssertUnwindSafe(work)) {
        Ok(result) => result,
        Err(_) if PRESSED.load(SeqCst) => {
            end_line();
            Ok(ExitCode::from(INTERRUPTED))
        }
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
    if let Some(folder) = &*FOLDER.lock().unwrap_or_else(PoisonError::into_inner) {
        // Whoever interrupts wants no more messages.
        let _ = fs::remove_dir_all(folder);
    }
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

/// The one temporary folder of a run; removed at its end, however it ends.
pub(crate) struct TemporaryFolder(TempDir);

impl TemporaryFolder {
    pub(crate) fn new() -> io::Result<TemporaryFolder> {
        let folder = tempfile::Builder::new().prefix("llq-").tempdir()?;
        *FOLDER.lock().unwrap_or_else(PoisonError::into_inner) = Some(folder.path().to_owned());
        Ok(TemporaryFolder(folder))
    }

    pub(crate) fn path(&self) -> &Path {
        self.0.path()
    }
}
