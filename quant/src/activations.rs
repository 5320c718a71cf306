//! The right-hand side of a matrix product: the activations of some tokens, made ready once and
//! shared by all matrices that take the same input.

use bytemuck::{cast_slice, cast_slice_mut};

use crate::{
    kernels::{self, ACTIVATION_GROUP, CodeTile, Kernels, Simd, TILE_TOKENS, Work},
    matmul::Matrix,
};

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
    forms: Forms,
    tokens: usize,
    cols: usize,
    /// For each tile of 12 tokens, each column.
    tiles: Vec<[f32; TILE_TOKENS]>,
    quantized: Quantized,
}

/// What there is of the activations.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Forms {
    Plain,
    Quantized,
    Both,
}

/// For each tile of 12 tokens, what [`CodeTile`] has.
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

/// A place for the activations of a few tokens. Parts are filled in any order and by any thread,
/// each once.
#[derive(Debug)]
pub struct ActivationsPart<'a> {
    cols: usize,
    tokens: usize,
    plain: Option<&'a mut [[f32; TILE_TOKENS]]>,
    quantized: Option<QuantizedPart<'a>>,
}

#[derive(Debug)]
struct QuantizedPart<'a> {
    words: &'a mut [[u32; TILE_TOKENS]],
    scales: &'a mut [[f32; TILE_TOKENS]],
    by_16: GroupSumsPart<'a>,
    by_32: GroupSumsPart<'a>,
}

#[derive(Debug)]
struct GroupSumsPart<'a> {
    seeds: &'a mut [[i32; TILE_TOKENS]],
    negated: &'a mut [[f32; TILE_TOKENS]],
}

impl Activations {
    /// Tokens of each part but the last.
    pub const PART_TOKENS: usize = TILE_TOKENS;

    /// Activations of `values.len() / cols` tokens, token after token.
    ///
    /// # Panics
    /// If `cols` is zero or does not divide the number of values.
    pub fn new(mode: Mode, values: &[f32], cols: usize) -> Activations {
        let mut activations = Activations::empty(mode);
        activations.refill(values, cols);
        activations
    }

    /// Activations of no tokens, to be filled later.
    pub fn empty(mode: Mode) -> Activations {
        Activations {
            mode,
            forms: Forms::Both,
            tokens: 0,
            cols: 1,
            tiles: Vec::new(),
            quantized: Quantized::default(),
        }
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
        let parts = self.split(values.len() / cols, cols, Forms::Both);
        for (part, values) in parts.into_iter().zip(values.chunks(TILE_TOKENS * cols)) {
            part.fill_with(kernels, values);
        }
    }

    /// Places for `tokens` tokens of other values, in the same buffers. They will be fit for the
    /// products by `matrices`, in which all have `cols` columns. In [`Mode::Fast`] products by plain
    /// and by block formats take different forms, of which only those are made that `matrices` need.
    ///
    /// # Panics
    /// If the columns of the matrices differ from `cols`.
    pub fn parts(
        &mut self,
        tokens: usize,
        cols: usize,
        matrices: &[&Matrix<'_>],
    ) -> Vec<ActivationsPart<'_>> {
        assert!(cols > 0 && matrices.iter().all(|matrix| matrix.cols() == cols), "columns");
        let blocks = matrices.iter().filter(|matrix| matrix.format().blocks.is_some()).count();
        let forms = match blocks {
            0 => Forms::Plain,
            _ if blocks == matrices.len() => Forms::Quantized,
            _ => Forms::Both,
        };
        self.split(tokens, cols, forms)
    }

    fn split(&mut self, tokens: usize, cols: usize, forms: Forms) -> Vec<ActivationsPart<'_>> {
        (self.tokens, self.cols) = (tokens, cols);
        // No block format has rows of other lengths.
        let quantizable = self.mode == Mode::Fast && cols.is_multiple_of(ACTIVATION_GROUP);
        self.forms = if quantizable { forms } else { Forms::Plain };
        let tiles = tokens.div_ceil(TILE_TOKENS);
        let mut plain = match self.forms {
            Forms::Quantized => None,
            _ => Some(grown(&mut self.tiles, tiles * cols).chunks_exact_mut(cols)),
        };
        let mut quantized = match self.forms {
            Forms::Plain => None,
            _ => Some(self.quantized.split(tiles, cols)),
        };
        let part = |tile: usize| ActivationsPart {
            cols,
            tokens: (tokens - tile * TILE_TOKENS).min(TILE_TOKENS),
            plain: plain.as_mut().and_then(Iterator::next),
            quantized: quantized.as_mut().and_then(Iterator::next),
        };
        (0..tiles).map(part).collect()
    }

    /// Number of tokens.
    pub fn tokens(&self) -> usize {
        self.tokens
    }

    /// Columns per token.
    pub fn cols(&self) -> usize {
        self.cols
    }

    /// The values of each [`PART_TOKENS`](Self::PART_TOKENS) tokens, column after column. In the
    /// last tile, places behind the last token have unspecified values.
    ///
    /// # Panics
    /// In [`Mode::Fast`], where the activations were made for block formats only.
    pub fn tiles(&self) -> impl ExactSizeIterator<Item = &[[f32; Self::PART_TOKENS]]> {
        (0..self.tokens.div_ceil(TILE_TOKENS)).map(|tile| self.tile(tile))
    }

    /// Whether products by block formats use 8-bit activations.
    pub(crate) fn is_quantized(&self) -> bool {
        self.mode == Mode::Fast
    }

    /// All columns of tile `tile`.
    pub(crate) fn tile(&self, tile: usize) -> &[[f32; TILE_TOKENS]] {
        assert!(self.forms != Forms::Quantized, "activations were made for block formats only");
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
        assert!(self.forms != Forms::Plain, "activations were made for plain formats only");
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
    fn split(
        &mut self,
        tiles: usize,
        cols: usize,
    ) -> impl Iterator<Item = QuantizedPart<'_>> + use<'_> {
        let (words, groups) = (cols / 4, cols / ACTIVATION_GROUP);
        let words = grown(&mut self.words, tiles * words).chunks_exact_mut(words);
        let scales = grown(&mut self.scales, tiles * groups).chunks_exact_mut(groups);
        let sums = self.by_16.split(tiles, cols / 16).zip(self.by_32.split(tiles, cols / 32));
        (words.zip(scales).zip(sums)).map(|((words, scales), (by_16, by_32))| QuantizedPart {
            words,
            scales,
            by_16,
            by_32,
        })
    }
}

