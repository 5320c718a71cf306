//! What `convert` and `quantize` share: one pipeline with another source.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    process::ExitCode,
    thread,
    time::Instant,
};

use anyhow::Context;
use llq_convert::{
    Earlier, Error, NonFinite, OnOverflow, OpenOptions, Output as Types, Overflow, Overwrite, Plan,
    Report, Requantize, Request, Source, SourceKind, Split, TypeTable, Withdrawn,
};
use llq_gguf::TensorType;
use llq_quant::mix::Mix;
use serde::Serialize;

use super::{
    allocation::Measured,
    calibration::CalibrationArgs,
    check::{self, Checked},
    dry_run::DryRun,
    type_shares::{TypeShare, type_shares},
};
use crate::{
    args::{Check, Interrupted, Run, TargetArgs},
    escape::Escaped,
    failure::{FOUND_BAD, Refusal},
    figures::{ByteRate, Bytes, Count, Seconds},
    interrupt::Writing,
    output::{Form, Output},
    progress::{Progress, Unit},
    target::{Place, Target},
};

/// What to do with an adapter where only a model will do.
const MERGE_HINT: &str = "merge it into its model: llq convert MODEL --lora ADAPTER -o model.gguf";

/// What is told of an adapter where a model is wanted.
pub(super) fn no_model(path: &Path) -> Refusal {
    Refusal::new(format!("{} is an adapter and no model", path.display())).hint(MERGE_HINT)
}

/// Refuses the folder of an adapter.
pub(super) fn refuse_adapter(path: &Path) -> Result<(), Refusal> {
    let has = |name: &str| path.join(name).exists();
    if has("adapter_config.json") && !has("config.json") { Err(no_model(path)) } else { Ok(()) }
}

/// A file to make.
pub(super) struct Job<'a> {
    pub(super) input: &'a Path,
    pub(super) target: &'a TargetArgs,
    pub(super) open: OpenOptions,
    pub(super) request: Request,
    /// Files of metadata, types and importance, which are read too.
    pub(super) files: Vec<&'a Path>,
    /// Where the types of all tensors are written to.
    pub(super) write_recipe: Option<&'a Path>,
    /// Whether and how the model is calibrated before.
    pub(super) calibration: Option<&'a CalibrationArgs>,
    /// What the types were chosen by, if by measuring.
    pub(super) mix: Option<&'a Measured>,
    pub(super) interrupted: Interrupted,
}

impl<'a> Job<'a> {
    /// A file with the tensors as they are.
    pub(super) fn copy(
        input: &'a Path,
        target: &'a TargetArgs,
        open: OpenOptions,
        request: Request,
    ) -> Job<'a> {
        Job {
            input,
            target,
            open,
            request,
            files: Vec::new(),
            write_recipe: None,
            calibration: None,
            mix: None,
            interrupted: Interrupted::IsRemoved,
        }
    }

    /// Everything that is read, of which the output must be no part.
    fn inputs(&self) -> impl Iterator<Item = &Path> {
        let adapters = self.open.lora.iter().map(|adapter| adapter.folder.as_path());
        [self.input]
            .into_iter()
            .chain(adapters)
            .chain(self.open.base.as_deref())
            .chain(self.files.iter().copied())
            .chain(self.calibration.and_then(CalibrationArgs::text))
    }
}

/// Withdrawn layouts are decoded where the output is to have another type: from F32 it is reached
/// with the least loss.
pub(super) fn withdrawn(request: &Request) -> Withdrawn {
    let Types::Recipe(recipe) = request.output else { return Withdrawn::Keep };
    let is_plain = matches!(recipe.mix, Mix::F32 | Mix::F16 | Mix::BF16);
    if is_plain || request.requantize == Requantize::Allow {
        Withdrawn::Decode
    } else {
        Withdrawn::Keep
    }
}

/// Makes the file, and prints what came of it. The exit code tells whether the file is sound.
pub(super) fn run(job: Job<'_>, output: &Output) -> anyhow::Result<ExitCode> {
    let Some(made) = make(job, output)? else { return Ok(ExitCode::SUCCESS) };
    if output.form() == Form::Json {
        output.json(&made)?;
    }
    Ok(made.exit_code())
}

