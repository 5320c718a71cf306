//! What will be written: decided in full before the first byte.

use std::{collections::BTreeMap, sync::Arc};

use llq_gguf::{Endian, Metadata, ModelLayout, Split, TensorSpec, TensorType, Value};
use llq_quant::{
    Effort, Encoding, format,
    mix::{Assignment, Fallback, Guidance, Mix, ModelShape, Recipe, assign},
};

use crate::{
    Error, Imatrix, Note, Source, SourceKind, TypeRules,
    demands::{self, UnmetDemand},
    error::Result,
    source::{columns, row_bytes, rows},
};

/// The types of the output's tensors.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Output {
    /// Of a published checkpoint the plain type (F32, F16 or BF16) that its first matrix has, or
    /// every tensor's own where that one is quantized; of GGUF every tensor's own.
    #[default]
    Auto,
    /// A mix; `Mix::F16` and the like are mixes too.
    Recipe(Recipe),
}

/// Whether tensors that are quantized already may be decoded and encoded again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Requantize {
    /// They are an error: each encoding loses something.
    #[default]
    Refuse,
    /// They may.
    Allow,
}

/// What becomes of weights that are too large for the output's type.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnOverflow {
    /// They are an error that names all of them, which takes reading their tensors once more.
    #[default]
    Error,
    /// They become the largest value that the type has.
    Clamp,
    /// A tensor that does not fit F16 becomes BF16 instead, which takes reading it once more; in
    /// other types they are an error.
    KeepBf16,
}

/// What a user asks for.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Request {
    /// The tensor types.
    pub output: Output,
    /// Types of single tensors in place of those.
    pub rules: TypeRules,
    /// What the encoders of block formats are guided by.
    pub imatrix: Option<Arc<Imatrix>>,
    /// How long encoders search.
    pub effort: Effort,
    /// What to do with a quantized source.
    pub requantize: Requantize,
    /// The context length to write in place of the source's.
    pub context_length: Option<u32>,
    /// What to do with weights that are too large for their new type.
    pub on_overflow: OnOverflow,
    /// Byte order of the output.
    pub endian: Endian,
    /// Where to cut the output into several files.
    pub split: Split,
}

/// One tensor of a [`Plan`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TensorPlan {
    /// The name in the output.
    pub name: String,
    /// Extent per dimension, the fastest first.
    pub shape: Vec<u64>,
    /// The source's type.
    pub from: TensorType,
    /// The output's type.
    pub to: TensorType,
    /// Set where the shape forbids the type the mix wanted.
    pub fallback: Option<Fallback>,
    /// What the encoder is guided by.
    pub guidance: Guidance,
}

/// The output: metadata, and every tensor's type, size and place. Tensors have the order of the
/// source's, which they are read from by index.
#[derive(Clone, Debug)]
pub struct Plan {
    recipe: Option<Recipe>,
    request: Request,
    layout: ModelLayout,
    tensors: Vec<TensorPlan>,
    source_bytes: u64,
    unmet: Vec<UnmetDemand>,
    notes: Vec<Note>,
}

/// The longest row that is supported, in weights: a group of rows has to fit into memory.
pub(crate) const MAX_COLUMNS: u64 = 1 << 22;

