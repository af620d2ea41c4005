//! Where chunks end: bit masks of byte classes, sixteen bytes at a time, so that the length of a word costs no mispredicted branch; and which
//! of them have to be looked at. Most are words without a form, which stay as they are: [`Scan::next`] passes over any number of them at once.
//!
//! SSE2 and NEON are part of every processor of their architecture; elsewhere the table of classes is asked byte by byte.

use crate::forms::{CHUNK, COLON, DIGIT, DOT, MARK, SLASH};
use crate::secrets::HIDDEN;
use std::sync::OnceLock;

#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
use crate::forms::byte_class;

/// Bytes that a window of masks stands for.
const WINDOW: usize = 64;

/// Masks of the classes of some bytes: bit `k` stands for byte `k`.
#[derive(Clone, Copy, Default)]
pub(crate) struct Masks<T> {
    /// Bytes of a chunk that may make it more than a plain word: digits, dots and marks.
    pub forms: T,
    /// Decimal digits.
    pub digits: T,
    pub dots: T,
    /// `/` and `\\`
    pub slashes: T,
    pub backslashes: T,
    pub colons: T,
    pub dashes: T,
    pub underscores: T,
    /// Bytes at which the walk always looks: control characters, `{`, `<`, and the first byte of what stands for secrets.
    pub looked: T,
    pub equals: T,
    pub blanks: T,
    /// Letters with which one of the few words may begin that are a value themselves, or announce one: by their first letter, or by more.
    pub shorts: T,
    /// Letters that are hexadecimal digits.
    pub hexes: T,
}

/// Classes of bytes, as bits, that two looks into tables of sixteen tell: by the low half of a byte and by the high one; a byte is of those
/// that both have.
struct Halves {
    low: [u8; 16],
    high: [u8; 16],
}

impl Halves {
    /// Of eight classes: which high halves they have, and with each of them which low ones.
    const fn new(classes: [(&[u8], &[u8]); 8]) -> Self {
        let mut halves = Self { low: [0; 16], high: [0; 16] };
        let mut class = 0;
        while class < 8 {
            let (high, low) = classes[class];
            let mut i = 0;
            while i < low.len() {
                halves.low[(low[i] & 15) as usize] |= 1 << class;
                i += 1;
            }
            i = 0;
            while i < high.len() {
                halves.high[high[i] as usize] |= 1 << class;
                i += 1;
            }
            class += 1;
        }
        halves
    }

    #[cfg(not(target_arch = "aarch64"))]
    const fn of(&self, b: u8) -> u8 {
        self.low[(b & 15) as usize] & self.high[(b >> 4) as usize]
    }
}

/// See [`Masks::looked`].
const LOOKED: u8 = 0x0f;
/// The first letters of [`Masks::shorts`].
const SHORT: u8 = 0xf0;

/// The bytes of both.
static BEGINNINGS: Halves = Halves::new([
    (&[0, 1], b"0123456789:;<=>?"),
    (&[7], b"{\x7f"),
    (&[3], b"<"),
    (&[15], &[HIDDEN.as_bytes()[0]]),
    (&[4], b"ADFJMNO"),
    (&[5], b"STWY"),
    (&[6], b"fno"),
    (&[7], b"tuy"),
]);

impl<T> Masks<T> {
    #[inline(always)]
    fn map<U>(self, of: impl Fn(T) -> U) -> Masks<U> {
        Masks {
            forms: of(self.forms),
            digits: of(self.digits),
            dots: of(self.dots),
            slashes: of(self.slashes),
            backslashes: of(self.backslashes),
            colons: of(self.colons),
            dashes: of(self.dashes),
            underscores: of(self.underscores),
            looked: of(self.looked),
            equals: of(self.equals),
            blanks: of(self.blanks),
            shorts: of(self.shorts),
            hexes: of(self.hexes),
        }
    }
}

impl Masks<u64> {
    /// The classes of some bytes together, as [`crate::forms::byte_class`] tells them.
    #[inline(always)]
    pub(crate) fn classes(&self, bits: u64) -> u8 {
        let has = |mask: u64, class: u8| if mask & bits != 0 { class } else { 0 };
        CHUNK
            | has(self.digits, DIGIT)
            | has(self.dots, DOT)
            | has(self.forms & !self.digits & !self.dots, MARK)
            | has(self.slashes, SLASH)
            | has(self.colons, COLON)
    }

    /// Marks that are neither slashes nor colons.
    #[inline(always)]
    pub(crate) fn other_marks(&self) -> u64 {
        self.forms & !(self.digits | self.dots | self.slashes | self.colons)
    }

    #[inline(always)]
    fn add(&mut self, piece: Masks<u16>, at: usize) {
        self.forms |= u64::from(piece.forms) << at;
        self.digits |= u64::from(piece.digits) << at;
        self.dots |= u64::from(piece.dots) << at;
        self.slashes |= u64::from(piece.slashes) << at;
        self.backslashes |= u64::from(piece.backslashes) << at;
        self.colons |= u64::from(piece.colons) << at;
        self.dashes |= u64::from(piece.dashes) << at;
        self.underscores |= u64::from(piece.underscores) << at;
        self.looked |= u64::from(piece.looked) << at;
        self.equals |= u64::from(piece.equals) << at;
        self.blanks |= u64::from(piece.blanks) << at;
        self.shorts |= u64::from(piece.shorts) << at;
        self.hexes |= u64::from(piece.hexes) << at;
    }
}

