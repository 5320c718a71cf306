//! Just enough of the Protocol Buffers wire format to read a SentencePiece model.

use super::TokenizerError;

/// The fields of a message, front to back.
pub(super) struct Message<'a> {
    rest: &'a [u8],
}

/// A field's number and value.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Field<'a> {
    pub(super) number: u64,
    pub(super) value: Wire<'a>,
}

/// A value as it is encoded.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Wire<'a> {
    Varint(u64),
    Fixed64,
    Bytes(&'a [u8]),
    Fixed32(u32),
}

impl<'a> Message<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Message { rest: bytes }
    }

    /// The next field; `None` at the end.
    pub(super) fn next(&mut self) -> Result<Option<Field<'a>>, TokenizerError> {
        if self.rest.is_empty() {
            return Ok(None);
        }
        let tag = self.varint()?;
        let value = match tag & 7 {
            0 => Wire::Varint(self.varint()?),
            1 => {
                self.take(8)?;
                Wire::Fixed64
            }
            2 => {
                let bytes = self.varint()?;
                Wire::Bytes(self.take(bytes)?)
            }
            5 => {
                let mut word = [0; 4];
                word.copy_from_slice(self.take(4)?);
                Wire::Fixed32(u32::from_le_bytes(word))
            }
            _ => return Err(TokenizerError::Protobuf("a field of a withdrawn or unknown kind")),
        };
        match tag >> 3 {
            0 => Err(TokenizerError::Protobuf("a field of number 0")),
            number => Ok(Some(Field { number, value })),
        }
    }

    fn take(&mut self, bytes: u64) -> Result<&'a [u8], TokenizerError> {
        let taken = usize::try_from(bytes).ok().and_then(|n| self.rest.split_at_checked(n));
        let (taken, rest) = taken.ok_or(TokenizerError::Protobuf("a field beyond its end"))?;
        self.rest = rest;
        Ok(taken)
    }

    /// Seven bits a byte, the lowest first, at most 64 bits.
    fn varint(&mut self) -> Result<u64, TokenizerError> {
        let mut value = 0u64;
        for shift in (0..64).step_by(7) {
            let byte = self.take(1)?[0];
            let bits = u64::from(byte & 0x7f);
            if bits << shift >> shift != bits {
                break;
            }
            value |= bits << shift;
            if byte < 0x80 {
                return Ok(value);
            }
        }
        Err(TokenizerError::Protobuf("a number of more than 64 bits"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_read_in_order() {
        let mut message =
            Message::new(&[0x08, 0x96, 0x01, 0x12, 2, b'o', b'k', 0x1d, 0, 0, 0x80, 0x3f]);
        let mut next = || message.next().unwrap().map(|field| (field.number, field.value));
        assert_eq!(next(), Some((1, Wire::Varint(150))));
        assert_eq!(next(), Some((2, Wire::Bytes(b"ok"))));
        assert_eq!(next(), Some((3, Wire::Fixed32(1f32.to_bits()))));
        assert_eq!(next(), None);
    }

    #[test]
    fn damage_is_an_error() {
        let damaged: [&[u8]; 6] =
            [&[0x12, 5, b'x'], &[0x08], &[0xff; 11], &[0x00, 0x00], &[0x0b], &[0x1d, 0, 0]];
        for bytes in damaged {
            assert!(Message::new(bytes).next().is_err(), "{bytes:?}");
        }
    }
}
