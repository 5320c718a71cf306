//! `llq inspect`: what a GGUF file is.

mod memory;
mod metadata;
mod summary;
mod tensor;

use std::{
    fmt,
    path::{Path, PathBuf},
};

use llq_gguf::{Model, TensorInfo};
use serde::Serialize;

pub(super) use self::metadata::{JsonValue, MetadataList, shortened};
use self::{memory::Memory, summary::Summary};
use super::{
    perplexity,
    type_shares::{TypeShare, type_shares, type_table},
};
use crate::{
    args::HELP,
    escape::Escaped,
    failure::Refusal,
    figures::{Bytes, Count},
    output::Output,
    remote::{self, RemoteModel},
    table::{Column, Columns},
};

const EXAMPLES: &str = "\
Examples:
  llq inspect model.gguf
  llq inspect model.gguf --tensors --metadata
  llq inspect model.gguf --metadata --json
  llq inspect model.gguf --tensor blk.0.attn_q.weight
  llq inspect model.gguf --memory --ctx 8192
  llq inspect https://huggingface.co/ORG/MODEL/resolve/main/model.gguf";

/// Show what a GGUF file holds.
#[derive(clap::Args)]
#[command(help_template = HELP, before_help = EXAMPLES)]
pub(crate) struct Args {
    /// The GGUF file; of a split model, any of its files. Of a file on a web server (http://,
    /// https://) only what is shown is fetched; HF_TOKEN opens gated models of the Hugging Face hub
    #[arg(value_name = "MODEL")]
    model: PathBuf,

    /// List the tensors
    #[arg(long)]
    tensors: bool,

    /// List the metadata; long values are shortened, but not in JSON
    #[arg(long)]
    metadata: bool,

    /// Show how the weights of this tensor are spread, with a histogram
    #[arg(long, value_name = "NAME", conflicts_with_all = ["tensors", "metadata"])]
    tensor: Option<String>,

    /// Estimate what running the model takes in memory
    #[arg(long, conflicts_with_all = ["tensors", "metadata", "tensor"])]
    memory: bool,

    /// Tokens of context that --memory reckons with [default: the model's own]
    #[arg(long, value_name = "N", requires = "memory")]
    #[arg(value_parser = clap::value_parser!(u32).range(1..))]
    ctx: Option<u32>,

    /// Bits of a number in the cache of keys and values
    #[arg(long, value_name = "BITS", requires = "memory", default_value = "16")]
    cache_bits: CacheBits,
}

#[derive(Clone, Copy, clap::ValueEnum)]
enum CacheBits {
    /// As F32
    #[value(name = "32")]
    F32,
    /// As F16
    #[value(name = "16")]
    F16,
    /// As Q8_0
    #[value(name = "8")]
    Q8_0,
}

pub(crate) fn run(args: &Args, output: &Output) -> anyhow::Result<()> {
    let remote = remote::url(&args.model).map(RemoteModel::fetch).transpose()?;
    let path = remote.as_ref().map_or_else(|| args.model.clone(), RemoteModel::path);
    if let Some(name) = &args.tensor {
        if let Some(remote) = &remote {
            let model = Model::open(&path)?;
            let tensor = model.tensor(name).ok_or_else(|| no_tensor(&args.model, name))?;
            remote.fetch_tensor(&model, tensor, output)?;
        }
        return output.result(&tensor::spread_of(&path, name)?);
    }
    let model = perplexity::open(&path)?;
    let shown = if remote.is_some() { &args.model } else { model.path() };
    if args.memory {
        return output.result(&Memory::of(&model, shown, args.ctx, args.cache_bits)?);
    }
    let tensors = model.tensors();
    output.result(&Inspected {
        summary: Summary::of(&model, shown),
        types: type_shares(tensors.iter().map(|t| (t.tensor_type, t.weights(), t.bytes))),
        tensors: args.tensors.then(|| tensors.iter().map(Tensor::of).collect()),
        metadata: args.metadata.then(|| MetadataList(model.metadata())),
    })
}

fn no_tensor(model: &Path, name: &str) -> Refusal {
    let shown = model.display();
    Refusal::new(format!("{shown} has no tensor {name}"))
        .hint(format!("llq inspect {shown} --tensors lists them"))
}

/// What is printed.
#[derive(Serialize)]
struct Inspected<'a> {
    #[serde(flatten)]
    summary: Summary<'a>,
    types: Vec<TypeShare>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tensors: Option<Vec<Tensor<'a>>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    metadata: Option<MetadataList<'a>>,
}

#[derive(Serialize)]
struct Tensor<'a> {
    name: &'a str,
    #[serde(rename = "type")]
    type_name: &'static str,
    shape: &'a [u64],
    bytes: u64,
    offset: u64,
    shard: usize,
}

impl<'a> Tensor<'a> {
    fn of(tensor: &'a TensorInfo) -> Tensor<'a> {
        Tensor {
            name: &tensor.name,
            type_name: tensor.tensor_type.name(),
            shape: &tensor.shape,
            bytes: tensor.bytes,
            offset: tensor.offset,
            shard: tensor.shard,
        }
    }

    fn cells(&self) -> Vec<String> {
        let shape = self.shape.iter().map(|&extent| Count(extent).to_string());
        vec![
            Escaped(self.name).to_string(),
            self.type_name.to_owned(),
            shape.collect::<Vec<_>>().join(" × "),
            Bytes(self.bytes).to_string(),
        ]
    }
}

impl fmt::Display for Inspected<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.summary)?;
        if !self.types.is_empty() {
            write!(f, "\n{}", type_table(&self.types))?;
        }
        if let Some(metadata) = &self.metadata {
            write!(f, "\n{metadata}")?;
        }
        if let Some(tensors) = &self.tensors {
            write!(f, "\n{}", tensor_table(tensors))?;
        }
        Ok(())
    }
}

fn tensor_table(tensors: &[Tensor<'_>]) -> String {
    let rows: Vec<_> = tensors.iter().map(Tensor::cells).collect();
    Columns::new([
        Column::left("tensor"),
        Column::left("type"),
        Column::left("shape"),
        Column::right("size"),
    ])
    .table(&rows)
}
