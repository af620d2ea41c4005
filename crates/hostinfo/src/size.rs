//! Sizes of memory as people and PostgreSQL write them.

const UNITS: [(&str, u32); 14] = [
    ("b", 0),
    ("bytes", 0),
    ("k", 10),
    ("kb", 10),
    ("kib", 10),
    ("m", 20),
    ("mb", 20),
    ("mib", 20),
    ("g", 30),
    ("gb", 30),
    ("gib", 30),
    ("t", 40),
    ("tb", 40),
    ("tib", 40),
];

/// Bytes of a size such as `2GB`, `1.7 GB`, `512m` or `2147483648`; powers of 1024, letter case ignored. `None` for anything else.
#[must_use]
pub fn parse_size(text: &str) -> Option<u64> {
    let text = text.trim();
    let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (digits, unit) = text.split_at(end);
    let unit = unit.trim().to_ascii_lowercase();
    let shift = if unit.is_empty() { 0 } else { UNITS.iter().find(|(name, _)| *name == unit)?.1 };
    let value: f64 = digits.parse().ok()?;
    let bytes = value * (1u64 << shift) as f64;
    // Beyond 2^53 a float no longer counts bytes, and no machine has that much.
    (bytes < (1u64 << 53) as f64).then_some(bytes as u64)
}

/// A size as PostgreSQL writes it: in the largest unit that leaves a whole number, rounded down to kilobytes.
#[must_use]
pub fn format_size(bytes: u64) -> String {
    let kb = bytes >> 10;
    for (unit, shift) in [("TB", 30), ("GB", 20), ("MB", 10)] {
        if kb > 0 && kb.trailing_zeros() >= shift {
            return format!("{}{unit}", kb >> shift);
        }
    }
    format!("{kb}kB")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read() {
        for (text, bytes) in [
            ("2GB", 2 << 30),
            ("2g", 2 << 30),
            (" 1.5 GiB ", 3 << 29),
            ("512MB", 512 << 20),
            ("80kB", 80 << 10),
            ("4096", 4096),
            ("0", 0),
            ("1TB", 1 << 40),
        ] {
            assert_eq!(parse_size(text), Some(bytes), "{text}");
        }
        for text in ["", "GB", "-2GB", "2XB", "two", "1..5GB", "1e9", "NaN", "inf", "99999999999TB", "2GB 3"] {
            assert_eq!(parse_size(text), None, "{text}");
        }
    }

    #[test]
    fn sizes_are_written_as_postgresql_does() {
        for (bytes, text) in [
            (2 << 30, "2GB"),
            (512 << 20, "512MB"),
            (1536 << 20, "1536MB"),
            (80 << 10, "80kB"),
            (0, "0kB"),
            (1 << 40, "1TB"),
        ] {
            assert_eq!(format_size(bytes), text);
        }
    }
}
