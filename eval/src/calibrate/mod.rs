//! Calibrated rounding: every matrix of a model is rounded so that what it makes of real activations
//! changes little.
//!
//! Two streams of the same text run through the model block by block: one as the model is, one
//! through what is rounded already. For each matrix the moments of its inputs in both are summed,
//! so that it also makes up for what came before it, as in Li et al., "GPTAQ", 2025. How much the
//! prediction feels an error in its outputs is known from one pass backward before.
//!
//! - [`backward`] is that pass;
//! - [`stages`] runs the streams through the blocks;
//! - [`solve`] makes of moments the target that [`round_matrix`](llq_quant::round_matrix) rounds;
//! - [`cost`] says beforehand what all that takes.
//!
//! Memory does not grow with the number of blocks, but for the stream before each of them while one
//! window passes backward: see [`cost`].

mod backward;
mod cost;
mod dense;
mod forward;
mod moments;
mod solve;
mod stages;

pub use self::cost::{CalibrationCost, product_rate};

use std::io;

use llq_gguf::TensorType;

use self::{
    backward::Sensitivities,
    forward::{Shared, Weights},
    solve::Outcome,
    stages::{Rounded, Streams},
};
use crate::{Corpus, Error, Llama, error::Result};

/// What to calibrate with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Calibration {
    /// Tokens per window.
    pub context: usize,
    /// Windows at most, spread evenly over the text. An eighth of them is held out: they only judge.
    pub windows: usize,
}

impl Default for Calibration {
    fn default() -> Self {
        Calibration { context: crate::DEFAULT_CONTEXT, windows: 128 }
    }
}

/// Keeps what is finished, by name, so that a run that was ended can go on from there.
pub trait Finished: Sync {
    /// What was stored under this name, of `len` bytes.
    fn load(&self, name: &str, len: usize) -> Option<Vec<u8>>;

    /// Stores it, whole or not at all.
    ///
    /// # Errors
    /// If it can't be stored.
    fn store(&self, name: &str, bytes: &[u8]) -> io::Result<()>;
}

/// Hears how far a calibration is.
pub trait CalibrationProgress: Sync {
    /// There will be `steps` steps of about equal length.
    fn start(&self, steps: usize);

    /// Another one is done.
    fn step(&self);
}

impl CalibrationProgress for () {
    fn start(&self, _steps: usize) {}
    fn step(&self) {}
}

/// What a calibration did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Calibrated {
    /// The tensors that were rounded and stored.
    pub tensors: Vec<String>,
    /// Those of them that were rounded plainly, as on the held-out windows that was not worse.
    pub plain: Vec<String>,
    /// Tokens that were used.
    pub tokens: usize,
    /// Whether it was known what errors in outputs cost: not where that would take too much memory
    /// or is not finite.
    pub outputs_weighed: bool,
}

/// Windows that pass through the model together.
const PASS_WINDOWS: usize = 4;

/// Of how many windows one is held out.
const HELD_OUT: usize = 8;

/// Tokens of some windows, and whether they only judge.
struct Pass {
    tokens: Vec<u32>,
    use_for: Use,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Use {
    Fitting,
    Judging,
}

/// Rounds every matrix of `llama` to the type that `types` gives it, and hands its bytes to
/// `finished`. Tensors that `types` does not name keep their weights. The bytes are the same for any
/// number of threads, and whether or not the run was resumed.
///
/// # Errors
///
/// A corpus shorter than one window; tokens that the model does not know; a matrix whose rows the
/// type does not fit; a model that computes NaN; what `finished` can't store.
pub fn calibrate(
    llama: &Llama<'_>,
    types: &(dyn Fn(&str) -> Option<TensorType> + Sync),
    corpus: &Corpus,
    options: &Calibration,
    finished: &dyn Finished,
    progress: &dyn CalibrationProgress,
) -> Result<Calibrated> {
    let passes = passes(llama, corpus, options)?;
    let shared = Shared::new(llama, options.context);
    let steps = passes.len() * (2 + stages::STAGES * llama.blocks.len());
    progress.start(steps);
    let tokens = passes.iter().map(|pass| pass.tokens.len()).sum();
    let sensitivities = Sensitivities::of(&shared, &passes, finished, progress)?;
    let embedding = sensitivities.as_ref().map(|all| &all.embedding);
    let (mut streams, rounded) =
        Streams::start(&shared, &passes, types, finished, progress, embedding)?;
    let mut done =
        Calibrated { tokens, outputs_weighed: sensitivities.is_some(), ..Calibrated::default() };
    done.add(rounded);
    for (index, block) in llama.blocks.iter().enumerate() {
        let sensitivity = sensitivities.as_ref().map(|all| all.block(index, &Weights::of(block)));
        let sensitivity = sensitivity.transpose()?;
        streams
            .block(index, block, sensitivity.as_ref())?
            .into_iter()
            .for_each(|rounded| done.add(rounded));
    }
    streams.head()?.into_iter().for_each(|rounded| done.add(rounded));
    Ok(done)
}

impl Calibrated {
    fn add(&mut self, rounded: Rounded) {
        let Some(outcome) = rounded.outcome else { return };
        if outcome == Outcome::Plain {
            self.plain.push(rounded.name.clone());
        }
        self.tensors.push(rounded.name);
    }
}

/// The windows: those to fit first, then those that judge.
fn passes(llama: &Llama<'_>, corpus: &Corpus, options: &Calibration) -> Result<Vec<Pass>> {
    let context = options.context;
    if context < crate::LEAST_CONTEXT {
        return Err(Error::Context { least: crate::LEAST_CONTEXT, found: context });
    }
    let all = corpus.windows(context);
    if all == 0 {
        return Err(Error::CorpusTooShort { expected: context, found: corpus.tokens().len() });
    }
    let count = options.windows.min(all);
    if count == 0 {
        return Err(Error::NoWindows);
    }
    let vocabulary_size = llama.hyperparameters.vocabulary_size;
    let window = |index: usize| corpus.window(index * all / count, context);
    let (mut fitting, mut judging) = (Vec::new(), Vec::new());
    for index in 0..count {
        let window = window(index);
        if let Some(&token) = window.iter().find(|&&token| token as usize >= vocabulary_size) {
            return Err(Error::Token { token, vocabulary_size });
        }
        let part = if index % HELD_OUT == HELD_OUT - 1 { &mut judging } else { &mut fitting };
        part.push(window);
    }
    let together = |windows: &[Vec<u32>], use_for: Use| -> Vec<Pass> {
        let tokens = windows.chunks(PASS_WINDOWS).map(|windows| windows.concat());
        tokens.map(|tokens| Pass { tokens, use_for }).collect()
    };
    let mut passes = together(&fitting, Use::Fitting);
    passes.extend(together(&judging, Use::Judging));
    Ok(passes)
}
