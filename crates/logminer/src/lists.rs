//! Runs of like values: three or more become one `{LIST}`.

use crate::forms::is_word;
use crate::kind::Kind;
use crate::shape::{ListRun, Walk};

/// A bit for each kind.
const fn kinds<const N: usize>(kinds: [Kind; N]) -> u32 {
    let mut bits = 0;
    let mut k = 0;
    while k < N {
        bits |= 1 << kinds[k] as u32;
        k += 1;
    }
    bits
}

/// What makes one list with numbers.
const ONE_OF_NUMBERS: u32 = kinds([Kind::Num, Kind::Hex, Kind::Id]);
/// What lists are made of.
const LISTABLE: u32 =
    kinds([Kind::Num, Kind::Name, Kind::Path, Kind::Ip, Kind::Size, Kind::Ver, Kind::Uuid, Kind::Mac]);

impl<const SPANS: bool> Walk<'_, SPANS> {
    /// Replaces raw text `a..b` by a placeholder; three or more like values in a row become one `{LIST}`.
    pub(crate) fn emit(&mut self, kind: Kind, a: usize, b: usize) {
        if kind == Kind::Path && self.path_goes_on(a) {
            self.out.truncate(self.list.start);
            if SPANS {
                self.segments.pop();
            }
            self.emit_text(Kind::Path, self.list.raw_start, b);
            self.list.end = self.out.len();
            return;
        }
        self.flush(a);
        let class = if ONE_OF_NUMBERS >> kind as u32 & 1 != 0 { Kind::Num } else { kind };
        let listable = LISTABLE >> class as u32 & 1 != 0;
        if listable
            && (self.list.kind == class || self.list.kind == Kind::List)
            && let gap @ (b" " | b"," | b", ") = self.out.get(self.list.end..).unwrap_or(b"#")
        {
            self.list.count += 1;
            // `0,1`: numbers that nothing but a comma joins are one value, however many there are
            if self.list.count >= 3 || class == Kind::Num && gap == b"," {
                self.make_list(b);
                return;
            }
        } else {
            self.list =
                ListRun { kind: class, start: self.out.len(), end: 0, raw_start: a, count: usize::from(listable) };
        }
        self.emit_text(kind, a, b);
        self.list.end = if listable { self.out.len() } else { usize::MAX };
    }

    /// A relative path one blank behind another path goes on with it: a directory's name holds a blank.
    fn path_goes_on(&self, a: usize) -> bool {
        self.list.kind == Kind::Path
            && self.list.count == 1
            && self.list.end == self.out.len()
            && self.pending + 1 == a
            && self.s[self.pending] == b' '
            && is_word(self.s[a])
            && self.s.get(a + 1) != Some(&b':')
    }

    /// Replaces everything since the start of the run by `{LIST}`, which then ends at raw byte `b`.
    fn make_list(&mut self, b: usize) {
        let start = self.list.start;
        self.out.truncate(start);
        if SPANS {
            while self.segments.last().is_some_and(|s| s.out.0 >= start) {
                self.segments.pop();
            }
            if let Some(last) = self.segments.last_mut().filter(|s| s.out.1 > start) {
                last.raw.1 -= last.out.1 - start;
                last.out.1 = start;
            }
        }
        self.emit_list(self.list.raw_start, b);
    }

    /// Writes `{LIST}`; a list right behind another one goes on with it.
    fn emit_list(&mut self, mut raw_start: usize, b: usize) {
        for gap in [&b"{LIST} "[..], b"{LIST},", b"{LIST}, "] {
            if self.out.ends_with(gap) {
                let start = self.out.len() - gap.len();
                self.out.truncate(start);
                if SPANS {
                    while let Some(last) = self.segments.last().filter(|s| s.out.0 >= start) {
                        raw_start = last.raw.0;
                        self.segments.pop();
                    }
                }
                break;
            }
        }
        let start = self.out.len();
        self.emit_text(Kind::List, raw_start, b);
        self.list = ListRun { kind: Kind::List, start, end: self.out.len(), raw_start, count: 3 };
    }

    /// When the word `a..b` repeats the word before it up to its digits (`an14 an15`), both become a `{LIST}`.
    pub(crate) fn continues_list(&mut self, a: usize, b: usize) -> bool {
        let (w0, w1) = self.word;
        if a < w1 || !matches!(&self.s[w1..a], b" " | b"," | b", ") {
            return false;
        }
        let (last, this) = (&self.s[w0..w1], &self.s[a..b]);
        let numbered = |w: &[u8]| w.last().is_some_and(u8::is_ascii_digit);
        if !numbered(last) || !numbered(this) {
            return false;
        }
        let stem = |w: &[u8]| w.len() - w.iter().rev().take_while(|c| c.is_ascii_digit()).count();
        if last[..stem(last)] != this[..stem(this)] {
            return false;
        }
        if self.list.kind == Kind::List && self.list.end == self.out.len() && self.pending == w1 {
            self.pending = b;
            if SPANS && let Some(last) = self.segments.last_mut() {
                last.raw.1 = b;
            }
            return true;
        }
        if self.pending > w0 {
            return false;
        }
        self.flush(w0);
        self.emit_list(w0, b);
        true
    }
}
