//! Scales and minima of groups: `weight = scale * code - min`.

use super::panel::{CodeRange, Moments, Panel, inverse_or_zero};
use crate::kernels::Simd;

/// Trial grids reach beyond a group's span at each end by up to this share of a code.
const OUTWARD: f32 = 0.45;

/// The grids that are tried at each end of a group's span.
#[derive(Clone, Copy)]
pub(crate) struct Ends {
    /// How many.
    pub(crate) trials: usize,
    /// The largest share of a code that they leave out.
    pub(crate) inward: f32,
    /// How many trials those of the two ends may be apart.
    pub(crate) apart: usize,
}

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
pub(super) struct AffineFit<S: Simd> {
    pub(super) scale: S::F,
    pub(super) min: S::F,
    pub(super) scale_curvature: S::F,
    pub(super) min_curvature: S::F,
}

struct Search<'p, S: Simd, const N: usize> {
    simd: S,
    panel: &'p Panel<N>,
    range: CodeRange,
    sign: MinSign,
    /// Σw and Σwx.
    w: S::F,
    x: S::F,
    gain: S::F,
    fit: AffineFit<S>,
}

/// Fits a scale and a minimum to each group, starting from a grid for each pair of `ends`, which lie
/// about the group's extremes.
#[inline(always)]
pub(super) fn fit_affine<S: Simd, const N: usize>(
    simd: S,
    panel: &Panel<N>,
    range: CodeRange,
    sign: MinSign,
    ends: Ends,
) -> AffineFit<S> {
    let zero = simd.splat(0.0);
    let mut search = Search::new(simd, panel, range, sign);
    let (mut low, high) = panel.extremes(simd);
    if let MinSign::NonNegative = sign {
        low = simd.min(low, zero);
    }
    let span = simd.sub(high, low);
    // Shares of one code: what is left out depends on how fine the codes are.
    let step = (ends.inward + OUTWARD) / (ends.trials - 1) as f32;
    for low_trial in 0..ends.trials {
        let low_shift = (step * low_trial as f32 - OUTWARD) / range.highest;
        let min = simd.sub(zero, simd.add(low, simd.mul(span, simd.splat(low_shift))));
        for high_trial in 0..ends.trials {
            if low_trial.abs_diff(high_trial) > ends.apart {
                continue;
            }
            let high_shift = (step * high_trial as f32 - OUTWARD) / range.highest;
            let share = (1.0 - low_shift - high_shift) / range.highest;
            let scale = simd.mul(span, simd.splat(share));
            search.try_grid(inverse_or_zero(simd, scale), min);
        }
    }
    search.try_grid(inverse_or_zero(simd, search.fit.scale), search.fit.min);
    search.fit
}

impl<'p, S: Simd, const N: usize> Search<'p, S, N> {
    /// Begins with the constant that fits each group best.
    #[inline(always)]
    fn new(simd: S, panel: &'p Panel<N>, range: CodeRange, sign: MinSign) -> Self {
        let zero = simd.splat(0.0);
        let (w, x) = panel.weight_sums(simd);
        let constant = simd.div(simd.sub(zero, x), w);
        let constant = simd.select(simd.gt(w, zero), constant, zero);
        let min = match sign {
            MinSign::NonNegative => simd.max(constant, zero),
            MinSign::Any => constant,
        };
        let gain = simd.sub(zero, simd.mul(min, x));
        let fit = AffineFit { scale: zero, min, scale_curvature: zero, min_curvature: w };
        Search { simd, panel, range, sign, w, x, gain, fit }
    }

    /// Rounds to a grid, fits the grid to the codes by least squares, and keeps it where the error
    /// is smaller than so far.
    #[inline(always)]
    fn try_grid(&mut self, inverse: S::F, min: S::F) {
        let Search { simd, w, x, .. } = *self;
        let zero = simd.splat(0.0);
        let Moments { l, ll, xl } = self.panel.moments(simd, inverse, Some(min), self.range);
        let w_ll = simd.mul(w, ll);
        let determinant = simd.sub(w_ll, simd.mul(l, l));
        let scale = simd.sub(simd.mul(w, xl), simd.mul(x, l));
        let min = simd.sub(simd.mul(l, xl), simd.mul(ll, x));
        let (scale, min) = (simd.div(scale, determinant), simd.div(min, determinant));
        // Codes that are all alike determine no minimum.
        let determined = simd.gt(determinant, simd.mul(simd.splat(1e-6), w_ll));
        let alone = simd.div(xl, ll);
        let (scale, min) = match self.sign {
            MinSign::Any => (scale, min),
            MinSign::NonNegative => {
                let below = simd.gt(zero, min);
                (simd.select(below, alone, scale), simd.select(below, zero, min))
            }
        };
        let scale = simd.select(determined, scale, alone);
        let min = simd.select(determined, min, zero);

        let gain = simd.sub(simd.mul(scale, xl), simd.mul(min, x));
        let curvature = simd.sub(ll, simd.div(simd.mul(l, l), w));
        let better = simd.gt(gain, self.gain);
        let fit = &mut self.fit;
        self.gain = simd.select(better, gain, self.gain);
        fit.scale = simd.select(better, scale, fit.scale);
        fit.min = simd.select(better, min, fit.min);
        fit.scale_curvature = simd.select(better, curvature, fit.scale_curvature);
    }
}
