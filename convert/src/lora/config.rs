//! `adapter_config.json`: what PEFT's `LoraConfig` says of strength and rank.

use std::path::Path;

use fancy_regex::{Regex, RegexBuilder};
use llq_gguf::{Array, Value};
use serde_json::Value as Json;

use crate::{Note, error::Result, json::JsonFile};

/// The file that makes a folder an adapter.
pub(crate) const CONFIG: &str = "adapter_config.json";

/// Beyond what any adapter has: one pattern per module. Each is tried on each module.
const MAX_PATTERNS: usize = 1 << 12;

/// Of one compiled pattern, in bytes.
const MAX_PATTERN: usize = 1 << 16;

/// Beyond what any adapter has: a row of a factor has to fit into memory.
const MAX_RANK: u64 = 1 << 16;

/// Beyond what any adapter has: what follows from it has to stay finite.
const MAX_ALPHA: f64 = 1e30;

/// How strong an adapter is.
#[derive(Debug)]
pub(crate) struct Config {
    file: JsonFile,
    rank: u64,
    alpha: f64,
    scaling: Scaling,
    rank_pattern: Patterns,
    alpha_pattern: Patterns,
    /// Whether rows are scaled to learned lengths.
    pub(super) decomposition: Decomposition,
}

/// How the scaling follows from alpha and rank.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Scaling {
    /// alpha / rank.
    Plain,
    /// alpha / √rank (Kalajdzievski 2023, <https://arxiv.org/abs/2312.03732>).
    RankStabilized,
}

/// Whether magnitude and direction are learned apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Decomposition {
    None,
    /// DoRA (Liu et al. 2024, <https://arxiv.org/abs/2402.09353>).
    Dora,
}

/// Alpha, rank and what follows from them, for one module.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Strength {
    pub(crate) rank: u64,
    pub(crate) alpha: f64,
    /// What B·A is multiplied by.
    pub(crate) scaling: f64,
}

impl Config {
    pub(super) fn open(folder: &Path) -> Result<Config> {
        let file = JsonFile::open(&folder.join(CONFIG))?;
        check_supported(&file)?;
        let rank = u64::from(file.count("r")?);
        if !is_rank(rank) {
            return Err(file.error("r", RANK, rank.to_string()));
        }
        let number =
            |value: &Json| value.as_f64().filter(|alpha| (1e-30..MAX_ALPHA).contains(&alpha.abs()));
        let alpha = file.get("lora_alpha");
        let alpha = alpha.and_then(number).ok_or_else(|| {
            let found = alpha.map_or_else(|| "absent".to_owned(), Json::to_string);
            file.error("lora_alpha", "a number of a magnitude from 1e-30 to 1e30", found)
        })?;
        let scaling = match file.optional_bool("use_rslora")? {
            Some(true) => Scaling::RankStabilized,
            _ => Scaling::Plain,
        };
        let decomposition = match file.optional_bool("use_dora")? {
            Some(true) => Decomposition::Dora,
            _ => Decomposition::None,
        };
        let rank_pattern = Patterns::read(&file, "rank_pattern")?;
        let alpha_pattern = Patterns::read(&file, "alpha_pattern")?;
        Ok(Config { file, rank, alpha, scaling, rank_pattern, alpha_pattern, decomposition })
    }

    /// The strength of the module, by Hugging Face's name.
    pub(super) fn strength(&self, module: &str) -> Result<Strength> {
        let rank = match self.rank_pattern.find(&self.file, module)? {
            Some(pattern) => {
                let rank = pattern.value.as_u64().filter(|&rank| is_rank(rank));
                rank.ok_or_else(|| self.pattern_error(&self.rank_pattern, pattern, RANK))?
            }
            None => self.rank,
        };
        let alpha = match self.alpha_pattern.find(&self.file, module)? {
            Some(pattern) => {
                let alpha = pattern.value.as_f64().filter(|alpha| alpha.abs() < MAX_ALPHA);
                alpha.ok_or_else(|| self.pattern_error(&self.alpha_pattern, pattern, ALPHA))?
            }
            None => self.alpha,
        };
        let scaling = match self.scaling {
            Scaling::Plain => alpha / rank as f64,
            Scaling::RankStabilized => alpha / (rank as f64).sqrt(),
        };
        Ok(Strength { rank, alpha, scaling })
    }

