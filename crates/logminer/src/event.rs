//! Real lines: the message inside JSON or logfmt, prefixes of log systems, levels, colour codes, stack traces.

use std::borrow::Cow;

use serde_json::{Map, Value};

use crate::forms::is_word;
use crate::prefix::prefix;
use crate::secrets::{Hidden, hidden};
use crate::shape::{Segment, readable, shape, shape_spans};

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
            "info" | "information" | "inf" | "notice" | "note" | "log" => Level::Info,
            "warn" | "warning" | "wrn" => Level::Warn,
            "error" | "err" | "severe" | "failure" => Level::Error,
            "fatal" | "critical" | "crit" | "panic" | "alert" | "emerg" | "emergency" => Level::Fatal,
            _ => return None,
        })
    }

    /// The level of a severity of syslog, 0 to 7.
    pub(crate) fn of_syslog(severity: u64) -> Option<Level> {
        Some(match severity {
            0..=2 => Level::Fatal,
            3 => Level::Error,
            4 => Level::Warn,
            5 | 6 => Level::Info,
            7 => Level::Debug,
            _ => return None,
        })
    }

    /// The level that a letter stands for in klog, logcat and their like.
    pub(crate) fn of_letter(letter: u8) -> Option<Level> {
        Some(match letter {
            b'V' | b'T' => Level::Trace,
            b'D' => Level::Debug,
            b'I' | b'N' => Level::Info,
            b'W' => Level::Warn,
            b'E' => Level::Error,
            b'F' | b'C' => Level::Fatal,
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

/// [`shape_of_message`] with its segments and the text that these are of: the message, with its secrets hidden.
pub(crate) fn message_spans(message: &str) -> (String, Vec<Segment>, Hidden<'_>) {
    let Some((head, tail)) = stack_head(message) else {
        return shape_spans(message);
    };
    let (mut out, mut segments, mut text) = shape_spans(head);
    let offset = |part: &str| part.as_ptr() as usize - message.as_ptr() as usize;
    let end = if tail.is_empty() { message.len() } else { offset(tail) };
    let frames = message[offset(head) + head.len()..end].trim_start();
    let (from, at) = (out.len(), text.text.len());
    out += " {STACK}";
    text.join(hidden(readable(frames).0));
    segments.push(Segment { out: (from, from + 1), raw: (at, at) });
    segments.push(Segment { out: (from + 1, out.len()), raw: (at, text.text.len()) });
    if !tail.is_empty() {
        let (more, of_tail, tail) = shape_spans(tail);
        let (from, at) = (out.len() + 1, text.text.len());
        out.push(' ');
        segments.push(Segment { out: (from - 1, from), raw: (at, at) });
        segments.extend(
            of_tail
                .into_iter()
                .map(|s| Segment { out: (s.out.0 + from, s.out.1 + from), raw: (s.raw.0 + at, s.raw.1 + at) }),
        );
        out += &more;
        text.join(tail);
    }
    (out, segments, text)
}

/// The message of a raw line: [`parse`] without the rest.
pub fn message_of(line: &str) -> Cow<'_, str> {
    let first = line.bytes().find(|b| *b > b' ').unwrap_or(0);
    if first == b'{' || line.as_bytes().contains(&0x1b) || begins_with_key(line) {
        return parse(line).message;
    }
    let skip = prefix(line).0;
    let message = &line[skip..];
    if skip > 0 && is_enveloped(message) { parse(line).message } else { Cow::Borrowed(message) }
}

/// Whether a line may be JSON or logfmt.
fn is_enveloped(line: &str) -> bool {
    line.trim_start().starts_with('{') || begins_with_key(line)
}

/// Takes a raw line apart.
pub fn parse(line: &str) -> Event<'_> {
    let clean = strip_ansi(line);
    if let Some(event) = parse_json(&clean).or_else(|| parse_logfmt(&clean)) {
        return event;
    }
    let (skip, level) = prefix(&clean);
    if skip > 0
        && is_enveloped(&clean[skip..])
        && let Some(event) = parse_json(&clean[skip..]).or_else(|| parse_logfmt(&clean[skip..]))
    {
        return Event { level: event.level.or(level), ..event };
    }
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
        let Some(end) = (s[i] == 0x1b).then(|| escape_end(s, i + 1)).flatten() else {
            i += 1;
            continue;
        };
        out.push_str(&line[from..i]);
        i = end;
        from = i;
    }
    out.push_str(&line[from..]);
    Cow::Owned(out)
}

