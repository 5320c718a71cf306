//! Importance matrices: how much each input channel of each matrix carries, in the field's files.

mod dat;
mod error;
mod gguf;
mod statistics;

use std::{
    collections::{BTreeMap, HashSet},
    path::Path,
};

use llq_gguf::{Overwrite, Value};
use llq_quant::mix::Guidance;

use crate::{
    Error, Note,
    error::Result,
    weights::{InputFile, is_lfs_pointer},
};

pub use self::{error::ImatrixError, statistics::EntryStatistics};

/// An importance matrix: for each matrix of a model, the sums of the squares of its inputs.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Imatrix {
    /// Names of the texts.
    pub datasets: Vec<String>,
    /// Number of windows that were seen.
    pub chunks: u32,
    /// Tokens per window.
    pub chunk_tokens: u32,
    /// What its file is called.
    name: String,
    entries: BTreeMap<String, Entry>,
}

/// What one tensor is multiplied by.
#[derive(Clone, Debug, PartialEq)]
pub struct Entry {
    /// Per column the sum of the squares, matrix after matrix.
    sums: Vec<f32>,
    /// Tokens that each of the stacked matrices has seen: one of a dense tensor, one per expert.
    counts: Vec<f32>,
}

/// The form of a file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ImatrixFormat {
    /// What the field's standard tool writes today.
    #[default]
    Gguf,
    /// What it wrote before: without the counts of experts and the length of windows.
    Dat,
}

impl Imatrix {
    /// One of no tensor, made of so many windows of so many tokens.
    pub fn new(datasets: Vec<String>, chunks: u32, chunk_tokens: u32) -> Imatrix {
        Imatrix { datasets, chunks, chunk_tokens, ..Imatrix::default() }
    }

    /// Reads a file of either form; the note tells what the older one leaves open.
    ///
    /// # Errors
    /// Where the file is none, and where a number in it is not finite or below zero.
    pub fn read(path: &Path) -> Result<(Imatrix, Option<Note>)> {
        let file = InputFile::open(path)?;
        let name = path.file_name().unwrap_or(path.as_os_str()).to_string_lossy().into_owned();
        let start = file.start(64)?;
        if is_lfs_pointer(&start) {
            return Err(Error::LfsPointer { path: path.to_path_buf() });
        }
        if start.starts_with(b"GGUF") {
            return Ok((Imatrix { name, ..gguf::read(path)? }, None));
        }
        let imatrix = Imatrix { name, ..dat::read(&file)? };
        let note = Note(format!(
            "{} is of the older form, which does not tell the length of windows: {} tokens",
            path.display(),
            imatrix.chunk_tokens
        ));
        Ok((imatrix, Some(note)))
    }

    /// Writes a file, which appears when it is complete.
    pub fn write(&self, path: &Path, format: ImatrixFormat, overwrite: Overwrite) -> Result<()> {
        match format {
            ImatrixFormat::Gguf => gguf::write(self, path, overwrite),
            ImatrixFormat::Dat => {
                Ok(llq_gguf::write_whole(path, &dat::to_bytes(self, path)?, overwrite)?)
            }
        }
    }

    /// Adds a tensor.
    ///
    /// # Errors
    /// Where there is one of this name already.
    pub fn add(&mut self, tensor: &str, entry: Entry) -> std::result::Result<(), ImatrixError> {
        if self.entries.contains_key(tensor) {
            return Err(ImatrixError::Twice { tensor: tensor.to_owned() });
        }
        self.entries.insert(tensor.to_owned(), entry);
        Ok(())
    }

    /// The entry of a tensor.
    pub fn entry(&self, tensor: &str) -> Option<&Entry> {
        self.entries.get(tensor)
    }

    /// All tensors by name.
    pub fn entries(&self) -> impl ExactSizeIterator<Item = (&str, &Entry)> {
        self.entries.iter().map(|(tensor, entry)| (tensor.as_str(), entry))
    }

    /// What its file is called, without folders; empty where it was not read from one.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Whether the encoder of a tensor of these extents, the fastest first, can be guided.
    ///
    /// # Errors
    /// Where the entry is of a tensor of other extents.
    pub(crate) fn check(&self, tensor: &str, shape: &[u64]) -> Result<Guidance> {
        let Some(entry) = self.entry(tensor) else { return Ok(Guidance::Unguided) };
        let cols = shape.first().copied().unwrap_or(1);
        let matrices: u64 = shape.iter().skip(2).product();
        let counts = entry.counts.len() as u64;
        // The older form has one count for all experts.
        let is_counted = counts == 1 || counts == matrices;
        match cols.checked_mul(matrices) {
            Some(columns) if columns == entry.columns() as u64 && is_counted => {
                Ok(Guidance::Importance)
            }
            columns => {
                let (expected, found) = (columns.unwrap_or(u64::MAX), entry.columns());
                let tensor = tensor.to_owned();
                Err(self.error(ImatrixError::Columns { tensor, expected, found }))
            }
        }
    }

    /// The error where the model has no tensor of this file.
    pub(crate) fn of_another_model(&self) -> Error {
        self.error(ImatrixError::NoTensor)
    }

