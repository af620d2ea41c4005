//! Text that is one slot, or none, however many words it has: between quotes, in brackets, behind the last colon, and where a value is missing.
//!
//! All of this is asked of shapes and of the patterns that become of them, and has to be answered alike: nothing here may depend on text of a slot.

use crate::forms::is_word;
use crate::kind::Kind;
use crate::slots::{is_delimiter, sentence_end, value_expected};

pub(crate) const QUOTES: [u8; 2] = *b"'\"";

/// A quote as syslog daemons write it.
pub(crate) const OCTAL_QUOTE: &[u8] = b"\\042";

/// A value that is missing: a slot without text.
pub(crate) struct Missing {
    pub at: usize,
    /// Where reading goes on.
    pub next: usize,
    /// Whether it counts as a word of the line: what is between quotes or brackets does not, opened or not.
    pub is_word: bool,
}

/// The value that is missing at the delimiter `i`: in brackets that stand alone, right behind the `=` of a key, between its quotes, or between the colon of a key
/// and what separates it from the next one.
pub(crate) fn missing(s: &[u8], i: usize) -> Option<Missing> {
    let before = |n: usize| i.checked_sub(n).map_or(0, |k| s[k]);
    let found = |at: usize, next: usize, is_word: bool| Some(Missing { at, next, is_word });
    match s[i] {
        b'(' | b'[' if matches!(before(1), b' ' | b'=') && matches!(&s[i..], [b'(', b')', ..] | [b'[', b']', ..]) => {
            found(i + 1, i + 1, false)
        }
        b'=' if is_key_byte(before(1)) => match s.get(i + 1) {
            None | Some(b' ' | b',' | b';' | b')' | b']' | b'}') => found(i + 1, i + 1, true),
            Some(b'"') if s.get(i + 2) == Some(&b'"') => found(i + 2, i + 3, false),
            _ => None,
        },
        b',' | b';' if before(1) == b' ' && before(2) == b':' && is_key_byte(before(3)) => found(i, i + 1, true),
        _ => None,
    }
}

/// Words, in slots or not, behind which the words behind a colon may be the text of an error.
pub(crate) const TAIL_BEHIND: usize = 3;

/// Where the words begin that stand behind the last colon of a text, perhaps behind a number in brackets, or behind its last comma with a capital, if there are
/// several and nothing else: what went wrong in a program is told so, in words that are not its own. Their number varies, so they are one slot; [`usize::MAX`]
/// when there are none.
pub(crate) fn tail(s: &[u8]) -> usize {
    let mark = s.windows(2).rposition(|w| matches!(w, b": " | b", "));
    let begins = mark.map(|at| {
        let i = at + 2;
        let bracket = s[i..].iter().position(|&b| b == b']').filter(|_| s[i] == b'[' && s[at] == b':');
        bracket.filter(|&n| s.get(i + n + 1) == Some(&b' ')).map_or((at, i), |n| (at, i + n + 2))
    });
    let told = |&(at, i): &(usize, usize)| {
        let words = &s[i..sentence_end(s, i, s.len())];
        is_phrase(words) && (s[at] == b':' || words[0].is_ascii_uppercase())
    };
    begins.filter(told).map_or(usize::MAX, |(_, i)| i)
}

fn is_letter(b: u8) -> bool {
    b.is_ascii_alphabetic() || b >= 0x80
}

/// What words are made of, and what stands between them.
pub(crate) fn is_phrase_byte(b: u8) -> bool {
    is_letter(b) || matches!(b, b' ' | b'-' | b'\'' | b'/')
}

/// Whether a text is several words and nothing else.
fn is_phrase(words: &[u8]) -> bool {
    let letter = |b: Option<&u8>| b.is_some_and(|&b| is_letter(b));
    letter(words.first()) && letter(words.last()) && words.contains(&b' ') && words.iter().all(|&b| is_phrase_byte(b))
}

