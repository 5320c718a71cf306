//! A Meta folder: `params.json`, `consolidated.NN.pth`, `tokenizer.model`.

use std::path::Path;

use super::{OpenOptions, checkpoint::Checkpoint, general};
use crate::{
    Error, Note,
    arch::{Hyperparameters, LLAMA, Llama3Rope, MappedTensor, Naming, Origin, RopeScaling},
    error::Result,
    json::JsonFile,
    lora::{self, Base},
    source::{row_bytes, rows},
    tokenizer::{self, SpecialNames},
    weights::{Weights, model_parallel::ModelParallel},
};

pub(super) fn open(folder: &Path, options: &OpenOptions) -> Result<Checkpoint> {
    let params = JsonFile::open(&folder.join("params.json"))?.nested_under("model");
    let embedding = u64::from(params.count("dim")?);
    let weights = ModelParallel::open(
        folder,
        |piece, shards| LLAMA.model_parallel_cut(piece, shards, embedding, folder),
        |pieces| LLAMA.shard_count(pieces, embedding),
    )?;
    let hyperparameters = hyperparameters(&params, &weights, folder)?;
    let mut notes = vec![context_length_note(&hyperparameters)];
    let name = general::model_name(folder);
    let base = Base {
        folder,
        name: &name,
        architecture: &LLAMA,
        naming: Naming::Meta,
        hyperparameters: &hyperparameters,
    };
    let weights = lora::merge(Box::new(weights), &options.lora, &base, &mut notes)?;
    let mut mapped = LLAMA.map_tensors(folder, &*weights, Naming::Meta, &hyperparameters)?;

    notes.extend(rope_note(&hyperparameters));
    notes.extend(drop_tied_output(&*weights, &mut mapped)?);
    let names = match hyperparameters.rope_scaling {
        RopeScaling::Llama3(_) => SpecialNames::Llama31,
        _ => SpecialNames::Llama3,
    };
    let size = hyperparameters.vocabulary as usize;
    let path = tokenizer_path(folder)?;
    let vocabulary = tokenizer::open_meta(&path, size, names, options.pre(), &mut notes)?;

    let metadata =
        general::metadata(&LLAMA, &name, Vec::new(), &hyperparameters, &vocabulary, &mapped);
    Ok(Checkpoint::new(folder, metadata, weights, mapped, notes))
}

/// Leaves the output projection out where it is the token embedding once more, as in the small
/// models of Llama 3.2: loaders take the embedding in its place.
fn drop_tied_output(weights: &dyn Weights, mapped: &mut Vec<MappedTensor>) -> Result<Option<Note>> {
    let find = |name: &str| mapped.iter().position(|tensor| tensor.spec.name == name);
    let (Some(embedding), Some(output)) = (find("token_embd.weight"), find("output.weight")) else {
        return Ok(None);
    };
    if !are_equal(weights, &mapped[embedding], &mapped[output])? {
        return Ok(None);
    }
    mapped.remove(output);
    Ok(Some(Note("output.weight equals tok_embeddings.weight and is left out".to_owned())))
}

/// Reads no further than the first rows that differ.
fn are_equal(weights: &dyn Weights, a: &MappedTensor, b: &MappedTensor) -> Result<bool> {
    const AT_ONCE: u64 = 1 << 20;
    let (&Origin::Published(first), &Origin::Published(second)) = (&a.origin, &b.origin) else {
        return Ok(false);
    };
    if a.spec.shape != b.spec.shape || a.spec.tensor_type != b.spec.tensor_type {
        return Ok(false);
    }
    let (rows, row_bytes) = (rows(&a.spec), row_bytes(&a.spec));
    let step = (AT_ONCE / row_bytes.max(1)).max(1);
    let (mut left, mut right) = (Vec::new(), Vec::new());
    let mut start = 0;
    while start < rows {
        let some = start..rows.min(start + step);
        let bytes = ((some.end - some.start) * row_bytes) as usize;
        left.resize(bytes, 0);
        right.resize(bytes, 0);
        weights.read_rows(first, some.clone(), &mut left)?;
        weights.read_rows(second, some.clone(), &mut right)?;
        if left != right {
            return Ok(false);
        }
        start = some.end;
    }
    Ok(true)
}

/// LLaMA 1 was distributed with the tokenizer beside the folders of the models.
fn tokenizer_path(folder: &Path) -> Result<std::path::PathBuf> {
    const NAME: &str = "tokenizer.model";
    let inside = folder.join(NAME);
    let beside = folder.parent().map(|parent| parent.join(NAME));
    [Some(inside), beside].into_iter().flatten().find(|path| path.exists()).ok_or_else(|| {
        let looked_for = format!("{NAME}, nor in the folder above");
        Error::MissingFile { folder: folder.to_path_buf(), looked_for }
    })
}