impl Plan {
    /// Decides what `request` makes of `source`.
    pub fn new(source: &dyn Source, request: &Request) -> Result<Plan> {
        let specs = source.tensors();
        if specs.is_empty() {
            return Err(Error::NoTensors { path: source.path().to_path_buf() });
        }
        let mut notes = Vec::new();
        let recipe = match (request.output, source.kind()) {
            (Output::Recipe(recipe), _) if request.imatrix.is_some() => {
                Some(Recipe { guidance: Guidance::Importance, ..recipe })
            }
            (Output::Recipe(recipe), _) => Some(recipe),
            (Output::Auto, SourceKind::Gguf) => None,
            (Output::Auto, SourceKind::Published) if is_adapter(source) => {
                notes.push(Note("the output is F32, as is usual for adapters".to_owned()));
                Some(Recipe::new(Mix::F32))
            }
            (Output::Auto, SourceKind::Published) => plain_mix(source, &mut notes).map(Recipe::new),
        };
        if let Some(recipe) = recipe
            && is_adapter(source)
            && !is_plain(recipe.mix.base())
        {
            let (path, mix) = (source.path().to_path_buf(), recipe.mix.name());
            return Err(Error::QuantizedAdapter { path, mix });
        }
        let mut tensors =
            tensor_plans(recipe, &request.rules, source.metadata(), specs, &mut notes)?;
        if let Some(imatrix) = &request.imatrix {
            guide(imatrix, &mut tensors, &mut notes)?;
        }
        if is_adapter(source)
            && let Some(tensor) =
                tensors.iter().find(|tensor| tensor.from != tensor.to && !is_plain(tensor.to))
        {
            let (path, mix) = (source.path().to_path_buf(), tensor.to.name());
            return Err(Error::QuantizedAdapter { path, mix });
        }
        if request.output == Output::Auto {
            say_narrowed(source, &tensors, &mut notes);
        }
        for tensor in &tensors {
            tensor.check(request)?;
        }
        let metadata = output_metadata(source.metadata(), recipe, request);
        let layout = lay_out(&metadata, &tensors, request)?;
        let unmet = demands::unmet(&metadata, demands::tensors(layout.tensors()));
        if let (SourceKind::Published, Some(demand)) = (source.kind(), unmet.first()) {
            let (path, demand) = (source.path().to_path_buf(), demand.clone());
            return Err(Error::Demand { path, demand });
        }
        let inherited = |demand| Note(format!("loaders may refuse this model: {demand}"));
        notes.extend(unmet.iter().map(inherited));
        // Planning the layout has shown that sizes like these do not overflow.
        let source_bytes = specs.iter().map(|spec| row_bytes(spec).saturating_mul(rows(spec)));
        let source_bytes = source_bytes.fold(0, u64::saturating_add);
        let request = request.clone();
        Ok(Plan { recipe, request, layout, tensors, source_bytes, unmet, notes })
    }

    /// This plan with another type of the same size for some tensors.
    pub(crate) fn retyped(
        &self,
        source: &dyn Source,
        tensors: &[usize],
        to: TensorType,
    ) -> Result<Plan> {
        let mut plan = self.clone();
        for &tensor in tensors {
            plan.tensors[tensor].to = to;
        }
        plan.layout = lay_out(&self.metadata(source), &plan.tensors, &plan.request)?;
        Ok(plan)
    }

    /// The recipe, also where it followed from [`Output::Auto`]; `None` where every tensor keeps
    /// its type.
    pub fn recipe(&self) -> Option<Recipe> {
        self.recipe
    }

    /// What was asked for.
    pub fn request(&self) -> &Request {
        &self.request
    }

    /// The metadata that will be written, where `source` is what was planned for.
    pub fn metadata(&self, source: &dyn Source) -> Metadata {
        output_metadata(source.metadata(), self.recipe, &self.request)
    }

    /// How a tensor's row is encoded.
    pub(crate) fn encoding(&self, tensor: usize, row: u64) -> Encoding<'_> {
        Encoding { importance: self.importance(tensor, row), effort: self.request.effort }
    }

    /// What the columns of a tensor's row count for its encoder, where that is guided.
    fn importance(&self, tensor: usize, row: u64) -> Option<&[f32]> {
        let TensorPlan { name, shape, guidance, .. } = &self.tensors[tensor];
        let entry = self.request.imatrix.as_ref()?.entry(name)?;
        match (guidance, &shape[..]) {
            (Guidance::Importance, [cols, rows, ..]) => {
                entry.channels(*cols as usize, (row / rows) as usize)
            }
            _ => None,
        }
    }

    /// The files that will be written.
    pub fn layout(&self) -> &ModelLayout {
        &self.layout
    }

    /// Demands of loaders that the source does not meet either.
    pub(crate) fn unmet(&self) -> &[UnmetDemand] {
        &self.unmet
    }

    /// The tensors in file order.
    pub fn tensors(&self) -> &[TensorPlan] {
        &self.tensors
    }

    /// Choices that planning made, such as what [`Output::Auto`] came to.
    pub fn notes(&self) -> &[Note] {
        &self.notes
    }

    /// Tensors that did not get the type their mix wanted.
    pub fn fallbacks(&self) -> impl Iterator<Item = (&TensorPlan, Fallback)> {
        self.tensors.iter().filter_map(|tensor| Some((tensor, tensor.fallback?)))
    }

    /// Size of the output, all files together, in bytes.
    pub fn file_bytes(&self) -> u64 {
        self.layout.file_bytes()
    }

    /// Bytes of tensor data that will be read.
    pub fn source_bytes(&self) -> u64 {
        self.source_bytes
    }

    /// Mean storage per weight over all tensors, in bits.
    pub fn bits_per_weight(&self) -> f64 {
        let bytes: f64 = self.layout.tensors().map(|tensor| tensor.bytes as f64).sum();
        let weights: f64 = self.layout.tensors().map(|tensor| tensor.weights() as f64).sum();
        if weights == 0.0 { 0.0 } else { bytes * 8.0 / weights }
    }
}

