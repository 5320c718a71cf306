//! Super-blocks: groups whose scales and minima are integer multiples of two common halves.

use super::{
    affine::{AffineFit, MinSign, fit_affine},
    k_row::SUPER_BLOCK,
    panel::{CodeRange, GROUPS, Lanes, Panel, ZERO, inverse_or_zero},
    scale_grid::{ScaleCodes, best_common_scales},
    symmetric::{SymmetricFit, fit_symmetric},
};
use crate::packing::HalfLe;

/// How often integers are moved and the common scales fitted to the codes, at most.
const ROUNDS: usize = 4;

/// How many common scales, and how many common minima, are tried.
const STARTS: usize = 3;

/// What the integers of a format can be.
#[derive(Clone, Copy)]
pub(crate) struct Shape {
    /// Codes of weights.
    pub(crate) codes: CodeRange,
    /// Codes of group scales.
    pub(crate) scales: ScaleCodes,
    /// Trials at each end of a group's span, for groups with a minimum.
    pub(crate) trials: usize,
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

/// The common scales and the integers of `P` panels.
#[derive(Clone, Copy)]
struct Grid<const P: usize> {
    scale: HalfLe,
    min: HalfLe,
    scale_codes: [Lanes; P],
    min_codes: [Lanes; P],
}

/// Encodes `8 * P` groups of `N` weights for `weight = scale * scale_code * code`.
#[inline(always)]
pub(crate) fn encode_symmetric<const N: usize, const P: usize>(
    weights: &[f32; SUPER_BLOCK],
    importance: &[f32; SUPER_BLOCK],
    shape: Shape,
) -> SuperBlock {
    let panels = panels::<N, P>(weights, importance);
    let mut fits = [SymmetricFit::ZERO; P];
    for (fit, panel) in fits.iter_mut().zip(&panels) {
        *fit = fit_symmetric(panel, shape.codes);
    }
    let scales = fits.each_ref().map(|f| f.scale);
    let curvature = fits.each_ref().map(|f| f.curvature);
    let candidates = best_common_scales::<{ 2 * STARTS }>(
        scales.as_flattened(),
        curvature.as_flattened(),
        shape.scales,
    );
    let starts = candidates.map(|c| {
        let (scale, scale_codes) = integers(&scales, c.common, shape.scales.range);
        Grid { scale, min: HalfLe::ZERO, scale_codes, min_codes: [ZERO; P] }
    });
    best_settled(&panels, &starts, &SYMMETRIC_MOVES, shape).write(&panels, shape)
}

/// Encodes `8 * P` groups of `N` weights for
/// `weight = scale * scale_code * code - min * min_code`.
#[inline(always)]
pub(crate) fn encode_affine<const N: usize, const P: usize>(
    weights: &[f32; SUPER_BLOCK],
    importance: &[f32; SUPER_BLOCK],
    shape: Shape,
) -> SuperBlock {
    let panels = panels::<N, P>(weights, importance);
    let mut fits = [AffineFit::ZERO; P];
    for (fit, panel) in fits.iter_mut().zip(&panels) {
        *fit = fit_affine(panel, shape.codes, MinSign::NonNegative, shape.trials);
    }
    let scales = fits.each_ref().map(|f| f.scale);
    let mins = fits.each_ref().map(|f| f.min);
    let common_scales = best_common_scales::<STARTS>(
        scales.as_flattened(),
        fits.each_ref().map(|f| f.scale_curvature).as_flattened(),
        shape.scales,
    );
    let common_mins = best_common_scales::<STARTS>(
        mins.as_flattened(),
        fits.each_ref().map(|f| f.min_curvature).as_flattened(),
        shape.scales,
    );
    let starts: [Grid<P>; STARTS * STARTS] = std::array::from_fn(|i| {
        let range = shape.scales.range;
        let (scale, scale_codes) = integers(&scales, common_scales[i % STARTS].common, range);
        let (min, min_codes) = integers(&mins, common_mins[i / STARTS].common, range);
        Grid { scale, min, scale_codes, min_codes }
    });
    best_settled(&panels, &starts, &AFFINE_MOVES, shape).write(&panels, shape)
}

#[inline(always)]
fn panels<const N: usize, const P: usize>(
    weights: &[f32; SUPER_BLOCK],
    importance: &[f32; SUPER_BLOCK],
) -> [Panel<N>; P] {
    const { assert!(N * P * GROUPS == SUPER_BLOCK) };
    let mut panels = [const { Panel::ZERO }; P];
    for (p, panel) in panels.iter_mut().enumerate() {
        let part = p * N * GROUPS..(p + 1) * N * GROUPS;
        *panel = Panel::new(&weights[part.clone()], &importance[part]);
    }
    panels
}

/// The half nearest to `common`, and the multiples of it nearest to `values`.
#[inline(always)]
fn integers<const P: usize>(
    values: &[Lanes; P],
    common: f32,
    range: CodeRange,
) -> (HalfLe, [Lanes; P]) {
    let common = HalfLe::finite(common);
    let inverse = inverse_or_zero(&[common.to_f32(); GROUPS])[0];
    (common, values.map(|lanes| lanes.map(|v| range.nearest(v * inverse))))
}

/// Changes of a group's scale code and minimum code that are tried.
type Move = (f32, f32);

const SYMMETRIC_MOVES: [Move; 2] = [(-1.0, 0.0), (1.0, 0.0)];

const AFFINE_MOVES: [Move; 6] =
    [(0.0, -1.0), (0.0, 1.0), (-1.0, 0.0), (1.0, 0.0), (-1.0, -1.0), (1.0, 1.0)];

/// Moves the integers of each start once, and settles the start that has the least error then.
#[inline(always)]
fn best_settled<const N: usize, const P: usize>(
    panels: &[Panel<N>; P],
    starts: &[Grid<P>],
    moves: &[Move],
    shape: Shape,
) -> Grid<P> {
    let mut best = (f32::INFINITY, starts[0]);
    for start in starts {
        let mut grid = *start;
        let error = move_integers(panels, &mut grid, moves, shape);
        if error < best.0 {
            best = (error, grid);
        }
    }
    settle(panels, best, moves, shape)
}

/// Refits the common scales and moves integers while that lowers the error.
#[inline(always)]
fn settle<const N: usize, const P: usize>(
    panels: &[Panel<N>; P],
    mut best: (f32, Grid<P>),
    moves: &[Move],
    shape: Shape,
) -> Grid<P> {
    for _ in 0..ROUNDS {
        let mut grid = best.1;
        grid.refit(panels, shape);
        let error = move_integers(panels, &mut grid, moves, shape);
        if error >= best.0 || error.is_nan() {
            break;
        }
        best = (error, grid);
    }
    best.1
}

/// Gives each group the integers about its own with the least error; the sum of these errors.
#[inline(always)]
fn move_integers<const N: usize, const P: usize>(
    panels: &[Panel<N>; P],
    grid: &mut Grid<P>,
    moves: &[Move],
    shape: Shape,
) -> f32 {
    let (scale, min) = (grid.scale.to_f32(), grid.min.to_f32());
    let mut total = 0.0;
    for (p, panel) in panels.iter().enumerate() {
        let (from_scale, from_min) = (grid.scale_codes[p], grid.min_codes[p]);
        let mut least =
            panel.error(&from_scale.map(|c| c * scale), &from_min.map(|c| c * min), shape.codes);
        for &(scale_step, min_step) in moves {
            let range = shape.scales.range;
            let scale_codes = from_scale.map(|c| range.nearest(c + scale_step));
            let min_codes = from_min.map(|c| range.nearest(c + min_step));
            let error = panel.error(
                &scale_codes.map(|c| c * scale),
                &min_codes.map(|c| c * min),
                shape.codes,
            );
            for g in 0..GROUPS {
                let better = error[g] < least[g];
                least[g] = if better { error[g] } else { least[g] };
                grid.scale_codes[p][g] =
                    if better { scale_codes[g] } else { grid.scale_codes[p][g] };
                grid.min_codes[p][g] = if better { min_codes[g] } else { grid.min_codes[p][g] };
            }
        }
        total += least.iter().sum::<f32>();
    }
    total
}

impl<const P: usize> Grid<P> {
    /// Scale and minimum of the groups of panel `p`.
    #[inline(always)]
    fn group(&self, p: usize) -> (Lanes, Lanes) {
        let (scale, min) = (self.scale.to_f32(), self.min.to_f32());
        (self.scale_codes[p].map(|c| c * scale), self.min_codes[p].map(|c| c * min))
    }

