//! Adapters that are merged while their base is converted.

use std::{fs, path::Path};

use llq_convert::{Error, LoraError, OpenOptions, Request};
use llq_gguf::Model;
use llq_quant::mix::Mix;
use serde_json::json;
use tempfile::TempDir;

use crate::support::{
    assert_says, converted,
    lora::{
        MATRICES, Made, by_hand, gguf_name, in_gguf_order, merging, read, tensor,
        try_open_and_write,
    },
    meta::{self, EmbeddingCut},
    request,
    tiny::{EMBEDDING, Tensor, Tiny, VOCABULARY, tokenizer},
};

/// The small model in both forms.
fn bases(tiny: &Tiny) -> [TempDir; 2] {
    let [hugging_face, meta] = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    tiny.write(hugging_face.path());
    meta::write(tiny, meta.path(), 2, EmbeddingCut::Rows);
    [hugging_face, meta]
}

fn written(made: &Made) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    made.write(folder.path());
    folder
}

fn merged(base: &Path, options: &OpenOptions) -> Model {
    let bytes = try_open_and_write(base, options, &request(Mix::F32)).unwrap();
    Model::from_bytes(bytes).unwrap()
}

/// Merges into both forms and compares every matrix with `by_hand`.
#[track_caller]
fn assert_merged(adapters: &[(&Made, f64)], factors: impl Fn(&str) -> Vec<f64>) {
    let tiny = Tiny::new();
    let folders: Vec<TempDir> = adapters.iter().map(|(made, _)| written(made)).collect();
    let options =
        merging(folders.iter().map(|folder| folder.path()).zip(adapters.iter().map(|a| a.1)));
    for base in bases(&tiny) {
        let model = merged(base.path(), &options);
        for name in tiny.tensors.keys().filter(|name| tiny.tensors[*name].shape.len() == 2) {
            let module = name.strip_suffix(".weight").unwrap();
            let changes: Vec<_> =
                adapters.iter().map(|(made, _)| *made).zip(factors(module)).collect();
            let expected = in_gguf_order(module, &by_hand(&tiny, module, &changes));
            let found = read(&model, &format!("{}.weight", gguf_name(module)));
            assert!(found == expected, "{module}");
        }
    }
}

#[test]
fn merging_adds_the_scaled_product_in_both_forms() {
    assert_merged(&[(&Made::new(1).with_embedding(), 1.0)], |_| vec![2.0]);
}

#[test]
fn several_adapters_add_up_with_their_scales() {
    let (first, mut second) = (Made::new(1), Made::new(2).with_embedding());
    second.config["lora_alpha"] = json!(1.0);
    assert_merged(&[(&first, 0.5), (&second, -4.0)], |_| vec![1.0, -1.0]);
}

#[test]
fn rslora_divides_by_the_root_of_the_rank() {
    let mut made = Made::new(1);
    made.config["use_rslora"] = json!(true);
    assert_merged(&[(&made, 1.0)], |_| vec![4.0]);
}

#[test]
fn patterns_match_the_end_of_a_module_from_a_dot_on() {
    let mut made = Made::new(1);
    let module = "model.layers.1.self_attn.k_proj";
    made.set(&format!("{module}.lora_A.weight"), tensor(7, &[2, EMBEDDING]));
    made.set(&format!("{module}.lora_B.weight"), tensor(8, &[16, 2]));
    made.config["rank_pattern"] = json!({ "1.self_attn.k_proj": 2, "_proj": 3 });
    made.config["alpha_pattern"] =
        json!({ r"layers\.0\..*v_proj": 16, "^model.layers.1.mlp.(up|down)_proj": 2, "head": 1 });
    assert_merged(&[(&made, 1.0)], |module| {
        vec![match module {
            "model.layers.1.self_attn.k_proj" | "model.layers.0.self_attn.v_proj" => 4.0,
            "model.layers.1.mlp.up_proj" | "model.layers.1.mlp.down_proj" => 0.5,
            _ => 2.0,
        }]
    });
}

