//! What log systems put before the message: time, host, process, thread, level.

use crate::dates;
use crate::event::Level;
use crate::forms::{byte, digits, is_word};

/// The envelope of JSON or logfmt, which may stand before a prefix or behind it.
macro_rules! envelope {
    () => {
        r#"(?:\{.*"[@A-Za-z_]+"[\x01-\x20]*:[\x01-\x20]*"|(?:[A-Za-z_.]+=.* )?m(?:sg|essage)="?)?"#
    };
}

/// White space, or a colour.
macro_rules! gap {
    () => {
        r"(?:[\x01-\x20]|\x1b\[[0-9;]*m)"
    };
}

/// What [`prefix`] skips, as a regular expression; wider than it. PostgreSQL builds its automaton anew for each match, so that every state
/// that may be reached costs on every line: hence as few as possible.
pub(crate) const PREFIX_EXPRESSION: &str = concat!(
    // Compose, the priority, RFC 5424
    envelope!(),
    r"(?:[a-z][^\x01-\x20]*[0-9] +\| +)?",
    r"(?:<[0-9]+>(?:1 (?:[^\x01-\x20]+ +){5}(?:-|\[.*\]) +|(?:1 )?))?",
    // syslog, klog, redis, Android, ESP-IDF, mosquitto
    r"(?:(?:[A-Z][a-z][a-z] +[0-9]+ [0-9:. ]+ [^\x01-\x20]+ [^\x01-\x20]+:|[A-Z][0-9]+ [0-9:.]+ +[0-9]+ [^\x01-\x20]+\]|",
    r"[0-9]+:[A-Z] [0-9]+ [A-Z][a-z]+ [0-9]+ [0-9:.]+ [-#*.]|",
    r"[0-9][0-9]-[0-9][0-9] [0-9:.]+ +[0-9]+ +[0-9]+ [A-Z]|[A-Z] \([0-9]+\)|[12][0-9]{9}:) +|",
    // a date with time, then host and program, or a level with what stands before and behind it
    r"(?:[A-Z], )?\[?(?:[A-Z][a-z][a-z](?: +|-)|[-0-9/.T:_ ])*[0-9]:[0-9][0-9][^\x01-\x20]*(?: [-A-Za-z/_+]+\])?",
    gap!(),
    r"*(?:std[a-z]+ [FP] )?",
    r"(?:[^\x01-\x20]+ [^\x01-\x20]*(?:\]|kernel): +|",
    r"(?:(?:[^\x01-\x20]*[^A-Za-z\x01-\x20][^\x01-\x20]*|[A-Za-z]+ -|[A-Z]{3,4})",
    gap!(),
    r"+)*(?:[A-Za-z_:.]+",
    gap!(),
    r"+|[\[<]",
    gap!(),
    r"*[A-Za-z_:]+",
    gap!(),
    r"*[\]>]",
    gap!(),
    r"*)",
    r"(?:(?:[0-9]+ --- .* :|(?:(?:\[.*\]|\|) +)?(?:[^\x01-\x20]+ )?-|-- [^\x01-\x20]*:|[^\x01-\x20]+\]|\||[^\x01-\x20]+ +[^\x01-\x20]+:[0-9]+:[^\x01-\x20]+) +)?)?)?",
    // the kernel's own stamp
    r"(?:\[ *[0-9]+\.[0-9]+\] +)?",
    envelope!(),
);
/// What may stand behind the message.
pub(crate) const SUFFIX_EXPRESSION: &str = r#"(?:(?:\\n)?".*)?"#;

/// Fields that are read between the time and the level.
const MAX_FIELDS: usize = 8;
/// Longest field, in bytes.
const MAX_FIELD: usize = 200;

fn skip_blanks(s: &[u8], i: usize) -> usize {
    i + s[i.min(s.len())..].iter().take_while(|b| **b == b' ' || **b == b'\t').count()
}

/// End of the text without blanks at `i`, no further than a field may be long.
fn token_end(s: &[u8], i: usize) -> usize {
    i + s[i.min(s.len())..].iter().take(MAX_FIELD).take_while(|b| **b > b' ').count()
}

/// Where the message begins behind a field that ends at `e`: there must be a blank and a message.
fn message_at(s: &[u8], e: usize) -> Option<usize> {
    let after = skip_blanks(s, e);
    (after > e && after < s.len()).then_some(after)
}

