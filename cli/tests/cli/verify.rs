//! `llq verify` and `llq hash`: damage is found, and weights are known again.

use std::fs;

use llq_fixtures::fixture;
use llq_gguf::{Metadata, TensorSpec, TensorType, to_bytes};

use crate::harness::{Place, gguf, tiny_gguf};

fn copied(place: &Place) {
    fs::copy(tiny_gguf(), place.path("tiny.gguf")).unwrap();
}

#[test]
fn a_converted_model_is_sound() {
    let place = Place::new();
    copied(&place);
    let text = place.run("verify tiny.gguf").ok().stdout;
    assert_eq!(text, "tiny.gguf: sound, 57 tensors checked block by block\n");
    let checkpoint = fixture("tiny-llama-2/hf");
    let json = place.llq(["verify".as_ref(), checkpoint.as_os_str(), "--json".as_ref()]).ok();
    assert_eq!(json.json()["sound"], true);
}

#[test]
fn every_type_is_sound() {
    let place = Place::new();
    copied(&place);
    for name in ["q8_0", "q6_k", "q5_k", "q4_k", "q3_k", "q2_k", "q5_1", "q5_0", "q4_1", "q4_0"] {
        place.run(&format!("quantize tiny.gguf -o {name} --type {name} --pure --no-check")).ok();
        place.run(&format!("verify {name}")).ok();
    }
}

/// The scale of a block of Q8_0, the third, becomes NaN.
#[test]
fn a_bad_block_is_named() {
    let place = Place::new();
    let spec = TensorSpec::new("a.weight", [32, 4], TensorType::Q8_0);
    let mut bytes = to_bytes(&Metadata::new(), [(spec, [1; 34 * 4])]).unwrap();
    let start = bytes.len() - (34 * 4usize).next_multiple_of(32) + 2 * 34;
    bytes[start..start + 2].copy_from_slice(&0x7e00u16.to_le_bytes());
    place.write("bad.gguf", bytes);
    let outcome = place.run("verify bad.gguf");
    assert_eq!(outcome.code, Some(1), "{outcome}");
    assert!(
        outcome.stdout.contains("a.weight: ") && outcome.stdout.contains("(1, first 2)"),
        "{outcome}"
    );
    let json = place.run("verify bad.gguf --json").json();
    assert_eq!(
        (&json["sound"], &json["faults"][0]["subject"]),
        (&false.into(), &"a.weight".into())
    );
}

#[test]
fn a_matrix_of_zeros_is_a_fault() {
    let place = Place::new();
    place.write("zero.gguf", gguf([], "a.weight", &[32, 4]));
    let outcome = place.run("verify zero.gguf");
    assert_eq!(outcome.code, Some(1), "{outcome}");
    assert!(outcome.stdout.starts_with("a.weight: every weight is 0\n"), "{outcome}");
    place.write("norm.gguf", gguf([], "a.bias", &[32]));
    place.run("verify norm.gguf").ok();
}

#[test]
fn what_is_torn_is_no_model() {
    let place = Place::new();
    place.write("torn.gguf", &fs::read(tiny_gguf()).unwrap()[..100_000]);
    place.run("verify torn.gguf").refused(&["torn.gguf"]);
    place.run("verify none.gguf").refused(&["none.gguf"]);
}

#[test]
fn sums_do_not_depend_on_the_layout() {
    let place = Place::new();
    copied(&place);
    place.run("split tiny.gguf -o parts.gguf --max-tensors 20").ok();
    place.run("convert tiny.gguf -o big.gguf --endian big").ok();
    place.run("edit big.gguf --set general.name=other").ok();
    let sums = place.run("hash tiny.gguf").ok().stdout;
    assert_eq!(sums.lines().count(), 58);
    let mut sorted: Vec<&str> = sums.lines().collect();
    sorted.sort_unstable();
    for other in ["parts-00002-of-00003.gguf", "big.gguf"] {
        let others = place.run(&format!("hash {other}")).ok().stdout;
        let mut others: Vec<&str> = others.lines().collect();
        others.sort_unstable();
        assert_eq!(sorted, others, "{other}");
    }
    let whole = place.run("hash tiny.gguf --whole").ok().stdout;
    assert_eq!(whole.lines().next(), sums.lines().last());
    assert_eq!(place.run("hash tiny.gguf --threads 1").ok().stdout, sums);
}

#[test]
fn other_weights_have_other_sums() {
    let place = Place::new();
    copied(&place);
    place.write("sums", place.run("hash tiny.gguf").ok().stdout);
    place.run("verify tiny.gguf --hashes sums").ok();
    let mut bytes = fs::read(tiny_gguf()).unwrap();
    let last = bytes.len() - 40;
    bytes[last] ^= 1;
    place.write("other.gguf", bytes);
    let outcome = place.run("verify other.gguf --hashes sums");
    assert_eq!(outcome.code, Some(1), "{outcome}");
    assert!(outcome.stdout.contains(": other weights than the sum is of\n"), "{outcome}");
    assert_eq!(outcome.stdout.lines().count(), 2, "{outcome}");
    place.write("no-sums", "a line\n");
    place.run("verify tiny.gguf --hashes no-sums").refused(&["no-sums: line 1"]);
}
