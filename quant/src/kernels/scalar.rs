//! The scalar row: the oracle, which spells out what every other row computes.

use std::array;

use half::f16;

use super::{
    Accumulators, BYTES, CodePanel, CodeTile, LANES, Lanes, TILE_TOKENS, Words, row, simd::Simd,
    tile,
};

/// Portable code; needs no feature.
#[derive(Clone, Copy, Debug)]
pub(super) struct Scalar;

row! { Isa::Scalar, Scalar }

impl Simd for Scalar {
    type F = [f32; LANES];
    type I = [i32; LANES];
    type M = [bool; LANES];
    type B = [u8; BYTES];
    type W = [u32; LANES];

    #[inline(always)]
    unsafe fn assume() -> Scalar {
        Scalar
    }

    #[inline(always)]
    fn splat(self, value: f32) -> [f32; LANES] {
        [value; LANES]
    }

    #[inline(always)]
    fn load(self, values: &[f32; LANES]) -> [f32; LANES] {
        *values
    }

    #[inline(always)]
    fn store(self, vector: [f32; LANES], out: &mut [f32; LANES]) {
        *out = vector;
    }

    #[inline(always)]
    fn add(self, a: [f32; LANES], b: [f32; LANES]) -> [f32; LANES] {
        array::from_fn(|i| a[i] + b[i])
    }

    #[inline(always)]
    fn sub(self, a: [f32; LANES], b: [f32; LANES]) -> [f32; LANES] {
        array::from_fn(|i| a[i] - b[i])
    }

    #[inline(always)]
    fn mul(self, a: [f32; LANES], b: [f32; LANES]) -> [f32; LANES] {
        array::from_fn(|i| a[i] * b[i])
    }

    #[inline(always)]
    fn div(self, a: [f32; LANES], b: [f32; LANES]) -> [f32; LANES] {
        array::from_fn(|i| a[i] / b[i])
    }

    #[inline(always)]
    fn mul_add(self, a: [f32; LANES], b: [f32; LANES], c: [f32; LANES]) -> [f32; LANES] {
        array::from_fn(|i| a[i].mul_add(b[i], c[i]))
    }

    #[inline(always)]
    fn max(self, a: [f32; LANES], b: [f32; LANES]) -> [f32; LANES] {
        array::from_fn(|i| if a[i] > b[i] { a[i] } else { b[i] })
    }

    #[inline(always)]
    fn min(self, a: [f32; LANES], b: [f32; LANES]) -> [f32; LANES] {
        array::from_fn(|i| if a[i] < b[i] { a[i] } else { b[i] })
    }

    #[inline(always)]
    fn gt(self, a: [f32; LANES], b: [f32; LANES]) -> [bool; LANES] {
        array::from_fn(|i| a[i] > b[i])
    }

    #[inline(always)]
    fn select(self, mask: [bool; LANES], a: [f32; LANES], b: [f32; LANES]) -> [f32; LANES] {
        array::from_fn(|i| if mask[i] { a[i] } else { b[i] })
    }

    #[inline(always)]
    fn scale_by_power(self, a: [f32; LANES], exponent: [f32; LANES]) -> [f32; LANES] {
        // Two factors, as one may lie outside the normal numbers; only the second can round.
        array::from_fn(|i| {
            let exponent = exponent[i] as i32;
            let half = exponent >> 1;
            a[i] * power_of_two(half) * power_of_two(exponent - half)
        })
    }

    #[inline(always)]
    fn code_offset(self, _lowest: i8) -> u8 {
        0
    }

    #[inline(always)]
    fn load_codes(self, words: &Words) -> [u32; LANES] {
        words.0
    }

    #[inline(always)]
    fn seed(self, _seed: i32) -> [i32; LANES] {
        [0; LANES]
    }

    #[inline(always)]
    fn dot(self, sum: [i32; LANES], codes: [u32; LANES], activations: u32) -> [i32; LANES] {
        let activations = activations.to_ne_bytes().map(|a| i32::from(a as i8));
        array::from_fn(|i| {
            let codes = codes[i].to_ne_bytes().map(|c| c as i8);
            sum[i] + (0..4).map(|c| i32::from(codes[c]) * activations[c]).sum::<i32>()
        })
    }

    #[inline(always)]
    fn to_float(self, sum: [i32; LANES]) -> [f32; LANES] {
        sum.map(|s| s as f32)
    }

    #[inline(always)]
    fn exact_tile(
        self,
        panel: &[[Lanes; 2]],
        tokens: &[[f32; TILE_TOKENS]],
        sums: &mut Accumulators,
    ) {
        for token in 0..TILE_TOKENS {
            tile::exact::<_, 2, 1>(self, panel, 0, tokens, token, sums);
        }
    }

    #[inline(always)]
    fn fast_tile<const WORDS: usize, const HAS_MIN: bool>(
        self,
        panel: CodePanel<'_>,
        tokens: CodeTile<'_>,
        sums: &mut Accumulators,
    ) {
        for token in 0..TILE_TOKENS {
            tile::fast::<_, WORDS, HAS_MIN, 1>(self, panel, 0, tokens, token, sums);
            tile::fast::<_, WORDS, HAS_MIN, 1>(self, panel, 1, tokens, token, sums);
        }
    }

    #[inline(always)]
    fn transpose(self, rows: [&[u32; LANES]; LANES]) -> [Words; LANES] {
        array::from_fn(|i| Words(rows.map(|row| row[i])))
    }

    #[inline(always)]
    fn load_bytes(self, bytes: &[u8; BYTES]) -> [u8; BYTES] {
        *bytes
    }

    #[inline(always)]
    fn store_bytes(self, bytes: [u8; BYTES], out: &mut [i8; BYTES]) {
        *out = bytes.map(|byte| byte as i8);
    }

    #[inline(always)]
    fn or_bytes(self, a: [u8; BYTES], b: [u8; BYTES]) -> [u8; BYTES] {
        array::from_fn(|i| a[i] | b[i])
    }

    #[inline(always)]
    fn add_bytes(self, bytes: [u8; BYTES], addend: i8) -> [u8; BYTES] {
        bytes.map(|byte| byte.wrapping_add_signed(addend))
    }

    #[inline(always)]
    fn fields(self, bytes: [u8; BYTES], right: usize, mask: u8, left: usize) -> [u8; BYTES] {
        bytes.map(|byte| ((byte >> right) & mask) << left)
    }

    #[inline(always)]
    fn nibbles(self, bytes: &[u8; 16]) -> [u8; BYTES] {
        array::from_fn(|i| (bytes[i % 16] >> (i / 16 * 4)) & 15)
    }

    #[inline(always)]
    fn spread_bits(self, bits: u32, value: u8) -> [u8; BYTES] {
        array::from_fn(|i| if bits >> i & 1 == 1 { value } else { 0 })
    }

    #[inline(always)]
    fn widen_bytes(self, bytes: &[i8; LANES]) -> [f32; LANES] {
        bytes.map(f32::from)
    }

    #[inline(always)]
    fn load_f16(self, halves: &[[u8; 2]; LANES]) -> [f32; LANES] {
        halves.map(|half| f16::from_le_bytes(half).to_f32())
    }
}

#[inline(always)]
fn power_of_two(exponent: i32) -> f32 {
    f32::from_bits(((exponent + 127) as u32) << 23)
}
