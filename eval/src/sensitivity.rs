//! How much a model's predictions suffer from the errors of each of its matrices: what a mix is
//! chosen by. The KL divergence grows about in proportion to the relative error of a matrix's
//! output, so one measurement per matrix tells of all types.

use std::collections::BTreeMap;

use llq_gguf::{Model, TensorType};
use llq_quant::{Effort, Encoding, FormatInfo, Matrix, format};
use rayon::prelude::*;

use crate::{
    Against, ChannelSquares, Corpus, Error, Llama, Options, Progress, Recorded, Running,
    error::Result, evaluate, llama::Replacement,
};

/// A matrix whose type is to be chosen.
#[derive(Clone, Debug, PartialEq)]
pub struct Choice {
    /// The name of the matrix in the file.
    pub tensor: String,
    /// The types that it may get.
    pub types: Vec<TensorType>,
    /// What its encoder is guided by, one number per column.
    pub importance: Option<Vec<f32>>,
    /// How long its encoder searches.
    pub effort: Effort,
}

impl Choice {
    fn encoding(&self) -> Encoding<'_> {
        Encoding { importance: self.importance.as_deref(), effort: self.effort }
    }
}

/// Weights of a matrix that are encoded at the most to learn the errors of a type: as many rows as
/// that makes, spread over the matrix, but [`LEAST_ROWS`] if it has as many.
const SAMPLED_WEIGHTS: usize = 1 << 19;

/// Rows that are encoded at the least.
const LEAST_ROWS: usize = 16;

/// Matrices that are measured one by one at the most; of more, those of one kind in neighbouring
/// blocks are measured together.
const MOST_SINGLE: usize = 64;

/// Groups of neighbouring blocks.
const BLOCK_GROUPS: usize = 8;

/// Bytes of encoded matrices that are measured together at the most; the others of a group are
/// taken to be like them.
const MOST_BYTES: usize = 256 << 20;

/// For each of the types the error of the matrix's output, relative to the output, squared: the sum
/// over rows and columns of the squared error of the weight, times the square of what the column is
/// multiplied by, over that of the weights themselves. `inputs` is of the same matrix; without it all
/// columns count the same.
///
/// # Errors
/// Where the model has no such matrix, blocks do not fill its rows, or a weight is not finite.
pub fn encoding_errors(
    model: &Model,
    choice: &Choice,
    inputs: Option<&ChannelSquares>,
) -> Result<Vec<f64>> {
    let matrix = matrix(model, choice)?;
    let formats: Vec<_> =
        choice.types.iter().map(|&to| encoder(choice, to, matrix.cols())).collect::<Result<_>>()?;
    let sampled = (SAMPLED_WEIGHTS / matrix.cols()).max(LEAST_ROWS).min(matrix.rows());
    let row_errors = |sample: usize| -> Result<Vec<f64>> {
        let mut row = vec![0.0; matrix.cols()];
        matrix.decode_row(sample * matrix.rows() / sampled, &mut row);
        let squares = inputs.map(|inputs| &inputs.squares[..]);
        let mut decoded = vec![0.0; row.len()];
        let mut errors = vec![weighted_square(squares, &row, &decoded)];
        for &(format, row_bytes) in &formats {
            let mut bytes = vec![0; row_bytes];
            encode(choice, format, &row, &mut bytes)?;
            format.dequantize(&bytes, &mut decoded).map_err(|error| unusable(choice, error))?;
            errors.push(weighted_square(squares, &row, &decoded));
        }
        Ok(errors)
    };
    let rows: Vec<Vec<f64>> =
        (0..sampled).into_par_iter().map(row_errors).collect::<Result<_>>()?;
    let sum = |column: usize| rows.iter().map(|row| row[column]).sum::<f64>();
    let whole = sum(0);
    if !whole.is_finite() {
        return Err(unusable(choice, "a weight is NaN or infinite"));
    }
    let relative = |column| if whole > 0.0 { sum(column) / whole } else { 0.0 };
    Ok((1..=formats.len()).map(relative).collect())
}

