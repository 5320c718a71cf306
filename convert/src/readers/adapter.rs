//! A LoRA adapter as source: its factors under the names that loaders of GGUF adapters expect.

use std::{
    collections::HashMap,
    ops::Range,
    path::{Path, PathBuf},
};

use llq_gguf::{Metadata, TensorSpec, TensorType, Value};

use super::{OpenOptions, checkpoint::Checkpoint, general, hugging_face};
use crate::{
    Error, Note,
    arch::{Architecture, MappedTensor, Module, Naming, Origin},
    error::Result,
    lora::{Adapter, CONFIG, Change, LoraError, Pair, PairKind, read_numbers, transposed},
    weights::{Dtype, PublishedTensor, Weights},
};

/// Whether the folder is an adapter: it has an adapter's configuration and no model's weights.
pub(super) fn is_adapter(folder: &Path) -> bool {
    folder.join(CONFIG).exists() && !hugging_face::has_weights(folder)
}

pub(super) fn open(folder: &Path, options: &OpenOptions) -> Result<Checkpoint> {
    let adapter = Adapter::open(folder)?;
    let base = hugging_face::configuration(base_folder(folder, options)?)?;
    let modules: Vec<Module> =
        base.architecture.modules(Naming::HuggingFace, &base.hyperparameters).collect();
    let changes = adapter.changes(&modules)?;
    let mut notes = adapter.config.notes();
    notes.extend(adapter.config.gguf_note());
    notes.push(adapter.note(&changes, 1.0));

    let metadata = metadata(folder, base.architecture, &adapter)?;
    let mut writing = Writing { adapter: &adapter, mapped: Vec::new(), factors: HashMap::new() };
    for change in &changes {
        if base.is_tied && change.module.gguf == "output" {
            let what = "a change of the output projection, which is the base's token embedding";
            return Err(writing.merge_only(change.first_tensor(), what));
        }
        writing.map(change)?;
    }
    let Writing { mapped, factors, .. } = writing;
    notes.extend(factor_note(&factors));
    let weights: Box<dyn Weights> = Box::new(Scaled::new(adapter, factors));
    Ok(Checkpoint::new(folder, metadata, weights, mapped, notes))
}

/// The folder whose `config.json` describes the base.
fn base_folder<'a>(folder: &'a Path, options: &'a OpenOptions) -> Result<&'a Path> {
    match &options.base {
        Some(base) => Ok(base),
        None if folder.join("config.json").exists() => Ok(folder),
        None => Err(Error::NoBase { folder: folder.to_path_buf() }),
    }
}

/// As llama.cpp's loader of adapters reads it.
fn metadata(folder: &Path, architecture: &Architecture, adapter: &Adapter) -> Result<Metadata> {
    let text = |text: &str| Value::String(text.to_owned());
    let mut metadata = Metadata::default();
    metadata.set("general.architecture", text(architecture.name));
    metadata.set("general.type", text("adapter"));
    metadata.set("adapter.type", text("lora"));
    metadata.set("general.name", text(&general::name_of_form(folder)));
    metadata.set("adapter.lora.alpha", Value::F32(adapter.config.gguf_alpha() as f32));
    if let Some(tokens) = adapter.config.invocation_tokens()? {
        metadata.set("adapter.alora.invocation_tokens", tokens);
    }
    Ok(metadata)
}

/// The tensors of the file as they are gathered.
struct Writing<'a> {
    adapter: &'a Adapter,
    mapped: Vec<MappedTensor>,
    /// What a tensor of the adapter is multiplied by, where that is not 1.
    factors: HashMap<usize, f64>,
}

