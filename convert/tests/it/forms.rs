//! The files that weights come in, and the names that wrappers give them.

use std::{fs, path::Path};

use llq_convert::{Error, Request, open};
use serde_json::json;

use crate::support::{
    assert_says, converted, failure, meta,
    pickle::{archive, int, tensor, text},
    tiny::Tiny,
};

/// A folder that every form of the model is written to in turn, for the same name in the output.
fn converted_by(write: impl Fn(&Tiny, &Path)) -> Vec<u8> {
    converted_from(&Tiny::new(), write)
}

fn converted_from(tiny: &Tiny, write: impl Fn(&Tiny, &Path)) -> Vec<u8> {
    let folder = tempfile::tempdir().unwrap();
    let folder = folder.path().join("tiny");
    fs::create_dir(&folder).unwrap();
    write(tiny, &folder);
    converted(&folder, &Request::default())
}

fn notes(folder: &Path) -> Vec<String> {
    open(folder).unwrap().notes().iter().map(ToString::to_string).collect()
}

#[track_caller]
fn assert_notes(folder: &Path, part: &str) {
    let notes = notes(folder);
    assert!(notes.iter().any(|note| note.contains(part)), "{part:?} is not in {notes:?}");
}

fn remove(folder: &Path, file: &str) {
    fs::remove_file(folder.join(file)).unwrap();
}

#[test]
fn all_forms_of_the_same_weights_give_the_same_file() {
    let single = converted_by(Tiny::write);
    assert!(converted_by(Tiny::write_sharded) == single);
    assert!(converted_by(Tiny::write_bin) == single);
    assert!(converted_by(Tiny::write_sharded_bin) == single);
    let without_index = converted_by(|tiny, folder| {
        tiny.write_sharded(folder);
        remove(folder, "model.safetensors.index.json");
    });
    assert!(without_index == single);
}

/// The same tensors in shards of the other order, which an index and no name tells.
#[test]
fn the_order_of_shards_changes_no_byte() {
    let swapped = converted_by(|tiny, folder| {
        tiny.write_sharded(folder);
        let shard = |number: u32| folder.join(format!("model-{number:05}-of-00002.safetensors"));
        fs::rename(shard(1), folder.join("first")).unwrap();
        fs::rename(shard(2), shard(1)).unwrap();
        fs::rename(folder.join("first"), shard(2)).unwrap();
        let index = folder.join("model.safetensors.index.json");
        let text = fs::read_to_string(&index).unwrap();
        let text = text.replace("-00001-", "-x-").replace("-00002-", "-00001-");
        fs::write(index, text.replace("-x-", "-00002-")).unwrap();
    });
    assert!(swapped == converted_by(Tiny::write_sharded));
}

#[test]
fn safetensors_are_preferred_and_said() {
    let folder = tempfile::tempdir().unwrap();
    let tiny = Tiny::new();
    tiny.write_bin(folder.path());
    assert_eq!(notes(folder.path()), [""; 0]);
    tiny.write(folder.path());
    fs::write(folder.path().join("pytorch_model.bin"), "damaged").unwrap();
    assert_notes(folder.path(), "from model.safetensors, not from pytorch_model.bin");
    tiny.write_sharded(folder.path());
    assert_notes(
        folder.path(),
        "model.safetensors.index.json names, not those of model.safetensors",
    );
}