/// For each of the matrices of `model` the KL divergence from `base` per unit of its error (of
/// [`encoding_errors`], which are `errors`). It is measured on `corpus` with the matrix in the
/// largest of its types of at most `bits` per weight (or the smallest), everything else as it is.
/// Of models of many matrices, those of one kind in neighbouring blocks are measured together and
/// get the same figure.
///
/// # Errors
/// As [`evaluate`] and [`encoding_errors`].
pub fn sensitivities(
    model: &Model,
    choices: &[Choice],
    errors: &[Vec<f64>],
    bits: f64,
    (base, corpus): (&Recorded<'_>, &Corpus),
    options: &Options,
    progress: &dyn Progress,
) -> Result<Vec<f64>> {
    let groups = groups(choices);
    let windows = options.chunks.unwrap_or(usize::MAX).min(corpus.windows(options.context));
    progress.start(groups.len() * windows, options.context);
    let mut found = vec![0.0; choices.len()];
    for (index, group) in groups.iter().enumerate() {
        let mut replaced = Vec::new();
        let (mut bytes, mut error) = (0, 0.0);
        for &member in group {
            let choice = &choices[member];
            let Some(trial) = trial_type(choice, bits) else { continue };
            let replacement = encode_matrix(model, choice, choice.types[trial])?;
            bytes += replacement.bytes.len();
            error += errors[member].get(trial).copied().unwrap_or_default();
            replaced.push(replacement);
            if bytes >= MOST_BYTES {
                break;
            }
        }
        let llama = Llama::load_with(model, &replaced)?;
        let part = Part { whole: progress, before: index * windows, of: groups.len() * windows };
        let report = evaluate(&llama, Against::Recorded(base), corpus, options, &part)?;
        let kld = report.against.map_or(0.0, |comparison| comparison.kld.mean);
        for &member in group {
            found[member] = if error > 0.0 { (kld / error).max(0.0) } else { 0.0 };
        }
    }
    Ok(found)
}

/// The index of the type to measure with: near what the mix will have, so that little is left to
/// proportion.
fn trial_type(choice: &Choice, bits: f64) -> Option<usize> {
    let width = |&index: &usize| choice.types[index].bits_per_weight();
    let by_width = |a: &usize, b: &usize| width(a).total_cmp(&width(b));
    let all = 0..choice.types.len();
    all.clone().filter(|index| width(index) <= bits).max_by(by_width).or(all.min_by(by_width))
}

/// Which matrices are measured together, by index.
fn groups(choices: &[Choice]) -> Vec<Vec<usize>> {
    if choices.len() <= MOST_SINGLE {
        return (0..choices.len()).map(|index| vec![index]).collect();
    }
    let places: Vec<_> = choices.iter().map(|choice| place(&choice.tensor)).collect();
    let blocks = places.iter().flatten().map(|&(block, _)| block + 1).max().unwrap_or(1);
    let mut groups: BTreeMap<(usize, &str), Vec<usize>> = BTreeMap::new();
    for (index, (choice, place)) in choices.iter().zip(&places).enumerate() {
        let key = match *place {
            Some((block, kind)) => (block * BLOCK_GROUPS.min(blocks) / blocks, kind),
            None => (0, &choice.tensor[..]),
        };
        groups.entry(key).or_default().push(index);
    }
    groups.into_values().collect()
}

/// The block of a matrix, and which of the block's it is.
fn place(tensor: &str) -> Option<(usize, &str)> {
    let (block, kind) = tensor.strip_prefix("blk.")?.split_once('.')?;
    Some((block.parse::<u32>().ok()? as usize, kind))
}

/// One measurement of several that are shown as one.
struct Part<'a> {
    whole: &'a dyn Progress,
    /// Windows of those before.
    before: usize,
    of: usize,
}

impl Progress for Part<'_> {
    fn start(&self, _windows: usize, _context: usize) {}

    fn window(&self, running: Running) {
        let done = self.before + running.done;
        self.whole.window(Running { done, windows: self.of, perplexity: None });
    }
}

