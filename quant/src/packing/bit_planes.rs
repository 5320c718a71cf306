//! Codes narrower than a byte.
//!
//! Every GGUF block format lays them out alike: a run of `STRIDE` bytes holds `8 / BITS` planes of
//! `STRIDE` codes, plane `p` in bits `p * BITS ..` of each byte. A format whose codes are split
//! over two fields (low and high bits) has one call for each.

use crate::kernels::{BYTES, Simd};

/// Of 32 bytes, those from `32 * run` on, plane `plane` of `BITS`, at bit `SHIFT` of each code.
#[inline(always)]
pub(crate) fn plane<S: Simd, const BITS: usize, const SHIFT: usize>(
    simd: S,
    bytes: &[u8],
    run: usize,
    plane: usize,
) -> S::B {
    let bytes = simd.load_bytes(&bytes.as_chunks::<BYTES>().0[run]);
    simd.fields(bytes, plane * BITS, field_mask::<BITS>(), SHIFT)
}

/// Writes `bytes` from the `BITS` of each code that begin at its bit `SHIFT`.
#[inline(always)]
pub(crate) fn pack<const BITS: usize, const STRIDE: usize, const SHIFT: usize>(
    codes: &[u8],
    bytes: &mut [u8],
) {
    let mask = field_mask::<BITS>();
    for (run, codes) in bytes.chunks_exact_mut(STRIDE).zip(codes.chunks_exact(STRIDE * 8 / BITS)) {
        for (i, byte) in run.iter_mut().enumerate() {
            *byte = 0;
            for plane in 0..8 / BITS {
                *byte |= ((codes[plane * STRIDE + i] >> SHIFT) & mask) << (plane * BITS);
            }
        }
    }
}

const fn field_mask<const BITS: usize>() -> u8 {
    const { assert!(BITS == 1 || BITS == 2 || BITS == 4) };
    (1 << BITS) - 1
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::{Work, available};

    /// Packs codes and reads them back.
    struct RoundTrip<const BITS: usize, const SHIFT: usize>;

    impl<const BITS: usize, const SHIFT: usize> Work for RoundTrip<BITS, SHIFT> {
        fn run<S: Simd>(self, simd: S) {
            let codes: Vec<u8> = (0..256u32).map(|i| (i * 7 % 64) as u8).collect();
            let mut bytes = vec![0xff; 32 * BITS];
            pack::<BITS, 32, SHIFT>(&codes, &mut bytes);
            let mask = field_mask::<BITS>() << SHIFT;
            for (part, codes) in codes.chunks(BYTES).enumerate() {
                let planes = 8 / BITS;
                let read = plane::<S, BITS, SHIFT>(simd, &bytes, part / planes, part % planes);
                let mut stored = [0; BYTES];
                simd.store_bytes(read, &mut stored);
                for (&code, read) in codes.iter().zip(stored) {
                    assert_eq!(code & mask, read as u8, "{BITS} {SHIFT}");
                }
            }
        }
    }

    #[test]
    fn what_is_packed_is_read_back() {
        for kernels in available() {
            kernels.run(RoundTrip::<4, 0>);
            kernels.run(RoundTrip::<2, 0>);
            kernels.run(RoundTrip::<2, 4>);
            kernels.run(RoundTrip::<1, 2>);
            kernels.run(RoundTrip::<1, 4>);
        }
    }

    /// Reads sixteen bytes and 32 bits as the formats of 32 weights have them.
    struct Halves;

    impl Work for Halves {
        fn run<S: Simd>(self, simd: S) {
            let codes: Vec<u8> = (0..32u32).map(|i| (i * 11 % 32) as u8).collect();
            let (mut nibbles, mut bits) = ([0; 16], [0; 4]);
            pack::<4, 16, 0>(&codes, &mut nibbles);
            pack::<1, 1, 4>(&codes, &mut bits);
            let high = simd.spread_bits(u32::from_le_bytes(bits), 1 << 4);
            let mut read = [0; BYTES];
            simd.store_bytes(simd.or_bytes(simd.nibbles(&nibbles), high), &mut read);
            assert_eq!(read.map(|code| code as u8)[..], codes);
            simd.store_bytes(simd.add_bytes(simd.nibbles(&nibbles), -8), &mut read);
            assert!(read.iter().zip(&codes).all(|(&r, &c)| r == (c & 15) as i8 - 8));
        }
    }

    #[test]
    fn halves_of_bytes_and_single_bits_are_read_back() {
        for kernels in available() {
            kernels.run(Halves);
        }
    }
}
