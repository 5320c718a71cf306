//! `llq quantize --target-size` and `--target-bpw`: a mix that is measured on the model itself.

mod args;
mod measured;

use std::{path::Path, time::Instant};

use anyhow::Context;
use llq_convert::{Output as Types, Plan, Request, Source, TensorPlan};
use llq_eval::{
    Choice, Corpus, Importance, Matrices, Options, encoding_errors, importance, record,
    sensitivities,
};
use llq_gguf::{Model, TensorType};
use llq_quant::{
    AllocationError, Candidate, allocate,
    mix::{Guidance, Mix, Purity, Recipe, fit},
};

pub(super) use self::{args::AllocationArgs, measured::Measured};
use self::{
    args::Target,
    measured::{Row, common_mix},
};
use super::{
    corpus::{self, Evaluating},
    perplexity, produce,
};
use crate::{
    args::TextArgs,
    failure::Refusal,
    figures::{Bytes, Count, Seconds},
    output::Output,
    progress::Unit,
};

/// Tokens of the windows that tensors are measured on, about; at most a quarter of the text.
const MEASURED_TOKENS: usize = 16 * 512;

/// Tokens of the windows that the mix is judged on, about.
const JUDGED_TOKENS: usize = 64 * 512;

/// How the weights of the mix will be rounded.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Rounding {
    Plain,
    Calibrated,
}

impl Rounding {
    /// The share of a tensor's loss by plain rounding that is left. Of calibrated rounding it hardly
    /// depends on the type: of whole mixes of the fixture 0.38 to 0.42 for Q4_K_M, Q3_K_M and Q2_K.
    /// Single tensors as Q4_K, everything else unquantized, left 0.70 and 0.53; the blocks what makes
    /// up the sums of mixes.
    fn left(self, tensor: &str, head: &str) -> f64 {
        match (self, tensor) {
            (Rounding::Plain, _) => 1.0,
            // Rounded plainly where it is the head too.
            (Rounding::Calibrated, EMBEDDING) if head == EMBEDDING => 1.0,
            (Rounding::Calibrated, EMBEDDING) => 0.70,
            (Rounding::Calibrated, OUTPUT) => 0.53,
            (Rounding::Calibrated, _) => 0.35,
        }
    }
}

const EMBEDDING: &str = "token_embd.weight";
const OUTPUT: &str = "output.weight";

/// What is to be chosen, and what bounds it.
struct Problem {
    choices: Vec<Choice>,
    /// Of each choice the bytes in each of its types, as they count for the target.
    bytes: Vec<Vec<u64>>,
    /// Of each choice the share of its loss by plain rounding that is left.
    left: Vec<f64>,
    /// Bytes of all that is not chosen.
    fixed: u64,
    /// Bytes of everything at the most.
    most: u64,
    /// Weights of all tensors.
    weights: u64,
    target: Target,
    rounding: Rounding,
}

impl Problem {
    fn new(
        (source, request): (&dyn Source, &Request),
        types: &[TensorType],
        target: Target,
        rounding: Rounding,
    ) -> anyhow::Result<Problem> {
        const HINT: &str = "--allow-requantize does it all the same";
        let plan = |mix| {
            let recipe = Recipe { mix, purity: Purity::Pure, guidance: Guidance::Unguided };
            let request = Request { output: Types::Recipe(recipe), ..request.clone() };
            produce::plan(source, &request, HINT)
        };
        let (blocks, plain): (Plan, Plan) = (plan(Mix::Q8_0)?, plan(Mix::F16)?);
        let alignment = match target {
            Target::FileBytes(_) => {
                blocks.layout().parts().first().map_or(1, |part| part.alignment())
            }
            Target::BitsPerWeight(_) => 1,
        };
        let weights: u64 = blocks.layout().tensors().map(|tensor| tensor.weights()).sum();
        let (mut fixed, most) = match target {
            Target::FileBytes(bytes) => (blocks.file_bytes(), bytes),
            Target::BitsPerWeight(bits) => {
                let fixed: u64 = blocks.layout().tensors().map(|tensor| tensor.bytes).sum();
                (fixed, (bits * weights as f64 / 8.0) as u64)
            }
        };
        let (mut choices, mut bytes, mut left) = (Vec::new(), Vec::new(), Vec::new());
        let has_output = blocks.tensors().iter().any(|tensor| tensor.name == OUTPUT);
        let head = if has_output { OUTPUT } else { EMBEDDING };
        // What has the same type in both, no mix has a say in.
        let both = blocks.tensors().iter().zip(plain.tensors());
        for (tensor, _) in both.filter(|(blocks, plain)| blocks.to != plain.to) {
            let size = |to| size(tensor, to).next_multiple_of(alignment);
            let choice = choice(tensor, types, request);
            fixed -= size(tensor.to);
            bytes.push(choice.types.iter().map(|&to| size(to)).collect());
            left.push(rounding.left(&tensor.name, head));
            choices.push(choice);
        }
        let problem = Problem { choices, bytes, left, fixed, most, weights, target, rounding };
        // What can't be is told before anything is measured.
        problem.allocate(&vec![0.0; problem.choices.len()], None)?;
        Ok(problem)
    }

