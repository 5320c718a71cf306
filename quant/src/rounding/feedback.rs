//! The first rounding of rows: columns in turn, each making up for the errors of those before.

use rayon::prelude::*;

use super::{
    curvature::Curvature,
    products::{add_products, blocks},
    row::{Row, Shape},
};
use crate::{
    effort::Encoding,
    kernels::{Kernels, Simd, Work},
};

/// Rounds each of the targets. The grid of every block is searched when its turn comes, on what is
/// wanted of it by then and with what errors cost by then.
pub(super) fn round(
    kernels: &Kernels,
    shape: &Shape,
    curvature: &Curvature,
    targets: &[&[f32]],
) -> Vec<Row> {
    let mut wanted: Vec<Vec<f32>> = targets.iter().map(|target| target.to_vec()).collect();
    let mut rows: Vec<Row> = targets.iter().map(|target| Row::zeros(shape, target.len())).collect();
    for columns in blocks(curvature.size()) {
        let errors: Vec<Vec<f32>> = (rows.par_iter_mut(), wanted.par_iter_mut(), targets)
            .into_par_iter()
            .map(|(row, wanted, target)| {
                let (first, end) = (columns.start / shape.block, columns.end / shape.block);
                for b in first..end {
                    search(kernels, shape, curvature, wanted, row, b);
                    let end = columns.end;
                    kernels.run(Feed { shape, curvature, target, wanted, row, b, end });
                }
                let pairs = target[columns.clone()].iter().zip(&row.weights[columns.clone()]);
                pairs.map(|(target, weight)| target - weight).collect()
            })
            .collect();
        let errors: Vec<&[f32]> = errors.iter().map(Vec::as_slice).collect();
        let part = curvature.factor_part(columns.clone(), columns.end..curvature.size());
        let mut later: Vec<&mut [f32]> =
            wanted.iter_mut().map(|wanted| &mut wanted[columns.end..]).collect();
        add_products(kernels, &errors, &part, &mut later);
    }
    rows
}

/// Finds the grid of block `b`.
fn search(
    kernels: &Kernels,
    shape: &Shape,
    curvature: &Curvature,
    wanted: &[f32],
    row: &mut Row,
    b: usize,
) {
    let columns = b * shape.block..(b + 1) * shape.block;
    let encoding = Encoding::weighted(Some(&curvature.pivots()[columns.clone()]));
    let mut bytes = vec![0; shape.format.tensor_type.block_bytes()];
    let searched = shape.format.encode_row_with(kernels, &wanted[columns], encoding, &mut bytes);
    debug_assert!(searched.is_ok(), "one block of the format");
    row.read_block(shape, b, &bytes);
}

/// Rounds the columns of block `b` to its grid.
struct Feed<'a> {
    shape: &'a Shape,
    curvature: &'a Curvature,
    target: &'a [f32],
    wanted: &'a mut [f32],
    row: &'a mut Row,
    b: usize,
    /// The column before which errors are made up for.
    end: usize,
}

impl Work for Feed<'_> {
    #[inline(always)]
    fn run<S: Simd>(self, _simd: S) {
        let Feed { shape, curvature, target, wanted, row, b, end } = self;
        for j in b * shape.block..(b + 1) * shape.block {
            let (scale, min) = row.grid(shape, j / shape.group);
            if scale != 0.0 {
                let code = ((wanted[j] + min) / scale).round_ties_even();
                row.codes[j] = code.clamp(shape.lowest, shape.highest);
            }
            row.weights[j] = scale * row.codes[j] - min;
            let error = target[j] - row.weights[j];
            let factors = &curvature.factor_row(j)[j + 1..end];
            let later = wanted[j + 1..end].iter_mut().zip(factors);
            for (wanted, factor) in later {
                *wanted += error * factor;
            }
        }
    }
}
