//! Real lines: the message inside JSON or logfmt, prefixes of log systems, levels, colour codes, stack traces.

use std::borrow::Cow;

use serde_json::{Map, Value};

use crate::dates;
use crate::forms::{digits, is_word};
use crate::shape::{Segment, shape, shape_spans};

/// Severity as it is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Level {
    /// TRACE, VERBOSE, FINEST
    Trace,
    /// DEBUG
    Debug,
    /// INFO, NOTICE, LOG
    Info,
    /// WARN, WARNING
    Warn,
    /// ERROR, ERR, SEVERE
    Error,
    /// FATAL, CRITICAL, PANIC, ALERT, EMERG
    Fatal,
}

impl Level {
    /// `TRACE`, `DEBUG`, `INFO`, `WARN`, `ERROR` or `FATAL`.
    pub fn name(self) -> &'static str {
        match self {
            Level::Trace => "TRACE",
            Level::Debug => "DEBUG",
            Level::Info => "INFO",
            Level::Warn => "WARN",
            Level::Error => "ERROR",
            Level::Fatal => "FATAL",
        }
    }

    /// The level that a word names, in any case; `None` when it names none.
    pub fn parse(word: &str) -> Option<Level> {
        if word.len() > 11 {
            return None;
        }
        Some(match word.to_ascii_lowercase().as_str() {
            "trace" | "verbose" | "finest" | "finer" => Level::Trace,
            "debug" | "dbg" | "fine" => Level::Debug,
            "info" | "information" | "inf" | "notice" | "log" => Level::Info,
            "warn" | "warning" | "wrn" => Level::Warn,
            "error" | "err" | "severe" | "failure" => Level::Error,
            "fatal" | "critical" | "crit" | "panic" | "alert" | "emerg" | "emergency" => Level::Fatal,
            _ => return None,
        })
    }
}

/// A raw line taken apart.
#[derive(Clone, Debug, PartialEq)]
pub struct Event<'a> {
    /// The text that is mined: without prefix, envelope and colour codes.
    pub message: Cow<'a, str>,
    /// The level, when the line names one.
    pub level: Option<Level>,
    /// Keys of a JSON or logfmt line other than the message and the level; empty for other lines.
    pub metadata: Map<String, Value>,
}

/// The pattern of a raw line by itself: [`shape`] of its message. What `pgedge.log_pattern` answers.
pub fn log_pattern(line: &str) -> String {
    let message = message_of(line);
    shape_of_message(&message)
}

/// The shape of a message; the frames of a stack trace become `{STACK}`.
pub fn shape_of_message(message: &str) -> String {
    match stack_head(message) {
        Some((head, "")) => shape(head) + " {STACK}",
        Some((head, tail)) => shape(head) + " {STACK} " + &shape(tail),
        None => shape(message),
    }
}

/// [`shape_of_message`] with its segments.
pub(crate) fn message_spans(message: &str) -> (String, Vec<Segment>) {
    let Some((head, tail)) = stack_head(message) else {
        return shape_spans(message);
    };
    let offset = |part: &str| part.as_ptr() as usize - message.as_ptr() as usize;
    let (head_at, mut end) = (offset(head), message.len());
    let (mut text, mut segments) = shape_spans(head);
    for s in &mut segments {
        s.raw = (s.raw.0 + head_at, s.raw.1 + head_at);
    }
    if !tail.is_empty() {
        end = offset(tail);
    }
    let from = text.len();
    text += " {STACK}";
    segments.push(Segment { out: (from, from + 1), raw: (head_at + head.len(), head_at + head.len() + 1) });
    segments.push(Segment { out: (from + 1, text.len()), raw: (head_at + head.len() + 1, end) });
    if !tail.is_empty() {
        let (more, of_tail) = shape_spans(tail);
        text.push(' ');
        segments.push(Segment { out: (text.len() - 1, text.len()), raw: (end, end) });
        let at = text.len();
        segments.extend(
            of_tail
                .into_iter()
                .map(|s| Segment { out: (s.out.0 + at, s.out.1 + at), raw: (s.raw.0 + end, s.raw.1 + end) }),
        );
        text += &more;
    }
    (text, segments)
}

