//! `llq edit` and `llq diff`: metadata changes, weights do not.

use std::fs;

use llq_gguf::Model;

use crate::harness::{Place, assert_outcome, tiny_gguf};

fn tiny() -> Place {
    let place = Place::new();
    fs::copy(tiny_gguf(), place.path("tiny.gguf")).unwrap();
    fs::copy(tiny_gguf(), place.path("before.gguf")).unwrap();
    place
}

#[test]
fn what_changes_is_shown() {
    let place = tiny();
    assert_outcome!(
        place.llq([
            "edit", "tiny.gguf", "--set", "general.name=A name", "--set", "my.key=u32:7",
            "--delete", "general.size_label", "--rename", "llama.vocab_size=my.size",
        ]),
        @r#"
        exit code 0
        --- stdout
        - general.name = "tiny-llama-2"
        + general.name = "A name"
        - general.size_label = "6.8M"
        - llama.vocab_size = 4096
        + my.size = 4096
        + my.key = 7
        --- stderr
        tiny.gguf: keys changed in a new file: 5
        "#
    );
    let model = Model::open(&place.path("tiny.gguf")).unwrap();
    assert_eq!(model.metadata().count("my.key").unwrap(), 7);
    assert_eq!(place.files(), ["before.gguf", "tiny.gguf"]);
}

#[test]
fn edits_leave_the_weights() {
    let place = tiny();
    let whole = |name: &str| place.run(&format!("hash {name} --whole")).ok().stdout;
    let before = whole("tiny.gguf");
    let json = place.run("edit tiny.gguf --set tokenizer.ggml.eos_token_id=5 --json").ok().json();
    assert_eq!(json["written"], "in place");
    place.write("template", "{{ messages }}\u{1b}[2J");
    let json = place.run("edit tiny.gguf --chat-template template --json").ok().json();
    assert_eq!(json["written"], "new file");
    assert_eq!(whole("tiny.gguf"), before);
    let again = place.run("edit tiny.gguf --chat-template template --json").ok().json();
    assert_eq!(again["written"], "unchanged");
    place.run("verify tiny.gguf").ok();
}

#[test]
fn a_dry_run_changes_nothing() {
    let place = tiny();
    let told = place.run("edit tiny.gguf --set general.name=x --dry-run").ok();
    assert!(told.stdout.contains("+ general.name = \"x\""), "{told}");
    assert!(place.run("diff tiny.gguf before.gguf").ok().stdout.is_empty());
}

#[test]
fn what_would_break_the_model_is_refused() {
    let place = tiny();
    for (change, part) in [
        ("--set general.architecture=falcon", "llq decides"),
        ("--set llama.block_count=7", "llama.block_count"),
        ("--set tokenizer.ggml.eos_token_id=4096", "eos_token_id"),
        ("--set llama.context_length=many", "context_length"),
        ("--delete llama.block_count", "no loader does without"),
        ("--rename llama.block_count=x.y", "no loader does without"),
        ("--rename general.name=llama.block_count", "there"),
        ("--delete nothing.here", "nothing.here"),
        ("--set nothing", "KEY=VALUE"),
        ("--set split.count=2", "llq decides"),
        ("", "--set"),
    ] {
        place.run(&format!("edit tiny.gguf {change}")).refused(&[part]);
    }
    assert!(fs::read(place.path("tiny.gguf")).unwrap() == fs::read(tiny_gguf()).unwrap());
    assert_eq!(place.files(), ["before.gguf", "tiny.gguf"]);
}

#[test]
fn differences_have_an_exit_code() {
    let place = tiny();
    assert!(place.run("diff tiny.gguf before.gguf").ok().stdout.is_empty());
    place.run("edit tiny.gguf --set general.name=x --set llama.vocab_size=4096").ok();
    place.run("quantize before.gguf -o q8_0.gguf --type q8_0 --no-check").ok();
    let outcome = place.run("diff before.gguf tiny.gguf");
    assert_eq!(outcome.code, Some(1), "{outcome}");
    assert_eq!(outcome.stdout, "- general.name = \"tiny-llama-2\"\n+ general.name = \"x\"\n");
    let types = place.run("diff before.gguf q8_0.gguf --json");
    assert_eq!(types.code, Some(1));
    let types = types.json();
    assert_eq!(types["tensors"].as_array().unwrap().len(), 44);
    assert_eq!(types["tensors"][0]["b"]["type"], "Q8_0");
    let metadata = place.run("diff before.gguf q8_0.gguf --metadata-only --json").json();
    assert_eq!(metadata["tensors"].as_array().unwrap().len(), 0);
}

#[test]
fn one_changed_weight_is_seen() {
    let place = tiny();
    let mut bytes = fs::read(tiny_gguf()).unwrap();
    let last = bytes.len() - 40;
    bytes[last] ^= 1;
    place.write("other.gguf", bytes);
    let outcome = place.run("diff tiny.gguf other.gguf");
    assert_eq!(outcome.code, Some(1), "{outcome}");
    assert!(outcome.stdout.starts_with("! blk.5.") && outcome.stdout.ends_with("other bytes\n"));
    assert_eq!(outcome.stdout.lines().count(), 1);
}

#[test]
fn parts_become_one_again() {
    let place = tiny();
    place.run("split tiny.gguf -o part.gguf --max-size 4M").ok();
    assert_eq!(place.files().iter().filter(|name| name.starts_with("part-")).count(), 4);
    place.run("merge part-00003-of-00004.gguf -o whole.gguf").ok();
    assert!(fs::read(place.path("whole.gguf")).unwrap() == fs::read(tiny_gguf()).unwrap());
    fs::remove_file(place.path("part-00002-of-00004.gguf")).unwrap();
    place.run("merge part-00003-of-00004.gguf -o again.gguf").refused(&["part-00002-of-00004"]);
    place.run("split tiny.gguf -o part.gguf").refused(&["--max-size"]);
}