#[test]
fn fan_in_fan_out_is_without_effect_as_with_peft() {
    let mut made = Made::new(1);
    made.config["fan_in_fan_out"] = json!(true);
    assert_merged(&[(&made, 1.0)], |_| vec![2.0]);
}

#[test]
fn dora_gives_each_row_its_learned_length() {
    let tiny = Tiny::new();
    let mut made = Made::new(1);
    made.config["use_dora"] = json!(true);
    for (seed, module) in ["model.layers.0.self_attn.q_proj", "lm_head"].into_iter().enumerate() {
        let rows = tiny.tensors[&format!("{module}.weight")].shape[0];
        let weights = (0..rows).map(|row| (row + 1 + seed as u64) as f32).collect();
        let magnitude = Tensor { shape: vec![rows], weights };
        made.set(&format!("{module}.lora_magnitude_vector"), magnitude);
    }
    made.tensors
        .retain(|name, _| name.contains("layers.0.self_attn.q_proj") || name.contains("lm_head"));
    let adapter = written(&made);
    let mut results = Vec::new();
    for base in bases(&tiny) {
        let model = merged(base.path(), &merging([(adapter.path(), 1.0)]));
        for (seed, module) in ["model.layers.0.self_attn.q_proj", "lm_head"].into_iter().enumerate()
        {
            let mut expected = by_hand(&tiny, module, &[(&made, 2.0)]);
            for (row, weights) in expected.weights.chunks_mut(EMBEDDING as usize).enumerate() {
                let norm = weights.iter().map(|&w| f64::from(w).powi(2)).sum::<f64>().sqrt();
                let factor = (row + 1 + seed) as f64 / norm;
                weights.iter_mut().for_each(|w| *w = (f64::from(*w) * factor) as f32);
            }
            let expected = in_gguf_order(module, &expected);
            let found = read(&model, &format!("{}.weight", gguf_name(module)));
            let close = |(a, b): (&f32, &f32)| (a - b).abs() <= 1e-6 * a.abs().max(1.0);
            assert!(found.weights.iter().zip(&expected.weights).all(close), "{module}");
            results.push(found);
        }
    }
    assert!(results[..2] == results[2..], "both forms give the same");
}

#[test]
fn whole_tensors_take_the_place_of_the_base() {
    let tiny = Tiny::new();
    let mut made = Made::new(1);
    made.remove("lm_head.lora_A.weight");
    made.remove("lm_head.lora_B.weight");
    let head = tensor(60, &[VOCABULARY, EMBEDDING]);
    made.set("lm_head.modules_to_save.weight", head.clone());
    let norm = tensor(61, &[EMBEDDING]);
    made.set("model.norm.weight", norm.clone());
    let q = "model.layers.0.self_attn.q_proj";
    let whole = tensor(62, &[EMBEDDING, EMBEDDING]);
    made.set(&format!("{q}.base_layer.weight"), whole.clone());
    let adapter = written(&made);
    for base in bases(&tiny) {
        let model = merged(base.path(), &merging([(adapter.path(), 1.0)]));
        assert_eq!(read(&model, "output.weight"), head);
        assert_eq!(read(&model, "output_norm.weight"), norm);
        let mut other = tiny.clone();
        other.tensors.insert(format!("{q}.weight"), whole.clone());
        let expected = in_gguf_order(q, &by_hand(&other, q, &[(&made, 2.0)]));
        assert_eq!(read(&model, "blk.0.attn_q.weight"), expected);
    }
}

#[test]
fn added_tokens_need_a_base_that_says_so() {
    let mut tiny = Tiny::new();
    let mut made = Made::new(1);
    made.remove("lm_head.lora_A.weight");
    made.remove("lm_head.lora_B.weight");
    for (seed, module) in ["model.embed_tokens", "lm_head"].into_iter().enumerate() {
        made.set(&format!("{module}.weight"), tensor(seed, &[VOCABULARY + 1, EMBEDDING]));
    }
    let adapter = written(&made);
    let options = merging([(adapter.path(), 1.0)]);
    let base = tempfile::tempdir().unwrap();
    tiny.write(base.path());
    let error = try_open_and_write(base.path(), &options, &request(Mix::F32)).unwrap_err();
    assert_says(
        &error,
        &["embed_tokens.weight", "17 rows", "vocabulary of 16", "vocab_size to 17"],
    );

    tiny.config["vocab_size"] = json!(VOCABULARY + 1);
    tiny.tokenizer = tokenizer(VOCABULARY as u8 + 1);
    tiny.write(base.path());
    let model = merged(base.path(), &options);
    assert_eq!(read(&model, "token_embd.weight"), tensor(0, &[VOCABULARY + 1, EMBEDDING]));
    assert_eq!(model.metadata().count("llama.vocab_size").unwrap(), VOCABULARY + 1);
}

