//! The folder beside a target in which a resumable run has its unfinished files and its journal. One
//! run at a time holds its lock, so that what was interrupted can be told from what is being written.

use std::{
    ffi::OsString,
    fs::{self, File, OpenOptions, TryLockError},
    io,
    path::{Path, PathBuf},
    thread::sleep,
    time::Duration,
};

use same_file::Handle;
use tempfile::{NamedTempFile, TempPath};

use crate::{
    error::{Error, Result},
    file_writer::{folder, sync_folder},
};

const PREFIX: &str = ".llq-";
const SUFFIX: &str = ".resume";
const LOCK: &str = "lock";
const JOURNAL: &str = "journal";
const NEW_JOURNAL: &str = "journal.new";
const PART: &str = "part-";

/// The folder `.llq-NAME.resume`, held by this run.
#[derive(Debug)]
pub(crate) struct ResumeFolder {
    path: PathBuf,
    _lock: File,
}

impl ResumeFolder {
    /// Takes the folder of `target`, or makes it.
    ///
    /// # Errors
    ///
    /// Where another run holds it, and where the system refuses.
    pub(crate) fn open(target: &Path) -> Result<ResumeFolder> {
        /// Those who look for abandoned folders hold a lock only for a moment.
        const TRIES: u32 = 16;
        const BETWEEN: Duration = Duration::from_millis(20);
        let path = path_beside(target);
        for _ in 0..TRIES {
            let lock = take(&path).map_err(|source| Error::Io { path: path.clone(), source })?;
            if let Some(lock) = lock {
                return Ok(ResumeFolder { path, _lock: lock });
            }
            sleep(BETWEEN);
        }
        Err(Error::InUse { path: target.to_owned() })
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    pub(crate) fn journal(&self) -> PathBuf {
        self.path.join(JOURNAL)
    }

    /// Where a new journal is written before it replaces the old one.
    pub(crate) fn new_journal(&self) -> PathBuf {
        self.path.join(NEW_JOURNAL)
    }

    /// The unfinished file of a part, counted from 0.
    pub(crate) fn part(&self, number: usize) -> PathBuf {
        self.path.join(format!("{PART}{}", number + 1))
    }

    /// Opens the file of a part, or makes an empty one. It stays when it is dropped.
    pub(crate) fn open_part(&self, number: usize) -> io::Result<NamedTempFile> {
        let path = self.part(number);
        let mut options = OpenOptions::new();
        let file = options.read(true).write(true).create(true).truncate(false).open(&path)?;
        let mut file = NamedTempFile::from_parts(file, TempPath::try_from_path(path)?);
        file.disable_cleanup(true);
        Ok(file)
    }

    /// Removes what an earlier run has left in the folder.
    pub(crate) fn clear(&self) -> io::Result<()> {
        clear(&self.path)
    }

    /// Makes the names in the folder, and its own, survive a crash.
    pub(crate) fn sync(&self) -> io::Result<()> {
        sync_folder(&self.path)?;
        sync_folder(folder(&self.path))
    }

    /// Removes the folder. What stands in the way of that is left to the next run.
    pub(crate) fn remove(&self) {
        let _ = remove(&self.path);
    }
}

/// Removes what an interrupted run has left of `target`, unless another run goes on with it.
pub(crate) fn remove_abandoned(target: &Path) {
    let _ = remove_if_free(&path_beside(target), |_| true);
}

/// Removes a folder that nobody can go on with: a run was killed before it had written anything, or
/// when its files had their names already.
pub(crate) fn remove_if_useless(path: &Path) {
    let _ = remove_if_free(path, |path| !is_useful(path));
}

/// The folder of what an interrupted run of [`ModelWriter::resume`](crate::ModelWriter::resume) has
/// left of `target`, or another one is writing.
pub fn unfinished(target: &Path) -> Option<PathBuf> {
    Some(path_beside(target)).filter(|path| is_useful(path))
}

fn is_useful(path: &Path) -> bool {
    path.join(JOURNAL).exists() && parts(path).is_ok_and(|parts| !parts.is_empty())
}

/// Whether a folder of this name is one of these.
pub(crate) fn is_resume_folder(name: &str) -> bool {
    name.starts_with(PREFIX) && name.ends_with(SUFFIX)
}

fn path_beside(target: &Path) -> PathBuf {
    let mut name = OsString::from(PREFIX);
    name.push(target.file_name().unwrap_or_default());
    name.push(SUFFIX);
    folder(target).join(name)
}

/// The lock of a folder that is made where there is none; `None` where another holds it.
fn take(path: &Path) -> io::Result<Option<File>> {
    match fs::create_dir(path) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
        _ => {}
    }
    let lock = match open_lock(path, OpenOptions::new().create(true)) {
        // Its last holder has just removed the folder.
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        opened => opened?,
    };
    match lock.try_lock() {
        Err(TryLockError::WouldBlock) => Ok(None),
        // On a file system without locks nobody removes what he cannot lock.
        Ok(()) | Err(TryLockError::Error(_)) => Ok(is_lock_of(&lock, path)?.then_some(lock)),
    }
}

/// To open a pipe would wait for its other end, and a link is not ours.
fn open_lock(path: &Path, options: &mut OpenOptions) -> io::Result<File> {
    if !fs::symlink_metadata(path)?.is_dir() {
        return Err(io::ErrorKind::NotADirectory.into());
    }
    let path = path.join(LOCK);
    match fs::symlink_metadata(&path) {
        Ok(found) if !found.is_file() => Err(io::Error::other("its lock is no file")),
        _ => options.write(true).truncate(false).open(path),
    }
}

/// Whether the folder still has this lock: its last holder may have removed it.
fn is_lock_of(lock: &File, path: &Path) -> io::Result<bool> {
    let held = Handle::from_file(lock.try_clone()?)?;
    Ok(Handle::from_path(path.join(LOCK)).is_ok_and(|found| found == held))
}

fn remove_if_free(path: &Path, is_unwanted: impl Fn(&Path) -> bool) -> io::Result<()> {
    if !is_unwanted(path) {
        return Ok(());
    }
    match open_lock(path, &mut OpenOptions::new()) {
        Ok(lock) => {
            lock.try_lock()?;
            if is_lock_of(&lock, path)? && is_unwanted(path) { remove(path) } else { Ok(()) }
        }
        // Only an empty folder is removed so: nobody has had it yet.
        Err(_) => fs::remove_dir(path),
    }
}

fn remove(path: &Path) -> io::Result<()> {
    clear(path)?;
    fs::remove_file(path.join(LOCK))?;
    fs::remove_dir(path)
}

/// Removes all but the lock: first what says that the rest is of use, for good.
fn clear(path: &Path) -> io::Result<()> {
    for name in [JOURNAL, NEW_JOURNAL] {
        match fs::remove_file(path.join(name)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    sync_folder(path)?;
    parts(path)?.into_iter().try_for_each(fs::remove_file)
}

fn parts(path: &Path) -> io::Result<Vec<PathBuf>> {
    let entries = fs::read_dir(path)?.collect::<io::Result<Vec<_>>>()?;
    let is_part = |entry: &fs::DirEntry| entry.file_name().to_string_lossy().starts_with(PART);
    Ok(entries.into_iter().filter(is_part).map(|entry| entry.path()).collect())
}
