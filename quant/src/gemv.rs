//! One token: a matrix by a vector, straight from the bytes of the blocks.

use bytemuck::{bytes_of, cast_slice};

use crate::{
    activations::Mode,
    format::{BlockFormat, Decoded, MAX_BLOCK_WEIGHTS, PlainFormat},
    kernels::{
        self, ACTIVATION_GROUP, CodeSigns, Kernels, LANES, LaneSums, QUAD_CODES, Simd, Work,
    },
    matmul::Matrix,
};

/// Columns that are multiplied at a time: a super-block, or as many blocks as fill one.
const CHUNK: usize = MAX_BLOCK_WEIGHTS;

/// How far ahead of their use weights are fetched, in bytes.
const AHEAD: usize = 2048;

/// Groups of 16 columns in a chunk; groups of 32 take the first half of as many places.
const GROUPS: usize = CHUNK / 16;

/// The activations of one token, made ready for [`gemv`]. In [`Mode::Fast`] they are quantized as
/// [`Activations`](crate::Activations) are.
#[derive(Debug)]
pub struct Vector {
    values: Vec<f32>,
    /// Empty in [`Mode::Exact`], and where the columns are no whole groups.
    chunks: Vec<Chunk>,
}

/// The quantized activations of 256 columns, zero behind the last.
#[derive(Clone, Debug)]
pub(crate) struct Chunk {
    codes: [[i8; QUAD_CODES]; CHUNK / QUAD_CODES],
    by_16: GroupNumbers,
    by_32: GroupNumbers,
}

/// Of each group of columns the scale, and the scale times the sum of the codes.
#[derive(Clone, Debug)]
struct GroupNumbers {
    scales: [f32; GROUPS],
    sums: [f32; GROUPS],
}

impl Vector {
    /// The activations of one token.
    pub fn new(mode: Mode, values: &[f32]) -> Vector {
        Vector::with(kernels::selected(), mode, values)
    }

    /// [`new`](Self::new) by the code of a given instruction set.
    pub fn with(kernels: &Kernels, mode: Mode, values: &[f32]) -> Vector {
        let mut vector = Vector { values: values.to_vec(), chunks: Vec::new() };
        if mode == Mode::Fast && values.len().is_multiple_of(ACTIVATION_GROUP) {
            vector.chunks =
                values.chunks(CHUNK).map(|values| Chunk::new(kernels, values)).collect();
        }
        vector
    }

    /// Number of columns.
    pub fn cols(&self) -> usize {
        self.values.len()
    }
}

impl Chunk {
    fn new(kernels: &Kernels, values: &[f32]) -> Chunk {
        let none = GroupNumbers { scales: [0.0; GROUPS], sums: [0.0; GROUPS] };
        let mut chunk = Chunk { codes: [[0; QUAD_CODES]; 4], by_16: none.clone(), by_32: none };
        let codes = &mut chunk.codes.as_flattened_mut()[..values.len()];
        let scales = &mut chunk.by_32.scales[..values.len() / ACTIVATION_GROUP];
        kernels.quantize_row(values, codes, scales);
        for (group, scale) in chunk.by_16.scales.iter_mut().enumerate() {
            *scale = chunk.by_32.scales[group / 2];
        }
        chunk.by_16.fill_sums::<16>(chunk.codes.as_flattened());
        chunk.by_32.fill_sums::<32>(chunk.codes.as_flattened());
        chunk
    }
}

impl GroupNumbers {
    fn fill_sums<const GROUP: usize>(&mut self, codes: &[i8]) {
        let groups = codes.as_chunks::<GROUP>().0;
        for ((sum, scale), codes) in self.sums.iter_mut().zip(self.scales).zip(groups) {
            *sum = scale * f32::from(codes.iter().map(|&code| i16::from(code)).sum::<i16>());
        }
    }
}

/// `out[r] = Σ_c w[r][c] · x[c]`, by one thread.
///
/// The sums run in lanes, so the last digits differ from those of [`matmul`](crate::matmul); they
/// are the same for every instruction set. Plain numbers, and blocks in [`Mode::Exact`], are summed in
/// two chains of sixteen lanes. Blocks in [`Mode::Fast`]: with `d` the exact integer sum of
/// code times code over four columns, lane `c / 4 % 16` of chain `c / 64 % 2` takes
/// `fma(d, weight scale * activation scale, lane)`; the minima times the sums of the activations
/// are summed beside, one lane for each group of a super-block, and subtracted.
///
/// # Panics
/// If the columns of `w` and `x` differ, or `out` has another length than `w` has rows.
pub fn gemv(w: &Matrix<'_>, x: &Vector, out: &mut [f32]) {
    gemv_with(kernels::selected(), w, x, out);
}

