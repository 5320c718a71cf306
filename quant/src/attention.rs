//! The two f32 products of attention, by the same kernels as the matrix products.

use std::ops::Range;

use bytemuck::cast_slice;

use crate::{
    kernels::{Accumulators, Kernels, PANEL_ROWS, TILE_TOKENS},
    matmul::Scratch,
    product::{Product, Shape, accumulate},
};

/// One head of a matrix of all heads: `rows` rows of `cols` values, `stride` apart.
#[derive(Clone, Copy, Debug)]
pub struct Rows<'a> {
    values: &'a [f32],
    rows: usize,
    cols: usize,
    stride: usize,
}

impl<'a> Rows<'a> {
    /// `rows` rows of `cols` values that start at `values[row * stride]`.
    ///
    /// # Panics
    /// If the rows overlap or leave the slice.
    pub fn new(values: &'a [f32], rows: usize, cols: usize, stride: usize) -> Rows<'a> {
        assert!(fit(rows, cols, stride, values.len()), "rows of {cols}, {stride} apart");
        Rows { values, rows, cols, stride }
    }

    pub(crate) fn row(&self, row: usize) -> &'a [f32] {
        &self.values[row * self.stride..][..self.cols]
    }
}

/// Which keys a query sees.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Mask {
    /// All.
    None,
    /// Query `t` of `n` sees the keys up to its own position: `0..=t` plus the keys that precede
    /// the first query, if there are more keys than queries.
    Causal,
}

impl Mask {
    /// How many keys query `query` sees.
    fn visible(self, query: usize, queries: usize, keys: usize) -> usize {
        match self {
            Mask::None => keys,
            Mask::Causal => (query + 1 + keys).saturating_sub(queries).min(keys),
        }
    }
}

/// `scores[t * keys + k] = Σ_c queries[t][c] · keys[k][c]`. What the mask hides is unspecified.
///
/// # Panics
/// If queries and keys differ in columns, or `scores` has another length than queries × keys.
pub fn attention_scores(
    kernels: &Kernels,
    queries: Rows<'_>,
    keys: Rows<'_>,
    mask: Mask,
    scores: &mut [f32],
    scratch: &mut Scratch,
) {
    assert_eq!(queries.cols, keys.cols, "columns of queries and keys");
    assert_eq!(scores.len(), queries.rows * keys.rows, "scores");
    let shape =
        Shape { rows: keys.rows, tokens: queries.rows, depth: keys.cols, stride: keys.rows };
    let mut tiles = scratch.take_tiles();
    pack_tiles(queries, |_| queries.cols, &mut tiles);
    let mut product = Scores { kernels, keys, mask, queries: queries.rows, tiles: &tiles, scratch };
    accumulate(&mut product, shape, scores);
    scratch.put_tiles(tiles);
}

/// `out[t * stride + c] = Σ_k probabilities[t][k] · values[k][c]` over the keys that the mask
/// shows; `stride` is the distance between two tokens' outputs. Those of a query that sees no key
/// are unspecified.
///
/// # Panics
/// If `probabilities` has another number of columns than `values` has rows, or the outputs overlap
/// or leave `out`.
pub fn attention_values(
    kernels: &Kernels,
    probabilities: Rows<'_>,
    values: Rows<'_>,
    mask: Mask,
    out: &mut [f32],
    stride: usize,
    scratch: &mut Scratch,
) {
    let (queries, keys) = (probabilities.rows, values.rows);
    assert_eq!(probabilities.cols, keys, "probabilities per query and values");
    assert!(fit(queries, values.cols, stride, out.len()), "outputs {stride} apart");
    let shape = Shape { rows: values.cols, tokens: queries, depth: keys, stride };
    let mut tiles = scratch.take_tiles();
    pack_tiles(probabilities, |query| mask.visible(query, queries, keys), &mut tiles);
    let mut product = Values { kernels, values, mask, queries, tiles: &tiles, scratch };
    accumulate(&mut product, shape, out);
    scratch.put_tiles(tiles);
}

