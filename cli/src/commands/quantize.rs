//! `llq quantize`: a GGUF model becomes a smaller one.

use std::{path::PathBuf, process::ExitCode};

use clap::ArgGroup;
use llq_convert::{OpenOptions, Output as Types, Request};
use llq_quant::mix::{Mix, Recipe};
use serde::Serialize;

use super::{
    allocation::{AllocationArgs, Measured},
    calibration::CalibrationArgs,
    produce::{self, Job, Made, withdrawn},
};
use crate::{
    args::{
        EffortArgs, FormArgs, HELP, MetadataArgs, PurityArgs, ResumeArgs, TargetArgs, parse_mix,
        types_help,
    },
    failure::Refusal,
    output::{Form, Output},
    target::{Place, Target},
    type_args::{RecipeArgs, TypeArgs},
};

const EXAMPLES: &str = "\
Examples:
  llq quantize model.gguf -o model-q4_k_m.gguf --type q4_k
  llq quantize model.gguf -o model-q8_0.gguf --type q8_0 --dry-run
  llq quantize model.gguf -o model-q3_k_m.gguf --type q3_k --imatrix imatrix.gguf
  llq quantize model.gguf -o mixed.gguf --type q4_k_s --tensor-type 'attn_v|ffn_down=q6_k'
  llq quantize model.gguf -o model-q3_k_m.gguf --type q3_k --calibrate text.txt
  llq quantize model.gguf -o fitted.gguf --target-size 4.5GiB --calibrate text.txt";

/// Quantize a GGUF model.
#[derive(clap::Args)]
#[command(help_template = HELP, before_help = EXAMPLES, after_help = types_help())]
#[command(mut_arg("field", |field| field.requires("wanted_size")))]
#[command(mut_arg("ctx", |ctx| ctx.requires("wanted_size")))]
#[command(mut_arg("chunks", |chunks| chunks.requires("wanted_size")))]
#[command(group(ArgGroup::new("measured_on").multiple(true)))]
pub(crate) struct Args {
    /// The GGUF file; of a split model, any of its files
    model: PathBuf,

    #[command(flatten)]
    target: TargetArgs,

    #[command(flatten)]
    resume: ResumeArgs,

    /// Quantize to this type; a recipe may say it instead, or a target be given
    #[arg(long = "type", value_name = "TYPE", value_parser = parse_mix)]
    #[arg(required_unless_present_any = ["recipe", "target_size", "target_bpw"])]
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
    allocation: AllocationArgs,

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
    let mut rules = args.types.rules();
    rules.extend(types.rules);
    let recipe = |mix| {
        let (purity, guidance) = (args.purity.purity(), args.calibration.guidance());
        Types::Recipe(Recipe { mix, purity, guidance })
    };
    let mix = args.mix.or(types.mix);
    let mut request = Request {
        rules,
        imatrix: args.types.read_imatrix(output)?,
        effort: args.effort.effort(),
        ..args.form.request(recipe(mix.unwrap_or(Mix::Q8_0)))
    };
    let open = OpenOptions {
        withdrawn: withdrawn(&request),
        overrides: args.metadata.overrides()?,
        ..OpenOptions::default()
    };
    let (input, target) = (&args.model, &args.target);
    let measured = args.measure(&open, &request, output)?;
    let mix = mix.or(measured.as_ref().map(|measured| measured.mix)).ok_or_else(no_type)?;
    request.output = recipe(mix);
    request.rules.extend(measured.as_ref().map(Measured::rules).unwrap_or_default());

    let endian = request.endian;
    let files = [args.metadata.file(), args.types.file(), args.recipe.file()];
    let files = files.into_iter().flatten().chain(args.allocation.file()).collect();
    let write_recipe = args.recipe.write_recipe.as_deref();
    let calibration = Some(&args.calibration);
    let mix = measured.as_ref();
    let job = Job {
        input,
        target,
        open,
        request,
        files,
        write_recipe,
        calibration,
        mix,
        interrupted: args.resume.interrupted(),
    };
    if mix.is_none() {
        return produce::run(job, output);
    }
    let made = produce::make(job, output)?;
    let (Some(made), Some(mut measured)) = (made, measured) else { return Ok(ExitCode::SUCCESS) };
    measured.judge(input, made.output.as_ref(), endian, output)?;
    let exit_code = made.exit_code();
    match output.form() {
        Form::Text => output.data(&measured.to_string())?,
        Form::Json => output.json(&Fitted { made, mix: measured })?,
    }
    Ok(exit_code)
}

/// A model whose mix was measured.
#[derive(Serialize)]
struct Fitted {
    #[serde(flatten)]
    made: Made,
    mix: Measured,
}

impl Args {
    /// Chooses the types by measuring, where that was asked for. What would keep the output from
    /// being written is told before.
    fn measure(
        &self,
        open: &OpenOptions,
        request: &Request,
        output: &Output,
    ) -> anyhow::Result<Option<Measured>> {
        let Some(target) = self.allocation.target() else { return Ok(None) };
        self.calibration.check_unfinished(&self.target.output, self.resume.interrupted())?;
        Place::check(&self.target.output, self.target.overwrite(), &self.model)?;
        if let Some(recipe) = &self.recipe.write_recipe {
            Target::check(recipe, self.target.overwrite(), &self.model)?;
        }
        let source = llq_convert::open_with(&self.model, open)?;
        let made_of = (&*source, request);
        self.allocation.run(target, self.calibration.text(), &self.model, made_of, output).map(Some)
    }
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
