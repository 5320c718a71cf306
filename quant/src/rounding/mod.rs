//! Rounding that knows what a matrix is multiplied with.
//!
//! Plain encoders make each weight's own error small. Here the error of a product is: with `T` the
//! wanted rows and `Q` the rounded ones, `Σ A_ik (Q_i - T_i) H (Q_k - T_k)ᵀ` over rows `i` and `k`,
//! where `H` are the moments of the inputs, and `A`, where it is known, says what errors of the
//! outputs cost.
//!
//! 1. [`feedback`] rounds the columns of a row in turn;
//! 2. [`descent`] goes on from there, over codes, integers of groups and halves of blocks;
//! 3. [`matrix`] does so for all rows, and again for each beside what the others left.
//!
//! All of them take [`products::BLOCK`] columns of many rows at a time, of which only the moments
//! with each other matter, and then tell the other columns by one product.

mod combine;
mod curvature;
mod descent;
mod feedback;
mod matrix;
mod products;
mod row;

pub use curvature::Curvature;
pub use matrix::{INDEPENDENT_ROWS, Rounding, batch_rows, round_matrix, round_matrix_with};
