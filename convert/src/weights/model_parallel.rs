//! The model-parallel shards of a Meta checkpoint, or the parts of an early GGML file, joined: each
//! tensor is cut along one axis, one piece per file.

use std::{
    collections::HashMap,
    hash::{DefaultHasher, Hasher},
    ops::Range,
    path::{Path, PathBuf},
};

use super::{Dtype, PublishedTensor, Weights, meta_shard::MetaShard};
use crate::{Error, error::Result};

/// How the pieces of a tensor make up the whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Cut {
    /// Each shard has some of the rows.
    Rows,
    /// Each shard has some of the columns.
    Columns,
    /// Each shard has it all.
    Replicated,
}

/// All tensors of the shards, each whole.
#[derive(Debug)]
pub(crate) struct ModelParallel {
    shards: Vec<Shard>,
    tensors: Vec<PublishedTensor>,
    joined: Vec<Joined>,
    fp8_tensors: usize,
}

/// One file of the checkpoint.
#[derive(Debug)]
pub(crate) struct Shard {
    pub(crate) path: PathBuf,
    pub(crate) weights: Box<dyn Weights>,
}

/// The pieces of one tensor.
#[derive(Debug)]
struct Joined {
    cut: Cut,
    /// Index of the piece in each shard.
    pieces: Vec<usize>,
    /// Rows of one piece, and bytes of each; all pieces agree.
    rows: u64,
    row_bytes: u64,
}

impl ModelParallel {
    /// Opens every `consolidated.NN.pth` of `folder`. `cut` says along which axis a tensor of that
    /// name is cut, given the shape of its piece and the number of shards; `count` says into how
    /// many shards a model of such pieces was cut, where that can be told.
    pub(crate) fn open(
        folder: &Path,
        cut: impl Fn(&PublishedTensor, u64) -> Result<Cut>,
        count: impl Fn(&[PublishedTensor]) -> Option<u64>,
    ) -> Result<ModelParallel> {
        let paths = shard_paths(folder)?;
        let shards: Vec<MetaShard> = (paths.iter().enumerate())
            .map(|(rank, path)| MetaShard::open(folder, rank, path))
            .collect::<Result<_>>()?;
        let fp8_tensors = shards.first().map_or(0, MetaShard::fp8_tensors);
        let shards = paths.into_iter().zip(shards);
        let shards: Vec<Shard> =
            shards.map(|(path, shard)| Shard { path, weights: Box::new(shard) }).collect();
        let pieces = shards.first().map_or(&[][..], Shard::tensors);
        check_count(folder, shards.len(), count(pieces))?;
        Ok(ModelParallel { fp8_tensors, ..Self::join(shards, cut)? })
    }

    /// Joins the tensors of all shards, which have the same names. `cut` is that of
    /// [`open`](Self::open).
    pub(crate) fn join(
        shards: Vec<Shard>,
        cut: impl Fn(&PublishedTensor, u64) -> Result<Cut>,
    ) -> Result<ModelParallel> {
        let pieces = shards.first().map_or(&[][..], Shard::tensors);
        let indexes: Vec<HashMap<&str, usize>> = shards.iter().map(by_name).collect();
        check_same_names(&shards, &indexes)?;

        let mut tensors = Vec::new();
        let mut joined = Vec::new();
        for first in pieces {
            let pieces = indexes.iter().map(|index| index[first.name.as_str()]).collect();
            let cut =
                if shards.len() == 1 { Cut::Replicated } else { cut(first, shards.len() as u64)? };
            let (whole, join) = join(&shards, first, pieces, cut)?;
            tensors.push(whole);
            joined.push(join);
        }
        let all = ModelParallel { shards, tensors, joined, fp8_tensors: 0 };
        all.check_replicas()?;
        all.check_copies()?;
        Ok(all)
    }

    pub(crate) fn shards(&self) -> usize {
        self.shards.len()
    }

    /// Tensors of which the pieces are in FP8, and read as BF16.
    pub(crate) fn fp8_tensors(&self) -> usize {
        self.fp8_tensors
    }