/// What the processor has for reading a window.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unit {
    /// What every processor of the architecture has.
    Base,
    /// AVX2 and BMI2.
    #[cfg(target_arch = "x86_64")]
    Avx2,
    /// AVX-512 with VBMI, and BMI2.
    #[cfg(target_arch = "x86_64")]
    Avx512,
}

impl Unit {
    /// The best that this processor has.
    #[inline]
    pub(crate) fn detect() -> Self {
        static BEST: OnceLock<Unit> = OnceLock::new();
        *BEST.get_or_init(Self::find)
    }

    #[cold]
    fn find() -> Self {
        #[cfg(target_arch = "x86_64")]
        if is_x86_feature_detected!("avx2")
            && is_x86_feature_detected!("bmi1")
            && is_x86_feature_detected!("bmi2")
            && is_x86_feature_detected!("lzcnt")
            && is_x86_feature_detected!("popcnt")
        {
            let wide = is_x86_feature_detected!("avx512f")
                && is_x86_feature_detected!("avx512bw")
                && is_x86_feature_detected!("avx512vbmi");
            return if wide { Self::Avx512 } else { Self::Avx2 };
        }
        Self::Base
    }
}

/// The masks of the part of a line that was asked for last.
pub(crate) struct Scan {
    /// Where it begins.
    at: usize,
    /// Bytes that end a chunk; those behind the line's end are among them.
    stops: u64,
    masks: Masks<u64>,
    /// What is not passed over, a bit for each: the last byte of a chunk that may be more than a plain word, a delimiter that is looked at,
    /// and where this part of the line ends.
    events: u64,
    /// Bytes of chunks but for dots and colons right behind a word that has no dash, as these are all that follows it.
    words: u64,
    /// What the processor has.
    unit: Unit,
}

/// A chunk, or a delimiter, which ends where it starts.
#[derive(Clone, Copy)]
pub(crate) struct Piece {
    pub start: usize,
    pub end: usize,
    /// The bits of a chunk in [`Scan::masks`]; `None` where it fills a window or more.
    pub bits: Option<u64>,
    /// Whether the chunk holds a digit, dot or mark.
    pub forms: bool,
}

impl Scan {
    /// # Safety
    /// The processor must have the unit.
    #[inline(always)]
    pub(crate) unsafe fn new(unit: Unit) -> Self {
        Self { at: usize::MAX, stops: 0, masks: Masks::default(), events: 0, words: 0, unit }
    }

    /// What has to be looked at next, from a chunk or a delimiter at `i` on. `word` becomes the last plain word that was passed over.
    #[inline(always)]
    pub(crate) fn next(&mut self, s: &[u8], mut i: usize, word: &mut (usize, usize)) -> Piece {
        let below = |bits: u64, end: usize| bits & !(u64::MAX << end);
        let behind_last = |bits: u64| (u64::BITS - bits.leading_zeros()) as usize;
        loop {
            let mut from = i.wrapping_sub(self.at);
            if from >= WINDOW || self.stops >> from == 0 {
                self.load(s, i);
                from = 0;
            }
            // from here on, bit `k` stands for byte `i + k`
            let (stops, words) = (self.stops >> from, self.words >> from);
            // there is one where this part ends
            let event = (self.events >> from).trailing_zeros() as usize;
            let mut pass = |start: usize| {
                let words = below(words, start);
                if words != 0 {
                    let end = behind_last(words);
                    *word = (i + behind_last(below(stops, end)), i + end);
                }
            };
            if stops >> event & 1 != 0 {
                let at = i + event;
                if at >= s.len() {
                    return Piece { start: s.len(), end: s.len(), bits: None, forms: false };
                }
                pass(event);
                return Piece { start: at, end: at, bits: None, forms: false };
            }
            let start = behind_last(below(stops, event));
            pass(start);
            if stops >> start != 0 {
                let bits = u64::MAX >> (WINDOW - 1 - (event - start)) << (from + start);
                let forms = self.masks.forms & bits != 0;
                return Piece { start: i + start, end: i + event + 1, bits: Some(bits), forms };
            }
            if start == 0 {
                return self.piece(s, i);
            }
            // this part shows only how the chunk begins
            i += start;
        }
    }

    /// The chunk that begins at `i`, or the delimiter there.
    #[inline(always)]
    pub(crate) fn piece(&mut self, s: &[u8], i: usize) -> Piece {
        let (end, forms) = self.chunk(s, i);
        Piece { start: i, end, bits: self.bits(i, end), forms }
    }