#[test]
fn a_tied_output_is_untied_where_one_of_the_two_changes() {
    let mut tiny = Tiny::new();
    let embedding = tiny.tensors["model.embed_tokens.weight"].clone();
    tiny.tensors.insert("lm_head.weight".to_owned(), embedding.clone());
    let [_, meta] = bases(&tiny);
    tiny.tensors.remove("lm_head.weight");
    tiny.config["tie_word_embeddings"] = json!(true);
    let hugging_face = tempfile::tempdir().unwrap();
    tiny.write(hugging_face.path());

    let mut made = Made::new(1).with_embedding();
    let head = made.clone();
    made.remove("lm_head.lora_A.weight");
    made.remove("lm_head.lora_B.weight");
    for (made, changed) in [(made, false), (head, true)] {
        let adapter = written(&made);
        for base in [&hugging_face, &meta] {
            let model = merged(base.path(), &merging([(adapter.path(), 1.0)]));
            let expected = by_hand(&tiny, "model.embed_tokens", &[(&made, 2.0)]);
            assert_eq!(read(&model, "token_embd.weight"), expected);
            let mut as_head = tiny.clone();
            as_head.tensors.insert("lm_head.weight".to_owned(), embedding.clone());
            let expected = by_hand(&as_head, "lm_head", &[(&made, 2.0)]);
            assert_eq!(read(&model, "output.weight"), expected, "changed: {changed}");
        }
    }
}

#[test]
fn a_pytorch_file_is_read_like_a_safetensors_one() {
    let [base, _] = bases(&Tiny::new());
    let mut made = Made::new(1);
    made.tensors.retain(|name, _| name.contains("layers.1"));
    let safetensors = written(&made);
    let torch = written(&made);
    fs::remove_file(torch.path().join("adapter_model.safetensors")).unwrap();
    let named = made.tensors.iter().map(|(name, tensor)| {
        (name.replace("lora_A", "lora_A.default").replace("lora_B", "lora_B.default"), tensor)
    });
    fs::write(torch.path().join("adapter_model.bin"), meta::pth(named, 0)).unwrap();
    let [a, b] = [safetensors, torch].map(|adapter| {
        let options = merging([(adapter.path(), 1.0)]);
        try_open_and_write(base.path(), &options, &request(Mix::F32)).unwrap()
    });
    assert!(a == b);
}

#[test]
fn the_output_has_the_type_of_the_base_and_the_same_bytes_on_any_number_of_threads() {
    let adapter = written(&Made::new(1).with_embedding());
    let options = merging([(adapter.path(), 1.0)]);
    for base in bases(&Tiny::new()) {
        let with_threads = |threads, request: Request| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(|| try_open_and_write(base.path(), &options, &request).unwrap())
        };
        let auto = with_threads(2, Request::default());
        assert!(auto == with_threads(1, request(Mix::BF16)));
        assert!(auto != converted(base.path(), &request(Mix::BF16)));
        assert!(with_threads(1, request(Mix::Q8_0)) == with_threads(7, request(Mix::Q8_0)));
    }
}

