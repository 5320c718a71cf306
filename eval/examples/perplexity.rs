//! Perplexity of a model, and its KL divergence from a base model, in one line. The least program
//! that uses the crate, and the one that its profile is taken from:
//!
//! `cargo run --release -p llq-eval --example perplexity -- MODEL TEXT exact|fast WINDOWS [BASE]`

#![allow(clippy::print_stdout)]

use std::{env, error::Error, fs, path::Path, time::Instant};

use llq_eval::{Against, Corpus, Llama, Mode, Options, Tokenizer, evaluate};
use llq_gguf::Model;

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let [model, text, mode, windows, base @ ..] = arguments.as_slice() else {
        return Err("expected MODEL TEXT exact|fast WINDOWS [BASE]".into());
    };
    let model = Model::open(Path::new(model))?;
    let base = base.first().map(|base| Model::open(Path::new(base))).transpose()?;
    let tokenizer = Tokenizer::from_metadata(model.metadata())?;
    let corpus = Corpus::tokenize(&tokenizer, &fs::read_to_string(text)?);
    let mode = if mode == "fast" { Mode::Fast } else { Mode::Exact };
    let options = Options { mode, chunks: Some(windows.parse()?), ..Options::default() };

    let llama = Llama::load(&model)?;
    let base = base.as_ref().map(Llama::load).transpose()?;
    let against = base.as_ref().map_or(Against::Nothing, Against::Model);
    let start = Instant::now();
    let report = evaluate(&llama, against, &corpus, &options, &())?;
    println!("{report:?} in {:.2} s", start.elapsed().as_secs_f64());
    Ok(())
}
