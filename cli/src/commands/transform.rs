//! `llq transform`: the same model with its channels in another order or at another scale.

use std::{fmt, path::PathBuf, process::ExitCode};

use anyhow::Context;
use llq_convert::{Overwrite, Plan, Request, Transform};
use llq_eval::{Against, Corpus, Llama, Mode, Options, Progress, Tokenizer, evaluate};
use llq_gguf::Model;
use serde::Serialize;

use super::{check, corpus::Evaluating, perplexity, produce};
use crate::{
    args::{HELP, Interrupted},
    escape::Escaped,
    failure::Refusal,
    figures::Count,
    interrupt::TemporaryFolder,
    output::{Form, Output},
    target::{Target, folder_of},
    type_args::read_imatrix,
};

const EXAMPLES: &str = "\
Examples:
  llq imatrix model.gguf --corpus text.txt --process-output -o model.imatrix
  llq transform model.gguf -o scaled.gguf --imatrix model.imatrix --scale
  llq quantize scaled.gguf -o scaled-q2_k.gguf --type q2_k
  llq perplexity scaled-q2_k.gguf --corpus other.txt --against model.gguf";

/// Move or scale the channels of a model without changing what it computes.
///
/// The result is a model for any tool and predicts the same: both are evaluated on a short text, and a
/// file that does not agree with its source is not kept. On llq's fixtures --scale gains where a model
/// is then quantized without importance and loses with it, --order gains little, and neither gains
/// with --calibrate; compare both ways with llq perplexity --against. Importance of the source does
/// not fit the result: collect it anew.
#[derive(clap::Args)]
#[command(help_template = HELP, before_help = EXAMPLES)]
#[command(group(clap::ArgGroup::new("transforms").required(true).multiple(true)))]
pub(crate) struct Args {
    /// The GGUF file, in F32, F16 or BF16
    model: PathBuf,

    /// The file to write
    #[arg(long, short, value_name = "GGUF")]
    output: PathBuf,

    /// What llq imatrix or llama.cpp's tool collected of this model
    #[arg(long, value_name = "FILE")]
    imatrix: PathBuf,

    /// Reorder the channels of the residual stream, of values, and inside the feed-forward networks:
    /// each group of 16 gets an equal share of those that carry much
    #[arg(long, group = "transforms")]
    order: bool,

    /// Scale matrices up where they read channels that carry much, and what writes the channels down.
    /// Scaled tensors become F32
    #[arg(long, group = "transforms")]
    scale: bool,

    /// Replace the output where it exists
    #[arg(long)]
    force: bool,
}

impl Args {
    fn transforms(&self) -> Vec<Transform> {
        let given = [(Transform::Order, self.order), (Transform::Scale, self.scale)];
        given.into_iter().filter_map(|(transform, given)| given.then_some(transform)).collect()
    }
}

pub(crate) fn run(args: &Args, output: &Output) -> anyhow::Result<ExitCode> {
    let overwrite = if args.force { Overwrite::Replace } else { Overwrite::Forbid };
    let target = Target::beside(&args.output, overwrite, &[&args.model, &args.imatrix])?;
    let base_model = perplexity::open(&args.model)?;
    let base = perplexity::load(&base_model)?;
    let imatrix = read_imatrix(&args.imatrix, output)?;
    let transforms = args.transforms();
    let source = llq_convert::open(&args.model)?;
    let source = llq_convert::transformed(source, &imatrix, &transforms)
        .with_context(|| Refusal::new(format!("cannot transform {}", args.model.display())))?;
    let plan = Plan::new(&*source, &Request::default())?;
    produce::say_notes(&*source, &plan, output);

    let folder = TemporaryFolder::beside(folder_of(target.path()))
        .with_context(|| format!("cannot write {}", args.output.display()))?;
    let unchecked = folder.path().join("transformed.gguf");
    let to = (unchecked.as_path(), Overwrite::Forbid);
    produce::write(&*source, &plan, to, Interrupted::IsRemoved, "transforming", output)?;
    let checked =
        Checked::of(&Model::open(&unchecked)?, &base, &Evaluating::new(output, "checking"))
            .with_context(|| format!("cannot check {}", args.output.display()))?;
    if !checked.agrees() {
        let model = args.model.display();
        return Err(Refusal::new(format!(
            "transformed, {model} predicts something else: {checked}; nothing is written"
        ))
        .into());
    }
    target.take(&unchecked)?;
    let made = Made {
        output: args.output.display().to_string(),
        transforms: transforms.iter().map(|transform| transform.name()).collect(),
        file_bytes: plan.file_bytes(),
        check: checked,
    };
    output.done(&made);
    if output.form() == Form::Json {
        output.json(&made)?;
    }
    Ok(ExitCode::SUCCESS)
}

