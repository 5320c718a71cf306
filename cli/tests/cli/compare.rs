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
    assert_outcome!(place.run("compare tiny.gguf q4_0.gguf --worst 3"), @r#"
    exit code 0
    --- stdout
    tensor               A     B         RMSE  relative   largest    cosine
    output.weight        BF16  Q4_0  8.433e-3   8.602 %  6.055e-2  0.996298
    blk.4.attn_v.weight  BF16  Q4_0  7.211e-3   8.394 %  3.314e-2  0.996475
    blk.5.attn_v.weight  BF16  Q4_0  7.222e-3   8.367 %  2.533e-2  0.996497
    6,819,072 weights                6.536e-3   8.021 %  6.055e-2  0.996781
    --- stderr
    "#);
}

/// The sums are over pieces of a tensor first, whoever takes which.
#[test]
fn threads_change_no_bit() {
    let place = Place::new();
    let model = tiny_gguf().to_str().unwrap();
    place.llq(["quantize", model, "-o", "q2_k.gguf", "--type", "q2_k", "--no-check"]).ok();
    let compared = |threads: &str| {
        let args = ["compare", model, "q2_k.gguf", "--json", "--threads", threads];
        place.llq(args).ok().stdout
    };
    let one = compared("1");
    assert_eq!(one, compared("2"));
    assert_eq!(one, compared("3"));
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
    assert_outcome!(place.run("compare a.gguf b.gguf"), @r#"
    exit code 1
    --- stdout
    blk.0.ffn_up.weight: shape [4, 2] in A, [2, 4] in B
    --- stderr
    "#);
    assert_outcome!(place.run("compare a.gguf c.gguf"), @r#"
    exit code 1
    --- stdout
    blk.0.ffn_up.weight: only in A
    \u{9b}31m: only in B
    --- stderr
    "#);
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
