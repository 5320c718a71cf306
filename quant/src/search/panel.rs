//! Eight groups of weights side by side, and the sums every search is made of.

/// Groups in a panel.
pub(super) const GROUPS: usize = 8;

/// One number for each group of a panel.
pub(super) type Lanes = [f32; GROUPS];

/// Zero for each group.
pub(super) const ZERO: Lanes = [0.0; GROUPS];

/// Eight groups of `N` weights: `weights[i][g]` is weight `i` of group `g`.
pub(super) struct Panel<const N: usize> {
    /// The weights, finite.
    pub(super) weights: [Lanes; N],
    /// What the squared error of each weight counts.
    pub(super) importance: [Lanes; N],
}

/// The codes that a format has.
#[derive(Clone, Copy)]
pub(crate) struct CodeRange {
    /// The lowest.
    pub(crate) lowest: f32,
    /// The highest.
    pub(crate) highest: f32,
}

/// Weighted sums over each group: of the codes `l`, of their squares, and of their products with
/// the weights `x`.
#[derive(Clone, Copy)]
pub(super) struct Moments {
    pub(super) l: Lanes,
    pub(super) ll: Lanes,
    pub(super) xl: Lanes,
}

impl CodeRange {
    /// The code nearest to `value`, ties to even. Comparisons are written so that NaN gives the
    /// lowest code and that each is one instruction.
    #[inline(always)]
    pub(super) fn nearest(self, value: f32) -> f32 {
        // Adding and taking away 1.5 * 2^23 leaves an integer: the sum has no bits below one.
        const INTEGER: f32 = 12_582_912.0;
        let value = if value > self.lowest { value } else { self.lowest };
        let value = if value < self.highest { value } else { self.highest };
        (value + INTEGER) - INTEGER
    }
}

impl<const N: usize> Panel<N> {
    pub(super) const ZERO: Panel<N> = Panel { weights: [ZERO; N], importance: [ZERO; N] };

    /// From up to eight groups, one after another; missing ones are zero and count nothing.
    #[inline(always)]
    pub(super) fn new(weights: &[f32], importance: &[f32]) -> Panel<N> {
        Panel { weights: side_by_side(weights), importance: side_by_side(importance) }
    }

    /// Codes of the weights for `weight = code / inverse - min`.
    #[inline(always)]
    fn codes_of(&self, i: usize, inverse: &Lanes, min: &Lanes, range: CodeRange) -> Lanes {
        let mut codes = ZERO;
        for g in 0..GROUPS {
            codes[g] = range.nearest((self.weights[i][g] + min[g]) * inverse[g]);
        }
        codes
    }

    /// Sums over the codes that `inverse` and `min` give.
    #[inline(always)]
    pub(super) fn moments(&self, inverse: &Lanes, min: &Lanes, range: CodeRange) -> Moments {
        let mut sums = Moments { l: ZERO, ll: ZERO, xl: ZERO };
        for i in 0..N {
            let codes = self.codes_of(i, inverse, min, range);
            let (weights, importance) = (&self.weights[i], &self.importance[i]);
            for g in 0..GROUPS {
                let weighted = importance[g] * codes[g];
                sums.l[g] += weighted;
                sums.ll[g] += weighted * codes[g];
                sums.xl[g] += weighted * weights[g];
            }
        }
        sums
    }

    /// Weighted squared error of `weight = scale * code - min` with the nearest codes.
    #[inline(always)]
    pub(super) fn error(&self, scale: &Lanes, min: &Lanes, range: CodeRange) -> Lanes {
        let inverse = inverse_or_zero(scale);
        let mut error = ZERO;
        for i in 0..N {
            let codes = self.codes_of(i, &inverse, min, range);
            for g in 0..GROUPS {
                let off = (self.weights[i][g] + min[g]) - scale[g] * codes[g];
                error[g] += self.importance[i][g] * (off * off);
            }
        }
        error
    }

    /// The nearest codes for `weight = scale * code - min`, less the lowest code, by group.
    #[inline(always)]
    pub(super) fn codes(&self, scale: &Lanes, min: &Lanes, range: CodeRange) -> [[u8; N]; GROUPS] {
        let inverse = inverse_or_zero(scale);
        let mut groups = [[0; N]; GROUPS];
        for i in 0..N {
            let codes = self.codes_of(i, &inverse, min, range);
            for (group, code) in groups.iter_mut().zip(codes) {
                group[i] = (code - range.lowest) as u8;
            }
        }
        groups
    }

    /// Sums of the importance, and of the weights.
    #[inline(always)]
    pub(super) fn weight_sums(&self) -> (Lanes, Lanes) {
        let (mut importance, mut weights) = (ZERO, ZERO);
        for i in 0..N {
            for g in 0..GROUPS {
                importance[g] += self.importance[i][g];
                weights[g] += self.importance[i][g] * self.weights[i][g];
            }
        }
        (importance, weights)
    }

    /// Smallest and largest weight of each group.
    #[inline(always)]
    pub(super) fn extremes(&self) -> (Lanes, Lanes) {
        let (mut low, mut high) = (self.weights[0], self.weights[0]);
        for weights in &self.weights {
            for g in 0..GROUPS {
                low[g] = low[g].min(weights[g]);
                high[g] = high[g].max(weights[g]);
            }
        }
        (low, high)
    }
}

/// The inverse of each scale, zero where that is no number to multiply by.
#[inline(always)]
pub(super) fn inverse_or_zero(scale: &Lanes) -> Lanes {
    let mut inverse = ZERO;
    for g in 0..GROUPS {
        let exact = 1.0 / scale[g];
        inverse[g] = if exact.abs() < f32::INFINITY { exact } else { 0.0 };
    }
    inverse
}

#[inline(always)]
fn side_by_side<const N: usize>(groups: &[f32]) -> [Lanes; N] {
    let mut panel = [ZERO; N];
    for (g, group) in groups.chunks_exact(N).enumerate() {
        for (lanes, &value) in panel.iter_mut().zip(group) {
            lanes[g] = value;
        }
    }
    panel
}
