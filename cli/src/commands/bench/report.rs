//! The one table of `llq bench`.

use std::fmt;

use serde::Serialize;

use super::{Effort, formats::Figures, limits::Limits};
use crate::table::{Column, Columns};

/// Everything that was measured.
#[derive(Serialize)]
pub(super) struct Report {
    load_per_core: Option<f64>,
    /// Shape of the weights of the products, and tokens (the scalar row has fewer).
    rows: usize,
    cols: usize,
    tokens: usize,
    /// Columns of the weights of the products with one token, whose rows depend on the format, and
    /// the threads of these products.
    gemv_cols: usize,
    gemv_threads: usize,
    pub(super) kernels: Vec<Row>,
}

/// A row of the kernel table.
#[derive(Serialize)]
pub(super) struct Row {
    pub(super) isa: &'static str,
    /// By one thread, then by all.
    pub(super) limits: Vec<Limits>,
    /// By one thread, but for products with one token.
    pub(super) formats: Vec<Figures>,
}

impl Report {
    pub(super) fn new(effort: &Effort, load_per_core: Option<f64>) -> Report {
        let Effort { rows, cols, tokens, gemv_cols, .. } = *effort;
        let gemv_threads = rayon::current_num_threads();
        let kernels = Vec::new();
        Report { load_per_core, rows, cols, tokens, gemv_cols, gemv_threads, kernels }
    }
}

impl Row {
    fn cells(&self) -> impl Iterator<Item = Vec<String>> {
        let limits = self.limits.iter().map(|limits| limits.cells(self.isa));
        let formats = self.formats.iter().map(|format| format.cells(self.isa, &self.limits));
        limits.chain(formats)
    }
}

impl Limits {
    fn cells(&self, isa: &str) -> Vec<String> {
        let threads = if self.threads == 1 { "thread" } else { "threads" };
        vec![
            isa.to_owned(),
            format!("limit, {} {threads}", self.threads),
            String::new(),
            String::new(),
            giga(self.multiply_adds),
            String::new(),
            giga(self.code_products),
            String::new(),
            giga(self.read_bytes),
            String::new(),
        ]
    }
}

impl Figures {
    fn cells(&self, isa: &str, limits: &[Limits]) -> Vec<String> {
        let share = |rate: f64, limit: f64| format!("{:.0} %", 100.0 * rate / limit);
        let fast = self.fast_multiply_adds;
        vec![
            isa.to_owned(),
            self.format.to_owned(),
            giga(self.decode_bytes),
            format!("{:.1}", self.encode_weights / 1e6),
            giga(self.exact_multiply_adds),
            share(self.exact_multiply_adds, limits[0].multiply_adds),
            fast.map(giga).unwrap_or_default(),
            fast.map(|rate| share(rate, limits[0].code_products)).unwrap_or_default(),
            giga(self.gemv_bytes),
            share(self.gemv_bytes, limits[limits.len() - 1].read_bytes),
        ]
    }
}

fn giga(rate: f64) -> String {
    format!("{:.1}", rate / 1e9)
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let columns = Columns::new([
            Column::left("kernels"),
            Column::left("format"),
            Column::right("decode GB/s"),
            Column::right("encode M/s"),
            Column::right("exact GMAC/s"),
            Column::right("of limit"),
            Column::right("fast GMAC/s"),
            Column::right("of limit"),
            Column::right("read GB/s"),
            Column::right("of limit"),
        ]);
        let rows: Vec<_> = self.kernels.iter().flat_map(Row::cells).collect();
        f.write_str(&columns.table(&rows))?;
        let Report { rows, cols, tokens, .. } = self;
        writeln!(
            f,
            "\nFormats by one thread. decode: f32 written; encode: 10^6 weights; products: {rows} × \
             {cols} weights by {tokens} tokens (scalar: 12), 10^9 multiply-adds; read: one token, all threads"
        )
    }
}
