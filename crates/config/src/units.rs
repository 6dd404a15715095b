//! Numbers as people read them.

use std::time::Duration;

/// Bytes in decimal units: `7.10 MB`.
pub fn bytes(count: f64) -> String {
    let (unit, size) = unit_of_bytes(count);
    let value = count / size;
    if size == 1.0 { format!("{value:.0} B") } else { format!("{} {unit}", three_digits(value)) }
}

/// The decimal unit in which `count` bytes are written, and the bytes it stands for.
pub fn unit_of_bytes(count: f64) -> (&'static str, f64) {
    const UNITS: [(&str, f64); 5] =
        [("B", 1.0), ("kB", 1e3), ("MB", 1e6), ("GB", 1e9), ("TB", 1e12)];
    // What would be written as 1000 belongs to the next.
    UNITS.into_iter().find(|(_, size)| count / size < 999.5).unwrap_or(UNITS[UNITS.len() - 1])
}

/// A ratio: `4.02 ×`.
pub fn ratio(value: f64) -> String {
    format!("{} ×", three_digits(value))
}

/// Seconds: `350 ms`, `1.92 s`, `12 min 3 s`, `3 h 5 min`.
pub fn seconds(value: f64) -> String {
    match value {
        value if value < 0.9995 => format!("{:.0} ms", value * 1000.0),
        value if value < 60.0 => format!("{} s", three_digits(value)),
        value => {
            let whole = Duration::from_secs_f64(value.min(1e9)).as_secs();
            let (hours, minutes, seconds) = (whole / 3600, whole / 60 % 60, whole % 60);
            if hours > 0 {
                format!("{hours} h {minutes} min")
            } else {
                format!("{minutes} min {seconds} s")
            }
        }
    }
}

/// A count per second: `533`, `12 400`.
pub fn rate(value: f64) -> String {
    let whole = format!("{value:.0}");
    let digits = whole.len();
    let mut grouped = String::with_capacity(digits + digits / 3);
    for (index, digit) in whole.chars().enumerate() {
        if index > 0 && (digits - index).is_multiple_of(3) {
            grouped.push(' ');
        }
        grouped.push(digit);
    }
    grouped
}

fn three_digits(value: f64) -> String {
    match value.abs() {
        size if size < 9.995 => format!("{value:.2}"),
        size if size < 99.95 => format!("{value:.1}"),
        _ => format!("{value:.0}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_keep_three_digits() {
        assert_eq!(bytes(0.0), "0 B");
        assert_eq!(bytes(999.0), "999 B");
        assert_eq!(bytes(7_104_000.0), "7.10 MB");
        assert_eq!(bytes(28_440_000.0), "28.4 MB");
        assert_eq!(bytes(999_700.0), "1.00 MB");
        assert_eq!(ratio(4.018), "4.02 ×");
        assert_eq!(
            (seconds(0.35), seconds(1.918), seconds(723.0), seconds(11_100.0)),
            ("350 ms".into(), "1.92 s".into(), "12 min 3 s".into(), "3 h 5 min".into())
        );
        assert_eq!(
            (rate(533.4), rate(12_400.0), rate(1_234_567.0)),
            ("533".into(), "12 400".into(), "1 234 567".into())
        );
    }
}
