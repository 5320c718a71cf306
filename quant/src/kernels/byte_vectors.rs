//! 32 bytes in a 256-bit register, and halves, for both rows of x86-64.

use std::arch::x86_64::{__m128i, _mm_setr_epi16, _mm_setzero_si128};

use super::simd::LANES;
use crate::packing::HalfLe;

/// Methods of [`Simd`](super::Simd) for types whose token proves AVX2 and F16C.
macro_rules! byte_vectors {
    () => {
        #[inline(always)]
        fn load_bytes(self, bytes: &[u8; BYTES]) -> __m256i {
            // SAFETY: 32 bytes are read from an array of 32.
            unsafe { _mm256_loadu_si256(bytes.as_ptr().cast()) }
        }

        #[inline(always)]
        fn store_bytes(self, bytes: __m256i, out: &mut [i8; BYTES]) {
            // SAFETY: 32 bytes are written to an array of 32.
            unsafe { _mm256_storeu_si256(out.as_mut_ptr().cast(), bytes) }
        }

        #[inline(always)]
        fn widen_half(self, half: crate::packing::HalfLe) -> f32 {
            // SAFETY: the token proves F16C.
            unsafe { _mm_cvtss_f32(_mm_cvtph_ps(_mm_cvtsi32_si128(i32::from(half.to_bits())))) }
        }

        #[inline(always)]
        fn prefetch_behind(self, bytes: &[u8], distance: usize) {
            let first = bytes.as_ptr().wrapping_add(distance);
            for line in 0..bytes.len().div_ceil(64) {
                // SAFETY: an address that is fetched need not be readable.
                unsafe { _mm_prefetch::<_MM_HINT_T0>(first.wrapping_add(64 * line).cast()) };
            }
        }

        #[inline(always)]
        fn or_bytes(self, a: __m256i, b: __m256i) -> __m256i {
            // SAFETY: the token proves the feature.
            unsafe { _mm256_or_si256(a, b) }
        }

        #[inline(always)]
        fn add_bytes(self, bytes: __m256i, addend: i8) -> __m256i {
            // SAFETY: the token proves the feature.
            unsafe { _mm256_add_epi8(bytes, _mm256_set1_epi8(addend)) }
        }

        #[inline(always)]
        fn fields(self, bytes: __m256i, right: usize, mask: u8, left: usize) -> __m256i {
            // SAFETY: the token proves the feature.
            unsafe {
                // Bits of the neighbour come in where the mask has none.
                let moved = if left > right {
                    _mm256_sll_epi16(bytes, _mm_cvtsi32_si128((left - right) as i32))
                } else {
                    _mm256_srl_epi16(bytes, _mm_cvtsi32_si128((right - left) as i32))
                };
                _mm256_and_si256(moved, _mm256_set1_epi8((mask << left) as i8))
            }
        }

        #[inline(always)]
        fn nibbles(self, bytes: &[u8; 16]) -> __m256i {
            // SAFETY: 16 bytes are read from an array of 16.
            unsafe {
                let low = _mm_loadu_si128(bytes.as_ptr().cast());
                let both = _mm256_set_m128i(_mm_srli_epi16::<4>(low), low);
                _mm256_and_si256(both, _mm256_set1_epi8(15))
            }
        }

        #[inline(always)]
        fn spread_bits(self, bits: u32, value: u8) -> __m256i {
            // SAFETY: the token proves the feature.
            unsafe {
                let byte_of_each = _mm256_setr_epi64x(
                    0,
                    0x0101_0101_0101_0101,
                    0x0202_0202_0202_0202,
                    0x0303_0303_0303_0303,
                );
                let own_byte = _mm256_shuffle_epi8(_mm256_set1_epi32(bits as i32), byte_of_each);
                let own_bit = _mm256_set1_epi64x(0x8040_2010_0804_0201_u64 as i64);
                let set = _mm256_cmpeq_epi8(_mm256_and_si256(own_byte, own_bit), own_bit);
                _mm256_and_si256(set, _mm256_set1_epi8(value as i8))
            }
        }
    };
}

pub(super) use byte_vectors;

/// Halves from sixteen places: gathered in registers, as stores of two bytes each would hold up the
/// load of all.
///
/// # Safety
/// The machine has AVX2.
#[inline(always)]
pub(super) unsafe fn half_vectors(halves: [HalfLe; LANES]) -> [__m128i; 2] {
    // SAFETY: the caller has AVX2.
    let mut vectors = unsafe { [_mm_setzero_si128(); 2] };
    for (vector, halves) in vectors.iter_mut().zip(halves.as_chunks::<8>().0) {
        let [a, b, c, d, e, f, g, h] = *halves;
        // SAFETY: the caller has AVX2.
        *vector = unsafe {
            _mm_setr_epi16(
                a.to_bits() as i16,
                b.to_bits() as i16,
                c.to_bits() as i16,
                d.to_bits() as i16,
                e.to_bits() as i16,
                f.to_bits() as i16,
                g.to_bits() as i16,
                h.to_bits() as i16,
            )
        };
    }
    vectors
}