    /// Sets the masks of the window at `at`, and finds its events.
    #[inline(always)]
    fn set(&mut self, s: &[u8], at: usize, stops: u64, m: Masks<u64>) {
        let chunks = !stops;
        // a carry runs from any of some bytes to the end of their chunk
        let ends_of = |some: u64| chunks.wrapping_add(some & chunks) & stops;
        let closing = (m.dots | m.colons) & ((stops & !ends_of(m.dashes)) >> 1);
        let ends = stops | closing;
        let starts = chunks & (stops << 1 | 1);
        // words of two to five bytes
        let within_two = ends >> 2 | ends >> 3;
        let short = m.shorts & !(ends >> 1) & (within_two | within_two >> 2);
        // words of eight and more such letters
        let hex = m.hexes & m.hexes >> 1;
        let hex = hex & hex >> 2;
        let hex = hex & hex >> 4;
        let valued = m.equals << 1 | u64::from(at > 0 && s.get(at - 1) == Some(&b'='));
        let odd = m.forms & !closing | m.looked | valued | starts & (short | hex);
        // white space other than one blank
        let spaces = m.blanks & (m.blanks | m.looked) >> 1;
        // a chunk that is not all there, or the last byte, as what is behind it is not known
        let end = (u64::BITS - stops.leading_zeros()).min(u64::BITS - 1);
        let events = ends_of(odd) >> 1 | odd & stops | spaces | 1 << end;
        *self = Self { at, stops, masks: m, events, words: !ends, unit: self.unit };
    }

    /// The end of the chunk that begins at `i`, `i` itself when none does, and whether it holds a digit, dot or mark.
    #[inline(never)]
    pub(crate) fn chunk(&mut self, s: &[u8], i: usize) -> (usize, bool) {
        let mut from = i.wrapping_sub(self.at);
        if from >= WINDOW || self.stops >> from == 0 {
            self.load(s, i);
            from = 0;
            if self.stops == 0 {
                return self.long_chunk(s, i);
            }
        }
        let stops = self.stops >> from;
        // no form is a stop, so what is left of the stops behind the first one does not matter
        (i + stops.trailing_zeros() as usize, (self.masks.forms >> from) & (stops - 1) != 0)
    }

    /// [`Self::chunk`] for one that is longer than a window.
    #[cold]
    fn long_chunk(&mut self, s: &[u8], mut i: usize) -> (usize, bool) {
        let mut forms = self.masks.forms != 0;
        while self.stops == 0 {
            i += WINDOW;
            self.load(s, i);
            let n = self.stops.trailing_zeros();
            forms |= self.masks.forms & 1u64.checked_shl(n).unwrap_or(0).wrapping_sub(1) != 0;
        }
        (i + self.stops.trailing_zeros() as usize, forms)
    }

    /// The bits of the bytes `a..b` of a chunk in [`Self::masks`]; `None` where it fills a window or more.
    #[inline(always)]
    pub(crate) fn bits(&self, a: usize, b: usize) -> Option<u64> {
        let from = a.wrapping_sub(self.at);
        if from >= WINDOW || b <= a || b - self.at > WINDOW {
            return None;
        }
        Some(u64::MAX >> (WINDOW - (b - a)) << from)
    }

    /// Where the lowest of some bits of the window is in the line; `None` when there is none.
    #[inline(always)]
    pub(crate) fn lowest(&self, bits: u64) -> Option<usize> {
        (bits != 0).then(|| self.at + bits.trailing_zeros() as usize)
    }

    /// The masks of the window.
    #[inline(always)]
    pub(crate) fn masks(&self) -> &Masks<u64> {
        &self.masks
    }

    /// The end of the run of word bytes at `a`; `None` where the window does not show it.
    #[inline]
    pub(crate) fn word_end(&self, a: usize) -> Option<usize> {
        let m = &self.masks;
        self.run_end(a, self.stops | m.forms & !m.digits | m.dashes)
    }

    /// The end of the run of digits at `a`; `None` where the window does not show it.
    #[inline]
    pub(crate) fn digits_end(&self, a: usize) -> Option<usize> {
        self.run_end(a, !self.masks.digits)
    }

    /// The end of the run of hexadecimal digits at `a`; `None` where the window does not show it.
    #[inline]
    pub(crate) fn hexes_end(&self, a: usize) -> Option<usize> {
        self.run_end(a, !(self.masks.digits | self.masks.hexes))
    }

    /// The end of the run of word bytes, dots and dashes at `a`; `None` where the window does not show it.
    #[inline]
    pub(crate) fn joined_end(&self, a: usize) -> Option<usize> {
        let m = &self.masks;
        self.run_end(a, self.stops | m.forms & !m.digits & !m.dots)
    }

    #[inline(always)]
    fn run_end(&self, a: usize, ends: u64) -> Option<usize> {
        let from = a.wrapping_sub(self.at);
        (from < WINDOW && ends >> from != 0).then(|| a + (ends >> from).trailing_zeros() as usize)
    }

