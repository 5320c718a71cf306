//! Both streams through the blocks, a group of matrices at a time.

use std::slice::from_ref;

use llq_gguf::TensorType;
use llq_quant::{Matrix, format};
use rayon::prelude::*;

use super::{
    CalibrationProgress, Finished, Pass, Use,
    backward::Sensitivity,
    dense::add,
    forward::{Part, Shared, Weights, embed},
    moments::Moments,
    solve::{self, Inputs, Known, Lookup, Missing, Outcome, Problem, SLICE, Sample},
};
use crate::{Error, error::Result, llama::Block};

/// Groups of matrices of a block that take the same input.
pub(super) const STAGES: usize = 4;

/// What the inputs of a stage may take in memory; more are computed twice.
pub(super) const KEPT_BYTES: usize = 1 << 30;

/// A run over all blocks.
pub(super) struct Streams<'a> {
    pub(super) shared: &'a Shared<'a>,
    pub(super) types: &'a (dyn Fn(&str) -> Option<TensorType> + Sync),
    pub(super) finished: &'a dyn Finished,
    pub(super) progress: &'a dyn CalibrationProgress,
    pairs: Vec<Pair>,
}

/// The residual stream of a pass: as it is, and through rounded matrices.
struct Pair {
    plain: Vec<f32>,
    rounded: Vec<f32>,
    use_for: Use,
}

/// A matrix that is to be rounded.
struct Wanted<'a> {
    name: String,
    part: Part<'a>,
    sensitivity: Option<&'a Moments>,
}

/// A matrix that was.
pub(super) struct Rounded {
    pub(super) name: String,
    /// `None` where it stays as it is.
    pub(super) outcome: Option<Outcome>,
    tensor_type: TensorType,
    bytes: Vec<u8>,
}

/// What a stage's matrices are multiplied with, of a stream and the matrices of the block.
type Make<'a> = dyn Fn(&[f32], &Weights<'_>) -> Vec<f32> + 'a;

impl<'a> Streams<'a> {
    /// Streams that have passed through the embedding, which is rounded first.
    pub(super) fn start(
        shared: &'a Shared<'a>,
        passes: &[Pass],
        types: &'a (dyn Fn(&str) -> Option<TensorType> + Sync),
        finished: &'a dyn Finished,
        progress: &'a dyn CalibrationProgress,
        costs: Option<&Lookup>,
    ) -> Result<(Streams<'a>, Rounded)> {
        let mut streams = Streams { shared, types, finished, progress, pairs: Vec::new() };
        let embedding = shared.llama.embedding;
        let wanted = Wanted {
            name: "token_embd.weight".to_owned(),
            part: Part { matrix: embedding, bias: None },
            sensitivity: None,
        };
        let rounded = streams
            .finish(&wanted, || solve::lookup(&embedding, costs, streams.type_of(&wanted)))?;
        let matrix = rounded.part(&wanted.part)?.matrix;
        streams.pairs = passes
            .iter()
            .map(|pass| Pair {
                plain: embed(&embedding, &pass.tokens),
                rounded: embed(&matrix, &pass.tokens),
                use_for: pass.use_for,
            })
            .collect();
        Ok((streams, rounded))
    }

    /// Rounds the matrices of the next block and takes the streams through it.
    pub(super) fn block(
        &mut self,
        index: usize,
        block: &Block<'_>,
        sensitivity: Option<&Sensitivity>,
    ) -> Result<Vec<Rounded>> {
        let shared = self.shared;
        let own = Weights::of(block);
        let name = |part: &str| format!("blk.{index}.{part}.weight");
        let mut done = Vec::new();

        let queries = [
            Wanted {
                name: name("attn_q"),
                part: own.query,
                sensitivity: sensitivity.map(|s| &s.query),
            },
            Wanted {
                name: name("attn_k"),
                part: own.key,
                sensitivity: sensitivity.map(|s| &s.key),
            },
            Wanted {
                name: name("attn_v"),
                part: own.value,
                sensitivity: sensitivity.map(|s| &s.value),
            },
        ];
        let make = |stream: &[f32], _: &Weights<'_>| shared.norm(&block.attention_norm, stream);
        let made = self.stage(&queries, &make, &own, &own)?;
        let mut rounded = Weights {
            query: made[0].part(&own.query)?,
            key: made[1].part(&own.key)?,
            value: made[2].part(&own.value)?,
            ..own
        };

        let output = [Wanted {
            name: name("attn_output"),
            part: own.output,
            sensitivity: sensitivity.map(|s| &s.output),
        }];
        let make = |stream: &[f32], weights: &Weights<'_>| shared.attended(block, weights, stream);
        let made_output = self.stage_into_stream(&output, &make, &own, &rounded)?;
        rounded.output = made_output.part(&own.output)?;

        let gates = [
            Wanted {
                name: name("ffn_gate"),
                part: own.gate,
                sensitivity: sensitivity.map(|s| &s.gate),
            },
            Wanted { name: name("ffn_up"), part: own.up, sensitivity: sensitivity.map(|s| &s.up) },
        ];
        let make = |stream: &[f32], _: &Weights<'_>| shared.norm(&block.feed_forward_norm, stream);
        let made_gates = self.stage(&gates, &make, &own, &rounded)?;
        rounded.gate = made_gates[0].part(&own.gate)?;
        rounded.up = made_gates[1].part(&own.up)?;

        let down = [Wanted {
            name: name("ffn_down"),
            part: own.down,
            sensitivity: sensitivity.map(|s| &s.down),
        }];
        let make = |stream: &[f32], weights: &Weights<'_>| shared.fed(block, weights, stream);
        let made_down = self.stage_into_stream(&down, &make, &own, &rounded)?;

        done.extend(made);
        done.push(made_output);
        done.extend(made_gates);
        done.push(made_down);
        Ok(done)
    }

