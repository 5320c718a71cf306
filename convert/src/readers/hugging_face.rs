//! A Hugging Face folder: `config.json`, safetensors, a tokenizer.

use std::path::Path;

use llq_gguf::Value;

use super::{OpenOptions, checkpoint::Checkpoint, general};
use crate::{
    arch::{ALL, Architecture, Hyperparameters, Llama3Rope, MappedTensor, Naming, RopeScaling},
    error::Result,
    json::JsonFile,
    lora::{self, Base},
    tokenizer,
    weights::{Weights, safetensors_folder::SafetensorsFolder},
};

pub(super) fn open(folder: &Path, options: &OpenOptions) -> Result<Checkpoint> {
    let config = JsonFile::open(&folder.join("config.json"))?;
    let architecture = architecture(&config)?;
    check_not_quantized(&config)?;
    check_activation(&config)?;
    let hyperparameters = hyperparameters(&config)?;
    let name = config.get("_name_or_path").and_then(|name| name.as_str()).and_then(last_part);
    let name = name.unwrap_or_else(|| general::model_name(folder));

    let mut notes = Vec::new();
    let naming = Naming::HuggingFace;
    let weights: Box<dyn Weights> = Box::new(SafetensorsFolder::open(folder)?);
    let base =
        Base { folder, name: &name, architecture, naming, hyperparameters: &hyperparameters };
    let weights = lora::merge(weights, &options.lora, &base, &mut notes)?;
    let mapped = architecture.map_tensors(folder, &*weights, naming, &hyperparameters)?;
    check_tied(&config, &mapped)?;
    let size = hyperparameters.vocabulary as usize;
    let vocabulary =
        tokenizer::open_hugging_face(folder, &config, size, options.pre(), &mut notes)?;

    let sampling = sampling(folder)?;
    let metadata =
        general::metadata(architecture, &name, sampling, &hyperparameters, &vocabulary, &mapped);
    Ok(Checkpoint::new(folder, metadata, weights, mapped, notes))
}

/// What `config.json` says of a model, as far as an adapter to it needs that.
pub(super) struct Configuration {
    pub(super) architecture: &'static Architecture,
    pub(super) hyperparameters: Hyperparameters,
    /// Whether the token embedding serves as output projection.
    pub(super) is_tied: bool,
}

pub(super) fn configuration(folder: &Path) -> Result<Configuration> {
    let config = JsonFile::open(&folder.join("config.json"))?;
    Ok(Configuration {
        architecture: architecture(&config)?,
        hyperparameters: hyperparameters(&config)?,
        is_tied: config.optional_bool("tie_word_embeddings")? == Some(true),
    })
}

/// How the authors sample, by keys of GGUF. No more than advice: what is no number is left out.
fn sampling(folder: &Path) -> Result<Vec<(&'static str, Value)>> {
    const FLOATS: &[(&str, &str)] =
        &[("top_p", "top_p"), ("min_p", "min_p"), ("temperature", "temp")];
    let mut sampling = Vec::new();
    let path = folder.join("generation_config.json");
    let Some(config) = JsonFile::open_optional(&path)? else { return Ok(sampling) };
    let top_k = config.get("top_k").and_then(|count| i32::try_from(count.as_i64()?).ok());
    sampling.extend(top_k.map(|count| ("top_k", Value::I32(count))));
    for &(key, gguf) in FLOATS {
        let value = config.get(key).and_then(|value| value.as_f64());
        sampling.extend(value.map(|value| (gguf, Value::F32(value as f32))));
    }
    Ok(sampling)
}

/// The name in `owner/name`.
fn last_part(path: &str) -> Option<String> {
    let name = path.trim_end_matches('/').rsplit('/').next()?;
    let is_name = !name.is_empty() && !name.starts_with('.');
    is_name.then(|| name.to_owned())
}

/// By the class that loads it with Hugging Face; early files have only a model type.
fn architecture(config: &JsonFile) -> Result<&'static Architecture> {
    if let Some(classes) = config.get("architectures") {
        let class = classes.get(0).and_then(|class| class.as_str());
        let known = |known: &&&Architecture| class.is_some_and(|c| known.classes.contains(&c));
        return ALL.iter().find(known).copied().ok_or_else(|| {
            let found = class.map_or_else(|| classes.to_string(), str::to_owned);
            config.unsupported("architectures", found, &known_classes())
        });
    }
    let Some(model_type) = config.get("model_type").and_then(|model_type| model_type.as_str())
    else {
        let expected = format!("one of {}", known_classes());
        return Err(config.error("architectures", &expected, "absent".to_owned()));
    };
    ALL.iter().find(|known| known.model_type == model_type).copied().ok_or_else(|| {
        let supported: Vec<&str> = ALL.iter().map(|known| known.model_type).collect();
        config.unsupported("model_type", model_type.to_owned(), &supported.join(", "))
    })
}

fn known_classes() -> String {
    let classes: Vec<&str> = ALL.iter().flat_map(|known| known.classes).copied().collect();
    classes.join(", ")
}

fn check_not_quantized(config: &JsonFile) -> Result<()> {
    match config.get("quantization_config") {
        None => Ok(()),
        Some(quantization) => {
            let method = quantization.get("quant_method").and_then(|method| method.as_str());
            let found = method.map_or_else(|| "of unknown method".to_owned(), str::to_owned);
            let supported = "weights that are not quantized";
            Err(config.unsupported("quantization_config", found, supported))
        }
    }
}

