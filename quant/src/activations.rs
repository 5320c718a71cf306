//! The right-hand side of a matrix product: the activations of some tokens, made ready once and
//! shared by all matrices that take the same input.

use crate::kernels::{self, ACTIVATION_GROUP, CodeTile, Kernels, TILE_TOKENS};

/// Columns of a tile that are filled at a time: 12 KiB stay in the first-level cache while the
/// twelve tokens come one after another.
const TILE_COLUMNS: usize = 256;

/// How a product by quantized weights is computed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Mode {
    /// Weights decoded to f32, f32 activations: what the format means.
    Exact,
    /// Weights as they are against activations of 8 bits.
    Fast,
}

/// The activations of some tokens, in [`Mode::Fast`] quantized as well: per token, each 32 columns
/// as 8-bit codes of -127..=127 with one f32 scale, the largest magnitude over 127. (Groups of 256
/// as in ggml's Q8_K save one multiplication in nine and let one outlier cost 255 others.)
#[derive(Debug)]
pub struct Activations {
    mode: Mode,
    tokens: usize,
    cols: usize,
    /// For each tile of 12 tokens, each column.
    tiles: Vec<[f32; TILE_TOKENS]>,
    quantized: Quantized,
}

/// For each tile of 12 tokens, what [`CodeTile`] has. Empty in [`Mode::Exact`], and where no block
/// format can have rows of so many columns.
#[derive(Debug, Default)]
struct Quantized {
    words: Vec<[u32; TILE_TOKENS]>,
    scales: Vec<[f32; TILE_TOKENS]>,
    by_16: GroupSums,
    by_32: GroupSums,
}

#[derive(Debug, Default)]
struct GroupSums {
    seeds: Vec<[i32; TILE_TOKENS]>,
    negated: Vec<[f32; TILE_TOKENS]>,
}

impl Activations {
    /// Activations of `values.len() / cols` tokens, token after token.
    ///
    /// # Panics
    /// If `cols` is zero or does not divide the number of values.
    pub fn new(mode: Mode, values: &[f32], cols: usize) -> Activations {
        let mut activations = Activations {
            mode,
            tokens: 0,
            cols: 0,
            tiles: Vec::new(),
            quantized: Quantized::default(),
        };
        activations.refill(values, cols);
        activations
    }

    /// Other values in the same buffers.
    ///
    /// # Panics
    /// If `cols` is zero or does not divide the number of values.
    pub fn refill(&mut self, values: &[f32], cols: usize) {
        self.refill_with(kernels::selected(), values, cols);
    }

    /// [`refill`](Self::refill) by the code of a given instruction set.
    ///
    /// # Panics
    /// If `cols` is zero or does not divide the number of values.
    pub fn refill_with(&mut self, kernels: &Kernels, values: &[f32], cols: usize) {
        assert!(
            cols > 0 && values.len().is_multiple_of(cols),
            "{} values in rows of {cols}",
            values.len()
        );
        self.tokens = values.len() / cols;
        self.cols = cols;
        pack_tiles(values, cols, &mut self.tiles);
        if self.is_quantized() {
            self.quantized.refill(kernels, values, cols);
        }
    }

    /// The mode.
    pub fn mode(&self) -> Mode {
        self.mode
    }

    /// Number of tokens.
    pub fn tokens(&self) -> usize {
        self.tokens
    }

    /// Columns per token.
    pub fn cols(&self) -> usize {
        self.cols
    }

    /// Whether products by block formats use 8-bit activations.
    pub(crate) fn is_quantized(&self) -> bool {
        self.mode == Mode::Fast && self.cols.is_multiple_of(ACTIVATION_GROUP)
    }

    /// All columns of tile `tile`.
    pub(crate) fn tile(&self, tile: usize) -> &[[f32; TILE_TOKENS]] {
        &self.tiles[tile * self.cols..][..self.cols]
    }

