//! One token by a matrix, in weights per second. `--bench limits` has what memory can give.

use criterion::Criterion;
use llq_benches::{Case, ProcessorTime, Weights, assert_product, bench, numbers, run};
use llq_quant::{Mode, Vector, gemv_with, kernels::Isa};

const ROWS: usize = 4096;
const COLS: usize = 14336;
/// The scalar row is slow: its rate shows on few rows.
const SCALAR_ROWS: usize = 64;

fn main() {
    run(gemv);
}

fn gemv(criterion: &mut Criterion<ProcessorTime>) {
    for (kernels, format, name) in Case::grid() {
        let rows = if kernels.isa() == Isa::Scalar { SCALAR_ROWS } else { ROWS };
        for (mode, operation) in [(Mode::Exact, "gemv-exact"), (Mode::Fast, "gemv-fast")] {
            let case = Case { operation, kernels, name: &name, elements: rows * COLS };
            let prepare = || {
                let weights = Weights::new(format, rows, COLS);
                let values = numbers(1, COLS);
                let x = Vector::with(kernels, mode, &values);
                let mut out = vec![0.0; rows];
                gemv_with(kernels, &weights.matrix(), &x, &mut out);
                // Sums in lanes: near the chain of the definition, not equal.
                assert_product(&weights.matrix(), &values, Mode::Fast, &out);
                (weights, x, out)
            };
            bench(criterion, &case, prepare, |(weights, x, out)| {
                gemv_with(kernels, &weights.matrix(), x, out);
            });
        }
    }
}
