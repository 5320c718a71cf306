//! Text that a model writes itself, for calibration without a text of the user's.
//!
//! Every token is drawn from the whole softmax (ancestral sampling), so that the model is the true
//! distribution of the text. As data for quantization: Liu et al., "LLM-QAT", 2023.
//!
//! Sequences run side by side in slots, a token of each in every step, so that products stay products
//! of matrices; a sequence that ends gives its slot to the next. What is drawn depends on the seed and
//! the number of the sequence only. Memory: see [`Sampling::sequence_bytes`].

mod random;
#[cfg(test)]
mod tests;

use self::random::Random;
use crate::{
    DEFAULT_CONTEXT, Error, Hyperparameters, Llama, Mode, Tokenizer,
    error::Result,
    head::{self, Prediction},
    llama::{Body, Cache},
    windows::PASS_TOKENS,
};

/// The shortest sequence: what it starts with, and a token.
const LEAST_CONTEXT: usize = 2;

/// What to sample.
#[derive(Clone, Debug, PartialEq)]
pub struct Sampling {
    /// Tokens to draw, ends of sequences among them.
    pub tokens: usize,
    /// What the random numbers follow from.
    pub seed: u64,
    /// What logits are divided by: 1 for the model as it is.
    pub temperature: f64,
    /// Tokens of a sequence at the most, with the one that it starts with.
    pub context: usize,
    /// Bytes for keys and values, which decide how many sequences run side by side.
    pub cache_bytes: u64,
}

impl Sampling {
    /// Bytes that keys and values of a sequence take:
    /// `context × block_count × head_count_kv × (key_length + value_length) × 4`. `None` where that is
    /// no number of 64 bits.
    pub fn sequence_bytes(&self, sizes: &Hyperparameters) -> Option<u64> {
        Cache::bytes(sizes, self.context)
    }

    /// Sequences that run side by side, 2,048 at the most.
    ///
    /// # Errors
    ///
    /// A context of less than two tokens; keys and values of one sequence that take more than
    /// `cache_bytes`.
    pub fn side_by_side(&self, sizes: &Hyperparameters) -> Result<usize> {
        let Sampling { context, cache_bytes: most, .. } = *self;
        if context < LEAST_CONTEXT {
            return Err(Error::Context { least: LEAST_CONTEXT, found: context });
        }
        let needed = self.sequence_bytes(sizes);
        match needed.and_then(|bytes| most.checked_div(bytes)) {
            None | Some(0) => Err(Error::SequenceMemory { context, needed, most }),
            Some(fitting) => Ok(usize::try_from(fitting).unwrap_or(PASS_TOKENS).min(PASS_TOKENS)),
        }
    }
}

impl Default for Sampling {
    fn default() -> Self {
        Sampling {
            tokens: 65_536,
            seed: 0,
            temperature: 1.0,
            context: DEFAULT_CONTEXT,
            cache_bytes: 1 << 30,
        }
    }
}

/// What the model wrote from one start on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sequence {
    /// Without what it starts with, and without its end.
    pub tokens: Vec<u32>,
    /// Whether the model ended it, rather than the context or the number of tokens asked for.
    pub is_ended: bool,
}

/// Hears how far sampling is.
pub trait SamplingProgress: Sync {
    /// So many more tokens were drawn.
    fn drawn(&self, tokens: usize);
}

impl SamplingProgress for () {
    fn drawn(&self, _tokens: usize) {}
}

/// Samples sequences in the order of their numbers until they have as many tokens as wanted; the last
/// is cut there. Fewer tokens are the first of more.
///
/// A sequence starts with [`Tokenizer::sequence_start`]; where there is none, its first token is drawn
/// from all tokens alike. It ends with one of [`Tokenizer::sequence_ends`], or at the context.
///
/// The text is the same for any number of threads and any `cache_bytes`.
///
/// # Errors
///
/// A context of less than two tokens; a temperature that is not above zero, or not in the range of
/// f32; keys and values of one sequence that take more than `cache_bytes`; a start that the model does
/// not know; a model that predicts NaN.
pub fn sample(
    llama: &Llama<'_>,
    tokenizer: &Tokenizer,
    options: &Sampling,
    progress: &dyn SamplingProgress,
) -> Result<Vec<Sequence>> {
    let sizes = llama.hyperparameters();
    let slots = options.side_by_side(sizes)?;
    let start = start(tokenizer, sizes)?;
    let plan = Plan {
        slots,
        temperature: temperature(options.temperature)?,
        start,
        ends: tokenizer.sequence_ends(),
        longest: options.context - usize::from(start.is_some()),
        options,
    };
    let body = Body::new(llama, options.context, Mode::Exact);
    // On a thread of the pool, so that the many small steps need no waking of one.
    rayon::scope(|_| Sampler::new(&plan, &body).run(progress))
}

fn temperature(found: f64) -> Result<f32> {
    let temperature = found as f32;
    match temperature.is_finite() && temperature > 0.0 {
        true => Ok(temperature),
        false => Err(Error::Temperature { found }),
    }
}

fn start(tokenizer: &Tokenizer, sizes: &Hyperparameters) -> Result<Option<u32>> {
    let vocabulary_size = sizes.vocabulary_size;
    match tokenizer.sequence_start() {
        Some(token) if token as usize >= vocabulary_size => {
            Err(Error::Token { token, vocabulary_size })
        }
        start => Ok(start),
    }
}

