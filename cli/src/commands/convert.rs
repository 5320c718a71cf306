//! `llq convert`: a published checkpoint becomes GGUF.

use std::{path::PathBuf, process::ExitCode};

use clap::ValueEnum;
use llq_convert::{Error, LoraError, OpenOptions, Output as Types, PreName, Request};
use llq_quant::mix::{Guidance, Mix, Recipe};

use super::produce::{self, Job, withdrawn};
use crate::{
    args::{
        EffortArgs, FormArgs, HELP, LoraArgs, MetadataArgs, PurityArgs, ResumeArgs, TargetArgs,
        parse_mix, types_help,
    },
    escape::Escaped,
    failure::Refusal,
    output::Output,
    progress::Reading,
    target::Place,
    type_args::{RecipeArgs, TypeArgs},
};

const EXAMPLES: &str = "\
Examples:
  llq convert Llama-2-7b-hf -o llama-2-7b.gguf
  llq convert Llama-2-7b-hf -o llama-2-7b-q4_k_m.gguf --type q4_k_m
  llq convert llama-2-7b -o llama-2-7b.gguf --outtype f16 --ctx 4096
  llq convert llama-2-7b.gguf -o parts.gguf --split-max-size 2G
  llq convert ggml-model-q4_0.bin -o model.gguf
  llq convert Llama-2-7b-hf --lora alpaca-lora -o alpaca-q4_k_m.gguf --type q4_k_m
  llq convert alpaca-lora --base Llama-2-7b-hf -o alpaca-lora.gguf";

/// Convert a checkpoint to GGUF, quantized in the same pass where a type is given.
///
/// CHECKPOINT is a folder with config.json and safetensors or pytorch_model.bin (Hugging Face), or
/// with params.json and consolidated.NN.pth (Meta) or consolidated.safetensors (Mistral). Nothing in
/// a .bin or .pth file is executed. It may also be a GGUF file, by itself or in a llamafile, or a
/// GGML file of 2023 (ggml, ggmf, ggjt), whose tensors keep their types unless others are asked for.
///
/// A LoRA adapter is merged into the checkpoint with --lora. Given as CHECKPOINT, its folder becomes
/// a GGUF adapter, in F32 unless --outtype says otherwise.
#[derive(clap::Args)]
#[command(help_template = HELP, before_help = EXAMPLES, after_help = types_help())]
#[command(mut_arg("pure", |pure| pure.requires("mix")))]
pub(crate) struct Args {
    /// The folder of the checkpoint, a GGUF file, a llamafile, or a legacy GGML file
    checkpoint: PathBuf,

    #[command(flatten)]
    target: TargetArgs,

    #[command(flatten)]
    resume: ResumeArgs,

    /// Plain type of the matrices; auto keeps the checkpoint's
    #[arg(long, value_name = "TYPE", default_value = "auto", conflicts_with = "mix")]
    outtype: OutType,

    /// Quantize to this type
    #[arg(long = "type", id = "mix", value_name = "TYPE", value_parser = parse_mix)]
    mix: Option<Mix>,

    #[command(flatten)]
    purity: PurityArgs,

    #[command(flatten)]
    effort: EffortArgs,

    #[command(flatten)]
    types: TypeArgs,

    #[command(flatten)]
    recipe: RecipeArgs,

    #[command(flatten)]
    lora: LoraArgs,

    /// For an adapter: the folder of its model, of which only config.json is read
    #[arg(long, value_name = "FOLDER", conflicts_with = "lora")]
    base: Option<PathBuf>,

    #[command(flatten)]
    form: FormArgs,

    /// Context length to write in place of the checkpoint's
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    ctx: Option<u32>,

    /// Pre-tokenizer of a byte-level BPE, by llama.cpp's name, in place of the recognised one
    #[arg(long, value_name = "NAME", value_parser = PreName::parse)]
    pre: Option<PreName>,

    /// Epsilon of the RMS norms, which a legacy GGML file does not say
    #[arg(long, value_name = "EPSILON", value_parser = parse_epsilon)]
    eps: Option<f32>,

    /// First compare the files with the MD5 sums in Meta's checklist.chk
    #[arg(long)]
    verify_checksums: bool,

    #[command(flatten)]
    metadata: MetadataArgs,
}

#[derive(Clone, Copy, ValueEnum)]
enum OutType {
    Auto,
    F32,
    F16,
    Bf16,
}

pub(crate) fn run(args: &Args, output: &Output) -> anyhow::Result<ExitCode> {
    check_files(args, output)?;
    let recipe = args.recipe.read()?;
    let mut rules = args.types.rules();
    rules.extend(recipe.rules);
    let request = Request {
        context_length: args.ctx,
        rules,
        imatrix: args.types.read_imatrix(output)?,
        effort: args.effort.effort(),
        ..args.form.request(types(args, recipe.mix))
    };
    let open = OpenOptions {
        pre: args.pre,
        context_length: args.ctx,
        withdrawn: withdrawn(&request),
        norm_epsilon: args.eps,
        lora: args.lora.adapters(),
        base: args.base.clone(),
        overrides: args.metadata.overrides()?,
    };
    let files = [args.metadata.file(), args.types.file(), args.recipe.file()];
    let files = files.into_iter().flatten().collect();
    let write_recipe = args.recipe.write_recipe.as_deref();
    let (input, target) = (&args.checkpoint, &args.target);
    let job = Job {
        input,
        target,
        open,
        request,
        files,
        write_recipe,
        calibration: None,
        mix: None,
        interrupted: args.resume.interrupted(),
    };
    produce::run(job, output).map_err(|error| with_hint(error, args))
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

/// Compares the files with Meta's list of sums, where that is asked for.
fn check_files(args: &Args, output: &Output) -> anyhow::Result<()> {
    let folder = &args.checkpoint;
    if !args.verify_checksums {
        if llq_convert::has_checksums(folder) {
            output.note(&"checklist.chk was not compared with the files; --verify-checksums does");
        }
        return Ok(());
    }
    // What stands against the output should not show after minutes.
    Place::check(&args.target.output, args.target.overwrite(), folder)?;
    let progress = Reading::new(output, "verifying");
    let notes = llq_convert::verify_checksums(folder, &progress)?;
    for note in notes {
        output.note(&Escaped(&note.0));
    }
    output.done(&"the files have the MD5 sums of checklist.chk");
    Ok(())
}

fn parse_epsilon(text: &str) -> Result<f32, String> {
    let epsilon: f32 = text.parse().map_err(|_| "not a number".to_owned())?;
    let is_small = epsilon > 0.0 && epsilon < 1.0;
    is_small.then_some(epsilon).ok_or_else(|| "expected a number between 0 and 1".to_owned())
}

fn types(args: &Args, of_recipe: Option<Mix>) -> Types {
    let mix = args.mix.or(match args.outtype {
        OutType::Auto => of_recipe,
        OutType::F32 => Some(Mix::F32),
        OutType::F16 => Some(Mix::F16),
        OutType::Bf16 => Some(Mix::BF16),
    });
    mix.map_or(Types::Auto, |mix| {
        Types::Recipe(Recipe { mix, purity: args.purity.purity(), guidance: Guidance::Unguided })
    })
}
