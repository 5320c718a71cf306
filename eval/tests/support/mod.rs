//! The models and texts that the tests evaluate.

#![allow(dead_code)] // each test file uses its part
#![allow(clippy::unwrap_used)] // a broken fixture is a failed test

pub(crate) mod llama_3;

use std::{collections::BTreeMap, fs, path::Path};

use llq_eval::{Corpus, Options, Tokenizer};
use llq_fixtures::{fixture, shared};
use llq_gguf::{Layout, Metadata, Model, StreamWriter, TensorSpec, TensorType};
use llq_quant::{Encoding, format};
use safetensors::SafeTensors;

/// A file of the golden tool.
pub(crate) fn golden(name: &str) -> Option<Model> {
    Some(Model::open(&shared(&format!("golden/gguf/{name}.gguf"))?).unwrap())
}

/// The fixture model with matrices of this type, with the metadata of the golden files.
pub(crate) fn tiny_llama(tensor_type: TensorType) -> Option<Model> {
    Some(model(golden("q4_0")?.metadata(), &tensors(tensor_type)))
}

/// A model in memory.
pub(crate) fn model(metadata: &Metadata, tensors: &[(TensorSpec, Vec<u8>)]) -> Model {
    let specs = tensors.iter().map(|(spec, _)| spec.clone()).collect();
    let layout = Layout::plan(metadata, specs).unwrap();
    let mut writer = StreamWriter::new(layout, Vec::new()).unwrap();
    for (_, bytes) in tensors {
        writer.write(bytes).unwrap();
    }
    Model::from_bytes(writer.finish().unwrap()).unwrap()
}

/// The fixture's tensors as a GGUF file has them, matrices in this type.
pub(crate) fn tensors(tensor_type: TensorType) -> Vec<(TensorSpec, Vec<u8>)> {
    let path = fixture("tiny-llama-2/hf/model.safetensors");
    hugging_face_tensors(&path, Heads { query: 8, key: 4 }, tensor_type)
}

/// Heads of the attention's matrices whose rows GGUF orders otherwise.
#[derive(Clone, Copy)]
pub(crate) struct Heads {
    pub(crate) query: usize,
    pub(crate) key: usize,
}

/// The tensors of a BF16 file as GGUF has them, by name, matrices in this type.
pub(crate) fn hugging_face_tensors(
    path: &Path,
    heads: Heads,
    tensor_type: TensorType,
) -> Vec<(TensorSpec, Vec<u8>)> {
    let bytes = fs::read(path).unwrap();
    let file = SafeTensors::deserialize(&bytes).unwrap();
    let names: BTreeMap<String, String> =
        file.names().into_iter().map(|name| (gguf_name(name), name.to_owned())).collect();
    names
        .into_iter()
        .map(|(gguf_name, name)| {
            let tensor = file.tensor(&name).unwrap();
            let mut weights: Vec<f32> = (tensor.data().chunks_exact(2))
                .map(|b| f32::from_bits(u32::from(u16::from_le_bytes([b[0], b[1]])) << 16))
                .collect();
            let shape: Vec<u64> =
                tensor.shape().iter().rev().map(|&extent| extent as u64).collect();
            let interleaved = match gguf_name.rsplit('.').nth(1) {
                Some("attn_q") => Some(heads.query),
                Some("attn_k") => Some(heads.key),
                _ => None,
            };
            if let Some(heads) = interleaved {
                weights = interleave_halves(&weights, heads, shape[0] as usize);
            }
            let tensor_type = if shape.len() == 1 { TensorType::F32 } else { tensor_type };
            let data = encode(&weights, shape[0] as usize, tensor_type);
            (TensorSpec { name: gguf_name, shape, tensor_type }, data)
        })
        .collect()
}

pub(crate) fn encode(weights: &[f32], cols: usize, tensor_type: TensorType) -> Vec<u8> {
    let format = format(tensor_type).unwrap();
    let row_bytes = tensor_type.row_bytes(cols as u64).unwrap() as usize;
    let mut bytes = vec![0; weights.len() / cols * row_bytes];
    for (row, out) in weights.chunks_exact(cols).zip(bytes.chunks_exact_mut(row_bytes)) {
        format.encode_row(row, Encoding::default(), out).unwrap();
    }
    bytes
}

fn gguf_name(name: &str) -> String {
    [
        ("model.layers.", "blk."),
        ("self_attn.q_proj", "attn_q"),
        ("self_attn.k_proj", "attn_k"),
        ("self_attn.v_proj", "attn_v"),
        ("self_attn.o_proj", "attn_output"),
        ("post_attention_layernorm", "ffn_norm"),
        ("input_layernorm", "attn_norm"),
        ("mlp.gate_proj", "ffn_gate"),
        ("mlp.up_proj", "ffn_up"),
        ("mlp.down_proj", "ffn_down"),
        ("model.embed_tokens", "token_embd"),
        ("model.norm", "output_norm"),
        ("lm_head", "output"),
    ]
    .iter()
    .fold(name.to_owned(), |name, (from, to)| name.replace(from, to))
}

/// Hugging Face rotates the halves of a head, GGUF neighbouring rows.
fn interleave_halves(weights: &[f32], heads: usize, cols: usize) -> Vec<f32> {
    let half = weights.len() / cols / heads / 2;
    let mut rows: Vec<&[f32]> = Vec::new();
    for head in weights.chunks_exact(2 * half * cols) {
        let (first, second) = head.split_at(half * cols);
        for pair in first.chunks_exact(cols).zip(second.chunks_exact(cols)) {
            rows.extend([pair.0, pair.1]);
        }
    }
    rows.concat()
}

/// `holmes` or `sampled`, tokenized with the model's vocabulary.
pub(crate) fn corpus(model: &Model, name: &str) -> Option<Corpus> {
    let path = match name {
        "sampled" => fixture("sampled.txt"),
        _ => shared(&format!("corpus/{name}.txt"))?,
    };
    Some(tokenize(model, &path))
}

fn tokenize(model: &Model, path: &Path) -> Corpus {
    let tokenizer = Tokenizer::from_metadata(model.metadata()).unwrap();
    Corpus::tokenize(&tokenizer, &fs::read_to_string(path).unwrap())
}

/// The first `chunks` windows.
pub(crate) fn options(mode: llq_eval::Mode, chunks: usize) -> Options {
    Options { mode, chunks: Some(chunks), ..Options::default() }
}
