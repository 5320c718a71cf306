//! Which instruction sets there are, which of them this machine has, and which one is used.

use std::{env, fmt, str::FromStr, sync::OnceLock};

use super::Kernels;

/// The environment variable that forces a row of the kernel table.
pub const ISA_VARIABLE: &str = "LLQ_ISA";

/// A row of the kernel table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Isa {
    /// Portable code; the oracle of all others.
    Scalar,
    /// AVX2, FMA and F16C: Haswell and Zen 1 or newer.
    Avx2,
    /// AVX-512 F, BW, DQ, VL and VNNI: Cascade Lake and Zen 4 or newer.
    Avx512,
    /// NEON: every 64-bit ARM.
    Neon,
    /// NEON with the dot-product extension: Apple M1, Graviton 2, Cortex-A55 and A76 or newer.
    Dotprod,
}

impl Isa {
    /// Every instruction set llq has code for; those of one architecture from the slowest to the
    /// fastest.
    pub const ALL: &[Isa] = &[Isa::Scalar, Isa::Avx2, Isa::Avx512, Isa::Neon, Isa::Dotprod];

    /// Those of the architecture llq was built for, from the slowest to the fastest.
    pub fn native() -> impl DoubleEndedIterator<Item = Isa> {
        let native = |isa: &Isa| isa.architecture().is_none_or(|name| name == env::consts::ARCH);
        Isa::ALL.iter().copied().filter(native)
    }

    /// As Rust names it; `None` where any will do.
    const fn architecture(self) -> Option<&'static str> {
        match self {
            Isa::Scalar => None,
            Isa::Avx2 | Isa::Avx512 => Some("x86_64"),
            Isa::Neon | Isa::Dotprod => Some("aarch64"),
        }
    }

    /// The name that `LLQ_ISA` takes.
    pub const fn name(self) -> &'static str {
        match self {
            Isa::Scalar => "scalar",
            Isa::Avx2 => "avx2",
            Isa::Avx512 => "avx512",
            Isa::Neon => "neon",
            Isa::Dotprod => "dotprod",
        }
    }

    /// The processor features that its code uses.
    pub const fn features(self) -> &'static [&'static str] {
        match self {
            Isa::Scalar => &[],
            Isa::Avx2 => &["avx2", "fma", "f16c"],
            Isa::Avx512 => &[
                "avx2",
                "fma",
                "f16c",
                "avx512f",
                "avx512bw",
                "avx512dq",
                "avx512vl",
                "avx512vnni",
            ],
            Isa::Neon => &["neon"],
            Isa::Dotprod => &["neon", "dotprod"],
        }
    }
}

impl fmt::Display for Isa {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for Isa {
    type Err = IsaError;

    fn from_str(name: &str) -> Result<Isa, IsaError> {
        let wanted = name.trim();
        Isa::ALL
            .iter()
            .copied()
            .find(|isa| isa.name().eq_ignore_ascii_case(wanted))
            .ok_or_else(|| IsaError::Unknown { name: name.to_owned() })
    }
}

/// Why `LLQ_ISA` can't be followed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum IsaError {
    /// No instruction set has this name.
    #[error("{ISA_VARIABLE} is '{name}', expected one of: {}", names(Isa::ALL))]
    Unknown {
        /// What was asked for.
        name: String,
    },
    /// The machine lacks it.
    #[error(
        "{ISA_VARIABLE} asks for {isa}, which this machine lacks (missing: {}); it has: {}",
        missing(*isa).join(", "),
        names(&available().map(Kernels::isa).collect::<Vec<_>>())
    )]
    Missing {
        /// What was asked for.
        isa: Isa,
    },
}

/// The row to use: the fastest this machine has, or the one `LLQ_ISA` names. Looked up once.
///
/// # Errors
/// If `LLQ_ISA` names no instruction set, or one that this machine lacks.
pub fn select() -> Result<&'static Kernels, IsaError> {
    static SELECTED: OnceLock<Result<&'static Kernels, IsaError>> = OnceLock::new();
    SELECTED.get_or_init(|| select_named(asked().as_deref())).clone()
}

/// What `LLQ_ISA` says; bytes that are no text match no name.
fn asked() -> Option<String> {
    env::var_os(ISA_VARIABLE).map(|value| value.to_string_lossy().into_owned())
}

/// [`select`], with the fastest row where `LLQ_ISA` can't be followed. A program that wants to
/// report a bad `LLQ_ISA` calls [`select`] when it starts.
pub fn selected() -> &'static Kernels {
    select().unwrap_or_else(|_| fastest())
}

/// The rows this machine can run, from the slowest to the fastest.
pub fn available() -> impl DoubleEndedIterator<Item = &'static Kernels> {
    Isa::native().filter_map(Kernels::for_isa)
}

/// The processor features that any row of this architecture uses, and whether this machine has
/// them.
pub fn features() -> Vec<(&'static str, bool)> {
    let mut features: Vec<&str> = Vec::new();
    for feature in Isa::native().flat_map(Isa::features) {
        if !features.contains(feature) {
            features.push(feature);
        }
    }
    features.into_iter().map(|feature| (feature, has(feature))).collect()
}

/// The row for a value of `LLQ_ISA`; `None` and the empty value choose the fastest.
pub(super) fn select_named(name: Option<&str>) -> Result<&'static Kernels, IsaError> {
    match name {
        None | Some("") => Ok(fastest()),
        Some(name) => {
            let isa = name.parse()?;
            Kernels::for_isa(isa).ok_or(IsaError::Missing { isa })
        }
    }
}

/// The features of `isa` that this machine lacks.
pub(super) fn missing(isa: Isa) -> Vec<&'static str> {
    isa.features().iter().copied().filter(|feature| !has(feature)).collect()
}

fn fastest() -> &'static Kernels {
    available().next_back().unwrap_or(&super::scalar::ROW)
}

fn names(isas: &[Isa]) -> String {
    isas.iter().map(|isa| isa.name()).collect::<Vec<_>>().join(", ")
}

#[cfg(target_arch = "x86_64")]
fn has(feature: &str) -> bool {
    match feature {
        "avx2" => is_x86_feature_detected!("avx2"),
        "fma" => is_x86_feature_detected!("fma"),
        "f16c" => is_x86_feature_detected!("f16c"),
        "avx512f" => is_x86_feature_detected!("avx512f"),
        "avx512bw" => is_x86_feature_detected!("avx512bw"),
        "avx512dq" => is_x86_feature_detected!("avx512dq"),
        "avx512vl" => is_x86_feature_detected!("avx512vl"),
        "avx512vnni" => is_x86_feature_detected!("avx512vnni"),
        _ => false,
    }
}

#[cfg(target_arch = "aarch64")]
fn has(feature: &str) -> bool {
    use std::arch::is_aarch64_feature_detected;
    // The rows read codes as they lie in memory.
    cfg!(target_endian = "little")
        && match feature {
            "neon" => is_aarch64_feature_detected!("neon"),
            "dotprod" => is_aarch64_feature_detected!("dotprod"),
            _ => false,
        }
}

#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
fn has(_feature: &str) -> bool {
    false
}
