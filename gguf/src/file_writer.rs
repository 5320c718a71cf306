//! Writing GGUF to a file that only gets its name when it is complete.

use std::{
    fs::{self, File},
    io,
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
};

use tempfile::NamedTempFile;

use crate::{
    Header, Layout, TensorInfo,
    coverage::{Coverage, Overlap},
    error::{Error, Result},
    map::Bytes,
    page_cache,
    partial::create_partial,
};

/// What to do where the target exists.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Overwrite {
    /// Refuse.
    Forbid,
    /// Replace it when the new file is complete.
    Replace,
}

/// Writes a planned file at positions, from any thread, into a temporary file beside the target.
/// Dropped without [`finish`](Self::finish), it leaves nothing.
///
/// A target that is a symbolic link counts as existing: it is refused or replaced itself, and what
/// it points to is never touched.
#[derive(Debug)]
pub struct FileWriter {
    target: PathBuf,
    overwrite: Overwrite,
    layout: Layout,
    file: NamedTempFile,
    written: Vec<Mutex<Coverage>>,
    /// Too large to stay in the page cache.
    is_large: bool,
}

/// How much is handed to the disk at a time, in bytes.
const STRETCH: u64 = 16 << 20;

/// How far behind the writers a large file leaves the page cache.
const STRETCHES_BEHIND: u64 = 4;

impl FileWriter {
    /// Creates the temporary file at full length and writes the header.
    ///
    /// # Errors
    ///
    /// Where the target exists and may not be replaced or is no regular file, where its folder
    /// cannot be written to, and where the disk has no room for the whole file.
    pub fn create(target: &Path, layout: Layout, overwrite: Overwrite) -> Result<FileWriter> {
        check_target(target, overwrite)?;
        let file = create_partial(folder(target))
            .map_err(|source| Error::Io { path: target.to_owned(), source })?;
        FileWriter::over(file, target, layout, overwrite)
    }

    /// Writes into a file that may have something already.
    pub(crate) fn over(
        file: NamedTempFile,
        target: &Path,
        layout: Layout,
        overwrite: Overwrite,
    ) -> Result<FileWriter> {
        let written = layout.tensors().iter().map(|_| Mutex::default()).collect();
        let length = layout.file_bytes();
        let is_large = page_cache::is_large(length);
        let target = target.to_owned();
        let writer = FileWriter { target, overwrite, layout, file, written, is_large };
        preallocate(writer.file.as_file(), length).map_err(|source| writer.failed(source))?;
        writer.write_all_at(writer.layout.header(), 0)?;
        Ok(writer)
    }

    /// The layout that is being written.
    pub fn layout(&self) -> &Layout {
        &self.layout
    }

    /// The file that is being written, under the name it will have.
    pub fn target(&self) -> &Path {
        &self.target
    }

    /// Writes `bytes` of tensor `index` (of [`Layout::tensors`]) at `offset` inside it.
    ///
    /// # Errors
    ///
    /// Where the system refuses, and where the bytes lie outside the tensor or are written already.
    ///
    /// # Panics
    ///
    /// Where the layout has no tensor `index`.
    pub fn write_at(&self, index: usize, offset: u64, bytes: &[u8]) -> Result<()> {
        let tensor = &self.layout.tensors()[index];
        let end = offset.saturating_add(bytes.len() as u64);
        if end > tensor.bytes {
            let problem = format!("behind its end at {}", tensor.bytes);
            return Err(misplaced(tensor, offset, end, problem));
        }
        let position = self.layout.position(tensor) + offset;
        self.write_all_at(bytes, position)?;
        self.write_back(position, bytes.len() as u64);
        self.add_written(index, offset, end)
    }

    /// Counts bytes of a tensor as written.
    pub(crate) fn add_written(&self, index: usize, offset: u64, end: u64) -> Result<()> {
        let tensor = &self.layout.tensors()[index];
        let mut written = self.written[index].lock().unwrap_or_else(PoisonError::into_inner);
        written
            .add(offset, end)
            .map_err(|Overlap| misplaced(tensor, offset, end, "twice".to_owned()))
    }

    /// Writes the header of `layout` in place of the one before. Tensors whose type it changes
    /// count as not written again.
    ///
    /// # Errors
    ///
    /// Where the layout puts a tensor elsewhere or has other tensors, and where the system refuses.
    pub fn replace_layout(&mut self, layout: Layout) -> Result<()> {
        let place = |tensor: &TensorInfo| (tensor.offset, tensor.bytes);
        let (old, new) = (self.layout.tensors(), layout.tensors());
        let same_places = old.iter().map(place).eq(new.iter().map(place));
        if !same_places || layout.header().len() != self.layout.header().len() {
            return Err(Error::OtherLayout { path: self.target.clone() });
        }
        for ((old, new), written) in old.iter().zip(new).zip(&mut self.written) {
            if old.tensor_type != new.tensor_type {
                *written = Mutex::default();
            }
        }
        self.layout = layout;
        self.write_all_at(self.layout.header(), 0)
    }