/// The end of the escape sequence of ECMA-48 that begins before `i`: control sequences (colours, moves of the cursor), and strings for
/// the terminal (titles, links), which BEL ends as well; `None` when it is cut off or none.
fn escape_end(s: &[u8], i: usize) -> Option<usize> {
    let end = |from: usize, skipped: fn(&u8) -> bool| from + s[from..].iter().take_while(|b| skipped(b)).count();
    match s.get(i)? {
        b'[' => {
            let last = end(i + 1, |b| matches!(b, 0x20..=0x3f));
            matches!(s.get(last)?, 0x40..=0x7e).then_some(last + 1)
        }
        b']' | b'P' | b'X' | b'^' | b'_' => {
            let last = end(i + 1, |b| !matches!(b, 0x07 | 0x1b));
            match s.get(last)? {
                0x07 => Some(last + 1),
                _ => (s.get(last + 1) == Some(&b'\\')).then_some(last + 2),
            }
        }
        // the choice of a character set, saving and restoring the cursor
        b'(' | b')' => s.get(i + 1).filter(|b| b.is_ascii_alphanumeric()).map(|_| i + 2),
        b'7' | b'8' | b'=' | b'>' | b'c' | b'M' => Some(i + 1),
        _ => None,
    }
}

/// Keys that hold the message: those of most libraries, of journald, GELF, OpenTelemetry, cloud services and Serilog.
const MESSAGE_KEYS: [&str; 11] =
    ["message", "msg", "log", "text", "event", "MESSAGE", "short_message", "body", "textPayload", "@message", "@m"];
/// Keys that hold the level. MongoDB has it as one letter in `s`.
const LEVEL_KEYS: [&str; 12] = [
    "level",
    "severity",
    "lvl",
    "loglevel",
    "log_level",
    "levelname",
    "log.level",
    "severity_text",
    "severityText",
    "@l",
    "PRIORITY",
    "s",
];

