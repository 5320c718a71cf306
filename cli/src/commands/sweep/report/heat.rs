//! Errors of weights as maps: kinds of tensors down, layers across, a colour that grows with the error.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt::{self, Write},
};

use llq_convert::TensorDifference;

use crate::escape::Html;

const WIDTH: f64 = 330.0;
/// Where the cells start: names of kinds stand before.
const LEFT: f64 = 82.0;
const ROW: f64 = 16.0;

/// The maps of several types, with the same rows and columns.
pub(super) struct Maps<'a> {
    /// Kinds in the order of the model's blocks, then tensors of no block.
    kinds: Vec<&'a str>,
    layers: BTreeSet<u32>,
}

impl<'a> Maps<'a> {
    /// `None` where no tensor has an error.
    pub(super) fn of(types: &[&'a [TensorDifference]]) -> Option<Maps<'a>> {
        let all = || types.iter().flat_map(|tensors| tensors.iter()).filter(has_error);
        let mut kinds = Vec::new();
        let mut layers = BTreeSet::new();
        // Of the whole model first come the tensors of no block.
        for in_block in [true, false] {
            for (kind, layer) in all().map(|tensor| place(&tensor.name)) {
                if layer.is_some() == in_block && !kinds.contains(&kind) {
                    kinds.push(kind);
                }
                layers.extend(layer);
            }
        }
        (!kinds.is_empty()).then_some(Maps { kinds, layers })
    }

    /// The map of one type, whose weights all together have the relative error `whole`.
    pub(super) fn draw(
        &self,
        tensors: &[TensorDifference],
        whole: f64,
    ) -> Result<String, fmt::Error> {
        let columns: BTreeMap<u32, usize> =
            self.layers.iter().enumerate().map(|(column, &layer)| (layer, column)).collect();
        let cell_width = (WIDTH - LEFT) / columns.len().max(1) as f64;
        let height = ROW * self.kinds.len() as f64 + 18.0;
        let mut svg = String::new();
        writeln!(
            svg,
            r#"<svg viewBox="0 0 {WIDTH} {height}" role="img" aria-label="Relative error by tensor and layer">"#
        )?;
        for (row, kind) in self.kinds.iter().enumerate() {
            let (x, y) = (LEFT - 6.0, ROW * row as f64 + 12.0);
            writeln!(
                svg,
                r#"<text class="tick" x="{x}" y="{y}" text-anchor="end">{}</text>"#,
                Html(kind)
            )?;
        }
        for tensor in tensors.iter().filter(has_error) {
            let (kind, layer) = place(&tensor.name);
            let Some(row) = self.kinds.iter().position(|&known| known == kind) else { continue };
            let (x, width) = match layer.and_then(|layer| columns.get(&layer)) {
                Some(&column) => (LEFT + cell_width * column as f64, cell_width),
                None => (LEFT, WIDTH - LEFT),
            };
            cell(&mut svg, tensor, whole, (x, ROW * row as f64, width))?;
        }
        let y = height - 5.0;
        for (layer, anchor, x) in
            [(self.layers.first(), "start", LEFT), (self.layers.last(), "end", WIDTH)]
        {
            let Some(layer) = layer else { continue };
            let label = if anchor == "start" { "layer " } else { "" };
            writeln!(
                svg,
                r#"<text class="tick" x="{x}" y="{y}" text-anchor="{anchor}">{label}{layer}</text>"#
            )?;
        }
        writeln!(svg, "</svg>")?;
        Ok(svg)
    }
}

fn cell(
    svg: &mut String,
    tensor: &TensorDifference,
    whole: f64,
    (x, y, width): (f64, f64, f64),
) -> fmt::Result {
    let error = tensor.distance.relative();
    let (height, gap) = (ROW - 1.0, if width > 6.0 { 1.0 } else { 0.0 });
    writeln!(
        svg,
        r#"<rect x="{x:.2}" y="{y}" width="{:.2}" height="{height}" rx="1.5" fill="var(--accent)" fill-opacity="{:.2}"><title>{}, {}: {}</title></rect>"#,
        width - gap,
        opacity(error / whole),
        Html(&tensor.name),
        tensor.types[1],
        Percent(error),
    )
}

/// How colours and errors belong together.
pub(super) fn legend() -> Result<String, fmt::Error> {
    const STEPS: usize = 40;
    const STEP: f64 = 12.0;
    let mut svg = String::from(
        r#"<svg class="scale" viewBox="0 0 520 36" role="img" aria-label="Scale of errors">"#,
    );
    for step in 0..STEPS {
        let (x, width) = (20.0 + STEP * step as f64, STEP + 0.3);
        let ratio = MOST.powf(2.0 * (step as f64 + 0.5) / STEPS as f64 - 1.0);
        write!(
            svg,
            r#"<rect x="{x}" y="0" width="{width}" height="14" fill="var(--accent)" fill-opacity="{:.2}"/>"#,
            opacity(ratio)
        )?;
    }
    for (x, text) in [(20, "half or less"), (260, "as all weights"), (500, "twice or more")] {
        let anchor = match x {
            20 => "start",
            500 => "end",
            _ => "middle",
        };
        write!(svg, r#"<text class="tick" x="{x}" y="30" text-anchor="{anchor}">{text}</text>"#)?;
    }
    writeln!(svg, "</svg>")?;
    Ok(svg)
}

fn has_error(tensor: &&TensorDifference) -> bool {
    tensor.distance.relative() != 0.0
}

/// The kind of a tensor, and the layer of its block.
fn place(name: &str) -> (&str, Option<u32>) {
    let plain = name.strip_suffix(".weight").unwrap_or(name);
    let in_block = plain.strip_prefix("blk.").and_then(|rest| {
        let (layer, kind) = rest.split_once('.')?;
        Some((kind, layer.parse().ok()?))
    });
    in_block.map_or((plain, None), |(kind, layer)| (kind, Some(layer)))
}

/// The ratio to the error of all weights that has the full colour; its inverse has the least.
const MOST: f64 = 2.0;

/// What is no number is as bad as can be, and the least error is still to be seen.
fn opacity(ratio: f64) -> f64 {
    let place = if ratio.is_finite() { 0.5 + 0.5 * ratio.ln() / MOST.ln() } else { 1.0 };
    0.15 + 0.85 * place.clamp(0.0, 1.0)
}

/// A fraction in percent, with as many digits as tell something.
pub(super) struct Percent(pub(super) f64);

impl fmt::Display for Percent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let percent = 100.0 * self.0;
        let decimals = if percent < 0.1 {
            3
        } else if percent < 10.0 {
            2
        } else {
            1
        };
        let digits = format!("{percent:.decimals$}");
        let short = digits.trim_end_matches('0').trim_end_matches('.');
        write!(f, "{} %", if digits.contains('.') { short } else { &digits })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_tell_kind_and_layer() {
        assert_eq!(place("blk.17.ffn_up.weight"), ("ffn_up", Some(17)));
        assert_eq!(place("token_embd.weight"), ("token_embd", None));
        assert_eq!(place("blk.99999999999.x"), ("blk.99999999999.x", None));
        assert_eq!(place("blk."), ("blk.", None));
    }

    #[test]
    fn colours_go_from_half_to_twice() {
        for (ratio, expected) in
            [(0.1, 0.15), (0.5, 0.15), (1.0, 0.575), (2.0, 1.0), (9.0, 1.0), (f64::NAN, 1.0)]
        {
            assert!((opacity(ratio) - expected).abs() < 1e-9, "{ratio}");
        }
    }

    #[test]
    fn percentages_are_short() {
        let shown = |fraction| Percent(fraction).to_string();
        assert_eq!(shown(0.05), "5 %");
        assert_eq!(shown(0.07123), "7.12 %");
        assert_eq!(shown(0.2), "20 %");
        assert_eq!(shown(0.0005), "0.05 %");
        assert_eq!(shown(f64::NAN), "NaN %");
    }
}
