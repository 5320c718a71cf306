//! A group of rows of one tensor, from the source's bytes to the output's.

use std::ops::Range;

use llq_gguf::{Endian, TensorType};
use llq_quant::{Encoding, FormatInfo, RowError, format, kernels};

use super::{
    overflow::{self, first_that_rounds_to_infinity},
    tally::Census,
};
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
    output: Vec<u8>,
    strip: Strip,
}

/// Buffers for so few rows that they stay in the processor's cache.
#[derive(Default)]
struct Strip {
    weights: Vec<f32>,
    /// One row, encoded and decoded.
    decoded: Vec<f32>,
}

/// Room for a weight in flight, in bytes: as the source has it, a copy of that to reorder rows, and
/// as the output has it take 12 at most; the strips in F32 are few.
const BYTES_IN_FLIGHT: usize = 16;

/// What all threads together may hold, in bytes.
const BUDGET: usize = 128 << 20;

/// More weights per job than this make nothing faster.
const MAX_JOB_WEIGHTS: usize = 1 << 20;

/// Weights that are decoded, checked and encoded while the second-level cache has them: 64 KiB.
const STRIP_WEIGHTS: usize = 1 << 14;

/// All jobs of some tensors, tensor after tensor. They are made when asked for: the largest models have
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
    /// The jobs of the tensors that `wanted` (of index and plan) chooses.
    pub(super) fn of(
        all: &[TensorPlan],
        wanted: impl Fn(usize, &TensorPlan) -> bool,
        threads: usize,
    ) -> Jobs {
        let weights = (BUDGET / BYTES_IN_FLIGHT / threads.max(1)).min(MAX_JOB_WEIGHTS) as u64;
        let mut tensors = Vec::new();
        let mut count = 0;
        for (index, tensor) in all.iter().enumerate() {
            let rows =
                if wanted(index, tensor) { tensor.shape.iter().skip(1).product() } else { 0 };
            let rows_per_job = (weights / (columns(tensor) as u64).max(1)).max(1);
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
    /// Where the rows lie in the output's tensor, in bytes.
    pub(super) fn bytes(&self, tensor: &TensorPlan) -> Range<u64> {
        let row_bytes = row_bytes(tensor, tensor.to) as u64;
        row_bytes * self.rows.start..row_bytes * self.rows.end
    }

    /// Bytes of the rows in the source.
    pub(super) fn source_bytes(&self, tensor: &TensorPlan) -> u64 {
        row_bytes(tensor, tensor.from) as u64 * (self.rows.end - self.rows.start)
    }

    /// The rows as the output has them. Weights that are too large for its type are cut.
    pub(super) fn convert<'a>(
        &self,
        source: &dyn Source,
        plan: &Plan,
        scratch: &'a mut Scratch,
    ) -> Result<(&'a [u8], Census)> {
        let (tensor, endian) = (&plan.tensors()[self.tensor], plan.request().endian);
        self.read(source, tensor, scratch)?;
        if tensor.from == tensor.to {
            let census = self.check_copied(tensor, &scratch.source)?;
            return Ok((in_order(&mut scratch.source, tensor, endian), census));
        }
        let Scratch { source, output, strip } = scratch;
        output.resize(row_bytes(tensor, tensor.to) * self.row_count(), 0);
        let mut census = Census::default();
        let mut encoded = &mut output[..];
        for (rows, bytes) in self.strips(tensor, source) {
            let out = encoded.split_off_mut(..row_bytes(tensor, tensor.to) * rows.row_count());
            census.add(&rows.encode(plan, bytes, strip, out.unwrap_or_default())?);
        }
        Ok((in_order(output, tensor, endian), census))
    }

    /// What [`convert`](Self::convert) would count of a tensor that is not only copied.
    pub(super) fn census(
        &self,
        source: &dyn Source,
        tensor: &TensorPlan,
        scratch: &mut Scratch,
    ) -> Result<Census> {
        self.read(source, tensor, scratch)?;
        let Scratch { source, output, strip } = scratch;
        output.resize(row_bytes(tensor, tensor.to), 0);
        let to = known(tensor, tensor.to)?;
        let mut census = Census::default();
        for (rows, bytes) in self.strips(tensor, source) {
            rows.decode(tensor, bytes, strip)?;
            census.add(&rows.count(tensor, to, strip, output)?);
        }
        Ok(census)
    }

    fn read(&self, source: &dyn Source, tensor: &TensorPlan, scratch: &mut Scratch) -> Result<()> {
        scratch.source.resize(self.source_bytes(tensor) as usize, 0);
        source.read_rows(self.tensor, self.rows.clone(), &mut scratch.source)
    }

    /// The rows that are decoded at a time, and their bytes in the source.
    fn strips<'a>(
        &self,
        tensor: &TensorPlan,
        source: &'a [u8],
    ) -> impl Iterator<Item = (Job, &'a [u8])> + use<'a> {
        let rows = (STRIP_WEIGHTS / columns(tensor).max(1)).max(1);
        let (tensor, first, end) = (self.tensor, self.rows.start, self.rows.end);
        let row_bytes = source.len() / self.row_count().max(1);
        let starts = (first..end).step_by(rows);
        starts.zip(source.chunks((row_bytes * rows).max(1))).map(move |(start, bytes)| {
            let end = end.min(start.saturating_add(rows as u64));
            (Job { tensor, rows: start..end }, bytes)
        })
    }

    /// Encodes the rows, whose bytes in the source these are, into `out`.
    fn encode(
        &self,
        plan: &Plan,
        bytes: &[u8],
        strip: &mut Strip,
        out: &mut [u8],
    ) -> Result<Census> {
        let tensor = &plan.tensors()[self.tensor];
        let to = known(tensor, tensor.to)?;
        self.decode(tensor, bytes, strip)?;
        let row_bytes = row_bytes(tensor, tensor.to);
        let census = self.check_weights(tensor, to, strip, &mut out[..row_bytes])?;
        if to.blocks.is_none() && census.too_large > 0 {
            let limit = overflow::largest(tensor.to);
            for weight in strip.weights.iter_mut().filter(|weight| weight.is_finite()) {
                *weight = weight.clamp(-limit, limit);
            }
        }
        let rows = self.rows.clone().zip(strip.weights.chunks_exact(columns(tensor)));
        for ((index, row), out) in rows.zip(out.chunks_exact_mut(row_bytes)) {
            let encoding = plan.encoding(self.tensor, index);
            to.encode_row(row, encoding, out).map_err(self.row_error(tensor))?;
        }
        Ok(census)
    }

    fn decode(&self, tensor: &TensorPlan, bytes: &[u8], strip: &mut Strip) -> Result<()> {
        strip.weights.resize(columns(tensor) * self.row_count(), 0.0);
        let from = known(tensor, tensor.from)?;
        from.dequantize(bytes, &mut strip.weights).map_err(self.row_error(tensor))
    }

    /// Blocks that are copied must be sound; plain numbers may be anything.
    fn check_copied(&self, tensor: &TensorPlan, bytes: &[u8]) -> Result<Census> {
        if let Some(format) = format(tensor.from)
            && format.blocks.is_some()
        {
            format.validate(bytes).map_err(self.row_error(tensor))?;
        }
        Ok(Census { non_finite: count_non_finite(tensor.from, bytes), ..Census::default() })
    }

    /// Counts weights that are out of the ordinary; NaN and infinities are an error where the
    /// output has blocks, which hold no such values.
    fn check_weights(
        &self,
        tensor: &TensorPlan,
        to: &FormatInfo,
        strip: &mut Strip,
        trial: &mut [u8],
    ) -> Result<Census> {
        let census = self.count(tensor, to, strip, trial)?;
        if to.blocks.is_some() && census.non_finite > 0 {
            let weights = &strip.weights;
            let at = weights.iter().position(|weight| !weight.is_finite()).unwrap_or(0);
            let (row, column) = self.place(tensor, at);
            let (tensor, value) = (tensor.name.clone(), weights[at]);
            return Err(Error::NonFinite { tensor, row, column, value });
        }
        Ok(census)
    }

    /// A weight is too large for a plain type that would make an infinity of it, and for blocks
    /// that would make less than half of it, because their scales have an end. `trial` takes a row
    /// of the output.
    fn count(
        &self,
        tensor: &TensorPlan,
        to: &FormatInfo,
        strip: &mut Strip,
        trial: &mut [u8],
    ) -> Result<Census> {
        let largest_harmless = match tensor.to {
            TensorType::F32 => f32::MAX,
            TensorType::BF16 => overflow::largest(TensorType::BF16),
            _ => overflow::LARGEST_HALF,
        };
        let mut census = Census::default();
        let Strip { weights, decoded } = strip;
        if kernels::selected().largest_magnitude(weights) <= largest_harmless.to_bits() {
            return Ok(census);
        }
        let columns = columns(tensor);
        census.non_finite = weights.iter().filter(|weight| !weight.is_finite()).count() as u64;
        let mut add = |weight: f32| {
            census.too_large += 1;
            census.largest = census.largest.max(weight.abs());
        };
        if to.blocks.is_none() {
            let overflow = first_that_rounds_to_infinity(tensor.to);
            let too_large = |weight: &&f32| weight.is_finite() && weight.abs() >= overflow;
            weights.iter().filter(too_large).for_each(|&weight| add(weight));
            return Ok(census);
        }
        decoded.resize(columns, 0.0);
        let large = |weight: &f32| weight.is_finite() && weight.abs() > largest_harmless;
        for row in weights.chunks_exact(columns).filter(|row| row.iter().any(large)) {
            to.encode_row(row, Encoding::default(), trial).map_err(self.row_error(tensor))?;
            to.dequantize(trial, decoded).map_err(self.row_error(tensor))?;
            let pairs = row.iter().zip(decoded.iter()).filter(|(weight, _)| large(weight));
            let cut = pairs.filter(|(weight, decoded)| decoded.abs() < weight.abs() / 2.0);
            cut.for_each(|(&weight, _)| add(weight));
        }
        Ok(census)
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

/// The format of one of a tensor's types, which planning has found to exist.
fn known(tensor: &TensorPlan, tensor_type: TensorType) -> Result<&'static FormatInfo> {
    let missing = || Error::NoFormat { tensor: tensor.name.clone(), tensor_type };
    format(tensor_type).ok_or_else(missing)
}

/// Whole blocks of the output in its byte order.
fn in_order<'a>(bytes: &'a mut [u8], tensor: &TensorPlan, endian: Endian) -> &'a [u8] {
    if let (Endian::Big, Some(format)) = (endian, format(tensor.to)) {
        format.swap_endian(bytes);
    }
    bytes
}

/// How many numbers of a plain type are NaN or infinite: their exponents have all bits set.
fn count_non_finite(tensor_type: TensorType, bytes: &[u8]) -> u64 {
    let halves = |infinity: u16| {
        let (numbers, _) = bytes.as_chunks::<2>();
        // Most often there is none, which is found out faster.
        if kernels::selected().largest_magnitude_16(numbers) < infinity {
            return 0;
        }
        let magnitude = |number: &[u8; 2]| u16::from_le_bytes(*number) & 0x7fff;
        numbers.iter().filter(|number| magnitude(number) >= infinity).count()
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

fn columns(tensor: &TensorPlan) -> usize {
    tensor.shape.first().map_or(1, |&columns| columns as usize)
}

/// Bytes of a row; the layout was planned with whole blocks.
fn row_bytes(tensor: &TensorPlan, tensor_type: TensorType) -> usize {
    tensor_type.row_bytes(columns(tensor) as u64).unwrap_or(0) as usize
}
