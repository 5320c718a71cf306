//! One token: a matrix by a vector, straight from the bytes of the blocks.

use bytemuck::{Zeroable, cast_slice};

use crate::{
    activations::Mode,
    decoding::dequantize,
    format::{BlockFormat, MAX_BLOCK_WEIGHTS, MIN_GROUP, PlainFormat},
    kernels::{self, ACTIVATION_GROUP, BYTES, CodeSigns, Kernels, LANES, LaneSums, Simd, Work},
    matmul::Matrix,
};

/// Columns whose scales are read before their codes: so a product never waits for its scale, which
/// is many steps from the bytes of the block.
const RUN: usize = 1024;

/// Columns that one step takes: 64 for either chain.
const STEP: usize = 128;

/// Most groups in a run.
const GROUPS: usize = RUN / MIN_GROUP;

/// How far ahead of their use weights are fetched, in bytes.
const AHEAD: usize = 2048;

/// The activations of one token, made ready for [`gemv`]. In [`Mode::Fast`] they are quantized as
/// [`Activations`](crate::Activations) are.
#[derive(Debug)]
pub struct Vector {
    values: Vec<f32>,
    /// `None` in [`Mode::Exact`], and where the columns are no whole groups.
    quantized: Option<Quantized>,
}

/// Quantized activations, zero behind the last up to a whole run.
#[derive(Debug)]
struct Quantized {
    codes: Vec<[i8; BYTES]>,
    by_16: GroupNumbers,
    by_32: GroupNumbers,
}

/// Of each group of columns the scale, and the scale times the sum of the codes.
#[derive(Debug)]
struct GroupNumbers {
    scales: Vec<f32>,
    sums: Vec<f32>,
}

impl Vector {
    /// The activations of one token.
    pub fn new(mode: Mode, values: &[f32]) -> Vector {
        Vector::with(kernels::selected(), mode, values)
    }

    /// [`new`](Self::new) by the code of a given instruction set.
    pub fn with(kernels: &Kernels, mode: Mode, values: &[f32]) -> Vector {
        let quantizable = mode == Mode::Fast && values.len().is_multiple_of(ACTIVATION_GROUP);
        let quantized = quantizable.then(|| Quantized::new(kernels, values));
        Vector { values: values.to_vec(), quantized }
    }

    /// Number of columns.
    pub fn cols(&self) -> usize {
        self.values.len()
    }
}

impl Quantized {
    fn new(kernels: &Kernels, values: &[f32]) -> Quantized {
        let groups = values.len() / ACTIVATION_GROUP;
        let padded = values.len().next_multiple_of(RUN) / ACTIVATION_GROUP;
        let mut codes = vec![[0; ACTIVATION_GROUP]; padded];
        let mut scales = vec![0.0; padded];
        kernels.quantize_row(values, codes[..groups].as_flattened_mut(), &mut scales[..groups]);
        let halves = scales.iter().flat_map(|&scale| [scale; 2]).collect();
        let by_16 = GroupNumbers::new(halves, codes.as_flattened().as_chunks::<16>().0);
        Quantized { by_16, by_32: GroupNumbers::new(scales, &codes), codes }
    }

    fn of_groups_of(&self, group: usize) -> &GroupNumbers {
        if group == MIN_GROUP { &self.by_16 } else { &self.by_32 }
    }
}

impl GroupNumbers {
    fn new<const GROUP: usize>(scales: Vec<f32>, codes: &[[i8; GROUP]]) -> GroupNumbers {
        let sum = |codes: &[i8; GROUP]| codes.iter().map(|&code| i16::from(code)).sum::<i16>();
        let sums = scales.iter().zip(codes).map(|(scale, codes)| scale * f32::from(sum(codes)));
        GroupNumbers { sums: sums.collect(), scales }
    }
}

/// `out[r] = Σ_c w[r][c] · x[c]`, by one thread.
///
/// The sums run in lanes, so the last digits differ from those of [`matmul`](crate::matmul); they
/// are the same for every instruction set. Plain numbers, and blocks in [`Mode::Exact`], are summed in
/// two chains of sixteen lanes. Blocks in [`Mode::Fast`]: with `d` the exact integer sum of
/// code times code over four columns, lane `c / 4 % 16` of chain `c / 64 % 2` takes
/// `fma(d, weight scale * activation scale, lane)`; the minima times the sums of the activations
/// are summed beside, group `g` in lane `g % 16`, and subtracted. Codes of fewer than eight bits
/// are counted from the lowest, which is a minimum too.
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
        for (row, out) in self.elements.chunks_exact(self.x.cols()).zip(self.out) {
            *out = plain_row::<S, F>(simd, row, &self.x.values);
        }
    }
}