    /// Fits the common scales to the codes by least squares over the super-block: with the
    /// regressors `u = scale_code * code` and `v = -min_code`, `weight = scale * u + min * v`.
    #[inline(always)]
    fn refit<const N: usize>(&mut self, panels: &[Panel<N>; P], shape: Shape) {
        let (mut uu, mut uv, mut vv, mut xu, mut xv) = (0.0f64, 0.0f64, 0.0f64, 0.0f64, 0.0f64);
        for (p, panel) in panels.iter().enumerate() {
            let (scale, min) = self.group(p);
            let sums = panel.moments(&inverse_or_zero(&scale), &min, shape.codes);
            let (w, x) = panel.weight_sums();
            for g in 0..GROUPS {
                let (s, m) = (f64::from(self.scale_codes[p][g]), f64::from(self.min_codes[p][g]));
                uu += s * s * f64::from(sums.ll[g]);
                uv -= s * m * f64::from(sums.l[g]);
                vv += m * m * f64::from(w[g]);
                xu += s * f64::from(sums.xl[g]);
                xv -= m * f64::from(x[g]);
            }
        }
        let determinant = uu * vv - uv * uv;
        if determinant > 1e-9 * uu * vv {
            self.scale = HalfLe::finite(((xu * vv - xv * uv) / determinant) as f32);
            self.min = HalfLe::finite(((xv * uu - xu * uv) / determinant) as f32);
        } else if uu > 0.0 {
            let rest = xu - f64::from(self.min.to_f32()) * uv;
            self.scale = HalfLe::finite((rest / uu) as f32);
        } else if vv > 0.0 {
            self.min = HalfLe::finite((xv / vv) as f32);
        }
    }

    #[inline(always)]
    fn write<const N: usize>(&self, panels: &[Panel<N>; P], shape: Shape) -> SuperBlock {
        let mut block = SuperBlock {
            scale: self.scale,
            min: self.min,
            scale_codes: [0; 16],
            min_codes: [0; 16],
            codes: [0; SUPER_BLOCK],
        };
        for (p, panel) in panels.iter().enumerate() {
            for g in 0..GROUPS {
                block.scale_codes[p * GROUPS + g] = self.scale_codes[p][g] as i8;
                block.min_codes[p * GROUPS + g] = self.min_codes[p][g] as i8;
            }
            let (scale, min) = self.group(p);
            let codes = panel.codes(&scale, &min, shape.codes);
            block.codes[p * N * GROUPS..][..N * GROUPS].copy_from_slice(codes.as_flattened());
        }
        block
    }
}
