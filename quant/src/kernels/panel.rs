//! The private layout of weights and activations inside a product. It never reaches a file.
//!
//! A panel is 32 weight rows, column by column (or four columns by four columns of codes), so that
//! one vector load takes the same column of sixteen rows. A tile is 12 tokens in the same order.

use super::simd::{LANES, Lanes, PANEL_ROWS, Simd, TILE_TOKENS, Words};

/// 32 weight rows as codes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct CodePanel<'a> {
    /// Weights that share a scale: 16 or 32.
    pub(crate) group: usize,
    /// The smallest code there can be. Only AVX2 needs to know.
    #[cfg_attr(not(target_arch = "x86_64"), expect(dead_code))]
    pub(crate) lowest: i8,
    /// Bits of a code. Only AVX2 needs to know.
    #[cfg_attr(not(target_arch = "x86_64"), expect(dead_code))]
    pub(crate) code_bits: u32,
    /// The codes plus [`code_offset`](super::Kernels::code_offset), for each four columns.
    pub(crate) words: &'a [[Words; 2]],
    /// For each group of columns.
    pub(crate) scales: &'a [[Lanes; 2]],
    /// For each group of columns.
    pub(crate) mins: Option<&'a [[Lanes; 2]]>,
}

/// The quantized activations of 12 tokens, with sums over groups as long as the panel's.
#[derive(Clone, Copy, Debug)]
pub(crate) struct CodeTile<'a> {
    /// Four i8 codes each, for each four columns.
    pub(crate) words: &'a [[u32; TILE_TOKENS]],
    /// For each 32 columns.
    pub(crate) scales: &'a [[f32; TILE_TOKENS]],
    /// -128 times the sum of the codes, for each group: undoes an offset of the weights' codes.
    pub(crate) seeds: &'a [[i32; TILE_TOKENS]],
    /// Minus the sum of the codes, for each group.
    pub(crate) negated_sums: &'a [[f32; TILE_TOKENS]],
}

/// Lays 32 rows of `rows.len() / 32` words each down as a panel.
#[inline(always)]
pub(crate) fn interleave<S: Simd>(simd: S, rows: &[u32], panel: &mut [[Words; 2]]) {
    let len = panel.len();
    assert_eq!(rows.len(), PANEL_ROWS * len);
    for (half, rows) in rows.chunks_exact(LANES * len.max(1)).enumerate() {
        let (blocks, rest) = panel.as_chunks_mut::<LANES>();
        for (b, block) in blocks.iter_mut().enumerate() {
            let rows: [&[u32; LANES]; LANES] = std::array::from_fn(|r| {
                let start = r * len + b * LANES;
                rows[start..].first_chunk().expect("a block of words is left in the row")
            });
            for (vectors, out) in simd.transpose(rows).into_iter().zip(block) {
                out[half] = vectors;
            }
        }
        let done = blocks.len() * LANES;
        for (i, out) in rest.iter_mut().enumerate() {
            out[half] = Words(std::array::from_fn(|r| rows[r * len + done + i]));
        }
    }
}

/// Lays up to 12 rows of `tile.len()` words each down as a tile.
#[inline(always)]
pub(crate) fn tile_rows<S: Simd>(simd: S, rows: &[u32], tile: &mut [[u32; TILE_TOKENS]]) {
    let len = tile.len();
    let count = rows.len() / len.max(1);
    assert!(count <= TILE_TOKENS && rows.len() == count * len);
    let (blocks, rest) = tile.as_chunks_mut::<LANES>();
    for (b, block) in blocks.iter_mut().enumerate() {
        let mut words = [&[0; LANES]; LANES];
        for (r, words) in words[..count].iter_mut().enumerate() {
            let start = r * len + b * LANES;
            *words = rows[start..].first_chunk().expect("a block of words is left in the row");
        }
        for (vector, out) in simd.transpose(words).iter().zip(block) {
            out.copy_from_slice(&vector.0[..TILE_TOKENS]);
        }
    }
    let done = blocks.len() * LANES;
    for (i, out) in rest.iter_mut().enumerate() {
        *out = [0; TILE_TOKENS];
        for (r, word) in out[..count].iter_mut().enumerate() {
            *word = rows[r * len + done + i];
        }
    }
}
