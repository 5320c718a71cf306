//! Matrix products: encoded weights by activations.

use std::ops::Range;

use bytemuck::{cast_slice, cast_slice_mut};
use llq_gguf::TensorType;

use crate::{
    activations::Activations,
    decoding::Unpacked,
    format::MAX_BLOCK_WEIGHTS,
    kernels::{self, CodePanel, Kernels, Lanes, PANEL_ROWS, Words},
    product::{Product, Shape, accumulate},
    registry::{BlockInfo, FormatInfo, format},
};

/// Columns of an f32 panel: a tile of 12 tokens by as many takes 24 KiB of the first-level cache.
const EXACT_COLUMNS: usize = 512;

/// Columns of a panel of codes.
const FAST_COLUMNS: usize = 1024;

/// A matrix of encoded weights, row after row.
#[derive(Clone, Copy, Debug)]
pub struct Matrix<'a> {
    format: &'static FormatInfo,
    rows: usize,
    cols: usize,
    bytes: &'a [u8],
}

/// Why bytes are no matrix.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum MatrixError {
    /// llq has no decoder for the type.
    #[error("weights of type {tensor_type} can't be decoded")]
    Format {
        /// The type.
        tensor_type: TensorType,
    },
    /// Blocks do not fill a row.
    #[error("{cols} columns are no whole number of {tensor_type} blocks")]
    Columns {
        /// The type.
        tensor_type: TensorType,
        /// Columns.
        cols: usize,
    },
    /// The byte count is not that of the shape.
    #[error("{rows} rows of {cols} {tensor_type} weights do not take {bytes} bytes")]
    Size {
        /// The type.
        tensor_type: TensorType,
        /// Rows.
        rows: usize,
        /// Columns.
        cols: usize,
        /// Number of bytes.
        bytes: usize,
    },
}

impl<'a> Matrix<'a> {
    /// `rows` rows of `cols` weights each.
    ///
    /// # Errors
    /// If llq has no such format, its blocks do not fill rows of `cols`, or the bytes are not those
    /// of so many weights.
    pub fn new(
        tensor_type: TensorType,
        rows: usize,
        cols: usize,
        bytes: &'a [u8],
    ) -> Result<Matrix<'a>, MatrixError> {
        let format = format(tensor_type).ok_or(MatrixError::Format { tensor_type })?;
        let row_bytes = match tensor_type.row_bytes(cols as u64) {
            Some(row_bytes) if cols > 0 => row_bytes,
            _ => return Err(MatrixError::Columns { tensor_type, cols }),
        };
        if row_bytes.checked_mul(rows as u64) != Some(bytes.len() as u64) {
            return Err(MatrixError::Size { tensor_type, rows, cols, bytes: bytes.len() });
        }
        Ok(Matrix { format, rows, cols, bytes })
    }

    /// Number of rows: outputs per token.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Number of columns: inputs per token.
    pub fn cols(&self) -> usize {
        self.cols
    }

    /// The format of the weights.
    pub fn format(&self) -> &'static FormatInfo {
        self.format
    }

    /// The matrix of some of the rows.
    ///
    /// # Panics
    /// If the range leaves the matrix.
    pub fn row_range(&self, rows: Range<usize>) -> Matrix<'a> {
        assert!(rows.start <= rows.end && rows.end <= self.rows, "{rows:?} of {} rows", self.rows);
        let row_bytes = self.row_bytes();
        let bytes = &self.bytes[rows.start * row_bytes..rows.end * row_bytes];
        Matrix { rows: rows.len(), bytes, ..*self }
    }

    /// The weights of one row.
    ///
    /// # Panics
    /// If there is no such row, or `out` is not of `cols` elements.
    pub fn decode_row(&self, row: usize, out: &mut [f32]) {
        assert!(row < self.rows && out.len() == self.cols);
        self.decode(kernels::selected(), row, 0..self.cols, out);
    }

    pub(crate) fn bytes(&self) -> &'a [u8] {
        self.bytes
    }

    fn row_bytes(&self) -> usize {
        self.bytes.len() / self.rows.max(1)
    }

    /// The bytes of whole blocks of a row.
    fn segment(&self, row: usize, columns: &Range<usize>) -> &'a [u8] {
        let tensor_type = self.format.tensor_type;
        let byte = |column: usize| column / tensor_type.block_weights() * tensor_type.block_bytes();
        let row = &self.bytes[row * self.row_bytes()..][..self.row_bytes()];
        &row[byte(columns.start)..byte(columns.end)]
    }

    fn decode(&self, kernels: &Kernels, row: usize, columns: Range<usize>, out: &mut [f32]) {
        self.format.dequantize_blocks(kernels, self.segment(row, &columns), out);
    }
}

