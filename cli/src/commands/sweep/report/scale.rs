//! Where values lie on an axis, and which of them are named.

/// An axis from its lower end (0) to its upper (1).
pub(super) struct Scale {
    kind: Kind,
    low: f64,
    high: f64,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Linear,
    Logarithmic,
}

impl Scale {
    /// An axis with room around all values; `None` where there are none.
    pub(super) fn linear(values: impl Iterator<Item = f64>) -> Option<Scale> {
        let (low, high) = range(values)?;
        let room = (0.06 * (high - low)).max(0.25);
        Some(Scale { kind: Kind::Linear, low: low - room, high: high + room })
    }

    /// The same for logarithms of values above zero.
    pub(super) fn logarithmic(values: impl Iterator<Item = f64>) -> Option<Scale> {
        let (low, high) = range(values)?;
        let room = ((high / low).ln() * 0.06).exp().max(1.2);
        Some(Scale { kind: Kind::Logarithmic, low: low / room, high: high * room })
    }

    /// Where a value lies.
    pub(super) fn place(&self, value: f64) -> f64 {
        match self.kind {
            Kind::Linear => (value - self.low) / (self.high - self.low),
            Kind::Logarithmic => (value / self.low).ln() / (self.high / self.low).ln(),
        }
    }

    /// Round values and where they lie.
    pub(super) fn ticks(&self) -> Vec<(f64, f64)> {
        let values = match self.kind {
            Kind::Linear => self.steps(),
            Kind::Logarithmic => self.decades(),
        };
        let inside = values.into_iter().filter(|&value| value >= self.low && value <= self.high);
        inside.map(|value| (value, self.place(value))).collect()
    }

    fn steps(&self) -> Vec<f64> {
        const MOST: f64 = 12.0;
        let steps = [0.25, 0.5, 1.0, 2.0, 4.0, 8.0];
        let step = steps.into_iter().find(|step| (self.high - self.low) / step <= MOST);
        let step = step.unwrap_or(16.0);
        let first = (self.low / step).ceil() as i64;
        (first..=(self.high / step).floor() as i64).map(|i| i as f64 * step).collect()
    }

    fn decades(&self) -> Vec<f64> {
        let decades = (self.high / self.low).log10();
        let leading: &[i32] = if decades > 4.0 { &[1] } else { &[1, 2, 5] };
        let (first, last) = (self.low.log10().floor() as i32, self.high.log10().ceil() as i32);
        let tick = |decade: i32| {
            // By way of text: 2 × 10⁻³ is then the nearest number to 0.002, and prints so.
            let value = move |digit: &i32| format!("{digit}e{decade}").parse().unwrap_or(f64::NAN);
            leading.iter().map(value)
        };
        (first..=last).flat_map(tick).collect()
    }
}

fn range(values: impl Iterator<Item = f64>) -> Option<(f64, f64)> {
    values.fold(None, |range, value| {
        let (low, high) = range.unwrap_or((value, value));
        Some((value.min(low), value.max(high)))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_are_round() {
        let values = |scale: Option<Scale>| -> Vec<f64> {
            scale.unwrap().ticks().into_iter().map(|(value, _)| value).collect()
        };
        assert_eq!(values(Scale::linear([3.0, 8.5].into_iter())), [3.0, 4.0, 5.0, 6.0, 7.0, 8.0]);
        assert_eq!(
            values(Scale::logarithmic([0.002, 0.05].into_iter())),
            [0.002, 0.005, 0.01, 0.02, 0.05]
        );
        assert!(values(Scale::logarithmic([1e-9, 1.0].into_iter())).len() <= 11);
        assert!(Scale::linear(std::iter::empty()).is_none());
    }

    #[test]
    fn one_value_has_an_axis_too() {
        let scale = Scale::logarithmic([0.1].into_iter()).unwrap();
        assert!((scale.place(0.1) - 0.5).abs() < 1e-9);
    }
}
