//! Where the secrets of a line are: passwords, tokens, keys, and data of persons. A pure function of the line.
//!
//! * [`keys`]: values by the name of their key (`password=…`), of options and of statements.
//! * [`tokens`]: what needs no key: tokens of known form, credentials in URLs, private keys.
//! * [`persons`]: e-mail addresses, numbers of accounts, cards and social security.
//! * [`stems`]: the few places of a line at which one of these may be, found many bytes at a time.
//!
//! A secret is hidden before a shape is made, so that nothing that is learned from a line can hold it: see [`hidden`].

pub(crate) mod keys;
mod persons;
mod stems;
mod tokens;

use std::borrow::Cow;

/// What stands for a secret while the shape of its line is made: a word of as many bytes as `{SECRET}`, of characters that no text has
/// (Unicode noncharacters), so that every rule takes it for a plain word.
pub(crate) const HIDDEN: &str = "\u{10fffe}\u{10ffff}";

/// The same for an e-mail address, of as many bytes as `{EMAIL}`.
pub(crate) const ADDRESS: &str = "\u{10fffe}\u{fffe}";

/// What a secret is replaced by where it is shown.
pub(crate) const MASK: &str = "***";

/// Bytes of a value by which it is judged whether it is a secret; what is one is hidden to its end.
const LOOK: usize = 512;

/// A part of a line that must not be shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Secret {
    /// Its first byte.
    pub from: usize,
    /// Behind its last.
    pub to: usize,
    pub what: What,
}

/// What becomes of a secret in a shape.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum What {
    /// `{SECRET}`
    Secret,
    /// `{EMAIL}`
    Address,
    /// A number of a person, which has a placeholder by its form.
    Number,
}

impl Secret {
    /// `None` when nothing is there.
    fn of(from: usize, to: usize) -> Option<Self> {
        (to > from).then_some(Self { from, to, what: What::Secret })
    }
}

/// The secrets of a text without colour codes, in order; they do not overlap. Numbers of cards are not among them: see [`numbers`].
#[inline]
pub(crate) fn secrets(s: &[u8]) -> Vec<Secret> {
    let mut found: Vec<Secret> = Vec::new();
    stems::each(s, &mut |at| {
        let Some(mut secret) = secret_at(s, at) else { return at + 1 };
        // whole characters: what follows a form may be any text
        while secret.from > 0 && s[secret.from] & 0xc0 == 0x80 {
            secret.from -= 1;
        }
        while s.get(secret.to).is_some_and(|b| b & 0xc0 == 0x80) {
            secret.to += 1;
        }
        secret.from = secret.from.max(found.last().map_or(0, |last| last.to));
        if secret.to <= secret.from {
            return at + 1;
        }
        found.push(secret);
        secret.to
    });
    if let Some(body) = tokens::key_body(s)
        && found.last().is_none_or(|last| last.to <= body.from)
    {
        found.push(body);
    }
    found
}

/// Numbers of cards and of social security: digits, for which a shape has a placeholder in any case.
pub(crate) use persons::numbers;

/// A line with its secrets hidden.
pub(crate) struct Hidden<'a> {
    /// The line with [`HIDDEN`] for each secret and [`ADDRESS`] for each e-mail address; borrowed when there are none.
    pub text: Cow<'a, str>,
    /// The addresses, in order.
    addresses: Vec<&'a str>,
}

/// Hides the secrets of a line.
pub(crate) fn hidden(line: &str) -> Hidden<'_> {
    hide(line, &secrets(line.as_bytes()))
}

/// Hides the secrets that were found in a line.
pub(crate) fn hide<'a>(line: &'a str, found: &[Secret]) -> Hidden<'a> {
    if found.is_empty() {
        return Hidden { text: Cow::Borrowed(line), addresses: Vec::new() };
    }
    let mut out = String::with_capacity(line.len() + 16);
    let mut addresses = Vec::new();
    let mut at = 0;
    for secret in found.iter().filter(|secret| secret.what != What::Number) {
        out.push_str(&line[at..secret.from]);
        if secret.what == What::Address {
            addresses.push(&line[secret.from..secret.to]);
            out.push_str(ADDRESS);
        } else {
            out.push_str(HIDDEN);
        }
        at = secret.to;
    }
    out.push_str(&line[at..]);
    Hidden { text: Cow::Owned(out), addresses }
}

