//! `llq quantize`: a GGUF model becomes a smaller one.

use std::{path::PathBuf, process::ExitCode};

use llq_convert::{OpenOptions, Output as Types, Request};
use llq_quant::mix::{Mix, Recipe};

use super::{
    calibration::CalibrationArgs,
    produce::{self, Job, withdrawn},
};
use crate::{
    args::{
        EffortArgs, FormArgs, HELP, MetadataArgs, PurityArgs, ResumeArgs, TargetArgs, parse_mix,
        types_help,
    },
    failure::Refusal,
    output::Output,
    type_args::{RecipeArgs, TypeArgs},
};

const EXAMPLES: &str = "\
Examples:
  llq quantize model.gguf -o model-q4_k_m.gguf --type q4_k
  llq quantize model.gguf -o model-q8_0.gguf --type q8_0 --dry-run
  llq quantize model.gguf -o model-q3_k_m.gguf --type q3_k --imatrix imatrix.gguf
  llq quantize model.gguf -o mixed.gguf --type q4_k_s --tensor-type 'attn_v|ffn_down=q6_k'
  llq quantize model.gguf -o model-q3_k_m.gguf --type q3_k --calibrate text.txt";

/// Quantize a GGUF model.
#[derive(clap::Args)]
#[command(help_template = HELP, before_help = EXAMPLES, after_help = types_help())]
pub(crate) struct Args {
    /// The GGUF file; of a split model, any of its files
    model: PathBuf,

    #[command(flatten)]
    target: TargetArgs,

    #[command(flatten)]
    resume: ResumeArgs,

    /// Quantize to this type; a recipe may say it instead
    #[arg(long = "type", value_name = "TYPE", value_parser = parse_mix)]
    #[arg(required_unless_present = "recipe")]
    mix: Option<Mix>,

    #[command(flatten)]
    purity: PurityArgs,

    #[command(flatten)]
    calibration: CalibrationArgs,

    #[command(flatten)]
    effort: EffortArgs,

    #[command(flatten)]
    types: TypeArgs,

    #[command(flatten)]
    recipe: RecipeArgs,

    #[command(flatten)]
    form: FormArgs,

    #[command(flatten)]
    metadata: MetadataArgs,
}

pub(crate) fn run(args: &Args, output: &Output) -> anyhow::Result<ExitCode> {
    produce::refuse_adapter(&args.model)?;
    if args.model.is_dir() {
        return Err(a_folder_is_no_model(args).into());
    }
    let types = args.recipe.read()?;
    let mix = args.mix.or(types.mix).ok_or_else(no_type)?;
    let recipe =
        Recipe { mix, purity: args.purity.purity(), guidance: args.calibration.guidance() };
    let mut rules = args.types.rules();
    rules.extend(types.rules);
    let request = Request {
        rules,
        imatrix: args.types.read_imatrix(output)?,
        effort: args.effort.effort(),
        ..args.form.request(Types::Recipe(recipe))
    };
    let open = OpenOptions {
        withdrawn: withdrawn(&request),
        overrides: args.metadata.overrides()?,
        ..OpenOptions::default()
    };
    let files = [args.metadata.file(), args.types.file(), args.recipe.file()];
    let files = files.into_iter().flatten().collect();
    let write_recipe = args.recipe.write_recipe.as_deref();
    let (input, target) = (&args.model, &args.target);
    let calibration = Some(&args.calibration);
    let interrupted = args.resume.interrupted();
    let job = Job { input, target, open, request, files, write_recipe, calibration, interrupted };
    produce::run(job, output)
}

fn no_type() -> Refusal {
    Refusal::new("the recipe has no type for the tensors that it does not name")
        .hint("add type = \"q4_k_m\" as its first line, or give --type")
}

fn a_folder_is_no_model(args: &Args) -> Refusal {
    let (path, target) = (args.model.display(), args.target.output.display());
    let mix = args.mix.map_or("TYPE".to_owned(), |mix| mix.name().to_lowercase());
    Refusal::new(format!("{path} is a folder; llq quantize reads a GGUF file"))
        .hint(format!("llq convert {path} -o {target} --type {mix}"))
}
