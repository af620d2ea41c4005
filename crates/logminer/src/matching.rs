//! From patterns back to lines: parameters and regular expressions.

use crate::event::{message_of, message_spans};
use crate::forms::is_word;
use crate::kind::Kind;
use crate::phrases::{OCTAL_QUOTE, value_place};
use crate::secrets::keys::wanted;
use crate::shape::Segment;
use crate::slots::{open_tail, skeleton, slots, value_expected};

/// One variable part of a pattern: its placeholder and where it stands in the pattern.
pub(crate) fn placeholders(text: &str) -> Vec<(Kind, usize, usize)> {
    let s = text.as_bytes();
    let mut found = Vec::new();
    let mut i = 0;
    while i < s.len() {
        match Kind::at_start(&s[i..]) {
            Some((kind, len)) => {
                found.push((kind, i, i + len));
                i += len;
            }
            None => i += 1,
        }
    }
    found
}

/// The types of the placeholders of a pattern, in order.
pub fn parameter_kinds(pattern: &str) -> Vec<Kind> {
    placeholders(pattern).into_iter().map(|(k, _, _)| k).collect()
}

/// The raw byte at which byte `at` of the shape begins (`end`: ends).
fn raw_at(segments: &[Segment], at: usize, end: bool) -> usize {
    let i = if end { segments.partition_point(|s| s.out.1 < at) } else { segments.partition_point(|s| s.out.1 <= at) };
    let Some(s) = segments.get(i) else {
        return segments.last().map_or(0, |s| s.raw.1);
    };
    let literal = s.out.1 - s.out.0 == s.raw.1 - s.raw.0;
    if end && at == s.out.1 {
        s.raw.1
    } else if literal {
        s.raw.0 + at.saturating_sub(s.out.0)
    } else {
        s.raw.0
    }
}

/// The parts of a raw line that the placeholders of `pattern` stand for, in order; `None` when the line is not one of that pattern.
///
/// `line` is taken as [`crate::log_pattern`] takes it: prefixes are skipped and the message is found inside JSON. A value is a piece of
/// the message, so of the line itself unless the message had to be decoded (JSON escapes, ANSI codes); `***` stands for each secret in it.
pub fn parameters(line: &str, pattern: &str) -> Option<Vec<String>> {
    parameters_of(&message_of(line), pattern)
}

/// [`parameters`] of a bare message.
pub fn parameters_of(message: &str, pattern: &str) -> Option<Vec<String>> {
    let (shape, segments, text) = message_spans(message);
    if pattern == crate::patterns::OTHER && shape != pattern {
        return Some(vec![text.told(0, text.text.len()).into_owned()]);
    }
    let (of_shape, of_pattern) = (slots(&shape), slots(pattern));
    if of_shape.len() != of_pattern.len() || skeleton(&shape, &of_shape) != skeleton(pattern, &of_pattern) {
        return None;
    }
    let raw = |a: usize, b: usize| {
        let (from, to) = (raw_at(&segments, a, false), raw_at(&segments, b, true));
        text.told(from, to.max(from)).into_owned()
    };
    let mut found = Vec::new();
    for (&(a, b), &(p, q)) in of_shape.iter().zip(&of_pattern) {
        let (have, want) = (&shape[a..b], &pattern[p..q]);
        if want == Kind::Any.placeholder() {
            found.push(if a == b { String::new() } else { raw(a, b) });
        } else if have == want {
            found.extend(placeholders(have).into_iter().map(|(_, x, y)| raw(a + x, a + y)));
        } else {
            return None;
        }
    }
    Some(found)
}

/// A word byte: no ASCII punctuation but `_`, no white space, no control character.
const W: &str = r"[^\x01-\x2f:-@\[-\^\x60{-\x7f]";
/// What the shape pass takes for white space.
const S: &str = r"[\x01-\x20\x7f]";
/// The name of a day or month.
const NAME: &str = "[A-Z][a-z][a-z]";
const DECIMAL: &str = r"[-+]?[0-9]+(?:\.[0-9]+)?";

/// The words of an error, in place of a value.
const PHRASE: &str = r"|[^\x01-@\[-\x60{-\x7f](?:[^\x01-@\[-\x60{-\x7f]|[-'/\x01-\x20\x7f])*";
/// Marks that say that there is no value.
const MARKS: &str = r"[-+.\\@#$%*~]+";

