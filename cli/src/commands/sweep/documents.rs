//! What a sweep leaves beside what it prints: a report, and its table as CSV and as Markdown.

use std::{fmt::Write, path::PathBuf};

use llq_gguf::{Model, Overwrite};

use super::{
    Args,
    report::{self, Subject},
    table::{HEADINGS, Row, Swept},
};
use crate::{failure::Refusal, new_file::NewFile, target::Target};

/// The files that tell of a sweep.
pub(super) struct Documents {
    report: Option<Target>,
    csv: Option<Target>,
    markdown: Option<Target>,
}

impl Documents {
    pub(super) fn has_report(&self) -> bool {
        self.report.is_some()
    }

    pub(super) fn check(args: &Args) -> Result<Documents, Refusal> {
        let overwrite = if args.force { Overwrite::Replace } else { Overwrite::Forbid };
        let paths = [&args.report, &args.csv, &args.markdown];
        let given: Vec<&PathBuf> = paths.into_iter().flatten().collect();
        if let Some(twice) = (1..given.len()).find(|&last| given[..last].contains(&given[last])) {
            let path = given[twice].display();
            return Err(Refusal::new(format!("{path} cannot be two documents at once")));
        }
        let inputs = [&args.model, &args.eval.text.corpus];
        let target = |path: &Option<PathBuf>| {
            path.as_deref().map(|path| Target::beside(path, overwrite, &inputs)).transpose()
        };
        Ok(Documents {
            report: target(&args.report)?,
            csv: target(&args.csv)?,
            markdown: target(&args.markdown)?,
        })
    }

    pub(super) fn write(self, swept: &Swept<'_>, base: &Model) -> anyhow::Result<()> {
        if let Some(target) = self.report {
            let metadata = base.metadata();
            let text = |key| metadata.string(key).ok().filter(|text| !text.is_empty());
            let subject = Subject {
                name: text("general.name").unwrap_or("A model").to_owned(),
                architecture: text("general.architecture").unwrap_or("llama").to_owned(),
                parameters: base.tensors().iter().map(|t| t.weights()).fold(0, u64::saturating_add),
            };
            NewFile::write(target, &report::page(swept, &subject)?)?;
        }
        if let Some(target) = self.csv {
            NewFile::write(target, &csv(swept.rows))?;
        }
        if let Some(target) = self.markdown {
            NewFile::write(target, &markdown(swept.rows))?;
        }
        Ok(())
    }
}

/// A line per type, numbers in full (RFC 4180). What a row has not is empty.
fn csv(rows: &[Row]) -> String {
    let mut text = String::from(
        "type,bits_per_weight,file_bytes,perplexity,perplexity_stderr,ratio,ratio_stderr,kld_mean,\
         kld_stderr,kld_median,kld_p90,kld_p95,kld_p99,kld_p99_9,kld_max,same_top,same_top_stderr,\
         delta_p_mean,delta_p_rms,seconds\r\n",
    );
    for row in rows {
        let comparison = row.comparison.as_ref().map(|c| {
            let (kld, change) = (&c.kld, &c.delta_p);
            [
                c.ratio,
                c.ratio_stderr,
                kld.mean,
                kld.stderr,
                kld.median,
                kld.p90,
                kld.p95,
                kld.p99,
                kld.p99_9,
                kld.max,
                c.same_top,
                c.same_top_stderr,
                change.mean,
                change.rms,
            ]
            .map(|figure| figure.to_string())
        });
        let own = [row.bits_per_weight, row.file_bytes as f64, row.perplexity, row.stderr];
        let fields = [row.name.clone()]
            .into_iter()
            .chain(own.map(|figure| figure.to_string()))
            .chain(comparison.unwrap_or_default())
            .chain([row.seconds.to_string()]);
        // A String takes whatever is written.
        let _ = write!(text, "{}\r\n", fields.collect::<Vec<_>>().join(","));
    }
    text
}

/// The table that is printed.
fn markdown(rows: &[Row]) -> String {
    let line = |cells: Vec<String>| format!("| {} |\n", cells.join(" | "));
    let mut text = line(HEADINGS.map(str::to_owned).to_vec());
    text += "|---|--:|--:|--:|--:|--:|--:|--:|\n";
    rows.iter().fold(text, |text, row| text + &line(row.cells()))
}
