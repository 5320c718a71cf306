//! llq's own files against the figures of the field's standard tool.

use std::fs;

use llq_fixtures::{fixture, shared};
use serde_json::Value;

use crate::harness::Place;

/// A type that llq encodes may score half a percent worse than golden, and takes as many bytes. One of
/// the two texts serves: golden's own files are scored on both (`eval/tests/golden.rs`).
#[test]
#[ignore = "minutes: every type"]
fn every_type_scores_like_golden() {
    let Some(golden) = shared("golden/tiny-llama-2.json") else { return };
    let golden: Value = serde_json::from_slice(&fs::read(golden).unwrap()).unwrap();
    let Some(corpus) = shared("corpus/holmes.txt") else { return };
    let (checkpoint, corpus) = (fixture("tiny-llama-2/hf"), corpus.to_str().unwrap().to_owned());
    let sweep = ["sweep", checkpoint.to_str().unwrap(), "--corpus", &corpus];
    let swept = Place::new().llq(sweep.iter().chain(&["--chunks", "64", "--json"])).ok().json();
    let mut compared = 0;
    for row in swept["rows"].as_array().unwrap() {
        let Some(golden) = plain(&golden, &row["type"]) else { continue };
        let ratio = number(&row["perplexity"]) / number(&golden["holmes"]["ppl"]);
        assert!(ratio < 1.005, "{}: {ratio} of golden", row["type"]);
        assert_eq!(row["file_bytes"], golden["bytes"], "{}", row["type"]);
        compared += 1;
    }
    // All but Q2_K_S, which the tool makes only with importance.
    assert_eq!(compared, 15);
}

/// The golden row of a type without importance.
fn plain<'a>(golden: &'a Value, name: &Value) -> Option<&'a Value> {
    let mut rows = golden["rows"].as_array().unwrap().iter();
    rows.find(|row| &row["type"] == name && row["mode"] == "plain")
}

fn number(value: &Value) -> f64 {
    value.as_f64().unwrap()
}