    #[inline(always)]
    fn load(&mut self, s: &[u8], at: usize) {
        match self.unit {
            // SAFETY: who made this says that the processor has it.
            #[cfg(target_arch = "x86_64")]
            Unit::Avx512 => unsafe { avx512::load(self, s, at) },
            // SAFETY: the same.
            #[cfg(target_arch = "x86_64")]
            Unit::Avx2 => unsafe { avx2::load(self, s, at) },
            Unit::Base => self.load_base(s, at),
        }
    }

    /// [`Self::load`] by a function for a whole window.
    #[inline(always)]
    fn load_by(&mut self, s: &[u8], at: usize, read: impl Fn(&[u8; WINDOW]) -> (u64, Masks<u64>)) {
        let rest = s.get(at..).unwrap_or_default();
        let mut padded = [b' '; WINDOW];
        // Where the line ends before the window does, blanks stand behind it. Most lines are longer than a window: its last bytes, moved
        // down, cost no copy of so many as there are.
        let (window, gone) = if let Some(window) = rest.first_chunk() {
            (window, 0)
        } else if let Some(last) = s.last_chunk() {
            (last, WINDOW - rest.len())
        } else {
            padded[..rest.len()].copy_from_slice(rest);
            (&padded, 0)
        };
        let (mut stops, mut masks) = read(window);
        if gone > 0 {
            let moved = |mask: u64| mask.checked_shr(gone as u32).unwrap_or(0);
            stops = !moved(!stops);
            masks = masks.map(moved);
            masks.blanks |= !moved(u64::MAX);
        }
        self.set(s, at, stops, masks);
    }

    fn load_base(&mut self, s: &[u8], at: usize) {
        self.load_by(s, at, |window| {
            let (mut plain, mut masks) = (0u64, Masks::<u64>::default());
            for (k, piece) in window.as_chunks::<16>().0.iter().enumerate() {
                #[cfg_attr(not(any(target_arch = "x86_64", target_arch = "aarch64")), allow(unused_unsafe))]
                // SAFETY: every x86-64 has SSE2, every AArch64 has NEON; nothing else is asked of the caller.
                let (p, m) = unsafe { masks_of(piece) };
                plain |= u64::from(p) << (16 * k);
                masks.add(m, 16 * k);
            }
            (!(plain | masks.forms), masks)
        });
    }
}

/// The masks of a whole window with AVX-512: the classes of 64 bytes by one look into a table of 128.
#[cfg(target_arch = "x86_64")]
mod avx512 {
    use super::{BEGINNINGS, LOOKED, Masks, SHORT, Scan, WINDOW};
    use crate::forms::{CHUNK, COLON, DIGIT, DOT, HARD, MARK, SLASH, SPACE, class};
    use crate::secrets::HIDDEN;
    use core::arch::x86_64::*;

    const STOP: u8 = SPACE | HARD;
    /// In place of a class that is told by another bit as well.
    const DASH: u8 = SPACE;
    const UNDERSCORE: u8 = CHUNK;

    /// The class of each ASCII byte. What ends a chunk has [`HARD`].
    static CLASSES: [u8; 128] = {
        let mut t = [0; 128];
        let mut i = 0;
        while i < 128 {
            let class = class(i as u8);
            t[i] = match i as u8 {
                b'-' => DASH,
                b'_' => UNDERSCORE,
                _ if class & STOP != 0 => HARD,
                _ => class & !CHUNK,
            };
            i += 1;
        }
        t
    };

    /// What [`BEGINNINGS`] tells of each ASCII byte, and two classes more.
    static OTHERS: [u8; 128] = {
        let mut t = [0; 128];
        let mut i = 0;
        while i < 128 {
            let (b, class) = (i as u8, BEGINNINGS.of(i as u8));
            t[i] = if class & LOOKED != 0 { OTHER_LOOKED } else { 0 }
                | if class & SHORT != 0 { OTHER_SHORT } else { 0 }
                | if b.is_ascii_hexdigit() && !b.is_ascii_digit() { OTHER_HEX } else { 0 }
                | if b == b' ' { OTHER_BLANK } else { 0 }
                | if b == b'=' { OTHER_EQUALS } else { 0 }
                | if b == b'\\' { OTHER_BACKSLASH } else { 0 };
            i += 1;
        }
        t
    };
    const OTHER_LOOKED: u8 = 1;
    const OTHER_SHORT: u8 = 2;
    const OTHER_HEX: u8 = 4;
    const OTHER_BLANK: u8 = 8;
    const OTHER_EQUALS: u8 = 16;
    const OTHER_BACKSLASH: u8 = 32;

    #[target_feature(enable = "avx512f,avx512bw,avx512vbmi,bmi1,bmi2,lzcnt")]
    pub(super) fn load(scan: &mut Scan, s: &[u8], at: usize) {
        let (stops, masks) = window(s.get(at..).unwrap_or_default());
        scan.set(s, at, stops, masks);
    }

