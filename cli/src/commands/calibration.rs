//! `--calibrate`: tensors are rounded beside what they are multiplied with, and kept in a folder
//! beside the output until it is written.

use std::{
    collections::HashMap,
    fmt::{self, Write as _},
    fs::{self, File},
    io::{self, Write as _},
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::Context;
use llq_convert::{Plan, ReadyTensor};
use llq_eval::{
    Calibration, CalibrationCost, CalibrationProgress, Corpus, DEFAULT_CONTEXT, Finished, Llama,
    Tokenizer, calibrate, product_rate,
};
use llq_gguf::{Model, TensorType};
use llq_quant::mix::Guidance;
use serde::Serialize;

use super::{perplexity, produce};
use crate::{
    args::Interrupted,
    corpus::Text,
    escape::Escaped,
    failure::Refusal,
    figures::{Bytes, Count, Seconds},
    output::Output,
    progress::{Progress, Unit},
    target::folder_of,
};

/// How the encoders are guided.
#[derive(clap::Args)]
pub(crate) struct CalibrationArgs {
    /// Round every matrix so that its products with the activations of this text change least; a
    /// text like the ones the model is for, in any form that llq perplexity --corpus takes
    #[arg(long, value_name = "TEXT", conflicts_with = "imatrix", group = "measured_on")]
    calibrate: Option<PathBuf>,

    /// Windows of the text that are used, of 512 tokens each and spread evenly over it
    #[arg(long, value_name = "N", default_value_t = Calibration::default().windows as u32)]
    #[arg(value_parser = clap::value_parser!(u32).range(1..), requires = "calibrate")]
    calibrate_windows: u32,
}

/// What settings are kept as.
const SETTINGS: &str = "settings";

/// What the names of all tensors are kept as, in lines, when these are finished.
const FINISHED: &str = "finished";

impl CalibrationArgs {
    /// The text, which is read too.
    pub(super) fn text(&self) -> Option<&Path> {
        self.calibrate.as_deref()
    }

    /// What the rules of mixes are told.
    pub(super) fn guidance(&self) -> Guidance {
        match self.calibrate {
            Some(_) => Guidance::Importance,
            None => Guidance::Unguided,
        }
    }

    /// Refuses to write over what another run finished, before anything takes time.
    pub(super) fn check_unfinished(
        &self,
        target: &Path,
        interrupted: Interrupted,
    ) -> Result<(), Refusal> {
        let folder = Folder::beside(target);
        let is_idle = self.calibrate.is_none() || interrupted == Interrupted::GoesOn;
        if is_idle || !folder.file(SETTINGS).exists() { Ok(()) } else { Err(folder.unfinished()) }
    }

    /// Rounds the tensors of the model to the types of the plan. `None` where nobody asked for it.
    pub(super) fn run(
        &self,
        path: &Path,
        plan: &Plan,
        target: &Path,
        interrupted: Interrupted,
        output: &Output,
    ) -> anyhow::Result<Option<CalibratedTensors>> {
        let Some(text) = &self.calibrate else { return Ok(None) };
        let model = perplexity::open(path)?;
        let llama = perplexity::load(&model)?;
        let options = self.options(&llama);
        let corpus = corpus(text, &model, &options, output)?;
        let types = changed(plan);

        let folder = Folder::beside(target);
        folder.open(&settings(&model, plan, &corpus, &options)?, interrupted)?;
        if let Ok(names) = fs::read_to_string(folder.file(FINISHED)) {
            return Ok(Some(folder.tensors(names.lines(), &types)));
        }
        if let Some(unfinished) = llq_gguf::unfinished(target) {
            let unfinished = unfinished.display();
            return Err(Refusal::new(format!("{unfinished} is not of this calibration"))
                .hint(produce::ANEW_HINT)
                .into());
        }
        let steps = Steps::new(output);
        let done =
            calibrate(&llama, &|name| types.get(name).copied(), &corpus, &options, &folder, &steps)
                .with_context(|| format!("cannot calibrate {}", path.display()))?;
        drop(steps);
        if !done.outputs_weighed {
            output.note(
                &"rows are rounded each by itself, which gains less: what errors in outputs cost \
                  would take too much memory here, or is not finite",
            );
        }
        if let [first, rest @ ..] = &*done.plain {
            let others = if rest.is_empty() { "" } else { ", …" };
            output.note(&format_args!(
                "{} of {} tensors are rounded plainly, as text that was held out shows no gain: {}{}",
                done.plain.len(),
                done.tensors.len(),
                Escaped(first),
                others,
            ));
        }
        folder
            .store(FINISHED, done.tensors.join("\n").as_bytes())
            .with_context(|| format!("cannot write to {}", folder.path.display()))?;
        let names = done.tensors.iter().map(String::as_str);
        Ok(Some(folder.tensors(names, &types)))
    }

    /// What [`run`](Self::run) would take. `None` where nobody asked for it.
    pub(super) fn estimate(&self, path: &Path, plan: &Plan) -> anyhow::Result<Option<Estimate>> {
        if self.calibrate.is_none() {
            return Ok(None);
        }
        let model = perplexity::open(path)?;
        let llama = perplexity::load(&model)?;
        let types = changed(plan);
        let options = self.options(&llama);
        let cost = CalibrationCost::of(&llama, &|name| types.get(name).copied(), &options);
        Ok(Some(Estimate::at(&cost, product_rate())))
    }

    fn options(&self, llama: &Llama<'_>) -> Calibration {
        let context = llama.hyperparameters().context_length.min(DEFAULT_CONTEXT);
        Calibration { context, windows: self.calibrate_windows as usize }
    }
}

/// The tensors whose type changes, and to what.
fn changed(plan: &Plan) -> HashMap<&str, TensorType> {
    let changed = plan.tensors().iter().filter(|tensor| tensor.from != tensor.to);
    changed.map(|tensor| (tensor.name.as_str(), tensor.to)).collect()
}

/// What a calibration would take, at most: the text may be shorter.
#[derive(Serialize)]
pub(super) struct Estimate {
    flop: f64,
    flop_by_part: Parts,
    memory_bytes: u64,
    flop_per_second: f64,
    seconds: f64,
}

/// Of the parts of [`CalibrationCost`].
#[derive(Serialize)]
struct Parts {
    backward: f64,
    streams: f64,
    sums: f64,
    solving: f64,
    rounding: f64,
    judging: f64,
}

impl Estimate {
    /// At so many multiply-adds per second.
    fn at(cost: &CalibrationCost, rate: f64) -> Estimate {
        let flop = 2.0 * cost.total();
        let flop_per_second = 2.0 * rate;
        let seconds = flop / flop_per_second;
        let flop_by_part = Parts {
            backward: 2.0 * cost.backward,
            streams: 2.0 * cost.streams,
            sums: 2.0 * cost.sums,
            solving: 2.0 * cost.solving,
            rounding: 2.0 * cost.rounding,
            judging: 2.0 * cost.judging,
        };
        Estimate { flop, flop_by_part, memory_bytes: cost.memory, flop_per_second, seconds }
    }
}

impl fmt::Display for Estimate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{:.2} TFLOP, about {} at the {:.0} GFLOP/s of this machine's products, {} of memory",
            self.flop / 1e12,
            Seconds(Duration::from_secs_f64(self.seconds)),
            self.flop_per_second / 1e9,
            Bytes(self.memory_bytes),
        )
    }
}