    /// Replicated pieces must be equal: a shard of another model shows here.
    fn check_replicas(&self) -> Result<()> {
        const MAX_REPLICA: u64 = 64 << 20;
        for (tensor, joined) in self.tensors.iter().zip(&self.joined) {
            let bytes = joined.rows.saturating_mul(joined.row_bytes);
            let is_float = matches!(tensor.dtype, Dtype::Float(_));
            if joined.cut != Cut::Replicated || self.shards.len() == 1 || !is_float {
                continue;
            }
            if bytes > MAX_REPLICA {
                let problem = format!("tensor {:?}: replica of {bytes} bytes", tensor.name);
                return Err(shard_error(&self.shards[0].path, problem));
            }
            let read = |shard: &Shard, piece: usize| -> Result<Vec<u8>> {
                let mut replica = vec![0; bytes as usize];
                shard.weights.read_rows(piece, 0..joined.rows, &mut replica)?;
                Ok(replica)
            };
            let first = read(&self.shards[0], joined.pieces[0])?;
            for (shard, &piece) in self.shards.iter().zip(&joined.pieces).skip(1) {
                if read(shard, piece)? != first {
                    let problem =
                        format!("tensor {:?} differs from the first shard's", tensor.name);
                    return Err(shard_error(&shard.path, problem));
                }
            }
        }
        Ok(())
    }
}

impl ModelParallel {
    /// Shards of which one is a copy of another fit together and make no model.
    fn check_copies(&self) -> Result<()> {
        let mut starts: Vec<Option<u64>> = Vec::new();
        for (index, shard) in self.shards.iter().enumerate() {
            let start = self.hash_of_starts(index)?;
            if start.is_some()
                && let Some(other) = starts.iter().position(|other| *other == start)
            {
                let other = self.shards[other].path.display();
                return Err(shard_error(&shard.path, format!("a copy of {other}")));
            }
            starts.push(start);
        }
        Ok(())
    }

    /// A hash of the first row of each tensor of which shard `index` has a part; `None` where all
    /// of that is one byte again and again, which says nothing.
    fn hash_of_starts(&self, index: usize) -> Result<Option<u64>> {
        const MAX_ROW: u64 = 1 << 20;
        let mut hasher = DefaultHasher::new();
        let mut first = None;
        let mut differs = false;
        let mut row = Vec::new();
        for (tensor, joined) in self.tensors.iter().zip(&self.joined) {
            let is_float = matches!(tensor.dtype, Dtype::Float(_));
            if joined.cut == Cut::Replicated || !is_float || joined.row_bytes > MAX_ROW {
                continue;
            }
            row.resize(joined.row_bytes as usize, 0);
            self.shards[index].weights.read_rows(joined.pieces[index], 0..1, &mut row)?;
            let first = *first.get_or_insert(row[0]);
            differs |= row.iter().any(|&byte| byte != first);
            hasher.write(&row);
        }
        Ok(differs.then(|| hasher.finish()))
    }
}

impl Weights for ModelParallel {
    fn tensors(&self) -> &[PublishedTensor] {
        &self.tensors
    }

    fn files(&self) -> Vec<PathBuf> {
        self.shards.iter().flat_map(|shard| shard.weights.files()).collect()
    }

    fn read_rows(&self, tensor: usize, rows: Range<u64>, out: &mut [u8]) -> Result<()> {
        let joined = &self.joined[tensor];
        match joined.cut {
            Cut::Replicated => self.shards[0].weights.read_rows(joined.pieces[0], rows, out),
            Cut::Rows => self.read_stacked(joined, rows, out),
            Cut::Columns => self.read_beside(joined, rows, out),
        }
    }
}

impl ModelParallel {
    /// Rows that lie in one shard after the other.
    fn read_stacked(
        &self,
        joined: &Joined,
        mut rows: Range<u64>,
        mut out: &mut [u8],
    ) -> Result<()> {
        let row_bytes = joined.row_bytes;
        while !rows.is_empty() {
            let shard = (rows.start / joined.rows) as usize;
            let before = shard as u64 * joined.rows;
            let end = rows.end.min(before + joined.rows);
            let (head, rest) = out.split_at_mut(((end - rows.start) * row_bytes) as usize);
            let inside = rows.start - before..end - before;
            self.shards[shard].weights.read_rows(joined.pieces[shard], inside, head)?;
            out = rest;
            rows.start = end;
        }
        Ok(())
    }

    /// Rows whose columns lie in one shard after the other.
    fn read_beside(&self, joined: &Joined, rows: Range<u64>, out: &mut [u8]) -> Result<()> {
        let piece_bytes = joined.row_bytes as usize;
        let row_bytes = piece_bytes * self.shards.len();
        let mut piece = vec![0; piece_bytes * (rows.end - rows.start) as usize];
        for (s, (shard, &index)) in self.shards.iter().zip(&joined.pieces).enumerate() {
            shard.weights.read_rows(index, rows.clone(), &mut piece)?;
            let at = s * piece_bytes;
            for (out, row) in out.chunks_exact_mut(row_bytes).zip(piece.chunks_exact(piece_bytes)) {
                out[at..at + piece_bytes].copy_from_slice(row);
            }
        }
        Ok(())
    }
}

