//! Recognisers of single forms: each looks at `s` from byte `a` and answers where the form ends.

use crate::kind::Kind;

/// What follows a form must not continue a word.
pub(crate) fn boundary(s: &[u8], e: usize) -> bool {
    e >= s.len() || !is_word(s[e])
}

static WORD: [bool; 256] = {
    let mut t = [false; 256];
    let mut i = 0;
    while i < 256 {
        let b = i as u8;
        t[i] = b.is_ascii_alphanumeric() || b == b'_' || b >= 0x80;
        i += 1;
    }
    t
};

/// Letters, digits, underscore and every byte of a non-ASCII character.
#[inline]
pub(crate) fn is_word(b: u8) -> bool {
    WORD[b as usize]
}

/// Length of the run of ASCII digits at `a`.
pub(crate) fn digits(s: &[u8], a: usize) -> usize {
    s[a.min(s.len())..].iter().take_while(|b| b.is_ascii_digit()).count()
}

fn hexes(s: &[u8], a: usize) -> usize {
    s[a.min(s.len())..].iter().take_while(|b| b.is_ascii_hexdigit()).count()
}

fn byte(s: &[u8], i: usize) -> u8 {
    s.get(i).copied().unwrap_or(0)
}

/// `a.b.c.d`, each 0–255, with an optional `/bits` or `:port`.
pub(crate) fn ipv4(s: &[u8], a: usize) -> Option<usize> {
    let mut i = a;
    for part in 0..4 {
        let n = digits(s, i);
        if n == 0 || n > 3 || s[i..i + n].iter().fold(0u32, |v, b| v * 10 + u32::from(b - b'0')) > 255 {
            return None;
        }
        i += n;
        if part < 3 {
            if byte(s, i) != b'.' {
                return None;
            }
            i += 1;
        }
    }
    if byte(s, i) == b'.' && is_word(byte(s, i + 1)) || !boundary(s, i) {
        return None;
    }
    if byte(s, i) == b'/' {
        // Java's `0.0.0.0/0.0.0.0:3888`
        if let Some(e) = ipv4(s, i + 1) {
            return Some(e);
        }
        let n = digits(s, i + 1);
        if (1..=2).contains(&n) && boundary(s, i + 1 + n) && byte(s, i + 1 + n) != b'/' {
            return Some(i + 1 + n);
        }
    }
    Some(port(s, i).unwrap_or(i))
}

/// `:port` at `i`.
pub(crate) fn port(s: &[u8], i: usize) -> Option<usize> {
    let n = if byte(s, i) == b':' { digits(s, i + 1) } else { 0 };
    let e = i + 1 + n;
    ((1..=5).contains(&n) && boundary(s, e) && !(byte(s, e) == b'.' && byte(s, e + 1).is_ascii_digit())).then_some(e)
}

/// `8-4-4-4-12` hexadecimal digits.
pub(crate) fn uuid(s: &[u8], a: usize) -> Option<usize> {
    let mut i = a;
    for (k, want) in [8, 4, 4, 4, 12].into_iter().enumerate() {
        if hexes(s, i) != want {
            return None;
        }
        i += want;
        if k < 4 {
            if byte(s, i) != b'-' {
                return None;
            }
            i += 1;
        }
    }
    boundary(s, i).then_some(i)
}

/// Groups of hexadecimal digits joined by `:` (or six pairs by `-`): MAC, IPv6, PCI addresses.
pub(crate) fn hex_groups(s: &[u8], a: usize) -> Option<(Kind, usize)> {
    let first = hexes(s, a);
    if first > 4 {
        return None;
    }
    let sep = byte(s, a + first);
    if !(sep == b':' || sep == b'-' && first == 2) {
        return None;
    }
    let (mut i, mut groups, mut pairs, mut double, mut has_digit) = (a, 0, true, false, false);
    loop {
        let n = hexes(s, i);
        if n > 4 {
            return None;
        }
        has_digit |= s[i..i + n].iter().any(u8::is_ascii_digit);
        pairs &= n == 2;
        groups += usize::from(n > 0);
        i += n;
        if byte(s, i) != sep {
            break;
        }
        if byte(s, i + 1) == sep {
            if double || sep == b'-' {
                return None;
            }
            double = true;
            i += 2;
        } else if byte(s, i + 1).is_ascii_hexdigit() {
            i += 1;
        } else {
            break;
        }
    }
    if !boundary(s, i) || !has_digit {
        return None;
    }
    // six pairs; a firewall writes both addresses and the protocol in one
    if groups >= 6 && pairs && !double {
        return Some((Kind::Mac, i));
    }
    if sep == b':' && (groups == 8 || double && groups >= 2) {
        return Some((Kind::Ip, port(s, i).unwrap_or(i)));
    }
    // PCI: dddd:bb:ss.f
    if sep == b':' && first == 4 && groups == 3 {
        let n = if byte(s, i) == b'.' { digits(s, i + 1) } else { 0 };
        return Some((Kind::Hex, if n == 1 { i + 2 } else { i }));
    }
    None
}