/// Loaders of GGUF compute SwiGLU whatever the checkpoint was trained with.
fn check_activation(config: &JsonFile) -> Result<()> {
    const SWISH: [&str; 2] = ["silu", "swish"];
    match config.get("hidden_act") {
        None => Ok(()),
        Some(name) if name.as_str().is_some_and(|name| SWISH.contains(&name)) => Ok(()),
        Some(other) => {
            let found = other.as_str().map_or_else(|| other.to_string(), str::to_owned);
            Err(config.unsupported("hidden_act", found, &SWISH.join(", ")))
        }
    }
}

/// Without an output projection of its own, a model has to say that the embedding serves as one:
/// else a file is missing. Early checkpoints have no such key.
fn check_tied(config: &JsonFile, mapped: &[MappedTensor]) -> Result<()> {
    const KEY: &str = "tie_word_embeddings";
    let separate = mapped.iter().any(|tensor| tensor.spec.name == "output.weight");
    if !separate && config.optional_bool(KEY)? == Some(false) {
        let expected = "true, as there is no tensor lm_head.weight";
        return Err(config.error(KEY, expected, "false".to_owned()));
    }
    Ok(())
}

fn hyperparameters(config: &JsonFile) -> Result<Hyperparameters> {
    let embedding = config.count("hidden_size")?;
    let heads = config.count("num_attention_heads")?;
    let head_dim = match config.optional_count("head_dim")? {
        Some(head_dim) => head_dim,
        None => embedding.checked_div(heads).unwrap_or(0),
    };
    // Since version 5 of its library, Hugging Face keeps all of RoPE in one object.
    let rope = config.optional_part("rope_parameters")?;
    let in_rope = rope.as_ref().map_or(Ok(None), |rope| rope.optional_float("rope_theta"))?;
    let theta = match in_rope {
        Some(theta) => Some(theta),
        None => config.optional_float("rope_theta")?,
    };
    let scaling = match rope {
        Some(rope) => Some(rope),
        None => config.optional_part("rope_scaling")?,
    };
    Hyperparameters {
        layers: config.count("num_hidden_layers")?,
        context_length: config.count("max_position_embeddings")?,
        embedding,
        feed_forward: config.count("intermediate_size")?,
        heads,
        kv_heads: config.optional_count("num_key_value_heads")?.unwrap_or(heads),
        head_dim,
        vocabulary: config.count("vocab_size")?,
        rope_theta: theta.unwrap_or(10000.0),
        rope_scaling: scaling.map_or(Ok(RopeScaling::None), |scaling| rope_scaling(&scaling))?,
        norm_epsilon: config.float("rms_norm_eps")?,
    }
    .checked(config.path(), Naming::HuggingFace)
}

fn rope_scaling(scaling: &JsonFile) -> Result<RopeScaling> {
    const KEYS: [&str; 2] = ["rope_type", "type"];
    let Some((key, kind)) = KEYS.iter().find_map(|key| Some((*key, scaling.get(key)?))) else {
        return match scaling.get("factor") {
            Some(_) => Err(scaling.error("rope_type", "a string", "absent".to_owned())),
            None => Ok(RopeScaling::None),
        };
    };
    match kind.as_str() {
        Some("default") => Ok(RopeScaling::None),
        Some("linear") => Ok(RopeScaling::Linear { factor: scaling.float("factor")? }),
        Some("yarn") => Ok(RopeScaling::Yarn {
            factor: scaling.float("factor")?,
            original_context: scaling.optional_count("original_max_position_embeddings")?,
            tuning: yarn_tuning(scaling)?,
        }),
        Some("llama3") => llama3_scaling(scaling).map(RopeScaling::Llama3),
        other => {
            let found = other.map_or_else(|| kind.to_string(), str::to_owned);
            let supported = "default, linear, llama3, yarn";
            Err(scaling.unsupported(&format!("rope_scaling.{key}"), found, supported))
        }
    }
}

fn llama3_scaling(scaling: &JsonFile) -> Result<Llama3Rope> {
    const LOW: &str = "low_freq_factor";
    const HIGH: &str = "high_freq_factor";
    const ORIGINAL: &str = "original_max_position_embeddings";
    let default = Llama3Rope::DEFAULT;
    let rope = Llama3Rope {
        factor: scaling.optional_float("factor")?.unwrap_or(default.factor),
        low_freq_factor: scaling.optional_float(LOW)?.unwrap_or(default.low_freq_factor),
        high_freq_factor: scaling.optional_float(HIGH)?.unwrap_or(default.high_freq_factor),
        original_context: scaling.optional_count(ORIGINAL)?.unwrap_or(default.original_context),
    };
    let (low, high) = (rope.low_freq_factor, rope.high_freq_factor);
    if !(low.is_finite() && low > 0.0) {
        return Err(scaling.error(LOW, "a positive number", low.to_string()));
    }
    if !(high.is_finite() && high > low) {
        return Err(scaling.error(HIGH, &format!("more than {LOW} {low}"), high.to_string()));
    }
    if rope.original_context == 0 {
        return Err(scaling.error(ORIGINAL, "a positive number", "0".to_owned()));
    }
    Ok(rope)
}

fn yarn_tuning(scaling: &JsonFile) -> Result<Vec<(&'static str, f32)>> {
    const KEYS: &[(&str, &str)] = &[
        ("extrapolation_factor", "rope.scaling.yarn_ext_factor"),
        ("attention_factor", "rope.scaling.yarn_attn_factor"),
        ("beta_fast", "rope.scaling.yarn_beta_fast"),
        ("beta_slow", "rope.scaling.yarn_beta_slow"),
    ];
    let mut tuning = Vec::new();
    for &(key, gguf) in KEYS {
        tuning.extend(scaling.optional_float(key)?.map(|value| (gguf, value)));
    }
    Ok(tuning)
}