/// `consolidated.00.pth` and its successors, which must leave no gap.
fn shard_paths(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut names = Vec::new();
    for entry in folder.read_dir().map_err(Error::io(folder))? {
        let name = entry.map_err(Error::io(folder))?.file_name();
        let name = name.to_string_lossy();
        if name.starts_with("consolidated.") && name.ends_with(".pth") {
            names.push(name.into_owned());
        }
    }
    names.sort_unstable();
    if names.is_empty() {
        let looked_for = shard_name(0);
        return Err(Error::MissingFile { folder: folder.to_path_buf(), looked_for });
    }
    for (number, name) in (0..).zip(&names) {
        let expected = shard_name(number);
        if *name != expected {
            let looked_for = format!("{expected}, though there is {name}");
            return Err(Error::MissingFile { folder: folder.to_path_buf(), looked_for });
        }
    }
    Ok(names.iter().map(|name| folder.join(name)).collect())
}

/// The number of the first shard that is missing, or what is too many, in an error.
fn check_count(folder: &Path, found: usize, expected: Option<u64>) -> Result<()> {
    let found = found as u64;
    let Some(expected) = expected.filter(|&expected| expected != found) else { return Ok(()) };
    let cut = format!("the tensors are cut into {expected}");
    let folder = folder.to_path_buf();
    if expected > found {
        let looked_for = format!("{}: {cut} shards, found {found}", shard_name(found));
        return Err(Error::MissingFile { folder, looked_for });
    }
    let problem = format!("{found} shards of a model, though {cut}");
    Err(Error::Shards { path: folder, problem })
}

fn shard_name(number: u64) -> String {
    format!("consolidated.{number:02}.pth")
}

impl Shard {
    fn tensors(&self) -> &[PublishedTensor] {
        self.weights.tensors()
    }
}

fn by_name(shard: &Shard) -> HashMap<&str, usize> {
    shard.tensors().iter().enumerate().map(|(i, tensor)| (tensor.name.as_str(), i)).collect()
}

fn check_same_names(shards: &[Shard], indexes: &[HashMap<&str, usize>]) -> Result<()> {
    let Some((first, others)) = indexes.split_first() else { return Ok(()) };
    for (shard, index) in shards.iter().skip(1).zip(others) {
        if let Some(absent) = first.keys().filter(|name| !index.contains_key(*name)).min() {
            let problem = format!("tensor {absent:?} of the first shard is not in it");
            return Err(shard_error(&shard.path, problem));
        }
        if let Some(extra) = index.keys().filter(|name| !first.contains_key(*name)).min() {
            let problem = format!("tensor {extra:?} is not in the first shard");
            return Err(shard_error(&shard.path, problem));
        }
    }
    Ok(())
}

fn join(
    shards: &[Shard],
    first: &PublishedTensor,
    pieces: Vec<usize>,
    cut: Cut,
) -> Result<(PublishedTensor, Joined)> {
    for (shard, &piece) in shards.iter().zip(&pieces) {
        let other = &shard.tensors()[piece];
        if other != first {
            let problem = format!(
                "tensor {:?} is {:?} {:?}, in the first shard {:?} {:?}",
                first.name, other.dtype, other.shape, first.dtype, first.shape
            );
            return Err(shard_error(&shard.path, problem));
        }
    }
    // A vector has no rows to stack: cut pieces lie beside each other.
    let cut = if cut == Cut::Rows && first.shape.len() == 1 { Cut::Columns } else { cut };
    let mut whole = first.clone();
    let axis = match cut {
        Cut::Replicated => None,
        Cut::Rows => whole.shape.first_mut(),
        Cut::Columns => whole.shape.last_mut(),
    };
    if let Some(extent) = axis {
        let wide = extent.checked_mul(shards.len() as u64);
        let problem = || format!("tensor {:?} of all shards is too large", first.name);
        *extent = wide.ok_or_else(|| shard_error(&shards[0].path, problem()))?;
    }
    // Of other numbers no row is read.
    let row_bytes = match first.dtype {
        Dtype::Float(tensor_type) => tensor_type.row_bytes(first.columns()).unwrap_or(0),
        Dtype::Other(_) => 0,
    };
    Ok((whole, Joined { cut, pieces, rows: first.rows(), row_bytes }))
}

fn shard_error(path: &Path, problem: String) -> Error {
    Error::Shards { path: path.to_path_buf(), problem }
}