const MONTHS: [&[u8; 3]; 12] =
    [b"Jan", b"Feb", b"Mar", b"Apr", b"May", b"Jun", b"Jul", b"Aug", b"Sep", b"Oct", b"Nov", b"Dec"];
const DAYS: [&[u8; 3]; 7] = [b"Mon", b"Tue", b"Wed", b"Thu", b"Fri", b"Sat", b"Sun"];

fn month(s: &[u8], a: usize) -> bool {
    s.len() >= a + 3 && boundary(s, a + 3) && MONTHS.iter().any(|m| m[..] == s[a..a + 3])
}

fn blanks(s: &[u8], a: usize) -> usize {
    s[a.min(s.len())..].iter().take_while(|&&b| b == b' ').count()
}

/// `hh:mm[:ss[.frac]]`, with an optional zone.
pub(crate) fn clock(s: &[u8], a: usize) -> Option<usize> {
    let h = digits(s, a);
    if !(1..=2).contains(&h) || byte(s, a + h) != b':' || digits(s, a + h + 1) != 2 {
        return None;
    }
    let mut i = a + h + 3;
    if byte(s, i) == b':' && digits(s, i + 1) == 2 {
        i += 3;
        if matches!(byte(s, i), b'.' | b',' | b':') {
            let n = digits(s, i + 1);
            if (1..=9).contains(&n) && (boundary(s, i + 1 + n) || byte(s, i + 1 + n) == b'Z') {
                i += 1 + n;
            }
        }
    } else if byte(s, i) == b':' && is_word(byte(s, i + 1)) {
        return None;
    }
    if byte(s, i) == b'Z' && boundary(s, i + 1) {
        return Some(i + 1);
    }
    if !boundary(s, i) {
        return None;
    }
    Some(zone(s, i))
}

/// End of a `+hh[:]mm` zone at `i`, after an optional blank; `i` when there is none.
fn zone(s: &[u8], i: usize) -> usize {
    let j = i + usize::from(byte(s, i) == b' ');
    if matches!(byte(s, j), b'+' | b'-') {
        let n = digits(s, j + 1);
        if n == 4 && boundary(s, j + 5) {
            return j + 5;
        }
        if n == 2 && byte(s, j + 3) == b':' && digits(s, j + 4) == 2 && boundary(s, j + 6) {
            return j + 6;
        }
    }
    i
}

/// The time of day that may follow a date at `i`; `i` when none does.
fn then_clock(s: &[u8], i: usize) -> usize {
    let j = match byte(s, i) {
        b'T' | b'_' | b':' => i + 1,
        b' ' => i + blanks(s, i),
        b'-' => i + 1,
        _ => return i,
    };
    clock(s, j).unwrap_or(i)
}

/// Dates that begin with a digit: `2005-06-09`, `2005/06/09`, `2005.06.09`, `09/06/2005`, `05/Jan/2024:10:00:00 +0000`.
pub(crate) fn date(s: &[u8], a: usize) -> Option<usize> {
    let n = digits(s, a);
    let sep = byte(s, a + n);
    if n == 4 && matches!(sep, b'-' | b'/' | b'.') {
        let m = digits(s, a + 5);
        if (1..=2).contains(&m) && byte(s, a + 5 + m) == sep {
            let d = digits(s, a + 6 + m);
            let e = a + 6 + m + d;
            if (1..=2).contains(&d) && (sep != b'.' || m == 2 && d == 2) {
                let t = then_clock(s, e);
                let t = if t == e { date_dash_clock(s, e) } else { t };
                return (boundary(s, t) && !(t == e && matches!(byte(s, t), b'-' | b'.') && is_word(byte(s, t + 1))))
                    .then_some(t);
            }
        }
        return None;
    }
    if (1..=2).contains(&n) && matches!(sep, b'/' | b'-') && month(s, a + n + 1) {
        let e = a + n + 4;
        let y = digits(s, e + 1);
        if byte(s, e) == sep && y == 4 {
            return Some(then_clock(s, e + 5));
        }
        return None;
    }
    if (1..=2).contains(&n) && sep == b'/' {
        let m = digits(s, a + n + 1);
        let e = a + n + 1 + m;
        if (1..=2).contains(&m) && byte(s, e) == b'/' && matches!(digits(s, e + 1), 2 | 4) {
            let e = e + 1 + digits(s, e + 1);
            return boundary(s, e).then(|| then_clock(s, e));
        }
    }
    None
}

