//! From rounded rows to better ones: coordinate descent on the true error.
//!
//! With the gradient `g = (q - t) H` at hand, a change `v` of the row changes the error by
//! `2 g·v + v H vᵀ`. Every step is taken only if that is negative.

use std::ops::Range;

use rayon::prelude::*;

use super::{
    curvature::Curvature,
    products::{BLOCK, add_products, blocks},
    row::{Row, Shape},
};
use crate::{
    kernels::{Kernels, LANES, Simd, Work},
    packing::HalfLe,
};

/// Most weights of a group.
const MOST: usize = 32;

/// A row and where it could go.
#[derive(Clone, Debug)]
pub(super) struct Moving {
    pub(super) row: Row,
    /// `(row - target) · H`.
    pub(super) gradient: Vec<f32>,
}

/// Times that all columns have their turn, at most, and rounds of a turn.
const SWEEPS: usize = 12;
const ROUNDS: usize = 4;

/// Where the gains of a sweep are below this share of all gains so far, descent ends.
const LEAST_GAIN: f64 = 2e-3;

/// Moves all rows down, each by itself.
pub(super) fn descend(
    kernels: &Kernels,
    shape: &Shape,
    curvature: &Curvature,
    rows: &mut [Moving],
) {
    let mut active: Vec<(f64, &mut Moving)> = rows.iter_mut().map(|row| (0.0, row)).collect();
    for _ in 0..SWEEPS {
        let mut gains = vec![0.0; active.len()];
        for columns in blocks(curvature.size()) {
            let changes = active.par_iter_mut().zip(&mut gains).map(|((_, moving), gain)| {
                let before = moving.row.weights[columns.clone()].to_vec();
                let (row, gradient) = (&mut moving.row, &mut moving.gradient[columns.clone()]);
                let columns = columns.clone();
                let mut own = 0.0;
                kernels.run(Descent { shape, curvature, columns, row, gradient, gain: &mut own });
                *gain += own;
                (own > 0.0).then_some(before)
            });
            let before: Vec<Option<Vec<f32>>> = changes.collect();
            let moved = active.iter_mut().zip(before);
            tell(
                kernels,
                curvature,
                &columns,
                moved.filter_map(|((_, m), b)| Some((&mut **m, b?))),
            );
        }
        let mut gains = gains.into_iter();
        active.retain_mut(|(total, _)| {
            let gain = gains.next().unwrap_or_default();
            *total += gain;
            gain > LEAST_GAIN * *total
        });
    }
}

/// Tells the gradients of all other columns what changed in these.
fn tell<'a>(
    kernels: &Kernels,
    curvature: &Curvature,
    columns: &Range<usize>,
    moved: impl Iterator<Item = (&'a mut Moving, Vec<f32>)>,
) {
    let (mut before, mut after) = (Vec::new(), Vec::new());
    let mut changes = Vec::new();
    for (moving, weights) in moved {
        let pairs = moving.row.weights[columns.clone()].iter().zip(&weights);
        changes.push(pairs.map(|(after, before)| after - before).collect::<Vec<f32>>());
        let (left, rest) = moving.gradient.split_at_mut(columns.start);
        before.push(left);
        after.push(&mut rest[columns.len()..]);
    }
    let changes: Vec<&[f32]> = changes.iter().map(Vec::as_slice).collect();
    let part = |others| curvature.part(columns.clone(), others);
    add_products(kernels, &changes, &part(0..columns.start), &mut before);
    add_products(kernels, &changes, &part(columns.end..curvature.size()), &mut after);
}

/// Some columns of a row on their way down.
struct Descent<'a> {
    shape: &'a Shape,
    curvature: &'a Curvature,
    columns: Range<usize>,
    row: &'a mut Row,
    /// Of these columns.
    gradient: &'a mut [f32],
    gain: &'a mut f64,
}

impl Work for Descent<'_> {
    #[inline(always)]
    fn run<S: Simd>(mut self, simd: S) {
        let Range { start, end } = self.columns;
        for _ in 0..ROUNDS {
            let mut gain = self.move_codes();
            for g in start / self.shape.group..end / self.shape.group {
                gain += self.move_grid(simd, g);
            }
            for b in start / self.shape.block..end / self.shape.block {
                gain += self.fit_commons(b);
            }
            *self.gain += gain;
            if gain <= LEAST_GAIN * *self.gain {
                break;
            }
        }
    }
}

