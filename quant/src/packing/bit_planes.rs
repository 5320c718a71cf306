//! Codes narrower than a byte.
//!
//! Every GGUF block format lays them out alike: a run of `STRIDE` bytes holds `8 / BITS` planes of
//! `STRIDE` codes, plane `p` in bits `p * BITS ..` of each byte. A format whose codes are split
//! over two fields (low and high bits) has one call for each.

/// Ors into each code the `BITS` that `bytes` holds for it, at bit `SHIFT` of the code.
#[inline(always)]
pub(crate) fn unpack<const BITS: usize, const STRIDE: usize, const SHIFT: usize>(
    bytes: &[u8],
    codes: &mut [i8],
) {
    let mask = field_mask::<BITS>();
    for (run, codes) in bytes.chunks_exact(STRIDE).zip(codes.chunks_exact_mut(STRIDE * 8 / BITS)) {
        for (plane, codes) in codes.chunks_exact_mut(STRIDE).enumerate() {
            for (code, byte) in codes.iter_mut().zip(run) {
                *code |= (((byte >> (plane * BITS)) & mask) << SHIFT) as i8;
            }
        }
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

    fn round_trip<const BITS: usize, const STRIDE: usize, const SHIFT: usize>() {
        let codes: Vec<u8> = (0..256u32).map(|i| (i * 7 % 64) as u8).collect();
        let mut bytes = vec![0xff; 32 * BITS];
        pack::<BITS, STRIDE, SHIFT>(&codes, &mut bytes);
        let mut read = [0i8; 256];
        unpack::<BITS, STRIDE, SHIFT>(&bytes, &mut read);
        let mask = field_mask::<BITS>() << SHIFT;
        for (&code, &read) in codes.iter().zip(&read) {
            assert_eq!(code & mask, read as u8);
        }
    }

    #[test]
    fn what_is_packed_is_read_back() {
        round_trip::<4, 16, 0>();
        round_trip::<4, 32, 0>();
        round_trip::<4, 64, 0>();
        round_trip::<2, 32, 0>();
        round_trip::<2, 32, 4>();
        round_trip::<1, 32, 2>();
        round_trip::<1, 1, 4>();
    }
}
