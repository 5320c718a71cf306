//! Which squared error an encoder minimises.

use crate::kernels::{Simd, sum, sum_of_squares};

/// What each weight's squared error counts, on average 1.
///
/// With `sigma2`, the mean square of the weights: without importance, or where it is zero
/// throughout, `x` counts `floor * sigma2 + x²`; the floor is how much a weight near zero counts.
/// An importance counts as it is: what the field's standard tool multiplies it by, `√(sigma2 + x²)`,
/// loses some KL divergence (`docs/benchmarks.md`).
#[inline(always)]
pub(super) fn weigh<S: Simd>(
    simd: S,
    weights: &[f32],
    importance: Option<&[f32]>,
    floor: f32,
    out: &mut [f32],
) {
    if let Some(importance) = importance
        && weigh_by(simd, importance, out)
    {
        return;
    }
    let sigma2 = mean_square(simd, weights);
    out.iter_mut().zip(weights).for_each(|(out, x)| *out = floor * sigma2 + x * x);
    if !normalise(simd, out) {
        out.fill(1.0);
    }
}

/// The importance, on average 1; false where it is zero throughout.
#[inline(always)]
pub(super) fn weigh_by<S: Simd>(simd: S, importance: &[f32], out: &mut [f32]) -> bool {
    out.iter_mut().zip(importance).for_each(|(out, &q)| *out = q.max(0.0));
    normalise(simd, out)
}

#[inline(always)]
fn mean_square<S: Simd>(simd: S, weights: &[f32]) -> f32 {
    sum_of_squares(simd, weights) / weights.len() as f32
}

/// Replaces what no format can hold: NaN by zero, and magnitudes whose squares would overflow by
/// the largest that is safe.
#[inline(always)]
pub(super) fn limit(weight: f32) -> f32 {
    const LARGEST: f32 = (1u32 << 30) as f32;
    if weight.is_nan() { 0.0 } else { weight.clamp(-LARGEST, LARGEST) }
}

/// Divides by the mean; false where there is none to divide by.
#[inline(always)]
fn normalise<S: Simd>(simd: S, weights: &mut [f32]) -> bool {
    let mean = sum(simd, weights) / weights.len() as f32;
    if !(mean > f32::MIN_POSITIVE && mean < f32::INFINITY) {
        return false;
    }
    let inverse = 1.0 / mean;
    weights.iter_mut().for_each(|w| *w *= inverse);
    true
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::{Isa, Kernels, Work};

    struct Weigh<'a> {
        weights: &'a [f32],
        importance: Option<&'a [f32]>,
        out: &'a mut [f32],
    }

    impl Work for Weigh<'_> {
        fn run<S: Simd>(self, simd: S) {
            weigh(simd, self.weights, self.importance, 2.0, self.out);
        }
    }

    fn weighed(weights: &[f32], importance: Option<&[f32]>) -> Vec<f32> {
        let mut out = vec![0.0; weights.len()];
        let scalar = Kernels::for_isa(Isa::Scalar).unwrap();
        scalar.run(Weigh { weights, importance, out: &mut out });
        out
    }

    #[test]
    fn importance_without_a_mean_leaves_the_default() {
        let weights = [1.0, -2.0, 0.5, 0.0];
        let expected = weighed(&weights, None);
        for q in [0.0, -1.0, f32::NAN, f32::INFINITY] {
            assert_eq!(weighed(&weights, Some(&[q; 4])), expected, "importance {q}");
        }
        assert!(expected.iter().sum::<f32>() - 4.0 < 1e-6);
    }

    #[test]
    fn zeros_all_count_the_same() {
        assert_eq!(weighed(&[0.0; 4], None), [1.0; 4]);
    }
}