    fn measure(self, input: &Path, args: &TextArgs, output: &Output) -> anyhow::Result<Measured> {
        let started = Instant::now();
        let model = perplexity::open(input)?;
        let llama = perplexity::load(&model)?;
        let options = args.options();
        let mut text = corpus::open(args, output)?;
        let corpus = corpus::tokenize(&mut text, &options, &model, output)?;
        corpus::check_length(&args.corpus, &corpus, &options)?;
        corpus::note_long_windows(&llama, &options, output);
        let (measured, judged) = deal(&corpus, &options, &args.corpus)?;
        let options = Options { chunks: None, ..options };

        let failed = || format!("cannot measure {}", input.display());
        let collecting = Evaluating::new(output, "collecting importance");
        let all = Matrices::BlocksAndOutput;
        let inputs = importance(&llama, &measured, options.context, None, all, &collecting)
            .with_context(failed)?;
        drop(collecting);
        let unquantized = Evaluating::new(output, "unquantized");
        let (report, base) =
            record(&llama, &measured, &options, &unquantized).with_context(failed)?;
        drop(unquantized);
        let errors = self.errors(&model, &inputs, output)?;
        let bits =
            (self.most.saturating_sub(self.fixed)) as f64 * 8.0 / self.chosen_weights(&model);
        let progress = Evaluating::new(output, "measuring tensors");
        let on = (&base, &measured);
        let found = sensitivities(&model, &self.choices, &errors, bits, on, &options, &progress)
            .with_context(failed)?;
        drop(progress);

        let chosen = self.allocate(&found, Some(&errors))?;
        let rows: Vec<Row> = (0..self.choices.len())
            .map(|index| self.row(index, chosen[index], &errors[index], found[index]))
            .collect();
        let predicted: f64 = rows.iter().map(|row| row.loss).sum();
        output.done(&format_args!(
            "{} tensors measured on {} windows in {}: predicted KL divergence {predicted:.6}",
            Count(rows.len() as u64),
            Count(report.chunks as u64),
            Seconds(started.elapsed()),
        ));
        let bytes: u64 = self.bytes.iter().zip(&chosen).map(|(bytes, &at)| bytes[at]).sum();
        output.note(&self.slack(self.fixed + bytes));
        Ok(Measured {
            mix: common_mix(&model, &rows),
            tensors: rows,
            predicted,
            measured: None,
            windows: report.chunks,
            seconds: started.elapsed().as_secs_f64(),
            judged,
            rounding: self.rounding,
            options,
        })
    }

    fn errors(
        &self,
        model: &Model,
        inputs: &Importance,
        output: &Output,
    ) -> anyhow::Result<Vec<Vec<f64>>> {
        let progress = output.progress("encoding", self.choices.len() as u64, Unit::Steps);
        let errors = self.choices.iter().map(|choice| -> anyhow::Result<Vec<f64>> {
            let inputs = inputs.tensors.iter().find(|inputs| inputs.tensor == choice.tensor);
            let errors = encoding_errors(model, choice, inputs)?;
            progress.advance(1);
            Ok(errors)
        });
        errors.collect()
    }

    fn chosen_weights(&self, model: &Model) -> f64 {
        let tensors = self.choices.iter().filter_map(|choice| model.tensor(&choice.tensor));
        tensors.map(|tensor| tensor.weights() as f64).sum()
    }

