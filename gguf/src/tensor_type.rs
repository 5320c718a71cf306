//! The table of tensor types: every wire id that ggml has given out, and its sizes.

use std::fmt;

/// Wire id, name, weights per block and bytes per block of every tensor type in use.
macro_rules! tensor_types {
    ($($variant:ident = $id:literal, $name:literal, $weights:literal, $bytes:literal;)*) => {
        /// How the weights of a tensor are stored.
        ///
        /// Every type stores whole blocks along a row; [`block_weights`](Self::block_weights) is 1
        /// for the plain number types.
        #[allow(non_camel_case_types)] // the field writes Q4_K, not Q4K
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[non_exhaustive]
        #[repr(u32)]
        pub enum TensorType {
            $(#[doc = concat!("`", $name, "`, wire id ", $id)] $variant = $id,)*
        }

        impl TensorType {
            /// Every tensor type, by rising wire id.
            pub const ALL: &[TensorType] = &[$(TensorType::$variant),*];

            /// The type behind a wire id.
            ///
            /// # Errors
            ///
            /// Where ggml has withdrawn the id or has never given it out.
            pub fn from_id(id: u32) -> Result<TensorType, UnknownTensorType> {
                match id {
                    $($id => Ok(TensorType::$variant),)*
                    _ => Err(match REMOVED.iter().find(|(removed, _)| *removed == id) {
                        Some(&(id, name)) => UnknownTensorType::Removed { id, name },
                        None => UnknownTensorType::Unassigned { id },
                    }),
                }
            }

            /// The name ggml gives the type, such as `Q4_K`.
            pub const fn name(self) -> &'static str {
                match self { $(TensorType::$variant => $name,)* }
            }

            /// Weights in one block.
            pub const fn block_weights(self) -> usize {
                match self { $(TensorType::$variant => $weights,)* }
            }

            /// Bytes in one block.
            pub const fn block_bytes(self) -> usize {
                match self { $(TensorType::$variant => $bytes,)* }
            }
        }
    };
}

tensor_types! {
    F32 = 0, "F32", 1, 4;
    F16 = 1, "F16", 1, 2;
    Q4_0 = 2, "Q4_0", 32, 18;
    Q4_1 = 3, "Q4_1", 32, 20;
    Q5_0 = 6, "Q5_0", 32, 22;
    Q5_1 = 7, "Q5_1", 32, 24;
    Q8_0 = 8, "Q8_0", 32, 34;
    Q8_1 = 9, "Q8_1", 32, 36;
    Q2_K = 10, "Q2_K", 256, 84;
    Q3_K = 11, "Q3_K", 256, 110;
    Q4_K = 12, "Q4_K", 256, 144;
    Q5_K = 13, "Q5_K", 256, 176;
    Q6_K = 14, "Q6_K", 256, 210;
    Q8_K = 15, "Q8_K", 256, 292;
    IQ2_XXS = 16, "IQ2_XXS", 256, 66;
    IQ2_XS = 17, "IQ2_XS", 256, 74;
    IQ3_XXS = 18, "IQ3_XXS", 256, 98;
    IQ1_S = 19, "IQ1_S", 256, 50;
    IQ4_NL = 20, "IQ4_NL", 32, 18;
    IQ3_S = 21, "IQ3_S", 256, 110;
    IQ2_S = 22, "IQ2_S", 256, 82;
    IQ4_XS = 23, "IQ4_XS", 256, 136;
    I8 = 24, "I8", 1, 1;
    I16 = 25, "I16", 1, 2;
    I32 = 26, "I32", 1, 4;
    I64 = 27, "I64", 1, 8;
    F64 = 28, "F64", 1, 8;
    IQ1_M = 29, "IQ1_M", 256, 56;
    BF16 = 30, "BF16", 1, 2;
    TQ1_0 = 34, "TQ1_0", 256, 54;
    TQ2_0 = 35, "TQ2_0", 256, 66;
    MXFP4 = 39, "MXFP4", 32, 17;
    NVFP4 = 40, "NVFP4", 64, 36;
    Q1_0 = 41, "Q1_0", 128, 18;
    Q2_0 = 42, "Q2_0", 64, 18;
}

/// Wire ids that ggml once gave out and withdrew.
const REMOVED: &[(u32, &str)] = &[
    (4, "Q4_2"),
    (5, "Q4_3"),
    (31, "Q4_0_4_4"),
    (32, "Q4_0_4_8"),
    (33, "Q4_0_8_8"),
    (36, "IQ4_NL_4_4"),
    (37, "IQ4_NL_4_8"),
    (38, "IQ4_NL_8_8"),
];

impl TensorType {
    /// The wire id.
    pub const fn id(self) -> u32 {
        self as u32
    }

    /// The type of this name in any letter case, with `-` for `_` accepted.
    pub fn from_name(name: &str) -> Option<TensorType> {
        let wanted = name.replace('-', "_");
        Self::ALL.iter().copied().find(|t| t.name().eq_ignore_ascii_case(&wanted))
    }

    /// Bytes of a row of `cols` weights; `None` where blocks do not fill the row or the product
    /// overflows.
    pub fn row_bytes(self, cols: u64) -> Option<u64> {
        let weights = self.block_weights() as u64;
        if !cols.is_multiple_of(weights) {
            return None;
        }
        (cols / weights).checked_mul(self.block_bytes() as u64)
    }

    /// Mean storage per weight, in bits.
    pub fn bits_per_weight(self) -> f64 {
        self.block_bytes() as f64 * 8.0 / self.block_weights() as f64
    }
}

impl fmt::Display for TensorType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// A wire id that names no tensor type in use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum UnknownTensorType {
    /// ggml withdrew the type; files that hold it must be converted again.
    #[error("tensor type {id} ({name}) was removed from GGUF")]
    Removed {
        /// The wire id.
        id: u32,
        /// The name it had.
        name: &'static str,
    },
    /// ggml never gave the id out.
    #[error("tensor type {id} is not assigned")]
    Unassigned {
        /// The wire id.
        id: u32,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_and_names_find_their_type() {
        for &t in TensorType::ALL {
            assert_eq!(TensorType::from_id(t.id()), Ok(t));
            assert_eq!(TensorType::from_name(&t.name().to_lowercase().replace('_', "-")), Some(t));
        }
        assert!(TensorType::ALL.windows(2).all(|pair| pair[0].id() < pair[1].id()));
    }

    #[test]
    fn removed_ids_are_refused_by_name() {
        for &(id, name) in REMOVED {
            assert_eq!(TensorType::from_id(id), Err(UnknownTensorType::Removed { id, name }));
        }
        assert_eq!(TensorType::from_id(43), Err(UnknownTensorType::Unassigned { id: 43 }));
    }

    #[test]
    fn rows_hold_whole_blocks() {
        assert_eq!(TensorType::Q4_K.row_bytes(512), Some(288));
        assert_eq!(TensorType::Q4_K.row_bytes(500), None);
        assert_eq!(TensorType::F64.row_bytes(u64::MAX), None);
    }
}
