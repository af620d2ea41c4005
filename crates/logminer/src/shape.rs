//! The shape pass: one walk over a line, tokens recognised by form and replaced by typed placeholders.

use crate::forms::{self, CHUNK, COLON, DIGIT, DOT, MARK, PathRun, SLASH, SPACE, byte_class, digits, is_word};
use crate::kind::Kind;
use crate::phrases::OCTAL_QUOTE;
use crate::scan::{Piece, Scan, Unit};
use crate::secrets::{ADDRESS, HIDDEN, Hidden, hidden, hide, secrets};
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
    /// Whether every piece is looked at.
    #[cfg(test)]
    piecewise: bool,
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
    let found = secrets(read.as_bytes());
    if found.is_empty() {
        walk::<false>(read, more, out);
        return;
    }
    let hidden = hide(read, &found);
    walk::<false>(&hidden.text, more, out);
    if matches!(hidden.text, Cow::Owned(_)) {
        name_secrets(out);
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
#[inline(always)]
fn walk<const SPANS: bool>(text: &str, more: bool, out: &mut Vec<u8>) -> Vec<Segment> {
    walk_by::<SPANS>(Unit::detect(), text, more, out)
}

/// [`walk`] with what the processor has, or less.
#[inline(always)]
fn walk_by<const SPANS: bool>(unit: Unit, text: &str, more: bool, out: &mut Vec<u8>) -> Vec<Segment> {
    match unit {
        // SAFETY: the processor has what `unit` says.
        #[cfg(target_arch = "x86_64")]
        Unit::Avx512 => unsafe { walk_avx512::<SPANS>(text, more, out) },
        // SAFETY: the same.
        #[cfg(target_arch = "x86_64")]
        Unit::Avx2 => unsafe { walk_avx2::<SPANS>(text, more, out) },
        Unit::Base => walk_base::<SPANS>(text, more, out),
    }
}

/// [`walk_with`] for what every processor of the architecture has.
#[inline(never)]
fn walk_base<const SPANS: bool>(text: &str, more: bool, out: &mut Vec<u8>) -> Vec<Segment> {
    // SAFETY: every processor has the base.
    unsafe { walk_with::<SPANS>(Unit::Base, text, more, out) }
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
        #[cfg(test)]
        piecewise: false,
    };
    #[cfg(test)]
    tests::PIECEWISE.with(|piecewise| w.piecewise = piecewise.get());
    let reached = w.run();
    if more || !text[reached..].trim_ascii().is_empty() {
        w.rest(reached, text.len());
    }
    w.segments
}

/// Appends the first `len` bytes of `text`. All are written: cheaper than a copy of so many as there are.
#[inline(always)]
fn append<const N: usize>(out: &mut Vec<u8>, text: &[u8; N], len: usize) {
    out.reserve(N);
    // SAFETY: there is room for all, and as many bytes as the length grows by were written.
    unsafe {
        out.as_mut_ptr().add(out.len()).cast::<[u8; N]>().write_unaligned(*text);
        out.set_len(out.len() + len.min(N));
    }
}

