//! F16 and BF16 over every value they have, against arithmetic in f64.

#![allow(clippy::unwrap_used)] // a test may

use llq_gguf::TensorType;
use llq_quant::{Encoding, format};

/// A 16-bit float: how its bits are shared out, and the exponent of its smallest normal number.
struct Layout {
    tensor_type: TensorType,
    mantissa_bits: u32,
    lowest_exponent: i32,
}

const F16: Layout =
    Layout { tensor_type: TensorType::F16, mantissa_bits: 10, lowest_exponent: -14 };
const BF16: Layout =
    Layout { tensor_type: TensorType::BF16, mantissa_bits: 7, lowest_exponent: -126 };

impl Layout {
    fn infinity(&self) -> u16 {
        0x7fff >> self.mantissa_bits << self.mantissa_bits
    }

    /// What positive `bits` up to infinity mean; infinity counts as the power of two it stands for
    /// when numbers are rounded.
    fn value(&self, bits: u16) -> f64 {
        let exponent = i32::from(bits >> self.mantissa_bits);
        let mantissa = f64::from(bits & ((1 << self.mantissa_bits) - 1));
        let unit = 2f64.powi(self.lowest_exponent - self.mantissa_bits as i32);
        match exponent {
            0 => mantissa * unit,
            _ => (mantissa + f64::from(1 << self.mantissa_bits)) * unit * 2f64.powi(exponent - 1),
        }
    }

    fn decode(&self, bits: u16) -> f32 {
        let mut weight = [0.0];
        format(self.tensor_type).unwrap().dequantize(&bits.to_le_bytes(), &mut weight).unwrap();
        weight[0]
    }

    fn encode(&self, weight: f32) -> u16 {
        let mut bytes = [0; 2];
        format(self.tensor_type)
            .unwrap()
            .encode_row(&[weight], Encoding::default(), &mut bytes)
            .unwrap();
        u16::from_le_bytes(bytes)
    }
}

#[test]
fn every_value_decodes_and_encodes_to_itself() {
    for layout in [F16, BF16] {
        let name = layout.tensor_type;
        for bits in 0..=layout.infinity() {
            let expected =
                if bits == layout.infinity() { f32::INFINITY } else { layout.value(bits) as f32 };
            for (bits, expected) in [(bits, expected), (bits | 0x8000, -expected)] {
                let weight = layout.decode(bits);
                assert_eq!(weight.to_bits(), expected.to_bits(), "{name} {bits:#06x}");
                assert_eq!(layout.encode(weight), bits, "{name} {bits:#06x}");
            }
        }
        for bits in layout.infinity() + 1..=0x7fff {
            for bits in [bits, bits | 0x8000] {
                let again = layout.encode(layout.decode(bits));
                assert!(layout.decode(bits).is_nan() && layout.decode(again).is_nan(), "{name}");
            }
        }
    }
}

/// Halfway between two neighbours goes to the even one, and beside that to the nearer.
#[test]
fn every_number_rounds_to_the_nearest_ties_to_even() {
    for layout in [F16, BF16] {
        for low in 0..layout.infinity() {
            let (high, even) = (low + 1, low + low % 2);
            let middle = ((layout.value(low) + layout.value(high)) / 2.0) as f32;
            let cases = [(middle.next_down(), low), (middle, even), (middle.next_up(), high)];
            for (weight, expected) in cases {
                let found = (layout.encode(weight), layout.encode(-weight));
                let expected = (expected, expected | 0x8000);
                assert_eq!(found, expected, "{} {weight:e}", layout.tensor_type);
            }
        }
    }
}
