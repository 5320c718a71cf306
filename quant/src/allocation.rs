//! Which tensor gets which type so that a model loses least within a budget of bytes.
//!
//! Each tensor has candidates, of which one is taken: a knapsack of multiple choice. What may be
//! lost besides the optimum is found by Lagrangian relaxation, in which a byte has a price; the
//! gap between the two is closed by going through the tensors once with all sums that may still
//! lead to a better choice (Kellerer, Pferschy and Pisinger, Knapsack Problems, chapter 11).

/// What a tensor takes and costs in one of its types.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Candidate {
    /// Bytes of the tensor.
    pub bytes: u64,
    /// What the model loses by it, in any unit that adds up over tensors.
    pub loss: f64,
}

/// Why nothing can be allocated.
#[derive(Clone, Copy, Debug, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum AllocationError {
    /// The smallest candidates together are larger than the budget.
    #[error("the smallest choice takes {least} bytes, {budget} were given")]
    TooSmall {
        /// Bytes of the smallest candidates.
        least: u64,
        /// Bytes that were given.
        budget: u64,
    },
    /// A tensor has no candidate.
    #[error("tensor {tensor} has no candidate")]
    NoCandidate {
        /// Its index.
        tensor: usize,
    },
    /// A loss is NaN, infinite or below zero.
    #[error("tensor {tensor}: {loss} is no loss")]
    Loss {
        /// Its index.
        tensor: usize,
        /// The loss.
        loss: f64,
    },
}

/// Sums that are kept at a time at the most. Where there are more, those that promise least are
/// forgotten, and the choice may be a little worse than the best.
const MOST_SUMS: usize = 1 << 14;

/// The candidate of each tensor, by index, so that the losses together are least and the bytes
/// together at most `budget`. The same for the same input.
///
/// # Errors
/// Where a tensor has no candidate or a loss is no number, and where the budget does not take the
/// smallest.
pub fn allocate(tensors: &[Vec<Candidate>], budget: u64) -> Result<Vec<usize>, AllocationError> {
    check(tensors)?;
    let fronts: Vec<Vec<Choice>> = tensors.iter().map(|candidates| front(candidates)).collect();
    let smallest = fronts.iter().map(|front| front[0].bytes);
    let least = smallest.clone().try_fold(0, u64::checked_add);
    let Some(least) = least.filter(|&least| least <= budget) else {
        let least = smallest.fold(0, u64::saturating_add);
        return Err(AllocationError::TooSmall { least, budget });
    };
    let steps = steps(&fronts);
    let greedy = greedy(&fronts, &steps, budget - least);
    let price = price(&steps, budget - least);
    let best = search(&fronts, &greedy, price, budget).unwrap_or(greedy);
    Ok(fronts.iter().zip(best).map(|(front, place)| front[place].candidate).collect())
}

fn check(tensors: &[Vec<Candidate>]) -> Result<(), AllocationError> {
    for (tensor, candidates) in tensors.iter().enumerate() {
        if candidates.is_empty() {
            return Err(AllocationError::NoCandidate { tensor });
        }
        let bad = candidates.iter().find(|candidate| !(0.0..f64::MAX).contains(&candidate.loss));
        if let Some(&Candidate { loss, .. }) = bad {
            return Err(AllocationError::Loss { tensor, loss });
        }
    }
    Ok(())
}

/// A candidate that none is both smaller and better than.
#[derive(Clone, Copy, Debug)]
struct Choice {
    bytes: u64,
    loss: f64,
    /// Index among the tensor's candidates.
    candidate: usize,
}

/// The candidates worth choosing, from the smallest to the best.
fn front(candidates: &[Candidate]) -> Vec<Choice> {
    let mut choices: Vec<Choice> = candidates
        .iter()
        .enumerate()
        .map(|(candidate, &Candidate { bytes, loss })| Choice { bytes, loss, candidate })
        .collect();
    choices.sort_by(|a, b| a.bytes.cmp(&b.bytes).then(a.loss.total_cmp(&b.loss)));
    let mut least = f64::INFINITY;
    choices.retain(|choice| {
        let is_better = choice.loss < least;
        least = least.min(choice.loss);
        is_better
    });
    choices
}

/// A move along the lower convex hull of a tensor's front.
#[derive(Clone, Copy, Debug)]
struct Step {
    tensor: usize,
    /// Where on the front it leads.
    to: usize,
    bytes: u64,
    /// Loss that is saved per byte.
    gain: f64,
}

