//! Pre-tokenizers that have a name, by what `tokenizer.json` says they do.

use super::{
    Step::{self, DigitRuns, Digits, Gpt2, PunctuationRuns, Spell, Split},
    WholeWords::{self, Kept, Merged},
};

/// A pre-tokenizer and llama.cpp's name for it.
pub(super) struct Known {
    pub(super) name: &'static str,
    pub(super) steps: &'static [Step<'static>],
    pub(super) whole_words: WholeWords,
}

/// The models are examples; others have the same.
#[rustfmt::skip]
pub(super) const KNOWN: &[Known] = &[
    Known { name: "llama-bpe", steps: &[Split(LLAMA_3), Spell], whole_words: Kept },
    // Smaug, Granite, OLMo 3, phi-4; llama.cpp's dbrx is the same.
    Known { name: "smaug-bpe", steps: &[Split(LLAMA_3), Spell], whole_words: Merged },
    Known { name: "qwen2", steps: &[Split(QWEN_2), Spell], whole_words: Merged },
    Known { name: "qwen35", steps: &[Split(QWEN_35), Spell], whole_words: Merged },
    // Mistral Nemo.
    Known { name: "tekken", steps: &[Split(TEKKEN), Spell], whole_words: Kept },
    // gpt-oss, Llama 4.
    Known { name: "gpt-4o", steps: &[Split(GPT_4O), Spell], whole_words: Merged },
    Known { name: "gpt-2", steps: &[Gpt2], whole_words: Merged },
    // SmolLM and others have the same under names of their own.
    Known { name: "starcoder", steps: &[Digits, Gpt2], whole_words: Merged },
    Known {
        name: "deepseek-llm",
        steps: &[
            Split(LINE_END), Split(DEEPSEEK_LETTERS), Split(DEEPSEEK_PUNCTUATION), Split(r"\s+$"),
            Split(DEEPSEEK_CJK), Digits, Spell,
        ],
        whole_words: Merged,
    },
    Known {
        name: "deepseek-coder",
        steps: &[
            Split(LINE_END), Split(r"\s?\p{L}+"), Split(r"\s?\p{P}+"), Split(DEEPSEEK_CJK),
            Digits, Spell,
        ],
        whole_words: Merged,
    },
    Known {
        name: "deepseek-v3",
        steps: &[Split(r"\p{N}{1,3}"), Split("[一-龥぀-ゟ゠-ヿ]+"), Split(DEEPSEEK_V3), Spell],
        whole_words: Merged,
    },
    Known {
        name: "falcon",
        steps: &[PunctuationRuns, Gpt2, DigitRuns, Split("[0-9][0-9][0-9]")],
        whole_words: Merged,
    },
    // MiniCPM 5.
    Known {
        name: "minicpm5",
        steps: &[Split(r"\p{N}{1,3}"), Split(MINICPM_5), Spell],
        whole_words: Kept,
    },
    // Ling, LLaDA.
    Known { name: "bailingmoe", steps: &[Split(BAILING), Spell], whole_words: Merged },
    Known { name: "seed-coder", steps: &[Split(SEED_CODER), Spell], whole_words: Merged },
];

/// Regexes of which every character of every text is in some match.
pub(super) const MATCHES_ALL: &[&str] = &[LLAMA_3, QWEN_2, QWEN_35, TEKKEN, GPT_4O];

