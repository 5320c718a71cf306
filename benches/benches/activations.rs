//! Making activations ready for a product, in values per second.

use criterion::Criterion;
use llq_benches::{Case, ProcessorTime, Weights, assert_product, bench, numbers, run};
use llq_gguf::TensorType;
use llq_quant::{Activations, Mode, Scratch, format, kernels, matmul_with};

const TOKENS: usize = 64;
const COLS: usize = 2048;
const ROWS: usize = 16;

fn main() {
    run(activations);
}

fn activations(criterion: &mut Criterion<ProcessorTime>) {
    let operation = "activations";
    for kernels in kernels::available().rev() {
        for (mode, name) in [(Mode::Exact, "exact"), (Mode::Fast, "fast")] {
            let case = Case { operation, kernels, name, elements: TOKENS * COLS };
            let prepare = || {
                let values = numbers(4, TOKENS * COLS);
                let mut x = Activations::new(mode, &values, COLS);
                x.refill_with(kernels, &values, COLS);
                let weights = Weights::new(format(TensorType::Q8_0).expect("a format"), ROWS, COLS);
                let mut out = vec![0.0; TOKENS * ROWS];
                let mut scratch = Scratch::default();
                matmul_with(kernels, &weights.matrix(), &x, &mut out, &mut scratch);
                assert_product(&weights.matrix(), &values, mode, &out);
                (values, x)
            };
            bench(criterion, &case, prepare, |(values, x)| x.refill_with(kernels, values, COLS));
        }
    }
}
