//! The loops around the kernels, the same for all matrix products.

use std::ops::Range;

use crate::kernels::{Accumulators, LANES, Lanes, PANEL_ROWS, TILE_TOKENS};

/// Panels made at a time: 128 rows, 256 KiB, stay in the second-level cache while all tokens pass.
const PANELS: usize = 4;

/// The size of a product: `rows` outputs for each of `tokens`, each a sum over `depth`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Shape {
    pub(crate) rows: usize,
    pub(crate) tokens: usize,
    pub(crate) depth: usize,
}

/// Where the panels of a product come from and how they are multiplied.
pub(crate) trait Product {
    /// Most columns of a panel.
    const DEPTH: usize;

    /// Makes panel `panel` of at most 32 rows.
    fn pack(&mut self, panel: usize, rows: Range<usize>, columns: Range<usize>);

    /// Adds to `sums` the products of panel `panel`, which has the columns `columns`, with tile
    /// `tile`.
    fn multiply(&self, panel: usize, tile: usize, columns: Range<usize>, sums: &mut Accumulators);
}

/// `out[t * rows + r]` becomes the product. Panels are made for 128 rows by `DEPTH` columns;
/// all tiles of tokens pass over them; sums wait in `out` between two ranges of columns.
pub(crate) fn accumulate<P: Product>(product: &mut P, shape: Shape, out: &mut [f32]) {
    for first_row in (0..shape.rows).step_by(PANELS * PANEL_ROWS) {
        let last_row = shape.rows.min(first_row + PANELS * PANEL_ROWS);
        for first_column in (0..shape.depth).step_by(P::DEPTH) {
            let columns = first_column..shape.depth.min(first_column + P::DEPTH);
            let panels = panels(first_row, last_row);
            for (panel, rows) in panels.clone() {
                product.pack(panel, rows, columns.clone());
            }
            for first_token in (0..shape.tokens).step_by(TILE_TOKENS) {
                let tokens = first_token..shape.tokens.min(first_token + TILE_TOKENS);
                for (panel, rows) in panels.clone() {
                    let place = Place { rows, tokens: tokens.clone(), stride: shape.rows };
                    multiply(product, panel, columns.clone(), place, out);
                }
            }
        }
    }
}

/// The panels of a range of rows.
fn panels(first: usize, last: usize) -> impl Iterator<Item = (usize, Range<usize>)> + Clone {
    let starts = (first..last).step_by(PANEL_ROWS);
    starts.map(move |start| start..last.min(start + PANEL_ROWS)).enumerate()
}

/// Which outputs a panel and a tile make.
struct Place {
    rows: Range<usize>,
    tokens: Range<usize>,
    /// Outputs per token.
    stride: usize,
}

fn multiply<P: Product>(
    product: &P,
    panel: usize,
    columns: Range<usize>,
    place: Place,
    out: &mut [f32],
) {
    let mut sums: Accumulators = [[Lanes([0.0; LANES]); 2]; TILE_TOKENS];
    let tile = place.tokens.start / TILE_TOKENS;
    if columns.start > 0 {
        for (row, sums) in place.outputs(out).zip(&mut sums) {
            copy_row(row, &mut flat_mut(sums)[..row.len()]);
        }
    }
    product.multiply(panel, tile, columns, &mut sums);
    for (row, sums) in place.outputs(out).zip(&mut sums) {
        copy_row(&flat_mut(sums)[..row.len()], row);
    }
}

impl Place {
    /// The outputs of each token.
    fn outputs<'a>(&self, out: &'a mut [f32]) -> impl Iterator<Item = &'a mut [f32]> {
        let first = self.tokens.start * self.stride;
        let rows = self.rows.clone();
        let tokens = out[first..].chunks_mut(self.stride).take(self.tokens.len());
        tokens.map(move |token| &mut token[rows.clone()])
    }
}

fn flat_mut(lanes: &mut [Lanes; 2]) -> &mut [f32; PANEL_ROWS] {
    bytemuck::cast_mut(lanes)
}

/// A copy between slices of one length, which is nearly always that of a panel: then it needs no
/// call.
fn copy_row(from: &[f32], to: &mut [f32]) {
    match (<&[f32; PANEL_ROWS]>::try_from(from), <&mut [f32; PANEL_ROWS]>::try_from(&mut *to)) {
        (Ok(from), Ok(to)) => *to = *from,
        _ => to.copy_from_slice(from),
    }
}