/// Buffers of a product, kept between calls. Their size is bounded by the block sizes, not by the
/// matrix.
#[derive(Debug, Default)]
pub struct Scratch {
    /// 32 rows of f32 or of codes, before they become a panel.
    rows: Vec<u32>,
    /// Scales and minima of as many rows.
    row_scales: Vec<f32>,
    row_mins: Vec<f32>,
    /// Panels, one after another: f32, or codes.
    panels: Vec<[Words; 2]>,
    /// Scales and minima of the panels, as their bits.
    scales: Vec<[Words; 2]>,
    mins: Vec<[Words; 2]>,
}

impl Scratch {
    /// Room for 32 rows of `len` words, and for panel `panel` made of them.
    pub(crate) fn panel(&mut self, panel: usize, len: usize) -> (&mut [u32], &mut [[Words; 2]]) {
        let rows = &mut grown(&mut self.rows, PANEL_ROWS * len)[..PANEL_ROWS * len];
        (rows, &mut grown(&mut self.panels, (panel + 1) * len)[panel * len..][..len])
    }

    /// Panel `panel` of f32, which has `len` columns.
    pub(crate) fn f32_panel(&self, panel: usize, len: usize) -> &[[Lanes; 2]] {
        cast_slice(&self.panels[panel * len..][..len])
    }
}

/// `out[t][r] = Σ_c w[r][c] · x[t][c]`, token after token, by one thread.
///
/// In [`Mode::Exact`](crate::Mode::Exact), and for plain formats in either mode, each output is one
/// chain of fused multiply-adds in the order of the columns. In [`Mode::Fast`](crate::Mode::Fast)
/// the products within a group of weights that share a scale are summed exactly in integers, and
/// the groups in the order of the columns.
///
/// # Panics
/// If the columns of `w` and `x` differ, `x` was made for other formats only
/// ([`Activations::parts`]), or `out` has another length than tokens × rows.
pub fn matmul(w: &Matrix<'_>, x: &Activations, out: &mut [f32], scratch: &mut Scratch) {
    matmul_with(kernels::selected(), w, x, out, scratch);
}

/// [`matmul`] by the code of a given instruction set.
///
/// # Panics
/// If the columns of `w` and `x` differ, `x` was made for other formats only
/// ([`Activations::parts`]), or `out` has another length than tokens × rows.
pub fn matmul_with(
    kernels: &Kernels,
    w: &Matrix<'_>,
    x: &Activations,
    out: &mut [f32],
    scratch: &mut Scratch,
) {
    assert_eq!(w.cols(), x.cols(), "columns of the weights and of the activations");
    assert_eq!(out.len(), w.rows() * x.tokens(), "outputs of {} rows", w.rows());
    let shape = Shape { rows: w.rows(), tokens: x.tokens(), depth: w.cols() };
    match &w.format.blocks {
        Some(blocks) if x.is_quantized() => {
            accumulate(&mut Fast { kernels, w, blocks, x, scratch }, shape, out);
        }
        _ => accumulate(&mut Exact { kernels, w, x, scratch }, shape, out),
    }
}

/// Weights decoded to f32.
struct Exact<'a> {
    kernels: &'a Kernels,
    w: &'a Matrix<'a>,
    x: &'a Activations,
    scratch: &'a mut Scratch,
}

