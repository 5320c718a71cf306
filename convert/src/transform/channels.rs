//! The order and the scales of a model's channels.

use std::sync::Arc;

use super::{Transform, TransformError, model::Model};
use crate::Imatrix;

type Result<T> = std::result::Result<T, TransformError>;

/// What happens along one axis of a tensor: at `i` stands what stood at `order[i]`, times
/// `scales[i]`. Without either all stays.
#[derive(Clone, Debug, Default)]
pub(super) struct Axis {
    pub(super) order: Option<Arc<[u32]>>,
    pub(super) scales: Option<Arc<[f32]>>,
}

/// Scales in the old order; `None` for ones.
#[derive(Clone, Debug, Default)]
pub(super) struct Scales(Option<Arc<[f32]>>);

/// All channels of a model.
pub(super) struct Channels {
    pub(super) stream: Axis,
    /// Of what reads the output norm.
    pub(super) output: Scales,
    pub(super) blocks: Vec<BlockChannels>,
}

/// The channels of a block.
pub(super) struct BlockChannels {
    /// Of what reads the attention norm.
    pub(super) attention: Scales,
    /// Of what reads the norm of the feed-forward network.
    pub(super) feed_forward: Scales,
    pub(super) values: Values,
    pub(super) hidden: Hidden,
}

/// The channels of values.
pub(super) struct Values {
    /// As `attn_v` writes them.
    pub(super) written: Axis,
    /// As `attn_output` reads them, those of a key-value head once for each query head.
    pub(super) read: Axis,
}

/// The channels inside the feed-forward network.
pub(super) struct Hidden {
    /// As `ffn_gate` writes them, which is not linear in what follows: it keeps its scale.
    pub(super) gated: Axis,
    /// As `ffn_up` writes them.
    pub(super) written: Axis,
    /// As `ffn_down` reads them.
    pub(super) read: Axis,
}

impl Channels {
    pub(super) fn plan(
        model: &Model,
        imatrix: &Imatrix,
        transforms: &[Transform],
    ) -> Result<Channels> {
        let energies = Energies(imatrix);
        let reordered = transforms.contains(&Transform::Order);
        let order = |energy: &[f32]| reordered.then(|| dealt(energy));
        let scales = |energy: &[f32]| match transforms.contains(&Transform::Scale) {
            true => Scales(Some(eighth_roots(energy))),
            false => Scales::default(),
        };
        let mut stream = Vec::new();
        let mut blocks = Vec::with_capacity(model.hidden.len());
        for (index, &hidden) in model.hidden.iter().enumerate() {
            let of = |part: &str, columns| energies.of(&format!("blk.{index}.{part}"), columns);
            let attention = of("attn_q.weight", model.width)?;
            let feed_forward = of("ffn_gate.weight", model.width)?;
            add_shares(&mut stream, &attention);
            add_shares(&mut stream, &feed_forward);
            let mixed = of("attn_output.weight", model.heads * model.head_length)?;
            let values = summed_over_groups(&mixed, model);
            let by_head = reordered.then(|| in_heads(&values, model.head_length as usize));
            let hidden = of("ffn_down.weight", hidden)?;
            blocks.push(BlockChannels {
                attention: scales(&attention),
                feed_forward: scales(&feed_forward),
                values: Values::new(by_head, &scales(&values), model),
                hidden: Hidden::new(order(&hidden), &scales(&hidden)),
            });
        }
        let output = match imatrix.entry("output.weight") {
            Some(_) if model.has_output => scales(&energies.of("output.weight", model.width)?),
            _ => Scales::default(),
        };
        Ok(Channels { stream: Axis { order: order(&stream), scales: None }, output, blocks })
    }
}

impl Axis {
    pub(super) fn fits(&self, channels: u64) -> bool {
        let orders = self.order.iter().map(|order| order.len());
        let scales = self.scales.iter().map(|scales| scales.len());
        orders.chain(scales).all(|len| len as u64 == channels)
    }

    /// The same with these scales besides, which are in the old order.
    pub(super) fn scaled(self, scales: &Scales) -> Axis {
        let Some(own) = &scales.0 else { return self };
        let scales = match &self.order {
            Some(order) => order.iter().map(|&i| own[i as usize]).collect(),
            None => own.clone(),
        };
        Axis { order: self.order, scales: Some(scales) }
    }
}

impl Scales {
    /// By which the other side is multiplied.
    pub(super) fn inverse(&self) -> Scales {
        Scales(self.0.as_ref().map(|scales| scales.iter().map(|scale| 1.0 / scale).collect()))
    }
}