    fn pattern_error(
        &self,
        patterns: &Patterns,
        pattern: &Pattern,
        expected: &str,
    ) -> crate::Error {
        let key = format!("{}.{}", patterns.key, pattern.text);
        self.file.error(&key, expected, pattern.value.to_string())
    }

    /// The one alpha of a GGUF adapter, whose loaders scale by alpha / rank.
    pub(crate) fn gguf_alpha(&self) -> f64 {
        match self.scaling {
            Scaling::Plain => self.alpha,
            Scaling::RankStabilized => self.alpha * (self.rank as f64).sqrt(),
        }
    }

    /// What makes `alpha / rank` of a GGUF adapter the scaling of the module; 1 where its alpha and
    /// its rank are those of all.
    pub(crate) fn gguf_factor(&self, strength: &Strength) -> f64 {
        let same_rank = self.scaling == Scaling::Plain || strength.rank == self.rank;
        match same_rank && strength.alpha == self.alpha {
            true => 1.0,
            false => strength.scaling * strength.rank as f64 / self.gguf_alpha(),
        }
    }

    /// The note that a GGUF adapter's alpha is not the configuration's.
    pub(crate) fn gguf_note(&self) -> Option<Note> {
        let Config { rank, alpha, .. } = *self;
        (self.scaling == Scaling::RankStabilized).then(|| {
            let written = self.gguf_alpha() as f32;
            Note(format!(
                "use_rslora: adapter.lora.alpha is {written}, {alpha} times the root of the rank \
                 {rank}, as loaders divide by the rank"
            ))
        })
    }

    /// Whether the change holds for every token, as that of a merged model does.
    pub(super) fn check_mergeable(&self) -> Result<()> {
        match self.file.get(INVOCATION) {
            None => Ok(()),
            Some(tokens) => {
                let supported = "merging adapters that are always active";
                Err(self.file.unsupported(INVOCATION, tokens.to_string(), supported))
            }
        }
    }

    /// The tokens after which an aLoRA adapter becomes active, for GGUF.
    pub(crate) fn invocation_tokens(&self) -> Result<Option<Value>> {
        let Some(tokens) = self.file.get(INVOCATION) else { return Ok(None) };
        let ids = tokens.as_array().and_then(|ids| {
            ids.iter().map(|id| u32::try_from(id.as_u64()?).ok()).collect::<Option<Vec<u32>>>()
        });
        let ids = ids.ok_or_else(|| {
            self.file.error(INVOCATION, "a list of token ids", tokens.to_string())
        })?;
        Ok(Some(Value::Array(Array::U32(ids))))
    }

    /// The note that the adapter was trained on a model of another name, where that is plain.
    pub(super) fn other_base(&self, base: &str) -> Option<Note> {
        let path = self.file.get("base_model_name_or_path")?.as_str()?;
        let name = path.trim_end_matches(['/', '\\']).rsplit(['/', '\\']).next()?;
        let letters = |name: &str| -> String {
            name.to_lowercase().chars().filter(|c| c.is_alphanumeric()).collect()
        };
        let (trained, given) = (letters(name), letters(base));
        let alike = trained.contains(&given) || given.contains(&trained);
        (!alike).then(|| Note(format!("the adapter was trained on {name:?}; the base is {base:?}")))
    }

