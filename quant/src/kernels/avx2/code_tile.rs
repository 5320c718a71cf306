//! Products of panels of codes by quantized activations.
//!
//! `vpmaddubsw` adds two products in 16 bits and saturates. Codes of at most six bits, laid down
//! without their sign, leave room to add up to eight of its results before they have to become 32
//! bits wide: that takes half the instructions. Codes of eight bits are multiplied by their
//! magnitudes, the activations bearing the signs: 2 · 128 · 127 < 2^15.

use std::arch::{asm, x86_64::*};

use super::Avx2;
use crate::kernels::{
    CodePanel, CodeTile, Words,
    simd::{ACTIVATION_GROUP, Accumulators, LANES, TILE_TOKENS},
};

/// Tokens at a time: 8 of 16 registers are their sums with sixteen rows.
const TOKENS: usize = 4;

/// Adds to `sums` the products of a panel with a tile: see [`fast_product`](crate::kernels::tile).
#[inline(always)]
pub(super) fn multiply<const WORDS: usize, const HAS_MIN: bool>(
    proof: Avx2,
    panel: CodePanel<'_>,
    tokens: CodeTile<'_>,
    sums: &mut Accumulators,
) {
    match panel.code_bits {
        0..=4 => all_tokens::<WORDS, HAS_MIN, 8>(proof, panel, tokens, sums),
        5 => all_tokens::<WORDS, HAS_MIN, 4>(proof, panel, tokens, sums),
        6 => all_tokens::<WORDS, HAS_MIN, 2>(proof, panel, tokens, sums),
        _ => all_tokens::<WORDS, HAS_MIN, 0>(proof, panel, tokens, sums),
    }
}

/// The results of `RUN` words may be added in 16 bits; 0 is codes of eight bits.
#[inline(always)]
fn all_tokens<const WORDS: usize, const HAS_MIN: bool, const RUN: usize>(
    _proof: Avx2,
    panel: CodePanel<'_>,
    tokens: CodeTile<'_>,
    sums: &mut Accumulators,
) {
    for vector in 0..2 {
        for token in (0..TILE_TOKENS).step_by(TOKENS) {
            // SAFETY: the token proves AVX2 and FMA.
            unsafe { tile::<WORDS, HAS_MIN, RUN>(panel, vector, tokens, token, sums) };
        }
    }
}

/// Sixteen rows, from `vector`, by [`TOKENS`] tokens from `token` on.
#[target_feature(enable = "avx2,fma")]
fn tile<const WORDS: usize, const HAS_MIN: bool, const RUN: usize>(
    panel: CodePanel<'_>,
    vector: usize,
    tokens: CodeTile<'_>,
    token: usize,
    sums: &mut Accumulators,
) {
    assert!(vector < 2 && token + TOKENS <= TILE_TOKENS);
    let groups = panel.scales.len();
    let words = panel.words.as_chunks::<WORDS>().0;
    let activations = tokens.words.as_chunks::<WORDS>().0;
    let mins = panel.mins.unwrap_or(&[]);
    assert!(words.len() == groups && activations.len() == groups);
    assert!(tokens.negated_sums.len() == groups && (!HAS_MIN || mins.len() == groups));
    let lowest = f32::from(panel.lowest);
    // SAFETY: the function has AVX2 and FMA; what is read and written are halves of arrays.
    unsafe {
        let lowest = _mm256_set1_ps(-lowest);
        let mut totals = [[_mm256_setzero_ps(); 2]; TOKENS];
        for (t, totals) in totals.iter_mut().enumerate() {
            for (half, total) in totals.iter_mut().enumerate() {
                *total = load_half(&sums[token + t][vector].0, half);
            }
        }
        for group in 0..groups {
            let dots = if RUN == 0 {
                wide::<WORDS>(&words[group], vector, &activations[group], token)
            } else {
                narrow::<WORDS, RUN>(&words[group], vector, &activations[group], token)
            };
            let activation_scales = &tokens.scales[group * WORDS * 4 / ACTIVATION_GROUP];
            for (t, totals) in totals.iter_mut().enumerate() {
                let negated_sum = _mm256_set1_ps(tokens.negated_sums[group][token + t]);
                let activation_scale = _mm256_set1_ps(activation_scales[token + t]);
                for (half, total) in totals.iter_mut().enumerate() {
                    let mut dot = _mm256_cvtepi32_ps(dots[t][half]);
                    if RUN > 0 && !HAS_MIN {
                        // Whole numbers below 2^24: exact.
                        dot = _mm256_fmadd_ps(lowest, negated_sum, dot);
                    }
                    let scale = load_half(&panel.scales[group][vector].0, half);
                    let mut product = _mm256_mul_ps(dot, scale);
                    if HAS_MIN {
                        let min = load_half(&mins[group][vector].0, half);
                        product = _mm256_fmadd_ps(min, negated_sum, product);
                    }
                    *total = _mm256_fmadd_ps(product, activation_scale, *total);
                }
            }
        }
        for (t, totals) in totals.iter().enumerate() {
            for (half, &total) in totals.iter().enumerate() {
                let out = sums[token + t][vector].0.as_mut_ptr().add(8 * half);
                _mm256_storeu_ps(out, total);
            }
        }
    }
}

type Dots = [[__m256i; 2]; TOKENS];

