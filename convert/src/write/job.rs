//! A group of rows of one tensor, from the source's bytes to the output's.

use std::ops::Range;

use llq_gguf::TensorType;
use llq_quant::{FormatInfo, RowError, format};

use crate::{Error, Plan, Source, TensorPlan, error::Result};

/// Rows of one tensor that are converted together.
#[derive(Clone, Debug)]
pub(super) struct Job {
    /// Index in the plan and in the source.
    pub(super) tensor: usize,
    rows: Range<u64>,
}

/// Buffers that a thread uses again and again.
#[derive(Default)]
pub(super) struct Scratch {
    source: Vec<u8>,
    weights: Vec<f32>,
    output: Vec<u8>,
}

/// Bytes that a weight in flight takes at most: as the source has it, a copy of that to reorder
/// rows, as F32, and as the output has it.
const BYTES_IN_FLIGHT: usize = 16;

/// What all threads together may hold, in bytes.
const BUDGET: usize = 128 << 20;

/// More weights per job than this make nothing faster.
const MAX_JOB_WEIGHTS: usize = 1 << 20;

/// All jobs of a plan, tensor after tensor. They are made when asked for: the largest models have
/// millions.
pub(super) struct Jobs {
    tensors: Vec<TensorJobs>,
    count: u64,
}

/// The jobs of one tensor.
struct TensorJobs {
    first: u64,
    rows: u64,
    rows_per_job: u64,
}

impl Jobs {
    pub(super) fn of(plan: &Plan, threads: usize) -> Jobs {
        let weights = (BUDGET / BYTES_IN_FLIGHT / threads.max(1)).min(MAX_JOB_WEIGHTS) as u64;
        let mut tensors = Vec::new();
        let mut count = 0;
        for info in plan.layout().tensors() {
            let rows = info.rows();
            let rows_per_job = (weights / info.cols().max(1)).max(1);
            tensors.push(TensorJobs { first: count, rows, rows_per_job });
            count += rows.div_ceil(rows_per_job);
        }
        Jobs { tensors, count }
    }

    pub(super) fn count(&self) -> u64 {
        self.count
    }

    pub(super) fn get(&self, index: u64) -> Option<Job> {
        // The last of those that start here: the ones before it are empty.
        let tensor = self.tensors.partition_point(|tensor| tensor.first <= index).checked_sub(1)?;
        let TensorJobs { first, rows, rows_per_job } = self.tensors[tensor];
        let start = (index - first).checked_mul(rows_per_job).filter(|&start| start < rows)?;
        Some(Job { tensor, rows: start..rows.min(start.saturating_add(rows_per_job)) })
    }
}

impl Job {
    /// Where the rows start in the output's tensor, in bytes.
    pub(super) fn offset(&self, tensor: &TensorPlan) -> u64 {
        row_bytes(tensor, tensor.to) as u64 * self.rows.start
    }

    /// Bytes of the rows in the source.
    pub(super) fn source_bytes(&self, tensor: &TensorPlan) -> u64 {
        row_bytes(tensor, tensor.from) as u64 * (self.rows.end - self.rows.start)
    }

