//! Sixteen lanes: the one width in which every kernel is written.
//!
//! A kernel is a safe function over `S: Simd`. An instruction set is a token type that implements
//! [`Simd`] by its own registers (one of 512 bits, two of 256, or an array); its kernels are the
//! same function compiled again. As each operation here is defined lane by lane and rounds as IEEE
//! 754 says, all rows have the same bits.

use bytemuck::{Pod, Zeroable};

use super::CodeSigns;
use crate::packing::HalfLe;

/// Lanes of a vector.
pub(crate) const LANES: usize = 16;

/// Weight rows of a panel: two vectors.
pub(crate) const PANEL_ROWS: usize = 2 * LANES;

/// Tokens of a tile: 2 × 12 accumulators fill a 512-bit register file; half of them, a 256-bit one.
pub(crate) const TILE_TOKENS: usize = 12;

/// Activations that share a scale in `fast` products.
pub(crate) const ACTIVATION_GROUP: usize = 32;

/// Bytes of a vector of bytes.
pub(crate) const BYTES: usize = 32;

/// One f32 per lane.
#[derive(Clone, Copy, Debug, PartialEq, Pod, Zeroable)]
#[repr(C, align(64))]
pub(crate) struct Lanes(pub(crate) [f32; LANES]);

/// Four 8-bit codes per lane, first column in the lowest address.
#[derive(Clone, Copy, Debug, PartialEq, Pod, Zeroable)]
#[repr(C, align(64))]
pub(crate) struct Words(pub(crate) [u32; LANES]);

/// The sums of a panel of weight rows with a tile of tokens.
pub(crate) type Accumulators = [[Lanes; 2]; TILE_TOKENS];

/// An instruction set. The value is a token: to have one proves that the machine has the features,
/// so its methods are safe to call. They are `#[inline(always)]`, so that they become part of the
/// function with `#[target_feature]` that made the token.
pub(crate) trait Simd: Copy {
    /// Sixteen f32.
    type F: Copy;
    /// Sixteen i32.
    type I: Copy;
    /// Sixteen answers.
    type M: Copy;
    /// 32 bytes.
    type B: Copy;
    /// Sixteen words of weight codes, made ready for [`dot`](Self::dot).
    type W: Copy;

    /// The token.
    ///
    /// # Safety
    /// The machine has the features of the instruction set.
    unsafe fn assume() -> Self;

    fn splat(self, value: f32) -> Self::F;
    fn load(self, values: &[f32; LANES]) -> Self::F;
    fn store(self, vector: Self::F, out: &mut [f32; LANES]);
    fn add(self, a: Self::F, b: Self::F) -> Self::F;
    fn sub(self, a: Self::F, b: Self::F) -> Self::F;
    fn mul(self, a: Self::F, b: Self::F) -> Self::F;
    fn div(self, a: Self::F, b: Self::F) -> Self::F;
    /// `a * b + c`, rounded once.
    fn mul_add(self, a: Self::F, b: Self::F, c: Self::F) -> Self::F;
    /// `a` where `a > b`, otherwise `b`.
    fn max(self, a: Self::F, b: Self::F) -> Self::F;
    /// `a` where `a < b`, otherwise `b`.
    fn min(self, a: Self::F, b: Self::F) -> Self::F;
    /// Whether `a > b`.
    fn gt(self, a: Self::F, b: Self::F) -> Self::M;
    /// `a` where the answer is yes, otherwise `b`.
    fn select(self, mask: Self::M, a: Self::F, b: Self::F) -> Self::F;
    /// `a` times two to the power of the whole number `exponent` in -150..=128, rounded once;
    /// `a` is in 0.5..=2 or NaN.
    fn scale_by_power(self, a: Self::F, exponent: Self::F) -> Self::F;

    /// What panels add to codes of which the smallest is `lowest`.
    fn code_offset(self, lowest: i8) -> u8;
    /// Codes as a panel has them.
    fn load_codes(self, words: &Words) -> Self::W;
    /// What a sum over a group starts with, given -128 times the sum of the group's activations:
    /// that, where panels add 128 to the codes; otherwise zero.
    fn seed(self, seed: i32) -> Self::I;
    /// Adds to each lane the product of its four codes with the four of `activations`.
    fn dot(self, sum: Self::I, codes: Self::W, activations: u32) -> Self::I;
    /// [`dot`](Self::dot) as it is at its fastest, for codes of few bits; the sum of a burst of them
    /// need not be right.
    #[inline(always)]
    fn dot_narrow(self, sum: Self::I, codes: Self::W, activations: u32) -> Self::I {
        self.dot(sum, codes, activations)
    }
    fn to_float(self, sum: Self::I) -> Self::F;

