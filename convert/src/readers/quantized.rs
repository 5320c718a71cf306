//! Checkpoints whose weights were quantized before they were published, which llq does not read.

use std::path::Path;

use crate::{Error, Note, error::Result, json::JsonFile, weights::Weights};

/// Ends of names that only tensors of quantized models have, and the method; the first that is found
/// tells it.
const MARKS: &[(&str, &str)] = &[
    (".g_idx", "GPTQ"),
    (".qweight", "GPTQ or AWQ"),
    (".SCB", "bitsandbytes, 8 bits"),
    (".absmax", "bitsandbytes, 4 bits"),
    (".quant_map", "bitsandbytes, 4 bits"),
    (".weight_scale_inv", "FP8 by blocks"),
    (".weight_packed", "compressed-tensors"),
    (".weight_scale", "compressed-tensors or FP8"),
    (".qscale_weight", "Mistral's FP8"),
    (".q_weight", "EXL2"),
    (".W_q", "HQQ"),
    (".scales", "MLX"),
];

/// What `config.json` says of quantization.
pub(super) struct DeclaredQuantization {
    method: Option<String>,
}

impl DeclaredQuantization {
    /// Refuses what the config says is quantized. Only bitsandbytes leaves its word in the config
    /// of models that were merged and saved unquantized: there the tensors decide.
    pub(super) fn read(config: &JsonFile) -> Result<DeclaredQuantization> {
        const MLX: &str = "quantization";
        const KEYS: [&str; 3] = [MLX, "quantization_config", "compression_config"];
        let Some((key, value)) = KEYS.iter().find_map(|key| Some((*key, config.get(key)?))) else {
            return Ok(DeclaredQuantization { method: None });
        };
        let is_true = |key: &str| value.get(key).and_then(|flag| flag.as_bool()) == Some(true);
        let method = match value.get("quant_method").and_then(|method| method.as_str()) {
            Some(method) => method,
            None if is_true("load_in_8bit") || is_true("load_in_4bit") => BITSANDBYTES,
            None if key == MLX => "MLX",
            None => "an unknown method",
        };
        if method != BITSANDBYTES {
            let evidence = format!("config.json has {key}");
            return Err(refusal(config.path(), method, evidence));
        }
        Ok(DeclaredQuantization { method: Some(method.to_owned()) })
    }

    /// Refuses tensors that are quantized by their names.
    pub(super) fn check_tensors(
        self,
        folder: &Path,
        weights: &dyn Weights,
        notes: &mut Vec<Note>,
    ) -> Result<()> {
        refuse_quantized_tensors(folder, weights)?;
        notes.extend(self.method.map(|method| {
            Note(format!(
                "config.json says {method}, but no tensor is quantized: taken as they are"
            ))
        }));
        Ok(())
    }
}

const BITSANDBYTES: &str = "bitsandbytes";

/// Refuses tensors that are quantized by their names.
pub(super) fn refuse_quantized_tensors(folder: &Path, weights: &dyn Weights) -> Result<()> {
    for (end, method) in MARKS {
        let names = weights.tensors().iter().map(|tensor| tensor.name.as_str());
        if let Some(name) = names.filter(|name| name.ends_with(end)).min() {
            return Err(refusal(folder, method, format!("there is a tensor {name:?}")));
        }
    }
    Ok(())
}

pub(super) fn refusal(path: &Path, method: &str, evidence: String) -> Error {
    Error::QuantizedCheckpoint { path: path.to_path_buf(), method: method.to_owned(), evidence }
}