/// [`gemv`] by the code of a given instruction set.
///
/// # Panics
/// If the columns of `w` and `x` differ, or `out` has another length than `w` has rows.
pub fn gemv_with(kernels: &Kernels, w: &Matrix<'_>, x: &Vector, out: &mut [f32]) {
    assert_eq!(w.cols(), x.cols(), "columns of the weights and of the activations");
    assert_eq!(out.len(), w.rows(), "outputs");
    w.format().gemv(kernels, w.bytes(), x, out);
}

/// Rows of plain numbers by a vector.
pub(crate) struct PlainRows<'a, F: PlainFormat> {
    pub(crate) elements: &'a [F::Element],
    pub(crate) x: &'a Vector,
    pub(crate) out: &'a mut [f32],
}

impl<F: PlainFormat> Work for PlainRows<'_, F> {
    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let rows = self.elements.chunks_exact(self.x.cols());
        for (row, out) in rows.zip(self.out) {
            let mut sums = LaneSums::zero(simd);
            let mut weights = [0.0; CHUNK];
            for (elements, x) in row.chunks(CHUNK).zip(self.x.values.chunks(CHUNK)) {
                simd.prefetch_behind(cast_slice(elements), AHEAD);
                let weights = &mut weights[..elements.len()];
                F::read(simd, elements, weights);
                sums.add_products(simd, weights, x);
            }
            *out = sums.total(simd);
        }
    }
}

/// Rows of blocks by a vector.
pub(crate) struct BlockRows<'a, F: BlockFormat> {
    pub(crate) blocks: &'a [F::Block],
    pub(crate) x: &'a Vector,
    pub(crate) out: &'a mut [f32],
}

impl<F: BlockFormat> Work for BlockRows<'_, F> {
    #[inline(always)]
    fn run<S: Simd>(self, simd: S) {
        let blocks = self.x.cols() / F::TENSOR_TYPE.block_weights();
        for (row, out) in self.blocks.chunks_exact(blocks).zip(self.out) {
            *out = if self.x.chunks.is_empty() {
                exact_row::<S, F>(simd, row, &self.x.values)
            } else {
                fast_row::<S, F>(simd, row, &self.x.chunks)
            };
        }
    }
}

#[inline(always)]
fn exact_row<S: Simd, F: BlockFormat>(simd: S, row: &[F::Block], x: &[f32]) -> f32 {
    let mut sums = LaneSums::zero(simd);
    let mut decoded = Decoded::ZERO;
    let mut weights = [0.0; MAX_BLOCK_WEIGHTS];
    let weights = &mut weights[..F::TENSOR_TYPE.block_weights()];
    for (block, x) in row.iter().zip(x.chunks_exact(weights.len())) {
        simd.prefetch_behind(bytes_of(block), AHEAD);
        F::decode(simd, block, &mut decoded);
        decoded.weights(F::GROUP, weights);
        sums.add_products(simd, weights, x);
    }
    sums.total(simd)
}

#[inline(always)]
fn fast_row<S: Simd, F: BlockFormat>(simd: S, row: &[F::Block], x: &[Chunk]) -> f32 {
    let block_weights = F::TENSOR_TYPE.block_weights();
    let signs = if F::HAS_MIN { CodeSigns::NonNegative } else { CodeSigns::Both };
    let mut sums = LaneSums::zero(simd);
    let mut mins = simd.splat(0.0);
    let mut decoded = Decoded::ZERO;
    for (blocks, x) in row.chunks(CHUNK / block_weights).zip(x) {
        simd.prefetch_behind(cast_slice(blocks), AHEAD);
        let numbers = if F::GROUP == 16 { &x.by_16 } else { &x.by_32 };
        if block_weights == CHUNK {
            F::decode(simd, &blocks[0], &mut decoded);
        } else {
            decode_side_by_side::<S, F>(simd, blocks, &mut decoded);
        }
        let scales = simd.mul(simd.load(&decoded.scales), simd.load(&numbers.scales));
        let mut stored = [0.0; LANES];
        simd.store(scales, &mut stored);
        let codes = decoded.codes.as_chunks::<QUAD_CODES>().0;
        for pair in 0..CHUNK / QUAD_CODES / 2 {
            let (even, odd) = (2 * pair, 2 * pair + 1);
            let dots = simd.dot_quads(&codes[even], &x.codes[even], signs);
            sums.add::<0>(simd, dots, spread::<S, F>(simd, &stored, even));
            let dots = simd.dot_quads(&codes[odd], &x.codes[odd], signs);
            sums.add::<1>(simd, dots, spread::<S, F>(simd, &stored, odd));
        }
        if F::HAS_MIN {
            mins = simd.mul_add(simd.load(&decoded.mins), simd.load(&numbers.sums), mins);
        }
    }
    sums.minus(simd, mins).total(simd)
}

