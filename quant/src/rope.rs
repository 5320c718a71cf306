//! Rotary position embedding.

/// Rotates the pairs (0, 1), (2, 3), … of one head: pair `i` by the angle whose cosine and sine are
/// `cos[i]` and `sin[i]`. This is the order in which GGUF stores LLaMA's heads. Elements past the
/// last angle stay as they are.
///
/// # Panics
/// If `cos` and `sin` differ in length or are longer than the pairs of `head`.
pub fn rotate_pairs(head: &mut [f32], cos: &[f32], sin: &[f32]) {
    let pairs = head.as_chunks_mut::<2>().0;
    assert!(cos.len() == sin.len() && cos.len() <= pairs.len());
    for ((pair, &cos), &sin) in pairs.iter_mut().zip(cos).zip(sin) {
        let [x, y] = *pair;
        *pair = [x * cos - y * sin, x * sin + y * cos];
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rotates_consecutive_pairs() {
        let mut head = [1.0, 0.0, 0.0, 2.0, 5.0];
        rotate_pairs(&mut head, &[0.0, 0.0], &[1.0, 1.0]);
        assert_eq!(head, [0.0, 1.0, -2.0, 0.0, 5.0]);
    }
}
