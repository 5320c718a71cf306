//! The small model in the Meta form, in any number of model-parallel shards.

use std::{fs, path::Path};

use serde_json::json;

use super::{
    pickle::{tensor_of, text, zip},
    tiny::{KEYS, Tensor, Tiny, tokenizer},
};

/// Along which axis the token embedding is cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum EmbeddingCut {
    /// LLaMA 3.
    Rows,
    /// LLaMA 1 and 2.
    Columns,
}

/// Writes `tiny` as Meta would, in `shards` shards.
pub(crate) fn write(tiny: &Tiny, folder: &Path, shards: usize, embedding: EmbeddingCut) {
    write_params(folder);
    for shard in 0..shards {
        let pieces: Vec<(String, Tensor)> = (tiny.tensors.iter())
            .map(|(name, tensor)| {
                let whole = in_meta_order(name, tensor);
                (meta_name(name), piece(name, &whole, shard, shards, embedding))
            })
            .collect();
        let pth = pth(pieces.iter().map(|(name, tensor)| (name.clone(), tensor)), 0);
        fs::write(folder.join(format!("consolidated.{shard:02}.pth")), pth).unwrap();
    }
}

/// Writes `params.json` and the tokenizer.
pub(crate) fn write_params(folder: &Path) {
    let params = json!({ "dim": 32, "n_layers": 2, "n_heads": 4, "n_kv_heads": 2,
        "vocab_size": -1, "norm_eps": 1e-5 });
    fs::write(folder.join("params.json"), params.to_string()).unwrap();
    fs::write(folder.join("tokenizer.model"), tokenizer(16)).unwrap();
}

/// A `.pth` of tensors over one storage each; rows are `gap` numbers apart and the first starts at
/// `gap`.
pub(crate) fn pth<'a>(tensors: impl Iterator<Item = (String, &'a Tensor)>, gap: u64) -> Vec<u8> {
    let mut pickle = b"\x80\x02}(".to_vec();
    let mut storages = Vec::new();
    for (index, (name, tensor)) in tensors.enumerate() {
        let columns = *tensor.shape.last().unwrap();
        let stride = columns + gap;
        let bytes = tensor.bf16();
        let mut storage = vec![0xff; 2 * gap as usize];
        for row in bytes.chunks(2 * columns as usize) {
            storage.extend(row);
            storage.extend(vec![0xff; 2 * gap as usize]);
        }
        let shape: Vec<i32> = tensor.shape.iter().map(|&extent| extent as i32).collect();
        let strides = if shape.len() == 1 { vec![1] } else { vec![stride as i32, 1] };
        pickle.extend(text(&name));
        let elements = storage.len() as i32 / 2;
        pickle.extend(tensor_of(&index.to_string(), gap as i32, &shape, &strides, elements));
        storages.push((format!("model/data/{index}"), storage));
    }
    pickle.extend(b"u.");
    let mut entries = vec![("model/data.pkl", &pickle[..])];
    entries.extend(storages.iter().map(|(name, storage)| (name.as_str(), &storage[..])));
    zip(&entries)
}

/// Meta's name of a tensor in the Hugging Face form.
pub(crate) fn meta_name(name: &str) -> String {
    const NAMES: &[(&str, &str)] = &[
        ("model.embed_tokens", "tok_embeddings"),
        ("model.norm", "norm"),
        ("lm_head", "output"),
        ("model.layers", "layers"),
        ("input_layernorm", "attention_norm"),
        ("post_attention_layernorm", "ffn_norm"),
        ("self_attn.q_proj", "attention.wq"),
        ("self_attn.k_proj", "attention.wk"),
        ("self_attn.v_proj", "attention.wv"),
        ("self_attn.o_proj", "attention.wo"),
        ("mlp.gate_proj", "feed_forward.w1"),
        ("mlp.down_proj", "feed_forward.w2"),
        ("mlp.up_proj", "feed_forward.w3"),
    ];
    NAMES.iter().fold(name.to_owned(), |name, (from, to)| name.replace(from, to))
}

/// Undoes what Hugging Face does to the rows of queries and keys: of each head of eight rows
/// the first four are the even ones.
pub(crate) fn in_meta_order(name: &str, tensor: &Tensor) -> Tensor {
    const HEAD: usize = KEYS as usize / 2;
    if !name.contains("q_proj") && !name.contains("k_proj") {
        return tensor.clone();
    }
    let columns = tensor.shape[1] as usize;
    let heads = tensor.weights.chunks(HEAD * columns);
    let weights = heads.flat_map(|head| {
        let (even, odd) = head.split_at(head.len() / 2);
        even.chunks(columns).zip(odd.chunks(columns)).flat_map(|(even, odd)| [even, odd].concat())
    });
    Tensor { shape: tensor.shape.clone(), weights: weights.collect() }
}

/// What shard `shard` has of a tensor, by its Hugging Face name.
fn piece(name: &str, whole: &Tensor, shard: usize, shards: usize, cut: EmbeddingCut) -> Tensor {
    if whole.shape.len() == 1 {
        return whole.clone();
    }
    let mut shape = whole.shape.clone();
    let by_columns = ["o_proj", "down_proj"].iter().any(|part| name.contains(part))
        || name.contains("embed_tokens") && cut == EmbeddingCut::Columns;
    if !by_columns {
        shape[0] /= shards as u64;
        let count = whole.weights.len() / shards;
        let weights = whole.weights[shard * count..(shard + 1) * count].to_vec();
        return Tensor { shape, weights };
    }
    let columns = shape[1] as usize;
    shape[1] /= shards as u64;
    let width = columns / shards;
    let rows = whole.weights.chunks(columns);
    let weights = rows.flat_map(|row| row[shard * width..(shard + 1) * width].to_vec());
    Tensor { shape, weights: weights.collect() }
}
