//! How numbers look: one way for each quantity, everywhere.

use std::{fmt, time::Duration};

/// A size: `13.1 MiB`. Powers of 1024, because files and memory are compared by it.
#[derive(Clone, Copy)]
pub(crate) struct Bytes(pub(crate) u64);

impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Bytes(bytes) = *self;
        if bytes < 1024 {
            return f.pad(&format!("{bytes} B"));
        }
        let mut size = bytes as f64 / 1024.0;
        let mut unit = "KiB";
        for larger in ["MiB", "GiB", "TiB"] {
            // 1023.95 would print as 1024.0.
            if size < 1023.95 {
                break;
            }
            size /= 1024.0;
            unit = larger;
        }
        let decimals = if unit == "GiB" || unit == "TiB" { 2 } else { 1 };
        f.pad(&format!("{size:.decimals$} {unit}"))
    }
}

/// A throughput: `512.3 MiB/s`.
pub(crate) struct ByteRate {
    pub(crate) bytes: u64,
    pub(crate) elapsed: Duration,
}

impl fmt::Display for ByteRate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let rate = self.bytes as f64 / self.elapsed.as_secs_f64().max(1e-3);
        write!(f, "{}/s", Bytes(rate as u64))
    }
}

/// A whole number in groups of three: `6,819,072`.
pub(crate) struct Count(pub(crate) u64);

impl fmt::Display for Count {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let digits = self.0.to_string();
        let mut grouped = String::with_capacity(digits.len() * 4 / 3);
        for (index, digit) in digits.chars().enumerate() {
            if index > 0 && (digits.len() - index).is_multiple_of(3) {
                grouped.push(',');
            }
            grouped.push(digit);
        }
        f.pad(&grouped)
    }
}

/// A number of weights as people name models: `6.82 M`, `7.24 B`.
pub(crate) struct Parameters(pub(crate) u64);

impl fmt::Display for Parameters {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let count = self.0 as f64;
        match self.0 {
            0..=9_999 => write!(f, "{}", Count(self.0)),
            10_000..=999_999 => write!(f, "{:.1} K", count / 1e3),
            1_000_000..=999_999_999 => write!(f, "{:.2} M", count / 1e6),
            _ => write!(f, "{:.2} B", count / 1e9),
        }
    }
}

/// A time: `0.42 s`, `12.3 s`, `2 min 5 s`, `1 h 3 min`.
#[derive(Clone, Copy)]
pub(crate) struct Seconds(pub(crate) Duration);

impl fmt::Display for Seconds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = self.0.as_secs_f64();
        let whole = seconds.round() as u64;
        f.pad(&match seconds {
            ..9.995 => format!("{seconds:.2} s"),
            ..99.95 => format!("{seconds:.1} s"),
            ..3599.5 => format!("{} min {} s", whole / 60, whole % 60),
            _ => format!("{} h {} min", whole / 3600, whole % 3600 / 60),
        })
    }
}

/// Mean storage per weight, in bits.
pub(crate) fn bits_per_weight(bytes: u64, weights: u64) -> f64 {
    if weights == 0 { 0.0 } else { bytes as f64 * 8.0 / weights as f64 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_never_print_a_full_unit() {
        let cases = [
            (0, "0 B"),
            (1023, "1023 B"),
            (1024, "1.0 KiB"),
            (1024 * 1024 - 1, "1.0 MiB"),
            (13_740_064, "13.1 MiB"),
            (2_200_000_000, "2.05 GiB"),
        ];
        for (bytes, shown) in cases {
            assert_eq!(Bytes(bytes).to_string(), shown);
        }
    }

    #[test]
    fn counts_group_by_three() {
        assert_eq!(Count(12).to_string(), "12");
        assert_eq!(Count(123_456).to_string(), "123,456");
        assert_eq!(Count(6_819_072).to_string(), "6,819,072");
        assert_eq!(Parameters(6_819_072).to_string(), "6.82 M");
    }

    #[test]
    fn times_carry_over() {
        let shown = |seconds| Seconds(Duration::from_secs_f64(seconds)).to_string();
        assert_eq!(shown(0.421), "0.42 s");
        assert_eq!(shown(9.999), "10.0 s");
        assert_eq!(shown(119.7), "2 min 0 s");
        assert_eq!(shown(3780.0), "1 h 3 min");
    }
}
