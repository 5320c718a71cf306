//! Super-blocks: groups whose scales and minima are integer multiples of two common halves.
//!
//! A panel holds one super-block of sixteen groups or two of eight. What belongs to a super-block
//! is an array of [`MAX_BLOCKS`] here, what belongs to a group a lane.

use super::{
    affine::{Ends, MinSign, fit_affine},
    k_row::{MAX_BLOCKS, Row, SUPER_BLOCK, blocks_of_panel},
    panel::{CodeRange, GROUPS, Panel, inverse_or_zero},
    scale_grid::{ScaleCodes, best_common_scales},
    symmetric::{Signs, fit_symmetric},
};
use crate::{
    kernels::{LANES, Simd},
    packing::HalfLe,
};

/// How often integers are moved and the common scales fitted to the codes, at most.
const ROUNDS: usize = 4;

/// For groups with a minimum.
const ENDS: Ends = Ends { trials: 4, inward: 0.7 };

/// How many common scales are tried, for groups without a minimum.
const SYMMETRIC_STARTS: usize = 4;

/// How many common scales, and how many common minima, are tried for groups with a minimum, and
/// how many of their pairs have their integers moved.
const AFFINE_STARTS: usize = 3;
const AFFINE_MOVED: usize = 3;

/// What the integers of a format can be.
#[derive(Clone, Copy)]
pub(crate) struct Shape {
    /// Codes of weights.
    pub(crate) codes: CodeRange,
    /// Codes of group scales.
    pub(crate) scales: ScaleCodes,
}

/// A super-block before it is packed; formats with eight groups use the first eight.
pub(crate) struct SuperBlock {
    pub(crate) scale: HalfLe,
    pub(crate) min: HalfLe,
    pub(crate) scale_codes: [i8; 16],
    pub(crate) min_codes: [i8; 16],
    /// Codes less the lowest code.
    pub(crate) codes: [u8; SUPER_BLOCK],
}

/// Halves of the super-blocks and integers of their groups: scales, or minima.
#[derive(Clone, Copy)]
struct Multiples {
    common: [HalfLe; MAX_BLOCKS],
    codes: [f32; GROUPS],
}

/// All that a panel's codes follow from.
#[derive(Clone, Copy)]
struct Grid {
    scale: Multiples,
    min: Multiples,
}

/// The grids with the least error found so far, chosen for each super-block by itself.
#[derive(Clone, Copy)]
struct Best {
    error: [f32; MAX_BLOCKS],
    grid: Grid,
}

/// Encodes a row whose groups have `N` weights for `weight = scale * scale_code * code`; `write`
/// takes super-blocks and their index.
#[inline(always)]
pub(crate) fn encode_symmetric<S: Simd, const N: usize>(
    simd: S,
    row: Row<'_>,
    shape: Shape,
    mut write: impl FnMut(usize, SuperBlock),
) {
    row.for_each_panel::<S, N>(
        simd,
        #[inline(always)]
        |first, blocks, panel| {
            let search = Search { simd, panel, shape, moves: &SYMMETRIC_MOVES };
            let fit = fit_symmetric(simd, panel, shape.codes, Signs::OfExtreme);
            let scales = search.starts::<SYMMETRIC_STARTS>(fit.scale, fit.curvature);
            let mut best = Best::NONE;
            for scale in scales {
                search.move_into(Grid { scale, min: Multiples::ZERO }, &mut best);
            }
            search.settle(&mut best);
            search.write(&best.grid, first, blocks, &mut write);
        },
    );
}

/// Encodes a row whose groups have `N` weights for
/// `weight = scale * scale_code * code - min * min_code`; `write` takes super-blocks and their
/// index.
#[inline(always)]
pub(crate) fn encode_affine<S: Simd, const N: usize>(
    simd: S,
    row: Row<'_>,
    shape: Shape,
    mut write: impl FnMut(usize, SuperBlock),
) {
    row.for_each_panel::<S, N>(
        simd,
        #[inline(always)]
        |first, blocks, panel| {
            let search = Search { simd, panel, shape, moves: &AFFINE_MOVES };
            let fit = fit_affine(simd, panel, shape.codes, MinSign::NonNegative, ENDS);
            let scales = search.starts::<AFFINE_STARTS>(fit.scale, fit.scale_curvature);
            let mins = search.starts::<AFFINE_STARTS>(fit.min, fit.min_curvature);
            let mut best = Best::NONE;
            for grid in search.best_pairs(&scales, &mins) {
                search.move_into(grid, &mut best);
            }
            search.settle(&mut best);
            search.write(&best.grid, first, blocks, &mut write);
        },
    );
}

/// Changes of a group's scale code and minimum code that are tried.
type Move = (f32, f32);

const SYMMETRIC_MOVES: [Move; 2] = [(-1.0, 0.0), (1.0, 0.0)];

