//! The table of a sweep: printed row by row, or as one JSON value.

use std::{path::Path, time::Duration};

use llq_convert::TensorDifference;
use llq_eval::{Change as ProbabilityChange, Comparison, Divergence, Report};
use llq_gguf::Model;
use llq_quant::mix::Mix;
use serde::{Serialize, Serializer};

use crate::{
    args::mode_name,
    commands::perplexity::Change,
    figures::{Bytes, Seconds, bits_per_weight},
    output::{Form, Output},
    table::{Column, Columns},
};

/// The titles of the columns.
pub(super) const HEADINGS: [&str; 8] =
    ["type", "bits/weight", "size", "perplexity", "change", "KL divergence", "same top", "time"];

/// What one type costs and what it keeps.
pub(super) struct Row {
    pub(super) name: String,
    pub(super) bits_per_weight: f64,
    pub(super) file_bytes: u64,
    pub(super) perplexity: f64,
    pub(super) stderr: f64,
    /// With the unquantized model.
    pub(super) comparison: Option<Comparison>,
    pub(super) seconds: f64,
    /// How far each tensor is from the unquantized one, where that was asked for.
    pub(super) tensors: Vec<TensorDifference>,
}

impl Row {
    pub(super) fn new(name: &str, model: &Model, report: &Report, elapsed: Duration) -> Row {
        let tensors = model.tensors();
        let weights = tensors.iter().map(|t| t.weights()).fold(0, u64::saturating_add);
        let bytes = tensors.iter().map(|t| t.bytes).fold(0, u64::saturating_add);
        Row {
            name: name.to_owned(),
            bits_per_weight: bits_per_weight(bytes, weights),
            file_bytes: model.file_bytes(),
            perplexity: report.perplexity,
            stderr: report.stderr,
            comparison: report.against.clone(),
            seconds: elapsed.as_secs_f64(),
            tensors: Vec::new(),
        }
    }

    /// What is printed under [`HEADINGS`].
    pub(super) fn cells(&self) -> Vec<String> {
        let of = |show: fn(&Comparison) -> String| cell(self.comparison.as_ref(), show);
        vec![
            self.name.clone(),
            format!("{:.2}", self.bits_per_weight),
            Bytes(self.file_bytes).to_string(),
            self.perplexity(),
            of(|c| Change::of(c).to_string()),
            of(|c| format!("{:.6}", c.kld.mean)),
            of(|c| format!("{:.2} %", 100.0 * c.same_top)),
            Seconds(Duration::from_secs_f64(self.seconds)).to_string(),
        ]
    }

    /// What a report tells, without the time and with more of the comparison.
    pub(super) fn report_cells(&self) -> Vec<String> {
        let of = |show: fn(&Comparison) -> String| cell(self.comparison.as_ref(), show);
        vec![
            self.name.clone(),
            format!("{:.2}", self.bits_per_weight),
            Bytes(self.file_bytes).to_string(),
            self.perplexity(),
            of(|c| Change::of(c).to_string()),
            of(|c| format!("{:.6} ± {:.6}", c.kld.mean, c.kld.stderr)),
            of(|c| format!("{:.6}", c.kld.median)),
            of(|c| format!("{:.4}", c.kld.p99)),
            of(|c| format!("{:.3}", c.kld.max)),
            of(|c| format!("{:.2} ± {:.2} %", 100.0 * c.same_top, 100.0 * c.same_top_stderr)),
            of(|c| format!("{:.3} %", 100.0 * c.delta_p.rms)),
        ]
    }

    fn perplexity(&self) -> String {
        format!("{:.4} ± {:.4}", self.perplexity, self.stderr)
    }
}

fn cell<T>(value: Option<T>, show: impl FnOnce(T) -> String) -> String {
    value.map_or_else(|| "–".to_owned(), show)
}

