//! Portable code compiled for each instruction set.
//!
//! Encoders and decoders are plain loops over arrays. They need no intrinsics, only a compiler that
//! may use the wide registers: the same operations in the same order, so the same bits.

use super::{Isa, Kernels};

/// Something to compute. `run` and all that it calls must be `#[inline(always)]`, or they are
/// compiled for the plainest machine.
pub(crate) trait Work {
    fn run(self);
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
            _ => work.run(),
        }
    }
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl")]
fn avx512(work: impl Work) {
    work.run();
}

#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma,f16c")]
fn avx2(work: impl Work) {
    work.run();
}
