//! The rules of the mixes.

use std::collections::HashMap;

use llq_gguf::{TensorSpec, TensorType};

use super::{Guidance, Mix, ModelShape, Purity, Recipe, shape::Head};

/// The type a tensor gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Assignment {
    /// The type.
    pub tensor_type: TensorType,
    /// Set where the shape forbids the type the mix wanted.
    pub fallback: Option<Fallback>,
}

/// Why a tensor got another type than its mix says: rows must be whole blocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fallback {
    /// The type the mix wanted.
    pub wanted: TensorType,
    /// Weights in a row of the tensor.
    pub cols: u64,
}

/// The type of each tensor, in the order of `tensors`. The order does not matter to the rules:
/// they count the blocks by their number.
pub fn assign(recipe: &Recipe, shape: &ModelShape, tensors: &[TensorSpec]) -> Vec<Assignment> {
    let ranks = ranks(tensors, shape);
    tensors
        .iter()
        .zip(ranks)
        .map(|(tensor, rank)| {
            if !is_quantized(tensor) {
                return Assignment { tensor_type: kept(tensor.tensor_type), fallback: None };
            }
            let wanted = match recipe.purity {
                Purity::Pure => recipe.mix.base(),
                Purity::Mixed => mixed(recipe, shape, tensor, rank),
            };
            fit(wanted, tensor.shape[0])
        })
        .collect()
}

/// What a tensor is for, as far as the rules tell tensors apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Role {
    Output,
    TokenEmbedding,
    /// Also a fused QKV or compressed KV projection.
    AttentionValue,
    AttentionKey,
    AttentionOutput,
    FeedForwardDown,
    Other,
}

impl Role {
    fn of(name: &str) -> Role {
        const BY_PART: &[(&str, Role)] = &[
            ("attn_qkv", Role::AttentionValue),
            ("attn_kv_b", Role::AttentionValue),
            ("attn_v", Role::AttentionValue),
            ("attn_k", Role::AttentionKey),
            ("attn_output", Role::AttentionOutput),
            ("ffn_down", Role::FeedForwardDown),
        ];
        match name {
            "output.weight" => Role::Output,
            "token_embd.weight" => Role::TokenEmbedding,
            _ => BY_PART
                .iter()
                .find(|(part, _)| name.contains(part))
                .map_or(Role::Other, |&(_, role)| role),
        }
    }
}

/// Where a tensor stands among those of its role.
#[derive(Clone, Copy, Debug)]
struct Rank {
    index: u64,
    of: u64,
}

impl Rank {
    fn in_first_eighth(self) -> bool {
        self.index < self.of / 8
    }

    fn in_first_sixteenth(self) -> bool {
        self.index < self.of / 16
    }

    /// The first and the last eighth, and every third block between.
    fn gets_more_bits(self) -> bool {
        let eighth = self.of / 8;
        // A file may claim any number of blocks: seven times that can be too much.
        let last_eighth = self.of.saturating_mul(7) / 8;
        self.index < eighth || self.index >= last_eighth || (self.index - eighth) % 3 == 2
    }
}

fn ranks(tensors: &[TensorSpec], shape: &ModelShape) -> Vec<Rank> {
    let mut order: Vec<usize> = (0..tensors.len()).collect();
    order.sort_by_key(|&i| (block_number(&tensors[i].name), tensors[i].name.as_str()));

    let mut counts: HashMap<Role, u64> = HashMap::new();
    let mut ranks = vec![Rank { index: 0, of: 0 }; tensors.len()];
    for i in order {
        let name = &tensors[i].name;
        let count = counts.entry(Role::of(name)).or_default();
        let counted = *count;
        *count += 1;
        // Experts of one block share its rank.
        let by_name = if shape.experts > 1 { block_number(name) } else { None };
        ranks[i].index = by_name.unwrap_or(counted);
    }
    for (rank, tensor) in ranks.iter_mut().zip(tensors) {
        let role = Role::of(&tensor.name);
        rank.of = match role {
            Role::FeedForwardDown => shape.layers,
            _ => counts.get(&role).copied().unwrap_or(0),
        };
    }
    ranks
}

/// The N of `blk.N.…`.
fn block_number(name: &str) -> Option<u64> {
    name.strip_prefix("blk.")?.split('.').next()?.parse().ok()
}

/// Whether a mix touches the tensor at all: matrices that are multiplied with, but not those that
/// are small and delicate.
pub fn is_quantized(tensor: &TensorSpec) -> bool {
    const NEVER: &[&str] = &[
        "_norm.weight",
        "altup",
        "attn_rel_b.weight",
        "ffn_gate_inp.weight",
        "ffn_gate_tid2eid.weight",
        "laurel",
        "per_layer_model_proj",
        "position_embd",
        "shortconv.conv.weight",
        "ssm_conv1d",
        "time_mix_",
        "token_types",
    ];
    // The last two are the factors of a LoRA adapter.
    const ENDS: &[&str] = &["weight", ".lora_a", ".lora_b"];
    tensor.shape.len() >= 2
        && ENDS.iter().any(|end| tensor.name.ends_with(end))
        && !NEVER.iter().any(|part| tensor.name.contains(part))
        && is_float(tensor.tensor_type)
}

