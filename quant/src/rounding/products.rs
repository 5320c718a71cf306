//! Sums of many rows at once: what all else is led back to, as it runs at the speed of products.

use std::ops::Range;

use rayon::prelude::*;

use crate::kernels::{Accumulators, Kernels, LANES, Lanes, PANEL_ROWS, TILE_TOKENS};

/// Columns that are worked on together: the moments of so many with each other stay in cache, and
/// blocks of all formats fit in.
pub(super) const BLOCK: usize = 256;

/// Ranges of [`BLOCK`] columns, the last maybe shorter.
pub(super) fn blocks(size: usize) -> impl DoubleEndedIterator<Item = Range<usize>> {
    (0..size.div_ceil(BLOCK)).map(move |block| block * BLOCK..size.min((block + 1) * BLOCK))
}

/// A part of a square matrix of `size` rows.
pub(super) struct Part<'a> {
    pub(super) square: &'a [f32],
    pub(super) size: usize,
    pub(super) rows: Range<usize>,
    pub(super) columns: Range<usize>,
    pub(super) read: Read,
}

/// Which way a square is read.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Read {
    Plain,
    Transposed,
}

/// Tiles of factors that a strip of the part is packed for.
const GROUP: usize = 16;

/// `out[t][j] += Σ_k factors[t][k] · part[k][j]`, on all threads, each sum in the order of `k`.
pub(super) fn add_products(
    kernels: &Kernels,
    factors: &[&[f32]],
    part: &Part<'_>,
    out: &mut [&mut [f32]],
) {
    if part.columns.is_empty() {
        return;
    }
    let tiles: Vec<Vec<[f32; TILE_TOKENS]>> = factors
        .par_chunks(TILE_TOKENS)
        .map(|factors| {
            let mut tile = vec![[0.0; TILE_TOKENS]; part.rows.len()];
            for (t, factors) in factors.iter().enumerate() {
                for (column, &factor) in tile.iter_mut().zip(*factors) {
                    column[t] = factor;
                }
            }
            tile
        })
        .collect();
    let strips = part.columns.len().div_ceil(PANEL_ROWS);
    let groups = tiles.len().div_ceil(GROUP);
    let sums: Vec<Vec<Accumulators>> = (0..groups * strips)
        .into_par_iter()
        .with_min_len(if part.rows.len() * factors.len() < 4096 { 16 } else { 1 })
        .map(|task| {
            let (group, strip) = (task / strips, task % strips);
            let panel = part.panel(strip);
            let tiles = tiles[group * GROUP..].iter().take(GROUP);
            tiles
                .map(|tile| {
                    let mut sums = [[Lanes([0.0; LANES]); 2]; TILE_TOKENS];
                    kernels.exact_product(&panel, tile, &mut sums);
                    sums
                })
                .collect()
        })
        .collect();
    out.par_iter_mut().with_min_len(4).enumerate().for_each(|(t, out)| {
        let (group, tile) = (t / TILE_TOKENS / GROUP, t / TILE_TOKENS % GROUP);
        for (strip, out) in out.chunks_mut(PANEL_ROWS).enumerate() {
            let sums = &sums[group * strips + strip][tile][t % TILE_TOKENS];
            for (out, sum) in out.iter_mut().zip(sums.iter().flat_map(|lanes| lanes.0)) {
                *out += sum;
            }
        }
    });
}

impl Part<'_> {
    /// Columns `strip * 32..` of it.
    fn panel(&self, strip: usize) -> Vec<[Lanes; 2]> {
        let mut panel = vec![[Lanes([0.0; LANES]); 2]; self.rows.len()];
        let first = self.columns.start + strip * PANEL_ROWS;
        let width = PANEL_ROWS.min(self.columns.end - first);
        match self.read {
            Read::Plain => {
                for (row, out) in self.rows.clone().zip(&mut panel) {
                    let values = &self.square[row * self.size + first..][..width];
                    bytemuck::cast_slice_mut::<_, f32>(out)[..width].copy_from_slice(values);
                }
            }
            Read::Transposed => {
                let out = bytemuck::cast_slice_mut::<_, f32>(panel.as_flattened_mut());
                for column in 0..width {
                    let row = (first + column) * self.size;
                    let values = &self.square[row + self.rows.start..row + self.rows.end];
                    for (values, out) in values.iter().zip(out.chunks_exact_mut(PANEL_ROWS)) {
                        out[column] = *values;
                    }
                }
            }
        }
        panel
    }
}
