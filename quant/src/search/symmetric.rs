//! Scales of groups without a minimum: `weight = scale * code`.

use super::panel::{CodeRange, Panel, inverse_or_zero};
use crate::kernels::Simd;

/// Which scales are tried.
#[derive(Clone, Copy)]
pub(super) struct ScaleTrials {
    /// How many of each sign.
    pub(super) count: usize,
    /// They put the largest magnitude of a group between `lowest - reach` and `lowest + reach`
    /// codes.
    pub(super) reach: f32,
    pub(super) signs: Signs,
}

/// Which signs of a scale are tried.
#[derive(Clone, Copy)]
pub(super) enum Signs {
    /// The one that gives the weight of largest magnitude the lowest code, as there is one more
    /// code on that side.
    OfExtreme,
    Both,
}

/// The best scale of each group, and how much the error grows with its square distance from it.
#[derive(Clone, Copy)]
pub(super) struct SymmetricFit<S: Simd> {
    pub(super) scale: S::F,
    pub(super) curvature: S::F,
}

struct Best<S: Simd> {
    gain: S::F,
    fit: SymmetricFit<S>,
}

/// Fits a scale to each group.
///
/// With the codes `l` of a trial, the best scale is `Σwxl / Σwll`, and it lowers the error by
/// `(Σwxl)² / Σwll`, the gain that is maximised.
#[inline(always)]
pub(super) fn fit_symmetric<S: Simd, const N: usize>(
    simd: S,
    panel: &Panel<N>,
    range: CodeRange,
    trials: ScaleTrials,
) -> SymmetricFit<S> {
    let zero = simd.splat(0.0);
    let (low, high) = panel.extremes(simd);
    let depth = simd.sub(zero, low);
    let extreme = simd.select(simd.gt(high, depth), high, low);
    let per_code = inverse_or_zero(simd, extreme);
    let mut best = Best { gain: zero, fit: SymmetricFit { scale: zero, curvature: zero } };
    for trial in 0..trials.count {
        let step = 2.0 * trials.reach / (trials.count - 1) as f32;
        let code = range.lowest - trials.reach + step * trial as f32;
        best.try_inverse(simd, panel, simd.mul(per_code, simd.splat(code)), range);
        if let Signs::Both = trials.signs {
            best.try_inverse(simd, panel, simd.mul(per_code, simd.splat(-code)), range);
        }
    }
    let inverse = inverse_or_zero(simd, best.fit.scale);
    best.try_inverse(simd, panel, inverse, range);
    best.fit
}

impl<S: Simd> Best<S> {
    #[inline(always)]
    fn try_inverse<const N: usize>(
        &mut self,
        simd: S,
        panel: &Panel<N>,
        inverse: S::F,
        range: CodeRange,
    ) {
        let sums = panel.moments(simd, inverse, None, range);
        let scale = simd.div(sums.xl, sums.ll);
        let gain = simd.mul(scale, sums.xl);
        let better = simd.gt(gain, self.gain);
        self.gain = simd.select(better, gain, self.gain);
        self.fit.scale = simd.select(better, scale, self.fit.scale);
        self.fit.curvature = simd.select(better, sums.ll, self.fit.curvature);
    }
}