/// Tokens of the text, which has to fill a window.
fn corpus(
    path: &Path,
    model: &Model,
    options: &Calibration,
    output: &Output,
) -> anyhow::Result<Corpus> {
    /// Of a longer text the rest is not read.
    const MOST_BYTES: usize = 32 << 20;
    let mut text = Text::open(path, "text", output)?;
    text.read_to(MOST_BYTES)?;
    let tokenizer = Tokenizer::from_metadata(model.metadata())
        .with_context(|| format!("{}: no usable tokenizer", model.path().display()))?;
    let corpus = Corpus::tokenize(&tokenizer, text.text());
    if corpus.windows(options.context) == 0 {
        let (tokens, window) = (corpus.tokens().len(), Count(options.context as u64));
        let path = path.display();
        return Err(Refusal::new(format!(
            "{path} has {} tokens; one window takes {window}",
            Count(tokens as u64)
        ))
        .hint("give a longer text")
        .into());
    }
    Ok(corpus)
}

/// All that the tensors depend on, in lines.
fn settings(
    model: &Model,
    plan: &Plan,
    corpus: &Corpus,
    options: &Calibration,
) -> anyhow::Result<String> {
    let mut lines = format!("llq {}\n{options:?}\n", env!("CARGO_PKG_VERSION"));
    for path in model.paths() {
        let metadata = path.metadata().with_context(|| path.display().to_string())?;
        let modified = metadata.modified().ok();
        let path = path.canonicalize().with_context(|| path.display().to_string())?;
        writeln!(lines, "{path:?} {} bytes of {modified:?}", metadata.len())?;
    }
    writeln!(lines, "text {:016x}", fnv(corpus.tokens()))?;
    for tensor in plan.tensors() {
        writeln!(lines, "{} {:?}", tensor.to, tensor.name)?;
    }
    Ok(lines)
}

