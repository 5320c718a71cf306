//! The small model: two blocks, four query heads, two key-value heads, sixteen tokens.

use std::{collections::BTreeMap, fs, path::Path};

use half::bf16;
use serde_json::{Value as Json, json};

use super::{meta, pickle};

pub(crate) const EMBEDDING: u64 = 32;
pub(crate) const FEED_FORWARD: u64 = 64;
pub(crate) const VOCABULARY: u64 = 16;
pub(crate) const KEYS: u64 = 16;
pub(crate) const BLOCKS: u64 = 2;

/// A tensor as published, rows first, in BF16.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Tensor {
    pub(crate) shape: Vec<u64>,
    pub(crate) weights: Vec<f32>,
}

impl Tensor {
    /// Weights that differ from place to place and from tensor to tensor, and are exact in BF16.
    pub(crate) fn new(seed: usize, shape: &[u64]) -> Tensor {
        let count = shape.iter().product::<u64>() as usize;
        let weight = |i: usize| ((i * 7 + seed * 31 + i / 13) % 251) as f32 / 128.0 - 1.0;
        let weights = (0..count).map(|i| bf16::from_f32(weight(i)).to_f32()).collect();
        Tensor { shape: shape.to_vec(), weights }
    }

    pub(crate) fn bf16(&self) -> Vec<u8> {
        self.weights.iter().flat_map(|&weight| bf16::from_f32(weight).to_le_bytes()).collect()
    }
}

/// The model in the Hugging Face form, to be changed and written.
#[derive(Clone, Debug)]
pub(crate) struct Tiny {
    pub(crate) config: Json,
    pub(crate) tensors: BTreeMap<String, Tensor>,
    pub(crate) tokenizer: Vec<u8>,
    pub(crate) others: BTreeMap<&'static str, Json>,
}

impl Tiny {
    pub(crate) fn new() -> Tiny {
        let mut tensors = BTreeMap::new();
        for (seed, (name, shape)) in names_and_shapes().into_iter().enumerate() {
            tensors.insert(name, Tensor::new(seed, &shape));
        }
        let config = json!({
            "architectures": ["LlamaForCausalLM"],
            "hidden_size": EMBEDDING,
            "intermediate_size": FEED_FORWARD,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "num_hidden_layers": BLOCKS,
            "vocab_size": VOCABULARY,
            "rms_norm_eps": 1e-5,
            "max_position_embeddings": 128,
            "bos_token_id": 1,
            "eos_token_id": 2,
        });
        Tiny { config, tensors, tokenizer: tokenizer(16), others: BTreeMap::new() }
    }

    /// The same with experts in each block, two of which a token passes through.
    pub(crate) fn with_experts(count: u64) -> Tiny {
        let mut tiny = Tiny::new();
        tiny.tensors.retain(|name, _| !name.contains(".mlp."));
        for block in 0..BLOCKS {
            let stem = format!("model.layers.{block}.block_sparse_moe");
            let mut add = |name: &str, shape: &[u64]| {
                let seed = 100 + tiny.tensors.len();
                tiny.tensors.insert(format!("{stem}.{name}.weight"), Tensor::new(seed, shape));
            };
            add("gate", &[count, EMBEDDING]);
            for expert in 0..count {
                add(&format!("experts.{expert}.w1"), &[FEED_FORWARD, EMBEDDING]);
                add(&format!("experts.{expert}.w2"), &[EMBEDDING, FEED_FORWARD]);
                add(&format!("experts.{expert}.w3"), &[FEED_FORWARD, EMBEDDING]);
            }
        }
        tiny.config["architectures"] = json!(["MixtralForCausalLM"]);
        tiny.config["num_local_experts"] = json!(count);
        tiny.config["num_experts_per_tok"] = json!(2);
        tiny
    }

    /// Writes one safetensors file.
    pub(crate) fn write(&self, folder: &Path) {
        self.write_all_but_weights(folder);
        fs::write(folder.join("model.safetensors"), safetensors(self.tensors.iter())).unwrap();
    }

    /// Writes two safetensors files with an index; every other tensor goes into the second.
    pub(crate) fn write_sharded(&self, folder: &Path) {
        self.write_all_but_weights(folder);
        self.write_shards(folder, "model", ".safetensors", |tensors| {
            safetensors(tensors.iter().copied())
        });
    }

    /// Writes one `.bin` file.
    pub(crate) fn write_bin(&self, folder: &Path) {
        self.write_all_but_weights(folder);
        let tensors: Vec<_> = self.tensors.iter().collect();
        fs::write(folder.join("pytorch_model.bin"), bin(&tensors)).unwrap();
    }

    /// Writes two `.bin` files with an index.
    pub(crate) fn write_sharded_bin(&self, folder: &Path) {
        self.write_all_but_weights(folder);
        self.write_shards(folder, "pytorch_model", ".bin", bin);
    }