    fn error(&self, problem: ImatrixError) -> Error {
        Error::Imatrix { path: self.name.clone().into(), problem }
    }

    /// What a quantized model says of the importance matrix it was made with, in the order of the
    /// field's standard tool.
    pub(crate) fn quantize_keys(&self) -> Vec<(String, Value)> {
        let key = |name: &str| format!("quantize.imatrix.{name}");
        let entries = u32::try_from(self.entries.len()).unwrap_or(u32::MAX);
        let dataset = self.datasets.first().map(|dataset| Value::from(dataset.as_str()));
        let chunks = Some(Value::U32(self.chunks)).filter(|_| self.chunks > 0);
        [
            Some((key("file"), Value::from(self.name.as_str()))),
            dataset.map(|dataset| (key("dataset"), dataset)),
            Some((key("entries_count"), Value::U32(entries))),
            chunks.map(|chunks| (key("chunks_count"), chunks)),
        ]
        .into_iter()
        .flatten()
        .collect()
    }

    /// Adds what another file has seen. Its windows are counted in the length of this one's.
    ///
    /// # Errors
    /// Where both have a tensor in different shapes, or a sum is too large.
    pub fn merge(&mut self, other: &Imatrix) -> std::result::Result<(), ImatrixError> {
        for (tensor, entry) in other.entries() {
            match self.entries.get_mut(tensor) {
                Some(own) => own.merge(tensor, entry)?,
                None => self.add(tensor, entry.clone())?,
            }
        }
        let tokens = u64::from(other.chunks) * u64::from(other.chunk_tokens);
        let chunks = tokens.div_ceil(u64::from(self.chunk_tokens).max(1));
        self.chunks = u32::try_from(u64::from(self.chunks) + chunks).unwrap_or(u32::MAX);
        let mut known: HashSet<String> = self.datasets.iter().cloned().collect();
        let new = other.datasets.iter().filter(|&dataset| known.insert(dataset.clone()));
        self.datasets.extend(new.cloned());
        Ok(())
    }
}

impl Entry {
    /// Sums of squares per column, matrix after matrix, and the tokens each matrix has seen.
    ///
    /// # Errors
    /// Where a number is not finite or below zero, or there are no columns for every matrix.
    pub fn new(
        tensor: &str,
        sums: Vec<f32>,
        counts: Vec<f32>,
    ) -> std::result::Result<Entry, ImatrixError> {
        if counts.is_empty() || sums.is_empty() || !sums.len().is_multiple_of(counts.len()) {
            let (tensor, sums, counts) = (tensor.to_owned(), sums.len(), counts.len());
            return Err(ImatrixError::Counts { tensor, sums, counts });
        }
        let columns = sums.len() / counts.len();
        let unsound = |number: &f32| !(number.is_finite() && *number >= 0.0);
        let (place, found) = if let Some(at) = sums.iter().position(unsound) {
            (format!("the sum of column {} of matrix {}", at % columns, at / columns), sums[at])
        } else if let Some(at) = counts.iter().position(unsound) {
            (format!("the count of matrix {at}"), counts[at])
        } else {
            return Ok(Entry { sums, counts });
        };
        Err(ImatrixError::Number { tensor: tensor.to_owned(), place, found })
    }

    /// Columns of all stacked matrices together.
    pub fn columns(&self) -> usize {
        self.sums.len()
    }

    /// What the columns of one of the stacked matrices count, up to a factor; `None` where it has
    /// seen nothing.
    pub(crate) fn channels(&self, columns: usize, matrix: usize) -> Option<&[f32]> {
        let count = *self.counts.get(matrix).or(self.counts.first())?;
        self.sums.chunks_exact(columns).nth(matrix).filter(|_| count > 0.0)
    }

    /// The mean squares per column, matrix after matrix. A matrix that has seen nothing has 1
    /// throughout: all its columns count the same.
    pub fn mean_squares(&self) -> Vec<f32> {
        let matrices = self.sums.chunks(self.sums.len() / self.counts.len()).zip(&self.counts);
        matrices
            .flat_map(|(sums, &count)| {
                sums.iter().map(move |&sum| if count > 0.0 { sum / count } else { 1.0 })
            })
            .collect()
    }

    fn merge(&mut self, tensor: &str, other: &Entry) -> std::result::Result<(), ImatrixError> {
        let shape = |entry: &Entry| (entry.sums.len(), entry.counts.len());
        if shape(self) != shape(other) {
            let (tensor, expected, found) = (tensor.to_owned(), shape(self), shape(other));
            return Err(ImatrixError::Shapes { tensor, expected, found });
        }
        let add = |own: &[f32], other: &[f32]| {
            let sums = own.iter().zip(other).map(|(&a, &b)| (f64::from(a) + f64::from(b)) as f32);
            sums.collect::<Vec<f32>>()
        };
        *self = Entry::new(tensor, add(&self.sums, &other.sums), add(&self.counts, &other.counts))?;
        Ok(())
    }
}

/// Names the file in what is wrong with it.
fn in_file(path: &Path) -> impl Fn(ImatrixError) -> Error {
    let path = path.to_path_buf();
    move |problem| Error::Imatrix { path: path.clone(), problem }
}
