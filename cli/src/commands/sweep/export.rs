//! A sweep's table for other programs: CSV, and Markdown.

use std::fmt::Write;

use super::table::{HEADINGS, Row};

/// A line per type, numbers in full (RFC 4180). What a row has not is empty.
pub(super) fn csv(rows: &[Row]) -> String {
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
pub(super) fn markdown(rows: &[Row]) -> String {
    let line = |cells: Vec<String>| format!("| {} |\n", cells.join(" | "));
    let mut text = line(HEADINGS.map(str::to_owned).to_vec());
    text += "|---|--:|--:|--:|--:|--:|--:|--:|\n";
    rows.iter().fold(text, |text, row| text + &line(row.cells()))
}
