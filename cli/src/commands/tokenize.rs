//! `llq tokenize`: text to tokens and back, by a model's own vocabulary.

use std::{
    fmt,
    io::{self, Read},
    path::{Path, PathBuf},
};

use anyhow::Context;
use llq_eval::Tokenizer;
use serde::Serialize;

use super::perplexity;
use crate::{
    args::HELP,
    escape::{Escaped, EscapedLines},
    failure::Refusal,
    figures::Count,
    output::Output,
    table::{Column, Columns},
};

const EXAMPLES: &str = "\
Examples:
  llq tokenize model.gguf 'Once upon a time'
  llq tokenize model.gguf --file story.txt --count
  llq tokenize model.gguf --decode 1,9038,2501
  echo hello | llq tokenize model.gguf --json";

/// Show the tokens of a text, or the text of tokens.
///
/// Without TEXT and --file, standard input is read. Names of control tokens in the text are just text.
#[derive(clap::Args)]
#[command(help_template = HELP, before_help = EXAMPLES)]
pub(crate) struct Args {
    /// The GGUF file, of which only the vocabulary is read
    model: PathBuf,

    /// The text
    text: Option<String>,

    /// The file that holds the text, UTF-8
    #[arg(long, value_name = "FILE", conflicts_with = "text")]
    file: Option<PathBuf>,

    /// Print the text of these tokens
    #[arg(long, value_name = "IDS", value_delimiter = ',', conflicts_with_all = ["text", "file"])]
    decode: Vec<u32>,

    /// Only count the tokens
    #[arg(long, conflicts_with = "decode")]
    count: bool,

    /// Put the token first that a text starts with, where the vocabulary asks for one, and last the one
    /// that it ends with
    #[arg(long, conflicts_with = "decode")]
    special: bool,
}

pub(crate) fn run(args: &Args, output: &Output) -> anyhow::Result<()> {
    let model = perplexity::open(&args.model)?;
    let tokenizer = Tokenizer::from_metadata(model.metadata())
        .with_context(|| format!("{}: no usable tokenizer", args.model.display()))?;
    if let Some(assumption) = tokenizer.assumption() {
        output.note(&assumption);
    }
    if !args.decode.is_empty() {
        return decode(&tokenizer, &args.decode, output);
    }
    let mut ids = tokenizer.encode(&text(args)?);
    if args.special {
        ids.splice(0..0, tokenizer.text_start());
        ids.extend(tokenizer.text_end());
    }
    let token = |&id| Token { id, text: tokenizer.token(id).unwrap_or_default() };
    output.result(&Tokens {
        count: ids.len(),
        tokens: (!args.count).then(|| ids.iter().map(token).collect()),
    })
}

fn decode(tokenizer: &Tokenizer, ids: &[u32], output: &Output) -> anyhow::Result<()> {
    if let Some(id) = ids.iter().find(|&&id| tokenizer.token(id).is_none()) {
        let size = Count(tokenizer.vocabulary_size() as u64);
        return Err(Refusal::new(format!("{id} is no token: the vocabulary has {size}")).into());
    }
    output.result(&Decoded { text: String::from_utf8_lossy(&tokenizer.decode(ids)).into_owned() })
}

/// The text; of a file or a pipe no more than there is memory for.
fn text(args: &Args) -> anyhow::Result<String> {
    /// What has more is a corpus.
    const MOST_BYTES: u64 = 1 << 30;
    if let Some(text) = &args.text {
        return Ok(text.clone());
    }
    let shown = args.file.as_deref().unwrap_or(Path::new("standard input")).display().to_string();
    let mut from: Box<dyn Read> = match &args.file {
        Some(path) => Box::new(std::fs::File::open(path).with_context(|| shown.clone())?),
        None => Box::new(io::stdin().lock()),
    };
    let mut text = String::new();
    let read = from.by_ref().take(MOST_BYTES).read_to_string(&mut text);
    read.with_context(|| shown.clone())?;
    if text.len() as u64 == MOST_BYTES {
        return Err(Refusal::new(format!("{shown}: more than {MOST_BYTES} bytes of text")).into());
    }
    Ok(text)
}

/// What is printed of a text.
#[derive(Serialize)]
struct Tokens<'a> {
    count: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    tokens: Option<Vec<Token<'a>>>,
}

#[derive(Serialize)]
struct Token<'a> {
    id: u32,
    /// As the vocabulary has it.
    text: &'a str,
}

/// What is printed of tokens.
#[derive(Serialize)]
struct Decoded {
    text: String,
}

impl fmt::Display for Tokens<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(tokens) = &self.tokens else { return writeln!(f, "{}", self.count) };
        let rows: Vec<_> = tokens
            .iter()
            .map(|token| vec![token.id.to_string(), Escaped(token.text).to_string()])
            .collect();
        let columns = [Column::right("id"), Column::left("token")];
        f.write_str(&Columns::new(columns).table(&rows))
    }
}

impl fmt::Display for Decoded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", EscapedLines(&self.text))?;
        if self.text.ends_with('\n') { Ok(()) } else { writeln!(f) }
    }
}
