//! From a grid to a better one nearby.

use super::{
    grid::{Grid, blocks, stored},
    k_row::{MAX_BLOCKS, SUPER_BLOCK},
    panel::{Panel, Residuals, inverse_or_zero},
    superblock::Shape,
};
use crate::kernels::Simd;

/// Changes of a group's scale code and minimum code that are tried.
type Move = (f32, f32);

const SYMMETRIC_MOVES: [Move; 2] = [(-1.0, 0.0), (1.0, 0.0)];

const FAR_SYMMETRIC_MOVES: [Move; 4] = [(-2.0, 0.0), (-1.0, 0.0), (1.0, 0.0), (2.0, 0.0)];

const AFFINE_MOVES: [Move; 6] =
    [(0.0, -1.0), (0.0, 1.0), (-1.0, 0.0), (1.0, 0.0), (-1.0, -1.0), (1.0, 1.0)];

#[rustfmt::skip]
const FAR_AFFINE_MOVES: [Move; 24] = [
    (-2.0, -2.0), (-2.0, -1.0), (-2.0, 0.0), (-2.0, 1.0), (-2.0, 2.0),
    (-1.0, -2.0), (-1.0, -1.0), (-1.0, 0.0), (-1.0, 1.0), (-1.0, 2.0),
    (0.0, -2.0), (0.0, -1.0), (0.0, 1.0), (0.0, 2.0),
    (1.0, -2.0), (1.0, -1.0), (1.0, 0.0), (1.0, 1.0), (1.0, 2.0),
    (2.0, -2.0), (2.0, -1.0), (2.0, 0.0), (2.0, 1.0), (2.0, 2.0),
];

/// The panel whose super-blocks are searched, and whether its groups have a minimum.
#[derive(Clone, Copy)]
pub(super) struct Search<'p, S: Simd, const N: usize, const HAS_MIN: bool> {
    pub(super) simd: S,
    pub(super) panel: &'p Panel<N>,
    pub(super) shape: Shape,
    /// Sums of the importance.
    w: S::F,
}

/// How long the way down is.
#[derive(Clone, Copy)]
pub(super) struct Way {
    /// How often integers are moved and fitted from each start, and again from the best of all.
    pub(super) rounds: usize,
    pub(super) moves: Moves,
}

/// Which changes of the integers are tried.
#[derive(Clone, Copy)]
pub(super) enum Moves {
    /// To those beside them.
    Near,
    /// To those two away as well, in all combinations.
    Far,
}

/// The grids with the least error found so far, chosen for each super-block by itself.
#[derive(Clone, Copy)]
pub(super) struct Best<const N: usize> {
    error: [f32; MAX_BLOCKS],
    pub(super) grid: Grid,
}

