//! The look at a file just quantized.

use std::fs;

use llq_fixtures::fixture;
use llq_gguf::Model;

use crate::harness::{Place, assert_outcome, gguf, tiny_gguf};

/// The fixture with weights of 64 in every block of 32 of the head, the same in all rows. They move all
/// logits by one number, so predictions stay; but a block of Q4_0 has no codes left for the others.
fn hurt() -> Vec<u8> {
    let model = Model::open(tiny_gguf()).unwrap();
    let data = model.data(model.tensor("output.weight").unwrap());
    let mut bytes = fs::read(tiny_gguf()).unwrap();
    let at = bytes.windows(256).position(|window| *window == data[..256]).unwrap();
    for weight in bytes[at..at + data.len()].chunks_exact_mut(2).step_by(32) {
        weight.copy_from_slice(&0x4280u16.to_le_bytes());
    }
    bytes
}

#[test]
fn a_broken_file_is_told_of() {
    let place = Place::new();
    place.write("hurt.gguf", hurt());
    let made = place.run("quantize hurt.gguf -o out.gguf --type q4_0 --pure");
    assert_eq!(made.code, Some(1), "{made}");
    assert!(made.stderr.contains("warning: out.gguf looks broken: KL divergence"), "{made}");
    let skipped = "quantize hurt.gguf -o out.gguf --type q4_0 --pure --force --no-check";
    assert!(!place.run(skipped).ok().stderr.contains("broken"));
    let json = place.run("quantize hurt.gguf -o json.gguf --type q4_0 --pure --json").json();
    assert_eq!(json["check"]["found"], "divergence", "{json}");
    assert!(json["check"]["kld"].as_f64() > json["check"]["limit"].as_f64(), "{json}");
}

#[test]
fn a_sound_file_is_said_to_be() {
    let place = Place::new();
    fs::copy(tiny_gguf(), place.path("tiny.gguf")).unwrap();
    let made = place.run("quantize tiny.gguf -o q4_0.gguf --type q4_0 --pure");
    assert_outcome!(made, @r#"
    exit code 0
    --- stdout
    --- stderr
    q4_0.gguf: 3.8 MiB, 4.51 bits per weight, [time], [rate]
    checked: KL divergence 0.0141 from the source on 315 tokens
    "#);
    let checkpoint = fixture("tiny-llama-2/hf");
    let line = format!("convert {} -o q8_0.gguf --type q8_0", checkpoint.display());
    let made = place.run(&line).ok();
    assert!(made.stderr.contains("\nchecked: perplexity "), "{made}");
    // Only what is quantized.
    let copied = place.run("convert tiny.gguf -o copy.gguf").ok();
    assert!(!copied.stderr.contains("checked"), "{copied}");
}

#[test]
fn what_cannot_be_evaluated_is_made_all_the_same() {
    let place = Place::new();
    place.write("part.gguf", gguf([], "blk.0.ffn_gate.weight", &[256, 2]));
    let made = place.run("quantize part.gguf -o out.gguf --type q4_k").ok();
    assert_eq!(made.stderr.matches("note: not checked: ").count(), 1, "{made}");
}
