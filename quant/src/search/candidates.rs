//! The few with the least error of many.

/// The `K` candidates with the least error so far, best first.
#[derive(Clone, Copy)]
pub(super) struct Candidates<T, const K: usize> {
    found: [T; K],
    errors: [f32; K],
}

impl<T: Copy, const K: usize> Candidates<T, K> {
    /// None yet: `nothing` stands in their places.
    #[inline(always)]
    pub(super) fn new(nothing: T) -> Self {
        Candidates { found: [nothing; K], errors: [f32::INFINITY; K] }
    }

    /// Takes a candidate in if it is one of the best; of equals, the first.
    #[inline(always)]
    pub(super) fn insert(&mut self, candidate: T, error: f32) {
        for place in (0..K).rev() {
            let better = error < self.errors[place];
            if !better {
                return;
            }
            if place + 1 < K {
                self.found[place + 1] = self.found[place];
                self.errors[place + 1] = self.errors[place];
            }
            self.found[place] = candidate;
            self.errors[place] = error;
        }
    }

    #[inline(always)]
    pub(super) fn found(self) -> [T; K] {
        self.found
    }
}
