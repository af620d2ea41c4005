//! Secrets and personal data in lines that are shown.

use std::borrow::Cow;

use crate::forms::is_word;

/// What a secret is replaced by.
const MASK: &str = "***";

/// `line` with tokens, keys, passwords, e-mail addresses and card numbers replaced by `***`; borrowed when there are none.
///
/// Recognised: values of keys whose name says that they are secret (`password=`, `api_key: `, `"token":"…"`), `Bearer` and `Basic`
/// credentials, passwords in URLs (`scheme://user:password@host`), tokens of known form (AWS, GitHub, Slack, Stripe, JWT), e-mail addresses,
/// and digit groups that pass the Luhn test. It replaces rather too much than too little; it is no guarantee.
pub fn mask_secrets(line: &str) -> Cow<'_, str> {
    let s = line.as_bytes();
    let mut spans: Vec<(usize, usize)> = Vec::new();
    let mut i = 0;
    while i < s.len() {
        if let Some((a, b)) = secret_at(s, i) {
            spans.push((a, b));
            i = b.max(i + 1);
        } else {
            i += 1;
        }
    }
    if spans.is_empty() {
        return Cow::Borrowed(line);
    }
    let mut out = String::with_capacity(line.len());
    let mut at = 0;
    for (a, b) in spans {
        // spans begin and end at ASCII bytes or character boundaries; an e-mail may reach back
        if a >= at && line.is_char_boundary(a) && line.is_char_boundary(b) {
            out.push_str(&line[at..a]);
            out.push_str(MASK);
            at = b;
        }
    }
    out.push_str(&line[at..]);
    Cow::Owned(out)
}

fn secret_at(s: &[u8], i: usize) -> Option<(usize, usize)> {
    match s[i] {
        b'=' | b':' => keyed(s, i).or_else(|| url_password(s, i)),
        b' ' => credentials(s, i),
        b'@' => email(s, i),
        b'0'..=b'9' if i == 0 || !is_word(s[i - 1]) => card(s, i),
        b if b.is_ascii_alphabetic() && (i == 0 || !is_word(s[i - 1])) => known_token(s, i),
        _ => None,
    }
}

fn lower_ends_with(s: &[u8], word: &[u8]) -> bool {
    s.len() >= word.len() && s[s.len() - word.len()..].eq_ignore_ascii_case(word)
}

/// The end of a value that begins at `a`.
fn value_end(s: &[u8], a: usize) -> usize {
    a + s[a..]
        .iter()
        .take_while(|b| {
            **b > b' ' && !matches!(b, b'"' | b'\'' | b',' | b';' | b'&' | b')' | b']' | b'}' | b'<' | b'>')
        })
        .count()
}

/// `password=…`, `"token": "…"`.
fn keyed(s: &[u8], i: usize) -> Option<(usize, usize)> {
    const NAMES: [&[u8]; 16] = [
        b"password",
        b"passwd",
        b"pwd",
        b"secret",
        b"token",
        b"api_key",
        b"apikey",
        b"api-key",
        b"access_key",
        b"accesskey",
        b"private_key",
        b"passphrase",
        b"authorization",
        b"auth_key",
        b"credential",
        b"credentials",
    ];
    let key_end = i - s[..i].iter().rev().take_while(|b| matches!(b, b' ' | b'"' | b'\'')).count();
    let key_start = key_end - s[..key_end].iter().rev().take_while(|b| is_word(**b) || **b == b'-').count();
    let key = &s[key_start..key_end];
    if !NAMES.iter().any(|n| lower_ends_with(key, n)) {
        return None;
    }
    let mut a = i + 1;
    while a < s.len() && matches!(s[a], b' ' | b'"' | b'\'') {
        a += 1;
    }
    let quote = (a > i + 1 && matches!(s[a - 1], b'"' | b'\'')).then(|| s[a - 1]);
    let mut b = match quote {
        Some(q) => a + s[a..].iter().take_while(|c| **c != q).count(),
        None => value_end(s, a),
    };
    // `Authorization: Bearer xyz`
    if quote.is_none()
        && (s[a..b].eq_ignore_ascii_case(b"bearer") || s[a..b].eq_ignore_ascii_case(b"basic"))
        && b < s.len()
    {
        b = value_end(s, b + 1);
    }
    (b > a).then_some((a, b))
}

