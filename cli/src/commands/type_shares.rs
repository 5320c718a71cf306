//! How much of a model has which tensor type.

use std::{cmp::Reverse, collections::BTreeMap};

use llq_gguf::TensorType;
use serde::Serialize;

use crate::{
    figures::{Bytes, Count, bits_per_weight},
    table::{Column, Columns},
};

/// The tensors of one type.
#[derive(Serialize)]
pub(super) struct TypeShare {
    #[serde(rename = "type")]
    pub(super) name: &'static str,
    pub(super) tensors: u64,
    pub(super) parameters: u64,
    pub(super) bytes: u64,
}

/// Sums (type, weights, bytes) of tensors by type; the type with most bytes first.
pub(super) fn type_shares(tensors: impl Iterator<Item = (TensorType, u64, u64)>) -> Vec<TypeShare> {
    let mut shares: BTreeMap<TensorType, TypeShare> = BTreeMap::new();
    for (tensor_type, weights, bytes) in tensors {
        let share = shares.entry(tensor_type).or_insert(TypeShare {
            name: tensor_type.name(),
            tensors: 0,
            parameters: 0,
            bytes: 0,
        });
        share.tensors += 1;
        share.parameters = share.parameters.saturating_add(weights);
        share.bytes = share.bytes.saturating_add(bytes);
    }
    let mut shares: Vec<_> = shares.into_values().collect();
    shares.sort_by_key(|share| Reverse(share.bytes));
    shares
}

/// The shares as a table.
pub(super) fn type_table(shares: &[TypeShare]) -> String {
    let total: u64 = shares.iter().map(|share| share.bytes).fold(0, u64::saturating_add);
    let rows: Vec<_> = shares
        .iter()
        .map(|share| {
            vec![
                share.name.to_owned(),
                Count(share.tensors).to_string(),
                Count(share.parameters).to_string(),
                Bytes(share.bytes).to_string(),
                format!("{:.1} %", 100.0 * share.bytes as f64 / total.max(1) as f64),
                format!("{:.2}", bits_per_weight(share.bytes, share.parameters)),
            ]
        })
        .collect();
    Columns::new([
        Column::left("type"),
        Column::right("tensors"),
        Column::right("parameters"),
        Column::right("size"),
        Column::right("share"),
        Column::right("bits/weight"),
    ])
    .table(&rows)
}