    /// Every other tensor goes into the second of two files.
    fn write_shards(
        &self,
        folder: &Path,
        stem: &str,
        extension: &str,
        file: impl Fn(&[(&String, &Tensor)]) -> Vec<u8>,
    ) {
        let mut weight_map = BTreeMap::new();
        for shard in 0..2 {
            let name = format!("{stem}-{:05}-of-00002{extension}", shard + 1);
            let tensors: Vec<_> = self.tensors.iter().skip(shard).step_by(2).collect();
            for (tensor, _) in &tensors {
                weight_map.insert((*tensor).clone(), name.clone());
            }
            fs::write(folder.join(name), file(&tensors)).unwrap();
        }
        let index = json!({ "metadata": {}, "weight_map": weight_map });
        let name = format!("{stem}{extension}.index.json");
        fs::write(folder.join(name), index.to_string()).unwrap();
    }

    pub(crate) fn write_all_but_weights(&self, folder: &Path) {
        fs::write(folder.join("config.json"), self.config.to_string()).unwrap();
        fs::write(folder.join("tokenizer.model"), &self.tokenizer).unwrap();
        for (name, json) in &self.others {
            fs::write(folder.join(name), json.to_string()).unwrap();
        }
    }
}

fn names_and_shapes() -> Vec<(String, Vec<u64>)> {
    let mut all = vec![
        ("model.embed_tokens.weight".to_owned(), vec![VOCABULARY, EMBEDDING]),
        ("model.norm.weight".to_owned(), vec![EMBEDDING]),
        ("lm_head.weight".to_owned(), vec![VOCABULARY, EMBEDDING]),
    ];
    for block in 0..BLOCKS {
        let mut add = |name: &str, shape: &[u64]| {
            all.push((format!("model.layers.{block}.{name}.weight"), shape.to_vec()));
        };
        add("input_layernorm", &[EMBEDDING]);
        add("self_attn.q_proj", &[EMBEDDING, EMBEDDING]);
        add("self_attn.k_proj", &[KEYS, EMBEDDING]);
        add("self_attn.v_proj", &[KEYS, EMBEDDING]);
        add("self_attn.o_proj", &[EMBEDDING, EMBEDDING]);
        add("post_attention_layernorm", &[EMBEDDING]);
        add("mlp.gate_proj", &[FEED_FORWARD, EMBEDDING]);
        add("mlp.up_proj", &[FEED_FORWARD, EMBEDDING]);
        add("mlp.down_proj", &[EMBEDDING, FEED_FORWARD]);
    }
    all
}

/// The bytes of a `.bin` file of BF16 tensors.
fn bin(tensors: &[(&String, &Tensor)]) -> Vec<u8> {
    meta::pth(tensors.iter().map(|&(name, tensor)| (name.clone(), tensor)), 0)
}

/// The bytes of a safetensors file of BF16 tensors.
pub(crate) fn safetensors<'a>(tensors: impl Iterator<Item = (&'a String, &'a Tensor)>) -> Vec<u8> {
    let mut header = serde_json::Map::new();
    let mut data = Vec::new();
    for (name, tensor) in tensors {
        let start = data.len();
        data.extend(tensor.bf16());
        let entry =
            json!({ "dtype": "BF16", "shape": tensor.shape, "data_offsets": [start, data.len()] });
        header.insert(name.clone(), entry);
    }
    with_header(&Json::Object(header).to_string(), &data)
}

/// A safetensors file of that header and data.
pub(crate) fn with_header(header: &str, data: &[u8]) -> Vec<u8> {
    let mut file = (header.len() as u64).to_le_bytes().to_vec();
    file.extend(header.as_bytes());
    file.extend(data);
    file
}

/// A SentencePiece model of `count` pieces: unknown, BOS, EOS, then single letters.
pub(crate) fn tokenizer(count: u8) -> Vec<u8> {
    let letters: Vec<String> = (3..count).map(|id| char::from(b'a' + id - 3).to_string()).collect();
    let special = ["<unk>", "<s>", "</s>"].into_iter();
    let pieces: Vec<&str> = special.chain(letters.iter().map(String::as_str)).collect();
    named_tokenizer(&pieces)
}

/// A SentencePiece model of those pieces, of which the first three are unknown, BOS and EOS.
pub(crate) fn named_tokenizer(pieces: &[&str]) -> Vec<u8> {
    let mut model = Vec::new();
    for (id, text) in pieces.iter().enumerate() {
        let kind = match id {
            0 => 2,
            1 | 2 => 3,
            _ => 1,
        };
        let mut piece = vec![0x0a, text.len() as u8];
        piece.extend(text.bytes());
        piece.push(0x15);
        piece.extend((-(id as f32)).to_le_bytes());
        piece.extend([0x18, kind]);
        model.extend([0x0a, piece.len() as u8]);
        model.extend(piece);
    }
    // trainer_spec.model_type = BPE
    model.extend([0x12, 2, 0x18, 2]);
    model
}

/// Writes `params.json`, the tokenizer and one `.pth` of the bytes given.
pub(crate) fn write_meta(folder: &Path, pth: &[u8]) {
    meta::write_params(folder);
    fs::write(folder.join("consolidated.00.pth"), pth).unwrap();
}

/// A `.pth` of one tensor, which no model is complete with.
pub(crate) fn lonely_pth() -> Vec<u8> {
    pickle::archive(&pickle::state_dict("norm.weight", &pickle::tensor(0, &[4], &[1], 4)), &[0; 8])
}
