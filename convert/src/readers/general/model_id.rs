//! What the name of a model says: its owner, base name, size, fine-tune and version.
//!
//! Names are not made by a rule, so these are guesses: the same ones as those of gguf-py
//! (`metadata.py`), so that both tools write the same keys.

/// The parts of a name such as `meta-llama/Llama-2-7b-chat-hf`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct ModelId {
    pub(super) organization: Option<String>,
    /// All but the owner.
    pub(super) full_name: String,
    pub(super) basename: Option<String>,
    pub(super) finetune: Option<String>,
    pub(super) version: Option<String>,
    pub(super) size_label: Option<String>,
}

/// What a part of a name, between hyphens, stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Role {
    Unknown,
    Basename,
    /// A version that belongs to the base name, as the 3 in `Phi-3-mini`.
    BasenameVersion,
    Version,
    SizeLabel,
    FineTune,
    TensorType,
}

struct Part {
    text: String,
    role: Role,
}

/// Bytes of an id. Time grows with the square of its parts.
const LONGEST: usize = 512;

impl ModelId {
    /// Reads `id`, the name of a model of so many weights. A label such as `32k` that is far from
    /// that is no size: it is a context length. Without weights any is taken for a size.
    pub(super) fn parse(id: &str, weights: f64) -> ModelId {
        let (organization, full_name) = match id.split_once('/') {
            // What has spaces is a title, not an id; no hub allows ids as long.
            _ if id.contains(' ') || id.len() > LONGEST => {
                return ModelId { full_name: id.to_owned(), ..Self::default() };
            }
            Some((owner, name)) if owner.starts_with('.') => (None, name),
            Some((owner, name)) => (Some(owner), name),
            None => (None, id),
        };
        let mut parts: Vec<Part> = full_name
            .split('-')
            .filter(|part| !part.is_empty())
            .enumerate()
            .map(|(index, part)| Part::recognise(part, index, weights))
            .collect();
        drop_sizes_in_words(&mut parts);
        find_basename(&mut parts);

        let mut id = ModelId {
            organization: organization.map(str::to_owned),
            full_name: full_name.to_owned(),
            basename: joined(&parts, &[Role::Basename, Role::BasenameVersion]),
            finetune: joined(&parts, &[Role::FineTune]),
            version: joined(&parts, &[Role::Version]),
            size_label: joined(&without_repeats(parts), &[Role::SizeLabel]),
        };
        if id.size_label.is_none() && id.finetune.is_none() && id.version.is_none() {
            // One word, or some words, could mean anything.
            id.basename = None;
        }
        id
    }
}

impl Part {
    fn recognise(part: &str, index: usize, weights: f64) -> Part {
        let lower = part.to_lowercase();
        let as_it_is = |role| Part { text: part.to_owned(), role };
        if is_version(&lower) {
            as_it_is(Role::Version)
        } else if is_tensor_type(&lower) {
            Part { text: part.to_uppercase(), role: Role::TensorType }
        } else if index > 0 && is_size(&lower) {
            Part::size(part, weights)
        } else if index > 0 && ["chat", "instruct", "vision", "lora"].contains(&lower.as_str()) {
            as_it_is(Role::FineTune)
        } else {
            as_it_is(Role::Unknown)
        }
    }

    /// `7b` and `7B` are `7B`, `7b1` is `7.1B`; all of it is ASCII.
    fn size(part: &str, weights: f64) -> Part {
        let mut text = part.replace('_', ".");
        if let Some(digit) = text.chars().next_back().filter(char::is_ascii_digit) {
            text.pop();
            let unit = text.pop();
            text.extend(Some('.').into_iter().chain([digit]).chain(unit));
        }
        let Some(unit) = text.pop() else { return Part { text, role: Role::Unknown } };
        if !text.ends_with(|last: char| last.is_ascii_digit()) {
            text.push(unit);
            return Part { text, role: Role::SizeLabel };
        }
        let power = " KMBT".find(unit.to_ascii_uppercase()).unwrap_or(0) as i32;
        let said = text.parse::<f64>().map(|number| number * 1000f64.powi(power));
        let is_far = said.is_ok_and(|said| (said - weights).abs() > (7.0 * weights / 8.0).floor());
        if weights > 0.0 && is_far {
            text.push(unit.to_ascii_lowercase());
            return Part { text, role: Role::FineTune };
        }
        text.push(unit.to_ascii_uppercase());
        Part { text, role: Role::SizeLabel }
    }
}

/// Where there is a size in figures, `small` and its like belong to the name.
fn drop_sizes_in_words(parts: &mut [Part]) {
    let mut sizes = parts.iter().filter(|part| part.role == Role::SizeLabel);
    if !sizes.any(|part| part.text.contains(|c: char| c.is_ascii_digit())) {
        return;
    }
    for part in parts.iter_mut().filter(|part| part.role == Role::SizeLabel) {
        if part.text.chars().all(char::is_alphabetic) {
            part.role = Role::Unknown;
        }
    }
}

