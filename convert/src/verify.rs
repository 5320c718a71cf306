//! Whether a model is what loaders and kernels take it for: its weights are numbers, and its metadata
//! is what they ask for.

use llq_gguf::TensorSpec;
use llq_quant::{FormatInfo, RowError, format};
use rayon::prelude::*;

use crate::{
    Progress, Source, UnmetDemand, demands,
    error::Result,
    source::{row_bytes, rows},
};

/// Bytes that a thread looks at at a time.
const PIECE_BYTES: u64 = 1 << 20;

/// What was looked at, and what is wrong with it.
#[derive(Clone, Debug, Default, PartialEq)]
#[non_exhaustive]
pub struct Findings {
    /// Tensors whose every block was looked at.
    pub checked: usize,
    /// Tensors in types that llq has no format of.
    pub unknown: Vec<TensorSpec>,
    /// Tensors with blocks that no encoder writes.
    pub defects: Vec<TensorDefect>,
    /// Matrices of which every byte is 0, as in a file that was never written to the end. In an
    /// adapter they mean something.
    pub empty: Vec<String>,
    /// What loaders ask for and do not find.
    pub unmet: Vec<UnmetDemand>,
}

/// What is wrong with a tensor's bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TensorDefect {
    /// The tensor.
    pub tensor: String,
    /// Blocks that are wrong, of plain types weights.
    pub count: u64,
    /// The first of them, counted from the start of the tensor.
    pub first: u64,
    /// What is wrong with it.
    pub defect: &'static str,
}

impl Findings {
    /// Whether nothing is wrong.
    pub fn is_sound(&self) -> bool {
        self.defects.is_empty() && self.empty.is_empty() && self.unmet.is_empty()
    }
}

/// Looks at every block of every tensor, and asks of the metadata what loaders will ask. Tensors are
/// read in pieces, on the threads of the current rayon pool.
///
/// # Errors
///
/// Weights that can't be read.
pub fn verify(source: &dyn Source, progress: &dyn Progress) -> Result<Findings> {
    let specs = source.tensors();
    let known = |spec: &TensorSpec| format(spec.tensor_type);
    let bytes = specs.iter().filter(|spec| known(spec).is_some());
    progress.begin(bytes.map(|spec| row_bytes(spec) * rows(spec)).sum());
    let tensors = specs.iter().map(|spec| (spec.name.as_str(), spec.shape.as_slice()));
    let mut findings =
        Findings { unmet: demands::unmet(source.metadata(), tensors), ..Findings::default() };
    for (index, spec) in specs.iter().enumerate() {
        let Some(format) = known(spec) else {
            findings.unknown.push(spec.clone());
            continue;
        };
        let census = census(source, index, format, progress)?;
        findings.checked += 1;
        if census.is_zero && spec.shape.len() > 1 && !spec.name.contains(".lora_") {
            findings.empty.push(spec.name.clone());
        }
        if let Some((first, defect)) = census.first {
            let (tensor, count) = (spec.name.clone(), census.count);
            findings.defects.push(TensorDefect { tensor, count, first, defect });
        }
    }
    Ok(findings)
}

/// What is in some blocks.
struct Census {
    is_zero: bool,
    count: u64,
    first: Option<(u64, &'static str)>,
}

impl Census {
    const NOTHING: Census = Census { is_zero: true, count: 0, first: None };

    /// Of these blocks and of those behind them.
    fn and(self, behind: Census) -> Census {
        Census {
            is_zero: self.is_zero && behind.is_zero,
            count: self.count + behind.count,
            first: self.first.or(behind.first),
        }
    }

    /// Of `bytes`, whose first block is number `start`.
    fn of(format: &FormatInfo, bytes: &[u8], start: u64) -> Census {
        let mut census = Census { is_zero: bytes.iter().all(|&b| b == 0), ..Census::NOTHING };
        let mut at = 0;
        let block_bytes = format.tensor_type.block_bytes();
        while let Err(RowError::Defect { block, defect }) =
            format.validate(&bytes[at * block_bytes..])
        {
            census.count += 1;
            census.first.get_or_insert((start + (at + block) as u64, defect));
            at += block + 1;
        }
        census
    }
}

fn census(
    source: &dyn Source,
    index: usize,
    format: &FormatInfo,
    progress: &dyn Progress,
) -> Result<Census> {
    let spec = &source.tensors()[index];
    let (row_bytes, rows) = (row_bytes(spec), rows(spec));
    let per_piece = (PIECE_BYTES / row_bytes.max(1)).max(1);
    let blocks_per_row = row_bytes / format.tensor_type.block_bytes() as u64;
    let pieces: Vec<Census> = (0..rows.div_ceil(per_piece))
        .into_par_iter()
        .map_init(Vec::new, |bytes, piece| {
            let (start, end) = (piece * per_piece, rows.min((piece + 1) * per_piece));
            bytes.resize((row_bytes * (end - start)) as usize, 0);
            source.read_rows(index, start..end, bytes)?;
            progress.advance(bytes.len() as u64);
            Ok(Census::of(format, bytes, start * blocks_per_row))
        })
        .collect::<Result<_>>()?;
    Ok(pieces.into_iter().fold(Census::NOTHING, Census::and))
}
