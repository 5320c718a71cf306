//! Perplexity, and KL divergence from a base model.

use std::io::Write;

use crate::{
    Corpus, Error, Llama, LogitsFile, Mode, Progress, Report,
    error::Result,
    head::{self, Prediction},
    llama::Body,
    logits_file,
    statistics::{self, TokenScore},
    windows::{Window, Windows},
};

/// Tokens per window by the field's convention.
pub const DEFAULT_CONTEXT: usize = 512;

/// How to evaluate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// How products are computed, in both models of a comparison.
    pub mode: Mode,
    /// Tokens per window.
    pub context: usize,
    /// How many windows at most; `None` takes all.
    pub chunks: Option<usize>,
}

impl Default for Options {
    fn default() -> Self {
        Options { mode: Mode::Exact, context: DEFAULT_CONTEXT, chunks: None }
    }
}

/// What a model is compared with.
#[derive(Clone, Copy, Debug)]
pub enum Against<'a> {
    /// Nothing: perplexity only.
    Nothing,
    /// A base model, evaluated in lock-step.
    Model(&'a Llama<'a>),
    /// A base model whose body already ran over the same corpus with the same options.
    Recorded(&'a Recorded<'a>),
    /// What a base model predicted, as far as the field's file of logits tells: a log-probability has 16
    /// bits, and none is more than 16 nats below the largest, so that the base's perplexity is too low.
    Logits(&'a LogitsFile),
}

/// The base model of many comparisons: its final hidden state at every scored position
/// (embedding length × scored tokens × 4 bytes).
#[derive(Debug)]
pub struct Recorded<'m> {
    base: &'m Llama<'m>,
    mode: Mode,
    context: usize,
    tokens: Vec<u32>,
    window_start: Option<u32>,
    windows: usize,
    hidden: Vec<f32>,
}

/// Evaluates `subject` on `corpus`, on the threads of the current rayon pool, some windows at a
/// time.
///
/// # Errors
///
/// A corpus shorter than one window; tokens that a model does not know; two models of different
/// vocabularies; a recording or file of logits of another corpus, window length or mode; a model that
/// predicts NaN.
pub fn evaluate(
    subject: &Llama<'_>,
    against: Against<'_>,
    corpus: &Corpus,
    options: &Options,
    progress: &dyn Progress,
) -> Result<Report> {
    let windows = Windows::plan(corpus, options)?;
    windows.check_vocabulary(subject.hyperparameters().vocabulary_size)?;
    let base = Base::prepare(against, subject, &windows, options.mode)?;
    let body = Body::new(subject, windows.context(), options.mode);
    let mut workspace = body.workspace();
    let scores = windows.run(progress, |first, pass| {
        let hidden = body.hidden(pass, &mut workspace);
        let subject = Prediction { head: subject.head(), hidden: &hidden };
        let base_hidden;
        let base = match &base {
            Base::Nothing => None,
            Base::Body(body) => {
                base_hidden = body.hidden(pass, &mut workspace);
                Some(Prediction { head: body.llama().head(), hidden: &base_hidden })
            }
            Base::Recorded(recorded) => Some(recorded.prediction(first, pass)),
            Base::Logits(file) => {
                let base = (*file, first * pass[0].scored().len());
                return head::score_against(subject, base, &targets(pass), options.mode);
            }
        };
        Ok(head::score(subject, base, &targets(pass), options.mode))
    })?;
    Ok(report(&scores, &windows, options.mode))
}

/// Evaluates `llama` alone and writes what it predicts to `out` as the field's file of logits: 2 bytes
/// per token of the vocabulary and scored token.
///
/// # Errors
///
/// As [`evaluate`]; `out` that cannot be written to.
pub fn save_logits(
    llama: &Llama<'_>,
    corpus: &Corpus,
    options: &Options,
    out: &mut (dyn Write + Send),
    progress: &dyn Progress,
) -> Result<Report> {
    let windows = Windows::plan(corpus, options)?;
    let vocabulary_size = llama.hyperparameters().vocabulary_size;
    windows.check_vocabulary(vocabulary_size)?;
    logits_file::write_head(out, &windows, vocabulary_size).map_err(Error::Save)?;
    let body = Body::new(llama, windows.context(), options.mode);
    let mut workspace = body.workspace();
    let scores = windows.run(progress, |_, pass| {
        let hidden = body.hidden(pass, &mut workspace);
        let prediction = Prediction { head: llama.head(), hidden: &hidden };
        head::save(prediction, &targets(pass), options.mode, out)
    })?;
    out.flush().map_err(Error::Save)?;
    Ok(report(&scores, &windows, options.mode))
}

