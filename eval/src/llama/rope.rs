//! Rotary position embedding: each pair of neighbouring columns of a head is turned by an angle
//! that grows with the position. Su et al., "RoFormer", 2021; pairs as in Meta's LLaMA code.

use super::Hyperparameters;

/// How fast each pair turns.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Rope {
    /// Radians per position, one per pair.
    frequencies: Vec<f64>,
}

/// Cosine and sine of every pair at every position of a window.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Rotations {
    pairs: usize,
    turns: Vec<Turn>,
}

#[derive(Clone, Copy, Debug, PartialEq)]
struct Turn {
    cos: f32,
    sin: f32,
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

    /// The turns of positions `0..positions`.
    pub(super) fn rotations(&self, positions: usize) -> Rotations {
        let turns = (0..positions)
            .flat_map(|position| {
                self.frequencies.iter().map(move |frequency| {
                    let (sin, cos) = (position as f64 * frequency).sin_cos();
                    Turn { cos: cos as f32, sin: sin as f32 }
                })
            })
            .collect();
        Rotations { pairs: self.frequencies.len(), turns }
    }
}

impl Rotations {
    /// Turns all heads, of `head_length` columns each, of one position; columns beyond the rotated
    /// ones stay.
    pub(super) fn apply(&self, position: usize, heads: &mut [f32], head_length: usize) {
        let turns = &self.turns[position * self.pairs..(position + 1) * self.pairs];
        for head in heads.chunks_exact_mut(head_length) {
            for (pair, turn) in head.chunks_exact_mut(2).zip(turns) {
                let (x, y) = (pair[0], pair[1]);
                pair[0] = x * turn.cos - y * turn.sin;
                pair[1] = x * turn.sin + y * turn.cos;
            }
        }
    }
}