/// The scales of the groups of columns `64 * quad..`, each in the lanes of its columns.
#[inline(always)]
fn spread<S: Simd, F: BlockFormat>(simd: S, scales: &[f32; LANES], quad: usize) -> S::F {
    if F::GROUP == 16 {
        simd.spread_4(&scales.as_chunks().0[quad])
    } else {
        simd.spread_2(&scales.as_chunks().0[quad])
    }
}

/// Reads blocks of fewer weights than a chunk as if they were one; what is missing is zero.
#[inline(always)]
fn decode_side_by_side<S: Simd, F: BlockFormat>(simd: S, blocks: &[F::Block], out: &mut Decoded) {
    let weights = F::TENSOR_TYPE.block_weights();
    let groups = weights / F::GROUP;
    if blocks.len() * weights < CHUNK {
        *out = Decoded::ZERO;
    }
    let mut decoded = Decoded::ZERO;
    for (i, block) in blocks.iter().enumerate() {
        F::decode(simd, block, &mut decoded);
        out.codes[i * weights..][..weights].copy_from_slice(&decoded.codes[..weights]);
        out.scales[i * groups..][..groups].copy_from_slice(&decoded.scales[..groups]);
        out.mins[i * groups..][..groups].copy_from_slice(&decoded.mins[..groups]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Activations, FORMATS, Scratch, kernels::available, matmul};

    fn numbers(seed: u64, len: usize) -> Vec<f32> {
        let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
        let mut next = || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state >> 40) as f32 / (1u64 << 23) as f32 - 1.0
        };
        (0..len).map(|_| next()).collect()
    }

    /// Of each format a matrix of `rows` rows of so many blocks: columns and bytes.
    fn matrices(rows: usize, blocks: usize) -> Vec<(&'static crate::FormatInfo, usize, Vec<u8>)> {
        let matrix = |format: &&'static crate::FormatInfo| {
            let cols = blocks * format.tensor_type.block_weights();
            let weights = numbers(7, rows * cols);
            let row_bytes = format.tensor_type.row_bytes(cols as u64).unwrap() as usize;
            let mut bytes = vec![0; rows * row_bytes];
            for (row, out) in weights.chunks(cols).zip(bytes.chunks_mut(row_bytes)) {
                format.encode_row(row, crate::Encoding::default(), out).unwrap();
            }
            (*format, cols, bytes)
        };
        FORMATS.iter().map(matrix).collect()
    }

    #[test]
    fn every_row_of_the_table_has_the_oracle_s_bits() {
        for blocks in [1, 2, 3, 7, 8, 9, 17, 65, 300] {
            for (format, cols, bytes) in matrices(3, blocks) {
                let w = Matrix::new(format.tensor_type, 3, cols, &bytes).unwrap();
                let values = numbers(11, cols);
                for mode in [Mode::Exact, Mode::Fast] {
                    let products = available().map(|kernels| {
                        let mut out = [0.0; 3];
                        gemv_with(kernels, &w, &Vector::with(kernels, mode, &values), &mut out);
                        (kernels.isa(), out.map(f32::to_bits))
                    });
                    let products: Vec<_> = products.collect();
                    for (isa, product) in &products {
                        let name = format.name();
                        assert_eq!(*product, products[0].1, "{isa} {name} {cols} {mode:?}");
                    }
                }
            }
        }
    }

    #[test]
    fn one_token_is_near_the_product_of_many() {
        for (format, cols, bytes) in matrices(33, 12) {
            let w = Matrix::new(format.tensor_type, 33, cols, &bytes).unwrap();
            let values = numbers(3, cols);
            for mode in [Mode::Exact, Mode::Fast] {
                let (mut many, mut one) = ([0.0; 33], [0.0; 33]);
                let x = Activations::new(mode, &values, cols);
                matmul(&w, &x, &mut many, &mut Scratch::default());
                gemv(&w, &Vector::new(mode, &values), &mut one);
                let mut weights = vec![0.0; cols];
                for (row, (many, one)) in many.iter().zip(one).enumerate() {
                    w.decode_row(row, &mut weights);
                    let magnitude: f32 =
                        weights.iter().zip(&values).map(|(w, x)| (w * x).abs()).sum();
                    let name = format.name();
                    assert!(
                        (many - one).abs() <= 3e-6 * magnitude,
                        "{name} {mode:?}: {many} {one}"
                    );
                }
            }
        }
    }

    #[test]
    fn what_is_not_finite_shows() {
        for (format, cols, bytes) in matrices(1, 4) {
            let w = Matrix::new(format.tensor_type, 1, cols, &bytes).unwrap();
            for bad in [f32::NAN, f32::INFINITY] {
                let mut values = numbers(5, cols);
                values[cols / 2] = bad;
                for mode in [Mode::Exact, Mode::Fast] {
                    let mut out = [0.0];
                    gemv(&w, &Vector::new(mode, &values), &mut out);
                    assert!(!out[0].is_finite(), "{} {mode:?} {bad}", format.name());
                }
            }
        }
    }
}