#[test]
fn indexes_of_either_form_are_checked() {
    type Write = fn(&Tiny, &Path);
    let forms: [(Write, &str, &str); 2] = [
        (Tiny::write_sharded, "model", ".safetensors"),
        (Tiny::write_sharded_bin, "pytorch_model", ".bin"),
    ];
    for (write, stem, extension) in forms {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path();
        write(&Tiny::new(), folder);
        let [first, second] = [1, 2].map(|n| format!("{stem}-{n:05}-of-00002{extension}"));
        let index = format!("{stem}{extension}.index.json");

        let mut map: serde_json::Value =
            serde_json::from_slice(&fs::read(folder.join(&index)).unwrap()).unwrap();
        let sound = map.clone();
        map["weight_map"]["model.norm.weight"] = json!("../elsewhere.bin");
        fs::write(folder.join(&index), map.to_string()).unwrap();
        let error = failure(folder, &Request::default());
        assert!(matches!(error, Error::Shards { .. }), "{error}");
        assert_says(&error, &[&index, "../elsewhere.bin", "no file name of this folder"]);

        map["weight_map"]["model.norm.weight"] = json!(first);
        map["weight_map"]["model.norms.weight"] = json!(second);
        fs::write(folder.join(&index), map.to_string()).unwrap();
        let error = failure(folder, &Request::default());
        assert_says(&error, &["is not in it", &index]);

        fs::write(folder.join(&index), sound.to_string()).unwrap();
        remove(folder, &second);
        let error = failure(folder, &Request::default());
        assert!(matches!(error, Error::MissingFile { .. }), "{error}");
        assert_says(&error, &[&second, &index]);

        // Without the index the names of the shards tell as much.
        remove(folder, &index);
        let error = failure(folder, &Request::default());
        assert!(matches!(error, Error::MissingFile { .. }), "{error}");
        assert_says(&error, &[&second, "found 1 of 2 shards"]);
        fs::rename(folder.join(&first), folder.join(&second)).unwrap();
        assert_says(&failure(folder, &Request::default()), &[&first]);
        fs::copy(folder.join(&second), folder.join(&first)).unwrap();
        let error = failure(folder, &Request::default());
        assert!(matches!(error, Error::Shards { .. }), "{error}");
        assert_says(&error, &[&second, "is also in"]);
        let other = format!("{stem}-00001-of-00003{extension}");
        fs::rename(folder.join(&first), folder.join(&other)).unwrap();
        assert_says(&failure(folder, &Request::default()), &[&other, "another set"]);
    }
}

#[test]
fn a_git_lfs_pointer_in_place_of_a_bin_is_named() {
    let folder = tempfile::tempdir().unwrap();
    Tiny::new().write_sharded_bin(folder.path());
    let shard = "pytorch_model-00002-of-00002.bin";
    let pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n";
    fs::write(folder.path().join(shard), pointer).unwrap();
    assert_says(&failure(folder.path(), &Request::default()), &[shard, "git lfs pull"]);
}

#[test]
fn a_state_dict_may_lie_in_the_checkpoint_of_a_training() {
    let nested = |key: &str, value: &[u8]| {
        let name = text("model.embed_tokens.weight");
        let dict = [&b"}("[..], &name, value, b"u"].concat();
        let root = [&b"\x80\x02}("[..], &text("step"), &int(3), &text(key), &dict, b"u."].concat();
        let folder = tempfile::tempdir().unwrap();
        Tiny::new().write_all_but_weights(folder.path());
        fs::write(folder.path().join("pytorch_model.bin"), archive(&root, &[0; 64])).unwrap();
        failure(folder.path(), &Request::default())
    };
    // Its shape is looked at, so the embedding was found.
    let embedding = tensor(0, &[16, 2], &[2, 1], 32);
    for key in ["state_dict", "model", "module"] {
        let error = nested(key, &embedding);
        assert!(matches!(error, Error::Shape { .. }), "{key}: {error}");
    }
    assert!(matches!(nested("optimizer", &embedding), Error::MissingTensor { .. }));
    assert_says(&nested("state_dict", b"cos\nsystem\n"), &["os.system"]);
}

#[test]
fn wrapper_prefixes_are_left_out_and_said() {
    let plain = converted_by(Tiny::write);
    let cases = [
        ("module.", "\"module.\""),
        ("_orig_mod.", "\"_orig_mod.\""),
        ("base_model.model.", "\"base_model.model.\""),
        ("module._orig_mod.", "\"_orig_mod.\""),
    ];
    for (prefix, said) in cases {
        let mut tiny = Tiny::new();
        let tensors = std::mem::take(&mut tiny.tensors);
        tiny.tensors = tensors.into_iter().map(|(n, t)| (format!("{prefix}{n}"), t)).collect();
        assert!(converted_from(&tiny, Tiny::write) == plain, "{prefix}");
        let folder = tempfile::tempdir().unwrap();
        tiny.write(folder.path());
        assert_notes(folder.path(), said);
    }
}

#[test]
fn the_body_of_a_model_may_lack_its_prefix() {
    let mut tiny = Tiny::new();
    let tensors = std::mem::take(&mut tiny.tensors);
    let bare = |name: &str| name.strip_prefix("model.").unwrap_or(name).to_owned();
    tiny.tensors = tensors.into_iter().map(|(name, tensor)| (bare(&name), tensor)).collect();
    assert!(tiny.tensors.contains_key("layers.0.mlp.up_proj.weight"));
    assert!(converted_from(&tiny, Tiny::write) == converted_by(Tiny::write));
}

