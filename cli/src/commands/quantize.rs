//! `llq quantize`: a GGUF model becomes a smaller one.

use std::path::PathBuf;

use llq_convert::{OpenOptions, Output as Types};
use llq_quant::mix::{Mix, Recipe};

use super::{
    calibration::CalibrationArgs,
    produce::{self, Job, withdrawn},
};
use crate::{
    args::{FormArgs, HELP, MetadataArgs, PurityArgs, TargetArgs, parse_mix, types_help},
    failure::Refusal,
    output::Output,
};

const EXAMPLES: &str = "\
Examples:
  llq quantize model.gguf -o model-q4_k_m.gguf --type q4_k
  llq quantize model.gguf -o model-q8_0.gguf --type q8_0 --dry-run
  llq quantize model.gguf -o model-q3_k_m.gguf --type q3_k --calibrate text.txt";

/// Quantize a GGUF model.
#[derive(clap::Args)]
#[command(help_template = HELP, before_help = EXAMPLES, after_help = types_help())]
pub(crate) struct Args {
    /// The GGUF file; of a split model, any of its files
    model: PathBuf,

    #[command(flatten)]
    target: TargetArgs,

    /// Quantize to this type
    #[arg(long = "type", value_name = "TYPE", value_parser = parse_mix)]
    mix: Mix,

    #[command(flatten)]
    purity: PurityArgs,

    #[command(flatten)]
    calibration: CalibrationArgs,

    #[command(flatten)]
    form: FormArgs,

    #[command(flatten)]
    metadata: MetadataArgs,
}

pub(crate) fn run(args: &Args, output: &Output) -> anyhow::Result<()> {
    produce::refuse_adapter(&args.model)?;
    if args.model.is_dir() {
        return Err(a_folder_is_no_model(args).into());
    }
    let recipe = Recipe {
        mix: args.mix,
        purity: args.purity.purity(),
        guidance: args.calibration.guidance(),
    };
    let request = args.form.request(Types::Recipe(recipe));
    let open = OpenOptions {
        withdrawn: withdrawn(&request),
        overrides: args.metadata.overrides()?,
        ..OpenOptions::default()
    };
    let (input, target, metadata) = (&args.model, &args.target, args.metadata.file());
    produce::run(
        Job { input, target, open, request, metadata, calibration: Some(&args.calibration) },
        output,
    )
}

fn a_folder_is_no_model(args: &Args) -> Refusal {
    let (path, target) = (args.model.display(), args.target.output.display());
    Refusal::new(format!("{path} is a folder; llq quantize reads a GGUF file"))
        .hint(format!("llq convert {path} -o {target} --type {}", args.mix.name().to_lowercase()))
}