const AFFINE_MOVES: [Move; 6] =
    [(0.0, -1.0), (0.0, 1.0), (-1.0, 0.0), (1.0, 0.0), (-1.0, -1.0), (1.0, 1.0)];

#[derive(Clone, Copy)]
struct Search<'p, S: Simd, const N: usize> {
    simd: S,
    panel: &'p Panel<N>,
    shape: Shape,
    moves: &'static [Move],
}

impl<S: Simd, const N: usize> Search<'_, S, N> {
    /// The `K` best common halves for wanted `values` of the groups, and the integers nearest.
    #[inline(always)]
    fn starts<const K: usize>(&self, values: S::F, curvature: S::F) -> [Multiples; K] {
        let (values, curvature) = (self.stored(values), self.stored(curvature));
        let mut starts = [Multiples::ZERO; K];
        for (b, groups) in blocks::<N>() {
            let candidates = best_common_scales::<S, K>(
                self.simd,
                &values[groups.clone()],
                &curvature[groups],
                self.shape.scales,
            );
            for (start, candidate) in starts.iter_mut().zip(candidates) {
                start.common[b] = HalfLe::finite(candidate.common);
            }
        }
        for start in &mut starts {
            let inverse = inverse_or_zero(self.simd, self.simd.load(&start.common_lanes::<N>()));
            let wanted = self.simd.mul(self.simd.load(&values), inverse);
            start.codes = self.stored(self.shape.scales.range.nearest(self.simd, wanted));
        }
        starts
    }

    #[inline(always)]
    fn stored(&self, lanes: S::F) -> [f32; LANES] {
        let mut stored = [0.0; LANES];
        self.simd.store(lanes, &mut stored);
        stored
    }

    /// The pairs of scales and minima with the least error, chosen for each super-block by itself.
    #[inline(always)]
    fn best_pairs(
        &self,
        scales: &[Multiples; AFFINE_STARTS],
        mins: &[Multiples; AFFINE_STARTS],
    ) -> [Grid; AFFINE_MOVED] {
        let mut best = [Best::NONE; AFFINE_MOVED];
        for &min in mins {
            for &scale in scales {
                let grid = Grid { scale, min };
                let (scale, min) = self.scale_and_min(&grid);
                let errors = self.stored(self.panel.error(self.simd, scale, min, self.shape.codes));
                for (b, groups) in blocks::<N>() {
                    let error = errors[groups].iter().sum::<f32>();
                    if let Some(place) = best.iter().position(|best| error < best.error[b]) {
                        for worse in (place + 1..AFFINE_MOVED).rev() {
                            let better = best[worse - 1];
                            best[worse].take::<N>(b, &better.grid, better.error[b]);
                        }
                        best[place].take::<N>(b, &grid, error);
                    }
                }
            }
        }
        best.map(|best| best.grid)
    }

    /// Gives each group of `grid` the integers about its own with the least error, and keeps the
    /// super-blocks that are better than the best; whether there is one.
    #[inline(always)]
    fn move_into(&self, grid: Grid, best: &mut Best) -> bool {
        let &Search { simd, shape, moves, .. } = self;
        let (from_scale, from_min) = (simd.load(&grid.scale.codes), simd.load(&grid.min.codes));
        let (mut best_scale, mut best_min) = (from_scale, from_min);
        let mut least = self.error(&grid, from_scale, from_min);
        for &(scale_step, min_step) in moves {
            let range = shape.scales.range;
            let scale_codes = range.nearest(simd, simd.add(from_scale, simd.splat(scale_step)));
            let min_codes = range.nearest(simd, simd.add(from_min, simd.splat(min_step)));
            let error = self.error(&grid, scale_codes, min_codes);
            let better = simd.gt(least, error);
            least = simd.select(better, error, least);
            best_scale = simd.select(better, scale_codes, best_scale);
            best_min = simd.select(better, min_codes, best_min);
        }
        let mut moved = grid;
        moved.scale.codes = self.stored(best_scale);
        moved.min.codes = self.stored(best_min);
        best.take_better::<N>(&moved, &self.stored(least))
    }

    /// Errors of the groups, with these integers in place of those of `grid`.
    #[inline(always)]
    fn error(&self, grid: &Grid, scale_codes: S::F, min_codes: S::F) -> S::F {
        let scale = self.multiplied(&grid.scale, scale_codes);
        let min = self.multiplied(&grid.min, min_codes);
        self.panel.error(self.simd, scale, min, self.shape.codes)
    }

    /// `codes` times the common halves of `multiples`.
    #[inline(always)]
    fn multiplied(&self, multiples: &Multiples, codes: S::F) -> S::F {
        self.simd.mul(codes, self.simd.load(&multiples.common_lanes::<N>()))
    }

    /// Refits the common scales and moves integers while that lowers the error.
    #[inline(always)]
    fn settle(&self, best: &mut Best) {
        for _ in 0..ROUNDS {
            let refitted = self.refit(best.grid);
            if !self.move_into(refitted, best) {
                break;
            }
        }
    }

    /// Fits the common scales to the codes by least squares over each super-block: with the
    /// regressors `u = scale_code * code` and `v = -min_code`, `weight = scale * u + min * v`.
    #[inline(always)]
    fn refit(&self, mut grid: Grid) -> Grid {
        let &Search { simd, panel, shape, .. } = self;
        let (scale, min) = self.scale_and_min(&grid);
        let sums = panel.moments(simd, inverse_or_zero(simd, scale), min, shape.codes);
        let (w, x) = panel.weight_sums(simd);
        let (w, x) = (self.stored(w), self.stored(x));
        let (l, ll, xl) = (self.stored(sums.l), self.stored(sums.ll), self.stored(sums.xl));
        for (b, groups) in blocks::<N>() {
            let (mut uu, mut uv, mut vv, mut xu, mut xv) = (0.0f64, 0.0, 0.0, 0.0, 0.0);
            for g in groups {
                let (s, m) = (f64::from(grid.scale.codes[g]), f64::from(grid.min.codes[g]));
                uu += s * s * f64::from(ll[g]);
                uv -= s * m * f64::from(l[g]);
                vv += m * m * f64::from(w[g]);
                xu += s * f64::from(xl[g]);
                xv -= m * f64::from(x[g]);
            }
            let determinant = uu * vv - uv * uv;
            if determinant > 1e-9 * uu * vv {
                grid.scale.common[b] = HalfLe::finite(((xu * vv - xv * uv) / determinant) as f32);
                grid.min.common[b] = HalfLe::finite(((xv * uu - xu * uv) / determinant) as f32);
            } else if uu > 0.0 {
                let rest = xu - f64::from(grid.min.common[b].to_f32()) * uv;
                grid.scale.common[b] = HalfLe::finite((rest / uu) as f32);
            } else if vv > 0.0 {
                grid.min.common[b] = HalfLe::finite((xv / vv) as f32);
            }
        }
        grid
    }

    /// Scale and minimum of the groups.
    #[inline(always)]
    fn scale_and_min(&self, grid: &Grid) -> (S::F, S::F) {
        let scale = self.multiplied(&grid.scale, self.simd.load(&grid.scale.codes));
        (scale, self.multiplied(&grid.min, self.simd.load(&grid.min.codes)))
    }

    /// Hands over the panel's first `count` super-blocks, the first with index `first`.
    #[inline(always)]
    fn write(
        &self,
        grid: &Grid,
        first: usize,
        count: usize,
        write: &mut impl FnMut(usize, SuperBlock),
    ) {
        let (scale, min) = self.scale_and_min(grid);
        let codes = self.panel.codes(self.simd, scale, min, self.shape.codes);
        for (b, groups) in blocks::<N>().take(count) {
            let mut block = SuperBlock {
                scale: grid.scale.common[b],
                min: grid.min.common[b],
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

/// The super-blocks of a panel, and the lanes of each.
#[inline(always)]
fn blocks<const N: usize>() -> impl Iterator<Item = (usize, std::ops::Range<usize>)> {
    let groups = SUPER_BLOCK / N;
    (0..blocks_of_panel::<N>()).map(move |b| (b, b * groups..(b + 1) * groups))
}

impl Multiples {
    const ZERO: Multiples = Multiples { common: [HalfLe::ZERO; MAX_BLOCKS], codes: [0.0; GROUPS] };

    /// For each group the number of its super-block.
    #[inline(always)]
    fn common_lanes<const N: usize>(&self) -> [f32; LANES] {
        let mut lanes = [0.0; LANES];
        for (b, groups) in blocks::<N>() {
            lanes[groups].fill(self.common[b].to_f32());
        }
        lanes
    }
}

impl Best {
    const NONE: Best = Best {
        error: [f32::INFINITY; MAX_BLOCKS],
        grid: Grid { scale: Multiples::ZERO, min: Multiples::ZERO },
    };

    /// Takes over the super-blocks of `grid` whose groups' errors sum up to less; whether there is
    /// one.
    #[inline(always)]
    fn take_better<const N: usize>(&mut self, grid: &Grid, errors: &[f32; GROUPS]) -> bool {
        let mut improved = false;
        for (b, groups) in blocks::<N>() {
            let error = errors[groups].iter().sum::<f32>();
            if error < self.error[b] {
                improved = true;
                self.take::<N>(b, grid, error);
            }
        }
        improved
    }

    /// Takes over super-block `b` of `grid`.
    #[inline(always)]
    fn take<const N: usize>(&mut self, b: usize, grid: &Grid, error: f32) {
        self.error[b] = error;
        let groups = SUPER_BLOCK / N;
        let pairs = [(&mut self.grid.scale, &grid.scale), (&mut self.grid.min, &grid.min)];
        for (best, new) in pairs {
            best.common[b] = new.common[b];
            best.codes[b * groups..][..groups].copy_from_slice(&new.codes[b * groups..][..groups]);
        }
    }
}
