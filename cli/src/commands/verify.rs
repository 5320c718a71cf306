//! `llq verify`: whether a model is what loaders take it for.

use std::{
    fmt,
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::Context;
use llq_convert::{Findings, Source, SourceKind, digests, hexadecimal, whole_digest};
use llq_eval::Tokenizer;
use serde::Serialize;

use super::{compare::open, hash::ALL};
use crate::{
    args::HELP,
    escape::Escaped,
    failure::{FOUND_BAD, Refusal},
    figures::Count,
    output::Output,
    progress::Reading,
};

const EXAMPLES: &str = "\
Examples:
  llq verify model.gguf
  llq verify model.gguf --hashes model.sha256
  llq verify Llama-2-7b-hf";

/// Check a model: its structure, every block of every tensor, and what loaders ask of its metadata.
///
/// Structure means that every size, offset and string lies inside the file and nothing lies between or
/// behind. A block is bad where a scale or a weight is NaN or infinite. The exit code is 0 where nothing
/// is wrong, 1 where something is, and 2 where the file cannot be read as a model at all.
#[derive(clap::Args)]
#[command(help_template = HELP, before_help = EXAMPLES)]
pub(crate) struct Args {
    /// A GGUF file (of a split model, any), or a checkpoint in any form that llq convert reads
    model: PathBuf,

    /// Also compare the tensors with these sums, which llq hash printed
    #[arg(long, value_name = "FILE")]
    hashes: Option<PathBuf>,
}

pub(crate) fn run(args: &Args, output: &Output) -> anyhow::Result<ExitCode> {
    let expected = args.hashes.as_deref().map(Expected::read).transpose()?;
    let source = open(&args.model)?;
    let findings = llq_convert::verify(&*source, &Reading::new(output, "verifying"))?;
    let mut verified = Verified::of(&*source, &findings);
    if source.kind() == SourceKind::Gguf {
        verified.tokenizer(&*source);
    }
    if let Some(expected) = &expected {
        verified.compare(&*source, expected, output)?;
    }
    output.result(&verified)?;
    Ok(if verified.sound { ExitCode::SUCCESS } else { ExitCode::from(FOUND_BAD) })
}

/// What is printed.
#[derive(Serialize)]
struct Verified {
    model: String,
    sound: bool,
    tensors: usize,
    /// Tensors whose blocks were looked at.
    checked: usize,
    faults: Vec<Fault>,
    notes: Vec<String>,
}

/// Something that is wrong.
#[derive(Serialize)]
struct Fault {
    /// The tensor or key.
    subject: String,
    problem: String,
}

impl Verified {
    fn of(source: &dyn Source, findings: &Findings) -> Verified {
        let mut verified = Verified {
            model: source.path().display().to_string(),
            sound: true,
            tensors: source.tensors().len(),
            checked: findings.checked,
            faults: Vec::new(),
            notes: Vec::new(),
        };
        for defect in &findings.defects {
            let (count, first) = (Count(defect.count), Count(defect.first));
            verified.fault(&defect.tensor, format!("{} ({count}, first {first})", defect.defect));
        }
        for tensor in &findings.empty {
            verified.fault(tensor, "every weight is 0".to_owned());
        }
        for unmet in &findings.unmet {
            let problem = format!("expected {}, found {}", unmet.expected, unmet.found);
            verified.fault(&unmet.subject, problem);
        }
        for spec in &findings.unknown {
            let (name, tensor_type) = (&spec.name, spec.tensor_type);
            verified.notes.push(format!("{name} is {tensor_type}, whose blocks llq does not know"));
        }
        verified
    }

    fn fault(&mut self, subject: &str, problem: String) {
        self.sound = false;
        self.faults.push(Fault { subject: subject.to_owned(), problem });
    }

    /// Whether text could be split with the vocabulary.
    fn tokenizer(&mut self, source: &dyn Source) {
        const MODEL: &str = "tokenizer.ggml.model";
        let metadata = source.metadata();
        let Ok(model) = metadata.string(MODEL) else { return };
        if !matches!(model, "llama" | "gpt2") {
            self.notes.push(format!("the vocabulary is {model}, which llq does not read"));
            return;
        }
        match Tokenizer::from_metadata(metadata) {
            Ok(tokenizer) => self.notes.extend(tokenizer.assumption().map(str::to_owned)),
            Err(llq_eval::Error::PreTokenizer { .. }) => {
                self.notes.push("llq does not know the pre-tokenizer".to_owned());
            }
            Err(error) => self.fault("vocabulary", error.to_string()),
        }
    }

    fn compare(
        &mut self,
        source: &dyn Source,
        expected: &Expected,
        output: &Output,
    ) -> anyhow::Result<()> {
        let sums = digests(source, &Reading::new(output, "hashing"))?;
        for (spec, sum) in source.tensors().iter().zip(&sums) {
            match expected.sum(&Escaped(&spec.name).to_string()) {
                Some(expected) if expected == hexadecimal(sum) => {}
                Some(_) => self.fault(&spec.name, "other weights than the sum is of".to_owned()),
                None if expected.has_tensors() => {
                    self.fault(&spec.name, "no sum of it".to_owned());
                }
                None => {}
            }
        }
        let whole = hexadecimal(&whole_digest(source.tensors(), &sums));
        if expected.sum(ALL).is_some_and(|expected| expected != whole) && self.sound {
            self.fault("weights", "other names, types or shapes than the sum is of".to_owned());
        }
        Ok(())
    }
}

/// Sums as `llq hash` prints them.
struct Expected(std::collections::HashMap<String, String>);

impl Expected {
    fn read(path: &Path) -> anyhow::Result<Expected> {
        /// A line of a hundred bytes for each of more tensors than any model has.
        const MOST_BYTES: u64 = 64 << 20;
        let shown = path.display();
        let bytes = path.metadata().with_context(|| shown.to_string())?.len();
        if bytes > MOST_BYTES {
            return Err(Refusal::new(format!("{shown}: {bytes} bytes are no list of sums")).into());
        }
        let text = std::fs::read_to_string(path).with_context(|| shown.to_string())?;
        let lines = text.lines().enumerate().map(|(index, line)| {
            let is_sum = |sum: &str| sum.len() == 64 && sum.bytes().all(|b| b.is_ascii_hexdigit());
            let parts = line.split_once("  ").filter(|(sum, _)| is_sum(sum));
            let (sum, name) = parts.with_context(|| {
                Refusal::new(format!("{shown}: line {} is no sum and name", index + 1))
                    .hint("llq hash MODEL > FILE writes such a list")
            })?;
            Ok((name.to_owned(), sum.to_ascii_lowercase()))
        });
        Ok(Expected(lines.collect::<anyhow::Result<_>>()?))
    }

    fn sum(&self, name: &str) -> Option<&str> {
        self.0.get(name).map(String::as_str)
    }

    fn has_tensors(&self) -> bool {
        self.0.keys().any(|name| name != ALL)
    }
}

impl fmt::Display for Verified {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for Fault { subject, problem } in &self.faults {
            writeln!(f, "{}: {}", Escaped(subject), Escaped(problem))?;
        }
        for note in &self.notes {
            writeln!(f, "note: {}", Escaped(note))?;
        }
        let model = Escaped(&self.model);
        match self.faults.len() {
            0 => {
                let tensors = Count(self.checked as u64);
                writeln!(f, "{model}: sound, {tensors} tensors checked block by block")
            }
            1 => writeln!(f, "{model}: 1 fault"),
            faults => writeln!(f, "{model}: {} faults", Count(faults as u64)),
        }
    }
}