    /// The rows as the output has them, and how many weights are NaN or infinite where the output
    /// may hold such.
    pub(super) fn convert<'a>(
        &self,
        source: &dyn Source,
        tensor: &TensorPlan,
        scratch: &'a mut Scratch,
    ) -> Result<(&'a [u8], u64)> {
        let Scratch { source: read, weights, output } = scratch;
        read.resize(self.source_bytes(tensor) as usize, 0);
        source.read_rows(self.tensor, self.rows.clone(), read)?;

        let Some(from) = format(tensor.from) else { return Ok((read, 0)) };
        if tensor.from == tensor.to {
            if from.blocks.is_some() {
                from.validate(read).map_err(self.row_error(tensor))?;
            }
            let non_finite = count_non_finite(tensor.from, read);
            return Ok((read, non_finite));
        }
        let columns = columns(tensor);
        weights.resize(columns * self.row_count(), 0.0);
        from.dequantize(read, weights).map_err(self.row_error(tensor))?;
        let Some(to) = format(tensor.to) else {
            return Err(Error::NoFormat { tensor: tensor.name.clone(), tensor_type: tensor.to });
        };
        let non_finite = self.check_weights(tensor, to, weights)?;
        let row_bytes = row_bytes(tensor, tensor.to);
        output.resize(row_bytes * self.row_count(), 0);
        for (row, out) in weights.chunks_exact(columns).zip(output.chunks_exact_mut(row_bytes)) {
            to.encode_row(row, None, out).map_err(self.row_error(tensor))?;
        }
        Ok((output, non_finite))
    }

    /// Refuses weights that the output's type has no value for; counts NaN and infinities.
    fn check_weights(&self, tensor: &TensorPlan, to: &FormatInfo, weights: &[f32]) -> Result<u64> {
        let non_finite = weights.iter().filter(|weight| !weight.is_finite()).count() as u64;
        if to.blocks.is_some() && non_finite > 0 {
            let at = weights.iter().position(|weight| !weight.is_finite()).unwrap_or(0);
            let (row, column) = self.place(tensor, at);
            let (tensor, value) = (tensor.name.clone(), weights[at]);
            return Err(Error::NonFinite { tensor, row, column, value });
        }
        let overflow = first_that_rounds_to_infinity(tensor.to);
        let too_large = |weight: &f32| weight.is_finite() && weight.abs() >= overflow;
        if let Some(at) = weights.iter().position(too_large) {
            let (row, column) = self.place(tensor, at);
            let (to, value) = (tensor.to, weights[at]);
            let tensor = tensor.name.clone();
            return Err(Error::Overflow { tensor, row, column, value, to });
        }
        Ok(non_finite)
    }

    /// Row and column in the tensor of a weight of this job.
    fn place(&self, tensor: &TensorPlan, at: usize) -> (u64, u64) {
        let columns = columns(tensor);
        (self.rows.start + (at / columns) as u64, (at % columns) as u64)
    }

    fn row_count(&self) -> usize {
        (self.rows.end - self.rows.start) as usize
    }

    fn row_error(&self, tensor: &TensorPlan) -> impl Fn(RowError) -> Error {
        let (tensor, row) = (tensor.name.clone(), self.rows.start);
        move |source| Error::Row { tensor: tensor.clone(), row, source }
    }
}

/// How many numbers of a plain type are NaN or infinite: their exponents have all bits set.
fn count_non_finite(tensor_type: TensorType, bytes: &[u8]) -> u64 {
    let halves = |exponent: u16| {
        let (numbers, _) = bytes.as_chunks::<2>();
        numbers.iter().filter(|&&n| u16::from_le_bytes(n) & exponent == exponent).count()
    };
    let count = match tensor_type {
        TensorType::F16 => halves(0x7c00),
        TensorType::BF16 => halves(0x7f80),
        TensorType::F32 => {
            let (numbers, _) = bytes.as_chunks::<4>();
            numbers.iter().filter(|&&number| !f32::from_le_bytes(number).is_finite()).count()
        }
        _ => 0,
    };
    count as u64
}

/// The smallest magnitude that a plain type rounds to infinity.
fn first_that_rounds_to_infinity(tensor_type: TensorType) -> f32 {
    match tensor_type {
        TensorType::F16 => 65520.0,
        // Halfway between the largest BF16 and the next power of two.
        TensorType::BF16 => f32::from_bits(0x7f7f_8000),
        _ => f32::INFINITY,
    }
}

fn columns(tensor: &TensorPlan) -> usize {
    tensor.shape.first().map_or(1, |&columns| columns as usize)
}

/// Bytes of a row; the layout was planned with whole blocks.
fn row_bytes(tensor: &TensorPlan, tensor_type: TensorType) -> usize {
    tensor_type.row_bytes(columns(tensor) as u64).unwrap_or(0) as usize
}