/// A prefix that ends where the message begins, and the level that it names.
type Found = Option<(usize, Option<Level>)>;

/// Length of the prefix that a log system put before the message, and the level that it names; 0 when there is none.
///
/// * syslog (RFC 3164 `<34>Oct 11 22:14:15 host prog[1]: `, RFC 5424 `<34>1 time host app pid id - `, rsyslog's
///   `2024-01-15T10:30:00+00:00 host prog[1]: `), klog and glog (`I0102 15:04:05.678901 1 file.go:7] `), the kernel (`[12345.678901] `),
///   redis (`1:M 15 Jan 2024 10:30:00.123 * `), Android's logcat (`01-15 10:30:00.123 1234 5678 I `), ESP-IDF (`I (1234) `), mosquitto
///   (`1705314600: `);
/// * a full date with time, bracketed or not, as most frameworks write it, and what they put between it and the message when a level is
///   among it: `[pid] LEVEL: ` (PostgreSQL), `- name - LEVEL - ` (Python), `LEVEL [thread] - ` (Log4j), `LEVEL 1 --- [thread] name : `
///   (Spring Boot), `[LEVEL ]` (Elasticsearch), `[module:level] ` (Apache), `#1] LEVEL -- : ` (Ruby), `LEVEL name] ` (Rust),
///   `| LEVEL | name:function:1 - ` (Loguru), `: I file.cc:1] ` (TensorFlow), `[time zone] ` (PHP);
/// * a time of day alone is a prefix only in front of `[thread] LEVEL ` (Logback), `LEVEL ` and `<inf> ` (Zephyr), and a time that a pipeline
///   runs in front of `pid 0xthread LEVEL category file.c:1:function: ` (GStreamer);
/// * `name-1  | ` (Compose) and whatever stands behind it.
pub(crate) fn prefix(line: &str) -> (usize, Option<Level>) {
    let i = skip_blanks(line.as_bytes(), 0);
    let found = if byte(line.as_bytes(), i).is_ascii_lowercase() { compose(line, i) } else { system(line, i) };
    found.unwrap_or((0, None))
}

/// What one log system writes, from `i` on.
fn system(line: &str, i: usize) -> Found {
    let s = line.as_bytes();
    match byte(s, i) {
        b'<' => priority(line, i),
        b'[' | b'0'..=b'9' => stamped(line, i),
        b'A'..=b'Z' => match byte(s, i + 1) {
            b'0'..=b'9' => klog(s, i),
            b' ' => esp(s, i),
            b',' => ruby(line, i),
            _ => syslog(s, i).map(|e| (e, None)),
        },
        _ => None,
    }
}

/// `service-1  | `, as `docker compose logs` writes it, and the prefix of what follows, which is no such thing again.
fn compose(line: &str, i: usize) -> Found {
    let s = line.as_bytes();
    let name = s[i..].iter().take(MAX_FIELD).take_while(|&&b| is_word(b) || matches!(b, b'-' | b'.')).count();
    let e = i + name;
    let number = s[i..e].iter().rev().take_while(|b| b.is_ascii_digit()).count();
    if number == 0 || number == name || !matches!(s[e - number - 1], b'-' | b'_') {
        return None;
    }
    let bar = message_at(s, e).filter(|&at| s[at] == b'|')?;
    let at = message_at(s, bar + 1)?;
    system(line, at).or(Some((at, None)))
}

/// `<34>` in front of what syslog or the kernel writes; its severity is the level when the line names none.
fn priority(line: &str, i: usize) -> Found {
    let s = line.as_bytes();
    let n = digits(s, i + 1);
    if !(1..=3).contains(&n) || s.get(i + 1 + n) != Some(&b'>') {
        return None;
    }
    let number = line.get(i + 1..i + 1 + n)?.parse::<u64>().ok()?;
    let level = Level::of_syslog(number % 8);
    let e = i + n + 2;
    let structured = if s[e..].starts_with(b"1 ") { rfc5424(s, e + 2) } else { None };
    let (after, own) = match structured {
        Some(after) => (after, None),
        None if s[e..].starts_with(b"1 ") => stamped(line, e + 2)?,
        None if byte(s, e).is_ascii_uppercase() => (syslog(s, e)?, None),
        None => stamped(line, e)?,
    };
    Some((after, own.or(level)))
}