/// The base name goes as far as words and versions do, but does not end with a version. Words after
/// it are a fine-tune.
fn find_basename(parts: &mut [Part]) {
    let mut at_start = true;
    for part in parts.iter_mut() {
        let is_word = part.role == Role::Unknown && part.text.starts_with(char::is_alphabetic);
        at_start &= is_word || part.role == Role::Version;
        part.role = match part.role {
            Role::Unknown if at_start => Role::Basename,
            Role::Version if at_start => Role::BasenameVersion,
            Role::Unknown => Role::FineTune,
            other => other,
        };
    }
    for part in parts.iter_mut().rev().take_while(|part| part.role == Role::BasenameVersion) {
        part.role = Role::Version;
    }
}

fn without_repeats(parts: Vec<Part>) -> Vec<Part> {
    let mut kept: Vec<Part> = Vec::new();
    for part in parts {
        if !kept.iter().any(|before| before.text == part.text) {
            kept.push(part);
        }
    }
    kept
}

fn joined(parts: &[Part], roles: &[Role]) -> Option<String> {
    let texts = parts.iter().filter(|part| roles.contains(&part.role));
    let texts: Vec<&str> = texts.map(|part| part.text.as_str()).collect();
    (!texts.is_empty()).then(|| texts.join("-"))
}

/// `2`, `v0.1`, `iter35`.
fn is_version(part: &str) -> bool {
    let number = part.strip_prefix("iter").or(part.strip_prefix('v')).unwrap_or(part);
    number.split('.').all(is_digits)
}

/// `q4_k_m`, `iq2_s`, `f16`, `bf16`, `fp32`.
fn is_tensor_type(part: &str) -> bool {
    let float = part.strip_prefix('b').unwrap_or(part).strip_prefix('f');
    let bits = float.map(|float| float.strip_prefix('p').unwrap_or(float));
    if matches!(bits, Some("16" | "32")) {
        return true;
    }
    let rest = part.strip_prefix('i').unwrap_or(part).strip_prefix('q');
    let mut rest = rest.unwrap_or_default().chars();
    if !rest.next().is_some_and(|digit| digit.is_ascii_digit()) {
        return false;
    }
    let rest: Vec<char> = rest.collect();
    let is_suffix =
        |pair: &[char]| matches!(pair, ['_', letter] if letter.is_alphanumeric() || *letter == '_');
    rest.chunks(2).all(is_suffix)
}

/// `7b`, `1.1b`, `8x7b`, `a14b`, `7b1`, `mini`.
fn is_size(part: &str) -> bool {
    if ["small", "mini", "medium", "large", "xl", "xxl"].contains(&part) {
        return true;
    }
    let number = part.strip_suffix(|last: char| last.is_ascii_digit()).unwrap_or(part);
    let Some(number) = number.strip_suffix(['k', 'm', 'b', 't']) else { return false };
    let number = match number.split_once('x') {
        Some((experts, number)) if is_digits(experts) => number,
        Some(_) => return false,
        None => number.strip_prefix('a').unwrap_or(number),
    };
    match number.split_once(['.', '_']) {
        Some((whole, fraction)) => is_digits(whole) && is_digits(fraction),
        None => is_digits(number),
    }
}

fn is_digits(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit())
}

/// A name as a title: spaces for hyphens, and a capital for each word that has none, unless it is
/// a number or a version.
pub(super) fn title(name: &str) -> String {
    let spaced = name.replace('-', " ");
    let words = spaced.split_whitespace().map(|word| {
        let has_lower = word.chars().any(char::is_lowercase);
        let is_lower = has_lower && !word.chars().any(char::is_uppercase);
        let version = word.strip_prefix('v').is_some_and(|rest| rest.split('.').all(is_digits));
        let is_number = word.starts_with(|first: char| first.is_ascii_digit());
        if is_lower && !version && !is_number { capitals(word) } else { word.to_owned() }
    });
    words.collect::<Vec<_>>().join(" ")
}