impl<'p, S: Simd, const N: usize, const HAS_MIN: bool> Search<'p, S, N, HAS_MIN> {
    #[inline(always)]
    const fn changes(moves: Moves) -> &'static [Move] {
        match (moves, HAS_MIN) {
            (Moves::Near, false) => &SYMMETRIC_MOVES,
            (Moves::Near, true) => &AFFINE_MOVES,
            (Moves::Far, false) => &FAR_SYMMETRIC_MOVES,
            (Moves::Far, true) => &FAR_AFFINE_MOVES,
        }
    }

    #[inline(always)]
    pub(super) fn new(simd: S, panel: &'p Panel<N>, shape: Shape) -> Self {
        Search { simd, panel, shape, w: panel.weight_sums(simd).0 }
    }

    /// Makes `best` the best grid about it and `starts`. Every super-block takes the same steps,
    /// whatever its errors, so that its result does not depend on its neighbour's.
    #[inline(always)]
    pub(super) fn downhill(&self, starts: &[Grid], way: Way, best: &mut Best<N>) {
        for &start in starts {
            self.descend(start, way, best);
        }
        for _ in 0..way.rounds {
            let grid = best.grid;
            self.move_integers(&grid, way.moves, best);
            self.fit_to_codes(best.grid, best);
        }
    }

    #[inline(always)]
    fn descend(&self, mut grid: Grid, way: Way, best: &mut Best<N>) {
        for _ in 0..way.rounds {
            let moved = self.move_integers(&grid, way.moves, best);
            grid = self.fit_to_codes(moved, best);
        }
    }

    /// Gives each group of `grid` the integers about its own with the least error.
    #[inline(always)]
    fn move_integers(&self, grid: &Grid, moves: Moves, best: &mut Best<N>) -> Grid {
        let &Search { simd, shape, .. } = self;
        let range = shape.scales.range;
        let common_scale = grid.scale.common_lanes::<S, N>(simd);
        let common_min = grid.min.common_lanes::<S, N>(simd);
        let (from_scale, from_min) = (simd.load(&grid.scale.codes), simd.load(&grid.min.codes));
        let (mut best_scale, mut best_min) = (from_scale, from_min);
        let mut least = self.error(grid);
        for &(scale_step, min_step) in Self::changes(moves) {
            let scale_codes = range.nearest(simd, simd.add(from_scale, simd.splat(scale_step)));
            let min_codes = range.nearest(simd, simd.add(from_min, simd.splat(min_step)));
            let scale = simd.mul(scale_codes, common_scale);
            let min = HAS_MIN.then_some(simd.mul(min_codes, common_min));
            let error = self.panel.error(simd, scale, min, shape.codes);
            let better = simd.gt(least, error);
            least = simd.select(better, error, least);
            best_scale = simd.select(better, scale_codes, best_scale);
            best_min = simd.select(better, min_codes, best_min);
        }
        let mut moved = *grid;
        moved.scale.set_codes(simd, best_scale);
        moved.min.set_codes(simd, best_min);
        best.take_better(&moved, self.block_sums(least));
        moved
    }

    /// Rounds codes to `grid`, and fits first the integers, then the common numbers to the codes.
    #[inline(always)]
    fn fit_to_codes(&self, mut grid: Grid, best: &mut Best<N>) -> Grid {
        let (scale, min) = self.scale_and_min(&grid);
        let sums = self.panel.residuals(self.simd, scale, min, self.shape.codes);
        let sums = self.fit_integers(&mut grid, sums);
        self.fit_common(&mut grid, sums);
        best.take_better(&grid, self.block_sums(self.error(&grid)));
        grid
    }

    /// Moves the scale code of each group by one at most, and its minimum code to the best for
    /// that, with the same codes of weights; returns the sums over what is left then.
    #[inline(always)]
    fn fit_integers(&self, grid: &mut Grid, sums: Residuals<S>) -> Residuals<S> {
        let &Search { simd, shape, w, .. } = self;
        let range = shape.scales.range;
        let common_scale = grid.scale.common_lanes::<S, N>(simd);
        let common_min = grid.min.common_lanes::<S, N>(simd);
        let per_min = inverse_or_zero(simd, simd.mul(w, common_min));
        let (from_scale, from_min) = (simd.load(&grid.scale.codes), simd.load(&grid.min.codes));
        let (mut best_scale, mut best_min) = (from_scale, from_min);
        let mut least = sums;
        for step in [0.0, -1.0, 1.0] {
            let scale_codes = range.nearest(simd, simd.add(from_scale, simd.splat(step)));
            let a = simd.mul(simd.sub(from_scale, scale_codes), common_scale);
            let mut found = sums.tilted(simd, a);
            let mut min_codes = from_min;
            if HAS_MIN {
                let min_step = simd.mul(found.r, per_min);
                min_codes = range.nearest(simd, simd.sub(from_min, min_step));
                let b = simd.mul(simd.sub(min_codes, from_min), common_min);
                found = found.raised(simd, b, w);
            }
            let better = simd.gt(least.rr, found.rr);
            least.rr = simd.select(better, found.rr, least.rr);
            least.r = simd.select(better, found.r, least.r);
            least.rl = simd.select(better, found.rl, least.rl);
            best_scale = simd.select(better, scale_codes, best_scale);
            best_min = simd.select(better, min_codes, best_min);
        }
        grid.scale.set_codes(simd, best_scale);
        grid.min.set_codes(simd, best_min);
        least
    }

    /// Fits the common numbers by least squares over each super-block, with the same codes: with
    /// `u = scale_code * code` and `v = -min_code` the residuals fall by
    /// `scale_growth * u + min_growth * v`.
    #[inline(always)]
    fn fit_common(&self, grid: &mut Grid, sums: Residuals<S>) {
        let simd = self.simd;
        let s = simd.load(&grid.scale.codes);
        let m = simd.sub(simd.splat(0.0), simd.load(&grid.min.codes));
        let uu = self.block_sums(simd.mul(simd.mul(s, s), sums.ll));
        let uv = self.block_sums(simd.mul(simd.mul(s, m), sums.l));
        let vv = self.block_sums(simd.mul(simd.mul(m, m), self.w));
        let ru = self.block_sums(simd.mul(s, sums.rl));
        let rv = self.block_sums(simd.mul(m, sums.r));
        for (b, _) in blocks::<N>() {
            let (uu, uv, vv, ru, rv) = (uu[b], uv[b], vv[b], ru[b], rv[b]);
            let determinant = uu * vv - uv * uv;
            let (scale_growth, min_growth) = if determinant > 1e-5 * uu * vv {
                ((ru * vv - rv * uv) / determinant, (rv * uu - ru * uv) / determinant)
            } else if uu > 0.0 {
                (ru / uu, 0.0)
            } else if vv > 0.0 {
                (0.0, rv / vv)
            } else {
                (0.0, 0.0)
            };
            grid.scale.set_common(b, grid.scale.common(b) + scale_growth);
            grid.min.set_common(b, grid.min.common(b) + min_growth);
        }
    }

    /// Errors of the groups.
    #[inline(always)]
    pub(super) fn error(&self, grid: &Grid) -> S::F {
        let (scale, min) = self.scale_and_min(grid);
        self.panel.error(self.simd, scale, min, self.shape.codes)
    }

    /// Scale and minimum of the groups.
    #[inline(always)]
    pub(super) fn scale_and_min(&self, grid: &Grid) -> (S::F, Option<S::F>) {
        let scale = grid.scale.products::<S, N>(self.simd);
        (scale, HAS_MIN.then_some(grid.min.products::<S, N>(self.simd)))
    }

    /// Sums over the groups of each super-block.
    #[inline(always)]
    pub(super) fn block_sums(&self, lanes: S::F) -> [f32; MAX_BLOCKS] {
        let mut lanes = stored(self.simd, lanes);
        let groups = SUPER_BLOCK / N;
        let mut half = groups / 2;
        while half > 0 {
            for block in lanes.chunks_exact_mut(groups) {
                for i in 0..half {
                    block[i] += block[i + half];
                }
            }
            half /= 2;
        }
        let mut sums = [0.0; MAX_BLOCKS];
        for (b, groups) in blocks::<N>() {
            sums[b] = lanes[groups.start];
        }
        sums
    }
}

