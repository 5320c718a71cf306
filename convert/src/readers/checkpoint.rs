//! The source that every form but GGUF becomes: published tensors behind a mapping.

use std::{
    ops::Range,
    path::{Path, PathBuf},
};

use llq_gguf::{Metadata, TensorSpec, TensorType};

use crate::{
    Note, Source,
    arch::{MappedTensor, Origin, published_row},
    error::Result,
    source::row_bytes,
    weights::Weights,
};

/// A checkpoint, mapped to what will be written.
#[derive(Debug)]
pub(crate) struct Checkpoint {
    path: PathBuf,
    metadata: Metadata,
    weights: Box<dyn Weights>,
    specs: Vec<TensorSpec>,
    mapped: Vec<MappedTensor>,
    notes: Vec<Note>,
}

impl Checkpoint {
    pub(super) fn new(
        path: &Path,
        metadata: Metadata,
        weights: Box<dyn Weights>,
        mapped: Vec<MappedTensor>,
        notes: Vec<Note>,
    ) -> Checkpoint {
        let specs = mapped.iter().map(|tensor| tensor.spec.clone()).collect();
        Checkpoint { path: path.to_path_buf(), metadata, weights, specs, mapped, notes }
    }

    /// Adds a choice that was made outside of the reader.
    pub(super) fn note(&mut self, note: Note) {
        self.notes.push(note);
    }

    /// Reads rows whose order differs inside each head: of each head the even rows, which are
    /// published one after the other, and then the odd ones.
    fn read_reordered(
        &self,
        published: usize,
        head: u64,
        rows: Range<u64>,
        out: &mut [u8],
    ) -> Result<()> {
        let row_bytes = out.len() / (rows.end - rows.start) as usize;
        let mut run = Vec::new();
        for parity in 0..2 {
            for (first, published_rows) in runs(rows.clone(), head, parity) {
                run.resize(row_bytes * (published_rows.end - published_rows.start) as usize, 0);
                self.weights.read_rows(published, published_rows, &mut run)?;
                let out = &mut out[(first - rows.start) as usize * row_bytes..];
                for (out, row) in out.chunks_mut(2 * row_bytes).zip(run.chunks_exact(row_bytes)) {
                    out[..row_bytes].copy_from_slice(row);
                }
            }
        }
        Ok(())
    }

    /// Reads rows of tensors that lie one after the other, of `each` rows each.
    fn read_stacked(
        &self,
        published: &[usize],
        each: u64,
        mut rows: Range<u64>,
        mut out: &mut [u8],
    ) -> Result<()> {
        let row_bytes = out.len() / (rows.end - rows.start) as usize;
        while !rows.is_empty() {
            let (number, start) = (rows.start / each, rows.start % each);
            let end = each.min(start + rows.end - rows.start);
            let (head, rest) = out.split_at_mut((end - start) as usize * row_bytes);
            self.weights.read_rows(published[number as usize], start..end, head)?;
            out = rest;
            rows.start += end - start;
        }
        Ok(())
    }

    /// Reads a bias whose weights belong to rows in another order.
    fn read_reordered_bias(&self, published: usize, head: u64, out: &mut [u8]) -> Result<()> {
        let mut bias = vec![0; out.len()];
        self.weights.read_rows(published, 0..1, &mut bias)?;
        let number_bytes = out.len() / self.weights.tensors()[published].columns() as usize;
        for (row, out) in (0..).zip(out.chunks_exact_mut(number_bytes)) {
            let at = published_row(row, head) as usize * number_bytes;
            out.copy_from_slice(&bias[at..at + number_bytes]);
        }
        Ok(())
    }
}

/// The even (`parity` 0) or odd (1) ones of `rows`, head by head: the first of them, and the
/// published rows that become it and every second one after it.
fn runs(rows: Range<u64>, head: u64, parity: u64) -> impl Iterator<Item = (u64, Range<u64>)> {
    let heads = rows.start / head..rows.end.div_ceil(head);
    heads.filter_map(move |number| {
        let start = rows.start.max(number * head);
        let end = rows.end.min((number + 1) * head);
        let first = start + (start ^ parity) % 2;
        (first < end).then(|| {
            let published = published_row(first, head);
            (first, published..published + (end - first).div_ceil(2))
        })
    })
}

impl Source for Checkpoint {
    fn path(&self) -> &Path {
        &self.path
    }

    fn metadata(&self) -> &Metadata {
        &self.metadata
    }

    fn tensors(&self) -> &[TensorSpec] {
        &self.specs
    }

    fn files(&self) -> Vec<PathBuf> {
        self.weights.files()
    }

    fn read_rows(&self, tensor: usize, rows: Range<u64>, out: &mut [u8]) -> Result<()> {
        let MappedTensor { spec, origin } = &self.mapped[tensor];
        assert_eq!(out.len() as u64, row_bytes(spec) * (rows.end - rows.start), "size of the rows");
        match *origin {
            _ if rows.is_empty() => Ok(()),
            Origin::Published(published) => self.weights.read_rows(published, rows, out),
            Origin::Reordered { published, head_rows } if spec.shape.len() == 1 => {
                self.read_reordered_bias(published, head_rows, out)
            }
            Origin::Reordered { published, head_rows } => {
                self.read_reordered(published, head_rows, rows, out)
            }
            Origin::Stacked(ref published) => {
                let each = spec.shape.get(1).copied().unwrap_or(1);
                self.read_stacked(published, each, rows, out)
            }
            Origin::Generated(ref bytes) => {
                let start = (rows.start * row_bytes(spec)) as usize;
                out.copy_from_slice(&bytes[start..start + out.len()]);
                Ok(())
            }
        }
    }

    fn stored_type(&self, tensor: usize) -> TensorType {
        let MappedTensor { spec, origin } = &self.mapped[tensor];
        match *origin {
            Origin::Published(published) | Origin::Reordered { published, .. } => {
                self.weights.stored_type(published).unwrap_or(spec.tensor_type)
            }
            Origin::Stacked(_) | Origin::Generated(_) => spec.tensor_type,
        }
    }

    fn notes(&self) -> &[Note] {
        &self.notes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_cover_any_rows_once() {
        for (start, end) in [(0, 16), (3, 4), (4, 5), (1, 15), (7, 9), (8, 8)] {
            let mut found = Vec::new();
            for parity in 0..2 {
                for (first, published) in runs(start..end, 8, parity) {
                    found.extend((first..).step_by(2).zip(published));
                }
            }
            found.sort_unstable();
            let expected: Vec<_> = (start..end).map(|row| (row, published_row(row, 8))).collect();
            assert_eq!(found, expected, "{start}..{end}");
        }
    }

    #[test]
    fn heads_are_interleaved() {
        let order: Vec<u64> = (0..16).map(|row| published_row(row, 8)).collect();
        assert_eq!(order, [0, 4, 1, 5, 2, 6, 3, 7, 8, 12, 9, 13, 10, 14, 11, 15]);
    }
}
