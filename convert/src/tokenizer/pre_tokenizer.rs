//! How a text is cut into words before merges apply: the steps of `tokenizer.json`, and the name
//! GGUF has for it.

mod known;

use serde_json::Value as Json;

use self::{
    WholeWords::Kept,
    known::{KNOWN, MATCHES_ALL},
};
use super::TokenizerError;

pub(super) use known::TEKKEN;

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
    /// Cuts out runs of digits.
    DigitRuns,
    /// Cuts out runs of punctuation.
    PunctuationRuns,
    /// Cuts at GPT-2's own regex, and spells bytes in its alphabet.
    Gpt2,
    /// Spells bytes in GPT-2's alphabet.
    Spell,
}

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
            let regex = step.get("pattern")?.get("Regex")?.as_str()?;
            let plain = match step.get("behavior")?.as_str()? {
                "Isolated" => !is("invert", true),
                // Keeps the matches, which leave nothing out.
                "Removed" => is("invert", true) && MATCHES_ALL.contains(&regex),
                _ => false,
            };
            plain.then_some(Step::Split(regex))
        }
        "Digits" if is("individual_digits", true) => Some(Step::Digits),
        "Digits" => Some(Step::DigitRuns),
        "Punctuation" => {
            let runs = step.get("behavior").and_then(Json::as_str) == Some("Contiguous");
            runs.then_some(Step::PunctuationRuns)
        }
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

    use super::{known::LLAMA_3, *};

    fn split(regex: &str) -> Json {
        let spell = json!({ "type": "ByteLevel", "add_prefix_space": false, "use_regex": false });
        let split = json!({ "type": "Split", "pattern": { "Regex": regex },
            "behavior": "Isolated", "invert": false });
        json!({ "type": "Sequence", "pretokenizers": [split, spell] })
    }

    #[test]
    fn unknown_ones_are_shown() {
        let error = recognise(&split(r"\p{Han}+"), WholeWords::Merged).unwrap_err().to_string();
        for part in [r#"Split "\\p{Han}+", then ByteLevel"#, "--pre NAME", "llama-bpe"] {
            assert!(error.contains(part), "{part} is not in {error}");
        }
        let mut inverted = split(LLAMA_3);
        inverted["pretokenizers"][0]["invert"] = json!(true);
        assert!(recognise(&inverted, Kept).is_err());
        assert!(
            recognise(&Json::Null, WholeWords::Merged)
                .unwrap_err()
                .to_string()
                .contains("unknown: none")
        );
    }
}
