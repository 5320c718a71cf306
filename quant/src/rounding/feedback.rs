//! The first rounding of a row: columns in turn, each making up for the errors of those before.

use super::{
    curvature::Curvature,
    row::{Row, Shape},
};
use crate::{
    effort::Encoding,
    kernels::{Kernels, Simd, Work},
};

/// Rounds `target`. The grid of every block is searched when its turn comes, on what is wanted of it
/// by then and with what errors cost by then.
pub(super) fn round(
    kernels: &Kernels,
    shape: &Shape,
    curvature: &Curvature,
    target: &[f32],
) -> Row {
    let mut row = Row::zeros(shape, target.len());
    let mut wanted = target.to_vec();
    let mut bytes = vec![0; shape.format.tensor_type.block_bytes()];
    for b in 0..target.len() / shape.block {
        let columns = b * shape.block..(b + 1) * shape.block;
        let encoding = Encoding::weighted(Some(&curvature.pivots()[columns.clone()]));
        let searched =
            shape.format.encode_row_with(kernels, &wanted[columns], encoding, &mut bytes);
        debug_assert!(searched.is_ok(), "one block of the format");
        row.read_block(shape, b, &bytes);
        kernels.run(Feed { shape, curvature, target, wanted: &mut wanted, row: &mut row, b });
    }
    row
}

/// Rounds the columns of block `b` to its grid.
struct Feed<'a> {
    shape: &'a Shape,
    curvature: &'a Curvature,
    target: &'a [f32],
    wanted: &'a mut [f32],
    row: &'a mut Row,
    b: usize,
}

impl Work for Feed<'_> {
    #[inline(always)]
    fn run<S: Simd>(self, _simd: S) {
        let Feed { shape, curvature, target, wanted, row, b } = self;
        for j in b * shape.block..(b + 1) * shape.block {
            let (scale, min) = row.grid(shape, j / shape.group);
            if scale != 0.0 {
                let code = ((wanted[j] + min) / scale).round_ties_even();
                row.codes[j] = code.clamp(shape.lowest, shape.highest);
            }
            row.weights[j] = scale * row.codes[j] - min;
            let error = target[j] - row.weights[j];
            let later = wanted[j + 1..].iter_mut().zip(&curvature.factor_row(j)[j + 1..]);
            for (wanted, factor) in later {
                *wanted += error * factor;
            }
        }
    }
}