/// Where the parenthesis at `i` closes when it holds several words and nothing else: a remark.
pub(crate) fn remark(s: &[u8], i: usize) -> Option<usize> {
    let close = match s[i] {
        b'(' => b')',
        b'[' => b']',
        _ => return None,
    };
    let end = i + 1 + s[i + 1..].iter().position(|&b| !is_phrase_byte(b))?;
    (s[end] == close && is_phrase(&s[i + 1..end])).then_some(end)
}

/// Bytes of a collection.
const MAX_COLLECTION: usize = 2000;

/// Where the bracket at `i` closes when it holds a collection: several elements behind commas, or in square and curly ones a pair, a call or quoted text by itself.
/// No element has a blank outside of quotes or of brackets of its own. How many there are varies, so they are one slot. Parentheses hold a collection when they are
/// attached to a word: `Set(a, b)`.
pub(crate) fn collection(s: &[u8], i: usize, unclosed: [bool; 2]) -> Option<usize> {
    let close = match s[i] {
        b'[' => b']',
        b'{' => b'}',
        b'(' if s[..i].last().is_some_and(|&b| is_key_byte(b)) => b')',
        _ => return None,
    };
    let (mut elements, mut at, mut pair) = (1, i + 1, false);
    let mut nested: Vec<u8> = Vec::new();
    loop {
        let b = *s.get(at)?;
        if let Some((_, len)) = Kind::at_start(&s[at..]) {
            at += len;
            continue;
        }
        if b == s[i] {
            return None;
        }
        if b == close {
            break;
        }
        match b {
            b'\\' if s[at..].starts_with(OCTAL_QUOTE) => return None,
            _ if at - i > MAX_COLLECTION => return None,
            // where a quote is open before the bracket, those in it may close that one
            b'"' | b'\'' if QUOTES.iter().zip(unclosed).any(|(&q, open)| open && q == b) => return None,
            b'"' | b'\'' => {
                let end = at + 1 + s[at + 1..].iter().position(|&c| c == b)?;
                // keys are no elements
                if s.get(end + 1) == Some(&b':') && nested.is_empty() {
                    return None;
                }
                pair |= at == i + 1 && s.get(end + 1) == Some(&close);
                at = end;
            }
            b'(' => nested.push(b')'),
            b'[' => nested.push(b']'),
            b'{' => nested.push(b'}'),
            b')' | b']' | b'}' => {
                if nested.pop() != Some(b) {
                    return None;
                }
                pair = true;
            }
            b',' if nested.is_empty() => {
                elements += usize::from(s.get(at + 1) != Some(&close));
                at += usize::from(s.get(at + 1) == Some(&b' '));
            }
            b' ' | b'=' | b';' | b'|' if nested.is_empty() => return None,
            b':' => pair |= s[i] == b'{',
            _ => {}
        }
        at += 1;
    }
    (nested.is_empty() && at > i + 1 && (elements > 1 || pair && close != b')')).then_some(at)
}

/// Whether what stands behind `text` is the value of a key: `key=`, `key: `.
pub(crate) fn value_place(text: &[u8]) -> bool {
    match text {
        [.., key, b'='] | [.., key, b':', b' '] => is_key_byte(*key),
        _ => false,
    }
}

/// What a key ends in: a slot, or a bracket, which may be that of a placeholder or of what is attached to a word.
fn is_key_byte(b: u8) -> bool {
    matches!(b, b'}' | b')') || !is_delimiter(b)
}

/// Where a value is expected (behind `=` or a preposition), a word with one placeholder in brackets right behind it is one value:
/// `LOCAL({NUM})`, `WorkSource{{NUM}}`. Answers its end.
pub(crate) fn attached(s: &[u8], start: usize, end: usize) -> Option<usize> {
    let close = match s.get(end)? {
        b'(' => b')',
        b'{' => b'}',
        _ => return None,
    };
    // an open one may have been a word, which is a slot of its own
    let (_, len) = Kind::at_start(&s[end + 1..]).filter(|&(kind, _)| kind != Kind::Any)?;
    let stop = end + 1 + len;
    let alone =
        s.get(stop + 1).is_none_or(|&b| is_delimiter(b)) && Kind::at_start(&s[s.len().min(stop + 1)..]).is_none();
    (s.get(stop) == Some(&close) && alone && value_expected(s, start)).then_some(stop + 1)
}