/// `time host app procid msgid - ` or with structured data in brackets in place of the last dash.
fn rfc5424(s: &[u8], i: usize) -> Option<usize> {
    let mut at = if byte(s, i) == b'-' { i + 1 } else { dates::date(s, i)? };
    for _ in 0..4 {
        at = message_at(s, at)?;
        at = token_end(s, at);
    }
    at = message_at(s, at)?;
    if byte(s, at) == b'-' {
        return message_at(s, at + 1);
    }
    while byte(s, at) == b'[' {
        at = bracketed(s, at)?;
    }
    message_at(s, at)
}

/// The end of the brackets that open at `i`, brackets inside included.
fn bracketed(s: &[u8], i: usize) -> Option<usize> {
    let (open, close) = match byte(s, i) {
        b'[' => (b'[', b']'),
        b'(' => (b'(', b')'),
        b'<' => (b'<', b'>'),
        _ => return None,
    };
    let mut depth = 0;
    for (k, &b) in s[i..].iter().take(MAX_FIELD).enumerate() {
        depth += usize::from(b == open);
        depth -= usize::from(b == close);
        if depth == 0 {
            return Some(i + k + 1);
        }
    }
    None
}

/// Prefixes that begin with a time, bracketed or not.
fn stamped(line: &str, i: usize) -> Found {
    let s = line.as_bytes();
    if byte(s, i) == b'[' {
        return uptime(s, i).map(|e| (e, None)).or_else(|| dated(line, i)).or_else(|| zephyr(line, i));
    }
    let n = digits(s, i);
    match byte(s, i + n) {
        b':' if n == 10 && matches!(s[i], b'1'..=b'3') => message_at(s, i + n + 1).map(|e| (e, None)),
        b':' => redis(s, i + n).or_else(|| logback(line, i)),
        b'-' if n == 2 => logcat(s, i),
        _ => dated(line, i),
    }
}

/// `[12345.678901] `, seconds since the kernel started.
fn uptime(s: &[u8], i: usize) -> Option<usize> {
    let d = i + 1 + s[i + 1..].iter().take_while(|b| **b == b' ').count();
    let n = digits(s, d);
    let e = d + n + 7;
    (n > 0 && byte(s, d + n) == b'.' && digits(s, d + n + 1) == 6 && byte(s, e) == b']')
        .then(|| message_at(s, e + 1))
        .flatten()
}

/// `:M 15 Jan 2024 10:30:00.123 * ` behind the process.
fn redis(s: &[u8], i: usize) -> Found {
    if !byte(s, i + 1).is_ascii_uppercase() || byte(s, i + 2) != b' ' {
        return None;
    }
    let month = i + 3 + digits(s, i + 3) + 1;
    let year = month + 4;
    if !byte(s, month).is_ascii_uppercase() || digits(s, year) != 4 || byte(s, year + 4) != b' ' {
        return None;
    }
    let e = message_at(s, dates::clock(s, year + 5)?)?;
    let level = match byte(s, e) {
        b'.' | b'-' => Level::Debug,
        b'*' => Level::Info,
        b'#' => Level::Warn,
        _ => return None,
    };
    Some((message_at(s, e + 1)?, Some(level)))
}

/// `01-15 10:30:00.123  1234  5678 I ` in front of `Tag: message`.
fn logcat(s: &[u8], i: usize) -> Found {
    if digits(s, i + 3) != 2 || byte(s, i + 5) != b' ' {
        return None;
    }
    let mut at = dates::clock(s, skip_blanks(s, i + 5))?;
    for _ in 0..2 {
        at = message_at(s, at)?;
        let n = digits(s, at);
        if n == 0 {
            return None;
        }
        at += n;
    }
    let at = message_at(s, at)?;
    Some((message_at(s, at + 1)?, Some(Level::of_letter(byte(s, at))?)))
}

