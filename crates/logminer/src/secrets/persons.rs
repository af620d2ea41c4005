//! Data of persons: e-mail addresses, numbers of bank accounts, cards and social security.

use super::{Secret, What, run, run_before};
use crate::forms::is_word;

/// Endings of names with an `@` that are no addresses: systemd's units, images for screens of high resolution.
const NO_DOMAINS: [&[u8]; 19] = [
    b"service",
    b"socket",
    b"device",
    b"mount",
    b"automount",
    b"swap",
    b"target",
    b"path",
    b"timer",
    b"slice",
    b"scope",
    b"png",
    b"jpg",
    b"jpeg",
    b"gif",
    b"webp",
    b"svg",
    b"js",
    b"css",
];

/// An e-mail address whose `@` (or `%40`) of `len` bytes is at `i`.
pub(super) fn email(s: &[u8], i: usize, len: usize) -> Option<Secret> {
    let from = if i > 1 && s[i - 1] == b'"' {
        // a quoted name
        s[..i - 1].iter().rev().take(64).position(|b| *b == b'"').map(|n| i - 2 - n)?
    } else {
        let local = |b: u8| is_word(b) || matches!(b, b'.' | b'-' | b'+' | b'%' | b'\'' | b'&' | b'!' | b'#' | b'~');
        let mut from = i - run_before(s, i, 64, local);
        // not in the middle of a character, and no mark first
        while from < i && (!is_word(s[from]) || s[from] & 0xc0 == 0x80) {
            from += 1;
        }
        from
    };
    let a = i + len;
    let domain = |b: u8| is_word(b) && b != b'_' || matches!(b, b'.' | b'-');
    let mut to = a + run(s, a, 255, domain);
    // the whole of a character, and no mark last
    while to > a && (matches!(s[to - 1], b'.' | b'-') || s.get(to).is_some_and(|b| b & 0xc0 == 0x80)) {
        to -= 1;
    }
    let dot = s[a..to].iter().rposition(|b| *b == b'.')?;
    let top = &s[a + dot + 1..to];
    let named = dot > 0 && top.len() >= 2 && top.iter().all(|b| b.is_ascii_alphabetic() || *b >= 0x80);
    // `git@host:a/b` names a repository
    let repository = &s[from..i] == b"git" && matches!(s.get(to), Some(b':' | b'/'));
    if from == i || !named || repository || NO_DOMAINS.iter().any(|n| top.eq_ignore_ascii_case(n)) {
        return None;
    }
    let plain = len == 1 && s[from] != b'"';
    Some(Secret { from, to, what: if plain { What::Address } else { What::Secret } })
}

/// An international bank account number, in one or in groups of four, by its check digits (ISO 13616).
pub(super) fn iban(s: &[u8], i: usize) -> Option<Secret> {
    let head = s.get(i..i + 4)?;
    if i > 0 && is_word(s[i - 1])
        || !head[..2].iter().all(u8::is_ascii_uppercase)
        || !head[2..].iter().all(u8::is_ascii_digit)
    {
        return None;
    }
    let (mut number, mut best) = (Vec::with_capacity(34), None);
    let mut p = i;
    while number.len() < 34 {
        match s.get(p) {
            Some(b @ (b'0'..=b'9' | b'A'..=b'Z')) => number.push(*b),
            Some(b' ') if number.len().is_multiple_of(4) && s[p - 1] != b' ' => {}
            _ => break,
        }
        p += 1;
        if (15..=34).contains(&number.len())
            && !s.get(p).is_some_and(|b| is_word(*b))
            && s[p - 1] != b' '
            && checks(&number)
        {
            best = Some(p);
        }
    }
    let to = best?;
    // one word with digits has the placeholder of an identifier
    Some(Secret { from: i, to, what: if s[i..to].contains(&b' ') { What::Secret } else { What::Number } })
}

/// ISO 7064 MOD 97-10 with the first four characters last.
fn checks(number: &[u8]) -> bool {
    let rest = number[4..].iter().chain(&number[..4]).fold(0u32, |rest, &b| {
        if b.is_ascii_digit() {
            (rest * 10 + u32::from(b - b'0')) % 97
        } else {
            (rest * 100 + u32::from(b - b'A') + 10) % 97
        }
    });
    rest == 1
}