    /// The bytes that end a chunk, and the masks of the others, of the first bytes of `s`; blanks stand behind it.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vbmi,bmi1,bmi2")]
    fn window(s: &[u8]) -> (u64, Masks<u64>) {
        let there = if s.len() < WINDOW { (1u64 << s.len()) - 1 } else { u64::MAX };
        // SAFETY: the bytes read are those of `s`, as a masked load touches no others.
        let b = unsafe { _mm512_mask_loadu_epi8(_mm512_set1_epi8(b' ' as i8), there, s.as_ptr().cast()) };
        let of = |table: &'static [u8; 128]| {
            // SAFETY: the table has 128 bytes.
            let (low, high) =
                unsafe { (_mm512_loadu_epi8(table.as_ptr().cast()), _mm512_loadu_epi8(table.as_ptr().add(64).cast())) };
            // all beyond ASCII is of no class
            _mm512_maskz_permutex2var_epi8(!_mm512_movepi8_mask(b), low, b, high)
        };
        let (classes, others) = (of(&CLASSES), of(&OTHERS));
        let mask = |class: u8| _mm512_test_epi8_mask(classes, _mm512_set1_epi8(class as i8));
        let other = |class: u8| _mm512_test_epi8_mask(others, _mm512_set1_epi8(class as i8));
        let hidden = _mm512_cmpeq_epi8_mask(b, _mm512_set1_epi8(HIDDEN.as_bytes()[0] as i8));
        let masks = Masks {
            forms: mask(DIGIT | DOT | MARK),
            digits: mask(DIGIT),
            dots: mask(DOT),
            slashes: mask(SLASH),
            backslashes: other(OTHER_BACKSLASH),
            colons: mask(COLON),
            dashes: mask(DASH),
            underscores: mask(UNDERSCORE),
            looked: other(OTHER_LOOKED) | hidden,
            equals: other(OTHER_EQUALS),
            blanks: other(OTHER_BLANK),
            shorts: other(OTHER_SHORT),
            hexes: other(OTHER_HEX),
        };
        (mask(HARD), masks)
    }
}

/// The masks of a whole window with AVX2.
#[cfg(target_arch = "x86_64")]
mod avx2 {
    use super::{Halves, Masks, Scan, WINDOW};
    use crate::secrets::HIDDEN;
    use core::arch::x86_64::*;

    /// Digits and hexadecimal letters are the highest bits, so that no comparison is needed.
    static FORMS: Halves = Halves::new([
        (&[2], b"/"),
        (&[5], b"\\"),
        (&[2], b"#$%*+"),
        (&[4], b"@"),
        (&[7], b"~"),
        (&[15], &[HIDDEN.as_bytes()[0]]),
        (&[4, 6], b"abcdef"),
        (&[3], b"0123456789"),
    ]);
    const SLASHES: u8 = 0b0000_0011;
    const BACKSLASHES: u8 = 0b0000_0010;
    const FIRST_HIDDEN: u8 = 0b0010_0000;
    /// Without digits, dots and colons.
    const MARKS: u8 = 0b0001_1111;

    static STOPS: Halves = Halves::new([
        (&[0, 1], b"0123456789:;<=>?"),
        (&[3], b"<"),
        (&[7], b"{\x7f"),
        (&[2], b" !\"&'(),"),
        (&[3], b";=>?"),
        (&[5], b"[]^"),
        (&[6], b"`"),
        (&[7], b"|}"),
    ]);
    const LOOKED_STOPS: u8 = 0b0000_0111;

    /// The first and the second letter of each short word have a class in common; few others have.
    static FIRST: Halves = Halves::new([
        (&[6], b"f"),
        (&[7], b"tu"),
        (&[6], b"o"),
        (&[6], b"n"),
        (&[7], b"y"),
        (&[4], b"ADFJMNO"),
        (&[5], b"STWY"),
        (&[], b""),
    ]);
    static SECOND: Halves = Halves::new([
        (&[6], b"a"),
        (&[7], b"rs"),
        (&[6], b"nf"),
        (&[6, 7], b"oiu"),
        (&[6], b"e"),
        (&[4, 5, 6, 7], b"aAeEcnNfFoOuUrRp"),
        (&[4, 5, 6, 7], b"aeEuRrh"),
        (&[], b""),
    ]);

    /// Bytes of half a window.
    const HALF: usize = WINDOW / 2;
    static BLANKS: [u8; HALF] = [b' '; HALF];

    /// A window, read as two halves from wherever the line has as many bytes: the second one ends where the window does, over bytes of the
    /// first one where that is less than a whole window, and the first one begins before the window where that is less than a half. So the
    /// end of a line costs no copy, and but two shifts of the masks that all windows need.
    struct Parts<'a> {
        halves: [&'a [u8; HALF]; 2],
        /// Bits of the first half that lie before the window.
        before: usize,
        /// Where the second half stands in the window.
        at: usize,
    }

