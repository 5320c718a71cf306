//! Drawing tokens from what a model predicts.

use llq_quant::{Mode, kernels};
use rayon::prelude::*;

use super::{Logits, Prediction, SLICE, sum, whole::TOKENS};

/// Draws a token for each prediction, the softmax of logits over `temperature`: the first whose
/// cumulative probability is above the uniform number of 0..1. `None` where a logit is no finite number.
///
/// Single exponentials are those of the kernels; they are summed in f64, each slice of the vocabulary
/// first, so that any machine and any number of threads draws the same token.
pub(crate) fn draw(
    prediction: Prediction<'_>,
    temperature: f32,
    uniforms: &[f64],
) -> Vec<Option<u32>> {
    let mut drawn = Vec::with_capacity(uniforms.len());
    for (turn, uniforms) in uniforms.chunks(TOKENS).enumerate() {
        let tokens = turn * TOKENS..turn * TOKENS + uniforms.len();
        let logits = Logits::of(prediction.of(tokens), Mode::Exact);
        let draw = |(token, &uniform): (usize, &f64)| {
            draw_from(logits.slices(token), temperature, uniform)
        };
        drawn.par_extend(uniforms.par_iter().enumerate().map(draw));
    }
    drawn
}

/// `slices` are of [`SLICE`] logits, the last of as many or fewer.
fn draw_from<'a>(
    mut slices: impl Iterator<Item = &'a [f32]> + Clone,
    temperature: f32,
    uniform: f64,
) -> Option<u32> {
    let kernels = kernels::selected();
    let max = slices.clone().map(|logits| kernels.max(logits)).fold(f32::NEG_INFINITY, f32::max);
    let mut buffers = [[0.0; SLICE]; 2];
    let mut sums = Vec::new();
    for logits in slices.clone() {
        sums.push(sum(weights(logits, max, temperature, &mut buffers)));
    }
    let total: f64 = sums.iter().sum();
    if !(total.is_finite() && total > 0.0) {
        return None;
    }
    let (slice, left) = first_above(sums, uniform * total)?;
    let logits = slices.nth(slice)?;
    let weights = weights(logits, max, temperature, &mut buffers).iter().map(|&w| f64::from(w));
    let (place, _) = first_above(weights, left)?;
    u32::try_from(slice * SLICE + place).ok()
}

/// `e^((logit - max) / temperature)` of each.
fn weights<'a>(
    logits: &[f32],
    max: f32,
    temperature: f32,
    buffers: &'a mut [[f32; SLICE]; 2],
) -> &'a [f32] {
    let [exponents, weights] = buffers;
    let (exponents, weights) = (&mut exponents[..logits.len()], &mut weights[..logits.len()]);
    for (exponent, &logit) in exponents.iter_mut().zip(logits) {
        *exponent = (logit - max) / temperature;
    }
    kernels::selected().exp_shifted(exponents, 0.0, weights);
    weights
}

/// The first place at which the sum so far is above `target`, and what the target is above the sum
/// before it. Where rounding lets no sum come so far, the last that is above zero.
fn first_above(weights: impl IntoIterator<Item = f64>, target: f64) -> Option<(usize, f64)> {
    let (mut before, mut last) = (0.0, None);
    for (place, weight) in weights.into_iter().enumerate() {
        if weight > 0.0 {
            last = Some((place, target - before));
            if before + weight > target {
                break;
            }
        }
        before += weight;
    }
    last
}

#[cfg(test)]
mod tests {
    use super::*;

    const DRAWS: usize = 200_000;

    /// Of uniform numbers at equal distances, each token gets its share to within one.
    #[test]
    fn tokens_come_as_often_as_they_are_likely() {
        let logits: Vec<f32> = (0..300).map(|token| ((token * 37) % 101) as f32 / 12.0).collect();
        for temperature in [0.5, 1.0, 2.0] {
            let mut counts = vec![0u32; logits.len()];
            for draw in 0..DRAWS {
                let uniform = (draw as f64 + 0.5) / DRAWS as f64;
                let token = draw_from(logits.chunks(SLICE), temperature, uniform).unwrap();
                counts[token as usize] += 1;
            }
            let weight = |&logit: &f32| (f64::from(logit) / f64::from(temperature)).exp();
            let total: f64 = logits.iter().map(weight).sum();
            for (token, (logit, &count)) in logits.iter().zip(&counts).enumerate() {
                let expected = weight(logit) / total * DRAWS as f64;
                assert!((f64::from(count) - expected).abs() < 1.1, "{token}: {count}, {expected}");
            }
        }
    }

    #[test]
    fn only_what_is_likely_at_all_is_drawn() {
        let mut logits = vec![f32::NEG_INFINITY; 200];
        logits[130] = -3.0;
        for uniform in [0.0, 0.5, 1.0 - f64::EPSILON / 2.0] {
            assert_eq!(draw_from(logits.chunks(SLICE), 1e-30, uniform), Some(130));
        }
        assert_eq!(draw_from(logits[..130].chunks(SLICE), 1.0, 0.5), None);
        for bad in [f32::NAN, f32::INFINITY] {
            logits[7] = bad;
            assert_eq!(draw_from(logits.chunks(SLICE), 1.0, 0.5), None, "{bad}");
        }
    }

    #[test]
    fn a_target_beyond_rounding_is_the_last_token_there_is() {
        assert_eq!(first_above([0.5, 0.25, 0.0], 0.75), Some((1, 0.25)));
        assert_eq!(first_above([0.0, 0.5, 0.5], 0.0), Some((1, 0.0)));
        assert_eq!(first_above([0.0], 0.0), None);
    }
}
