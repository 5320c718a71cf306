//! All that the codes of a panel's super-blocks follow from.
//!
//! What belongs to a super-block is an array of [`MAX_BLOCKS`], what belongs to a group a lane.

use std::ops::Range;

use super::{
    k_row::{MAX_BLOCKS, SUPER_BLOCK, blocks_of_panel},
    panel::GROUPS,
};
use crate::{
    kernels::{LANES, Simd},
    packing::HalfLe,
};

/// Common numbers of the super-blocks, which halves can hold, and integers of their groups: scales,
/// or minima.
#[derive(Clone, Copy)]
pub(super) struct Multiples {
    common: [f32; MAX_BLOCKS],
    pub(super) codes: [f32; GROUPS],
}

/// Scales and minima.
#[derive(Clone, Copy)]
pub(super) struct Grid {
    pub(super) scale: Multiples,
    pub(super) min: Multiples,
}

impl Multiples {
    pub(super) const ZERO: Multiples =
        Multiples { common: [0.0; MAX_BLOCKS], codes: [0.0; GROUPS] };

    #[inline(always)]
    pub(super) fn common(&self, b: usize) -> f32 {
        self.common[b]
    }

    /// Sets the common number of super-block `b` to the half nearest to `value`.
    #[inline(always)]
    pub(super) fn set_common(&mut self, b: usize, value: f32) {
        self.common[b] = HalfLe::finite(value).to_f32();
    }

    /// The common number of super-block `b`.
    #[inline(always)]
    pub(super) fn half(&self, b: usize) -> HalfLe {
        HalfLe::finite(self.common[b])
    }

    #[inline(always)]
    pub(super) fn set_codes<S: Simd>(&mut self, simd: S, codes: S::F) {
        simd.store(codes, &mut self.codes);
    }

    /// For each group the common number of its super-block.
    #[inline(always)]
    pub(super) fn common_lanes<S: Simd, const N: usize>(&self, simd: S) -> S::F {
        let mut lanes = [0.0; LANES];
        for (b, groups) in blocks::<N>() {
            lanes[groups].fill(self.common[b]);
        }
        simd.load(&lanes)
    }

    /// The scales, or minima, of the groups.
    #[inline(always)]
    pub(super) fn products<S: Simd, const N: usize>(&self, simd: S) -> S::F {
        simd.mul(simd.load(&self.codes), self.common_lanes::<S, N>(simd))
    }
}

impl Grid {
    pub(super) const ZERO: Grid = Grid { scale: Multiples::ZERO, min: Multiples::ZERO };

    /// Takes over super-block `b` of `grid`.
    #[inline(always)]
    pub(super) fn take<const N: usize>(&mut self, b: usize, grid: &Grid) {
        let groups = SUPER_BLOCK / N;
        for (own, new) in [(&mut self.scale, &grid.scale), (&mut self.min, &grid.min)] {
            own.common[b] = new.common[b];
            own.codes[b * groups..][..groups].copy_from_slice(&new.codes[b * groups..][..groups]);
        }
    }
}

/// The super-blocks of a panel, and the lanes of each.
#[inline(always)]
pub(super) fn blocks<const N: usize>() -> impl Iterator<Item = (usize, Range<usize>)> {
    let groups = SUPER_BLOCK / N;
    (0..blocks_of_panel::<N>()).map(
        #[inline(always)]
        move |b| (b, b * groups..(b + 1) * groups),
    )
}

#[inline(always)]
pub(super) fn stored<S: Simd>(simd: S, lanes: S::F) -> [f32; LANES] {
    let mut stored = [0.0; LANES];
    simd.store(lanes, &mut stored);
    stored
}
