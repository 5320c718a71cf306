//! Quality against size: KL divergence over bits per weight, and which types no other beats.

use std::fmt::{self, Write};

use super::{
    labels::{self, Area},
    scale::Scale,
};
use crate::escape::Html;

const WIDTH: f64 = 980.0;
const HEIGHT: f64 = 520.0;
const PLOT: Area = Area { left: 74.0, top: 16.0, right: 964.0, bottom: 466.0 };

/// One type.
pub(super) struct Point<'a> {
    pub(super) name: &'a str,
    pub(super) bits_per_weight: f64,
    pub(super) kld: f64,
    /// What is told where the pointer rests on it.
    pub(super) details: String,
}

/// The plot as SVG; `None` where no point can be drawn.
pub(super) fn draw(points: &[Point<'_>]) -> Option<String> {
    let drawn: Vec<&Point<'_>> =
        points.iter().filter(|point| point.kld.is_finite() && point.kld > 0.0).collect();
    let bits = drawn.iter().map(|point| point.bits_per_weight);
    let (x, y) = (Scale::linear(bits)?, Scale::logarithmic(drawn.iter().map(|p| p.kld))?);
    let mut svg = String::new();
    render(&mut svg, &drawn, &x, &y).ok()?;
    Some(svg)
}

fn render(svg: &mut String, points: &[&Point<'_>], x: &Scale, y: &Scale) -> fmt::Result {
    let at = |point: &Point<'_>| {
        (
            PLOT.left + x.place(point.bits_per_weight) * (PLOT.right - PLOT.left),
            PLOT.bottom - y.place(point.kld) * (PLOT.bottom - PLOT.top),
        )
    };
    writeln!(
        svg,
        r#"<svg class="plot" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="Mean KL divergence over bits per weight">"#
    )?;
    axes(svg, x, y)?;

    let front: Vec<(f64, f64)> = frontier(points).into_iter().map(at).collect();
    let path: Vec<String> = front.iter().map(|(x, y)| format!("{x:.1},{y:.1}")).collect();
    writeln!(svg, r#"<polyline class="front" points="{}"/>"#, path.join(" "))?;

    let named: Vec<_> = points.iter().map(|point| (at(point).0, at(point).1, point.name)).collect();
    let names = labels::place(&named, &front, &PLOT);
    for (&(x, y, _), name) in named.iter().zip(&names) {
        if let Some((to_x, to_y)) = labels::leader((x, y), name) {
            writeln!(
                svg,
                r#"<line class="leader" x1="{x:.1}" y1="{y:.1}" x2="{to_x:.1}" y2="{to_y:.1}"/>"#
            )?;
        }
    }
    for ((point, name), &(x, y, _)) in points.iter().zip(&names).zip(&named) {
        let (marker, label) = match front.contains(&(x, y)) {
            true => ("best", "name"),
            false => ("beaten", "name off"),
        };
        writeln!(
            svg,
            r#"<circle class="{marker}" cx="{x:.1}" cy="{y:.1}" r="6"><title>{}</title></circle>"#,
            Html(&point.details)
        )?;
        writeln!(
            svg,
            r#"<text class="{label}" x="{:.1}" y="{:.1}" text-anchor="middle">{}</text>"#,
            (name.left + name.right) / 2.0,
            name.bottom - 3.5,
            Html(point.name)
        )?;
    }
    writeln!(svg, "</svg>")
}

fn axes(svg: &mut String, x: &Scale, y: &Scale) -> fmt::Result {
    let Area { left, top, right, bottom } = PLOT;
    for (value, place) in x.ticks() {
        let at = left + place * (right - left);
        let y = bottom + 20.0;
        writeln!(
            svg,
            r#"<line class="grid" x1="{at:.1}" y1="{top}" x2="{at:.1}" y2="{bottom}"/><text class="tick" x="{at:.1}" y="{y}" text-anchor="middle">{value}</text>"#
        )?;
    }
    for (value, place) in y.ticks() {
        let at = bottom - place * (bottom - top);
        let (x, text_y) = (left - 10.0, at + 4.0);
        writeln!(
            svg,
            r#"<line class="grid" x1="{left}" y1="{at:.1}" x2="{right}" y2="{at:.1}"/><text class="tick" x="{x}" y="{text_y:.1}" text-anchor="end">{value}</text>"#
        )?;
    }
    let (center, middle, foot) = ((left + right) / 2.0, (top + bottom) / 2.0, HEIGHT - 10.0);
    writeln!(
        svg,
        r#"<text class="axis" x="{center}" y="{foot}" text-anchor="middle">bits per weight</text>
<text class="axis" x="16" y="{middle}" text-anchor="middle" transform="rotate(-90 16 {middle})">mean KL divergence, nats per token</text>"#
    )
}

/// The points that no other beats in both size and divergence, the smallest first.
fn frontier<'a, 'b>(points: &[&'a Point<'b>]) -> Vec<&'a Point<'b>> {
    let mut sorted = points.to_vec();
    sorted.sort_by(|a, b| {
        a.bits_per_weight.total_cmp(&b.bits_per_weight).then(a.kld.total_cmp(&b.kld))
    });
    let mut front: Vec<&Point<'_>> = Vec::new();
    for point in sorted {
        if front.last().is_none_or(|last| point.kld < last.kld) {
            front.push(point);
        }
    }
    front
}

#[cfg(test)]
mod tests {
    use super::*;

    fn point(name: &str, bits_per_weight: f64, kld: f64) -> Point<'_> {
        Point { name, bits_per_weight, kld, details: String::new() }
    }

    #[test]
    fn the_frontier_is_what_no_other_beats() {
        let points = [
            point("c", 5.0, 0.02),
            point("a", 3.0, 0.1),
            point("b", 4.0, 0.2),
            point("d", 5.0, 0.01),
        ];
        let points: Vec<_> = points.iter().collect();
        let names: Vec<_> = frontier(&points).iter().map(|point| point.name).collect();
        assert_eq!(names, ["a", "d"]);
    }

    #[test]
    fn what_has_no_logarithm_is_left_out() {
        let hostile = point("<b>", 4.0, 0.1);
        let svg = draw(&[point("none", 16.0, 0.0), point("nan", 2.0, f64::NAN), hostile]).unwrap();
        assert_eq!(svg.matches("<circle").count(), 1);
        assert!(svg.contains("&lt;b&gt;") && !svg.contains("NaN") && !svg.contains("inf"), "{svg}");
        assert_eq!(draw(&[point("none", 16.0, 0.0)]), None);
    }
}
