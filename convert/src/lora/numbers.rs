//! Published numbers as f32.

use std::ops::Range;

use llq_quant::format;

use crate::{
    Error,
    error::Result,
    weights::{Dtype, Weights},
};

/// Rows of a float tensor. They take at most twice their size in the file.
///
/// # Panics
/// Where the tensor holds no floats or `rows` is not in it: a fault of the caller.
pub(crate) fn read_numbers(
    weights: &dyn Weights,
    tensor: usize,
    rows: Range<u64>,
) -> Result<Vec<f32>> {
    let published = &weights.tensors()[tensor];
    let Dtype::Float(tensor_type) = published.dtype else { panic!("floats are asked for") };
    let first = rows.start;
    let count = ((rows.end - first) * published.columns()) as usize;
    let mut bytes = vec![0; count * tensor_type.block_bytes()];
    weights.read_rows(tensor, rows, &mut bytes)?;
    let mut numbers = vec![0.0; count];
    if let Some(format) = format(tensor_type) {
        format.dequantize(&bytes, &mut numbers).map_err(|source| Error::Row {
            tensor: published.name.clone(),
            row: first,
            source,
        })?;
    }
    Ok(numbers)
}

/// A whole matrix with rows and columns exchanged.
pub(crate) fn transposed(weights: &dyn Weights, tensor: usize) -> Result<Vec<f32>> {
    let published = &weights.tensors()[tensor];
    let (rows, columns) = (published.rows() as usize, published.columns() as usize);
    let mut out = vec![0.0; rows * columns];
    for row in 0..rows {
        let numbers = read_numbers(weights, tensor, row as u64..row as u64 + 1)?;
        for (column, number) in numbers.into_iter().enumerate() {
            out[column * rows + row] = number;
        }
    }
    Ok(out)
}
