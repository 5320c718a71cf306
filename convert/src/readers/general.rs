//! The metadata of a converted checkpoint.

use std::path::Path;

use llq_gguf::{Metadata, TensorSpec, TensorType, Value};

use crate::{
    arch::{Architecture, Hyperparameters, MappedTensor},
    tokenizer::Vocabulary,
};

/// All keys, in the order llama.cpp's converter writes them. The file type is the source's; a plan
/// writes its own in the same place. `sampling` is what `generation_config.json` recommends.
pub(super) fn metadata(
    architecture: &Architecture,
    name: &str,
    sampling: Vec<(&'static str, Value)>,
    hyperparameters: &Hyperparameters,
    vocabulary: &Vocabulary,
    mapped: &[MappedTensor],
) -> Metadata {
    let text = |text: &str| Value::String(text.to_owned());
    let mut metadata = Metadata::default();
    metadata.set("general.architecture", text(architecture.name));
    metadata.set("general.type", text("model"));
    for (key, value) in sampling {
        metadata.set(format!("general.sampling.{key}"), value);
    }
    metadata.set("general.name", text(name));
    metadata.set("general.size_label", text(&size_label(mapped.iter().map(|m| &m.spec))));
    let own = |key: &str| format!("{}.{key}", architecture.name);
    for (key, value) in hyperparameters.keys_before_file_type() {
        metadata.set(own(key), value);
    }
    metadata.set("general.file_type", Value::U32(file_type(mapped)));
    for (key, value) in hyperparameters.keys_after_file_type() {
        metadata.set(own(key), value);
    }
    metadata.set("general.quantization_version", Value::U32(2));
    for (key, value) in vocabulary.keys() {
        metadata.set(key, value);
    }
    metadata
}

/// The name of the model: that of its folder, or of the folder above where the folder only says
/// whose form it is.
pub(super) fn model_name(folder: &Path) -> String {
    const FORMS: &[&str] = &["hf", "huggingface", "meta", "original"];
    let absolute = folder.canonicalize().unwrap_or_else(|_| folder.to_path_buf());
    let names = absolute.ancestors().filter_map(|folder| folder.file_name());
    let names = names.map(|name| name.to_string_lossy().into_owned());
    let mut names = names.filter(|name| !FORMS.contains(&name.to_lowercase().as_str()));
    names.next().unwrap_or_else(|| "model".to_owned())
}

/// The number of weights as model names have it: two digits, such as `6.8M`, `7B` or `70B`.
fn size_label<'a>(tensors: impl Iterator<Item = &'a TensorSpec>) -> String {
    let weights: f64 =
        tensors.map(|t| t.shape.iter().map(|&extent| extent as f64).product::<f64>()).sum();
    let (scaled, unit) = match weights {
        w if w > 1e12 => (w / 1e12, "T"),
        w if w > 1e9 => (w / 1e9, "B"),
        w if w > 1e6 => (w / 1e6, "M"),
        w => (w / 1e3, "K"),
    };
    let decimals = match scaled.round() {
        0.0 => 2,
        1.0..10.0 => 1,
        _ => 0,
    };
    format!("{scaled:.decimals$}{unit}")
}

fn file_type(mapped: &[MappedTensor]) -> u32 {
    let first_matrix = mapped.iter().find(|mapped| mapped.spec.shape.len() > 1);
    match first_matrix.map(|mapped| mapped.spec.tensor_type) {
        Some(TensorType::F16) => 1,
        Some(TensorType::BF16) => 32,
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn size_labels_have_two_digits() {
        let label = |shape: &[u64]| {
            let spec = TensorSpec {
                name: "t".to_owned(),
                shape: shape.to_vec(),
                tensor_type: TensorType::F32,
            };
            size_label([spec].iter())
        };
        assert_eq!(label(&[6_818_048]), "6.8M");
        assert_eq!(label(&[8_030_261_248]), "8.0B");
        assert_eq!(label(&[70_553_706_496]), "71B");
        assert_eq!(label(&[256]), "0.26K");
    }
}
