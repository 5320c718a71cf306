//! Legacy GGML files, written field by field.

use std::{fs, path::Path};

use half::f16;
use llq_gguf::{Array, Model, Value};

use super::{
    meta::{self, EmbeddingCut},
    tiny::{BLOCKS, EMBEDDING, Tiny, VOCABULARY},
};

/// Magic as it lies in the file, and version.
pub(crate) type Container = (&'static [u8; 4], Option<u32>);

pub(crate) const GGML: Container = (b"lmgg", None);
pub(crate) const GGMF: Container = (b"fmgg", Some(1));
pub(crate) const GGJT_1: Container = (b"tjgg", Some(1));
pub(crate) const GGJT_2: Container = (b"tjgg", Some(2));
pub(crate) const GGJT_3: Container = (b"tjgg", Some(3));

/// A file to be changed and written.
#[derive(Clone)]
pub(crate) struct Ggml {
    pub(crate) container: Container,
    /// Vocabulary, width, multiple_of, heads, layers, rotated, file type.
    pub(crate) numbers: [u32; 7],
    pub(crate) pieces: Vec<(Vec<u8>, f32)>,
    pub(crate) tensors: Vec<Record>,
}

#[derive(Clone)]
pub(crate) struct Record {
    pub(crate) name: String,
    /// Columns first, as in the file.
    pub(crate) shape: Vec<u32>,
    pub(crate) id: u32,
    pub(crate) data: Vec<u8>,
}

impl Ggml {
    /// The small model with matrices in F16.
    pub(crate) fn tiny(container: Container) -> Ggml {
        Self::tiny_part(container, 0, 1)
    }

    /// What is in one part of the small model.
    pub(crate) fn tiny_part(container: Container, part: usize, parts: usize) -> Ggml {
        let tensors = Tiny::new().tensors.into_iter().map(|(name, tensor)| {
            let whole = meta::in_meta_order(&name, &tensor);
            let piece = meta::piece(&name, &whole, part, parts, EmbeddingCut::Columns);
            let shape: Vec<u32> = piece.shape.iter().rev().map(|&extent| extent as u32).collect();
            let is_matrix = shape.len() > 1;
            let data = piece.weights.iter().flat_map(|&weight| match is_matrix {
                true => f16::from_f32(weight).to_le_bytes().to_vec(),
                false => weight.to_le_bytes().to_vec(),
            });
            Record {
                name: meta::meta_name(&name),
                id: is_matrix.into(),
                data: data.collect(),
                shape,
            }
        });
        let mut tensors: Vec<Record> = tensors.collect();
        // Meta's files start with the embedding.
        tensors.sort_by_key(|tensor| tensor.name != "tok_embeddings.weight");
        let mut pieces = vec![(" ⁇ ".into(), 0.0), (Vec::new(), 0.0), (Vec::new(), 0.0)];
        pieces.extend((3..VOCABULARY).map(|id| (format!(" token{id}").into(), -(id as f32))));
        let (vocabulary, width, blocks) = (VOCABULARY as u32, EMBEDDING as u32, BLOCKS as u32);
        let numbers = [vocabulary, width, 32, 4, blocks, width / 4, 1];
        Ggml { container, numbers, pieces, tensors }
    }

    /// A GGUF model of the same layouts in the container that has them.
    pub(crate) fn of(model: &Model, file_type: u32) -> Ggml {
        let metadata = model.metadata();
        let count = |key: &str| metadata.count(&format!("llama.{key}")).unwrap() as u32;
        let (vocabulary, width) = (count("vocab_size"), count("embedding_length"));
        let (heads, layers) = (count("attention.head_count"), count("block_count"));
        let tensors = model.tensors().iter().map(|tensor| Record {
            name: meta_name(&tensor.name),
            shape: tensor.shape.iter().map(|&extent| extent as u32).collect(),
            id: tensor.tensor_type.id(),
            data: model.data(tensor).to_vec(),
        });
        Ggml {
            container: GGJT_3,
            numbers: [vocabulary, width, 256, heads, layers, width / heads, file_type],
            pieces: pieces(model),
            tensors: tensors.collect(),
        }
    }

    pub(crate) fn tensor(&mut self, name: &str) -> &mut Record {
        self.tensors.iter_mut().find(|tensor| tensor.name == name).unwrap()
    }

    pub(crate) fn write(&self, path: &Path) {
        fs::write(path, self.bytes()).unwrap();
    }

    pub(crate) fn bytes(&self) -> Vec<u8> {
        self.bytes_and_starts().0
    }

    /// The file, and where each field starts up to the data of the first tensor.
    pub(crate) fn bytes_and_starts(&self) -> (Vec<u8>, Vec<usize>) {
        let (magic, version) = self.container;
        let mut file = magic.to_vec();
        let mut starts = vec![0, 4];
        file.extend(version.into_iter().flat_map(u32::to_le_bytes));
        let mut field = |file: &mut Vec<u8>, bytes: &[u8]| {
            starts.push(file.len());
            file.extend(bytes);
        };
        self.numbers.iter().for_each(|number| field(&mut file, &number.to_le_bytes()));
        for (text, score) in &self.pieces {
            field(&mut file, &(text.len() as u32).to_le_bytes());
            field(&mut file, text);
            if version.is_some() {
                field(&mut file, &score.to_le_bytes());
            }
        }
        for tensor in &self.tensors {
            let lengths = [tensor.shape.len() as u32, tensor.name.len() as u32, tensor.id];
            lengths.iter().for_each(|number| field(&mut file, &number.to_le_bytes()));
            tensor.shape.iter().for_each(|number| field(&mut file, &number.to_le_bytes()));
            field(&mut file, tensor.name.as_bytes());
            if magic == b"tjgg" {
                file.resize(file.len().next_multiple_of(32), 0);
            }
            field(&mut file, &tensor.data);
        }
        (file, starts)
    }
}

/// The texts of a SentencePiece vocabulary as the converters of 2023 wrote them.
fn pieces(model: &Model) -> Vec<(Vec<u8>, f32)> {
    let array = |key: &str| model.metadata().get(&format!("tokenizer.ggml.{key}"));
    let Some(Value::Array(Array::String(texts))) = array("tokens") else { panic!() };
    let Some(Value::Array(Array::F32(scores))) = array("scores") else { panic!() };
    let Some(Value::Array(Array::I32(kinds))) = array("token_type") else { panic!() };
    let text = |(text, kind): (&str, &i32)| match kind {
        2 => " ⁇ ".into(),
        3 => Vec::new(),
        6 => vec![u8::from_str_radix(&text[3..5], 16).unwrap()],
        _ => text.replace('▁', " ").into_bytes(),
    };
    texts.iter().zip(kinds).map(text).zip(scores.iter().copied()).collect()
}

fn meta_name(name: &str) -> String {
    const NAMES: &[(&str, &str)] = &[
        ("token_embd", "tok_embeddings"),
        ("output_norm", "norm"),
        ("blk.", "layers."),
        ("attn_norm", "attention_norm"),
        ("attn_q", "attention.wq"),
        ("attn_k", "attention.wk"),
        ("attn_v", "attention.wv"),
        ("attn_output", "attention.wo"),
        ("ffn_gate", "feed_forward.w1"),
        ("ffn_down", "feed_forward.w2"),
        ("ffn_up", "feed_forward.w3"),
    ];
    NAMES.iter().fold(name.to_owned(), |name, (from, to)| name.replace(from, to))
}
