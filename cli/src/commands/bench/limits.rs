//! What a row of the kernel table can do at most on this machine.

use std::time::{Duration, Instant};

use llq_quant::kernels::{Chains, Kernels};
use rayon::prelude::*;
use serde::Serialize;

use super::{Effort, Wrong, formats::best, machine};
use crate::{failure::Refusal, figures::Bytes};

/// How long each thread repeats a burst while all do.
const SLICE: Duration = Duration::from_millis(10);

/// How often all threads do.
const ROUNDS: usize = 5;

/// The smallest buffer that says anything, in bytes.
const LEAST: usize = 4 << 20;

/// Values that are summed by one call: their sum, of ones, is exact.
const PIECE: usize = 1 << 18;

/// The limits of a row, per second.
#[derive(Serialize)]
pub(super) struct Limits {
    pub(super) threads: usize,
    /// Fused multiply-adds of f32 in registers.
    pub(super) multiply_adds: f64,
    /// Multiply-adds of 8-bit codes in registers.
    pub(super) code_products: f64,
    /// Bytes read from memory.
    pub(super) read_bytes: f64,
}

/// Ones, as many as can be had.
pub(super) fn buffer(effort: &Effort) -> anyhow::Result<Vec<f32>> {
    // The weights of products with one token take as much again, and their rows before that.
    let bytes = machine::available_memory().map_or(effort.buffer, |m| effort.buffer.min(m / 8));
    if bytes < LEAST {
        return Err(Refusal::new("too little memory is available to measure how it is read").into());
    }
    let mut values = Vec::new();
    values.try_reserve_exact(bytes / size_of::<f32>()).map_err(|_| {
        Refusal::new(format!("no {} of memory for the buffer to read", Bytes(bytes as u64)))
    })?;
    values.resize(bytes / size_of::<f32>(), 1.0);
    Ok(values)
}

impl Limits {
    /// By one thread, and by all where there are more.
    pub(super) fn measure(
        kernels: &Kernels,
        buffer: &[f32],
        effort: &Effort,
    ) -> Result<Vec<Limits>, Wrong> {
        let adds = |chains| kernels.multiply_add_burst(chains);
        let products = |chains| kernels.code_product_burst(chains);
        let read_piece = |piece: &[f32]| f64::from(kernels.read_burst(piece));
        let alone = Limits {
            threads: 1,
            multiply_adds: by_chains(|chains| alone(effort, || adds(chains))),
            code_products: by_chains(|chains| alone(effort, || products(chains))),
            read_bytes: read(kernels, buffer, effort, || {
                buffer.chunks(PIECE).map(read_piece).sum()
            })?,
        };
        let threads = rayon::current_num_threads();
        if threads == 1 {
            return Ok(vec![alone]);
        }
        let together = Limits {
            threads,
            multiply_adds: by_chains(|chains| together(|| adds(chains))),
            code_products: by_chains(|chains| together(|| products(chains))),
            read_bytes: read(kernels, buffer, effort, || {
                buffer.par_chunks(PIECE).map(read_piece).sum()
            })?,
        };
        Ok(vec![alone, together])
    }
}

/// The better of the rates with few and with many independent sums.
fn by_chains(rate: impl Fn(Chains) -> f64) -> f64 {
    rate(Chains::Few).max(rate(Chains::Many))
}

/// Operations per second of this thread.
fn alone(effort: &Effort, burst: impl Fn() -> u64) -> f64 {
    let mut operations = 0;
    let time = best(effort, || operations = burst());
    operations as f64 / time.as_secs_f64()
}

/// Operations per second of all threads at once.
fn together(burst: impl Fn() -> u64 + Sync) -> f64 {
    let rounds = (0..ROUNDS).map(|_| rayon::broadcast(|_| mean(&burst)).iter().sum());
    rounds.fold(0.0, f64::max)
}

/// Operations per second over a slice of time: the best burst of a thread may be one in which the
/// other threads, which share its core, stood still.
fn mean(burst: impl Fn() -> u64) -> f64 {
    let start = Instant::now();
    let mut operations = 0;
    loop {
        operations += burst();
        let elapsed = start.elapsed();
        if elapsed >= SLICE {
            return operations as f64 / elapsed.as_secs_f64();
        }
    }
}

/// Bytes per second of `sum`, which must read the whole buffer.
fn read(
    kernels: &Kernels,
    buffer: &[f32],
    effort: &Effort,
    sum: impl Fn() -> f64,
) -> Result<f64, Wrong> {
    if sum() != buffer.len() as f64 {
        return Err(Wrong { isa: kernels.isa(), what: "reading memory".to_owned() });
    }
    Ok(size_of_val(buffer) as f64 / best(effort, sum).as_secs_f64())
}
