//! A Meta folder: `params.json`, `consolidated.NN.pth`, `tokenizer.model`.

use std::path::{Path, PathBuf};

use super::{
    OpenOptions,
    checkpoint::Checkpoint,
    general,
    generation::{Generation, Signs, llama3_rope},
    tied_output::TiedOutput,
};
use crate::{
    Error, Note,
    arch::{Hyperparameters, LLAMA, Naming, RopeScaling},
    error::Result,
    json::JsonFile,
    lora::{self, Base},
    tokenizer::{self, Llama3, SpecialNames, Tuning},
    weights::{
        Weights,
        model_parallel::ModelParallel,
        twin_heads::{self, TwinHeads},
    },
};

pub(super) fn open(folder: &Path, options: &OpenOptions) -> Result<Checkpoint> {
    let params = JsonFile::open(&folder.join("params.json"))?.nested_under("model");
    let embedding = u64::from(params.count("dim")?);
    // It divides what shards have.
    if embedding == 0 {
        return Err(params.error("dim", "1 or more", embedding.to_string()));
    }
    let weights = ModelParallel::open(
        folder,
        |piece, shards| LLAMA.model_parallel_cut(piece, shards, embedding, folder),
        |pieces| LLAMA.shard_count(pieces, embedding),
    )?;
    let name = general::name_of_form(folder);
    let mut notes = Vec::new();
    notes.extend(fp8_note(&weights));
    let heads = Heads::of(&params)?;
    let (weights, heads) = without_twins(weights, heads, folder, &mut notes)?;
    let guess = (&*name, options.context_length);
    let hyperparameters = hyperparameters(&params, heads, &*weights, folder, guess, &mut notes)?;
    let base = Base {
        folder,
        name: &name,
        architecture: &LLAMA,
        naming: Naming::Meta,
        hyperparameters: &hyperparameters,
    };
    let weights = lora::merge(weights, &options.lora, &base, &mut notes)?;
    let mut mapped = LLAMA.map_tensors(folder, &*weights, Naming::Meta, &hyperparameters)?;

    notes.extend(rope_note(&hyperparameters));
    if let Some(tied) = TiedOutput::find(&*weights, &mapped)? {
        notes.push(tied.drop_from(&mut mapped));
    }
    let names = match hyperparameters.rope_scaling {
        RopeScaling::Llama3(_) => SpecialNames::Llama31,
        _ => SpecialNames::Llama3,
    };
    let size = hyperparameters.vocabulary as usize;
    let path = tokenizer_path(folder, &mut notes)?;
    let is_instruct = name.to_lowercase().contains("instruct");
    let tuning = if is_instruct { Tuning::Instruct } else { Tuning::Base };
    let llama3 = Llama3 { names, tuning, pre: options.pre };
    let vocabulary = tokenizer::open_meta(&path, size, llama3, &mut notes)?;

    let authorship = general::authorship(folder, None, &mapped, &mut notes);
    let metadata =
        general::metadata(&LLAMA, authorship, Vec::new(), &hyperparameters, &vocabulary, &mapped);
    Ok(Checkpoint::new(folder, metadata, weights, mapped, notes))
}

/// LLaMA 1 was distributed with the tokenizer beside the folders of the models.
fn tokenizer_path(folder: &Path, notes: &mut Vec<Note>) -> Result<PathBuf> {
    const NAME: &str = "tokenizer.model";
    let inside = folder.join(NAME);
    if inside.exists() {
        return Ok(inside);
    }
    // Through "..", so that it is the folder's own parent also where the path is "." or a link.
    let above = folder.join("..").join(NAME);
    if above.exists() {
        notes.push(Note(format!("{NAME} is taken from the folder above")));
        return Ok(above);
    }
    let looked_for = format!("{NAME}, nor in the folder above");
    Err(Error::MissingFile { folder: folder.to_path_buf(), looked_for })
}

/// How the attention is cut into heads.
#[derive(Clone, Copy, Debug)]
struct Heads {
    embedding: u32,
    heads: u32,
    kv_heads: u32,
}

impl Heads {
    fn of(params: &JsonFile) -> Result<Heads> {
        let heads = params.count("n_heads")?;
        let kv_heads = params.optional_count("n_kv_heads")?.unwrap_or(heads);
        Ok(Heads { embedding: params.count("dim")?, heads, kv_heads })
    }

