//! The shape pass: one walk over a line, tokens recognised by form and replaced by typed placeholders.

use crate::forms::{self, CHUNK, COLON, DIGIT, DOT, MARK, SLASH, SPACE, byte_class, digits, is_word};
use crate::kind::Kind;
use crate::scan::{Scan, Unit};
use crate::secrets::{ADDRESS, HIDDEN, Hidden, hidden};
use crate::words::{is_cue, is_identity_key, is_switch};
use crate::{dates, quantities};
use std::borrow::Cow;

/// Bytes of a line that are looked at; what lies behind becomes `{REST}`.
pub const MAX_SCANNED: usize = 16 * 1024;
/// Bytes of shape text after which the rest of a line becomes `{REST}`.
pub const MAX_SHAPE: usize = 1500;

/// Bytes of a word without a form of its own; a longer one is data and becomes `{*}`.
pub const MAX_WORD: usize = 128;

/// A piece of shape text and the bytes of the line that it stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Segment {
    pub out: (usize, usize),
    pub raw: (usize, usize),
}

/// The run of like values at the end of what is written.
pub(crate) struct ListRun {
    pub(crate) kind: Kind,
    pub(crate) start: usize,
    pub(crate) end: usize,
    pub(crate) raw_start: usize,
    pub(crate) count: usize,
}

/// The state of one walk. `SPANS` records segments as well (for parameters); without it nothing is recorded.
pub(crate) struct Walk<'a, const SPANS: bool> {
    pub(crate) s: &'a [u8],
    pub(crate) out: &'a mut Vec<u8>,
    /// Raw text from here on is literal and not yet written.
    pub(crate) pending: usize,
    /// The last word that stayed in the text.
    pub(crate) word: (usize, usize),
    /// The word before that.
    word_before: (usize, usize),
    pub(crate) list: ListRun,
    scan: Scan,
    pub(crate) segments: Vec<Segment>,
}

/// The shape of `line`: see the crate documentation. A pure function of its bytes.
pub fn shape(line: &str) -> String {
    let mut out = Vec::with_capacity(line.len() + 16);
    shape_into(line, &mut out);
    into_string(out)
}

/// [`shape`] into a buffer that is cleared first: no allocation once the buffer has grown, unless the line holds a secret.
pub fn shape_into(line: &str, out: &mut Vec<u8>) {
    let (read, more) = readable(line);
    match hidden(read).text {
        Cow::Borrowed(text) => drop(walk::<false>(text, more, out)),
        Cow::Owned(text) => {
            walk::<false>(&text, more, out);
            name_secrets(out);
        }
    }
}

/// The shape, its segments and the text that these are of: what is read of the line, with its secrets hidden.
pub(crate) fn shape_spans(line: &str) -> (String, Vec<Segment>, Hidden<'_>) {
    let (read, more) = readable(line);
    let hidden = hidden(read);
    let mut out = Vec::new();
    let segments = walk::<true>(&hidden.text, more, &mut out);
    if matches!(hidden.text, Cow::Owned(_)) {
        name_secrets(&mut out);
    }
    (into_string(out), segments, hidden)
}

/// Hidden secrets that are still text of a shape become placeholders, which are as long: no segment moves.
fn name_secrets(out: &mut [u8]) {
    let mut i = 0;
    while i < out.len() {
        if out[i] == HIDDEN.as_bytes()[0] {
            for (hidden, kind) in [(HIDDEN, Kind::Secret), (ADDRESS, Kind::Email)] {
                if out[i..].starts_with(hidden.as_bytes()) {
                    out[i..i + hidden.len()].copy_from_slice(kind.placeholder().as_bytes());
                }
            }
        }
        i += 1;
    }
}

/// What is looked at of a line, and whether there is more than white space behind it.
pub(crate) fn readable(line: &str) -> (&str, bool) {
    if line.len() <= MAX_SCANNED {
        return (line, false);
    }
    let mut cut = MAX_SCANNED;
    while !line.is_char_boundary(cut) {
        cut -= 1;
    }
    (&line[..cut], !line[cut..].trim_ascii().is_empty())
}