impl Descent<'_> {
    /// What an error of column `j` has to do with those of all of these.
    #[inline(always)]
    fn curvature(&self, j: usize) -> &'_ [f32] {
        &self.curvature.row(j)[self.columns.clone()]
    }

    /// Gives each weight in turn the best code beside the others.
    #[inline(always)]
    fn move_codes(&mut self) -> f64 {
        let mut gain = 0.0;
        let first = self.columns.start;
        for g in first / self.shape.group..self.columns.end / self.shape.group {
            let (scale, min) = self.row.grid(self.shape, g);
            if scale == 0.0 {
                continue;
            }
            for j in g * self.shape.group..(g + 1) * self.shape.group {
                let own = self.curvature.row(j)[j];
                let gradient = self.gradient[j - first];
                let step = (-gradient / (own * scale)).round_ties_even();
                let code = self.row.codes[j] + step;
                let code = code.clamp(self.shape.lowest, self.shape.highest);
                if code == self.row.codes[j] {
                    continue;
                }
                let change = scale * code - min - self.row.weights[j];
                let cost = change * (2.0 * gradient + change * own);
                if cost < 0.0 {
                    gain -= f64::from(cost);
                    self.row.codes[j] = code;
                    self.change(j, change);
                }
            }
        }
        gain
    }

    /// Tries the integers about those of group `g`, or halves where it has no integers, each with
    /// codes rounded anew, and takes the best.
    #[inline(always)]
    fn move_grid<S: Simd>(&mut self, simd: S, g: usize) -> f64 {
        let b = g * self.shape.group / self.shape.block;
        let (scale, min) = (self.row.scale[b], self.row.min[b]);
        let (scale_code, min_code) = (self.row.scale_codes[g], self.row.min_codes[g]);
        let mut grids = Grids::default();
        if self.shape.is_plain {
            for step in [-0.04, -0.02, -0.01, 0.01, 0.02, 0.04f32] {
                let half = HalfLe::finite(scale * (1.0 + step)).to_f32();
                grids.push((half, 1.0, min, min_code));
            }
            if self.shape.has_min {
                for step in [-0.3, -0.1, 0.1, 0.3] {
                    let half = HalfLe::finite(min + step * scale).to_f32();
                    grids.push((scale, 1.0, half, min_code));
                }
            }
        } else {
            let [least, most] = self.shape.scale_codes;
            let mins: &[f32] = if self.shape.has_min { &[-1.0, 0.0, 1.0] } else { &[0.0] };
            for min_step in mins {
                for scale_step in [-1.0, 0.0, 1.0] {
                    let (s, m) = (scale_code + scale_step, min_code + min_step);
                    if s < least || s > most || self.shape.has_min && (m < least || m > most) {
                        continue;
                    }
                    grids.push((scale, s, min, m));
                }
            }
        }
        let mut codes = [[0.0; LANES]; MOST];
        let costs = self.regrid(simd, g, &grids, &mut codes);
        let (mut lane, mut best) = (LANES, 0.0);
        for (index, &cost) in costs.iter().enumerate().take(grids.count) {
            if cost < best {
                (lane, best) = (index, cost);
            }
        }
        if lane == LANES {
            return 0.0;
        }
        let (scale, scale_code, min, min_code) = grids.all[lane];
        (self.row.scale[b], self.row.min[b]) = (scale, min);
        (self.row.scale_codes[g], self.row.min_codes[g]) = (scale_code, min_code);
        let (scale, min) = self.row.grid(self.shape, g);
        for (a, codes) in codes.iter().enumerate().take(self.shape.group) {
            let j = g * self.shape.group + a;
            self.row.codes[j] = codes[lane];
            let change = scale * codes[lane] - min - self.row.weights[j];
            if change != 0.0 {
                self.change(j, change);
            }
        }
        f64::from(-best)
    }

    /// What the codes of group `g` become on other grids, a lane each: one after another beside the
    /// others; and what that adds to the error.
    #[inline(always)]
    fn regrid<S: Simd>(
        &self,
        simd: S,
        g: usize,
        grids: &Grids,
        codes: &mut [[f32; LANES]; MOST],
    ) -> [f32; LANES] {
        /// Added and taken off again, it rounds to the nearest whole number.
        const ROUND: f32 = (3 << 22) as f32;
        let first = g * self.shape.group;
        let group = self.shape.group;
        let (mut scale, mut min, mut inverse) = ([0.0; LANES], [0.0; LANES], [0.0; LANES]);
        for lane in 0..LANES {
            let grid = grids.all[lane];
            (scale[lane], min[lane]) = (grid.0 * grid.1, grid.2 * grid.3);
            inverse[lane] = if scale[lane] == 0.0 { 0.0 } else { 1.0 / scale[lane] };
        }
        let (scale, min, inverse) = (simd.load(&scale), simd.load(&min), simd.load(&inverse));
        let (lowest, highest) = (simd.splat(self.shape.lowest), simd.splat(self.shape.highest));
        let (round, two) = (simd.splat(ROUND), simd.splat(2.0));
        let mut gradient = [simd.splat(0.0); MOST];
        let from = first - self.columns.start;
        for (lanes, &own) in gradient.iter_mut().zip(&self.gradient[from..from + group]) {
            *lanes = simd.splat(own);
        }
        let mut cost = simd.splat(0.0);
        for a in 0..group {
            let curvature = &self.curvature.row(first + a)[first..first + group];
            let weight = simd.splat(self.row.weights[first + a]);
            let own = simd.splat(curvature[a]);
            let wanted = simd.sub(weight, simd.div(gradient[a], own));
            let code = simd.mul(simd.add(wanted, min), inverse);
            let code = simd.min(simd.max(code, lowest), highest);
            let code = simd.sub(simd.add(code, round), round);
            simd.store(code, &mut codes[a]);
            let change = simd.sub(simd.sub(simd.mul(scale, code), min), weight);
            let slope = simd.add(simd.mul(two, gradient[a]), simd.mul(change, own));
            cost = simd.add(cost, simd.mul(change, slope));
            for b in a + 1..group {
                let more = simd.mul(change, simd.splat(curvature[b]));
                gradient[b] = simd.add(gradient[b], more);
            }
        }
        let mut costs = [0.0; LANES];
        simd.store(cost, &mut costs);
        costs
    }

    /// Fits the common numbers of block `b` to its integers by least squares.
    #[inline(always)]
    fn fit_commons(&mut self, b: usize) -> f64 {
        let Shape { block, group, has_min, .. } = *self.shape;
        let columns = b * block..(b + 1) * block;
        let (from, len) = (self.columns.start, self.columns.len());
        let (mut hu, mut hv) = ([0.0f32; BLOCK], [0.0f32; BLOCK]);
        let (hu, hv) = (&mut hu[..len], &mut hv[..len]);
        let (mut gu, mut gv) = (0.0, 0.0);
        for j in columns.clone() {
            let u = self.row.scale_codes[j / group] * self.row.codes[j];
            let v = -self.row.min_codes[j / group];
            gu += self.gradient[j - from] * u;
            gv += self.gradient[j - from] * v;
            let curvature = self.curvature(j);
            for (sum, h) in hu.iter_mut().zip(curvature) {
                *sum += u * h;
            }
            if has_min {
                for (sum, h) in hv.iter_mut().zip(curvature) {
                    *sum += v * h;
                }
            }
        }
        let (mut uu, mut uv, mut vv) = (0.0, 0.0, 0.0);
        for j in columns.clone() {
            let u = self.row.scale_codes[j / group] * self.row.codes[j];
            let v = -self.row.min_codes[j / group];
            uu += u * hu[j - from];
            uv += u * hv[j - from];
            vv += v * hv[j - from];
        }
        // All codes are zero, or so large that their products are no numbers.
        let is_fit = uu > 0.0;
        if !is_fit {
            return 0.0;
        }
        let (scale, min) = (self.row.scale[b], self.row.min[b]);
        let determinant = uu * vv - uv * uv;
        let grow = if has_min && determinant > 1e-5 * uu * vv {
            (uv * gv - vv * gu) / determinant
        } else {
            -gu / uu
        };
        let new_scale = HalfLe::finite(scale + grow).to_f32();
        let grow = new_scale - scale;
        let new_min = match has_min && vv > 0.0 {
            true => HalfLe::finite(min - (gv + grow * uv) / vv).to_f32(),
            false => min,
        };
        let min_grow = new_min - min;
        let cost = 2.0 * (grow * gu + min_grow * gv)
            + grow * grow * uu
            + 2.0 * grow * min_grow * uv
            + min_grow * min_grow * vv;
        let is_better = cost < 0.0;
        if !is_better || !self.shape.allows(new_scale) || !self.shape.allows(new_min) {
            return 0.0;
        }
        (self.row.scale[b], self.row.min[b]) = (new_scale, new_min);
        for g in columns.start / group..columns.end / group {
            self.row.refresh(self.shape, g);
        }
        for ((gradient, hu), hv) in self.gradient.iter_mut().zip(hu).zip(hv) {
            *gradient += grow * *hu + min_grow * *hv;
        }
        f64::from(-cost)
    }

    /// Changes weight `j`.
    #[inline(always)]
    fn change(&mut self, j: usize, change: f32) {
        self.row.weights[j] += change;
        let curvature = &self.curvature.row(j)[self.columns.clone()];
        for (gradient, h) in self.gradient.iter_mut().zip(curvature) {
            *gradient += change * h;
        }
    }
}

/// Grids that are tried side by side: scale, its integer, minimum, its integer.
#[derive(Default)]
struct Grids {
    all: [(f32, f32, f32, f32); LANES],
    count: usize,
}

impl Grids {
    #[inline(always)]
    fn push(&mut self, grid: (f32, f32, f32, f32)) {
        self.all[self.count] = grid;
        self.count += 1;
    }
}
