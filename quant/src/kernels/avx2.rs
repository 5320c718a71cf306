//! AVX2 with FMA: two registers are sixteen lanes.
//!
//! 12 of the 16 registers are the sums of 16 rows with 6 tokens in f32 products. Products of codes
//! have no instruction that can take codes of eight bits without saturating; magnitudes of weights
//! by activations that bear the weights' signs stay within 2 · 128 · 127 < 2^15.

use std::arch::x86_64::*;

use super::{
    Accumulators, BYTES, CodePanel, CodeSigns, CodeTile, LANES, Lanes, TILE_TOKENS, Words,
    byte_vectors::{byte_vectors, half_vectors},
    row,
    simd::Simd,
    tile,
};
use crate::packing::HalfLe;

mod code_tile;

/// Proof that the machine has the features of [`Isa::Avx2`](super::Isa::Avx2).
#[derive(Clone, Copy, Debug)]
pub(super) struct Avx2(());

row! { Isa::Avx2, Avx2, target_feature(enable = "avx2,fma,f16c") }

/// Signed codes of sixteen rows, and their magnitudes.
#[derive(Clone, Copy)]
pub(super) struct Codes {
    codes: [__m256i; 2],
    magnitudes: [__m256i; 2],
}

impl Simd for Avx2 {
    type F = [__m256; 2];
    type I = [__m256i; 2];
    type M = [__m256; 2];
    type B = __m256i;
    type W = Codes;

    #[inline(always)]
    unsafe fn assume() -> Avx2 {
        Avx2(())
    }

    #[inline(always)]
    fn splat(self, value: f32) -> [__m256; 2] {
        // SAFETY: the token proves AVX2 and FMA, here and below.
        unsafe { [_mm256_set1_ps(value); 2] }
    }

    #[inline(always)]
    fn load(self, values: &[f32; LANES]) -> [__m256; 2] {
        // SAFETY: 32 bytes are read from either half of an array of 16 f32.
        unsafe { [_mm256_loadu_ps(values.as_ptr()), _mm256_loadu_ps(values.as_ptr().add(8))] }
    }

    #[inline(always)]
    fn store(self, vector: [__m256; 2], out: &mut [f32; LANES]) {
        // SAFETY: 32 bytes are written to either half of an array of 16 f32.
        unsafe {
            _mm256_storeu_ps(out.as_mut_ptr(), vector[0]);
            _mm256_storeu_ps(out.as_mut_ptr().add(8), vector[1]);
        }
    }

    #[inline(always)]
    fn add(self, a: [__m256; 2], b: [__m256; 2]) -> [__m256; 2] {
        // SAFETY: the token proves the feature.
        unsafe { [_mm256_add_ps(a[0], b[0]), _mm256_add_ps(a[1], b[1])] }
    }

    #[inline(always)]
    fn sub(self, a: [__m256; 2], b: [__m256; 2]) -> [__m256; 2] {
        // SAFETY: the token proves the feature.
        unsafe { [_mm256_sub_ps(a[0], b[0]), _mm256_sub_ps(a[1], b[1])] }
    }

    #[inline(always)]
    fn mul(self, a: [__m256; 2], b: [__m256; 2]) -> [__m256; 2] {
        // SAFETY: the token proves the feature.
        unsafe { [_mm256_mul_ps(a[0], b[0]), _mm256_mul_ps(a[1], b[1])] }
    }

    #[inline(always)]
    fn div(self, a: [__m256; 2], b: [__m256; 2]) -> [__m256; 2] {
        // SAFETY: the token proves the feature.
        unsafe { [_mm256_div_ps(a[0], b[0]), _mm256_div_ps(a[1], b[1])] }
    }

    #[inline(always)]
    fn mul_add(self, a: [__m256; 2], b: [__m256; 2], c: [__m256; 2]) -> [__m256; 2] {
        // SAFETY: the token proves the feature.
        unsafe { [_mm256_fmadd_ps(a[0], b[0], c[0]), _mm256_fmadd_ps(a[1], b[1], c[1])] }
    }

    #[inline(always)]
    fn max(self, a: [__m256; 2], b: [__m256; 2]) -> [__m256; 2] {
        // SAFETY: the token proves the feature.
        unsafe { [_mm256_max_ps(a[0], b[0]), _mm256_max_ps(a[1], b[1])] }
    }

    #[inline(always)]
    fn min(self, a: [__m256; 2], b: [__m256; 2]) -> [__m256; 2] {
        // SAFETY: the token proves the feature.
        unsafe { [_mm256_min_ps(a[0], b[0]), _mm256_min_ps(a[1], b[1])] }
    }

    #[inline(always)]
    fn gt(self, a: [__m256; 2], b: [__m256; 2]) -> [__m256; 2] {
        // SAFETY: the token proves the feature.
        unsafe {
            [_mm256_cmp_ps::<_CMP_GT_OQ>(a[0], b[0]), _mm256_cmp_ps::<_CMP_GT_OQ>(a[1], b[1])]
        }
    }