/// `10:30:00.123 [main] DEBUG name - `, with or without the thread; or GStreamer's.
fn logback(line: &str, i: usize) -> Found {
    let s = line.as_bytes();
    let at = message_at(s, dates::clock(s, i)?)?;
    if byte(s, at).is_ascii_digit() {
        return gstreamer(line, at);
    }
    let at = if byte(s, at) == b'[' { message_at(s, bracketed(s, at)?)? } else { at };
    let (e, level) = level_field(line, at, true)?;
    Some((behind_level(s, e)?, Some(level)))
}

/// `1234 0x55818be0 WARN  v4l2 gstv4l2object.c:4000:probe:<src> ` behind the time since the start.
fn gstreamer(line: &str, i: usize) -> Found {
    let s = line.as_bytes();
    let thread = message_at(s, i + digits(s, i)).filter(|&at| s[at..].starts_with(b"0x"))?;
    let (e, level) = level_field(line, message_at(s, token_end(s, thread))?, true)?;
    let place = message_at(s, token_end(s, message_at(s, e)?))?;
    let end = token_end(s, place);
    let named = s[place..end].iter().filter(|b| **b == b':').count() >= 3 && matches!(s[end - 1], b':' | b'>');
    named.then(|| Some((message_at(s, end)?, Some(level)))).flatten()
}

/// `[00:00:01.123,000] <inf> `
fn zephyr(line: &str, i: usize) -> Found {
    let s = line.as_bytes();
    let mut e = dates::clock(s, i + 1)?;
    if byte(s, e) == b',' {
        e += 1 + digits(s, e + 1);
    }
    let at = if byte(s, e) == b']' { message_at(s, e + 1)? } else { return None };
    let close = bracketed(s, at).filter(|_| s[at] == b'<')?;
    let level = Level::parse(line.get(at + 1..close - 1)?)?;
    Some((message_at(s, close)?, Some(level)))
}

/// `F, [2024-01-15T10:30:00.123456 #1234] FATAL -- : `, as Ruby's Logger writes it.
fn ruby(line: &str, i: usize) -> Found {
    let s = line.as_bytes();
    if !s[i..].get(1..4)?.starts_with(b", [") {
        return None;
    }
    let at = skip_blanks(s, dates::date(s, i + 4)?);
    let at = at + usize::from(byte(s, at) == b'#');
    let close = at + digits(s, at);
    if byte(s, close) != b']' {
        return None;
    }
    let (e, level) = level_field(line, message_at(s, close + 1)?, true)?;
    let at = skip_blanks(s, e);
    let program = if s[at..].starts_with(b"-- ") { at + 3 } else { return None };
    let colon = token_end(s, program);
    (byte(s, colon.wrapping_sub(1)) == b':').then(|| Some((message_at(s, colon)?, Some(level)))).flatten()
}

/// `I0102 15:04:05.678901 1 file.go:7] `; glog writes the year as well.
fn klog(s: &[u8], i: usize) -> Found {
    let date = digits(s, i + 1);
    if date != 4 && date != 8 {
        return None;
    }
    let level = Level::of_letter(s[i])?;
    let clock = dates::clock(s, skip_blanks(s, i + 1 + date))?;
    let thread = skip_blanks(s, clock);
    let file = skip_blanks(s, thread + digits(s, thread));
    let end = file + s[file..].iter().take(MAX_FIELD).position(|b| *b == b']')?;
    if s[file..end].contains(&b' ') || !s[file..end].contains(&b':') {
        return None;
    }
    Some((message_at(s, end + 1)?, Some(level)))
}

/// `I (12345) wifi: …`
fn esp(s: &[u8], i: usize) -> Found {
    let n = if byte(s, i + 2) == b'(' { digits(s, i + 3) } else { 0 };
    if n == 0 || byte(s, i + 3 + n) != b')' {
        return None;
    }
    Some((message_at(s, i + 4 + n)?, Some(Level::of_letter(s[i])?)))
}

/// `Oct 11 22:14:15 host prog[123]: `
fn syslog(s: &[u8], i: usize) -> Option<usize> {
    if s.len() < i + 16 {
        return None;
    }
    let e = dates::named_date(s, i)?;
    if !s[i..e].contains(&b':') || s[i + 3] != b' ' {
        return None;
    }
    host_and_program(s, skip_blanks(s, e), false)
}

