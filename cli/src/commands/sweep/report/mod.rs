//! A sweep as one page of HTML that needs nothing else: no scripts, no fonts, no images.

mod frontier;
mod heat;
mod labels;
mod scale;

use std::{
    env,
    fmt::{self, Write},
    fs, thread,
};

use llq_convert::TensorDifference;
use llq_quant::kernels;

use self::{
    frontier::Point,
    heat::{Maps, Percent, legend},
};
use super::table::{Row, Swept};
use crate::{
    commands::compare::worst_first,
    escape::Html,
    figures::{Bytes, Count, Parameters},
};

const STYLE: &str = include_str!("style.css");

/// Tensors that are listed per type.
const WORST: usize = 3;

/// What a sweep's page tells beside its rows.
pub(super) struct Subject {
    /// What the model calls itself.
    pub(super) name: String,
    pub(super) architecture: String,
    pub(super) parameters: u64,
}

/// The whole page.
pub(super) fn page(swept: &Swept<'_>, subject: &Subject) -> Result<String, fmt::Error> {
    let mut page = String::new();
    let name = Html(&subject.name);
    writeln!(
        page,
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <title>{name}: quality against size</title>\n<style>\n{STYLE}</style>\n</head>\n<body>\n\
         <h1>{name}: quality against size</h1>"
    )?;
    facts(&mut page, swept, subject)?;
    let quantized = swept.rows.get(1..).unwrap_or_default();
    plot(&mut page, quantized)?;
    table(&mut page, swept.rows)?;
    maps(&mut page, quantized)?;
    worst(&mut page, quantized)?;
    commands(&mut page, swept)?;
    writeln!(page, "<footer>llq {}</footer>\n</body>\n</html>", env!("CARGO_PKG_VERSION"))?;
    Ok(page)
}

fn facts(page: &mut String, swept: &Swept<'_>, subject: &Subject) -> fmt::Result {
    let number = |count: usize| Count(count as u64);
    let facts = [
        (
            "model",
            format!(
                "{}, {}, {} parameters",
                swept.model,
                subject.architecture,
                Parameters(subject.parameters)
            ),
        ),
        (
            "text",
            format!(
                "{}, {} windows of {} tokens, {} tokens scored",
                swept.corpus,
                number(swept.chunks),
                number(swept.context),
                number(swept.tokens)
            ),
        ),
        ("products", swept.mode.to_owned()),
        ("host", host()),
        ("version", concat!("llq ", env!("CARGO_PKG_VERSION")).to_owned()),
    ];
    writeln!(page, "<dl class=\"facts\">")?;
    for (name, value) in facts {
        writeln!(page, "<dt>{name}</dt><dd>{}</dd>", Html(&value))?;
    }
    writeln!(page, "</dl>")
}

/// The processor, where the system tells it, and what of it is used.
fn host() -> String {
    let info = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = info
        .lines()
        .find_map(|line| Some(line.strip_prefix("model name")?.split_once(':')?.1.trim()));
    let threads = thread::available_parallelism().map_or(1, usize::from);
    format!(
        "{}, {threads} threads, {} kernels, {} {}",
        model.unwrap_or("unknown processor"),
        kernels::selected().isa().name(),
        env::consts::OS,
        env::consts::ARCH,
    )
}

fn plot(page: &mut String, rows: &[Row]) -> fmt::Result {
    let points: Vec<Point<'_>> = rows.iter().filter_map(point).collect();
    let Some(svg) = frontier::draw(&points) else { return Ok(()) };
    writeln!(
        page,
        "<h2>Frontier</h2>\n<p>How far predictions are from the unquantized model's, by the size of a \
         weight. Filled points are the frontier: no other type is both smaller and nearer.</p>\n\
         <div class=\"card wide\">\n{svg}</div>"
    )
}

fn point(row: &Row) -> Option<Point<'_>> {
    let kld = row.comparison.as_ref()?.kld;
    let details = format!(
        "{}: {:.2} bits per weight, {}, KL divergence {:.6} ± {:.6}",
        row.name,
        row.bits_per_weight,
        Bytes(row.file_bytes),
        kld.mean,
        kld.stderr
    );
    Some(Point { name: &row.name, bits_per_weight: row.bits_per_weight, kld: kld.mean, details })
}