    #[target_feature(enable = "avx2,bmi1,bmi2,lzcnt")]
    pub(super) fn load(scan: &mut Scan, s: &[u8], at: usize) {
        let rest = s.get(at..).unwrap_or_default();
        let mut padded = BLANKS;
        let parts = match s.last_chunk::<HALF>() {
            Some(_) if rest.len() > HALF => {
                let at = rest.len().min(WINDOW) - HALF;
                let half = |at: usize| rest[at..].first_chunk().unwrap_or(&BLANKS);
                Parts { halves: [half(0), half(at)], before: 0, at }
            }
            Some(last) => Parts { halves: [last, &BLANKS], before: HALF - rest.len(), at: HALF },
            None => {
                padded[..rest.len()].copy_from_slice(rest);
                Parts { halves: [&padded, &BLANKS], before: 0, at: HALF }
            }
        };
        let (stops, masks) = window(&parts, u64::MAX.checked_shl(rest.len().min(WINDOW) as u32).unwrap_or(0));
        scan.set(s, at, stops, masks);
    }

    /// The bytes that end a chunk, and the masks of the others. `behind`: bits behind the line's end.
    #[inline]
    #[target_feature(enable = "avx2,bmi1,bmi2")]
    fn window(parts: &Parts, behind: u64) -> (u64, Masks<u64>) {
        let (before, at) = (parts.before & 63, parts.at & 63);
        // SAFETY: as many bytes are there.
        let b = parts.halves.map(|half| unsafe { _mm256_loadu_si256(half.as_ptr().cast()) });
        let all = |c: u8| _mm256_set1_epi8(c as i8);
        // both halves of a mask one after the other: there are too few registers for all of one half
        let mask = |of: &dyn Fn(usize) -> __m256i| {
            let half = |k: usize| u64::from(_mm256_movemask_epi8(of(k)) as u32);
            half(0) >> before | half(1) << at
        };
        let is = |c: u8| mask(&|k| _mm256_cmpeq_epi8(b[k], all(c)));
        let low = b.map(|b| _mm256_and_si256(b, all(15)));
        let high = b.map(|b| _mm256_and_si256(_mm256_srli_epi16(b, 4), all(15)));
        // Each byte in the place of the one before it. Where the halves overlap, the last byte of the first half has a wrong one behind it
        // there, and the right one in the second half: at worst a word is looked at in vain.
        let next = |x: [__m256i; 2]| {
            let (middle, end) =
                (_mm256_permute2x128_si256(x[0], x[1], 0x21), _mm256_permute2x128_si256(x[1], x[1], 0x81));
            [_mm256_alignr_epi8(middle, x[0], 1), _mm256_alignr_epi8(end, x[1], 1)]
        };
        let classes = |halves: &'static Halves| {
            // SAFETY: sixteen bytes are there.
            let table =
                |t: &'static [u8; 16]| unsafe { _mm256_broadcastsi128_si256(_mm_loadu_si128(t.as_ptr().cast())) };
            let (of_low, of_high) = (table(&halves.low), table(&halves.high));
            let class =
                |k: usize| _mm256_and_si256(_mm256_shuffle_epi8(of_low, low[k]), _mm256_shuffle_epi8(of_high, high[k]));
            [class(0), class(1)]
        };
        // all classes but the highest bit
        let some = |x: [__m256i; 2], class: u8| {
            mask(&|k| _mm256_cmpgt_epi8(_mm256_and_si256(x[k], all(class)), _mm256_setzero_si256()))
        };
        let stops = classes(&STOPS);
        let forms = classes(&FORMS);
        let looked = mask(&|k| {
            let hidden = _mm256_and_si256(forms[k], all(FIRST_HIDDEN));
            let looked = _mm256_or_si256(_mm256_and_si256(stops[k], all(LOOKED_STOPS)), hidden);
            _mm256_cmpgt_epi8(looked, _mm256_setzero_si256())
        });
        let stops = !mask(&|k| _mm256_cmpeq_epi8(stops[k], _mm256_setzero_si256())) | behind;
        let (first, second) = (classes(&FIRST), next(classes(&SECOND)));
        let shorts = some([0, 1].map(|k| _mm256_and_si256(first[k], second[k])), u8::MAX >> 1);
        let (dots, colons, digits) = (is(b'.'), is(b':'), mask(&|k| forms[k]));
        let masks = Masks {
            forms: some(forms, MARKS) | digits | dots | colons,
            digits,
            dots,
            slashes: some(forms, SLASHES),
            backslashes: some(forms, BACKSLASHES),
            colons,
            dashes: is(b'-'),
            underscores: is(b'_'),
            looked,
            equals: is(b'='),
            blanks: is(b' ') | behind,
            shorts,
            hexes: mask(&|k| _mm256_add_epi8(forms[k], forms[k])),
        };
        (stops, masks)
    }
}

