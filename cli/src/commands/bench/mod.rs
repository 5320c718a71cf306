//! `llq bench`: what the kernels do on this machine, beside what the machine can do.

mod formats;
mod limits;
pub(super) mod machine;
mod report;

use std::{process::ExitCode, time::Duration};

use clap::builder::{PossibleValuesParser, TypedValueParser};
use llq_gguf::TensorType;
use llq_quant::{
    FORMATS, FormatInfo, format,
    kernels::{self, Isa, Kernels},
};

use self::{
    formats::Figures,
    limits::Limits,
    report::{Report, Row},
};
use crate::{
    args::HELP,
    failure::{FOUND_BAD, Refusal},
    output::Output,
    progress::{Progress, Unit},
};

const EXAMPLES: &str = "\
Examples:
  llq bench
  llq bench --format q4_k,q6_k
  llq bench --isa avx2,scalar --quick --json";

/// Measure the kernels on this machine, beside what the machine can do at most.
///
/// Limits are measured in place: multiply-adds of f32 and products of 8-bit codes in registers, and
/// reading a buffer far larger than the caches, by one thread and by all. Formats are measured on one
/// thread: decoding to f32 and encoding from it, and products with a window of tokens, whose
/// activations are quantized and weights unpacked on the way. Products with one token read as many
/// bytes of weights as the limit, on all threads. Every answer is checked; a wrong one ends the run
/// with exit code 1. A figure is the best of some runs.
#[derive(clap::Args)]
#[command(help_template = HELP, before_help = EXAMPLES)]
pub(crate) struct Args {
    /// Rows of the kernel table (see llq cpu) [default: the one llq uses]
    #[arg(long, value_name = "ISA", value_delimiter = ',', ignore_case = true)]
    #[arg(hide_possible_values = true)]
    #[arg(value_parser = isa_parser())]
    isa: Vec<Isa>,

    /// Formats [default: all]
    #[arg(long, value_name = "FORMAT", value_delimiter = ',', value_parser = parse_format)]
    format: Vec<&'static FormatInfo>,

    /// Small matrices and few runs: whether it works rather than how fast it is
    #[arg(long)]
    quick: bool,
}

fn isa_parser() -> impl TypedValueParser<Value = Isa> {
    PossibleValuesParser::new(Isa::ALL.iter().map(|isa| isa.name()))
        .try_map(|name| name.parse::<Isa>())
}

fn parse_format(name: &str) -> Result<&'static FormatInfo, String> {
    let known = || FORMATS.iter().map(|f| f.name().to_lowercase()).collect::<Vec<_>>().join(", ");
    TensorType::from_name(name)
        .and_then(format)
        .ok_or_else(|| format!("llq has no such format; it has {}", known()))
}

pub(crate) fn run(args: &Args, output: &Output) -> anyhow::Result<ExitCode> {
    let effort = if args.quick { Effort::QUICK } else { Effort::FULL };
    let rows = rows(&args.isa)?;
    let formats = if args.format.is_empty() { FORMATS.to_vec() } else { args.format.clone() };
    let load = machine::load_per_core();
    if let Some(load) = load.filter(|&load| load > machine::BUSY) {
        output.note(&format_args!(
            "the machine is busy (load average {load:.1} per core): expect figures below its best"
        ));
    }
    let buffer = limits::buffer(&effort)?;
    let steps = rows.len() * (formats.len() + 1);
    let progress = output.progress("measuring", steps as u64, Unit::Steps);
    let mut report = Report::new(&effort, load);
    for kernels in rows {
        match measure(kernels, &formats, &buffer, &effort, &progress) {
            Ok(row) => report.kernels.push(row),
            Err(wrong) => {
                drop(progress);
                output.error(&wrong);
                return Ok(ExitCode::from(FOUND_BAD));
            }
        }
    }
    drop(progress);
    output.result(&report)?;
    Ok(ExitCode::SUCCESS)
}

/// What is measured, and for how long.
struct Effort {
    /// Shape of the weights; columns fill every format's blocks.
    rows: usize,
    cols: usize,
    tokens: usize,
    /// Bytes of the buffer whose reading is timed, at most.
    buffer: usize,
    /// Columns of the weights that one token is multiplied by.
    gemv_cols: usize,
    /// How long one figure is measured; at least three runs, or one if this is zero.
    time: Duration,
}

impl Effort {
    const FULL: Effort = Effort {
        rows: 2048,
        cols: 2048,
        tokens: 512,
        buffer: 256 << 20,
        gemv_cols: 14336,
        time: Duration::from_millis(200),
    };
    const QUICK: Effort = Effort {
        rows: 64,
        cols: 512,
        tokens: 24,
        buffer: 8 << 20,
        gemv_cols: 512,
        time: Duration::ZERO,
    };

    /// The scalar row is slow: its rate shows on few tokens.
    fn tokens(&self, kernels: &Kernels) -> usize {
        if kernels.isa() == Isa::Scalar { self.tokens.min(12) } else { self.tokens }
    }
}

/// An answer that is not what it must be.
#[derive(Debug, thiserror::Error)]
#[error("{isa}: {what} gives a wrong answer")]
struct Wrong {
    isa: Isa,
    what: String,
}

fn rows(isas: &[Isa]) -> anyhow::Result<Vec<&'static Kernels>> {
    if isas.is_empty() {
        return Ok(vec![kernels::select()?]);
    }
    let row = |&isa| {
        Kernels::for_isa(isa).ok_or_else(|| {
            let has: Vec<_> = kernels::available().map(|row| row.isa().name()).collect();
            Refusal::new(format!("this machine lacks {isa}; it has: {}", has.join(", "))).into()
        })
    };
    isas.iter().map(row).collect()
}

fn measure(
    kernels: &'static Kernels,
    formats: &[&'static FormatInfo],
    buffer: &[f32],
    effort: &Effort,
    progress: &Progress<'_>,
) -> Result<Row, Wrong> {
    progress.tell(format!("{} limits", kernels.isa()));
    let limits = Limits::measure(kernels, buffer, effort)?;
    progress.advance(1);
    let mut figures = Vec::new();
    for format in formats {
        progress.tell(format!("{} {}", kernels.isa(), format.name()));
        figures.push(Figures::measure(kernels, format, size_of_val(buffer), effort)?);
        progress.advance(1);
    }
    Ok(Row { isa: kernels.isa().name(), limits, formats: figures })
}
