//! Recognisers of single forms: each looks at `s` from byte `a` and answers where the form ends.

use crate::dates::date;
use crate::kind::Kind;
use crate::quantities::{is_identifier, is_version};

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
    let s = &s[a.min(s.len())..];
    s.iter().position(|b| !b.is_ascii_digit()).unwrap_or(s.len())
}

pub(crate) fn hexes(s: &[u8], a: usize) -> usize {
    let s = &s[a.min(s.len())..];
    s.iter().position(|b| !b.is_ascii_hexdigit()).unwrap_or(s.len())
}

pub(crate) fn byte(s: &[u8], i: usize) -> u8 {
    s.get(i).copied().unwrap_or(0)
}

/// The end of the number at `i`, which is at most 255 and has three digits at most.
#[inline]
fn octet(s: &[u8], i: usize) -> Option<usize> {
    let four = s.get(i..).and_then(<[u8]>::first_chunk).copied();
    let digits = u32::from_le_bytes(four.unwrap_or_else(|| [0, 1, 2, 3].map(|k| byte(s, i + k)))) ^ 0x3030_3030;
    // a byte of more than nine has one of its upper bits, or gets one; a carry comes from such a byte alone
    let others = (digits.wrapping_add(0x0606_0606) | digits) & 0xf0f0_f0f0;
    let n = others.trailing_zeros() / 8;
    let [hundreds, tens, ones, _] = digits.to_le_bytes().map(u32::from);
    (matches!(n, 1 | 2) || n == 3 && 100 * hundreds + 10 * tens + ones <= 255).then_some(i + n as usize)
}

/// `a.b.c.d`, each 0–255, with an optional `/bits` or `:port`.
#[inline]
pub(crate) fn ipv4(s: &[u8], a: usize) -> Option<usize> {
    if byte(s, a).is_ascii_digit() { dotted_quad(s, a) } else { None }
}

