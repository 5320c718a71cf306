//! Text from files, made harmless for a terminal.

use std::fmt::{self, Write};

/// Shows text with everything escaped that could move the cursor, change colours, reorder
/// characters or hide them. Names and metadata come from files that anyone may have written.
pub(crate) struct Escaped<'a>(pub(crate) &'a str);

impl fmt::Display for Escaped<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for c in self.0.chars() {
            if is_harmless(c) {
                f.write_char(c)?;
            } else {
                write!(f, "{}", c.escape_unicode())?;
            }
        }
        Ok(())
    }
}

/// The same for text of many lines, whose ends are kept.
pub(crate) struct EscapedLines<'a>(pub(crate) &'a str);

impl fmt::Display for EscapedLines<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for line in self.0.split_inclusive('\n') {
            let (line, end) = line.strip_suffix('\n').map_or((line, ""), |line| (line, "\n"));
            write!(f, "{}{end}", Escaped(line))?;
        }
        Ok(())
    }
}

/// The same for text and attributes of HTML.
pub(crate) struct Html<'a>(pub(crate) &'a str);

impl fmt::Display for Html<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for c in self.0.chars() {
            match c {
                '&' => f.write_str("&amp;")?,
                '<' => f.write_str("&lt;")?,
                '>' => f.write_str("&gt;")?,
                '"' => f.write_str("&quot;")?,
                '\'' => f.write_str("&#39;")?,
                '\n' => f.write_char(c)?,
                c if is_harmless(c) => f.write_char(c)?,
                c => write!(f, "{}", c.escape_unicode())?,
            }
        }
        Ok(())
    }
}

/// The same for JSON text, in JSON's own escapes. Line feeds are layout there.
pub(crate) fn json(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        if c == '\n' || is_harmless(c) {
            escaped.push(c);
            continue;
        }
        for unit in c.encode_utf16(&mut [0; 2]) {
            let _ = write!(escaped, "\\u{unit:04x}");
        }
    }
    escaped
}

/// Neither a control character nor one of the invisible ones that steer layout: zero-width and
/// directional marks (Unicode `Bidi_Control` and the joiners), line separators, byte-order mark
/// and tags.
fn is_harmless(c: char) -> bool {
    !(c.is_control()
        || matches!(c,
            '\u{61c}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}'
            | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{e0000}'..='\u{e007f}'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn terminal_sequences_become_visible() {
        let hostile = "a\x1b[2J\r\nb\u{9b}31m\u{202e}c";
        assert_eq!(Escaped(hostile).to_string(), "a\\u{1b}[2J\\u{d}\\u{a}b\\u{9b}31m\\u{202e}c");
    }

    #[test]
    fn html_stays_text() {
        let hostile = "</title><script>a&b\" '\u{202e}";
        let escaped = "&lt;/title&gt;&lt;script&gt;a&amp;b&quot; &#39;\\u{202e}";
        assert_eq!(Html(hostile).to_string(), escaped);
    }

    #[test]
    fn escaped_json_means_the_same() {
        let hostile = "\u{9b}31m \u{202e} \u{e0041} ordinary";
        let text = serde_json::to_string(hostile).unwrap();
        let escaped = json(&text);
        assert_eq!(escaped, r#""\u009b31m \u202e \udb40\udc41 ordinary""#);
        assert_eq!(serde_json::from_str::<String>(&escaped).unwrap(), hostile);
    }

    #[test]
    fn ordinary_text_is_unchanged() {
        let text = "naïve ▁Ω 漢字 \"quoted\" \\";
        assert_eq!(Escaped(text).to_string(), text);
    }
}
