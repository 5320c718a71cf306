//! Blocks to weights, or to codes and numbers, written once over the formats.

use crate::{
    format::{BlockFormat, Decoded, MAX_BLOCK_WEIGHTS, MIN_GROUP},
    kernels::{BYTES, LANES, Simd, Work},
};

/// Blocks whose numbers are read at a time: what follows does not wait for them.
const BLOCKS: usize = 16;

/// One block to what its bytes mean.
pub(crate) struct Decode<'a, F: BlockFormat> {
    pub(crate) block: &'a F::Block,
    pub(crate) out: &'a mut Decoded,
}

/// Blocks to weights.
pub(crate) struct Dequantize<'a, F: BlockFormat> {
    pub(crate) blocks: &'a [F::Block],
    pub(crate) out: &'a mut [f32],
}

/// Blocks to what products are made of.
pub(crate) struct Unpack<'a, F: BlockFormat> {
    pub(crate) blocks: &'a [F::Block],
    pub(crate) out: Unpacked<'a>,
}

/// Where the codes of blocks go as they are multiplied, and the numbers of their groups.
pub(crate) struct Unpacked<'a> {
    /// Added to every code, wrapping.
    pub(crate) offset: u8,
    /// One per weight.
    pub(crate) codes: &'a mut [u8],
    /// One per group.
    pub(crate) scales: &'a mut [f32],
    /// One per group; left as they are where the format has none.
    pub(crate) mins: &'a mut [f32],
}

impl<F: BlockFormat> Work for Decode<'_, F> {
    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let weights = F::BLOCK_WEIGHTS;
        let groups = weights / F::GROUP;
        let Decoded { codes, scales, mins } = self.out;
        let (scales, mins) = (&mut scales[..groups], &mut mins[..groups]);
        mins.fill(0.0);
        F::numbers(simd, std::slice::from_ref(self.block), scales, mins);
        for (part, codes) in codes[..weights].as_chunks_mut::<BYTES>().0.iter_mut().enumerate() {
            simd.store_bytes(simd.add_bytes(F::codes(simd, self.block, part), F::BIAS), codes);
        }
    }
}

impl<F: BlockFormat> Work for Dequantize<'_, F> {
    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        dequantize::<S, F>(simd, self.blocks, self.out);
    }
}

/// The weights of blocks.
#[inline(always)]
pub(crate) fn dequantize<S: Simd, F: BlockFormat>(simd: S, blocks: &[F::Block], out: &mut [f32]) {
    let weights = F::BLOCK_WEIGHTS;
    let groups = weights / F::GROUP;
    let mut scales = [0.0; BLOCKS * MAX_BLOCK_WEIGHTS / MIN_GROUP];
    let mut mins = scales;
    for (blocks, out) in blocks.chunks(BLOCKS).zip(out.chunks_mut(BLOCKS * weights)) {
        let numbers = blocks.len() * groups;
        F::numbers(simd, blocks, &mut scales[..numbers], &mut mins[..numbers]);
        let numbers = scales.chunks_exact(groups).zip(mins.chunks_exact(groups));
        let places = out.chunks_exact_mut(weights);
        for ((block, out), (scales, mins)) in blocks.iter().zip(places).zip(numbers) {
            let out = out.as_chunks_mut::<LANES>().0;
            for_each_part::<F>(
                #[inline(always)]
                |part| {
                    let mut codes = [0; BYTES];
                    let biased = simd.add_bytes(F::codes(simd, block, part), F::BIAS);
                    simd.store_bytes(biased, &mut codes);
                    for (half, codes) in codes.as_chunks::<LANES>().0.iter().enumerate() {
                        let place = 2 * part + half;
                        let group = place * LANES / F::GROUP;
                        let scale = simd.splat(scales[group]);
                        let mut weights = simd.mul(scale, simd.widen_bytes(codes));
                        if F::HAS_MIN {
                            weights = simd.sub(weights, simd.splat(mins[group]));
                        }
                        simd.store(weights, &mut out[place]);
                    }
                },
            );
        }
    }
}

impl<F: BlockFormat> Work for Unpack<'_, F> {
    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let Unpacked { offset, codes, scales, mins } = self.out;
        F::numbers(simd, self.blocks, scales, mins);
        let offset = F::BIAS.wrapping_add_unsigned(offset);
        let weights = F::BLOCK_WEIGHTS;
        for (block, codes) in self.blocks.iter().zip(codes.chunks_exact_mut(weights)) {
            let out = bytemuck::cast_slice_mut::<u8, i8>(codes).as_chunks_mut::<BYTES>().0;
            for_each_part::<F>(
                #[inline(always)]
                |part| {
                    let codes = simd.add_bytes(F::codes(simd, block, part), offset);
                    simd.store_bytes(codes, &mut out[part]);
                },
            );
        }
    }
}

/// Calls `step` for each 32 weights of a block, without a loop: so the shifts are constants.
#[inline(always)]
fn for_each_part<F: BlockFormat>(mut step: impl FnMut(usize)) {
    const { assert!(matches!(F::BLOCK_WEIGHTS, BYTES | MAX_BLOCK_WEIGHTS)) };
    step(0);
    if F::BLOCK_WEIGHTS == MAX_BLOCK_WEIGHTS {
        step(1);
        step(2);
        step(3);
        step(4);
        step(5);
        step(6);
        step(7);
    }
}
