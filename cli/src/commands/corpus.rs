//! The text that a model is measured on.

use std::{path::Path, sync::OnceLock};

use anyhow::Context;
use llq_eval::{Corpus, Llama, Options, Tokenizer};
use llq_gguf::{Model, Strings};

use crate::{
    args::TextArgs,
    corpus::Text,
    failure::Refusal,
    figures::Count,
    output::Output,
    progress::{Progress, Unit},
};

/// Opens the corpus and reads what will probably be needed: what is wrong with it is told before
/// any work.
pub(super) fn open(args: &TextArgs, output: &Output) -> anyhow::Result<Text> {
    /// More than tokens have on average in any language.
    const BYTES_PER_TOKEN: usize = 8;
    let mut text = Text::open(&args.corpus, &args.windows.field, output)?;
    let tokens = tokens_needed(&args.options());
    text.read_to(tokens.map_or(usize::MAX, |tokens| tokens.saturating_mul(BYTES_PER_TOKEN)))?;
    Ok(text)
}

/// Cuts the text into the tokens of `model`. Of a long text only what the windows take is read;
/// the tokens of these are the same.
pub(super) fn tokenize(
    text: &mut Text,
    options: &Options,
    model: &Model,
    output: &Output,
) -> anyhow::Result<Corpus> {
    let tokenizer = Tokenizer::from_metadata(model.metadata())
        .with_context(|| format!("{}: no usable tokenizer", model.path().display()))?;
    if let Some(assumption) = tokenizer.assumption() {
        output.note(&assumption);
    }
    loop {
        let corpus = Corpus::tokenize(&tokenizer, text.text());
        let enough = tokens_needed(options).is_some_and(|tokens| corpus.tokens().len() >= tokens);
        if enough || text.is_whole() {
            return Ok(corpus);
        }
        text.read_to(text.text().len().saturating_mul(2))?;
    }
}

/// The tokens of all windows, and some more: where a text is cut off, its last tokens may differ
/// from those of the whole. `None` where all of the text is wanted.
fn tokens_needed(options: &Options) -> Option<usize> {
    const MORE: usize = 1024;
    let windows = options.chunks?;
    Some(windows.saturating_mul(options.context).saturating_add(MORE))
}

/// Refuses a text that does not fill one window.
pub(super) fn check_length(path: &Path, corpus: &Corpus, options: &Options) -> Result<(), Refusal> {
    if corpus.windows(options.context) > 0 {
        return Ok(());
    }
    let tokens = match corpus.tokens().len() {
        1 => "1 token".to_owned(),
        tokens => format!("{} tokens", Count(tokens as u64)),
    };
    let window = Count(options.context as u64);
    let path = path.display();
    Err(Refusal::new(format!("{path} has {tokens}; one window takes {window}"))
        .hint("give a longer text, or a smaller --ctx"))
}

/// Refuses to compare models to which the text's tokens mean different things.
pub(super) fn check_same_tokens(
    model: &Model,
    base: &Model,
    corpus: &Corpus,
) -> anyhow::Result<()> {
    const TOKENS: &str = "tokenizer.ggml.tokens";
    let (texts, base_texts) = (model.metadata().strings(TOKENS)?, base.metadata().strings(TOKENS)?);
    let text = |texts: &Strings, token: u32| texts.get(token as usize).map(str::to_owned);
    let differs = |&&token: &&u32| text(texts, token) != text(base_texts, token);
    let Some(&token) = corpus.tokens().iter().find(differs) else { return Ok(()) };
    let shown = |texts| text(texts, token).map_or("absent".to_owned(), |text| format!("{text:?}"));
    Err(Refusal::new(format!(
        "{} has another vocabulary than {}: token {token} is {}, there {}",
        base.path().display(),
        model.path().display(),
        shown(base_texts),
        shown(texts),
    ))
    .into())
}

/// Says so where windows are longer than anything the model was trained on.
pub(super) fn note_long_windows(llama: &Llama<'_>, options: &Options, output: &Output) {
    let trained = llama.hyperparameters().context_length;
    if options.context > trained {
        let (window, trained) = (Count(options.context as u64), Count(trained as u64));
        output.note(&format_args!(
            "windows of {window} tokens are longer than the model's context of {trained}"
        ));
    }
}

/// Shows the windows of an evaluation as they finish.
pub(super) struct Evaluating<'a> {
    output: &'a Output,
    label: String,
    /// The bar and the tokens of a window, once both are known.
    started: OnceLock<(Progress<'a>, u64)>,
}

impl<'a> Evaluating<'a> {
    pub(super) fn new(output: &'a Output, label: impl Into<String>) -> Evaluating<'a> {
        Evaluating { output, label: label.into(), started: OnceLock::new() }
    }
}

impl llq_eval::Progress for Evaluating<'_> {
    fn start(&self, windows: usize, context: usize) {
        let context = context as u64;
        let tokens = windows as u64 * context;
        self.started
            .get_or_init(|| (self.output.progress(&self.label, tokens, Unit::Tokens), context));
    }

    fn window(&self, running: llq_eval::Running) {
        if let Some((progress, context)) = self.started.get() {
            if let Some(perplexity) = running.perplexity {
                progress.tell(format!("perplexity {perplexity:.4}"));
            }
            progress.advance(*context);
        }
    }
}
