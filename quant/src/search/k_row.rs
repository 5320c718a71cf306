//! Rows of super-blocks.

use super::{
    panel::{GROUPS, Panel},
    weighting::{limit, weigh},
};
use crate::{effort::Encoding, kernels::Simd};

/// Weights in a super-block.
pub(crate) const SUPER_BLOCK: usize = 256;

/// Most super-blocks that fit in a panel.
pub(super) const MAX_BLOCKS: usize = 2;

/// Super-blocks that a panel of groups of `N` weights holds.
pub(super) const fn blocks_of_panel<const N: usize>() -> usize {
    const { assert!((N * GROUPS).is_multiple_of(SUPER_BLOCK) && N * GROUPS / SUPER_BLOCK <= MAX_BLOCKS) };
    N * GROUPS / SUPER_BLOCK
}

/// A row to encode, and what its errors count.
#[derive(Clone, Copy)]
pub(crate) struct Row<'a> {
    pub(crate) weights: &'a [f32],
    pub(crate) encoding: Encoding<'a>,
    /// Without importance, a weight near zero counts this many mean squares of its super-block.
    pub(crate) floor: f32,
}

impl Row<'_> {
    /// Hands the row's super-blocks to `encode` in panels: the index of the first, their number,
    /// and the panel. Where the last has fewer, groups of zeros fill it.
    #[inline(always)]
    pub(super) fn for_each_panel<S: Simd, const N: usize>(
        &self,
        simd: S,
        mut encode: impl FnMut(usize, usize, &Panel<N>),
    ) {
        let panel_blocks = blocks_of_panel::<N>();
        let blocks = self.weights.as_chunks::<SUPER_BLOCK>().0;
        for (p, blocks) in blocks.chunks(panel_blocks).enumerate() {
            let (mut weights, mut counts) = ([[0.0; N]; GROUPS], [[0.0; N]; GROUPS]);
            let parts = weights.as_flattened_mut().as_chunks_mut::<SUPER_BLOCK>().0.iter_mut();
            let parts = parts.zip(counts.as_flattened_mut().as_chunks_mut::<SUPER_BLOCK>().0);
            for (b, (block, (weights, counts))) in blocks.iter().zip(parts).enumerate() {
                for (weight, &x) in weights.iter_mut().zip(block) {
                    *weight = limit(x);
                }
                let start = (p * panel_blocks + b) * SUPER_BLOCK;
                let importance = self.encoding.importance.map(|q| &q[start..start + SUPER_BLOCK]);
                weigh(simd, weights, importance, self.floor, counts);
            }
            encode(p * panel_blocks, blocks.len(), &Panel::new(simd, &weights, &counts));
        }
    }
}