impl TensorPlan {
    fn new((spec, assignment): (&TensorSpec, Assignment)) -> TensorPlan {
        TensorPlan {
            name: spec.name.clone(),
            shape: spec.shape.clone(),
            from: spec.tensor_type,
            to: assignment.tensor_type,
            fallback: assignment.fallback,
            guidance: Guidance::Unguided,
        }
    }

    fn own_type(spec: &TensorSpec) -> Assignment {
        Assignment { tensor_type: spec.tensor_type, fallback: None }
    }

    pub(crate) fn spec(&self) -> TensorSpec {
        TensorSpec { name: self.name.clone(), shape: self.shape.clone(), tensor_type: self.to }
    }

    /// Whether the way from one type to the other exists and was asked for.
    fn check(&self, request: &Request) -> Result<()> {
        let &TensorPlan { ref name, from, to, .. } = self;
        let tensor = || name.clone();
        let columns = columns(&self.spec());
        if columns > MAX_COLUMNS {
            return Err(Error::RowTooLong { tensor: tensor(), columns, limit: MAX_COLUMNS });
        }
        if from == to && request.endian == Endian::Little {
            return Ok(());
        }
        let quantized_again = from != to && !is_plain(from) && !is_plain(to);
        if quantized_again && request.requantize == Requantize::Refuse {
            return Err(Error::AlreadyQuantized { tensor: tensor(), from, to });
        }
        match [from, to].into_iter().find(|&tensor_type| format(tensor_type).is_none()) {
            Some(tensor_type) => Err(Error::NoFormat { tensor: tensor(), tensor_type }),
            None => Ok(()),
        }
    }
}

fn tensor_plans(
    recipe: Option<Recipe>,
    rules: &TypeRules,
    metadata: &Metadata,
    specs: &[TensorSpec],
    notes: &mut Vec<Note>,
) -> Result<Vec<TensorPlan>> {
    let shape = ModelShape::of(metadata, specs);
    let mut assigned = match recipe {
        Some(recipe) => assign(&recipe, &shape, specs),
        None => specs.iter().map(TensorPlan::own_type).collect(),
    };
    rules.apply(shape.head, specs, &mut assigned, notes)?;
    Ok(specs.iter().zip(assigned).map(TensorPlan::new).collect())
}

/// Has those tensors guided whose encoders can be and that the importance matrix knows; tells of
/// the others.
fn guide(imatrix: &Imatrix, tensors: &mut [TensorPlan], notes: &mut Vec<Note>) -> Result<()> {
    let mut unknown: Vec<&str> = Vec::new();
    let mut known = false;
    for tensor in tensors {
        known |= imatrix.entry(&tensor.name).is_some();
        if tensor.from == tensor.to || is_plain(tensor.to) {
            continue;
        }
        let is_of_tokens = ["token_embd.weight", "output.weight"].contains(&tensor.name.as_str());
        match imatrix.check(&tensor.name, &tensor.shape) {
            Ok(guidance @ Guidance::Importance) => tensor.guidance = guidance,
            // The field's files have these two only where they were asked for.
            Ok(Guidance::Unguided) if is_of_tokens => {}
            Ok(Guidance::Unguided) => unknown.push(&tensor.name),
            Err(Error::Imatrix { problem, .. }) if tensor.name == "token_embd.weight" => {
                notes.push(Note(format!("{problem}; it is encoded without importance")));
            }
            Err(error) => return Err(error),
        }
    }
    if !known {
        return Err(imatrix.of_another_model());
    }
    if let [first, ..] = unknown[..] {
        let (count, name) = (unknown.len(), imatrix.name());
        let tensors = if count == 1 { "tensor is" } else { "tensors are" };
        notes.push(Note(format!(
            "{count} {tensors} encoded without importance, as {name} does not know them: {first} first"
        )));
    }
    Ok(())
}

