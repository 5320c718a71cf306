//! All rows of a matrix.

use std::{mem, ops::Range};

use rayon::prelude::*;

use super::{
    combine::add_rows,
    curvature::Curvature,
    descent::{Moving, descend},
    feedback,
    products::{add_products, blocks},
    row::{Row, Shape},
};
use crate::{
    kernels::{self, Kernels},
    registry::FormatInfo,
};

/// A matrix to round.
#[derive(Clone, Copy, Debug)]
pub struct Rounding<'a> {
    /// What it becomes.
    pub format: &'static FormatInfo,
    /// The wanted weights, row after row.
    pub target: &'a [f32],
    /// What errors along a row cost.
    pub inputs: &'a Curvature,
    /// What errors of the rows cost together, for groups of rows one after another; without them,
    /// rows are independent.
    pub outputs: &'a [Curvature],
    /// How many times each row is taken up again beside the others.
    pub passes: usize,
}

/// Rows of a group that are rounded side by side: the others see their errors only afterwards. More
/// of large groups, as few rows wait for the curvature to come from memory. It is part of the
/// result, so it does not depend on the number of threads.
const BATCH: usize = 8;
const SHARE: usize = 96;

/// Independent rows that are rounded side by side.
pub const INDEPENDENT_ROWS: usize = 384;

/// How many rows of a group of so many are rounded side by side.
pub fn batch_rows(group: usize) -> usize {
    BATCH.max(group / SHARE)
}

/// Rounds the matrix; on the threads of the current rayon pool, with the same bytes for any number.
/// `None` where the format has no blocks or its blocks do not fill the rows.
///
/// # Panics
/// If the target is no matrix of the curvatures' sizes.
pub fn round_matrix(rounding: &Rounding<'_>) -> Option<Vec<u8>> {
    round_matrix_with(kernels::selected(), rounding)
}

/// [`round_matrix`] by the code of a given instruction set.
///
/// # Panics
/// As [`round_matrix`].
pub fn round_matrix_with(kernels: &Kernels, rounding: &Rounding<'_>) -> Option<Vec<u8>> {
    let shape = Shape::of(rounding.format)?;
    let cols = rounding.inputs.size();
    assert!(rounding.target.len().is_multiple_of(cols), "rows of {cols}");
    let row_bytes = rounding.format.tensor_type.row_bytes(cols as u64)? as usize;
    let count = rounding.target.len() / cols;
    let sizes: usize = rounding.outputs.iter().map(Curvature::size).sum();
    assert!(sizes == count || rounding.outputs.is_empty(), "{count} outputs");
    let rows = Rows { kernels, shape: &shape, rounding, cols }.round();
    let mut bytes = vec![0; count * row_bytes];
    bytes.par_chunks_mut(row_bytes).zip(&rows).for_each(|(out, row)| row.encode(&shape, out));
    Some(bytes)
}

/// Rows whose errors are felt together.
struct Group {
    /// In which order they are rounded: a batch's are far apart, as rows of one head are the most
    /// alike.
    order: Vec<usize>,
    /// In that order.
    outputs: Curvature,
    /// Rows of a batch.
    together: usize,
}

impl Group {
    fn new(first: usize, outputs: &Curvature) -> Option<Group> {
        let count = outputs.size();
        let together = batch_rows(count);
        let batches = count.div_ceil(together);
        let order = (0..batches).flat_map(|batch| (batch..count).step_by(batches));
        let order: Vec<usize> = order.collect();
        let outputs = outputs.reordered(&order)?;
        let order = order.into_iter().map(|row| first + row).collect();
        Some(Group { order, outputs, together })
    }

    /// The places of the batch, of which one group may have fewer than another.
    fn batch(&self, batch: usize) -> Range<usize> {
        let end = self.order.len();
        end.min(batch * self.together)..end.min((batch + 1) * self.together)
    }
}

/// A row that was moved beside others.
struct Moved {
    row: Row,
    /// The gradient before, of all errors.
    before: Vec<f32>,
    /// What was added to it.
    growth: Vec<f32>,
}

struct Rows<'a> {
    kernels: &'a Kernels,
    shape: &'a Shape,
    rounding: &'a Rounding<'a>,
    cols: usize,
}

