//! Where output goes: refused before any work, or complete, or not there.

use std::fs;

use llq_fixtures::fixture;
use llq_gguf::{Model, Value};

use crate::harness::{Place, gguf, tiny_gguf};

const QUANTIZE: [&str; 3] = ["quantize", "--type", "q8_0"];

#[test]
fn an_existing_output_is_kept() {
    let place = Place::new();
    place.write("out.gguf", "precious");
    let model = tiny_gguf().to_str().unwrap();
    place
        .llq(QUANTIZE.iter().chain(&[model, "-o", "out.gguf"]))
        .refused(&["out.gguf exists\n", "hint: --force replaces it\n"]);
    assert_eq!(fs::read(place.path("out.gguf")).unwrap(), b"precious");

    place.llq(QUANTIZE.iter().chain(&[model, "-o", "out.gguf", "--force"])).ok();
    assert!(fs::read(place.path("out.gguf")).unwrap().starts_with(b"GGUF"));
    assert_eq!(place.files(), ["out.gguf"]);
}

#[test]
fn a_failed_run_leaves_what_was_there() {
    let place = Place::new();
    place.write("out.gguf", "precious");
    place.write("broken.gguf", &fs::read(tiny_gguf()).unwrap()[..100_000]);
    place.llq(QUANTIZE.iter().chain(&["broken.gguf", "-o", "out.gguf", "--force"])).refused(&[]);
    assert_eq!(fs::read(place.path("out.gguf")).unwrap(), b"precious");
    assert_eq!(place.files(), ["broken.gguf", "out.gguf"]);
}

#[test]
fn the_output_is_never_the_input() {
    let place = Place::new();
    fs::copy(tiny_gguf(), place.path("model.gguf")).unwrap();
    fs::hard_link(place.path("model.gguf"), place.path("same.gguf")).unwrap();
    let before = fs::read(place.path("model.gguf")).unwrap();
    for output in ["model.gguf", "./model.gguf", "same.gguf"] {
        place
            .llq(QUANTIZE.iter().chain(&["model.gguf", "-o", output, "--force"]))
            .refused(&["output and input are the same file"]);
    }
    assert_eq!(fs::read(place.path("model.gguf")).unwrap(), before);
}

#[test]
fn the_output_is_no_part_of_a_split_input() {
    let place = Place::new();
    let parts = ["model-00001-of-00002.gguf", "model-00002-of-00002.gguf"];
    for (number, part) in parts.iter().enumerate() {
        let number = u16::try_from(number).unwrap();
        let split: [(&str, Value); 3] = [
            ("split.no", number.into()),
            ("split.count", 2_u16.into()),
            ("split.tensors.count", 2_i32.into()),
        ];
        place.write(part, gguf(split, &format!("blk.{number}.ffn_up.weight"), &[32, 2]));
    }
    place.llq(QUANTIZE.iter().chain(&[parts[0], "-o", "out.gguf"])).ok();
    for output in parts {
        place
            .llq(QUANTIZE.iter().chain(&[parts[0], "-o", output, "--force"]))
            .refused(&["output and input are the same file"]);
    }
}

/// To open a pipe would wait until somebody reads.
#[cfg(unix)]
#[test]
fn the_output_is_a_regular_file() {
    let place = Place::new();
    let model = tiny_gguf().to_str().unwrap();
    let made = std::process::Command::new("mkfifo").arg(place.path("pipe")).status().unwrap();
    assert!(made.success());
    for output in ["pipe", "/dev/full", "/dev/stdout"] {
        place
            .llq(QUANTIZE.iter().chain(&[model, "-o", output, "--force"]))
            .refused(&[output, "is not a regular file"]);
    }
    place.llq(QUANTIZE.iter().chain(&[model, "-o", "-"])).refused(&["not to standard output"]);
    assert_eq!(place.files(), ["pipe"]);
}