/// PostgreSQL-like oddity `2005-06-09-07.06.20.123456` (also used by HPC systems).
fn date_dash_clock(s: &[u8], e: usize) -> usize {
    if byte(s, e) != b'-'
        || digits(s, e + 1) != 2
        || byte(s, e + 3) != b'.'
        || digits(s, e + 4) != 2
        || byte(s, e + 6) != b'.'
    {
        return e;
    }
    let sec = digits(s, e + 7);
    if sec != 2 {
        return e;
    }
    let mut i = e + 9;
    if byte(s, i) == b'.' {
        i += 1 + digits(s, i + 1);
    }
    i
}

/// Dates that begin with a name: `Fri Jun 17 07:07:00 2005`, `Jun 17 07:07:00`, `Jun 17`, `Mon, 02 Jan 2006 15:04:05 GMT`.
pub(crate) fn named_date(s: &[u8], a: usize) -> Option<usize> {
    let mut i = a;
    let mut day = false;
    if s.len() >= a + 4 && DAYS.iter().any(|d| d[..] == s[a..a + 3]) && boundary(s, a + 3) {
        day = true;
        i += 3;
        i += usize::from(byte(s, i) == b',');
        i += blanks(s, i);
    }
    let e = if month(s, i) {
        let j = i + 3 + blanks(s, i + 3);
        let n = digits(s, j);
        if !(1..=2).contains(&n) || j == i + 3 || !boundary(s, j + n) {
            return None;
        }
        j + n
    } else {
        let n = digits(s, i);
        let j = i + n + blanks(s, i + n);
        if !day || !(1..=2).contains(&n) || !month(s, j) {
            return None;
        }
        j + 3
    };
    let mut e = year(s, e + usize::from(byte(s, e) == b',')).unwrap_or(e);
    let t = then_clock(s, e);
    if t > e {
        e = t;
        let z = e + blanks(s, e);
        if s.len() >= z + 3 {
            let abbreviation = s[z..].iter().take_while(|b| b.is_ascii_uppercase()).count();
            if (3..=4).contains(&abbreviation)
                && matches!(s[z + abbreviation - 1], b'T' | b'C')
                && boundary(s, z + abbreviation)
            {
                e = z + abbreviation;
            }
        }
        e = year(s, e).unwrap_or(e);
    }
    boundary(s, e).then_some(e)
}

fn year(s: &[u8], i: usize) -> Option<usize> {
    let j = i + blanks(s, i);
    let plausible = j > i && digits(s, j) == 4 && matches!(byte(s, j), b'1' | b'2') && boundary(s, j + 4);
    (plausible && byte(s, j + 4) != b':').then_some(j + 4)
}

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

