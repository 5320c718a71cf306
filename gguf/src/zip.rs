//! ZIP archives whose entries are read where they lie, uncompressed: llamafiles and what
//! `torch.save` writes.
//!
//! Two readers must never see two different archives in one file, so everything that ZIP says
//! twice is compared. Checksums are not verified: they would cost a pass over all weights, and
//! PyTorch may leave them out.

use std::{collections::HashSet, convert::Infallible};

/// What an archive is read from.
pub trait ReadAt {
    /// Why it cannot be read.
    type Error;

    /// Its size in bytes.
    fn size(&self) -> u64;

    /// The `len` bytes at `offset`, which lie inside.
    ///
    /// # Errors
    /// Where the medium fails.
    fn read(&self, offset: u64, len: u64) -> Result<Vec<u8>, Self::Error>;
}

impl ReadAt for [u8] {
    type Error = Infallible;

    fn size(&self) -> u64 {
        self.len() as u64
    }

    fn read(&self, offset: u64, len: u64) -> Result<Vec<u8>, Infallible> {
        Ok(self[offset as usize..][..len as usize].to_vec())
    }
}

/// What can be wrong with the archive.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ZipError {
    /// No end-of-central-directory record closes the file.
    #[error("no ZIP directory at the end: the file is cut off or no archive")]
    NoDirectory,
    /// The directory does not lie where it should or is damaged.
    #[error("damaged ZIP directory: {0}")]
    Directory(&'static str),
    /// An entry is compressed, encrypted, or contradicts itself.
    #[error("entry {entry:?}: {problem}")]
    Entry {
        /// Its name.
        entry: String,
        /// What is wrong.
        problem: &'static str,
    },
}

/// What the directory says.
#[derive(Clone, Debug)]
pub struct Archive {
    entries: Vec<Entry>,
    directory_start: u64,
}

/// An entry of the directory.
#[derive(Clone, Debug)]
pub struct Entry {
    name: String,
    bytes: u64,
    stored_bytes: u64,
    header_start: u64,
    flags: u16,
    method: u16,
}

/// An entry that is stored as it is, and where its data lies in the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stored {
    /// Its name.
    pub name: String,
    /// First byte of the data.
    pub start: u64,
    /// Size of the data.
    pub bytes: u64,
}

/// What an archive holds, or what is wrong with it.
pub type Checked<T> = Result<T, ZipError>;

const END: &[u8] = b"PK\x05\x06";
const END_BYTES: usize = 22;
const END64: &[u8] = b"PK\x06\x06";
const END64_BYTES: u64 = 56;
const LOCATOR64: &[u8] = b"PK\x06\x07";
const LOCATOR64_BYTES: u64 = 20;
const CENTRAL: &[u8] = b"PK\x01\x02";
const CENTRAL_BYTES: usize = 46;
const LOCAL: &[u8] = b"PK\x03\x04";
const LOCAL_BYTES: u64 = 30;

/// Flag: sizes follow the data. PyTorch sets it and gives the sizes all the same.
const FLAG_DESCRIPTOR: u16 = 1 << 3;
const FLAG_UTF8: u16 = 1 << 11;

/// Size limit of the directory in bytes: about a million entries.
const MAX_DIRECTORY: u64 = 64 << 20;

impl Archive {
    /// Reads the directory at the end of `file`.
    ///
    /// # Errors
    /// Those of `file`.
    pub fn read<F: ReadAt + ?Sized>(file: &F) -> Result<Checked<Archive>, F::Error> {
        let directory = match find_directory(file)? {
            Ok(directory) => directory,
            Err(problem) => return Ok(Err(problem)),
        };
        let bytes = file.read(directory.start, directory.bytes)?;
        let entries = parse_directory(&bytes, &directory);
        Ok(entries.map(|entries| Archive { entries, directory_start: directory.start }))
    }