#[test]
fn a_missing_folder_is_told() {
    let place = Place::new();
    let model = tiny_gguf().to_str().unwrap();
    place
        .llq(QUANTIZE.iter().chain(&[model, "-o", "a/b/out.gguf"]))
        .refused(&["there is no folder a/b", "hint: mkdir -p a/b"]);
    place
        .llq(QUANTIZE.iter().chain(&[model, "-o", "a/"]))
        .refused(&["there is no folder a/", "hint: mkdir -p a/"]);
    assert_eq!(place.files(), [""; 0]);
}

#[test]
fn a_dry_run_writes_nothing() {
    let place = Place::new();
    let checkpoint = fixture("tiny-llama-2/hf");
    let args = ["convert", checkpoint.to_str().unwrap(), "-o", "out.gguf", "--type", "q4_k_m"];
    let planned = place.llq(args.iter().chain(&["--dry-run", "--json"])).ok().json();
    assert_eq!(place.files(), [""; 0]);
    place.llq(args).ok();
    let bytes = fs::metadata(place.path("out.gguf")).unwrap().len();
    assert_eq!(planned["file_bytes"], bytes);
    assert_eq!(planned["seconds"], serde_json::Value::Null);
}

#[test]
fn in_a_folder_the_name_follows_from_the_metadata() {
    let place = Place::new();
    let checkpoint = fixture("tiny-llama-2/hf");
    let checkpoint = checkpoint.to_str().unwrap();
    let made = place.llq(["convert", checkpoint, "-o", ".", "-q"]).ok();
    assert!(made.stderr.contains("the file is ./tiny-llama-2-6.8M-BF16.gguf"), "{made}");
    place.write("metadata.json", r#"{ "basename": "../Tiny/Llama", "finetune": "by hand" }"#);
    let args = ["tiny-llama-2-6.8M-BF16.gguf", "-o", ".", "--metadata", "metadata.json"];
    place.llq(QUANTIZE.iter().chain(&args)).ok();
    let named = "Tiny-Llama-6.8M-by-hand-Q8_0.gguf";
    assert_eq!(place.files(), [named, "metadata.json", "tiny-llama-2-6.8M-BF16.gguf"]);
    place.llq(QUANTIZE.iter().chain(&args)).refused(&[named, "exists", "--force"]);
}

#[test]
fn metadata_is_set_by_hand() {
    let place = Place::new();
    let model = tiny_gguf().to_str().unwrap();
    place.write("metadata.json", r#"{ "license": "mit", "general.size_label": null }"#);
    let args = [model, "-o", "out.gguf", "--metadata", "metadata.json", "--name", "By hand"];
    place.llq(QUANTIZE.iter().chain(&args)).ok();
    let made = Model::open(&place.path("out.gguf")).unwrap();
    assert_eq!(made.metadata().string("general.name").unwrap(), "By hand");
    assert_eq!(made.metadata().string("general.license").unwrap(), "mit");
    assert!(!made.metadata().contains("general.size_label"));

    place.write("metadata.json", r#"{ "llama.block_count": "four" }"#);
    place
        .llq(QUANTIZE.iter().chain(&args).chain(&["--force"]))
        .refused(&["metadata.json: key \"llama.block_count\" is \"four\", expected of type u32"]);
    let args = [model, "-o", "new.gguf", "--metadata", "absent.json"];
    place.llq(QUANTIZE.iter().chain(&args)).refused(&["absent.json"]);
}

/// The limit on file sizes stands for a full disk: writing fails half-way.
#[cfg(unix)]
#[test]
fn a_full_disk_leaves_nothing() {
    use std::process::Command;

    use crate::harness::Outcome;

    let place = Place::new();
    let llq = assert_cmd::cargo::cargo_bin!("llq");
    let mut command = Command::new("sh");
    command.current_dir(place.path(".")).args(["-c", "trap '' XFSZ; ulimit -f 2000; exec \"$@\""]);
    command.arg("sh").arg(llq).args(QUANTIZE).arg(tiny_gguf()).args(["-o", "out.gguf"]);
    Outcome::of(&mut command).refused(&["cannot write out.gguf", "File too large"]);
    assert_eq!(place.files(), [""; 0]);
}
