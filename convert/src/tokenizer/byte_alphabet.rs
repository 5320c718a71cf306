//! GPT-2's alphabet: a printable character for each byte, so that any bytes are text.

/// The character that stands for `byte`: itself where it is printable Latin-1 and no space, else
/// the next one from U+0100 on.
pub(super) fn letter(byte: u8) -> char {
    let code = match byte {
        b'!'..=b'~' | 0xa1..=0xac | 0xae..=0xff => u32::from(byte),
        0..=b' ' => 0x100 + u32::from(byte),
        0x7f..=0xa0 => 0x121 + u32::from(byte - 0x7f),
        0xad => 0x143,
    };
    char::from_u32(code).unwrap_or(char::REPLACEMENT_CHARACTER)
}

/// Appends the letters of `bytes`.
pub(super) fn spell(bytes: &[u8], text: &mut String) {
    text.extend(bytes.iter().map(|&byte| letter(byte)));
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn every_byte_has_its_own_letter() {
        let letters: HashSet<char> = (0..=255).map(letter).collect();
        assert_eq!(letters.len(), 256);
        assert!(letters.iter().all(|letter| ('!'..='\u{143}').contains(letter)));
        for (byte, expected) in [(b' ', 'Ġ'), (b'\n', 'Ċ'), (0x7f, 'ġ'), (0xad, 'Ń'), (0xe9, 'é')]
        {
            assert_eq!(letter(byte), expected);
        }
    }
}