    /// The entries in directory order; their names are unique.
    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// Where the data of an entry lies that is not compressed. Its local header must say what the
    /// directory says.
    ///
    /// # Errors
    /// Those of `file`.
    pub fn locate<F: ReadAt + ?Sized>(
        &self,
        entry: &Entry,
        file: &F,
    ) -> Result<Checked<Stored>, F::Error> {
        locate(entry, self.directory_start, file)
    }

    /// Where the data of all entries lies, none of which may be compressed or overlap another.
    ///
    /// # Errors
    /// Those of `file`.
    pub fn locate_all<F: ReadAt + ?Sized>(
        &self,
        file: &F,
    ) -> Result<Checked<Vec<Stored>>, F::Error> {
        let mut order: Vec<usize> = (0..self.entries.len()).collect();
        order.sort_by_key(|&index| self.entries[index].header_start);
        let mut located = vec![None; self.entries.len()];
        let mut end = 0;
        for index in order {
            let entry = &self.entries[index];
            // Before its local header is read, or that of one would be read with all behind it.
            if entry.header_start < end {
                let (entry, problem) = (entry.name.clone(), "overlaps another");
                return Ok(Err(ZipError::Entry { entry, problem }));
            }
            match self.locate(entry, file)? {
                Ok(stored) => {
                    end = stored.start + stored.bytes;
                    located[index] = Some(stored);
                }
                Err(problem) => return Ok(Err(problem)),
            }
        }
        Ok(Ok(located.into_iter().flatten().collect()))
    }
}

impl Entry {
    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Whether its data is not as it was.
    pub fn is_compressed(&self) -> bool {
        self.method != 0
    }
}

struct Directory {
    start: u64,
    bytes: u64,
    entries: u64,
}

fn find_directory<F: ReadAt + ?Sized>(file: &F) -> Result<Checked<Directory>, F::Error> {
    let tail_bytes = file.size().min(END_BYTES as u64 + u64::from(u16::MAX));
    let tail_start = file.size() - tail_bytes;
    let tail = file.read(tail_start, tail_bytes)?;
    let at = match find_end(&tail) {
        Ok(at) => at,
        Err(problem) => return Ok(Err(problem)),
    };
    let end = Fields(&tail[at..]);
    let end_start = tail_start + at as u64;
    let (this_disk, first_disk) = (end.u16(4), end.u16(6));
    let short = Directory {
        start: u64::from(end.u32(16)),
        bytes: u64::from(end.u32(12)),
        entries: u64::from(end.u16(10)),
    };
    if this_disk != 0 || first_disk != 0 || u64::from(end.u16(8)) != short.entries {
        return Ok(Err(ZipError::Directory("it spans several disks")));
    }
    match find_directory64(file, end_start, &short)? {
        Ok(Some((directory, end64_start))) => Ok(check_place(directory, end64_start)),
        Ok(None) => Ok(check_place(short, end_start)),
        Err(problem) => Ok(Err(problem)),
    }
}

/// The last end record whose comment reaches to the end of the file.
fn find_end(tail: &[u8]) -> Checked<usize> {
    let places = tail.windows(END_BYTES).enumerate().rev();
    let ends = places
        .filter(|(_, record)| record.starts_with(END))
        .map(|(at, record)| (at, at + END_BYTES + usize::from(Fields(record).u16(20))));
    match ends.clone().find(|&(_, end)| end == tail.len()) {
        Some((at, _)) => Ok(at),
        None if ends.clone().any(|(_, end)| end < tail.len()) => {
            Err(ZipError::Directory("more bytes follow its end, with which the file must end"))
        }
        None => Err(ZipError::NoDirectory),
    }
}

