//! Scales and minima of groups: `weight = scale * code - min`.

use super::panel::{CodeRange, GROUPS, Lanes, Panel, ZERO, inverse_or_zero};

/// Trial grids leave out up to this share of a group's span at each end, or reach beyond it.
const INWARD: f32 = 0.9;
const OUTWARD: f32 = 0.45;

/// How often codes are rounded to the best grid and the grid is fitted to the codes.
const REFITS: usize = 3;

/// Which minima a format can store.
#[derive(Clone, Copy)]
pub(crate) enum MinSign {
    /// The smallest value a group can hold is zero or below.
    NonNegative,
    /// Any.
    Any,
}

/// The best scale and minimum of each group, and how much the error grows with the square
/// distance from each.
#[derive(Clone, Copy)]
pub(super) struct AffineFit {
    pub(super) scale: Lanes,
    pub(super) min: Lanes,
    pub(super) scale_curvature: Lanes,
    pub(super) min_curvature: Lanes,
}

impl AffineFit {
    pub(super) const ZERO: AffineFit =
        AffineFit { scale: ZERO, min: ZERO, scale_curvature: ZERO, min_curvature: ZERO };
}

struct Search<'p, const N: usize> {
    panel: &'p Panel<N>,
    range: CodeRange,
    sign: MinSign,
    /// Σw and Σwx.
    w: Lanes,
    x: Lanes,
    gain: Lanes,
    fit: AffineFit,
}

/// Fits a scale and a minimum to each group, starting from `trials * trials` grids whose ends lie
/// about the group's extremes.
#[inline(always)]
pub(super) fn fit_affine<const N: usize>(
    panel: &Panel<N>,
    range: CodeRange,
    sign: MinSign,
    trials: usize,
) -> AffineFit {
    let mut search = Search::new(panel, range, sign);
    let (mut low, high) = panel.extremes();
    if let MinSign::NonNegative = sign {
        low = low.map(|l| l.min(0.0));
    }
    // Shares of one code: what is left out depends on how fine the codes are.
    let step = (INWARD + OUTWARD) / (trials - 1) as f32;
    for low_trial in 0..trials {
        for high_trial in 0..trials {
            let low_shift = (step * low_trial as f32 - OUTWARD) / range.highest;
            let high_shift = (step * high_trial as f32 - OUTWARD) / range.highest;
            let (mut scale, mut min) = (ZERO, ZERO);
            for g in 0..GROUPS {
                let span = high[g] - low[g];
                min[g] = -(low[g] + span * low_shift);
                scale[g] = span * (1.0 - low_shift - high_shift) / range.highest;
            }
            search.try_grid(&inverse_or_zero(&scale), &min);
        }
    }
    for _ in 0..REFITS {
        let (inverse, min) = (inverse_or_zero(&search.fit.scale), search.fit.min);
        search.try_grid(&inverse, &min);
    }
    search.fit
}

impl<'p, const N: usize> Search<'p, N> {
    /// Begins with the constant that fits each group best.
    #[inline(always)]
    fn new(panel: &'p Panel<N>, range: CodeRange, sign: MinSign) -> Self {
        let (w, x) = panel.weight_sums();
        let (mut min, mut gain) = (ZERO, ZERO);
        for g in 0..GROUPS {
            let constant = if w[g] > 0.0 { -x[g] / w[g] } else { 0.0 };
            min[g] = match sign {
                MinSign::NonNegative => constant.max(0.0),
                MinSign::Any => constant,
            };
            gain[g] = -min[g] * x[g];
        }
        let fit = AffineFit { min, min_curvature: w, ..AffineFit::ZERO };
        Search { panel, range, sign, w, x, gain, fit }
    }

    /// Rounds to a grid, fits the grid to the codes by least squares, and keeps it where the error
    /// is smaller than so far.
    #[inline(always)]
    fn try_grid(&mut self, inverse: &Lanes, min: &Lanes) {
        let sums = self.panel.moments(inverse, min, self.range);
        let keep_min = matches!(self.sign, MinSign::Any);
        for g in 0..GROUPS {
            let (w, x, l, ll, xl) = (self.w[g], self.x[g], sums.l[g], sums.ll[g], sums.xl[g]);
            let determinant = w * ll - l * l;
            let scale = (w * xl - x * l) / determinant;
            let min = (l * xl - ll * x) / determinant;
            // Codes that are all alike determine no minimum.
            let affine = (determinant > 1e-6 * (w * ll)) & (keep_min | (min >= 0.0));
            let scale = if affine { scale } else { xl / ll };
            let min = if affine { min } else { 0.0 };
            let gain = scale * xl - min * x;
            let better = gain > self.gain[g];
            let curvature = ll - l * l / w;
            let fit = &mut self.fit;
            self.gain[g] = if better { gain } else { self.gain[g] };
            fit.scale[g] = if better { scale } else { fit.scale[g] };
            fit.min[g] = if better { min } else { fit.min[g] };
            fit.scale_curvature[g] = if better { curvature } else { fit.scale_curvature[g] };
        }
    }
}