/// A row as JSON.
#[derive(Serialize)]
struct RowFigures<'a> {
    #[serde(rename = "type")]
    name: &'a str,
    bits_per_weight: f64,
    file_bytes: u64,
    perplexity: f64,
    stderr: f64,
    /// Growth of the perplexity over the unquantized model's.
    change_percent: Option<f64>,
    change_percent_stderr: Option<f64>,
    kld: Option<Divergence>,
    same_top: Option<f64>,
    same_top_stderr: Option<f64>,
    delta_p: Option<ProbabilityChange>,
    seconds: f64,
}

impl Serialize for Row {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let comparison = self.comparison.as_ref();
        let change = comparison.map(Change::of);
        RowFigures {
            name: &self.name,
            bits_per_weight: self.bits_per_weight,
            file_bytes: self.file_bytes,
            perplexity: self.perplexity,
            stderr: self.stderr,
            change_percent: change.as_ref().map(|change| change.percent),
            change_percent_stderr: change.as_ref().map(|change| change.stderr),
            kld: comparison.map(|c| c.kld),
            same_top: comparison.map(|c| c.same_top),
            same_top_stderr: comparison.map(|c| c.same_top_stderr),
            delta_p: comparison.map(|c| c.delta_p),
            seconds: self.seconds,
        }
        .serialize(serializer)
    }
}

/// The rows so far. In text each is printed as it comes, so the columns have their widths before
/// the last row is known.
pub(super) struct Table<'a> {
    columns: Columns,
    rows: Vec<Row>,
    output: &'a Output,
}

impl<'a> Table<'a> {
    /// Prints the headings and the row of the unquantized model.
    pub(super) fn start(
        base: Row,
        mixes: impl Iterator<Item = Mix>,
        output: &'a Output,
    ) -> anyhow::Result<Table<'a>> {
        let name = mixes.map(|mix| mix.name().len()).fold(base.name.len(), usize::max);
        let perplexity = base.perplexity().chars().count();
        let [kind, bits, size, ppl, change, kld, top, time] = HEADINGS;
        let columns = Columns::new([
            Column::left(kind).at_least(name),
            Column::right(bits),
            Column::right(size).at_least("1023.9 MiB".len()),
            Column::right(ppl).at_least(perplexity),
            Column::right(change).at_least("+12.345 ± 0.123 %".len()),
            Column::right(kld),
            Column::right(top).at_least("100.00 %".len()),
            Column::right(time).at_least("59 min 59 s".len()),
        ]);
        let mut table = Table { columns, rows: Vec::new(), output };
        table.print(&table.columns.heading())?;
        table.add(base)?;
        Ok(table)
    }

    pub(super) fn rows(&self) -> &[Row] {
        &self.rows
    }

    /// Prints a row.
    pub(super) fn add(&mut self, row: Row) -> anyhow::Result<()> {
        self.print(&self.columns.row(&row.cells()))?;
        self.rows.push(row);
        Ok(())
    }

    fn print(&self, line: &str) -> anyhow::Result<()> {
        match self.output.form() {
            Form::Text => self.output.data(line),
            Form::Json => Ok(()),
        }
    }
}

/// A whole sweep.
#[derive(Serialize)]
pub(super) struct Swept<'a> {
    pub(super) model: String,
    pub(super) corpus: String,
    pub(super) mode: &'static str,
    pub(super) context: usize,
    pub(super) chunks: usize,
    pub(super) tokens: usize,
    /// The unquantized model first.
    pub(super) rows: &'a [Row],
}

impl<'a> Swept<'a> {
    pub(super) fn new(
        model: &Path,
        corpus: &Path,
        report: &Report,
        table: &'a Table<'_>,
    ) -> Swept<'a> {
        Swept {
            model: model.display().to_string(),
            corpus: corpus.display().to_string(),
            mode: mode_name(report.mode),
            context: report.context,
            chunks: report.chunks,
            tokens: report.tokens,
            rows: table.rows(),
        }
    }
}