/// The 64-bit FNV-1a hash (Fowler, Noll and Vo) of the tokens.
fn fnv(tokens: &[u32]) -> u64 {
    let bytes = tokens.iter().flat_map(|token| token.to_le_bytes());
    bytes.fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

/// Tensors that are ready to be written.
pub(super) struct CalibratedTensors {
    tensors: HashMap<String, ReadyTensor>,
    folder: Folder,
}

impl CalibratedTensors {
    pub(super) fn tensors(&self) -> &HashMap<String, ReadyTensor> {
        &self.tensors
    }

    /// Removes the files, which the output has made useless.
    pub(super) fn remove(self, output: &Output) {
        let path = &self.folder.path;
        if let Err(error) = fs::remove_dir_all(path) {
            output.note(&format_args!("{} is left behind: {error}", path.display()));
        }
    }
}

/// What is finished, a file each.
struct Folder {
    path: PathBuf,
}

impl Folder {
    fn beside(target: &Path) -> Folder {
        let name = target.file_name().unwrap_or_default().to_string_lossy();
        Folder { path: folder_of(target).join(format!(".llq-{name}.calibration")) }
    }

    fn file(&self, name: &str) -> PathBuf {
        self.path.join(format!("{name}.bin"))
    }

    /// Finished ones, by name.
    fn tensors<'a>(
        self,
        names: impl Iterator<Item = &'a str>,
        types: &HashMap<&str, TensorType>,
    ) -> CalibratedTensors {
        let ready = |name: &str| {
            let ready = ReadyTensor { tensor_type: *types.get(name)?, path: self.file(name) };
            Some((name.to_owned(), ready))
        };
        CalibratedTensors { tensors: names.filter_map(ready).collect(), folder: self }
    }

    /// Makes the folder, or takes the one of a run with the same settings.
    fn open(&self, settings: &str, interrupted: Interrupted) -> anyhow::Result<()> {
        let shown = self.path.display();
        if !self.file(SETTINGS).exists() {
            fs::create_dir_all(&self.path).with_context(|| format!("cannot create {shown}"))?;
            return self
                .store(SETTINGS, settings.as_bytes())
                .with_context(|| format!("cannot write to {shown}"));
        }
        if interrupted == Interrupted::IsRemoved {
            return Err(self.unfinished().into());
        }
        let found = fs::read(self.file(SETTINGS)).unwrap_or_default();
        if found != settings.as_bytes() {
            return Err(Refusal::new(format!(
                "{shown} belongs to a calibration of another model, text, type or number of windows"
            ))
            .hint("without that folder the calibration begins anew")
            .into());
        }
        Ok(())
    }
}

impl Folder {
    fn unfinished(&self) -> Refusal {
        let shown = self.path.display();
        Refusal::new(format!("{shown} has what another calibration finished"))
            .hint("--resume goes on with it; without that folder it begins anew")
    }
}

impl Finished for Folder {
    fn load(&self, name: &str, len: usize) -> Option<Vec<u8>> {
        let path = self.file(name);
        // What has another size is no file of this run, however large.
        let found = path.metadata().ok().filter(|found| found.is_file())?;
        if found.len() != len as u64 {
            return None;
        }
        fs::read(path).ok().filter(|bytes| bytes.len() == len)
    }

    fn store(&self, name: &str, bytes: &[u8]) -> io::Result<()> {
        let partial = self.path.join(format!("{name}.partial"));
        let mut file = File::create(&partial)?;
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(partial, self.file(name))
    }
}

/// Shows a calibration.
struct Steps<'a> {
    output: &'a Output,
    shown: std::sync::OnceLock<Progress<'a>>,
}

impl<'a> Steps<'a> {
    fn new(output: &'a Output) -> Steps<'a> {
        Steps { output, shown: std::sync::OnceLock::new() }
    }
}

impl CalibrationProgress for Steps<'_> {
    fn start(&self, steps: usize) {
        let start = || self.output.progress("calibrating", steps as u64, Unit::Steps);
        self.shown.get_or_init(start);
    }

    fn step(&self) {
        if let Some(shown) = self.shown.get() {
            shown.advance(1);
        }
    }
}