/// Which bytes are those of plain words (letters, `_`, `-` and all beyond ASCII), and the masks of the others of a chunk.
#[cfg(target_arch = "x86_64")]
#[inline]
#[target_feature(enable = "sse2")]
fn masks_of(bytes: &[u8; 16]) -> (u16, Masks<u16>) {
    use core::arch::x86_64::*;
    let word = |k: usize| i64::from_le_bytes(bytes[k..k + 8].try_into().expect("8 bytes"));
    let b = _mm_set_epi64x(word(8), word(0));
    let all = |c: u8| _mm_set1_epi8(c as i8);
    let is = |c: u8| _mm_cmpeq_epi8(b, all(c));
    // SSE2 compares signed bytes only: `x <= n` as `min(x, n) == x`
    let within = |x: __m128i, from: u8, to: u8| {
        let x = _mm_sub_epi8(x, all(from));
        _mm_cmpeq_epi8(_mm_min_epu8(x, all(to - from)), x)
    };
    let or = |x, y| _mm_or_si128(x, y);
    let letters = within(or(b, all(0x20)), b'a', b'z');
    // the sign bit of what is beyond ASCII is the mask already
    let (dashes, underscores) = (is(b'-'), is(b'_'));
    let plain = or(or(letters, b), or(dashes, underscores));
    let backslashes = is(b'\\');
    let ranges = or(within(b, b'#', b'%'), or(within(b, b'*', b'+'), within(b, b'.', b':')));
    let forms = or(ranges, or(is(b'@'), or(backslashes, is(b'~'))));
    let mask = |x| _mm_movemask_epi8(x) as u16;
    let digits = within(b, b'0', b'9');
    // no look into a table in SSE2: byte by byte
    let classes = bytes.map(|b| BEGINNINGS.of(b));
    let some = |class: u8| classes.iter().enumerate().fold(0, |m, (k, c)| m | u16::from(c & class != 0) << k);
    let masks = Masks {
        forms: mask(forms),
        digits: mask(digits),
        dots: mask(is(b'.')),
        slashes: mask(or(is(b'/'), backslashes)),
        backslashes: mask(backslashes),
        colons: mask(is(b':')),
        dashes: mask(dashes),
        underscores: mask(underscores),
        looked: some(LOOKED),
        equals: mask(is(b'=')),
        blanks: mask(is(b' ')),
        shorts: some(SHORT),
        hexes: mask(within(or(b, all(0x20)), b'a', b'f')),
    };
    (mask(plain), masks)
}

/// See the one for x86-64.
#[cfg(target_arch = "aarch64")]
#[inline]
#[target_feature(enable = "neon")]
fn masks_of(bytes: &[u8; 16]) -> (u16, Masks<u16>) {
    use core::arch::aarch64::*;
    let word = |k: usize| u64::from_le_bytes(bytes[k..k + 8].try_into().expect("8 bytes"));
    let b = vcombine_u8(vcreate_u8(word(0)), vcreate_u8(word(8)));
    let is = |c: u8| vceqq_u8(b, vdupq_n_u8(c));
    let within = |x: uint8x16_t, from: u8, to: u8| vcleq_u8(vsubq_u8(x, vdupq_n_u8(from)), vdupq_n_u8(to - from));
    let or = |x, y| vorrq_u8(x, y);
    let letters = within(vorrq_u8(b, vdupq_n_u8(0x20)), b'a', b'z');
    let (dashes, underscores) = (is(b'-'), is(b'_'));
    let plain = or(or(letters, vcgeq_u8(b, vdupq_n_u8(0x80))), or(dashes, underscores));
    let backslashes = is(b'\\');
    let ranges = or(within(b, b'#', b'%'), or(within(b, b'*', b'+'), within(b, b'.', b':')));
    let forms = or(ranges, or(is(b'@'), or(backslashes, is(b'~'))));
    // NEON has no movemask: a bit for each byte, added up in each half
    let bits = vcombine_u8(vcreate_u8(0x8040_2010_0804_0201), vcreate_u8(0x8040_2010_0804_0201));
    let mask = |x: uint8x16_t| {
        let x = vandq_u8(x, bits);
        u16::from(vaddv_u8(vget_low_u8(x))) | u16::from(vaddv_u8(vget_high_u8(x))) << 8
    };
    let digits = within(b, b'0', b'9');
    // SAFETY: sixteen bytes are there.
    let table = |t: &'static [u8; 16]| unsafe { vld1q_u8(t.as_ptr()) };
    let low = vqtbl1q_u8(table(&BEGINNINGS.low), vandq_u8(b, vdupq_n_u8(15)));
    let classes = vandq_u8(low, vqtbl1q_u8(table(&BEGINNINGS.high), vshrq_n_u8(b, 4)));
    let some = |class: u8| mask(vtstq_u8(classes, vdupq_n_u8(class)));
    let masks = Masks {
        forms: mask(forms),
        digits: mask(digits),
        dots: mask(is(b'.')),
        slashes: mask(or(is(b'/'), backslashes)),
        backslashes: mask(backslashes),
        colons: mask(is(b':')),
        dashes: mask(dashes),
        underscores: mask(underscores),
        looked: some(LOOKED),
        equals: mask(is(b'=')),
        blanks: mask(is(b' ')),
        shorts: some(SHORT),
        hexes: mask(within(vorrq_u8(b, vdupq_n_u8(0x20)), b'a', b'f')),
    };
    (mask(plain), masks)
}

