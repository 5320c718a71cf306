//! The text of a document that is a JSON value.

use serde_json::Value as Json;

/// What is wrong with a document, and what helps.
pub(super) struct Unusable {
    pub(super) message: String,
    pub(super) hint: Option<&'static str>,
}

/// The text in `field` of an object, or the text that a document itself is. `a.b` is the field of
/// that name or, where there is none, field `b` of the object `a`.
pub(super) fn text(document: Json, field: &str) -> Result<String, Unusable> {
    let fields = match document {
        Json::String(text) => return Ok(text),
        Json::Object(fields) => fields,
        other => {
            let message = format!("{} is no document: an object or a text is", kind(&other));
            return Err(Unusable { message, hint: None });
        }
    };
    let nested = || {
        let mut path = field.split('.');
        let first = fields.get(path.next()?)?;
        path.try_fold(first, |object, name| object.get(name))
    };
    match fields.get(field).or_else(nested) {
        Some(Json::String(text)) => Ok(text.clone()),
        Some(other) => {
            let message = format!("field {field:?} is {}, expected a text", kind(other));
            Err(Unusable { message, hint: Some(HINT) })
        }
        None => {
            const SHOWN: usize = 8;
            let names: Vec<_> = fields.keys().take(SHOWN).map(|name| format!("{name:?}")).collect();
            let there = match fields.len() {
                0 => "none".to_owned(),
                1..=SHOWN => names.join(", "),
                _ => format!("{}, …", names.join(", ")),
            };
            let message = format!("no field {field:?}; there is {there}");
            Err(Unusable { message, hint: Some(HINT) })
        }
    }
}

const HINT: &str = "--field names the one that holds the text, of an object inside as a.b";

fn kind(json: &Json) -> &'static str {
    match json {
        Json::Null => "null",
        Json::Bool(_) => "a truth value",
        Json::Number(_) => "a number",
        Json::String(_) => "a text",
        Json::Array(_) => "an array",
        Json::Object(_) => "an object",
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn fields_are_found_by_name_or_path() {
        let document = json!({ "text": "plain", "a.b": "dotted", "a": { "b": "inside", "c": 1 } });
        let found = |field: &str| text(document.clone(), field).map_err(|wrong| wrong.message);
        assert_eq!(found("text").as_deref(), Ok("plain"));
        assert_eq!(found("a.b").as_deref(), Ok("dotted"));
        assert_eq!(text(json!({ "a": { "b": "inside" } }), "a.b").ok().as_deref(), Some("inside"));
        assert_eq!(found("a.c"), Err("field \"a.c\" is a number, expected a text".to_owned()));
        let missing = "no field \"b\"; there is \"a\", \"a.b\", \"text\"";
        assert_eq!(found("b"), Err(missing.to_owned()));
        let many: Json = (0..20).map(|i| (format!("{i:02}"), Json::Null)).collect();
        let said = text(many, "x").map_err(|wrong| wrong.message).unwrap_err();
        assert!(said.ends_with(r#""06", "07", …"#), "{said}");
        assert_eq!(text(json!("itself"), "text").ok().as_deref(), Some("itself"));
        assert!(text(json!([]), "text").is_err());
        assert!(text(json!({}), "").is_err());
    }
}
