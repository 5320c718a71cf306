//! Tokens that are found in the raw text before anything else looks at it.

use super::vocabulary::{TokenType, Vocabulary};

/// The user-defined tokens of a vocabulary, longest first.
#[derive(Clone, Debug)]
pub(super) struct UserDefined {
    tokens: Vec<(Box<str>, u32)>,
}

/// A part of a text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fragment<'t> {
    Token(u32),
    Text(&'t str),
}

impl UserDefined {
    pub(super) fn of(vocabulary: &Vocabulary) -> UserDefined {
        let mut tokens: Vec<(Box<str>, u32)> = vocabulary
            .of_type(TokenType::UserDefined)
            .map(|(text, id)| (Box::from(text), id))
            .collect();
        tokens.sort_unstable_by_key(|(text, id)| (std::cmp::Reverse(text.len()), *id));
        UserDefined { tokens }
    }

    /// Cuts `text` at user-defined tokens; a longer token claims its text before any shorter one.
    pub(super) fn partition<'t>(&self, text: &'t str) -> Vec<Fragment<'t>> {
        let mut fragments = Vec::new();
        push_text(text, &mut fragments);
        for (token_text, token) in &self.tokens {
            if !text.contains(&**token_text) {
                continue;
            }
            let mut finer = Vec::with_capacity(fragments.len() + 2);
            for fragment in fragments {
                match fragment {
                    Fragment::Text(text) => cut(text, token_text, *token, &mut finer),
                    Fragment::Token(_) => finer.push(fragment),
                }
            }
            fragments = finer;
        }
        fragments
    }
}

fn cut<'t>(text: &'t str, token_text: &str, token: u32, out: &mut Vec<Fragment<'t>>) {
    let mut pieces = text.split(token_text);
    push_text(pieces.next().unwrap_or_default(), out);
    for piece in pieces {
        out.push(Fragment::Token(token));
        push_text(piece, out);
    }
}

fn push_text<'t>(text: &'t str, out: &mut Vec<Fragment<'t>>) {
    if !text.is_empty() {
        out.push(Fragment::Text(text));
    }
}