/// The message of a raw line: [`parse`] without the rest.
pub fn message_of(line: &str) -> Cow<'_, str> {
    let first = line.bytes().find(|b| *b > b' ').unwrap_or(0);
    if first == b'{' || line.as_bytes().contains(&0x1b) || line.contains("msg=") || line.contains("message=") {
        return parse(line).message;
    }
    Cow::Borrowed(&line[prefix(line).0..])
}

/// Takes a raw line apart.
pub fn parse(line: &str) -> Event<'_> {
    let clean = strip_ansi(line);
    if let Some(event) = parse_json(&clean).or_else(|| parse_logfmt(&clean)) {
        return event;
    }
    let (skip, level) = prefix(&clean);
    let level = level.or_else(|| level_at_start(&clean[skip..]));
    let message = match clean {
        Cow::Borrowed(s) => Cow::Borrowed(&s[skip..]),
        Cow::Owned(s) => Cow::Owned(s[skip..].to_owned()),
    };
    Event { message, level, metadata: Map::new() }
}

/// `line` without ANSI escape sequences.
pub fn strip_ansi(line: &str) -> Cow<'_, str> {
    let s = line.as_bytes();
    if !s.contains(&0x1b) {
        return Cow::Borrowed(line);
    }
    let mut out = String::with_capacity(line.len());
    let mut i = 0;
    let mut from = 0;
    while i < s.len() {
        if s[i] == 0x1b && s.get(i + 1) == Some(&b'[') {
            let n = s[i + 2..].iter().take_while(|b| b.is_ascii_digit() || matches!(b, b';' | b'?')).count();
            if s.get(i + 2 + n).is_some_and(u8::is_ascii_alphabetic) {
                out.push_str(&line[from..i]);
                i += 3 + n;
                from = i;
                continue;
            }
        }
        i += 1;
    }
    out.push_str(&line[from..]);
    Cow::Owned(out)
}

const MESSAGE_KEYS: [&str; 6] = ["message", "msg", "log", "text", "event", "MESSAGE"];
const LEVEL_KEYS: [&str; 6] = ["level", "severity", "lvl", "loglevel", "log_level", "levelname"];

fn level_of(value: &Value) -> Option<Level> {
    match value {
        Value::String(s) => Level::parse(s),
        // bunyan and pino count in tens
        Value::Number(n) => match n.as_u64()? {
            10 => Some(Level::Trace),
            20 => Some(Level::Debug),
            30 => Some(Level::Info),
            40 => Some(Level::Warn),
            50 => Some(Level::Error),
            60 => Some(Level::Fatal),
            _ => None,
        },
        _ => None,
    }
}

fn parse_json<'a>(line: &str) -> Option<Event<'a>> {
    let text = line.trim();
    if !text.starts_with('{') || !text.ends_with('}') {
        return None;
    }
    let Ok(Value::Object(mut map)) = serde_json::from_str(text) else {
        return None;
    };
    let key = MESSAGE_KEYS.into_iter().find(|k| map.get(*k).is_some_and(Value::is_string))?;
    let Some(Value::String(message)) = map.remove(key) else {
        return None;
    };
    let mut level = None;
    for key in LEVEL_KEYS {
        if level.is_none()
            && let Some(found) = map.get(key).and_then(level_of)
        {
            level = Some(found);
            map.remove(key);
        }
    }
    // what docker's json-file driver wraps has a prefix of its own
    let inner = strip_ansi(message.trim_end());
    let (skip, own) = prefix(&inner);
    let message = inner[skip..].to_owned();
    let level = level.or(own).or_else(|| level_at_start(&message));
    Some(Event { message: Cow::Owned(message), level, metadata: map })
}