/// The sums over a group of codes of at most six bits, which a panel has without their sign.
///
/// # Safety
/// The machine has AVX2.
#[inline(always)]
unsafe fn narrow<const WORDS: usize, const RUN: usize>(
    words: &[[Words; 2]; WORDS],
    vector: usize,
    activations: &[[u32; TILE_TOKENS]; WORDS],
    token: usize,
) -> Dots {
    // SAFETY: the caller has AVX2; what is read are halves of arrays.
    unsafe {
        let ones = _mm256_set1_epi16(1);
        let mut dots = [[_mm256_setzero_si256(); 2]; TOKENS];
        for run in 0..WORDS.div_ceil(RUN) {
            let mut pairs = [[_mm256_setzero_si256(); 2]; TOKENS];
            unrolled::<RUN>(
                #[inline(always)]
                |step| {
                    let word = run * RUN + step;
                    if word >= WORDS {
                        return;
                    }
                    let codes = codes(&words[word][vector]);
                    for (t, pairs) in pairs.iter_mut().enumerate() {
                        let activations = _mm256_set1_epi32(activations[word][token + t] as i32);
                        for (pairs, &codes) in pairs.iter_mut().zip(&codes) {
                            let products = _mm256_maddubs_epi16(codes, activations);
                            *pairs = _mm256_add_epi16(*pairs, products);
                        }
                    }
                    keep_order(&mut pairs);
                },
            );
            for (dots, pairs) in dots.iter_mut().zip(pairs) {
                for (dot, pairs) in dots.iter_mut().zip(pairs) {
                    *dot = _mm256_add_epi32(*dot, _mm256_madd_epi16(pairs, ones));
                }
            }
        }
        dots
    }
}

/// The sums over a group of codes of eight bits.
///
/// # Safety
/// The machine has AVX2.
#[inline(always)]
unsafe fn wide<const WORDS: usize>(
    words: &[[Words; 2]; WORDS],
    vector: usize,
    activations: &[[u32; TILE_TOKENS]; WORDS],
    token: usize,
) -> Dots {
    // SAFETY: the caller has AVX2; what is read are halves of arrays.
    unsafe {
        let ones = _mm256_set1_epi16(1);
        let mut dots = [[_mm256_setzero_si256(); 2]; TOKENS];
        unrolled::<WORDS>(
            #[inline(always)]
            |word| {
                let codes = codes(&words[word][vector]);
                let magnitudes = [_mm256_abs_epi8(codes[0]), _mm256_abs_epi8(codes[1])];
                for (t, dots) in dots.iter_mut().enumerate() {
                    let activations = _mm256_set1_epi32(activations[word][token + t] as i32);
                    for (half, dot) in dots.iter_mut().enumerate() {
                        let signed = _mm256_sign_epi8(activations, codes[half]);
                        let pairs = _mm256_maddubs_epi16(magnitudes[half], signed);
                        *dot = _mm256_add_epi32(*dot, _mm256_madd_epi16(pairs, ones));
                    }
                }
                keep_order(&mut dots);
            },
        );
        dots
    }
}

/// Makes the compiler have all sums in registers here. It would otherwise take the words of a group
/// token after token, and spill the codes.
#[inline]
#[target_feature(enable = "avx2")]
fn keep_order(sums: &mut Dots) {
    const { assert!(TOKENS == 4) };
    let [[a, b], [c, d], [e, f], [g, h]] = sums;
    // SAFETY: there is no instruction.
    unsafe {
        asm!(
            "/* {} {} {} {} {} {} {} {} */",
            inout(ymm_reg) * a,
            inout(ymm_reg) * b,
            inout(ymm_reg) * c,
            inout(ymm_reg) * d,
            inout(ymm_reg) * e,
            inout(ymm_reg) * f,
            inout(ymm_reg) * g,
            inout(ymm_reg) * h,
            options(nomem, nostack, preserves_flags)
        );
    }
}

/// # Safety
/// The machine has AVX2.
#[inline(always)]
unsafe fn load_half(lanes: &[f32; LANES], half: usize) -> __m256 {
    // SAFETY: 32 bytes are read from either half of an array of 16 f32.
    unsafe { _mm256_loadu_ps(lanes.as_ptr().add(8 * (half & 1))) }
}

/// The codes of sixteen rows.
///
/// # Safety
/// The machine has AVX2.
#[inline(always)]
unsafe fn codes(words: &Words) -> [__m256i; 2] {
    let words: *const __m256i = words.0.as_ptr().cast();
    // SAFETY: 32 bytes are read from either half of an array of 16 u32.
    unsafe { [_mm256_loadu_si256(words), _mm256_loadu_si256(words.add(1))] }
}

/// Calls `step` with `0..N`, for `N` of at most 8, without a loop: its counting would take an
/// eighth of the instructions.
#[inline(always)]
fn unrolled<const N: usize>(mut step: impl FnMut(usize)) {
    const { assert!(N <= 8) };
    if N > 0 {
        step(0);
    }
    if N > 1 {
        step(1);
    }
    if N > 2 {
        step(2);
    }
    if N > 3 {
        step(3);
    }
    if N > 4 {
        step(4);
    }
    if N > 5 {
        step(5);
    }
    if N > 6 {
        step(6);
    }
    if N > 7 {
        step(7);
    }
}
