//! Matrix products per format, in multiply-adds per second, packing of the weights included.
//! `--bench limits` has what a row can do at most.

use criterion::Criterion;
use llq_benches::{Case, ProcessorTime, Weights, assert_product, bench, numbers, run};
use llq_gguf::TensorType;
use llq_quant::{Activations, FormatInfo, Mode, Scratch, kernels::Isa, matmul_with};

/// Rows and columns of the weights.
const SIDE: usize = 2048;
const TOKENS: usize = 512;
/// The scalar row is slow: its rate shows on few tokens.
const SCALAR_TOKENS: usize = 12;
/// Sides of the large product of codes by codes, which no cache holds.
const LARGE: usize = 4096;

fn main() {
    run(products);
}

fn products(criterion: &mut Criterion<ProcessorTime>) {
    for (kernels, format, name) in Case::grid() {
        let scalar = kernels.isa() == Isa::Scalar;
        let tokens = if scalar { SCALAR_TOKENS } else { TOKENS };
        for (mode, operation) in [(Mode::Exact, "exact"), (Mode::Fast, "fast")] {
            let case = Case { operation, kernels, name: &name, elements: SIDE * SIDE * tokens };
            product(criterion, case, format, mode, [SIDE, SIDE, tokens]);
        }
        if format.tensor_type == TensorType::Q8_0 && !scalar {
            let elements = LARGE * LARGE * LARGE;
            let case = Case { operation: "fast-4096", kernels, name: &name, elements };
            product(criterion, case, format, Mode::Fast, [LARGE; 3]);
        }
    }
}

/// `shape` is rows and columns of the weights, and tokens.
fn product(
    criterion: &mut Criterion<ProcessorTime>,
    case: Case<'_>,
    format: &'static FormatInfo,
    mode: Mode,
    shape: [usize; 3],
) {
    let [rows, cols, tokens] = shape;
    let kernels = case.kernels;
    let prepare = || {
        let weights = Weights::new(format, rows, cols);
        let values = numbers(1, tokens * cols);
        let x = Activations::new(mode, &values, cols);
        let mut out = vec![0.0; tokens * rows];
        let mut scratch = Scratch::default();
        matmul_with(kernels, &weights.matrix(), &x, &mut out, &mut scratch);
        assert_product(&weights.matrix(), &values, mode, &out);
        (weights, x, out, scratch)
    };
    bench(criterion, &case, prepare, |(weights, x, out, scratch)| {
        matmul_with(kernels, &weights.matrix(), x, out, scratch);
    });
}
