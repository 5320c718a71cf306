//! Numbers, weights of a format, and what their products must be.

use llq_quant::{FormatInfo, Matrix, Mode};

/// Rows that are encoded; a matrix repeats them, as encoders are slow in the scalar row.
const DISTINCT_ROWS: usize = 16;

/// A matrix in a format.
#[derive(Clone)]
pub struct Weights {
    /// The format.
    pub format: &'static FormatInfo,
    /// The encoded rows.
    pub bytes: Vec<u8>,
    rows: usize,
    cols: usize,
}

impl Weights {
    /// `rows` rows (a multiple of 16) of `cols` numbers.
    pub fn new(format: &'static FormatInfo, rows: usize, cols: usize) -> Weights {
        let row_bytes = format.tensor_type.row_bytes(cols as u64).expect("whole blocks") as usize;
        let values = numbers(2, DISTINCT_ROWS * cols);
        let mut distinct = vec![0; DISTINCT_ROWS * row_bytes];
        for (row, out) in values.chunks_exact(cols).zip(distinct.chunks_exact_mut(row_bytes)) {
            format.encode_row(row, None, out).expect("whole rows");
        }
        Weights { format, bytes: distinct.repeat(rows / DISTINCT_ROWS), rows, cols }
    }

    /// The weights as a matrix.
    pub fn matrix(&self) -> Matrix<'_> {
        let tensor_type = self.format.tensor_type;
        Matrix::new(tensor_type, self.rows, self.cols, &self.bytes).expect("whole rows")
    }
}

/// Compares some products with the definition: equal in exact mode, near in fast mode.
pub fn assert_product(w: &Matrix<'_>, x: &[f32], mode: Mode, out: &[f32]) {
    let mut weights = vec![0.0; w.cols()];
    for row in (0..w.rows()).step_by((w.rows() / 7) | 1) {
        w.decode_row(row, &mut weights);
        for (token, x) in x.chunks_exact(w.cols()).enumerate().step_by(5) {
            let expected = weights.iter().zip(x).fold(0.0f32, |sum, (w, x)| w.mul_add(*x, sum));
            let found = out[token * w.rows() + row];
            // The errors of codes of activations are independent of each other.
            let spread = weights.iter().zip(x).map(|(w, x)| (w * x) * (w * x)).sum::<f32>().sqrt();
            match mode {
                Mode::Exact => assert_eq!(found.to_bits(), expected.to_bits()),
                Mode::Fast => assert!((found - expected).abs() < 0.05 * spread),
            }
        }
    }
}

/// Compares values with what f64 makes of the definition.
pub fn assert_near(found: &[f32], expected: impl IntoIterator<Item = f64>) {
    let mut count = 0;
    for (&found, expected) in found.iter().zip(expected) {
        let error = (f64::from(found) - expected).abs();
        assert!(error <= 1e-5 + 1e-5 * expected.abs(), "{found} is not {expected}");
        count += 1;
    }
    assert_eq!(count, found.len());
}

/// Numbers in -1..1.
pub fn numbers(seed: u64, len: usize) -> Vec<f32> {
    llq_fixtures::random(seed).take(len).collect()
}
