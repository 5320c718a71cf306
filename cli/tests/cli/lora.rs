//! LoRA adapters: merged, converted, and refused where a model is wanted.

use std::fs;

use llq_fixtures::fixture;

use crate::harness::{Place, corpus};

/// An adapter of rank 1 to the keys of the fixture's first block; all numbers are 2⁻⁶.
fn adapter(place: &Place) {
    const HEADER: &str = r#"{"base_model.model.model.layers.0.self_attn.k_proj.lora_A.weight":{"dtype":"BF16","shape":[1,256],"data_offsets":[0,512]},"base_model.model.model.layers.0.self_attn.k_proj.lora_B.weight":{"dtype":"BF16","shape":[128,1],"data_offsets":[512,768]}}"#;
    let mut file = (HEADER.len() as u64).to_le_bytes().to_vec();
    file.extend(HEADER.bytes());
    file.extend([0x80, 0x3c].repeat(384));
    place.write("adapter/adapter_model.safetensors", file);
    let config = r#"{"peft_type": "LORA", "r": 1, "lora_alpha": 1,
        "base_model_name_or_path": "someone/tiny-llama-2"}"#;
    place.write("adapter/adapter_config.json", config);
}

#[test]
fn adapters_are_merged_with_a_scale_and_in_turn() {
    let place = Place::new();
    adapter(&place);
    let base = fixture("tiny-llama-2/hf");
    let base = base.to_str().unwrap();
    let made = |line: &str| {
        place.run(&format!("convert {base} -o out.gguf --outtype f32 --force {line}")).ok();
        fs::read(place.path("out.gguf")).unwrap()
    };
    let plain = made("");
    let twice = made("--lora adapter=2");
    assert!(plain != twice);
    assert!(twice == made("--lora adapter --lora adapter"));
    assert!(plain == made("--lora adapter=2 --lora adapter=-2"));
}

#[test]
fn a_merge_is_told_in_a_note() {
    let place = Place::new();
    adapter(&place);
    let base = fixture("tiny-llama-2/hf");
    let said =
        place.llq(["convert", base.to_str().unwrap(), "-o", "out.gguf", "--lora", "adapter"]);
    let note = "note: adapter adapter: low-rank changes: 1, rank 1, alpha 1, scaling 1\n";
    assert!(said.ok().stderr.contains(note));
}

#[test]
fn an_adapter_becomes_a_gguf_adapter() {
    let place = Place::new();
    adapter(&place);
    let base = fixture("tiny-llama-2/hf");
    place.run(&format!("convert adapter --base {} -o adapter.gguf", base.display())).ok();
    let listed = place.run("inspect adapter.gguf --tensors --metadata");
    for part in ["adapter.lora.alpha", "blk.0.attn_k.weight.lora_a", "blk.0.attn_k.weight.lora_b"] {
        assert!(listed.stdout.contains(part), "no {part} in {listed}");
    }
}

#[test]
fn where_a_model_is_wanted_an_adapter_is_refused() {
    let place = Place::new();
    adapter(&place);
    let (base, text) = (fixture("tiny-llama-2/hf"), corpus());
    let (base, text) = (base.display(), text.display());
    place.run(&format!("convert adapter --base {base} -o adapter.gguf")).ok();
    let files = place.files();
    let merge = "hint: merge it into its model: llq convert MODEL --lora ADAPTER";
    for line in [
        &format!("perplexity adapter --corpus {text}"),
        &format!("perplexity adapter.gguf --corpus {text}"),
        &format!("sweep adapter --corpus {text}"),
        &format!("sweep adapter.gguf --corpus {text} --types q8_0"),
        "quantize adapter -o out.gguf --type q4_k",
        "quantize adapter.gguf -o out.gguf --type q4_k",
        &format!("convert adapter --base {base} -o out.gguf --type q4_k"),
    ] {
        place.run(line).refused(&["is an adapter", merge]);
    }
    let hint = "hint: llq convert adapter --base MODEL -o out.gguf";
    place.run("convert adapter -o out.gguf").refused(&["config.json", hint]);
    assert_eq!(place.files(), files);
}

#[test]
fn options_for_the_other_kind_of_input_are_refused() {
    let place = Place::new();
    adapter(&place);
    let base = fixture("tiny-llama-2/hf");
    let base = base.display();
    place.run(&format!("convert {base} --base {base} -o out.gguf")).refused(&["is no adapter"]);
    place.run(&format!("convert {base} --lora none=0.5 -o out.gguf")).refused(&["none/adapter"]);
    let line = format!("convert {base} --lora adapter --base {base} -o out.gguf");
    place.run(&line).refused(&["--lora", "--base"]);
    place.run("convert adapter --lora adapter -o out.gguf").refused(&["an adapter itself"]);
    assert_eq!(place.files(), ["adapter"]);
}

#[test]
fn the_output_is_no_file_of_an_adapter() {
    let place = Place::new();
    adapter(&place);
    let base = fixture("tiny-llama-2/hf");
    let weights = "adapter/adapter_model.safetensors";
    let before = fs::read(place.path(weights)).unwrap();
    place
        .run(&format!("convert {} --lora adapter -o {weights} --force", base.display()))
        .refused(&["output and input are the same file"]);
    assert_eq!(fs::read(place.path(weights)).unwrap(), before);
}

#[test]
fn a_scale_that_is_no_number_is_said() {
    let place = Place::new();
    adapter(&place);
    for scale in ["half", "1e400", "nan", ""] {
        place
            .run(&format!("convert model --lora adapter={scale} -o out.gguf"))
            .refused(&["the scale of adapter is", "expected a finite number"]);
    }
}
