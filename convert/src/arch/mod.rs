//! Architectures: one file each, holding its names and its table of tensors, and one row of
//! [`ALL`].

mod hyperparameters;
mod llama;
mod mapping;
mod rope;
mod tensors;

pub(crate) use hyperparameters::{Hyperparameters, RopeScaling};
pub(crate) use llama::LLAMA;
pub(crate) use mapping::{MappedTensor, Origin, nearest};
pub(crate) use rope::Llama3Rope;
use tensors::Row;
pub(crate) use tensors::{Module, Presence, published_row};

/// Every architecture that is read.
pub(crate) const ALL: &[&Architecture] = &[&LLAMA];

/// What models of one architecture have in common.
#[derive(Debug)]
pub(crate) struct Architecture {
    /// The value of `general.architecture`, and the prefix of this architecture's keys.
    pub(crate) name: &'static str,
    /// Values of `architectures` in `config.json` that mean it.
    pub(crate) classes: &'static [&'static str],
    /// The value of `model_type` in `config.json` that means it.
    pub(crate) model_type: &'static str,
    /// Tensors that belong to no block, in output order.
    global: &'static [Row],
    /// Tensors of each block, in output order.
    block: &'static [Row],
}

/// Whose names a checkpoint uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Naming {
    HuggingFace,
    Meta,
}

impl Architecture {
    fn rows(&self) -> impl Iterator<Item = &'static Row> {
        self.global.iter().chain(self.block)
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
            assert!(architecture.block.iter().all(|row| row.gguf.starts_with("blk.{}.")));
        }
        let classes: Vec<_> = ALL.iter().flat_map(|architecture| architecture.classes).collect();
        assert_eq!(classes.iter().collect::<HashSet<_>>().len(), classes.len());
    }
}
