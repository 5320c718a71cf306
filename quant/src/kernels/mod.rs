//! The kernel table: operation × instruction set.
//!
//! A [`Kernels`] is one row, the code for one instruction set. [`select`] chooses the row once;
//! `LLQ_ISA` forces a slower one, by its [name](Isa::name). Every row gives the same bits as the scalar
//! row, for any length and any shape; only which NaN a NaN is may differ. `NOTES.md` beside this file has the design and the measured
//! speeds.

// The instruction sets' intrinsics, and calls into code compiled for one of them.
#![allow(unsafe_code)]

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
#[cfg(target_arch = "x86_64")]
mod byte_vectors;
mod isa;
mod lane_sums;
mod magnitude;
#[cfg(target_arch = "aarch64")]
mod neon;
mod panel;
mod roofline;
mod scalar;
pub(crate) mod simd;
mod tile;
mod vector;
mod work;

#[cfg(test)]
mod tests;

pub use isa::{ISA_VARIABLE, Isa, IsaError, available, features, select, selected};
pub(crate) use lane_sums::{CodeSigns, LaneSums};
pub(crate) use panel::{CodePanel, CodeTile};
pub use roofline::Chains;
pub(crate) use simd::{
    ACTIVATION_GROUP, Accumulators, BYTES, LANES, Lanes, PANEL_ROWS, Simd, TILE_TOKENS, Words,
};
pub(crate) use vector::{sum, sum_of_squares, tree};
pub(crate) use work::Work;

/// Hands the list of operations to a macro: the only place that names them.
macro_rules! operations {
    ($macro:ident! { $($row:tt)* }) => { $macro! { $($row)*
        /// `out = e^(values - shift)`, within 1.1 units in the last place.
        ///
        /// # Panics
        /// If `values` and `out` differ in length.
        pub fn exp_shifted(values: &[f32], shift: f32, out: &mut [f32]) = vector::exp_shifted;

        /// The largest value; minus infinity of none. NaN is passed over.
        pub fn max(values: &[f32]) -> f32 = vector::max;

        /// The bits of the largest magnitude, which have the order of the magnitudes: those of
        /// infinities and NaN are above all others. Zero of none.
        pub fn largest_magnitude(values: &[f32]) -> u32 = magnitude::largest_magnitude;

        /// [`largest_magnitude`](Self::largest_magnitude) of 16-bit floats, little endian.
        pub fn largest_magnitude_16(numbers: &[[u8; 2]]) -> u16 = magnitude::largest_magnitude_16;

        /// `out = x / sqrt(mean(x²) + eps) * weight`.
        ///
        /// # Panics
        /// If `x`, `weight` and `out` differ in length.
        pub fn rms_norm(x: &[f32], weight: &[f32], eps: f32, out: &mut [f32]) = vector::rms_norm;

        /// The row becomes `e^(row - max)` over the sum of these. A causal row is passed as the
        /// slice of what it sees.
        pub fn softmax_in_place(row: &mut [f32]) = vector::softmax_in_place;

        /// `values *= factor`.
        pub fn scale_in_place(values: &mut [f32], factor: f32) = vector::scale_in_place;

        /// `up *= gate / (1 + e^-gate)`, the gated activation of LLaMA's feed-forward.
        ///
        /// # Panics
        /// If `gate` and `up` differ in length.
        pub fn silu_mul(gate: &[f32], up: &mut [f32]) = vector::silu_mul;

        /// `sum += values`.
        ///
        /// # Panics
        /// If `sum` and `values` differ in length.
        pub fn add_assign(sum: &mut [f32], values: &[f32]) = vector::add_assign;

        /// Does nothing but fused multiply-adds in registers; returns how many. The count over the
        /// time is the limit of f32 products.
        pub fn multiply_add_burst(chains: Chains) -> u64 = roofline::multiply_add_burst;

        /// Does nothing but products of codes of few bits by 8-bit ones in registers; returns how many.
        pub fn code_product_burst(chains: Chains) -> u64 = roofline::code_product_burst;

        /// Reads the values and does next to nothing with them; returns their sum, each of 64 lanes
        /// summed by itself. Over a buffer far larger than the caches, the bytes over the time are
        /// the bandwidth of memory.
        pub fn read_burst(values: &[f32]) -> f32 = roofline::read_burst;

        /// The codes of activations and, for each 32, their scale: the largest magnitude over 127.
        /// NaN and infinities make the scale NaN, so that they show in the products.
        pub(crate) fn quantize_row(values: &[f32], codes: &mut [i8], scales: &mut [f32])
            = vector::quantize_row;

        /// What is added to codes of which the smallest is `lowest` before they are laid down as a
        /// panel.
        pub(crate) fn code_offset(lowest: i8) -> u8 = tile::code_offset;

        /// Lays 32 rows of words (row after row) down as a panel.
        pub(crate) fn interleave(rows: &[u32], panel: &mut [[Words; 2]]) = panel::interleave;

        /// Lays up to 12 rows of words (row after row) down as a tile; missing rows are zero.
        pub(crate) fn tile_rows(rows: &[u32], tile: &mut [[u32; TILE_TOKENS]]) = panel::tile_rows;

        /// Column by column, of the values the exponential of their distance to the largest, and
        /// the sum of these.
        pub(crate) fn exp_columns(rows: &mut [[Lanes; 2]], totals: &mut [Lanes; 2])
            = vector::exp_columns;

        /// Adds the products of a panel of f32 weights with a tile of f32 activations.
        pub(crate) fn exact_product(
            panel: &[[Lanes; 2]],
            tokens: &[[f32; TILE_TOKENS]],
            sums: &mut Accumulators
        ) = tile::exact_product;

        /// Adds the products of a panel of codes with a tile of quantized activations.
        pub(crate) fn fast_product(
            panel: CodePanel<'_>,
            tokens: CodeTile<'_>,
            sums: &mut Accumulators
        ) = tile::fast_product;
    } };
}

