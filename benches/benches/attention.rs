//! The two products of causal attention of one head, in multiply-adds that the mask shows per
//! second.

use criterion::Criterion;
use llq_benches::{Case, ProcessorTime, assert_near, bench, numbers, run};
use llq_quant::{
    Mask, Rows, Scratch, attention_scores, attention_values,
    kernels::{self, Isa, Kernels},
};

const HEAD: usize = 64;

fn main() {
    run(attention);
}

fn attention(criterion: &mut Criterion<ProcessorTime>) {
    for kernels in kernels::available().rev() {
        let tokens = if kernels.isa() == Isa::Scalar { 64 } else { 512 };
        let elements = tokens * (tokens + 1) / 2 * HEAD;
        let name = format!("{tokens}x{HEAD}");
        let head = || numbers(5, tokens * HEAD);

        let scores = |q: &[f32], k: &[f32], out: &mut [f32], scratch: &mut Scratch| {
            let [q, k] = [q, k].map(|values| Rows::new(values, tokens, HEAD, HEAD));
            attention_scores(kernels, q, k, Mask::Causal, out, scratch);
        };
        let prepare = || {
            let (q, k, mut out) = (head(), numbers(6, tokens * HEAD), vec![0.0; tokens * tokens]);
            scores(&q, &k, &mut out, &mut Scratch::default());
            for (token, scores) in out.chunks_exact(tokens).enumerate() {
                assert_near(
                    &scores[..=token],
                    (0..=token).map(|key| dot(row(&q, token), row(&k, key))),
                );
            }
            (q, k, out, Scratch::default())
        };
        let case = Case { operation: "attention-scores", kernels, name: &name, elements };
        bench(criterion, &case, prepare, |(q, k, out, scratch)| scores(q, k, out, scratch));

        let case = Case { operation: "attention-values", kernels, name: &name, elements };
        let prepare = || {
            let p = probabilities(tokens);
            let (v, mut out) = (head(), vec![0.0; tokens * HEAD]);
            values(kernels, tokens, &p, &v, &mut out, &mut Scratch::default());
            for (token, (p, out)) in p.chunks_exact(tokens).zip(out.chunks_exact(HEAD)).enumerate()
            {
                let sum =
                    |c| (0..=token).map(|key| product(p[key], v[key * HEAD + c])).sum::<f64>();
                assert_near(out, (0..HEAD).map(sum));
            }
            (p, v, out, Scratch::default())
        };
        bench(criterion, &case, prepare, |(p, v, out, scratch)| {
            values(kernels, tokens, p, v, out, scratch);
        });
    }
}

fn values(
    kernels: &Kernels,
    tokens: usize,
    p: &[f32],
    v: &[f32],
    out: &mut [f32],
    scratch: &mut Scratch,
) {
    let (p, v) = (Rows::new(p, tokens, tokens, tokens), Rows::new(v, tokens, HEAD, HEAD));
    attention_values(kernels, p, v, Mask::Causal, out, HEAD, scratch);
}

/// Each row sums to one.
fn probabilities(tokens: usize) -> Vec<f32> {
    let mut probabilities = numbers(7, tokens * tokens);
    for (token, row) in probabilities.chunks_exact_mut(tokens).enumerate() {
        kernels::selected().softmax_in_place(&mut row[..=token]);
    }
    probabilities
}

fn row(head: &[f32], token: usize) -> &[f32] {
    &head[token * HEAD..][..HEAD]
}

fn dot(a: &[f32], b: &[f32]) -> f64 {
    a.iter().zip(b).map(|(&a, &b)| product(a, b)).sum()
}

fn product(a: f32, b: f32) -> f64 {
    f64::from(a) * f64::from(b)
}
