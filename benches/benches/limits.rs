//! What a row can do at most: multiply-adds and products of codes in registers, values read from
//! memory. `llq bench` sets the products beside these.

use criterion::Criterion;
use llq_benches::{Case, ProcessorTime, bench, run};
use llq_quant::kernels::{self, Chains, Kernels};

/// 256 MiB of f32, beyond most third-level caches.
const VALUES: usize = 64 << 20;

/// Lanes add up ones exactly to 2^24; a sum of 64 lanes does to as much.
const PIECE: usize = 1 << 18;

fn main() {
    run(limits);
}

fn limits(criterion: &mut Criterion<ProcessorTime>) {
    for kernels in kernels::available().rev() {
        for (chains, name) in [(Chains::Few, "few-chains"), (Chains::Many, "many-chains")] {
            burst(criterion, kernels, "multiply-adds", name, || kernels.multiply_add_burst(chains));
            burst(criterion, kernels, "code-products", name, || kernels.code_product_burst(chains));
        }
        let case = Case { operation: "read", kernels, name: "256MiB", elements: VALUES };
        let prepare = || {
            let values = vec![1.0; VALUES];
            assert_eq!(read(kernels, &values), VALUES as f64);
            values
        };
        bench(criterion, &case, prepare, |values| read(kernels, values));
    }
}

fn burst(
    criterion: &mut Criterion<ProcessorTime>,
    kernels: &'static Kernels,
    operation: &str,
    name: &str,
    run: impl Fn() -> u64,
) {
    let elements = run() as usize;
    bench(criterion, &Case { operation, kernels, name, elements }, || (), |()| run());
}

fn read(kernels: &Kernels, values: &[f32]) -> f64 {
    values.chunks(PIECE).map(|piece| f64::from(kernels.read_burst(piece))).sum()
}
