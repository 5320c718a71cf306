//! Bad input: exit code 2, one message that says what is wrong, and no output.

use std::fs;

use llq_fixtures::fixture;

use crate::harness::{Outcome, Place, corpus, tiny_gguf};

/// Runs llq and checks that it refuses, saying all of `parts`, and leaves nothing new.
#[track_caller]
fn refuses(place: &Place, line: &str, parts: &[&str]) -> Outcome {
    let before = place.files();
    let outcome = place.run(line).refused(parts);
    assert_eq!(place.files(), before, "{outcome}");
    outcome
}

#[test]
fn missing_files() {
    let place = Place::new();
    place.write("text.txt", "a text");
    fs::copy(tiny_gguf(), place.path("model.gguf")).unwrap();
    for (line, missing) in [
        ("convert none -o out.gguf", "none"),
        ("quantize none.gguf -o out.gguf --type q8_0", "none.gguf"),
        ("perplexity none.gguf --corpus text.txt", "none.gguf"),
        ("perplexity model.gguf --corpus none.txt", "none.txt"),
        ("perplexity model.gguf --corpus text.txt --against none.gguf", "none.gguf"),
        ("sweep none --corpus text.txt", "none"),
        ("sweep model.gguf --corpus none.txt", "none.txt"),
        ("inspect none.gguf", "none.gguf"),
    ] {
        refuses(&place, line, &[missing, "No such file"]);
    }
}

#[test]
fn a_folder_that_is_no_checkpoint() {
    let place = Place::new();
    place.write("folder/readme.txt", "nothing here");
    refuses(&place, "convert folder -o out.gguf", &["folder", "config.json", "params.json"]);
}

#[test]
fn the_wrong_command_for_the_input() {
    let place = Place::new();
    fs::create_dir(place.path("folder")).unwrap();
    place.write("model.gguf", "GGUF");
    refuses(
        &place,
        "quantize folder -o out.gguf --type q4_k",
        &["folder is a folder", "hint: llq convert folder -o out.gguf --type q4_k_m"],
    );
    place.write("model.safetensors", [0; 64]);
    refuses(&place, "convert model.safetensors -o out.gguf", &["name its folder"]);
    refuses(&place, "inspect folder", &["folder is a folder", "llq convert"]);
}

#[test]
fn a_legacy_ggml_file() {
    let place = Place::new();
    place.write("old.bin", b"tjgg\x03\0\0\0");
    for line in ["inspect old.bin", "perplexity old.bin --corpus old.bin"] {
        refuses(&place, line, &["a legacy ggml file", "llq convert"]);
    }
    let cut = "old.bin: header at byte 8 needs 4 bytes, but 0 are left";
    refuses(&place, "convert old.bin -o out.gguf", &[cut]);
    refuses(&place, "quantize old.bin -o out.gguf --type q8_0", &[cut]);
    for epsilon in ["0", "-1", "nan", "x"] {
        refuses(&place, &format!("convert old.bin -o out.gguf --eps={epsilon}"), &["--eps"]);
    }
}

#[test]
fn a_truncated_gguf() {
    let place = Place::new();
    let whole = fs::read(tiny_gguf()).unwrap();
    for length in [3, 20, 1000, 100_000, whole.len() - 1] {
        place.write("short.gguf", &whole[..length]);
        for line in [
            "inspect short.gguf",
            "quantize short.gguf -o out.gguf --type q8_0",
            "perplexity short.gguf --corpus short.gguf",
        ] {
            refuses(&place, line, &["short.gguf"]);
        }
    }
}

#[test]
fn a_wrong_magic() {
    let place = Place::new();
    place.write("model.gguf", "PK\u{3}\u{4} is a zip archive, and long enough for a header");
    for line in ["inspect model.gguf", "quantize model.gguf -o out.gguf --type q8_0"] {
        refuses(&place, line, &["model.gguf", "GGUF"]);
    }
}

/// A copy of a fixture's folder.
fn copy(place: &Place, checkpoint: &str) {
    fs::create_dir(place.path("model")).unwrap();
    for entry in fs::read_dir(fixture(checkpoint)).unwrap() {
        let entry = entry.unwrap();
        fs::copy(entry.path(), place.path("model").join(entry.file_name())).unwrap();
    }
}

#[test]
fn truncated_safetensors() {
    let place = Place::new();
    copy(&place, "tiny-llama-2/hf");
    let whole = fs::read(place.path("model/model.safetensors")).unwrap();
    for length in [0, 4, 100, 5000, whole.len() - 1] {
        place.write("model/model.safetensors", &whole[..length]);
        for types in ["", "--type q4_k_m"] {
            refuses(&place, &format!("convert model -o out.gguf {types}"), &["model.safetensors"]);
        }
    }
}

#[test]
fn a_truncated_pth() {
    let place = Place::new();
    copy(&place, "tiny-llama-2/meta");
    let whole = fs::read(place.path("model/consolidated.01.pth")).unwrap();
    for length in [0, 1000, whole.len() / 2, whole.len() - 1] {
        place.write("model/consolidated.01.pth", &whole[..length]);
        refuses(&place, "convert model -o out.gguf", &["consolidated.01.pth"]);
    }
}

#[test]
fn a_missing_shard() {
    let place = Place::new();
    copy(&place, "tiny-llama-2/meta");
    fs::remove_file(place.path("model/consolidated.01.pth")).unwrap();
    let parts = ["model: no consolidated.01.pth", "cut into 2 shards, found 1"];
    refuses(&place, "convert model -o out.gguf", &parts);
}

