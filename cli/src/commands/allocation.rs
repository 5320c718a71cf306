//! `llq quantize --target-size` and `--target-bpw`: a mix that is measured on the model itself.

use std::{fmt, path::Path, time::Instant};

use anyhow::Context;
use llq_convert::{
    Endian, Imatrix, Output as Types, Plan, Request, Source, Split, TensorPlan, Tensors, TypeRules,
    parse_tensor_type,
};
use llq_eval::{
    Against, Choice, Corpus, Divergence, Importance, Matrices, Options, encoding_errors, evaluate,
    importance, record, sensitivities,
};
use llq_gguf::{Model, TensorType};
use llq_quant::{
    AllocationError, Candidate, allocate,
    mix::{Guidance, Mix, Purity, Recipe, fit},
};
use serde::Serialize;

use super::{
    corpus::{self, Evaluating},
    perplexity, produce,
};
use crate::{
    args::TextArgs,
    escape::Escaped,
    failure::Refusal,
    figures::{Bytes, Count, Seconds},
    output::Output,
    progress::Unit,
    table::{Column, Columns, pairs},
};

/// A size or bits per weight to be met in place of a type.
#[derive(clap::Args)]
pub(super) struct AllocationArgs {
    /// Give each tensor the type by which the model loses least in a file of at most this size, such
    /// as 4.5GiB or 4800M; G is a power of 1000, GiB of 1024. What each tensor matters is measured on
    /// the text of --corpus
    #[arg(long, value_name = "SIZE", value_parser = parse_size, requires = "corpus")]
    #[arg(conflicts_with_all = ["mix", "recipe", "pure", "target_bpw"])]
    target_size: Option<u64>,

    /// The same within so many bits per weight, of all tensors together
    #[arg(long, value_name = "BITS", value_parser = parse_bits, requires = "corpus")]
    #[arg(conflicts_with_all = ["mix", "recipe", "pure"])]
    target_bpw: Option<f64>,

    /// The types to choose among, separated by commas [default: q2_k,q3_k,q4_k,q5_k,q6_k,q8_0]
    #[arg(long, value_name = "TYPES", value_delimiter = ',', value_parser = parse_tensor_type)]
    #[arg(requires = "corpus")]
    types: Vec<TensorType>,

    #[command(flatten)]
    text: Option<TextArgs>,
}

/// What is chosen among where nothing else is said.
const TYPES: [TensorType; 6] = [
    TensorType::Q2_K,
    TensorType::Q3_K,
    TensorType::Q4_K,
    TensorType::Q5_K,
    TensorType::Q6_K,
    TensorType::Q8_0,
];

/// Tokens of the windows that tensors are measured on, about; at most a quarter of the text.
const MEASURED_TOKENS: usize = 16 * 512;

/// What must not be exceeded.
#[derive(Clone, Copy)]
enum Target {
    FileBytes(u64),
    BitsPerWeight(f64),
}

impl AllocationArgs {
    /// Whether nothing of this was asked for.
    pub(super) fn is_idle(&self) -> bool {
        self.target_size.is_none() && self.target_bpw.is_none() && self.text.is_none()
    }

    /// The text that is read.
    pub(super) fn file(&self) -> Option<&Path> {
        self.text.as_ref().map(|text| text.corpus.as_path())
    }

    /// Chooses the types of `input`, where that was asked for.
    pub(super) fn run(
        &self,
        input: &Path,
        source: &dyn Source,
        request: &Request,
        output: &Output,
    ) -> anyhow::Result<Option<Measured>> {
        let target = match (self.target_size, self.target_bpw) {
            (Some(bytes), _) => Target::FileBytes(bytes),
            (None, Some(bits)) => Target::BitsPerWeight(bits),
            (None, None) => {
                self.refuse_idle()?;
                return Ok(None);
            }
        };
        if let (Target::FileBytes(_), Split::Bytes(_) | Split::Tensors(_)) = (target, request.split)
        {
            return Err(Refusal::new("--target-size is of one file, and the output is split")
                .hint("give --target-bpw in its place")
                .into());
        }
        let Some(text) = &self.text else { return Ok(None) };
        let types = if self.types.is_empty() { &TYPES[..] } else { &self.types };
        let problem = Problem::new(source, request, types, target)?;
        problem.measure(input, text, output).map(Some)
    }

    fn refuse_idle(&self) -> Result<(), Refusal> {
        match self.text {
            Some(_) => Err(Refusal::new("--corpus is for --target-size and --target-bpw")),
            None => Ok(()),
        }
    }
}

