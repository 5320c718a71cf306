//! Which bytes of an unfinished model are on the disk, kept in a file beside it.
//!
//! The journal is text: a line that says what it is, the fingerprint, a line of tensor, start and end
//! for each range of bytes, and a sum of all before. It is replaced as a whole, after what it tells
//! of was synced, so that it never tells of what is not there.

use std::{
    collections::BTreeSet,
    fmt::Write as _,
    fs::{self, File, OpenOptions},
    io::{self, Read, Write as _},
    mem,
    ops::Range,
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use crate::{
    ModelLayout,
    coverage::Coverage,
    error::{Error, Result},
    file_writer::sync_folder,
    resume::ResumeFolder,
};

/// A sum of all that the bytes of a model depend on. Only a run with the same one goes on with what
/// another has left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fingerprint(pub [u8; 32]);

/// What an earlier run has left of a model.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Earlier {
    /// Bytes of tensors that need not be written again.
    pub bytes: u64,
    /// Why what it left is of no use, where that is so.
    pub damage: Option<String>,
}

const FIRST_LINE: &str = "llq resume 1";

/// The shortest time between two savings.
const INTERVAL: Duration = Duration::from_secs(1);

/// A saving takes one thread at most this part of its time.
const SHARE: u32 = 20;

#[derive(Debug)]
pub(crate) struct Journal {
    folder: ResumeFolder,
    fingerprint: Fingerprint,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    /// For each tensor of the model.
    kept: Vec<Coverage>,
    /// The parts that have changed since the last saving.
    changed: BTreeSet<usize>,
    /// When to save; `None` while that is done, and after it failed: a disk that has lost something
    /// may claim otherwise later.
    next: Option<Instant>,
}

impl Journal {
    /// Takes up what `folder` has of a model. What is damaged is removed from it as a whole.
    ///
    /// # Errors
    ///
    /// Where it has what a run with another fingerprint wrote, and where the system refuses.
    pub(crate) fn open(
        folder: ResumeFolder,
        layout: &ModelLayout,
        fingerprint: Fingerprint,
    ) -> Result<(Journal, Earlier)> {
        let io = |source| Error::Io { path: folder.path().to_owned(), source };
        let (kept, damage) = match found(&folder, layout).map_err(io)? {
            Found::Whole(other, _) if other != fingerprint => {
                return Err(Error::OtherRun { path: folder.path().to_owned() });
            }
            Found::Whole(_, kept) => (Some(kept), damaged_part(&folder, layout).map_err(io)?),
            Found::Damaged => (None, Some("its journal is damaged".to_owned())),
            Found::Nothing => (None, None),
        };
        let kept = match kept {
            Some(kept) if damage.is_none() => kept,
            _ => {
                folder.clear().map_err(io)?;
                layout.tensors().map(|_| Coverage::default()).collect()
            }
        };
        let earlier = Earlier { bytes: kept.iter().map(Coverage::bytes).sum(), damage };
        let next = Some(Instant::now() + INTERVAL);
        let state = Mutex::new(State { kept, changed: BTreeSet::new(), next });
        Ok((Journal { folder, fingerprint, state }, earlier))
    }

    pub(crate) fn folder(&self) -> &ResumeFolder {
        &self.folder
    }

    /// Whether these bytes of a tensor are on the disk.
    pub(crate) fn has(&self, tensor: usize, bytes: &Range<u64>) -> bool {
        self.state().kept[tensor].contains(bytes.start, bytes.end)
    }

    /// Takes note of bytes of a tensor in `part` that were written, and saves where it is time to.
    pub(crate) fn keep(&self, tensor: usize, part: usize, bytes: Range<u64>) -> Result<()> {
        let mut state = self.state();
        state.kept[tensor].unite(bytes.start, bytes.end);
        state.changed.insert(part);
        match state.next {
            Some(next) if next <= Instant::now() => self.save(state),
            _ => Ok(()),
        }
    }

    /// Forgets tensors, by index and part, and saves, so that they can be overwritten.
    pub(crate) fn forget(&self, tensors: impl IntoIterator<Item = (usize, usize)>) -> Result<()> {
        let mut state = self.state();
        for (tensor, part) in tensors {
            state.kept[tensor] = Coverage::default();
            state.changed.insert(part);
        }
        self.save(state)
    }

    /// Removes all: nobody is to go on with it.
    pub(crate) fn remove(self) {
        self.state().next = None;
        let _ = fs::remove_file(self.folder.journal());
    }

    /// Others go on with the state meanwhile.
    fn save(&self, mut state: MutexGuard<'_, State>) -> Result<()> {
        state.next = None;
        let changed = mem::take(&mut state.changed);
        let text = self.text(&state.kept);
        drop(state);
        let started = Instant::now();
        self.replace(&changed, &text)
            .map_err(|source| Error::Io { path: self.folder.journal(), source })?;
        let rest = INTERVAL.max(SHARE * started.elapsed());
        self.state().next = Some(Instant::now() + rest);
        Ok(())
    }