fn matrix<'m>(model: &'m Model, choice: &Choice) -> Result<Matrix<'m>> {
    let missing = || Error::MissingTensor { tensor: choice.tensor.clone() };
    let tensor = model.tensor(&choice.tensor).ok_or_else(missing)?;
    let [cols, rows] = tensor.shape[..] else {
        return Err(Error::UnsupportedTensor { tensor: choice.tensor.clone() });
    };
    let (rows, cols) = (rows as usize, cols as usize);
    if rows == 0 || cols == 0 {
        return Err(unusable(choice, "it is empty"));
    }
    if format(tensor.tensor_type).is_none() {
        let (tensor, found) = (choice.tensor.clone(), tensor.tensor_type);
        return Err(Error::Type { tensor, found });
    }
    Matrix::new(tensor.tensor_type, rows, cols, model.data(tensor))
        .map_err(|error| unusable(choice, error))
}

/// The format of a type and the bytes of a row.
fn encoder(choice: &Choice, to: TensorType, cols: usize) -> Result<(&'static FormatInfo, usize)> {
    let unknown = || Error::Type { tensor: choice.tensor.clone(), found: to };
    let format = format(to).ok_or_else(unknown)?;
    let block = to.block_weights();
    let partial = || unusable(choice, format!("blocks of {block} do not fill rows of {cols}"));
    Ok((format, to.row_bytes(cols as u64).ok_or_else(partial)? as usize))
}

fn encode_matrix(model: &Model, choice: &Choice, to: TensorType) -> Result<Replacement> {
    let matrix = matrix(model, choice)?;
    let (format, row_bytes) = encoder(choice, to, matrix.cols())?;
    let mut bytes = vec![0; matrix.rows() * row_bytes];
    bytes.par_chunks_exact_mut(row_bytes).enumerate().try_for_each_init(
        || vec![0.0; matrix.cols()],
        |weights, (row, bytes)| {
            matrix.decode_row(row, weights);
            encode(choice, format, weights, bytes)
        },
    )?;
    Ok(Replacement { tensor: choice.tensor.clone(), tensor_type: to, bytes })
}

fn encode(choice: &Choice, format: &FormatInfo, row: &[f32], bytes: &mut [u8]) -> Result<()> {
    format.encode_row(row, choice.encoding(), bytes).map_err(|error| unusable(choice, error))
}

/// The sum of the squared differences, each times its weight.
fn weighted_square(weights: Option<&[f64]>, a: &[f32], b: &[f32]) -> f64 {
    let squares = a.iter().zip(b).map(|(&a, &b)| (f64::from(a) - f64::from(b)).powi(2));
    match weights {
        Some(weights) => weights.iter().zip(squares).map(|(weight, square)| weight * square).sum(),
        None => squares.sum(),
    }
}

fn unusable(choice: &Choice, problem: impl ToString) -> Error {
    Error::Weights { tensor: choice.tensor.clone(), problem: problem.to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn choice(tensor: String) -> Choice {
        let types = vec![TensorType::Q2_K, TensorType::Q8_0, TensorType::Q4_K];
        Choice { tensor, types, importance: None, effort: Effort::Fast }
    }

    #[test]
    fn neighbouring_blocks_are_measured_together() {
        let kinds = ["attn_q.weight", "ffn_down.weight"];
        let of = |blocks: usize| {
            let names =
                (0..blocks).flat_map(|block| kinds.map(|kind| format!("blk.{block}.{kind}")));
            let names = names.chain(["output.weight".to_owned()]);
            groups(&names.map(choice).collect::<Vec<_>>())
        };
        assert_eq!(of(20).len(), 41);
        let groups = of(80);
        assert_eq!(groups.len(), 17);
        let mut sizes: Vec<usize> = groups.iter().map(Vec::len).collect();
        sizes.sort_unstable();
        assert_eq!((sizes[0], sizes[1], sizes[16]), (1, 10, 10));
        assert!(groups.contains(&vec![0, 2, 4, 6, 8, 10, 12, 14, 16, 18]));
    }

    #[test]
    fn trials_are_near_what_is_wanted() {
        let choice = choice("output.weight".to_owned());
        for (bits, index) in [(1.0, 0), (3.0, 0), (4.5, 2), (8.0, 2), (9.0, 1)] {
            assert_eq!(trial_type(&choice, bits), Some(index), "{bits}");
        }
    }
}