impl Values {
    fn new(order: Option<Arc<[u32]>>, scales: &Scales, model: &Model) -> Values {
        let group = (model.heads / model.kv_heads) as usize;
        let length = (model.head_length as usize).max(1);
        let for_queries = |order: &Arc<[u32]>| {
            let heads = order.chunks(length).enumerate();
            let repeated = heads.flat_map(|(kv_head, order)| {
                (0..group).flat_map(move |member| {
                    // What a query head reads of its key-value head.
                    let shift = (kv_head * group + member) * length;
                    order.iter().map(move |&i| (shift + i as usize - kv_head * length) as u32)
                })
            });
            repeated.collect()
        };
        let read_scales = scales
            .0
            .as_ref()
            .map(|scales| scales.chunks(length).flat_map(|scales| scales.repeat(group)).collect());
        let read = Axis { order: order.as_ref().map(for_queries), scales: None };
        Values {
            written: Axis { order, scales: None }.scaled(&scales.inverse()),
            read: read.scaled(&Scales(read_scales)),
        }
    }
}

impl Hidden {
    fn new(order: Option<Arc<[u32]>>, scales: &Scales) -> Hidden {
        let gated = Axis { order, scales: None };
        Hidden {
            written: gated.clone().scaled(&scales.inverse()),
            read: gated.clone().scaled(scales),
            gated,
        }
    }
}

/// The mean squares of what matrices read.
struct Energies<'a>(&'a Imatrix);

impl Energies<'_> {
    fn of(&self, tensor: &str, columns: u64) -> Result<Vec<f32>> {
        let missing = || TransformError::NoImportance { tensor: tensor.to_owned() };
        let entry = self.0.entry(tensor).ok_or_else(missing)?;
        let (expected, found) = (columns, entry.columns());
        if found as u64 != expected || entry.matrices() != 1 {
            let tensor = tensor.to_owned();
            return Err(TransformError::Importance { tensor, expected, found });
        }
        Ok(entry.mean_squares())
    }
}

/// Adds every channel's share of the whole.
fn add_shares(sums: &mut Vec<f32>, energy: &[f32]) {
    sums.resize(energy.len(), 0.0);
    let whole = mean(energy).max(f64::from(f32::MIN_POSITIVE));
    for (sum, energy) in sums.iter_mut().zip(energy) {
        *sum += (f64::from(*energy) / whole) as f32;
    }
}

fn mean(energy: &[f32]) -> f64 {
    energy.iter().copied().map(f64::from).sum::<f64>() / energy.len().max(1) as f64
}

/// The energy of every value channel in all query heads that read it.
fn summed_over_groups(mixed: &[f32], model: &Model) -> Vec<f32> {
    let length = (model.head_length as usize).max(1);
    let group = (model.heads / model.kv_heads) as usize;
    let groups = mixed.chunks(group * length);
    let sum =
        |heads: &[f32], i: usize| heads.iter().skip(i).step_by(length).sum::<f32>().min(f32::MAX);
    groups.flat_map(|heads| (0..length).map(move |i| sum(heads, i))).collect()
}

/// Weights that share a scale in most block formats, at the least.
const GROUP: usize = 16;

/// An order in which every group has an equal share of the channels that carry much: sorted, they are
/// dealt to the groups there and back. A scale is then fitted to few weights that matter and many that
/// do not: groups of equals cost 7 % more divergence on the fixture, in Q2_K with importance.
fn dealt(energy: &[f32]) -> Arc<[u32]> {
    let mut sorted: Vec<u32> = (0..energy.len() as u32).collect();
    sorted.sort_by(|&a, &b| energy[b as usize].total_cmp(&energy[a as usize]));
    let groups = energy.len().div_ceil(GROUP);
    let of_group = |group: usize| {
        let there = (group..sorted.len()).step_by(2 * groups);
        let back = (2 * groups - 1 - group..sorted.len()).step_by(2 * groups);
        there.chain(back).map(|rank| sorted[rank])
    };
    (0..groups).flat_map(of_group).collect()
}

/// The same inside each head.
fn in_heads(energy: &[f32], length: usize) -> Arc<[u32]> {
    let heads = energy.chunks(length.max(1)).enumerate();
    let order = heads.flat_map(|(head, energy)| {
        let first = (head * length) as u32;
        dealt(energy).iter().map(|&i| first + i).collect::<Vec<_>>()
    });
    order.collect()
}

/// The eighth roots, of which the geometric mean is one. Fourth roots, as is usual, gain half as much
/// on the fixtures: what they spread out inside a group costs again.
fn eighth_roots(energy: &[f32]) -> Arc<[f32]> {
    /// Of the mean energy this much is added: channels that carry nothing are not scaled by much.
    const FLOOR: f64 = 0.01;
    /// The largest scale and the inverse of the smallest, as a power of two.
    const MOST: f64 = 3.0;
    let floor = (FLOOR * mean(energy)).max(f64::from(f32::MIN_POSITIVE));
    let exponents = energy.iter().map(|&energy| (f64::from(energy) + floor).log2() / 8.0);
    let exponents: Vec<f64> = exponents.collect();
    let middle = exponents.iter().sum::<f64>() / exponents.len().max(1) as f64;
    let scale = |exponent: f64| (exponent - middle).clamp(-MOST, MOST).exp2() as f32;
    exponents.into_iter().map(scale).collect()
}
