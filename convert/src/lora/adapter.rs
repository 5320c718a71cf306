//! An adapter's folder: its tensors, sorted to the modules they change and checked against them.

use std::{
    collections::{BTreeMap, HashMap},
    fmt,
    path::{Path, PathBuf},
};

use super::{
    LoraError,
    config::{Config, Decomposition, Strength},
    names::{Name, Part, parse},
};
use crate::{
    Error, Note,
    arch::{Module, nearest},
    error::Result,
    weights::{
        PublishedTensor, Weights, folder::WeightFile, safetensors::SafetensorsFile,
        torch::TorchFile,
    },
};

/// A folder that PEFT saved.
#[derive(Debug)]
pub(crate) struct Adapter {
    pub(crate) folder: PathBuf,
    pub(crate) config: Config,
    pub(crate) weights: WeightFile,
}

/// What an adapter does to one module. Numbers are indexes of the adapter's tensors.
#[derive(Debug)]
pub(crate) struct Change {
    pub(crate) module: Module,
    /// In place of the base's weight.
    pub(crate) weight: Option<usize>,
    /// In place of the base's bias.
    pub(crate) bias: Option<usize>,
    /// Added to the weight.
    pub(crate) pair: Option<Pair>,
}

impl Change {
    /// One of the tensors, for errors.
    pub(crate) fn first_tensor(&self) -> usize {
        self.pair.map(|pair| pair.a).or(self.weight).or(self.bias).unwrap_or_default()
    }
}

/// Two factors.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pair {
    pub(crate) kind: PairKind,
    pub(crate) a: usize,
    pub(crate) b: usize,
    pub(crate) strength: Strength,
    /// The length that each row gets, of DoRA.
    pub(crate) magnitude: Option<usize>,
}

/// What the product of the factors is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PairKind {
    /// B·A is the change: A is [rank, columns], B [rows, rank].
    Matrix,
    /// B·A is the change transposed: A is [rank, rows], B [columns, rank].
    Embedding,
}

/// Factors of an embedding are transposed in memory; this many numbers are a gigabyte.
const MAX_HELD: u64 = 1 << 28;

const SAFETENSORS: &str = "adapter_model.safetensors";
const TORCH: &str = "adapter_model.bin";

impl Adapter {
    pub(crate) fn open(folder: &Path) -> Result<Adapter> {
        let config = Config::open(folder)?;
        let safetensors = folder.join(SAFETENSORS);
        let torch = folder.join(TORCH);
        let weights = if safetensors.exists() {
            WeightFile::Safetensors(SafetensorsFile::open(&safetensors)?)
        } else if torch.exists() {
            WeightFile::PyTorch(TorchFile::open(&torch)?)
        } else {
            let looked_for = format!("{SAFETENSORS} and no {TORCH}");
            return Err(Error::MissingFile { folder: folder.to_path_buf(), looked_for });
        };
        Ok(Adapter { folder: folder.to_path_buf(), config, weights })
    }

    /// The file, in errors.
    pub(crate) fn error(&self, problem: LoraError) -> Error {
        Error::Lora { path: self.weights.path().to_path_buf(), problem: Box::new(problem) }
    }

    /// What is done to each of `modules`, in their order. Every tensor must belong to one.
    pub(crate) fn changes(&self, modules: &[Module]) -> Result<Vec<Change>> {
        let mut changes = Vec::new();
        for (at, parts) in self.sorted(modules)? {
            changes.push(self.change(&modules[at], &parts)?);
        }
        if changes.is_empty() {
            return Err(self.error(LoraError::Empty));
        }
        Ok(changes)
    }

