//! A Hugging Face folder: `config.json`, safetensors or `pytorch_model.bin`, a tokenizer.

use std::path::Path;

use super::{
    OpenOptions, checkpoint::Checkpoint, general, quantized::DeclaredQuantization,
    tied_output::TiedOutput,
};
use crate::{
    Error, Note,
    arch::{
        ALL, Architecture, Experts, Hyperparameters, Llama3Rope, MappedTensor, Naming, RopeScaling,
    },
    error::Result,
    json::JsonFile,
    lora::{self, Base},
    tokenizer,
    weights::{
        Weights,
        folder::{Form, WeightFolder},
        plain_names::with_plain_names,
    },
};

/// The forms that weights have beside a `config.json`, the better ones first.
const WEIGHTS: &[Form] = &[Form::SAFETENSORS, Form::PYTORCH];

/// Whether `folder` has weights in one of these forms.
pub(super) fn has_weights(folder: &Path) -> bool {
    WEIGHTS.iter().any(|form| form.is_in(folder))
}

pub(super) fn open(folder: &Path, options: &OpenOptions) -> Result<Checkpoint> {
    let config = JsonFile::open(&folder.join("config.json"))?;
    let architecture = architecture(&config)?;
    let quantization = DeclaredQuantization::read(&config)?;
    check_activation(&config)?;
    check_rotation(&config)?;
    let mut notes = Vec::new();
    let hyperparameters = hyperparameters(&config, architecture, &mut notes)?;

    let weights = WeightFolder::open(folder, WEIGHTS, &mut notes)?;
    let weights = with_plain_names(Box::new(weights), folder, &mut notes)?;
    quantization.check_tensors(folder, &*weights, &mut notes)?;
    let named = config.get("_name_or_path").and_then(|name| name.as_str());
    let (name, naming) = (general::base_name(folder, named), Naming::HuggingFace);
    let base =
        Base { folder, name: &name, architecture, naming, hyperparameters: &hyperparameters };
    let weights = lora::merge(weights, &options.lora, &base, &mut notes)?;
    let mut mapped = architecture.map_tensors(folder, &*weights, naming, &hyperparameters)?;
    check_biases(&config, folder, &mapped)?;
    settle_tied(&config, &*weights, &mut mapped, &mut notes)?;
    let size = hyperparameters.vocabulary as usize;
    let vocabulary = tokenizer::open_hugging_face(folder, &config, size, options.pre, &mut notes)?;

    let authorship = general::authorship(folder, named, &mapped, &mut notes);
    let sampling = general::sampling(folder)?;
    let metadata = general::metadata(
        architecture,
        authorship,
        sampling,
        &hyperparameters,
        &vocabulary,
        &mapped,
    );
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
    let architecture = architecture(&config)?;
    // Its notes tell of the model, which is not what is converted.
    let hyperparameters = hyperparameters(&config, architecture, &mut Vec::new())?;
    let is_tied = config.optional_bool("tie_word_embeddings")? == Some(true);
    Ok(Configuration { architecture, hyperparameters, is_tied })
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
    ALL.iter().find(|known| known.model_types.contains(&model_type)).copied().ok_or_else(|| {
        let supported: Vec<&str> =
            ALL.iter().flat_map(|known| known.model_types).copied().collect();
        config.unsupported("model_type", model_type.to_owned(), &supported.join(", "))
    })
}