#[test]
fn an_unknown_architecture() {
    let place = Place::new();
    copy(&place, "tiny-llama-2/hf");
    let config = fs::read_to_string(place.path("model/config.json")).unwrap();
    place.write("model/config.json", config.replace("LlamaForCausalLM", "MambaForCausalLM"));
    refuses(&place, "convert model -o out.gguf", &["config.json", "MambaForCausalLM"]);
}

#[test]
fn a_pth_that_calls_the_system() {
    let place = Place::new();
    copy(&place, "tiny-llama-2/meta");
    place.write("model/consolidated.00.pth", hostile_pth());
    refuses(&place, "convert model -o out.gguf", &["consolidated.00.pth", "system"]);
    assert!(!place.path("owned").exists());
}

/// A checkpoint whose pickle is `os.system("touch owned")`.
fn hostile_pth() -> Vec<u8> {
    let pickle = b"\x80\x02cos\nsystem\nX\x0b\x00\x00\x00touch owned\x85R.";
    stored_zip("archive/data.pkl", pickle)
}

/// A zip archive of one uncompressed file.
fn stored_zip(name: &str, contents: &[u8]) -> Vec<u8> {
    let size = u32::try_from(contents.len()).unwrap().to_le_bytes();
    let name_length = u16::try_from(name.len()).unwrap().to_le_bytes();
    // Version needed, flags, method, time, date, checksum, sizes, length of name, of extra field.
    let mut common = vec![20, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    for field in [&crc32(contents).to_le_bytes()[..], &size, &size, &name_length, &[0, 0]] {
        common.extend_from_slice(field);
    }
    let local = [b"PK\x03\x04", &common[..], name.as_bytes(), contents].concat();
    // Length of comment, disk, internal and external attributes, offset of the local header.
    let central = [b"PK\x01\x02\x14\x00", &common[..], &[0; 14], name.as_bytes()].concat();
    let counts = [0, 0, 0, 0, 1, 0, 1, 0];
    let central_size = u32::try_from(central.len()).unwrap().to_le_bytes();
    let central_start = u32::try_from(local.len()).unwrap().to_le_bytes();
    let end = [b"PK\x05\x06", &counts[..], &central_size, &central_start, &[0, 0]].concat();
    [local, central, end].concat()
}

fn crc32(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0u32, |crc, &byte| {
        (0..8).fold(crc ^ u32::from(byte), |crc, _| (crc >> 1) ^ (0xedb8_8320 * (crc & 1)))
    })
}

#[test]
fn a_corpus_that_cannot_be_measured() {
    let place = Place::new();
    fs::copy(tiny_gguf(), place.path("model.gguf")).unwrap();
    place.write("short.txt", "Too short a text.");
    place.write("empty.txt", "");
    place.write("latin1.txt", b"caf\xe9 au lait");
    for command in ["perplexity", "sweep"] {
        let on = |corpus: &str| format!("{command} model.gguf --corpus {corpus}");
        refuses(&place, &on("short.txt"), &["short.txt has", "one window takes 512"]);
        refuses(&place, &on("empty.txt"), &["empty.txt has", "one window takes 512"]);
        refuses(&place, &on("latin1.txt"), &["latin1.txt is not UTF-8 at byte 3"]);
    }
}

#[test]
fn quantizing_twice_is_asked_for() {
    let place = Place::new();
    let model = tiny_gguf().to_str().unwrap();
    place.run(&format!("quantize {model} -o q8_0.gguf --type q8_0")).ok();
    let again = "quantize q8_0.gguf -o out.gguf --type q4_k";
    refuses(&place, again, &["q8_0.gguf", "Q8_0", "hint: --allow-requantize"]);
    let sweep = format!("sweep q8_0.gguf --corpus {} --types q4_0", corpus().display());
    refuses(&place, &sweep, &["q8_0.gguf", "hint: start from the checkpoint"]);
    place.run(&format!("{again} --allow-requantize")).ok();
    assert_eq!(place.files(), ["out.gguf", "q8_0.gguf"]);
}

#[test]
fn a_vocabulary_is_no_model() {
    let Some(vocabulary) = llq_fixtures::shared("vocab/ggml-vocab-llama-spm.gguf") else { return };
    let place = Place::new();
    let corpus = corpus();
    let line = format!("perplexity {} --corpus {}", vocabulary.display(), corpus.display());
    refuses(&place, &line, &["ggml-vocab-llama-spm.gguf", "no tensors"]);
    let line = format!("quantize {} -o out.gguf --type q4_k", vocabulary.display());
    refuses(&place, &line, &["ggml-vocab-llama-spm.gguf", "nothing to quantize"]);
}

#[test]
fn a_base_model_of_another_vocabulary() {
    let place = Place::new();
    let bytes = fs::read(tiny_gguf()).unwrap();
    let word = "▁the".as_bytes();
    let mut other = bytes.clone();
    let at = bytes.windows(word.len()).position(|window| window == word).unwrap();
    other[at..at + word.len()].copy_from_slice("▁zzz".as_bytes());
    place.write("other.gguf", other);
    let (model, corpus) = (tiny_gguf().display(), corpus());
    let corpus = corpus.display();
    let line = format!("perplexity {model} --against other.gguf --corpus {corpus} --chunks 1");
    refuses(&place, &line, &["other.gguf has another vocabulary", "▁zzz"]);
}
