//! A shape or pattern cut into slots (what may vary) and the skeleton around them (what may not).

use crate::forms::{HARD, SPACE, byte_class, is_word};
use crate::kind::Kind;
use crate::phrases::{
    OCTAL_QUOTE, QUOTES, TAIL_BEHIND, attached, collection, is_statement, missing, quote_mark, quoted, remark, tail,
    value_place,
};

/// Byte that stands for a slot in a skeleton; it cannot come from a shape that begins there, since it is no word byte.
pub(crate) const SLOT: u8 = 0x01;

/// Byte ranges of the slots of `text`, in order.
///
/// A slot is a maximal run of bytes that are neither white space nor brackets, commas, quotes, `=`, `:` or `/`, and that holds at least
/// one letter, digit or placeholder, without the full stops of its sentence; what [`crate::phrases`] knows is one slot whatever it holds, or none that has no text.
/// Prepositions are no slots: lines that differ in one are different statements.
pub(crate) fn slots(text: &str) -> Vec<(usize, usize)> {
    let s = text.as_bytes();
    let mut found = Vec::with_capacity(16);
    let mut i = 0;
    let mut request_end = usize::MAX;
    let tail = tail(s);
    let mut words = 0;
    // single and double quotes that opened nothing so far
    let mut unclosed = [false; 2];
    while i < s.len() {
        if i == tail && words >= TAIL_BEHIND {
            found.push((i, sentence_end(s, i, s.len())));
            break;
        }
        if i != request_end
            && let Some(quoted) = quoted(s, i)
        {
            if is_statement(s, i, &quoted) {
                request_end = quoted.to;
                i = quoted.from;
                continue;
            }
            found.push((quoted.from, quoted.to));
            i = quoted.end;
            continue;
        }
        if quote_mark(s, i) {
            i += if s[i + 1] == b'0' { OCTAL_QUOTE.len() } else { 1 };
            continue;
        }
        if Kind::at_start(&s[i..]).is_none() && is_delimiter(s[i]) {
            if i != request_end
                && let Some(kind) = QUOTES.iter().position(|&q| q == s[i])
            {
                unclosed[kind] ^= true;
            }
            if let Some(end) = collection(s, i, unclosed).or_else(|| remark(s, i)) {
                found.push((i + 1, end));
                i = end;
            } else if let Some(missing) = missing(s, i) {
                found.push((missing.at, missing.at));
                words += usize::from(missing.is_word);
                i = missing.next;
            } else {
                i += 1;
            }
            continue;
        }
        let start = i;
        let mut holds = false;
        while i < s.len() {
            if let Some((_, len)) = Kind::at_start(&s[i..]) {
                i += len;
                holds = true;
            } else if is_delimiter(s[i]) || quote_mark(s, i) {
                break;
            } else {
                holds |= is_word(s[i]);
                i += 1;
            }
        }
        let preposition = is_preposition(&s[start..i]);
        // a mark where a value stands says that there is none
        let ends = s.get(i).is_none_or(|b| b" ,;)]}".contains(b));
        let marks = !holds && s[start..i].iter().any(|&b| b != b'.');
        let none = marks && ends && value_place(&s[..start]);
        // what stands in brackets is said of the line
        words += usize::from(
            (holds || none) && !matches!(start.checked_sub(1).map(|k| s[k]), Some(b'[' | b'(' | b'<' | b'{')),
        );
        if (holds || none) && !preposition {
            if let Some(end) = attached(s, start, i) {
                i = end;
            }
            found.push((start, sentence_end(s, start, i)));
        }
    }
    found
}

/// Where the last slot of a pattern begins when it is open and stands where the words of an error do: see [`tail`].
pub(crate) fn open_tail(pattern: &str) -> Option<usize> {
    let any = Kind::Any.placeholder();
    let at = pattern.trim_end_matches('.').strip_suffix(any)?.len();
    let words = format!("{}Some words{}", &pattern[..at], &pattern[at + any.len()..]);
    (slots(&words).last() == Some(&(at, at + "Some words".len()))).then_some(at)
}

/// The end of the slot `a..b` without the full stops of its sentence.
pub(crate) fn sentence_end(s: &[u8], a: usize, b: usize) -> usize {
    let stops = s[a..b].iter().rev().take_while(|&&c| c == b'.').count();
    if stops > 0 && s.get(b).is_none_or(|&c| c == b' ') { b - stops } else { b }
}

/// Whether a value is expected at `start`: behind `=` or a preposition.
pub(crate) fn value_expected(s: &[u8], start: usize) -> bool {
    match start.checked_sub(1).map(|i| s[i]) {
        Some(b'=') => true,
        Some(b' ') => is_preposition(word_before(s, start)),
        _ => false,
    }
}

/// The word one blank before `start`; empty when there is none.
pub(crate) fn word_before(s: &[u8], start: usize) -> &[u8] {
    if start == 0 || s[start - 1] != b' ' {
        return b"";
    }
    let n = s[..start - 1].iter().rev().take_while(|&&b| is_word(b)).count();
    // the `in` of `log.in` is none
    if s[..start - 1 - n].last().is_some_and(|&b| !is_delimiter(b)) {
        return b"";
    }
    &s[start - 1 - n..start - 1]
}

/// Prepositions that are followed by the name of a thing.
pub(crate) fn is_preposition(w: &[u8]) -> bool {
    matches!(w, b"for" | b"from" | b"to" | b"at" | b"by" | b"on" | b"in" | b"of" | b"via" | b"with")
}

pub(crate) fn is_delimiter(b: u8) -> bool {
    byte_class(b) & (SPACE | HARD) != 0 || matches!(b, b':' | b'/')
}

/// The text around the slots, each slot replaced by [`SLOT`].
pub(crate) fn skeleton(text: &str, slots: &[(usize, usize)]) -> String {
    let mut out = String::with_capacity(text.len());
    let mut at = 0;
    for &(a, b) in slots {
        out.push_str(&text[at..a]);
        out.push(SLOT as char);
        at = b;
    }
    out.push_str(&text[at..]);
    out
}