/// `host prog[123]: `, and the kernel's own stamp behind it. `sure`: the program must have a number, or be the kernel.
fn host_and_program(s: &[u8], host: usize, sure: bool) -> Option<usize> {
    let program = skip_blanks(s, token_end(s, host));
    let end = token_end(s, program);
    let name = &s[program..end];
    let numbered = |name: &[u8]| {
        let inside = name.strip_suffix(b"]:").and_then(|n| n.rsplit(|b| *b == b'[').next());
        inside.is_some_and(|n| !n.is_empty() && n.len() < name.len() - 3 && n.iter().all(u8::is_ascii_digit))
    };
    if !name.ends_with(b":") || sure && !numbered(name) && name != b"kernel:" {
        return None;
    }
    let after = message_at(s, end)?;
    Some(if byte(s, after) == b'[' { uptime(s, after).unwrap_or(after) } else { after })
}

/// A full date with time, bracketed or not, and what stands between it and the message.
fn dated(line: &str, i: usize) -> Found {
    let s = line.as_bytes();
    let open = usize::from(byte(s, i) == b'[');
    let d = i + open;
    let e = match byte(s, d) {
        b'0'..=b'9' => dates::date(s, d)?,
        b'A'..=b'Z' if open == 1 => dates::named_date(s, d)?,
        _ => return None,
    };
    if !s[d..e].contains(&b':') {
        return None;
    }
    if open == 1 && byte(s, e) != b']' {
        let inside = message_at(s, e)?;
        let Some((e, level)) = level_field(line, inside, true) else {
            // the name of a time zone, as PHP writes it
            let close = token_end(s, inside);
            let zone = s[inside..close].strip_suffix(b"]")?;
            let named = zone.iter().all(|&b| is_word(b) || matches!(b, b'/' | b'+' | b'-'));
            return (named && s[inside].is_ascii_alphabetic()).then(|| Some((message_at(s, close)?, None))).flatten();
        };
        // the level and the module in the same brackets
        let close = token_end(s, skip_blanks(s, e));
        return (byte(s, close - 1) == b']').then(|| Some((message_at(s, close)?, Some(level)))).flatten();
    }
    if byte(s, e) == b':' {
        return tensorflow(s, e + 1);
    }
    let mut e = zone_name(s, e + open);
    e += usize::from(byte(s, e) == b',');
    let mut at = skip_blanks(s, e);
    if byte(s, at) == b'|' {
        return loguru(line, at + 1).or(Some((at, None)));
    }
    for stream in [&b"stdout F "[..], b"stderr F ", b"stdout P ", b"stderr P "] {
        if s[at.min(s.len())..].starts_with(stream) {
            at += stream.len();
        }
    }
    if let Some(after) = host_and_program(s, at, true) {
        return Some((after, None));
    }
    match header(line, at) {
        Some((after, level)) => Some((after, Some(level))),
        None => (at < s.len()).then_some((at, None)),
    }
}

/// ` I file.cc:1] ` behind the time and its colon.
fn tensorflow(s: &[u8], i: usize) -> Found {
    let letter = message_at(s, i)?;
    let file = message_at(s, letter + 1)?;
    let end = token_end(s, file);
    let line = s[file..end].strip_suffix(b"]")?.rsplit(|b| *b == b':').next()?;
    let numbered = !line.is_empty() && line.len() < end - file - 1 && line.iter().all(u8::is_ascii_digit);
    let level = Level::of_letter(s[letter]).filter(|_| numbered)?;
    Some((message_at(s, end)?, Some(level)))
}

/// ` LEVEL    | name:function:1 - ` behind the time and its bar.
fn loguru(line: &str, i: usize) -> Found {
    let s = line.as_bytes();
    let (e, level) = level_field(line, message_at(s, i)?, true)?;
    let place = message_at(s, e).filter(|&at| s[at] == b'|').and_then(|at| message_at(s, at + 1))?;
    let end = token_end(s, place);
    let named = s[place..end].contains(&b':') && s[end..].starts_with(b" - ");
    Some((if named { message_at(s, end + 2)? } else { place }, Some(level)))
}

/// The end of the name of a time zone one blank behind `e`; `e` when there is none.
fn zone_name(s: &[u8], e: usize) -> usize {
    let n = if byte(s, e) == b' ' { s[e + 1..].iter().take_while(|b| b.is_ascii_uppercase()).count() } else { 0 };
    let end = e + 1 + n;
    if (3..=4).contains(&n) && matches!(s[end - 1], b'T' | b'C') && byte(s, end) == b' ' { end } else { e }
}

