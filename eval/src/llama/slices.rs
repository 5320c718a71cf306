//! Matrices of activations that threads write side by side.

use std::ops::Range;

use llq_quant::kernels::Kernels;
use rayon::prelude::*;

/// Values of some tokens in slices of some columns each: slice after slice, and within a slice
/// token after token. So what a product by some rows of the weights makes is in one piece.
#[derive(Debug, Default)]
pub(super) struct Slices {
    values: Vec<f32>,
    tokens: usize,
    cols: usize,
    /// Columns of each slice but the last.
    width: usize,
}

impl Slices {
    /// Another shape in the same buffer; the values are unspecified.
    pub(super) fn reshape(&mut self, tokens: usize, cols: usize, width: usize) {
        (self.tokens, self.cols, self.width) = (tokens, cols, width);
        self.values.resize(tokens * cols, 0.0);
    }

    pub(super) fn tokens(&self) -> usize {
        self.tokens
    }

    /// No values of no tokens.
    pub(super) fn clear(&mut self) {
        self.reshape(0, 0, 1);
    }

    /// The columns of each slice, and its values.
    pub(super) fn par_slices_mut(
        &mut self,
    ) -> impl IndexedParallelIterator<Item = (Range<usize>, &mut [f32])> {
        let (cols, width) = (self.cols, self.width);
        let slices = self.values.par_chunks_mut((self.tokens * width).max(1)).enumerate();
        slices.map(move |(slice, values)| (slice * width..cols.min((slice + 1) * width), values))
    }

    /// Each slice in pieces of `tokens` tokens.
    pub(super) fn par_pieces_mut(
        &mut self,
        tokens: usize,
    ) -> impl IndexedParallelIterator<Item = &mut [f32]> {
        assert!(self.cols.is_multiple_of(self.width) && self.tokens.is_multiple_of(tokens));
        self.values.par_chunks_mut(tokens * self.width)
    }

    /// From column `column` of token `token` on, to the end of the slice's tokens; and how far the
    /// tokens are apart.
    pub(super) fn column(&self, token: usize, column: usize) -> (&[f32], usize) {
        let (slice, column) = (column / self.width, column % self.width);
        let first = slice * self.width;
        let stride = self.width.min(self.cols - first);
        let values = &self.values[first * self.tokens..][..stride * self.tokens];
        (&values[token * stride + column..], stride)
    }

    /// All columns of a token.
    pub(super) fn copy_row(&self, token: usize, row: &mut [f32]) {
        for (slice, out) in self.row(token).zip(row.chunks_mut(self.width)) {
            out.copy_from_slice(slice);
        }
    }

    /// Adds all columns of a token to `row`; nothing where there are no values.
    pub(super) fn add_row(&self, kernels: &Kernels, token: usize, row: &mut [f32]) {
        for (slice, sum) in self.row(token).zip(row.chunks_mut(self.width)) {
            kernels.add_assign(sum, slice);
        }
    }

    fn row(&self, token: usize) -> impl Iterator<Item = &[f32]> {
        (0..self.cols).step_by(self.width).map(move |first| {
            let width = self.width.min(self.cols - first);
            &self.values[first * self.tokens + token * width..][..width]
        })
    }
}
