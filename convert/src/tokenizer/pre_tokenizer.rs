//! How a text is cut into words before merges apply: the steps of `tokenizer.json`, and the name
//! GGUF has for it.

use serde_json::Value as Json;

use super::TokenizerError;

/// Pre-tokenizers that have a name.
struct Known {
    name: &'static str,
    steps: &'static [Step<'static>],
    whole_words: WholeWords,
}

/// Whether a word that is a token stays whole, whatever its merges make of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum WholeWords {
    /// `ignore_merges` of `tokenizer.json`.
    Kept,
    Merged,
}

/// What a pre-tokenizer does in turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step<'a> {
    /// Cuts at the matches of a regex, which are words too.
    Split(&'a str),
    /// Cuts out each digit.
    Digits,
    /// Cuts at GPT-2's own regex, and spells bytes in its alphabet.
    Gpt2,
    /// Spells bytes in GPT-2's alphabet.
    Spell,
}

const LLAMA_3: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const QWEN_2: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";

use WholeWords::{Kept, Merged};

/// The names are llama.cpp's.
#[rustfmt::skip]
const KNOWN: &[Known] = &[
    Known { name: "llama-bpe", steps: &[Step::Split(LLAMA_3), Step::Spell], whole_words: Kept },
    Known { name: "smaug-bpe", steps: &[Step::Split(LLAMA_3), Step::Spell], whole_words: Merged },
    Known { name: "qwen2", steps: &[Step::Split(QWEN_2), Step::Spell], whole_words: Merged },
    Known { name: "gpt-2", steps: &[Step::Gpt2], whole_words: Merged },
    // SmolLM and others have the same under names of their own.
    Known { name: "starcoder", steps: &[Step::Digits, Step::Gpt2], whole_words: Merged },
];

/// GGUF's name of the `pre_tokenizer` of a `tokenizer.json`.
pub(super) fn recognise(
    pre_tokenizer: &Json,
    whole_words: WholeWords,
) -> Result<&'static str, TokenizerError> {
    let steps = match pre_tokenizer.get("pretokenizers").and_then(Json::as_array) {
        Some(sequence) => sequence.iter().collect(),
        None => vec![pre_tokenizer],
    };
    let parsed: Option<Vec<Step<'_>>> = steps.iter().map(|step| parse_step(step)).collect();
    let known = parsed.and_then(|steps| {
        KNOWN.iter().find(|known| known.steps == steps && known.whole_words == whole_words)
    });
    known.map(|known| known.name).ok_or_else(|| {
        let mut steps: Vec<String> = steps.iter().map(|step| describe(step)).collect();
        if whole_words == Kept {
            steps.push("ignore_merges".to_owned());
        }
        let known = KNOWN.iter().map(|known| known.name).collect();
        TokenizerError::PreTokenizer { steps, known }
    })
}

fn parse_step(step: &Json) -> Option<Step<'_>> {
    let is = |key: &str, value: bool| step.get(key).and_then(Json::as_bool) == Some(value);
    match kind(step)? {
        "Split" => {
            let isolated = step.get("behavior").and_then(Json::as_str) == Some("Isolated");
            let plain = isolated && !is("invert", true);
            step.get("pattern")?.get("Regex")?.as_str().filter(|_| plain).map(Step::Split)
        }
        "Digits" if is("individual_digits", true) => Some(Step::Digits),
        "ByteLevel" if is("add_prefix_space", true) => None,
        "ByteLevel" if is("use_regex", false) => Some(Step::Spell),
        "ByteLevel" => Some(Step::Gpt2),
        _ => None,
    }
}

fn kind(step: &Json) -> Option<&str> {
    step.get("type")?.as_str()
}

/// A step as an error shows it: its kind, and whatever regex or other settings it has.
fn describe(step: &Json) -> String {
    const LONGEST: usize = 400;
    let Some(settings) = step.as_object() else { return "none".to_owned() };
    let regex = step.get("pattern").and_then(|p| p.get("Regex")).and_then(Json::as_str);
    let kind = kind(step).unwrap_or("a step without a type");
    let text = match regex {
        Some(regex) => format!("{kind} {regex:?}"),
        None => {
            let others = settings.iter().filter(|(key, _)| *key != "type");
            let others: Vec<String> = others.map(|(key, value)| format!("{key} {value}")).collect();
            format!("{kind} ({})", others.join(", "))
        }
    };
    text.chars().take(LONGEST).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn split(regex: &str) -> Json {
        let spell = json!({ "type": "ByteLevel", "add_prefix_space": false, "use_regex": false });
        let split = json!({ "type": "Split", "pattern": { "Regex": regex },
            "behavior": "Isolated", "invert": false });
        json!({ "type": "Sequence", "pretokenizers": [split, spell] })
    }

    #[test]
    fn known_ones_are_recognised_by_what_they_do() {
        let gpt2 = json!({ "type": "ByteLevel", "add_prefix_space": false });
        let digits = json!({ "type": "Digits", "individual_digits": true });
        let starcoder = json!({ "type": "Sequence", "pretokenizers": [digits, gpt2] });
        let cases = [
            (split(LLAMA_3), Kept, "llama-bpe"),
            (split(LLAMA_3), Merged, "smaug-bpe"),
            (split(QWEN_2), Merged, "qwen2"),
            (gpt2, Merged, "gpt-2"),
            (starcoder, Merged, "starcoder"),
        ];
        for (json, whole_words, name) in cases {
            assert_eq!(recognise(&json, whole_words), Ok(name));
        }
    }

    #[test]
    fn unknown_ones_are_shown() {
        let error = recognise(&split(r"\p{Han}+"), Merged).unwrap_err().to_string();
        for part in [r#"Split "\\p{Han}+", then ByteLevel"#, "--pre NAME", "llama-bpe"] {
            assert!(error.contains(part), "{part} is not in {error}");
        }
        let mut inverted = split(LLAMA_3);
        inverted["pretokenizers"][0]["invert"] = json!(true);
        assert!(recognise(&inverted, Kept).is_err());
        assert!(recognise(&Json::Null, Merged).unwrap_err().to_string().contains("unknown: none"));
    }
}
