//! What can be wrong with a GGUF file.

use std::{borrow::Cow, fmt, io, path::PathBuf};

use crate::{UnknownTensorType, zip::ZipError};

/// Why a GGUF file could not be read or written.
///
/// Names that come from a file are shown quoted, escaped and shortened.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The operating system refused.
    #[error("{path}: {source}", path = path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A folder or device where a model file is wanted.
    #[error("{path}: not a regular file", path = path.display())]
    NotAFile {
        /// What was named.
        path: PathBuf,
    },
    /// The file does not begin with `GGUF`.
    #[error("{path}: not a gguf file: expected \"GGUF\" at byte 0, found {found}", path = path.display())]
    Magic {
        /// The file.
        path: PathBuf,
        /// The first four bytes, and what kind of file begins so where that is known.
        found: String,
    },
    /// An archive that holds the model, such as a llamafile, is damaged or contradicts itself.
    #[error("{path}: {problem}", path = path.display())]
    Archive {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        problem: ZipError,
    },
    /// An archive does not hold just one model.
    #[error("{path}: an archive with {}; expected one .gguf entry", entries_list(found), path = path.display())]
    Entries {
        /// The file.
        path: PathBuf,
        /// Names of its models.
        found: Vec<String>,
    },
    /// The model in an archive is compressed, so that it cannot be read in place.
    #[error("{path}: entry {entry} is compressed; extract it first, as with unzip", path = path.display(), entry = Quoted(entry))]
    Compressed {
        /// The file.
        path: PathBuf,
        /// The model's name in it.
        entry: String,
    },
    /// A model in an archive, where one in a file of its own is wanted.
    #[error("{path}: the model lies in an archive, where it cannot be changed", path = path.display())]
    InArchive {
        /// The file.
        path: PathBuf,
    },
    /// A version of GGUF that does not exist.
    #[error("{path}: gguf version at byte 4: expected 1, 2 or 3, found {found}", path = path.display())]
    Version {
        /// The file.
        path: PathBuf,
        /// The version it claims, read as little endian.
        found: u32,
    },
    /// The file ends too early, or a length in it is too large.
    #[error("{path}: {what} at byte {offset} needs {needed} bytes, but {left} are left", path = path.display())]
    Truncated {
        /// The file.
        path: PathBuf,
        /// The field or tensor.
        what: String,
        /// Where it starts.
        offset: u64,
        /// The least it takes, in bytes; saturated at `u64::MAX`.
        needed: u64,
        /// What is left of the file from `offset`, in bytes.
        left: u64,
    },
    /// A field holds what GGUF does not allow.
    #[error("{path}: {what} at byte {offset}: expected {expected}, found {found}", path = path.display())]
    Invalid {
        /// The file.
        path: PathBuf,
        /// The field, with its key or tensor.
        what: String,
        /// Where it starts.
        offset: u64,
        /// What is allowed.
        expected: Cow<'static, str>,
        /// What is there.
        found: String,
    },
    /// An array of arrays, which no loader of GGUF accepts.
    #[error("{path}: metadata key {key} at byte {offset} is an array of arrays", path = path.display(), key = Quoted(key))]
    NestedArray {
        /// The file.
        path: PathBuf,
        /// The key.
        key: String,
        /// Where the element type stands.
        offset: u64,
    },
    /// A key stands twice in one file.
    #[error("{path}: metadata key {key} at byte {offset} stands there twice", path = path.display(), key = Quoted(key))]
    DuplicateKey {
        /// The file.
        path: PathBuf,
        /// The key.
        key: String,
        /// Where it stands the second time.
        offset: u64,
    },
    /// A tensor stands twice in a model.
    #[error("{path}: tensor {tensor} is there already, in {first}", path = path.display(), tensor = Quoted(tensor), first = first.display())]
    DuplicateTensor {
        /// The file with the second of them.
        path: PathBuf,
        /// The tensor.
        tensor: String,
        /// The file with the first.
        first: PathBuf,
    },
    /// A tensor of a type that is removed or unknown.
    #[error("{path}: tensor {tensor}: {source}", path = path.display(), tensor = Quoted(tensor))]
    TensorType {
        /// The file.
        path: PathBuf,
        /// The tensor.
        tensor: String,
        /// What is wrong with its type.
        source: UnknownTensorType,
    },
    /// Something follows the last tensor.
    #[error("{path}: {bytes} bytes follow the model's end at byte {offset}{looks_like}", path = path.display(), looks_like = if *zip { ", a zip archive by the look of them" } else { "" })]
    TrailingData {
        /// The file.
        path: PathBuf,
        /// The end of the model.
        offset: u64,
        /// How many follow.
        bytes: u64,
        /// Whether they end as a zip archive does.
        zip: bool,
    },
    /// A file of a split model is absent.
    #[error("{path}: missing: part {number} of {count} of a split model", path = path.display())]
    MissingShard {
        /// The absent file.
        path: PathBuf,
        /// Which part it is, from 1.
        number: u64,
        /// How many parts the model has.
        count: u64,
    },
    /// A file of a split model does not fit its name or the other files.
    #[error("{path}: part of a split model: expected {expected}, found {found}", path = path.display())]
    Shard {
        /// The file.
        path: PathBuf,
        /// What its name or the other files call for.
        expected: String,
        /// What it says.
        found: String,
    },
    /// The parts of a split model do not hold as many tensors as it should have.
    #[error("{path}: split model: expected {expected} tensors in all parts, found {found}", path = path.display())]
    ShardTensors {
        /// The file that says how many, the first.
        path: PathBuf,
        /// What `split.tensors.count` says.
        expected: u64,
        /// What the parts hold.
        found: u64,
    },
    /// A metadata key that is needed is absent.
    #[error("metadata key {key} is missing", key = Quoted(key))]
    MissingKey {
        /// The key.
        key: String,
    },
    /// A metadata value has another type.
    #[error("metadata key {key}: expected {expected}, found {found}", key = Quoted(key))]
    KeyType {
        /// The key.
        key: String,
        /// The type that is needed.
        expected: &'static str,
        /// The type that is there.
        found: &'static str,
    },
    /// A metadata value, or a key itself, is not allowed.
    #[error("metadata key {key}: expected {expected}, found {found}", key = Quoted(key))]
    KeyValue {
        /// The key.
        key: String,
        /// What is allowed.
        expected: &'static str,
        /// What is there.
        found: String,
    },
    /// A tensor cannot be laid out as asked.
    #[error("tensor {tensor}: expected {expected}, found {found}", tensor = Quoted(tensor))]
    TensorSpec {
        /// The tensor.
        tensor: String,
        /// What is allowed.
        expected: Cow<'static, str>,
        /// What was asked.
        found: String,
    },
    /// Bytes were written outside a tensor, or twice.
    #[error("tensor {tensor}: bytes {start}..{end} written {problem}", tensor = Quoted(tensor))]
    Misplaced {
        /// The tensor.
        tensor: String,
        /// First byte, from the tensor's start.
        start: u64,
        /// One past the last byte; saturated at `u64::MAX`.
        end: u64,
        /// What is wrong with that.
        problem: String,
    },
    /// A file was finished before all of a tensor was written.
    #[error("tensor {tensor}: expected {expected} bytes, {written} were written", tensor = Quoted(tensor))]
    Incomplete {
        /// The tensor.
        tensor: String,
        /// Its size in bytes.
        expected: u64,
        /// What was written, in bytes.
        written: u64,
    },
    /// The target exists and may not be replaced.
    #[error("{path}: exists already", path = path.display())]
    Exists {
        /// The target.
        path: PathBuf,
    },
    /// The disk has no room for the file.
    #[error("{path}: no room for its {needed} bytes: {source}", path = path.display())]
    NoSpace {
        /// The target.
        path: PathBuf,
        /// Size of the whole file in bytes.
        needed: u64,
        /// What the system said.
        source: io::Error,
    },
    /// The file system has less room than the files need.
    #[error("{folder}: {needed} bytes are needed, {available} are free", folder = folder.display())]
    NotEnoughSpace {
        /// Where the files were to go.
        folder: PathBuf,
        /// Size of all files together in bytes.
        needed: u64,
        /// What the file system has free for this user, in bytes.
        available: u64,
    },
    /// A model was to be split into more parts than can be counted.
    #[error("split into {parts} parts, more than the {limit} that a model may have")]
    TooManyParts {
        /// How many there would be.
        parts: usize,
        /// The most there may be.
        limit: usize,
    },
    /// Another run writes the same target, resumably too.
    #[error("{path}: another run is writing it", path = path.display())]
    InUse {
        /// The target.
        path: PathBuf,
    },
    /// What an interrupted run has left cannot be gone on with.
    #[error("{path}: left by a run with other settings, another source or another llq", path = path.display())]
    OtherRun {
        /// The folder of that run.
        path: PathBuf,
    },
    /// A layout cannot take the place of the one that is being written.
    #[error("{path}: the new layout has other places than the one that is being written", path = path.display())]
    OtherLayout {
        /// The target.
        path: PathBuf,
    },
    /// The written file does not read back as planned.
    #[error("{path}: reads back other than written: {what}", path = path.display())]
    Verify {
        /// The target.
        path: PathBuf,
        /// The difference.
        what: String,
    },
    /// The sink of a stream refused.
    #[error("cannot write the model: {source}")]
    Stream {
        /// What the sink said.
        source: io::Error,
    },
}

/// What this crate's functions return.
pub(crate) type Result<T> = std::result::Result<T, Error>;

fn entries_list(names: &[String]) -> String {
    const SHOWN: usize = 4;
    let shown: Vec<String> =
        names.iter().take(SHOWN).map(|name| Quoted(name).to_string()).collect();
    match names.len() {
        0 => "no model".to_owned(),
        count @ ..=SHOWN => format!("{count} models, {}", shown.join(", ")),
        count => format!("{count} models, {}, …", shown.join(", ")),
    }
}

/// A name from a file, made safe and short enough for a message.
pub(crate) struct Quoted<'a>(pub(crate) &'a str);

impl fmt::Display for Quoted<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const LONGEST: usize = 100;
        match self.0.char_indices().nth(LONGEST) {
            None => write!(f, "{:?}", self.0),
            Some((cut, _)) => write!(f, "{:?}… ({} bytes)", &self.0[..cut], self.0.len()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_escaped_and_shortened() {
        assert_eq!(Quoted("a\u{1b}[31m").to_string(), r#""a\u{1b}[31m""#);
        assert!(Quoted(&"é".repeat(500)).to_string().ends_with("…\u{20}(1000 bytes)"));
    }
}
