//! Room on a file system.

use std::path::{Path, PathBuf};

use crate::{
    error::{Error, Result},
    file_writer::folder,
};

/// What the file system of `folder` has free for this user, in bytes.
///
/// # Errors
///
/// Where the system refuses to tell.
pub fn free_bytes(folder: &Path) -> Result<u64> {
    let io = |source| Error::Io { path: folder.to_owned(), source };
    fs4::available_space(folder).map_err(io)
}

/// Checks that files of `needed` bytes fit beside `target`. What is to be replaced there counts as
/// taken: it stays until the new files are complete. A file system that does not tell is believed
/// to have room.
pub(crate) fn check_room(target: &Path, needed: u64) -> Result<()> {
    let folder = folder(target);
    match free_bytes(folder) {
        Ok(available) if available < needed => {
            Err(Error::NotEnoughSpace { folder: PathBuf::from(folder), needed, available })
        }
        _ => Ok(()),
    }
}