impl<'a> Hidden<'a> {
    /// The bytes `from..to` of the text as they may be told: `***` for a secret, addresses as they are.
    pub(crate) fn told(&self, from: usize, to: usize) -> Cow<'_, str> {
        let part = self.text.get(from..to).unwrap_or("");
        if self.addresses.is_empty() || !part.contains(ADDRESS) {
            return shown(part);
        }
        let before = self.text[..from].matches(ADDRESS).count();
        let mut pieces = part.split(ADDRESS);
        let mut out = shown(pieces.next().unwrap_or("")).into_owned();
        for (n, piece) in pieces.enumerate() {
            // the line may hold such text itself
            out.push_str(self.addresses.get(before + n).copied().unwrap_or(MASK));
            out.push_str(&shown(piece));
        }
        Cow::Owned(out)
    }

    /// Puts another part of the same message behind this one.
    pub(crate) fn join(&mut self, other: Self) {
        self.text.to_mut().push_str(&other.text);
        self.addresses.extend(other.addresses);
    }
}

/// Text with `***` for whatever is hidden in it.
pub(crate) fn shown(text: &str) -> Cow<'_, str> {
    const NONE: [char; 3] = ['\u{10fffe}', '\u{10ffff}', '\u{fffe}'];
    if !text.contains(NONE) {
        return Cow::Borrowed(text);
    }
    // a part of a line may begin or end within it
    Cow::Owned(text.replace(HIDDEN, MASK).replace(ADDRESS, MASK).replace(NONE, MASK))
}

/// The secret that the stem at `i` names or begins.
fn secret_at(s: &[u8], i: usize) -> Option<Secret> {
    match s[i] {
        b'@' => tokens::data_source(s, i).or_else(|| persons::email(s, i, 1)),
        b'%' => persons::email(s, i, 3),
        b':' if s[i + 1] == b'/' => tokens::userinfo(s, i),
        b':' => tokens::telegram(s, i),
        b' ' => tokens::option(s, i),
        b'-' => tokens::private_key(s, i),
        // names alone: no token begins so
        _ if keys::is_name(&s[i..]) => keys::keyed(s, i).or_else(|| tokens::command(s, i)),
        _ => tokens::known(s, i)
            .or_else(|| persons::iban(s, i))
            .or_else(|| tokens::scheme(s, i))
            .or_else(|| tokens::identified(s, i))
            .or_else(|| tokens::webhook(s, i))
            .or_else(|| keys::keyed(s, i)),
    }
}

fn starts_ignoring_case(s: &[u8], word: &[u8]) -> bool {
    s.len() >= word.len() && s[..word.len()].eq_ignore_ascii_case(word)
}

const fn token_byte(b: u8) -> bool {
    b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-')
}

fn is_quote(b: u8) -> bool {
    matches!(b, b'"' | b'\'' | b'`')
}

/// The length of the run of bytes from `i` on that are of a kind, at most `most`.
fn run(s: &[u8], i: usize, most: usize, of: impl Fn(u8) -> bool) -> usize {
    let s = &s[i.min(s.len())..];
    let s = &s[..most.min(s.len())];
    s.iter().position(|b| !of(*b)).unwrap_or(s.len())
}

/// The same before `i`.
fn run_before(s: &[u8], i: usize, most: usize, of: impl Fn(u8) -> bool) -> usize {
    let s = &s[i.saturating_sub(most)..i];
    s.iter().rev().position(|b| !of(*b)).unwrap_or(s.len())
}

/// Behind a few blanks.
fn behind_blanks(s: &[u8], i: usize) -> usize {
    i + run(s, i, 40, |b| matches!(b, b' ' | b'\t'))
}

/// Whether a text already stands for a secret.
fn is_masked(v: &[u8]) -> bool {
    v == MASK.as_bytes() || v == HIDDEN.as_bytes()
}

