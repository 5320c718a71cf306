//! What an instruction set can do at most: the products of the tiles without any memory, and
//! reading memory without any work.

use std::hint::black_box;

use bytemuck::cast_slice;

use super::simd::{LANES, Simd, Words};

const STEPS: u32 = 1 << 16;

/// How far ahead of their use values are fetched, in bytes.
const AHEAD: usize = 2048;

/// How many independent sums a burst has. The faster of the two is the machine's limit: few leave
/// gaps while a sum waits for itself, many may not fit the registers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Chains {
    /// Vectors of sixteen lanes that fit sixteen 256-bit registers.
    Few,
    /// Twelve vectors of sixteen lanes.
    Many,
}

#[inline(always)]
pub(crate) fn multiply_add_burst<S: Simd>(simd: S, chains: Chains) -> u64 {
    match chains {
        Chains::Few => multiply_adds::<S, 6>(simd),
        Chains::Many => multiply_adds::<S, 12>(simd),
    }
}

#[inline(always)]
pub(crate) fn code_product_burst<S: Simd>(simd: S, chains: Chains) -> u64 {
    match chains {
        Chains::Few => code_products::<S, 4>(simd),
        Chains::Many => code_products::<S, 12>(simd),
    }
}

#[inline(always)]
fn multiply_adds<S: Simd, const CHAINS: usize>(simd: S) -> u64 {
    let factor = simd.splat(black_box(0.5));
    let mut chains = [simd.splat(1.0); CHAINS];
    for _ in 0..STEPS {
        for chain in &mut chains {
            *chain = simd.mul_add(*chain, factor, factor);
        }
    }
    for chain in chains {
        keep(simd, chain);
    }
    u64::from(STEPS) * (CHAINS * LANES) as u64
}

#[inline(always)]
fn code_products<S: Simd, const CHAINS: usize>(simd: S) -> u64 {
    let codes = simd.load_codes(&black_box(Words([0x0101_0101; LANES])));
    // One per chain, so that no chain's products serve another.
    let mut activations = [0x0101_0101; CHAINS];
    let mut chains = [simd.seed(0); CHAINS];
    for _ in 0..STEPS {
        let activations = black_box(&mut activations);
        for (chain, &activations) in chains.iter_mut().zip(activations.iter()) {
            *chain = simd.dot_narrow(*chain, codes, activations);
        }
    }
    for chain in chains {
        keep(simd, simd.to_float(chain));
    }
    u64::from(STEPS) * (CHAINS * LANES * 4) as u64
}

/// Four sums of sixteen lanes: one would wait for itself.
#[inline(always)]
pub(crate) fn read_burst<S: Simd>(simd: S, values: &[f32]) -> f32 {
    const CHAINS: usize = 4;
    let (vectors, rest) = values.as_chunks::<LANES>();
    let (groups, last) = vectors.as_chunks::<CHAINS>();
    let mut sums = [simd.splat(0.0); CHAINS];
    for group in groups {
        simd.prefetch_behind(cast_slice(group), AHEAD);
        for (sum, vector) in sums.iter_mut().zip(group) {
            *sum = simd.add(*sum, simd.load(vector));
        }
    }
    for vector in last {
        sums[0] = simd.add(sums[0], simd.load(vector));
    }
    let sum = simd.add(simd.add(sums[0], sums[1]), simd.add(sums[2], sums[3]));
    let mut lanes = [0.0; LANES];
    simd.store(sum, &mut lanes);
    lanes.iter().chain(rest).sum()
}

#[inline(always)]
fn keep<S: Simd>(simd: S, vector: S::F) {
    let mut lanes = [0.0; LANES];
    simd.store(vector, &mut lanes);
    black_box(lanes);
}
