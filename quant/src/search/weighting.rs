//! Which squared error an encoder minimises.

/// What each weight's squared error counts, on average 1.
///
/// `sigma2` is the mean square of the weights about `x`. Without importance, or where it is zero
/// throughout, `x` counts `floor * sigma2 + x²`; the floor is how much a weight near zero counts.
/// An importance `q` becomes `q * √(sigma2 + x²)`, as the field's standard tool has it.
#[inline(always)]
pub(super) fn weigh(
    weights: &[f32],
    importance: Option<&[f32]>,
    sigma2: f32,
    floor: f32,
    out: &mut [f32],
) {
    if let Some(importance) = importance
        && weigh_by(importance, weights, sigma2, out)
    {
        return;
    }
    out.iter_mut().zip(weights).for_each(|(out, x)| *out = floor * sigma2 + x * x);
    if !normalise(out) {
        out.fill(1.0);
    }
}

/// `q * √(sigma2 + x²)`, on average 1; false where the importance is zero throughout.
#[inline(always)]
pub(super) fn weigh_by(importance: &[f32], weights: &[f32], sigma2: f32, out: &mut [f32]) -> bool {
    for ((out, &x), &q) in out.iter_mut().zip(weights).zip(importance) {
        *out = q.max(0.0) * (sigma2 + x * x).sqrt();
    }
    normalise(out)
}

/// Mean of the squares.
#[inline(always)]
pub(super) fn mean_square(weights: &[f32]) -> f32 {
    weights.iter().map(|w| w * w).sum::<f32>() / weights.len() as f32
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
fn normalise(weights: &mut [f32]) -> bool {
    let mean = weights.iter().sum::<f32>() / weights.len() as f32;
    if !(mean > f32::MIN_POSITIVE && mean < f32::INFINITY) {
        return false;
    }
    weights.iter_mut().for_each(|w| *w /= mean);
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn importance_without_a_mean_leaves_the_default() {
        let weights = [1.0, -2.0, 0.5, 0.0];
        let mut expected = [0.0; 4];
        weigh(&weights, None, 1.0, 2.0, &mut expected);
        for q in [0.0, -1.0, f32::NAN, f32::INFINITY] {
            let mut found = [0.0; 4];
            weigh(&weights, Some(&[q; 4]), 1.0, 2.0, &mut found);
            assert_eq!(found, expected, "importance {q}");
        }
        assert!(expected.iter().sum::<f32>() - 4.0 < 1e-6);
    }

    #[test]
    fn zeros_all_count_the_same() {
        let mut found = [0.0; 4];
        weigh(&[0.0; 4], None, 0.0, 2.0, &mut found);
        assert_eq!(found, [1.0; 4]);
    }
}
