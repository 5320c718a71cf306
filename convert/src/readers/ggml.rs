//! A legacy GGML file of 2023, in one part or in several.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use llq_gguf::{Metadata, Value};

use super::{OpenOptions, checkpoint::Checkpoint, general, meta::rows_of};
use crate::{
    Error, Note,
    arch::{Hyperparameters, LLAMA, Naming, RopeScaling},
    error::Result,
    tokenizer,
    weights::{
        Weights,
        ggml::{Container, Cost, GgmlFile, Header, Withdrawn},
        model_parallel::{ModelParallel, Shard},
    },
};

pub(super) fn open(path: &Path, options: &OpenOptions) -> Result<Checkpoint> {
    let first = GgmlFile::open(path, options.withdrawn)?;
    let header = *first.header();
    let mut notes = withdrawn_notes(&first, options.withdrawn);
    let vocabulary =
        tokenizer::open_ggml(path, first.vocabulary(), header.vocabulary as usize, &mut notes)?;
    notes.extend(options.pre.map(|_| Note::pre_not_used()));

    let parts = open_parts(first, options.withdrawn)?;
    let weights = ModelParallel::join(parts, |piece, parts| {
        LLAMA.model_parallel_cut(piece, parts, header.embedding.into(), path)
    })?;
    let hyperparameters = hyperparameters(&header, &weights, path, options, &mut notes)?;
    let mapped = LLAMA.map_tensors(path, &weights, Naming::Meta, &hyperparameters)?;
    let name = path.file_stem().unwrap_or_default().to_string_lossy();
    let authorship = general::named(&name, &mapped);
    let mut metadata =
        general::metadata(&LLAMA, authorship, Vec::new(), &hyperparameters, &vocabulary, &mapped);
    set_file_type(&mut metadata, header.file_type);
    Ok(Checkpoint::new(path, metadata, Box::new(weights), mapped, notes))
}

/// The first part and those beside it, `FILE.1` and so on, into which the converter of March 2023
/// cut as Meta had done.
fn open_parts(first: GgmlFile, withdrawn: Withdrawn) -> Result<Vec<Shard>> {
    let (path, header) = (first.path().to_path_buf(), *first.header());
    let count = part_count(&first)?;
    let mut parts = vec![Shard { path: path.clone(), weights: Box::new(first) }];
    for number in 1..count {
        let part_path = part_path(&path, number);
        if !part_path.exists() {
            let name = part_path.file_name().unwrap_or_default().to_string_lossy();
            let looked_for = format!("{name} beside it, though the model is in {count} parts");
            return Err(Error::MissingFile { folder: path, looked_for });
        }
        let part = GgmlFile::open(&part_path, withdrawn)?;
        if *part.header() != header {
            let problem = "a part of another model: its header is not the first part's".to_owned();
            return Err(Error::Shards { path: part_path, problem });
        }
        parts.push(Shard { path: part_path, weights: Box::new(part) });
    }
    Ok(parts)
}

/// Parts have as many columns of the token embedding each.
fn part_count(first: &GgmlFile) -> Result<u64> {
    /// Those of the 65B model.
    const MAX_PARTS: u64 = 8;
    let embedding = u64::from(first.header().embedding);
    let name = "tok_embeddings.weight";
    let Some(tensor) = first.tensors().iter().find(|tensor| tensor.name == name) else {
        let (path, tensor) = (first.path().to_path_buf(), name.to_owned());
        return Err(Error::MissingTensor { path, tensor, nearest: None });
    };
    let count = embedding / tensor.columns();
    if !(1..=MAX_PARTS).contains(&count) || count * tensor.columns() != embedding {
        let (path, tensor, found) =
            (first.path().to_path_buf(), name.to_owned(), tensor.shape.clone());
        let expected = vec![first.header().vocabulary.into(), embedding];
        return Err(Error::Shape { path, tensor, expected, found });
    }
    Ok(count)
}

fn part_path(path: &Path, number: u64) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".{number}"));
    name.into()
}

