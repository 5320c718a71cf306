//! What fuzzing starts from: a small sound input of each kind, and some that are nearly so.

use half::f16;
use llq_convert::{Entry, Imatrix, ImatrixFormat, Overwrite, Plan, Silent, open, write};
use llq_eval::{Llama, Tokenizer, save_logits};
use llq_gguf::{Array, Metadata, Model, TensorSpec, TensorType, Value, to_bytes};
use llq_quant::mix::Mix;
use serde_json::json;

use crate::{
    checkpoints::{MODEL, gguf, tiny},
    entries::{OF_TEXT, SEAM, Unheard, text},
    support::{
        ggml::{GGJT_1, GGJT_2, GGJT_3, GGMF, GGML, Ggml},
        lora::Made,
        pickle,
        tiny::{Tiny, lonely_pth, safetensors, tokenizer},
    },
};

/// Target, name and bytes of every seed.
pub fn all() -> Vec<(&'static str, String, Vec<u8>)> {
    let mut seeds = Vec::new();
    let mut add = |target, name: &str, bytes: Vec<u8>| seeds.push((target, name.to_owned(), bytes));
    let model = gguf(Mix::Q4_0);
    for (name, file) in gguf_files(&model) {
        add("gguf_header", &name, file.clone());
        add("gguf_evaluate", &name, file.clone());
        for choice in [0u8, 2, 10, 16] {
            add("gguf_quantize", &format!("{name}-{choice}"), [&[choice], &file[..]].concat());
        }
    }
    add("llamafile", "archive", archive("model.gguf", &model));
    add("llamafile", "program", behind_program(archive("model.gguf", &model)));
    add("llamafile", "two", pickle::zip(&[("a.gguf", &model), ("mmproj.gguf", &model)]));
    add("llamafile", "empty", pickle::zip(&[]));

    let weights = weights();
    let data = weights.len() - 8 - u64::from_le_bytes(weights[..8].try_into().unwrap()) as usize;
    let pad = [(data >> 8) as u8, data as u8];
    let header = &weights[..weights.len() - data];
    add("safetensors", "plain", [&pad, SEAM, SEAM, header].concat());
    let map: serde_json::Map<_, _> = tiny()
        .tensors
        .keys()
        .map(|name| (name.clone(), json!("model-00001-of-00001.safetensors")))
        .collect();
    let index = json!({ "metadata": { "total_size": data }, "weight_map": map }).to_string();
    add("safetensors", "index", [&pad, SEAM, index.as_bytes(), SEAM, header].concat());
    add("safetensors", "lfs", b"version https://git-lfs.github.com/spec/v1\n".to_vec());

    add("torch", "model", pth());
    add("torch", "lonely", lonely_pth());
    add(
        "torch",
        "fp8",
        pickle::archive(&pickle::state_dict("w", &pickle::fp8_tensor("0", [2, 4])), &[0; 8]),
    );
    add("torch", "call", pickle::archive(b"\x80\x02cos\nsystem\nX\x02\0\0\0ls\x85R.", &[]));
    add("torch", "legacy", b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.\x80\x02M\xe9\x03.".to_vec());

    add("sentencepiece", "letters", tokenizer(16));
    add("sentencepiece", "more", tokenizer(40));
    add("tiktoken", "bytes", tiktoken(&[]));
    add("tiktoken", "merges", tiktoken(&["YWI=", "YmM=", "YWJj", "YWJjZA=="]));
    for (name, tokenizer) in [("byte-level", byte_level()), ("byte-fallback", byte_fallback())] {
        let settings = json!({ "bos_token": "<s>", "eos_token": { "content": "</s>" },
            "add_bos_token": true, "chat_template": "{{ messages }}",
            "added_tokens_decoder": { "15": { "content": "<x>", "special": true } } });
        let special = json!({ "unk_token": "<unk>" });
        let parts = [settings.to_string(), special.to_string(), tokenizer.to_string()];
        let seam = str::from_utf8(SEAM).unwrap_or_default();
        add("tokenizer_json", name, parts.join(seam).into());
    }

    let config = tiny().config.to_string();
    let card = b"---\nlicense: mit\nbase_model: [a/b]\ntags:\n- x\ndatasets: c\n---\n# Model\n";
    let generation = b"{\"temperature\": 0.6, \"do_sample\": true}";
    add("config", "hugging-face", [generation, SEAM, card, SEAM, config.as_bytes()].concat());
    let mut scaled = tiny().config;
    scaled["rope_scaling"] = json!({ "rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0,
        "high_freq_factor": 4.0, "original_max_position_embeddings": 64 });
    add("config", "scaled", [SEAM, SEAM, scaled.to_string().as_bytes()].concat());
    let params = json!({ "dim": 32, "n_layers": 1, "n_heads": 4, "n_kv_heads": 2, "vocab_size": -1,
        "norm_eps": 1e-5, "multiple_of": 32, "ffn_dim_multiplier": 1.3 });
    add("config", "meta", [b"meta", SEAM, SEAM, params.to_string().as_bytes()].concat());

    let made = Made::new(1);
    let adapter = safetensors(made.tensors.iter().filter(|(name, _)| !name.contains("layers.1.")));
    add("adapter", "weights", [SEAM, SEAM, &adapter].concat());
    let settings = made.config.to_string();
    add("adapter", "settings", [settings.as_bytes(), SEAM, SEAM, &adapter].concat());

    for (name, container) in
        [("ggml", GGML), ("ggmf", GGMF), ("ggjt1", GGJT_1), ("ggjt2", GGJT_2), ("ggjt3", GGJT_3)]
    {
        for id in [1, 2] {
            add("ggml", &format!("{name}-{id}"), one_block(container, id).bytes());
        }
    }

    for format in [ImatrixFormat::Gguf, ImatrixFormat::Dat] {
        add("imatrix", &format!("{format:?}").to_lowercase(), importance(format));
    }

    add(
        "recipe",
        "all",
        br#"type = "q4_k_m"
[tensors]
"output.weight" = "q6_k"
[[patterns]]
find = 'attn_[qv]\.weight$|(?=ffn)(a+)+\1'
type = "q5_1"
"#
        .to_vec(),
    );
    add("recipe", "mix", b"type = \"Q8_0\"\n".to_vec());

    let head = [3u32, 16, 1].iter().flat_map(|number| number.to_le_bytes());
    let mut logits = b"_logits_".to_vec();
    logits.extend(head);
    logits[8] = 8;
    logits.extend((0..8u32).flat_map(u32::to_le_bytes));
    logits.resize(logits.len() + 3 * 2 * (16 + 4), 0);
    add("logits", "window", logits);
    add("logits", "sound", sound_logits());
    seeds
}

fn gguf_files(model: &[u8]) -> Vec<(String, Vec<u8>)> {
    let mut files = vec![("model".to_owned(), model.to_vec())];
    let mut metadata = Metadata::new();
    metadata.set("general.architecture", "llama");
    metadata.set("general.alignment", 64u32);
    for (key, value) in [
        ("u8", Value::U8(1)),
        ("i64", Value::I64(-1)),
        ("f64", Value::F64(0.5)),
        ("flag", Value::Bool(true)),
        ("words", Value::Array(Array::String(["a", "", "été"].into_iter().collect()))),
        ("halves", Value::Array(Array::U16(vec![1, 2, 3]))),
    ] {
        metadata.set(key, value);
    }
    let of = |name: &str, tensor_type: TensorType| {
        let spec = TensorSpec::new(name, [256, 1], tensor_type);
        let bytes = tensor_type.row_bytes(256).unwrap() as usize;
        (spec, vec![0x11; bytes])
    };
    use TensorType::{BF16, F16, F32, Q2_K, Q3_K, Q4_1, Q4_K, Q5_0, Q5_1, Q5_K, Q6_K, Q8_0};
    let plain = [("output.weight", F32), ("a.weight", F16), ("b.weight", BF16)];
    let legacy = [("a.weight", Q8_0), ("b.weight", Q4_1), ("c.weight", Q5_0), ("d.weight", Q5_1)];
    let k = [("a.weight", Q6_K), ("b", Q5_K), ("c", Q4_K), ("d", Q3_K), ("e", Q2_K)];
    for (name, tensors) in [("plain", &plain[..]), ("legacy", &legacy), ("k", &k), ("none", &[])] {
        let tensors = tensors.iter().map(|&(name, tensor_type)| of(name, tensor_type));
        files.push((name.to_owned(), to_bytes(&metadata, tensors).unwrap()));
    }
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("plain.gguf");
    std::fs::write(&path, &files[1].1).unwrap();
    let source = open(&path).unwrap();
    let request = llq_convert::Request { endian: llq_gguf::Endian::Big, ..Default::default() };
    let plan = Plan::new(&*source, &request).unwrap();
    let target = folder.path().join("big.gguf");
    write(&*source, &plan, &target, Overwrite::Forbid, &Silent).unwrap();
    files.push(("big".to_owned(), std::fs::read(target).unwrap()));
    files
}

fn archive(name: &str, file: &[u8]) -> Vec<u8> {
    pickle::zip(&[(".args", b"-m"), (name, file)])
}

/// What the small model itself predicts.
fn sound_logits() -> Vec<u8> {
    let model = Model::from_bytes(MODEL.clone()).unwrap();
    let llama = Llama::load(&model).unwrap();
    let corpus = text(&Tokenizer::from_metadata(model.metadata()).unwrap());
    let mut logits = Vec::new();
    save_logits(&llama, &corpus, &OF_TEXT, &mut logits, &Unheard).unwrap();
    logits
}

/// The archive with a program in front, which its places count from.
fn behind_program(mut archive: Vec<u8>) -> Vec<u8> {
    const PROGRAM: &[u8] = b"\x7fELF";
    let mut add = |record: &[u8], field: usize| {
        for at in 0..archive.len() - record.len() {
            if archive[at..].starts_with(record) {
                let place = archive[at + field..].first_chunk_mut().unwrap();
                *place = (u32::from_le_bytes(*place) + PROGRAM.len() as u32).to_le_bytes();
            }
        }
    };
    add(b"PK\x01\x02", 42);
    add(b"PK\x05\x06", 16);
    [PROGRAM, &archive].concat()
}

/// The small model in safetensors, with zeros for weights.
fn weights() -> Vec<u8> {
    let mut tensors = tiny().tensors;
    tensors.values_mut().for_each(|tensor| tensor.weights.fill(0.0));
    safetensors(tensors.iter())
}

/// The small model of tensors that all lie in one storage.
fn pth() -> Vec<u8> {
    let Tiny { tensors, .. } = tiny();
    let mut pickle = b"\x80\x02}(".to_vec();
    for (name, tensor) in &tensors {
        let shape: Vec<i32> = tensor.shape.iter().map(|&extent| extent as i32).collect();
        let stride = if shape.len() == 1 { vec![1] } else { vec![shape[1], 1] };
        pickle.extend(pickle::text(name));
        pickle.extend(pickle::tensor(0, &shape, &stride, 64 * 32));
    }
    pickle.extend(b"u.");
    pickle::archive(&pickle, &[0; 64 * 32 * 2])
}

/// Every byte, then `more`, in Base64.
fn tiktoken(more: &[&str]) -> Vec<u8> {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let digit = |value: u16| char::from(DIGITS[usize::from(value)]);
    let bytes = (0..256).map(|byte| format!("{}{}==", digit(byte >> 2), digit((byte & 3) << 4)));
    let tokens = bytes.chain(more.iter().map(|&token| token.to_owned()));
    tokens.enumerate().map(|(rank, token)| format!("{token} {rank}\n")).collect::<String>().into()
}

fn byte_level() -> serde_json::Value {
    let split = json!({ "type": "Split", "pattern": { "Regex": "\\p{N}{1,3}| ?\\p{L}+" },
        "behavior": "Isolated", "invert": false });
    json!({
        "added_tokens": [{ "id": 9, "content": "<s>", "special": true }],
        "normalizer": null,
        "pre_tokenizer": { "type": "Sequence", "pretokenizers":
            [split, { "type": "ByteLevel", "add_prefix_space": false, "use_regex": false }] },
        "post_processor": { "type": "TemplateProcessing", "pair": [],
            "single": [{ "SpecialToken": { "id": "<s>" } }, { "Sequence": { "id": "A" } }] },
        "model": { "type": "BPE", "ignore_merges": true, "merges": ["a b", "ab c", "Ġ a"],
            "vocab": { "a": 0, "b": 1, "c": 2, "ab": 3, "abc": 4, "Ġ": 5, "Ġa": 6 } },
    })
}

fn byte_fallback() -> serde_json::Value {
    json!({
        "added_tokens": [
            { "id": 0, "content": "<unk>", "special": true },
            { "id": 1, "content": "<s>", "special": true },
        ],
        "normalizer": { "type": "Sequence", "normalizers": [
            { "type": "Prepend", "prepend": "▁" },
            { "type": "Replace", "pattern": { "String": " " }, "content": "▁" } ] },
        "decoder": null,
        "model": { "type": "BPE", "byte_fallback": true, "unk_token": "<unk>", "fuse_unk": true,
            "vocab": { "<unk>": 0, "<s>": 1, "</s>": 2, "<0x00>": 3, "a": 4, "b": 5, "ab": 6 },
            "merges": [["a", "b"]] },
    })
}

/// The small model with one block, its matrices of zeros in the type of that number.
fn one_block(container: (&'static [u8; 4], Option<u32>), id: u32) -> Ggml {
    let mut ggml = Ggml::tiny(container);
    ggml.numbers[4] = 1;
    ggml.numbers[6] = id;
    ggml.tensors.retain(|tensor| !tensor.name.contains("layers.1."));
    for tensor in ggml.tensors.iter_mut().filter(|tensor| tensor.shape.len() > 1) {
        let weights = tensor.shape.iter().product::<u32>() as usize;
        tensor.id = id;
        tensor.data = match (id, container) {
            (1, _) => f16::ONE.to_le_bytes().repeat(weights),
            (_, (b"tjgg", Some(3))) => vec![0x22; weights / 32 * 18],
            _ => vec![0x22; weights / 32 * 20],
        };
    }
    ggml
}

fn importance(format: ImatrixFormat) -> Vec<u8> {
    let mut imatrix = Imatrix::new(vec!["text.txt".to_owned()], 2, 512);
    for name in ["attn_q", "attn_k", "ffn_up"] {
        let name = format!("blk.0.{name}.weight");
        imatrix.add(&name, Entry::new(&name, vec![1.5; 32], vec![1024.0]).unwrap()).unwrap();
    }
    let experts = Entry::new("x", vec![1.0; 64], vec![512.0, 0.0]).unwrap();
    imatrix.add("blk.0.ffn_up_exps.weight", experts).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("importance");
    imatrix.write(&path, format, Overwrite::Forbid).unwrap();
    std::fs::read(path).unwrap()
}
