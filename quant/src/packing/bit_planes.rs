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
    let runs = bytes.chunks_exact(STRIDE);
    for (run, codes) in runs.zip(codes.chunks_exact_mut(STRIDE * 8 / BITS)) {
        for (plane, codes) in codes.chunks_exact_mut(STRIDE).enumerate() {
            let (words, rest) = codes.as_chunks_mut::<8>();
            let (run, run_rest) = run.as_chunks::<8>();
            for (codes, bytes) in words.iter_mut().zip(run) {
                let fields = u64::from_ne_bytes(*bytes) >> (plane * BITS);
                let fields = (fields & in_each_byte(field_mask::<BITS>())) << SHIFT;
                *codes = bytemuck::cast(bytemuck::cast::<_, u64>(*codes) | fields);
            }
            for (code, byte) in rest.iter_mut().zip(run_rest) {
                *code |= (((byte >> (plane * BITS)) & field_mask::<BITS>()) << SHIFT) as i8;
            }
        }
    }
}

/// [`unpack`] of one bit of each code, with planes of one code.
#[inline(always)]
pub(crate) fn unpack_bits<const SHIFT: usize>(bytes: &[u8], codes: &mut [i8]) {
    for (&byte, codes) in bytes.iter().zip(codes.as_chunks_mut::<8>().0) {
        let own_bit = u64::from(byte) * in_each_byte(1) & 0x8040_2010_0804_0201;
        let bits = ((own_bit + in_each_byte(0x7f)) >> 7) & in_each_byte(1);
        let fields = u64::from_le(bits << SHIFT);
        *codes = bytemuck::cast(bytemuck::cast::<_, u64>(*codes) | fields);
    }
}

/// Eight times the same byte: bytes are handled eight at a time, in any order.
const fn in_each_byte(byte: u8) -> u64 {
    u64::from_ne_bytes([byte; 8])
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

    fn round_trip<const BITS: usize, const STRIDE: usize, const SHIFT: usize>(
        unpack: fn(&[u8], &mut [i8]),
    ) {
        let codes: Vec<u8> = (0..256u32).map(|i| (i * 7 % 64) as u8).collect();
        let mut bytes = vec![0xff; 32 * BITS];
        pack::<BITS, STRIDE, SHIFT>(&codes, &mut bytes);
        let mut read = [0i8; 256];
        unpack(&bytes, &mut read);
        let mask = field_mask::<BITS>() << SHIFT;
        for (&code, &read) in codes.iter().zip(&read) {
            assert_eq!(code & mask, read as u8);
        }
    }

    #[test]
    fn what_is_packed_is_read_back() {
        round_trip::<4, 16, 0>(unpack::<4, 16, 0>);
        round_trip::<4, 32, 0>(unpack::<4, 32, 0>);
        round_trip::<4, 64, 0>(unpack::<4, 64, 0>);
        round_trip::<2, 32, 0>(unpack::<2, 32, 0>);
        round_trip::<2, 32, 4>(unpack::<2, 32, 4>);
        round_trip::<1, 32, 2>(unpack::<1, 32, 2>);
        round_trip::<1, 1, 4>(unpack_bits::<4>);
    }
}
