//! The common scale of a super-block, of which every group's scale is an integer multiple.

use super::{candidates::Candidates, panel::CodeRange};
use crate::kernels::{LANES, Simd};

/// The integer codes of scales, and which of them the extreme value is tried at.
#[derive(Clone, Copy)]
pub(crate) struct ScaleCodes {
    pub(crate) range: CodeRange,
    /// The extreme value takes each of these codes,
    pub(crate) ends: &'static [f32],
    /// and smaller ones, in this many trials (of which a vector holds sixteen),
    pub(crate) trials: usize,
    /// down by this share.
    pub(crate) shrink: f32,
}

/// The `K` best of the common scales that take the value of largest magnitude to one of the codes
/// that `codes` tries. `values` have a curvature each: the error grows by it times the squared
/// distance.
#[inline(always)]
pub(super) fn best_common_scales<S: Simd, const K: usize>(
    simd: S,
    values: &[f32],
    curvature: &[f32],
    codes: ScaleCodes,
) -> [f32; K] {
    let mut best = Candidates::new(0.0);
    let extreme = values.iter().fold(0.0f32, |m, &v| if v.abs() > m.abs() { v } else { m });
    if extreme == 0.0 {
        return best.found();
    }
    for &end in codes.ends {
        for first in (0..codes.trials).step_by(LANES) {
            let mut common = [0.0f32; LANES];
            for (trial, common) in (first..).zip(&mut common) {
                let code = end * (1.0 - codes.shrink * trial as f32 / codes.trials as f32);
                *common = extreme / code;
            }
            let mut errors = [0.0f32; LANES];
            let found = error(simd, values, curvature, simd.load(&common), codes.range);
            simd.store(found, &mut errors);
            let trials = common.into_iter().zip(errors).take(codes.trials - first);
            for (common, error) in trials {
                best.insert(common, error);
            }
        }
    }
    best.found()
}

/// The error of a common scale per lane.
#[inline(always)]
fn error<S: Simd>(
    simd: S,
    values: &[f32],
    curvature: &[f32],
    common: S::F,
    range: CodeRange,
) -> S::F {
    let inverse = simd.div(simd.splat(1.0), common);
    let minus_common = simd.sub(simd.splat(0.0), common);
    let mut error = simd.splat(0.0);
    for (&value, &curvature) in values.iter().zip(curvature) {
        let value = simd.splat(value);
        let codes = range.nearest_product(simd, value, inverse);
        let off = simd.mul_add(minus_common, codes, value);
        error = simd.mul_add(simd.mul(simd.splat(curvature), off), off, error);
    }
    error
}