/// Opens the input, plans, writes, and checks what was quantized; says what came of it. A dry run
/// prints the plan.
pub(super) fn make(job: Job<'_>, output: &Output) -> anyhow::Result<Option<Made>> {
    let started = Instant::now();
    // The name of a split output is only taken if one file turns out to be enough.
    let first = match job.request.split {
        Split::Never => job.target.overwrite(),
        _ => Overwrite::Replace,
    };
    let in_folder = job.target.output.is_dir();
    let place = Place::check(&job.target.output, first, job.input)?;
    let source = llq_convert::open_with(job.input, &job.open)?;
    let plan = plan(&*source, &job.request, "--allow-requantize does it all the same")?;
    let name = || llq_convert::file_name(source.metadata(), plan.recipe().map(|recipe| recipe.mix));
    let target = place.target(name, job.input)?;
    let paths = plan.layout().paths(target.path()).map_err(llq_convert::Error::from)?;
    for path in &paths {
        for input in job.inputs() {
            Target::check(path, job.target.overwrite(), input)?;
        }
    }
    if let ([first, rest @ ..], true) = (&*paths, in_folder) {
        let subject = if rest.is_empty() { "the file is" } else { "the first file is" };
        output.note(&format_args!("{subject} {}", Escaped(&first.display().to_string())));
    }
    say_notes(&*source, &plan, output);
    let recipe = RecipeFile::of(&job, &plan, &paths)?;
    if job.target.run() == Run::Dry {
        recipe.map_or(Ok(()), RecipeFile::write)?;
        let calibration = match job.calibration {
            Some(calibration) => calibration.estimate(job.input, &plan)?,
            None => None,
        };
        let dry_run = DryRun::of(&*source, &plan, &paths, job.mix, calibration);
        return output.result(&dry_run).map(|()| None);
    }

    check_unfinished(target.path(), job.interrupted, job.target.overwrite())?;
    let calibrated = match job.calibration {
        Some(calibration) => {
            calibration.run(job.input, &plan, target.path(), job.interrupted, output)?
        }
        None => None,
    };
    let (source, plan) = match &calibrated {
        Some(calibrated) => {
            let source = llq_convert::with_ready(source, calibrated.tensors())?;
            let plan = Plan::new(&*source, &job.request)?;
            (source, plan)
        }
        None => (source, plan),
    };
    let target = (target.path(), job.target.overwrite());
    let report = write(&*source, &plan, target, job.interrupted, "writing", output)?;
    if let Some(calibrated) = calibrated {
        calibrated.remove(output);
    }
    recipe.map_or(Ok(()), RecipeFile::write)?;
    let elapsed = started.elapsed();
    let mut made = Made::planned(&plan, &paths);
    made.types = types(&plan, &report.overflows);
    made.seconds = Some(elapsed.as_secs_f64());
    output.done(&format_args!(
        "{}: {}, {:.2} bits per weight, {}, {}",
        Escaped(&made.outputs()),
        Bytes(made.file_bytes),
        made.bits_per_weight,
        Seconds(elapsed),
        ByteRate { bytes: plan.source_bytes(), elapsed },
    ));
    if job.target.check() == Check::Wanted && quantizes(&plan) {
        made.check =
            check(paths.first().map_or(target.0, PathBuf::as_path), &job, &*source, output);
    }
    Ok(Some(made))
}

fn quantizes(plan: &Plan) -> bool {
    plan.recipe().is_some_and(|recipe| recipe.mix.base().block_weights() > 1)
}

/// Evaluates the new file beside the source, where that is a model that can be evaluated in place.
fn check(made: &Path, job: &Job<'_>, source: &dyn Source, output: &Output) -> Option<Checked> {
    let in_place = source.kind() == SourceKind::Gguf && job.open.lora.is_empty();
    check::check(made, in_place.then_some(job.input), output)
}

/// A file for the types of all tensors, which is none of those read or written.
struct RecipeFile {
    target: Target,
    table: TypeTable,
}

impl RecipeFile {
    fn of(job: &Job<'_>, plan: &Plan, outputs: &[PathBuf]) -> Result<Option<RecipeFile>, Refusal> {
        let Some(path) = job.write_recipe else { return Ok(None) };
        let table = TypeTable::of(plan).ok_or_else(|| {
            Refusal::new("a recipe has a type for what it does not name, and none was given")
                .hint("give --type")
        })?;
        let same =
            |output: &PathBuf| std::path::absolute(output).ok() == std::path::absolute(path).ok();
        if outputs.iter().any(same) {
            let shown = path.display();
            return Err(Refusal::new(format!("{shown} is to be the recipe and the model")));
        }
        for input in job.inputs() {
            Target::check(path, job.target.overwrite(), input)?;
        }
        let target = Target::check(path, job.target.overwrite(), job.input)?;
        Ok(Some(RecipeFile { target, table }))
    }

    fn write(self) -> anyhow::Result<()> {
        let (path, overwrite) = self.target.to_write();
        self.table
            .write(path, overwrite)
            .with_context(|| format!("cannot write {}", path.display()))
    }
}

