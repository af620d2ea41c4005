//! Where chunks end: bit masks of byte classes, sixteen bytes at a time, so that the length of a word costs no mispredicted branch.
//!
//! SSE2 and NEON are part of every processor of their architecture; elsewhere the table of classes is asked byte by byte.

#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
use crate::forms::{CHUNK, DIGIT, DOT, MARK, byte_class};

/// Bytes that a window of masks stands for.
const WINDOW: usize = 64;

/// Masks of the classes of some bytes: bit `k` stands for byte `k`.
#[derive(Clone, Copy, Default)]
pub(crate) struct Masks<T> {
    /// Bytes of a chunk that may make it more than a plain word: digits, dots and marks.
    pub forms: T,
    /// Decimal digits.
    pub digits: T,
    pub dashes: T,
    pub underscores: T,
}

/// The masks of the part of a line that was asked for last.
pub(crate) struct Scan {
    /// Where it begins.
    at: usize,
    /// Bytes that end a chunk; those behind the line's end are among them.
    stops: u64,
    masks: Masks<u64>,
    /// Whether the processor has AVX2.
    #[cfg(target_arch = "x86_64")]
    wide: bool,
}

impl Scan {
    pub(crate) fn new() -> Self {
        Self {
            at: usize::MAX,
            stops: 0,
            masks: Masks::default(),
            #[cfg(target_arch = "x86_64")]
            wide: is_x86_feature_detected!("avx2"),
        }
    }

    /// The end of the chunk that begins at `i`, `i` itself when none does, and whether it holds a digit, dot or mark.
    #[inline]
    pub(crate) fn chunk(&mut self, s: &[u8], i: usize) -> (usize, bool) {
        let mut from = i.wrapping_sub(self.at);
        if from >= WINDOW || self.stops >> from == 0 {
            self.load(s, i);
            from = 0;
            if self.stops == 0 {
                return self.long_chunk(s, i);
            }
        }
        let n = (self.stops >> from).trailing_zeros();
        (i + n as usize, (self.masks.forms >> from) & ((1 << n) - 1) != 0)
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
        let cut = |mask: u64| (mask >> from) & (u64::MAX >> (WINDOW - (b - a)));
        let m = &self.masks;
        Some(Masks {
            forms: cut(m.forms),
            digits: cut(m.digits),
            dashes: cut(m.dashes),
            underscores: cut(m.underscores),
        })
    }

    fn load(&mut self, s: &[u8], at: usize) {
        self.at = at;
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
            let m = &mut self.masks;
            for mask in [&mut m.forms, &mut m.digits, &mut m.dashes, &mut m.underscores] {
                *mask = moved(*mask);
            }
            return;
        }
        let mut padded = [b' '; WINDOW];
        padded[..rest.len()].copy_from_slice(rest);
        self.read(&padded);
    }

    #[inline(always)]
    fn read(&mut self, window: &[u8; WINDOW]) {
        #[cfg(target_arch = "x86_64")]
        if self.wide {
            // SAFETY: `wide` says that the processor has AVX2.
            (self.stops, self.masks) = unsafe { avx2::window(window) };
            return;
        }
        let (mut plain, mut masks) = (0u64, Masks::<u64>::default());
        for (k, piece) in window.as_chunks::<16>().0.iter().enumerate() {
            #[cfg_attr(not(any(target_arch = "x86_64", target_arch = "aarch64")), allow(unused_unsafe))]
            // SAFETY: every x86-64 has SSE2, every AArch64 has NEON; nothing else is asked of the caller.
            let (p, m) = unsafe { masks_of(piece) };
            plain |= u64::from(p) << (16 * k);
            masks.forms |= u64::from(m.forms) << (16 * k);
            masks.digits |= u64::from(m.digits) << (16 * k);
            masks.dashes |= u64::from(m.dashes) << (16 * k);
            masks.underscores |= u64::from(m.underscores) << (16 * k);
        }
        (self.stops, self.masks) = (!(plain | masks.forms), masks);
    }
}

/// The masks of a whole window with AVX2.
#[cfg(target_arch = "x86_64")]
mod avx2 {
    use super::{Masks, WINDOW};
    use core::arch::x86_64::*;

    /// The bytes that end a chunk, and the masks of the others.
    #[target_feature(enable = "avx2")]
    pub(super) fn window(bytes: &[u8; WINDOW]) -> (u64, Masks<u64>) {
        let (low, high) = bytes.split_at(32);
        let ((stops, m), (stops_high, n)) = (half(low), half(high));
        let both = |low: u32, high: u32| u64::from(low) | u64::from(high) << 32;
        let masks = Masks {
            forms: both(m.forms, n.forms),
            digits: both(m.digits, n.digits),
            dashes: both(m.dashes, n.dashes),
            underscores: both(m.underscores, n.underscores),
        };
        (both(stops, stops_high), masks)
    }

    #[inline]
    #[target_feature(enable = "avx2")]
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
        let ranges = or(within(b, b'#', b'%'), or(within(b, b'*', b'+'), within(b, b'.', b':')));
        let forms = or(ranges, or(is(b'@'), or(is(b'\\'), is(b'~'))));
        let digits = within(b, b'0', b'9');
        let masks =
            Masks { forms: mask(forms), digits: mask(digits), dashes: mask(dashes), underscores: mask(underscores) };
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
    let ranges = or(within(b, b'#', b'%'), or(within(b, b'*', b'+'), within(b, b'.', b':')));
    let forms = or(ranges, or(is(b'@'), or(is(b'\\'), is(b'~'))));
    let mask = |x| _mm_movemask_epi8(x) as u16;
    let digits = within(b, b'0', b'9');
    let masks =
        Masks { forms: mask(forms), digits: mask(digits), dashes: mask(dashes), underscores: mask(underscores) };
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
    let ranges = or(within(b, b'#', b'%'), or(within(b, b'*', b'+'), within(b, b'.', b':')));
    let forms = or(ranges, or(is(b'@'), or(is(b'\\'), is(b'~'))));
    // NEON has no movemask: a bit for each byte, added up in each half
    let bits = vcombine_u8(vcreate_u8(0x8040_2010_0804_0201), vcreate_u8(0x8040_2010_0804_0201));
    let mask = |x: uint8x16_t| {
        let x = vandq_u8(x, bits);
        u16::from(vaddv_u8(vget_low_u8(x))) | u16::from(vaddv_u8(vget_high_u8(x))) << 8
    };
    let digits = within(b, b'0', b'9');
    let masks =
        Masks { forms: mask(forms), digits: mask(digits), dashes: mask(dashes), underscores: mask(underscores) };
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
        masks.dashes |= bit(b == b'-');
        masks.underscores |= bit(b == b'_');
    }
    (plain, masks)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::forms::{CHUNK, DIGIT, DOT, MARK, byte_class};

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
                    let mut scan = Scan::new();
                    for i in 0..len {
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
                let mut scan = Scan::new();
                assert_eq!(scan.chunk(&[&s[..], b"(y"].concat(), from), by_table(&[&s[..], b"(y"].concat(), from));
                if len > 0 {
                    assert_eq!(Scan::new().chunk(&s, from), by_table(&s, from));
                }
            }
        }
    }
}
