//! Which special tokens `tokenizer.json` puts around a text.

use serde_json::Value as Json;

use super::special::special_text;
use crate::json::JsonFile;

/// What the templates of a post-processor say; nothing where there is none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct TemplateFlags {
    pub(super) add_bos: Option<bool>,
    pub(super) add_eos: Option<bool>,
    /// Between two texts.
    pub(super) add_sep: Option<bool>,
}

impl TemplateFlags {
    /// `settings` (`tokenizer_config.json`) say which texts are BOS, EOS and the separator; without
    /// them, what stands first and last is.
    pub(super) fn of(post_processor: &Json, settings: Option<&JsonFile>) -> TemplateFlags {
        let Some(template) = template(post_processor) else { return TemplateFlags::default() };
        let is = |name: &str, text: &str| {
            settings.is_none_or(|settings| special_text(settings, name) == Some(text))
        };
        let single = items(template, "single");
        let first = single.first().and_then(|item| special(item));
        let last = single.last().and_then(|item| special(item));
        TemplateFlags {
            add_bos: Some(first.is_some_and(|text| is("bos", text) || is("cls", text))),
            add_eos: Some(last.is_some_and(|text| is("eos", text))),
            add_sep: between(items(template, "pair"), first).map(|between| {
                let separates = |text: &&str| is("sep", text) || is("eos", text);
                // One token after the first text may be no more than its EOS.
                let own = usize::from(last.is_some());
                between.iter().skip(own).any(separates)
            }),
        }
    }
}

fn template(post_processor: &Json) -> Option<&Json> {
    let processors = post_processor.get("processors").and_then(Json::as_array);
    let processors = processors.map_or(std::slice::from_ref(post_processor), Vec::as_slice);
    let is_template =
        |json: &&Json| json.get("type").and_then(Json::as_str) == Some("TemplateProcessing");
    processors.iter().find(is_template)
}

fn items<'a>(template: &'a Json, key: &str) -> &'a [Json] {
    template.get(key).and_then(Json::as_array).map_or(&[], Vec::as_slice)
}

/// The special tokens between the texts of a pair, without the one that opens every text; `None`
/// where nothing at all is between.
fn between<'a>(pair: &'a [Json], first: Option<&str>) -> Option<Vec<&'a str>> {
    let is_text = |item: &Json| item.get("Sequence").is_some();
    let start = pair.iter().position(is_text)? + 1;
    let end = pair.iter().rposition(is_text)?;
    let between = pair.get(start..end).filter(|between| !between.is_empty())?;
    Some(between.iter().filter_map(special).filter(|&text| Some(text) != first).collect())
}

fn special(item: &Json) -> Option<&str> {
    item.get("SpecialToken")?.get("id")?.as_str()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// A template from texts; "A" and "B" are the sequences.
    fn processor(single: &[&str], pair: &[&str]) -> Json {
        let items = |texts: &[&str]| -> Vec<Json> {
            let item = |text: &&str| match *text {
                "A" | "B" => json!({ "Sequence": { "id": text } }),
                _ => json!({ "SpecialToken": { "id": text } }),
            };
            texts.iter().map(item).collect()
        };
        let template =
            json!({ "type": "TemplateProcessing", "single": items(single), "pair": items(pair) });
        json!({ "type": "Sequence", "processors": [{ "type": "ByteLevel" }, template] })
    }

    #[test]
    fn flags_follow_from_what_stands_around_the_text() {
        let flags = |single: &[&str], pair: &[&str]| {
            let flags = TemplateFlags::of(&processor(single, pair), None);
            (flags.add_bos, flags.add_eos, flags.add_sep)
        };
        let (yes, no) = (Some(true), Some(false));
        assert_eq!(flags(&["<s>", "A"], &["<s>", "A", "<s>", "B"]), (yes, no, no));
        assert_eq!(flags(&["<s>", "A", "</s>"], &["<s>", "A", "</s>", "B"]), (yes, yes, no));
        assert_eq!(flags(&["A", "</s>"], &["A", "</s>", "<sep>", "B"]), (no, yes, yes));
        assert_eq!(flags(&["A"], &["A", "<sep>", "B"]), (no, no, yes));
        assert_eq!(flags(&["A"], &["A", "B"]), (no, no, None));
        assert_eq!(TemplateFlags::of(&Json::Null, None), TemplateFlags::default());
    }
}
