//! Codes narrower than a byte.
//!
//! Every GGUF block format lays them out alike: a run of `STRIDE` bytes holds `8 / BITS` planes of
//! `STRIDE` codes, plane `p` in bits `p * BITS ..` of each byte. A format whose codes are split
//! over two fields (low and high bits) has one call for each.

use crate::kernels::{BYTES, Simd};

/// Makes each code of the `BITS` that `bytes` holds for it.
#[inline(always)]
pub(crate) fn unpack<S: Simd, const BITS: usize, const STRIDE: usize>(
    simd: S,
    bytes: &[u8],
    codes: &mut [i8],
) {
    for_each_field::<S, BITS, STRIDE, 0>(
        simd,
        bytes,
        codes,
        #[inline(always)]
        |fields, _| fields,
        #[inline(always)]
        |fields, _| fields,
    );
}

/// Ors into each code the `BITS` that `bytes` holds for it, at bit `SHIFT` of the code.
#[inline(always)]
pub(crate) fn unpack_high<S: Simd, const BITS: usize, const STRIDE: usize, const SHIFT: usize>(
    simd: S,
    bytes: &[u8],
    codes: &mut [i8],
) {
    for_each_field::<S, BITS, STRIDE, SHIFT>(
        simd,
        bytes,
        codes,
        #[inline(always)]
        |fields, codes| simd.or_bytes(fields, codes),
        #[inline(always)]
        |fields, codes| fields | codes,
    );
}

/// Replaces codes by what `wide` or `narrow` make of their fields and themselves: 32 at once, or
/// where a plane has fewer, one.
#[inline(always)]
fn for_each_field<S: Simd, const BITS: usize, const STRIDE: usize, const SHIFT: usize>(
    simd: S,
    bytes: &[u8],
    codes: &mut [i8],
    wide: impl Fn(S::B, S::B) -> S::B,
    narrow: impl Fn(i8, i8) -> i8,
) {
    let mask = field_mask::<BITS>();
    for (run, codes) in bytes.chunks_exact(STRIDE).zip(codes.chunks_exact_mut(STRIDE * 8 / BITS)) {
        for (plane, codes) in codes.chunks_exact_mut(STRIDE).enumerate() {
            let (bytes, bytes_rest) = run.as_chunks::<BYTES>();
            let (codes, codes_rest) = codes.as_chunks_mut::<BYTES>();
            for (codes, bytes) in codes.iter_mut().zip(bytes) {
                let fields = simd.fields(simd.load_bytes(bytes), plane * BITS, mask, SHIFT);
                let own = simd.load_bytes(bytemuck::cast_ref(codes));
                simd.store_bytes(wide(fields, own), codes);
            }
            for (code, byte) in codes_rest.iter_mut().zip(bytes_rest) {
                *code = narrow((((byte >> (plane * BITS)) & mask) << SHIFT) as i8, *code);
            }
        }
    }
}

/// The 32 codes of 16 bytes: first the low halves of all, then the high halves.
#[inline(always)]
pub(crate) fn unpack_nibbles<S: Simd>(simd: S, bytes: &[u8; 16], codes: &mut [i8; BYTES]) {
    simd.store_bytes(simd.nibbles(bytes), codes);
}

/// Ors bit `i` of `bits` into code `i`, at bit `SHIFT`.
#[inline(always)]
pub(crate) fn unpack_bits<S: Simd, const SHIFT: usize>(
    simd: S,
    bits: [u8; 4],
    codes: &mut [i8; BYTES],
) {
    let bits = simd.spread_bits(u32::from_le_bytes(bits), 1 << SHIFT);
    let own = simd.load_bytes(bytemuck::cast_ref(codes));
    simd.store_bytes(simd.or_bytes(own, bits), codes);
}

/// Adds `offset` to whole vectors of codes.
#[inline(always)]
pub(crate) fn shift_codes<S: Simd>(simd: S, codes: &mut [i8], offset: i8) {
    for codes in codes.as_chunks_mut::<BYTES>().0 {
        let shifted = simd.add_bytes(simd.load_bytes(bytemuck::cast_ref(codes)), offset);
        simd.store_bytes(shifted, codes);
    }
}

/// Writes `bytes` from the `BITS` of each code that begin at its bit `SHIFT`.
#[inline(always)]
pub(crate) fn pack<const BITS: usize, const STRIDE: usize, const SHIFT: usize>(
    codes: &[u8],
    bytes: &mut [u8],
) {
    let mask = field_mask::<BITS>();
    for (run, codes) in bytes.chunks_exact_mut(STRIDE).zip(codes.chunks_exact(STRIDE * 8 / BITS)) {
        run.fill(0);
        for (plane, codes) in codes.chunks_exact(STRIDE).enumerate() {
            for (code, byte) in codes.iter().zip(run.iter_mut()) {
                *byte |= ((code >> SHIFT) & mask) << (plane * BITS);
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
    struct RoundTrip<const BITS: usize, const STRIDE: usize, const SHIFT: usize>;

    impl<const BITS: usize, const STRIDE: usize, const SHIFT: usize> Work
        for RoundTrip<BITS, STRIDE, SHIFT>
    {
        fn run<S: Simd>(self, simd: S) {
            let codes: Vec<u8> = (0..256u32).map(|i| (i * 7 % 64) as u8).collect();
            let mut bytes = vec![0xff; 32 * BITS];
            pack::<BITS, STRIDE, SHIFT>(&codes, &mut bytes);
            let mut read = [0x55i8; 256];
            match (STRIDE, SHIFT) {
                (1, _) => {
                    let bits = bytes.as_chunks::<4>().0.iter();
                    for (&bits, read) in bits.zip(read.as_chunks_mut::<BYTES>().0) {
                        unpack_bits::<S, SHIFT>(simd, bits, read);
                    }
                }
                (16, _) => {
                    let nibbles = bytes.as_chunks::<16>().0.iter();
                    for (nibbles, read) in nibbles.zip(read.as_chunks_mut::<BYTES>().0) {
                        unpack_nibbles(simd, nibbles, read);
                    }
                }
                (_, 0) => unpack::<S, BITS, STRIDE>(simd, &bytes, &mut read),
                _ => unpack_high::<S, BITS, STRIDE, SHIFT>(simd, &bytes, &mut read),
            }
            let mask = field_mask::<BITS>() << SHIFT;
            let kept = if SHIFT == 0 { 0 } else { 0x55 };
            for (&code, &read) in codes.iter().zip(&read) {
                assert_eq!(code & mask | kept, read as u8, "{BITS} {STRIDE} {SHIFT}");
            }
            let mut shifted = read;
            shift_codes(simd, &mut shifted, -4);
            assert!(shifted.iter().zip(read).all(|(s, r)| *s == r.wrapping_sub(4)));
        }
    }

    #[test]
    fn what_is_packed_is_read_back() {
        for kernels in available() {
            kernels.run(RoundTrip::<4, 8, 0>);
            kernels.run(RoundTrip::<4, 16, 0>);
            kernels.run(RoundTrip::<4, 32, 0>);
            kernels.run(RoundTrip::<4, 64, 0>);
            kernels.run(RoundTrip::<2, 32, 0>);
            kernels.run(RoundTrip::<2, 4, 4>);
            kernels.run(RoundTrip::<2, 32, 4>);
            kernels.run(RoundTrip::<1, 32, 2>);
            kernels.run(RoundTrip::<1, 1, 4>);
        }
    }
}
