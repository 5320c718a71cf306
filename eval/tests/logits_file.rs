//! The field's file of logits: written as its description says, and compared with.

#![allow(clippy::unwrap_used)] // helpers of tests

mod support;

use std::fs;

use llq_eval::{
    Against, Corpus, Error, Llama, LogitsFile, Mode, Options, Report, evaluate, save_logits,
};
use llq_gguf::{Model, TensorType};
use support::{corpus, golden, tiny_llama};
use tempfile::NamedTempFile;

/// Longer than a pass, and with an odd window.
const OPTIONS: Options = Options { mode: Mode::Exact, context: 25, chunks: Some(90) };

/// Scored positions of a window of 25.
const SCORED: usize = 12;

struct Saved {
    bytes: Vec<u8>,
    report: Report,
    corpus: Corpus,
    model: Model,
}

fn saved() -> Option<Saved> {
    let model = tiny_llama(TensorType::BF16)?;
    let corpus = corpus(&model, "sampled")?;
    let mut bytes = Vec::new();
    let llama = Llama::load(&model).unwrap();
    let report = save_logits(&llama, &corpus, &OPTIONS, &mut bytes, &()).unwrap();
    let alone = evaluate(&llama, Against::Nothing, &corpus, &OPTIONS, &()).unwrap();
    assert_eq!(report, alone);
    Some(Saved { bytes, report, corpus, model })
}

fn opened(bytes: &[u8]) -> Result<LogitsFile, Error> {
    let file = NamedTempFile::new().unwrap();
    fs::write(file.path(), bytes).unwrap();
    LogitsFile::open(file.path())
}

fn number(bytes: &[u8], at: usize) -> usize {
    i32::from_le_bytes(bytes[at..at + 4].try_into().unwrap()) as usize
}

fn float(bytes: &[u8], at: usize) -> f64 {
    f32::from_le_bytes(bytes[at..at + 4].try_into().unwrap()).into()
}

#[test]
fn the_file_is_as_its_description_says() {
    let Some(Saved { bytes, report, corpus, model }) = saved() else { return };
    let vocabulary = Llama::load(&model).unwrap().hyperparameters().vocabulary_size;
    assert_eq!(&bytes[..8], b"_logits_");
    assert_eq!([8, 12, 16].map(|at| number(&bytes, at)), [25, vocabulary, 90]);
    let tokens: Vec<u32> = (0..25 * 90).map(|i| number(&bytes, 20 + 4 * i) as u32).collect();
    assert_eq!(tokens, corpus.tokens()[..tokens.len()]);
    let row_bytes = 8 + 2 * vocabulary.next_multiple_of(2);
    let rows = &bytes[20 + 4 * tokens.len()..];
    assert_eq!(rows.len(), 90 * SCORED * row_bytes);

    let mut nll = 0.0;
    for (index, row) in rows.chunks_exact(row_bytes).enumerate() {
        let (scale, least) = (float(row, 0), float(row, 4));
        let codes: Vec<u16> = row[8..][..2 * vocabulary]
            .chunks_exact(2)
            .map(|b| u16::from_le_bytes([b[0], b[1]]))
            .collect();
        let log_p = |code: u16| scale * f64::from(code) + least;
        let sum: f64 = codes.iter().map(|&code| log_p(code).exp()).sum();
        assert!((sum - 1.0).abs() < 1e-3, "row {index} sums to {sum}");
        let target = tokens[index / SCORED * 25 + 25 / 2 + 1 + index % SCORED];
        nll -= log_p(codes[target as usize]);
    }
    let perplexity = (nll / report.tokens as f64).exp();
    // A true token that is more than 16 nats below the top counts as 16 below.
    assert!((perplexity / report.perplexity - 1.0).abs() < 5e-3, "{perplexity} {report:?}");
}

#[test]
fn a_file_of_logits_stands_for_its_model() {
    let Some(Saved { bytes, corpus, model: base, .. }) = saved() else { return };
    let file = opened(&bytes).unwrap();
    assert_eq!((file.context(), file.windows()), (25, 90));
    let Some(model) = golden("q4_0") else { return };
    let (llama, base) = (Llama::load(&model).unwrap(), Llama::load(&base).unwrap());
    // Also fewer windows than the file has.
    for chunks in [90, 7] {
        let options = Options { chunks: Some(chunks), ..OPTIONS };
        let direct = evaluate(&llama, Against::Model(&base), &corpus, &options, &()).unwrap();
        let filed = evaluate(&llama, Against::Logits(&file), &corpus, &options, &()).unwrap();
        assert_eq!((filed.perplexity, filed.stderr), (direct.perplexity, direct.stderr));
        let (direct, filed) = (direct.against.unwrap(), filed.against.unwrap());
        let near = |a: f64, b: f64, tolerance: f64| (a - b).abs() < tolerance;
        assert!(near(filed.kld.mean, direct.kld.mean, 1e-5), "{filed:?}\n{direct:?}");
        assert!(near(filed.kld.p99, direct.kld.p99, 1e-4), "{filed:?}\n{direct:?}");
        assert!(near(filed.ln_ratio, direct.ln_ratio, 5e-3), "{filed:?}\n{direct:?}");
        assert!(near(filed.same_top, direct.same_top, 2e-3), "{filed:?}\n{direct:?}");
        assert!(near(filed.delta_p.rms, direct.delta_p.rms, 1e-5), "{filed:?}\n{direct:?}");
    }
}

#[test]
fn a_file_of_another_text_is_refused() {
    let Some(Saved { mut bytes, corpus, model, .. }) = saved() else { return };
    let llama = Llama::load(&model).unwrap();
    let against = |bytes: &[u8], options: &Options| {
        let file = opened(bytes).unwrap();
        evaluate(&llama, Against::Logits(&file), &corpus, options, &()).unwrap_err().to_string()
    };
    let longer = Options { chunks: Some(91), ..OPTIONS };
    assert!(against(&bytes, &longer).ends_with("windows: expected 91 or more, found 90"));
    let wider = Options { context: 26, ..OPTIONS };
    assert!(against(&bytes, &wider).ends_with("tokens per window: expected 26, found 25"));
    let rows = 20 + 4 * 25 * 90;
    bytes[rows..rows + 4].copy_from_slice(&f32::NAN.to_le_bytes());
    assert!(against(&bytes, &OPTIONS).contains("row 0: expected a finite scale"));
    bytes[20 + 4 * 30] ^= 1;
    let message = against(&bytes, &OPTIONS);
    assert!(message.contains("token 30 of the text: expected"), "{message}");
}

#[test]
fn a_damaged_file_is_refused() {
    let Some(Saved { bytes, .. }) = saved() else { return };
    let refused = |bytes: &[u8]| match opened(bytes).unwrap_err() {
        Error::LogitsFile { what, .. } => what,
        other => panic!("{other}"),
    };
    for length in [0, 7, 19, 20, 21, bytes.len() - 1] {
        assert_eq!(refused(&bytes[..length]), "length", "{length} bytes");
    }
    assert_eq!(refused(&[&bytes[..], &[0]].concat()), "length");
    let with = |at: usize, value: i32| {
        let mut bytes = bytes.clone();
        bytes[at..at + 4].copy_from_slice(&value.to_le_bytes());
        bytes
    };
    for at in [8, 12, 16] {
        for value in [0, -1, i32::MAX, i32::MIN] {
            assert_eq!(refused(&with(at, value)), "length", "{value} at {at}");
        }
    }
    assert_eq!(refused(&with(0, 0)), "first bytes");
}
