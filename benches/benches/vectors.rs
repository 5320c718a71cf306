//! Operations over rows of f32, in values per second.

use criterion::Criterion;
use llq_benches::{Case, ProcessorTime, assert_near, bench_in_place, numbers, run};
use llq_quant::kernels::{self, Kernels};

const VALUES: usize = 4096;
const EPS: f32 = 1e-5;

/// `run` takes the inputs `x` and `w`, and in `out` a copy of `x` that it changes.
struct Operation {
    name: &'static str,
    run: fn(kernels: &Kernels, x: &[f32], w: &[f32], out: &mut [f32]),
    /// What `out` must then be.
    definition: fn(x: &[f64], w: &[f64]) -> Vec<f64>,
}

const OPERATIONS: [Operation; 7] = [
    Operation {
        name: "exp_shifted",
        run: |kernels, x, _, out| kernels.exp_shifted(x, 0.5, out),
        definition: |x, _| map(x, |x| (x - 0.5).exp()),
    },
    Operation {
        name: "max",
        run: |kernels, x, _, out| out.fill(kernels.max(x)),
        definition: |x, _| vec![x.iter().copied().fold(f64::NEG_INFINITY, f64::max); x.len()],
    },
    Operation {
        name: "rms_norm",
        run: |kernels, x, w, out| kernels.rms_norm(x, w, EPS, out),
        definition: |x, w| {
            let mean = x.iter().map(|x| x * x).sum::<f64>() / x.len() as f64;
            zip(x, w, |x, w| x / (mean + f64::from(EPS)).sqrt() * w)
        },
    },
    Operation {
        name: "softmax_in_place",
        run: |kernels, _, _, out| kernels.softmax_in_place(out),
        definition: |x, _| {
            let sum: f64 = x.iter().map(|x| x.exp()).sum();
            map(x, |x| x.exp() / sum)
        },
    },
    Operation {
        name: "scale_in_place",
        run: |kernels, _, _, out| kernels.scale_in_place(out, 0.75),
        definition: |x, _| map(x, |x| x * 0.75),
    },
    Operation {
        name: "silu_mul",
        run: |kernels, _, w, out| kernels.silu_mul(w, out),
        definition: |x, w| zip(x, w, |up, gate| up * gate / (1.0 + (-gate).exp())),
    },
    Operation {
        name: "add_assign",
        run: |kernels, _, w, out| kernels.add_assign(out, w),
        definition: |x, w| zip(x, w, |x, w| x + w),
    },
];

fn main() {
    run(vectors);
}

fn vectors(criterion: &mut Criterion<ProcessorTime>) {
    for kernels in kernels::available().rev() {
        for Operation { name, run, definition } in OPERATIONS {
            let case = Case { operation: "vectors", kernels, name, elements: VALUES };
            let (x, w) = (numbers(8, VALUES), numbers(9, VALUES));
            let prepare = || {
                let mut out = x.clone();
                run(kernels, &x, &w, &mut out);
                assert_near(&out, definition(&f64s(&x), &f64s(&w)));
                x.clone()
            };
            bench_in_place(criterion, &case, prepare, |out| run(kernels, &x, &w, out));
        }
    }
}

fn f64s(values: &[f32]) -> Vec<f64> {
    values.iter().map(|&value| f64::from(value)).collect()
}

fn map(x: &[f64], f: impl Fn(f64) -> f64) -> Vec<f64> {
    x.iter().map(|&x| f(x)).collect()
}

fn zip(x: &[f64], w: &[f64], f: impl Fn(f64, f64) -> f64) -> Vec<f64> {
    x.iter().zip(w).map(|(&x, &w)| f(x, w)).collect()
}