#[inline(always)]
fn plain_row<S: Simd, F: PlainFormat>(simd: S, row: &[F::Element], x: &[f32]) -> f32 {
    let mut sums = LaneSums::zero(simd);
    let (row, row_rest) = row.as_chunks::<LANES>();
    let (x, x_rest) = x.as_chunks::<LANES>();
    let (row, row_last) = row.as_chunks::<2>();
    let (x, x_last) = x.as_chunks::<2>();
    for (weights, x) in row.iter().zip(x) {
        simd.prefetch_behind(cast_slice(weights.as_flattened()), AHEAD);
        sums.add::<0>(simd, F::load(simd, &weights[0]), simd.load(&x[0]));
        sums.add::<1>(simd, F::load(simd, &weights[1]), simd.load(&x[1]));
    }
    for (weights, x) in row_last.iter().zip(x_last) {
        sums.add::<0>(simd, F::load(simd, weights), simd.load(x));
    }
    if !row_rest.is_empty() {
        let (mut weights, mut padded) = ([F::Element::zeroed(); LANES], [0.0; LANES]);
        weights[..row_rest.len()].copy_from_slice(row_rest);
        padded[..x_rest.len()].copy_from_slice(x_rest);
        sums.add::<1>(simd, F::load(simd, &weights), simd.load(&padded));
    }
    sums.total(simd)
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
        let blocks = self.x.cols() / F::BLOCK_WEIGHTS;
        for (row, out) in self.blocks.chunks_exact(blocks).zip(self.out) {
            *out = match &self.x.quantized {
                None => exact_row::<S, F>(simd, row, &self.x.values),
                Some(x) => fast_row::<S, F>(simd, row, x),
            };
        }
    }
}

#[inline(always)]
fn exact_row<S: Simd, F: BlockFormat>(simd: S, row: &[F::Block], x: &[f32]) -> f32 {
    let mut sums = LaneSums::zero(simd);
    let mut weights = [0.0; MAX_BLOCK_WEIGHTS];
    let blocks = MAX_BLOCK_WEIGHTS / F::BLOCK_WEIGHTS;
    for (blocks, x) in row.chunks(blocks).zip(x.chunks(MAX_BLOCK_WEIGHTS)) {
        simd.prefetch_behind(cast_slice(blocks), AHEAD);
        let weights = &mut weights[..x.len()];
        dequantize::<S, F>(simd, blocks, weights);
        sums.add_products(simd, weights, x);
    }
    sums.total(simd)
}

#[inline(always)]
fn fast_row<S: Simd, F: BlockFormat>(simd: S, row: &[F::Block], x: &Quantized) -> f32 {
    let numbers = x.of_groups_of(F::GROUP);
    // Each a variable of its own: in one structure with an array, sums would stay in memory.
    let mut sums = LaneSums::zero(simd);
    let mut mins = simd.splat(0.0);
    let mut scales = [0.0; GROUPS];
    let activations = x.codes.as_chunks().0.iter();
    let activations = activations.zip(numbers.scales.chunks_exact(RUN / F::GROUP));
    let activations = activations.zip(numbers.sums.chunks_exact(RUN / F::GROUP));
    let runs = row.chunks(RUN / F::BLOCK_WEIGHTS);
    for (blocks, ((codes, activation_scales), activation_sums)) in runs.zip(activations) {
        let activations = (activation_scales, activation_sums);
        mins = read_numbers::<S, F>(simd, blocks, activations, &mut scales, mins);
        sums = add_codes::<S, F>(simd, blocks, codes, &scales, sums);
    }
    // Minus the lowest code, a power of two: exact.
    let lowest = if F::HAS_MIN { 1.0 } else { -f32::from(F::BIAS) };
    sums.minus(simd, simd.mul(mins, simd.splat(lowest))).total(simd)
}

/// Makes `scales` the products of the scales of the weights and of the activations, and returns
/// `mins` with the minima times the sums of the activations added; where there are none, with the
/// scales times these.
#[inline(always)]
fn read_numbers<S: Simd, F: BlockFormat>(
    simd: S,
    blocks: &[F::Block],
    (activation_scales, activation_sums): (&[f32], &[f32]),
    scales: &mut [f32; GROUPS],
    mut mins: S::F,
) -> S::F {
    let groups = blocks.len() * F::BLOCK_WEIGHTS / F::GROUP;
    let mut own_mins = [0.0; GROUPS];
    F::numbers(simd, blocks, &mut scales[..groups], &mut own_mins[..groups]);
    let own = scales.as_chunks_mut::<LANES>().0.iter_mut().zip(own_mins.as_chunks().0);
    let activations = activation_scales.as_chunks().0.iter().zip(activation_sums.as_chunks().0);
    for ((own_scales, own_mins), (scales, sums)) in own.zip(activations) {
        let own = simd.load(own_scales);
        if F::HAS_MIN {
            mins = simd.mul_add(simd.load(own_mins), simd.load(sums), mins);
        } else if F::BIAS != 0 {
            mins = simd.mul_add(own, simd.load(sums), mins);
        }
        simd.store(simd.mul(own, simd.load(scales)), own_scales);
    }
    mins
}

