//! Rotary position embedding.

use crate::kernels::{Kernels, LANES, Simd, Work};

/// Cosine and sine of the angles by which the pairs (0, 1), (2, 3), … of a head are turned. This is
/// the order in which GGUF stores LLaMA's heads.
#[derive(Clone, Debug, PartialEq)]
pub struct Rotation {
    /// Of each column.
    cos: Vec<f32>,
    /// Of each column, negated for the first of a pair.
    sin: Vec<f32>,
}

impl Rotation {
    /// Turns by `angles`, in radians, one per pair.
    pub fn new(angles: impl Iterator<Item = f64>) -> Rotation {
        let pairs = angles.map(|angle| {
            let (sin, cos) = angle.sin_cos();
            ([cos as f32; 2], [-sin as f32, sin as f32])
        });
        let (cos, sin): (Vec<[f32; 2]>, Vec<[f32; 2]>) = pairs.unzip();
        Rotation { cos: cos.as_flattened().to_vec(), sin: sin.as_flattened().to_vec() }
    }

    /// Turns heads of `head_length` columns, one after another. Columns past the last pair that has
    /// an angle stay as they are.
    ///
    /// # Panics
    /// If a head has no room for the pairs.
    pub fn apply(&self, kernels: &Kernels, heads: &mut [f32], head_length: usize) {
        for head in heads.chunks_exact_mut(head_length) {
            let head = &mut head[..self.cos.len()];
            kernels.run(Turn { head, cos: &self.cos, sin: &self.sin });
        }
    }
}

struct Turn<'a> {
    head: &'a mut [f32],
    cos: &'a [f32],
    sin: &'a [f32],
}

impl Work for Turn<'_> {
    #[inline(always)]
    fn run<S: Simd>(self, _simd: S) {
        let (vectors, pairs) = self.head.as_chunks_mut::<LANES>();
        let (cos, cos_pairs) = self.cos.as_chunks::<LANES>();
        let (sin, sin_pairs) = self.sin.as_chunks::<LANES>();
        for ((vector, cos), sin) in vectors.iter_mut().zip(cos).zip(sin) {
            turn(vector, cos, sin);
        }
        let rest = pairs.as_chunks_mut::<2>().0.iter_mut();
        let turns = cos_pairs.as_chunks::<2>().0.iter().zip(sin_pairs.as_chunks::<2>().0);
        for (pair, (cos, sin)) in rest.zip(turns) {
            turn(pair, cos, sin);
        }
    }
}

#[inline(always)]
fn turn<const LEN: usize>(columns: &mut [f32; LEN], cos: &[f32; LEN], sin: &[f32; LEN]) {
    let from = *columns;
    for i in 0..LEN {
        columns[i] = from[i] * cos[i] + from[i ^ 1] * sin[i];
    }
}

#[cfg(test)]
mod tests {
    use std::f64::consts::FRAC_PI_2;

    use super::*;
    use crate::kernels;

    #[test]
    fn rotates_consecutive_pairs() {
        let rotation = Rotation { cos: vec![0.0; 4], sin: vec![-1.0, 1.0, -1.0, 1.0] };
        let mut heads = [1.0, 0.0, 0.0, 2.0, 5.0, 0.0, 3.0, 1.0, 0.0, 6.0];
        rotation.apply(kernels::selected(), &mut heads, 5);
        assert_eq!(heads, [0.0, 1.0, -2.0, 0.0, 5.0, -3.0, 0.0, 0.0, 1.0, 6.0]);
    }

    #[test]
    fn every_row_turns_by_the_definition() {
        let angles: Vec<f64> = (0..19).map(|pair| f64::from(pair) * FRAC_PI_2 / 7.0).collect();
        let rotation = Rotation::new(angles.iter().copied());
        let head: Vec<f32> = (0..40).map(|column| 0.25 * column as f32 - 3.0).collect();
        let mut expected = head.clone();
        for (pair, angle) in expected.as_chunks_mut::<2>().0.iter_mut().zip(&angles) {
            let ([x, y], cos, sin) = (*pair, angle.cos() as f32, angle.sin() as f32);
            *pair = [x * cos - y * sin, x * sin + y * cos];
        }
        for kernels in kernels::available() {
            let mut turned = head.clone();
            rotation.apply(kernels, &mut turned, 40);
            assert_eq!(turned, expected, "{}", kernels.isa());
        }
    }
}