/// Numbers of cards and social security numbers of the USA: digits that a shape replaces in any case.
pub(crate) fn numbers(s: &[u8]) -> Vec<Secret> {
    let mut found = Vec::new();
    let mut i = 0;
    while i < s.len() {
        let digits = run(s, i, usize::MAX, |b| b.is_ascii_digit());
        if digits == 0 {
            i += 1;
            continue;
        }
        // a negative number is an identifier
        let begins = i == 0 || !is_word(s[i - 1]) && s[i - 1] != b'-';
        match begins.then(|| card(s, i).or_else(|| social_security(s, i))).flatten() {
            Some(to) => {
                found.push(Secret { from: i, to, what: What::Number });
                i = to;
            }
            None => i += digits,
        }
    }
    found
}

/// The end of a card's number: as many digits as its issuer gives, that pass the Luhn test; in one, or in groups as cards have them, with the
/// same separator between.
fn card(s: &[u8], i: usize) -> Option<usize> {
    let mut number: Vec<u32> = Vec::with_capacity(20);
    let mut groups = Vec::with_capacity(6);
    let mut p = i;
    let mut separator = 0;
    loop {
        let n = run(s, p, 20, |b| b.is_ascii_digit());
        if n == 0 {
            break;
        }
        number.extend(s[p..p + n].iter().map(|b| u32::from(b - b'0')));
        groups.push(n);
        p += n;
        let b = s.get(p).copied().unwrap_or(0);
        let joins = matches!(b, b' ' | b'-' | b'.') && (separator == 0 || separator == b);
        let goes_on = joins && s.get(p + 1).is_some_and(u8::is_ascii_digit);
        // a whole number is not continued by the next one
        let whole = groups.len() == 1 && n > 6 || matches!(&groups[..], [4, 4, 4, 4] | [4, 6, 5]);
        if number.len() >= 19 || groups.len() >= 5 || !goes_on || n < 4 || whole {
            break;
        }
        separator = b;
        p += 1;
    }
    let grouped = matches!(&groups[..], [_] | [4, 4, 4, 1..=4] | [4, 4, 4, 4, 1..=3] | [4, 6, 4 | 5]);
    if !grouped || s.get(p).is_some_and(|b| is_word(*b)) || !is_issued(&number) {
        return None;
    }
    let doubled = |(k, &d): (usize, &u32)| if k % 2 == 0 { d } else { 2 * d - if d > 4 { 9 } else { 0 } };
    let sum: u32 = number.iter().rev().enumerate().map(doubled).sum();
    sum.is_multiple_of(10).then_some(p)
}

/// Whether an issuer gives numbers that begin so, of this length: American Express, Diners Club, Discover, JCB, Maestro, Mastercard,
/// UnionPay, Visa.
fn is_issued(number: &[u32]) -> bool {
    if number.len() < 13 {
        return false;
    }
    let head = number[..4].iter().fold(0, |n, d| n * 10 + d);
    match number.len() {
        14 => matches!(head, 3000..=3059 | 3600..=3699 | 3800..=3999),
        15 => matches!(head, 3400..=3499 | 3700..=3799),
        16 => matches!(head, 2221..=2720 | 3528..=3589 | 4000..=5099 | 5100..=5599 | 5600..=6999),
        13 => matches!(head, 4000..=4999),
        17..=19 => matches!(head, 4000..=4999 | 5000..=5099 | 5600..=6999),
        _ => false,
    }
}

/// The end of `123-45-6789`, without the numbers that are never given out.
fn social_security(s: &[u8], i: usize) -> Option<usize> {
    let t: &[u8; 11] = s[i..].first_chunk()?;
    let form = t.iter().enumerate().all(|(k, b)| if k == 3 || k == 6 { *b == b'-' } else { b.is_ascii_digit() });
    let given = t[0] != b'9' && !matches!(&t[..3], b"000" | b"666") && &t[4..6] != b"00" && &t[7..] != b"0000";
    let e = i + 11;
    let ends = !s.get(e).is_some_and(|b| is_word(*b) || *b == b'-');
    (form && given && ends).then_some(e)
}
