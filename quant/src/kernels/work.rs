//! Operations that are not of the table, compiled for each instruction set.
//!
//! A decoder is a plain loop over arrays: it needs no intrinsics, only a compiler that may use the
//! wide registers. An encoder's searches are written in lanes. Either way it is the same operations
//! in the same order, so the same bits.

#[cfg(target_arch = "aarch64")]
use super::neon::{base::Base, dotprod::Dotprod};
use super::{Isa, Kernels, scalar::Scalar, simd::Simd};
#[cfg(target_arch = "x86_64")]
use super::{avx2::Avx2, avx512::Avx512};

/// Something to compute. `run` and all that it calls must be `#[inline(always)]`, or they are
/// compiled for the plainest machine.
pub(crate) trait Work {
    fn run<S: Simd>(self, simd: S);
}

impl Kernels {
    /// Runs `work` compiled for this row's instruction set.
    pub(crate) fn run(&self, work: impl Work) {
        match self.isa {
            // SAFETY: `for_isa` hands out a row only where the machine has its features, which are
            // the ones the function is compiled for.
            #[cfg(target_arch = "x86_64")]
            Isa::Avx512 => unsafe { avx512(work) },
            // SAFETY: as above.
            #[cfg(target_arch = "x86_64")]
            Isa::Avx2 => unsafe { avx2(work) },
            // SAFETY: as above.
            #[cfg(target_arch = "aarch64")]
            Isa::Dotprod => unsafe { dotprod(work) },
            // SAFETY: as above.
            #[cfg(target_arch = "aarch64")]
            Isa::Neon => unsafe { neon(work) },
            _ => scalar(work),
        }
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl,avx512vnni")]
fn avx512(work: impl Work) {
    // SAFETY: the features of the row are those of this function.
    work.run(unsafe { Avx512::assume() });
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma,f16c")]
fn avx2(work: impl Work) {
    // SAFETY: the features of the row are those of this function.
    work.run(unsafe { Avx2::assume() });
}

#[cfg(target_arch = "aarch64")]
#[target_feature(enable = "neon,dotprod")]
fn dotprod(work: impl Work) {
    // SAFETY: the features of the row are those of this function.
    work.run(unsafe { Dotprod::assume() });
}

#[cfg(target_arch = "aarch64")]
#[target_feature(enable = "neon")]
fn neon(work: impl Work) {
    // SAFETY: the features of the row are those of this function.
    work.run(unsafe { Base::assume() });
}

fn scalar(work: impl Work) {
    // SAFETY: the scalar row needs no features.
    work.run(unsafe { Scalar::assume() });
}