fn hyperparameters(
    params: &JsonFile,
    weights: &dyn Weights,
    folder: &Path,
) -> Result<Hyperparameters> {
    if params.get("moe").is_some() {
        return Err(params.unsupported("moe", "experts".to_owned(), "dense models"));
    }
    let embedding = params.count("dim")?;
    let heads = params.count("n_heads")?;
    let kv_heads = params.optional_count("n_kv_heads")?.unwrap_or(heads);
    let rope_theta = params.optional_float("rope_theta")?.unwrap_or(10000.0);
    let norm_epsilon = params.float("norm_eps")?;
    let rope_scaling = match params.optional_bool("use_scaled_rope")? {
        Some(true) => RopeScaling::Llama3(llama3_rope(embedding)),
        Some(false) | None => RopeScaling::None,
    };
    Hyperparameters {
        layers: params.count("n_layers")?,
        context_length: match rope_scaling {
            RopeScaling::None => context_length(rope_theta, norm_epsilon, (embedding, kv_heads)),
            _ => SCALED_CONTEXT,
        },
        embedding,
        // params.json has only the ingredients of these two; LLaMA 1 and 2 say -1 for the latter.
        feed_forward: rows_of("layers.0.feed_forward.w1.weight", weights, folder)?,
        vocabulary: rows_of("tok_embeddings.weight", weights, folder)?,
        heads,
        kv_heads,
        head_dim: embedding.checked_div(heads).unwrap_or(0),
        rope_theta,
        rope_scaling,
        norm_epsilon,
    }
    .checked(params.path(), Naming::Meta)
}

/// The length of training by generation, which Meta's files do not say: Code Llama has another
/// RoPE base, LLaMA 3 yet another; LLaMA 2 has another epsilon than LLaMA 1, but for the largest,
/// which differs from LLaMA 2's in having a key-value head for each of its 64 heads.
fn context_length(rope_theta: f32, norm_epsilon: f32, (width, kv_heads): (u32, u32)) -> u32 {
    match (rope_theta, norm_epsilon) {
        (1e6, _) => 16384,
        (5e5, _) => 8192,
        (_, 1e-5) if (width, kv_heads) != (8192, 64) => 4096,
        _ => 2048,
    }
}

/// The context of Llama 3.1 and later, in tokens.
const SCALED_CONTEXT: u32 = 131_072;

/// Llama 3.1's scaling, which Meta's own code applies to all models; the small ones of Llama 3.2
/// were trained with another factor (llama-models#166, #241).
fn llama3_rope(embedding: u32) -> Llama3Rope {
    /// The width of the 3B model.
    const SMALL: u32 = 3072;
    let factor = if embedding <= SMALL { 32.0 } else { Llama3Rope::DEFAULT.factor };
    Llama3Rope { factor, ..Llama3Rope::DEFAULT }
}

fn rope_note(hyperparameters: &Hyperparameters) -> Option<Note> {
    let RopeScaling::Llama3(rope) = &hyperparameters.rope_scaling else { return None };
    Some(Note(format!(
        "use_scaled_rope has no factor; {} follows from dim {} (32 for the small models of \
         Llama 3.2, else 8)",
        rope.factor, hyperparameters.embedding
    )))
}

fn context_length_note(hyperparameters: &Hyperparameters) -> Note {
    let Hyperparameters { context_length, rope_theta, norm_epsilon, .. } = hyperparameters;
    let from = match hyperparameters.rope_scaling {
        RopeScaling::None => {
            format!("rope_theta {rope_theta}, norm_eps {norm_epsilon} and the size")
        }
        _ => "use_scaled_rope".to_owned(),
    };
    Note(format!("params.json has no context length; {context_length} follows from {from}"))
}

fn rows_of(name: &str, weights: &dyn Weights, folder: &Path) -> Result<u32> {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_models_have_the_factor_of_llama_3_2() {
        let factors = [2048, 3072, 4096, 8192].map(|width| llama3_rope(width).factor);
        assert_eq!(factors, [32.0, 32.0, 8.0, 8.0]);
    }

    #[test]
    fn generations_are_told_apart() {
        let cases = [
            ("LLaMA 7B", (1e4, 1e-6, (4096, 32)), 2048),
            ("LLaMA 65B", (1e4, 1e-5, (8192, 64)), 2048),
            ("Llama 2 7B", (1e4, 1e-5, (4096, 32)), 4096),
            ("Llama 2 70B", (1e4, 1e-5, (8192, 8)), 4096),
            ("Code Llama 34B", (1e6, 1e-5, (8192, 8)), 16384),
            ("Llama 3 70B", (5e5, 1e-5, (8192, 8)), 8192),
        ];
        for (model, (theta, epsilon, size), expected) in cases {
            assert_eq!(context_length(theta, epsilon, size), expected, "{model}");
        }
    }
}
