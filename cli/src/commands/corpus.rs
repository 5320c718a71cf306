//! The text that a model is measured on.

use std::{fs, path::Path, sync::OnceLock};

use anyhow::Context;
use llq_eval::{Corpus, Llama, Options, Tokenizer};
use llq_gguf::{Model, Strings};

use crate::{
    failure::Refusal,
    figures::Count,
    output::Output,
    progress::{Progress, Unit},
};

/// Cuts `text` into the tokens of `model`.
pub(super) fn tokenize(text: &str, model: &Model, output: &Output) -> anyhow::Result<Corpus> {
    let tokenizer = Tokenizer::from_metadata(model.metadata())
        .with_context(|| format!("{}: no usable tokenizer", model.path().display()))?;
    if let Some(assumption) = tokenizer.assumption() {
        output.note(&assumption);
    }
    Ok(Corpus::tokenize(&tokenizer, text))
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

/// Reads the text, which must be UTF-8.
pub(super) fn read(path: &Path) -> anyhow::Result<String> {
    let bytes =
        fs::read(path).with_context(|| format!("cannot read the corpus {}", path.display()))?;
    let text = String::from_utf8(bytes).map_err(|error| {
        let at = Count(error.utf8_error().valid_up_to() as u64);
        Refusal::new(format!("{} is not UTF-8 at byte {at}", path.display()))
    })?;
    Ok(text)
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
            progress.tell(format!("perplexity {:.4}", running.perplexity));
            progress.advance(*context);
        }
    }
}