impl<S: Simd> Residuals<S> {
    /// The sums where the residuals are `r + a l`.
    #[inline(always)]
    fn tilted(self, simd: S, a: S::F) -> Residuals<S> {
        let rl = simd.mul_add(a, self.ll, self.rl);
        let rr = simd.mul_add(a, simd.add(self.rl, rl), self.rr);
        Residuals { rr, r: simd.mul_add(a, self.l, self.r), rl, ..self }
    }

    /// The sums where the residuals are `r + b`, with the sum `w` of the importance.
    #[inline(always)]
    fn raised(self, simd: S, b: S::F, w: S::F) -> Residuals<S> {
        let r = simd.mul_add(b, w, self.r);
        let rr = simd.mul_add(b, simd.add(self.r, r), self.rr);
        Residuals { rr, r, rl: simd.mul_add(b, self.l, self.rl), ..self }
    }
}

impl<const N: usize> Best<N> {
    #[inline(always)]
    pub(super) fn new() -> Best<N> {
        Best { error: [f32::INFINITY; MAX_BLOCKS], grid: Grid::ZERO }
    }

    /// Takes over the super-blocks of `grid` with smaller errors.
    #[inline(always)]
    fn take_better(&mut self, grid: &Grid, errors: [f32; MAX_BLOCKS]) {
        for (b, _) in blocks::<N>() {
            if errors[b] < self.error[b] {
                self.error[b] = errors[b];
                self.grid.take::<N>(b, grid);
            }
        }
    }
}