/// The steps of all tensors, those that save most per byte first.
fn steps(fronts: &[Vec<Choice>]) -> Vec<Step> {
    let mut steps = Vec::new();
    for (tensor, front) in fronts.iter().enumerate() {
        let mut from = 0;
        while from + 1 < front.len() {
            let step = |to: usize| {
                let bytes = front[to].bytes - front[from].bytes;
                let gain = (front[from].loss - front[to].loss) / bytes as f64;
                Step { tensor, to, bytes, gain }
            };
            let mut best = step(from + 1);
            for to in from + 2..front.len() {
                let step = step(to);
                if step.gain >= best.gain {
                    best = step;
                }
            }
            from = best.to;
            steps.push(best);
        }
    }
    // Stable: the steps of a tensor stay in their order.
    steps.sort_by(|a, b| b.gain.total_cmp(&a.gain));
    steps
}

/// Takes every step that still fits. A tensor whose step did not fit stays where it is.
fn greedy(fronts: &[Vec<Choice>], steps: &[Step], mut left: u64) -> Vec<usize> {
    let mut places = vec![0; fronts.len()];
    let mut stays = vec![false; fronts.len()];
    for step in steps {
        if stays[step.tensor] || step.bytes > left {
            stays[step.tensor] = true;
            continue;
        }
        places[step.tensor] = step.to;
        left -= step.bytes;
    }
    places
}

/// The loss that a byte is worth where the budget ends.
fn price(steps: &[Step], mut left: u64) -> f64 {
    for step in steps {
        match left.checked_sub(step.bytes) {
            Some(rest) => left = rest,
            None => return step.gain,
        }
    }
    0.0
}

/// The bytes and the loss of some choices of the tensors so far.
#[derive(Clone, Copy, Debug)]
struct Sum {
    bytes: u64,
    loss: f64,
    /// What the whole will lose at least.
    bound: f64,
    last: Last,
}

/// How a sum came about: the index of the sum before the last tensor, and the place on the front of
/// that.
#[derive(Clone, Copy, Debug)]
struct Last {
    before: u32,
    place: u32,
}

/// The best choice, if there is a better one than `greedy`. `price` makes the bound tight; any would
/// be right.
fn search(fronts: &[Vec<Choice>], greedy: &[usize], price: f64, budget: u64) -> Option<Vec<usize>> {
    let greedy_loss: f64 = fronts.iter().zip(greedy).map(|(front, &place)| front[place].loss).sum();
    let priced = |choice: &Choice| choice.loss + price * choice.bytes as f64;
    // Of the tensors from each one on, the smallest bytes and the smallest priced losses.
    let mut rest = vec![(0u64, 0.0f64); fronts.len() + 1];
    for (tensor, front) in fronts.iter().enumerate().rev() {
        let least = front.iter().map(priced).fold(f64::INFINITY, f64::min);
        rest[tensor] = (rest[tensor + 1].0 + front[0].bytes, rest[tensor + 1].1 + least);
    }
    // Rounding must not make a bound of what is as good as greedy.
    let limit = greedy_loss * (1.0 - 1e-12);
    let mut layers: Vec<Vec<Last>> = Vec::with_capacity(fronts.len());
    let mut sums =
        vec![Sum { bytes: 0, loss: 0.0, bound: 0.0, last: Last { before: 0, place: 0 } }];
    for (front, &(rest_bytes, rest_loss)) in fronts.iter().zip(&rest[1..]) {
        let mut next = Vec::new();
        for (before, sum) in sums.iter().enumerate() {
            for (place, choice) in front.iter().enumerate() {
                let bytes = sum.bytes.checked_add(choice.bytes);
                let Some(bytes) = bytes.filter(|&bytes| bytes <= budget - rest_bytes) else {
                    break;
                };
                let loss = sum.loss + choice.loss;
                let bound = loss + rest_loss - price * (budget - bytes) as f64;
                if bound < limit {
                    let last = Last { before: before as u32, place: place as u32 };
                    next.push(Sum { bytes, loss, bound, last });
                }
            }
        }
        keep_promising(&mut next);
        layers.push(next.iter().map(|sum| sum.last).collect());
        sums = next;
    }
    let best = sums.iter().enumerate().min_by(|(_, a), (_, b)| a.loss.total_cmp(&b.loss));
    let (mut at, _) = best.filter(|(_, sum)| sum.loss < greedy_loss)?;
    let layers = layers.iter().rev();
    let mut places: Vec<usize> = layers
        .map(|layer| {
            let Last { before, place } = layer[at];
            at = before as usize;
            place as usize
        })
        .collect();
    places.reverse();
    Some(places)
}