#[inline(always)]
fn add_codes<S: Simd, F: BlockFormat>(
    simd: S,
    blocks: &[F::Block],
    activations: &[[i8; BYTES]; RUN / BYTES],
    scales: &[f32; GROUPS],
    mut sums: LaneSums<S>,
) -> LaneSums<S> {
    let in_step = STEP.div_ceil(F::BLOCK_WEIGHTS);
    let weights = in_step * F::BLOCK_WEIGHTS;
    let scales = scales.chunks_exact(weights / F::GROUP);
    let mut numbers = activations.chunks_exact(weights / BYTES).zip(scales);
    let steps = blocks.chunks_exact(in_step);
    let rest = steps.remainder();
    for (blocks, (activations, scales)) in steps.zip(&mut numbers) {
        simd.prefetch_behind(cast_slice(blocks), AHEAD);
        add_step::<S, F>(simd, blocks, activations, scales, &mut sums);
    }
    if let (false, Some((activations, scales))) = (rest.is_empty(), numbers.next()) {
        let mut padded = [F::Block::zeroed(); STEP / BYTES];
        padded[..rest.len()].copy_from_slice(rest);
        add_step::<S, F>(simd, &padded[..in_step], activations, scales, &mut sums);
    }
    sums
}

/// Adds the products of a super-block, or of as many blocks as [`STEP`] columns have.
#[inline(always)]
fn add_step<S: Simd, F: BlockFormat>(
    simd: S,
    blocks: &[F::Block],
    activations: &[[i8; BYTES]],
    scales: &[f32],
    sums: &mut LaneSums<S>,
) {
    for_chains::<S, F>(simd, blocks, activations, scales, sums, 0);
    if F::BLOCK_WEIGHTS > STEP {
        for_chains::<S, F>(simd, blocks, activations, scales, sums, 2);
    }
}

/// 64 columns for either chain, from `64 * quad` on.
#[inline(always)]
fn for_chains<S: Simd, F: BlockFormat>(
    simd: S,
    blocks: &[F::Block],
    activations: &[[i8; BYTES]],
    scales: &[f32],
    sums: &mut LaneSums<S>,
    quad: usize,
) {
    let dots = dots_of::<S, F>(simd, blocks, activations, quad);
    sums.add::<0>(simd, dots, spread::<S, F>(simd, scales, quad));
    let dots = dots_of::<S, F>(simd, blocks, activations, quad + 1);
    sums.add::<1>(simd, dots, spread::<S, F>(simd, scales, quad + 1));
}

/// The sums of four columns each of `64 * quad..`.
#[inline(always)]
fn dots_of<S: Simd, F: BlockFormat>(
    simd: S,
    blocks: &[F::Block],
    activations: &[[i8; BYTES]],
    quad: usize,
) -> S::F {
    let in_block = F::BLOCK_WEIGHTS / BYTES;
    let signs = if F::CODE_BITS == 8 { CodeSigns::Both } else { CodeSigns::NonNegative };
    let (low, high) = (2 * quad, 2 * quad + 1);
    let codes = [
        F::codes(simd, &blocks[low / in_block], low % in_block),
        F::codes(simd, &blocks[high / in_block], high % in_block),
    ];
    simd.dot_quads(codes, &activations.as_chunks().0[quad], signs)
}

/// The scales of the groups of columns `64 * quad..`, each in the lanes of its columns.
#[inline(always)]
fn spread<S: Simd, F: BlockFormat>(simd: S, scales: &[f32], quad: usize) -> S::F {
    if F::GROUP == MIN_GROUP {
        simd.spread_4(&scales.as_chunks().0[quad])
    } else {
        simd.spread_2(&scales.as_chunks().0[quad])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Activations, FORMATS, Scratch, kernels::available, matmul};

    fn numbers(seed: u64, len: usize) -> Vec<f32> {
        llq_fixtures::random(seed).take(len).collect()
    }

    /// Of each format a matrix of `rows` rows of so many blocks: columns and bytes.
    fn matrices(rows: usize, blocks: usize) -> Vec<(&'static crate::FormatInfo, usize, Vec<u8>)> {
        let matrix = |format: &&'static crate::FormatInfo| {
            let cols = blocks * format.tensor_type.block_weights();
            let weights = numbers(7, rows * cols);
            let row_bytes = format.tensor_type.row_bytes(cols as u64).unwrap() as usize;
            let mut bytes = vec![0; rows * row_bytes];
            for (row, out) in weights.chunks(cols).zip(bytes.chunks_mut(row_bytes)) {
                format.encode_row(row, None, out).unwrap();
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
