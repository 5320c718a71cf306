//! NEON: four registers are sixteen lanes. Two rows, which differ in the product of codes alone.
//!
//! 24 of the 32 registers are the sums of 16 rows with 6 tokens in f32 products. Products of codes
//! hold 3 tokens: 12 registers of i32 and 12 of f32 sums, so that neither leaves them.

use std::{
    arch::{aarch64::*, asm},
    marker::PhantomData,
    mem::transmute,
};

use super::{
    Accumulators, BYTES, CodePanel, CodeSigns, CodeTile, LANES, Lanes, TILE_TOKENS, Words,
    simd::Simd, tile,
};

/// Proof that the machine has NEON, and what `P` needs.
#[derive(Clone, Copy, Debug)]
pub(super) struct Neon<P>(PhantomData<P>);

/// The row of [`Isa::Neon`](super::Isa::Neon).
pub(super) mod base {
    use crate::kernels::row;

    pub(in crate::kernels) type Base = super::Neon<super::Widening>;

    row! { Isa::Neon, Base, target_feature(enable = "neon") }
}

/// The row of [`Isa::Dotprod`](super::Isa::Dotprod).
pub(super) mod dotprod {
    use crate::kernels::row;

    pub(in crate::kernels) type Dotprod = super::Neon<super::Sdot>;

    row! { Isa::Dotprod, Dotprod, target_feature(enable = "neon,dotprod") }
}

/// How four products of 8-bit codes come into a lane.
pub(super) trait CodeProduct: Copy {
    /// Adds to each lane of `sum` the product of its four codes with its four of `activations`.
    ///
    /// # Safety
    /// The machine has NEON and the extension that the implementation is for.
    unsafe fn dot(sum: int32x4_t, codes: int8x16_t, activations: int8x16_t) -> int32x4_t;
}

/// Products widened to sixteen bits, where the sum of two is at most 2 · 128 · 127 < 2^15.
#[derive(Clone, Copy, Debug)]
pub(super) struct Widening;

impl CodeProduct for Widening {
    #[inline(always)]
    unsafe fn dot(sum: int32x4_t, codes: int8x16_t, activations: int8x16_t) -> int32x4_t {
        // SAFETY: the caller has NEON.
        unsafe {
            let low = vmull_s8(vget_low_s8(codes), vget_low_s8(activations));
            let high = vmull_high_s8(codes, activations);
            vpadalq_s16(sum, vpaddq_s16(low, high))
        }
    }
}

/// The instruction of the dot-product extension.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sdot;

impl CodeProduct for Sdot {
    #[inline(always)]
    unsafe fn dot(sum: int32x4_t, codes: int8x16_t, activations: int8x16_t) -> int32x4_t {
        // SAFETY: the caller has the extension.
        unsafe { sdot(sum, codes, activations) }
    }
}

/// `vdotq_s32`, which is not stable.
#[inline]
#[target_feature(enable = "neon,dotprod")]
fn sdot(mut sum: int32x4_t, codes: int8x16_t, activations: int8x16_t) -> int32x4_t {
    // SAFETY: the instruction is of the extension this function is compiled for, and reads and
    // writes the named registers alone.
    unsafe {
        asm!(
            "sdot {sum:v}.4s, {codes:v}.16b, {activations:v}.16b",
            sum = inout(vreg) sum,
            codes = in(vreg) codes,
            activations = in(vreg) activations,
            options(pure, nomem, nostack, preserves_flags),
        );
    }
    sum
}

/// An array of what an expression gives for each of the four registers.
macro_rules! each {
    ($i:ident => $value:expr) => {
        [
            {
                const $i: usize = 0;
                $value
            },
            {
                const $i: usize = 1;
                $value
            },
            {
                const $i: usize = 2;
                $value
            },
            {
                const $i: usize = 3;
                $value
            },
        ]
    };
}