/// `scheme://user:password@host`
fn url_password(s: &[u8], i: usize) -> Option<(usize, usize)> {
    let e = i + 1 + s[i + 1..].iter().take(200).take_while(|b| **b > b' ' && !matches!(b, b'@' | b'/' | b'"')).count();
    if s.get(e) != Some(&b'@') || e == i + 1 {
        return None;
    }
    let user = s[..i].iter().rev().take(100).take_while(|b| **b > b' ' && !matches!(b, b'/' | b'@')).count();
    s[..i - user].ends_with(b"://").then_some((i + 1, e))
}

/// ` Bearer xyz`
fn credentials(s: &[u8], i: usize) -> Option<(usize, usize)> {
    let word = [&b"bearer"[..], b"basic"].into_iter().find(|w| lower_ends_with(&s[..i], w))?;
    let before = i - word.len();
    let b = value_end(s, i + 1);
    (b >= i + 9 && (before == 0 || !is_word(s[before - 1]))).then_some((i + 1, b))
}

fn email(s: &[u8], i: usize) -> Option<(usize, usize)> {
    let local =
        s[..i].iter().rev().take(64).take_while(|b| is_word(**b) || matches!(b, b'.' | b'-' | b'+' | b'%')).count();
    let mut e = i
        + 1
        + s[i + 1..].iter().take(255).take_while(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-')).count();
    while e > i + 1 && matches!(s[e - 1], b'.' | b'-') {
        e -= 1;
    }
    let dot = s[i + 1..e].iter().rposition(|b| *b == b'.')?;
    let top = &s[i + 2 + dot..e];
    (local > 0 && dot > 0 && top.len() >= 2 && top.iter().all(u8::is_ascii_alphabetic)).then_some((i - local, e))
}

/// 13 to 19 digits, with blanks or dashes between groups, that pass the Luhn test.
fn card(s: &[u8], i: usize) -> Option<(usize, usize)> {
    let mut number = Vec::with_capacity(19);
    let mut e = i;
    let mut end = i;
    while e < s.len() && number.len() < 20 {
        match s[e] {
            b'0'..=b'9' => {
                number.push(u32::from(s[e] - b'0'));
                end = e + 1;
            }
            b' ' | b'-' if s.get(e + 1).is_some_and(u8::is_ascii_digit) && number.len() % 4 == 0 => {}
            _ => break,
        }
        e += 1;
    }
    if !(13..=19).contains(&number.len()) || s.get(end).is_some_and(|b| is_word(*b)) || !matches!(number[0], 2..=6) {
        return None;
    }
    let sum: u32 = number
        .iter()
        .rev()
        .enumerate()
        .map(|(k, &d)| if k % 2 == 1 { if d > 4 { 2 * d - 9 } else { 2 * d } } else { d })
        .sum();
    sum.is_multiple_of(10).then_some((i, end))
}

/// Tokens that are known by how they begin.
fn known_token(s: &[u8], i: usize) -> Option<(usize, usize)> {
    const HEADS: [(&[u8], usize); 14] = [
        (b"AKIA", 20),
        (b"ASIA", 20),
        (b"ghp_", 30),
        (b"gho_", 30),
        (b"ghs_", 30),
        (b"github_pat_", 40),
        (b"glpat-", 20),
        (b"xoxb-", 20),
        (b"xoxp-", 20),
        (b"sk_live_", 20),
        (b"sk-", 24),
        (b"AIza", 35),
        (b"eyJ", 30),
        (b"hf_", 30),
    ];
    let (_, least) = HEADS.into_iter().find(|(head, _)| s[i..].starts_with(head))?;
    let e = i + s[i..].iter().take_while(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'.')).count();
    (e - i >= least).then_some((i, e))
}
