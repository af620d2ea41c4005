//! Secrets and personal data in what is shown and stored.

use std::borrow::Cow;

use crate::kind::Kind;
use crate::secrets::{Secret, key_is_secret, numbers, secrets};
use crate::shape::Segment;

/// What a secret is replaced by.
pub(crate) const MASK: &str = "***";

/// `line` with passwords, tokens, keys, e-mail addresses and numbers of cards and accounts replaced by `***`; borrowed when there are none.
///
/// Recognised are values by the names of their keys (`password=`, `"apiKey": "…"`, `--token x`, `<secret>x</secret>`), credentials of
/// `Authorization` and cookies, passwords in URLs, private keys (PEM), tokens of known form (AWS, GitHub, GitLab, Slack, Stripe, JWT and
/// others), e-mail addresses, IBANs and card numbers by their check digits. A masked line has the shape of the line itself. It
/// replaces rather too much than too little; it is no guarantee.
pub fn mask_secrets(line: &str) -> Cow<'_, str> {
    let s = line.as_bytes();
    let mut spans = secrets(s);
    let others = numbers(s);
    if spans.is_empty() && others.is_empty() {
        return Cow::Borrowed(line);
    }
    spans.extend(others);
    spans.sort_by_key(|span| (span.from, span.to));
    masked(line, &spans, 0, line.len())
}

/// The bytes `from..to` of a line with the secrets of the line masked.
pub(crate) fn masked<'a>(line: &'a str, spans: &[Secret], from: usize, to: usize) -> Cow<'a, str> {
    let mut out = String::new();
    let mut at = from;
    for span in spans.iter().filter(|span| span.to > from && span.from < to) {
        let (a, b) = (span.from.max(at), span.to.min(to));
        if b > a
            && let Some(text) = line.get(at..a)
        {
            out.push_str(text);
            out.push_str(MASK);
            at = b;
        }
    }
    let rest = line.get(at..to).unwrap_or("");
    if at == from { Cow::Borrowed(rest) } else { Cow::Owned(out + rest) }
}

/// Puts placeholders for the secrets of a line into its shape: for what would stay as text, and for forms within a secret. A form that
/// reaches beyond a secret (a URL, a list) stands for it already.
pub(crate) fn hide(s: &[u8], spans: &[Secret], shape: &[u8], segments: &[Segment]) -> (Vec<u8>, Vec<Segment>) {
    let mut out = Vec::with_capacity(shape.len());
    let mut hidden: Vec<Segment> = Vec::with_capacity(segments.len());
    let mut push = |text: &[u8], raw: (usize, usize)| {
        let from = out.len();
        out.extend_from_slice(text);
        hidden.push(Segment { out: (from, out.len()), raw });
    };
    let mut next = 0;
    let mut written = usize::MAX;
    for segment in segments {
        let text = &shape[segment.out.0..segment.out.1];
        let (mut a, b) = segment.raw;
        while next < spans.len() && spans[next].to <= a {
            next += 1;
        }
        let literal = s.get(a..b) == Some(text);
        if !literal {
            let inside = spans.get(next).is_some_and(|span| span.from <= a && b <= span.to);
            let covers = spans.get(next).is_some_and(|span| a <= span.from && span.from < b);
            if inside && !(covers && b == spans[next].to && is_of_kind(text, spans[next].kind)) {
                if written != next {
                    push(spans[next].kind.placeholder().as_bytes(), (spans[next].from, spans[next].to));
                    written = next;
                }
            } else {
                push(text, (a, b));
                // what begins here needs no placeholder of its own
                if covers {
                    written = next;
                }
            }
            continue;
        }
        let start = a;
        while a < b {
            match spans.get(next) {
                Some(span) if span.from <= a => {
                    if written != next {
                        push(span.kind.placeholder().as_bytes(), (span.from, span.to));
                        written = next;
                    }
                    a = b.min(span.to);
                    if span.to <= b {
                        next += 1;
                    }
                }
                span => {
                    let to = span.map_or(b, |span| b.min(span.from));
                    push(&text[a - start..to - start], (a, to));
                    a = to;
                }
            }
        }
    }
    (out, hidden)
}

fn is_of_kind(text: &[u8], kind: Kind) -> bool {
    kind != Kind::Secret && text == kind.placeholder().as_bytes()
}

/// A value of an object as JSON text with its secrets masked: everything when the key is a secret's, else what [`mask_secrets`]
/// finds in its strings, and so on within. Borrowed when there are none. Text that is no JSON is masked as a line.
pub fn mask_json<'a>(key: &str, json: &'a str) -> Cow<'a, str> {
    let mut reader = Reader { text: json, at: 0, out: String::new(), copied: 0 };
    let secret = key_is_secret(key);
    if reader.value(secret, 0).is_none() {
        return mask_secrets(json);
    }
    if reader.copied == 0 {
        return Cow::Borrowed(json);
    }
    reader.out.push_str(&json[reader.copied..]);
    Cow::Owned(reader.out)
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

impl Reader<'_> {
    fn peek(&mut self) -> u8 {
        let s = self.text.as_bytes();
        while self.at < s.len() && s[self.at] <= b' ' {
            self.at += 1;
        }
        s.get(self.at).copied().unwrap_or(0)
    }

    fn replace(&mut self, from: usize, with: &str) {
        self.out.push_str(&self.text[self.copied..from]);
        self.out.push_str(with);
        self.copied = self.at;
    }

    /// A string from its quote on: where it began and what it says.
    fn string(&mut self) -> Option<(usize, String)> {
        let s = self.text.as_bytes();
        let from = self.at;
        self.at += 1;
        while *s.get(self.at)? != b'"' {
            self.at += 1 + usize::from(s[self.at] == b'\\');
        }
        self.at += 1;
        serde_json::from_str(self.text.get(from..self.at)?).ok().map(|text| (from, text))
    }

    /// One value; `secret`: all of it is.
    fn value(&mut self, secret: bool, depth: usize) -> Option<()> {
        if depth > MAX_DEPTH {
            return None;
        }
        match self.peek() {
            b'"' => {
                let (from, text) = self.string()?;
                if secret && !text.is_empty() {
                    self.replace(from, "\"***\"");
                } else if let Cow::Owned(masked) = mask_secrets(&text) {
                    let masked = serde_json::Value::from(masked).to_string();
                    self.replace(from, &masked);
                }
            }
            open @ (b'{' | b'[') => {
                self.at += 1;
                while !matches!(self.peek(), b'}' | b']') {
                    let mut inner = secret;
                    if open == b'{' {
                        let (from, key) = self.string()?;
                        if let Cow::Owned(masked) = mask_secrets(&key) {
                            let masked = serde_json::Value::from(masked).to_string();
                            self.replace(from, &masked);
                        }
                        inner = inner || key_is_secret(&key);
                        (self.peek() == b':').then_some(())?;
                        self.at += 1;
                    }
                    self.value(inner, depth + 1)?;
                    match self.peek() {
                        b',' => self.at += 1,
                        b'}' | b']' => {}
                        _ => return None,
                    }
                }
                self.at += 1;
            }
            _ => {
                let s = self.text.as_bytes();
                let from = self.at;
                while self.at < s.len() && !matches!(s[self.at], b',' | b'}' | b']' | 0..=b' ') {
                    self.at += 1;
                }
                let text = &self.text[from..self.at];
                if text.is_empty() {
                    return None;
                }
                if matches!(text, "true" | "false" | "null") {
                } else if secret || matches!(mask_secrets(text), Cow::Owned(_)) {
                    self.replace(from, "\"***\"");
                }
            }
        }
        Some(())
    }
}
