//! What a row of an architecture's table says of a tensor.

use std::path::Path;

use super::{Architecture, Hyperparameters, Naming};
use crate::{
    Error,
    error::Result,
    weights::{PublishedTensor, model_parallel::Cut},
};

/// One tensor of the architecture. Names lack their `.weight`; `{}` is the block's number, and a
/// second one the expert's.
#[derive(Debug)]
pub(crate) struct Row {
    pub(crate) gguf: &'static str,
    pub(crate) hugging_face: &'static str,
    pub(crate) meta: &'static str,
    pub(crate) shape: Shape,
    /// How Meta cuts it between model-parallel shards; `None` where its shape has to tell.
    pub(super) cut: Option<Cut>,
    pub(crate) order: RowOrder,
    pub(crate) presence: Presence,
}

/// Extents of a tensor, rows first.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Shape {
    Vector(Extent),
    Matrix(Extent, Extent),
    /// A published matrix for each expert of a block; one tensor of them all in GGUF.
    MatrixPerExpert(Extent, Extent),
}

#[derive(Clone, Copy, Debug)]
pub(crate) enum Extent {
    Vocabulary,
    Embedding,
    FeedForward,
    /// All query heads together.
    Queries,
    /// All key-value heads together.
    Keys,
    /// The experts of a block.
    Experts,
}

/// How Hugging Face orders the rows of a tensor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RowOrder {
    /// As the authors and GGUF do.
    Same,
    /// In each head first the even rows, then the odd ones, as its `rotate_half` wants them.
    EvenThenOdd,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Presence {
    Required,
    Optional,
}

/// A tensor that every model has, with rows as the authors order them.
pub(super) const fn row(
    gguf: &'static str,
    hugging_face: &'static str,
    meta: &'static str,
    shape: Shape,
    cut: Cut,
) -> Row {
    let (order, presence) = (RowOrder::Same, Presence::Required);
    Row { gguf, hugging_face, meta, shape, cut: Some(cut), order, presence }
}

/// Ends of the names of tensors that hold no weights: tables of angles and attention masks.
pub(crate) const NOT_WEIGHTS: &[&str] =
    &["rope.freqs", "rotary_emb.inv_freq", ".attention.masked_bias", ".attention.bias"];

impl Row {
    /// The name in a checkpoint.
    pub(super) fn stem(&self, naming: Naming) -> &'static str {
        match naming {
            Naming::HuggingFace => self.hugging_face,
            Naming::Meta => self.meta,
        }
    }

    /// The shape as published, rows first, in a model with these hyperparameters.
    pub(crate) fn extents(&self, hyperparameters: &Hyperparameters) -> Vec<u64> {
        let h = hyperparameters;
        let extent = |extent| match extent {
            Extent::Vocabulary => h.vocabulary.into(),
            Extent::Embedding => h.embedding.into(),
            Extent::FeedForward => h.feed_forward.into(),
            Extent::Queries => u64::from(h.heads) * u64::from(h.head_dim),
            Extent::Keys => u64::from(h.kv_heads) * u64::from(h.head_dim),
            Extent::Experts => h.experts.map_or(0, |experts| experts.count.into()),
        };
        match self.shape {
            Shape::Vector(length) => vec![extent(length)],
            Shape::Matrix(rows, columns) | Shape::MatrixPerExpert(rows, columns) => {
                vec![extent(rows), extent(columns)]
            }
        }
    }

    /// Whether loaders of GGUF know a bias of it.
    pub(super) fn may_have_bias(&self) -> bool {
        match self.shape {
            Shape::Vector(_) | Shape::MatrixPerExpert(..) => false,
            Shape::Matrix(rows, _) => !matches!(rows, Extent::Vocabulary | Extent::Experts),
        }
    }
}

