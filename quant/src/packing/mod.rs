//! How fields lie in the bytes of a block; each layout is written once.

mod bit_planes;
mod half_le;
mod six_bit_pairs;

pub(crate) use bit_planes::{pack, plane};
pub(crate) use half_le::{HalfLe, widen_halves};
pub(crate) use six_bit_pairs::{pack_six_bit_pairs, unpack_six_bit_pairs};