    #[inline(always)]
    fn select(self, mask: [__m256; 2], a: [__m256; 2], b: [__m256; 2]) -> [__m256; 2] {
        // SAFETY: the token proves the feature.
        unsafe { [_mm256_blendv_ps(b[0], a[0], mask[0]), _mm256_blendv_ps(b[1], a[1], mask[1])] }
    }

    #[inline(always)]
    fn scale_by_power(self, a: [__m256; 2], exponent: [__m256; 2]) -> [__m256; 2] {
        [scale_by_power(self, a[0], exponent[0]), scale_by_power(self, a[1], exponent[1])]
    }

    #[inline(always)]
    fn code_offset(self, lowest: i8) -> u8 {
        if lowest == i8::MIN { 0 } else { lowest.unsigned_abs() }
    }

    #[inline(always)]
    fn load_codes(self, words: &Words) -> Codes {
        let words: *const __m256i = words.0.as_ptr().cast();
        // SAFETY: 32 bytes are read from either half of an array of 16 u32.
        unsafe {
            let codes = [_mm256_loadu_si256(words), _mm256_loadu_si256(words.add(1))];
            Codes { codes, magnitudes: [_mm256_abs_epi8(codes[0]), _mm256_abs_epi8(codes[1])] }
        }
    }

    #[inline(always)]
    fn seed(self, _seed: i32) -> [__m256i; 2] {
        // SAFETY: the token proves the feature.
        unsafe { [_mm256_setzero_si256(); 2] }
    }

    #[inline(always)]
    fn dot(self, sum: [__m256i; 2], codes: Codes, activations: u32) -> [__m256i; 2] {
        // SAFETY: the token proves the feature.
        unsafe {
            let activations = _mm256_set1_epi32(activations as i32);
            let ones = _mm256_set1_epi16(1);
            let add = |half: usize| {
                let signed = _mm256_sign_epi8(activations, codes.codes[half]);
                let pairs = _mm256_maddubs_epi16(codes.magnitudes[half], signed);
                _mm256_add_epi32(sum[half], _mm256_madd_epi16(pairs, ones))
            };
            [add(0), add(1)]
        }
    }

    #[inline(always)]
    fn dot_narrow(self, sum: [__m256i; 2], codes: Codes, activations: u32) -> [__m256i; 2] {
        // SAFETY: the token proves the feature.
        unsafe {
            let activations = _mm256_set1_epi32(activations as i32);
            let add = |half: usize| {
                let pairs = _mm256_maddubs_epi16(codes.codes[half], activations);
                _mm256_add_epi16(sum[half], pairs)
            };
            [add(0), add(1)]
        }
    }

    #[inline(always)]
    fn to_float(self, sum: [__m256i; 2]) -> [__m256; 2] {
        // SAFETY: the token proves the feature.
        unsafe { [_mm256_cvtepi32_ps(sum[0]), _mm256_cvtepi32_ps(sum[1])] }
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
        code_tile::multiply::<WORDS, HAS_MIN>(self, panel, tokens, sums);
    }

    #[inline(always)]
    fn transpose(self, rows: [&[u32; LANES]; LANES]) -> [Words; LANES] {
        let mut out = [Words([0; LANES]); LANES];
        for (first_row, first_word) in [(0, 0), (0, 8), (8, 0), (8, 8)] {
            // SAFETY: 32 bytes are read from word 0 or 8 of an array of 16 u32.
            let columns = unsafe {
                let mut vectors = [_mm256_setzero_si256(); 8];
                for (vector, row) in vectors.iter_mut().zip(&rows[first_row..]) {
                    let words = row.as_ptr().add(first_word).cast();
                    *vector = _mm256_loadu_si256(words);
                }
                transpose_8x8(vectors)
            };
            for (column, out) in columns.into_iter().zip(&mut out[first_word..]) {
                // SAFETY: 32 bytes are written to word 0 or 8 of an array of 16 u32.
                unsafe { _mm256_storeu_si256(out.0.as_mut_ptr().add(first_row).cast(), column) };
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
    ) -> [__m256; 2] {
        // SAFETY: 32 bytes are read from arrays of 32; the token proves AVX2.
        unsafe {
            let mut sums = [_mm256_setzero_ps(); 2];
            for (half, sum) in sums.iter_mut().enumerate() {
                let codes = codes[half];
                let activations = _mm256_loadu_si256(activations[half].as_ptr().cast());
                let pairs = match signs {
                    CodeSigns::NonNegative => _mm256_maddubs_epi16(codes, activations),
                    CodeSigns::Both => {
                        let signed = _mm256_sign_epi8(activations, codes);
                        _mm256_maddubs_epi16(_mm256_abs_epi8(codes), signed)
                    }
                };
                *sum = _mm256_cvtepi32_ps(_mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
            }
            sums
        }
    }

    #[inline(always)]
    fn spread_4(self, values: &[f32; 4]) -> [__m256; 2] {
        // SAFETY: 16 bytes are read from an array of 4 f32.
        unsafe {
            let values = _mm256_broadcast_ps(&_mm_loadu_ps(values.as_ptr()));
            let low = _mm256_setr_epi32(0, 0, 0, 0, 1, 1, 1, 1);
            let high = _mm256_setr_epi32(2, 2, 2, 2, 3, 3, 3, 3);
            [_mm256_permutevar_ps(values, low), _mm256_permutevar_ps(values, high)]
        }
    }

    #[inline(always)]
    fn spread_2(self, values: &[f32; 2]) -> [__m256; 2] {
        // SAFETY: the token proves AVX2.
        unsafe { [_mm256_broadcast_ss(&values[0]), _mm256_broadcast_ss(&values[1])] }
    }

    byte_vectors! {}

    #[inline(always)]
    fn widen_bytes(self, bytes: &[i8; LANES]) -> [__m256; 2] {
        // SAFETY: 16 bytes are read from an array of 16.
        unsafe {
            let bytes = _mm_loadu_si128(bytes.as_ptr().cast());
            [
                _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(bytes)),
                _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_srli_si128::<8>(bytes))),
            ]
        }
    }

