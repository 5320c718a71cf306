//! Random numbers, a stream of their own for each sequence.

/// SplitMix64: Steele, Lea and Flood, "Fast splittable pseudorandom number generators", 2014.
#[derive(Clone, Debug)]
pub(super) struct Random {
    state: u64,
}

impl Random {
    /// The stream of a sequence: where it starts follows from `seed` and the number of the sequence.
    pub(super) fn new(seed: u64, sequence: u64) -> Random {
        Random { state: mix(mix(seed.wrapping_add(GAMMA)).wrapping_add(sequence)) }
    }

    /// A number of 0..1, a multiple of 2⁻⁵³.
    pub(super) fn uniform(&mut self) -> f64 {
        (self.next() >> 11) as f64 * (1.0 / (1u64 << 53) as f64)
    }

    fn next(&mut self) -> u64 {
        self.state = self.state.wrapping_add(GAMMA);
        mix(self.state)
    }
}

const GAMMA: u64 = 0x9e37_79b9_7f4a_7c15;

/// One to one, so that no two sequences start at the same place.
fn mix(state: u64) -> u64 {
    let state = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let state = (state ^ (state >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    state ^ (state >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The first numbers after state 1234567, as the authors' own code gives them.
    #[test]
    fn numbers_are_those_of_splitmix64() {
        let mut random = Random { state: 1_234_567 };
        let numbers = [(); 3].map(|()| random.next());
        let expected = [6457827717110365317, 3203168211198807973, 9817491932198370423];
        assert_eq!(numbers, expected);
    }

    #[test]
    fn streams_differ() {
        let first = |seed, sequence| Random::new(seed, sequence).next();
        assert_ne!(first(1, 0), first(1, 1));
        assert_ne!(first(1, 0), first(2, 0));
        assert_ne!(first(1, 2), first(2, 1));
        assert_eq!(first(3, 4), first(3, 4));
    }

    #[test]
    fn uniform_numbers_fill_the_unit() {
        let mut random = Random::new(5, 0);
        let numbers: Vec<f64> = (0..10_000).map(|_| random.uniform()).collect();
        let mean = numbers.iter().sum::<f64>() / 1e4;
        assert!((mean - 0.5).abs() < 4.0 * (1.0f64 / 12e4).sqrt(), "{mean}");
        assert!(numbers.iter().all(|number| (0.0..1.0).contains(number)));
    }
}