    /// Settings that could surprise.
    pub(crate) fn notes(&self) -> Vec<Note> {
        let mut notes = Vec::new();
        if self.file.get("fan_in_fan_out").and_then(Json::as_bool) == Some(true) {
            notes.push(Note(
                "fan_in_fan_out is for weights stored with a row per input; as with PEFT it is \
                 without effect here, where a row is an output"
                    .to_owned(),
            ));
        }
        let init = self.file.get("init_lora_weights").and_then(Json::as_str);
        let changes_base = |init: &str| CHANGE_THE_BASE.iter().any(|name| init.starts_with(name));
        notes.extend(init.filter(|init| changes_base(init)).map(|init| {
            Note(format!(
                "init_lora_weights is {init:?}, which changes the base before training: the \
                 adapter fits only a base changed like that"
            ))
        }));
        notes
    }
}

const INVOCATION: &str = "alora_invocation_tokens";

/// Initialisations that take from the base what they put into the factors.
const CHANGE_THE_BASE: &[&str] = &["pissa", "olora", "corda", "loftq", "lora_ga"];

const ALPHA: &str = "a number of a magnitude below 1e30";
const RANK: &str = "1 to 65536";

fn is_rank(rank: u64) -> bool {
    (1..=MAX_RANK).contains(&rank)
}

/// Whether the adapter is one whose tensors alone say all.
fn check_supported(file: &JsonFile) -> Result<()> {
    match file.get("peft_type") {
        Some(Json::String(kind)) if kind == "LORA" => {}
        Some(Json::String(kind)) => {
            return Err(file.unsupported("peft_type", kind.clone(), "LORA"));
        }
        other => {
            let found = other.map_or_else(|| "absent".to_owned(), Json::to_string);
            return Err(file.error("peft_type", "\"LORA\"", found));
        }
    }
    for (key, supported) in [
        ("layer_replication", "the layers of the base as they are"),
        ("lora_bias", "factors without biases"),
        ("trainable_token_indices", "whole embeddings, as modules_to_save has them"),
        ("target_parameters", "target_modules"),
    ] {
        let asked = |value: &&Json| match value {
            Json::Bool(on) => *on,
            Json::Array(list) => !list.is_empty(),
            Json::Object(map) => !map.is_empty(),
            _ => true,
        };
        if let Some(value) = file.get(key).filter(asked) {
            return Err(file.unsupported(key, value.to_string(), supported));
        }
    }
    Ok(())
}

/// Values for modules whose names match.
#[derive(Debug)]
struct Patterns {
    key: &'static str,
    patterns: Vec<Pattern>,
}

#[derive(Debug)]
struct Pattern {
    text: String,
    regex: Regex,
    value: Json,
}

impl Patterns {
    fn read(file: &JsonFile, key: &'static str) -> Result<Patterns> {
        let mut patterns = Vec::new();
        let object = file.optional_object(key)?;
        if let Some(object) = object.filter(|object| object.len() > MAX_PATTERNS) {
            let expected = format!("at most {MAX_PATTERNS} patterns");
            return Err(file.error(key, &expected, object.len().to_string()));
        }
        for (text, value) in object.into_iter().flatten() {
            // PEFT's rule: the end of the name, from a dot on.
            let regex = RegexBuilder::new(&format!(r"^(?:.*\.)?(?:{text})$"))
                .delegate_size_limit(MAX_PATTERN)
                .backtrack_limit(10_000)
                .build()
                .map_err(|error| file.error(key, "regular expressions", error.to_string()))?;
            patterns.push(Pattern { text: text.clone(), regex, value: value.clone() });
        }
        Ok(Patterns { key, patterns })
    }

    /// The first that matches.
    fn find(&self, file: &JsonFile, module: &str) -> Result<Option<&Pattern>> {
        for pattern in &self.patterns {
            let is_match = pattern.regex.is_match(module).map_err(|error| {
                file.error(self.key, "regular expressions", format!("{}: {error}", pattern.text))
            })?;
            if is_match {
                return Ok(Some(pattern));
            }
        }
        Ok(None)
    }
}