/// Decides what `request` makes of `source`; what stands against it names the source.
/// `requantize_hint` says what to do where the source is quantized already.
pub(super) fn plan(
    source: &dyn Source,
    request: &Request,
    requantize_hint: &str,
) -> anyhow::Result<Plan> {
    Plan::new(source, request).map_err(|error| {
        let wanted = match request.output {
            Types::Auto => "GGUF",
            Types::Recipe(recipe) => recipe.mix.name(),
        };
        let path = source.path().display();
        let refusal = Refusal::new(format!("{path} cannot become {wanted}"));
        let refusal = match error {
            Error::AlreadyQuantized { .. } => refusal.hint(requantize_hint),
            Error::QuantizedAdapter { .. } => refusal.hint(MERGE_HINT),
            _ => refusal,
        };
        anyhow::Error::new(error).context(refusal)
    })
}

/// Writes the planned file under a progress bar, and says what is wrong with its weights.
pub(super) fn write(
    source: &dyn Source,
    plan: &Plan,
    (target, overwrite): (&Path, Overwrite),
    interrupted: Interrupted,
    label: &str,
    output: &Output,
) -> anyhow::Result<Report> {
    let writing = Writing::start();
    let shown = output.progress(label, plan.source_bytes(), Unit::Bytes);
    let progress = Encoding { shown, writing: &writing, target, output };
    let write = match interrupted {
        Interrupted::GoesOn => llq_convert::write_resumably,
        Interrupted::IsRemoved => llq_convert::write,
    };
    let report = write(source, plan, target, overwrite, &progress).map_err(|error| {
        let refusal = Refusal::new(format!("cannot write {}", target.display()));
        let refusal = match write_hint(&error, plan.request().on_overflow, target) {
            Some(hint) => refusal.hint(hint),
            None => refusal,
        };
        anyhow::Error::new(error).context(refusal)
    })?;
    drop(progress);
    say_non_finite(&report.non_finite, output);
    say_overflows(&report.overflows, plan.request().on_overflow, output);
    Ok(report)
}

/// What can be done about a write that failed.
fn write_hint(error: &Error, on_overflow: OnOverflow, target: &Path) -> Option<String> {
    match error {
        Error::Overflow { tensors } => Some(overflow_hint(tensors, on_overflow).to_owned()),
        Error::Gguf(llq_gguf::Error::InUse { .. }) => None,
        Error::Gguf(llq_gguf::Error::OtherRun { .. }) => Some(ANEW_HINT.to_owned()),
        _ => goes_on(target),
    }
}

/// What to do about weights that are too large.
fn overflow_hint(tensors: &[Overflow], on_overflow: OnOverflow) -> &'static str {
    let keepable = on_overflow == OnOverflow::Error
        && tensors.iter().all(|overflow| overflow.to == TensorType::F16);
    match keepable {
        true => {
            "convert and quantize take --on-overflow keep-bf16, which makes BF16 of such tensors, \
             and --on-overflow clamp, which cuts the weights"
        }
        false => "convert and quantize take --on-overflow clamp, which cuts the weights",
    }
}

/// What to do with what another run has left.
pub(super) const ANEW_HINT: &str = "--force without --resume removes it and begins anew";

/// Says what a run that did not come to its end has left.
fn goes_on(target: &Path) -> Option<String> {
    let folder = llq_gguf::unfinished(target)?;
    Some(format!("--resume goes on with what is in {}", folder.display()))
}

/// Refuses to remove what an interrupted run has left, unless that is asked for.
fn check_unfinished(
    target: &Path,
    interrupted: Interrupted,
    overwrite: Overwrite,
) -> Result<(), Refusal> {
    match (llq_gguf::unfinished(target), interrupted, overwrite) {
        (Some(folder), Interrupted::IsRemoved, Overwrite::Forbid) => {
            Err(Refusal::new(format!("{} has what an interrupted run wrote", folder.display()))
                .hint(format!("--resume goes on with it, {ANEW_HINT}")))
        }
        _ => Ok(()),
    }
}

/// Shows a write, and stops it where Ctrl-C was pressed.
struct Encoding<'a> {
    shown: Progress<'a>,
    writing: &'a Writing,
    target: &'a Path,
    output: &'a Output,
}

impl llq_convert::Progress for Encoding<'_> {
    fn begin(&self, _total_bytes: u64) {}

    fn resume(&self, earlier: &Earlier) {
        if let Some(damage) = &earlier.damage {
            self.output.note(&format_args!(
                "what an interrupted run has left is of no use, as {damage}: writing begins anew"
            ));
        }
        if earlier.bytes > 0 {
            let bytes = Bytes(earlier.bytes);
            self.output.done(&format_args!("{bytes} are there from an interrupted run"));
        }
    }

    fn pass(&self, bytes: u64) {
        self.shown.pass(bytes);
        self.writing.check();
    }

    fn advance(&self, bytes: u64) {
        self.shown.advance(bytes);
        self.writing.check();
    }
}

impl Drop for Encoding<'_> {
    fn drop(&mut self) {
        if thread::panicking()
            && let Some(hint) = goes_on(self.target)
        {
            self.output.note(&format_args!("interrupted; {hint}"));
        }
    }
}