fn is_float(tensor_type: TensorType) -> bool {
    use TensorType::{F64, I8, I16, I32, I64};
    !matches!(tensor_type, F64 | I8 | I16 | I32 | I64)
}

/// The type of a tensor that no mix touches: half floats widen, as the evaluators want norms and
/// routers in F32; all others stay.
fn kept(source: TensorType) -> TensorType {
    match source {
        TensorType::F16 | TensorType::BF16 => TensorType::F32,
        other => other,
    }
}

fn mixed(recipe: &Recipe, shape: &ModelShape, tensor: &TensorSpec, rank: Rank) -> TensorType {
    let base = recipe.mix.base();
    if base.block_weights() == 1 {
        return base;
    }
    match Role::of(&tensor.name) {
        Role::Output => output(base, tensor.shape[0]),
        Role::TokenEmbedding if shape.head == Head::Tied => output(base, tensor.shape[0]),
        Role::AttentionValue => attention_value(recipe.mix, shape, rank),
        Role::AttentionKey if shape.experts == 8 => TensorType::Q8_0,
        Role::AttentionOutput => attention_output(recipe.mix, shape),
        Role::FeedForwardDown => feed_forward_down(recipe, rank),
        _ => base,
    }
}

fn output(base: TensorType, cols: u64) -> TensorType {
    if base == TensorType::Q8_0 || base.row_bytes(cols).is_none() {
        TensorType::Q8_0
    } else {
        TensorType::Q6_K
    }
}

fn attention_value(mix: Mix, shape: &ModelShape, rank: Rank) -> TensorType {
    use TensorType::{Q3_K, Q4_K, Q5_K, Q6_K, Q8_0};
    let mixed = match mix {
        Mix::Q2_K if shape.grouping() >= 4 => Q4_K,
        Mix::Q2_K => Q3_K,
        Mix::Q2_K_S if shape.grouping() >= 4 => Q4_K,
        Mix::Q3_K_M if rank.index < 2 => Q5_K,
        Mix::Q3_K_M => Q4_K,
        Mix::Q3_K_L => Q5_K,
        Mix::Q4_K_M | Mix::Q5_K_M if rank.gets_more_bits() => Q6_K,
        Mix::Q4_K_S if rank.index < 4 => Q5_K,
        _ => mix.base(),
    };
    if shape.experts == 8 {
        Q8_0
    } else if shape.is_70b() && matches!(mixed, Q3_K | Q4_K) {
        Q5_K
    } else {
        mixed
    }
}

fn attention_output(mix: Mix, shape: &ModelShape) -> TensorType {
    use TensorType::{Q3_K, Q4_K, Q5_K};
    match mix {
        Mix::Q2_K | Mix::Q3_K_S | Mix::Q3_K_M | Mix::Q4_K_S | Mix::Q4_K_M if shape.experts == 8 => {
            Q5_K
        }
        Mix::Q2_K => Q3_K,
        Mix::Q3_K_M => Q4_K,
        // Mixtures of eight keep the base type here.
        Mix::Q3_K_L if shape.experts != 8 => Q5_K,
        _ => mix.base(),
    }
}

fn feed_forward_down(recipe: &Recipe, rank: Rank) -> TensorType {
    use TensorType::{Q3_K, Q4_1, Q4_K, Q5_1, Q5_K, Q6_K};
    match recipe.mix {
        Mix::Q2_K => Q3_K,
        Mix::Q2_K_S if rank.in_first_eighth() => Q4_K,
        Mix::Q3_K_M if rank.in_first_sixteenth() => Q5_K,
        Mix::Q3_K_M => Q4_K,
        Mix::Q3_K_L => Q5_K,
        Mix::Q4_K_M | Mix::Q5_K_M if rank.gets_more_bits() => Q6_K,
        Mix::Q4_K_S if rank.in_first_eighth() => Q5_K,
        Mix::Q4_0 if recipe.guidance == Guidance::Importance && rank.in_first_eighth() => Q4_1,
        Mix::Q5_0 if recipe.guidance == Guidance::Importance && rank.in_first_eighth() => Q5_1,
        mix => mix.base(),
    }
}

