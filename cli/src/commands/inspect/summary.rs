//! What a person wants to know of a model first.

use std::{fmt, path::Path};

use llq_gguf::{Endian, Model};
use llq_quant::mix::Mix;
use serde::Serialize;

use crate::{
    escape::Escaped,
    figures::{Bytes, Count, Parameters, bits_per_weight},
    table::pairs,
};

/// The facts, each where the file says it.
#[derive(Serialize)]
pub(super) struct Summary<'a> {
    path: String,
    /// Where the file is an archive.
    #[serde(skip_serializing_if = "Option::is_none")]
    entry: Option<&'a str>,
    name: Option<&'a str>,
    architecture: Option<&'a str>,
    file_type: Option<&'static str>,
    parameters: u64,
    bits_per_weight: f64,
    file_bytes: u64,
    gguf_version: u32,
    endian: &'static str,
    alignment: u64,
    tensor_count: usize,
    metadata_count: usize,
    context_length: Option<u64>,
    block_count: Option<u64>,
    embedding_length: Option<u64>,
    feed_forward_length: Option<u64>,
    head_count: Option<u64>,
    head_count_kv: Option<u64>,
    tokenizer: Option<&'a str>,
    vocabulary_size: Option<usize>,
}

impl<'a> Summary<'a> {
    /// `path` is the model as the user named it.
    pub(super) fn of(model: &'a Model, path: &Path) -> Summary<'a> {
        let (metadata, header) = (model.metadata(), model.header());
        let architecture = metadata.string("general.architecture").ok();
        let count = |key: &str| metadata.count(&format!("{}.{key}", architecture?)).ok();
        let file_type = metadata.count("general.file_type").ok();
        let weights = model.tensors().iter().map(|t| t.weights()).fold(0, u64::saturating_add);
        let bytes = model.tensors().iter().map(|t| t.bytes).fold(0, u64::saturating_add);
        Summary {
            path: path.display().to_string(),
            entry: model.entry(),
            name: metadata.string("general.name").ok(),
            architecture,
            file_type: file_type.and_then(file_type_name),
            parameters: weights,
            bits_per_weight: bits_per_weight(bytes, weights),
            file_bytes: model.file_bytes(),
            gguf_version: header.version,
            endian: match model.endian() {
                Endian::Little => "little",
                Endian::Big => "big",
            },
            alignment: header.alignment,
            tensor_count: model.tensors().len(),
            metadata_count: metadata.iter().len(),
            context_length: count("context_length"),
            block_count: count("block_count"),
            embedding_length: count("embedding_length"),
            feed_forward_length: count("feed_forward_length"),
            head_count: count("attention.head_count"),
            head_count_kv: count("attention.head_count_kv"),
            tokenizer: metadata.string("tokenizer.ggml.model").ok(),
            vocabulary_size: metadata.strings("tokenizer.ggml.tokens").ok().map(|t| t.len()),
        }
    }

    fn lines(&self) -> Vec<(&'static str, Option<String>)> {
        let text = |text: Option<&str>| text.map(|text| Escaped(text).to_string());
        let count = |count: Option<u64>| count.map(|count| Count(count).to_string());
        vec![
            ("file", text(Some(&self.path))),
            ("entry", text(self.entry)),
            ("format", Some(self.format())),
            ("name", text(self.name)),
            ("architecture", text(self.architecture)),
            ("parameters", self.has_weights().then(|| self.parameters())),
            ("file type", text(self.file_type)),
            ("bits per weight", self.has_weights().then(|| format!("{:.2}", self.bits_per_weight))),
            (
                "size",
                Some(format!("{} ({} bytes)", Bytes(self.file_bytes), Count(self.file_bytes))),
            ),
            ("context", self.context_length.map(|length| format!("{} tokens", Count(length)))),
            ("layers", count(self.block_count)),
            ("embedding", count(self.embedding_length)),
            ("feed-forward", count(self.feed_forward_length)),
            ("heads", self.heads()),
            ("tokenizer", self.tokenizer()),
            ("contents", Some(self.contents())),
        ]
    }

    /// A file of a vocabulary alone has none.
    fn has_weights(&self) -> bool {
        self.parameters > 0
    }

    fn format(&self) -> String {
        let (version, endian, alignment) = (self.gguf_version, self.endian, self.alignment);
        format!("GGUF version {version}, {endian} endian, aligned to {alignment} bytes")
    }

    fn parameters(&self) -> String {
        format!("{} ({})", Parameters(self.parameters), Count(self.parameters))
    }

    fn heads(&self) -> Option<String> {
        let heads = Count(self.head_count?);
        Some(match self.head_count_kv {
            Some(kv) if Some(kv) != self.head_count => {
                format!("{heads}, {} for keys and values", Count(kv))
            }
            _ => heads.to_string(),
        })
    }

    fn tokenizer(&self) -> Option<String> {
        let model = Escaped(self.tokenizer?);
        Some(match self.vocabulary_size {
            Some(size) => format!("{model}, {} tokens", Count(size as u64)),
            None => model.to_string(),
        })
    }

    fn contents(&self) -> String {
        let (tensors, keys) = (self.tensor_count as u64, self.metadata_count as u64);
        format!("{} tensors, {} metadata keys", Count(tensors), Count(keys))
    }
}

fn file_type_name(id: u64) -> Option<&'static str> {
    Mix::from_file_type(u32::try_from(id).ok()?).map(Mix::name)
}

impl fmt::Display for Summary<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let lines = self.lines().into_iter().filter_map(|(label, value)| Some((label, value?)));
        f.write_str(&pairs(&lines.collect::<Vec<_>>()))
    }
}
