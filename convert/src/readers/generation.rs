//! Which LLaMA a Meta folder holds: its files do not say, and the context length follows from it.

use crate::{
    Note,
    arch::{Llama3Rope, RopeScaling},
};

/// A release, and the context its models were trained for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Generation {
    name: &'static str,
    /// In tokens.
    pub(super) context_length: u32,
    /// What tells it from the others.
    sign: &'static str,
}

/// What the releases differ in.
#[derive(Clone, Copy, Debug)]
pub(super) struct Signs<'a> {
    pub(super) rope_theta: f32,
    pub(super) rope_scaling: &'a RopeScaling,
    pub(super) norm_epsilon: f32,
    pub(super) heads: u32,
    pub(super) kv_heads: u32,
    /// The name of the model.
    pub(super) name: &'a str,
}

impl Generation {
    /// By what Meta's `params.json` of each release say; the name decides nothing but what they
    /// leave open.
    pub(super) fn of(signs: &Signs<'_>) -> Generation {
        let generation = |name, context_length, sign| Generation { name, context_length, sign };
        if *signs.rope_scaling != RopeScaling::None {
            return generation("Llama 3.1 or later", 131_072, "use_scaled_rope is true");
        }
        match signs.rope_theta {
            5e5 => generation("Llama 3", 8192, "rope_theta is 500000"),
            1e6 => generation("Code Llama", 16384, "rope_theta is 1000000"),
            // The first release of Llama 2's chat models had LLaMA 1's epsilon.
            _ if is_named_llama_2(signs.name) => {
                generation("Llama 2", 4096, "it is named so and rope_theta is 10000")
            }
            _ if signs.norm_epsilon != 1e-5 => {
                generation("LLaMA 1", 2048, "norm_eps is not 1e-05, as it is since Llama 2")
            }
            // The 65B of LLaMA 1 has the epsilon of Llama 2, and no grouped queries as its 70B has.
            _ if (signs.heads, signs.kv_heads) == (64, 64) => {
                generation("LLaMA 1", 2048, "64 heads have keys of their own, as only its 65B has")
            }
            _ => generation("Llama 2", 4096, "norm_eps is 1e-05 and rope_theta 10000"),
        }
    }

    pub(super) fn note(&self) -> Note {
        let Generation { name, context_length, sign } = self;
        Note(format!(
            "params.json has no context length: {context_length}, that of {name}, as {sign}"
        ))
    }
}

fn is_named_llama_2(name: &str) -> bool {
    let letters = name.chars().filter(|letter| letter.is_ascii_alphanumeric());
    letters.collect::<String>().to_lowercase().contains("llama2")
}

/// Llama 3.1's scaling, which Meta's own code applies to all models; the small ones of Llama 3.2
/// were trained with another factor (llama-models#166, #241).
pub(super) fn llama3_rope(embedding: u32) -> Llama3Rope {
    /// The width of the 3B model.
    const SMALL: u32 = 3072;
    let factor = if embedding <= SMALL { 32.0 } else { Llama3Rope::DEFAULT.factor };
    Llama3Rope { factor, ..Llama3Rope::DEFAULT }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_models_have_the_factor_of_llama_3_2() {
        let factors = [2048, 3072, 4096, 8192].map(|width| llama3_rope(width).factor);
        assert_eq!(factors, [32.0, 32.0, 8.0, 8.0]);
    }

    /// As published.
    #[test]
    fn generations_are_told_apart() {
        let cases = [
            ("7B", (1e4, 1e-6, 32, 32), "LLaMA 1", 2048),
            ("30B", (1e4, 1e-6, 52, 52), "LLaMA 1", 2048),
            ("65B", (1e4, 1e-5, 64, 64), "LLaMA 1", 2048),
            ("llama-2-7b", (1e4, 1e-5, 32, 32), "Llama 2", 4096),
            ("7B", (1e4, 1e-5, 32, 32), "Llama 2", 4096),
            ("llama-2-7b-chat", (1e4, 1e-6, 32, 32), "Llama 2", 4096),
            ("Llama-2-70b", (1e4, 1e-5, 64, 8), "Llama 2", 4096),
            ("CodeLlama-7b", (1e6, 1e-5, 32, 32), "Code Llama", 16384),
            ("CodeLlama-34b", (1e6, 1e-5, 64, 8), "Code Llama", 16384),
            ("Meta-Llama-3-70B", (5e5, 1e-5, 64, 8), "Llama 3", 8192),
        ];
        for (name, (rope_theta, norm_epsilon, heads, kv_heads), generation, length) in cases {
            let rope_scaling = &RopeScaling::None;
            let signs = Signs { rope_theta, rope_scaling, norm_epsilon, heads, kv_heads, name };
            let found = Generation::of(&signs);
            assert_eq!((found.name, found.context_length), (generation, length), "{name}");
        }
        let rope_scaling = &RopeScaling::Llama3(Llama3Rope::DEFAULT);
        let (norm_epsilon, heads, kv_heads, name) = (1e-5, 32, 8, "original");
        let signs = Signs { rope_theta: 5e5, rope_scaling, norm_epsilon, heads, kv_heads, name };
        assert_eq!(Generation::of(&signs).context_length, 131_072);
    }
}
