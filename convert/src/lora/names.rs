//! The names that PEFT gives the tensors of an adapter, in all its versions.

/// What a tensor is to its module.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Part {
    A,
    B,
    EmbeddingA,
    EmbeddingB,
    /// Of DoRA.
    Magnitude,
    /// The module's own weight, in place of the base's.
    Weight,
    /// The module's own bias, in place of the base's.
    Bias,
}

impl Part {
    pub(super) fn name(self) -> &'static str {
        match self {
            Part::A => "lora_A",
            Part::B => "lora_B",
            Part::EmbeddingA => "lora_embedding_A",
            Part::EmbeddingB => "lora_embedding_B",
            Part::Magnitude => "lora_magnitude_vector",
            Part::Weight => "weight",
            Part::Bias => "bias",
        }
    }
}

/// What a name says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Name<'a> {
    /// A part of a module of the base, by Hugging Face's name.
    Part(&'a str, Part),
    /// The base's own weight, kept beside one of `modules_to_save`.
    Original,
    Unknown,
}

/// Reads a name such as `base_model.model.lm_head.lora_A.default.weight`: the wrapper's prefix, the
/// module, the part, and in some versions the adapter's name, which does not matter here.
pub(super) fn parse(name: &str) -> Name<'_> {
    let name = name.strip_prefix("base_model.model.").unwrap_or(name);
    for (marker, factor) in MARKERS {
        let Some((module, rest)) = name.split_once(marker) else { continue };
        if !rest.is_empty() && !rest.starts_with('.') {
            continue;
        }
        let mut words = rest.split('.');
        words.next();
        let last = words.next_back();
        let own = match last {
            Some("bias") => Some(Part::Bias),
            Some("weight") => Some(Part::Weight),
            _ => None,
        };
        // At most the adapter's name and what the own tensor is called.
        let surplus = words.count() > usize::from(own.is_some());
        return match (factor, own) {
            _ if surplus => Name::Unknown,
            (Marker::Original, _) => Name::Original,
            (Marker::Own, Some(own)) => Name::Part(module, own),
            (Marker::Factor(part), Some(Part::Weight)) => Name::Part(module, *part),
            (Marker::Bare(part), None | Some(Part::Weight)) => Name::Part(module, *part),
            _ => Name::Unknown,
        };
    }
    match name.rsplit_once('.') {
        Some((module, "weight")) => Name::Part(module, Part::Weight),
        Some((module, "bias")) => Name::Part(module, Part::Bias),
        _ => Name::Unknown,
    }
}

#[derive(Clone, Copy)]
enum Marker {
    /// A module of its own, with a weight.
    Factor(Part),
    /// A parameter, which has no weight below it, but in some versions.
    Bare(Part),
    Own,
    Original,
}

const MARKERS: &[(&str, Marker)] = &[
    (".lora_A", Marker::Factor(Part::A)),
    (".lora_B", Marker::Factor(Part::B)),
    (".lora_embedding_A", Marker::Bare(Part::EmbeddingA)),
    (".lora_embedding_B", Marker::Bare(Part::EmbeddingB)),
    (".lora_magnitude_vector", Marker::Bare(Part::Magnitude)),
    (".modules_to_save", Marker::Own),
    (".base_layer", Marker::Own),
    (".original_module", Marker::Original),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_all_versions_are_read() {
        let q = "model.layers.0.self_attn.q_proj";
        let embedding = "model.embed_tokens";
        for (name, expected) in [
            ("model.layers.0.self_attn.q_proj.lora_A.weight", Name::Part(q, Part::A)),
            ("model.layers.0.self_attn.q_proj.lora_B.default.weight", Name::Part(q, Part::B)),
            (
                "model.layers.0.self_attn.q_proj.lora_magnitude_vector",
                Name::Part(q, Part::Magnitude),
            ),
            (
                "model.layers.0.self_attn.q_proj.lora_magnitude_vector.default.weight",
                Name::Part(q, Part::Magnitude),
            ),
            ("model.layers.0.self_attn.q_proj.base_layer.bias", Name::Part(q, Part::Bias)),
            ("model.layers.0.self_attn.q_proj.bias", Name::Part(q, Part::Bias)),
            ("model.embed_tokens.lora_embedding_A", Name::Part(embedding, Part::EmbeddingA)),
            (
                "model.embed_tokens.lora_embedding_B.default",
                Name::Part(embedding, Part::EmbeddingB),
            ),
            (
                "model.embed_tokens.modules_to_save.default.weight",
                Name::Part(embedding, Part::Weight),
            ),
            ("model.embed_tokens.weight", Name::Part(embedding, Part::Weight)),
            ("model.embed_tokens.original_module.weight", Name::Original),
            ("model.layers.0.self_attn.q_proj.lora_B.bias", Name::Unknown),
            ("model.layers.0.self_attn.q_proj.lora_A.a.b.weight", Name::Unknown),
            ("model.layers.0.self_attn.q_proj.lora_Another", Name::Unknown),
            ("model.embed_tokens.token_adapter.trainable_tokens_delta", Name::Unknown),
        ] {
            assert_eq!(parse(name), expected, "{name}");
            assert_eq!(parse(&format!("base_model.model.{name}")), expected, "{name}");
        }
    }
}