impl<P: CodeProduct> Simd for Neon<P> {
    type F = [float32x4_t; 4];
    type I = [int32x4_t; 4];
    type M = [uint32x4_t; 4];
    type B = [uint8x16_t; 2];
    type W = [int8x16_t; 4];

    #[inline(always)]
    unsafe fn assume() -> Neon<P> {
        Neon(PhantomData)
    }

    #[inline(always)]
    fn splat(self, value: f32) -> [float32x4_t; 4] {
        // SAFETY: the token proves NEON, here and below.
        unsafe { [vdupq_n_f32(value); 4] }
    }

    #[inline(always)]
    fn load(self, values: &[f32; LANES]) -> [float32x4_t; 4] {
        // SAFETY: sixteen f32 are four times four, of which any bits are a value.
        unsafe { transmute(*values) }
    }

    #[inline(always)]
    fn store(self, vector: [float32x4_t; 4], out: &mut [f32; LANES]) {
        // SAFETY: four times four f32 are sixteen, of which any bits are a value.
        *out = unsafe { transmute(vector) };
    }

    #[inline(always)]
    fn add(self, a: [float32x4_t; 4], b: [float32x4_t; 4]) -> [float32x4_t; 4] {
        // SAFETY: the token proves the feature.
        unsafe { each!(I => vaddq_f32(a[I], b[I])) }
    }

    #[inline(always)]
    fn sub(self, a: [float32x4_t; 4], b: [float32x4_t; 4]) -> [float32x4_t; 4] {
        // SAFETY: the token proves the feature.
        unsafe { each!(I => vsubq_f32(a[I], b[I])) }
    }

    #[inline(always)]
    fn mul(self, a: [float32x4_t; 4], b: [float32x4_t; 4]) -> [float32x4_t; 4] {
        // SAFETY: the token proves the feature.
        unsafe { each!(I => vmulq_f32(a[I], b[I])) }
    }

    #[inline(always)]
    fn div(self, a: [float32x4_t; 4], b: [float32x4_t; 4]) -> [float32x4_t; 4] {
        // SAFETY: the token proves the feature.
        unsafe { each!(I => vdivq_f32(a[I], b[I])) }
    }

    #[inline(always)]
    fn mul_add(
        self,
        a: [float32x4_t; 4],
        b: [float32x4_t; 4],
        c: [float32x4_t; 4],
    ) -> [float32x4_t; 4] {
        // SAFETY: the token proves the feature.
        unsafe { each!(I => vfmaq_f32(c[I], a[I], b[I])) }
    }

    // `fmax` and `fmin` order zeros by sign and return NaN for NaN in either place: not this.

    #[inline(always)]
    fn max(self, a: [float32x4_t; 4], b: [float32x4_t; 4]) -> [float32x4_t; 4] {
        self.select(self.gt(a, b), a, b)
    }

    #[inline(always)]
    fn min(self, a: [float32x4_t; 4], b: [float32x4_t; 4]) -> [float32x4_t; 4] {
        self.select(self.gt(b, a), a, b)
    }

    #[inline(always)]
    fn gt(self, a: [float32x4_t; 4], b: [float32x4_t; 4]) -> [uint32x4_t; 4] {
        // SAFETY: the token proves the feature.
        unsafe { each!(I => vcgtq_f32(a[I], b[I])) }
    }

    #[inline(always)]
    fn select(
        self,
        mask: [uint32x4_t; 4],
        a: [float32x4_t; 4],
        b: [float32x4_t; 4],
    ) -> [float32x4_t; 4] {
        // SAFETY: the token proves the feature.
        unsafe { each!(I => vbslq_f32(mask[I], a[I], b[I])) }
    }

    #[inline(always)]
    fn scale_by_power(self, a: [float32x4_t; 4], exponent: [float32x4_t; 4]) -> [float32x4_t; 4] {
        // SAFETY: the caller has NEON by the token.
        unsafe { each!(I => scale_by_power(a[I], exponent[I])) }
    }

