//! The stretching of rotary positions in Llama 3.1 and later.

/// Frequencies whose wave is long against the context of training are divided; short ones stay;
/// those between are interpolated. As in Meta's `llama_models`, function `apply_scaling`.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Llama3Rope {
    pub(crate) factor: f32,
    pub(crate) low_freq_factor: f32,
    pub(crate) high_freq_factor: f32,
    /// The context of training, in tokens.
    pub(crate) original_context: u32,
}

impl Llama3Rope {
    /// Llama 3.1's.
    pub(crate) const DEFAULT: Llama3Rope = Llama3Rope {
        factor: 8.0,
        low_freq_factor: 1.0,
        high_freq_factor: 4.0,
        original_context: 8192,
    };

    /// What each of the `head_dim / 2` frequencies is divided by. Single precision throughout, as
    /// in the field's converter; only the power is rounded from double, so that what mathematical
    /// libraries differ by is lost, but for a value next to a tie.
    pub(crate) fn divisors(&self, theta: f32, head_dim: u32) -> Vec<f32> {
        let original = self.original_context as f32;
        let shortest_divided = original / self.low_freq_factor;
        let longest_kept = original / self.high_freq_factor;
        let divisor = |dimension: u32| {
            let exponent = dimension as f32 / head_dim as f32;
            let frequency = 1.0 / f64::from(theta).powf(exponent.into()) as f32;
            let wavelength = std::f32::consts::TAU / frequency;
            if wavelength < longest_kept {
                1.0
            } else if wavelength > shortest_divided {
                self.factor
            } else {
                let smooth = (original / wavelength - self.low_freq_factor)
                    / (self.high_freq_factor - self.low_freq_factor);
                1.0 / ((1.0 - smooth) / self.factor + smooth)
            }
        };
        (0..head_dim).step_by(2).map(divisor).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_waves_are_divided_and_short_ones_kept() {
        let divisors = Llama3Rope::DEFAULT.divisors(5e5, 128);
        assert_eq!(divisors.len(), 64);
        assert_eq!(divisors[..29], [1.0; 29]);
        assert_eq!(divisors[35..], [8.0; 29]);
        assert!(divisors.windows(2).all(|pair| pair[0] <= pair[1]));
    }
}
