//! Where chunks end: bit masks of byte classes, sixteen bytes at a time, so that the length of a word costs no mispredicted branch.
//!
//! SSE2 and NEON are part of every processor of their architecture; elsewhere the table of classes is asked byte by byte.

use crate::forms::{CHUNK, COLON, DIGIT, DOT, MARK, SLASH};

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
    pub colons: T,
    pub dashes: T,
    pub underscores: T,
}

impl<T> Masks<T> {
    #[inline(always)]
    fn map<U>(self, of: impl Fn(T) -> U) -> Masks<U> {
        Masks {
            forms: of(self.forms),
            digits: of(self.digits),
            dots: of(self.dots),
            slashes: of(self.slashes),
            colons: of(self.colons),
            dashes: of(self.dashes),
            underscores: of(self.underscores),
        }
    }
}

impl Masks<u64> {
    /// The classes of all bytes together, as [`crate::forms::byte_class`] tells them.
    #[inline]
    pub(crate) fn classes(&self) -> u8 {
        let has = |mask: u64, class: u8| if mask != 0 { class } else { 0 };
        CHUNK
            | has(self.digits, DIGIT)
            | has(self.dots, DOT)
            | has(self.forms & !self.digits & !self.dots, MARK)
            | has(self.slashes, SLASH)
            | has(self.colons, COLON)
    }