/// Evaluates `base` alone and keeps what later comparisons with it need.
///
/// # Errors
///
/// As [`evaluate`].
pub fn record<'m>(
    base: &'m Llama<'m>,
    corpus: &Corpus,
    options: &Options,
    progress: &dyn Progress,
) -> Result<(Report, Recorded<'m>)> {
    let windows = Windows::plan(corpus, options)?;
    windows.check_vocabulary(base.hyperparameters().vocabulary_size)?;
    let body = Body::new(base, windows.context(), options.mode);
    let mut workspace = body.workspace();
    let mut hidden = Vec::new();
    let scores = windows.run(progress, |_, pass| {
        let own = body.hidden(pass, &mut workspace);
        if hidden.is_empty() {
            hidden.reserve_exact(own.len() / pass.len() * windows.count());
        }
        hidden.extend_from_slice(&own);
        let prediction = Prediction { head: base.head(), hidden: &own };
        Ok(head::score(prediction, None, &targets(pass), options.mode))
    })?;
    let recorded = Recorded {
        base,
        mode: options.mode,
        context: windows.context(),
        tokens: windows.tokens().to_vec(),
        window_start: windows.window_start(),
        windows: windows.count(),
        hidden,
    };
    Ok((report(&scores, &windows, options.mode), recorded))
}

/// The base model, ready to run.
enum Base<'a> {
    Nothing,
    Body(Body<'a>),
    Recorded(&'a Recorded<'a>),
    Logits(&'a LogitsFile),
}

impl<'a> Base<'a> {
    fn prepare(
        against: Against<'a>,
        subject: &Llama<'_>,
        windows: &Windows<'_>,
        mode: Mode,
    ) -> Result<Base<'a>> {
        let base = match against {
            Against::Nothing => return Ok(Base::Nothing),
            Against::Model(base) => base,
            Against::Recorded(recorded) => recorded.base,
            Against::Logits(file) => {
                file.check(windows, subject.hyperparameters().vocabulary_size)?;
                return Ok(Base::Logits(file));
            }
        };
        let vocabulary_size = |llama: &Llama<'_>| llama.hyperparameters().vocabulary_size;
        if vocabulary_size(base) != vocabulary_size(subject) {
            return Err(Error::VocabularyMismatch {
                base: vocabulary_size(base),
                subject: vocabulary_size(subject),
            });
        }
        match against {
            Against::Recorded(recorded) => {
                recorded.check(windows, mode)?;
                Ok(Base::Recorded(recorded))
            }
            _ => Ok(Base::Body(Body::new(base, windows.context(), mode))),
        }
    }
}

impl Recorded<'_> {
    /// What the base's prediction of some windows is made from, given the index of the first.
    fn prediction(&self, first: usize, pass: &[Window]) -> Prediction<'_> {
        let per_window = self.hidden.len() / self.windows;
        let hidden = &self.hidden[first * per_window..][..pass.len() * per_window];
        Prediction { head: self.base.head(), hidden }
    }

    fn check(&self, windows: &Windows<'_>, mode: Mode) -> Result<()> {
        let what = if self.mode != mode {
            "mode"
        } else if self.context != windows.context() {
            "window length"
        } else if self.windows != windows.count() {
            "number of windows"
        } else if self.tokens != windows.tokens() {
            "text"
        } else if self.window_start != windows.window_start() {
            "token in front of every window"
        } else {
            return Ok(());
        };
        Err(Error::Recording { what })
    }
}

/// The true tokens of some windows.
fn targets(windows: &[Window]) -> Vec<u32> {
    windows.iter().flat_map(Window::targets).copied().collect()
}

fn report(scores: &[TokenScore], windows: &Windows<'_>, mode: Mode) -> Report {
    let (perplexity, stderr) = statistics::perplexity(scores);
    Report {
        perplexity,
        stderr,
        chunks: windows.count(),
        context: windows.context(),
        tokens: scores.len(),
        mode,
        against: statistics::comparison(scores),
    }
}
