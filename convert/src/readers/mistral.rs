//! A Mistral folder: `params.json`, `consolidated.safetensors` with Meta's names, a tokenizer.

use std::path::Path;

use super::{
    OpenOptions,
    checkpoint::Checkpoint,
    general,
    hugging_face::sliding_window_note,
    quantized::{refusal, refuse_quantized_tensors},
};
use crate::{
    Error, Note,
    arch::{Experts, Hyperparameters, LLAMA, MIXTRAL, MappedTensor, Naming, RopeScaling},
    error::Result,
    json::JsonFile,
    lora::{self, Base},
    tokenizer::{self, Llama3, SpecialNames, Tuning, Vocabulary},
    weights::folder::{Form, WeightFolder},
};

/// Whether `folder` has a model in this form.
pub(super) fn is_in(folder: &Path) -> bool {
    folder.join("params.json").exists() && Form::CONSOLIDATED.is_in(folder)
}

pub(super) fn open(folder: &Path, options: &OpenOptions) -> Result<Checkpoint> {
    let params = JsonFile::open(&folder.join("params.json"))?;
    check_supported(&params)?;
    let mut notes = Vec::new();
    let hyperparameters = hyperparameters(&params, &mut notes)?;
    let architecture = if hyperparameters.experts.is_some() { &MIXTRAL } else { &LLAMA };
    let weights = WeightFolder::open(folder, &[Form::CONSOLIDATED], &mut notes)?;
    refuse_quantized_tensors(folder, &weights)?;
    let (name, naming) = (general::base_name(folder, None), Naming::Meta);
    let base =
        Base { folder, name: &name, architecture, naming, hyperparameters: &hyperparameters };
    let weights = lora::merge(Box::new(weights), &options.lora, &base, &mut notes)?;
    let mapped = architecture.map_tensors(folder, &*weights, naming, &hyperparameters)?;
    check_tied(&params, &mapped)?;

    let size = hyperparameters.vocabulary as usize;
    let vocabulary = vocabulary(folder, size, options, &mut notes)?;

    let authorship = general::authorship(folder, None, &mapped, &mut notes);
    let metadata = general::metadata(
        architecture,
        authorship,
        Vec::new(),
        &hyperparameters,
        &vocabulary,
        &mapped,
    );
    Ok(Checkpoint::new(folder, metadata, weights, mapped, notes))
}

/// Refuses models of other shapes that are published in this form.
fn check_supported(params: &JsonFile) -> Result<()> {
    if let Some(quantization) = params.get("quantization") {
        let method = quantization.get("qformat_weight").and_then(|format| format.as_str());
        let evidence = "params.json has quantization".to_owned();
        return Err(refusal(params.path(), method.unwrap_or("an unknown method"), evidence));
    }
    const OTHERS: [&str; 5] =
        ["vision_encoder", "audio_encoder", "yarn", "llama_4_scaling", "lora"];
    match OTHERS.into_iter().find(|key| params.get(key).is_some()) {
        Some(key) => Err(params.unsupported(key, "set".to_owned(), "models without it")),
        None => Ok(()),
    }
}

fn hyperparameters(params: &JsonFile, notes: &mut Vec<Note>) -> Result<Hyperparameters> {
    let embedding = params.count("dim")?;
    let heads = params.count("n_heads")?;
    let head_dim = params.optional_count("head_dim")?;
    let context_length = context_length(params, notes)?;
    notes.extend(sliding_window_note(params, context_length)?);
    Hyperparameters {
        layers: params.count("n_layers")?,
        context_length,
        embedding,
        feed_forward: params.count("hidden_dim")?,
        heads,
        kv_heads: params.optional_count("n_kv_heads")?.unwrap_or(heads),
        head_dim: head_dim.or(embedding.checked_div(heads)).unwrap_or(0),
        vocabulary: params.count("vocab_size")?,
        rope_theta: rope_theta(params, notes)?,
        rope_scaling: RopeScaling::None,
        norm_epsilon: params.float("norm_eps")?,
        experts: params.optional_part("moe")?.map(|moe| experts(&moe)).transpose()?,
    }
    .checked(params.path(), Naming::Meta)
}

/// Without an output projection, a model has to say that the embedding serves as one.
fn check_tied(params: &JsonFile, mapped: &[MappedTensor]) -> Result<()> {
    const KEY: &str = "tied_embeddings";
    let tied = params.optional_bool(KEY)? == Some(true);
    if tied || mapped.iter().any(|tensor| tensor.spec.name == "output.weight") {
        return Ok(());
    }
    let found = params.get(KEY).map_or_else(|| "absent".to_owned(), ToString::to_string);
    Err(params.error(KEY, "true, as there is no tensor output.weight", found))
}

fn experts(moe: &JsonFile) -> Result<Experts> {
    Ok(Experts { count: moe.count("num_experts")?, used: moe.count("num_experts_per_tok")? })
}

/// In tokens. Only newer files say it.
fn context_length(params: &JsonFile, notes: &mut Vec<Note>) -> Result<u32> {
    /// Of Mistral 7B and Mixtral 8x7B; larger models have more.
    const FIRST_MODELS: u32 = 32768;
    for key in ["max_position_embeddings", "max_seq_len"] {
        if let Some(length) = params.optional_count(key)? {
            return Ok(length);
        }
    }
    notes.push(Note(format!(
        "params.json has no context length; {FIRST_MODELS} is that of Mistral 7B and Mixtral 8x7B"
    )));
    Ok(FIRST_MODELS)
}

/// The default is Mistral's code's: the models with a sliding window, which were the first, have
/// LLaMA's base.
fn rope_theta(params: &JsonFile, notes: &mut Vec<Note>) -> Result<f32> {
    if let Some(theta) = params.optional_float("rope_theta")? {
        return Ok(theta);
    }
    let window = params.optional_count("sliding_window")?;
    let (theta, has) = if window.is_some() { (1e4, "has a") } else { (1e6, "has no") };
    notes.push(Note(format!(
        "params.json has no rope_theta; {theta} follows, as it {has} sliding_window"
    )));
    Ok(theta)
}

/// From `tekken.json`, the latest `tokenizer.model.vN` or `tokenizer.model`, in the order of
/// Mistral's code.
fn vocabulary(
    folder: &Path,
    size: usize,
    options: &OpenOptions,
    notes: &mut Vec<Note>,
) -> Result<Vocabulary> {
    const SENTENCE_PIECE: &str = "tokenizer.model";
    let tekken = folder.join("tekken.json");
    if tekken.exists() {
        return tokenizer::open_tekken(&tekken, size, options.pre, notes);
    }
    let entries = folder.read_dir().map_err(Error::io(folder))?;
    let names = entries.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned());
    let version = |name: &str| {
        let ending = name.strip_prefix(SENTENCE_PIECE)?;
        if ending.is_empty() {
            return Some(0);
        }
        ending.strip_prefix(".v")?.split(|c: char| !c.is_ascii_digit()).next()?.parse::<u32>().ok()
    };
    // Of one version in two forms the last by name, so that the order of the folder says nothing.
    let latest = names.filter_map(|name| Some((version(&name)?, name))).max();
    let (_, name) = latest.ok_or_else(|| {
        let looked_for = format!("tekken.json, and no {SENTENCE_PIECE}");
        Error::MissingFile { folder: folder.to_path_buf(), looked_for }
    })?;
    let llama3 = Llama3 { names: SpecialNames::Llama3, tuning: Tuning::Base, pre: options.pre };
    tokenizer::open_meta(&folder.join(name), size, llama3, notes)
}