/// What all sequences have in common.
struct Plan<'a> {
    slots: usize,
    temperature: f32,
    start: Option<u32>,
    ends: &'a [u32],
    /// Tokens that a sequence draws at the most.
    longest: usize,
    options: &'a Sampling,
}

/// A run.
struct Sampler<'a> {
    plan: &'a Plan<'a>,
    body: &'a Body<'a>,
    /// By number.
    running: Vec<Slot>,
    idle: Vec<Cache>,
    /// All that were started, by number; `None` while they run.
    finished: Vec<Option<Sequence>>,
    /// Tokens of all sequences that were started, those that run being as long as can be.
    most_tokens: usize,
}

/// A sequence on its way.
struct Slot {
    number: usize,
    random: Random,
    cache: Cache,
    /// What the model has not seen yet.
    next: u32,
    sequence: Sequence,
}

impl<'a> Sampler<'a> {
    fn new(plan: &'a Plan<'a>, body: &'a Body<'a>) -> Sampler<'a> {
        Sampler {
            plan,
            body,
            running: Vec::new(),
            idle: Vec::new(),
            finished: Vec::new(),
            most_tokens: 0,
        }
    }

    fn run(mut self, progress: &dyn SamplingProgress) -> Result<Vec<Sequence>> {
        let wanted = self.plan.options.tokens;
        let mut work = self.body.workspace();
        let mut drawn = 0;
        loop {
            self.start();
            if self.running.is_empty() {
                break;
            }
            let (tokens, mut caches): (Vec<u32>, Vec<&mut Cache>) =
                self.running.iter_mut().map(|slot| (slot.next, &mut slot.cache)).unzip();
            let hidden = self.body.step(&tokens, &mut caches, &mut work);
            self.draw(&hidden)?;
            progress.drawn(tokens.len().min(wanted.saturating_sub(drawn)));
            drawn += tokens.len();
            if drawn >= wanted {
                self.leave_out();
            }
        }
        Ok(cut(self.finished.into_iter().flatten(), wanted))
    }

    /// Starts as many sequences as there are slots and, however long those before them get, are
    /// needed.
    fn start(&mut self) {
        let options = self.plan.options;
        while self.running.len() < self.plan.slots && self.most_tokens < options.tokens {
            let number = self.finished.len();
            let mut random = Random::new(options.seed, number as u64);
            let sizes = self.body.llama().hyperparameters();
            let mut sequence = Sequence::default();
            let next = self.plan.start.unwrap_or_else(|| {
                let token = (random.uniform() * sizes.vocabulary_size as f64) as u32;
                sequence.tokens.push(token);
                token
            });
            let cache =
                self.idle.pop().unwrap_or_else(|| Cache::new(sizes, self.plan.options.context));
            self.finished.push(None);
            self.most_tokens += self.plan.longest;
            self.running.push(Slot { number, random, cache, next, sequence });
        }
    }

    /// Draws a token for each sequence that runs, and takes out those that end with it.
    fn draw(&mut self, hidden: &[f32]) -> Result<()> {
        let Plan { temperature, ends, longest, .. } = *self.plan;
        let uniforms: Vec<f64> =
            self.running.iter_mut().map(|slot| slot.random.uniform()).collect();
        let prediction = Prediction { head: self.body.llama().head(), hidden };
        let drawn = head::draw(prediction, temperature, &uniforms);
        for (mut slot, drawn) in std::mem::take(&mut self.running).into_iter().zip(drawn) {
            let tokens = &mut slot.sequence.tokens;
            let place = (slot.number, tokens.len());
            let (sequence, token) = place;
            slot.next = drawn.ok_or(Error::SampleNotFinite { sequence, token })?;
            slot.sequence.is_ended = ends.contains(&slot.next);
            if !slot.sequence.is_ended {
                tokens.push(slot.next);
            }
            if slot.sequence.is_ended || slot.sequence.tokens.len() == longest {
                self.finish(slot);
            } else {
                self.running.push(slot);
            }
        }
        Ok(())
    }

    /// Takes out sequences behind the one with which there are tokens enough, however long those
    /// before it get.
    fn leave_out(&mut self) {
        let mut running = self.running.iter();
        let mut tokens = 0;
        let enough = self.finished.iter().position(|finished| {
            let sequence = finished.as_ref().or_else(|| Some(&running.next()?.sequence));
            tokens += sequence.map_or(0, drawn_tokens);
            tokens >= self.plan.options.tokens
        });
        let Some(last) = enough else { return };
        let first = self.running.partition_point(|slot| slot.number < last);
        for slot in self.running.split_off(first) {
            self.finish(slot);
        }
    }

    fn finish(&mut self, mut slot: Slot) {
        self.most_tokens -= self.plan.longest - drawn_tokens(&slot.sequence);
        slot.cache.clear();
        self.idle.push(slot.cache);
        self.finished[slot.number] = Some(slot.sequence);
    }
}

/// The first sequences, of `wanted` tokens.
fn cut(sequences: impl Iterator<Item = Sequence>, wanted: usize) -> Vec<Sequence> {
    let mut left = wanted;
    let mut kept = Vec::new();
    for mut sequence in sequences {
        if left == 0 {
            break;
        }
        let own = drawn_tokens(&sequence);
        if own > left {
            sequence.tokens.truncate(left);
            sequence.is_ended = false;
        }
        left -= own.min(left);
        kept.push(sequence);
    }
    kept
}

/// Tokens that were drawn for a sequence: its end is one of them.
fn drawn_tokens(sequence: &Sequence) -> usize {
    sequence.tokens.len() + usize::from(sequence.is_ended)
}
