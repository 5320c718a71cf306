//! The 16-bit scale and minimum fields.

use bytemuck::{Pod, Zeroable};
use half::f16;

use crate::kernels::{LANES, Simd};

/// An IEEE half in little-endian order, without alignment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Pod, Zeroable)]
#[repr(transparent)]
pub(crate) struct HalfLe([u8; 2]);

impl HalfLe {
    /// The nearest half, ties to even; what is too large becomes the largest finite half, and NaN
    /// becomes zero, since no block may hold a scale that is NaN or infinite.
    #[inline(always)]
    pub(crate) fn finite(value: f32) -> HalfLe {
        let largest = f16::MAX.to_f32();
        let value = if value.is_nan() { 0.0 } else { value.clamp(-largest, largest) };
        HalfLe(f16::from_f32(value).to_le_bytes())
    }

    /// The value, by the processor's instruction if it has one.
    #[inline(always)]
    pub(crate) fn widen<S: Simd>(self, simd: S) -> f32 {
        simd.widen_half(self)
    }

    /// The same magnitude with the other sign.
    #[inline(always)]
    pub(crate) fn negated(self) -> HalfLe {
        HalfLe([self.0[0], self.0[1] ^ 0x80])
    }

    /// The value.
    ///
    /// Without the processor's instruction, whose call from a loop over blocks would cost more than
    /// this: the bits are those of an f32 whose exponent is 112 too small, subnormal or not.
    #[inline(always)]
    pub(crate) fn to_f32(self) -> f32 {
        const TWO_TO_112: f32 = f32::from_bits((127 + 112) << 23);
        const INFINITE: u32 = 0x7c00;
        let bits = u32::from(self.to_bits());
        let (sign, magnitude) = ((bits & 0x8000) << 16, bits & 0x7fff);
        let finite = f32::from_bits(magnitude << 13) * TWO_TO_112;
        let exponent = if magnitude < INFINITE { 0 } else { 0xff << 23 };
        f32::from_bits(finite.to_bits() | exponent | sign)
    }

    /// The bits.
    #[inline(always)]
    pub(crate) fn to_bits(self) -> u16 {
        u16::from_le_bytes(self.0)
    }

    /// Whether the value is neither NaN nor infinite.
    #[inline(always)]
    pub(crate) fn is_finite(self) -> bool {
        self.0[1] & 0x7c != 0x7c
    }
}

/// The value of one field of each block, sixteen blocks at a time.
#[inline(always)]
pub(crate) fn widen_halves<S: Simd, B>(
    simd: S,
    blocks: &[B],
    field: impl Fn(&B) -> HalfLe,
    out: &mut [f32],
) {
    let (blocks, blocks_rest) = blocks.as_chunks::<LANES>();
    let (out, out_rest) = out.as_chunks_mut::<LANES>();
    for (blocks, out) in blocks.iter().zip(out) {
        let mut halves = [HalfLe([0; 2]); LANES];
        for (half, block) in halves.iter_mut().zip(blocks) {
            *half = field(block);
        }
        simd.store(simd.widen_halves(halves), out);
    }
    for (block, out) in blocks_rest.iter().zip(out_rest) {
        *out = field(block).widen(simd);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_half_is_finite_exactly_when_its_value_is() {
        for bits in 0..=u16::MAX {
            let half = HalfLe(bits.to_le_bytes());
            assert_eq!(half.is_finite(), half.to_f32().is_finite(), "{bits:#06x}");
            let expected = f16::from_bits(bits).to_f32();
            assert!(
                half.to_f32().to_bits() == expected.to_bits()
                    || expected.is_nan() && half.to_f32().is_nan(),
                "{bits:#06x}"
            );
            if half.is_finite() {
                assert_eq!(HalfLe::finite(half.to_f32()), half, "{bits:#06x}");
            }
        }
    }

    #[test]
    fn no_value_becomes_an_infinite_half() {
        for value in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, 65520.0, -1e38, 1e-45] {
            assert!(HalfLe::finite(value).is_finite(), "{value}");
        }
        assert_eq!(HalfLe::finite(f32::NEG_INFINITY).to_f32(), -65504.0);
    }
}