fn table(page: &mut String, rows: &[Row]) -> fmt::Result {
    writeln!(
        page,
        "<h2>Types</h2>\n<p>Against the unquantized model on the same tokens. Figures after ± are one \
         standard error. Δp is the change of the true token's probability.</p>\n\
         <div class=\"card wide\">\n<table>\n<thead><tr><th>type</th><th>bits/weight</th><th>size</th>\
         <th>perplexity</th><th>change</th><th>KL divergence</th><th>median</th><th>99 %</th>\
         <th>largest</th><th>same top</th><th>RMS Δp</th></tr></thead>\n<tbody>"
    )?;
    for row in rows {
        write!(page, "<tr>")?;
        for cell in row.report_cells() {
            match cell.split_once(" ± ") {
                Some((value, error)) => {
                    write!(page, "<td>{} <small>± {}</small></td>", Html(value), Html(error))?;
                }
                None => write!(page, "<td>{}</td>", Html(&cell))?,
            }
        }
        writeln!(page, "</tr>")?;
    }
    writeln!(page, "</tbody>\n</table>\n</div>")
}

fn maps(page: &mut String, rows: &[Row]) -> fmt::Result {
    let errors: Vec<&[TensorDifference]> = rows.iter().map(|row| &*row.tensors).collect();
    let Some(maps) = Maps::of(&errors) else { return Ok(()) };
    writeln!(
        page,
        "<h2>Errors by tensor and layer</h2>\n<p>Relative error of a tensor, ‖a − b‖ / ‖a‖, \
         beside that of all weights of its type. The pointer shows names and figures.</p>\n{}\
         <div class=\"maps\">",
        legend()?
    )?;
    for row in rows {
        let whole = row.tensors.iter().map(|tensor| tensor.distance);
        let whole = whole.reduce(|sum, distance| sum.and(&distance)).unwrap_or_default();
        writeln!(
            page,
            "<div class=\"card\"><h3>{} <small>{} of all weights</small></h3>\n{}</div>",
            Html(&row.name),
            Percent(whole.relative()),
            maps.draw(&row.tensors, whole.relative())?
        )?;
    }
    writeln!(page, "</div>")
}

fn worst(page: &mut String, rows: &[Row]) -> fmt::Result {
    writeln!(
        page,
        "<h2>Worst tensors</h2>\n<p>The {WORST} tensors of each type with the largest relative \
         errors.</p>\n<div class=\"card wide\">\n<table>\n<thead><tr><th>type</th>\
         <th class=\"word\">tensor</th><th class=\"word\">stored as</th><th>relative</th><th>RMSE</th>\
         <th>largest</th><th>cosine</th></tr></thead>\n<tbody>"
    )?;
    for row in rows {
        for (index, tensor) in worst_first(&row.tensors).into_iter().take(WORST).enumerate() {
            let distance = &tensor.distance;
            writeln!(
                page,
                "<tr><td>{}</td><td class=\"word\"><code>{}</code></td><td class=\"word\">{}</td>\
                 <td>{}</td><td>{:.3e}</td><td>{:.3e}</td><td>{:.6}</td></tr>",
                if index == 0 { Html(&row.name) } else { Html("") },
                Html(&tensor.name),
                tensor.types[1],
                Percent(distance.relative()),
                distance.rmse(),
                distance.max(),
                distance.cosine(),
            )?;
        }
    }
    writeln!(page, "</tbody>\n</table>\n</div>")
}

fn commands(page: &mut String, swept: &Swept<'_>) -> fmt::Result {
    let typed: Vec<String> =
        env::args_os().skip(1).map(|word| quoted(&word.to_string_lossy())).collect();
    let Some(row) = swept.rows.last() else { return Ok(()) };
    let (model, corpus) = (quoted(&swept.model), quoted(&swept.corpus));
    let mix = row.name.to_lowercase();
    let lines = [
        format!("llq {}", typed.join(" ")),
        String::new(),
        "# one type by hand".to_owned(),
        format!("llq convert {model} -o base.gguf"),
        format!("llq quantize base.gguf -o {mix}.gguf --type {mix}"),
        format!("llq perplexity {mix}.gguf --against base.gguf --corpus {corpus}"),
        format!("llq compare base.gguf {mix}.gguf"),
    ];
    writeln!(
        page,
        "<h2>Do it again</h2>\n<p>Files and figures are the same for any number of threads.</p>\n\
         <div class=\"card\"><pre><code>{}</code></pre></div>",
        Html(&lines.join("\n"))
    )
}

/// A word as a shell takes it.
fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "_-./,=:+@%".contains(c);
    match !word.is_empty() && word.chars().all(plain) {
        true => word.to_owned(),
        false => format!("'{}'", word.replace('\'', r"'\''")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_quoted_for_a_shell() {
        assert_eq!(quoted("model-q4_k.gguf"), "model-q4_k.gguf");
        assert_eq!(quoted("it's; rm"), r"'it'\''s; rm'");
        assert_eq!(quoted(""), "''");
    }
}
