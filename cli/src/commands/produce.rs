//! What `convert` and `quantize` share: one pipeline with another source.

use std::{collections::BTreeMap, fmt, path::Path, time::Instant};

use anyhow::Context;
use llq_convert::{
    Error, NonFinite, OpenOptions, Output as Types, Plan, Requantize, Request, Source, Withdrawn,
};
use llq_quant::mix::Mix;
use serde::Serialize;

use super::type_shares::{TypeShare, type_shares, type_table};
use crate::{
    args::{Run, TargetArgs},
    escape::Escaped,
    failure::Refusal,
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

/// Opens the input, plans, and writes; says what came of it.
pub(super) fn run(job: Job<'_>, output: &Output) -> anyhow::Result<()> {
    let started = Instant::now();
    let place = Place::check(&job.target.output, job.target.overwrite(), job.input)?;
    let source = llq_convert::open_with(job.input, &job.open)?;
    let hint = "--allow-requantize does it all the same";
    let plan = plan(&*source, &job.request, hint)?;
    say_notes(&*source, &plan, output);
    let name = || llq_convert::file_name(source.metadata(), plan.recipe().map(|recipe| recipe.mix));
    let target = place.target(name, job.input, output)?;

    let mut made = Made::planned(target.path(), &plan);
    if job.target.run() == Run::Dry {
        return output.result(&made);
    }
    write(&*source, &plan, &target, "writing", output)?;
    let elapsed = started.elapsed();
    made.seconds = Some(elapsed.as_secs_f64());
    output.done(&format_args!(
        "{}: {}, {:.2} bits per weight, {}, {}",
        Escaped(&made.output),
        Bytes(made.file_bytes),
        made.bits_per_weight,
        Seconds(elapsed),
        ByteRate { bytes: plan.source_bytes(), elapsed },
    ));
    match output.form() {
        Form::Json => output.result(&made),
        Form::Text => Ok(()),
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
    target: &Target,
    label: &str,
    output: &Output,
) -> anyhow::Result<()> {
    let writing = Writing::start();
    let shown = output.progress(label, plan.source_bytes(), Unit::Bytes);
    let progress = Encoding { shown, writing: &writing };
    let report = llq_convert::write(source, plan, target.path(), target.overwrite(), &progress)
        .with_context(|| format!("cannot write {}", target.path().display()))?;
    drop(progress);
    say_non_finite(&report.non_finite, output);
    Ok(())
}

/// Shows a write, and stops it where Ctrl-C was pressed.
struct Encoding<'a> {
    shown: Progress<'a>,
    writing: &'a Writing,
}

impl llq_convert::Progress for Encoding<'_> {
    fn begin(&self, _total_bytes: u64) {}

    fn advance(&self, bytes: u64) {
        self.shown.advance(bytes);
        self.writing.check();
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
            "{}: {} weights are NaN or infinite",
            Escaped(tensor),
            Count(*weights)
        ));
    }
}

/// A file that was made, or would be.
#[derive(Serialize)]
struct Made {
    output: String,
    file_bytes: u64,
    parameters: u64,
    bits_per_weight: f64,
    types: Vec<TypeShare>,
    fallbacks: Vec<String>,
    /// `None` for a dry run.
    seconds: Option<f64>,
}

impl Made {
    fn planned(path: &Path, plan: &Plan) -> Made {
        let tensors = plan.layout().tensors();
        let types = type_shares(tensors.iter().map(|t| (t.tensor_type, t.weights(), t.bytes)));
        Made {
            output: path.display().to_string(),
            file_bytes: plan.file_bytes(),
            parameters: types.iter().map(|share| share.parameters).sum(),
            bits_per_weight: plan.bits_per_weight(),
            types,
            fallbacks: fallbacks(plan),
            seconds: None,
        }
    }
}

impl fmt::Display for Made {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&type_table(&self.types))?;
        let (size, bits) = (Bytes(self.file_bytes), self.bits_per_weight);
        writeln!(f, "\n{}: {size}, {bits:.2} bits per weight", Escaped(&self.output))
    }
}
