//! How encoders find scales, minima and codes.
//!
//! Every search works on [`panel::Panel`]s, sixteen groups side by side: a group is a lane of the
//! kernels' vectors, so every step is one operation for all of them, and the result does not
//! depend on how wide the registers are:
//!
//! 1. [`symmetric`] and [`affine`] fit a scale (and a minimum) of their own to every group;
//! 2. [`scale_grid`] picks the super-block's scale whose integer multiples meet those best;
//! 3. [`superblock`] takes the best of those to [`downhill`], which settles the integers:
//!    neighbouring integers are tried with codes rounded anew, then integers and half-precision
//!    scales are fitted to the codes.
//!
//! [`weighting`] says which squared error is minimised. [`legacy`] has formats without
//! super-blocks.

mod affine;
mod candidates;
mod downhill;
mod grid;
pub(crate) mod k_row;
pub(crate) mod legacy;
pub(crate) mod panel;
pub(crate) mod scale_grid;
pub(crate) mod superblock;
mod symmetric;
pub(crate) mod weighting;