#[test]
fn notes_tell_what_was_merged_and_that_the_base_is_another() {
    let [base, _] = bases(&Tiny::new());
    let mut made = Made::new(1);
    made.config["base_model_name_or_path"] = json!("meta-llama/Llama-2-7b-hf");
    made.config["init_lora_weights"] = json!("pissa_niter_4");
    let adapter = written(&made);
    let source = llq_convert::open_with(base.path(), &merging([(adapter.path(), 0.5)])).unwrap();
    let notes: Vec<&str> = source.notes().iter().map(|note| note.0.as_str()).collect();
    let notes = notes.join("\n");
    for part in ["low-rank changes: 15, rank 4, alpha 8, scaling 1", "Llama-2-7b-hf", "pissa"] {
        assert!(notes.contains(part), "{part:?} is not in {notes:?}");
    }
}

/// The error of merging the small adapter after a change to it.
fn failure(change: impl Fn(&mut Made)) -> Error {
    let [base, _] = bases(&Tiny::new());
    let mut made = Made::new(1);
    change(&mut made);
    let adapter = written(&made);
    let options = merging([(adapter.path(), 1.0)]);
    try_open_and_write(base.path(), &options, &request(Mix::F32)).unwrap_err()
}

#[test]
fn configurations_that_can_not_be_merged_are_refused() {
    for (key, value, parts) in [
        ("peft_type", json!("ADALORA"), &["peft_type", "ADALORA", "LORA"][..]),
        ("peft_type", json!(null), &["peft_type", "absent"]),
        ("r", json!(0), &["\"r\"", "1 to 65536"]),
        ("r", json!(1 << 17), &["\"r\"", "1 to 65536"]),
        ("r", json!(-1), &["\"r\"", "-1"]),
        ("r", json!(8), &["has not the rank 8", "adapter_config.json"]),
        ("lora_alpha", json!("nan"), &["lora_alpha", "nan"]),
        ("lora_alpha", json!(0), &["lora_alpha", "from 1e-30"]),
        ("lora_alpha", json!(1e300), &["lora_alpha", "to 1e30"]),
        ("rank_pattern", json!({ "q_proj": 0 }), &["rank_pattern.q_proj", "1 to 65536"]),
        ("rank_pattern", json!({ "q_proj": 3 }), &["q_proj", "has not the rank 3"]),
        ("alpha_pattern", json!({ "q_proj": "x" }), &["alpha_pattern.q_proj", "a number"]),
        ("alpha_pattern", json!({ "q_proj": -1e300 }), &["alpha_pattern.q_proj", "below 1e30"]),
        ("alpha_pattern", json!({ "(": 1 }), &["alpha_pattern", "regular expressions"]),
        ("alpha_pattern", json!({ "(a{999}){999}": 1 }), &["alpha_pattern", "regular expressions"]),
        ("use_dora", json!(true), &["lora_A", "no lora_magnitude_vector"]),
        ("lora_bias", json!(true), &["lora_bias"]),
        ("layer_replication", json!([[0, 1]]), &["layer_replication"]),
        ("alora_invocation_tokens", json!([1]), &["alora_invocation_tokens", "always active"]),
    ] {
        let error = failure(|made| made.config[key] = value.clone());
        assert_says(&error, parts);
    }
}

