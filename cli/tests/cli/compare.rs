//! `llq compare`: errors of weights, and what two models do not share.

use std::fs;

use llq_fixtures::fixture;
use llq_gguf::Value;

use crate::harness::{Place, assert_outcome, gguf, tiny_gguf};

#[test]
fn the_worst_tensors_come_first() {
    let place = Place::new();
    fs::copy(tiny_gguf(), place.path("tiny.gguf")).unwrap();
    // The legacy encoders are defined to the byte, so the figures stand.
    place.run("quantize tiny.gguf -o q4_0.gguf --type q4_0 --pure").ok();
    assert_outcome!(place.run("compare tiny.gguf q4_0.gguf --worst 3"), @"");
}

#[test]
fn a_checkpoint_is_its_gguf() {
    let place = Place::new();
    let (checkpoint, model) = (fixture("tiny-llama-2/meta"), tiny_gguf());
    let compared = place
        .llq(["compare".as_ref(), checkpoint.as_os_str(), model.as_os_str(), "--json".as_ref()])
        .ok()
        .json();
    assert_eq!(
        (&compared["whole"]["rmse"], &compared["whole"]["cosine"]),
        (&0.0.into(), &1.0.into())
    );
    assert_eq!(compared["whole"]["weights"], 6_819_072);
    assert_eq!(compared["tensors"].as_array().unwrap().len(), 57);
}

#[test]
fn what_only_one_model_has_is_listed() {
    let place = Place::new();
    place.write("a.gguf", gguf([], "blk.0.ffn_up.weight", &[4, 2]));
    place.write("b.gguf", gguf([], "blk.0.ffn_up.weight", &[2, 4]));
    place.write("c.gguf", gguf([("x", Value::U32(1))], "\u{9b}31m", &[4, 2]));
    assert_outcome!(place.run("compare a.gguf b.gguf"), @"");
    assert_outcome!(place.run("compare a.gguf c.gguf"), @"");
    let json = place.run("compare a.gguf b.gguf --json");
    assert_eq!(json.code, Some(1), "{json}");
    assert_eq!(json.json()["reshaped"][0]["shape_b"], serde_json::json!([2, 4]));
}

#[test]
fn what_is_no_model_is_refused() {
    let place = Place::new();
    place.write("a.gguf", gguf([], "blk.0.ffn_up.weight", &[4, 2]));
    place.run("compare a.gguf none").refused(&["none"]);
    place.write("torn.gguf", &fs::read(tiny_gguf()).unwrap()[..100_000]);
    place.run("compare a.gguf torn.gguf").refused(&["torn.gguf"]);
}
