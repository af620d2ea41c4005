//! Secrets and personal data in what is shown and stored.

use std::borrow::Cow;

use crate::secrets::keys::{hides_all, is_secret_value, wanted};
use crate::secrets::{HIDDEN, MASK, Secret, numbers, secrets, shown};
use crate::shape::readable;

/// `line` with passwords, tokens, keys, e-mail addresses and numbers of cards and accounts replaced by `***`; borrowed when there are none.
///
/// Recognised are values by the names of their keys (`password=`, `"apiKey": "…"`, `--token x`, `<secret>x</secret>`), credentials of
/// `Authorization` and cookies, passwords in URLs, private keys (PEM), tokens of known form (AWS, GitHub, GitLab, Slack, Stripe, JWT and
/// others), e-mail addresses, IBANs and card numbers by their check digits; colour codes within do not matter. It replaces rather too
/// much than too little; it is no guarantee. Time and memory are linear in the length.
pub fn mask_secrets(line: &str) -> Cow<'_, str> {
    let Cow::Owned(mut masked) = masked_once(line) else { return Cow::Borrowed(line) };
    // what stands beside a mask may be told apart only now; at last nothing changes any more
    for _ in 0..MAX_ROUNDS {
        match masked_once(&masked) {
            Cow::Owned(again) if again != masked => masked = again,
            _ => break,
        }
    }
    Cow::Owned(masked)
}

/// Times that a masked line is masked again.
const MAX_ROUNDS: usize = 8;

fn masked_once(line: &str) -> Cow<'_, str> {
    let codes = ansi_codes(line.as_bytes());
    if codes.is_empty() {
        return replaced(line, &spans(line.as_bytes()), |at| at);
    }
    let mut plain = Vec::with_capacity(line.len());
    let mut at = 0;
    for &(from, to) in &codes {
        plain.extend_from_slice(&line.as_bytes()[at..from]);
        at = to;
    }
    plain.extend_from_slice(&line.as_bytes()[at..]);
    // The place in the line of a place in the text without codes.
    let mut next = 0;
    let mut gone = 0;
    replaced(line, &spans(&plain), |at| {
        while let Some(&(from, to)) = codes.get(next).filter(|code| code.0 - gone < at) {
            gone += to - from;
            next += 1;
        }
        at + gone
    })
}

/// A line as it may be shown: [`mask_secrets`] of as much as is read of it, and for an object of JSON [`mask_json`].
pub fn mask_line(line: &str) -> Cow<'_, str> {
    let read = readable(line).0;
    if read.trim_ascii_start().starts_with('{') && read.trim_ascii_end().ends_with('}') {
        return mask_json("", read);
    }
    mask_secrets(read)
}

fn spans(s: &[u8]) -> Vec<Secret> {
    let mut spans = secrets(s);
    let others = numbers(s);
    if !others.is_empty() {
        spans.extend(others);
        spans.sort_by_key(|span| (span.from, span.to));
    }
    spans
}

/// The line with the spans masked, which lie at `place` of their bounds.
fn replaced<'a>(line: &'a str, spans: &[Secret], mut place: impl FnMut(usize) -> usize) -> Cow<'a, str> {
    if spans.is_empty() {
        return if line.contains(HIDDEN) { shown(line) } else { Cow::Borrowed(line) };
    }
    let mut out = String::with_capacity(line.len());
    let mut at = 0;
    for span in spans {
        let (from, to) = (place(span.from), place(span.to));
        if from >= at {
            out.push_str(&line[at..from]);
            out.push_str(MASK);
        }
        at = at.max(to);
    }
    out.push_str(&line[at..]);
    Cow::Owned(shown(&out).into_owned())
}

/// The escape sequences of a terminal: colours and the like, links, character sets.
fn ansi_codes(s: &[u8]) -> Vec<(usize, usize)> {
    let mut found = Vec::new();
    let mut i = 0;
    while let Some(n) = s[i..].iter().position(|b| *b == 0x1b) {
        let from = i + n;
        i = match s.get(from + 1) {
            Some(b'[') => {
                let end = from + 2 + s[from + 2..].iter().take(64).take_while(|b| (0x20..0x40).contains(*b)).count();
                end + usize::from(s.get(end).is_some_and(|b| (0x40..0x7f).contains(b)))
            }
            Some(b']') => {
                let end = s[from + 2..].iter().take(2048).position(|b| matches!(b, 0x07 | 0x1b));
                match end.map(|n| from + 2 + n) {
                    Some(end) if s[end] == 0x07 => end + 1,
                    Some(end) if s.get(end + 1) == Some(&b'\\') => end + 2,
                    Some(end) => end,
                    None => from + 2,
                }
            }
            Some(b'(' | b')') if s.get(from + 2).is_some_and(u8::is_ascii_alphanumeric) => from + 3,
            _ => from + 1,
        };
        found.push((from, i));
    }
    found
}

/// A value of an object as JSON text with its secrets masked: everything when the key is a secret's, else what [`mask_secrets`]
/// finds in its strings, and so on within. Borrowed when there are none. Text that is no JSON is masked as a line.
pub fn mask_json<'a>(key: &str, json: &'a str) -> Cow<'a, str> {
    let mut reader = Reader { text: json, at: 0, out: String::new(), copied: 0 };
    let inside = Inside { all: hides_all(key), key: key.to_owned() };
    if reader.value(&inside, 0).is_none() || reader.peek() != 0 || reader.at < json.len() {
        return mask_secrets(json);
    }
    if reader.copied == 0 {
        return Cow::Borrowed(json);
    }
    reader.out.push_str(&json[reader.copied..]);
    Cow::Owned(reader.out)
}