/// The expression for what a placeholder stands for.
fn expression(kind: Kind) -> String {
    match kind {
        Kind::Num => format!(r"(?:{DECIMAL}(?:[eE][-+]?[0-9]+)?|\*+)"),
        Kind::Id => format!(r"[-+]?{W}(?:{W}|[-+])*(?:[/.][0-9]+)*"),
        Kind::Hex => r"[-+]?(?:0[xX])?[0-9A-Fa-f]+(?::[0-9A-Fa-f]+:[0-9A-Fa-f]+(?:\.[0-9])?)?".into(),
        Kind::Time => {
            // wider than what the shape pass takes, to stay small: a number with numbers or names joined to it, or the name of a day or
            // month with numbers around it
            let clock = r"(?: +[0-9]+:[0-9:.,]+Z?)?";
            let zone = r"(?: ?[-+][0-9]{2}:?[0-9]{2})?";
            let numeric = format!(r"[0-9][0-9A-Za-z]*(?:[-/.:,_][0-9A-Za-z]+)*{clock}{zone}");
            let named = format!(
                r"(?:{NAME},? *)?(?:{NAME} +[0-9]+|[0-9]+ *{NAME}),?(?: +[0-9]{{4}})?(?:[T_:-][0-9:.,]+Z?)?{clock}{zone}(?: *[A-Z]{{3,4}})?(?: +[0-9]{{4}})?"
            );
            format!(r"[-+]?(?:{numeric}|{named}|<[0-9]+ ?{W}+)")
        }
        Kind::Path => {
            let piece = format!(r"(?:{W}|[-./+~%@$#*!\\:])");
            // the value of a parameter may be a secret, which is any text
            let query = r#"(?:\?[^\x01-\x20\x7f"'<>(){},;]*(?:=[^\x01-\x20]*)?)?"#;
            format!(r"{piece}*[/\\]{piece}*(?: {piece}+)?{query}")
        }
        // a host or IPv4 address, with a port or not, or an IPv6 address in brackets with one
        Kind::Ip => format!(r"(?:[-+]?(?:{W}|[.:/%-])*|\[(?:{W}|[.:%-])*\]:[0-9]+)"),
        Kind::Mac => r"[0-9A-Fa-f]{2}(?:[:-][0-9A-Fa-f]{2}){5,}".into(),
        Kind::Uuid => r"[0-9A-Fa-f]{8}(?:-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12}".into(),
        Kind::Url => r#"[A-Za-z][A-Za-z0-9+.:-]*://(?:[^\x01-\x20]*@)?[^\x01-\x20\x7f"'<>`|{}()\[\];,^]+"#.into(),
        Kind::Email => format!(r"(?:{W}|[-.+%'&!#~])+@(?:{W}|[.-])+"),
        Kind::Size => format!(r"{DECIMAL}[A-Za-z]{{1,6}}(?:/s)?"),
        Kind::Bool => "(?:[Tt]rue|[Ff]alse|[Oo]n|[Oo]ff|[Yy]es|[Nn]o|TRUE|FALSE|ON|OFF|YES|NO)".into(),
        Kind::Name => format!(r"{W}(?:{W}|[-.$])*\.(?:{W}|[-.$])*(?::[0-9]{{1,5}})?"),
        Kind::Ver => format!(r"[-+]?(?:[0-9][0-9]?:)?[vV]?[0-9](?:{W}|[-.+~])*"),
        Kind::List => {
            // every value that makes a list has a digit, a dot or a slash in it, or is long and hexadecimal
            let any = format!(r"(?:{W}|[-+.:/$~@#%*!\\])*");
            let item = format!(r"(?:{any}[0-9./\\*]{any}|[A-Fa-f]{{8,}})");
            // but for the name of a user in front of a comma
            format!(r"(?:{item}(?:{S}+|,{S}*)|{W}(?:{W}|-)*,{S}*){item}(?:(?:{S}+|,{S}*){item})*")
        }
        Kind::Text => r#"(?:[^"\\]|\\.)+"#.into(),
        Kind::Stack | Kind::Rest => ".*".into(),
        Kind::Secret => ".+".into(),
        Kind::Any => any_value(false),
    }
}

