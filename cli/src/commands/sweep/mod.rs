//! `llq sweep`: what each type costs and what it keeps, in one table.

mod documents;
mod folder;
mod report;
mod table;

use std::{
    collections::HashSet,
    path::{Path, PathBuf},
    time::Instant,
};

use anyhow::Context;
use llq_convert::{OpenOptions, Output as Types, Plan, Request, Source};
use llq_eval::{Against, Corpus, Options, Recorded, evaluate, record};
use llq_gguf::Model;
use llq_quant::mix::{Guidance, Mix, Recipe};

use self::{
    documents::Documents,
    folder::Folder,
    table::{Row, Swept, Table},
};
use super::{
    compare,
    corpus::{self, Evaluating},
    perplexity, produce,
};
use crate::{
    args::{EffortArgs, EvalArgs, HELP, Interrupted, LoraArgs, PurityArgs, parse_mix, types_help},
    escape::Escaped,
    output::{Form, Output},
    type_args::TypeArgs,
};

const EXAMPLES: &str = "\
Examples:
  llq sweep Llama-2-7b-hf --corpus wiki.test.txt
  llq sweep model.gguf --corpus wiki.test.txt --types q8_0,q4_k_m,q3_k_m --chunks 50
  llq sweep Llama-2-7b-hf --corpus wiki.test.txt --report llama-2-7b.html";

/// What to do where the model is quantized already.
const REQUANTIZE_HINT: &str = "start from the checkpoint, or from a GGUF file in F32, F16 or BF16";

/// Quantize a model to each type, measure each, and print one table.
///
/// Perplexity, change, KL divergence and same-top-token rate are against the model as it is
/// before quantization, which is the table's first row.
#[derive(clap::Args)]
#[command(help_template = HELP, before_help = EXAMPLES, after_help = types_help())]
pub(crate) struct Args {
    /// A checkpoint's folder, or a GGUF file
    model: PathBuf,

    /// The types to try, separated by commas [default: every quantized one]
    #[arg(long, value_name = "TYPES", value_delimiter = ',', value_parser = parse_mix)]
    types: Vec<Mix>,

    #[command(flatten)]
    purity: PurityArgs,

    #[command(flatten)]
    effort: EffortArgs,

    #[command(flatten)]
    tensors: TypeArgs,

    #[command(flatten)]
    lora: LoraArgs,

    #[command(flatten)]
    eval: EvalArgs,

    /// Keep the GGUF files in this folder; otherwise they lie in the folder for temporary files
    /// (TMPDIR) while they are needed: the unquantized model and one other
    #[arg(long, value_name = "FOLDER")]
    keep: Option<PathBuf>,

    /// Write a report, one HTML page that needs nothing else: quality against size as a plot, the table,
    /// errors by tensor and layer
    #[arg(long, value_name = "HTML")]
    report: Option<PathBuf>,

    /// Write the table as CSV, with more figures
    #[arg(long, value_name = "FILE")]
    csv: Option<PathBuf>,

    /// Write the table as Markdown
    #[arg(long, value_name = "FILE")]
    markdown: Option<PathBuf>,

    /// Replace report and tables where they exist
    #[arg(long)]
    force: bool,
}

pub(crate) fn run(args: &Args, output: &Output) -> anyhow::Result<()> {
    produce::refuse_adapter(&args.model)?;
    let documents = Documents::check(args)?;
    let mut text = corpus::open(&args.eval.text, output)?;
    let folder = Folder::of(&args.model, args.keep.as_deref())?;
    let open = OpenOptions { lora: args.lora.adapters(), ..OpenOptions::default() };
    let source = llq_convert::open_with(&args.model, &open)?;
    let plans = plans(args, &*source, output)?;
    folder.check(plans.iter().map(|(mix, _)| *mix))?;

    let started = Instant::now();
    let model = perplexity::open(&base(args, &*source, &folder, output)?)?;
    let llama = perplexity::load(&model)?;
    let options = args.eval.options();
    let corpus = corpus::tokenize(&mut text, &options, &model, output)?;
    corpus::check_length(&args.eval.text.corpus, &corpus, &options)?;
    corpus::note_long_windows(&llama, &options, output);
    let progress = Evaluating::new(output, "unquantized");
    let (report, recorded) = record(&llama, &corpus, &options, &progress)
        .with_context(|| format!("cannot measure {}", args.model.display()))?;
    drop(progress);

    let base = Row::new(base_name(&model), &model, &report, started.elapsed());
    let mut table = Table::start(base, plans.iter().map(|(mix, _)| *mix), output)?;
    let weights = if documents.has_report() { Weights::Compared } else { Weights::Unseen };
    let bench = Bench {
        source: &*source,
        recorded: &recorded,
        corpus: &corpus,
        options: &options,
        weights,
    };
    for (mix, plan) in &plans {
        table.add(bench.row(*mix, plan, &folder, output)?)?;
    }
    let swept = Swept::new(&args.model, &args.eval.text.corpus, &report, &table);
    // Neither is to be lost over the other.
    let written = documents.write(&swept, &model);
    if output.form() == Form::Json {
        output.json(&swept)?;
    }
    written
}

