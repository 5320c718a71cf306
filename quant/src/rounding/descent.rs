//! From a rounded row to a better one: coordinate descent on the true error.
//!
//! With the gradient `g = (q - t) H` at hand, a change `v` of the row changes the error by
//! `2 g·v + v H vᵀ`. Every step is taken only if that is negative.

use super::{
    curvature::Curvature,
    row::{Row, Shape},
};
use crate::{
    kernels::{Simd, Work},
    packing::HalfLe,
};

/// Most weights of a group.
const MOST: usize = 32;

/// A row on its way down.
pub(super) struct Descent<'a> {
    pub(super) shape: &'a Shape,
    pub(super) curvature: &'a Curvature,
    pub(super) row: &'a mut Row,
    /// `(row - target) · H`.
    pub(super) gradient: &'a mut [f32],
    /// Rounds at most.
    pub(super) rounds: usize,
}

/// Where the sum of gains of a round is below this share of all gains so far, descent ends.
const LEAST_GAIN: f64 = 2e-3;

impl Work for Descent<'_> {
    #[inline(always)]
    fn run<S: Simd>(mut self, _simd: S) {
        let mut total = 0.0;
        for _ in 0..self.rounds {
            let mut gain = self.move_codes();
            for g in 0..self.row.scale_codes.len() {
                gain += self.move_grid(g);
            }
            for b in 0..self.row.scale.len() {
                gain += self.fit_commons(b);
            }
            total += gain;
            if gain <= LEAST_GAIN * total {
                break;
            }
        }
    }
}

impl Descent<'_> {
    /// Gives each weight in turn the best code beside the others.
    #[inline(always)]
    fn move_codes(&mut self) -> f64 {
        let mut gain = 0.0;
        for g in 0..self.row.scale_codes.len() {
            let (scale, min) = self.row.grid(self.shape, g);
            if scale == 0.0 {
                continue;
            }
            for j in g * self.shape.group..(g + 1) * self.shape.group {
                let own = self.curvature.row(j)[j];
                let step = (-self.gradient[j] / (own * scale)).round_ties_even();
                let code = self.row.codes[j] + step;
                let code = code.clamp(self.shape.lowest, self.shape.highest);
                if code == self.row.codes[j] {
                    continue;
                }
                let change = scale * code - min - self.row.weights[j];
                let cost = change * (2.0 * self.gradient[j] + change * own);
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
    fn move_grid(&mut self, g: usize) -> f64 {
        let b = g * self.shape.group / self.shape.block;
        let (scale, min) = (self.row.scale[b], self.row.min[b]);
        let (scale_code, min_code) = (self.row.scale_codes[g], self.row.min_codes[g]);
        let mut best = Trial { cost: 0.0, codes: [0.0; MOST] };
        let mut grid = None;
        if self.shape.is_plain {
            for step in [-0.04, -0.02, -0.01, 0.01, 0.02, 0.04f32] {
                let half = HalfLe::finite(scale * (1.0 + step)).to_f32();
                self.try_grid(g, (half, 1.0, min, min_code), &mut best, &mut grid);
            }
            if self.shape.has_min {
                for step in [-0.3, -0.1, 0.1, 0.3] {
                    let half = HalfLe::finite(min + step * scale).to_f32();
                    self.try_grid(g, (scale, 1.0, half, min_code), &mut best, &mut grid);
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
                    self.try_grid(g, (scale, s, min, m), &mut best, &mut grid);
                }
            }
        }
        let Some((scale, scale_code, min, min_code)) = grid else { return 0.0 };
        (self.row.scale[b], self.row.min[b]) = (scale, min);
        (self.row.scale_codes[g], self.row.min_codes[g]) = (scale_code, min_code);
        let (scale, min) = self.row.grid(self.shape, g);
        for a in 0..self.shape.group {
            let j = g * self.shape.group + a;
            self.row.codes[j] = best.codes[a];
            let change = scale * best.codes[a] - min - self.row.weights[j];
            if change != 0.0 {
                self.change(j, change);
            }
        }
        f64::from(-best.cost)
    }

    #[inline(always)]
    fn try_grid(
        &self,
        g: usize,
        grid: (f32, f32, f32, f32),
        best: &mut Trial,
        best_grid: &mut Option<(f32, f32, f32, f32)>,
    ) {
        let (scale, min) = (grid.0 * grid.1, grid.2 * grid.3);
        let trial = self.regrid(g, scale, min);
        if trial.cost < best.cost {
            *best = trial;
            *best_grid = Some(grid);
        }
    }

    /// What the codes of group `g` become on another grid, one after another beside the others, and
    /// what that costs.
    #[inline(always)]
    fn regrid(&self, g: usize, scale: f32, min: f32) -> Trial {
        let first = g * self.shape.group;
        let group = self.shape.group;
        let mut gradient = [0.0; MOST];
        gradient[..group].copy_from_slice(&self.gradient[first..first + group]);
        let mut trial = Trial { cost: 0.0, codes: [0.0; MOST] };
        let inverse = if scale == 0.0 { 0.0 } else { 1.0 / scale };
        for a in 0..group {
            let curvature = &self.curvature.row(first + a)[first..first + group];
            let weight = self.row.weights[first + a];
            let wanted = weight - gradient[a] / curvature[a];
            let code = ((wanted + min) * inverse).round_ties_even();
            let code = code.clamp(self.shape.lowest, self.shape.highest);
            let change = scale * code - min - weight;
            trial.codes[a] = code;
            trial.cost += change * (2.0 * gradient[a] + change * curvature[a]);
            for (gradient, curvature) in gradient.iter_mut().zip(curvature) {
                *gradient += change * curvature;
            }
        }
        trial
    }

    /// Fits the common numbers of block `b` to its integers by least squares.
    #[inline(always)]
    fn fit_commons(&mut self, b: usize) -> f64 {
        let Shape { block, group, has_min, .. } = *self.shape;
        let columns = b * block..(b + 1) * block;
        let size = self.curvature.size();
        let (mut hu, mut hv) = (vec![0.0f32; size], vec![0.0f32; size]);
        let (mut gu, mut gv) = (0.0, 0.0);
        for j in columns.clone() {
            let u = self.row.scale_codes[j / group] * self.row.codes[j];
            let v = -self.row.min_codes[j / group];
            gu += self.gradient[j] * u;
            gv += self.gradient[j] * v;
            let curvature = self.curvature.row(j);
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
            uu += u * hu[j];
            uv += u * hv[j];
            vv += v * hv[j];
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
        for ((gradient, hu), hv) in self.gradient.iter_mut().zip(&hu).zip(&hv) {
            *gradient += grow * hu + min_grow * hv;
        }
        f64::from(-cost)
    }

    /// Changes weight `j`.
    #[inline(always)]
    fn change(&mut self, j: usize, change: f32) {
        self.row.weights[j] += change;
        let curvature = self.curvature.row(j);
        for (gradient, h) in self.gradient.iter_mut().zip(curvature) {
            *gradient += change * h;
        }
    }
}

/// A group on another grid.
struct Trial {
    /// What it adds to the error.
    cost: f32,
    codes: [f32; MOST],
}