/// What an open slot stands for: a word, or what has a form that holds more than a word may. Kept small: PostgreSQL builds its automaton
/// anew for every match, so each state costs on every line.
///
/// A colon ends a slot, so a value holds one only as part of a form: a port, which no word byte follows, or hexadecimal groups.
///
/// `closes`: a sentence may end behind it, so a full stop is none of its own.
fn any_value(closes: bool) -> String {
    const WORD: &str = r#"[^\x01-\x20\x7f,;=()\[\]{}<>"'|`!?&^:]"#;
    const NO_STOP: &str = r#"[^\x01-\x20\x7f,;=()\[\]{}<>"'|`!?&^:.]"#;
    let mark = r"[-+./\\@#$%*~]";
    let (rest, marks, behind) = if closes {
        let behind = format!("{WORD}*{NO_STOP}");
        (format!("(?:{behind})?"), format!(r"(?:{mark}*[-+/\\@#$%*~])?"), behind)
    } else {
        (format!("{WORD}*"), format!("{mark}*"), format!("{WORD}*"))
    };
    let groups =
        format!(r"(?:::)?[0-9A-Fa-f]{{1,4}}(?:::?[0-9A-Fa-f]{{1,4}})*(?:::)?|\[[0-9A-Fa-f:.]+(?:%{W}+)?\]:[0-9]+");
    let placeholder = r"\{[*A-Z]+\}";
    let forms = [Kind::Time, Kind::Url, Kind::List].map(expression).join("|");
    // a slash by itself is no path
    let piece = format!(r"(?:{W}|[-./+~%@$#*!\\:])");
    let path = format!(
        r#"(?:[A-Za-z]:|{piece}*)[/\\]{piece}*{W}{piece}*(?: {piece}+)?(?:\?[^\x01-\x20\x7f"'<>(){{}},;]*)?|[A-Za-z]:[/\\]{piece}*"#
    );
    let plain = format!("{mark}*(?:{W}{rest}|{placeholder})");
    let formed = format!("{groups}|{forms}|{path}");
    // what has a form begins the value or stands behind a mark: the `7:9b` of `popup7:9b` is none
    format!(r"(?:{plain}|{formed})(?:{plain}|{mark}(?:{formed}))*{marks}(?::[0-9]+(?:{mark}{behind})?)*")
}

/// Length from which on placeholders get an expression that is small rather than exact, in bytes. PostgreSQL takes seconds for, and at last
/// refuses (2201B), expressions of hundreds of kilobytes; a pattern of 1,500 bytes may have hundreds of placeholders.
const MAX_EXACT: usize = 8192;

/// A small expression that matches at least what a placeholder stands for.
fn small_expression(kind: Kind) -> &'static str {
    match kind {
        Kind::Any | Kind::Time | Kind::Path | Kind::List | Kind::Text | Kind::Stack | Kind::Rest | Kind::Secret => ".*",
        _ => r"[^\x01-\x20]*",
    }
}