    #[inline(always)]
    fn add(&mut self, piece: Masks<u16>, at: usize) {
        self.forms |= u64::from(piece.forms) << at;
        self.digits |= u64::from(piece.digits) << at;
        self.dots |= u64::from(piece.dots) << at;
        self.slashes |= u64::from(piece.slashes) << at;
        self.colons |= u64::from(piece.colons) << at;
        self.dashes |= u64::from(piece.dashes) << at;
        self.underscores |= u64::from(piece.underscores) << at;
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
        #[cfg(target_arch = "x86_64")]
        if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("bmi2") {
            let wide = is_x86_feature_detected!("avx512bw") && is_x86_feature_detected!("avx512vbmi");
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
    /// What the processor has.
    unit: Unit,
}

impl Scan {
    /// # Safety
    /// The processor must have the unit.
    #[inline(always)]
    pub(crate) unsafe fn new(unit: Unit) -> Self {
        Self { at: usize::MAX, stops: 0, masks: Masks::default(), unit }
    }

    /// The end of the chunk that begins at `i`, `i` itself when none does, and whether it holds a digit, dot or mark.
    #[inline(always)]
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

    /// The masks of the bytes `a..b` of a chunk; `None` where it fills a window or more.
    #[inline]
    pub(crate) fn masks(&self, a: usize, b: usize) -> Option<Masks<u64>> {
        let from = a.wrapping_sub(self.at);
        if from >= WINDOW || b <= a || b - self.at > WINDOW {
            return None;
        }
        let kept = u64::MAX >> (WINDOW - (b - a));
        Some(self.masks.map(|mask| (mask >> from) & kept))
    }

    /// The end of the run of word bytes at `a`; `None` where the window does not show it.
    #[inline]
    pub(crate) fn word_end(&self, a: usize) -> Option<usize> {
        let m = &self.masks;
        self.run_end(a, self.stops | m.forms & !m.digits | m.dashes)
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
        self.at = at;
        #[cfg(target_arch = "x86_64")]
        if self.unit == Unit::Avx512 {
            // SAFETY: who made this says that the processor has it.
            (self.stops, self.masks) = unsafe { avx512::window(s.get(at..).unwrap_or_default()) };
            return;
        }
        match s.get(at..).and_then(<[u8]>::first_chunk) {
            Some(window) => self.read(window),
            None => self.load_end(s, at),
        }
    }

    /// [`Self::load`] where the line ends before the window does: blanks stand behind it.
    fn load_end(&mut self, s: &[u8], at: usize) {
        let rest = s.get(at..).unwrap_or_default();
        // Most lines are longer than a window: its last bytes, moved down, cost no copy of so many as there are.
        if let Some(last) = s.last_chunk() {
            self.read(last);
            let gone = (WINDOW - rest.len()) as u32;
            let moved = |mask: u64| mask.checked_shr(gone).unwrap_or(0);
            self.stops = !moved(!self.stops);
            self.masks = self.masks.map(moved);
            return;
        }
        let mut padded = [b' '; WINDOW];
        padded[..rest.len()].copy_from_slice(rest);
        self.read(&padded);
    }

    #[inline(always)]
    fn read(&mut self, window: &[u8; WINDOW]) {
        #[cfg(target_arch = "x86_64")]
        if self.unit != Unit::Base {
            // SAFETY: who made this says that the processor has it.
            (self.stops, self.masks) = unsafe { avx2::window(window) };
            return;
        }
        let (mut plain, mut masks) = (0u64, Masks::<u64>::default());
        for (k, piece) in window.as_chunks::<16>().0.iter().enumerate() {
            #[cfg_attr(not(any(target_arch = "x86_64", target_arch = "aarch64")), allow(unused_unsafe))]
            // SAFETY: every x86-64 has SSE2, every AArch64 has NEON; nothing else is asked of the caller.
            let (p, m) = unsafe { masks_of(piece) };
            plain |= u64::from(p) << (16 * k);
            masks.add(m, 16 * k);
        }
        (self.stops, self.masks) = (!(plain | masks.forms), masks);
    }
}

/// The masks of a whole window with AVX-512: the classes of 64 bytes by one look into a table of 128.
#[cfg(target_arch = "x86_64")]
mod avx512 {
    use super::{Masks, WINDOW};
    use crate::forms::{CHUNK, COLON, DIGIT, DOT, HARD, MARK, SLASH, SPACE, class};
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

    /// The bytes that end a chunk, and the masks of the others, of the first bytes of `s`; blanks stand behind it.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vbmi,bmi1,bmi2")]
    pub(super) fn window(s: &[u8]) -> (u64, Masks<u64>) {
        let there = if s.len() < WINDOW { (1u64 << s.len()) - 1 } else { u64::MAX };
        // SAFETY: the bytes read are those of `s`, as a masked load touches no others; the table has 128 bytes.
        let (b, low, high) = unsafe {
            (
                _mm512_mask_loadu_epi8(_mm512_set1_epi8(b' ' as i8), there, s.as_ptr().cast()),
                _mm512_loadu_epi8(CLASSES.as_ptr().cast()),
                _mm512_loadu_epi8(CLASSES.as_ptr().add(64).cast()),
            )
        };
        // all beyond ASCII is of no class
        let classes = _mm512_maskz_permutex2var_epi8(!_mm512_movepi8_mask(b), low, b, high);
        let mask = |class: u8| _mm512_test_epi8_mask(classes, _mm512_set1_epi8(class as i8));
        let masks = Masks {
            forms: mask(DIGIT | DOT | MARK),
            digits: mask(DIGIT),
            dots: mask(DOT),
            slashes: mask(SLASH),
            colons: mask(COLON),
            dashes: mask(DASH),
            underscores: mask(UNDERSCORE),
        };
        (mask(HARD), masks)
    }
}

/// The masks of a whole window with AVX2.
#[cfg(target_arch = "x86_64")]
mod avx2 {
    use super::{Masks, WINDOW};
    use core::arch::x86_64::*;

    /// The bytes that end a chunk, and the masks of the others.
    #[inline]
    #[target_feature(enable = "avx2,bmi1,bmi2")]
    pub(super) fn window(bytes: &[u8; WINDOW]) -> (u64, Masks<u64>) {
        let (low, high) = bytes.split_at(32);
        let ((stops, m), (stops_high, n)) = (half(low), half(high));
        let both = |low: u32, high: u32| u64::from(low) | u64::from(high) << 32;
        let masks = Masks {
            forms: both(m.forms, n.forms),
            digits: both(m.digits, n.digits),
            dots: both(m.dots, n.dots),
            slashes: both(m.slashes, n.slashes),
            colons: both(m.colons, n.colons),
            dashes: both(m.dashes, n.dashes),
            underscores: both(m.underscores, n.underscores),
        };
        (both(stops, stops_high), masks)
    }

    #[inline]
    #[target_feature(enable = "avx2,bmi1,bmi2")]
    fn half(bytes: &[u8]) -> (u32, Masks<u32>) {
        let word = |k: usize| i64::from_le_bytes(bytes[k..k + 8].try_into().expect("8 bytes"));
        let b = _mm256_set_epi64x(word(24), word(16), word(8), word(0));
        let all = |c: u8| _mm256_set1_epi8(c as i8);
        let is = |c: u8| _mm256_cmpeq_epi8(b, all(c));
        let within = |x: __m256i, from: u8, to: u8| {
            let x = _mm256_sub_epi8(x, all(from));
            _mm256_cmpeq_epi8(_mm256_min_epu8(x, all(to - from)), x)
        };
        let or = |x, y| _mm256_or_si256(x, y);
        let mask = |x| _mm256_movemask_epi8(x) as u32;
        let (dashes, underscores) = (is(b'-'), is(b'_'));
        let letters = within(or(b, all(0x20)), b'a', b'z');
        let plain = or(or(letters, b), or(dashes, underscores));
        let backslashes = is(b'\\');
        let ranges = or(within(b, b'#', b'%'), or(within(b, b'*', b'+'), within(b, b'.', b':')));
        let forms = or(ranges, or(is(b'@'), or(backslashes, is(b'~'))));
        let digits = within(b, b'0', b'9');
        let masks = Masks {
            forms: mask(forms),
            digits: mask(digits),
            dots: mask(is(b'.')),
            slashes: mask(or(is(b'/'), backslashes)),
            colons: mask(is(b':')),
            dashes: mask(dashes),
            underscores: mask(underscores),
        };
        (!mask(or(plain, forms)), masks)
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
    let masks = Masks {
        forms: mask(forms),
        digits: mask(digits),
        dots: mask(is(b'.')),
        slashes: mask(or(is(b'/'), backslashes)),
        colons: mask(is(b':')),
        dashes: mask(dashes),
        underscores: mask(underscores),
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
    let masks = Masks {
        forms: mask(forms),
        digits: mask(digits),
        dots: mask(is(b'.')),
        slashes: mask(or(is(b'/'), backslashes)),
        colons: mask(is(b':')),
        dashes: mask(dashes),
        underscores: mask(underscores),
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
        masks.colons |= bit(class & COLON != 0);
        masks.dashes |= bit(b == b'-');
        masks.underscores |= bit(b == b'_');
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
                            let m = scan.masks(i, end).expect("a short chunk");
                            let mask = |of: fn(u8) -> bool| {
                                s[i..end].iter().enumerate().fold(0, |m, (k, &b)| m | u64::from(of(b)) << k)
                            };
                            assert_eq!(m.forms, mask(|b| byte_class(b) & (DIGIT | DOT | MARK) != 0));
                            assert_eq!(m.digits, mask(|b| b.is_ascii_digit()));
                            assert_eq!((m.dashes, m.underscores), (mask(|b| b == b'-'), mask(|b| b == b'_')));
                            assert_eq!(m.dots, mask(|b| byte_class(b) & DOT != 0));
                            assert_eq!(m.slashes, mask(|b| byte_class(b) & SLASH != 0));
                            assert_eq!(m.colons, mask(|b| byte_class(b) & COLON != 0));
                            assert_eq!(m.classes(), s[i..end].iter().fold(0, |all, &b| all | byte_class(b)));
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
