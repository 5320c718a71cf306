//! Where output goes: refused before any work, or complete, or not there.

use std::fs;

use llq_fixtures::fixture;
use llq_gguf::{Metadata, Model, TensorSpec, TensorType, Value, to_bytes};

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
fn the_first_of_several_files_in_a_folder_is_said() {
    let place = Place::new();
    let model = tiny_gguf().to_str().unwrap();
    let args = ["convert", model, "-o", ".", "--name", "a", "--split-max-tensors", "40"];
    let made = place.llq(args).ok();
    assert!(made.stderr.contains("the first file is ./a-6.8M-"), "{made}");
    assert!(made.stderr.contains("-00001-of-00002.gguf\n"), "{made}");
}

#[test]
fn the_output_is_not_the_file_of_metadata() {
    let place = Place::new();
    let model = tiny_gguf().to_str().unwrap();
    place.write("metadata.json", "{}");
    let args = [model, "-o", "metadata.json", "--metadata", "metadata.json", "--force"];
    place
        .llq(QUANTIZE.iter().chain(&args))
        .refused(&["metadata.json: output and input are the same file"]);
    assert_eq!(fs::read(place.path("metadata.json")).unwrap(), b"{}");
}

#[test]
fn metadata_is_a_file() {
    let model = tiny_gguf().to_str().unwrap();
    let args = [model, "-o", "out.gguf", "--metadata", r#"{"license": "mit"}"#];
    Place::new().llq(QUANTIZE.iter().chain(&args)).refused(&["--metadata takes a file", "hint:"]);
}

#[test]
fn options_that_change_nothing_are_refused() {
    let place = Place::new();
    let model = tiny_gguf().display();
    let checkpoint = fixture("tiny-llama-2/hf");
    place
        .run(&format!("convert {model} -o out.gguf --pre llama-bpe"))
        .refused(&["is a GGUF file; only a checkpoint takes a pre-tokenizer's name"]);
    for (path, form) in [(model, "a GGUF file"), (checkpoint.display(), "a folder")] {
        place
            .run(&format!("convert {path} -o out.gguf --eps 1e-6"))
            .refused(&[form, "only a legacy GGML file takes an epsilon"]);
    }
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

#[test]
fn a_model_is_split_and_joined() {
    let place = Place::new();
    let model = tiny_gguf().to_str().unwrap();
    let split = ["convert", model, "-o", "m.gguf", "--split-max-tensors", "20"];
    let planned = place.llq(split.iter().chain(&["--dry-run", "--json"])).ok().json();
    let parts = ["m-00001-of-00003.gguf", "m-00002-of-00003.gguf", "m-00003-of-00003.gguf"];
    place.llq(split).ok();
    assert_eq!(place.files(), parts);
    for (part, planned) in parts.iter().zip(planned["files"].as_array().unwrap()) {
        assert_eq!(planned["path"], *part);
        assert_eq!(planned["bytes"], fs::metadata(place.path(part)).unwrap().len());
    }
    place.llq(split).refused(&["m-00001-of-00003.gguf exists", "--force"]);
    place.llq(split.iter().chain(&["--force"])).ok();

    place.run("convert m-00002-of-00003.gguf -o joined.gguf").ok();
    let joined = fs::read(place.path("joined.gguf")).unwrap();
    assert!(joined == fs::read(tiny_gguf()).unwrap());
    // One file is enough: it has the plain name, which must be free.
    place
        .run("convert m-00001-of-00003.gguf -o joined.gguf --split-max-size 1G")
        .refused(&["joined.gguf exists"]);
    place
        .run("convert m-00001-of-00003.gguf -o m.gguf --split-max-tensors 20 --force")
        .refused(&["output and input are the same file"]);
}

/// Each has a descriptor, and shells start programs with leave for few.
#[cfg(unix)]
#[test]
fn a_model_may_have_many_files() {
    use std::process::Command;

    use crate::harness::Outcome;

    let place = Place::new();
    let llq = place.command();
    let run = |line: &str| {
        let mut limited = Command::new("sh");
        limited.current_dir(place.path(".")).args(["-c", "ulimit -Sn 24; exec \"$@\"", "sh"]);
        Outcome::of(limited.arg(llq.get_program()).args(line.split_whitespace())).ok();
    };
    run(&format!("convert {} -o m.gguf --split-max-tensors 1", tiny_gguf().display()));
    let parts = place.files();
    assert!(parts.len() > 40, "{parts:?}");
    run(&format!("convert {} -o joined.gguf", parts[0]));
    assert!(fs::read(place.path("joined.gguf")).unwrap() == fs::read(tiny_gguf()).unwrap());
}

#[test]
fn a_quantized_model_is_quantized_again_only_with_leave() {
    let place = Place::new();
    let model = tiny_gguf().to_str().unwrap();
    place.llq(QUANTIZE.iter().chain(&[model, "-o", "q8_0.gguf", "--endian", "big"])).ok();
    place
        .run("convert q8_0.gguf -o q4_0.gguf --type q4_0")
        .refused(&["is Q8_0 already", "hint: --allow-requantize"]);
    place.run("convert q8_0.gguf -o q4_0.gguf --type q4_0 --allow-requantize").ok();
    place.run("convert q8_0.gguf -o f16.gguf --outtype f16").ok();
}

#[test]
fn weights_too_large_for_f16_come_with_a_hint() {
    let place = Place::new();
    let specs = [("token_embd.weight", 1.0f32), ("output.weight", 1e6)].map(|(name, weight)| {
        let spec = TensorSpec::new(name, [32, 2], TensorType::F32);
        (spec, [weight; 64].map(f32::to_le_bytes).concat())
    });
    place.write("in.gguf", to_bytes(&Metadata::new(), specs).unwrap());
    place.run("convert in.gguf -o out.gguf --outtype f16").refused(&[
        "tensor \"output.weight\": 64 weights up to 1e6 do not fit F16",
        "hint: ",
        "--on-overflow keep-bf16",
    ]);
    assert_eq!(place.files(), ["in.gguf"]);
    let keep = "convert in.gguf -o out.gguf --outtype f16 --on-overflow keep-bf16 --json";
    let kept = place.run(keep).ok();
    assert!(kept.stderr.contains("do not fit F16: the tensor is BF16"), "{kept}");
    let types: Vec<_> = (0..2).map(|index| kept.json()["types"][index]["type"].clone()).collect();
    assert_eq!(types, ["F16", "BF16"]);
    let inspected = place.run("inspect out.gguf --json").ok().stdout;
    assert!(inspected.contains("\"BF16\"") && inspected.contains("\"F16\""), "{inspected}");
}

/// Of 400 files only the headers are read: their data is a hole that is larger than the disk.
#[test]
fn a_dry_run_reads_headers_only() {
    const SHARDS: u64 = 400;
    const BYTES_PER_SHARD: u64 = 8192 * (1 << 20) * 2;
    let place = Place::new();
    let mut map = serde_json::Map::new();
    let names = ["input_layernorm", "post_attention_layernorm"];
    for shard in 0..SHARDS {
        let file = format!("model-{:05}-of-{SHARDS:05}.safetensors", shard + 1);
        let mut header = serde_json::Map::new();
        let mut data = 0;
        let mut add = |name: String, shape: &[u64]| {
            let bytes = shape.iter().product::<u64>() * 2;
            let entry = serde_json::json!({ "dtype": "BF16", "shape": shape,
                "data_offsets": [data, data + bytes] });
            data += bytes;
            map.insert(name.clone(), file.clone().into());
            header.insert(name, entry);
        };
        let layer = |name: &str| format!("model.layers.{shard}.{name}.weight");
        for name in names {
            add(layer(name), &[8192]);
        }
        for name in ["gate_proj", "up_proj"] {
            add(layer(&format!("mlp.{name}")), &[1 << 20, 8192]);
        }
        add(layer("mlp.down_proj"), &[8192, 1 << 20]);
        for name in ["q_proj", "k_proj", "v_proj", "o_proj"] {
            add(layer(&format!("self_attn.{name}")), &[8192, 8192]);
        }
        if shard == 0 {
            add("model.embed_tokens.weight".to_owned(), &[4096, 8192]);
            add("lm_head.weight".to_owned(), &[4096, 8192]);
            add("model.norm.weight".to_owned(), &[8192]);
        }
        assert!(data > 3 * BYTES_PER_SHARD);
        let header = serde_json::Value::Object(header).to_string();
        let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
        bytes.extend(header.bytes());
        let path = place.write(&format!("hf/{file}"), &bytes);
        let sparse = fs::OpenOptions::new().write(true).open(path).unwrap();
        sparse.set_len(bytes.len() as u64 + data).unwrap();
    }
    let index = serde_json::json!({ "weight_map": map });
    place.write("hf/model.safetensors.index.json", index.to_string());
    let config = serde_json::json!({ "architectures": ["LlamaForCausalLM"], "hidden_size": 8192,
        "intermediate_size": 1 << 20, "num_attention_heads": 64, "num_key_value_heads": 64,
        "num_hidden_layers": SHARDS, "vocab_size": 4096, "rms_norm_eps": 1e-5,
        "max_position_embeddings": 4096 });
    place.write("hf/config.json", config.to_string());
    let tokenizer = fs::read(fixture("tiny-llama-2/hf/tokenizer.model")).unwrap();
    place.write("hf/tokenizer.model", tokenizer);

    let planned = place.run("convert hf -o out.gguf --type q4_k_m --dry-run --json").ok().json();
    assert_eq!(planned["tensors"].as_array().unwrap().len() as u64, 9 * SHARDS + 3);
    assert_eq!(planned["vocabulary"]["tokens"], 4096);
    let free = planned["free_bytes"].as_u64().unwrap();
    assert!(free < planned["file_bytes"].as_u64().unwrap());
    // The room is looked for before a byte is written.
    place.run("convert hf -o out.gguf --type q4_k_m").refused(&["bytes are needed", "are free"]);
    assert_eq!(place.files(), ["hf"]);
}
