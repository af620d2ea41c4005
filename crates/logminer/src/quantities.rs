//! Numbers with what belongs to them: units, versions, hexadecimal digits; and tokens that are identifiers.

use crate::forms::{boundary, byte, digits, hexes, is_word, joined_run, word_end};
use crate::kind::Kind;
use crate::scan::Masks;

/// Units of time: they stay in the text behind `{TIME}`.
pub(crate) fn is_time_unit(u: &[u8]) -> bool {
    matches!(
        u,
        b"s" | b"ms"
            | b"us"
            | b"ns"
            | b"sec"
            | b"secs"
            | b"msec"
            | b"msecs"
            | b"usec"
            | b"min"
            | b"mins"
            | b"m"
            | b"h"
            | b"hr"
            | b"hrs"
            | b"hours"
            | b"d"
            | b"days"
            | b"seconds"
            | b"minutes"
    ) || u == "µs".as_bytes()
        || u == "μs".as_bytes()
        || matches!(u, b"S" | b"MS" | b"second" | b"minute" | b"hour" | b"day")
}

/// `1 sec` or `1ms` behind a `<`: a duration too short to tell.
pub(crate) fn below(s: &[u8], a: usize) -> Option<usize> {
    let unit = a + digits(s, a);
    let unit = unit + usize::from(byte(s, unit) == b' ');
    let e = unit + s[unit..].iter().take_while(|&&c| is_word(c)).count();
    is_time_unit(&s[unit..e]).then_some(e)
}

/// Units of size, rate, frequency, power and temperature: taken into the placeholder.
pub(crate) fn is_size_unit(u: &[u8]) -> bool {
    let u = u.strip_suffix(b"/s").unwrap_or(u);
    if u.is_empty() || u.len() > 6 {
        return false;
    }
    let mut low = [0u8; 6];
    for (d, b) in low.iter_mut().zip(u) {
        *d = b.to_ascii_lowercase();
    }
    matches!(
        &low[..u.len()],
        b"b" | b"k"
            | b"kb"
            | b"kib"
            | b"mb"
            | b"mib"
            | b"g"
            | b"gb"
            | b"gib"
            | b"t"
            | b"tb"
            | b"tib"
            | b"kbytes"
            | b"mbytes"
            | b"gbytes"
            | b"bytes"
            | b"hz"
            | b"khz"
            | b"mhz"
            | b"ghz"
            | b"bps"
            | b"kbps"
            | b"mbps"
            | b"gbps"
            | b"kbit"
            | b"mbit"
            | b"gbit"
            | b"v"
            | b"mv"
            | b"ma"
            | b"mah"
            | b"w"
            | b"mw"
            | b"kw"
            | b"rpm"
            | b"dbm"
            | b"px"
            | b"c"
            | b"pt"
            | b"dpi"
            | b"x"
    ) || u == b"M"
}

/// A number at `d` with what belongs to it: version, size with unit, duration (without its unit), hexadecimal, exponent.
pub(crate) fn quantity(s: &[u8], d: usize, b: usize) -> Option<(Kind, usize)> {
    if s[d] == b'0' && matches!(byte(s, d + 1), b'x' | b'X') {
        let n = hexes(s, d + 2);
        return (n > 0 && boundary(s, d + 2 + n)).then_some((Kind::Hex, d + 2 + n));
    }
    let mut e = d + digits(s, d);
    let mut dots = 0;
    while byte(s, e) == b'.' && digits(s, e + 1) > 0 {
        e += 1 + digits(s, e + 1);
        dots += 1;
    }
    if dots >= 2 {
        // 2.6.5-1.358, 3.0.3-rc1
        let run = joined_run(s, d, b);
        return Some((Kind::Ver, if boundary(s, e) && byte(s, e) != b'-' { e } else { run.max(e) }));
    }
    if boundary(s, e) {
        return Some((Kind::Num, e));
    }
    let whole = word_end(s, d);
    if dots == 0 && is_hex(&s[d..whole]) {
        return Some((Kind::Hex, whole));
    }
    let u = word_end(s, e);
    let unit = &s[e..u];
    if is_time_unit(unit) {
        return Some((Kind::Time, e));
    }
    let rate = if s[u..].starts_with(b"/s") && boundary(s, u + 2) { u + 2 } else { u };
    if is_size_unit(unit) {
        return Some((Kind::Size, rate));
    }
    if matches!(unit[0], b'e' | b'E') {
        let sign = usize::from(unit.len() == 1 && matches!(byte(s, u), b'-' | b'+'));
        let n = digits(s, e + 1 + sign);
        if n > 0 && boundary(s, e + 1 + sign + n) {
            return Some((Kind::Num, e + 1 + sign + n));
        }
    }
    if let Some(end) = compound_duration(s, d) {
        return Some((Kind::Time, end));
    }
    if dots == 1 {
        let suffix = unit.iter().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit());
        return Some(if suffix { (Kind::Ver, u) } else { (Kind::Num, e) });
    }
    None
}

/// `1h2m3.5s`, `1s0ms`.
fn compound_duration(s: &[u8], d: usize) -> Option<usize> {
    let mut i = d;
    let mut parts = 0;
    while digits(s, i) > 0 {
        i += digits(s, i);
        if byte(s, i) == b'.' && digits(s, i + 1) > 0 {
            i += 1 + digits(s, i + 1);
        }
        let u = s[i..].iter().take_while(|c| c.is_ascii_alphabetic()).count();
        if !matches!(&s[i..i + u], b"d" | b"h" | b"m" | b"s" | b"ms" | b"us" | b"ns") {
            return None;
        }
        i += u;
        parts += 1;
    }
    (parts >= 2 && boundary(s, i)).then_some(i)
}