fn into_string(out: Vec<u8>) -> String {
    // Pieces are cut at ASCII bytes and at character boundaries only, so this never replaces anything.
    String::from_utf8(out).unwrap_or_else(|e| String::from_utf8_lossy(e.as_bytes()).into_owned())
}

/// Writes the shape of `text`; `more`: there is more of the line behind it.
fn walk<const SPANS: bool>(text: &str, more: bool, out: &mut Vec<u8>) -> Vec<Segment> {
    let unit = Unit::detect();
    match unit {
        // SAFETY: the processor has what `unit` says.
        #[cfg(target_arch = "x86_64")]
        Unit::Avx512 => unsafe { walk_avx512::<SPANS>(text, more, out) },
        // SAFETY: the same.
        #[cfg(target_arch = "x86_64")]
        Unit::Avx2 => unsafe { walk_avx2::<SPANS>(text, more, out) },
        // SAFETY: every processor has the base.
        Unit::Base => unsafe { walk_with::<SPANS>(unit, text, more, out) },
    }
}

/// [`walk_with`] compiled for AVX-512: what it inlines then needs no call for a window, and shifts bits in one instruction.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f,avx512bw,avx512vbmi,avx2,bmi1,bmi2,lzcnt,popcnt")]
fn walk_avx512<const SPANS: bool>(text: &str, more: bool, out: &mut Vec<u8>) -> Vec<Segment> {
    // SAFETY: who calls this has found the unit.
    unsafe { walk_with::<SPANS>(Unit::Avx512, text, more, out) }
}

/// The same for AVX2.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,bmi1,bmi2,lzcnt,popcnt")]
fn walk_avx2<const SPANS: bool>(text: &str, more: bool, out: &mut Vec<u8>) -> Vec<Segment> {
    // SAFETY: who calls this has found the unit.
    unsafe { walk_with::<SPANS>(Unit::Avx2, text, more, out) }
}

/// # Safety
/// The processor must have the unit.
#[inline(always)]
unsafe fn walk_with<const SPANS: bool>(unit: Unit, text: &str, more: bool, out: &mut Vec<u8>) -> Vec<Segment> {
    out.clear();
    let mut w = Walk::<SPANS> {
        s: text.as_bytes(),
        out,
        pending: 0,
        word: (0, 0),
        word_before: (0, 0),
        list: ListRun { kind: Kind::Any, start: 0, end: usize::MAX, raw_start: 0, count: 0 },
        // SAFETY: the caller says so.
        scan: unsafe { Scan::new(unit) },
        segments: Vec::new(),
    };
    let reached = w.run();
    if more || !text[reached..].trim_ascii().is_empty() {
        w.rest(reached, text.len());
    }
    w.segments
}

/// Whether so many bits are set.
#[inline(always)]
fn at_least<const N: usize>(bits: u64) -> bool {
    (1..N).fold(bits, |bits, _| bits & bits.wrapping_sub(1)) != 0
}

/// Lengths, as bits, of the words with a given first byte that [`Walk::short_word`] knows.
static SHORT_WORDS: [u8; 256] = {
    let mut t = [0; 256];
    let words: [&[u8]; 41] = [
        b"true", b"True", b"TRUE", b"false", b"False", b"FALSE", b"on", b"On", b"ON", b"off", b"Off", b"OFF", b"yes",
        b"Yes", b"YES", b"no", b"No", b"NO", b"null", b"NULL", b"nil", b"None", b"Jan", b"Feb", b"Mar", b"Apr", b"May",
        b"Jun", b"Jul", b"Aug", b"Sep", b"Oct", b"Nov", b"Dec", b"Mon", b"Tue", b"Wed", b"Thu", b"Fri", b"Sat", b"Sun",
    ];
    let mut i = 0;
    while i < words.len() {
        t[words[i][0] as usize] |= 1 << words[i].len();
        i += 1;
    }
    t
};