    /// Adds the products of a panel with a tile: see [`super::tile::exact`].
    fn exact_tile(
        self,
        panel: &[[Lanes; 2]],
        tokens: &[[f32; TILE_TOKENS]],
        sums: &mut Accumulators,
    );

    /// Adds the products of a panel with a tile: see [`super::tile::fast`].
    fn fast_tile<const WORDS: usize, const HAS_MIN: bool>(
        self,
        panel: super::CodePanel<'_>,
        tokens: super::CodeTile<'_>,
        sums: &mut Accumulators,
    );

    /// Word `i` of `rows[r]` becomes lane `r` of vector `i`.
    fn transpose(self, rows: [&[u32; LANES]; LANES]) -> [Words; LANES];

    fn load_bytes(self, bytes: &[u8; BYTES]) -> Self::B;
    fn store_bytes(self, bytes: Self::B, out: &mut [i8; BYTES]);
    fn or_bytes(self, a: Self::B, b: Self::B) -> Self::B;
    /// Adds to each byte, wrapping.
    fn add_bytes(self, bytes: Self::B, addend: i8) -> Self::B;
    /// Of each byte `((byte >> right) & mask) << left`, which fits a byte.
    fn fields(self, bytes: Self::B, right: usize, mask: u8, left: usize) -> Self::B;
    /// The low halves of sixteen bytes, and after them the high halves.
    fn nibbles(self, bytes: &[u8; 16]) -> Self::B;
    /// `value` in each byte whose bit is set, the lowest first; zero in the others.
    fn spread_bits(self, bits: u32, value: u8) -> Self::B;
    /// Sixteen bytes as f32.
    fn widen_bytes(self, bytes: &[i8; LANES]) -> Self::F;

    /// In each lane the exact sum of four of 64 codes by four activations of -127..=127.
    #[inline(always)]
    fn dot_quads(
        self,
        codes: [Self::B; 2],
        activations: &[[i8; BYTES]; 2],
        _signs: CodeSigns,
    ) -> Self::F {
        let mut stored = [[0; BYTES]; 2];
        for (codes, out) in codes.into_iter().zip(&mut stored) {
            self.store_bytes(codes, out);
        }
        let mut sums = [0.0; LANES];
        let quads = stored.as_flattened().as_chunks::<4>().0.iter();
        let quads = quads.zip(activations.as_flattened().as_chunks::<4>().0);
        for (sum, (codes, activations)) in sums.iter_mut().zip(quads) {
            let products =
                codes.iter().zip(activations).map(|(&c, &a)| i32::from(c) * i32::from(a));
            *sum = products.sum::<i32>() as f32;
        }
        self.load(&sums)
    }

    /// Each of four values in four lanes.
    #[inline(always)]
    fn spread_4(self, values: &[f32; 4]) -> Self::F {
        let mut lanes = [0.0; LANES];
        for (i, lane) in lanes.iter_mut().enumerate() {
            *lane = values[i / 4];
        }
        self.load(&lanes)
    }

    /// Each of two values in eight lanes.
    #[inline(always)]
    fn spread_2(self, values: &[f32; 2]) -> Self::F {
        let mut lanes = [0.0; LANES];
        for (i, lane) in lanes.iter_mut().enumerate() {
            *lane = values[i / 8];
        }
        self.load(&lanes)
    }

    /// Has the cache fetch as many bytes as `bytes` has, `distance` behind them; there need not be
    /// any.
    #[inline(always)]
    fn prefetch_behind(self, _bytes: &[u8], _distance: usize) {}

    /// The f32 of a half-precision number.
    #[inline(always)]
    fn widen_half(self, half: HalfLe) -> f32 {
        half.to_f32()
    }

    /// The f32 of sixteen half-precision numbers, little endian.
    fn load_f16(self, halves: &[[u8; 2]; LANES]) -> Self::F;

    /// The f32 of sixteen upper halves of f32, little endian.
    #[inline(always)]
    fn load_bf16(self, halves: &[[u8; 2]; LANES]) -> Self::F {
        let mut widened = [0.0; LANES];
        for (out, &[low, high]) in widened.iter_mut().zip(halves) {
            *out = f32::from_le_bytes([0, 0, low, high]);
        }
        self.load(&widened)
    }

    /// [`load_f16`](Self::load_f16) of halves from sixteen places.
    #[inline(always)]
    fn widen_halves(self, halves: [HalfLe; LANES]) -> Self::F {
        self.load_f16(&bytemuck::cast(halves))
    }
}