/// What is to be chosen, and what bounds it.
struct Problem {
    choices: Vec<Choice>,
    /// Of each choice the bytes in each of its types, as they count for the target.
    bytes: Vec<Vec<u64>>,
    /// Bytes of all that is not chosen.
    fixed: u64,
    /// Bytes of everything at the most.
    most: u64,
    /// Weights of all tensors.
    weights: u64,
    target: Target,
}

impl Problem {
    fn new(
        source: &dyn Source,
        request: &Request,
        types: &[TensorType],
        target: Target,
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
        let (mut choices, mut bytes) = (Vec::new(), Vec::new());
        // What has the same type in both, no mix has a say in.
        let both = blocks.tensors().iter().zip(plain.tensors());
        for (tensor, _) in both.filter(|(blocks, plain)| blocks.to != plain.to) {
            let size = |to| size(tensor, to).next_multiple_of(alignment);
            let choice = choice(tensor, types, request.imatrix.as_deref());
            fixed -= size(tensor.to);
            bytes.push(choice.types.iter().map(|&to| size(to)).collect());
            choices.push(choice);
        }
        let problem = Problem { choices, bytes, fixed, most, weights, target };
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
        let (measured, rest) = deal(&corpus, &options, &args.corpus)?;
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
            rest,
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
                    let loss = sensitivities[tensor] * error(tensor, at);
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
        let (error, loss) = (errors[at], sensitivity * errors[at]);
        Row { tensor: tensor.clone(), tensor_type: types[at], error, sensitivity, loss }
    }
}

fn size(tensor: &TensorPlan, to: TensorType) -> u64 {
    let rows: u64 = tensor.shape.iter().skip(1).product();
    to.row_bytes(tensor.shape.first().copied().unwrap_or(1)).unwrap_or(0).saturating_mul(rows)
}

/// The types that a tensor's rows allow, each once.
fn choice(tensor: &TensorPlan, types: &[TensorType], imatrix: Option<&Imatrix>) -> Choice {
    let cols = tensor.shape.first().copied().unwrap_or(1);
    let mut fitting: Vec<TensorType> = Vec::new();
    for &wanted in types {
        let fit = fit(wanted, cols).tensor_type;
        if !fitting.contains(&fit) {
            fitting.push(fit);
        }
    }
    let importance = imatrix.and_then(|imatrix| imatrix.entry(&tensor.name));
    let importance = importance.map(|entry| entry.mean_squares());
    Choice {
        tensor: tensor.name.clone(),
        types: fitting,
        importance: importance.filter(|importance| importance.len() as u64 == cols),
    }
}

/// The windows to measure tensors on, and all others, on which the mix is judged.
fn deal(corpus: &Corpus, options: &Options, path: &Path) -> Result<(Corpus, Corpus), Refusal> {
    let all = corpus.windows(options.context).min(options.chunks.unwrap_or(usize::MAX));
    if all < 2 {
        let path = path.display();
        let problem = format!("{path}: one window; a mix is measured on some and judged on others");
        return Err(Refusal::new(problem).hint("give a longer text, or a smaller --ctx"));
    }
    let text = corpus.first(options.context, all);
    Ok(text.deal(options.context, (MEASURED_TOKENS / options.context).clamp(1, (all / 4).max(1))))
}

/// The mix that is named after the type that most weights have.
fn common_mix(model: &Model, rows: &[Row]) -> Mix {
    let weights = |wanted: TensorType| -> u64 {
        let rows = rows.iter().filter(|row| row.tensor_type == wanted);
        rows.filter_map(|row| model.tensor(&row.tensor)).map(|tensor| tensor.weights()).sum()
    };
    let common = rows.iter().map(|row| row.tensor_type).max_by_key(|&found| weights(found));
    common.and_then(|common| Mix::from_name(common.name())).unwrap_or(Mix::Q8_0)
}

/// A mix, and what it was chosen by.
#[derive(Serialize)]
pub(super) struct Measured {
    #[serde(skip)]
    pub(super) mix: Mix,
    tensors: Vec<Row>,
    /// KL divergence, in nats per token.
    predicted: f64,
    /// The same of what was written, on the windows that nothing was chosen by.
    measured: Option<Divergence>,
    windows: usize,
    /// What measuring took.
    seconds: f64,
    #[serde(skip)]
    rest: Corpus,
    #[serde(skip)]
    options: Options,
}

#[derive(Serialize)]
struct Row {
    tensor: String,
    #[serde(rename = "type", serialize_with = "type_name")]
    tensor_type: TensorType,
    /// Of the tensor's output, relative, squared.
    error: f64,
    /// KL divergence per unit of that.
    sensitivity: f64,
    loss: f64,
}

