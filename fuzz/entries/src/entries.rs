//! What each fuzz target does with an input: it goes to the libraries' public functions, in a folder
//! that is gone afterwards. An input may be refused or not; it may not panic, and what is left of a
//! refused one is nothing.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::Arc,
};

use llq_convert::{
    Error, Imatrix, ImatrixFormat, LoraAdapter, OnOverflow, OpenOptions, Overwrite, Plan,
    Requantize, Request, Silent, Source, TypeRecipe, Withdrawn, open_with, verify, write,
};
use llq_eval::{Against, Corpus, Llama, LogitsFile, Mode, Options, Running, Tokenizer, evaluate};
use llq_gguf::{Metadata, Model};
use llq_quant::mix::Mix;
use tempfile::TempDir;

use crate::{
    checkpoints::{ADAPTER, HUGGING_FACE, MANY_TOKENS, META, MODEL},
    support::{listing, request},
};

/// What became of an input.
#[must_use]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It is what the target is for, and everything was done with it.
    Accepted,
    /// It was refused at some point.
    Refused,
}

use Verdict::{Accepted, Refused};

/// All targets by name.
pub const ALL: &[(&str, fn(&[u8]) -> Verdict)] = &[
    ("adapter", adapter),
    ("config", config),
    ("ggml", ggml),
    ("gguf_evaluate", gguf_evaluate),
    ("gguf_header", gguf_header),
    ("gguf_quantize", gguf_quantize),
    ("imatrix", imatrix),
    ("llamafile", llamafile),
    ("logits", logits),
    ("recipe", recipe),
    ("safetensors", safetensors),
    ("sentencepiece", sentencepiece),
    ("tiktoken", tiktoken),
    ("tokenizer_json", tokenizer_json),
    ("torch", torch),
];

/// A GGUF file in memory: every tensor is inside.
pub fn gguf_header(input: &[u8]) -> Verdict {
    match Model::from_bytes(input.to_vec()) {
        Ok(model) => {
            for tensor in model.tensors() {
                assert_eq!(model.data(tensor).len() as u64, tensor.bytes);
                assert!(model.tensor(&tensor.name).is_some());
            }
            tokenize(model.metadata());
            Accepted
        }
        Err(error) => refused(&error),
    }
}

/// A GGUF file on its way to another type, which the first byte chooses.
pub fn gguf_quantize(input: &[u8]) -> Verdict {
    let Some((&choice, file)) = input.split_first() else { return Refused };
    let request = Request {
        requantize: Requantize::Allow,
        on_overflow: if choice & 0x80 == 0 { OnOverflow::Error } else { OnOverflow::KeepBf16 },
        ..request(mix(choice))
    };
    let place = Place::new();
    let path = place.write("model.gguf", file);
    place.convert(&path, &OpenOptions::default(), &request)
}

/// A GGUF file that is run on a text of its first tokens.
pub fn gguf_evaluate(input: &[u8]) -> Verdict {
    let Ok(model) = Model::from_bytes(input.to_vec()) else { return Refused };
    tokenize(model.metadata());
    match Llama::load(&model) {
        Ok(llama) => {
            let Ok(tokenizer) = Tokenizer::from_metadata(model.metadata()) else { return Refused };
            run(&llama, Against::Nothing, &tokenizer)
        }
        Err(error) => refused(&error),
    }
}

/// Index and one safetensors file of a checkpoint.
pub fn safetensors(input: &[u8]) -> Verdict {
    let [pad, index, file] = parts(input);
    let place = Place::new();
    HUGGING_FACE.write_without("model.safetensors", place.path());
    // The weights themselves need no mutations.
    let pad = pad.iter().fold(0, |pad, &byte| pad << 8 | usize::from(byte)).min(1 << 16);
    let file = [file, &vec![0; pad]].concat();
    if index.is_empty() {
        place.write("model.safetensors", &file);
    } else {
        place.write("model.safetensors.index.json", index);
        place.write("model-00001-of-00001.safetensors", &file);
    }
    place.convert(place.path(), &OpenOptions::default(), &Request::default())
}

/// A pickle in its archive.
pub fn torch(input: &[u8]) -> Verdict {
    let place = Place::new();
    HUGGING_FACE.write_without("model.safetensors", place.path());
    place.write("pytorch_model.bin", input);
    place.convert(place.path(), &OpenOptions::default(), &Request::default())
}

/// `tokenizer.model` of SentencePiece.
pub fn sentencepiece(input: &[u8]) -> Verdict {
    let place = Place::new();
    HUGGING_FACE.write(place.path());
    place.write("tokenizer.model", input);
    place.convert(place.path(), &OpenOptions::default(), &Request::default())
}