/// Keys as the weights, queries as the activations.
struct Scores<'a> {
    kernels: &'a Kernels,
    keys: Rows<'a>,
    mask: Mask,
    queries: usize,
    tiles: &'a [[f32; TILE_TOKENS]],
    scratch: &'a mut Scratch,
}

impl Product for Scores<'_> {
    const DEPTH: usize = 512;

    fn pack(&mut self, panel: usize, rows: Range<usize>, columns: Range<usize>) {
        let (buffer, out) = self.scratch.panel(panel, columns.len());
        buffer.fill(0);
        for (row, out) in rows.zip(buffer.chunks_exact_mut(columns.len())) {
            out.copy_from_slice(cast_slice(&self.keys.row(row)[columns.clone()]));
        }
        self.kernels.interleave(buffer, out);
    }

    fn multiply(&self, panel: usize, tile: usize, columns: Range<usize>, sums: &mut Accumulators) {
        let tile = &self.tiles[tile * self.keys.cols..][columns.clone()];
        self.kernels.exact_product(self.scratch.f32_panel(panel, columns.len()), tile, sums);
    }

    fn needs(&self, rows: &Range<usize>, tokens: &Range<usize>, _columns: &Range<usize>) -> bool {
        rows.start < self.mask.visible(tokens.end - 1, self.queries, self.keys.rows)
    }
}

/// Values, turned, as the weights; probabilities as the activations.
struct Values<'a> {
    kernels: &'a Kernels,
    values: Rows<'a>,
    mask: Mask,
    queries: usize,
    tiles: &'a [[f32; TILE_TOKENS]],
    scratch: &'a mut Scratch,
}

impl Product for Values<'_> {
    const DEPTH: usize = 512;

    fn pack(&mut self, panel: usize, rows: Range<usize>, columns: Range<usize>) {
        let (_, out) = self.scratch.panel(panel, columns.len());
        for (key, out) in columns.zip(out) {
            let lanes: &mut [f32; PANEL_ROWS] = bytemuck::cast_mut(out);
            let (filled, rest) = lanes.split_at_mut(rows.len());
            filled.copy_from_slice(&self.values.row(key)[rows.clone()]);
            rest.fill(0.0);
        }
    }

    fn multiply(&self, panel: usize, tile: usize, columns: Range<usize>, sums: &mut Accumulators) {
        let last = self.queries.min((tile + 1) * TILE_TOKENS) - 1;
        let visible = self.mask.visible(last, self.queries, self.values.rows);
        let len = columns.end.min(visible) - columns.start;
        let tile = &self.tiles[tile * self.values.rows + columns.start..][..len];
        let panel = &self.scratch.f32_panel(panel, columns.len())[..len];
        self.kernels.exact_product(panel, tile, sums);
    }

    fn needs(&self, _rows: &Range<usize>, tokens: &Range<usize>, columns: &Range<usize>) -> bool {
        let visible = self.mask.visible(tokens.end - 1, self.queries, self.values.rows);
        columns.start < visible
    }
}

/// Rows become tiles of 12, column by column; past the columns `visible` gives for a row, zero.
fn pack_tiles(
    rows: Rows<'_>,
    visible: impl Fn(usize) -> usize,
    tiles: &mut Vec<[f32; TILE_TOKENS]>,
) {
    tiles.clear();
    tiles.resize(rows.rows.div_ceil(TILE_TOKENS) * rows.cols, [0.0; TILE_TOKENS]);
    for row in 0..rows.rows {
        let tile = &mut tiles[row / TILE_TOKENS * rows.cols..][..rows.cols];
        let values = &rows.row(row)[..visible(row)];
        for (column, &value) in tile.iter_mut().zip(values) {
            column[row % TILE_TOKENS] = value;
        }
    }
}

/// Whether `rows` rows of `cols` elements, `stride` apart, do not overlap and are within `len`.
fn fit(rows: usize, cols: usize, stride: usize, len: usize) -> bool {
    let Some(before) = rows.checked_sub(1) else { return true };
    let end = before.checked_mul(stride).and_then(|start| start.checked_add(cols));
    cols <= stride && end.is_some_and(|end| end <= len)
}