fn type_name<S: serde::Serializer>(found: &TensorType, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(found.name())
}

impl Measured {
    /// The types, as rules.
    pub(super) fn rules(&self) -> TypeRules {
        let mut rules = TypeRules::default();
        for row in &self.tensors {
            rules.push(Tensors::Named(row.tensor.clone()), row.tensor_type, "the measured mix");
        }
        rules
    }

    /// Judges what was written.
    pub(super) fn judge(
        &mut self,
        input: &Path,
        made: &Path,
        endian: Endian,
        output: &Output,
    ) -> anyhow::Result<()> {
        if endian == Endian::Big {
            output.note(&"what was written is big-endian, which llq does not evaluate");
            return Ok(());
        }
        let (model, base) = (perplexity::open(made)?, perplexity::open(input)?);
        let (llama, base) = (perplexity::load(&model)?, perplexity::load(&base)?);
        let progress = Evaluating::new(output, "judging");
        let report = evaluate(&llama, Against::Model(&base), &self.rest, &self.options, &progress)
            .with_context(|| format!("cannot measure {}", made.display()))?;
        self.measured = report.against.map(|comparison| comparison.kld);
        Ok(())
    }
}

impl fmt::Display for Measured {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let columns = [
            Column::left("tensor"),
            Column::left("type"),
            Column::right("error"),
            Column::right("KL per error"),
            Column::right("KL divergence"),
        ];
        let cells = |row: &Row| {
            vec![
                Escaped(&row.tensor).to_string(),
                row.tensor_type.name().to_owned(),
                format!("{:.6}", row.error),
                format!("{:.4}", row.sensitivity),
                format!("{:.6}", row.loss),
            ]
        };
        let rows: Vec<Vec<String>> = self.tensors.iter().map(cells).collect();
        let windows = Count(self.windows as u64);
        let mut lines = vec![("predicted", format!("{:.6}, on {windows} windows", self.predicted))];
        if let Some(kld) = &self.measured {
            let rest = Count(self.rest.windows(self.options.context) as u64);
            let measured = format!("{:.6} ± {:.6}, on {rest} other windows", kld.mean, kld.stderr);
            lines.push(("measured", measured));
        }
        write!(f, "{}\n{}", Columns::new(columns).table(&rows), pairs(&lines))
    }
}

/// A size that people set to the byte.
fn exact(bytes: u64) -> String {
    format!("{} bytes ({})", Count(bytes), Bytes(bytes))
}

/// Bytes: a number with K, M, G or T for powers of 1000, Ki and so on of 1024, and B or nothing
/// behind it.
fn parse_size(text: &str) -> Result<u64, String> {
    let wrong = || "expected a size such as 4.5GiB, 4800M or 123456".to_owned();
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(end);
    let unit = unit.trim().to_ascii_lowercase();
    let unit = unit.strip_suffix('b').unwrap_or(&unit);
    let (letter, base) = match unit.strip_suffix('i') {
        Some(letter) if !letter.is_empty() => (letter, 1024f64),
        _ => (unit, 1000.0),
    };
    let powers = ["", "k", "m", "g", "t"];
    let power = powers.iter().position(|&known| known == letter).ok_or_else(wrong)?;
    if power == 0 {
        return number.parse().ok().filter(|&bytes| bytes > 0).ok_or_else(wrong);
    }
    let bytes = number.parse::<f64>().map_err(|_| wrong())? * base.powi(power as i32);
    if (1.0..9e18).contains(&bytes) { Ok(bytes as u64) } else { Err(wrong()) }
}

fn parse_bits(text: &str) -> Result<f64, String> {
    let bits = text.parse::<f64>().ok().filter(|bits| (f64::MIN_POSITIVE..=32.0).contains(bits));
    bits.ok_or_else(|| "expected a number up to 32, such as 4.25".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_units_of_either_kind() {
        for (text, bytes) in [
            ("123456", 123_456),
            ("17b", 17),
            ("4.5GiB", 4_831_838_208),
            ("4.5gb", 4_500_000_000),
            ("1.5 K", 1500),
            ("2Mi", 2 << 20),
        ] {
            assert_eq!(parse_size(text), Ok(bytes), "{text}");
        }
        for bad in ["", "0", "GiB", "-1", "1.5", "4X", "1e9", "ib", "1iB", "0.1K0", "9999999999TiB"]
        {
            assert!(parse_size(bad).is_err(), "{bad}");
        }
        assert!(["0", "NaN", "33", "-1", "inf"].iter().all(|bad| parse_bits(bad).is_err()));
        assert_eq!(parse_bits("4.25"), Ok(4.25));
    }
}