/// Choices that were made without being asked for.
pub(super) fn say_notes(source: &dyn Source, plan: &Plan, output: &Output) {
    for note in source.notes().iter().chain(plan.notes()) {
        output.note(&Escaped(&note.0));
    }
    say_fallbacks(plan, output);
}

/// Tensors that did not get the type their mix wanted.
pub(super) fn say_fallbacks(plan: &Plan, output: &Output) {
    for fallback in fallbacks(plan) {
        output.note(&fallback);
    }
}

/// The tensors whose shape forbade the type of the mix, in a line per kind.
fn fallbacks(plan: &Plan) -> Vec<String> {
    let mut kinds: BTreeMap<_, Vec<&str>> = BTreeMap::new();
    for (tensor, fallback) in plan.fallbacks() {
        kinds.entry((fallback.wanted, tensor.to, fallback.cols)).or_default().push(&tensor.name);
    }
    kinds
        .into_iter()
        .map(|((wanted, got, cols), names)| {
            let (count, first) = (names.len(), Escaped(names[0]));
            let tensors = if count == 1 { "tensor" } else { "tensors" };
            format!(
                "{count} {tensors} got {got} in place of {wanted}, whose blocks of {} do not fill \
                 rows of {cols}: {first}{}",
                wanted.block_weights(),
                if count == 1 { "" } else { ", …" },
            )
        })
        .collect()
}

fn say_non_finite(tensors: &[NonFinite], output: &Output) {
    for NonFinite { tensor, weights, .. } in tensors {
        output.note(&format_args!(
            "{}: {} NaN or infinite",
            Escaped(tensor),
            match weights {
                1 => "1 weight is".to_owned(),
                more => format!("{} weights are", Count(*more)),
            }
        ));
    }
}

fn say_overflows(tensors: &[Overflow], on_overflow: OnOverflow, output: &Output) {
    let outcome = match on_overflow {
        OnOverflow::KeepBf16 => "the tensor is BF16",
        OnOverflow::Error | OnOverflow::Clamp => "they were cut to what does",
    };
    for overflow in tensors {
        output.note(&format_args!("{}: {outcome}", Escaped(&overflow.to_string())));
    }
}

/// A model that was made, or would be.
#[derive(Serialize)]
pub(super) struct Made {
    /// The file, or the first of the parts.
    pub(super) output: String,
    /// The size of each file.
    pub(super) files: Vec<MadeFile>,
    pub(super) file_bytes: u64,
    pub(super) parameters: u64,
    pub(super) bits_per_weight: f64,
    pub(super) types: Vec<TypeShare>,
    fallbacks: Vec<String>,
    /// `None` for a dry run.
    seconds: Option<f64>,
    /// `None` where the file was not evaluated.
    check: Option<Checked>,
}

#[derive(Serialize)]
pub(super) struct MadeFile {
    pub(super) path: String,
    pub(super) bytes: u64,
}

/// How much of the model has which type, where these tensors did not fit theirs.
fn types(plan: &Plan, overflows: &[Overflow]) -> Vec<TypeShare> {
    let keep = plan.request().on_overflow == OnOverflow::KeepBf16;
    let kept = |name: &str| keep && overflows.iter().any(|overflow| overflow.tensor == name);
    type_shares(plan.layout().tensors().map(|tensor| match kept(&tensor.name) {
        true => (TensorType::BF16, tensor.weights(), tensor.bytes),
        false => (tensor.tensor_type, tensor.weights(), tensor.bytes),
    }))
}

impl Made {
    pub(super) fn planned(plan: &Plan, paths: &[PathBuf]) -> Made {
        let types = types(plan, &[]);
        let sizes = plan.layout().parts().iter().map(|part| part.file_bytes());
        let files = paths.iter().zip(sizes);
        Made {
            output: paths.first().map(|path| path.display().to_string()).unwrap_or_default(),
            files: files
                .map(|(path, bytes)| MadeFile { path: path.display().to_string(), bytes })
                .collect(),
            file_bytes: plan.file_bytes(),
            parameters: types.iter().map(|share| share.parameters).sum(),
            bits_per_weight: plan.bits_per_weight(),
            types,
            fallbacks: fallbacks(plan),
            seconds: None,
            check: None,
        }
    }

    /// Whether the file is sound, as far as it was checked.
    pub(super) fn exit_code(&self) -> ExitCode {
        let broken = self.check.as_ref().is_some_and(Checked::is_broken);
        if broken { ExitCode::from(FOUND_BAD) } else { ExitCode::SUCCESS }
    }

    /// The file, or how many there are.
    pub(super) fn outputs(&self) -> String {
        match self.files.len() {
            0 | 1 => self.output.clone(),
            count => format!("{} and {} more files", self.output, count - 1),
        }
    }
}
