//! One file per format; the table in `registry.rs` lists them.
#![allow(non_camel_case_types)] // the field writes Q4_K, not Q4K
#![allow(clippy::single_range_in_vec_init)] // many blocks have one number of two bytes

pub(crate) mod plain;
pub(crate) mod q2_k;
pub(crate) mod q3_k;
pub(crate) mod q4_0;
pub(crate) mod q4_1;
pub(crate) mod q4_k;
pub(crate) mod q5_0;
pub(crate) mod q5_1;
pub(crate) mod q5_k;
pub(crate) mod q6_k;
pub(crate) mod q8_0;
