//! `llq cpu`: what llq found in this machine, and what it will use.

use std::{env, fmt};

use llq_quant::kernels::{self, ISA_VARIABLE, Isa, Kernels};
use serde::Serialize;

use crate::{
    args::HELP,
    escape::Escaped,
    output::Output,
    table::{Column, Columns, pairs},
};

const EXAMPLES: &str = "\
Examples:
  llq cpu
  LLQ_ISA=scalar llq cpu";

/// Show the instruction sets found and the code that was chosen.
///
/// LLQ_ISA forces a slower row, by its name in the table. Results have the same bits with every row.
#[derive(clap::Args)]
#[command(help_template = HELP, before_help = EXAMPLES)]
pub(crate) struct Args {}

pub(crate) fn run(_args: &Args, output: &Output) -> anyhow::Result<()> {
    let selected = kernels::select()?.isa();
    let rows = Isa::native().map(|isa| Row {
        isa: isa.name(),
        needs: isa.features(),
        available: Kernels::for_isa(isa).is_some(),
        selected: isa == selected,
    });
    output.result(&Machine {
        architecture: env::consts::ARCH,
        threads: rayon::current_num_threads(),
        features: kernels::features().into_iter().map(Feature::from).collect(),
        forced_by: env::var(ISA_VARIABLE).ok().filter(|value| !value.is_empty()),
        selected: selected.name(),
        rows: rows.collect(),
        operations: Kernels::OPERATIONS,
    })
}

#[derive(Serialize)]
struct Machine {
    architecture: &'static str,
    threads: usize,
    features: Vec<Feature>,
    /// The value of `LLQ_ISA`.
    forced_by: Option<String>,
    selected: &'static str,
    /// The kernel table, from the slowest row to the fastest.
    rows: Vec<Row>,
    operations: &'static [&'static str],
}

#[derive(Serialize)]
struct Feature {
    name: &'static str,
    present: bool,
}

impl From<(&'static str, bool)> for Feature {
    fn from((name, present): (&'static str, bool)) -> Feature {
        Feature { name, present }
    }
}

#[derive(Serialize)]
struct Row {
    isa: &'static str,
    needs: &'static [&'static str],
    available: bool,
    selected: bool,
}

impl Row {
    fn state(&self) -> &'static str {
        match (self.selected, self.available) {
            (true, _) => "selected",
            (false, true) => "available",
            (false, false) => "missing",
        }
    }
}

impl fmt::Display for Machine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let forced = self.forced_by.as_deref().unwrap_or("not set");
        f.write_str(&pairs(&[
            ("architecture", self.architecture.to_owned()),
            ("threads", self.threads.to_string()),
            ("features", self.features()),
            (ISA_VARIABLE, Escaped(forced).to_string()),
            ("kernels", self.selected.to_owned()),
        ]))?;
        let rows: Vec<_> = self
            .rows
            .iter()
            .map(|row| vec![row.isa.to_owned(), row.state().to_owned(), row.needs.join(" ")])
            .collect();
        let columns = [Column::left("kernels"), Column::left("state"), Column::left("needs")];
        write!(f, "\n{}", Columns::new(columns).table(&rows))?;
        writeln!(f, "\nEach row has: {}", self.operations.join(", "))
    }
}

impl Machine {
    fn features(&self) -> String {
        let present = self.features.iter().filter(|feature| feature.present);
        let names: Vec<_> = present.map(|feature| feature.name).collect();
        if names.is_empty() { "none that llq uses".to_owned() } else { names.join(" ") }
    }
}