impl Architecture {
    /// Along which axis Meta cuts the tensor whose piece is `piece`. LLaMA 1 and 2 cut the token
    /// embedding by columns, LLaMA 3 by rows: the shape tells.
    pub(crate) fn model_parallel_cut(
        &self,
        piece: &PublishedTensor,
        shards: u64,
        embedding: u64,
        path: &Path,
    ) -> Result<Cut> {
        if NOT_WEIGHTS.iter().any(|end| piece.name.ends_with(end)) {
            return Ok(Cut::Replicated);
        }
        let Some(row) = self.rows().find(|row| is_meta_name(row, &piece.name)) else {
            let (path, tensor) = (path.to_path_buf(), piece.name.clone());
            return Err(Error::UnexpectedTensor { path, tensor, nearest: None });
        };
        if let Some(cut) = row.cut {
            return Ok(cut);
        }
        let columns = piece.columns();
        if columns.checked_mul(shards) == Some(embedding) {
            Ok(Cut::Columns)
        } else if columns == embedding {
            Ok(Cut::Rows)
        } else {
            let (path, tensor) = (path.to_path_buf(), piece.name.clone());
            let expected = vec![piece.rows(), embedding / shards];
            Err(Error::Shape { path, tensor, expected, found: piece.shape.clone() })
        }
    }

    /// Into how many shards Meta cut the model that has these pieces: its attention outputs are
    /// square and cut by columns.
    pub(crate) fn shard_count(&self, pieces: &[PublishedTensor], embedding: u64) -> Option<u64> {
        let square = self.rows().find(|row| row.gguf == "blk.{}.attn_output")?;
        let columns = pieces.iter().find(|piece| is_meta_name(square, &piece.name))?.columns();
        let whole = columns > 0 && embedding.is_multiple_of(columns);
        whole.then(|| embedding / columns)
    }
}

/// A module of Hugging Face's classes that holds a tensor of the architecture. Names lack `.weight`.
#[derive(Clone, Debug)]
pub(crate) struct Module {
    pub(crate) hugging_face: String,
    /// The name in the checkpoint.
    pub(crate) published: String,
    pub(crate) gguf: String,
    /// Of the weight, rows first.
    pub(crate) extents: Vec<u64>,
    /// Rows of a head, where Hugging Face orders rows otherwise than the authors and GGUF do.
    pub(crate) head_rows: Option<u64>,
    pub(crate) presence: Presence,
    pub(crate) is_vocabulary: bool,
}

impl Architecture {
    /// Every module of a model but for its experts, in output order; `naming` is that of its
    /// checkpoint.
    pub(crate) fn modules(
        &self,
        naming: Naming,
        hyperparameters: &Hyperparameters,
    ) -> impl Iterator<Item = Module> {
        let global = self.global.iter().map(|row| (row, None));
        let blocks = 0..hyperparameters.layers;
        let in_blocks =
            blocks.flat_map(|block| self.block_rows().map(move |row| (row, Some(block))));
        let rows = global.chain(in_blocks);
        let rows = rows.filter(|(row, _)| !matches!(row.shape, Shape::MatrixPerExpert(..)));
        rows.map(move |(row, block)| Module {
            hugging_face: numbered(row.hugging_face, block),
            published: numbered(row.stem(naming), block),
            gguf: numbered(row.gguf, block),
            extents: row.extents(hyperparameters),
            head_rows: (row.order == RowOrder::EvenThenOdd)
                .then_some(hyperparameters.head_dim.into()),
            presence: row.presence,
            is_vocabulary: matches!(row.shape, Shape::Matrix(Extent::Vocabulary, _)),
        })
    }
}

/// A name of the table with the block's number.
pub(super) fn numbered(stem: &str, block: Option<u32>) -> String {
    match block {
        Some(block) => stem.replacen("{}", &block.to_string(), 1),
        None => stem.to_owned(),
    }
}

/// The row of Hugging Face's that is row `row` of the authors' and GGUF's, where each head of `head`
/// rows is [`RowOrder::EvenThenOdd`].
pub(crate) fn published_row(row: u64, head: u64) -> u64 {
    let inside = row % head;
    row - inside + inside % 2 * (head / 2) + inside / 2
}

fn is_meta_name(row: &Row, name: &str) -> bool {
    let Some(stem) = name.strip_suffix(".weight") else { return false };
    match row.meta.split_once("{}") {
        None => stem == row.meta,
        Some((before, after)) => stem
            .strip_prefix(before)
            .and_then(|rest| rest.strip_suffix(after))
            .is_some_and(|number| number.bytes().all(|byte| byte.is_ascii_digit())),
    }
}
