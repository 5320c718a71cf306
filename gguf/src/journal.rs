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
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
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
    /// Why some or all of what it left is of no use.
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
    saving: Mutex<()>,
    /// Nothing is saved any more: all is done, or the disk failed and may claim otherwise later.
    is_closed: AtomicBool,
}

#[derive(Debug)]
struct State {
    /// For each tensor of the model.
    kept: Vec<Coverage>,
    /// The parts that have changed since the last saving.
    changed: BTreeSet<usize>,
    next: Instant,
}

impl Journal {
    /// Takes up what `folder` has of a model, where that is of use; all else is removed from it.
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
        let mut earlier = Earlier::default();
        let kept = match read(&folder).map_err(io)? {
            Some(text) => match parse(&text, layout) {
                Some((found, _)) if found != fingerprint => {
                    return Err(Error::OtherRun { path: folder.path().to_owned() });
                }
                Some((_, kept)) => Some(kept),
                None => {
                    earlier.damage = Some("its journal is damaged".to_owned());
                    None
                }
            },
            None => None,
        };
        let kept = match kept {
            Some(mut kept) => {
                forget_damaged_parts(&folder, layout, &mut kept, &mut earlier).map_err(io)?;
                kept
            }
            None => {
                folder.clear().map_err(io)?;
                layout.tensors().map(|_| Coverage::default()).collect()
            }
        };
        earlier.bytes = kept.iter().map(Coverage::bytes).sum();
        let next = Instant::now() + INTERVAL;
        let state = Mutex::new(State { kept, changed: BTreeSet::new(), next });
        let (saving, is_closed) = (Mutex::default(), AtomicBool::new(false));
        Ok((Journal { folder, fingerprint, state, saving, is_closed }, earlier))
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
        let started = Instant::now();
        if started < state.next {
            return Ok(());
        }
        state.next = started + INTERVAL;
        drop(state);
        self.save()?;
        let rest = INTERVAL.max(SHARE * started.elapsed());
        self.state().next = Instant::now() + rest;
        Ok(())
    }

    /// Forgets tensors, by index and part, and saves, so that they can be overwritten.
    pub(crate) fn forget(&self, tensors: impl IntoIterator<Item = (usize, usize)>) -> Result<()> {
        let mut state = self.state();
        for (tensor, part) in tensors {
            state.kept[tensor] = Coverage::default();
            state.changed.insert(part);
        }
        drop(state);
        self.save()
    }

    /// Ends the journal: the files it tells of have their names.
    pub(crate) fn finish(self) {
        self.is_closed.store(true, SeqCst);
        self.folder.remove();
    }

    fn save(&self) -> Result<()> {
        let _saving = self.saving.lock().unwrap_or_else(PoisonError::into_inner);
        if self.is_closed.load(SeqCst) {
            return Ok(());
        }
        let mut state = self.state();
        let changed = mem::take(&mut state.changed);
        let text = self.text(&state.kept);
        drop(state);
        if changed.is_empty() {
            return Ok(());
        }
        self.replace(&changed, &text).map_err(|source| {
            self.is_closed.store(true, SeqCst);
            Error::Io { path: self.folder.journal(), source }
        })
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

/// An interrupted run leaves all that it has written.
impl Drop for Journal {
    fn drop(&mut self) {
        let _ = self.save();
    }
}

/// The journal; `None` where there is none, and nothing of one that is no text of sensible length.
fn read(folder: &ResumeFolder) -> io::Result<Option<String>> {
    const MOST_BYTES: u64 = 64 << 20;
    let file = match File::open(folder.journal()) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        opened => opened?,
    };
    let mut bytes = Vec::new();
    file.take(MOST_BYTES).read_to_end(&mut bytes)?;
    Ok(Some(String::from_utf8(bytes).unwrap_or_default()))
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

/// Parts that are absent or have another size are written anew.
fn forget_damaged_parts(
    folder: &ResumeFolder,
    layout: &ModelLayout,
    kept: &mut [Coverage],
    earlier: &mut Earlier,
) -> io::Result<()> {
    for (number, part) in layout.parts().iter().enumerate() {
        let path = folder.part(number);
        let found = match fs::symlink_metadata(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            found => Some(found?),
        };
        let expected = part.file_bytes();
        if found.as_ref().is_some_and(|found| found.is_file() && found.len() == expected) {
            continue;
        }
        if found.is_some() {
            fs::remove_file(&path)?;
        }
        let found = found.map_or(0, |found| found.len());
        let name = format!("part {}", number + 1);
        earlier.damage = Some(format!("{name} has {found} bytes, not {expected}"));
        kept[layout.tensors_of(number)].fill_with(Coverage::default);
    }
    Ok(())
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
