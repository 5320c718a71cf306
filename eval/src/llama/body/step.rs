//! One more token of each of some sequences, beside the keys and values of those before it.

use llq_quant::{Rows, causal_attention};
use rayon::prelude::*;

use super::{Body, Workspace};
use crate::llama::Hyperparameters;

/// Keys and values of the tokens of one sequence so far.
#[derive(Debug)]
pub(crate) struct Cache {
    /// Block after block, the key-value heads of each.
    heads: Vec<Head>,
    tokens: usize,
}

/// Rows of one head, a token after the other.
#[derive(Debug)]
struct Head {
    keys: Vec<f32>,
    values: Vec<f32>,
}

impl Cache {
    /// Bytes of a cache of `context` tokens: a key and a value of f32 for each, of every key-value
    /// head of every block. `None` where that is no number of 64 bits.
    pub(crate) fn bytes(sizes: &Hyperparameters, context: usize) -> Option<u64> {
        let row = sizes.key_length.checked_add(sizes.value_length)?.checked_mul(size_of::<f32>())?;
        let token = row.checked_mul(sizes.head_count_kv)?.checked_mul(sizes.block_count)?;
        u64::try_from(token.checked_mul(context)?).ok()
    }

    /// Room for `context` tokens, whose [`bytes`](Self::bytes) the caller has found to be bearable.
    pub(crate) fn new(sizes: &Hyperparameters, context: usize) -> Cache {
        let head = |_| Head {
            keys: Vec::with_capacity(context * sizes.key_length),
            values: Vec::with_capacity(context * sizes.value_length),
        };
        let heads = (0..sizes.block_count * sizes.head_count_kv).map(head).collect();
        Cache { heads, tokens: 0 }
    }

    /// Forgets all tokens.
    pub(crate) fn clear(&mut self) {
        self.tokens = 0;
        for Head { keys, values } in &mut self.heads {
            keys.clear();
            values.clear();
        }
    }
}

impl Body<'_> {
    /// The final hidden states, after the output norm, of one token of each of some sequences: a row of
    /// `embedding_length` for each. A token comes after those that its cache has, and is kept there.
    ///
    /// The bits are those of [`hidden`](Self::hidden) over the whole sequence.
    ///
    /// # Panics
    /// If a cache is full: of as many tokens as this body's windows.
    pub(crate) fn step(
        &self,
        tokens: &[u32],
        caches: &mut [&mut Cache],
        work: &mut Workspace,
    ) -> Vec<f32> {
        self.embed(tokens.iter(), work);
        let positions: Vec<usize> = caches.iter().map(|cache| cache.tokens).collect();
        for index in 0..self.llama.blocks.len() {
            self.step_block(index, &positions, caches, work);
        }
        for cache in caches {
            cache.tokens += 1;
        }
        self.output_norm(work)
    }

    fn step_block(
        &self,
        index: usize,
        positions: &[usize],
        caches: &mut [&mut Cache],
        work: &mut Workspace,
    ) {
        let block = &self.llama.blocks[index];
        self.norm(&block.attention_norm, &[&block.key, &block.value, &block.query], work);
        self.keys_and_values(block, positions.iter().copied(), work);
        self.queries(block, positions.iter().copied(), work);
        self.keep(index, caches, work);
        self.attend_cached(index, caches, work);
        self.after_attention(index, work, &mut ());
    }

    /// Moves the keys and values of a block to the caches.
    fn keep(&self, index: usize, caches: &mut [&mut Cache], work: &Workspace) {
        let sizes = &self.llama.hyperparameters;
        let count = sizes.head_count_kv;
        caches.par_iter_mut().enumerate().for_each(|(token, cache)| {
            for (head, kept) in cache.heads[index * count..][..count].iter_mut().enumerate() {
                let (key, _) = work.keys.column(token, head * sizes.key_length);
                let (value, _) = work.values.column(token, head * sizes.value_length);
                kept.keys.extend_from_slice(&key[..sizes.key_length]);
                kept.values.extend_from_slice(&value[..sizes.value_length]);
            }
        });
    }

    /// Mixes the values that each token's queries see. Each key-value head of a sequence is a task.
    fn attend_cached(&self, index: usize, caches: &[&mut Cache], work: &mut Workspace) {
        let sizes = &self.llama.hyperparameters;
        let (key_length, value_length) = (sizes.key_length, sizes.value_length);
        let group = sizes.head_count / sizes.head_count_kv;
        let Workspace { queries, mixed, attention, .. } = work;
        mixed.reshape(caches.len(), sizes.head_count * value_length, group * value_length);
        mixed.par_pieces_mut(1).enumerate().for_each(|(piece, out)| {
            let (shared, token) = (piece / caches.len(), piece % caches.len());
            let head = &caches[token].heads[index * sizes.head_count_kv + shared];
            let seen = head.keys.len() / key_length;
            let queries: Vec<Rows<'_>> = (shared * group..(shared + 1) * group)
                .map(|head| {
                    let (query, stride) = queries.column(token, head * key_length);
                    Rows::new(query, 1, key_length, stride)
                })
                .collect();
            let keys = Rows::new(&head.keys, seen, key_length, key_length);
            let values = Rows::new(&head.values, seen, value_length, value_length);
            attention.with(|scratch| {
                causal_attention(self.kernels, &queries, keys, values, out, scratch);
            });
        });
    }
}
