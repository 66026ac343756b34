//! Numbers as people read them: three digits and a unit.

/// Nanoseconds, in three digits or so.
pub(crate) fn time(ns: u64) -> String {
    match ns {
        0..1_000 => format!("{ns} ns"),
        1_000..1_000_000 => digits(ns as f64 / 1e3, "µs"),
        1_000_000..1_000_000_000 => digits(ns as f64 / 1e6, "ms"),
        _ => digits(ns as f64 / 1e9, "s"),
    }
}

/// Bytes, in three digits or so.
pub(crate) fn bytes(count: u64) -> String {
    const UNITS: [&str; 5] = ["KiB", "MiB", "GiB", "TiB", "PiB"];
    let (mut value, mut unit) = (count as f64, "B");
    for next in UNITS {
        if value < 1024.0 {
            break;
        }
        (value, unit) = (value / 1024.0, next);
    }
    if unit == "B" {
        format!("{count} B")
    } else {
        digits(value, unit)
    }
}

fn digits(value: f64, unit: &str) -> String {
    let after = match value {
        ..10.0 => 2,
        10.0..100.0 => 1,
        _ => 0,
    };
    format!("{value:.after$} {unit}")
}

/// A rate in three digits or so.
pub(crate) fn rate(per_second: f64) -> String {
    match per_second {
        ..0.05 => "0".to_owned(),
        ..1e4 => format!("{per_second:.0}"),
        ..1e7 => format!("{:.1}k", per_second / 1e3),
        _ => format!("{:.1}M", per_second / 1e6),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_and_bytes_have_three_digits() {
        let shown = [999, 1000, 12_345, 999_000, 1_500_000, 2_000_000_000].map(time);
        assert_eq!(
            shown,
            [
                "999 ns", "1.00 µs", "12.3 µs", "999 µs", "1.50 ms", "2.00 s"
            ]
        );
        let shown = [0, 1023, 1024, 65_536, 1 << 20, 3 << 30].map(bytes);
        assert_eq!(
            shown,
            [
                "0 B", "1023 B", "1.00 KiB", "64.0 KiB", "1.00 MiB", "3.00 GiB"
            ]
        );
    }
}