/// How both models predict a short text, with exact products.
#[derive(Serialize)]
struct Checked {
    tokens: usize,
    perplexity_before: f64,
    perplexity: f64,
    kld: f64,
}

impl Checked {
    /// What sums in another order may change of the perplexity, as a share of it. Small models differ
    /// by a ten-millionth; more layers and wider sums may by more.
    const MOST_CHANGE: f64 = 1e-4;
    /// The mean KL divergence that they may make, of which small models have 2e-9.
    const MOST_DIVERGENCE: f64 = 1e-6;

    fn of(made: &Model, base: &Llama<'_>, progress: &dyn Progress) -> anyhow::Result<Checked> {
        let llama = Llama::load(made)?;
        let tokenizer = Tokenizer::from_metadata(made.metadata())?;
        let corpus = Corpus::tokenize(&tokenizer, check::TEXT);
        let weights = made.tensors().iter().map(|tensor| tensor.weights());
        let weights = weights.fold(0, u64::saturating_add);
        let options =
            Options { mode: Mode::Exact, ..check::options(weights, corpus.tokens().len()) };
        let report = evaluate(&llama, Against::Model(base), &corpus, &options, progress)?;
        let nan = (f64::NAN, f64::NAN);
        let against = report.against.map(|against| (against.base_perplexity, against.kld.mean));
        let (perplexity_before, kld) = against.unwrap_or(nan);
        Ok(Checked { tokens: report.tokens, perplexity_before, perplexity: report.perplexity, kld })
    }

    /// Not where a figure is no number.
    fn agrees(&self) -> bool {
        (self.perplexity / self.perplexity_before - 1.0).abs() <= Self::MOST_CHANGE
            && self.kld <= Self::MOST_DIVERGENCE
    }
}

impl fmt::Display for Checked {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Checked { tokens, perplexity_before, perplexity, kld } = self;
        let tokens = Count(*tokens as u64);
        write!(f, "perplexity {perplexity_before:.6} before and {perplexity:.6} after, ")?;
        write!(f, "KL divergence {kld:.1e} on {tokens} tokens")
    }
}

/// A file that was written.
#[derive(Serialize)]
struct Made {
    output: String,
    transforms: Vec<&'static str>,
    file_bytes: u64,
    check: Checked,
}

impl fmt::Display for Made {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}, {}", Escaped(&self.output), self.transforms.join(" and "), self.check)
    }
}

#[cfg(test)]
mod tests {
    use llq_convert::Silent;
    use llq_fixtures::fixture;
    use llq_gguf::{TensorSpec, to_bytes};

    use super::*;

    /// The fixture as GGUF, of which `change` may change the bytes of tensors.
    fn model(change: impl Fn(&str, &mut Vec<u8>)) -> Model {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("model.gguf");
        let source = llq_convert::open(&fixture("tiny-llama-2/hf")).unwrap();
        let plan = Plan::new(&*source, &Request::default()).unwrap();
        llq_convert::write(&*source, &plan, &path, Overwrite::Forbid, &Silent).unwrap();
        let model = Model::open(&path).unwrap();
        let tensors = model.tensors().iter().map(|tensor| {
            let mut data = model.data(tensor).to_vec();
            change(&tensor.name, &mut data);
            let (name, shape) = (tensor.name.clone(), tensor.shape.clone());
            (TensorSpec { name, shape, tensor_type: tensor.tensor_type }, data)
        });
        Model::from_bytes(to_bytes(model.metadata(), tensors).unwrap()).unwrap()
    }

    #[test]
    fn a_channel_that_has_not_moved_along_is_found() {
        let model_before = model(|_, _| ());
        let before = Llama::load(&model_before).unwrap();
        let same = Checked::of(&model_before, &before, &()).unwrap();
        assert!(same.agrees() && same.kld == 0.0, "{same}");
        // Two hidden channels of one block: rows of 256 weights in BF16.
        let moved = model(|name, data| {
            if name == "blk.3.ffn_up.weight" {
                data[..1024].rotate_left(512);
            }
        });
        let moved = Checked::of(&moved, &before, &()).unwrap();
        assert!(!moved.agrees(), "{moved}");
    }
}