    /// Rounds the head, if it is a matrix of its own.
    pub(super) fn head(&mut self) -> Result<Vec<Rounded>> {
        let llama = self.shared.llama;
        let (Some(head), Some(first)) = (&llama.output, llama.blocks.first()) else {
            return Ok(Vec::new());
        };
        let wanted = [Wanted {
            name: "output.weight".to_owned(),
            part: Part { matrix: *head, bias: None },
            sensitivity: None,
        }];
        let make = |stream: &[f32], _: &Weights<'_>| self.shared.norm(&llama.output_norm, stream);
        let own = Weights::of(first);
        self.stage(&wanted, &make, &own, &own)
    }

    /// Rounds matrices that have the same input and do not write to the stream.
    fn stage(
        &self,
        wanted: &[Wanted<'_>],
        make: &Make<'_>,
        own: &Weights<'_>,
        rounded: &Weights<'_>,
    ) -> Result<Vec<Rounded>> {
        if let Some(done) = self.load_all(wanted) {
            self.pairs.iter().for_each(|_| self.progress.step());
            return Ok(done);
        }
        let Some(first) = wanted.first() else { return Ok(Vec::new()) };
        let mut inputs = self.inputs(&first.part, Missing::Inputs);
        for pair in &self.pairs {
            let x = make(&pair.rounded, rounded);
            let missing = less(make(&pair.plain, own), &x);
            inputs.add(pair.use_for, &x, &missing);
            self.progress.step();
        }
        let known = self.known(inputs, wanted)?;
        let weights: usize =
            wanted.iter().map(|w| w.part.matrix.rows() * w.part.matrix.cols()).sum();
        // Side by side only where that takes little memory.
        match weights <= SLICE {
            true => wanted.par_iter().map(|wanted| self.round(wanted, &known)).collect(),
            false => wanted.iter().map(|wanted| self.round(wanted, &known)).collect(),
        }
    }

    /// Rounds a matrix whose product is added to the stream, and adds it.
    fn stage_into_stream(
        &mut self,
        wanted: &[Wanted<'_>; 1],
        make: &Make<'_>,
        own: &Weights<'_>,
        rounded: &Weights<'_>,
    ) -> Result<Rounded> {
        let [wanted] = wanted;
        let (rows, cols) = (wanted.part.matrix.rows(), wanted.part.matrix.cols());
        let values: usize = self.pairs.iter().map(|pair| pair.plain.len()).sum();
        let keep = values / rows * cols * size_of::<f32>() <= KEPT_BYTES;
        let mut kept = Vec::new();
        let loaded = self.load(wanted);
        let mut inputs = self.inputs(&wanted.part, Missing::Outputs(rows));
        let progress = self.progress;
        for pair in &mut self.pairs {
            let plain = wanted.part.apply(&make(&pair.plain, own));
            add(&mut pair.plain, &plain);
            if loaded.is_none() || keep {
                let x = make(&pair.rounded, rounded);
                if loaded.is_none() {
                    let lost = less(pair.plain.clone(), &pair.rounded);
                    let missing = less(lost, &wanted.part.apply(&x));
                    inputs.add(pair.use_for, &x, &missing);
                }
                if keep {
                    kept.push(x);
                }
            }
            progress.step();
        }
        let done = match loaded {
            Some(done) => done,
            None => self.round(wanted, &self.known(inputs, from_ref(wanted))?)?,
        };
        let into = done.part(&wanted.part)?;
        let mut kept = kept.into_iter();
        for pair in &mut self.pairs {
            let x = kept.next().unwrap_or_else(|| make(&pair.rounded, rounded));
            add(&mut pair.rounded, &into.apply(&x));
        }
        Ok(done)
    }

    /// Nothing yet.
    fn inputs(&self, part: &Part<'_>, missing: Missing) -> Inputs {
        let width = self.shared.llama.hyperparameters.embedding_length;
        let tokens = |use_for| -> usize {
            let pairs = self.pairs.iter().filter(|pair| pair.use_for == use_for);
            pairs.map(|pair| pair.plain.len() / width).sum()
        };
        let (fitting, judging) = (tokens(Use::Fitting), tokens(Use::Judging));
        Inputs::zero(part.matrix.cols(), missing, fitting, judging)
    }

    fn known(&self, inputs: Inputs, wanted: &[Wanted<'_>]) -> Result<Known> {
        let samples = wanted.iter().filter_map(|wanted| {
            Some(Sample {
                matrix: wanted.part.matrix,
                sensitivity: wanted.sensitivity,
                tensor_type: (self.types)(&wanted.name)?,
            })
        });
        inputs.known(&samples.collect::<Vec<_>>()).ok_or_else(|| {
            let problem = "what it is multiplied with is not finite".to_owned();
            let tensor = wanted.first().map(|wanted| wanted.name.clone()).unwrap_or_default();
            Error::Weights { tensor, problem }
        })
    }

    fn load_all(&self, wanted: &[Wanted<'_>]) -> Option<Vec<Rounded>> {
        wanted.iter().map(|wanted| self.load(wanted)).collect()
    }

    /// What is finished already: all that stays as it is, too.
    fn load(&self, wanted: &Wanted<'_>) -> Option<Rounded> {
        let name = wanted.name.clone();
        let Some(tensor_type) = (self.types)(&name) else {
            let tensor_type = wanted.part.matrix.format().tensor_type;
            return Some(Rounded { name, outcome: None, tensor_type, bytes: Vec::new() });
        };
        let row_bytes = tensor_type.row_bytes(wanted.part.matrix.cols() as u64)?;
        let len = usize::try_from(row_bytes).ok()?.checked_mul(wanted.part.matrix.rows())?;
        let mut bytes = self.finished.load(&wanted.name, len + 1)?;
        let outcome = Some(Outcome::of_byte(bytes.pop()?)?);
        format(tensor_type)?.validate(&bytes).ok()?;
        Some(Rounded { name, outcome, tensor_type, bytes })
    }

    fn round(&self, wanted: &Wanted<'_>, known: &Known) -> Result<Rounded> {
        let (matrix, sensitivity) = (&wanted.part.matrix, wanted.sensitivity);
        self.finish(wanted, || solve::round(matrix, known, sensitivity, self.type_of(wanted)))
    }

    /// What is finished already, or else what `make` makes, stored.
    fn finish(
        &self,
        wanted: &Wanted<'_>,
        make: impl FnOnce() -> std::result::Result<(Vec<u8>, Outcome), Problem>,
    ) -> Result<Rounded> {
        if let Some(done) = self.load(wanted) {
            return Ok(done);
        }
        let (name, tensor_type) = (wanted.name.clone(), self.type_of(wanted));
        let (mut bytes, outcome) = make().map_err(|problem| {
            let problem = match problem {
                Problem::Weight => "a weight is NaN or infinite".to_owned(),
                Problem::Type => format!("it cannot be calibrated as {tensor_type}"),
            };
            Error::Weights { tensor: name.clone(), problem }
        })?;
        bytes.push(outcome as u8);
        self.finished
            .store(&name, &bytes)
            .map_err(|source| Error::Finished { name: name.clone(), source })?;
        bytes.pop();
        Ok(Rounded { name, outcome: Some(outcome), tensor_type, bytes })
    }

    fn type_of(&self, wanted: &Wanted<'_>) -> TensorType {
        (self.types)(&wanted.name).unwrap_or(wanted.part.matrix.format().tensor_type)
    }
}

/// `a - b`.
fn less(mut a: Vec<f32>, b: &[f32]) -> Vec<f32> {
    a.par_iter_mut().zip(b).for_each(|(a, b)| *a -= b);
    a
}

impl Rounded {
    /// The matrix in place of `part`'s.
    fn part<'b>(&'b self, part: &Part<'b>) -> Result<Part<'b>> {
        if self.outcome.is_none() {
            return Ok(*part);
        }
        let (rows, cols) = (part.matrix.rows(), part.matrix.cols());
        let matrix = Matrix::new(self.tensor_type, rows, cols, &self.bytes).map_err(|problem| {
            Error::Weights { tensor: self.name.clone(), problem: problem.to_string() }
        })?;
        Ok(Part { matrix, bias: part.bias })
    }
}