    #[inline(always)]
    fn code_offset(self, _lowest: i8) -> u8 {
        0
    }

    #[inline(always)]
    fn load_codes(self, words: &Words) -> [int8x16_t; 4] {
        // SAFETY: sixteen words are four times sixteen codes, of which any bits are a value.
        unsafe { transmute(words.0) }
    }

    #[inline(always)]
    fn seed(self, _seed: i32) -> [int32x4_t; 4] {
        // SAFETY: the token proves the feature.
        unsafe { [vdupq_n_s32(0); 4] }
    }

    #[inline(always)]
    fn dot(self, sum: [int32x4_t; 4], codes: [int8x16_t; 4], activations: u32) -> [int32x4_t; 4] {
        // SAFETY: the token proves NEON and what `P` needs.
        unsafe {
            let activations = vreinterpretq_s8_u32(vdupq_n_u32(activations));
            each!(I => P::dot(sum[I], codes[I], activations))
        }
    }

    #[inline(always)]
    fn to_float(self, sum: [int32x4_t; 4]) -> [float32x4_t; 4] {
        // SAFETY: the token proves the feature.
        unsafe { each!(I => vcvtq_f32_s32(sum[I])) }
    }

    #[inline(always)]
    fn exact_tile(
        self,
        panel: &[[Lanes; 2]],
        tokens: &[[f32; TILE_TOKENS]],
        sums: &mut Accumulators,
    ) {
        for token in [0, 6] {
            for vector in 0..2 {
                tile::exact::<_, 1, 6>(self, panel, vector, tokens, token, sums);
            }
        }
    }

    #[inline(always)]
    fn fast_tile<const WORDS: usize, const HAS_MIN: bool>(
        self,
        panel: CodePanel<'_>,
        tokens: CodeTile<'_>,
        sums: &mut Accumulators,
    ) {
        for token in [0, 3, 6, 9] {
            for vector in 0..2 {
                tile::fast::<_, WORDS, HAS_MIN, 3>(self, panel, vector, tokens, token, sums);
            }
        }
    }

    #[inline(always)]
    fn transpose(self, rows: [&[u32; LANES]; LANES]) -> [Words; LANES] {
        let mut out = [Words([0; LANES]); LANES];
        for row in (0..LANES).step_by(4) {
            // SAFETY: sixteen words are four times four, of which any bits are a value.
            let fours: [[uint32x4_t; 4]; 4] = unsafe { each!(I => transmute(*rows[row + I])) };
            for (w, out) in out.as_chunks_mut::<4>().0.iter_mut().enumerate() {
                // SAFETY: the token proves the feature.
                let columns = unsafe { transpose_4x4(each!(I => fours[I][w])) };
                for (column, out) in columns.into_iter().zip(out) {
                    // SAFETY: 16 bytes are written to word 0, 4, 8 or 12 of an array of 16 u32.
                    unsafe { vst1q_u32(out.0[row..row + 4].as_mut_ptr(), column) };
                }
            }
        }
        out
    }

    #[inline(always)]
    fn load_bytes(self, bytes: &[u8; BYTES]) -> [uint8x16_t; 2] {
        // SAFETY: 32 bytes are two times sixteen, of which any bits are a value.
        unsafe { transmute(*bytes) }
    }

    #[inline(always)]
    fn store_bytes(self, bytes: [uint8x16_t; 2], out: &mut [i8; BYTES]) {
        // SAFETY: two times sixteen bytes are 32, of which any bits are a value.
        *out = unsafe { transmute(bytes) };
    }

    #[inline(always)]
    fn or_bytes(self, a: [uint8x16_t; 2], b: [uint8x16_t; 2]) -> [uint8x16_t; 2] {
        // SAFETY: the token proves the feature.
        unsafe { [vorrq_u8(a[0], b[0]), vorrq_u8(a[1], b[1])] }
    }

