//! The twelve bytes that hold the eight scales and eight minima of Q4_K and Q5_K, six bits each.
//!
//! ```text
//! byte 0..4    scale j in bits 0-5, upper bits of scale j+4 in bits 6-7      (j = byte)
//! byte 4..8    minimum j in bits 0-5, upper bits of minimum j+4 in bits 6-7  (j = byte - 4)
//! byte 8..12   lower bits of scale j+4 in bits 0-3, of minimum j+4 in 4-7    (j = byte - 8)
//! ```

/// Scales and minima from their bytes.
#[inline(always)]
pub(crate) fn unpack_six_bit_pairs(bytes: &[u8; 12]) -> ([u8; 8], [u8; 8]) {
    let (mut scales, mut mins) = ([0; 8], [0; 8]);
    for j in 0..4 {
        let (scale, min, low) = (bytes[j], bytes[4 + j], bytes[8 + j]);
        scales[j] = scale & 63;
        mins[j] = min & 63;
        scales[4 + j] = (low & 15) | ((scale >> 6) << 4);
        mins[4 + j] = (low >> 4) | ((min >> 6) << 4);
    }
    (scales, mins)
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
            let (read_scales, read_mins) = unpack_six_bit_pairs(&bytes);
            assert_eq!((&read_scales[..], &read_mins[..]), (&scales[..8], &mins[..8]));
        }
    }
}