/// Fields between the time and the message when a level is among them: where the message begins, and the level.
fn header(line: &str, from: usize) -> Option<(usize, Level)> {
    let s = line.as_bytes();
    let mut i = from;
    for n in 0..MAX_FIELDS {
        if let Some((e, level)) = level_field(line, i, n > 0) {
            return Some((behind_level(s, e)?, level));
        }
        i = message_at(s, field(s, i)?)?;
    }
    None
}

/// The end of a field that is no level: a number, dashes, brackets, `user@database`, `a.dotted.name`, a name between dashes.
fn field(s: &[u8], i: usize) -> Option<usize> {
    if let Some(e) = bracketed(s, i) {
        return Some(e);
    }
    let e = token_end(s, i);
    let token = &s[i..e];
    let dashed = i >= 2 && &s[i - 2..i] == b"- " && s[e..].starts_with(b" - ");
    let numeric = token.iter().all(u8::is_ascii_digit);
    let dashes = token.iter().all(|b| *b == b'-');
    let name = token.iter().any(|b| matches!(b, b'.' | b'@'))
        && token.iter().all(|&b| is_word(b) || matches!(b, b'.' | b'@' | b'-' | b'$'));
    (!token.is_empty() && (dashed || numeric || dashes || name)).then_some(e)
}

/// A level at `i` and where it ends: `ERROR`, `[error]`, `[INFO ]`, `[core:error]`, `LOG:`, `channel.ERROR:`. `sure`: a bare word must be in capitals.
fn level_field(line: &str, i: usize, sure: bool) -> Option<(usize, Level)> {
    let s = line.as_bytes();
    let open = usize::from(byte(s, i) == b'[');
    let mut a = i + open;
    let mut e = a + s[a.min(s.len())..].iter().take(20).take_while(|b| is_word(**b)).count();
    if open == 1 && byte(s, e) == b':' {
        a = e + 1;
        e = a + s[a..].iter().take(20).take_while(|b| b.is_ascii_alphabetic()).count();
    }
    if open == 0 && byte(s, e) == b'.' {
        // Monolog's `channel.ERROR:`
        a = e + 1;
        e = a + s[a..].iter().take(20).take_while(|b| b.is_ascii_uppercase()).count();
        if byte(s, e) != b':' {
            return None;
        }
    }
    let word = line.get(a..e)?;
    let level = Level::parse(word)?;
    if open == 1 {
        e = skip_blanks(s, e);
        return (byte(s, e) == b']').then_some((e + 1, level));
    }
    let colon = byte(s, e) == b':';
    (colon || !sure || word.bytes().all(|b| b.is_ascii_uppercase())).then_some((e + usize::from(colon), level))
}

/// Where the message begins behind a level that ends at `e`: what else stands before a dash, or before the colon of Spring Boot, is
/// skipped as well.
fn behind_level(s: &[u8], e: usize) -> Option<usize> {
    let after = skip_blanks(s, e);
    if after >= s.len() || after == e && byte(s, e) != b'[' {
        return None;
    }
    let n = digits(s, after);
    if n > 0 && s[after + n..].starts_with(b" --- ") {
        let window = &s[after..s.len().min(after + MAX_FIELD)];
        return window.windows(3).position(|w| w == b" : ").and_then(|p| message_at(s, after + p + 2)).or(Some(after));
    }
    Some(dashed(s, after).unwrap_or(after))
}

/// `- `, `[thread] - `, `name - `, `[thread] name - `: where the message begins.
fn dashed(s: &[u8], i: usize) -> Option<usize> {
    let mut at = i;
    if byte(s, at) == b'[' {
        at = message_at(s, bracketed(s, at)?)?;
    }
    if byte(s, at) != b'-' {
        let name = token_end(s, at);
        if !s[at..name].iter().all(|&b| is_word(b) || matches!(b, b'.' | b'$'))
            || at == i && !s[at..name].contains(&b'.')
        {
            return None;
        }
        at = message_at(s, name)?;
    }
    (byte(s, at) == b'-').then(|| message_at(s, at + 1)).flatten()
}