/// A capital at the start and after everything that is no letter.
fn capitals(word: &str) -> String {
    let mut after_letter = false;
    let mut titled = String::with_capacity(word.len());
    for c in word.chars() {
        match after_letter {
            true => titled.push(c),
            false => titled.extend(c.to_uppercase()),
        }
        after_letter = c.is_alphabetic();
    }
    titled
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What gguf-py 0.19 makes of each: owner, base name, fine-tune, version, size; and the title.
    const PUBLISHED: &[(&str, f64, [&str; 5], &str)] = &[
        (
            "meta-llama/Llama-2-7b-hf",
            6.7e9,
            ["meta-llama", "Llama-2", "hf", "", "7B"],
            "Llama 2 7b Hf",
        ),
        (
            "meta-llama/Meta-Llama-3-8B-Instruct",
            8e9,
            ["meta-llama", "Meta-Llama-3", "Instruct", "", "8B"],
            "Meta Llama 3 8B Instruct",
        ),
        (
            "meta-llama/Llama-3.2-1B",
            1.2e9,
            ["meta-llama", "Llama-3.2", "", "", "1B"],
            "Llama 3.2 1B",
        ),
        (
            "mistralai/Mixtral-8x7B-Instruct-v0.1",
            4.67e10,
            ["mistralai", "Mixtral", "Instruct", "v0.1", "8x7B"],
            "Mixtral 8x7B Instruct v0.1",
        ),
        (
            "NousResearch/Hermes-2-Pro-Llama-3-8B",
            8e9,
            ["NousResearch", "Hermes-2-Pro-Llama-3", "", "", "8B"],
            "Hermes 2 Pro Llama 3 8B",
        ),
        (
            "microsoft/Phi-3-mini-4k-instruct",
            3.8e9,
            ["microsoft", "Phi-3", "4k-instruct", "", "mini"],
            "Phi 3 Mini 4k Instruct",
        ),
        (
            "bigscience/bloom-7b1-petals",
            7.1e9,
            ["bigscience", "bloom", "petals", "", "7.1B"],
            "Bloom 7b1 Petals",
        ),
        (
            "TinyLlama/TinyLlama-1.1B-Chat-v1.0",
            1.1e9,
            ["TinyLlama", "TinyLlama", "Chat", "v1.0", "1.1B"],
            "TinyLlama 1.1B Chat v1.0",
        ),
        ("01-ai/Yi-34B-200K", 3.4e10, ["01-ai", "Yi", "200k", "", "34B"], "Yi 34B 200K"),
        ("./llama-7b", 6.7e9, ["", "llama", "", "", "7B"], "Llama 7b"),
        ("llama", 6.7e9, ["", "", "", "", ""], "Llama"),
        (
            "EmbeddedLLM/Mistral-7B-Merge-14-v0.1",
            7.2e9,
            ["EmbeddedLLM", "Mistral", "Merge", "14-v0.1", "7B"],
            "Mistral 7B Merge 14 v0.1",
        ),
        ("tiny-llama-2", 6.8e6, ["", "tiny-llama", "", "2", ""], "Tiny Llama 2"),
        (
            "Llama-2-7b-7b-chat-hf-Q4_K_M",
            6.7e9,
            ["", "Llama-2", "chat-hf", "", "7B"],
            "Llama 2 7b 7b Chat Hf Q4_K_M",
        ),
        (
            "quant-f16-bf16-fpp16-iq4_xs-q5_k_m",
            1e9,
            ["", "quant", "fpp16-iq4_xs", "", ""],
            "Quant F16 Bf16 Fpp16 Iq4_Xs Q5_K_M",
        ),
        (
            "Qwen/Qwen3-235B-A22B-small",
            2.35e11,
            ["Qwen", "Qwen3", "small", "", "235B-A22B"],
            "Qwen3 235B A22B Small",
        ),
        ("x-large-model", 1e9, ["", "x", "model", "", "large"], "X Large Model"),
        ("gpt2-XL", 1e9, ["", "gpt2", "", "", "XL"], "Gpt2 XL"),
        (
            "Qwen2.5-Coder-7_5b-iter35-V2",
            7.5e9,
            ["", "Qwen2.5-Coder", "", "iter35-V2", "7.5B"],
            "Qwen2.5 Coder 7_5b Iter35 V2",
        ),
        ("1.5-2b", 0.0, ["", "1.5", "", "", "2B"], "1.5 2b"),
        (
            "a-8x-7q-12z-8xx7b-é7b",
            1e9,
            ["", "a", "8x-7q-12z-8xx7b-é7b", "", ""],
            "A 8x 7q 12z 8xx7b É7B",
        ),
        ("falcon-40b-100T", 4e10, ["", "falcon", "100t", "", "40B"], "Falcon 40b 100T"),
    ];

    #[test]
    fn names_are_read_as_the_field_reads_them() {
        for &(id, weights, parts, titled) in PUBLISHED {
            let found = ModelId::parse(id, weights);
            let [organization, basename, finetune, version, size_label] =
                parts.map(|part| (!part.is_empty()).then(|| part.to_owned()));
            let full_name = id.rsplit('/').next().unwrap().to_owned();
            assert_eq!(title(&full_name), titled);
            let expected =
                ModelId { organization, full_name, basename, finetune, version, size_label };
            assert_eq!(found, expected, "{id}");
        }
    }

    #[test]
    fn titles_and_odd_names_say_nothing_but_themselves() {
        let only = |name: &str| ModelId { full_name: name.to_owned(), ..ModelId::default() };
        assert_eq!(ModelId::parse("My own 7b-model", 7e9), only("My own 7b-model"));
        for name in ["", "-", "--", "llama", "a-7b-".repeat(1 << 20).as_str()] {
            assert_eq!(ModelId::parse(name, 7e9), only(name));
        }
        assert_eq!(title("v0.1-o1mini l'été"), "v0.1 O1Mini L'Été");
    }
}
