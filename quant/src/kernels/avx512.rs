//! AVX-512: one register is sixteen lanes.
//!
//! 24 of the 32 registers are the sums of 32 rows with 12 tokens in f32 products, and 12 those of
//! 16 rows with 12 tokens in products of codes, where each step is one `vpdpbusd`.

use std::arch::x86_64::*;

use super::{
    Accumulators, BYTES, CodePanel, CodeSigns, CodeTile, LANES, Lanes, TILE_TOKENS, Words,
    byte_vectors::{byte_vectors, half_vectors},
    row,
    simd::Simd,
    tile,
};
use crate::packing::HalfLe;

/// Proof that the machine has the features of [`Isa::Avx512`].
#[derive(Clone, Copy, Debug)]
pub(super) struct Avx512(());

row! {
    Isa::Avx512, Avx512,
    target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")
}

impl Simd for Avx512 {
    type F = __m512;
    type I = __m512i;
    type M = __mmask16;
    type B = __m256i;
    type W = __m512i;

    #[inline(always)]
    unsafe fn assume() -> Avx512 {
        Avx512(())
    }

    #[inline(always)]
    fn splat(self, value: f32) -> __m512 {
        // SAFETY: the token proves AVX-512 F; so do those below.
        unsafe { _mm512_set1_ps(value) }
    }

    #[inline(always)]
    fn load(self, values: &[f32; LANES]) -> __m512 {
        // SAFETY: 64 bytes are read from an array of 16 f32.
        unsafe { _mm512_loadu_ps(values.as_ptr()) }
    }

    #[inline(always)]
    fn store(self, vector: __m512, out: &mut [f32; LANES]) {
        // SAFETY: 64 bytes are written to an array of 16 f32.
        unsafe { _mm512_storeu_ps(out.as_mut_ptr(), vector) }
    }

    #[inline(always)]
    fn add(self, a: __m512, b: __m512) -> __m512 {
        // SAFETY: the token proves the feature.
        unsafe { _mm512_add_ps(a, b) }
    }

    #[inline(always)]
    fn sub(self, a: __m512, b: __m512) -> __m512 {
        // SAFETY: the token proves the feature.
        unsafe { _mm512_sub_ps(a, b) }
    }

    #[inline(always)]
    fn mul(self, a: __m512, b: __m512) -> __m512 {
        // SAFETY: the token proves the feature.
        unsafe { _mm512_mul_ps(a, b) }
    }

    #[inline(always)]
    fn div(self, a: __m512, b: __m512) -> __m512 {
        // SAFETY: the token proves the feature.
        unsafe { _mm512_div_ps(a, b) }
    }

    #[inline(always)]
    fn mul_add(self, a: __m512, b: __m512, c: __m512) -> __m512 {
        // SAFETY: the token proves the feature.
        unsafe { _mm512_fmadd_ps(a, b, c) }
    }

    #[inline(always)]
    fn max(self, a: __m512, b: __m512) -> __m512 {
        // SAFETY: the token proves the feature.
        unsafe { _mm512_max_ps(a, b) }
    }

    #[inline(always)]
    fn min(self, a: __m512, b: __m512) -> __m512 {
        // SAFETY: the token proves the feature.
        unsafe { _mm512_min_ps(a, b) }
    }

    #[inline(always)]
    fn gt(self, a: __m512, b: __m512) -> __mmask16 {
        // SAFETY: the token proves the feature.
        unsafe { _mm512_cmp_ps_mask::<_CMP_GT_OQ>(a, b) }
    }

    #[inline(always)]
    fn select(self, mask: __mmask16, a: __m512, b: __m512) -> __m512 {
        // SAFETY: the token proves the feature.
        unsafe { _mm512_mask_blend_ps(mask, b, a) }
    }

    #[inline(always)]
    fn scale_by_power(self, a: __m512, exponent: __m512) -> __m512 {
        // SAFETY: the token proves the feature.
        unsafe { _mm512_scalef_ps(a, exponent) }
    }

