//! Architectures: one file each, holding its names and its table of tensors, and one row of
//! [`ALL`].

mod hyperparameters;
mod llama;
mod mapping;
mod mixtral;
mod rope;
mod tensors;

pub(crate) use hyperparameters::{Experts, Hyperparameters, RopeScaling};
pub(crate) use llama::LLAMA;
pub(crate) use mapping::{MappedTensor, Origin, nearest};
pub(crate) use mixtral::MIXTRAL;
pub(crate) use rope::Llama3Rope;
pub(crate) use tensors::{Module, Presence, published_row};
use tensors::{Row, Shape};

/// Every architecture that is read.
pub(crate) const ALL: &[&Architecture] = &[&LLAMA, &MIXTRAL];

/// What models of one architecture have in common.
#[derive(Debug)]
pub(crate) struct Architecture {
    /// The value of `general.architecture`, and the prefix of this architecture's keys.
    pub(crate) name: &'static str,
    /// Values of `architectures` in `config.json` that mean it.
    pub(crate) classes: &'static [&'static str],
    /// Values of `model_type` in `config.json` that mean it.
    pub(crate) model_types: &'static [&'static str],
    /// Tensors that belong to no block, in output order.
    global: &'static [Row],
    /// Tensors of each block, part after part in output order.
    block: &'static [&'static [Row]],
}

/// Whose names a checkpoint uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Naming {
    HuggingFace,
    Meta,
}

impl Architecture {
    fn rows(&self) -> impl Iterator<Item = &'static Row> {
        self.global.iter().chain(self.block_rows())
    }

    /// Whether blocks have experts in place of one feed-forward network.
    pub(crate) fn has_experts(&self) -> bool {
        self.block_rows().any(|row| matches!(row.shape, Shape::MatrixPerExpert(..)))
    }

    fn block_rows(&self) -> impl Iterator<Item = &'static Row> {
        self.block.iter().copied().flatten()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn names_are_unique() {
        let columns: [fn(&Row) -> &str; 3] =
            [|row| row.gguf, |row| row.hugging_face, |row| row.meta];
        for architecture in ALL {
            for name in columns {
                let names: HashSet<&str> = architecture.rows().map(name).collect();
                assert_eq!(names.len(), architecture.rows().count(), "{}", architecture.name);
            }
            assert!(architecture.block_rows().all(|row| row.gguf.starts_with("blk.{}.")));
        }
        let classes: Vec<_> = ALL.iter().flat_map(|architecture| architecture.classes).collect();
        assert_eq!(classes.iter().collect::<HashSet<_>>().len(), classes.len());
    }
}