    /// The tensors by the index of their module.
    fn sorted(&self, modules: &[Module]) -> Result<BTreeMap<usize, BTreeMap<Part, usize>>> {
        let index: HashMap<&str, usize> =
            modules.iter().enumerate().map(|(at, m)| (m.hugging_face.as_str(), at)).collect();
        let mut sorted: BTreeMap<usize, BTreeMap<Part, usize>> = BTreeMap::new();
        for (tensor, PublishedTensor { name, .. }) in self.weights.tensors().iter().enumerate() {
            let (module, part) = match parse(name) {
                Name::Part(module, part) => (module, part),
                Name::Original => continue,
                Name::Unknown => {
                    return Err(self.error(LoraError::UnknownPart { tensor: name.clone() }));
                }
            };
            let at = *index.get(module).ok_or_else(|| {
                let nearest = nearest(module, index.keys().copied());
                let (tensor, module) = (name.clone(), module.to_owned());
                self.error(LoraError::NoModule { tensor, module, nearest })
            })?;
            if let Some(first) = sorted.entry(at).or_default().insert(part, tensor) {
                let first = self.name(first).to_owned();
                return Err(self.error(LoraError::Twice { first, second: name.clone() }));
            }
        }
        Ok(sorted)
    }

    fn change(&self, module: &Module, parts: &BTreeMap<Part, usize>) -> Result<Change> {
        let part = |part| parts.get(&part).copied();
        let change = Change {
            module: module.clone(),
            weight: part(Part::Weight),
            bias: part(Part::Bias),
            pair: self.pair(module, parts)?,
        };
        if let Some(weight) = change.weight {
            self.check_vocabulary(module, weight)?;
            self.check_shape(module, weight, &module.extents)?;
        }
        if let Some(bias) = change.bias {
            self.check_shape(module, bias, &module.extents[..1])?;
        }
        for &tensor in parts.values() {
            self.weights.tensors()[tensor].float(self.weights.path())?;
        }
        Ok(change)
    }

    fn pair(&self, module: &Module, parts: &BTreeMap<Part, usize>) -> Result<Option<Pair>> {
        let find = |part: Part| parts.get(&part).copied();
        let both = |first: Part, second: Part| match (find(first), find(second)) {
            (None, None) => Ok(None),
            (Some(a), Some(b)) => Ok(Some((a, b))),
            (Some(_), None) => Err(self.unpaired(module, first, second)),
            (None, Some(_)) => Err(self.unpaired(module, second, first)),
        };
        let matrix = both(Part::A, Part::B)?;
        let embedding = both(Part::EmbeddingA, Part::EmbeddingB)?;
        let magnitude = find(Part::Magnitude);
        let (kind, (a, b)) = match (matrix, embedding) {
            (Some((a, _)), Some((b, _))) => {
                let (first, second) = (self.name(a).to_owned(), self.name(b).to_owned());
                return Err(self.error(LoraError::Twice { first, second }));
            }
            (Some(pair), None) => (PairKind::Matrix, pair),
            (None, Some(pair)) => (PairKind::Embedding, pair),
            (None, None) => {
                return match magnitude {
                    Some(_) => Err(self.unpaired(module, Part::Magnitude, Part::A)),
                    None => Ok(None),
                };
            }
        };
        let &[rows, columns] = &module.extents[..] else {
            let (tensor, what) = (self.name(a).to_owned(), "a factor of a vector");
            return Err(self.error(LoraError::Unsupported { tensor, what }));
        };
        let strength = self.strength(module, a, b)?;
        let rank = strength.rank;
        let (a_shape, b_shape) = match kind {
            PairKind::Matrix => ([rank, columns], [rows, rank]),
            PairKind::Embedding => ([rank, rows], [columns, rank]),
        };
        self.check_shape(module, a, &a_shape)?;
        self.check_shape(module, b, &b_shape)?;
        let held = rank.saturating_mul(rows.max(columns));
        if kind == PairKind::Embedding && held > MAX_HELD {
            let (tensor, what) = (self.name(a).to_owned(), "a factor of more than a gigabyte");
            return Err(self.error(LoraError::Unsupported { tensor, what }));
        }
        self.check_magnitude(module, kind, a, magnitude)?;
        Ok(Some(Pair { kind, a, b, strength, magnitude }))
    }

    /// What the configuration says, once both factors were found to have that rank.
    fn strength(&self, module: &Module, a: usize, b: usize) -> Result<Strength> {
        let strength = self.config.strength(&module.hugging_face)?;
        let tensors = self.weights.tensors();
        for (tensor, rank) in
            [(&tensors[a], tensors[a].shape.first()), (&tensors[b], tensors[b].shape.get(1))]
        {
            if tensor.shape.len() != 2 || rank != Some(&strength.rank) {
                return Err(self.error(LoraError::Rank {
                    tensor: tensor.name.clone(),
                    shape: tensor.shape.clone(),
                    expected: strength.rank,
                    origin: super::CONFIG.to_owned(),
                }));
            }
        }
        Ok(strength)
    }