pub(super) const LLAMA_3: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
pub(super) const QWEN_2: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const QWEN_35: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
pub(in crate::tokenizer) const TEKKEN: &str = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const GPT_4O: &str = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const MINICPM_5: &str = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}+| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const BAILING: &str = r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]++[\r\n]*|\s*[\r\n]|\s+(?!\S)|\s+";
// From here on some have line ends themselves where others spell them \r and \n.
const SEED_CODER: &str = "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}{1}| ?[^\\s\\p{L}\\p{N}\r\n]+|\\s*[\r\n]+|\\s+(?!\\S)|\\s+";
const LINE_END: &str = "[\r\n]";
const DEEPSEEK_LETTERS: &str = r"\s?[A-Za-zµÀ-ÖØ-öø-ƺƼ-ƿǄ-ʓʕ-ʯͰ-ͳͶͷͻ-ͽͿΆΈ-ΊΌΎ-ΡΣ-ϵϷ-ҁҊ-ԯԱ-ՖႠ-ჅᎠ-Ᏽᏸ-ᏽᲐ-ᲺᲽ-Ჿᴀ-ᴫᵫ-ᵷᵹ-ᶚḀ-ἕἘ-Ἕἠ-ὅὈ-Ὅὐ-ὗὙὛὝὟ-ώᾀ-ᾴᾶ-ᾼιῂ-ῄῆ-ῌῐ-ΐῖ-Ίῠ-Ῥῲ-ῴῶ-ῼℂℇℊ-ℓℕℙ-ℝℤΩℨK-ℭℯ-ℴℹℼ-ℿⅅ-ⅉⅎↃↄⰀ-ⱻⱾ-ⳤⳫ-ⳮⳲⳳꙀ-ꙭꚀ-ꚛꜢ-ꝯꝱ-ꞇꞋ-ꞎꭰ-ꮿﬀ-ﬆﬓ-ﬗＡ-Ｚａ-ｚ𐐀-𐑏𐒰-𐓓𐓘-𐓻𐲀-𐲲𐳀-𐳲𑢠-𑣟𞤀-𞥃]+";
const DEEPSEEK_PUNCTUATION: &str = "\\s?[!-/:-~！-／：-～‘-‟\u{3000}-。]+";
const DEEPSEEK_CJK: &str = "[一-龥ࠀ-一가-\u{d7ff}]+";
const DEEPSEEK_V3: &str = "[!\"#$%&'()*+,\\-./:;<=>?@\\[\\\\\\]^_`{|}~][A-Za-z]+|[^\r\n\\p{L}\\p{P}\\p{S}]?[\\p{L}\\p{M}]+| ?[\\p{P}\\p{S}]+[\r\n]*|\\s*[\r\n]+|\\s+(?!\\S)|\\s+";

#[cfg(test)]
mod tests {
    use serde_json::{Value as Json, json};

    use super::{super::recognise, *};

    fn split(regex: &str) -> Json {
        json!({ "type": "Split", "pattern": { "Regex": regex }, "behavior": "Isolated",
            "invert": false })
    }

    fn chain(steps: &[Json]) -> Json {
        json!({ "type": "Sequence", "pretokenizers": steps })
    }

    #[test]
    fn known_ones_are_recognised_by_what_they_do() {
        let spell = json!({ "type": "ByteLevel", "add_prefix_space": false, "use_regex": false });
        let gpt2 = json!({ "type": "ByteLevel", "add_prefix_space": false });
        let digits = json!({ "type": "Digits", "individual_digits": true });
        let runs = json!({ "type": "Digits", "individual_digits": false });
        let punctuation = json!({ "type": "Punctuation", "behavior": "Contiguous" });
        let one = |regex: &str| chain(&[split(regex), spell.clone()]);
        let coder = ["[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", DEEPSEEK_CJK].map(split);
        let coder = [&coder[..], &[digits.clone(), spell.clone()]].concat();
        let falcon = [punctuation, gpt2.clone(), runs, split("[0-9][0-9][0-9]")];
        let cases = [
            (one(LLAMA_3), Kept, "llama-bpe"),
            (one(LLAMA_3), Merged, "smaug-bpe"),
            (one(QWEN_2), Merged, "qwen2"),
            (one(TEKKEN), Kept, "tekken"),
            (gpt2.clone(), Merged, "gpt-2"),
            (chain(&[digits, gpt2]), Merged, "starcoder"),
            (chain(&coder), Merged, "deepseek-coder"),
            (chain(&falcon), Merged, "falcon"),
        ];
        for (json, whole_words, name) in cases {
            assert_eq!(recognise(&json, whole_words), Ok(name));
        }
    }

    #[test]
    fn what_keeps_the_matches_cuts_as_what_isolates_them_where_nothing_is_between() {
        let spell = json!({ "type": "ByteLevel", "add_prefix_space": false, "use_regex": false });
        let kept = |regex: &str| {
            let mut split = split(regex);
            split["behavior"] = json!("Removed");
            split["invert"] = json!(true);
            chain(&[split, spell.clone()])
        };
        assert_eq!(recognise(&kept(LLAMA_3), Merged), Ok("smaug-bpe"));
        assert!(recognise(&kept(SEED_CODER), Merged).is_err());
    }

    #[test]
    fn every_one_has_a_name_of_llama_cpp() {
        for known in KNOWN {
            assert!(crate::PreName::parse(known.name).is_ok(), "{}", known.name);
        }
    }
}
