//! Causal attention over f32 heads, by the kernel of the f32 products.
//!
//! 32 queries are the rows of a panel and keys are the tokens of its tiles, so scores come out key
//! after key with a query in each lane. The softmax then runs along the keys without crossing
//! lanes, and the probabilities are the panel of the second product as they lie.

use bytemuck::{cast_slice, cast_slice_mut};

use crate::kernels::{Accumulators, Kernels, LANES, Lanes, PANEL_ROWS, TILE_TOKENS, Words};

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

/// Buffers of attention, kept between calls: keys and values as tiles, the scores of 32 queries.
#[derive(Debug, Default)]
pub struct AttentionScratch {
    /// 12 keys, or 32 queries, row after row.
    rows: Vec<f32>,
    queries: Vec<[Words; 2]>,
    /// For each 12 keys, each of their columns.
    keys: Vec<[f32; TILE_TOKENS]>,
    /// For each 12 columns of the values, each key.
    values: Vec<[f32; TILE_TOKENS]>,
    /// For each key, 32 queries.
    scores: Vec<[Lanes; 2]>,
    /// For each column of the values, 32 queries.
    mixed: Vec<[Lanes; 2]>,
}

/// The values that each query sees, weighted by the softmax of its scores, `query · key`. The heads
/// of `queries` share the keys and values, and their rows belong to the last positions:
/// `out[(position * heads + head) * values.cols + c]`.
///
/// A value that a query must not see has weight zero, which hides what is finite: NaN or infinity
/// makes NaN of the outputs of up to 31 queries before it, too.
///
/// # Panics
/// If the heads of the queries differ in shape or have more rows than there are keys, keys and
/// values differ in rows, queries and keys in columns, or `out` has another length.
pub fn causal_attention(
    kernels: &Kernels,
    queries: &[Rows<'_>],
    keys: Rows<'_>,
    values: Rows<'_>,
    out: &mut [f32],
    scratch: &mut AttentionScratch,
) {
    let positions = queries.first().map_or(0, |head| head.rows);
    let matching = |head: &Rows<'_>| head.rows == positions && head.cols == keys.cols;
    assert!(queries.iter().all(matching), "heads of {positions} rows of {}", keys.cols);
    assert!(keys.rows == values.rows && positions <= keys.rows, "{positions} queries");
    assert_eq!(out.len(), positions * queries.len() * values.cols, "outputs");
    scratch.pack_keys(kernels, keys);
    scratch.pack_values(values);
    for (block, out) in out.chunks_mut(PANEL_ROWS * values.cols.max(1)).enumerate() {
        let first = block * PANEL_ROWS;
        let last = first + out.len() / values.cols;
        let heads = queries.len();
        let visible = |row: usize| keys.rows - positions + row / heads + 1;
        scratch.pack_queries(kernels, queries, first..last);
        scratch.score(kernels, keys.cols, visible(last - 1));
        for key in visible(first)..visible(last - 1) {
            let lanes: &mut [f32; PANEL_ROWS] = bytemuck::cast_mut(&mut scratch.scores[key]);
            for (row, score) in (first..last).zip(lanes) {
                if key >= visible(row) {
                    *score = f32::NEG_INFINITY;
                }
            }
        }
        scratch.mix(kernels, values, visible(last - 1));
        scratch.turn(kernels, values.cols, out);
    }
}

impl AttentionScratch {
    fn pack_keys(&mut self, kernels: &Kernels, keys: Rows<'_>) {
        self.keys.resize(keys.rows.div_ceil(TILE_TOKENS) * keys.cols, [0.0; TILE_TOKENS]);
        let tiles = self.keys.chunks_exact_mut(keys.cols.max(1));
        for (first, tile) in (0..keys.rows).step_by(TILE_TOKENS).zip(tiles) {
            self.rows.clear();
            for row in first..keys.rows.min(first + TILE_TOKENS) {
                self.rows.extend_from_slice(keys.row(row));
            }
            kernels.tile_rows(cast_slice(&self.rows), cast_slice_mut(tile));
        }
    }

    fn pack_values(&mut self, values: Rows<'_>) {
        let tiles = values.cols.div_ceil(TILE_TOKENS);
        self.values.resize(tiles * values.rows, [0.0; TILE_TOKENS]);
        for (tile, lanes) in self.values.chunks_exact_mut(values.rows.max(1)).enumerate() {
            for (row, lanes) in lanes.iter_mut().enumerate() {
                let columns = &values.row(row)[tile * TILE_TOKENS..];
                match columns.first_chunk() {
                    Some(columns) => *lanes = *columns,
                    None => {
                        *lanes = [0.0; TILE_TOKENS];
                        lanes[..columns.len()].copy_from_slice(columns);
                    }
                }
            }
        }
    }

    /// A panel of the queries `rows`, head after head within a position.
    fn pack_queries(
        &mut self,
        kernels: &Kernels,
        heads: &[Rows<'_>],
        rows: std::ops::Range<usize>,
    ) {
        let cols = heads[0].cols;
        self.rows.clear();
        for row in rows {
            self.rows.extend_from_slice(heads[row % heads.len()].row(row / heads.len()));
        }
        self.rows.resize(PANEL_ROWS * cols, 0.0);
        self.queries.resize(cols, [Words([0; LANES]); 2]);
        kernels.interleave(cast_slice(&self.rows), &mut self.queries);
    }

    /// Scores of the first `keys` keys.
    fn score(&mut self, kernels: &Kernels, cols: usize, keys: usize) {
        let tiles = keys.div_ceil(TILE_TOKENS);
        self.scores.clear();
        self.scores.resize(tiles * TILE_TOKENS, [Lanes([0.0; LANES]); 2]);
        let sums: &mut [Accumulators] = self.scores.as_chunks_mut().0;
        for (sums, tile) in sums.iter_mut().zip(self.keys.chunks_exact(cols.max(1))) {
            kernels.exact_product(cast_slice(&self.queries), tile, sums);
        }
    }

    /// The softmax of the scores of the first `keys` keys, times the values.
    fn mix(&mut self, kernels: &Kernels, values: Rows<'_>, keys: usize) {
        let weights = &mut self.scores[..keys];
        let mut totals = [Lanes([0.0; LANES]); 2];
        kernels.exp_columns(weights, &mut totals);
        self.mixed.clear();
        let tiles = self.values.chunks_exact(values.rows);
        self.mixed.resize(values.cols.next_multiple_of(TILE_TOKENS), [Lanes([0.0; LANES]); 2]);
        let sums: &mut [Accumulators] = self.mixed.as_chunks_mut().0;
        for (sums, tile) in sums.iter_mut().zip(tiles) {
            kernels.exact_product(weights, &tile[..keys], sums);
        }
        let totals: [f32; PANEL_ROWS] = bytemuck::cast(totals);
        let factors = totals.map(|total| 1.0 / total);
        for column in &mut self.mixed {
            let lanes: &mut [f32; PANEL_ROWS] = bytemuck::cast_mut(column);
            for (value, factor) in lanes.iter_mut().zip(&factors) {
                *value *= factor;
            }
        }
    }

    /// From a query per lane to a row per query.
    fn turn(&mut self, kernels: &Kernels, cols: usize, out: &mut [f32]) {
        self.mixed.resize(cols.next_multiple_of(PANEL_ROWS), [Lanes([0.0; LANES]); 2]);
        let mut turned = [[Words([0; LANES]); 2]; PANEL_ROWS];
        for (block, columns) in self.mixed.as_chunks::<PANEL_ROWS>().0.iter().enumerate() {
            kernels.interleave(cast_slice(columns), &mut turned);
            let first = block * PANEL_ROWS;
            for (row, turned) in out.chunks_exact_mut(cols).zip(&turned) {
                let out = &mut row[first..cols.min(first + PANEL_ROWS)];
                let turned: &[f32; PANEL_ROWS] = bytemuck::cast_ref(turned);
                out.copy_from_slice(&turned[..out.len()]);
            }
        }
    }
}

/// Whether `rows` rows of `cols` elements, `stride` apart, do not overlap and are within `len`.
fn fit(rows: usize, cols: usize, stride: usize, len: usize) -> bool {
    let Some(before) = rows.checked_sub(1) else { return true };
    let end = before.checked_mul(stride).and_then(|start| start.checked_add(cols));
    cols <= stride && end.is_some_and(|end| end <= len)
}
