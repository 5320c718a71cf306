//! The metadata of a converted checkpoint.

pub(crate) mod authorship;
mod front_matter;
mod model_id;

use std::path::{Path, PathBuf};

use llq_gguf::{Metadata, TensorType, Value};

use self::{authorship::Authorship, model_id::ModelId};
use crate::{
    Note,
    arch::{Architecture, Hyperparameters, MappedTensor},
    error::Result,
    json::{JsonFile, typed},
    tokenizer::Vocabulary,
};

/// All keys, in the order llama.cpp's converter writes them. The file type is the source's; a plan
/// writes its own in the same place. `sampling` is what `generation_config.json` recommends.
pub(super) fn metadata(
    architecture: &Architecture,
    authorship: Authorship,
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
    for (key, value) in authorship.keys() {
        metadata.set(key, value);
    }
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

/// What is known of the model in `folder`: by its card, by the name that its configuration gives,
/// by the folder's name, and by its size, in this order. A card that cannot be used is a note.
pub(super) fn authorship(
    folder: &Path,
    name_or_path: Option<&str>,
    mapped: &[MappedTensor],
    notes: &mut Vec<Note>,
) -> Authorship {
    let weights = weights(mapped.iter());
    let mut known = match front_matter::read(folder) {
        Ok(Some(card)) => Authorship::from_card(&card, weights),
        Ok(None) => Authorship::default(),
        Err(why) => {
            notes.push(Note(format!("README.md is not used for the metadata: {why}")));
            Authorship::default()
        }
    };
    // With more slashes it is a path on its author's machine.
    let id = name_or_path.filter(|name| name.matches('/').count() <= 1);
    let id = id.map(str::to_owned).into_iter().chain(folder_id(folder));
    for id in id {
        known.add_id(&ModelId::parse(&id, weights));
    }
    known.add("name", &name_of_form(folder));
    known.add("size_label", &size_label(mapped));
    known
}

/// The name by which an adapter may know the model in `folder`: the last part of what its
/// configuration says, or the folder's.
pub(super) fn base_name(folder: &Path, name_or_path: Option<&str>) -> String {
    let last = name_or_path.and_then(|path| path.trim_end_matches('/').rsplit('/').next());
    let named = last.filter(|name| !name.is_empty() && !name.starts_with('.'));
    named.map_or_else(|| name_of_form(folder), str::to_owned)
}

/// What is known of a model that has nothing but a name.
pub(super) fn named(name: &str, mapped: &[MappedTensor]) -> Authorship {
    let mut known = Authorship::default();
    known.add("name", name);
    known.add("size_label", &size_label(mapped));
    known
}

/// The name of the folder, as an id, unless it is hidden or only says whose form it is;
/// `owner/name` in the cache of Hugging Face's hub, where the folder is named by a commit.
fn folder_id(folder: &Path) -> Option<String> {
    let absolute = absolute(folder);
    let mut names = absolute.ancestors().filter_map(Path::file_name).map(|n| n.to_string_lossy());
    let name = names.next()?.into_owned();
    if names.next().is_some_and(|above| above == "snapshots")
        && let Some(repository) = names.next()
        && let Some(id) = repository.strip_prefix("models--")
    {
        return Some(id.replacen("--", "/", 1));
    }
    (!is_form(&name) && !name.starts_with('.')).then_some(name)
}

/// The name of the nearest folder that does not only say whose form it is. It is the folder above
/// the checkpoint's, so it is not searched for parts.
pub(super) fn name_of_form(folder: &Path) -> String {
    let absolute = absolute(folder);
    let names = absolute.ancestors().filter_map(Path::file_name);
    let mut names = names.map(|name| name.to_string_lossy().into_owned());
    names.find(|name| !is_form(name)).unwrap_or_else(|| "model".to_owned())
}

fn absolute(folder: &Path) -> PathBuf {
    folder.canonicalize().unwrap_or_else(|_| folder.to_path_buf())
}

fn is_form(folder: &str) -> bool {
    ["hf", "huggingface", "meta", "original"].contains(&folder.to_lowercase().as_str())
}

/// What `generation_config.json` may recommend: its keys, those of GGUF and their types, in the
/// order llama.cpp's converter writes them.
pub(crate) const SAMPLING: &[(&str, &str, &str)] = &[
    ("sequence", "sequence", "string"),
    ("top_k", "top_k", "i32"),
    ("top_p", "top_p", "f32"),
    ("min_p", "min_p", "f32"),
    ("xtc_probability", "xtc_probability", "f32"),
    ("xtc_threshold", "xtc_threshold", "f32"),
    ("temperature", "temp", "f32"),
    ("penalty_last_n", "penalty_last_n", "i32"),
    ("penalty_repeat", "penalty_repeat", "f32"),
    ("mirostat", "mirostat", "i32"),
    ("mirostat_tau", "mirostat_tau", "f32"),
    ("mirostat_eta", "mirostat_eta", "f32"),
];

/// How the authors sample, by keys of GGUF. No more than advice: what has another type is left out.
pub(super) fn sampling(folder: &Path) -> Result<Vec<(&'static str, Value)>> {
    let path = folder.join("generation_config.json");
    let Some(config) = JsonFile::open_optional(&path)? else { return Ok(Vec::new()) };
    let known = SAMPLING
        .iter()
        .filter_map(|&(key, gguf, type_name)| Some((gguf, typed(config.get(key)?, type_name)?)));
    Ok(known.collect())
}

/// The size of a model: its weights; of one with experts, their number and its weights with one of
/// them.
fn size_label(mapped: &[MappedTensor]) -> String {
    let is_expert = |tensor: &&MappedTensor| tensor.spec.name.contains("_exps.");
    let count = mapped.iter().find(is_expert).and_then(|tensor| tensor.spec.shape.last());
    match count {
        None => rounded(weights(mapped.iter())),
        Some(&count) => {
            let shared = weights(mapped.iter().filter(|tensor| !is_expert(tensor)));
            let each = weights(mapped.iter().filter(is_expert)) / count as f64;
            format!("{count}x{}", rounded(shared + each))
        }
    }
}

/// A number of weights as model names have it: two digits, such as `6.8M`, `7B` or `70B`.
fn rounded(weights: f64) -> String {
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

fn weights<'a>(tensors: impl Iterator<Item = &'a MappedTensor>) -> f64 {
    tensors.map(|t| t.spec.shape.iter().map(|&extent| extent as f64).product::<f64>()).sum()
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
        assert_eq!(rounded(6_818_048.0), "6.8M");
        assert_eq!(rounded(8_030_261_248.0), "8.0B");
        assert_eq!(rounded(70_553_706_496.0), "71B");
        assert_eq!(rounded(256.0), "0.26K");
    }
}