/// The 64-bit end record, where there is one, and its place.
fn find_directory64<F: ReadAt + ?Sized>(
    file: &F,
    end_start: u64,
    short: &Directory,
) -> Result<Checked<Option<(Directory, u64)>>, F::Error> {
    let Some(locator_start) = end_start.checked_sub(LOCATOR64_BYTES) else { return Ok(Ok(None)) };
    let locator = file.read(locator_start, LOCATOR64_BYTES)?;
    if !locator.starts_with(LOCATOR64) {
        return Ok(Ok(None));
    }
    let end64_start = Fields(&locator).u64(8);
    if end64_start.checked_add(END64_BYTES) != Some(locator_start) {
        return Ok(Err(ZipError::Directory("the 64-bit record is not where it is said to be")));
    }
    let end64 = file.read(end64_start, END64_BYTES)?;
    if !end64.starts_with(END64) {
        return Ok(Err(ZipError::Directory("there is no 64-bit record where it is said to be")));
    }
    let end64 = Fields(&end64);
    let long = Directory { start: end64.u64(48), bytes: end64.u64(40), entries: end64.u64(32) };
    let agree = agrees(short.start, u64::from(u32::MAX), long.start)
        && agrees(short.bytes, u64::from(u32::MAX), long.bytes)
        && agrees(short.entries, u64::from(u16::MAX), long.entries);
    if !agree || end64.u32(16) != 0 || end64.u32(20) != 0 || end64.u64(24) != long.entries {
        return Ok(Err(ZipError::Directory("its two end records contradict each other")));
    }
    Ok(Ok(Some((long, end64_start))))
}

/// Whether a short field has the long one's value or says that it has no room for it.
fn agrees(short: u64, no_room: u64, long: u64) -> bool {
    short == long || short == no_room
}

fn check_place(directory: Directory, end: u64) -> Checked<Directory> {
    if directory.start.checked_add(directory.bytes) != Some(end) {
        return Err(ZipError::Directory("it does not end where the end record starts"));
    }
    if directory.bytes > MAX_DIRECTORY {
        return Err(ZipError::Directory("it is larger than 64 MiB"));
    }
    if directory.entries > directory.bytes / CENTRAL_BYTES as u64 {
        return Err(ZipError::Directory("it has no room for so many entries"));
    }
    Ok(directory)
}

fn parse_directory(mut bytes: &[u8], directory: &Directory) -> Checked<Vec<Entry>> {
    let mut names = HashSet::new();
    let mut entries = Vec::new();
    for _ in 0..directory.entries {
        let (entry, rest) = parse_entry(bytes)?;
        if !names.insert(entry.name.clone()) {
            return Err(ZipError::Entry { entry: entry.name, problem: "occurs twice" });
        }
        entries.push(entry);
        bytes = rest;
    }
    if !bytes.is_empty() {
        return Err(ZipError::Directory("it has more entries than it says"));
    }
    Ok(entries)
}

fn parse_entry(bytes: &[u8]) -> Checked<(Entry, &[u8])> {
    const CUT: ZipError = ZipError::Directory("an entry is cut off");
    if bytes.len() < CENTRAL_BYTES || !bytes.starts_with(CENTRAL) {
        return Err(CUT);
    }
    let (fixed, rest) = bytes.split_at(CENTRAL_BYTES);
    let fixed = Fields(fixed);
    let (name, rest) = rest.split_at_checked(fixed.u16(28).into()).ok_or(CUT)?;
    let (extra, rest) = rest.split_at_checked(fixed.u16(30).into()).ok_or(CUT)?;
    let (_comment, rest) = rest.split_at_checked(fixed.u16(32).into()).ok_or(CUT)?;
    let name = str::from_utf8(name)
        .map_err(|_| ZipError::Directory("an entry's name is not UTF-8"))?
        .to_owned();
    let (flags, method) = (fixed.u16(8), fixed.u16(10));
    let mut sizes64 = Sizes64::of(extra);
    let bytes = sizes64.widen(fixed.u32(24));
    let stored_bytes = sizes64.widen(fixed.u32(20));
    let header_start = sizes64.widen(fixed.u32(42));
    let (Some(bytes), Some(stored_bytes), Some(header_start)) = (bytes, stored_bytes, header_start)
    else {
        return Err(ZipError::Entry { entry: name, problem: "lacks its 64-bit sizes" });
    };
    Ok((Entry { name, bytes, stored_bytes, header_start, flags, method }, rest))
}

