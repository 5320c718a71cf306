//! Numbers as GGUF stores them: fixed size, either byte order.

use crate::{Endian, value::for_each_number};

/// A number with a fixed size in the file.
pub(crate) trait Number: Copy {
    /// The number at the start of `bytes`; `None` where they are too few.
    fn decode(bytes: &[u8], endian: Endian) -> Option<Self>;

    /// All numbers in `bytes`.
    fn decode_all(bytes: &[u8], endian: Endian) -> Vec<Self>;

    /// Appends the number.
    fn encode(self, endian: Endian, out: &mut Vec<u8>);
}

macro_rules! numbers {
    ($($variant:ident $number:ident $id:literal $name:literal;)*) => {$(
        impl Number for $number {
            fn decode(bytes: &[u8], endian: Endian) -> Option<Self> {
                let bytes = *bytes.first_chunk()?;
                Some(match endian {
                    Endian::Little => $number::from_le_bytes(bytes),
                    Endian::Big => $number::from_be_bytes(bytes),
                })
            }

            fn decode_all(bytes: &[u8], endian: Endian) -> Vec<Self> {
                let (chunks, _) = bytes.as_chunks();
                match endian {
                    Endian::Little => chunks.iter().map(|&c| $number::from_le_bytes(c)).collect(),
                    Endian::Big => chunks.iter().map(|&c| $number::from_be_bytes(c)).collect(),
                }
            }

            fn encode(self, endian: Endian, out: &mut Vec<u8>) {
                out.extend_from_slice(&match endian {
                    Endian::Little => self.to_le_bytes(),
                    Endian::Big => self.to_be_bytes(),
                });
            }
        }
    )*};
}
for_each_number!(numbers);
