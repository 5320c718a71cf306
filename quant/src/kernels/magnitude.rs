//! The largest magnitude of many numbers, NaN and infinities included: their bits without the sign
//! have the order of the magnitudes, and those of NaN and infinities are above all others.

use super::simd::Simd;

#[inline(always)]
pub(crate) fn largest_magnitude<S: Simd>(_simd: S, values: &[f32]) -> u32 {
    // Signed numbers, because the plainest machines compare no others at once.
    let mut largest = 0i32;
    for value in values {
        largest = largest.max((value.to_bits() & 0x7fff_ffff) as i32);
    }
    largest as u32
}

#[inline(always)]
pub(crate) fn largest_magnitude_16<S: Simd>(_simd: S, numbers: &[[u8; 2]]) -> u16 {
    let mut largest = 0i16;
    for number in numbers {
        largest = largest.max(i16::from_le_bytes(*number) & 0x7fff);
    }
    largest as u16
}
