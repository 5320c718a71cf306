//! What each matrix matters, and what its types err.

#![allow(clippy::unwrap_used)] // helpers of tests

mod support;

use llq_eval::{
    Against, ChannelSquares, Choice, Error, Llama, Mode, encoding_errors, evaluate, record,
    sensitivities,
};
use llq_gguf::TensorType;
use llq_quant::Effort;
use support::{corpus, encode, golden, model, options, tensors, tiny_llama};

const TYPES: [TensorType; 4] =
    [TensorType::Q2_K, TensorType::Q3_K, TensorType::Q4_K, TensorType::Q8_0];

fn choice(tensor: &str) -> Choice {
    let (tensor, types) = (tensor.to_owned(), TYPES.to_vec());
    Choice { tensor, types, importance: None, effort: Effort::Default }
}

#[test]
fn errors_fall_with_bits_and_follow_the_inputs() {
    let Some(model) = tiny_llama(TensorType::BF16) else { return };
    let choice = choice("blk.1.ffn_gate.weight");
    let plain = encoding_errors(&model, &choice, None).unwrap();
    assert!(plain.is_sorted_by(|a, b| a > b), "{plain:?}");
    assert!(plain[0] < 0.2 && plain[3] < 1e-4 && plain[3] > 0.0, "{plain:?}");

    let mut squares = vec![0.0; 256];
    let inputs =
        |squares: Vec<f64>| ChannelSquares { tensor: choice.tensor.clone(), squares, tokens: 1 };
    assert_eq!(encoding_errors(&model, &choice, Some(&inputs(squares.clone()))).unwrap(), [0.0; 4]);
    squares[7] = 3.0;
    let one = encoding_errors(&model, &choice, Some(&inputs(squares))).unwrap();
    assert!(one != plain && one[3] > 0.0, "{one:?}");
    let even = encoding_errors(&model, &choice, Some(&inputs(vec![2.0; 256]))).unwrap();
    let same = even.iter().zip(&plain).all(|(even, plain)| (even / plain - 1.0).abs() < 1e-9);
    assert!(same, "{even:?}, {plain:?}");
}

/// One matrix at a time: what is predicted of the type that was tried is what a file with that
/// matrix has.
#[test]
fn the_trial_is_the_model_with_that_matrix_encoded() {
    let Some(base_model) = tiny_llama(TensorType::BF16) else { return };
    let Some(corpus) = corpus(&base_model, "sampled") else { return };
    let base = Llama::load(&base_model).unwrap();
    let options = options(Mode::Exact, 2);
    let (_, recorded) = record(&base, &corpus, &options, &()).unwrap();
    let choices = ["token_embd.weight", "blk.3.attn_v.weight", "output.weight"].map(choice);
    let errors: Vec<Vec<f64>> =
        choices.iter().map(|choice| encoding_errors(&base_model, choice, None).unwrap()).collect();
    let on = (&recorded, &corpus);
    let found = sensitivities(&base_model, &choices, &errors, 4.6, on, &options, &()).unwrap();

    for ((choice, errors), found) in choices.iter().zip(&errors).zip(found) {
        let mut changed = tensors(TensorType::BF16);
        let plain = tensors(TensorType::F32);
        let at = changed.iter().position(|(spec, _)| spec.name == choice.tensor).unwrap();
        let weights: Vec<f32> = plain[at]
            .1
            .chunks_exact(4)
            .map(|bytes| f32::from_le_bytes(bytes.try_into().unwrap()))
            .collect();
        changed[at].0.tensor_type = TensorType::Q4_K;
        changed[at].1 = encode(&weights, changed[at].0.shape[0] as usize, TensorType::Q4_K);
        let changed = model(golden("q4_0").unwrap().metadata(), &changed);
        let llama = Llama::load(&changed).unwrap();
        let report =
            evaluate(&llama, Against::Recorded(&recorded), &corpus, &options, &()).unwrap();
        let kld = report.against.unwrap().kld.mean;
        assert!(kld > 0.0 && (found * errors[2] / kld - 1.0).abs() < 1e-9, "{}", choice.tensor);
    }
}

#[test]
fn what_is_no_matrix_is_told() {
    let Some(model) = tiny_llama(TensorType::BF16) else { return };
    let of = |tensor: &str| encoding_errors(&model, &choice(tensor), None);
    assert!(matches!(of("blk.9.attn_q.weight"), Err(Error::MissingTensor { .. })));
    assert!(matches!(of("output_norm.weight"), Err(Error::UnsupportedTensor { .. })));
    let choice = Choice { importance: Some(vec![1.0; 3]), ..choice("output.weight") };
    assert!(matches!(encoding_errors(&model, &choice, None), Err(Error::Weights { .. })));
}