#[test]
fn tensors_that_do_not_fit_are_named() {
    let q = "model.layers.0.self_attn.q_proj";
    let error = failure(|made| made.remove(&format!("{q}.lora_B.weight")));
    assert_says(&error, &[q, "lora_A", "no lora_B"]);
    let error = failure(|made| made.remove(&format!("{q}.lora_A.weight")));
    assert_says(&error, &[q, "lora_B", "no lora_A"]);

    let error = failure(|made| made.set(&format!("{q}.lora_A.weight"), tensor(1, &[4, 64])));
    assert_says(&error, &[q, "[4, 64], expected [4, 32]", "q_proj.weight", "[32, 32]"]);
    let error = failure(|made| made.set(&format!("{q}.lora_A.weight"), tensor(1, &[128])));
    assert_says(&error, &[q, "has not the rank 4"]);

    let error = failure(|made| {
        made.set("model.layers.2.self_attn.q_proj.lora_A.weight", tensor(1, &[4, 32]));
    });
    assert_says(&error, &["no \"model.layers.2.self_attn.q_proj\"", "the nearest is"]);
    let error = failure(|made| {
        made.set("model.layers.0.input_layernorm.lora_A.weight", tensor(1, &[4, 32]));
    });
    assert_says(&error, &["input_layernorm", "no lora_B"]);
    let error = failure(|made| made.set(&format!("{q}.bias"), tensor(1, &[32])));
    assert_says(&error, &["no \"model.layers.0.self_attn.q_proj.bias\""]);
    let error =
        failure(|made| made.set(&format!("{q}.lora_A.default.weight"), tensor(1, &[4, 32])));
    assert_says(&error, &["lora_A.default.weight", "same part"]);
    let error = failure(|made| made.set(&format!("{q}.lora_B.bias"), tensor(1, &[32])));
    assert_says(&error, &["lora_B.bias", "no part of a LoRA adapter"]);
    let error = failure(|made| made.tensors.clear());
    let is_empty =
        |e: &Error| matches!(e, Error::Lora { problem, .. } if **problem == LoraError::Empty);
    assert!(is_empty(&error), "{error}");
    for matrix in MATRICES {
        let magnitude = format!("model.layers.1.{matrix}.lora_magnitude_vector");
        let error = failure(|made| made.set(&magnitude, tensor(1, &[32])));
        assert_says(&error, &[&magnitude, "use_dora"]);
    }
}

#[test]
fn a_base_that_contradicts_its_configuration_is_found_though_merged() {
    let adapter = written(&Made::new(1));
    let mut tiny = Tiny::new();
    let wide = tensor(1, &[EMBEDDING, 2 * EMBEDDING]);
    tiny.tensors.insert("model.layers.0.self_attn.q_proj.weight".to_owned(), wide);
    let base = tempfile::tempdir().unwrap();
    tiny.write(base.path());
    let options = merging([(adapter.path(), 1.0)]);
    let error = try_open_and_write(base.path(), &options, &request(Mix::F32)).unwrap_err();
    assert!(matches!(error, Error::Shape { .. }), "{error}");
}

#[test]
fn files_that_are_missing_or_cut_off_are_named() {
    let [base, _] = bases(&Tiny::new());
    let adapter = written(&Made::new(1));
    let options = merging([(adapter.path(), 1.0)]);
    let convert = || try_open_and_write(base.path(), &options, &request(Mix::F32)).unwrap_err();
    let weights = adapter.path().join("adapter_model.safetensors");
    let bytes = fs::read(&weights).unwrap();
    fs::write(&weights, &bytes[..bytes.len() - 1]).unwrap();
    assert_says(&convert(), &["adapter_model.safetensors", "cut off"]);
    // A rank that the file has no room for.
    let text = String::from_utf8_lossy(&bytes).into_owned();
    assert!(text.contains("[4,32]"));
    let at = bytes.windows(6).position(|window| window == b"[4,32]").unwrap();
    let mut huge = bytes.clone();
    huge.splice(at..at + 6, *b"[4000000000000,32]");
    huge[..8]
        .copy_from_slice(&(u64::from_le_bytes(bytes[..8].try_into().unwrap()) + 12).to_le_bytes());
    fs::write(&weights, huge).unwrap();
    assert_says(&convert(), &["adapter_model.safetensors", "4000000000000"]);
    fs::remove_file(&weights).unwrap();
    assert_says(&convert(), &["no adapter_model.safetensors and no adapter_model.bin"]);
    fs::remove_file(adapter.path().join("adapter_config.json")).unwrap();
    assert_says(&convert(), &["adapter_config.json"]);
}

#[test]
fn only_checkpoints_take_adapters() {
    let [base, _] = bases(&Tiny::new());
    let adapter = written(&Made::new(1));
    let options = merging([(adapter.path(), 1.0)]);
    let error = try_open_and_write(adapter.path(), &options, &Request::default()).unwrap_err();
    assert_says(&error, &["an adapter itself", "the folder of a checkpoint"]);
    let file = base.path().join("model.gguf");
    fs::write(&file, converted(base.path(), &Request::default())).unwrap();
    let error = try_open_and_write(&file, &options, &Request::default()).unwrap_err();
    assert_says(&error, &["a file", "the folder of a checkpoint"]);
}
