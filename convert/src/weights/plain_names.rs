//! Tensors whose names a training framework changed, under the names the model's authors gave them.

use std::{
    collections::{BTreeSet, HashMap},
    ops::Range,
    path::{Path, PathBuf},
};

use llq_gguf::TensorType;

use super::{PublishedTensor, Weights};
use crate::{Error, Note, error::Result};

/// What wrappers put before every name: PyTorch's data parallelism, its compiler, and PEFT.
const WRAPPERS: &[&str] = &["module.", "_orig_mod.", "base_model.model."];

/// What a model that was saved without its output projection leaves out before a name.
const BODY: &str = "model.";
const PARTS_OF_BODY: &[&str] = &["embed_tokens.", "layers.", "norm."];

/// What the first Yi models call their norms.
const YI: &[(&str, &str)] =
    &[(".ln1.", ".input_layernorm."), (".ln2.", ".post_attention_layernorm.")];

/// `weights` of a Hugging Face folder under the names that `LlamaForCausalLM` has for them. What was
/// changed is noted; two tensors that get one name are an error. `path` is the folder.
pub(crate) fn with_plain_names(
    weights: Box<dyn Weights>,
    path: &Path,
    notes: &mut Vec<Note>,
) -> Result<Box<dyn Weights>> {
    let mut changes = BTreeSet::new();
    let mut tensors = weights.tensors().to_vec();
    for tensor in &mut tensors {
        tensor.name = plain_name(&tensor.name, &mut changes);
    }
    if changes.is_empty() {
        return Ok(weights);
    }
    let mut published: HashMap<&str, &str> = HashMap::new();
    for (old, new) in weights.tensors().iter().zip(&tensors) {
        if let Some(other) = published.insert(&new.name, &old.name) {
            let problem = format!("tensors {other:?} and {:?} are both {:?}", old.name, new.name);
            return Err(Error::Shards { path: path.to_path_buf(), problem });
        }
    }
    let changes: Vec<String> = changes.into_iter().collect();
    notes.push(Note(format!("names of tensors: {}", changes.join(", "))));
    Ok(Box::new(PlainNames { weights, tensors }))
}

/// Adds what it changed to `changes`.
fn plain_name(published: &str, changes: &mut BTreeSet<String>) -> String {
    let mut name = published;
    while let Some((wrapper, rest)) =
        WRAPPERS.iter().find_map(|wrapper| Some((wrapper, name.strip_prefix(wrapper)?)))
    {
        changes.insert(format!("{wrapper:?} in front is left out"));
        name = rest;
    }
    let mut name = name.to_owned();
    if PARTS_OF_BODY.iter().any(|part| name.starts_with(part)) {
        changes.insert(format!("{BODY:?} is put in front"));
        name.insert_str(0, BODY);
    }
    for (from, to) in YI {
        if name.starts_with("model.layers.") && name.contains(from) {
            changes.insert(format!("{from:?} is {to:?}"));
            name = name.replacen(from, to, 1);
        }
    }
    name
}

#[derive(Debug)]
struct PlainNames {
    weights: Box<dyn Weights>,
    tensors: Vec<PublishedTensor>,
}

impl Weights for PlainNames {
    fn tensors(&self) -> &[PublishedTensor] {
        &self.tensors
    }

    fn files(&self) -> Vec<PathBuf> {
        self.weights.files()
    }

    fn read_rows(&self, tensor: usize, rows: Range<u64>, out: &mut [u8]) -> Result<()> {
        self.weights.read_rows(tensor, rows, out)
    }

    fn stored_type(&self, tensor: usize) -> Option<TensorType> {
        self.weights.stored_type(tensor)
    }
}