/// `key=value key="quoted value" …` with a message among the keys and nothing else on the line.
fn parse_logfmt<'a>(line: &str) -> Option<Event<'a>> {
    if !line.contains("msg=") && !line.contains("message=") {
        return None;
    }
    let mut metadata = Map::new();
    let (mut message, mut level) = (None, None);
    let mut rest = line.trim();
    while !rest.is_empty() {
        let eq = rest.find('=')?;
        let key = &rest[..eq];
        if key.is_empty() || !key.bytes().all(|b| is_word(b) || matches!(b, b'.' | b'-' | b'/')) {
            return None;
        }
        let after = &rest[eq + 1..];
        let (value, used) = if let Some(quoted) = after.strip_prefix('"') {
            let mut end = None;
            let mut escaped = false;
            for (i, c) in quoted.char_indices() {
                match c {
                    '"' if !escaped => {
                        end = Some(i);
                        break;
                    }
                    '\\' => escaped = !escaped,
                    _ => escaped = false,
                }
            }
            let end = end?;
            (quoted[..end].replace("\\\"", "\""), end + 2)
        } else {
            let end = after.find(' ').unwrap_or(after.len());
            (after[..end].to_owned(), end)
        };
        match key {
            "msg" | "message" if message.is_none() => message = Some(value),
            k if LEVEL_KEYS.contains(&k) && level.is_none() && Level::parse(&value).is_some() => {
                level = Level::parse(&value)
            }
            _ => {
                metadata.insert(key.to_owned(), Value::String(value));
            }
        }
        rest = after[used..].trim_start();
    }
    // a lone msg= is an ordinary line that happens to hold one
    (message.is_some() && (level.is_some() || !metadata.is_empty())).then(|| Event {
        message: Cow::Owned(message.unwrap_or_default()),
        level,
        metadata,
    })
}

/// The level that a message begins with: `ERROR: …`, `[warn] …`.
fn level_at_start(message: &str) -> Option<Level> {
    let text = message.trim_start().trim_start_matches(['[', '<', '(']);
    let end = text.bytes().position(|b| !b.is_ascii_alphabetic()).unwrap_or(text.len());
    let word = &text[..end];
    let marked = matches!(text.as_bytes().get(end), Some(b':' | b']' | b'>' | b')' | b'|'));
    let shouted = word.len() >= 4 && word.bytes().all(|b| b.is_ascii_uppercase());
    if marked || shouted { Level::parse(word) } else { None }
}

/// What [`prefix`] skips, as a regular expression.
pub(crate) const PREFIX_EXPRESSION: &str = r#"(?:\{.*"(?:message|msg|log|text|event|MESSAGE)"[\x01-\x20]*:[\x01-\x20]*"|.*(?:msg|message)="?)?(?:<[0-9]{1,3}>(?:1 )?)?(?:\[?(?:[0-9]{4}[-/][0-9]{1,2}[-/][0-9]{1,2}[T _:-]+[0-9:.,]+(?:Z| ?[-+][0-9]{2}:?[0-9]{2})?|[A-Z][a-z]{2} +[0-9]{1,2} [0-9:.]+ [^\x01-\x20]+ [^\x01-\x20:]+:|[IWEF][0-9]{4} [0-9:.]+ +[0-9]+ [^\x01-\x20]+:[0-9]+)\]?[\x01-\x20]*(?:(?:stdout|stderr) [FP] )?(?:\[?[A-Za-z]{3,11}\]?:?[\x01-\x20]+)?)?"#;
/// What may stand behind the message.
pub(crate) const SUFFIX_EXPRESSION: &str = r#"(?:(?:\\n)?".*)?"#;

fn skip_blanks(s: &[u8], i: usize) -> usize {
    i + s[i.min(s.len())..].iter().take_while(|b| **b == b' ' || **b == b'\t').count()
}

/// Length of the prefix that a log system put before the message, and the level that it names.
///
/// klog (`I0102 15:04:05.678901 1 file.go:7] `), syslog (`<34>Oct 11 22:14:15 host prog[1]: `), and a full date with time, as Docker, CRI,
/// nginx and most frameworks write it, with a level behind it. A time of day alone is not a prefix.
fn prefix(line: &str) -> (usize, Option<Level>) {
    let s = line.as_bytes();
    let start = skip_blanks(s, 0);
    let mut i = start;
    match s.get(i) {
        Some(b'I' | b'W' | b'E' | b'F') if digits(s, i + 1) == 4 => {
            return klog(s, i).unwrap_or((0, None));
        }
        Some(b'<') => {
            let n = digits(s, i + 1);
            if !(1..=3).contains(&n) || s.get(i + 1 + n) != Some(&b'>') {
                return (0, None);
            }
            i += n + 2;
            if s[i..].starts_with(b"1 ") {
                i += 2;
            }
        }
        Some(b'[' | b'0'..=b'9' | b'A'..=b'Z') => {}
        _ => return (0, None),
    }
    if let Some(e) = syslog(s, i) {
        return (e, None);
    }
    let bracket = usize::from(s.get(i) == Some(&b'['));
    let d = i + bracket;
    if digits(s, d) != 4 {
        return (0, None);
    }
    let Some(e) = dates::date(s, d).filter(|&e| s[d..e].contains(&b':')) else {
        return (0, None);
    };
    let mut e = e;
    if bracket == 1 {
        if s.get(e) != Some(&b']') {
            return (0, None);
        }
        e += 1;
    }
    let mut e = skip_blanks(s, e);
    for stream in [&b"stdout F "[..], b"stderr F ", b"stdout P ", b"stderr P "] {
        if s[e.min(s.len())..].starts_with(stream) {
            e += stream.len();
        }
    }
    let (after, level) = level_word(line, e);
    if after >= s.len() { (0, None) } else { (after, level) }
}