fn lay_out(metadata: &Metadata, tensors: &[TensorPlan], request: &Request) -> Result<ModelLayout> {
    let specs = tensors.iter().map(TensorPlan::spec).collect();
    Ok(ModelLayout::plan(metadata, specs, request.endian, request.split)?)
}

fn is_plain(tensor_type: TensorType) -> bool {
    matches!(tensor_type, TensorType::F32 | TensorType::F16 | TensorType::BF16)
}

fn is_adapter(source: &dyn Source) -> bool {
    source.metadata().string("general.type").is_ok_and(|kind| kind == "adapter")
}

/// The mix of the first matrix's type; `None`, which keeps all types, where that one is quantized.
fn plain_mix(source: &dyn Source, notes: &mut Vec<Note>) -> Option<Mix> {
    let specs = source.tensors();
    let matrix = specs.iter().position(|spec| spec.shape.len() > 1);
    let (mix, why) = match matrix.map(|at| (source.stored_type(at), &specs[at].name)) {
        Some((TensorType::F32, name)) => (Mix::F32, format!("the type of {name}")),
        Some((TensorType::F16, name)) => (Mix::F16, format!("the type of {name}")),
        Some((TensorType::BF16, name)) => (Mix::BF16, format!("the type of {name}")),
        Some((other, name)) => {
            notes.push(Note(format!("every tensor keeps its type, as {name} is {other}")));
            return None;
        }
        None => (Mix::F16, "as there is no matrix".to_owned()),
    };
    notes.push(Note(format!("the output is {mix}, {why}")));
    Some(mix)
}

/// Tensors that lose range or precision though no type was asked for.
fn say_narrowed(source: &dyn Source, tensors: &[TensorPlan], notes: &mut Vec<Note>) {
    let mut kinds: BTreeMap<(TensorType, TensorType), Vec<&str>> = BTreeMap::new();
    for (index, tensor) in tensors.iter().enumerate().filter(|(_, t)| t.to != TensorType::F32) {
        let stored = source.stored_type(index);
        if stored != tensor.to {
            kinds.entry((stored, tensor.to)).or_default().push(&tensor.name);
        }
    }
    for ((from, to), names) in kinds {
        let (count, first) = (names.len(), names[0]);
        notes.push(Note(format!(
            "{count} of the tensors are {from} and become {to}: {first} first"
        )));
    }
}

/// The source's metadata with what the plan decides in place of the source's, so that a model
/// converted directly has the same bytes as one converted and then quantized. Without a recipe the
/// types stay as the source says they are.
fn output_metadata(source: &Metadata, recipe: Option<Recipe>, request: &Request) -> Metadata {
    let architecture = source.string("general.architecture").unwrap_or_default();
    let mut decided = Vec::new();
    if let Some(Recipe { mix, .. }) = recipe {
        decided.push(("general.file_type".to_owned(), Value::U32(mix.file_type())));
        decided.push(("general.quantization_version".to_owned(), Value::U32(2)));
    }
    let context_key = format!("{architecture}.context_length");
    decided.extend(request.context_length.map(|length| (context_key, Value::U32(length))));
    decided.extend(request.imatrix.iter().flat_map(|imatrix| imatrix.quantize_keys()));

    let mut metadata = Metadata::default();
    for (key, value) in source.iter() {
        let replaced = decided.iter().position(|(decided, _)| decided == key);
        let value = replaced.map_or_else(|| value.clone(), |index| decided.remove(index).1);
        metadata.set(key, value);
    }
    for (key, value) in decided {
        metadata.set(key, value);
    }
    metadata
}
