//! File names by GGUF's naming convention (ggml, `docs/gguf.md`):
//! `BaseName-SizeLabel-FineTune-Version-Encoding-Type.gguf`.

use llq_gguf::Metadata;
use llq_quant::mix::Mix;

/// The longest part that is taken from metadata, in bytes: all of them, the number of a part of a
/// split model and a temporary file's ending fit into the 255 that file systems allow.
const LONGEST_PART: usize = 48;

/// The name of a file of the type `mix` with `metadata`, by its keys `general.*`; without a type,
/// of that which they tell. It has letters, digits, `.`, `_`, `+` and `-` only, whatever the
/// metadata say.
pub fn file_name(metadata: &Metadata, mix: Option<Mix>) -> String {
    let told = metadata.count("general.file_type").ok();
    let mix = mix.or(Mix::ALL.iter().copied().find(|mix| Some(u64::from(mix.file_type())) == told));
    let text = |key: &str| part(metadata.string(key).unwrap_or_default());
    let name = text("general.basename").or(text("general.name"));
    let kind = match metadata.string("general.type") {
        Ok("adapter") => Some("LoRA".to_owned()),
        Ok("vocab") => Some("vocab".to_owned()),
        _ => None,
    };
    let parts = [
        Some(name.unwrap_or_else(|| "model".to_owned())),
        text("general.size_label"),
        text("general.finetune"),
        text("general.version"),
        mix.map(|mix| mix.name().to_uppercase()),
        kind,
    ];
    let parts: Vec<String> = parts.into_iter().flatten().collect();
    format!("{}.gguf", parts.join("-"))
}

/// A text as a part of a file name: runs of anything else become one hyphen.
fn part(text: &str) -> Option<String> {
    let mut part = String::new();
    for c in text.chars() {
        let kept = if c.is_alphanumeric() || "._+".contains(c) { c } else { '-' };
        if part.len() + kept.len_utf8() > LONGEST_PART {
            break;
        }
        if kept != '-' || !part.ends_with('-') {
            part.push(kept);
        }
    }
    let part = part.trim_matches(['-', '.']);
    (!part.is_empty()).then(|| part.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Base name, size, fine-tune, version.
    fn named(parts: [&str; 4], mix: Mix) -> String {
        let keys = ["basename", "size_label", "finetune", "version"];
        let keys = keys.iter().zip(parts).filter(|(_, part)| !part.is_empty());
        let metadata = keys.map(|(key, part)| (format!("general.{key}"), part)).collect();
        file_name(&metadata, Some(mix))
    }

    #[test]
    fn the_examples_of_the_convention_come_out() {
        let cases = [
            (["Mixtral", "8x7B", "", "v0.1"], Mix::Q2_K, "Mixtral-8x7B-v0.1-Q2_K.gguf"),
            (["Grok", "100B", "", "v1.0"], Mix::Q4_0, "Grok-100B-v1.0-Q4_0.gguf"),
            (["Hermes-2-Pro-Llama-3", "8B", "", ""], Mix::F16, "Hermes-2-Pro-Llama-3-8B-F16.gguf"),
            (
                ["Phi-3-mini", "3.8B", "ContextLength4k-instruct", "v1.0"],
                Mix::Q4_K_M,
                "Phi-3-mini-3.8B-ContextLength4k-instruct-v1.0-Q4_K_M.gguf",
            ),
        ];
        for (parts, mix, expected) in cases {
            assert_eq!(named(parts, mix), expected);
        }
    }

    #[test]
    fn the_name_stands_in_for_a_base_name() {
        let mut metadata = Metadata::from_iter([("general.name", "Tiny Llama 2")]);
        assert_eq!(file_name(&metadata, Some(Mix::BF16)), "Tiny-Llama-2-BF16.gguf");
        metadata.set("general.type", "adapter");
        metadata.set("general.size_label", "6.8M");
        assert_eq!(file_name(&metadata, Some(Mix::F32)), "Tiny-Llama-2-6.8M-F32-LoRA.gguf");
        assert_eq!(file_name(&Metadata::new(), Some(Mix::Q8_0)), "model-Q8_0.gguf");
    }

    #[test]
    fn metadata_cannot_leave_the_folder() {
        let cases = [
            ("../../etc/passwd", "etc-passwd"),
            ("..", "model"),
            ("-o\\..\0\n\u{202e}x:y", "o-..-x-y"),
            (" a / b ", "a-b"),
            ("/", "model"),
        ];
        for (hostile, expected) in cases {
            assert_eq!(named([hostile, "", "", ""], Mix::F16), format!("{expected}-F16.gguf"));
        }
        let long = "é".repeat(1000);
        let name = named([&long, &long, &long, &long], Mix::F16);
        assert!(name.len() < 210, "{}", name.len());
    }
}
