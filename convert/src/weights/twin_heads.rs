//! Key-value heads that a checkpoint has twice.
//!
//! Llama 3.1 405B has eight; cut into sixteen shards, each is in two neighbours, and `params.json`
//! says sixteen (llama-models, commit f45cdfd). Written once, they are the model that the other
//! forms of the checkpoint have.

use std::{
    ops::Range,
    path::{Path, PathBuf},
};

use llq_gguf::TensorType;

use super::{Dtype, PublishedTensor, Weights};
use crate::{Error, error::Result};

/// Weights of which every second head of keys and values is left out.
#[derive(Debug)]
pub(crate) struct TwinHeads<W> {
    published: W,
    tensors: Vec<PublishedTensor>,
    /// Whether a tensor has twins.
    halved: Vec<bool>,
    head_rows: u64,
    path: PathBuf,
}

/// Ends of the names of keys and values.
const KEYS_AND_VALUES: [&str; 2] = [".attention.wk.weight", ".attention.wv.weight"];

/// Rows that are no longer fit into memory; no model has longer ones.
const MAX_COLUMNS: u64 = 1 << 22;

/// Whether the heads of the first block come in pairs of equals. Other blocks are compared as they
/// are read: all of them would be a tenth of the checkpoint, read before anything is written.
pub(crate) fn has_twins(weights: &dyn Weights, kv_heads: u64, head_rows: u64) -> Result<bool> {
    let rows = kv_heads.checked_mul(head_rows);
    for end in KEYS_AND_VALUES {
        let name = format!("layers.0{end}");
        let is_whole = |tensor: &PublishedTensor| {
            tensor.name == name
                && Some(tensor.rows()) == rows
                && tensor.shape.len() == 2
                && tensor.columns() <= MAX_COLUMNS
        };
        let Some(index) = weights.tensors().iter().position(is_whole) else { return Ok(false) };
        if !matches!(weights.tensors()[index].dtype, Dtype::Float(_)) {
            return Ok(false);
        }
        for pair in 0..kv_heads / 2 {
            let first = 2 * pair * head_rows;
            if !rows_are_equal(weights, index, first..first + head_rows, head_rows)? {
                return Ok(false);
            }
        }
    }
    Ok(kv_heads >= 2 && kv_heads.is_multiple_of(2))
}

/// Whether `rows` equal those `distance` further on.
fn rows_are_equal(
    weights: &dyn Weights,
    tensor: usize,
    rows: Range<u64>,
    distance: u64,
) -> Result<bool> {
    let tensor_bytes = row_bytes(&weights.tensors()[tensor]);
    let (mut left, mut right) = (vec![0; tensor_bytes], vec![0; tensor_bytes]);
    for row in rows {
        weights.read_rows(tensor, row..row + 1, &mut left)?;
        weights.read_rows(tensor, row + distance..row + distance + 1, &mut right)?;
        if left != right {
            return Ok(false);
        }
    }
    Ok(true)
}

fn row_bytes(tensor: &PublishedTensor) -> usize {
    tensor.number_bytes() as usize * tensor.columns() as usize
}

impl<W: Weights> TwinHeads<W> {
    /// Leaves out the second of each two of `kv_heads` heads of `head_rows` rows. `path` is the
    /// checkpoint.
    pub(crate) fn new(published: W, kv_heads: u64, head_rows: u64, path: &Path) -> TwinHeads<W> {
        let mut tensors = published.tensors().to_vec();
        let is_halved = |tensor: &PublishedTensor| {
            KEYS_AND_VALUES.iter().any(|end| tensor.name.ends_with(end))
                && Some(tensor.rows()) == kv_heads.checked_mul(head_rows)
        };
        let halved: Vec<bool> = tensors.iter().map(is_halved).collect();
        for (tensor, _) in tensors.iter_mut().zip(&halved).filter(|&(_, halved)| *halved) {
            if let Some(rows) = tensor.shape.first_mut() {
                *rows /= 2;
            }
        }
        TwinHeads { published, tensors, halved, head_rows, path: path.to_path_buf() }
    }

    /// Reads each run of rows that lie in one head, and compares it with its twin.
    fn read_halved(&self, tensor: usize, mut rows: Range<u64>, out: &mut [u8]) -> Result<()> {
        let head = self.head_rows;
        let row_bytes = row_bytes(&self.tensors[tensor]);
        let mut out = out;
        let mut twin = Vec::new();
        while !rows.is_empty() {
            let end = rows.end.min((rows.start / head + 1) * head);
            let (some, rest) = out.split_at_mut((end - rows.start) as usize * row_bytes);
            // Before row r are r / head heads, and as many twins.
            let first = rows.start + rows.start / head * head;
            let run = first..first + (end - rows.start);
            self.published.read_rows(tensor, run.clone(), some)?;
            twin.resize(some.len(), 0);
            self.published.read_rows(tensor, run.start + head..run.end + head, &mut twin)?;
            if twin != some {
                let heads = run.start / head;
                let problem = format!(
                    "tensor {:?}: heads {heads} and {} differ, though those of the first block \
                     are the same two by two",
                    self.tensors[tensor].name,
                    heads + 1
                );
                return Err(Error::Shards { path: self.path.clone(), problem });
            }
            out = rest;
            rows.start = end;
        }
        Ok(())
    }
}

impl<W: Weights> Weights for TwinHeads<W> {
    fn tensors(&self) -> &[PublishedTensor] {
        &self.tensors
    }

    fn files(&self) -> Vec<PathBuf> {
        self.published.files()
    }

    fn read_rows(&self, tensor: usize, rows: Range<u64>, out: &mut [u8]) -> Result<()> {
        match self.halved[tensor] {
            true => self.read_halved(tensor, rows, out),
            false => self.published.read_rows(tensor, rows, out),
        }
    }

    fn stored_type(&self, tensor: usize) -> Option<TensorType> {
        self.published.stored_type(tensor)
    }
}