/// What becomes of every type, decided before the first is made: a sweep of hours must not end
/// half-way over something that could have been known.
fn plans(args: &Args, source: &dyn Source, output: &Output) -> anyhow::Result<Vec<(Mix, Plan)>> {
    let (rules, imatrix) = (args.tensors.rules(), args.tensors.read_imatrix(output)?);
    let mut said = HashSet::new();
    mixes(&args.types)
        .into_iter()
        .map(|mix| {
            let recipe = Recipe { mix, purity: args.purity.purity(), guidance: Guidance::Unguided };
            let request = Request {
                output: Types::Recipe(recipe),
                rules: rules.clone(),
                imatrix: imatrix.clone(),
                effort: args.effort.effort(),
                ..Request::default()
            };
            let plan = produce::plan(source, &request, REQUANTIZE_HINT)?;
            for note in plan.notes().iter().filter(|note| said.insert(note.0.clone())) {
                output.note(&Escaped(&note.0));
            }
            Ok((mix, plan))
        })
        .collect()
}

fn mixes(asked: &[Mix]) -> Vec<Mix> {
    if asked.is_empty() {
        return Mix::ALL.iter().copied().filter(|mix| mix.base().block_weights() > 1).collect();
    }
    let mut mixes = Vec::new();
    for &mix in asked {
        if !mixes.contains(&mix) {
            mixes.push(mix);
        }
    }
    mixes
}

/// The model that all others are compared with: the GGUF file itself, or the checkpoint converted
/// to its own type.
fn base(
    args: &Args,
    source: &dyn Source,
    folder: &Folder,
    output: &Output,
) -> anyhow::Result<PathBuf> {
    if args.model.is_file() {
        return Ok(args.model.clone());
    }
    let plan = produce::plan(source, &Request::default(), REQUANTIZE_HINT)?;
    produce::say_notes(source, &plan, output);
    let target = folder.base()?;
    produce::write(source, &plan, target.to_write(), Interrupted::IsRemoved, "converting", output)
        .map_err(|error| folder.explain(error))?;
    Ok(target.path().to_owned())
}

/// What every type is measured against and on.
struct Bench<'a> {
    source: &'a dyn Source,
    recorded: &'a Recorded<'a>,
    corpus: &'a Corpus,
    options: &'a Options,
    weights: Weights,
}

/// Whether a report is going to tell of single tensors.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Weights {
    Compared,
    Unseen,
}

impl Bench<'_> {
    /// Makes the model of a type, measures it, and removes it unless it is kept.
    fn row(&self, mix: Mix, plan: &Plan, folder: &Folder, output: &Output) -> anyhow::Result<Row> {
        let started = Instant::now();
        produce::say_fallbacks(plan, output);
        let target = folder.quantized(mix)?;
        produce::write(
            self.source,
            plan,
            target.to_write(),
            Interrupted::IsRemoved,
            &format!("quantizing {mix}"),
            output,
        )
        .map_err(|error| folder.explain(error))?;
        let mut row = self.measure(mix, target.path(), started, output)?;
        if self.weights == Weights::Compared {
            let quantized = llq_convert::open(target.path())?;
            let label = format!("comparing {mix}");
            row.tensors = compare::differences(self.source, &*quantized, &label, output)?.tensors;
        }
        folder.release(&target)?;
        Ok(row)
    }

    fn measure(
        &self,
        mix: Mix,
        path: &Path,
        started: Instant,
        output: &Output,
    ) -> anyhow::Result<Row> {
        let model = perplexity::open(path)?;
        let llama = perplexity::load(&model)?;
        let progress = Evaluating::new(output, format!("measuring {mix}"));
        let against = Against::Recorded(self.recorded);
        let report = evaluate(&llama, against, self.corpus, self.options, &progress)
            .with_context(|| format!("cannot measure {mix}"))?;
        Ok(Row::new(mix.name(), &model, &report, started.elapsed()))
    }
}

/// The type that the unquantized model says it has.
fn base_name(model: &Model) -> &'static str {
    let file_type = model.metadata().count("general.file_type").ok();
    file_type.and_then(|id| Mix::from_file_type(u32::try_from(id).ok()?)).map_or("base", Mix::name)
}
