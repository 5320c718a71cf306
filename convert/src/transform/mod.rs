//! Exact transforms: the same function with its channels in another order or at another scale, in
//! the same tensors.
//!
//! What stands between two matrices is not seen from outside: a channel may move if all that write
//! or read it move it too, and what one side multiplies the other may divide by. Free are
//!
//! | channels | written by | read by |
//! |---|---|---|
//! | the residual stream | `token_embd`, `attn_output`, `ffn_down` | the norms, then `attn_q`, `attn_k`, `attn_v`, `ffn_gate`, `ffn_up`, `output` |
//! | values of a key-value head | `attn_v` | `attn_output`, once for each query head of the group |
//! | inside the feed-forward network | `ffn_gate`, `ffn_up` | `ffn_down` |
//!
//! Order: all three. Scale: the last two, and from each norm into what reads it (Lin et al., "AWQ",
//! 2023). Scaled weights are F32, so that only their last bit is rounded. Queries and keys stay: their
//! channels are turned in pairs, each at its own frequency.

mod channels;
mod error;
mod model;
mod source;

use llq_gguf::{Metadata, TensorSpec, TensorType, Value};
use llq_quant::mix::Mix;

use self::{
    channels::{Axis, Channels},
    model::Model,
    source::{Axes, Transformed},
};
use crate::{Error, Imatrix, Note, Source, error::Result, source::columns};

pub use self::error::TransformError;

/// An exact transform.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transform {
    /// Channels move so that each group of a row has an equal share of those that carry much.
    Order,
    /// What reads channels that carry more gets larger weights, and what writes them smaller ones:
    /// by the eighth root of their energy.
    Scale,
}

impl Transform {
    /// What metadata calls it.
    pub fn name(self) -> &'static str {
        match self {
            Transform::Order => "order",
            Transform::Scale => "scale",
        }
    }
}

/// The key that says which transforms were applied, for people: loaders pass over it.
const KEY: &str = "llq.transforms";

/// `source`, a LLaMA that is not quantized, with its channels in the order or at the scale that
/// `imatrix` suggests. Nothing is read of it but rows when they are asked for.
///
/// # Errors
/// Another architecture; tensors that are quantized, that no transform is known of, or whose shapes
/// do not belong together; importance of another model, or that lacks a matrix.
pub fn transformed(
    source: Box<dyn Source>,
    imatrix: &Imatrix,
    transforms: &[Transform],
) -> Result<Box<dyn Source>> {
    let path = source.path().to_path_buf();
    let fails = |problem| Error::Transform { path: path.clone(), problem: Box::new(problem) };
    let model = Model::of(&*source).map_err(fails)?;
    let channels = Channels::plan(&model, imatrix, transforms).map_err(fails)?;
    let mut specs = source.tensors().to_vec();
    let mut axes = Vec::with_capacity(specs.len());
    for spec in &mut specs {
        let own = axes_of(&spec.name, &channels)
            .filter(|axes| axes.fit(spec))
            .ok_or_else(|| fails(TransformError::Tensor { tensor: spec.name.clone() }))?;
        spec.tensor_type = carrier(spec, &own).map_err(fails)?;
        axes.push(own);
    }
    let notes = source.notes().iter().cloned().chain(unscaled(&model, imatrix, transforms));
    let notes = notes.collect();
    let widened = specs.iter().zip(source.tensors()).any(|(new, old)| new != old);
    let metadata = marked(source.metadata(), transforms, widened.then_some(Mix::F32));
    Ok(Box::new(Transformed { source, metadata, specs, axes, notes }))
}

/// What happens to the columns and the rows of a tensor. `None` where that is not known.
fn axes_of(name: &str, channels: &Channels) -> Option<Axes> {
    let stream = || channels.stream.clone();
    let axes = match name {
        "token_embd.weight" => Axes::columns(stream()),
        "output_norm.weight" => Axes::columns(stream().scaled(&channels.output.inverse())),
        "output.weight" => Axes::columns(stream().scaled(&channels.output)),
        "rope_freqs.weight" => Axes::default(),
        _ => {
            let (index, part) = name.strip_prefix("blk.")?.split_once('.')?;
            let block = channels.blocks.get(index.parse::<usize>().ok()?)?;
            let (attention, feed_forward) = (&block.attention, &block.feed_forward);
            match part {
                "attn_norm.weight" => Axes::columns(stream().scaled(&attention.inverse())),
                "ffn_norm.weight" => Axes::columns(stream().scaled(&feed_forward.inverse())),
                "attn_q.weight" | "attn_k.weight" => Axes::columns(stream().scaled(attention)),
                "attn_q.bias" | "attn_k.bias" => Axes::default(),
                "attn_v.weight" => {
                    Axes::new(stream().scaled(attention), block.values.written.clone())
                }
                "attn_v.bias" => Axes::columns(block.values.written.clone()),
                "attn_output.weight" => Axes::new(block.values.read.clone(), stream()),
                "ffn_gate.weight" => {
                    Axes::new(stream().scaled(feed_forward), block.hidden.gated.clone())
                }
                "ffn_gate.bias" => Axes::columns(block.hidden.gated.clone()),
                "ffn_up.weight" => {
                    Axes::new(stream().scaled(feed_forward), block.hidden.written.clone())
                }
                "ffn_up.bias" => Axes::columns(block.hidden.written.clone()),
                "ffn_down.weight" => Axes::new(block.hidden.read.clone(), stream()),
                "attn_output.bias" | "ffn_down.bias" => Axes::columns(stream()),
                _ => return None,
            }
        }
    };
    Some(axes)
}

/// A type that holds the transformed weights as they are.
fn carrier(spec: &TensorSpec, axes: &Axes) -> std::result::Result<TensorType, TransformError> {
    match spec.tensor_type {
        TensorType::F16 | TensorType::BF16 if axes.are_scaled() => Ok(TensorType::F32),
        plain @ (TensorType::F32 | TensorType::F16 | TensorType::BF16) => Ok(plain),
        found => Err(TransformError::Quantized { tensor: spec.name.clone(), found }),
    }
}

/// Says so where the head keeps its scale, as files of importance have it only if asked.
fn unscaled(model: &Model, imatrix: &Imatrix, transforms: &[Transform]) -> Option<Note> {
    let wanted = transforms.contains(&Transform::Scale) && model.has_output;
    (wanted && imatrix.entry("output.weight").is_none()).then(|| {
        Note(format!("output.weight keeps its scale, as {} does not know it", imatrix.name()))
    })
}

fn marked(metadata: &Metadata, transforms: &[Transform], widened: Option<Mix>) -> Metadata {
    let mut metadata = metadata.clone();
    if let Some(mix) = widened {
        metadata.set("general.file_type", Value::U32(mix.file_type()));
    }
    let before = metadata.string(KEY).map(str::to_owned).ok();
    let names = transforms.iter().map(|transform| transform.name().to_owned());
    metadata.set(KEY, before.into_iter().chain(names).collect::<Vec<_>>().join(","));
    metadata
}