    /// The columns `start..start + len` of tile `tile`, with sums over groups of `group`.
    pub(crate) fn code_tile(
        &self,
        tile: usize,
        group: usize,
        start: usize,
        len: usize,
    ) -> CodeTile<'_> {
        let first = tile * self.cols + start;
        let sums = if group == 16 { &self.quantized.by_16 } else { &self.quantized.by_32 };
        CodeTile {
            words: &self.quantized.words[first / 4..][..len / 4],
            scales: &self.quantized.scales[first / ACTIVATION_GROUP..][..len / ACTIVATION_GROUP],
            seeds: &sums.seeds[first / group..][..len / group],
            negated_sums: &sums.negated[first / group..][..len / group],
        }
    }
}

impl Quantized {
    fn refill(&mut self, kernels: &Kernels, values: &[f32], cols: usize) {
        let tiles = (values.len() / cols).div_ceil(TILE_TOKENS);
        resize(&mut self.words, tiles * cols / 4, [0; TILE_TOKENS]);
        resize(&mut self.scales, tiles * cols / ACTIVATION_GROUP, [0.0; TILE_TOKENS]);
        self.by_16.resize(tiles * cols / 16);
        self.by_32.resize(tiles * cols / 32);
        let mut codes = vec![0; cols];
        let mut scales = vec![0.0; cols / ACTIVATION_GROUP];
        for (token, row) in values.chunks_exact(cols).enumerate() {
            kernels.quantize_row(row, &mut codes, &mut scales);
            self.put_token(token, &codes, &scales);
        }
    }

    /// Lays a token's codes and scales down in its lane of its tile.
    fn put_token(&mut self, token: usize, codes: &[i8], scales: &[f32]) {
        let (tile, lane) = (token / TILE_TOKENS, token % TILE_TOKENS);
        let first = tile * scales.len();
        let tile_scales = &mut self.scales[first..][..scales.len()];
        for (place, &scale) in tile_scales.iter_mut().zip(scales) {
            place[lane] = scale;
        }
        let words = &mut self.words[first * 8..][..scales.len() * 8];
        for (word, codes) in words.iter_mut().zip(codes.as_chunks::<4>().0) {
            word[lane] = u32::from_ne_bytes(codes.map(|c| c as u8));
        }
        self.by_16.put_token::<16>(first * 2, lane, codes);
        self.by_32.put_token::<32>(first, lane, codes);
    }
}

impl GroupSums {
    fn resize(&mut self, groups: usize) {
        resize(&mut self.seeds, groups, [0; TILE_TOKENS]);
        resize(&mut self.negated, groups, [0.0; TILE_TOKENS]);
    }

    fn put_token<const GROUP: usize>(&mut self, first: usize, lane: usize, codes: &[i8]) {
        let groups = codes.as_chunks::<GROUP>().0;
        let seeds = &mut self.seeds[first..][..groups.len()];
        let negated = &mut self.negated[first..][..groups.len()];
        for ((codes, seed), negated) in groups.iter().zip(seeds).zip(negated) {
            let sum: i16 = codes.iter().map(|&code| i16::from(code)).sum();
            seed[lane] = -128 * i32::from(sum);
            negated[lane] = f32::from(-sum);
        }
    }
}

/// Rows of `cols` values become tiles of 12 rows, column by column; missing rows are zero.
fn pack_tiles(values: &[f32], cols: usize, tiles: &mut Vec<[f32; TILE_TOKENS]>) {
    let count = (values.len() / cols).div_ceil(TILE_TOKENS);
    resize(tiles, count * cols, [0.0; TILE_TOKENS]);
    let groups = values.chunks(TILE_TOKENS * cols);
    for (rows, tile) in groups.zip(tiles.chunks_exact_mut(cols)) {
        for (block, columns) in tile.chunks_mut(TILE_COLUMNS).enumerate() {
            for (lane, row) in rows.chunks_exact(cols).enumerate() {
                for (column, &value) in columns.iter_mut().zip(&row[block * TILE_COLUMNS..]) {
                    column[lane] = value;
                }
            }
        }
    }
}

/// `len` elements, those in use all `fill`.
fn resize<T: Copy>(buffer: &mut Vec<T>, len: usize, fill: T) {
    buffer.clear();
    buffer.resize(len, fill);
}