/// Drops sums that another is both smaller and better than, and, where there are too many, those
/// that promise least.
fn keep_promising(sums: &mut Vec<Sum>) {
    sums.sort_by(|a, b| a.bytes.cmp(&b.bytes).then(a.loss.total_cmp(&b.loss)));
    let mut least = f64::INFINITY;
    sums.retain(|sum| {
        let is_better = sum.loss < least;
        least = least.min(sum.loss);
        is_better
    });
    if sums.len() > MOST_SUMS {
        sums.sort_by(|a, b| a.bound.total_cmp(&b.bound));
        sums.truncate(MOST_SUMS);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn total(tensors: &[Vec<Candidate>], chosen: &[usize]) -> (u64, f64) {
        let chosen = tensors.iter().zip(chosen).map(|(candidates, &index)| candidates[index]);
        chosen.fold((0, 0.0), |(bytes, loss), candidate| {
            (bytes + candidate.bytes, loss + candidate.loss)
        })
    }

    /// The least loss of all choices that fit.
    fn least_loss(tensors: &[Vec<Candidate>], budget: u64) -> Option<f64> {
        let Some((first, rest)) = tensors.split_first() else { return Some(0.0) };
        let of = |candidate: &Candidate| {
            let left = budget.checked_sub(candidate.bytes)?;
            Some(candidate.loss + least_loss(rest, left)?)
        };
        first.iter().filter_map(of).min_by(f64::total_cmp)
    }

    fn tensors() -> impl Strategy<Value = Vec<Vec<Candidate>>> {
        // Some larger than the whole budget.
        let bytes = prop_oneof![4 => 1u64..40, 1 => 1u64..300];
        let candidate =
            (bytes, 0u32..1000).prop_map(|(bytes, loss)| Candidate { bytes, loss: loss.into() });
        prop::collection::vec(prop::collection::vec(candidate, 1..5), 0..7)
    }

    proptest! {
        #[test]
        fn nothing_better_fits(tensors in tensors(), budget in 0u64..200) {
            match (allocate(&tensors, budget), least_loss(&tensors, budget)) {
                (Ok(chosen), Some(least)) => {
                    let (bytes, loss) = total(&tensors, &chosen);
                    prop_assert!(bytes <= budget);
                    prop_assert_eq!(loss, least);
                }
                (Err(AllocationError::TooSmall { least, .. }), None) => {
                    prop_assert!(least > budget);
                    prop_assert!(allocate(&tensors, least).is_ok());
                }
                (found, least) => prop_assert!(false, "{found:?}, {least:?}"),
            }
        }
    }

    /// As many tensors as the largest models have, in sizes of their own.
    #[test]
    fn large_models_fill_their_budget() {
        let bits = [2.625, 3.4375, 4.5, 5.5, 6.5625, 8.5];
        let tensors: Vec<Vec<Candidate>> = (0u64..900)
            .map(|tensor| {
                let weights = 1_048_576 * (1 + tensor % 7);
                let sensitivity = 1.0 + (tensor * 2_654_435_761 % 1000) as f64;
                let candidate = |bits: &f64| Candidate {
                    bytes: (weights as f64 * bits / 8.0) as u64,
                    loss: sensitivity * 4f64.powf(-bits),
                };
                bits.iter().map(candidate).collect()
            })
            .collect();
        let budget = 2_100_000_000;
        let chosen = allocate(&tensors, budget).unwrap();
        let (bytes, _) = total(&tensors, &chosen);
        let smallest_step = 1_048_576 * 13 / 16 / 8;
        assert!(bytes <= budget && budget - bytes < smallest_step, "{bytes}");
        assert_eq!(chosen, allocate(&tensors, budget).unwrap());
    }

    #[test]
    fn what_cannot_be_is_told() {
        let one = |bytes, loss| vec![Candidate { bytes, loss }];
        for budget in [7, u64::MAX] {
            let too_small = AllocationError::TooSmall { least: u64::MAX, budget };
            assert_eq!(allocate(&[one(u64::MAX, 0.0), one(5, 0.0)], budget), Err(too_small));
        }
        assert_eq!(allocate(&[vec![]], 7), Err(AllocationError::NoCandidate { tensor: 0 }));
        for loss in [f64::NAN, f64::INFINITY, -1.0] {
            let found = allocate(&[one(1, 0.0), one(1, loss)], 7);
            assert!(matches!(found, Err(AllocationError::Loss { tensor: 1, .. })), "{found:?}");
        }
        assert_eq!(allocate(&[], 0), Ok(vec![]));
        // Sizes that only together are too large to count.
        let wide =
            vec![Candidate { bytes: 1, loss: 1.0 }, Candidate { bytes: u64::MAX, loss: 0.0 }];
        assert_eq!(allocate(&[wide.clone(), wide], u64::MAX), Ok(vec![0, 0]));
    }
}