impl Rows<'_> {
    fn round(&self) -> Vec<Row> {
        let mut first = 0;
        let groups = self.rounding.outputs.iter().map(|outputs| {
            first += outputs.size();
            Group::new(first - outputs.size(), outputs)
        });
        match groups.collect::<Option<Vec<Group>>>() {
            Some(groups) if !groups.is_empty() => self.round_groups(&groups),
            _ => {
                let targets: Vec<&[f32]> = self.rounding.target.chunks_exact(self.cols).collect();
                let batches = targets.chunks(INDEPENDENT_ROWS);
                batches.flat_map(|targets| self.first(targets)).map(|moving| moving.row).collect()
            }
        }
    }

    fn round_groups(&self, groups: &[Group]) -> Vec<Row> {
        let mut rows: Vec<Vec<Moving>> = groups.iter().map(|_| Vec::new()).collect();
        let batches = groups.iter().map(|group| group.order.len().div_ceil(group.together)).max();
        let batches = batches.unwrap_or_default();
        for batch in 0..batches {
            self.first_batch(groups, batch, &mut rows);
        }
        for _ in 0..self.rounding.passes {
            for batch in 0..batches {
                self.move_batch(groups, batch, &mut rows);
            }
        }
        let places = groups.iter().flat_map(|group| &group.order);
        let rows = rows.into_iter().flatten().map(|moving| moving.row);
        let mut placed: Vec<(usize, Row)> = places.copied().zip(rows).collect();
        placed.sort_unstable_by_key(|(place, _)| *place);
        placed.into_iter().map(|(_, row)| row).collect()
    }

    /// The next rows of each group, which make up for the errors of those before. Gradients are
    /// those of each row by itself.
    fn first_batch(&self, groups: &[Group], batch: usize, rows: &mut [Vec<Moving>]) {
        let wanted: Vec<(usize, usize)> = places(groups, batch).collect();
        let targets = wanted.iter().map(|&(group, i)| self.target(groups[group].order[i]).to_vec());
        let mut targets: Vec<Vec<f32>> = targets.collect();
        let parts = groups.par_iter().zip(&*rows).zip(of_groups(groups, batch, &mut targets));
        parts.for_each(|((group, rows), targets)| {
            let of = |i: usize| (0..rows.len()).map(|k| group.outputs.factor_row(k)[i]).collect();
            let factors: Vec<Vec<f32>> = group.batch(batch).map(of).collect();
            let error = |k: usize, columns: Range<usize>, out: &mut [f32]| {
                let made = &rows[k].row.weights[columns.clone()];
                let pairs = self.target(group.order[k])[columns].iter().zip(made);
                out.iter_mut().zip(pairs).for_each(|(out, (target, made))| *out = target - made);
            };
            add_rows(self.kernels, &factors, &error, targets);
        });
        let made = self.first(&targets.iter().map(Vec::as_slice).collect::<Vec<_>>());
        let made: Vec<Row> = made.into_iter().map(|moving| moving.row).collect();
        let own: Vec<&[f32]> =
            wanted.iter().map(|&(group, i)| self.target(groups[group].order[i])).collect();
        for (moving, (group, _)) in self.with_gradients(made, &own).into_iter().zip(wanted) {
            rows[group].push(moving);
        }
    }

    /// Some rows of each group go down again beside the others.
    fn move_batch(&self, groups: &[Group], batch: usize, rows: &mut [Vec<Moving>]) {
        let wanted: Vec<(usize, usize)> = places(groups, batch).collect();
        let mut before = vec![vec![0.0; self.cols]; wanted.len()];
        let parts = groups.par_iter().zip(&*rows).zip(of_groups(groups, batch, &mut before));
        parts.for_each(|((group, rows), before)| {
            let of = |i: usize| {
                let outputs = group.outputs.row(i);
                outputs.iter().map(|output| output / outputs[i]).collect()
            };
            let factors: Vec<Vec<f32>> = group.batch(batch).map(of).collect();
            let gradient = |k: usize, columns: Range<usize>, out: &mut [f32]| {
                out.copy_from_slice(&rows[k].gradient[columns]);
            };
            add_rows(self.kernels, &factors, &gradient, before);
        });
        let moving = wanted.iter().zip(&before).map(|(&(group, i), before)| Moving {
            row: rows[group][i].row.clone(),
            gradient: before.clone(),
        });
        let mut moving: Vec<Moving> = moving.collect();
        descend(self.kernels, self.shape, self.rounding.inputs, &mut moving);
        let moved = moving.into_iter().zip(before).map(|(moving, before)| {
            let Moving { row, gradient: mut growth } = moving;
            growth.iter_mut().zip(&before).for_each(|(after, before)| *after -= before);
            Moved { row, before, growth }
        });
        let mut moved = moved;
        let of_groups: Vec<Vec<Moved>> = groups
            .iter()
            .map(|group| moved.by_ref().take(group.batch(batch).len()).collect())
            .collect();
        let parts = groups.par_iter().zip(of_groups).zip(rows);
        parts.for_each(|((group, moved), rows)| take(group, batch, moved, rows));
    }

    fn target(&self, i: usize) -> &[f32] {
        &self.rounding.target[i * self.cols..][..self.cols]
    }

    /// Rows by themselves.
    fn first(&self, targets: &[&[f32]]) -> Vec<Moving> {
        let inputs = self.rounding.inputs;
        let rows = feedback::round(self.kernels, self.shape, inputs, targets);
        let mut moving = self.with_gradients(rows, targets);
        descend(self.kernels, self.shape, inputs, &mut moving);
        moving
    }

    fn with_gradients(&self, rows: Vec<Row>, targets: &[&[f32]]) -> Vec<Moving> {
        let mut gradients = vec![0.0; rows.len() * self.cols];
        let mut out: Vec<&mut [f32]> = gradients.chunks_exact_mut(self.cols).collect();
        let errors: Vec<Vec<f32>> = rows
            .iter()
            .zip(targets)
            .map(|(row, target)| row.weights.iter().zip(*target).map(|(q, t)| q - t).collect())
            .collect();
        for columns in blocks(self.cols) {
            let errors: Vec<&[f32]> = errors.iter().map(|row| &row[columns.clone()]).collect();
            let part = self.rounding.inputs.part(columns, 0..self.cols);
            add_products(self.kernels, &errors, &part, &mut out);
        }
        let gradients = gradients.chunks_exact(self.cols).map(<[f32]>::to_vec);
        rows.into_iter().zip(gradients).map(|(row, gradient)| Moving { row, gradient }).collect()
    }
}