    /// [`seal`](Self::seal) and [`publish`](SealedFile::publish).
    ///
    /// # Errors
    ///
    /// Where one of these fails; then nothing is left, but for the complete file where only its
    /// folder cannot be synced.
    pub fn finish(self) -> Result<()> {
        self.seal()?.publish()
    }

    /// Checks that every byte was written and that the file reads back as planned, and syncs it.
    /// It has no name yet.
    ///
    /// # Errors
    ///
    /// Where one of these fails; then nothing is left.
    pub fn seal(self) -> Result<SealedFile> {
        self.check_complete()?;
        let header = self.verify()?;
        self.file.as_file().sync_all().map_err(|source| self.failed(source))?;
        if self.is_large {
            page_cache::write_back_or_drop(self.file.as_file(), 0, self.layout.file_bytes());
        }
        let FileWriter { target, overwrite, file, .. } = self;
        Ok(SealedFile { target, overwrite, file, header })
    }

    fn check_complete(&self) -> Result<()> {
        for (tensor, written) in self.layout.tensors().iter().zip(&self.written) {
            let written = written.lock().unwrap_or_else(PoisonError::into_inner).bytes();
            if written != tensor.bytes {
                let (tensor, expected) = (tensor.name.clone(), tensor.bytes);
                return Err(Error::Incomplete { tensor, expected, written });
            }
        }
        Ok(())
    }

    /// Reads the file back as a stranger would.
    fn verify(&self) -> Result<Header> {
        let bytes = Bytes::map(self.file.path())?;
        let header = Header::parse(&bytes, &self.target)?;
        let planned = self.layout.header();
        let difference = if bytes.len() as u64 != self.layout.file_bytes() {
            format!("{} bytes for {}", bytes.len(), self.layout.file_bytes())
        } else if !bytes.starts_with(planned) || header.tensors != self.layout.tensors() {
            "another header".to_owned()
        } else {
            return Ok(header);
        };
        Err(Error::Verify { path: self.target.clone(), what: difference })
    }

    /// Whenever the writers come to the end of a stretch, has the disk write it, so that there is less
    /// to wait for at the end. A large file leaves the page cache some way behind the writers; a
    /// small one stays, as it is likely to be read soon.
    fn write_back(&self, position: u64, bytes: u64) {
        let stretch = position / STRETCH;
        if (position + bytes) / STRETCH == stretch {
            return;
        }
        page_cache::write_back_or_drop(self.file.as_file(), stretch * STRETCH, STRETCH);
        if self.is_large
            && let Some(behind) = stretch.checked_sub(STRETCHES_BEHIND)
        {
            page_cache::write_back_or_drop(self.file.as_file(), behind * STRETCH, STRETCH);
        }
    }

    fn write_all_at(&self, bytes: &[u8], position: u64) -> Result<()> {
        write_all_at(self.file.as_file(), bytes, position).map_err(|source| self.failed(source))
    }

    /// The error of a refused write.
    fn failed(&self, source: io::Error) -> Error {
        use io::ErrorKind::{FileTooLarge, QuotaExceeded, StorageFull};
        let path = self.target.clone();
        match source.kind() {
            FileTooLarge | QuotaExceeded | StorageFull => {
                Error::NoSpace { path, needed: self.layout.file_bytes(), source }
            }
            _ => Error::Io { path, source },
        }
    }
}

/// A complete file on the disk that lacks only its name. Dropped, it leaves nothing.
#[derive(Debug)]
pub struct SealedFile {
    target: PathBuf,
    overwrite: Overwrite,
    file: NamedTempFile,
    header: Header,
}

impl SealedFile {
    /// The header, as it was read back from the disk.
    pub fn header(&self) -> &Header {
        &self.header
    }

    /// Lets those read and write it whom another file lets.
    pub(crate) fn set_permissions(&self, permissions: fs::Permissions) -> Result<()> {
        let set = self.file.as_file().set_permissions(permissions);
        set.map_err(|source| Error::Io { path: self.target.clone(), source })
    }

    /// Gives the file its name.
    ///
    /// # Errors
    ///
    /// Where the system refuses. A target that has come into being since
    /// [`create`](FileWriter::create) is not replaced where [`Overwrite::Forbid`] was asked.
    pub fn publish(self) -> Result<()> {
        let target = self.target.clone();
        self.take_name()?;
        sync_name(&target)
    }

