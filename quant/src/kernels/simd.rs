//! Sixteen lanes: the one width in which every kernel is written.
//!
//! A kernel is a safe function over `S: Simd`. An instruction set is a token type that implements
//! [`Simd`] by its own registers (one of 512 bits, two of 256, or an array); its kernels are the
//! same function compiled again. As each operation here is defined lane by lane and rounds as IEEE
//! 754 says, all rows have the same bits.

use bytemuck::{Pod, Zeroable};

/// Lanes of a vector.
pub(crate) const LANES: usize = 16;

/// Weight rows of a panel: two vectors.
pub(crate) const PANEL_ROWS: usize = 2 * LANES;

/// Tokens of a tile: 2 × 12 accumulators fill a 512-bit register file; half of them, a 256-bit one.
pub(crate) const TILE_TOKENS: usize = 12;

/// Activations that share a scale in `fast` products.
pub(crate) const ACTIVATION_GROUP: usize = 32;

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

    /// The f32 of sixteen half-precision numbers, little endian.
    fn load_f16(self, halves: &[[u8; 2]; LANES]) -> Self::F;
}