/// Six or more hexadecimal digits of both sorts, or eight letters of them: no word looks like that.
pub(crate) fn is_hex(w: &[u8]) -> bool {
    if w.len() < 6 || !w.iter().all(u8::is_ascii_hexdigit) {
        return false;
    }
    let n = w.iter().filter(|c| c.is_ascii_digit()).count();
    (n > 0 && n < w.len()) || w.len() >= 8 && n == 0
}

/// `1:2.36-9+deb12u7`, `2.36-9`, `2024a-0+deb12u1`, `1.2.3~rc1`: the end of a package's version, which has a revision of the package behind a
/// dot and a dash, or a `+` or `~` with a word behind it; behind an epoch a dot and any of these are enough.
pub(crate) fn package_version(s: &[u8], d: usize, b: usize) -> Option<usize> {
    let number = d + digits(s, d);
    let epoch = number - d <= 2 && byte(s, number) == b':' && byte(s, number + 1).is_ascii_digit();
    let from = if epoch { number + 1 } else { d };
    let part = |c: u8| c.is_ascii_alphanumeric() || matches!(c, b'.' | b'-' | b'+' | b'~');
    let mut e = from + s[from..b].iter().take_while(|&&c| part(c)).count();
    while matches!(s[e - 1], b'.' | b'-' | b'+' | b'~') {
        e -= 1;
    }
    let version = &s[from..e];
    let dotted = version.contains(&b'.');
    let dash = version.iter().rposition(|b| *b == b'-');
    let sure = if from > d {
        dotted && version.iter().any(|b| matches!(b, b'-' | b'+' | b'~'))
    } else {
        let revised = dash.is_some_and(|at| {
            let (upstream, revision) = (&version[..at], &version[at + 1..]);
            upstream.contains(&b'.') && !upstream.contains(&b'-') && revision.iter().all(u8::is_ascii_digit)
        });
        let tail = |w: &[u8]| matches!(w[0], b'+' | b'~') && w[1].is_ascii_lowercase() && w[2].is_ascii_alphanumeric();
        revised || (dotted || dash.is_some()) && version.windows(3).any(tail)
    };
    (sure && boundary(s, e)).then_some(e)
}

/// `v1.0.0`, `v2.0`.
pub(crate) fn is_version(s: &[u8], a: usize, run: usize) -> bool {
    matches!(s[a], b'v' | b'V') && {
        let t = &s[a + 1..run];
        // `v1.Node` is a name
        t.contains(&b'.') && t.split(|&b| b == b'.').take(2).all(|part| part.first().is_some_and(u8::is_ascii_digit))
    }
}

/// Whether a token with letters and digits is an identifier rather than a name such as `eth0` or `ssh2`: four digits in a row or five
/// in all, four changes between letters and digits, a part of digits only behind `_`, or two parts with digits joined by `-`.
pub(crate) fn is_identifier(w: &[u8]) -> bool {
    let (mut total, mut run, mut longest, mut changes) = (0, 0, 0, 0);
    let mut before = w.first().is_some_and(u8::is_ascii_digit);
    for &c in w {
        let digit = c.is_ascii_digit();
        total += usize::from(digit);
        run = if digit { run + 1 } else { 0 };
        longest = longest.max(run);
        changes += usize::from(digit != before && c != b'_' && c != b'-');
        before = digit;
    }
    if total == 0 || w.contains(&b'.') {
        return false;
    }
    if w.contains(&b'-') {
        return is_joined_identifier(w);
    }
    longest >= 4 || total >= 5 || changes >= 4 || has_numeric_part(w)
}

/// [`is_identifier`] of a run of word bytes, dots and dashes, which has these bits in the masks.
pub(crate) fn is_identifier_of(w: &[u8], m: &Masks<u64>, bits: u64) -> bool {
    let digits = m.digits & bits;
    if digits == 0 || m.forms & bits != digits {
        return false;
    }
    if m.dashes & bits != 0 {
        return is_joined_identifier(w);
    }
    let pairs = digits & digits >> 1;
    let more_than = |n: u32, bits: u64| (0..n).fold(bits, |bits, _| bits & bits.wrapping_sub(1)) != 0;
    let behind_first = bits & bits.wrapping_sub(1);
    let changes = (digits ^ digits << 1) & !m.underscores & behind_first;
    pairs & pairs >> 2 != 0
        || more_than(4, digits)
        || more_than(3, changes)
        || m.underscores & bits != 0 && has_numeric_part(w)
}

fn is_numeric(part: &[u8]) -> bool {
    !part.is_empty() && part.iter().all(u8::is_ascii_digit)
}

/// Whether a part behind `_` is a number.
fn has_numeric_part(w: &[u8]) -> bool {
    w.split(|&c| c == b'_').skip(1).any(is_numeric)
}

/// The rule for parts joined by `-`.
fn is_joined_identifier(w: &[u8]) -> bool {
    let parts = w.split(|&c| c == b'-').filter(|p| p.iter().any(u8::is_ascii_digit)).count();
    let glued = w.windows(2).any(|t| t == b"_-");
    let hashed = |p: &[u8]| is_hex(p) && p.iter().any(u8::is_ascii_digit) && !is_numeric(p);
    parts >= 2 || glued || w.split(|&c| c == b'-').any(hashed)
}