/// Whether the text that the quote at `i` opens is no value but what is stated: the request of a web server, unless it is the value of a key; or the words that
/// a line begins with, when nothing but keys with their values stands behind them.
pub(crate) fn is_statement(s: &[u8], i: usize, quoted: &Quoted) -> bool {
    if is_request(&s[quoted.from..quoted.to]) {
        return !matches!(s[..i], [.., b'='] | [.., b':', b' ']);
    }
    i == 0 && keys_follow(s, quoted.end)
}

/// Whether nothing stands at `end` but keys with their values.
pub(crate) fn keys_follow(s: &[u8], end: usize) -> bool {
    let placeholder = |rest: &[u8]| Kind::at_start(rest).map(|(_, len)| len);
    let slot = |rest: &[u8]| placeholder(rest).or_else(|| rest.first().filter(|&&b| !is_delimiter(b)).map(|_| 1));
    match &s[end..] {
        [] => true,
        [b' ', rest @ ..] => {
            let mut behind = rest;
            while let Some(len) = slot(behind) {
                behind = &behind[len..];
            }
            behind.len() < rest.len() && behind.first() == Some(&b'=')
        }
        _ => false,
    }
}

/// Whether text at `i` is a quote behind a backslash.
pub(crate) fn quote_mark(s: &[u8], i: usize) -> bool {
    s[i] == b'\\' && (s[i..].starts_with(OCTAL_QUOTE) || matches!(s.get(i + 1), Some(b'"' | b'\'')))
}

/// Whether quoted text is the request of a web server (`GET / HTTP/1.1`): a statement of its own, whose method is no value.
fn is_request(text: &[u8]) -> bool {
    let method = text.iter().take_while(|b| b.is_ascii_uppercase()).count();
    // its method may be open
    text.starts_with(b"{*} ") || (3..=7).contains(&method) && text.get(method) == Some(&b' ')
}

/// Text between quotes, and where the closing one ends.
pub(crate) struct Quoted {
    pub from: usize,
    pub to: usize,
    pub end: usize,
}

/// The text that a quote at `i` opens, when it is not empty and the quotes stand where quotes stand. A quote behind a backslash is closed by another one, and
/// a quote that has such ones inside is no value but a statement.
pub(crate) fn quoted(s: &[u8], i: usize) -> Option<Quoted> {
    let (mark, escaped) = match s[i] {
        b'"' | b'\'' => (&s[i..=i], i > 0 && s[i - 1] == b'\\'),
        b'\\' if s[i..].starts_with(OCTAL_QUOTE) => (OCTAL_QUOTE, false),
        _ => return None,
    };
    let from = i + mark.len();
    let close = from + s[from..].windows(mark.len()).position(|w| w == mark)?;
    let end = close + mark.len();
    let to = close - usize::from(escaped);
    let joined = word_ends(s, i) || word_begins(s, end);
    (!joined && to > from && (s[close - 1] == b'\\') == escaped).then_some(Quoted { from, to, end })
}

/// Whether a slot ends at `i`: a placeholder, or text with a word in it.
fn word_ends(s: &[u8], mut i: usize) -> bool {
    while i > 0 && !is_delimiter(s[i - 1]) {
        if is_word(s[i - 1]) {
            return true;
        }
        i -= 1;
    }
    let text = &s[i.saturating_sub(8)..i];
    text.ends_with(b"}")
        && (0..text.len()).any(|a| Kind::at_start(&text[a..]).is_some_and(|(_, len)| a + len == text.len()))
}

/// Whether a slot begins at `i`.
fn word_begins(s: &[u8], mut i: usize) -> bool {
    while i < s.len() && !is_delimiter(s[i]) {
        if is_word(s[i]) {
            return true;
        }
        i += 1;
    }
    Kind::at_start(&s[i.min(s.len())..]).is_some()
}