/// Whether a word of this length that begins with `first` may be a boolean, null or the name of a day or month: few are.
#[inline]
fn may_be_short_word(first: u8, len: usize) -> bool {
    len <= 5 && SHORT_WORDS[first as usize] >> len & 1 != 0
}

impl<const SPANS: bool> Walk<'_, SPANS> {
    #[inline(always)]
    fn run(&mut self) -> usize {
        let n = self.s.len();
        let mut i = 0;
        while i < n {
            let (end, forms) = self.scan.chunk(self.s, i);
            let mut stop = 0;
            if end > i {
                i = if forms { self.chunk(i, end) } else { self.plain(i, end) };
                stop = i;
                // one blank between words stays as it is
                if let Some(&[b' ', next]) = self.s.get(i..).and_then(<[u8]>::first_chunk)
                    && byte_class(next) & SPACE == 0
                {
                    i += 1;
                }
            } else if byte_class(self.s[i]) & SPACE != 0 {
                i = self.space(i);
            } else {
                i = self.delimiter(i);
            }
            if i > MAX_SHAPE / 7 && i < n && self.is_full(i) {
                // before the blank, had it been full there
                if stop > 0 && self.is_full(stop) {
                    i = stop;
                }
                break;
            }
        }
        let end = i;
        while i > self.pending && byte_class(self.s[i - 1]) & SPACE != 0 {
            i -= 1;
        }
        self.flush(i);
        self.pending = end;
        end
    }

    /// Whether what is written, and what is still pending up to `i`, is more than a shape may have.
    #[inline]
    fn is_full(&self, i: usize) -> bool {
        // no byte becomes more than a placeholder of seven
        i > MAX_SHAPE / 7 && self.out.len() + i.saturating_sub(self.pending) > MAX_SHAPE
    }

    fn rest(&mut self, from: usize, to: usize) {
        self.out.push(b' ');
        self.emit_text(Kind::Rest, from, to);
    }

    /// Writes the pending literal text up to `to`.
    #[inline]
    pub(crate) fn flush(&mut self, to: usize) {
        if self.pending < to {
            let from = self.out.len();
            let len = to - self.pending;
            match self.s[self.pending..].first_chunk::<32>() {
                // as for placeholders: so many at once and some taken back
                Some(text) if len <= 32 => {
                    self.out.extend_from_slice(text);
                    self.out.truncate(from + len);
                }
                _ => self.out.extend_from_slice(&self.s[self.pending..to]),
            }
            if SPANS {
                self.segments.push(Segment { out: (from, self.out.len()), raw: (self.pending, to) });
            }
            self.pending = to;
        }
    }

    pub(crate) fn emit_text(&mut self, kind: Kind, a: usize, b: usize) {
        let from = self.out.len();
        // eight bytes at once and some taken back: cheaper than a copy of so many as there are
        let (text, len) = kind.padded();
        self.out.extend_from_slice(&text);
        self.out.truncate(from + len);
        if SPANS {
            self.segments.push(Segment { out: (from, self.out.len()), raw: (a, b) });
        }
        self.pending = b;
    }

    /// A run of white space becomes one blank; none at either end.
    fn space(&mut self, i: usize) -> usize {
        let n = self.s.len();
        let mut j = i + 1;
        while j < n && byte_class(self.s[j]) & SPACE != 0 {
            j += 1;
        }
        if j == n || i == 0 || self.out.is_empty() && self.pending == i {
            self.flush(i);
            self.pending = j;
        } else if j > i + 1 || self.s[i] != b' ' {
            self.flush(i);
            let from = self.out.len();
            self.out.push(b' ');
            if SPANS {
                self.segments.push(Segment { out: (from, from + 1), raw: (i, j) });
            }
            self.pending = j;
        }
        j
    }

    fn delimiter(&mut self, i: usize) -> usize {
        let n = self.s.len();
        match self.s[i] {
            // Text that looks like a placeholder would be read as one: it is somebody's value.
            b'{' => {
                if let Some((_, len)) = Kind::at_start(&self.s[i..]) {
                    self.emit(Kind::Any, i, i + len);
                    return i + len;
                }
            }
            // The quoted value of a key.
            b'"' if i > 0 && self.s[i - 1] == b'=' => {
                let mut j = i + 1;
                while j < n && self.s[j] != b'"' {
                    j += 1 + usize::from(self.s[j] == b'\\' && j + 1 < n);
                }
                if j < n && j > i + 1 {
                    if &self.s[i + 1..j] != HIDDEN.as_bytes() {
                        self.emit(Kind::Text, i + 1, j);
                    }
                    return j + 1;
                }
            }
            // Less than a second: `<1 sec`.
            b'<' if i + 1 < n && self.s[i + 1].is_ascii_digit() => {
                if let Some(e) = quantities::below(self.s, i + 1) {
                    self.emit(Kind::Time, i, e);
                    return e;
                }
            }
            // A closing tag is not a path.
            b'<' if i + 1 < n && self.s[i + 1] == b'/' => return i + 2,
            _ => {}
        }
        i + 1
    }

    /// A chunk without digits, dots or marks.
    #[inline(always)]
    fn plain(&mut self, a: usize, b: usize) -> usize {
        let len = b - a;
        if len > MAX_WORD {
            self.emit(Kind::Any, a, b);
            return b;
        }
        if may_be_short_word(self.s[a], len)
            && let Some(end) = self.short_word(a, b)
        {
            return end;
        }
        if self.s[a] == ADDRESS.as_bytes()[0] && &self.s[a..b] == ADDRESS.as_bytes() {
            self.emit(Kind::Email, a, b);
        } else if self.word.1 + 1 == a && self.word.1 - self.word.0 >= 2 && self.identity(a, b) {
            self.emit(Kind::Id, a, b);
        } else if len >= 8 && self.s[a].is_ascii_hexdigit() && quantities::is_hex(&self.s[a..b]) {
            self.emit(Kind::Hex, a, b);
        }
        self.remember(a, b);
        b
    }

    #[inline]
    fn remember(&mut self, a: usize, b: usize) {
        self.word_before = self.word;
        self.word = (a, b);
    }

    /// Booleans, null and dates that begin with a name.
    fn short_word(&mut self, a: usize, b: usize) -> Option<usize> {
        let w = &self.s[a..b];
        match w {
            b"true" | b"false" | b"True" | b"False" | b"TRUE" | b"FALSE" => {
                self.emit(Kind::Bool, a, b);
                Some(b)
            }
            _ if is_switch(w) => self.switched(a, b).then(|| {
                self.emit(Kind::Bool, a, b);
                b
            }),
            b"null" | b"NULL" | b"nil" | b"None" => {
                let before = if a > 0 { self.s[a - 1] } else { 0 };
                let two = if a > 1 { self.s[a - 2] } else { 0 };
                let valued = matches!(before, b'=' | b':' | b'(' | b'|' | b'[' | b',')
                    || before == b' ' && matches!(two, b'=' | b':')
                    || before == b' '
                        && matches!(&self.s[self.word.0..self.word.1], b"is" | b"was" | b"for" | b"config" | b"to");
                valued.then(|| {
                    self.emit(Kind::Any, a, b);
                    b
                })
            }
            _ if w.len() == 3 && w[0].is_ascii_uppercase() => {
                let e = dates::named_date(self.s, a)?;
                self.emit(Kind::Time, a, e);
                Some(e)
            }
            _ => None,
        }
    }

    /// Whether `on`, `off`, `yes` or `no` is a value: something opens it and something closes it (quotes, brackets), or its neighbour is one as well.
    fn switched(&self, a: usize, b: usize) -> bool {
        let s = self.s;
        let opens = match s[..a].iter().rposition(|&c| c != b' ') {
            None => false,
            Some(i) => {
                matches!(s[i], b'=' | b'(' | b'[' | b':')
                    || i + 1 == a && s[i] == b'"'
                    || i + 1 < a
                        && is_switch(&s[i + 1 - s[..=i].iter().rev().take(4).take_while(|&&c| is_word(c)).count()..=i])
            }
        };
        opens
            && match s[b..].iter().position(|&c| c != b' ').map(|i| b + i) {
                None => true,
                Some(i) => {
                    matches!(s[i], b')' | b']' | b',' | b';' | b'|' | b'"')
                        || i > b && is_switch(&s[i..forms::word_end(s, i)])
                }
            }
    }

    /// Whether the word is the value of a key that names an identity (`user=root`), or stands where a user's name stands
    /// (`for user root by`).
    #[inline(always)]
    fn identity(&self, a: usize, b: usize) -> bool {
        let key = &self.s[self.word.0..self.word.1];
        match self.s[a - 1] {
            b'=' => is_identity_key(key),
            b' ' if key == b"user" => {
                let before = &self.s[self.word_before.0..self.word_before.1];
                let ends = b == self.s.len() || {
                    let tail = &self.s[b..];
                    [&b" by "[..], b" from ", b" on ", b" port ", b" [", b" ("].iter().any(|t| tail.starts_with(t))
                        || tail.iter().all(|c| byte_class(*c) & SPACE != 0)
                };
                ends && matches!(before, b"for" | b"of" | b"by" | b"to" | b"as" | b"invalid")
            }
            _ => false,
        }
    }

    /// A chunk with digits, dots or marks. Answers where reading goes on (a date may run past the chunk).
    #[inline(always)]
    fn chunk(&mut self, start: usize, end: usize) -> usize {
        let masks = self.scan.masks(start, end);
        if let Some(m) = masks {
            // nothing but digits, perhaps with a sign
            let signed = u32::from(self.s[start] == b'-');
            let n = (end - start) as u32 - signed;
            if (m.digits >> signed).trailing_ones() == n && n > 0 {
                let kind = if self.cued(start) { Kind::Id } else { Kind::Num };
                self.emit(kind, start, end);
                return end;
            }
        }
        let mut b = end;
        while b > start && matches!(self.s[b - 1], b'.' | b':' | b'%' | b'*' | b'~' | b'-' | b'+' | b'#' | b'@' | b'$')
        {
            b -= 1;
        }
        if let Some(m) = masks
            && b > start
            && (m.forms | m.dashes) & (u64::MAX >> (64 - (b - start))) == 0
        {
            // a plain word with a dot, a colon or the like behind it
            let e = self.letters(start, b, false);
            return if e > b { e } else { end };
        }
        let seen = match masks {
            Some(m) => m.classes(),
            None => self.s[start..end].iter().fold(0, |seen, &b| seen | byte_class(b)),
        };
        if seen & SLASH != 0
            && seen & COLON != 0
            && let Some((u, e)) = forms::url(self.s, start, b)
        {
            self.emit(Kind::Url, u, e);
            return e;
        }
        if seen == CHUNK | MARK && b == start && self.stands_for_number(start, end) {
            self.emit(Kind::Num, start, end);
            return end;
        }
        let mut a = start;
        while a < b {
            let c = self.s[a];
            if is_word(c)
                || matches!(c, b'/' | b'\\')
                || self.starts_signed(a, start)
                || c < b'/' && forms::dotted_path(self.s, a)
                || c == b'~' && forms::dotted_path(self.s, a)
            {
                let e = self.one(a, b, seen);
                if e > b {
                    return e;
                }
                a = e;
            } else {
                a += 1;
            }
        }
        end
    }

    /// Stars in a row of numbers: a value that did not fit its field.
    fn stands_for_number(&self, a: usize, b: usize) -> bool {
        let s = self.s;
        let stars = b - a >= 2 && s[a..b].iter().all(|&c| c == b'*');
        let numbers = matches!(self.list.kind, Kind::Num | Kind::List);
        let behind = numbers && self.list.end == self.out.len() && self.pending + 1 == a;
        stars && (behind || b + 1 < s.len() && s[b] == b' ' && s[b + 1].is_ascii_digit())
    }

    fn starts_signed(&self, a: usize, start: usize) -> bool {
        matches!(self.s[a], b'-' | b'+') && (a == start || !is_word(self.s[a - 1])) && digits(self.s, a + 1) > 0
    }

    /// Recognises what begins at `a`; the chunk ends at `b`. Answers the end of what was read, always past `a`.
    #[inline(always)]
    fn one(&mut self, a: usize, b: usize, seen: u8) -> usize {
        let s = self.s;
        if seen & SLASH != 0
            && let Some((kind, e)) = forms::path(s, a, b)
        {
            self.emit(kind, a, e);
            return e;
        }
        if b - a > MAX_WORD {
            self.emit(Kind::Any, a, b);
            return b;
        }
        let signed = usize::from(matches!(s[a], b'-' | b'+'));
        let c = s[a + signed];
        if !is_word(c) {
            return a + 1;
        }
        // hexadecimal groups and identifiers may begin with a letter or a digit
        if signed == 0 && c.is_ascii_hexdigit() {
            if s.get(a + 8) == Some(&b'-')
                && let Some(e) = forms::uuid(s, a)
            {
                self.emit(Kind::Uuid, a, e);
                return e;
            }
            if (seen & COLON != 0 || s.get(a + 2) == Some(&b'-'))
                && let Some((kind, e)) = forms::hex_groups(s, a)
            {
                self.emit(kind, a, e);
                return e;
            }
        }
        let run = self.joined_run(a + signed, b);
        // `2024-01-15T10:30` is no host with a port
        if c.is_ascii_digit()
            && let Some(e) = dates::date(s, a + signed)
        {
            self.emit(Kind::Time, a, e);
            return e;
        }
        if signed == 0
            && seen & (DOT | MARK) != 0
            && self.may_be_named(a, run, seen)
            && let Some((kind, e)) = forms::named(s, a, run, b, seen & DOT != 0)
        {
            self.emit(kind, a, e);
            return e;
        }
        if c.is_ascii_digit() { self.number(a, signed, run, b, seen) } else { self.letters(a, run, seen & DIGIT != 0) }
    }

    /// Whether a colon and nothing else stands between a path and `a`: two numbers there are the line and column of a source file.
    fn behind_path(&self, a: usize) -> bool {
        self.list.kind == Kind::Path
            && self.list.end == self.out.len()
            && self.pending + 1 == a
            && self.s[self.pending] == b':'
    }

    /// A token that begins with a digit (at `a + signed`).
    fn number(&mut self, a: usize, signed: usize, run: usize, b: usize, seen: u8) -> usize {
        let s = self.s;
        let d = a + signed;
        // before times: `1:19.1.7-3` has an epoch
        if signed == 0
            && seen & (DOT | MARK) != 0
            && let Some(e) = quantities::package_version(s, d, b)
        {
            self.emit(Kind::Ver, a, e);
            return e;
        }
        if seen & COLON != 0
            && let Some(e) = dates::clock(s, d).filter(|e| e - d > 5 || !self.behind_path(a))
        {
            self.emit(Kind::Time, a, e);
            return e;
        }
        if seen & DOT != 0
            && self.scan.masks(d, run).is_none_or(|m| at_least::<3>(m.dots))
            && let Some(e) = forms::ipv4(s, d)
        {
            self.emit(Kind::Ip, a, e);
            return e;
        }
        if let Some((kind, e)) = quantities::quantity(s, d, b) {
            let kind = if kind == Kind::Num && self.cued(a) { Kind::Id } else { kind };
            self.emit(kind, a, e);
            // what stays behind a duration is its unit
            return if kind == Kind::Time { forms::word_end(s, e) } else { e };
        }
        let e = forms::word_end(s, d).min(run.max(d + 1));
        self.emit(Kind::Id, a, e);
        e
    }

    /// A token of letters, digits, dots, dashes and underscores that begins with a letter. `digits`: its chunk holds some.
    fn letters(&mut self, a: usize, run: usize, digits: bool) -> usize {
        let s = self.s;
        let piece = self.scan.word_end(a).unwrap_or_else(|| forms::word_end(s, a));
        let word = &s[a..piece];
        if digits
            && piece == run
            && let Some(e) = forms::port_name(s, a, run)
        {
            self.emit(Kind::Id, a, e);
            return e;
        }
        if digits && self.is_identifier(a, run) && !(piece == run && quantities::is_hex(word)) {
            self.emit(Kind::Id, a, run);
            return run;
        }
        if digits && word.iter().any(u8::is_ascii_digit) {
            if quantities::is_hex(word) {
                self.emit(Kind::Hex, a, piece);
                return piece;
            }
            if quantities::is_version(s, a, run) {
                self.emit(Kind::Ver, a, run);
                return run;
            }
            if piece != run && self.is_identifier(a, piece) {
                self.emit(Kind::Id, a, piece);
                return piece;
            }
            if self.continues_list(a, piece) {
                self.remember(a, piece);
                return piece;
            }
        } else if quantities::is_hex(word) {
            self.emit(Kind::Hex, a, piece);
            return piece;
        } else if may_be_short_word(word[0], word.len())
            && let Some(e) = self.short_word(a, piece)
        {
            return e;
        }
        if piece == run
            && self.word.1 + 1 == a
            && a > 0
            && self.s[a - 1] == b'='
            && is_identity_key(&s[self.word.0..self.word.1])
        {
            self.emit(Kind::Id, a, piece);
        }
        self.remember(a, piece);
        piece
    }

    /// Whether [`forms::named`] may find something in the joined run `a..run`: two dots, or a mark behind it; never in numbers with dots.
    #[inline(always)]
    fn may_be_named(&self, a: usize, run: usize, seen: u8) -> bool {
        let next = forms::byte(self.s, run);
        if next == b'@' {
            return true;
        }
        let Some(m) = self.scan.masks(a, run) else { return true };
        let numeric = m.digits | m.dots == u64::MAX >> (64 - (run - a));
        !numeric && (next == b':' || seen & DOT != 0 && at_least::<2>(m.dots))
    }

    /// [`forms::joined_run`] from the masks.
    #[inline]
    fn joined_run(&self, a: usize, b: usize) -> usize {
        let Some(e) = self.scan.joined_end(a) else { return forms::joined_run(self.s, a, b) };
        let mut e = e.min(b);
        while e > a && matches!(self.s[e - 1], b'.' | b'-') {
            e -= 1;
        }
        e
    }

    /// [`quantities::is_identifier`] of the joined run `a..b`.
    #[inline]
    fn is_identifier(&self, a: usize, b: usize) -> bool {
        match self.scan.masks(a, b) {
            Some(masks) => quantities::is_identifier_of(&self.s[a..b], masks),
            None => quantities::is_identifier(&self.s[a..b]),
        }
    }

    /// Whether the word before the number at `a` makes it an identifier.
    fn cued(&self, a: usize) -> bool {
        let (w0, w1) = self.word;
        if w1 == w0 || a < w1 || a - w1 > 3 || a == w1 {
            return false;
        }
        self.s[w1..a].iter().all(|b| matches!(b, b' ' | b'=' | b':' | b'#' | b'(' | b'[')) && is_cue(&self.s[w0..w1])
    }
}
