//! What `--dry-run` tells: everything that was decided, before a byte of a weight is read.

use std::{fmt, path::PathBuf};

use llq_convert::{Plan, Source};
use llq_gguf::{Metadata, Value, free_bytes};
use serde::Serialize;

use super::{
    allocation::Measured, calibration::Estimate, inspect::MetadataList, produce::Made,
    type_shares::type_table,
};
use crate::{
    escape::Escaped,
    figures::{Bytes, Count, Parameters},
    table::pairs,
    target::folder_of,
};

/// A model as it would be written.
#[derive(Serialize)]
pub(super) struct DryRun<'a> {
    #[serde(flatten)]
    made: Made,
    free_bytes: Option<u64>,
    context_length: Option<u64>,
    vocabulary: Option<Vocabulary>,
    #[serde(skip_serializing_if = "Option::is_none")]
    calibration: Option<Estimate>,
    #[serde(serialize_with = "as_list")]
    metadata: Metadata,
    tensors: Vec<PlannedTensor<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    mix: Option<&'a Measured>,
}

#[derive(Serialize)]
struct Vocabulary {
    model: Option<String>,
    tokens: usize,
    /// Tokens that stand for rows of the embedding without a token.
    padding: usize,
}

#[derive(Serialize)]
struct PlannedTensor<'a> {
    name: &'a str,
    shape: &'a [u64],
    from: &'static str,
    to: &'static str,
    bytes: u64,
}

impl<'a> DryRun<'a> {
    pub(super) fn of(
        source: &dyn Source,
        plan: &'a Plan,
        paths: &[PathBuf],
        mix: Option<&'a Measured>,
        calibration: Option<Estimate>,
    ) -> DryRun<'a> {
        let metadata = plan.metadata(source);
        let architecture = metadata.string("general.architecture").unwrap_or_default();
        let tensors = plan.tensors().iter().zip(plan.layout().tensors());
        DryRun {
            made: Made::planned(plan, paths),
            free_bytes: paths.first().and_then(|path| free_bytes(folder_of(path)).ok()),
            context_length: metadata.count(&format!("{architecture}.context_length")).ok(),
            vocabulary: Vocabulary::of(&metadata),
            calibration,
            tensors: tensors
                .map(|(tensor, placed)| PlannedTensor {
                    name: &tensor.name,
                    shape: &tensor.shape,
                    from: tensor.from.name(),
                    to: tensor.to.name(),
                    bytes: placed.bytes,
                })
                .collect(),
            metadata: without_arrays(&metadata),
            mix,
        }
    }

    fn lines(&self) -> Vec<(&'static str, String)> {
        let Made { files, file_bytes, parameters, bits_per_weight, .. } = &self.made;
        let mut lines: Vec<(&'static str, String)> = Vec::new();
        for file in files {
            lines.push(("file", format!("{}, {}", Escaped(&file.path), Bytes(file.bytes))));
        }
        if files.len() > 1 {
            lines.push(("size", format!("{} in {} files", Bytes(*file_bytes), files.len())));
        }
        if let Some(free) = self.free_bytes {
            let enough = if free < *file_bytes { ", too little" } else { "" };
            lines.push(("free", format!("{}{enough}", Bytes(free))));
        }
        let count = Count(self.tensors.len() as u64);
        lines.push(("tensors", format!("{count}, {} weights", Parameters(*parameters))));
        lines.push(("bits per weight", format!("{bits_per_weight:.2}")));
        if let Some(length) = self.context_length {
            lines.push(("context", format!("{} tokens", Count(length))));
        }
        lines.extend(self.vocabulary.as_ref().map(|v| ("vocabulary", v.to_string())));
        lines.extend(self.calibration.as_ref().map(|c| ("calibration", c.to_string())));
        lines
    }
}

impl fmt::Display for DryRun<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let types = type_table(&self.made.types);
        write!(f, "{}\n{types}\n{}", pairs(&self.lines()), MetadataList(&self.metadata))?;
        self.mix.map_or(Ok(()), |mix| write!(f, "\n{mix}"))
    }
}

impl Vocabulary {
    fn of(metadata: &Metadata) -> Option<Vocabulary> {
        let tokens = metadata.strings("tokenizer.ggml.tokens").ok()?;
        let is_padding = |(id, token): &(usize, &str)| *token == format!("[PAD{id}]");
        Some(Vocabulary {
            model: metadata.string("tokenizer.ggml.model").ok().map(str::to_owned),
            tokens: tokens.len(),
            padding: tokens.iter().enumerate().filter(is_padding).count(),
        })
    }
}

impl fmt::Display for Vocabulary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let model = Escaped(self.model.as_deref().unwrap_or("of no known kind"));
        write!(f, "{model}, {} tokens", Count(self.tokens as u64))?;
        match self.padding {
            0 => Ok(()),
            padding => write!(f, ", {} of them padding", Count(padding as u64)),
        }
    }
}

/// The keys that were chosen; arrays are copied from the tokenizer.
fn without_arrays(metadata: &Metadata) -> Metadata {
    let single = metadata.iter().filter(|(_, value)| !matches!(value, Value::Array(_)));
    single.map(|(key, value)| (key, value.clone())).collect()
}

fn as_list<S: serde::Serializer>(metadata: &Metadata, serializer: S) -> Result<S::Ok, S::Error> {
    MetadataList(metadata).serialize(serializer)
}