    fn head_dim(self) -> u32 {
        self.embedding.checked_div(self.heads).unwrap_or(0)
    }
}

/// Leaves out the second of each two equal key-value heads, where grouped queries were cut into as
/// many shards as `params.json` says there are such heads.
fn without_twins(
    weights: ModelParallel,
    heads: Heads,
    folder: &Path,
    notes: &mut Vec<Note>,
) -> Result<(Box<dyn Weights>, Heads)> {
    let Heads { kv_heads, .. } = heads;
    let head_rows = u64::from(heads.head_dim());
    let may_have = kv_heads < heads.heads && u64::from(kv_heads) == weights.shards() as u64;
    if !may_have || !twin_heads::has_twins(&weights, kv_heads.into(), head_rows)? {
        return Ok((Box::new(weights), heads));
    }
    let kept = kv_heads / 2;
    notes.push(Note(format!(
        "the {kv_heads} key-value heads are {kept}, each in two shards: {kept} are written"
    )));
    let weights = TwinHeads::new(weights, kv_heads.into(), head_rows, folder);
    Ok((Box::new(weights), Heads { kv_heads: kept, ..heads }))
}

fn fp8_note(weights: &ModelParallel) -> Option<Note> {
    let count = Some(weights.fp8_tensors()).filter(|&count| count > 0)?;
    Some(Note(format!(
        "{count} tensors are FP8 (E4M3) with a scale per row: read as BF16, rounded"
    )))
}

fn hyperparameters(
    params: &JsonFile,
    shape: Heads,
    weights: &dyn Weights,
    folder: &Path,
    (name, context_length): (&str, Option<u32>),
    notes: &mut Vec<Note>,
) -> Result<Hyperparameters> {
    if params.get("moe").is_some() {
        return Err(params.unsupported("moe", "experts".to_owned(), "dense models"));
    }
    let Heads { embedding, heads, kv_heads } = shape;
    let rope_theta = params.optional_float("rope_theta")?.unwrap_or(10000.0);
    let norm_epsilon = params.float("norm_eps")?;
    let rope_scaling = match params.optional_bool("use_scaled_rope")? {
        Some(true) => RopeScaling::Llama3(llama3_rope(embedding)),
        Some(false) | None => RopeScaling::None,
    };
    let context_length = context_length.unwrap_or_else(|| {
        let rope_scaling = &rope_scaling;
        let signs = Signs { rope_theta, rope_scaling, norm_epsilon, heads, kv_heads, name };
        let generation = Generation::of(&signs);
        notes.push(generation.note());
        generation.context_length
    });
    Hyperparameters {
        layers: params.count("n_layers")?,
        context_length,
        embedding,
        // params.json has only the ingredients of these two; LLaMA 1 and 2 say -1 for the latter.
        feed_forward: rows_of("layers.0.feed_forward.w1.weight", weights, folder)?,
        vocabulary: rows_of("tok_embeddings.weight", weights, folder)?,
        heads,
        kv_heads,
        head_dim: shape.head_dim(),
        rope_theta,
        rope_scaling,
        norm_epsilon,
        experts: None,
    }
    .checked(params.path(), Naming::Meta)
}

fn rope_note(hyperparameters: &Hyperparameters) -> Option<Note> {
    let RopeScaling::Llama3(rope) = &hyperparameters.rope_scaling else { return None };
    Some(Note(format!(
        "use_scaled_rope has no factor; {} follows from dim {} (32 for the small models of \
         Llama 3.2, else 8)",
        rope.factor, hyperparameters.embedding
    )))
}

/// Rows of a tensor that every model has.
pub(super) fn rows_of(name: &str, weights: &dyn Weights, folder: &Path) -> Result<u32> {
    let tensor = weights.tensors().iter().find(|tensor| tensor.name == name);
    let tensor = tensor.ok_or_else(|| Error::MissingTensor {
        path: folder.to_path_buf(),
        tensor: name.to_owned(),
        nearest: None,
    })?;
    u32::try_from(tensor.rows()).map_err(|_| Error::Shape {
        path: folder.to_path_buf(),
        tensor: name.to_owned(),
        expected: vec![u32::MAX.into(), tensor.columns()],
        found: tensor.shape.clone(),
    })
}