/// Whether a text looks like a key and not like a word, a number or an identifier: digits and letters change often, in capitals and small
/// letters or over a length of sixteen. A UUID is an identifier.
fn is_opaque(v: &[u8]) -> bool {
    if is_masked(v) {
        return true;
    }
    let v = &v[..v.len().min(LOOK)];
    let base64 = v.iter().any(|b| matches!(b, b'+' | b'='));
    let mark = |b: u8| matches!(b, b'+' | b'=' | b'%' | b'~' | b'!' | b'#' | b'$' | b'*' | b'^');
    let allowed = |b: u8| token_byte(b) || mark(b) || b == b'/' && base64;
    let class = |b: u8| match b {
        b'0'..=b'9' => 1u8,
        b'a'..=b'z' => 2,
        b'A'..=b'Z' => 4,
        _ => 0,
    };
    if v.len() < 8 || v[0] == b'/' || v.starts_with(b"0x") || !v.iter().all(|&b| allowed(b)) {
        return false;
    }
    let kinds = v.iter().fold(0, |kinds, &b| kinds | class(b));
    let changes = v.windows(2).filter(|w| class(w[0]) != class(w[1]) && class(w[0]) * class(w[1]) != 0).count();
    let uuid = v.len() == 36 && crate::forms::uuid(v, 0) == Some(36);
    !uuid && kinds & 1 != 0 && kinds & 6 != 0 && changes >= 4 && (kinds == 7 || v.len() >= 16)
}

/// What is between the quotes that open at `i`, be they escaped (`\"`) or not; to the end of the line when they do not close.
fn quoted(s: &[u8], i: usize) -> Option<(usize, usize)> {
    let slashes = run(s, i, 16, |b| b == b'\\');
    let quote = *s.get(i + slashes)?;
    if !is_quote(quote) {
        return None;
    }
    let from = i + slashes + 1;
    let mut escapes = 0;
    let mut p = from;
    while p < s.len() && s[p] != b'\n' {
        if s[p] == quote {
            // with as many backslashes as the opening one had; an ordinary one closes unless it is escaped itself
            let closes = if slashes == 0 { escapes % 2 == 0 } else { escapes <= slashes };
            if closes && slashes == 0 && quote == b'\'' && s.get(p + 1) == Some(&b'\'') {
                p += 1;
            } else if closes {
                return Some((from, p - if slashes == 0 { 0 } else { escapes }));
            }
        }
        escapes = if s.get(p) == Some(&b'\\') { escapes + 1 } else { 0 };
        p += 1;
    }
    Some((from, p.min(s.len())))
}

/// The end of a value that has no quotes: white space, or what separates values where it does so here. Looks at `most` bytes.
fn value_end(s: &[u8], a: usize, most: usize) -> usize {
    let closes = |b: u8| matches!(b, b')' | b']' | b'}' | b'>' | b'"' | b'\'' | b'`');
    let mut p = a;
    let end = s.len().min(a.saturating_add(most));
    while p < end {
        let next = s.get(p + 1).copied().unwrap_or(0);
        let ends = match s[p] {
            0..=b' ' | 0x7f => true,
            b',' | b';' | b'&' | b'|' => next <= b' ' || is_pair(&s[p + 1..]),
            b if closes(b) => {
                next <= b' ' || closes(next) || matches!(next, b',' | b';' | b'&' | b'.' | b':' | b'\\' | b'<')
            }
            b'<' => next == b'/',
            b'\\' => is_quote(next),
            _ => false,
        };
        if ends {
            break;
        }
        p += 1;
    }
    p
}

/// Whether text begins with a key and its separator.
fn is_pair(s: &[u8]) -> bool {
    let quote = |b: u8| matches!(b, b' ' | b'"' | b'\'' | b'\\');
    let from = run(s, 0, 8, quote);
    let to = from + run(s, from, 64, keys::key_byte);
    let to_separator = to + run(s, to, 8, quote);
    to > from && matches!(s.get(to_separator), Some(b'=' | b':'))
}

/// Where the bracket that opens at `a` closes; the end when it does not within `most` bytes.
fn bracket_end(s: &[u8], a: usize, most: usize) -> usize {
    let end = s.len().min(a.saturating_add(most));
    let (mut depth, mut p, mut inside) = (0usize, a, false);
    while p < end {
        match s[p] {
            b'\\' if inside => p += 1,
            b'"' => inside = !inside,
            b'[' | b'{' | b'(' if !inside => depth += 1,
            b']' | b'}' | b')' if !inside => {
                depth -= 1;
                if depth == 0 {
                    return p;
                }
            }
            _ => {}
        }
        p += 1;
    }
    end
}
