//! Causal attention of two heads that share keys and values, in multiply-adds that the mask shows
//! per second: both products, the softmax included.

use criterion::Criterion;
use llq_benches::{Case, ProcessorTime, assert_near, bench, numbers, run};
use llq_quant::{
    AttentionScratch, Rows, causal_attention,
    kernels::{self, Isa},
};

const HEADS: usize = 2;
const HEAD: usize = 64;

fn main() {
    run(attention);
}

fn attention(criterion: &mut Criterion<ProcessorTime>) {
    for kernels in kernels::available().rev() {
        let tokens = if kernels.isa() == Isa::Scalar { 64 } else { 512 };
        let elements = tokens * (tokens + 1) * HEADS * HEAD;
        let name = format!("{tokens}x{HEAD}");
        let mix = |[q, k, v]: &[Vec<f32>; 3], out: &mut [f32], scratch: &mut AttentionScratch| {
            let queries = [0, 1].map(|head| rows(&q[head * HEAD..], tokens, HEADS * HEAD));
            let (keys, values) = (rows(k, tokens, HEAD), rows(v, tokens, HEAD));
            causal_attention(kernels, &queries, keys, values, out, scratch);
        };
        let prepare = || {
            let inputs = [(5, HEADS), (6, 1), (7, 1)];
            let inputs = inputs.map(|(seed, heads)| numbers(seed, tokens * heads * HEAD));
            let (mut out, mut scratch) =
                (vec![0.0; tokens * HEADS * HEAD], AttentionScratch::default());
            mix(&inputs, &mut out, &mut scratch);
            for (i, out) in out.chunks_exact(HEAD).enumerate() {
                assert_near(out, expected(&inputs, i / HEADS, i % HEADS));
            }
            (inputs, out, scratch)
        };
        let case = Case { operation: "attention", kernels, name: &name, elements };
        bench(criterion, &case, prepare, |(inputs, out, scratch)| mix(inputs, out, scratch));
    }
}

fn rows(values: &[f32], tokens: usize, stride: usize) -> Rows<'_> {
    Rows::new(values, tokens, HEAD, stride)
}

/// What a query of a head gets, by the definition in f64.
fn expected([q, k, v]: &[Vec<f32>; 3], position: usize, head: usize) -> Vec<f64> {
    let query = &q[(position * HEADS + head) * HEAD..][..HEAD];
    let seen = || k.chunks_exact(HEAD).zip(v.chunks_exact(HEAD)).take(position + 1);
    let weight =
        |key: &[f32]| query.iter().zip(key).map(|(&q, &k)| product(q, k)).sum::<f64>().exp();
    let total: f64 = seen().map(|(key, _)| weight(key)).sum();
    let mut mixed = vec![0.0; HEAD];
    for (key, values) in seen() {
        let share = weight(key) / total;
        for (mixed, &value) in mixed.iter_mut().zip(values) {
            *mixed += share * f64::from(value);
        }
    }
    mixed
}

fn product(a: f32, b: f32) -> f64 {
    f64::from(a) * f64::from(b)
}