/// Asks bytes what the masks do not show. That is rare, so it shall not stand in the way of the rest.
#[cold]
#[inline(never)]
fn by_bytes<T>(s: &[u8], ask: impl FnOnce(&[u8]) -> T) -> T {
    ask(s)
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
        let mut i = match self.s.first() {
            Some(&b) if byte_class(b) & SPACE != 0 => self.space(0),
            _ => 0,
        };
        'line: while i < n {
            let mut piece = self.next(i);
            if piece.start >= n {
                i = n;
                break;
            }
            loop {
                i = self.step(piece);
                if i > MAX_SHAPE / 7 && i < n && self.is_full(i) {
                    break 'line;
                }
                // what stands one blank behind `user` may be a name
                if self.word.1 != i || &self.s[self.word.0..i] != b"user" || i + 1 >= n || self.is_full(i + 1) {
                    break;
                }
                piece = self.scan.piece(self.s, i + 1);
                if self.s[i] != b' ' || piece.end == piece.start {
                    break;
                }
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

    /// What has to be looked at next from `i` on. Passes over what stays as it is, up to where a shape may be full, as that is asked behind each
    /// word.
    #[inline(always)]
    fn next(&mut self, i: usize) -> Piece {
        #[cfg(test)]
        if self.piecewise {
            return self.scan.piece(self.s, i);
        }
        let mut word = self.word;
        let piece = self.scan.next(self.s, i, &mut word);
        if piece.start > MAX_SHAPE / 7 && piece.start > i && self.is_full(piece.start) {
            return self.scan.piece(self.s, i);
        }
        self.word = word;
        piece
    }

    /// Reads a chunk or a delimiter. Answers where reading goes on.
    #[inline(always)]
    fn step(&mut self, Piece { start, end, bits, forms }: Piece) -> usize {
        if end == start {
            return if byte_class(self.s[start]) & SPACE != 0 { self.space(start) } else { self.delimiter(start) };
        }
        if forms { self.chunk(start, end, bits) } else { self.plain(start, end) }
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
    #[inline(always)]
    pub(crate) fn flush(&mut self, to: usize) {
        if self.pending < to {
            let from = self.out.len();
            let len = to - self.pending;
            match self.s[self.pending..].first_chunk::<32>() {
                Some(text) if len <= 32 => append(self.out, text, len),
                _ => self.out.extend_from_slice(&self.s[self.pending..to]),
            }
            if SPANS {
                self.segments.push(Segment { out: (from, self.out.len()), raw: (self.pending, to) });
            }
            self.pending = to;
        }
    }

    #[inline(always)]
    pub(crate) fn emit_text(&mut self, kind: Kind, a: usize, b: usize) {
        let from = self.out.len();
        let (text, len) = kind.padded();
        append(self.out, &text, len);
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
        } else if self.word.1 + 1 == a && self.word.1 - self.word.0 >= 2 && self.s[a] != b'-' && self.identity(a, b) {
            self.emit(Kind::Id, a, b);
        } else if self.is_hex(a, b) {
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
            b' ' if key == b"user" => self.names_user(b),
            _ => false,
        }
    }

    /// Whether the word behind `user`, which ends at `b`, is a name.
    #[inline(never)]
    fn names_user(&self, b: usize) -> bool {
        let before = &self.s[self.word_before.0..self.word_before.1];
        let ends = b == self.s.len() || {
            let tail = &self.s[b..];
            [&b" by "[..], b" from ", b" on ", b" port ", b" [", b" ("].iter().any(|t| tail.starts_with(t))
                || tail.iter().all(|c| byte_class(*c) & SPACE != 0)
        };
        ends && matches!(before, b"for" | b"of" | b"by" | b"to" | b"as" | b"invalid")
    }

    /// A chunk with digits, dots or marks, and its bits in the masks. Answers where reading goes on (a date may run past the chunk).
    #[inline(always)]
    fn chunk(&mut self, start: usize, end: usize, bits: Option<u64>) -> usize {
        let m = self.scan.masks();
        let (b, seen) = if let Some(bits) = bits {
            // nothing but digits, perhaps with a sign
            let others = bits & !m.digits;
            if others & !(m.dashes & bits & bits.wrapping_neg()) == 0 {
                let kind = if self.cued(start) { Kind::Id } else { Kind::Num };
                self.emit(kind, start, end);
                return end;
            }
            let closing = m.forms & !(m.digits | m.slashes) | m.dashes;
            let kept = bits & !closing;
            let b = end - (kept.leading_zeros().min(64) - bits.leading_zeros()) as usize;
            let b = b.max(start);
            if b > start && (m.forms | m.dashes) & bits & (u64::MAX >> (kept.leading_zeros() & 63)) == 0 {
                // a plain word with a dot, a colon or the like behind it
                let e = self.letters(start, b, false);
                return if e > b { e } else { end };
            }
            // most have no mark: that is seen at once
            (b, if m.forms & bits == m.digits & bits { CHUNK | DIGIT } else { m.classes(bits) })
        } else {
            self.long_chunk(start, end)
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
        // `[::]:80`
        if seen & COLON != 0
            && b == start
            && let Some(e) = forms::short_ipv6(self.s, start)
        {
            return self.ipv6(start, e);
        }
        let mut a = start;
        while a < b {
            let c = self.s[a];
            if c == b'\\' && self.s[a..].starts_with(OCTAL_QUOTE) {
                a += OCTAL_QUOTE.len();
            } else if is_word(c)
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
            } else if c == b':'
                && let Some(e) = forms::short_ipv6(self.s, a)
            {
                a = self.ipv6(a, e);
                if a > b {
                    return a;
                }
            } else {
                a += 1;
            }
        }
        end
    }

    /// Where a chunk that fills a window or more ends, without the marks that close it, and its classes.
    #[cold]
    #[inline(never)]
    fn long_chunk(&self, start: usize, end: usize) -> (usize, u8) {
        let closing = |b: &u8| matches!(b, b'.' | b':' | b'%' | b'*' | b'~' | b'-' | b'+' | b'#' | b'@' | b'$');
        let chunk = &self.s[start..end];
        let closed = chunk.iter().rev().take_while(|b| closing(b)).count();
        (end - closed, chunk.iter().fold(0, |seen, &b| seen | byte_class(b)))
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
            && let Some((kind, e)) = forms::path(s, a, b, &self.path_run(a, b))
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
                && self.may_be_hex_groups(a)
                && let Some((kind, e)) = forms::hex_groups(s, a)
            {
                if kind == Kind::Ip {
                    return self.ipv6(a, e);
                }
                self.emit(kind, a, e);
                return e;
            }
        }
        let run = self.joined_run(a + signed, b);
        // `2024-01-15T10:30` is no host with a port
        if c.is_ascii_digit()
            && self.may_be_date(a + signed)
            && let Some(e) = dates::date(s, a + signed)
        {
            self.emit(Kind::Time, a, e);
            return e;
        }
        if signed == 0
            && seen & (DOT | MARK) != 0
            && self.may_be_named(a, run, seen)
            && let Some((kind, e)) = forms::named(s, a, run, b, self.dots(a, run))
        {
            self.emit(kind, a, e);
            return e;
        }
        if c.is_ascii_digit() { self.number(a, signed, run, b, seen) } else { self.letters(a, run, seen & DIGIT != 0) }
    }

    /// An IPv6 address, with its brackets where its port stands behind them. Answers where it ends.
    fn ipv6(&mut self, a: usize, e: usize) -> usize {
        let zone = if forms::byte(self.s, e) == b'%' { forms::word_end(self.s, e + 1) } else { e };
        let (a, e) = forms::bracketed_ipv6(self.s, a, zone).filter(|&(a, _)| a >= self.pending).unwrap_or((a, zone));
        self.emit(Kind::Ip, a, e);
        e
    }

    /// Whether a colon and nothing else stands between a path and `a`: two numbers there are the line and column of a source file.
    fn behind_path(&self, a: usize) -> bool {
        self.list.kind == Kind::Path
            && self.list.end == self.out.len()
            && self.pending + 1 == a
            && self.s[self.pending] == b':'
    }

    /// A token that begins with a digit (at `a + signed`).
    #[inline(always)]
    fn number(&mut self, a: usize, signed: usize, run: usize, b: usize, seen: u8) -> usize {
        let s = self.s;
        let d = a + signed;
        // before times: `1:19.1.7-3` has an epoch
        if signed == 0
            && seen & (DOT | MARK) != 0
            && self.scan.bits(d, b).is_none_or(|bits| {
                let m = self.scan.masks();
                (m.dashes | m.other_marks()) & bits != 0
            })
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
            && self.scan.bits(d, run).is_none_or(|bits| at_least::<3>(self.scan.masks().dots & bits))
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
    #[inline(always)]
    fn letters(&mut self, a: usize, run: usize, digits: bool) -> usize {
        let s = self.s;
        let piece = self.scan.word_end(a).unwrap_or_else(|| forms::word_end(s, a));
        let hex = self.is_hex(a, piece);
        if digits && let Some(e) = self.numbered(a, piece, run, hex) {
            return e;
        }
        if hex {
            self.emit(Kind::Hex, a, piece);
            return piece;
        }
        if may_be_short_word(s[a], piece - a)
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

    /// [`Self::letters`] of a chunk with digits: an identifier, a version, or one of a row of numbered names.
    #[inline(always)]
    fn numbered(&mut self, a: usize, piece: usize, run: usize, hex: bool) -> Option<usize> {
        let s = self.s;
        if piece == run
            && let Some(e) = forms::port_name(s, a, run)
        {
            self.emit(Kind::Id, a, e);
            return Some(e);
        }
        if !(piece == run && hex) && self.is_identifier(a, run) {
            self.emit(Kind::Id, a, run);
            return Some(run);
        }
        if hex || !self.has_digits(a, piece) {
            return None;
        }
        if quantities::is_version(s, a, run) {
            self.emit(Kind::Ver, a, run);
            return Some(run);
        }
        if piece != run && self.is_identifier(a, piece) {
            self.emit(Kind::Id, a, piece);
            return Some(piece);
        }
        if self.continues_list(a, piece) {
            self.remember(a, piece);
            return Some(piece);
        }
        None
    }

    /// Whether [`forms::hex_groups`] may find something at `a`: what separates groups stands behind at most four digits.
    #[inline(always)]
    fn may_be_hex_groups(&self, a: usize) -> bool {
        self.scan.hexes_end(a).is_none_or(|e| {
            let sep = forms::byte(self.s, e);
            e - a <= 4 && (sep == b':' || sep == b'-' && e - a == 2)
        })
    }

    /// Whether [`dates::date`] may find something at the digit `d`: what separates its parts stands behind the first one.
    #[inline(always)]
    fn may_be_date(&self, d: usize) -> bool {
        self.scan.digits_end(d).is_none_or(|e| match forms::byte(self.s, e) {
            b'-' | b'/' => e - d <= 4,
            b'.' => e - d == 4,
            _ => false,
        })
    }

    /// The number of dots in the joined run `a..run`.
    #[inline]
    fn dots(&self, a: usize, run: usize) -> usize {
        match self.scan.bits(a, run) {
            Some(bits) => (self.scan.masks().dots & bits).count_ones() as usize,
            None => by_bytes(&self.s[a..run], |w| w.iter().filter(|&&c| c == b'.').count()),
        }
    }

    /// Whether [`forms::named`] may find something in the joined run `a..run`: two dots, or a mark behind it; never in numbers with dots.
    #[inline(always)]
    fn may_be_named(&self, a: usize, run: usize, seen: u8) -> bool {
        let next = forms::byte(self.s, run);
        if next == b'@' {
            return true;
        }
        let Some(bits) = self.scan.bits(a, run) else { return true };
        let m = self.scan.masks();
        let numeric = bits & !(m.digits | m.dots) == 0;
        let port = next == b':' && forms::byte(self.s, run + 1).is_ascii_digit();
        !numeric && (port || seen & DOT != 0 && at_least::<2>(m.dots & bits))
    }

    /// [`PathRun::find`] from the masks.
    #[inline(always)]
    fn path_run(&self, a: usize, b: usize) -> PathRun {
        let Some(bits) = self.scan.bits(a, b) else { return by_bytes(self.s, |s| PathRun::find(s, a, b)) };
        let m = self.scan.masks();
        let (slashes, colons) = (m.slashes & bits, m.colons & bits);
        // a chunk has no other bytes that no path has
        let ends = m.backslashes & bits | colons & !(slashes >> 1);
        PathRun { first: self.scan.lowest(slashes | colons), end: self.scan.lowest(ends).unwrap_or(b) }
    }

    /// [`forms::joined_run`] from the masks.
    #[inline(always)]
    fn joined_run(&self, a: usize, b: usize) -> usize {
        let Some(mut e) = self.scan.joined_end(a) else {
            return by_bytes(self.s, |s| forms::joined_run(s, a, b));
        };
        // the chunk ends in neither
        if e >= b {
            return b;
        }
        while e > a && matches!(self.s[e - 1], b'.' | b'-') {
            e -= 1;
        }
        e
    }

    /// [`quantities::is_identifier`] of the joined run `a..b`.
    #[inline]
    fn is_identifier(&self, a: usize, b: usize) -> bool {
        match self.scan.bits(a, b) {
            Some(bits) => quantities::is_identifier_of(&self.s[a..b], self.scan.masks(), bits),
            None => by_bytes(&self.s[a..b], quantities::is_identifier),
        }
    }

    /// Whether there are digits in the word `a..b`.
    #[inline]
    fn has_digits(&self, a: usize, b: usize) -> bool {
        match self.scan.bits(a, b) {
            Some(bits) => self.scan.masks().digits & bits != 0,
            None => by_bytes(&self.s[a..b], |w| w.iter().any(u8::is_ascii_digit)),
        }
    }

    /// [`quantities::is_hex`] of the word `a..b`.
    #[inline]
    fn is_hex(&self, a: usize, b: usize) -> bool {
        let Some(bits) = self.scan.bits(a, b) else { return by_bytes(&self.s[a..b], quantities::is_hex) };
        let m = self.scan.masks();
        let (digits, letters) = (m.digits & bits, m.hexes & bits);
        b - a >= 6 && digits | letters == bits && letters != 0 && (digits != 0 || b - a >= 8)
    }

    /// Whether the word before the number at `a` makes it an identifier.
    #[inline(always)]
    fn cued(&self, a: usize) -> bool {
        let (w0, w1) = self.word;
        let between = |b: &u8| matches!(b, b' ' | b'=' | b':' | b'#' | b'(' | b'[');
        w1 > w0 && (1..=3).contains(&a.wrapping_sub(w1)) && is_cue(&self.s[w0..w1]) && self.s[w1..a].iter().all(between)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::Cell;

    thread_local! {
        /// Whether walks of this thread look at every piece.
        pub(super) static PIECEWISE: Cell<bool> = const { Cell::new(false) };
    }

    /// What is joined to lines: words that are more than words, what stands before and behind them, and what is near to a form.
    const PARTS: [&str; 84] = [
        "the",
        "from",
        "of",
        "on",
        "Off",
        "true",
        "no",
        "null",
        "user",
        "for",
        "invalid",
        "root",
        "pid",
        "id",
        "deadbeef",
        "beefy",
        "abcdefab",
        "Mon",
        "Jan",
        "May",
        "12",
        "7",
        "10.0.0.1",
        "eth0",
        "an14",
        "an15",
        "a-b",
        "on-off",
        "x_y",
        "foo.bar",
        "v1.2",
        "é",
        "日本",
        HIDDEN,
        ADDRESS,
        "{ID}",
        "{",
        "}",
        "<",
        "<1 sec",
        "</x",
        "/etc/x",
        "C:\\x",
        "=",
        "=\"a b\"",
        "\"",
        ",",
        ";",
        "(",
        ")",
        "[",
        "]",
        ":",
        ".",
        "..",
        "-",
        "--",
        "_",
        "+",
        "%",
        "*",
        "**",
        "@",
        "#",
        "~",
        "$",
        " ",
        " ",
        " ",
        " ",
        " ",
        " ",
        "  ",
        "\t",
        " \t",
        "\u{7f}",
        "\u{1}",
        "a@b.org",
        "http://h/x?y",
        "550e8400-e29b-41d4-a716-446655440000",
        "00:11:22:33:44:55",
        "a.b.c",
        "wordwordwordwordwordwordwordword",
        "0x1f",
    ];

    #[test]
    fn what_is_passed_over_is_nothing_but_words() {
        let mut units = vec![Unit::Base, Unit::detect()];
        #[cfg(target_arch = "x86_64")]
        if Unit::detect() == Unit::Avx512 {
            units.push(Unit::Avx2);
        }
        let mut seed = 3u64;
        let mut below = |n: usize| {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (seed >> 33) as usize % n
        };
        let (mut expected, mut out) = (Vec::new(), Vec::new());
        for round in 0..30_000 {
            let parts = below(if round % 50 == 0 { 900 } else { 40 });
            let line: String = (0..parts).map(|_| PARTS[below(PARTS.len())]).collect();
            PIECEWISE.set(true);
            let segments = walk_by::<true>(Unit::Base, &line, false, &mut expected);
            PIECEWISE.set(false);
            for &unit in &units {
                assert_eq!(walk_by::<true>(unit, &line, false, &mut out), segments, "{unit:?}: {line:?}");
                assert_eq!(out.escape_ascii().to_string(), expected.escape_ascii().to_string(), "{unit:?}: {line:?}");
            }
        }
    }
}