/// `GigabitEthernet0/24`, `ge0/0/1`: a word that ends in a digit, with more numbers behind slashes.
pub(crate) fn port_name(s: &[u8], a: usize, run: usize) -> Option<usize> {
    let mut e = run;
    while e > a && s[e - 1].is_ascii_digit() && byte(s, e) == b'/' && digits(s, e + 1) > 0 {
        e += 1 + digits(s, e + 1);
    }
    (e > run && boundary(s, e)).then_some(e)
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

/// Byte classes of the scanner, as bits. Control characters count as white space.
pub(crate) const SPACE: u8 = 1;
/// Ends a chunk.
pub(crate) const HARD: u8 = 2;
/// May be part of a chunk.
pub(crate) const CHUNK: u8 = 4;
/// A decimal digit.
pub(crate) const DIGIT: u8 = 8;
/// `.`
pub(crate) const DOT: u8 = 16;
/// Joins the parts of paths, addresses and the like.
pub(crate) const MARK: u8 = 32;
/// `/` or `\`
pub(crate) const SLASH: u8 = 64;
/// `:`
pub(crate) const COLON: u8 = 128;

static CLASS: [u8; 256] = {
    let mut t = [CHUNK; 256];
    let mut i = 0;
    while i < 256 {
        let b = i as u8;
        t[i] = match b {
            0..=b' ' | 0x7f => SPACE,
            b',' | b';' | b'=' | b'(' | b')' | b'[' | b']' | b'{' | b'}' | b'<' | b'>' | b'"' | b'\'' | b'|' | b'`'
            | b'!' | b'?' | b'&' | b'^' => HARD,
            b'0'..=b'9' => CHUNK | DIGIT,
            b'.' => CHUNK | DOT,
            b'/' | b'\\' => CHUNK | MARK | SLASH,
            b':' => CHUNK | MARK | COLON,
            b'@' | b'#' | b'*' | b'+' | b'~' | b'%' | b'$' => CHUNK | MARK,
            _ => CHUNK,
        };
        i += 1;
    }
    t
};

/// The classes of a byte.
#[inline]
pub(crate) fn byte_class(b: u8) -> u8 {
    CLASS[b as usize]
}

/// End of the run of word bytes at `a`.
pub(crate) fn word_end(s: &[u8], a: usize) -> usize {
    a + s[a..].iter().take_while(|&&b| is_word(b)).count()
}

/// End of the run of word bytes, dots and dashes at `a`, without dots or dashes at its end.
pub(crate) fn joined_run(s: &[u8], a: usize, b: usize) -> usize {
    let mut e = a + s[a..b].iter().take_while(|&&c| is_word(c) || c == b'.' || c == b'-').count();
    while e > a && matches!(s[e - 1], b'.' | b'-') {
        e -= 1;
    }
    e
}

/// `scheme://…` within the chunk `a..b`: start and end. A URL runs on over `=`, `?` and `&`.
pub(crate) fn url(s: &[u8], a: usize, b: usize) -> Option<(usize, usize)> {
    let at = s[a..b].windows(2).position(|w| w == b"//").map(|p| p + a)?;
    if at <= a + 1 || s[at - 1] != b':' {
        return None;
    }
    let scheme = s[a..at - 1]
        .iter()
        .rev()
        .take_while(|c| c.is_ascii_alphanumeric() || matches!(c, b'+' | b'.' | b'-' | b':'))
        .count();
    let start = at - 1 - scheme;
    if scheme < 2 || !s[start].is_ascii_alphabetic() || (start > a && is_word(s[start - 1])) {
        return None;
    }
    let stop = |c: u8| {
        byte_class(c) & SPACE != 0
            || matches!(
                c,
                b'"' | b'\'' | b'<' | b'>' | b'`' | b'|' | b'{' | b'}' | b'(' | b')' | b'[' | b']' | b';' | b',' | b'^'
            )
    };
    let mut e = at + 2 + s[at + 2..].iter().take_while(|&&c| !stop(c)).count();
    while e > at + 2 && matches!(s[e - 1], b'.' | b':' | b'!' | b'?') {
        e -= 1;
    }
    (e > at + 2).then_some((start, e))
}

/// `./x`, `../x`, `~/x`.
pub(crate) fn dotted_path(s: &[u8], a: usize) -> bool {
    let t = &s[a..];
    t.starts_with(b"./") || t.starts_with(b"../") || t.starts_with(b"~/")
}

fn path_byte(c: u8) -> bool {
    is_word(c) || matches!(c, b'/' | b'.' | b'-' | b'+' | b'~' | b'%' | b'@' | b'$' | b'#' | b'*' | b'!')
}

fn path_end(s: &[u8], a: usize, b: usize) -> usize {
    let mut e = a;
    while e < b && (path_byte(s[e]) || s[e] == b':' && e + 1 < b && matches!(s[e + 1], b'/' | b'\\')) {
        e += 1;
    }
    while e > a && matches!(s[e - 1], b'.' | b':' | b'!' | b'*' | b'%') && !(s[e - 1] == b'*' && s[e - 2] == b'/') {
        e -= 1;
    }
    e
}

/// Paths, and Java's `host/address:port`.
pub(crate) fn path(s: &[u8], a: usize, b: usize) -> Option<(Kind, usize)> {
    let c = s[a];
    if c == b'/' {
        if a > 0 && is_word(s[a - 1]) {
            return None;
        }
        if let Some(e) = ipv4(s, a + 1).filter(|&e| byte(s, e) != b'/') {
            return Some((Kind::Ip, e));
        }
        let e = path_end(s, a, b);
        let quoted = a > 0 && matches!(s[a - 1], b'"' | b'\'') && byte(s, e) == s[a - 1];
        if e == a + 1 && (quoted || s[e..].starts_with(b" HTTP/")) {
            return Some((Kind::Path, e));
        }
        return s[a..e].iter().any(|&c| is_word(c)).then(|| (Kind::Path, query(s, e)));
    }
    if c == b'\\' {
        let e = a + s[a..b].iter().take_while(|&&c| path_byte(c) || c == b'\\').count();
        let parts = s[a + 1..e].iter().any(|&c| c == b'\\' || c == b'.') && byte(s, a + 1) != b'.';
        return (parts && (a == 0 || !is_word(s[a - 1]))).then_some((Kind::Path, e));
    }
    if c.is_ascii_alphabetic() && byte(s, a + 1) == b':' && matches!(byte(s, a + 2), b'\\' | b'/') && a + 3 < b {
        let e = a + 2 + s[a + 2..b].iter().take_while(|&&c| path_byte(c) || c == b'\\').count();
        return Some((Kind::Path, e));
    }
    let first = s[a..b].iter().position(|&c| c == b'/' || !path_byte(c)).map(|p| a + p)?;
    if s[first] == b'\\' {
        let e = a + s[a..b].iter().take_while(|&&c| path_byte(c) || c == b'\\').count();
        return (s[a..e].iter().filter(|&&c| c == b'\\').count() >= 2).then_some((Kind::Path, e));
    }
    if s[first] != b'/' || !(is_word(c) || dotted_path(s, a)) {
        return None;
    }
    if let Some(e) = ipv4(s, first + 1)
        && ipv4(s, a).is_none()
        && byte(s, e) != b'/'
    {
        return Some((Kind::Ip, e));
    }
    if date(s, a).is_some() || ipv4(s, a).is_some() {
        return None;
    }
    let e = path_end(s, a, b);
    let text = &s[a..e];
    let slashes = text.iter().filter(|&&c| c == b'/').count();
    let right = &s[first + 1..e.max(first + 1)];
    let numeric = |t: &[u8]| t.first().is_some_and(u8::is_ascii_digit);
    let letters = text.iter().any(u8::is_ascii_alphabetic);
    if !letters || numeric(right) && slashes == 1 || right.is_empty() {
        return None;
    }
    (slashes >= 2 || text.contains(&b'.')).then(|| (Kind::Path, query(s, e)))
}

/// End of the `?key=value&…` that goes on with the path that ends at `e`.
fn query(s: &[u8], e: usize) -> usize {
    if byte(s, e) != b'?' || !is_word(byte(s, e + 1)) {
        return e;
    }
    let stop = |c: u8| {
        byte_class(c) & SPACE != 0 || matches!(c, b'"' | b'\'' | b'<' | b'>' | b'(' | b')' | b',' | b';' | b'{' | b'}')
    };
    e + s[e..].iter().take_while(|&&c| !stop(c)).count()
}

/// Names with a structure: e-mail addresses, hosts with a port, dotted names of three parts. `run` is the end of the joined
/// run at `a`.
pub(crate) fn named(s: &[u8], a: usize, run: usize, b: usize) -> Option<(Kind, usize)> {
    let text = &s[a..run];
    let next = byte(s, run);
    if next == b'@' && run < b {
        let host = joined_run(s, run + 1, b);
        if host > run + 1
            && s[run + 1..host].contains(&b'.')
            && s[host - 1].is_ascii_alphabetic()
            && s[run + 1..host].iter().filter(|&&c| c == b'.').count() < 5
            && !text.contains(&b'.')
            || email_like(s, a, run, host)
        {
            return Some((Kind::Email, host));
        }
    }
    let dots = text.iter().filter(|&&c| c == b'.').count();
    let letters = text.iter().any(|c| c.is_ascii_alphabetic());
    let host_port = port(s, run);
    if dots >= 2 && letters && text.split(|&c| c == b'.').all(|p| !p.is_empty()) {
        let last = text.rsplit(|&c| c == b'.').next().unwrap_or(b"");
        if last.len() >= 2 && (last[0].is_ascii_alphabetic() || last[0] == b'_')
            || !s[a].is_ascii_digit() && !is_version(s, a, run)
        {
            let mut e = run;
            while matches!(byte(s, e), b'$' | b'.') && e + 1 < b && is_word(s[e + 1]) {
                e = word_end(s, e + 1);
            }
            return Some((Kind::Name, port(s, e).unwrap_or(e)));
        }
    }
    if let Some(e) = host_port
        && e - run >= 3
        && letters
        && is_host(text, dots, e - run - 1)
    {
        return Some((Kind::Ip, e));
    }
    None
}

/// Whether `text` in front of a port of so many digits is a host: `localhost`, `node-3`, `db1` (in front of a port that no line
/// number looks like), `example.org` (but not `server.go`).
fn is_host(text: &[u8], dots: usize, port: usize) -> bool {
    let numbered = text.iter().any(u8::is_ascii_digit);
    match dots {
        0 => text == b"localhost" || numbered && (text.contains(&b'-') || port >= 4),
        1 => {
            let last = text.rsplit(|&c| c == b'.').next().unwrap_or(b"");
            last.len() >= 2
                && last.len() < text.len() - 1
                && last.iter().all(u8::is_ascii_lowercase)
                && !is_source(last)
        }
        _ => false,
    }
}

/// Endings of names of files in front of a line number.
fn is_source(ending: &[u8]) -> bool {
    const ENDINGS: &[u8] =
        b" cc cpp cxx hpp hh go rs java kt scala groovy py rb php pl lua js ts tsx jsx cs fs vb swift mm sh sql erl ex conf cfg ini yml yaml json xml html txt log toml ";
    ENDINGS.split(|&b| b == b' ').any(|e| e == ending)
}

fn email_like(s: &[u8], a: usize, run: usize, host: usize) -> bool {
    let top = s[run + 1..host.max(run + 1)].rsplit(|&c| c == b'.').next().unwrap_or(b"");
    host > run + 3
        && s[run + 1..host].contains(&b'.')
        && (2..=6).contains(&top.len())
        && top.iter().all(u8::is_ascii_lowercase)
        && !s[a..run].iter().any(u8::is_ascii_uppercase)
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

/// `v1.0.0`, `v2.0`.
pub(crate) fn is_version(s: &[u8], a: usize, run: usize) -> bool {
    matches!(s[a], b'v' | b'V') && {
        let t = &s[a + 1..run];
        t.contains(&b'.') && t.first().is_some_and(u8::is_ascii_digit)
    }
}

/// Whether a token with letters and digits is an identifier rather than a name such as `eth0` or `ssh2`: four digits in a row or five
/// in all, four changes between letters and digits, a part of digits only behind `_`, or two parts with digits joined by `-`.
pub(crate) fn is_identifier(w: &[u8]) -> bool {
    if w.contains(&b'.') {
        return false;
    }
    let (mut total, mut run, mut longest, mut changes) = (0, 0, 0, 0);
    let mut last_digit = false;
    for (k, &c) in w.iter().enumerate() {
        let digit = c.is_ascii_digit();
        if digit {
            total += 1;
            run += 1;
            longest = longest.max(run);
        } else {
            run = 0;
        }
        changes += usize::from(k > 0 && digit != last_digit && c != b'_' && c != b'-');
        last_digit = digit;
    }
    if total == 0 {
        return false;
    }
    let numeric = |p: &[u8]| !p.is_empty() && p.iter().all(u8::is_ascii_digit);
    if w.contains(&b'-') {
        let parts = w.split(|&c| c == b'-').filter(|p| p.iter().any(u8::is_ascii_digit)).count();
        let glued = w.windows(2).any(|t| t == b"_-");
        let hashed = |p: &[u8]| is_hex(p) && p.iter().any(u8::is_ascii_digit) && !numeric(p);
        return parts >= 2 || glued || w.split(|&c| c == b'-').any(hashed);
    }
    longest >= 4 || total >= 5 || changes >= 4 || w.split(|&c| c == b'_').skip(1).any(numeric)
}
