//! Files that are being written. Whoever writes one holds its lock, so that what a killed process has
//! left can be told from what another process still writes.

use std::{
    fs::{self, File, OpenOptions},
    io,
    path::Path,
};

use tempfile::{Builder, NamedTempFile};

use crate::resume;

const PREFIX: &str = ".llq-";
const SUFFIX: &str = ".partial";

/// Creates a locked file `.llq-*.partial` in `folder` that is removed when it is dropped, and removes
/// those that nobody writes any more.
///
/// # Errors
///
/// Where the system refuses.
pub fn create_partial(folder: &Path) -> io::Result<NamedTempFile> {
    /// Another process can take a new file for an abandoned one only before it is locked.
    const TRIES: usize = 16;
    remove_abandoned(folder);
    let mut builder = Builder::new();
    builder.prefix(PREFIX).suffix(SUFFIX);
    // A model is for whom the umask allows, unlike most temporary files.
    #[cfg(unix)]
    builder.permissions(std::os::unix::fs::PermissionsExt::from_mode(0o666));
    let mut file = builder.tempfile_in(folder)?;
    for _ in 0..TRIES {
        let is_held = match file.as_file().try_lock() {
            Ok(()) => file.path().exists(),
            Err(fs::TryLockError::WouldBlock) => false,
            // A file system without locks: nobody removes what he cannot lock.
            Err(fs::TryLockError::Error(_)) => true,
        };
        if is_held {
            break;
        }
        file = builder.tempfile_in(folder)?;
    }
    Ok(file)
}

/// Removes what killed processes have left. What stands in the way of that is no reason to stop.
pub(crate) fn remove_abandoned(folder: &Path) {
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let name = name.to_string_lossy();
        let is_partial = name.starts_with(PREFIX) && name.ends_with(SUFFIX);
        // To open a pipe would wait for its other end, and a link is not ours.
        if resume::is_resume_folder(&name) {
            resume::remove_if_useless(&entry.path());
        }
        if is_partial && entry.file_type().is_ok_and(|file_type| file_type.is_file()) {
            let _ = remove_if_abandoned(&entry.path());
        }
    }
}

fn remove_if_abandoned(path: &Path) -> io::Result<()> {
    let file: File = OpenOptions::new().write(true).open(path)?;
    file.try_lock()?;
    fs::remove_file(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_nobody_writes_is_removed() {
        let folder = tempfile::tempdir().unwrap();
        let abandoned = folder.path().join(".llq-abc.partial");
        let other = folder.path().join(".llq-model.calibration");
        fs::write(&abandoned, "half").unwrap();
        fs::write(&other, "whole").unwrap();
        let first = create_partial(folder.path()).unwrap();
        let second = create_partial(folder.path()).unwrap();
        assert!(!abandoned.exists());
        assert!(first.path().exists() && second.path().exists() && other.exists());
    }
}