impl Product for Exact<'_> {
    const DEPTH: usize = EXACT_COLUMNS;

    fn pack(&mut self, panel: usize, rows: Range<usize>, columns: Range<usize>) {
        let (len, filled) = (columns.len(), rows.len());
        let (buffer, out) = self.scratch.panel(panel, len);
        for (row, out) in rows.zip(buffer.chunks_exact_mut(len)) {
            self.w.decode(self.kernels, row, columns.clone(), cast_slice_mut(out));
        }
        buffer[filled * len..].fill(0);
        self.kernels.interleave(buffer, out);
    }

    fn multiply(
        &self,
        panel: usize,
        tile: usize,
        columns: Range<usize>,
        sums: &mut kernels::Accumulators,
    ) {
        let panel = self.scratch.f32_panel(panel, columns.len());
        self.kernels.exact_product(panel, &self.x.tile(tile)[columns], sums);
    }
}

/// Weights as they are, activations of 8 bits.
struct Fast<'a> {
    kernels: &'a Kernels,
    w: &'a Matrix<'a>,
    blocks: &'static BlockInfo,
    x: &'a Activations,
    scratch: &'a mut Scratch,
}

impl Product for Fast<'_> {
    const DEPTH: usize = FAST_COLUMNS;

    fn pack(&mut self, panel: usize, rows: Range<usize>, columns: Range<usize>) {
        let (len, filled) = (columns.len(), rows.len());
        let (words, groups) = (len / 4, len / self.blocks.group);
        let Scratch { rows: codes, row_scales, row_mins, panels, scales, mins, .. } =
            &mut *self.scratch;
        let codes = &mut grown(codes, PANEL_ROWS * words)[..PANEL_ROWS * words];
        let row_scales = &mut grown(row_scales, PANEL_ROWS * groups)[..PANEL_ROWS * groups];
        let row_mins = &mut grown(row_mins, PANEL_ROWS * groups)[..PANEL_ROWS * groups];
        let offset = self.kernels.code_offset(self.blocks.lowest);
        let numbers = row_scales.chunks_exact_mut(groups).zip(row_mins.chunks_exact_mut(groups));
        for (row, (codes, (scales, mins))) in rows.zip(codes.chunks_exact_mut(words).zip(numbers)) {
            let out = Unpacked { offset, codes: cast_slice_mut(codes), scales, mins };
            self.blocks.unpack(self.kernels, self.w.segment(row, &columns), out);
        }
        codes[filled * words..].fill(0);
        row_scales[filled * groups..].fill(0.0);
        row_mins[filled * groups..].fill(0.0);
        let place = |len| panel * len..(panel + 1) * len;
        let panels = &mut grown(panels, place(words).end)[place(words)];
        let scales = &mut grown(scales, place(groups).end)[place(groups)];
        self.kernels.interleave(codes, panels);
        self.kernels.interleave(cast_slice(row_scales), scales);
        if self.blocks.has_min {
            let mins = &mut grown(mins, place(groups).end)[place(groups)];
            self.kernels.interleave(cast_slice(row_mins), mins);
        }
    }

    fn multiply(
        &self,
        panel: usize,
        tile: usize,
        columns: Range<usize>,
        sums: &mut kernels::Accumulators,
    ) {
        let BlockInfo { group, has_min, lowest, code_bits, .. } = *self.blocks;
        let (words, groups) = (columns.len() / 4, columns.len() / group);
        let numbers = panel * groups..(panel + 1) * groups;
        let scales = &self.scratch.scales[numbers.clone()];
        let panel = CodePanel {
            group,
            lowest,
            code_bits,
            words: &self.scratch.panels[panel * words..][..words],
            scales: cast_slice(scales),
            mins: has_min.then(|| cast_slice(&self.scratch.mins[numbers])),
        };
        let tile = self.x.code_tile(tile, group, columns.start, columns.len());
        self.kernels.fast_product(panel, tile, sums);
    }
}

const _: () = assert!(EXACT_COLUMNS.is_multiple_of(MAX_BLOCK_WEIGHTS));
const _: () = assert!(FAST_COLUMNS.is_multiple_of(MAX_BLOCK_WEIGHTS));

/// The buffer, made at least `len` long.
fn grown<T: bytemuck::Zeroable + Clone>(buffer: &mut Vec<T>, len: usize) -> &mut [T] {
    if buffer.len() < len {
        buffer.resize(len, T::zeroed());
    }
    buffer
}