fn known_classes() -> String {
    let classes: Vec<&str> = ALL.iter().flat_map(|known| known.classes).copied().collect();
    classes.join(", ")
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

/// What the rotation of a part of each head asks of the rows' order is not done.
fn check_rotation(config: &JsonFile) -> Result<()> {
    const KEY: &str = "partial_rotary_factor";
    let rope = config.optional_part("rope_parameters")?;
    let rope = rope.map(|rope| rope.nested_under("full_attention"));
    for file in [Some(config), rope.as_ref()].into_iter().flatten() {
        if let Some(factor) = file.optional_float(KEY)?.filter(|&factor| factor != 1.0) {
            return Err(config.unsupported(KEY, factor.to_string(), "1, heads rotated whole"));
        }
    }
    Ok(())
}

/// Biases that the config promises must be there.
fn check_biases(config: &JsonFile, folder: &Path, mapped: &[MappedTensor]) -> Result<()> {
    const ATTENTION: &[&str] = &["attn_q", "attn_k", "attn_v", "attn_output"];
    const FEED_FORWARD: &[&str] = &["ffn_gate", "ffn_up", "ffn_down"];
    for (key, stems) in [("attention_bias", ATTENTION), ("mlp_bias", FEED_FORWARD)] {
        if config.optional_bool(key)? != Some(true) {
            continue;
        }
        let count = |suffix: &str| {
            let of_stem = |name: &str| stems.iter().any(|stem| name.contains(&format!(".{stem}.")));
            let names = mapped.iter().map(|tensor| tensor.spec.name.as_str());
            names.filter(|name| name.ends_with(suffix) && of_stem(name)).count()
        };
        let (weights, biases) = (count(".weight"), count(".bias"));
        if weights != biases {
            let problem = format!("{key} is true, but {weights} matrices have {biases} biases");
            return Err(Error::Shards { path: folder.to_path_buf(), problem });
        }
    }
    Ok(())
}

/// Without an output projection of its own, a model has to say that the embedding serves as one:
/// else a file is missing. Early checkpoints have no such key. Where the embedding serves, a stored
/// output projection is either the same once more, or the file knows better than the config.
fn settle_tied(
    config: &JsonFile,
    weights: &dyn Weights,
    mapped: &mut Vec<MappedTensor>,
    notes: &mut Vec<Note>,
) -> Result<()> {
    const KEY: &str = "tie_word_embeddings";
    let separate = mapped.iter().any(|tensor| tensor.spec.name == "output.weight");
    match (config.optional_bool(KEY)?, separate) {
        (Some(false), false) => {
            let expected = "true, as there is no tensor lm_head.weight";
            Err(config.error(KEY, expected, "false".to_owned()))
        }
        (Some(true), true) => {
            notes.push(match TiedOutput::find(weights, mapped)? {
                Some(tied) => tied.drop_from(mapped),
                None => Note(format!(
                    "config.json says {KEY}, but lm_head.weight is not model.embed_tokens.weight: \
                     it is kept"
                )),
            });
            Ok(())
        }
        _ => Ok(()),
    }
}

fn hyperparameters(
    config: &JsonFile,
    architecture: &Architecture,
    notes: &mut Vec<Note>,
) -> Result<Hyperparameters> {
    let embedding = config.count("hidden_size")?;
    let heads = config.count("num_attention_heads")?;
    let head_dim = match config.optional_count("head_dim")? {
        Some(head_dim) => head_dim,
        None => embedding.checked_div(heads).unwrap_or(0),
    };
    // Since version 5 of its library, Hugging Face keeps all of RoPE in one object.
    let rope = config.optional_part("rope_parameters")?;
    // Models whose layers may differ say it for each kind of layer.
    let rope = rope.map(|rope| rope.nested_under("full_attention"));
    let in_rope = rope.as_ref().map_or(Ok(None), |rope| rope.optional_float("rope_theta"))?;
    let theta = match in_rope {
        Some(theta) => Some(theta),
        None => config.optional_float("rope_theta")?,
    };
    let scaling = match rope {
        Some(rope) => Some(rope),
        None => config.optional_part("rope_scaling")?,
    };
    let context_length = context_length(config)?;
    notes.extend(sliding_window_note(config, context_length)?);
    let experts = architecture.has_experts().then(|| experts(config)).transpose()?;
    Hyperparameters {
        layers: config.count("num_hidden_layers")?,
        context_length,
        embedding,
        feed_forward: config.count("intermediate_size")?,
        heads,
        kv_heads: config.optional_count("num_key_value_heads")?.unwrap_or(heads),
        head_dim,
        vocabulary: config.count("vocab_size")?,
        rope_theta: theta.unwrap_or(10000.0),
        rope_scaling: match scaling {
            Some(scaling) => rope_scaling(&scaling, context_length, notes)?,
            None => RopeScaling::None,
        },
        norm_epsilon: config.float("rms_norm_eps")?,
        experts,
    }
    .checked(config.path(), Naming::HuggingFace)
}

fn experts(config: &JsonFile) -> Result<Experts> {
    let count = config.count("num_local_experts")?;
    Ok(Experts { count, used: config.count("num_experts_per_tok")? })
}

/// In tokens. The first configs have another key for it.
fn context_length(config: &JsonFile) -> Result<u32> {
    match config.optional_count("max_sequence_length")? {
        Some(length) if config.get("max_position_embeddings").is_none() => Ok(length),
        _ => config.count("max_position_embeddings"),
    }
}

/// Mistral's first models see no further back than their window. Files of GGUF's `llama` have no
/// word for that, and llama.cpp's converter leaves it out as well.
pub(super) fn sliding_window_note(config: &JsonFile, context_length: u32) -> Result<Option<Note>> {
    let window = config.optional_count("sliding_window")?.filter(|&window| window < context_length);
    Ok(window.map(|window| {
        Note(format!(
            "sliding_window {window} has no place in GGUF's llama: texts longer than that are seen \
             whole"
        ))
    }))
}

fn rope_scaling(
    scaling: &JsonFile,
    context_length: u32,
    notes: &mut Vec<Note>,
) -> Result<RopeScaling> {
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
        // It changes nothing up to the context of training.
        Some("dynamic") => {
            notes.push(Note(format!(
                "rope_scaling dynamic acts beyond {context_length} tokens only and has no place in \
                 GGUF: it is left out"
            )));
            Ok(RopeScaling::None)
        }
        other => {
            let found = other.map_or_else(|| kind.to_string(), str::to_owned);
            let supported = "default, linear, llama3, yarn, dynamic";
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
        ("attn_factor", "rope.scaling.yarn_attn_factor"),
        ("beta_fast", "rope.scaling.yarn_beta_fast"),
        ("beta_slow", "rope.scaling.yarn_beta_slow"),
    ];
    let mut tuning: Vec<(&str, f32)> = Vec::new();
    for &(key, gguf) in KEYS {
        let value = scaling.optional_float(key)?;
        if tuning.iter().all(|&(known, _)| known != gguf) {
            tuning.extend(value.map(|value| (gguf, value)));
        }
    }
    Ok(tuning)
}