#[test]
fn the_first_yi_models_name_their_norms_otherwise() {
    let mut tiny = Tiny::new();
    let tensors = std::mem::take(&mut tiny.tensors);
    let old = |name: &str| {
        name.replace("input_layernorm", "ln1").replace("post_attention_layernorm", "ln2")
    };
    tiny.tensors = tensors.into_iter().map(|(name, tensor)| (old(&name), tensor)).collect();
    tiny.config["architectures"] = json!(["YiForCausalLM"]);
    assert!(converted_from(&tiny, Tiny::write) == converted_by(Tiny::write));
}

#[test]
fn two_names_of_one_tensor_are_an_error() {
    let folder = tempfile::tempdir().unwrap();
    let mut tiny = Tiny::new();
    let norm = tiny.tensors["model.norm.weight"].clone();
    tiny.tensors.insert("module.model.norm.weight".to_owned(), norm);
    tiny.write(folder.path());
    let error = failure(folder.path(), &Request::default());
    assert!(matches!(error, Error::Shards { .. }), "{error}");
    assert_says(&error, &["\"model.norm.weight\"", "\"module.model.norm.weight\""]);
}

#[test]
fn mistrals_form_gives_the_file_of_hugging_faces() {
    let folder = tempfile::tempdir().unwrap();
    let [hf, original] = ["hf", "original"].map(|name| folder.path().join(name));
    for (mut tiny, class) in
        [(Tiny::new(), "MistralForCausalLM"), (Tiny::with_experts(3), "MixtralForCausalLM")]
    {
        for path in [&hf, &original] {
            fs::create_dir_all(path).unwrap();
        }
        tiny.config["architectures"] = json!([class]);
        tiny.config["rope_theta"] = json!(1e6);
        let settings = json!({ "add_bos_token": true, "add_eos_token": false });
        tiny.others.insert("tokenizer_config.json", settings);
        tiny.write(&hf);
        meta::write_consolidated(&tiny, &original);
        let request = Request::default();
        assert!(converted(&hf, &request) == converted(&original, &request), "{class}");

        // In one folder, as Mistral publishes them, the other form is preferred.
        meta::write_consolidated(&tiny, &hf);
        assert_notes(&hf, "not in Mistral's");
        remove(&hf, "model.safetensors");
        remove(&hf, "tokenizer.model");
        assert!(converted(&hf, &request) == converted(&original, &request), "{class}");
        fs::remove_dir_all(&hf).unwrap();
    }
}

#[test]
fn what_mistrals_params_lack_follows_and_is_said() {
    let folder = tempfile::tempdir().unwrap();
    meta::write_consolidated(&Tiny::new(), folder.path());
    let path = folder.path().join("params.json");
    let read = || serde_json::from_slice::<serde_json::Value>(&fs::read(&path).unwrap()).unwrap();
    let mut params = read();
    for key in ["rope_theta", "max_position_embeddings", "head_dim"] {
        params.as_object_mut().unwrap().remove(key);
    }
    fs::write(&path, params.to_string()).unwrap();
    assert_notes(folder.path(), "no context length; 32768");
    assert_notes(folder.path(), "1000000 follows, as it has no sliding_window");
    params["sliding_window"] = json!(4096);
    fs::write(&path, params.to_string()).unwrap();
    assert_notes(folder.path(), "10000 follows, as it has a sliding_window");
    assert_notes(folder.path(), "sliding_window 4096 has no place");

    for (key, value, said) in [
        ("vision_encoder", json!({}), "vision_encoder"),
        ("quantization", json!({ "qformat_weight": "fp8_e4m3" }), "fp8_e4m3"),
        ("moe", json!({ "num_experts": 3 }), "num_experts_per_tok"),
        ("moe", json!({ "num_experts": 2, "num_experts_per_tok": 3 }), "1 to 2"),
        ("moe", json!({ "num_experts": 513, "num_experts_per_tok": 2 }), "1 to 512"),
    ] {
        let mut params = params.clone();
        params[key] = value;
        fs::write(&path, params.to_string()).unwrap();
        assert_says(&failure(folder.path(), &Request::default()), &["params.json", said]);
    }
    fs::write(&path, params.to_string()).unwrap();
    remove(folder.path(), "tokenizer.model.v3");
    assert_says(
        &failure(folder.path(), &Request::default()),
        &["no tekken.json, and no tokenizer.model"],
    );
}

#[test]
fn a_consolidated_model_without_output_must_say_so() {
    let folder = tempfile::tempdir().unwrap();
    let mut tiny = Tiny::new();
    tiny.tensors.remove("lm_head.weight");
    meta::write_consolidated(&tiny, folder.path());
    assert_says(
        &failure(folder.path(), &Request::default()),
        &["tied_embeddings", "output.weight"],
    );
}
