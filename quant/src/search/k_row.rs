//! Rows of super-blocks.

use super::weighting::{limit, mean_square, weigh};

/// Weights in a super-block.
pub(crate) const SUPER_BLOCK: usize = 256;

/// Hands each super-block of a row, with what its errors count, to `encode`. Without importance, a
/// weight near zero counts `floor` mean squares of its super-block.
#[inline(always)]
pub(crate) fn for_each_super_block(
    row: &[f32],
    importance: Option<&[f32]>,
    floor: f32,
    mut encode: impl FnMut(usize, &[f32; SUPER_BLOCK], &[f32; SUPER_BLOCK]),
) {
    for (i, block) in row.as_chunks::<SUPER_BLOCK>().0.iter().enumerate() {
        let weights = block.map(limit);
        let importance = importance.map(|q| &q[i * SUPER_BLOCK..(i + 1) * SUPER_BLOCK]);
        let mut weighted = [0.0; SUPER_BLOCK];
        weigh(&weights, importance, mean_square(&weights), floor, &mut weighted);
        encode(i, &weights, &weighted);
    }
}