    #[inline(always)]
    fn load_f16(self, halves: &[[u8; 2]; LANES]) -> [__m256; 2] {
        let halves: *const __m128i = halves.as_ptr().cast();
        // SAFETY: 16 bytes are read from either half of an array of 16 halves; the token proves
        // F16C.
        unsafe {
            [
                _mm256_cvtph_ps(_mm_loadu_si128(halves)),
                _mm256_cvtph_ps(_mm_loadu_si128(halves.add(1))),
            ]
        }
    }

    #[inline(always)]
    fn load_bf16(self, halves: &[[u8; 2]; LANES]) -> [__m256; 2] {
        let halves: *const __m128i = halves.as_ptr().cast();
        // SAFETY: 16 bytes are read from either half of an array of 16 halves.
        unsafe {
            let low = _mm256_cvtepu16_epi32(_mm_loadu_si128(halves));
            let high = _mm256_cvtepu16_epi32(_mm_loadu_si128(halves.add(1)));
            [
                _mm256_castsi256_ps(_mm256_slli_epi32::<16>(low)),
                _mm256_castsi256_ps(_mm256_slli_epi32::<16>(high)),
            ]
        }
    }

    #[inline(always)]
    fn widen_halves(self, halves: [HalfLe; LANES]) -> [__m256; 2] {
        // SAFETY: the token proves F16C.
        unsafe {
            let [low, high] = half_vectors(halves);
            [_mm256_cvtph_ps(low), _mm256_cvtph_ps(high)]
        }
    }
}

/// `a` by two powers of two, of which only the second can round: see the scalar row.
#[inline(always)]
fn scale_by_power(_proof: Avx2, a: __m256, exponent: __m256) -> __m256 {
    // SAFETY: the token proves AVX2.
    unsafe {
        let exponent = _mm256_cvtps_epi32(exponent);
        let half = _mm256_srai_epi32::<1>(exponent);
        let power = |exponent| {
            let biased = _mm256_add_epi32(exponent, _mm256_set1_epi32(127));
            _mm256_castsi256_ps(_mm256_slli_epi32::<23>(biased))
        };
        let once = _mm256_mul_ps(a, power(half));
        _mm256_mul_ps(once, power(_mm256_sub_epi32(exponent, half)))
    }
}

/// Lane `r` of vector `i` becomes lane `i` of vector `r`.
///
/// # Safety
/// The machine has AVX2.
#[inline(always)]
unsafe fn transpose_8x8(rows: [__m256i; 8]) -> [__m256i; 8] {
    // SAFETY: the caller has AVX2.
    unsafe {
        // Loops, as the closures of `array::from_fn` are compiled without the features.
        let mut pairs = rows;
        for (i, out) in pairs.iter_mut().enumerate() {
            let (a, b) = (rows[i & !1], rows[i | 1]);
            *out =
                if i % 2 == 0 { _mm256_unpacklo_epi32(a, b) } else { _mm256_unpackhi_epi32(a, b) };
        }
        // Vector i of a group of four has words i and i + 4 of its four rows.
        let mut fours = pairs;
        for (i, out) in fours.iter_mut().enumerate() {
            let (a, b) = (pairs[i / 4 * 4 + i % 4 / 2], pairs[i / 4 * 4 + i % 4 / 2 + 2]);
            *out =
                if i % 2 == 0 { _mm256_unpacklo_epi64(a, b) } else { _mm256_unpackhi_epi64(a, b) };
        }
        let mut eights = fours;
        for (i, out) in eights.iter_mut().enumerate() {
            let (a, b) = (fours[i % 4], fours[i % 4 + 4]);
            *out = if i < 4 {
                _mm256_permute2x128_si256::<0x20>(a, b)
            } else {
                _mm256_permute2x128_si256::<0x31>(a, b)
            };
        }
        eights
    }
}
