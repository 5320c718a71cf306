//! Mixes that are measured on the model: as large as was asked for, and as good as predicted.

use std::fs;

use crate::harness::{Outcome, Place, corpus, two_blocks_gguf};

/// Runs `llq quantize` of two of the fixture's blocks with `--corpus` of its text.
fn quantize(place: &Place, line: &str) -> Outcome {
    let (model, text) = (two_blocks_gguf(), corpus());
    let words = line.split_whitespace().map(|word| match word {
        "TEXT" => text.as_os_str().to_owned(),
        word => word.into(),
    });
    place.llq(["quantize".into(), model.as_os_str().to_owned()].into_iter().chain(words))
}

const CORPUS: &str = "--corpus TEXT --ctx 64 --chunks 24";

#[test]
fn bits_are_met_and_the_recipe_makes_the_same_file() {
    let place = Place::new();
    let types = "--types q3_k,q4_k,q6_k";
    let line = format!("-o a.gguf --target-bpw 4.4 {types} --write-recipe a.toml --json {CORPUS}");
    let made = quantize(&place, &line).ok().json();
    let bits = made["bits_per_weight"].as_f64().unwrap();
    assert!(bits <= 4.4 && bits > 4.35, "{bits}");
    let mix = &made["mix"];
    let (predicted, measured) =
        (mix["predicted"].as_f64().unwrap(), mix["measured"]["mean"].as_f64().unwrap());
    assert!((0.5..2.0).contains(&(measured / predicted)), "{measured} for {predicted}");
    let chosen = mix["tensors"].as_array().unwrap();
    assert_eq!((chosen.len(), &mix["windows"]), (16, &6.into()));
    let has = |wanted: &str| chosen.iter().any(|row| row["type"] == wanted);
    assert!(has("Q3_K") && has("Q4_K") && has("Q6_K") && !has("Q8_0") && !has("Q2_K"));

    quantize(&place, "-o b.gguf --recipe a.toml").ok();
    let read = |name: &str| fs::read(place.path(name)).unwrap();
    assert!(read("a.gguf") == read("b.gguf"));
    let line = format!("-o c.gguf --target-bpw 4.4 {types} --threads 1 {CORPUS}");
    let text = quantize(&place, &line).ok().stdout;
    assert!(read("a.gguf") == read("c.gguf"));
    assert!(text.contains("blk.0.attn_v.weight") && text.contains("on 18 other windows"), "{text}");
}

/// One text for both, and one file, whether the types are measured or read.
#[test]
fn calibration_and_measuring_share_a_text() {
    let place = Place::new();
    let text = "--calibrate TEXT --calibrate-windows 2";
    let windows = "--ctx 64 --chunks 16 --types q2_k,q4_k";
    let line = format!("-o a.gguf --target-bpw 3.6 {windows} --write-recipe a.toml {text} --json");
    let made = quantize(&place, &line).ok().json();
    assert!(made["bits_per_weight"].as_f64().unwrap() <= 3.6);
    let mix = &made["mix"];
    assert!(mix["measured"]["mean"].as_f64().unwrap() > 0.0);
    let sum: f64 = mix["tensors"].as_array().unwrap().iter().map(loss).sum();
    assert!((sum / mix["predicted"].as_f64().unwrap() - 1.0).abs() < 1e-9);

    quantize(&place, &format!("-o b.gguf --recipe a.toml {text}")).ok();
    let read = |name: &str| fs::read(place.path(name)).unwrap();
    assert!(read("a.gguf") == read("b.gguf"));
    let folder = ".llq-c.gguf.calibration";
    place.write(&format!("{folder}/settings.bin"), "another model");
    quantize(&place, &format!("-o c.gguf --target-bpw 3.6 {text}")).refused(&[folder, "--resume"]);
}

fn loss(row: &serde_json::Value) -> f64 {
    row["loss"].as_f64().unwrap()
}

#[test]
fn a_file_is_no_larger_than_was_asked_for() {
    let place = Place::new();
    let line = "-o a.gguf --target-size 2.7MiB --tensor-type ^output=q8_0 --tensor-type blk.0=q5_k";
    let made = quantize(&place, &format!("{line} --json {CORPUS}")).ok().json();
    let bytes = fs::metadata(place.path("a.gguf")).unwrap().len();
    let target = 2_831_155;
    // The next type of one of the smallest matrices takes no more.
    let step = 256 * 128 * (272 - 210) / 256;
    assert!(bytes <= target && target - bytes < step, "{bytes}");
    // What has a type already is not chosen.
    assert_eq!(made["mix"]["tensors"].as_array().unwrap().len(), 7 + 1);
}

#[test]
fn a_dry_run_chooses_and_writes_nothing() {
    let place = Place::new();
    let dry = "-o a.gguf --target-size 4M --types q3_k,q8_0 --dry-run";
    let said = quantize(&place, &format!("{dry} --write-recipe a.toml {CORPUS}")).ok();
    assert!(said.stdout.contains("predicted") && !said.stdout.contains("measured"), "{said}");
    assert_eq!(place.files(), ["a.toml"]);
    let planned = quantize(&place, &format!("{dry} --json {CORPUS}")).ok().json();
    assert!(planned["mix"]["predicted"].as_f64().unwrap() > 0.0);
    assert!(planned["file_bytes"].as_u64().unwrap() <= 4_000_000);
}

#[test]
fn what_cannot_be_met_is_refused() {
    let place = Place::new();
    place.write("short.txt", "too short");
    let cases = [
        (format!("--target-size 1000000 {CORPUS}"), "smallest possible is 1,"),
        (format!("--target-size 1 {CORPUS}"), "smallest possible is 1,"),
        (format!("--target-bpw 2.1 {CORPUS}"), "smallest possible is 2.6"),
        ("--target-bpw 4 --corpus short.txt".to_owned(), "short.txt"),
        ("--target-bpw 4 --corpus TEXT --chunks 1".to_owned(), "one window"),
        ("--target-bpw 4".to_owned(), "--corpus"),
        ("--type q4_k --corpus TEXT".to_owned(), "--target-size"),
        (format!("--target-bpw 4 --type q4_k {CORPUS}"), "--type"),
        (format!("--target-size 4M --target-bpw 4 {CORPUS}"), "--target-bpw"),
        (format!("--target-size 4X {CORPUS}"), "4.5GiB"),
        (format!("--target-size 4M --split-max-size 2M {CORPUS}"), "--target-bpw"),
        (format!("--target-bpw 4 --types q4 {CORPUS}"), "q4"),
    ];
    for (line, said) in cases {
        quantize(&place, &format!("-o a.gguf {line}")).refused(&[said]);
    }
    place.write("a.gguf", "there");
    quantize(&place, &format!("-o a.gguf --target-bpw 4 {CORPUS}")).refused(&["a.gguf exists"]);
    assert_eq!(place.files(), ["a.gguf", "short.txt"]);
}
