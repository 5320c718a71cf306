//! Where the names of points go, so that none lies on another.

/// A rectangle of a drawing: left, top, right, bottom.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Area {
    pub(super) left: f64,
    pub(super) top: f64,
    pub(super) right: f64,
    pub(super) bottom: f64,
}

impl Area {
    pub(super) fn around((x, y): (f64, f64), reach: f64) -> Area {
        Area { left: x - reach, top: y - reach, right: x + reach, bottom: y + reach }
    }

    fn overlap(&self, other: &Area) -> f64 {
        let width = self.right.min(other.right) - self.left.max(other.left);
        let height = self.bottom.min(other.bottom) - self.top.max(other.top);
        width.max(0.0) * height.max(0.0)
    }

    fn holds(&self, other: &Area) -> bool {
        self.left <= other.left
            && self.top <= other.top
            && self.right >= other.right
            && self.bottom >= other.bottom
    }

    fn center(&self) -> (f64, f64) {
        ((self.left + self.right) / 2.0, (self.top + self.bottom) / 2.0)
    }
}

/// Widths and height of letters of 12 px, with some room around.
const LETTER: f64 = 7.6;
const HEIGHT: f64 = 15.0;

/// From the point's centre to the nearest side of its name, the nearest tried first.
const DISTANCES: [f64; 6] = [9.0, 18.0, 30.0, 44.0, 60.0, 80.0];

/// Places a name near each point and inside `plot`, clear of points, of other names, and of the line
/// through `front`.
pub(super) fn place(points: &[(f64, f64, &str)], front: &[(f64, f64)], plot: &Area) -> Vec<Area> {
    let markers: Vec<Area> = points.iter().map(|&(x, y, _)| Area::around((x, y), 7.0)).collect();
    let line = along(front);
    let mut placed: Vec<Area> = Vec::new();
    for &(x, y, name) in points {
        let width = LETTER * name.chars().count() as f64;
        let cost = |area: &Area, distance: f64, turn: usize| {
            let others = markers.iter().chain(&placed).map(|other| area.overlap(other));
            let crossed = line.iter().map(|dot| area.overlap(dot)).sum::<f64>();
            let outside = if plot.holds(area) { 0.0 } else { 1e6 };
            20.0 * others.sum::<f64>() + 4.0 * crossed + outside + 2.0 * distance + turn as f64
        };
        let candidates = DISTANCES.iter().flat_map(|&distance| {
            around((x, y), width, distance)
                .into_iter()
                .enumerate()
                .map(move |(turn, area)| (area, distance, turn))
        });
        let best = candidates
            .map(|(area, distance, turn)| (cost(&area, distance, turn), area))
            .min_by(|(a, _), (b, _)| a.total_cmp(b));
        placed.extend(best.map(|(_, area)| area));
    }
    placed
}

/// Eight places at a distance from a point; above and to the right, where a frontier leaves room,
/// first.
fn around((x, y): (f64, f64), width: f64, distance: f64) -> [Area; 8] {
    let diagonal = distance * 0.7;
    let at = |left: f64, top: f64| Area { left, top, right: left + width, bottom: top + HEIGHT };
    let (left, center, right) = (x - width, x - width / 2.0, x);
    let (above, middle, below) = (y - HEIGHT, y - HEIGHT / 2.0, y);
    [
        at(right + diagonal, above - diagonal),
        at(right + distance, middle),
        at(center, above - distance),
        at(left - diagonal, below + diagonal),
        at(left - distance, middle),
        at(center, below + distance),
        at(right + diagonal, below + diagonal),
        at(left - diagonal, above - diagonal),
    ]
}

/// A line as small areas along it.
fn along(line: &[(f64, f64)]) -> Vec<Area> {
    const STEP: f64 = 4.0;
    let mut dots = Vec::new();
    for pair in line.windows(2) {
        let [(x, y), (to_x, to_y)] = [pair[0], pair[1]];
        let steps = ((to_x - x).hypot(to_y - y) / STEP).ceil().max(1.0);
        for step in 0..steps as usize {
            let part = step as f64 / steps;
            dots.push(Area::around((x + part * (to_x - x), y + part * (to_y - y)), 2.0));
        }
    }
    dots
}

/// The end of a line from a point to its name; `None` where they are next to each other.
pub(super) fn leader((x, y): (f64, f64), name: &Area) -> Option<(f64, f64)> {
    let end = (x.clamp(name.left, name.right), y.clamp(name.top + 2.0, name.bottom - 2.0));
    let (_, middle) = name.center();
    let end = (end.0, if end.0 == x { end.1 } else { middle });
    ((end.0 - x).hypot(end.1 - y) > 16.0).then_some(end)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_a_crowd_are_apart() {
        let plot = Area { left: 0.0, top: 0.0, right: 800.0, bottom: 400.0 };
        let names = ["Q4_K_M", "Q4_K_S", "Q4_1", "Q5_K_S", "Q5_0", "Q5_1"];
        let points: Vec<_> = (names.iter().enumerate())
            .map(|(i, &name)| (300.0 + 9.0 * i as f64, 200.0 + 5.0 * (i % 3) as f64, name))
            .collect();
        let placed = place(&points, &[(0.0, 0.0), (300.0, 200.0)], &plot);
        for (index, area) in placed.iter().enumerate() {
            assert!(plot.holds(area), "{area:?}");
            for other in &placed[..index] {
                assert_eq!(area.overlap(other), 0.0, "{area:?} {other:?}");
            }
            for &(x, y, _) in &points {
                assert_eq!(area.overlap(&Area::around((x, y), 5.0)), 0.0, "{area:?}");
            }
        }
    }
}