/// The type nearest to `wanted` whose blocks fill rows of `cols` weights.
pub fn fit(wanted: TensorType, cols: u64) -> Assignment {
    use TensorType::{F16, Q2_K, Q3_K, Q4_0, Q4_K, Q5_0, Q5_1, Q5_K, Q6_K, Q8_0};
    if wanted.row_bytes(cols).is_some() {
        return Assignment { tensor_type: wanted, fallback: None };
    }
    let narrower = match wanted {
        Q2_K | Q3_K => Q4_0,
        Q4_K => Q5_0,
        Q5_K => Q5_1,
        Q6_K => Q8_0,
        _ => F16,
    };
    let tensor_type = if narrower.row_bytes(cols).is_some() { narrower } else { F16 };
    Assignment { tensor_type, fallback: Some(Fallback { wanted, cols }) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn llama(layers: u64, cols: u64) -> Vec<TensorSpec> {
        let tensor = |name: String, shape: &[u64]| TensorSpec {
            name,
            shape: shape.to_vec(),
            tensor_type: TensorType::BF16,
        };
        let mut tensors = vec![
            tensor("token_embd.weight".into(), &[cols, 4096]),
            tensor("output_norm.weight".into(), &[cols]),
            tensor("output.weight".into(), &[cols, 4096]),
        ];
        for layer in 0..layers {
            for part in
                ["attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down"]
            {
                tensors.push(tensor(format!("blk.{layer}.{part}.weight"), &[cols, 256]));
            }
            tensors.push(tensor(format!("blk.{layer}.attn_norm.weight"), &[cols]));
        }
        tensors
    }

    fn shape(layers: u64, heads: u64, kv_heads: u64) -> ModelShape {
        ModelShape { layers, heads, kv_heads, experts: 0, head: Head::Separate }
    }

    fn count(assigned: &[Assignment], tensor_type: TensorType) -> usize {
        assigned.iter().filter(|a| a.tensor_type == tensor_type).count()
    }

    /// Published Q4_K_M files of Llama-3-8B have these counts.
    #[test]
    fn q4_k_m_of_32_layers() {
        let assigned = assign(&Recipe::new(Mix::Q4_K_M), &shape(32, 32, 8), &llama(32, 4096));
        assert_eq!(count(&assigned, TensorType::Q4_K), 193);
        assert_eq!(count(&assigned, TensorType::Q6_K), 33);
        assert_eq!(count(&assigned, TensorType::F32), 33);
    }

    #[test]
    fn order_of_tensors_does_not_matter() {
        let mut tensors = llama(9, 256);
        let forward = assign(&Recipe::new(Mix::Q3_K_M), &shape(9, 8, 4), &tensors);
        tensors.reverse();
        let mut backward = assign(&Recipe::new(Mix::Q3_K_M), &shape(9, 8, 4), &tensors);
        backward.reverse();
        assert_eq!(forward, backward);
    }

    #[test]
    fn value_projections_of_70b_get_five_bits() {
        let tensors = llama(80, 256);
        let assigned = assign(&Recipe::new(Mix::Q4_K_S), &shape(80, 64, 8), &tensors);
        for (tensor, assignment) in tensors.iter().zip(assigned) {
            if tensor.name.contains("attn_v") {
                assert_eq!(assignment.tensor_type, TensorType::Q5_K, "{}", tensor.name);
            }
        }
    }

    #[test]
    fn rows_that_blocks_do_not_fill_fall_back() {
        let fallback = |wanted, cols| Some(Fallback { wanted, cols });
        let expect = |wanted, cols, tensor_type| {
            let fallback = fallback(wanted, cols);
            assert_eq!(fit(wanted, cols), Assignment { tensor_type, fallback });
        };
        expect(TensorType::Q2_K, 96, TensorType::Q4_0);
        expect(TensorType::Q4_K, 96, TensorType::Q5_0);
        expect(TensorType::Q5_K, 96, TensorType::Q5_1);
        expect(TensorType::Q6_K, 96, TensorType::Q8_0);
        expect(TensorType::Q6_K, 40, TensorType::F16);
        expect(TensorType::Q8_0, 40, TensorType::F16);
    }

    #[test]
    fn any_number_of_blocks_is_survived() {
        for layers in [0, 1, 80, u64::MAX / 7 + 1, u64::MAX] {
            for &mix in Mix::ALL {
                for experts in [0, 8, u64::MAX] {
                    let shape = ModelShape { experts, ..shape(layers, u64::MAX, 1) };
                    assert_eq!(assign(&Recipe::new(mix), &shape, &llama(2, 256)).len(), 19);
                }
            }
        }
    }

    #[test]
    fn pure_leaves_norms_alone() {
        let recipe = Recipe { purity: Purity::Pure, ..Recipe::new(Mix::Q2_K) };
        let assigned = assign(&recipe, &shape(2, 8, 8), &llama(2, 256));
        assert_eq!(count(&assigned, TensorType::Q2_K), 16);
        assert_eq!(count(&assigned, TensorType::F32), 3);
    }
}