/// See the one for x86-64.
#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
fn masks_of(bytes: &[u8; 16]) -> (u16, Masks<u16>) {
    let mut plain = 0;
    let mut masks = Masks::default();
    for (k, &b) in bytes.iter().enumerate() {
        let class = byte_class(b);
        let bit = |set: bool| u16::from(set) << k;
        plain |= bit(class & CHUNK != 0 && class & (DIGIT | DOT | MARK) == 0);
        masks.forms |= bit(class & (DIGIT | DOT | MARK) != 0);
        masks.digits |= bit(class & DIGIT != 0);
        masks.dots |= bit(class & DOT != 0);
        masks.slashes |= bit(class & SLASH != 0);
        masks.backslashes |= bit(b == b'\\');
        masks.colons |= bit(class & COLON != 0);
        masks.dashes |= bit(b == b'-');
        masks.underscores |= bit(b == b'_');
        masks.looked |= bit(BEGINNINGS.of(b) & LOOKED != 0);
        masks.equals |= bit(b == b'=');
        masks.blanks |= bit(b == b' ');
        masks.shorts |= bit(BEGINNINGS.of(b) & SHORT != 0);
        masks.hexes |= bit(b.is_ascii_hexdigit() && !b.is_ascii_digit());
    }
    (plain, masks)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::forms::{byte_class, is_word};

    /// A scan for each unit that this processor has.
    fn scans() -> Vec<Scan> {
        let mut units = vec![Unit::Base];
        #[cfg(target_arch = "x86_64")]
        match Unit::detect() {
            Unit::Base => {}
            Unit::Avx2 => units.push(Unit::Avx2),
            Unit::Avx512 => units.extend([Unit::Avx2, Unit::Avx512]),
        }
        // SAFETY: the best unit that was found; what has AVX-512 has AVX2.
        units.into_iter().map(|unit| unsafe { Scan::new(unit) }).collect()
    }

    /// Chunk ends as the table of classes tells them.
    fn by_table(s: &[u8], i: usize) -> (usize, bool) {
        let n = s[i..].iter().take_while(|&&b| byte_class(b) & CHUNK != 0).count();
        (i + n, s[i..i + n].iter().any(|&b| byte_class(b) & (DIGIT | DOT | MARK) != 0))
    }

    #[test]
    fn every_byte_has_its_class_at_every_place() {
        for b in 0..=255 {
            for (len, at) in [(1, 0), (16, 3), (63, 62), (64, 63), (65, 64), (200, 130)] {
                for filler in [b'a', b'7', b' ', 0xc3] {
                    let mut s = vec![filler; len];
                    s[at] = b;
                    for (i, mut scan) in (0..len).flat_map(|i| scans().into_iter().map(move |scan| (i, scan))) {
                        let (end, forms) = scan.chunk(&s, i);
                        assert_eq!((end, forms), by_table(&s, i), "byte {b:#x} at {at} of {len}, from {i}");
                        if end - i < WINDOW && end > i {
                            let bits = scan.bits(i, end).expect("a short chunk");
                            let m = scan.masks().map(|mask| (mask & bits) >> bits.trailing_zeros());
                            let mask = |of: fn(u8) -> bool| {
                                s[i..end].iter().enumerate().fold(0, |m, (k, &b)| m | u64::from(of(b)) << k)
                            };
                            assert_eq!(m.forms, mask(|b| byte_class(b) & (DIGIT | DOT | MARK) != 0));
                            assert_eq!(m.digits, mask(|b| b.is_ascii_digit()));
                            assert_eq!((m.dashes, m.underscores), (mask(|b| b == b'-'), mask(|b| b == b'_')));
                            assert_eq!(m.dots, mask(|b| byte_class(b) & DOT != 0));
                            assert_eq!(m.slashes, mask(|b| byte_class(b) & SLASH != 0));
                            assert_eq!(m.backslashes, mask(|b| b == b'\\'));
                            assert_eq!(m.colons, mask(|b| byte_class(b) & COLON != 0));
                            assert_eq!(
                                scan.masks().classes(bits),
                                s[i..end].iter().fold(0, |all, &b| all | byte_class(b))
                            );
                            let run = |of: fn(u8) -> bool| i + s[i..].iter().take_while(|&&b| of(b)).count();
                            assert!(scan.word_end(i).is_none_or(|e| e == run(is_word)));
                            assert!(
                                scan.joined_end(i).is_none_or(|e| e == run(|b| is_word(b) || b == b'.' || b == b'-'))
                            );
                            assert!(scan.word_end(i).is_some() && scan.joined_end(i).is_some());
                        }
                    }
                }
            }
        }
    }

    #[test]
    fn chunks_of_every_length_end_where_the_table_ends_them() {
        for len in 0..300 {
            for from in 0..70 {
                let mut s = vec![b' '; from];
                s.extend((0..len).map(|k| if k % 101 == 100 { b'5' } else { b'x' }));
                for mut scan in scans() {
                    assert_eq!(scan.chunk(&[&s[..], b"(y"].concat(), from), by_table(&[&s[..], b"(y"].concat(), from));
                }
                for mut scan in scans().into_iter().filter(|_| len > 0) {
                    assert_eq!(scan.chunk(&s, from), by_table(&s, from));
                }
            }
        }
    }
}