/// Group and place of the rows that have their turn together.
fn places(groups: &[Group], batch: usize) -> impl Iterator<Item = (usize, usize)> {
    let groups = groups.iter().enumerate();
    groups.flat_map(move |(g, group)| group.batch(batch).map(move |place| (g, place)))
}

/// What belongs to these places, by group.
fn of_groups<'a, T>(groups: &[Group], batch: usize, all: &'a mut [T]) -> Vec<&'a mut [T]> {
    let mut left = all;
    let own = |group: &Group| {
        let (own, rest) = mem::take(&mut left).split_at_mut(group.batch(batch).len());
        left = rest;
        own
    };
    groups.iter().map(own).collect()
}

/// Takes the moved rows of a group one after another, where they still are better beside those
/// before.
fn take(group: &Group, batch: usize, moved: Vec<Moved>, rows: &mut [Moving]) {
    let mut taken: Vec<(usize, Vec<f32>)> = Vec::new();
    for (i, moved) in group.batch(batch).zip(moved) {
        let outputs = group.outputs.row(i);
        let Moving { row, gradient } = &mut rows[i];
        let before: Vec<(f64, &[f32])> = taken
            .iter()
            .map(|(k, growth)| (2.0 * f64::from(outputs[*k] / outputs[i]), growth.as_slice()))
            .collect();
        let mut cost = 0.0;
        for j in 0..gradient.len() {
            let change = f64::from(moved.row.weights[j]) - f64::from(row.weights[j]);
            let mut slope = 2.0 * f64::from(moved.before[j]) + f64::from(moved.growth[j]);
            for (factor, growth) in &before {
                slope += factor * f64::from(growth[j]);
            }
            cost += change * slope;
        }
        if cost < 0.0 {
            for (gradient, growth) in gradient.iter_mut().zip(&moved.growth) {
                *gradient += growth;
            }
            *row = moved.row;
            taken.push((i, moved.growth));
        }
    }
}
