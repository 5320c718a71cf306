//! `llq formats`: the types llq makes and the formats they are made of, from their tables.

use std::fmt;

use llq_quant::{
    FORMATS, FormatInfo, formats_markdown,
    mix::{ALIASES, Mix},
};
use serde::Serialize;

use crate::{
    args::HELP,
    output::Output,
    table::{Column, Columns},
};

const EXAMPLES: &str = "\
Examples:
  llq formats
  llq formats --json";

/// List the types and the formats llq knows.
#[derive(clap::Args)]
#[command(help_template = HELP, before_help = EXAMPLES)]
pub(crate) struct Args {
    /// Print the page docs/formats.md
    #[arg(long, conflicts_with = "json")]
    markdown: bool,
}

pub(crate) fn run(args: &Args, output: &Output) -> anyhow::Result<()> {
    if args.markdown {
        return output.data(&formats_markdown());
    }
    let tables = Tables {
        types: Mix::ALL.iter().map(|&mix| Type::of(mix)).collect(),
        formats: FORMATS.iter().map(|format| Format::of(format)).collect(),
    };
    output.result(&tables)
}

#[derive(Serialize)]
struct Tables {
    /// What `--type` takes.
    types: Vec<Type>,
    /// What tensors can have.
    formats: Vec<Format>,
}

#[derive(Serialize)]
struct Type {
    name: &'static str,
    aliases: Vec<&'static str>,
    base: &'static str,
    file_type: u32,
}

impl Type {
    fn of(mix: Mix) -> Type {
        let aliases = ALIASES.iter().filter(|(_, named)| *named == mix);
        Type {
            name: mix.name(),
            aliases: aliases.map(|&(alias, _)| alias).collect(),
            base: mix.base().name(),
            file_type: mix.file_type(),
        }
    }

    fn cells(&self) -> Vec<String> {
        vec![
            self.name.to_lowercase(),
            self.aliases.join(", ").to_lowercase(),
            self.base.to_owned(),
            self.file_type.to_string(),
        ]
    }
}

#[derive(Serialize)]
struct Format {
    name: &'static str,
    id: u32,
    bits_per_weight: f64,
    block_weights: usize,
    block_bytes: usize,
    /// Weights that share a scale; `None` for plain numbers.
    group: Option<usize>,
    has_min: bool,
    summary: &'static str,
}

impl Format {
    fn of(format: &FormatInfo) -> Format {
        let tensor_type = format.tensor_type;
        Format {
            name: tensor_type.name(),
            id: tensor_type.id(),
            bits_per_weight: tensor_type.bits_per_weight(),
            block_weights: tensor_type.block_weights(),
            block_bytes: tensor_type.block_bytes(),
            group: format.blocks.as_ref().map(|blocks| blocks.group),
            has_min: format.blocks.as_ref().is_some_and(|blocks| blocks.has_min),
            summary: format.summary,
        }
    }

    fn cells(&self) -> Vec<String> {
        vec![
            self.name.to_owned(),
            self.id.to_string(),
            self.bits_per_weight.to_string(),
            format!("{} in {} bytes", self.block_weights, self.block_bytes),
            self.group.map_or_else(String::new, |group| group.to_string()),
            self.summary.to_owned(),
        ]
    }
}

const TYPE_TITLES: [&str; 4] = ["type", "also", "base format", "file type"];
const FORMAT_TITLES: [&str; 6] = ["format", "id", "bits/weight", "block", "group", "summary"];

impl Tables {
    fn type_rows(&self) -> Vec<Vec<String>> {
        self.types.iter().map(Type::cells).collect()
    }

    fn format_rows(&self) -> Vec<Vec<String>> {
        self.formats.iter().map(Format::cells).collect()
    }
}

impl fmt::Display for Tables {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let types = Columns::new(TYPE_TITLES.map(Column::left)).table(&self.type_rows());
        let formats = Columns::new(FORMAT_TITLES.map(Column::left)).table(&self.format_rows());
        write!(f, "{types}\n{formats}")
    }
}
