//! Scales of groups without a minimum: `weight = scale * code`.

use super::panel::{CodeRange, GROUPS, Lanes, Panel, ZERO, inverse_or_zero};

/// Trial scales put the largest magnitude of a group between `lowest - REACH` and
/// `lowest + REACH` codes, in `TRIALS` steps, and the same with the scale's sign turned.
const REACH: f32 = 1.2;
const TRIALS: usize = 37;

/// How often codes are rounded to the best scale and the scale is fitted to the codes.
const REFITS: usize = 2;

/// The best scale of each group, and how much the error grows with its square distance from it.
#[derive(Clone, Copy)]
pub(super) struct SymmetricFit {
    pub(super) scale: Lanes,
    pub(super) curvature: Lanes,
}

impl SymmetricFit {
    pub(super) const ZERO: SymmetricFit = SymmetricFit { scale: ZERO, curvature: ZERO };
}

struct Best {
    gain: Lanes,
    fit: SymmetricFit,
}

/// Fits a scale of either sign to each group: the one with an additional code goes where the
/// error is smaller.
///
/// With the codes `l` of a trial, the best scale is `Σwxl / Σwll`, and it lowers the error by
/// `(Σwxl)² / Σwll`, the gain that is maximised.
#[inline(always)]
pub(super) fn fit_symmetric<const N: usize>(panel: &Panel<N>, range: CodeRange) -> SymmetricFit {
    let (low, high) = panel.extremes();
    let mut largest = ZERO;
    for g in 0..GROUPS {
        largest[g] = high[g].max(-low[g]);
    }
    let per_code = inverse_or_zero(&largest);
    let mut best = Best { gain: ZERO, fit: SymmetricFit::ZERO };
    for trial in 0..TRIALS {
        let step = 2.0 * REACH / (TRIALS - 1) as f32;
        let codes = -range.lowest - REACH + step * trial as f32;
        for signed in [codes, -codes] {
            best.try_inverse(panel, &per_code.map(|p| p * signed), range);
        }
    }
    for _ in 0..REFITS {
        let inverse = inverse_or_zero(&best.fit.scale);
        best.try_inverse(panel, &inverse, range);
    }
    best.fit
}

impl Best {
    #[inline(always)]
    fn try_inverse<const N: usize>(&mut self, panel: &Panel<N>, inverse: &Lanes, range: CodeRange) {
        let sums = panel.moments(inverse, &ZERO, range);
        for g in 0..GROUPS {
            let scale = sums.xl[g] / sums.ll[g];
            let gain = scale * sums.xl[g];
            let better = gain > self.gain[g];
            self.gain[g] = if better { gain } else { self.gain[g] };
            self.fit.scale[g] = if better { scale } else { self.fit.scale[g] };
            self.fit.curvature[g] = if better { sums.ll[g] } else { self.fit.curvature[g] };
        }
    }
}
