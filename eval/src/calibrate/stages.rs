//! Both streams through the blocks, a group of matrices at a time.

use llq_gguf::TensorType;
use llq_quant::{Matrix, format};
use rayon::prelude::*;

use super::{
    CalibrationProgress, Finished, Pass, Use,
    backward::Sensitivity,
    dense::{Dense, add},
    forward::{Part, Shared, Weights, embed},
    moments::Moments,
    solve::{self, Inputs, Outcome},
};
use crate::{Error, error::Result, llama::Block};

/// Groups of matrices of a block that take the same input.
pub(super) const STAGES: usize = 4;

/// What the inputs of a stage may take in memory; more are computed twice.
const KEPT_BYTES: usize = 1 << 30;

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
        sensitivity: Option<&Moments>,
    ) -> Result<(Streams<'a>, Rounded)> {
        let mut streams = Streams { shared, types, finished, progress, pairs: Vec::new() };
        let embedding = shared.llama.embedding;
        // An embedding that is the head as well has other errors to fear.
        let sensitivity = sensitivity.filter(|_| shared.llama.output.is_some());
        let wanted = Wanted {
            name: "token_embd.weight".to_owned(),
            part: Part { matrix: embedding, bias: None },
            sensitivity,
        };
        let rounded = streams.finish(&wanted, |weights| {
            solve::lookup(weights, wanted.sensitivity, streams.type_of(&wanted))
        })?;
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
        let mut inputs = Inputs::zero(first.part.matrix.cols(), None);
        for pair in &self.pairs {
            inputs.add(pair.use_for, &make(&pair.plain, own), &make(&pair.rounded, rounded), None);
            self.progress.step();
        }
        wanted.par_iter().map(|wanted| self.round(wanted, &inputs)).collect()
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
        let cols = wanted.part.matrix.cols();
        let values: usize = self.pairs.iter().map(|pair| pair.plain.len()).sum();
        let keep = values / wanted.part.matrix.rows() * cols * 2 * size_of::<f32>() <= KEPT_BYTES;
        let mut kept = Vec::new();
        let loaded = self.load(wanted);
        let mut inputs = Inputs::zero(cols, Some(wanted.part.matrix.rows()));
        for pair in &self.pairs {
            let made = [make(&pair.plain, own), make(&pair.rounded, rounded)];
            if loaded.is_none() {
                let drift = (&pair.plain[..], &pair.rounded[..]);
                inputs.add(pair.use_for, &made[0], &made[1], Some(drift));
            }
            if keep {
                kept.push(made);
            }
            self.progress.step();
        }
        let done = match loaded {
            Some(done) => done,
            None => self.round(wanted, &inputs)?,
        };
        let into = done.part(&wanted.part)?;
        let mut kept = kept.into_iter();
        for pair in &mut self.pairs {
            let [x, rounded_x] = kept
                .next()
                .unwrap_or_else(|| [make(&pair.plain, own), make(&pair.rounded, rounded)]);
            add(&mut pair.plain, &wanted.part.apply(&x));
            add(&mut pair.rounded, &into.apply(&rounded_x));
        }
        Ok(done)
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

    fn round(&self, wanted: &Wanted<'_>, inputs: &Inputs) -> Result<Rounded> {
        if !inputs.are_finite() {
            let problem = "what it is multiplied with is not finite".to_owned();
            return Err(Error::Weights { tensor: wanted.name.clone(), problem });
        }
        self.finish(wanted, |weights| {
            solve::round(weights, inputs, wanted.sensitivity, self.type_of(wanted))
        })
    }

    /// What is finished already, or else what `make` makes, stored.
    fn finish(
        &self,
        wanted: &Wanted<'_>,
        make: impl FnOnce(&Dense) -> Option<(Vec<u8>, Outcome)>,
    ) -> Result<Rounded> {
        if let Some(done) = self.load(wanted) {
            return Ok(done);
        }
        let (name, tensor_type) = (wanted.name.clone(), self.type_of(wanted));
        let weights = Dense::of(&wanted.part.matrix);
        if !weights.values.iter().all(|weight| weight.is_finite()) {
            let problem = "a weight is NaN or infinite".to_owned();
            return Err(Error::Weights { tensor: name, problem });
        }
        let Some((mut bytes, outcome)) = make(&weights) else {
            let problem = format!("it cannot be calibrated as {tensor_type}");
            return Err(Error::Weights { tensor: name, problem });
        };
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