    #[inline(always)]
    fn add_bytes(self, bytes: [uint8x16_t; 2], addend: i8) -> [uint8x16_t; 2] {
        // SAFETY: the token proves the feature.
        unsafe {
            let addend = vdupq_n_u8(addend as u8);
            [vaddq_u8(bytes[0], addend), vaddq_u8(bytes[1], addend)]
        }
    }

    #[inline(always)]
    fn fields(
        self,
        bytes: [uint8x16_t; 2],
        right: usize,
        mask: u8,
        left: usize,
    ) -> [uint8x16_t; 2] {
        // SAFETY: the token proves the feature.
        unsafe {
            // A shift to the left by less than zero is one to the right.
            let (right, left) = (vdupq_n_s8(-(right as i8)), vdupq_n_s8(left as i8));
            let mask = vdupq_n_u8(mask);
            [
                vshlq_u8(vandq_u8(vshlq_u8(bytes[0], right), mask), left),
                vshlq_u8(vandq_u8(vshlq_u8(bytes[1], right), mask), left),
            ]
        }
    }

    #[inline(always)]
    fn nibbles(self, bytes: &[u8; 16]) -> [uint8x16_t; 2] {
        // SAFETY: sixteen bytes are a vector, of which any bits are a value; the token proves the
        // feature.
        unsafe {
            let bytes: uint8x16_t = transmute(*bytes);
            [vandq_u8(bytes, vdupq_n_u8(15)), vshrq_n_u8::<4>(bytes)]
        }
    }

    #[inline(always)]
    fn spread_bits(self, bits: u32, value: u8) -> [uint8x16_t; 2] {
        // SAFETY: the token proves the feature.
        unsafe {
            let own_bit = vreinterpretq_u8_u64(vdupq_n_u64(0x8040_2010_0804_0201));
            let [a, b, c, d] = bits.to_le_bytes();
            let low = vcombine_u8(vdup_n_u8(a), vdup_n_u8(b));
            let high = vcombine_u8(vdup_n_u8(c), vdup_n_u8(d));
            let value = vdupq_n_u8(value);
            [vandq_u8(vtstq_u8(low, own_bit), value), vandq_u8(vtstq_u8(high, own_bit), value)]
        }
    }

    #[inline(always)]
    fn widen_bytes(self, bytes: &[i8; LANES]) -> [float32x4_t; 4] {
        // SAFETY: sixteen bytes are a vector, of which any bits are a value; the token proves the
        // feature.
        unsafe {
            let bytes: int8x16_t = transmute(*bytes);
            let (low, high) = (vmovl_s8(vget_low_s8(bytes)), vmovl_high_s8(bytes));
            [
                vcvtq_f32_s32(vmovl_s16(vget_low_s16(low))),
                vcvtq_f32_s32(vmovl_high_s16(low)),
                vcvtq_f32_s32(vmovl_s16(vget_low_s16(high))),
                vcvtq_f32_s32(vmovl_high_s16(high)),
            ]
        }
    }

    #[inline(always)]
    fn dot_quads(
        self,
        codes: [[uint8x16_t; 2]; 2],
        activations: &[[i8; BYTES]; 2],
        _signs: CodeSigns,
    ) -> [float32x4_t; 4] {
        // SAFETY: 64 codes are four vectors, of which any bits are a value; the token proves NEON
        // and what `P` needs.
        unsafe {
            let codes: [int8x16_t; 4] = transmute(codes);
            let activations: [int8x16_t; 4] = transmute(*activations);
            each!(I => vcvtq_f32_s32(P::dot(vdupq_n_s32(0), codes[I], activations[I])))
        }
    }

    #[inline(always)]
    fn spread_4(self, values: &[f32; 4]) -> [float32x4_t; 4] {
        // SAFETY: the token proves the feature.
        unsafe { each!(I => vdupq_n_f32(values[I])) }
    }

