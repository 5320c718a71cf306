//! How much each input channel of each matrix carries: what an encoder needs to know of a text to
//! put its errors where they matter least.

use llq_quant::{Activations, Mode};
use rayon::prelude::*;

use crate::{
    Corpus, Error, Llama, Options, Progress,
    error::Result,
    llama::{Body, Input, Observer},
    windows::Windows,
};

/// Which matrices are looked at.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Matrices {
    /// Those of the blocks.
    #[default]
    Blocks,
    /// Also the head.
    BlocksAndOutput,
}

/// What the matrices of a model are multiplied by on a text.
#[derive(Clone, Debug, PartialEq)]
pub struct Importance {
    /// Tokens per window.
    pub context: usize,
    /// Number of windows.
    pub windows: usize,
    /// Each matrix, block after block.
    pub tensors: Vec<ChannelSquares>,
}

/// What one matrix is multiplied by.
#[derive(Clone, Debug, PartialEq)]
pub struct ChannelSquares {
    /// The name of the matrix in the file.
    pub tensor: String,
    /// For each of its columns, the sum of the squares over all tokens.
    pub squares: Vec<f64>,
    /// Number of tokens.
    pub tokens: u64,
}

/// Runs the model over windows of `context` tokens, at most `chunks` of them, in [`Mode::Exact`],
/// and sums up what its matrices are multiplied by. All tokens of a window count, the first replaced
/// as in [`evaluate`](crate::evaluate). The sums have the same bits for any number of threads.
///
/// # Errors
///
/// A corpus shorter than one window; tokens that the model does not know; NaN or infinite
/// activations.
pub fn importance(
    llama: &Llama<'_>,
    corpus: &Corpus,
    context: usize,
    chunks: Option<usize>,
    matrices: Matrices,
    progress: &dyn Progress,
) -> Result<Importance> {
    let windows = Windows::plan(corpus, &Options { mode: Mode::Exact, context, chunks })?;
    windows.check_vocabulary(llama.hyperparameters().vocabulary_size)?;
    let body = Body::new(llama, context, Mode::Exact);
    let mut workspace = body.workspace();
    let mut sums = Sums::of(llama);
    windows.for_each_pass(progress, |_, pass| {
        let hidden = body.observe(pass, &mut workspace, &mut sums);
        if matrices == Matrices::BlocksAndOutput {
            let width = llama.head().cols();
            sums.output.add(&Activations::new(Mode::Exact, &hidden, width));
        }
        Ok(pass.iter().map(|_| None).collect())
    })?;
    let tensors = sums.by_tensor(llama, matrices)?;
    Ok(Importance { context, windows: windows.count(), tensors })
}

/// The sums of each input.
struct Sums {
    /// For each block, those of [`Input::ALL`].
    blocks: Vec<[Squares; Input::ALL.len()]>,
    output: Squares,
}

/// The sums of one input, per column.
#[derive(Clone, Debug, Default)]
struct Squares {
    sums: Vec<f64>,
    tokens: u64,
}

impl Sums {
    fn of(llama: &Llama<'_>) -> Sums {
        let blocks = llama.hyperparameters().block_count;
        Sums { blocks: vec![Default::default(); blocks], output: Squares::default() }
    }

    fn by_tensor(&self, llama: &Llama<'_>, matrices: Matrices) -> Result<Vec<ChannelSquares>> {
        let mut tensors = Vec::new();
        for (block, inputs) in self.blocks.iter().enumerate() {
            for (input, squares) in Input::ALL.into_iter().zip(inputs) {
                for matrix in input.matrices() {
                    tensors.push(squares.of_tensor(format!("blk.{block}.{matrix}"))?);
                }
            }
        }
        if matrices == Matrices::BlocksAndOutput {
            tensors.push(self.output.of_tensor(llama.head_name().to_owned())?);
        }
        Ok(tensors)
    }
}

impl Observer for Sums {
    fn input(&mut self, block: usize, input: Input, activations: &Activations) {
        self.blocks[block][input as usize].add(activations);
    }
}

impl Squares {
    /// Each column is summed up by one thread, in the order of the tokens.
    fn add(&mut self, activations: &Activations) {
        /// Columns that are a task.
        const COLUMNS: usize = 64;
        self.sums.resize(activations.cols(), 0.0);
        self.sums.par_chunks_mut(COLUMNS).enumerate().for_each(|(chunk, sums)| {
            let mut left = activations.tokens();
            for tile in activations.tiles() {
                let tokens = left.min(Activations::PART_TOKENS);
                for (sum, values) in sums.iter_mut().zip(&tile[chunk * COLUMNS..]) {
                    for &value in &values[..tokens] {
                        *sum += f64::from(value) * f64::from(value);
                    }
                }
                left -= tokens;
            }
        });
        self.tokens += activations.tokens() as u64;
    }

    fn of_tensor(&self, tensor: String) -> Result<ChannelSquares> {
        match self.sums.iter().position(|sum| !sum.is_finite()) {
            Some(column) => Err(Error::InputNotFinite { tensor, column }),
            None => Ok(ChannelSquares { tensor, squares: self.sums.clone(), tokens: self.tokens }),
        }
    }
}
