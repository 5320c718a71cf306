//! The common scale of a super-block, of which every group's scale is an integer multiple.

use super::panel::CodeRange;

/// A common scale and how well its multiples meet the wanted values.
#[derive(Clone, Copy)]
pub(super) struct Candidate {
    pub(super) common: f32,
    pub(super) error: f32,
}

/// The `K` best of the common scales that take the value of largest magnitude to one of the codes
/// that `codes` tries. `values` have a curvature each: the error grows by it times the squared
/// distance.
#[inline(always)]
pub(super) fn best_common_scales<const K: usize>(
    values: &[f32],
    curvature: &[f32],
    codes: ScaleCodes,
) -> [Candidate; K] {
    let mut best = [Candidate { common: 0.0, error: f32::INFINITY }; K];
    let extreme = values.iter().fold(0.0f32, |m, &v| if v.abs() > m.abs() { v } else { m });
    if extreme == 0.0 {
        return best;
    }
    for &end in codes.ends {
        for trial in 0..codes.trials {
            let code = end * (1.0 - codes.shrink * trial as f32 / codes.trials as f32);
            let common = extreme / code;
            insert(
                &mut best,
                Candidate { common, error: error(values, curvature, common, codes.range) },
            );
        }
    }
    best
}

/// The integer codes of scales, and which of them the extreme value is tried at.
#[derive(Clone, Copy)]
pub(crate) struct ScaleCodes {
    pub(crate) range: CodeRange,
    /// The extreme value takes each of these codes,
    pub(crate) ends: &'static [f32],
    /// and smaller ones, in this many trials,
    pub(crate) trials: usize,
    /// down by this share.
    pub(crate) shrink: f32,
}

#[inline(always)]
fn error(values: &[f32], curvature: &[f32], common: f32, range: CodeRange) -> f32 {
    let inverse = 1.0 / common;
    let off = |value: f32| value - common * range.nearest(value * inverse);
    values.iter().zip(curvature).map(|(&v, &c)| c * off(v) * off(v)).sum()
}

#[inline(always)]
fn insert<const K: usize>(best: &mut [Candidate; K], new: Candidate) {
    if let Some(place) = best.iter().position(|b| new.error < b.error) {
        best[place..].rotate_right(1);
        best[place] = new;
    }
}