    #[inline(always)]
    fn spread_2(self, values: &[f32; 2]) -> [float32x4_t; 4] {
        // SAFETY: the token proves the feature.
        unsafe { each!(I => vdupq_n_f32(values[I / 2])) }
    }

    #[inline(always)]
    fn load_f16(self, halves: &[[u8; 2]; LANES]) -> [float32x4_t; 4] {
        // SAFETY: sixteen halves are four times four, of which any bits are a value; the token
        // proves NEON.
        unsafe {
            let halves: [uint16x4_t; 4] = transmute(*halves);
            each!(I => widen_f16(halves[I]))
        }
    }

    #[inline(always)]
    fn load_bf16(self, halves: &[[u8; 2]; LANES]) -> [float32x4_t; 4] {
        // SAFETY: sixteen halves are four times four, of which any bits are a value; the token
        // proves NEON.
        unsafe {
            let halves: [uint16x4_t; 4] = transmute(*halves);
            each!(I => vreinterpretq_f32_u32(vshlq_n_u32::<16>(vmovl_u16(halves[I]))))
        }
    }
}

/// `a` by two powers of two, of which only the second can round: see the scalar row.
///
/// # Safety
/// The machine has NEON.
#[inline(always)]
unsafe fn scale_by_power(a: float32x4_t, exponent: float32x4_t) -> float32x4_t {
    // SAFETY: the caller has NEON.
    unsafe {
        let exponent = vcvtq_s32_f32(exponent);
        let half = vshrq_n_s32::<1>(exponent);
        vmulq_f32(vmulq_f32(a, power_of_two(half)), power_of_two(vsubq_s32(exponent, half)))
    }
}

/// # Safety
/// The machine has NEON.
#[inline(always)]
unsafe fn power_of_two(exponent: int32x4_t) -> float32x4_t {
    // SAFETY: the caller has NEON.
    unsafe { vreinterpretq_f32_s32(vshlq_n_s32::<23>(vaddq_s32(exponent, vdupq_n_s32(127)))) }
}

/// `vcvt_f32_f16`, whose argument has no stable type in Rust 1.89.
///
/// # Safety
/// The machine has NEON.
#[inline(always)]
unsafe fn widen_f16(halves: uint16x4_t) -> float32x4_t {
    let widened;
    // SAFETY: the instruction is of NEON, and reads and writes the named registers alone.
    unsafe {
        asm!(
            "fcvtl {widened:v}.4s, {halves:v}.4h",
            widened = lateout(vreg) widened,
            halves = in(vreg) halves,
            options(pure, nomem, nostack, preserves_flags),
        );
    }
    widened
}

/// Lane `r` of vector `i` becomes lane `i` of vector `r`.
///
/// # Safety
/// The machine has NEON.
#[inline(always)]
unsafe fn transpose_4x4(rows: [uint32x4_t; 4]) -> [uint32x4_t; 4] {
    // SAFETY: the caller has NEON.
    unsafe {
        // Words 0 and 2 of two rows; words 1 and 3.
        let even_0 = vreinterpretq_u64_u32(vtrn1q_u32(rows[0], rows[1]));
        let even_2 = vreinterpretq_u64_u32(vtrn1q_u32(rows[2], rows[3]));
        let odd_0 = vreinterpretq_u64_u32(vtrn2q_u32(rows[0], rows[1]));
        let odd_2 = vreinterpretq_u64_u32(vtrn2q_u32(rows[2], rows[3]));
        [
            vreinterpretq_u32_u64(vtrn1q_u64(even_0, even_2)),
            vreinterpretq_u32_u64(vtrn1q_u64(odd_0, odd_2)),
            vreinterpretq_u32_u64(vtrn2q_u64(even_0, even_2)),
            vreinterpretq_u32_u64(vtrn2q_u64(odd_0, odd_2)),
        ]
    }
}
