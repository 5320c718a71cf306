//! Ctrl-C: temporary files are removed, whatever the run is doing.
//!
//! While a file is being written, its writer owns the temporary, so the run unwinds and the writer
//! removes it. At any other time the handler removes the temporary folder, if there is one, and
//! ends the process at once. Whoever ends the process holds the folder's lock until it is gone, so
//! that no other thread can fill the folder again or report what it misses there.

use std::{
    env,
    fs::{self, File, OpenOptions},
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

/// The one temporary folder of a run; removed at its end, or by the next run where this one is
/// killed: its lock tells whether somebody still works in it.
pub(crate) struct TemporaryFolder {
    path: PathBuf,
    lock: Option<File>,
}

/// The file in a temporary folder that its owner holds locked.
const LOCK: &str = ".lock";

impl TemporaryFolder {
    pub(crate) fn new() -> io::Result<TemporaryFolder> {
        TemporaryFolder::create(&env::temp_dir(), "llq-")
    }

    /// In `parent`, so that a file can be moved from here to there.
    pub(crate) fn beside(parent: &Path) -> io::Result<TemporaryFolder> {
        TemporaryFolder::create(parent, ".llq-")
    }

    fn create(parent: &Path, prefix: &str) -> io::Result<TemporaryFolder> {
        remove_abandoned(parent, prefix);
        let mut folder = temporary_folder();
        let created = tempfile::Builder::new().prefix(prefix).tempdir_in(parent)?;
        let path = created.path().to_owned();
        *folder = Some(created);
        // Without a lock, on a file system that has none, the folder is only not cleaned up later.
        let locked = File::create_new(path.join(LOCK)).and_then(|lock| {
            lock.try_lock()?;
            Ok(lock)
        });
        Ok(TemporaryFolder { path, lock: locked.ok() })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }
}

/// Removes the temporary folders of killed runs. What stands in the way of that is no reason to
/// stop.
fn remove_abandoned(parent: &Path, prefix: &str) {
    for entry in fs::read_dir(parent).into_iter().flatten().flatten() {
        let is_ours = entry.file_name().to_string_lossy().starts_with(prefix);
        if is_ours && entry.file_type().is_ok_and(|file_type| file_type.is_dir()) {
            let _ = remove_if_abandoned(&entry.path());
        }
    }
}

fn remove_if_abandoned(folder: &Path) -> io::Result<()> {
    let path = folder.join(LOCK);
    // To open a pipe would wait for its other end, and a link is not ours.
    if !path.symlink_metadata()?.is_file() {
        return Ok(());
    }
    let lock = OpenOptions::new().write(true).open(path)?;
    lock.try_lock()?;
    fs::remove_dir_all(folder)
}

impl Drop for TemporaryFolder {
    fn drop(&mut self) {
        // Some systems remove no file that is open.
        self.lock = None;
        drop(temporary_folder().take());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_folders_that_nobody_works_in_are_removed() {
        let parent = tempfile::tempdir().unwrap();
        let in_parent = |name| parent.path().join(name);
        for name in [".llq-killed", ".llq-busy", ".llq-other", "killed"] {
            fs::create_dir(in_parent(name)).unwrap();
        }
        for name in [".llq-killed", ".llq-busy", "killed"] {
            fs::write(in_parent(name).join(LOCK), "").unwrap();
        }
        let busy = File::open(in_parent(".llq-busy").join(LOCK)).unwrap();
        busy.lock().unwrap();
        let made = TemporaryFolder::beside(parent.path()).unwrap();
        assert!(made.path().exists() && !in_parent(".llq-killed").exists());
        for name in [".llq-busy", ".llq-other", "killed"] {
            assert!(in_parent(name).exists(), "{name}");
        }
        let path = made.path().to_owned();
        drop(made);
        assert!(!path.exists());
    }
}