/// Where a value is.
struct Inside {
    /// Its key, or the word before it in an array; empty when there is none.
    key: String,
    /// Whether it is within what is secret as a whole.
    all: bool,
}

impl Inside {
    /// Whether a string or number here is a secret.
    fn hides(&self, value: &str) -> bool {
        self.all && !value.is_empty() || !self.key.is_empty() && is_secret_value(&self.key, value)
    }
}

/// Reads JSON text and copies it with changes.
struct Reader<'a> {
    text: &'a str,
    at: usize,
    out: String,
    copied: usize,
}

/// Nesting to which JSON is read; what lies deeper is masked as a line.
const MAX_DEPTH: usize = 64;

/// What [`mask_secrets`] replaces a value by.
const MASKED: &str = "\"***\"";

impl Reader<'_> {
    /// The next byte that is no white space; 0 at the end.
    fn peek(&mut self) -> u8 {
        let s = self.text.as_bytes();
        while self.at < s.len() && s[self.at] <= b' ' {
            self.at += 1;
        }
        s.get(self.at).copied().unwrap_or(0)
    }

    /// Puts `with` in the place of what was read since `from`.
    fn replace(&mut self, from: usize, with: &str) {
        self.out.push_str(&self.text[self.copied..from]);
        self.out.push_str(with);
        self.copied = self.at;
    }

    /// A string from its quote on: where it began and what it says.
    fn string(&mut self) -> Option<(usize, String)> {
        let s = self.text.as_bytes();
        let from = self.at;
        if s.get(from) != Some(&b'"') {
            return None;
        }
        self.at += 1;
        while *s.get(self.at)? != b'"' {
            self.at += 1 + usize::from(s[self.at] == b'\\');
        }
        self.at += 1;
        serde_json::from_str(self.text.get(from..self.at)?).ok().map(|text| (from, text))
    }

    /// Masks the string that began at `from` as a line.
    fn as_line(&mut self, from: usize, text: &str) {
        if let Cow::Owned(masked) = mask_secrets(text) {
            let masked = serde_json::Value::from(masked).to_string();
            self.replace(from, &masked);
        }
    }

    fn value(&mut self, inside: &Inside, depth: usize) -> Option<()> {
        if depth > MAX_DEPTH {
            return None;
        }
        match self.peek() {
            b'"' => {
                let (from, text) = self.string()?;
                if inside.hides(&text) {
                    self.replace(from, MASKED);
                } else {
                    self.as_line(from, &text);
                }
            }
            b'{' => self.object(inside, depth)?,
            b'[' => self.array(inside, depth)?,
            _ => {
                let s = self.text.as_bytes();
                let from = self.at;
                while self.at < s.len() && !matches!(s[self.at], b',' | b'}' | b']' | 0..=b' ') {
                    self.at += 1;
                }
                let text = &self.text[from..self.at];
                let word = matches!(text, "true" | "false" | "null");
                let number = text.bytes().all(|b| b.is_ascii_digit() || matches!(b, b'-' | b'+' | b'.' | b'e' | b'E'));
                if text.is_empty() || !word && !number {
                    return None;
                }
                if !word && (inside.hides(text) || matches!(mask_secrets(text), Cow::Owned(_))) {
                    self.replace(from, MASKED);
                }
            }
        }
        Some(())
    }

    fn object(&mut self, inside: &Inside, depth: usize) -> Option<()> {
        self.at += 1;
        // `{"name": "DB_PASSWORD", "value": "x"}`
        let mut named = String::new();
        while self.peek() != b'}' {
            let (from, key) = self.string()?;
            self.as_line(from, &key);
            (self.peek() == b':').then_some(())?;
            self.at += 1;
            self.peek();
            let begins = self.at;
            let of_name = key.eq_ignore_ascii_case("value") && wanted(named.as_bytes()).is_some();
            let key = if of_name { std::mem::take(&mut named) } else { key };
            self.value(&Inside { all: inside.all || hides_all(&key), key: key.clone() }, depth + 1)?;
            if ["name", "key"].iter().any(|k| key.eq_ignore_ascii_case(k)) {
                named = serde_json::from_str(&self.text[begins..self.at]).unwrap_or_default();
            }
            match self.peek() {
                b',' => self.at += 1,
                b'}' => {}
                _ => return None,
            }
        }
        self.at += 1;
        Some(())
    }

    fn array(&mut self, inside: &Inside, depth: usize) -> Option<()> {
        self.at += 1;
        // `["--password", "x"]`
        let mut option = String::new();
        while self.peek() != b']' {
            let begins = self.at;
            let key = if option.is_empty() { inside.key.clone() } else { std::mem::take(&mut option) };
            self.value(&Inside { all: inside.all, key }, depth + 1)?;
            let text = &self.text[begins..self.at];
            if text.starts_with("\"-") && !text.contains('=') {
                option = serde_json::from_str(text).unwrap_or_default();
            }
            match self.peek() {
                b',' => self.at += 1,
                b']' => {}
                _ => return None,
            }
        }
        self.at += 1;
        Some(())
    }
}
