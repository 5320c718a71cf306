//! Block layouts that ggml has withdrawn, and the way to today's.
//!
//! Source: llama.cpp as of 007a8f6 (Q4_0, March 2023), 904d2a8 (Q4_1), 77a7340 (Q4_2), e0305ea
//! (Q4_3), 574406d (Q5_0, Q5_1), 7a32fcb (Q8_0), b9fd7ee (May: nibbles in halves, ggjt v2) and
//! 2d5db48 (scales as F16, ggjt v3).

use half::f16;
use llq_gguf::TensorType;
use llq_quant::{Encoding, RowError, format};

/// A withdrawn layout. A block is a scale, a minimum where there is one, the fifth bits of 5-bit
/// codes, and the codes: `weight = scale * code + minimum`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct OldLayout {
    pub(crate) name: &'static str,
    weights: usize,
    bits: usize,
    scale: Scale,
    offset: Offset,
    order: Order,
}

/// How scale and minimum are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Scale {
    F32,
    F16,
}

/// What codes count from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Offset {
    /// The middle of their range.
    Middle,
    /// A minimum that the block stores.
    Minimum,
}

/// Which codes share a byte.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Order {
    /// Codes 2i and 2i + 1.
    Pairs,
    /// Codes i and i + 16, as today.
    Halves,
}

/// What bringing a layout to today's costs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Cost {
    /// Bits change their places.
    Nothing,
    /// Scales and minima are rounded from F32 to F16; codes stay.
    Rounding,
    /// Decoded and encoded again, as today has no type with such blocks.
    Encoding,
}

const fn old(name: &'static str, bits: usize, scale: Scale, offset: Offset) -> OldLayout {
    OldLayout { name, weights: 32, bits, scale, offset, order: Order::Pairs }
}

const Q4_0: OldLayout = old("Q4_0", 4, Scale::F32, Offset::Middle);
const Q4_1: OldLayout = old("Q4_1", 4, Scale::F32, Offset::Minimum);
const Q4_2: OldLayout = OldLayout { weights: 16, ..old("Q4_2", 4, Scale::F16, Offset::Middle) };
const Q4_3: OldLayout = OldLayout { weights: 16, ..old("Q4_3", 4, Scale::F16, Offset::Minimum) };
const Q5_0: OldLayout = old("Q5_0", 5, Scale::F16, Offset::Middle);
const Q5_1: OldLayout = old("Q5_1", 5, Scale::F16, Offset::Minimum);
const Q8_0: OldLayout = old("Q8_0", 8, Scale::F32, Offset::Middle);

/// By type number: files before ggjt v2.
pub(super) const IN_PAIRS: &[(u32, OldLayout)] =
    &[(2, Q4_0), (3, Q4_1), (4, Q4_2), (5, Q4_3), (6, Q5_0), (7, Q5_1), (8, Q8_0)];

/// By type number: what ggjt v2 has otherwise than v3.
pub(super) const IN_HALVES: &[(u32, OldLayout)] = &[
    (2, OldLayout { order: Order::Halves, ..Q4_0 }),
    (3, OldLayout { order: Order::Halves, ..Q4_1 }),
    (8, Q8_0),
];

/// The most weights of a block.
const MAX_WEIGHTS: usize = 32;

/// What a block says.
struct Block {
    scale: f32,
    minimum: f32,
    /// Without sign, but for 8 bits.
    codes: [i8; MAX_WEIGHTS],
}

impl OldLayout {
    /// Bytes of a row of `columns` weights; `None` where blocks do not fill it.
    pub(super) fn row_bytes(&self, columns: u64) -> Option<u64> {
        let whole = columns.is_multiple_of(self.weights as u64);
        let blocks = whole.then_some(columns / self.weights as u64)?;
        blocks.checked_mul(self.block_bytes() as u64)
    }

    /// Today's type that holds the same weights, or nearly the same.
    pub(crate) fn nearest(&self) -> TensorType {
        match (self.cost(), self.bits, self.offset) {
            (Cost::Encoding, ..) => TensorType::Q8_0,
            (_, 4, Offset::Middle) => TensorType::Q4_0,
            (_, 4, Offset::Minimum) => TensorType::Q4_1,
            (_, 5, Offset::Middle) => TensorType::Q5_0,
            (_, 5, Offset::Minimum) => TensorType::Q5_1,
            _ => TensorType::Q8_0,
        }
    }

    pub(crate) fn cost(&self) -> Cost {
        match (self.weights, self.scale) {
            (16, _) => Cost::Encoding,
            (_, Scale::F32) => Cost::Rounding,
            (_, Scale::F16) => Cost::Nothing,
        }
    }

    /// The first block whose scale is negative, though it is a range divided by 15. So do blocks
    /// look of the Q4_1 before 17 March 2023, which had the numbers of a row in another order.
    pub(super) fn first_negative_range(&self, bytes: &[u8]) -> Option<usize> {
        let mut blocks = bytes.chunks_exact(self.block_bytes());
        (*self == Q4_1).then(|| blocks.position(|block| self.scale.read(block) < 0.0))?
    }

    /// The weights of whole blocks, exactly, as little-endian F32.
    pub(super) fn decode(&self, bytes: &[u8], out: &mut [u8]) {
        let (weights, _) = out.as_chunks_mut::<4>();
        self.decode_with(bytes, weights, |weight| weight.to_le_bytes());
    }