fn level_of(key: &str, value: &Value) -> Option<Level> {
    match value {
        Value::String(s) if key == "s" => Level::of_letter(*s.as_bytes().first()?).filter(|_| s.len() <= 2),
        Value::String(s) if key == "PRIORITY" => Level::of_syslog(s.parse().ok()?),
        Value::String(s) => Level::parse(s),
        // syslog counts from 0 to 7, bunyan and pino in tens
        Value::Number(n) => match n.as_u64()? {
            n @ 0..=7 => Level::of_syslog(n),
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
            && let Some(found) = map.get(key).and_then(|value| level_of(key, value))
        {
            level = Some(found);
            map.remove(key);
        }
    }
    // Elastic's schema nests it
    let level = level.or_else(|| level_of("level", map.get("log")?.get("level")?));
    // what docker's json-file driver wraps has a prefix of its own
    let inner = strip_ansi(message.trim_end());
    let (skip, own) = prefix(&inner);
    let message = inner[skip..].to_owned();
    let level = level.or(own).or_else(|| level_at_start(&message));
    Some(Event { message: Cow::Owned(message), level, metadata: map })
}

fn is_key_byte(b: u8) -> bool {
    is_word(b) || matches!(b, b'.' | b'-' | b'/')
}

/// Whether a line begins with `key=`, as lines of logfmt do: most others are told apart within their first word.
fn begins_with_key(line: &str) -> bool {
    let s = line.trim_start().as_bytes();
    let n = s.iter().take_while(|b| is_key_byte(**b)).count();
    n > 0 && s.get(n) == Some(&b'=')
}

/// `key=value key="quoted value" …` with a message among the keys and nothing else on the line; a bare message that ends in a colon
/// announces what follows and is none.
fn parse_logfmt<'a>(line: &str) -> Option<Event<'a>> {
    if !begins_with_key(line) || !line.contains("msg=") && !line.contains("message=") {
        return None;
    }
    let mut metadata = Map::new();
    let (mut message, mut level) = (None, None);
    let mut rest = line.trim();
    while !rest.is_empty() {
        let eq = rest.find('=')?;
        let key = &rest[..eq];
        if key.is_empty() || !key.bytes().all(is_key_byte) {
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
            // auditd's `msg=audit(1700000000.123:55): arch=…`: what the colon announces is the message
            if matches!(key, "msg" | "message") && after[..end].ends_with(':') && end < after.len() {
                return None;
            }
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

/// The level that a message begins with: `ERROR: …`, `[warn] …`, `[ WARN:0@1.2] …`, `E: …`, `PHP Warning: …`.
fn level_at_start(message: &str) -> Option<Level> {
    let text = message.trim_start();
    if let Some(php) = text.strip_prefix("PHP ") {
        let (kind, _) = php.split_once(':')?;
        return match kind {
            "Fatal error" => Some(Level::Fatal),
            "Parse error" | "Recoverable fatal error" => Some(Level::Error),
            "Deprecated" => Some(Level::Warn),
            _ => Level::parse(kind),
        };
    }
    let text = text.trim_start_matches(['[', '<', '(']).trim_start();
    let end = text.bytes().position(|b| !b.is_ascii_alphabetic()).unwrap_or(text.len());
    let word = &text[..end];
    let marked = matches!(text.as_bytes().get(end), Some(b':' | b']' | b'>' | b')' | b'|'));
    // apt, PulseAudio
    if matches!(word, "E" | "W") && text.as_bytes().get(end..end + 2) == Some(b": ") {
        let next = text.as_bytes().get(end + 2);
        return next
            .filter(|b| b.is_ascii_uppercase() || **b == b'[')
            .and_then(|_| Level::of_letter(word.as_bytes()[0]));
    }
    let shouted = word.len() >= 4 && word.bytes().all(|b| b.is_ascii_uppercase());
    if marked || shouted { Level::parse(word) } else { None }
}

/// Whether a line of a message, other than its first, is a frame of a stack trace or something of the kind.
fn is_frame(line: &str) -> bool {
    let t = line.trim_start();
    let indented = t.len() < line.len();
    t.starts_with("at ") && (indented || t.contains('('))
        || t.starts_with("Caused by:")
        || t.starts_with("Suppressed:")
        || t.starts_with("... ") && t.ends_with(" more")
        || t.starts_with("File \"") && indented
        || t.starts_with("goroutine ") && t.ends_with(':')
        || indented && t.starts_with("from ")
        || indented && [".go:", ".rs:", ".ex:", ".exs:", ".erl:"].iter().any(|name| t.contains(name))
        || is_numbered_frame(t)
        // what stands above the frames
        || matches!(t.trim_end(), "Traceback (most recent call last):" | "Stack trace:" | "stack backtrace:")
}

/// `#0 /srv/x.php(7): f()` and `#1 {main}` of PHP, `#0  0x00007f in main () at x.c:3` of gdb.
fn is_numbered_frame(line: &str) -> bool {
    let Some(rest) = line.strip_prefix('#') else {
        return false;
    };
    let name = rest.trim_start_matches(|c: char| c.is_ascii_digit());
    name.len() < rest.len() && name.starts_with(' ') && (name.contains('(') || name.trim() == "{main}")
}

/// What a message says before the frames of its stack trace, and for traces that say it at the end (Python) that line as well; `None` when
/// the message has no frames. Node, Rust and ASP.NET name the place on the first line and say what happened on the next ones.
fn stack_head(message: &str) -> Option<(&str, &str)> {
    if !message.contains('\n') {
        return None;
    }
    let mut lines = message.lines().filter(|l| !l.trim().is_empty());
    let first = lines.next()?;
    let rest: Vec<&str> = lines.collect();
    let frame = rest.iter().copied().find(|l| is_frame(l))?;
    let offset = |part: &str| part.as_ptr() as usize - message.as_ptr() as usize;
    let head = message[offset(first)..offset(frame)].trim_end();
    let last = rest.last().copied().unwrap_or("");
    let python =
        rest.iter().any(|l| l.trim_start().starts_with("File \"")) && !last.starts_with([' ', '\t']) && !is_frame(last);
    Some((head, if python { last } else { "" }))
}