    /// Syncs the parts first.
    fn replace(&self, changed: &BTreeSet<usize>, text: &str) -> io::Result<()> {
        for &part in changed {
            OpenOptions::new().write(true).open(self.folder.part(part))?.sync_data()?;
        }
        let new = self.folder.new_journal();
        let mut file = File::create(&new)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()?;
        fs::rename(new, self.folder.journal())?;
        sync_folder(self.folder.path())
    }

    fn text(&self, kept: &[Coverage]) -> String {
        let mut text = format!("{FIRST_LINE}\n{}\n", hexadecimal(&self.fingerprint));
        for (tensor, kept) in kept.iter().enumerate() {
            for (start, end) in kept.ranges() {
                // Writing to a string cannot fail.
                let _ = writeln!(text, "{tensor} {start} {end}");
            }
        }
        let sum = sum(text.as_bytes());
        let _ = writeln!(text, "{sum:016x}");
        text
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// An interrupted run leaves all that it has written, if that is anything of use.
impl Drop for Journal {
    fn drop(&mut self) {
        let state = self.state();
        if state.next.is_some() && !state.changed.is_empty() {
            let _ = self.save(state);
        }
        if !self.folder.journal().exists() {
            self.folder.remove();
        }
    }
}

/// What there is of a journal.
enum Found {
    Nothing,
    /// No journal, or not all of one.
    Damaged,
    Whole(Fingerprint, Vec<Coverage>),
}

fn found(folder: &ResumeFolder, layout: &ModelLayout) -> io::Result<Found> {
    /// No journal is as long.
    const MOST_BYTES: u64 = 64 << 20;
    let path = folder.journal();
    let metadata = match fs::symlink_metadata(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Found::Nothing),
        found => found?,
    };
    if !metadata.is_file() {
        return Ok(Found::Damaged);
    }
    let mut bytes = Vec::new();
    File::open(path)?.take(MOST_BYTES).read_to_end(&mut bytes)?;
    let whole = String::from_utf8(bytes).ok().and_then(|text| parse(&text, layout));
    Ok(whole.map_or(Found::Damaged, |(fingerprint, kept)| Found::Whole(fingerprint, kept)))
}

/// What a whole journal of such a model says.
fn parse(text: &str, layout: &ModelLayout) -> Option<(Fingerprint, Vec<Coverage>)> {
    let end = text.strip_suffix('\n')?.rfind('\n')? + 1;
    let (told, last) = text.split_at(end);
    if u64::from_str_radix(last.trim_end(), 16).ok()? != sum(told.as_bytes()) {
        return None;
    }
    let mut lines = told.lines();
    if lines.next()? != FIRST_LINE {
        return None;
    }
    let fingerprint = fingerprint(lines.next()?)?;
    let sizes: Vec<u64> = layout.tensors().map(|tensor| tensor.bytes).collect();
    let mut kept: Vec<Coverage> = sizes.iter().map(|_| Coverage::default()).collect();
    for line in lines {
        let mut numbers = line.split(' ').map(str::parse::<u64>);
        let mut next = || numbers.next()?.ok();
        let (tensor, start, end) = (usize::try_from(next()?).ok()?, next()?, next()?);
        // With another fingerprint the tensors may be others.
        if let Some(kept) = kept.get_mut(tensor)
            && end <= sizes[tensor]
        {
            kept.unite(start, end);
        }
    }
    Some((fingerprint, kept))
}

/// A part that is absent or has another size.
fn damaged_part(folder: &ResumeFolder, layout: &ModelLayout) -> io::Result<Option<String>> {
    for (number, part) in layout.parts().iter().enumerate() {
        let found = match fs::symlink_metadata(folder.part(number)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            found => Some(found?).filter(fs::Metadata::is_file),
        };
        let (found, expected) = (found.map_or(0, |found| found.len()), part.file_bytes());
        if found != expected {
            return Ok(Some(format!("part {} has {found} bytes, not {expected}", number + 1)));
        }
    }
    Ok(None)
}

fn hexadecimal(Fingerprint(bytes): &Fingerprint) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn fingerprint(text: &str) -> Option<Fingerprint> {
    let mut bytes = [0; 32];
    if text.len() != 2 * bytes.len() {
        return None;
    }
    for (byte, digits) in bytes.iter_mut().zip(text.as_bytes().chunks_exact(2)) {
        *byte = u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()?;
    }
    Some(Fingerprint(bytes))
}

/// The 64-bit FNV-1a hash (Fowler, Noll and Vo).
fn sum(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    })
}