/// `tokenizer.model` of Llama 3 in Meta's form.
pub fn tiktoken(input: &[u8]) -> Verdict {
    let place = Place::new();
    MANY_TOKENS.write(place.path());
    place.write("tokenizer.model", input);
    place.convert(place.path(), &OpenOptions::default(), &Request::default())
}

/// `tokenizer.json` and `tokenizer_config.json`.
pub fn tokenizer_json(input: &[u8]) -> Verdict {
    let [settings, special, tokenizer] = parts(input);
    let place = Place::new();
    HUGGING_FACE.write_without("tokenizer.model", place.path());
    place.write_unless_empty("tokenizer_config.json", settings);
    place.write_unless_empty("special_tokens_map.json", special);
    place.write("tokenizer.json", tokenizer);
    place.convert(place.path(), &OpenOptions::default(), &Request::default())
}

/// `config.json`, `generation_config.json` and the model card; or Meta's `params.json`.
pub fn config(input: &[u8]) -> Verdict {
    let [generation, card, config] = parts(input);
    let place = Place::new();
    if generation == b"meta" {
        META.write(place.path());
        place.write("params.json", config);
    } else {
        HUGGING_FACE.write(place.path());
        place.write_unless_empty("generation_config.json", generation);
        place.write_unless_empty("README.md", card);
        place.write("config.json", config);
    }
    place.convert(place.path(), &OpenOptions::default(), &Request::default())
}

/// A LoRA adapter that is merged: its settings, and its weights.
pub fn adapter(input: &[u8]) -> Verdict {
    let [settings, _, weights] = parts(input);
    let place = Place::new();
    HUGGING_FACE.write(place.path());
    let folder = place.path().join("adapter");
    fs::create_dir(&folder).unwrap();
    ADAPTER.write(&folder);
    if !settings.is_empty() {
        place.write("adapter/adapter_config.json", settings);
    }
    if !weights.is_empty() {
        place.write("adapter/adapter_model.safetensors", weights);
    }
    let lora = vec![LoraAdapter { folder, scale: 1.0 }];
    place.convert(
        place.path(),
        &OpenOptions { lora, ..OpenOptions::default() },
        &Request::default(),
    )
}

/// A GGML file of 2023.
pub fn ggml(input: &[u8]) -> Verdict {
    let place = Place::new();
    let path = place.write("ggml-model.bin", input);
    let [kept, decoded] = [Withdrawn::Keep, Withdrawn::Decode].map(|withdrawn| {
        let options = OpenOptions { withdrawn, ..OpenOptions::default() };
        place.convert(&path, &options, &Request::default())
    });
    if kept == Accepted { kept } else { decoded }
}

/// A model in an archive behind a program.
pub fn llamafile(input: &[u8]) -> Verdict {
    if let Ok(model) = Model::from_bytes(input.to_vec()) {
        model.tensors().iter().for_each(|tensor| drop(model.data(tensor).to_vec()));
    }
    let place = Place::new();
    let path = place.write("model.llamafile", input);
    place.convert(&path, &OpenOptions::default(), &Request::default())
}

/// An importance matrix of either form: what was read is written and read again, and guides.
pub fn imatrix(input: &[u8]) -> Verdict {
    let place = Place::new();
    let path = place.write("imatrix", input);
    let imatrix = match Imatrix::read(&path) {
        Ok((imatrix, _)) => imatrix,
        Err(error) => return refused(&error),
    };
    for (_, entry) in imatrix.entries() {
        let _ = (entry.statistics(), entry.tokens());
    }
    let _ = imatrix.clone().merge(&imatrix);
    for format in [ImatrixFormat::Gguf, ImatrixFormat::Dat] {
        let _ = imatrix.write(&place.path().join("again"), format, Overwrite::Replace);
    }
    fs::remove_file(&path).unwrap();
    let _ = fs::remove_file(place.path().join("again"));
    HUGGING_FACE.write(place.path());
    let request = Request { imatrix: Some(Arc::new(imatrix)), ..request(Mix::Q4_0) };
    place.convert(place.path(), &OpenOptions::default(), &request)
}

/// A recipe of types.
pub fn recipe(input: &[u8]) -> Verdict {
    let place = Place::new();
    let path = place.write("recipe.toml", input);
    match TypeRecipe::read(&path) {
        Ok(TypeRecipe { mix, rules }) => {
            HUGGING_FACE.write(place.path());
            let request = Request { rules, ..request(mix.unwrap_or(Mix::Q8_0)) };
            place.convert(place.path(), &OpenOptions::default(), &request)
        }
        Err(error) => refused(&error),
    }
}

