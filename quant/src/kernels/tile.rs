//! The two inner loops of all matrix products, for any instruction set.

use super::{
    CodePanel, CodeTile,
    simd::{ACTIVATION_GROUP, Accumulators, Lanes, Simd, TILE_TOKENS},
};

/// Adds to `sums` the products of a panel with a tile, column after column, each by one fused
/// multiply-add: so every sum is one chain in the order of the columns, whatever the tile's shape.
#[inline(always)]
pub(crate) fn exact_product<S: Simd>(
    simd: S,
    panel: &[[Lanes; 2]],
    tokens: &[[f32; TILE_TOKENS]],
    sums: &mut Accumulators,
) {
    simd.exact_tile(panel, tokens, sums);
}

/// What the instruction set adds to codes of which the smallest is `lowest`.
#[inline(always)]
pub(crate) fn code_offset<S: Simd>(simd: S, lowest: i8) -> u8 {
    simd.code_offset(lowest)
}

/// Adds to `sums` the products of a panel of codes with a tile of quantized activations. For each
/// group of weights that share a scale, with `d` the exact integer sum of code times code:
///
/// `sum = fma(fma(min, -Σ activations, d * scale), activation scale, sum)`,
///
/// the inner fma only in formats with a minimum.
#[inline(always)]
pub(crate) fn fast_product<S: Simd>(
    simd: S,
    panel: CodePanel<'_>,
    tokens: CodeTile<'_>,
    sums: &mut Accumulators,
) {
    match (panel.group, panel.mins.is_some()) {
        (16, false) => simd.fast_tile::<4, false>(panel, tokens, sums),
        (16, true) => simd.fast_tile::<4, true>(panel, tokens, sums),
        (_, false) => simd.fast_tile::<8, false>(panel, tokens, sums),
        (_, true) => simd.fast_tile::<8, true>(panel, tokens, sums),
    }
}

/// [`exact_product`] for the `VECTORS` vectors of rows from `vector` on and the `TOKENS` tokens
/// from `token` on: as many chains as the registers hold.
#[inline(always)]
pub(crate) fn exact<S: Simd, const VECTORS: usize, const TOKENS: usize>(
    simd: S,
    panel: &[[Lanes; 2]],
    vector: usize,
    tokens: &[[f32; TILE_TOKENS]],
    token: usize,
    sums: &mut Accumulators,
) {
    assert!(vector + VECTORS <= 2 && token + TOKENS <= TILE_TOKENS);
    assert_eq!(panel.len(), tokens.len());
    let mut chains = [[simd.splat(0.0); VECTORS]; TOKENS];
    for (t, chains) in chains.iter_mut().enumerate() {
        for (v, chain) in chains.iter_mut().enumerate() {
            *chain = simd.load(&sums[token + t][vector + v].0);
        }
    }
    for (weights, activations) in panel.iter().zip(tokens) {
        let mut column = [simd.splat(0.0); VECTORS];
        for (v, weights_v) in column.iter_mut().enumerate() {
            *weights_v = simd.load(&weights[vector + v].0);
        }
        for (t, chains) in chains.iter_mut().enumerate() {
            let activation = simd.splat(activations[token + t]);
            for (v, chain) in chains.iter_mut().enumerate() {
                *chain = simd.mul_add(column[v], activation, *chain);
            }
        }
    }
    for (t, chains) in chains.iter().enumerate() {
        for (v, &chain) in chains.iter().enumerate() {
            simd.store(chain, &mut sums[token + t][vector + v].0);
        }
    }
}

/// [`fast_product`] for vector `vector` of the rows and the `TOKENS` tokens from `token` on, with
/// groups of `WORDS` times four columns.
#[inline(always)]
pub(crate) fn fast<S: Simd, const WORDS: usize, const HAS_MIN: bool, const TOKENS: usize>(
    simd: S,
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
    assert!(words.len() == groups && activations.len() == groups && tokens.seeds.len() == groups);
    assert!(!HAS_MIN || mins.len() == groups && tokens.negated_sums.len() == groups);
    let mut totals = [simd.splat(0.0); TOKENS];
    for (t, total) in totals.iter_mut().enumerate() {
        *total = simd.load(&sums[token + t][vector].0);
    }
    for group in 0..groups {
        let mut dots = [simd.seed(0); TOKENS];
        for (t, dot) in dots.iter_mut().enumerate() {
            *dot = simd.seed(tokens.seeds[group][token + t]);
        }
        for (words, activations) in words[group].iter().zip(&activations[group]) {
            let codes = simd.load_codes(&words[vector]);
            for (t, dot) in dots.iter_mut().enumerate() {
                *dot = simd.dot(*dot, codes, activations[token + t]);
            }
        }
        let scale = simd.load(&panel.scales[group][vector].0);
        let activation_scales = &tokens.scales[group * WORDS * 4 / ACTIVATION_GROUP];
        for (t, total) in totals.iter_mut().enumerate() {
            let mut product = simd.mul(simd.to_float(dots[t]), scale);
            if HAS_MIN {
                let min = simd.load(&mins[group][vector].0);
                let negated_sum = simd.splat(tokens.negated_sums[group][token + t]);
                product = simd.mul_add(min, negated_sum, product);
            }
            *total = simd.mul_add(product, simd.splat(activation_scales[token + t]), *total);
        }
    }
    for (t, &total) in totals.iter().enumerate() {
        simd.store(total, &mut sums[token + t][vector].0);
    }
}
