//! The table of a sweep: printed row by row, or as one JSON value.

use std::{path::Path, time::Duration};

use llq_eval::{Comparison, Divergence, Report};
use llq_gguf::Model;
use llq_quant::mix::Mix;
use serde::Serialize;

use crate::{
    args::mode_name,
    commands::perplexity::Change,
    figures::{Bytes, Seconds, bits_per_weight},
    output::{Form, Output},
    table::{Column, Columns},
};

/// What one type costs and what it keeps.
#[derive(Serialize)]
pub(super) struct Row {
    #[serde(rename = "type")]
    name: String,
    bits_per_weight: f64,
    file_bytes: u64,
    perplexity: f64,
    stderr: f64,
    /// Growth of the perplexity over the unquantized model's.
    change_percent: Option<f64>,
    change_percent_stderr: Option<f64>,
    kld: Option<Divergence>,
    same_top: Option<f64>,
    seconds: f64,
}

impl Row {
    pub(super) fn new(name: &str, model: &Model, report: &Report, elapsed: Duration) -> Row {
        let tensors = model.tensors();
        let weights = tensors.iter().map(|t| t.weights()).fold(0, u64::saturating_add);
        let bytes = tensors.iter().map(|t| t.bytes).fold(0, u64::saturating_add);
        let comparison = report.against.as_ref();
        let change = comparison.map(Change::of);
        Row {
            name: name.to_owned(),
            bits_per_weight: bits_per_weight(bytes, weights),
            file_bytes: model.file_bytes(),
            perplexity: report.perplexity,
            stderr: report.stderr,
            change_percent: change.as_ref().map(|change| change.percent),
            change_percent_stderr: change.as_ref().map(|change| change.stderr),
            kld: comparison.map(|c: &Comparison| c.kld),
            same_top: comparison.map(|c| c.same_top),
            seconds: elapsed.as_secs_f64(),
        }
    }

    fn cells(&self) -> Vec<String> {
        let change = self.change_percent.zip(self.change_percent_stderr);
        vec![
            self.name.clone(),
            format!("{:.2}", self.bits_per_weight),
            Bytes(self.file_bytes).to_string(),
            self.perplexity(),
            cell(change, |(percent, stderr)| Change { percent, stderr }.to_string()),
            cell(self.kld, |kld| format!("{:.6}", kld.mean)),
            cell(self.same_top, |same| format!("{:.2} %", 100.0 * same)),
            Seconds(Duration::from_secs_f64(self.seconds)).to_string(),
        ]
    }

    fn perplexity(&self) -> String {
        format!("{:.4} ± {:.4}", self.perplexity, self.stderr)
    }
}

fn cell<T>(value: Option<T>, show: impl FnOnce(T) -> String) -> String {
    value.map_or_else(|| "–".to_owned(), show)
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
        let columns = Columns::new([
            Column::left("type").at_least(name),
            Column::right("bits/weight"),
            Column::right("size").at_least("1023.9 MiB".len()),
            Column::right("perplexity").at_least(perplexity),
            Column::right("change").at_least("+12.345 ± 0.123 %".len()),
            Column::right("KL divergence"),
            Column::right("same top").at_least("100.00 %".len()),
            Column::right("time").at_least("59 min 59 s".len()),
        ]);
        let mut table = Table { columns, rows: Vec::new(), output };
        table.print(&table.columns.heading())?;
        table.add(base)?;
        Ok(table)
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

/// A whole sweep, as JSON.
#[derive(Serialize)]
pub(super) struct Swept<'a> {
    model: String,
    corpus: String,
    mode: &'static str,
    context: usize,
    chunks: usize,
    tokens: usize,
    /// The unquantized model first.
    rows: &'a [Row],
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
            rows: &table.rows,
        }
    }
}
