//! Super-blocks: groups whose scales and minima are integer multiples of two common halves.
//!
//! A panel holds one super-block of sixteen groups or two of eight.

use super::{
    affine::{Ends, MinSign, fit_affine},
    candidates::Candidates,
    downhill::Search,
    grid::{Grid, Multiples, blocks, stored},
    k_row::{MAX_BLOCKS, Row, SUPER_BLOCK, blocks_of_panel},
    panel::{CodeRange, inverse_or_zero},
    scale_grid::{ScaleCodes, best_common_scales},
    symmetric::{Signs, fit_symmetric},
};
use crate::{format::Fields, kernels::Simd};

/// For groups with a minimum.
const ENDS: Ends = Ends { trials: 4, inward: 0.7, apart: 2 };

/// How many common scales, and how many common minima, are tried for groups with a minimum.
const PAIRED: usize = 3;

/// What the integers of a format can be.
#[derive(Clone, Copy)]
pub(crate) struct Shape {
    /// Codes of weights.
    pub(crate) codes: CodeRange,
    /// Codes of group scales.
    pub(crate) scales: ScaleCodes,
}

/// Encodes a row whose groups have `N` weights for `weight = scale * scale_code * code`, going
/// downhill from `STARTS` common scales; `write` takes super-blocks and their index.
#[inline(always)]
pub(crate) fn encode_symmetric<S: Simd, const N: usize, const STARTS: usize>(
    simd: S,
    row: Row<'_>,
    shape: Shape,
    mut write: impl FnMut(usize, Fields),
) {
    row.for_each_panel::<S, N>(
        simd,
        #[inline(always)]
        |first, blocks, panel| {
            let fit = fit_symmetric(simd, panel, shape.codes, Signs::OfExtreme);
            let search = Search::<_, N, false>::new(simd, panel, shape);
            let scales = search.multiples::<STARTS>(fit.scale, fit.curvature);
            let grids = scales.map(
                #[inline(always)]
                |scale| Grid { scale, min: Multiples::ZERO },
            );
            search.write(&search.downhill(&grids), first, blocks, &mut write);
        },
    );
}

/// Encodes a row whose groups have `N` weights for
/// `weight = scale * scale_code * code - min * min_code`, going downhill from `STARTS` pairs of
/// common scales and minima; `write` takes super-blocks and their index.
#[inline(always)]
pub(crate) fn encode_affine<S: Simd, const N: usize, const STARTS: usize>(
    simd: S,
    row: Row<'_>,
    shape: Shape,
    mut write: impl FnMut(usize, Fields),
) {
    row.for_each_panel::<S, N>(
        simd,
        #[inline(always)]
        |first, blocks, panel| {
            let fit = fit_affine(simd, panel, shape.codes, MinSign::NonNegative, ENDS);
            let search = Search::<_, N, true>::new(simd, panel, shape);
            let scales = search.multiples::<PAIRED>(fit.scale, fit.scale_curvature);
            let mins = search.multiples::<PAIRED>(fit.min, fit.min_curvature);
            let grids = search.best_pairs::<STARTS>(&scales, &mins);
            search.write(&search.downhill(&grids), first, blocks, &mut write);
        },
    );
}

impl<S: Simd, const N: usize, const HAS_MIN: bool> Search<'_, S, N, HAS_MIN> {
    /// The `K` best common halves for wanted `values` of the groups, and the integers nearest.
    #[inline(always)]
    fn multiples<const K: usize>(&self, values: S::F, curvature: S::F) -> [Multiples; K] {
        let &Search { simd, shape, .. } = self;
        let (stored, curvature) = (stored(simd, values), stored(simd, curvature));
        let mut found = [Multiples::ZERO; K];
        for (b, groups) in blocks::<N>() {
            let commons = best_common_scales::<S, K>(
                simd,
                &stored[groups.clone()],
                &curvature[groups],
                shape.scales,
            );
            for (found, common) in found.iter_mut().zip(commons) {
                found.set_common(b, common);
            }
        }
        for found in &mut found {
            let inverse = inverse_or_zero(simd, found.common_lanes::<S, N>(simd));
            found.set_codes(simd, shape.scales.range.nearest(simd, simd.mul(values, inverse)));
        }
        found
    }

    /// The pairs of scales and minima with the least error, chosen for each super-block by itself.
    #[inline(always)]
    fn best_pairs<const K: usize>(
        &self,
        scales: &[Multiples; PAIRED],
        mins: &[Multiples; PAIRED],
    ) -> [Grid; K] {
        let mut best = [Candidates::<_, K>::new((0, 0)); MAX_BLOCKS];
        for (m, &min) in mins.iter().enumerate() {
            for (s, &scale) in scales.iter().enumerate() {
                let errors = self.block_sums(self.error(&Grid { scale, min }));
                for (best, error) in best.iter_mut().zip(errors) {
                    best.insert((s, m), error);
                }
            }
        }
        let mut grids = [Grid::ZERO; K];
        for (b, best) in best.into_iter().enumerate().take(blocks_of_panel::<N>()) {
            for (grid, (s, m)) in grids.iter_mut().zip(best.found()) {
                grid.take::<N>(b, &Grid { scale: scales[s], min: mins[m] });
            }
        }
        grids
    }

    /// Hands over the panel's first `count` super-blocks, the first with index `first`.
    #[inline(always)]
    fn write(
        &self,
        grid: &Grid,
        first: usize,
        count: usize,
        write: &mut impl FnMut(usize, Fields),
    ) {
        let (scale, min) = self.scale_and_min(grid);
        let codes = self.panel.codes(self.simd, scale, min, self.shape.codes);
        for (b, groups) in blocks::<N>().take(count) {
            let mut block = Fields {
                scale: grid.scale.half(b),
                min: grid.min.half(b),
                scale_codes: [0; 16],
                min_codes: [0; 16],
                codes: [0; SUPER_BLOCK],
            };
            for (i, g) in groups.clone().enumerate() {
                block.scale_codes[i] = grid.scale.codes[g] as i8;
                block.min_codes[i] = grid.min.codes[g] as i8;
            }
            block.codes.copy_from_slice(codes[groups].as_flattened());
            write(first + b, block);
        }
    }
}