/// Whether text ends in the name of a secret and its separator.
fn names_secret(text: &str) -> bool {
    let name = text.trim_end_matches([' ', '"', '\'', ':', '=']);
    let separator = &text[name.len()..];
    let key = name.rsplit(|c: char| !(c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.'))).next().unwrap_or("");
    separator.contains(['=', ':']) && wanted(key.as_bytes()).is_some()
}

/// A code of a terminal, for colours and the like.
const CODE: &str = r"\x1b\[[0-9;?]*[A-Za-z]";

/// What a pattern is made of. Codes are looked for between its parts.
#[derive(Clone, Copy, PartialEq)]
enum Part {
    /// White space, beside which codes are looked for anyway.
    Gap,
    /// A byte of a word.
    Word,
    Mark,
    Value,
}

impl Part {
    fn of(first: u8, placeholder: bool) -> Part {
        match first {
            _ if placeholder => Part::Value,
            b' ' => Part::Gap,
            b if is_word(b) => Part::Word,
            _ => Part::Mark,
        }
    }
}

/// A POSIX (ARE) regular expression, anchored at both ends, that matches the raw lines of a pattern with PostgreSQL's `~`.
///
/// It allows for the prefixes that [`crate::log_pattern`] skips, for a JSON object around the message, and for the white space and
/// colour codes that it drops, these between words, marks and values, not inside of them. Beyond some forty placeholders it is wider than the pattern. Only
/// constructs that PostgreSQL's and other engines read alike are used.
pub fn pattern_regex(pattern: &str) -> String {
    let gap = format!(r"(?:{S}|{CODE})");
    let before = format!("{gap}*{}{gap}*", crate::prefix::PREFIX_EXPRESSION);
    let mut out = String::new();
    if pattern == crate::patterns::OTHER {
        return "^.*$".into();
    }
    let s = pattern.as_bytes();
    let mut i = 0;
    let mut last = Part::Gap;
    let tail = open_tail(pattern);
    while i < s.len() {
        let placeholder = Kind::at_start(&s[i..]);
        let part = Part::of(s[i], placeholder.is_some());
        if last != Part::Gap && part != Part::Gap && (last, part) != (Part::Word, Part::Word) {
            out.push_str(&format!("(?:{CODE})*"));
        }
        last = part;
        if let Some((kind, len)) = placeholder {
            let (before, after) = (i.checked_sub(1).map_or(0, |k| s[k]), s.get(i + len).copied().unwrap_or(0));
            let expression = |kind| match kind {
                Kind::Any => any_value(matches!(after, 0 | b' ' | b'.')),
                kind => expression(kind),
            };
            let (expected, valued) = (value_expected(s, i), value_place(&s[..i]));
            match (kind, before, after) {
                _ if out.len() > MAX_EXACT => out.push_str(small_expression(kind)),
                // an open place that took secrets in as well
                (Kind::Any, b'=' | b':' | b' ' | b'"' | b'\'', _) if names_secret(&pattern[..i]) => {
                    out.push_str(&expression(Kind::Secret));
                }
                (Kind::Any, b'"', b'"' | b'\\') => out.push_str(r#"[^"]*"#),
                (Kind::Any, b'\'', b'\'' | b'\\') => out.push_str("[^']*"),
                (Kind::Any, b'2', b'\\') if s[..i].ends_with(OCTAL_QUOTE) => out.push_str(r"(?:[^\\]|\\[^0])*"),
                (Kind::Any, b'(', b')') => out.push_str(r"[^()]*"),
                (Kind::Any, b'[', b']') => out.push_str(r"[^\[\]]*"),
                (Kind::Any, b'{', b'}') => out.push_str(r"(?:[^{}]|\{[*A-Z]+\})*"),
                (Kind::Any, ..) if s[i + len..].starts_with(b" HTTP/") => {
                    out.push_str(&format!("(?:{}|/)", expression(kind)));
                }
                // a path begins at a slash that no word byte is before
                (Kind::Any, _, b'/') if s.get(i + len + 1).is_some_and(|&b| is_word(b) || b == b'{') => {
                    out.push_str(&format!(r"(?:(?:{})?{W}|::[0-9A-Fa-f:]+|\{{[*A-Z]+\}})", expression(kind)));
                }
                (Kind::Any, ..) if expected || valued || tail == Some(i) => {
                    out.push_str("(?:");
                    out.push_str(&expression(kind));
                    if expected {
                        out.push_str(r"(?:\([^()\x01-\x20]*\)|\{[^{}\x01-\x20]*\})?");
                    }
                    if tail == Some(i) {
                        out.push_str(PHRASE);
                    }
                    if valued {
                        out.push('|');
                        out.push_str(MARKS);
                    }
                    // the value may be missing
                    let missing = before == b'=' || matches!(after, b',' | b';');
                    out.push_str(if missing { ")?" } else { ")" });
                }
                _ => out.push_str(&expression(kind)),
            }
            i += len;
        } else {
            let c = pattern[i..].chars().next().unwrap_or(' ');
            match c {
                // a line may be cut where no blank is
                ' ' if pattern[i + 1..].starts_with(Kind::Rest.placeholder()) => {}
                ' ' => {
                    out.push_str(&gap);
                    out.push('+');
                }
                '\\' | '^' | '$' | '.' | '|' | '?' | '*' | '+' | '(' | ')' | '[' | ']' | '{' | '}' => {
                    out.push('\\');
                    out.push(c);
                }
                '"' => out.push_str(r#"\\?""#),
                _ => out.push(c),
            }
            i += c.len_utf8();
        }
    }
    let behind = format!("{gap}*{}", crate::prefix::SUFFIX_EXPRESSION);
    if pattern.contains(' ') {
        return format!("^{before}{out}{behind}$");
    }
    // a message without blanks may stand in logfmt without quotes, and other keys behind it
    format!(r"^(?:{before}{out}{behind}|(?:.*[\x01-\x20])?m(?:sg|essage)={out}[\x01-\x20]+[A-Za-z_.]+=.*)$")
}
