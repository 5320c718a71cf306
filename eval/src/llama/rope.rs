//! Rotary position embedding: each pair of neighbouring columns of a head is turned by an angle
//! that grows with the position. Su et al., "RoFormer", 2021; pairs as in Meta's LLaMA code.

use llq_quant::Rotation;

use super::Hyperparameters;

/// How fast each pair turns.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Rope {
    /// Radians per position, one per pair.
    frequencies: Vec<f64>,
}

impl Rope {
    /// `factors`, where the model has them, divide the frequencies, one per pair.
    pub(super) fn new(sizes: &Hyperparameters, factors: Option<&[f32]>) -> Rope {
        let columns = sizes.rope_dimension_count;
        let frequencies = (0..columns / 2)
            .map(|pair| {
                let exponent = -2.0 * pair as f64 / columns as f64;
                let factor = factors.map_or(1.0, |factors| f64::from(factors[pair]));
                sizes.rope_freq_base.powf(exponent) / factor / sizes.rope_scaling_factor
            })
            .collect();
        Rope { frequencies }
    }

    /// As [`rotations`](Self::rotations), but back.
    pub(crate) fn rotations_back(&self, positions: usize) -> Vec<Rotation> {
        let angles = |position| self.frequencies.iter().map(move |f| position as f64 * -f);
        (0..positions).map(|position| Rotation::new(angles(position))).collect()
    }

    /// How a head is turned at each of the positions `0..positions`.
    pub(crate) fn rotations(&self, positions: usize) -> Vec<Rotation> {
        let angles = |position| self.frequencies.iter().map(move |f| position as f64 * f);
        (0..positions).map(|position| Rotation::new(angles(position))).collect()
    }
}
