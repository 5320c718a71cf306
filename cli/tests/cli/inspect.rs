//! `llq inspect`.

use llq_gguf::{Array, Strings, Value};

use crate::harness::{Place, assert_outcome, gguf, tiny_gguf};

#[test]
fn the_summary_of_the_fixture() {
    let place = Place::new();
    let outcome = place.llq(["inspect".as_ref(), tiny_gguf().as_os_str()]);
    assert_outcome!(outcome, @r#"
    exit code 0
    --- stdout
    file             SHARED/tiny.gguf
    format           GGUF version 3, little endian, aligned to 32 bytes
    name             tiny-llama-2
    architecture     llama
    parameters       6.82 M (6,819,072)
    file type        BF16
    bits per weight  16.01
    size             13.1 MiB (13,740,064 bytes)
    context          2,048 tokens
    layers           6
    embedding        256
    feed-forward     768
    heads            8, 4 for keys and values
    tokenizer        llama, 4,096 tokens
    contents         57 tensors, 27 metadata keys

    type  tensors  parameters      size   share  bits/weight
    BF16       44   6,815,744  13.0 MiB  99.9 %        16.00
    F32        13       3,328  13.0 KiB   0.1 %        32.00
    --- stderr
    "#);
}

#[test]
fn json_has_all_of_it() {
    let place = Place::new();
    let path = tiny_gguf().to_str().unwrap();
    let all = place.llq(["inspect", path, "--json", "--tensors", "--metadata"]).ok().json();
    assert_eq!(all["architecture"], "llama");
    assert_eq!(all["parameters"], 6_819_072);
    assert_eq!(all["tensors"].as_array().unwrap().len(), 57);
    assert_eq!(all["metadata"]["llama.block_count"], 6);
    assert_eq!(all["metadata"]["tokenizer.ggml.tokens"].as_array().unwrap().len(), 4096);
    let bytes: u64 =
        all["types"].as_array().unwrap().iter().map(|t| t["bytes"].as_u64().unwrap()).sum();
    assert!(bytes < all["file_bytes"].as_u64().unwrap());
}

#[test]
fn long_values_are_shortened_as_text() {
    let text =
        Place::new().llq(["inspect", tiny_gguf().to_str().unwrap(), "--metadata"]).ok().stdout;
    let tokens = text.lines().find(|line| line.starts_with("tokenizer.ggml.tokens ")).unwrap();
    assert!(tokens.ends_with("… 4,096 in all]"), "{tokens}");
    assert!(tokens.chars().count() < 160, "{tokens}");
}

#[test]
fn a_hostile_file_cannot_drive_the_terminal() {
    let place = Place::new();
    place.write("hostile.gguf", hostile());
    for line in [
        "inspect hostile.gguf --tensors --metadata",
        "inspect hostile.gguf --tensors --metadata --json",
        "inspect hostile.gguf --tensors --metadata --color always",
    ] {
        let text = place.run(line).ok().stdout;
        let text = text.replace("\u{1b}[1m", "").replace("\u{1b}[0m", "");
        for c in ['\u{1b}', '\u{7}', '\r', '\u{9b}', '\u{202e}'] {
            assert!(!text.contains(c), "{text:?}");
        }
    }
}

/// A model whose every name tries to clear the screen, ring, return, and reverse.
fn hostile() -> Vec<u8> {
    const BAD: &str = "\u{1b}[2J\u{7}\r\u{9b}31m\u{202e}x";
    let strings: Strings = [BAD, BAD].into_iter().collect();
    let key = format!("key.{BAD}");
    let metadata = [
        ("general.architecture", Value::String(BAD.to_owned())),
        ("general.name", Value::String(BAD.to_owned())),
        ("tokenizer.ggml.model", Value::String(BAD.to_owned())),
        (key.as_str(), Value::Array(Array::String(strings))),
    ];
    gguf(metadata, BAD, &[2])
}

#[test]
fn a_llamafile_is_its_model() {
    let place = Place::new();
    let model = std::fs::read(tiny_gguf()).unwrap();
    place.write("tiny.llamafile", llamafile("tiny.gguf", &model));
    let inside = place.run("inspect tiny.llamafile --json").ok().json();
    assert_eq!(inside["entry"], "tiny.gguf");
    assert_eq!(inside["file_bytes"], model.len() as u64);
    let text = place.run("inspect tiny.llamafile").ok().stdout;
    assert!(text.contains("\nentry            tiny.gguf\n"), "{text}");

    place.write("tiny.gguf", &model);
    for name in ["tiny.llamafile", "tiny.gguf"] {
        place.run(&format!("quantize {name} -o {name}.out --type q8_0")).ok();
    }
    let made = |name| std::fs::read(place.path(name)).unwrap();
    assert!(made("tiny.llamafile.out") == made("tiny.gguf.out"));
}

/// A program with an archive of one stored entry behind it.
fn llamafile(name: &str, data: &[u8]) -> Vec<u8> {
    let mut file = b"\x7fELF".to_vec();
    let start = file.len() as u32;
    let mut common = vec![0; 14];
    common.extend([data.len() as u32; 2].map(u32::to_le_bytes).concat());
    common.extend([name.len() as u16, 0].map(u16::to_le_bytes).concat());
    file.extend([b"PK\x03\x04", &common[..], name.as_bytes(), data].concat());
    let directory = file.len() as u32;
    file.extend([b"PK\x01\x02\0\0", &common[..], &[0; 10]].concat());
    file.extend(start.to_le_bytes());
    file.extend(name.bytes());
    let bytes = file.len() as u32 - directory;
    file.extend(b"PK\x05\x06\0\0\0\0\x01\0\x01\0");
    file.extend([bytes, directory].map(u32::to_le_bytes).concat());
    file.extend([0; 2]);
    file
}

#[test]
fn the_spread_of_a_tensor() {
    let place = Place::new();
    let model = tiny_gguf().to_str().unwrap();
    let name = "blk.0.attn_q.weight";
    let all = place.llq(["inspect", model, "--tensor", name, "--json"]).ok().json();
    let bins = all["histogram"].as_array().unwrap();
    assert_eq!(bins.iter().map(|bin| bin.as_u64().unwrap()).sum::<u64>(), 65536);
    assert!(
        all["min"].as_f64() < all["mean"].as_f64() && all["mean"].as_f64() < all["max"].as_f64()
    );
    let one =
        place.llq(["inspect", model, "--tensor", name, "--json", "--threads", "1"]).ok().json();
    assert_eq!(one, all);
    let text = place.llq(["inspect", model, "--tensor", name]).ok().stdout;
    assert!(text.contains("█"), "{text}");
    place.llq(["inspect", model, "--tensor", "none"]).refused(&["no tensor none", "--tensors"]);
}

#[test]
fn what_running_takes() {
    let place = Place::new();
    let model = tiny_gguf().to_str().unwrap();
    let memory = place.llq(["inspect", model, "--memory", "--ctx", "1000", "--json"]).ok().json();
    // 6 blocks, 4 heads of 32 for keys and as many for values, 2 bytes each.
    assert_eq!(memory["cache"], 6 * 1000 * 4 * 64 * 2);
    let narrow =
        place.llq(["inspect", model, "--memory", "--ctx", "1000", "--cache-bits", "8", "--json"]);
    assert_eq!(narrow.ok().json()["cache"], 6 * 1000 * 4 * 64 / 32 * 34);
    let own = place.llq(["inspect", model, "--memory", "--json"]).ok().json();
    assert_eq!(own["context"], 2048);
    let sum = ["weights", "cache", "buffers"].map(|part| own[part].as_u64().unwrap());
    assert_eq!(own["total"], sum.iter().sum::<u64>());
}