    /// The index of each choice's type. Without errors there are no losses: only what fits counts.
    fn allocate(
        &self,
        sensitivities: &[f64],
        errors: Option<&[Vec<f64>]>,
    ) -> anyhow::Result<Vec<usize>> {
        let error = |tensor: usize, at: usize| errors.map_or(0.0, |errors| errors[tensor][at]);
        let candidates: Vec<Vec<Candidate>> = self
            .bytes
            .iter()
            .enumerate()
            .map(|(tensor, bytes)| {
                let candidate = |(at, &bytes)| {
                    let loss = self.loss(tensor, sensitivities[tensor], error(tensor, at));
                    Candidate { bytes, loss }
                };
                bytes.iter().enumerate().map(candidate).collect()
            })
            .collect();
        match allocate(&candidates, self.most.saturating_sub(self.fixed)) {
            Err(AllocationError::TooSmall { least, .. }) => Err(self.too_small(least).into()),
            // What is left of the header is too much too.
            Ok(_) if self.fixed > self.most => Err(self.too_small(0).into()),
            other => Ok(other?),
        }
    }

    fn loss(&self, tensor: usize, sensitivity: f64, error: f64) -> f64 {
        sensitivity * error * self.left[tensor]
    }

    fn too_small(&self, least: u64) -> Refusal {
        let least = self.fixed.saturating_add(least);
        let (wanted, possible) = match self.target {
            Target::FileBytes(bytes) => (exact(bytes), exact(least)),
            Target::BitsPerWeight(bits) => {
                // Rounded up: what is told is possible.
                let possible = (least as f64 * 8.0 / self.weights as f64 * 1e4).ceil() / 1e4;
                (format!("{bits} bits per weight"), format!("{possible} bits per weight"))
            }
        };
        Refusal::new(format!("the model cannot have {wanted}: the smallest possible is {possible}"))
            .hint("smaller --types, where there are some, take less")
    }

    /// What the mix takes of the target.
    fn slack(&self, bytes: u64) -> String {
        match self.target {
            Target::FileBytes(most) => {
                format!("{} of {} are used", exact(bytes), exact(most))
            }
            Target::BitsPerWeight(bits) => {
                let used = bytes as f64 * 8.0 / self.weights as f64;
                format!("{used:.4} of {bits} bits per weight are used")
            }
        }
    }

    fn row(&self, index: usize, at: usize, errors: &[f64], sensitivity: f64) -> Row {
        let Choice { tensor, types, .. } = &self.choices[index];
        let (error, loss) = (errors[at], self.loss(index, sensitivity, errors[at]));
        Row { tensor: tensor.clone(), tensor_type: types[at], error, sensitivity, loss }
    }
}

fn size(tensor: &TensorPlan, to: TensorType) -> u64 {
    let rows: u64 = tensor.shape.iter().skip(1).product();
    to.row_bytes(tensor.shape.first().copied().unwrap_or(1)).unwrap_or(0).saturating_mul(rows)
}

/// The types that a tensor's rows allow, each once.
fn choice(tensor: &TensorPlan, types: &[TensorType], request: &Request) -> Choice {
    let cols = tensor.shape.first().copied().unwrap_or(1);
    let mut fitting: Vec<TensorType> = Vec::new();
    for &wanted in types {
        let fit = fit(wanted, cols).tensor_type;
        if !fitting.contains(&fit) {
            fitting.push(fit);
        }
    }
    let importance = request.imatrix.as_ref().and_then(|imatrix| imatrix.entry(&tensor.name));
    let importance = importance.map(|entry| entry.mean_squares());
    Choice {
        tensor: tensor.name.clone(),
        types: fitting,
        importance: importance.filter(|importance| importance.len() as u64 == cols),
        effort: request.effort,
    }
}

/// The windows to measure tensors on, and others, on which the mix is judged.
fn deal(corpus: &Corpus, options: &Options, path: &Path) -> Result<(Corpus, Corpus), Refusal> {
    let all = corpus.windows(options.context).min(options.chunks.unwrap_or(usize::MAX));
    if all < 2 {
        let path = path.display();
        let problem = format!("{path}: one window; a mix is measured on some and judged on others");
        return Err(Refusal::new(problem).hint("give a longer text, or a smaller --ctx"));
    }
    let text = corpus.first(options.context, all);
    let measured = (MEASURED_TOKENS / options.context).clamp(1, (all / 4).max(1));
    let (measured, rest) = text.deal(options.context, measured);
    let (judged, _) = rest.deal(options.context, (JUDGED_TOKENS / options.context).max(1));
    Ok((measured, judged))
}

/// A size that people set to the byte.
fn exact(bytes: u64) -> String {
    format!("{} bytes ({})", Count(bytes), Bytes(bytes))
}
