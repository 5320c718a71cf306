//! What the matrices of a model are multiplied by, summed up over a text.

#![allow(clippy::unwrap_used)] // helpers of tests

mod support;

use llq_eval::{Corpus, Importance, Llama, Matrices, importance};
use llq_fixtures::shared;
use llq_gguf::{Model, TensorType};
use llq_quant::format;
use rayon::ThreadPoolBuilder;
use support::{corpus, tiny_llama};

const CONTEXT: usize = 24;

fn on_threads(threads: usize, model: &Model, corpus: &Corpus) -> Importance {
    let llama = Llama::load(model).unwrap();
    let pool = ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
    let matrices = Matrices::BlocksAndOutput;
    // More windows than a pass takes.
    pool.install(|| importance(&llama, corpus, CONTEXT, Some(90), matrices, &()).unwrap())
}

#[test]
fn thread_counts_give_the_same_bits() {
    let Some(model) = tiny_llama(TensorType::BF16) else { return };
    let Some(corpus) = corpus(&model, "sampled") else { return };
    let one = on_threads(1, &model, &corpus);
    assert_eq!(one, on_threads(3, &model, &corpus));
    assert_eq!((one.windows, one.context, one.tensors.len()), (90, CONTEXT, 6 * 7 + 1));
    assert!(one.tensors.iter().all(|channels| channels.tokens == 90 * CONTEXT as u64));
    assert_eq!(one.tensors.last().unwrap().tensor, "output.weight");
}

/// The first block's input is the norm of the embedding: every token counts, the first of a window
/// as BOS.
#[test]
fn the_first_input_is_the_norm_of_the_embedding() {
    let Some(model) = tiny_llama(TensorType::F32) else { return };
    let Some(corpus) = corpus(&model, "sampled") else { return };
    let llama = Llama::load(&model).unwrap();
    let found =
        importance(&llama, &corpus, CONTEXT, Some(3), Matrices::Blocks, &()).unwrap().tensors;
    let (embedding, norm) =
        (floats(&model, "token_embd.weight"), floats(&model, "blk.0.attn_norm.weight"));
    let width = norm.len();
    let epsilon = model.metadata().float("llama.attention.layer_norm_rms_epsilon").unwrap();
    let mut expected = vec![0.0; width];
    for (position, &token) in corpus.tokens()[..3 * CONTEXT].iter().enumerate() {
        let token = if position % CONTEXT == 0 { 1 } else { token as usize };
        let row = &embedding[token * width..][..width];
        let mean = row.iter().map(|&x| f64::from(x).powi(2)).sum::<f64>() / width as f64;
        for ((sum, &x), &weight) in expected.iter_mut().zip(row).zip(&norm) {
            *sum += (f64::from(x) * f64::from(weight)).powi(2) / (mean + epsilon);
        }
    }
    for name in ["blk.0.attn_q.weight", "blk.0.attn_k.weight", "blk.0.attn_v.weight"] {
        let channels = found.iter().find(|channels| channels.tensor == name).unwrap();
        for (found, expected) in channels.squares.iter().zip(&expected) {
            assert!((found / expected - 1.0).abs() < 1e-5, "{name}: {found} for {expected}");
        }
    }
}

/// The field's standard tool multiplies halves: what it sums up differs in the fourth digit.
#[test]
fn sums_agree_with_the_golden_file() {
    let Some(path) = shared("golden/imatrix.gguf") else { return };
    let Some(model) = tiny_llama(TensorType::F16) else { return };
    let Some(corpus) = corpus(&model, "calibration") else { return };
    let golden = Model::open(&path).unwrap();
    let windows = golden.metadata().count("imatrix.chunk_count").unwrap() as usize;
    let context = golden.metadata().count("imatrix.chunk_size").unwrap() as usize;
    let llama = Llama::load(&model).unwrap();
    let found = importance(&llama, &corpus, context, Some(windows), Matrices::Blocks, &()).unwrap();
    assert_eq!(2 * found.tensors.len(), golden.tensors().len());
    for channels in &found.tensors {
        let name = &channels.tensor;
        let golden = |part: &str| floats(&golden, &format!("{name}.{part}"));
        assert_eq!(golden("counts"), [channels.tokens as f32]);
        for (found, golden) in channels.squares.iter().zip(golden("in_sum2")) {
            let difference = (found / f64::from(golden) - 1.0).abs();
            assert!(difference < 2e-3, "{name}: {found}, golden {golden}");
        }
    }
}

fn floats(model: &Model, name: &str) -> Vec<f32> {
    let tensor = model.tensor(name).unwrap();
    let mut floats = vec![0.0; tensor.weights() as usize];
    format(tensor.tensor_type).unwrap().dequantize(model.data(tensor), &mut floats).unwrap();
    floats
}