    /// [`publish`](Self::publish), of which [`sync_name`] is left to do.
    pub(crate) fn take_name(self) -> Result<()> {
        persist(self.file, &self.target, self.overwrite)
    }

    pub(crate) fn target(&self) -> &Path {
        &self.target
    }
}

/// Writes a small file of any kind that only gets its name when it is complete and on the disk.
///
/// # Errors
///
/// Where the target exists and may not be replaced or is no regular file, and where the system
/// refuses; then nothing is left, but for the complete file where only its folder cannot be synced.
pub fn write_whole(target: &Path, bytes: &[u8], overwrite: Overwrite) -> Result<()> {
    check_target(target, overwrite)?;
    let failed = |source| Error::Io { path: target.to_owned(), source };
    let file = create_partial(folder(target)).map_err(failed)?;
    write_all_at(file.as_file(), bytes, 0).map_err(failed)?;
    file.as_file().sync_all().map_err(failed)?;
    persist(file, target, overwrite)?;
    sync_name(target)
}

/// Makes the name of a file survive a crash, and the names of all files beside it.
pub(crate) fn sync_name(target: &Path) -> Result<()> {
    sync_folder(folder(target)).map_err(|source| Error::Io { path: target.to_owned(), source })
}

/// Refuses a target before any work is done.
pub(crate) fn check_target(target: &Path, overwrite: Overwrite) -> Result<()> {
    let followed = fs::metadata(target);
    if followed.is_ok_and(|metadata| !metadata.is_file()) || target.file_name().is_none() {
        return Err(Error::NotAFile { path: target.to_owned() });
    }
    match (fs::symlink_metadata(target), overwrite) {
        (Ok(_), Overwrite::Forbid) => Err(Error::Exists { path: target.to_owned() }),
        (Err(source), _) if source.kind() != io::ErrorKind::NotFound => {
            Err(Error::Io { path: target.to_owned(), source })
        }
        _ => Ok(()),
    }
}

pub(crate) fn folder(target: &Path) -> &Path {
    match target.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}

/// Reserves room on the disk, so that it is full now or not at all.
#[cfg(any(target_os = "linux", target_os = "android"))]
fn preallocate(file: &File, length: u64) -> io::Result<()> {
    use rustix::{
        fs::{FallocateFlags, fallocate},
        io::{Errno, retry_on_intr},
    };
    match retry_on_intr(|| fallocate(file, FallocateFlags::empty(), 0, length)) {
        Err(Errno::OPNOTSUPP | Errno::NOSYS | Errno::INVAL) => file.set_len(length),
        other => other.map_err(io::Error::from),
    }
}

#[cfg(not(any(target_os = "linux", target_os = "android")))]
fn preallocate(file: &File, length: u64) -> io::Result<()> {
    file.set_len(length)
}

#[cfg(unix)]
pub(crate) fn write_all_at(file: &File, bytes: &[u8], position: u64) -> io::Result<()> {
    std::os::unix::fs::FileExt::write_all_at(file, bytes, position)
}

#[cfg(windows)]
pub(crate) fn write_all_at(file: &File, mut bytes: &[u8], mut position: u64) -> io::Result<()> {
    while !bytes.is_empty() {
        match std::os::windows::fs::FileExt::seek_write(file, bytes, position) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(count) => {
                bytes = &bytes[count..];
                position += count as u64;
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

fn persist(file: NamedTempFile, target: &Path, overwrite: Overwrite) -> Result<()> {
    let named = match overwrite {
        Overwrite::Forbid => file.persist_noclobber(target),
        Overwrite::Replace => file.persist(target),
    };
    named.map(drop).map_err(|error| match error.error.kind() {
        io::ErrorKind::AlreadyExists => Error::Exists { path: target.to_owned() },
        _ => Error::Io { path: target.to_owned(), source: error.error },
    })
}

#[cfg(unix)]
pub(crate) fn sync_folder(folder: &Path) -> io::Result<()> {
    match File::open(folder)?.sync_all() {
        // Some network file systems cannot sync a folder.
        Err(error) if error.kind() == io::ErrorKind::InvalidInput => Ok(()),
        other => other,
    }
}

#[cfg(not(unix))]
pub(crate) fn sync_folder(_folder: &Path) -> io::Result<()> {
    Ok(())
}

fn misplaced(tensor: &TensorInfo, start: u64, end: u64, problem: String) -> Error {
    Error::Misplaced { tensor: tensor.name.clone(), start, end, problem }
}