impl Writing<'_> {
    fn map(&mut self, change: &Change) -> Result<()> {
        let Change { module, weight, bias, pair } = change;
        if let Some(bias) = *bias {
            return Err(self.merge_only(bias, "a whole bias"));
        }
        match *weight {
            Some(norm) if module.extents.len() == 1 => {
                self.publish(norm, format!("{}.weight", module.gguf), None)?;
            }
            Some(whole) => return Err(self.merge_only(whole, "a whole weight")),
            None => {}
        }
        match pair {
            Some(Pair { magnitude: Some(magnitude), .. }) => {
                Err(self.merge_only(*magnitude, "a magnitude of DoRA"))
            }
            Some(pair) => self.map_pair(module, pair),
            None => Ok(()),
        }
    }

    fn map_pair(&mut self, module: &Module, pair: &Pair) -> Result<()> {
        let names = ["a", "b"].map(|factor| format!("{}.weight.lora_{factor}", module.gguf));
        let [a_name, b_name] = names;
        match pair.kind {
            PairKind::Matrix => self.publish(pair.a, a_name, None)?,
            // Loaders look rows of tokens up.
            PairKind::Embedding => self.transpose(pair, a_name)?,
        }
        let factor = self.adapter.config.gguf_factor(&pair.strength);
        if factor != 1.0 {
            self.factors.insert(pair.b, factor);
        }
        self.publish(pair.b, b_name, module.head_rows)
    }

    fn publish(&mut self, published: usize, name: String, head_rows: Option<u64>) -> Result<()> {
        let tensor = &self.adapter.weights.tensors()[published];
        let stored = tensor.float(self.adapter.weights.path())?;
        let scaled = self.factors.contains_key(&published);
        let tensor_type = if scaled { TensorType::F32 } else { stored };
        let shape = tensor.shape.iter().rev().copied().collect();
        let origin = match head_rows {
            Some(head_rows) => Origin::Reordered { published, head_rows },
            None => Origin::Published(published),
        };
        self.mapped.push(MappedTensor { spec: TensorSpec { name, shape, tensor_type }, origin });
        Ok(())
    }

    fn transpose(&mut self, pair: &Pair, name: String) -> Result<()> {
        let numbers = transposed(&self.adapter.weights, pair.a)?;
        let origin = Origin::Generated(numbers.into_iter().flat_map(f32::to_le_bytes).collect());
        let shape = self.adapter.weights.tensors()[pair.a].shape.clone();
        let spec = TensorSpec { name, shape, tensor_type: TensorType::F32 };
        self.mapped.push(MappedTensor { spec, origin });
        Ok(())
    }

    fn merge_only(&self, tensor: usize, what: &'static str) -> Error {
        let tensor = self.adapter.name(tensor).to_owned();
        self.adapter.error(LoraError::MergeOnly { tensor, what })
    }
}

fn factor_note(factors: &HashMap<usize, f64>) -> Option<Note> {
    let count = factors.len();
    (count > 0).then(|| {
        Note(format!(
            "modules with an alpha or a rank of their own: {count}; their lora_b is scaled, as an \
             adapter file has one alpha"
        ))
    })
}

/// The adapter's tensors, some multiplied.
#[derive(Debug)]
struct Scaled {
    adapter: Adapter,
    tensors: Vec<PublishedTensor>,
    factors: HashMap<usize, f64>,
}

impl Scaled {
    fn new(adapter: Adapter, factors: HashMap<usize, f64>) -> Scaled {
        let mut tensors = adapter.weights.tensors().to_vec();
        for &tensor in factors.keys() {
            tensors[tensor].dtype = Dtype::Float(TensorType::F32);
        }
        Scaled { adapter, tensors, factors }
    }
}

impl Weights for Scaled {
    fn tensors(&self) -> &[PublishedTensor] {
        &self.tensors
    }

    fn files(&self) -> Vec<PathBuf> {
        self.adapter.weights.files()
    }

    fn read_rows(&self, tensor: usize, rows: Range<u64>, out: &mut [u8]) -> Result<()> {
        let Some(factor) = self.factors.get(&tensor) else {
            return self.adapter.weights.read_rows(tensor, rows, out);
        };
        let numbers = read_numbers(&self.adapter.weights, tensor, rows)?;
        for (out, number) in out.as_chunks_mut::<4>().0.iter_mut().zip(numbers) {
            *out = ((f64::from(number) * factor) as f32).to_le_bytes();
        }
        Ok(())
    }

    fn stored_type(&self, tensor: usize) -> Option<TensorType> {
        self.adapter.weights.stored_type(tensor)
    }
}