#[inline(never)]
fn dotted_quad(s: &[u8], a: usize) -> Option<usize> {
    let mut i = octet(s, a)?;
    for _ in 0..3 {
        if byte(s, i) != b'.' {
            return None;
        }
        i = octet(s, i + 1)?;
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

/// An IPv6 address that begins with `::`; that of any host only in brackets, as it is a mark of its own elsewhere.
pub(crate) fn short_ipv6(s: &[u8], a: usize) -> Option<usize> {
    if !s[a..].starts_with(b"::") || a > 0 && is_word(s[a - 1]) {
        return None;
    }
    if byte(s, a + 2) == b']' && a > 0 && s[a - 1] == b'[' {
        return Some(a + 2);
    }
    let n = hexes(s, a + 2);
    if (1..=4).contains(&n) && boundary(s, a + 2 + n) && byte(s, a + 2 + n) != b':' && byte(s, a + 2 + n) != b'.' {
        return s[a + 2..a + 2 + n].iter().any(u8::is_ascii_digit).then_some(a + 2 + n);
    }
    // `::1:54321`: no group has five digits
    if (1..=4).contains(&n) && digits(s, a + n + 3) == 5 && hexes(s, a + n + 3) == 5 {
        return port(s, a + 2 + n);
    }
    if let Some((Kind::Ip, e)) = hex_groups(s, a + 2) {
        return Some(e);
    }
    // `::1:5432`, `::ffff:10.0.0.1`
    two_groups(s, a + 2).or_else(|| {
        let mapped = a + 2 + n + 1;
        (n == 4 && s[a + 2..mapped].eq_ignore_ascii_case(b"ffff:")).then(|| ipv4(s, mapped)).flatten()
    })
}

/// The end of two groups of hexadecimal digits, the first of them with a decimal one, joined by a colon and with none behind them.
fn two_groups(s: &[u8], a: usize) -> Option<usize> {
    let colon = a + hexes(s, a);
    let e = colon + 1 + hexes(s, colon + 1);
    let group = |n: usize| (1..=4).contains(&n);
    let ends = boundary(s, e) && byte(s, e) != b':' && !(byte(s, e) == b'.' && is_word(byte(s, e + 1)));
    (byte(s, a).is_ascii_digit() && byte(s, colon) == b':' && group(colon - a) && group(e - colon - 1) && ends)
        .then_some(e)
}

/// The whole of an IPv6 address in brackets with a port behind it, whose text in them is `a..e`.
pub(crate) fn bracketed_ipv6(s: &[u8], a: usize, e: usize) -> Option<(usize, usize)> {
    let in_brackets = byte(s, e) == b']' && a > 0 && s[a - 1] == b'[';
    in_brackets.then(|| port(s, e + 1)).flatten().map(|e| (a - 1, e))
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
            // no group has five digits, but a port may
            if !double || n != 5 || digits(s, i) != 5 {
                return None;
            }
            i -= 1;
            break;
        }
        has_digit |= s[i..i + n].iter().any(u8::is_ascii_digit);
        pairs &= n == 2;
        groups += usize::from(n > 0);
        i += n;
        // behind a whole IPv6 address comes its port
        if byte(s, i) != sep || sep == b':' && groups == 8 && !pairs {
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
    if !boundary(s, i) {
        return None;
    }
    // six pairs; a firewall writes both addresses and the protocol in one
    if groups >= 6 && pairs && !double {
        return Some((Kind::Mac, i));
    }
    if !has_digit {
        return None;
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

/// See [`byte_class`].
pub(crate) const fn class(b: u8) -> u8 {
    match b {
        0..=b' ' | 0x7f => SPACE,
        b',' | b';' | b'=' | b'(' | b')' | b'[' | b']' | b'{' | b'}' | b'<' | b'>' | b'"' | b'\'' | b'|' | b'`'
        | b'!' | b'?' | b'&' | b'^' => HARD,
        b'0'..=b'9' => CHUNK | DIGIT,
        b'.' => CHUNK | DOT,
        b'/' | b'\\' => CHUNK | MARK | SLASH,
        b':' => CHUNK | MARK | COLON,
        b'@' | b'#' | b'*' | b'+' | b'~' | b'%' | b'$' => CHUNK | MARK,
        _ => CHUNK,
    }
}

/// The classes of all bytes.
static CLASS: [u8; 256] = {
    let mut t = [CHUNK; 256];
    let mut i = 0;
    while i < 256 {
        t[i] = class(i as u8);
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

/// What [`path`] asks of a chunk from some byte on.
pub(crate) struct PathRun {
    /// The first slash or other byte that is none of a path's.
    pub first: Option<usize>,
    /// Where the bytes end that a path may have, a colon in front of a slash among them.
    pub end: usize,
}

impl PathRun {
    pub(crate) fn find(s: &[u8], a: usize, b: usize) -> Self {
        let colon = |e: usize| s[e] == b':' && e + 1 < b && matches!(s[e + 1], b'/' | b'\\');
        Self {
            first: s[a..b].iter().position(|&c| c == b'/' || !path_byte(c)).map(|p| a + p),
            end: (a..b).find(|&e| !path_byte(s[e]) && !colon(e)).unwrap_or(b),
        }
    }
}

/// The end of the path in `a..e`, without what closes a sentence.
fn path_end(s: &[u8], a: usize, mut e: usize) -> usize {
    while e > a && matches!(s[e - 1], b'.' | b':' | b'!' | b'*' | b'%') && !(s[e - 1] == b'*' && s[e - 2] == b'/') {
        e -= 1;
    }
    e
}

/// Paths, and Java's `host/address:port`. `run` is of `a..b`.
#[inline(never)]
pub(crate) fn path(s: &[u8], a: usize, b: usize, run: &PathRun) -> Option<(Kind, usize)> {
    let c = s[a];
    if c == b'/' {
        if a > 0 && is_word(s[a - 1]) {
            return None;
        }
        if let Some(e) = ipv4(s, a + 1).filter(|&e| byte(s, e) != b'/') {
            return Some((Kind::Ip, e));
        }
        // Java's `/0:0:0:0:0:0:0:0:2181`
        if byte(s, a + 2) == b':'
            && let Some((Kind::Ip, e)) = hex_groups(s, a + 1)
        {
            return Some((Kind::Ip, e));
        }
        let e = path_end(s, a, run.end);
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
    let first = run.first?;
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
    // nor is a date, or what stands in front of `@` and a date
    let day = s[a..first].iter().rposition(|&c| c == b'@').map_or(a, |at| a + at + 1);
    if date(s, day).is_some() || ipv4(s, a).is_some() {
        return None;
    }
    let e = path_end(s, a, run.end);
    let text = &s[a..e];
    let slashes = text.iter().filter(|&&c| c == b'/').count();
    let right = &s[first + 1..e.max(first + 1)];
    let numeric = |t: &[u8]| t.first().is_some_and(u8::is_ascii_digit);
    let letters = text.iter().any(u8::is_ascii_alphabetic);
    if !letters || numeric(right) && slashes == 1 || right.is_empty() {
        return None;
    }
    // `default/web-7d9c5b8f6d-x2x4k`: a generated name in a namespace; but not `bn1004/bn1004`, a host twice
    let generated = right.contains(&b'-') && is_identifier(right);
    (slashes >= 2 || text.contains(&b'.') || generated).then(|| (Kind::Path, query(s, e)))
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
/// run at `a`; there are so many dots in it.
pub(crate) fn named(s: &[u8], a: usize, run: usize, b: usize, dots: usize) -> Option<(Kind, usize)> {
    let text = &s[a..run];
    let next = byte(s, run);
    if next == b'@' && run < b {
        let host = joined_run(s, run + 1, b);
        // `user@1000.service` is a unit of systemd
        let is_address = !s[run + 1..host].rsplit(|&c| c == b'.').next().is_some_and(is_unit)
            && (host > run + 1
                && s[run + 1..host].contains(&b'.')
                && s[host - 1].is_ascii_alphabetic()
                && s[run + 1..host].iter().filter(|&&c| c == b'.').count() < 5
                && !text.contains(&b'.')
                || email_like(s, a, run, host));
        if is_address {
            return Some((Kind::Email, host));
        }
    }
    let host_port = port(s, run);
    if dots < 2 && host_port.is_none() {
        return None;
    }
    let letters = text.iter().any(|c| c.is_ascii_alphabetic());
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

/// What the names of systemd's units end in.
fn is_unit(ending: &[u8]) -> bool {
    matches!(
        ending,
        b"service" | b"socket" | b"target" | b"mount" | b"timer" | b"slice" | b"scope" | b"device" | b"path" | b"swap"
    )
}

fn email_like(s: &[u8], a: usize, run: usize, host: usize) -> bool {
    let top = s[run + 1..host.max(run + 1)].rsplit(|&c| c == b'.').next().unwrap_or(b"");
    host > run + 3
        && s[run + 1..host].contains(&b'.')
        && (2..=6).contains(&top.len())
        && top.iter().all(u8::is_ascii_lowercase)
        && !s[a..run].iter().any(u8::is_ascii_uppercase)
}

/// `GigabitEthernet0/24`, `ge0/0/1`: a word that ends in a digit, with more numbers behind slashes.
pub(crate) fn port_name(s: &[u8], a: usize, run: usize) -> Option<usize> {
    let mut e = run;
    while e > a && s[e - 1].is_ascii_digit() && byte(s, e) == b'/' && digits(s, e + 1) > 0 {
        e += 1 + digits(s, e + 1);
    }
    (e > run && boundary(s, e)).then_some(e)
}
