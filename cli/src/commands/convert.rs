//! `llq convert`: a published checkpoint becomes GGUF.

use std::path::PathBuf;

use clap::{ValueEnum, builder::NonEmptyStringValueParser};
use llq_convert::{Error, LoraError, OpenOptions, Output as Types, Requantize, Request};
use llq_quant::mix::{Guidance, Mix, Recipe};

use super::produce::{self, Job};
use crate::{
    args::{HELP, LoraArgs, PurityArgs, TargetArgs, parse_mix, types_help},
    failure::Refusal,
    output::Output,
};

const EXAMPLES: &str = "\
Examples:
  llq convert Llama-2-7b-hf -o llama-2-7b.gguf
  llq convert Llama-2-7b-hf -o llama-2-7b-q4_k_m.gguf --type q4_k_m
  llq convert llama-2-7b -o llama-2-7b.gguf --outtype f16 --ctx 4096
  llq convert Llama-2-7b-hf --lora alpaca-lora -o alpaca-q4_k_m.gguf --type q4_k_m
  llq convert alpaca-lora --base Llama-2-7b-hf -o alpaca-lora.gguf";

/// Convert a checkpoint to GGUF, quantized in the same pass where a type is given.
///
/// CHECKPOINT is a folder with config.json and safetensors (Hugging Face), or with params.json and
/// consolidated.NN.pth (Meta). Nothing in a .pth file is executed.
///
/// A LoRA adapter is merged into the checkpoint with --lora. Given as CHECKPOINT, its folder becomes
/// a GGUF adapter, in F32 unless --outtype says otherwise.
#[derive(clap::Args)]
#[command(help_template = HELP, before_help = EXAMPLES, after_help = types_help())]
#[command(mut_arg("pure", |pure| pure.requires("mix")))]
pub(crate) struct Args {
    /// The folder of the checkpoint
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
    lora: LoraArgs,

    /// For an adapter: the folder of its model, of which only config.json is read
    #[arg(long, value_name = "FOLDER", conflicts_with = "lora")]
    base: Option<PathBuf>,

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
    if args.checkpoint.is_file() {
        return Err(a_file_is_no_checkpoint(args).into());
    }
    let request =
        Request { output: types(args), requantize: Requantize::Refuse, context_length: args.ctx };
    let open =
        OpenOptions { pre: args.pre.clone(), lora: args.lora.adapters(), base: args.base.clone() };
    produce::run(Job { input: &args.checkpoint, target: &args.target, open, request }, output)
        .map_err(|error| with_hint(error, args))
}

/// Says what else to type where that is known.
fn with_hint(error: anyhow::Error, args: &Args) -> anyhow::Error {
    let (path, target) = (args.checkpoint.display(), args.target.output.display());
    let hint = match error.downcast_ref() {
        Some(Error::NoBase { .. }) => format!("llq convert {path} --base MODEL -o {target}"),
        Some(Error::Lora { problem, .. }) if matches!(**problem, LoraError::MergeOnly { .. }) => {
            format!("llq convert MODEL --lora {path} -o {target}")
        }
        _ => return error,
    };
    error.context(Refusal::new(format!("{path} cannot become a GGUF adapter")).hint(hint))
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

fn a_file_is_no_checkpoint(args: &Args) -> Refusal {
    let path = args.checkpoint.display();
    let refusal = Refusal::new(format!("{path} is a file; a checkpoint is a folder"));
    if args.checkpoint.extension().is_some_and(|extension| extension == "gguf") {
        refusal.hint("a GGUF file is quantized by llq quantize")
    } else {
        refusal.hint("give the folder that holds it with its configuration and tokenizer")
    }
}
