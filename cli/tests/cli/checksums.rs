//! `llq convert --verify-checksums`.

use std::fs;

use llq_fixtures::fixture;

use crate::harness::{Outcome, Place};

/// The fixture in Meta's form, to be damaged.
fn meta() -> Place {
    let place = Place::new();
    for entry in fixture("tiny-llama-2/meta").read_dir().unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap();
        place.write(&format!("meta/{name}"), fs::read(&path).unwrap());
    }
    place
}

#[track_caller]
fn assert_fails(outcome: &Outcome, parts: &[&str]) {
    assert_eq!(outcome.code, Some(2), "{outcome}");
    for part in parts {
        assert!(outcome.stderr.contains(part), "{part:?} is not in {outcome}");
    }
}

#[test]
fn sums_that_agree_are_said_and_sums_that_were_not_looked_at() {
    let place = meta();
    let line = "convert meta -o out.gguf --dry-run --ctx 128";
    let plain = place.run(line).ok();
    assert!(plain.stderr.starts_with("note: checklist.chk was not compared"), "{plain}");
    let verified = place.run(&format!("{line} --verify-checksums")).ok();
    assert!(verified.stderr.contains("note: tokenizer.model is in no list"), "{verified}");
    assert!(verified.stderr.contains("files have the MD5 sums of checklist.chk\n"), "{verified}");
    // The context length was given: nothing was guessed.
    assert!(!plain.stderr.contains("context length"), "{plain}");

    fs::remove_file(place.path("meta/checklist.chk")).unwrap();
    assert!(!place.run(line).ok().stderr.contains("checklist.chk"));
    let outcome = place.run(&format!("{line} --verify-checksums"));
    assert_fails(&outcome, &["error: meta: no checklist.chk, Meta's list of MD5 sums"]);
}

#[test]
fn swapped_shards_end_the_run() {
    let place = meta();
    let shard = |number: u32| place.path(&format!("meta/consolidated.{number:02}.pth"));
    fs::rename(shard(0), place.path("other")).unwrap();
    fs::rename(shard(1), shard(0)).unwrap();
    fs::rename(place.path("other"), shard(1)).unwrap();
    let outcome = place.run("convert meta -o out.gguf --verify-checksums");
    assert_fails(&outcome, &["consolidated.00.pth: its MD5 sum is ab4ac73c", "expected f30ee615"]);
    assert_eq!(place.files(), ["meta"]);
}

#[test]
fn the_output_is_looked_at_first() {
    let place = meta();
    place.write("out.gguf", "");
    place.write("meta/checklist.chk", "no list");
    let outcome = place.run("convert meta -o out.gguf --verify-checksums");
    assert_fails(&outcome, &["error: out.gguf exists"]);
}

#[test]
fn a_pre_tokenizer_that_llama_cpp_does_not_have_is_wrong_usage() {
    let outcome = Place::new().run("convert meta -o out.gguf --pre lama-bpe");
    assert_fails(&outcome, &["the nearest is \"llama-bpe\"; it has a.x-4.0, "]);
}