/// The level word at `i` and the message behind it.
fn level_word(line: &str, i: usize) -> (usize, Option<Level>) {
    let s = line.as_bytes();
    let open = usize::from(s.get(i) == Some(&b'['));
    let n = s[(i + open).min(s.len())..].iter().take_while(|b| b.is_ascii_alphabetic()).count();
    let mut e = i + open + n;
    let Some(level) = line.get(i + open..e).and_then(Level::parse) else {
        return (i, None);
    };
    if open == 1 {
        if s.get(e) != Some(&b']') {
            return (i, None);
        }
        e += 1;
    }
    e += usize::from(s.get(e) == Some(&b':'));
    let after = skip_blanks(s, e);
    if after == e || after >= s.len() { (i, None) } else { (after, Some(level)) }
}

fn klog(s: &[u8], i: usize) -> Option<(usize, Option<Level>)> {
    let clock = dates::clock(s, skip_blanks(s, i + 5))?;
    let thread = skip_blanks(s, clock);
    let file = skip_blanks(s, thread + digits(s, thread));
    let end = file + s[file..].iter().take(200).position(|b| *b == b']')?;
    if s[file..end].contains(&b' ') || !s[file..end].contains(&b':') {
        return None;
    }
    let level = match s[i] {
        b'I' => Level::Info,
        b'W' => Level::Warn,
        b'E' => Level::Error,
        _ => Level::Fatal,
    };
    let e = skip_blanks(s, end + 1);
    (e < s.len()).then_some((e, Some(level)))
}

/// `Oct 11 22:14:15 host prog[123]: `
fn syslog(s: &[u8], i: usize) -> Option<usize> {
    if !s.get(i)?.is_ascii_uppercase() || s.len() < i + 16 {
        return None;
    }
    let e = dates::named_date(s, i)?;
    if !s[i..e].contains(&b':') || s[i + 3] != b' ' {
        return None;
    }
    let host = skip_blanks(s, e);
    let word = |a: usize| a + s[a..].iter().take_while(|b| **b > b' ').count();
    let program = skip_blanks(s, word(host));
    let end = word(program);
    if end == program || s[end - 1] != b':' {
        return None;
    }
    let after = skip_blanks(s, end);
    (after < s.len()).then_some(after)
}

/// Whether a line of a message is a frame of a stack trace or something of the kind.
fn is_frame(line: &str) -> bool {
    let t = line.trim_start();
    let indented = t.len() < line.len();
    t.starts_with("at ") && (indented || t.contains('('))
        || t.starts_with("Caused by:")
        || t.starts_with("Suppressed:")
        || t.starts_with("... ") && t.ends_with(" more")
        || t.starts_with("File \"") && indented
        || t.starts_with("goroutine ") && t.ends_with(':')
        || indented && (t.starts_with("from ") || t.contains(".go:") || t.contains(".rs:"))
}

/// The line that says what happened before the frames of a stack trace, and for traces that say it at the end (Python) that line as well;
/// `None` when the message has no frames.
fn stack_head(message: &str) -> Option<(&str, &str)> {
    if !message.contains('\n') {
        return None;
    }
    let mut lines = message.lines().filter(|l| !l.trim().is_empty());
    let head = lines.next()?;
    let rest: Vec<&str> = lines.collect();
    if !rest.iter().any(|l| is_frame(l)) {
        return None;
    }
    let last = rest.last().copied().unwrap_or("");
    let python =
        rest.iter().any(|l| l.trim_start().starts_with("File \"")) && !last.starts_with([' ', '\t']) && !is_frame(last);
    Some((head, if python { last } else { "" }))
}