/// Defines the table's columns.
macro_rules! columns {
    ($($(#[$doc:meta])* $vis:vis fn $name:ident($($arg:ident: $ty:ty),*) $(-> $ret:ty)?
        = $body:path;)*) => {
        /// The code for one instruction set. There is one only for what this machine has.
        #[derive(Debug)]
        pub struct Kernels {
            isa: Isa,
            $($name: unsafe fn($($ty),*) $(-> $ret)?,)*
        }

        impl Kernels {
            /// The operations, in the order of the table.
            pub const OPERATIONS: &[&str] = &[$(stringify!($name)),*];

            $($(#[$doc])* $vis fn $name(&self, $($arg: $ty),*) $(-> $ret)? {
                // SAFETY: a row is handed out only by `for_isa` (and the scalar row, which needs
                // no feature), so this machine has the features the function is compiled for.
                unsafe { (self.$name)($($arg),*) }
            })*
        }
    };
}

/// Defines a row: each operation compiled for the features that `$features` holds.
macro_rules! cells {
    ($isa:expr, $token:ty, $features:tt
     $($(#[$doc:meta])* $vis:vis fn $name:ident($($arg:ident: $ty:ty),*) $(-> $ret:ty)?
        = $module:ident::$body:ident;)*) => {
        $(cell! { $features fn $name($token, $($arg: $ty),*) $(-> $ret)? = $module::$body; })*

        pub(in crate::kernels) static ROW: Kernels = Kernels { isa: $isa, $($name),* };
    };
}

/// Compiles an operation for an instruction set.
macro_rules! cell {
    ([$($feature:meta)?] fn $name:ident($token:ty, $($arg:ident: $ty:ty),*) $(-> $ret:ty)?
        = $module:ident::$body:ident;) => {
        $(#[$feature])?
        fn $name($($arg: $ty),*) $(-> $ret)? {
            // SAFETY: this is reached only through the row, which is handed out only where the
            // machine has the features.
            let simd = unsafe { <$token as simd::Simd>::assume() };
            $module::$body(simd, $($arg),*)
        }
    };
}

/// The module `cells` with the row of an instruction set.
macro_rules! row {
    ($isa:expr, $token:ident $(, $feature:meta)?) => {
        mod cells {
            use super::$token;
            use crate::kernels::*;

            operations! { cells! { $isa, $token, [$($feature)?] } }
        }

        pub(in crate::kernels) use cells::ROW;
    };
}

use {cell, cells, operations, row};

operations! { columns! {} }

/// The row that every machine has.
pub(crate) fn scalar() -> &'static Kernels {
    &scalar::ROW
}

impl Kernels {
    /// The row of an instruction set, if this machine has it.
    pub fn for_isa(isa: Isa) -> Option<&'static Kernels> {
        if !isa::missing(isa).is_empty() {
            return None;
        }
        match isa {
            Isa::Scalar => Some(&scalar::ROW),
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => Some(&avx2::ROW),
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 => Some(&avx512::ROW),
            #[cfg(not(target_arch = "x86_64"))]
            Isa::Avx2 | Isa::Avx512 => None,
            #[cfg(target_arch = "aarch64")]
            Isa::Neon => Some(&neon::base::ROW),
            #[cfg(target_arch = "aarch64")]
            Isa::Dotprod => Some(&neon::dotprod::ROW),
            #[cfg(not(target_arch = "aarch64"))]
            Isa::Neon | Isa::Dotprod => None,
        }
    }

    /// The instruction set of the row.
    pub fn isa(&self) -> Isa {
        self.isa
    }

    /// The lowest index of the largest value; NaN is passed over. `None` where nothing is left.
    pub fn argmax(&self, values: &[f32]) -> Option<usize> {
        let largest = self.max(values);
        values.iter().position(|&value| value == largest)
    }
}
