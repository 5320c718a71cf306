//! Mixes: which tensor of a model gets which type.
//!
//! A mix such as `Q4_K_M` has a base type and rules that give some tensors more bits. The rules
//! are those of llama.cpp's quantizer, so that a file of a given name has the size and the tensor
//! types its users expect.

mod rules;
mod shape;

use std::fmt;

use llq_gguf::TensorType;

pub use rules::{Assignment, Fallback, assign, fit, is_quantized};
pub use shape::{Head, ModelShape};

macro_rules! mixes {
    ($($variant:ident = $file_type:literal, $name:literal, $base:ident;)*) => {
        /// A file type: a base type and, for the K-quants, how generous the mix is.
        #[allow(non_camel_case_types)] // the field writes Q4_K_M, not Q4KM
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[non_exhaustive]
        pub enum Mix {
            $(#[doc = concat!("`", $name, "`")] $variant,)*
        }

        impl Mix {
            /// Every mix, from the largest file to the smallest.
            pub const ALL: &[Mix] = &[$(Mix::$variant),*];

            /// The name, such as `Q4_K_M`.
            pub const fn name(self) -> &'static str {
                match self { $(Mix::$variant => $name,)* }
            }

            /// The value of `general.file_type`.
            pub const fn file_type(self) -> u32 {
                match self { $(Mix::$variant => $file_type,)* }
            }

            /// The type of the tensors that no rule names.
            pub const fn base(self) -> TensorType {
                match self { $(Mix::$variant => TensorType::$base,)* }
            }
        }
    };
}

mixes! {
    F32 = 0, "F32", F32;
    BF16 = 32, "BF16", BF16;
    F16 = 1, "F16", F16;
    Q8_0 = 7, "Q8_0", Q8_0;
    Q6_K = 18, "Q6_K", Q6_K;
    Q5_1 = 9, "Q5_1", Q5_1;
    Q5_K_M = 17, "Q5_K_M", Q5_K;
    Q5_K_S = 16, "Q5_K_S", Q5_K;
    Q5_0 = 8, "Q5_0", Q5_0;
    Q4_1 = 3, "Q4_1", Q4_1;
    Q4_K_M = 15, "Q4_K_M", Q4_K;
    Q4_K_S = 14, "Q4_K_S", Q4_K;
    Q4_0 = 2, "Q4_0", Q4_0;
    Q3_K_L = 13, "Q3_K_L", Q3_K;
    Q3_K_M = 12, "Q3_K_M", Q3_K;
    Q3_K_S = 11, "Q3_K_S", Q3_K;
    Q2_K = 10, "Q2_K", Q2_K;
    Q2_K_S = 21, "Q2_K_S", Q2_K;
}

/// Names that stand for one of several mixes, as the field's users expect.
pub const ALIASES: &[(&str, Mix)] =
    &[("Q3_K", Mix::Q3_K_M), ("Q4_K", Mix::Q4_K_M), ("Q5_K", Mix::Q5_K_M)];

impl Mix {
    /// The mix of this name or alias in any letter case, with `-` for `_` accepted.
    pub fn from_name(name: &str) -> Option<Mix> {
        let wanted = name.replace('-', "_");
        let named = Self::ALL.iter().copied().find(|mix| mix.name().eq_ignore_ascii_case(&wanted));
        named.or_else(|| {
            ALIASES.iter().find(|(alias, _)| alias.eq_ignore_ascii_case(&wanted)).map(|&(_, m)| m)
        })
    }

    /// The mix that `general.file_type` names.
    pub fn from_file_type(file_type: u32) -> Option<Mix> {
        Self::ALL.iter().copied().find(|mix| mix.file_type() == file_type)
    }
}

impl fmt::Display for Mix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// Whether the rules of a mix apply.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Purity {
    /// The rules give some tensors more bits.
    #[default]
    Mixed,
    /// Every quantized tensor has the base type.
    Pure,
}

/// Whether encoders will be given importance weights; some rules spend fewer bits then.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Guidance {
    /// Weights alone.
    #[default]
    Unguided,
    /// Importance from activations.
    Importance,
}

/// What to make of a model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Recipe {
    /// The mix.
    pub mix: Mix,
    /// Whether its rules apply.
    pub purity: Purity,
    /// What the encoders will know.
    pub guidance: Guidance,
}

impl Recipe {
    /// The mix with its rules, unguided.
    pub const fn new(mix: Mix) -> Recipe {
        Recipe { mix, purity: Purity::Mixed, guidance: Guidance::Unguided }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_find_their_mix() {
        for &mix in Mix::ALL {
            assert_eq!(Mix::from_name(&mix.name().to_lowercase().replace('_', "-")), Some(mix));
            assert_eq!(Mix::from_file_type(mix.file_type()), Some(mix));
        }
        assert_eq!(Mix::from_name("q4_k"), Some(Mix::Q4_K_M));
        assert_eq!(Mix::from_name("q4"), None);
    }
}