    #[inline(always)]
    fn code_offset(self, _lowest: i8) -> u8 {
        128
    }

    #[inline(always)]
    fn load_codes(self, words: &Words) -> __m512i {
        // SAFETY: 64 bytes are read from an array of 16 u32.
        unsafe { _mm512_loadu_si512(words.0.as_ptr().cast()) }
    }

    #[inline(always)]
    fn seed(self, seed: i32) -> __m512i {
        // SAFETY: the token proves the feature.
        unsafe { _mm512_set1_epi32(seed) }
    }

    #[inline(always)]
    fn dot(self, sum: __m512i, codes: __m512i, activations: u32) -> __m512i {
        // SAFETY: the token proves AVX-512 VNNI.
        unsafe { _mm512_dpbusd_epi32(sum, codes, _mm512_set1_epi32(activations as i32)) }
    }

    #[inline(always)]
    fn to_float(self, sum: __m512i) -> __m512 {
        // SAFETY: the token proves the feature.
        unsafe { _mm512_cvtepi32_ps(sum) }
    }

    #[inline(always)]
    fn exact_tile(
        self,
        panel: &[[Lanes; 2]],
        tokens: &[[f32; TILE_TOKENS]],
        sums: &mut Accumulators,
    ) {
        tile::exact::<_, 2, TILE_TOKENS>(self, panel, 0, tokens, 0, sums);
    }

    #[inline(always)]
    fn fast_tile<const WORDS: usize, const HAS_MIN: bool>(
        self,
        panel: CodePanel<'_>,
        tokens: CodeTile<'_>,
        sums: &mut Accumulators,
    ) {
        for vector in 0..2 {
            tile::fast::<_, WORDS, HAS_MIN, TILE_TOKENS>(self, panel, vector, tokens, 0, sums);
        }
    }

    #[inline(always)]
    fn transpose(self, rows: [&[u32; LANES]; LANES]) -> [Words; LANES] {
        let mut out = [Words([0; LANES]); LANES];
        // SAFETY: 64 bytes are read from and written to arrays of 16 u32; the token proves
        // AVX-512 F.
        unsafe {
            let mut vectors = [_mm512_setzero_si512(); LANES];
            for (vector, row) in vectors.iter_mut().zip(rows) {
                *vector = _mm512_loadu_si512(row.as_ptr().cast());
            }
            for (column, out) in transpose_16x16(vectors).into_iter().zip(&mut out) {
                _mm512_storeu_si512(out.0.as_mut_ptr().cast(), column);
            }
        }
        out
    }

    #[inline(always)]
    fn dot_quads(
        self,
        codes: [__m256i; 2],
        activations: &[[i8; BYTES]; 2],
        signs: CodeSigns,
    ) -> __m512 {
        // SAFETY: 64 bytes are read from two arrays of 32; the token proves AVX-512 F, BW and VNNI.
        unsafe {
            let zero = _mm512_setzero_si512();
            let codes = _mm512_inserti64x4::<1>(_mm512_castsi256_si512(codes[0]), codes[1]);
            let activations = _mm512_loadu_si512(activations.as_ptr().cast());
            let sums = match signs {
                CodeSigns::NonNegative => _mm512_dpbusd_epi32(zero, codes, activations),
                CodeSigns::Both => {
                    let negative = _mm512_movepi8_mask(codes);
                    let signed = _mm512_mask_sub_epi8(activations, negative, zero, activations);
                    _mm512_dpbusd_epi32(zero, _mm512_abs_epi8(codes), signed)
                }
            };
            _mm512_cvtepi32_ps(sums)
        }
    }

    #[inline(always)]
    fn spread_4(self, values: &[f32; 4]) -> __m512 {
        // SAFETY: 16 bytes are read from an array of 4 f32.
        unsafe {
            let values = _mm512_castps128_ps512(_mm_loadu_ps(values.as_ptr()));
            let lanes = _mm512_setr_epi32(0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3);
            _mm512_permutexvar_ps(lanes, values)
        }
    }

