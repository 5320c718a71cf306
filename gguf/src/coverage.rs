//! Which bytes of a tensor are written.

use std::collections::BTreeMap;

/// Ranges of bytes, none touching another. Writers that go front to back keep it at one range each.
#[derive(Debug, Default)]
pub(crate) struct Coverage {
    /// End by start.
    ranges: BTreeMap<u64, u64>,
}

/// The range was covered in part already.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Overlap;

impl Coverage {
    /// Adds the bytes `start..end`.
    pub(crate) fn add(&mut self, start: u64, end: u64) -> Result<(), Overlap> {
        if start >= end {
            return Ok(());
        }
        let before = self.ranges.range(..=start).next_back().map(|(&s, &e)| (s, e));
        let after = self.ranges.range(start..).next().map(|(&s, &e)| (s, e));
        if before.is_some_and(|(_, e)| e > start) || after.is_some_and(|(s, _)| s < end) {
            return Err(Overlap);
        }
        let start = match before {
            Some((s, e)) if e == start => s,
            _ => start,
        };
        let end = match after {
            Some((s, e)) if s == end => {
                self.ranges.remove(&s);
                e
            }
            _ => end,
        };
        self.ranges.insert(start, end);
        Ok(())
    }

    /// Adds the bytes `start..end`, of which some may be covered already.
    pub(crate) fn unite(&mut self, start: u64, end: u64) {
        if start >= end {
            return;
        }
        let (mut start, mut end) = (start, end);
        while let Some((&s, &e)) = self.ranges.range(..=end).next_back()
            && e >= start
        {
            self.ranges.remove(&s);
            (start, end) = (start.min(s), end.max(e));
        }
        self.ranges.insert(start, end);
    }

    /// Whether all of the bytes `start..end` are covered.
    pub(crate) fn contains(&self, start: u64, end: u64) -> bool {
        start >= end || self.ranges.range(..=start).next_back().is_some_and(|(_, &e)| e >= end)
    }

    /// Start and end of each range.
    pub(crate) fn ranges(&self) -> impl Iterator<Item = (u64, u64)> {
        self.ranges.iter().map(|(&start, &end)| (start, end))
    }

    /// Number of bytes covered.
    pub(crate) fn bytes(&self) -> u64 {
        self.ranges.iter().map(|(start, end)| end - start).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neighbours_join_in_any_order() {
        let mut coverage = Coverage::default();
        for (start, end) in [(10, 20), (0, 10), (30, 40), (20, 30), (5, 5)] {
            coverage.add(start, end).unwrap();
        }
        assert_eq!(coverage.ranges, BTreeMap::from([(0, 40)]));
        assert_eq!(coverage.bytes(), 40);
    }

    #[test]
    fn what_is_covered_can_be_added_again() {
        let mut coverage = Coverage::default();
        for (start, end) in [(10, 20), (30, 40), (50, 60), (15, 35), (12, 18), (60, 70), (7, 7)] {
            coverage.unite(start, end);
        }
        assert_eq!(coverage.ranges, BTreeMap::from([(10, 40), (50, 70)]));
        assert!(coverage.contains(10, 40) && coverage.contains(55, 60) && coverage.contains(5, 5));
        assert!(!coverage.contains(9, 11) && !coverage.contains(39, 51));
    }

    #[test]
    fn overlaps_are_refused() {
        let mut coverage = Coverage::default();
        coverage.add(10, 20).unwrap();
        for (start, end) in [(10, 20), (0, 11), (19, 30), (12, 13), (0, 100)] {
            assert_eq!(coverage.add(start, end), Err(Overlap), "{start}..{end}");
        }
        assert_eq!(coverage.bytes(), 10);
    }
}
