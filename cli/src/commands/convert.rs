//! `llq convert`: a published checkpoint becomes GGUF.

use std::path::PathBuf;

use clap::{ValueEnum, builder::NonEmptyStringValueParser};
use llq_convert::{OpenOptions, Output as Types, Request};
use llq_quant::mix::{Guidance, Mix, Recipe};

use super::produce::{self, Job};
use crate::{
    args::{FormArgs, HELP, PurityArgs, TargetArgs, parse_mix, types_help},
    output::Output,
};

const EXAMPLES: &str = "\
Examples:
  llq convert Llama-2-7b-hf -o llama-2-7b.gguf
  llq convert Llama-2-7b-hf -o llama-2-7b-q4_k_m.gguf --type q4_k_m
  llq convert llama-2-7b -o llama-2-7b.gguf --outtype f16 --ctx 4096
  llq convert llama-2-7b.gguf -o parts.gguf --split-max-size 2G";

/// Convert a checkpoint to GGUF, quantized in the same pass where a type is given.
///
/// CHECKPOINT is a folder with config.json and safetensors (Hugging Face), or with params.json and
/// consolidated.NN.pth (Meta), or a GGUF file, whose tensors keep their types unless others are
/// asked for. Nothing in a .pth file is executed.
#[derive(clap::Args)]
#[command(help_template = HELP, before_help = EXAMPLES, after_help = types_help())]
#[command(mut_arg("pure", |pure| pure.requires("mix")))]
pub(crate) struct Args {
    /// The folder of the checkpoint, or a GGUF file
    checkpoint: PathBuf,

    #[command(flatten)]
    target: TargetArgs,

    /// Plain type of the matrices; auto keeps the checkpoint's
    #[arg(long, value_name = "TYPE", default_value = "auto", conflicts_with = "mix")]
    outtype: OutType,

    /// Quantize to this type
    #[arg(long = "type", id = "mix", value_name = "TYPE", value_parser = parse_mix)]
    mix: Option<Mix>,

    #[command(flatten)]
    purity: PurityArgs,

    #[command(flatten)]
    form: FormArgs,

    /// Context length to write in place of the checkpoint's
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    ctx: Option<u32>,

    /// Pre-tokenizer of a byte-level BPE, by llama.cpp's name, in place of the recognised one
    #[arg(long, value_name = "NAME", value_parser = NonEmptyStringValueParser::new())]
    pre: Option<String>,
}

#[derive(Clone, Copy, ValueEnum)]
enum OutType {
    Auto,
    F32,
    F16,
    Bf16,
}

pub(crate) fn run(args: &Args, output: &Output) -> anyhow::Result<()> {
    let request = Request { context_length: args.ctx, ..args.form.request(types(args)) };
    let open = OpenOptions { pre: args.pre.clone() };
    produce::run(Job { input: &args.checkpoint, target: &args.target, open, request }, output)
}

fn types(args: &Args) -> Types {
    let mix = args.mix.or(match args.outtype {
        OutType::Auto => None,
        OutType::F32 => Some(Mix::F32),
        OutType::F16 => Some(Mix::F16),
        OutType::Bf16 => Some(Mix::BF16),
    });
    mix.map_or(Types::Auto, |mix| {
        Types::Recipe(Recipe { mix, purity: args.purity.purity(), guidance: Guidance::Unguided })
    })
}