    #[inline(always)]
    fn spread_2(self, values: &[f32; 2]) -> __m512 {
        // SAFETY: the token proves AVX-512 F.
        unsafe {
            _mm512_mask_blend_ps(0xff00, _mm512_set1_ps(values[0]), _mm512_set1_ps(values[1]))
        }
    }

    byte_vectors! {}

    #[inline(always)]
    fn widen_bytes(self, bytes: &[i8; LANES]) -> __m512 {
        // SAFETY: 16 bytes are read from an array of 16.
        unsafe { _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128(bytes.as_ptr().cast()))) }
    }

    #[inline(always)]
    fn load_f16(self, halves: &[[u8; 2]; LANES]) -> __m512 {
        // SAFETY: 32 bytes are read from an array of 16 halves.
        unsafe { _mm512_cvtph_ps(_mm256_loadu_si256(halves.as_ptr().cast())) }
    }

    #[inline(always)]
    fn load_bf16(self, halves: &[[u8; 2]; LANES]) -> __m512 {
        // SAFETY: 32 bytes are read from an array of 16 halves.
        unsafe {
            let halves = _mm256_loadu_si256(halves.as_ptr().cast());
            _mm512_castsi512_ps(_mm512_slli_epi32::<16>(_mm512_cvtepu16_epi32(halves)))
        }
    }

    #[inline(always)]
    fn widen_halves(self, halves: [HalfLe; LANES]) -> __m512 {
        // SAFETY: the token proves AVX-512 F.
        unsafe {
            let [low, high] = half_vectors(halves);
            _mm512_cvtph_ps(_mm256_set_m128i(high, low))
        }
    }
}

/// Lane `r` of vector `i` becomes lane `i` of vector `r`.
///
/// # Safety
/// The machine has AVX-512 F.
#[inline(always)]
unsafe fn transpose_16x16(rows: [__m512i; 16]) -> [__m512i; 16] {
    // SAFETY: the caller has AVX-512 F.
    unsafe {
        // Loops, as the closures of `array::from_fn` are compiled without the features.
        let mut pairs = rows;
        for (i, out) in pairs.iter_mut().enumerate() {
            let (a, b) = (rows[i & !1], rows[i | 1]);
            *out =
                if i % 2 == 0 { _mm512_unpacklo_epi32(a, b) } else { _mm512_unpackhi_epi32(a, b) };
        }
        // Vector i of a group of four has words i, i + 4, i + 8, i + 12 of its four rows.
        let mut fours = pairs;
        for (i, out) in fours.iter_mut().enumerate() {
            let first = i / 4 * 4 + i % 4 / 2;
            let (a, b) = (pairs[first], pairs[first + 2]);
            *out =
                if i % 2 == 0 { _mm512_unpacklo_epi64(a, b) } else { _mm512_unpackhi_epi64(a, b) };
        }
        // Of eight rows: words i and i + 8 in the low half of the vectors, then i + 4 and i + 12.
        let mut eights = fours;
        for (i, out) in eights.iter_mut().enumerate() {
            let first = i / 8 * 8 + i % 4;
            let (a, b) = (fours[first], fours[first + 4]);
            *out = if i % 8 < 4 {
                _mm512_shuffle_i32x4::<0b10_00_10_00>(a, b)
            } else {
                _mm512_shuffle_i32x4::<0b11_01_11_01>(a, b)
            };
        }
        let mut sixteens = eights;
        for (i, out) in sixteens.iter_mut().enumerate() {
            let (a, b) = (eights[i % 8], eights[i % 8 + 8]);
            *out = if i < 8 {
                _mm512_shuffle_i32x4::<0b10_00_10_00>(a, b)
            } else {
                _mm512_shuffle_i32x4::<0b11_01_11_01>(a, b)
            };
        }
        sixteens
    }
}