impl GroupSums {
    fn split(
        &mut self,
        tiles: usize,
        groups: usize,
    ) -> impl Iterator<Item = GroupSumsPart<'_>> + use<'_> {
        let seeds = grown(&mut self.seeds, tiles * groups).chunks_exact_mut(groups);
        let negated = grown(&mut self.negated, tiles * groups).chunks_exact_mut(groups);
        seeds.zip(negated).map(|(seeds, negated)| GroupSumsPart { seeds, negated })
    }
}

impl ActivationsPart<'_> {
    /// Number of tokens.
    pub fn tokens(&self) -> usize {
        self.tokens
    }

    /// Fills the part with its tokens' values, token after token.
    ///
    /// # Panics
    /// If `values` are not those of so many tokens.
    pub fn fill(self, values: &[f32]) {
        self.fill_with(kernels::selected(), values);
    }

    fn fill_with(self, kernels: &Kernels, values: &[f32]) {
        assert_eq!(values.len(), self.tokens * self.cols, "values of {} tokens", self.tokens);
        if let Some(tile) = self.plain {
            kernels.tile_rows(cast_slice(values), cast_slice_mut(tile));
        }
        if let Some(part) = self.quantized {
            part.fill(kernels, values);
        }
    }
}

impl QuantizedPart<'_> {
    fn fill(self, kernels: &Kernels, values: &[f32]) {
        let mut codes = vec![0u32; values.len() / 4];
        let mut scales = vec![0.0; values.len() / ACTIVATION_GROUP];
        kernels.quantize_row(values, cast_slice_mut(&mut codes), &mut scales);
        kernels.tile_rows(&codes, self.words);
        kernels.tile_rows(cast_slice(&scales), cast_slice_mut(self.scales));
        kernels.run(SumCodes { words: self.words, by_16: self.by_16, by_32: self.by_32 });
    }
}

/// Sums the codes of each token over groups of 16 and of 32 columns.
struct SumCodes<'a> {
    words: &'a [[u32; TILE_TOKENS]],
    by_16: GroupSumsPart<'a>,
    by_32: GroupSumsPart<'a>,
}

impl Work for SumCodes<'_> {
    #[inline(always)]
    fn run<S: Simd>(self, _simd: S) {
        let words = self.words.as_chunks::<4>().0.as_chunks::<2>().0;
        let by_16 = self.by_16.seeds.as_chunks_mut::<2>().0.iter_mut();
        let by_16 = by_16.zip(self.by_16.negated.as_chunks_mut::<2>().0);
        let by_32 = self.by_32.seeds.iter_mut().zip(self.by_32.negated);
        for ((words, (seeds, negated)), (seed_32, negated_32)) in words.iter().zip(by_16).zip(by_32)
        {
            let sums = [sum_of_codes(&words[0]), sum_of_codes(&words[1])];
            for lane in 0..TILE_TOKENS {
                let sum = sums[0][lane] + sums[1][lane];
                for half in 0..2 {
                    seeds[half][lane] = -128 * sums[half][lane];
                    negated[half][lane] = -sums[half][lane] as f32;
                }
                seed_32[lane] = -128 * sum;
                negated_32[lane] = -sum as f32;
            }
        }
    }
}

/// For each token, the sum of its sixteen codes.
#[inline(always)]
fn sum_of_codes(words: &[[u32; TILE_TOKENS]; 4]) -> [i32; TILE_TOKENS] {
    let mut sums = [0; TILE_TOKENS];
    for word in words {
        for (sum, &word) in sums.iter_mut().zip(word) {
            let [a, b, c, d] = word.to_ne_bytes().map(|code| i32::from(code as i8));
            *sum += a + b + c + d;
        }
    }
    sums
}

/// The first `len` elements of the buffer, which is made so long. What they are is unspecified.
fn grown<T: bytemuck::Zeroable + Copy>(buffer: &mut Vec<T>, len: usize) -> &mut [T] {
    if buffer.len() < len {
        buffer.resize(len, T::zeroed());
    }
    &mut buffer[..len]
}

#[cfg(test)]
mod tests {
    use llq_gguf::TensorType;

    use super::*;
    use crate::{Scratch, matmul};

    #[test]
    #[should_panic(expected = "made for plain formats only")]
    fn a_fast_product_is_not_silently_exact() {
        let plain = Matrix::new(TensorType::F32, 1, 32, &[0; 128]).unwrap();
        let blocks = Matrix::new(TensorType::Q8_0, 1, 32, &[0; 34]).unwrap();
        let mut x = Activations::empty(Mode::Fast);
        for part in x.parts(1, 32, &[&plain]) {
            part.fill(&[0.0; 32]);
        }
        matmul(&blocks, &x, &mut [0.0], &mut Scratch::default());
    }
}
