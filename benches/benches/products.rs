//! Matrix products per format, in multiply-adds per second, packing of the weights included.
//! `--bench limits` has what a row can do at most.

use criterion::Criterion;
use llq_benches::{Case, ProcessorTime, Weights, assert_product, bench, numbers, run};
use llq_quant::{Activations, Mode, Scratch, kernels::Isa, matmul_with};

const ROWS: usize = 2048;
const COLS: usize = 2048;
const TOKENS: usize = 512;
/// The scalar row is slow: its rate shows on few tokens.
const SCALAR_TOKENS: usize = 12;

fn main() {
    run(products);
}

fn products(criterion: &mut Criterion<ProcessorTime>) {
    for (kernels, format, name) in Case::grid() {
        for (mode, operation) in [(Mode::Exact, "exact"), (Mode::Fast, "fast")] {
            let tokens = if kernels.isa() == Isa::Scalar { SCALAR_TOKENS } else { TOKENS };
            let case = Case { operation, kernels, name: &name, elements: ROWS * COLS * tokens };
            let prepare = || {
                let weights = Weights::new(format, ROWS, COLS);
                let values = numbers(1, tokens * COLS);
                let x = Activations::new(mode, &values, COLS);
                let mut out = vec![0.0; tokens * ROWS];
                let mut scratch = Scratch::default();
                matmul_with(kernels, &weights.matrix(), &x, &mut out, &mut scratch);
                assert_product(&weights.matrix(), &values, mode, &out);
                (weights, x, out, scratch)
            };
            bench(criterion, &case, prepare, |(weights, x, out, scratch)| {
                matmul_with(kernels, &weights.matrix(), x, out, scratch);
            });
        }
    }
}