    fn check_magnitude(
        &self,
        module: &Module,
        kind: PairKind,
        a: usize,
        magnitude: Option<usize>,
    ) -> Result<()> {
        match (self.config.decomposition, magnitude) {
            (Decomposition::None, None) => Ok(()),
            (Decomposition::None, Some(tensor)) => {
                let (tensor, what) = (self.name(tensor).to_owned(), "a magnitude without use_dora");
                Err(self.error(LoraError::Unsupported { tensor, what }))
            }
            (Decomposition::Dora, None) => Err(self.unpaired(module, Part::A, Part::Magnitude)),
            (Decomposition::Dora, Some(_)) if kind == PairKind::Embedding => {
                let (tensor, what) = (self.name(a).to_owned(), "DoRA of an embedding");
                Err(self.error(LoraError::Unsupported { tensor, what }))
            }
            (Decomposition::Dora, Some(tensor)) => {
                self.check_shape(module, tensor, &module.extents[..1])
            }
        }
    }

    fn check_vocabulary(&self, module: &Module, tensor: usize) -> Result<()> {
        let found = &self.weights.tensors()[tensor].shape;
        let (&[found, columns], &[base, expected]) = (&found[..], &module.extents[..]) else {
            return Ok(());
        };
        if module.is_vocabulary && found != base && columns == expected {
            let tensor = self.name(tensor).to_owned();
            return Err(self.error(LoraError::Vocabulary { tensor, found, base }));
        }
        Ok(())
    }

    fn check_shape(&self, module: &Module, tensor: usize, expected: &[u64]) -> Result<()> {
        let PublishedTensor { name, shape: found, .. } = &self.weights.tensors()[tensor];
        if found == expected {
            return Ok(());
        }
        Err(self.error(LoraError::Shape {
            tensor: name.clone(),
            found: found.clone(),
            expected: expected.to_vec(),
            base: format!("{}.weight", module.published),
            shape: module.extents.clone(),
        }))
    }

    fn unpaired(&self, module: &Module, present: Part, missing: Part) -> Error {
        let module = module.hugging_face.clone();
        let (present, missing) = (present.name(), missing.name());
        self.error(LoraError::Unpaired { module, present, missing })
    }

    pub(crate) fn name(&self, tensor: usize) -> &str {
        &self.weights.tensors()[tensor].name
    }

    /// What the adapter is and does, in a line.
    pub(crate) fn note(&self, changes: &[Change], scale: f64) -> Note {
        let name = self.folder.file_name().unwrap_or(self.folder.as_os_str()).to_string_lossy();
        let strengths = || changes.iter().filter_map(|c| c.pair).map(|pair| pair.strength);
        let pairs = strengths().count();
        let replaced = changes.iter().flat_map(|c| [c.weight, c.bias]).flatten().count();
        let rank = Span::of(strengths().map(|s| s.rank as f64));
        let alpha = Span::of(strengths().map(|s| s.alpha));
        let scaling = Span::of(strengths().map(|s| s.scaling * scale));
        let pairs = (pairs > 0).then(|| {
            format!("low-rank changes: {pairs}, rank {rank}, alpha {alpha}, scaling {scaling}")
        });
        let replaced = (replaced > 0).then(|| format!("whole tensors: {replaced}"));
        let parts: Vec<String> = pairs.into_iter().chain(replaced).collect();
        Note(format!("adapter {name}: {}", parts.join("; ")))
    }
}

/// The least and the greatest of some values.
struct Span(f32, f32);

impl Span {
    fn of(values: impl Iterator<Item = f64>) -> Span {
        let ends = (f64::INFINITY, f64::NEG_INFINITY);
        let (least, greatest) =
            values.fold(ends, |(least, greatest), value| (least.min(value), greatest.max(value)));
        Span(least as f32, greatest as f32)
    }
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Span(least, greatest) = self;
        if least == greatest { write!(f, "{least}") } else { write!(f, "{least} to {greatest}") }
    }
}
