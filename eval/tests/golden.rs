//! Perplexity and KL divergence against the figures of the field's standard tool.

#![allow(clippy::unwrap_used, clippy::print_stdout)] // helpers of tests

mod support;

use std::fs;

use llq_eval::{Against, Llama, Mode, Report, evaluate};
use llq_fixtures::shared;
use llq_gguf::{Model, TensorType};
use llq_quant::FORMATS;
use serde_json::Value;
use support::{corpus, golden, llama_3::tiny_llama_3, options, tiny_llama};

/// The windows that the golden figures are over.
const WINDOWS: usize = 64;

/// The golden tool's figures of a type on a corpus.
struct Golden {
    perplexity: f64,
    mean_kld: f64,
    same_top: f64,
}

fn figures(model: &str, tensor_type: &str, mode: &str, text: &str) -> Golden {
    let path = shared(&format!("golden/{model}.json")).unwrap();
    let table: Value = serde_json::from_slice(&fs::read(path).unwrap()).unwrap();
    let rows = table["rows"].as_array().unwrap();
    let row = rows.iter().find(|row| row["type"] == tensor_type && row["mode"] == mode).unwrap();
    let figure = |name: &str| row[text][name].as_f64().unwrap();
    Golden {
        perplexity: figure("ppl"),
        mean_kld: figure("mean_kld"),
        same_top: figure("same_top_pct") / 100.0,
    }
}

fn measure(subject: &Model, against: Option<&Model>, mode: Mode, text: &str) -> Option<Report> {
    let corpus = corpus(subject, text)?;
    let llama = Llama::load(subject).unwrap();
    let base = against.map(|base| Llama::load(base).unwrap());
    let against = base.as_ref().map_or(Against::Nothing, Against::Model);
    Some(evaluate(&llama, against, &corpus, &options(mode, WINDOWS), &()).unwrap())
}

fn assert_near(what: &str, found: f64, golden: f64, tolerance: f64) {
    let change = found / golden - 1.0;
    println!("{what}: {found:.6}, expected {golden:.6}, {:+.4} %", change * 100.0);
    assert!(change.abs() < tolerance, "{what}: {found} is not within {tolerance} of {golden}");
}

fn assert_exact_perplexity(tensor_type: TensorType, text: &str) {
    let Some(model) = tiny_llama(tensor_type) else { return };
    let Some(report) = measure(&model, None, Mode::Exact, text) else { return };
    // The golden tool gives no row for F16: it is the base of the others.
    let row = if tensor_type == TensorType::F16 { "F32" } else { tensor_type.name() };
    let golden = figures("tiny-llama-2", row, "plain", text);
    assert_near(&format!("{tensor_type} {text}"), report.perplexity, golden.perplexity, 0.0005);
}

#[test]
fn f32_exact_on_holmes() {
    assert_exact_perplexity(TensorType::F32, "holmes");
}

#[test]
fn bf16_exact_on_sampled() {
    assert_exact_perplexity(TensorType::BF16, "sampled");
}

/// Byte-level BPE, tied embeddings and the divided rotation frequencies of Llama 3.2.
#[test]
fn llama_3_exact_on_holmes() {
    for tensor_type in [TensorType::F32, TensorType::BF16] {
        let Some(model) = tiny_llama_3(tensor_type) else { return };
        let Some(report) = measure(&model, None, Mode::Exact, "holmes") else { return };
        let golden = figures("tiny-llama-3", tensor_type.name(), "plain", "holmes");
        let what = format!("llama 3 {tensor_type}");
        assert_near(&what, report.perplexity, golden.perplexity, 0.0005);
    }
}

/// A file that the golden tool quantized, in `fast` mode against the F16 model as there.
fn assert_fast_figures(file: &str, tensor_type: &str, mode: &str, text: &str) {
    let (Some(model), Some(base)) = (golden(file), tiny_llama(TensorType::F16)) else { return };
    let Some(report) = measure(&model, Some(&base), Mode::Fast, text) else { return };
    let golden = figures("tiny-llama-2", tensor_type, mode, text);
    let comparison = report.against.unwrap();
    assert_near(&format!("{file} {text}"), report.perplexity, golden.perplexity, 0.003);
    // Below the golden figure, as llq's activations have a scale per 32 and not per 256 columns.
    let kld_ratio = comparison.kld.mean / golden.mean_kld;
    println!("{file} {text}: KL divergence {kld_ratio:.3} of golden");
    assert!((0.75..1.02).contains(&kld_ratio), "{file}: {:?}", comparison.kld);
    assert!((comparison.same_top - golden.same_top).abs() < 0.005, "{}", comparison.same_top);
}

#[test]
fn q4_k_m_fast_on_holmes() {
    assert_fast_figures("q4_k_m", "Q4_K_M", "plain", "holmes");
}

#[test]
#[ignore = "minutes: every golden file on both texts"]
fn all_golden_files() {
    let files = [
        ("q2_k", "Q2_K", "plain"),
        ("q3_k_m", "Q3_K_M", "plain"),
        ("q4_0", "Q4_0", "plain"),
        ("q4_k_m", "Q4_K_M", "plain"),
        ("q5_0", "Q5_0", "plain"),
        ("q5_k_m", "Q5_K_M", "plain"),
        ("q2_k-imatrix", "Q2_K", "imatrix"),
        ("q3_k_m-imatrix", "Q3_K_M", "imatrix"),
        ("q4_k_m-imatrix", "Q4_K_M", "imatrix"),
    ];
    for text in ["holmes", "sampled"] {
        for tensor_type in [TensorType::F32, TensorType::F16, TensorType::BF16] {
            assert_exact_perplexity(tensor_type, text);
        }
        for (file, tensor_type, mode) in files {
            assert_fast_figures(file, tensor_type, mode, text);
        }
    }
}

/// Of each format, and of the plain ones, whose products are the same in both modes, to the bit.
#[test]
#[ignore = "minutes: every format in both modes"]
fn fast_perplexity_is_near_exact_in_every_format() {
    let Some(tokenizer) = golden("q4_0") else { return };
    let Some(corpus) = corpus(&tokenizer, "holmes") else { return };
    for format in FORMATS {
        let model = tiny_llama(format.tensor_type).unwrap();
        let llama = Llama::load(&model).unwrap();
        let [exact, fast] = [Mode::Exact, Mode::Fast].map(|mode| {
            let options = options(mode, WINDOWS / 4);
            evaluate(&llama, Against::Nothing, &corpus, &options, &()).unwrap().perplexity
        });
        match format.blocks {
            Some(_) => assert_near(format.name(), fast, exact, 0.001),
            None => assert_eq!(fast.to_bits(), exact.to_bits(), "{}", format.name()),
        }
    }
}