fn hyperparameters(
    header: &Header,
    weights: &dyn Weights,
    path: &Path,
    options: &OpenOptions,
    notes: &mut Vec<Note>,
) -> Result<Hyperparameters> {
    let head_dim = header.embedding.checked_div(header.heads).unwrap_or(0);
    let keys = rows_of("layers.0.attention.wk.weight", weights, path)?;
    let kv_heads = keys.checked_div(head_dim).unwrap_or(0);
    let assumed = Assumed::of(header, kv_heads);
    notes.push(assumed.note(options));
    Hyperparameters {
        layers: header.layers,
        context_length: assumed.context_length,
        embedding: header.embedding,
        feed_forward: rows_of("layers.0.feed_forward.w1.weight", weights, path)?,
        heads: header.heads,
        kv_heads,
        head_dim,
        vocabulary: header.vocabulary,
        rope_theta: 10000.0,
        rope_scaling: RopeScaling::None,
        norm_epsilon: options.norm_epsilon.unwrap_or(assumed.norm_epsilon),
        experts: None,
    }
    .checked(path, Naming::Meta)
}

/// What the file does not say, by the generation of the model that it must or may hold.
struct Assumed {
    context_length: u32,
    norm_epsilon: f32,
    why: &'static str,
}

impl Assumed {
    fn of(header: &Header, kv_heads: u32) -> Assumed {
        let (context_length, norm_epsilon, why) = match header.container {
            _ if kv_heads < header.heads => (4096, 1e-5, "Llama 2's, as heads share keys"),
            Container::Ggjt3 => {
                (2048, 5e-6, "between LLaMA 1 (2048, 1e-6) and Llama 2 (4096, 1e-5)")
            }
            // Of LLaMA 1 only the largest has another epsilon.
            _ if header.embedding == 8192 => (2048, 1e-5, "those of LLaMA 65B, by size and age"),
            _ => (2048, 1e-6, "those of LLaMA 1, by the file's age"),
        };
        Assumed { context_length, norm_epsilon, why }
    }

    fn note(&self, options: &OpenOptions) -> Note {
        let Assumed { context_length, norm_epsilon, why } = self;
        let epsilon = match options.norm_epsilon {
            Some(_) => String::new(),
            None => format!(" and epsilon {norm_epsilon:e} (--eps)"),
        };
        Note(format!(
            "the file does not say them: context length {context_length} (llq convert --ctx){epsilon} \
             are {why}"
        ))
    }
}

/// What became of withdrawn layouts, in a line per layout.
fn withdrawn_notes(file: &GgmlFile, withdrawn: Withdrawn) -> Vec<Note> {
    let mut layouts: BTreeMap<&str, (usize, Cost, String)> = BTreeMap::new();
    let old = (0..file.tensors().len()).filter_map(|tensor| file.old_layout(tensor));
    for old in old {
        let new = || (0, old.cost(), old.nearest().to_string());
        layouts.entry(old.name).or_insert_with(new).0 += 1;
    }
    let note = |(name, (count, cost, nearest)): (&str, (usize, Cost, String))| {
        let what = match (withdrawn, cost) {
            (Withdrawn::Decode, _) => "are decoded to F32".to_owned(),
            (_, Cost::Nothing) => "get today's layout; the weights stay as they are".to_owned(),
            (_, Cost::Rounding) => {
                "get today's layout; their scales are rounded from F32 to F16".to_owned()
            }
            (_, Cost::Encoding) => format!("are encoded again as {nearest}: {name} is gone"),
        };
        Note(format!("{count} tensors in the {name} of before June 2023 {what}"))
    };
    layouts.into_iter().map(note).collect()
}

/// The file type of the header, where it is still one. Plans that choose types write their own.
fn set_file_type(metadata: &mut Metadata, header: u32) {
    let file_type = match header {
        // Q4_1 with some F16.
        4 => 3,
        // Q4_2 and Q4_3 became Q8_0.
        5 | 6 => 7,
        0..=18 => header,
        _ => return,
    };
    metadata.set("general.file_type", Value::U32(file_type));
}