/// A file of logits.
pub fn logits(input: &[u8]) -> Verdict {
    let place = Place::new();
    let path = place.write("logits", input);
    let file = match LogitsFile::open(&path) {
        Ok(file) => file,
        Err(error) => return refused(&error),
    };
    let model = Model::from_bytes(MODEL.clone()).unwrap();
    let llama = Llama::load(&model).unwrap();
    let tokenizer = Tokenizer::from_metadata(model.metadata()).unwrap();
    run(&llama, Against::Logits(&file), &tokenizer)
}

/// Cuts an input into three at its first two lines of this text, so that mutations keep the parts
/// apart.
pub fn parts(input: &[u8]) -> [&[u8]; 3] {
    let (first, rest) = cut(input);
    let (second, third) = cut(rest);
    [first, second, third]
}

/// What stands between the parts of an input.
pub const SEAM: &[u8] = b"\n~~\n";

fn cut(input: &[u8]) -> (&[u8], &[u8]) {
    match input.windows(SEAM.len()).position(|window| window == SEAM) {
        Some(at) => (&input[..at], &input[at + SEAM.len()..]),
        None => (&[], input),
    }
}

fn mix(choice: u8) -> Mix {
    Mix::ALL[usize::from(choice & 0x7f) % Mix::ALL.len()]
}

/// Splits a text with the vocabulary, and puts it together again.
fn tokenize(metadata: &Metadata) {
    match Tokenizer::from_metadata(metadata) {
        Ok(tokenizer) => {
            let tokens = tokenizer.encode("Hello, world! 1234 été\n\n  \t漢字 <s>");
            assert!(tokens.iter().all(|&id| (id as usize) < tokenizer.vocabulary_size()));
            let _ = tokenizer.decode(&tokens);
        }
        Err(error) => drop(error.to_string()),
    }
}

/// A folder, and what runs in it.
struct Place(TempDir);

impl Place {
    fn new() -> Place {
        Place(tempfile::tempdir().unwrap())
    }

    fn path(&self) -> &Path {
        self.0.path()
    }

    fn write(&self, name: &str, bytes: &[u8]) -> PathBuf {
        let path = self.path().join(name);
        fs::write(&path, bytes).unwrap();
        path
    }

    fn write_unless_empty(&self, name: &str, bytes: &[u8]) {
        if !bytes.is_empty() {
            self.write(name, bytes);
        }
    }

    /// Opens, checks and converts to a folder of its own: there is a model afterwards, or nothing.
    fn convert(&self, path: &Path, options: &OpenOptions, request: &Request) -> Verdict {
        let out = Place::new();
        let target = out.path().join("out.gguf");
        match converted(path, &target, options, request) {
            Ok(metadata) => {
                let model = Model::open(&target).expect("what was written is a model");
                assert!(model.metadata().len() >= metadata);
                Accepted
            }
            Err(error) => {
                assert_eq!(listing(out.path()), [""; 0], "{error}");
                refused(&error)
            }
        }
    }
}

/// The number of the source's keys.
fn converted(
    path: &Path,
    target: &Path,
    options: &OpenOptions,
    request: &Request,
) -> Result<usize, Error> {
    let source: Box<dyn Source> = open_with(path, options)?;
    tokenize(source.metadata());
    verify(&*source, &Silent)?;
    let plan = Plan::new(&*source, request)?;
    write(&*source, &plan, target, Overwrite::Forbid, &Silent)?;
    Ok(source.metadata().len())
}

fn run(llama: &Llama<'_>, against: Against<'_>, tokenizer: &Tokenizer) -> Verdict {
    match evaluate(llama, against, &text(tokenizer), &OF_TEXT, &Unheard) {
        Ok(_) => Accepted,
        Err(error) => refused(&error),
    }
}

/// A text of the first tokens of the small model.
pub(crate) fn text(tokenizer: &Tokenizer) -> Corpus {
    Corpus::tokenize(tokenizer, &"abcdefghijklm".repeat(3))
}

/// How it is evaluated.
pub(crate) const OF_TEXT: Options = Options { mode: Mode::Exact, context: 8, chunks: None };

/// What is wrong can be said.
fn refused(error: &dyn std::error::Error) -> Verdict {
    drop(error.to_string());
    Refused
}

pub(crate) struct Unheard;

impl llq_eval::Progress for Unheard {
    fn start(&self, _: usize, _: usize) {}
    fn window(&self, _: Running) {}
}
