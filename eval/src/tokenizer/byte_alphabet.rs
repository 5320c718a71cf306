//! The letters that stand for bytes in the tokens of a byte-level vocabulary.
//!
//! Radford et al., "Language Models are Unsupervised Multitask Learners" (GPT-2), 2019: a byte that
//! prints in Latin-1 is that letter, the others are numbered from U+0100 in order.

/// The letter of each byte.
#[derive(Clone, Debug)]
pub(super) struct ByteAlphabet {
    letters: Box<[char; 256]>,
}

impl ByteAlphabet {
    pub(super) fn new() -> ByteAlphabet {
        let mut substitutes = '\u{100}'..;
        let mut letters = Box::new(['\0'; 256]);
        for (byte, letter) in (0..=255).zip(letters.iter_mut()) {
            *letter = match byte {
                b'!'..=b'~' | 0xA1..=0xAC | 0xAE..=0xFF => char::from(byte),
                _ => substitutes.next().unwrap_or_default(),
            };
        }
        ByteAlphabet { letters }
    }

    pub(super) fn letter(&self, byte: u8) -> char {
        self.letters[usize::from(byte)]
    }

    /// Appends the bytes that `text` spells to `out`; a character that is no letter stands for itself.
    pub(super) fn read(&self, text: &str, out: &mut Vec<u8>) {
        for c in text.chars() {
            match (0..=255).find(|&byte| self.letter(byte) == c) {
                Some(byte) => out.push(byte),
                None => out.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes()),
            }
        }
    }

    /// Replaces what is in `out` by `bytes`, spelled.
    pub(super) fn spell(&self, bytes: &[u8], out: &mut String) {
        out.clear();
        out.extend(bytes.iter().map(|&byte| self.letter(byte)));
    }
}

#[cfg(test)]
mod tests {
    use super::ByteAlphabet;

    #[test]
    fn letters_are_those_of_gpt_2() {
        let alphabet = ByteAlphabet::new();
        let mut spelled = String::new();
        alphabet.spell(b" a\n\x00\x7F\xA0\xAD\xFF", &mut spelled);
        assert_eq!(spelled, "\u{120}a\u{10A}\u{100}\u{121}\u{142}\u{143}\u{FF}");
        let mut read = Vec::new();
        alphabet.read(&spelled, &mut read);
        assert_eq!(read, b" a\n\x00\x7F\xA0\xAD\xFF");
        let mut letters: Vec<char> = (0..=255).map(|byte| alphabet.letter(byte)).collect();
        letters.sort_unstable();
        letters.dedup();
        assert_eq!(letters.len(), 256);
    }
}
