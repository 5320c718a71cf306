//! The twelve bytes that hold the eight scales and eight minima of Q4_K and Q5_K, six bits each.
//!
//! ```text
//! byte 0..4    scale j in bits 0-5, upper bits of scale j+4 in bits 6-7      (j = byte)
//! byte 4..8    minimum j in bits 0-5, upper bits of minimum j+4 in bits 6-7  (j = byte - 4)
//! byte 8..12   lower bits of scale j+4 in bits 0-3, of minimum j+4 in 4-7    (j = byte - 8)
//! ```

/// The eight scales and then the eight minima from their bytes, four at a time.
#[inline(always)]
pub(crate) fn unpack_six_bit_pairs(bytes: &[u8; 12]) -> [i8; 16] {
    const SIX: u32 = 0x3f3f_3f3f;
    const FOUR: u32 = 0x0f0f_0f0f;
    const TWO: u32 = 0x0303_0303;
    let mut words = [0; 3];
    for (word, &bytes) in words.iter_mut().zip(bytes.as_chunks().0) {
        *word = u32::from_le_bytes(bytes);
    }
    let [scale, min, low] = words;
    let fours = [
        scale & SIX,
        low & FOUR | (scale >> 6 & TWO) << 4,
        min & SIX,
        low >> 4 & FOUR | (min >> 6 & TWO) << 4,
    ];
    bytemuck::cast(fours.map(u32::to_le))
}

/// Bytes from the first eight scales and minima, each below 64.
#[inline(always)]
pub(crate) fn pack_six_bit_pairs(scales: &[u8; 16], mins: &[u8; 16]) -> [u8; 12] {
    let mut bytes = [0; 12];
    for j in 0..4 {
        bytes[j] = (scales[j] & 63) | ((scales[4 + j] >> 4) << 6);
        bytes[4 + j] = (mins[j] & 63) | ((mins[4 + j] >> 4) << 6);
        bytes[8 + j] = (scales[4 + j] & 15) | (mins[4 + j] << 4);
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_packed_is_read_back() {
        for start in 0..64u8 {
            let mut scales = [0; 16];
            let mut mins = [0; 16];
            for j in 0..8 {
                scales[j] = (start + 11 * j as u8) & 63;
                mins[j] = (start * 3 + 5 * j as u8) & 63;
            }
            let bytes = pack_six_bit_pairs(&scales, &mins);
            let read = unpack_six_bit_pairs(&bytes).map(|code| code as u8);
            assert_eq!((&read[..8], &read[8..]), (&scales[..8], &mins[..8]));
        }
    }
}