    /// Rows as [`nearest`](Self::nearest) has them.
    pub(super) fn write_nearest(
        &self,
        columns: usize,
        bytes: &[u8],
        out: &mut [u8],
    ) -> Result<(), RowError> {
        if self.cost() != Cost::Encoding {
            let blocks = out.chunks_exact_mut(self.nearest().block_bytes());
            for (bytes, out) in bytes.chunks_exact(self.block_bytes()).zip(blocks) {
                self.pack(&self.read(bytes), out);
            }
            return Ok(());
        }
        let Some(to) = format(self.nearest()) else { return Ok(()) };
        let mut row = vec![0.0; columns];
        let row_bytes = columns / self.weights * self.block_bytes();
        let out_bytes = columns / self.nearest().block_weights() * self.nearest().block_bytes();
        for (bytes, out) in bytes.chunks_exact(row_bytes).zip(out.chunks_exact_mut(out_bytes)) {
            self.decode_with(bytes, &mut row, |weight| weight);
            to.encode_row(&row, Encoding::default(), out)?;
        }
        Ok(())
    }

    fn decode_with<T>(&self, bytes: &[u8], out: &mut [T], number: impl Fn(f32) -> T) {
        let blocks = bytes.chunks_exact(self.block_bytes());
        for (bytes, out) in blocks.zip(out.chunks_exact_mut(self.weights)) {
            let Block { scale, minimum, codes } = self.read(bytes);
            for (out, code) in out.iter_mut().zip(codes) {
                *out = number(f32::from(code) * scale + minimum);
            }
        }
    }

    fn block_bytes(&self) -> usize {
        let codes = if self.bits == 8 { self.weights } else { self.weights / 2 };
        self.numbers_bytes() + self.high_bytes() + codes
    }

    /// Bytes of scale and minimum.
    fn numbers_bytes(&self) -> usize {
        let count = if self.offset == Offset::Minimum { 2 } else { 1 };
        count * self.scale.bytes()
    }

    /// Bytes of the fifth bits.
    fn high_bytes(&self) -> usize {
        if self.bits == 5 { 4 } else { 0 }
    }

    fn read(&self, block: &[u8]) -> Block {
        let (numbers, rest) = block.split_at(self.numbers_bytes());
        let (high, stored) = rest.split_at(self.high_bytes());
        let scale = self.scale.read(numbers);
        let minimum = match self.offset {
            Offset::Middle => 0.0,
            Offset::Minimum => self.scale.read(&numbers[self.scale.bytes()..]),
        };
        let mut codes = [0; MAX_WEIGHTS];
        if self.bits == 8 {
            for (code, &byte) in codes.iter_mut().zip(stored) {
                *code = byte as i8;
            }
            return Block { scale, minimum, codes };
        }
        for (i, &byte) in stored.iter().enumerate() {
            let (low, high) = match self.order {
                Order::Pairs => (2 * i, 2 * i + 1),
                Order::Halves => (i, i + self.weights / 2),
            };
            codes[low] = (byte & 15) as i8;
            codes[high] = (byte >> 4) as i8;
        }
        for (i, code) in codes.iter_mut().enumerate().take(8 * high.len()) {
            *code |= ((high[i / 8] >> (i % 8)) as i8 & 1) << 4;
        }
        if self.offset == Offset::Middle {
            codes.iter_mut().for_each(|code| *code -= 1 << (self.bits - 1));
        }
        Block { scale, minimum, codes }
    }

    /// Writes the block that [`read`](Self::read) gave in today's layout: numbers as F16, fifth
    /// bits, codes in halves.
    fn pack(&self, block: &Block, out: &mut [u8]) {
        let (scale, rest) = out.split_at_mut(2);
        scale.copy_from_slice(&f16::from_f32(block.scale).to_le_bytes());
        let (minimum, rest) = rest.split_at_mut(if self.offset == Offset::Minimum { 2 } else { 0 });
        if !minimum.is_empty() {
            minimum.copy_from_slice(&f16::from_f32(block.minimum).to_le_bytes());
        }
        let (high, stored) = rest.split_at_mut(self.high_bytes());
        if self.bits == 8 {
            for (byte, code) in stored.iter_mut().zip(block.codes) {
                *byte = code as u8;
            }
            return;
        }
        let middle = if self.offset == Offset::Middle { 1 << (self.bits - 1) } else { 0 };
        let codes = block.codes.map(|code| (code + middle) as u8);
        for (i, byte) in stored.iter_mut().enumerate() {
            *byte = codes[i] & 15 | codes[i + MAX_WEIGHTS / 2] << 4;
        }
        high.fill(0);
        for (i, code) in codes.iter().enumerate().take(8 * high.len()) {
            high[i / 8] |= (code >> 4) << (i % 8);
        }
    }
}

impl Scale {
    fn bytes(self) -> usize {
        match self {
            Scale::F32 => 4,
            Scale::F16 => 2,
        }
    }

    /// The number that `bytes` start with.
    fn read(self, bytes: &[u8]) -> f32 {
        match (self, bytes) {
            (Scale::F32, &[a, b, c, d, ..]) => f32::from_le_bytes([a, b, c, d]),
            (Scale::F16, &[a, b, ..]) => f16::from_le_bytes([a, b]).to_f32(),
            _ => f32::NAN,
        }
    }
}