/// The 64-bit values of an entry, in the order in which its fields have no room for them.
struct Sizes64<'a>(&'a [u8]);

impl<'a> Sizes64<'a> {
    const TAG: u16 = 1;

    fn of(mut extra: &'a [u8]) -> Self {
        while extra.len() >= 4 {
            let (head, rest) = extra.split_at(4);
            let (tag, len) = (Fields(head).u16(0), usize::from(Fields(head).u16(2)));
            let Some((body, rest)) = rest.split_at_checked(len) else { break };
            if tag == Self::TAG {
                return Sizes64(body);
            }
            extra = rest;
        }
        Sizes64(&[])
    }

    fn widen(&mut self, short: u32) -> Option<u64> {
        if short != u32::MAX {
            return Some(short.into());
        }
        let (value, rest) = self.0.split_at_checked(8)?;
        self.0 = rest;
        Some(Fields(value).u64(0))
    }
}

fn locate<F: ReadAt + ?Sized>(
    entry: &Entry,
    directory_start: u64,
    file: &F,
) -> Result<Checked<Stored>, F::Error> {
    let fail = |problem| Ok(Err(ZipError::Entry { entry: entry.name.clone(), problem }));
    // Before the flags, some of which belong to a compression.
    if entry.is_compressed() {
        return fail("is compressed; only entries stored as they are can be read");
    }
    if entry.flags & !(FLAG_DESCRIPTOR | FLAG_UTF8) != 0 {
        return fail("is encrypted or has other unusual flags");
    }
    if entry.bytes != entry.stored_bytes {
        return fail("has two different sizes");
    }
    let names_start = entry.header_start.checked_add(LOCAL_BYTES);
    let Some(names_start) = names_start.filter(|&end| end <= directory_start) else {
        return fail("starts outside of the archive");
    };
    let fixed = file.read(entry.header_start, LOCAL_BYTES)?;
    let header = Fields(&fixed);
    let (name_bytes, extra_bytes) = (u64::from(header.u16(26)), u64::from(header.u16(28)));
    let start = names_start + name_bytes + extra_bytes;
    let end = start.checked_add(entry.bytes);
    if end.is_none_or(|end| end > directory_start) {
        return fail("is longer than the archive");
    }
    let names = file.read(names_start, name_bytes + extra_bytes)?;
    let (name, extra) = names.split_at(name_bytes as usize);
    if !fixed.starts_with(LOCAL) || name != entry.name.as_bytes() {
        return fail("has another name in its local header");
    }
    if header.u16(6) != entry.flags || header.u16(8) != 0 {
        return fail("has other flags or another method in its local header");
    }
    let mut sizes64 = Sizes64::of(extra);
    let bytes = sizes64.widen(header.u32(22));
    let stored = sizes64.widen(header.u32(18));
    let follow = entry.flags & FLAG_DESCRIPTOR != 0 && (bytes, stored) == (Some(0), Some(0));
    if !follow && (bytes, stored) != (Some(entry.bytes), Some(entry.bytes)) {
        return fail("has another size in its local header");
    }
    Ok(Ok(Stored { name: entry.name.clone(), start, bytes: entry.bytes }))
}

/// Little-endian fields of a record whose length was checked.
struct Fields<'a>(&'a [u8]);

impl Fields<'_> {
    fn array<const N: usize>(&self, at: usize) -> [u8; N] {
        let mut array = [0; N];
        array.copy_from_slice(&self.0[at..at + N]);
        array
    }

    fn u16(&self, at: usize) -> u16 {
        u16::from_le_bytes(self.array(at))
    }

    fn u32(&self, at: usize) -> u32 {
        u32::from_le_bytes(self.array(at))
    }

    fn u64(&self, at: usize) -> u64 {
        u64::from_le_bytes(self.array(at))
    }
}
