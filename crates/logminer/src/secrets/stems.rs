//! Where a secret may begin or be named: four bytes that are the stem of a key (`pass`, `toke`), the head of a token (`AKIA`) or the mark of
//! an address (`@`, `://`). Sixteen or thirty-two bytes at a time, so that lines without any cost next to nothing.

/// The stems by bucket, together such as have few parts that make other text of logs, in lower case for either case. `?` is any byte, `!` one
/// that goes on no word in lower case, `^` a capital, `#` a digit. The first three bytes are ASCII. `@` is one as well: see [`at`].
/// A stem may be anywhere in its key: `auth`, which most logs have in `authentication`, is looked for by the other words that it begins.
const STEMS: [&[&[u8; 4]]; 16] = [
    &[b"^^##"],
    &[b"hvb.", b"otp!", b"cvv!", b"gsk_"],
    &[b"-beg", b"ya29", b"secr", b"toke", b"thor"],
    &[b"basi", b"hmac", b"dapi", b"age-", b"hcod"],
    &[b"ghs_", b"gho_", b"ghu_", b"ghp_", b"glsa", b"ghr_", b"iden"],
    &[b"shpa", b"whse", b"pass", b" -u ", b" --u", b"sess", b"shps", b"shpc"],
    &[b"bear", b"keys", b":aa?", b"aiza", b"akia", b"key!"],
    &[b"eyj?", b"pypi", b"pinc", b"pin!", b"uth!", b"uths"],
    &[b"://?", b"jwt!", b"k_te", b"k_li", b"pw\"!", b"pw'!"],
    &[b"ssn!", b"cvc!", b"sg.?", b"hvs."],
    &[b"cred", b"hook", b"cook", b"dpw ", b"tpw ", b"pw =", b"pw :"],
    &[b"_pat", b"lpat", b"atat", b"asia"],
    &[b"xapp", b" -p?", b"hf_?", b"pw=?", b"pw:?", b"pw>?", br"pw\?"],
    &[b"gldt", b"dop_", b"glrt", b"nvap", b"npm_", b"gocs", b"glpt"],
    &[b"xox?", b"%40?", b"sk-?"],
    &[b"sig!", b"pwd!", b"tske", b"psk!", b"sid!", b"sign"],
];

/// Tables of eight buckets by place within a stem: buckets by the low and by the high half of a byte.
struct Tables {
    low: [[u8; 16]; 4],
    high: [[u8; 16]; 4],
}

const fn stands_for(class: u8, byte: u8) -> bool {
    match class {
        b'?' => true,
        b'!' => !byte.is_ascii_lowercase() && byte < 0x80,
        b'^' => byte.is_ascii_uppercase(),
        b'#' => byte.is_ascii_digit(),
        _ => byte.to_ascii_lowercase() == class,
    }
}

static TABLES: [Tables; 2] = {
    let mut tables = [const { Tables { low: [[0; 16]; 4], high: [[0; 16]; 4] } }; 2];
    let mut bucket = 0;
    while bucket < 16 {
        let t = &mut tables[bucket / 8];
        let bit = 1 << (bucket % 8);
        let mut k = 0;
        while k < STEMS[bucket].len() {
            let mut place = 0;
            while place < 4 {
                let mut b = 0;
                while b < 256 {
                    if stands_for(STEMS[bucket][k][place], b as u8) {
                        t.low[place][b & 15] |= bit;
                        t.high[place][b >> 4] |= bit;
                    }
                    b += 1;
                }
                place += 1;
            }
            k += 1;
        }
        bucket += 1;
    }
    tables
};

/// Stems that have the same first three bytes.
#[derive(Clone, Copy)]
struct Head {
    /// The three bytes, letters in upper case.
    text: u32,
    /// Which bits of four bytes they are compared with: all but those of the fourth, and of the case of a letter.
    mask: u32,
    /// What the fourth may be: a bit for each byte.
    fourth: [u64; 4],
}

/// Different first three bytes of stems, and one that no text has.
const MOST_HEADS: usize = 80;

/// The heads, and the place of each by [`slot`]; the last one is in all other places.
struct Heads {
    heads: [Head; MOST_HEADS],
    slots: [u8; 1 << SLOT_BITS],
}

const SLOT_BITS: u32 = 10;

/// Where the head of four bytes is looked for. The factor has no two heads in one place; [`HEADS`] is not made otherwise.
#[inline(always)]
const fn slot(four: u32) -> usize {
    ((four & 0x00df_dfdf).wrapping_mul(FACTOR) >> (32 - SLOT_BITS)) as usize
}

const FACTOR: u32 = 0x7ed4_d57b;

static HEADS: Heads = {
    let none = Head { text: u32::MAX, mask: 0, fourth: [0; 4] };
    let mut all = Heads { heads: [none; MOST_HEADS], slots: [MOST_HEADS as u8 - 1; 1 << SLOT_BITS] };
    let mut n = 0;
    let mut bucket = 0;
    while bucket < 16 {
        let mut k = 0;
        while k < STEMS[bucket].len() {
            let stem = STEMS[bucket][k];
            k += 1;
            if stem[0] == b'^' {
                continue;
            }
            let (mut text, mut mask) = (0, 0);
            let mut place = 0;
            while place < 3 {
                let bits = if stem[place].is_ascii_lowercase() { 0xdf } else { 0xff };
                text |= ((stem[place] & bits) as u32) << (8 * place);
                mask |= (bits as u32) << (8 * place);
                place += 1;
            }
            let at = &mut all.slots[slot(text)];
            if *at as usize == MOST_HEADS - 1 {
                *at = n as u8;
                all.heads[n] = Head { text, mask, fourth: [0; 4] };
                n += 1;
            }
            let head = &mut all.heads[*at as usize];
            assert!(head.text == text, "two heads in one place: another factor is needed");
            let mut b = 0;
            while b < 256 {
                if stands_for(stem[3], b as u8) {
                    head.fourth[b / 64] |= 1 << (b % 64);
                }
                b += 1;
            }
        }
        bucket += 1;
    }
    assert!(n < MOST_HEADS);
    all
};

/// Whether a stem begins at `i`, which has three bytes behind it.
#[inline(always)]
fn at(s: &[u8], i: usize) -> bool {
    let Some(&four) = s[i..].first_chunk::<4>() else { return false };
    let word = u32::from_le_bytes(four);
    let head = &HEADS.heads[usize::from(HEADS.slots[slot(word)])];
    if word & head.mask == head.text {
        return head.fourth[usize::from(four[3] / 64)] >> (four[3] % 64) & 1 != 0;
    }
    four[0] == b'@' || account(four)
}

/// The beginning of an account's number: two capitals and two digits.
fn account(four: [u8; 4]) -> bool {
    four[0].is_ascii_uppercase() && four[1].is_ascii_uppercase() && four[2].is_ascii_digit() && four[3].is_ascii_digit()
}

/// Calls `visit` with each place where a stem begins, in order. It answers from where on to look further.
#[inline]
pub(crate) fn each(s: &[u8], visit: &mut dyn FnMut(usize) -> usize) {
    #[cfg(target_arch = "x86_64")]
    match crate::scan::Unit::detect() {
        // SAFETY: the processor has what the unit says.
        crate::scan::Unit::Avx512 => return unsafe { avx512::each(s, visit) },
        // SAFETY: the same.
        crate::scan::Unit::Avx2 => return unsafe { avx2::each(s, visit) },
        crate::scan::Unit::Base => {}
    }
    #[cfg(target_arch = "aarch64")]
    {
        // SAFETY: every AArch64 has NEON.
        return unsafe { neon::each(s, visit) };
    }
    #[cfg_attr(target_arch = "aarch64", allow(unreachable_code))]
    by_byte(s, visit)
}

fn by_byte(s: &[u8], visit: &mut dyn FnMut(usize) -> usize) {
    let mut i = 0;
    while i + 4 <= s.len() {
        i = if at(s, i) { visit(i).max(i + 1) } else { i + 1 };
    }
}

/// What looks at positions of which a window says that a stem may begin there: where the window stands, and a bit for each position. Positions that `visit` has
/// passed over, or that an earlier window has told of, are left out.
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
#[inline(always)]
fn looking(s: &[u8], visit: &mut dyn FnMut(usize) -> usize) -> impl FnMut(usize, u64) {
    // positions below are done
    let mut next = 0;
    move |from, mut mask| {
        while mask != 0 {
            let i = from + mask.trailing_zeros() as usize;
            mask &= mask - 1;
            if i >= next && at(s, i) {
                next = visit(i).max(i + 1);
            }
        }
    }
}

#[cfg(target_arch = "x86_64")]
mod avx512 {
    use super::{STEMS, looking, stands_for};
    use core::arch::x86_64::*;

    /// Positions that a window tells of.
    const POSITIONS: usize = 64;

    /// Buckets of each ASCII byte, by its place within a stem and by eight of them.
    static BUCKETS: [[[u8; 128]; 2]; 4] = {
        let mut t = [[[0; 128]; 2]; 4];
        let mut bucket = 0;
        while bucket < 16 {
            let mut k = 0;
            while k < STEMS[bucket].len() {
                let mut place = 0;
                while place < 4 {
                    let mut b = 0;
                    while b < 128 {
                        if stands_for(STEMS[bucket][k][place], b as u8) {
                            t[place][bucket / 8][b] |= 1 << (bucket % 8);
                        }
                        b += 1;
                    }
                    place += 1;
                }
                k += 1;
            }
            bucket += 1;
        }
        t
    };

    #[target_feature(enable = "avx512f,avx512bw,avx512vbmi,bmi1,bmi2")]
    pub(super) fn each(s: &[u8], visit: &mut dyn FnMut(usize) -> usize) {
        let Some(positions) = s.len().checked_sub(3) else { return };
        let mut look = looking(s, visit);
        for from in (0..positions).step_by(POSITIONS) {
            let mask = may_begin(&s[from..]);
            // most lines have none, which shall cost no call
            if mask != 0 {
                look(from, mask);
            }
        }
    }

    /// The positions in `s`, which has four bytes at least, of which the tables tell no other.
    #[inline]
    #[target_feature(enable = "avx512f,avx512bw,avx512vbmi,bmi1,bmi2")]
    fn may_begin(s: &[u8]) -> u64 {
        let there = u64::MAX >> (POSITIONS - (s.len() - 3).min(POSITIONS));
        // SAFETY: behind each position there are three bytes more, and a masked load touches no others.
        let bytes = |place: usize| unsafe { _mm512_maskz_loadu_epi8(there, s.as_ptr().add(place).cast()) };
        let first = bytes(0);
        let mut found = [_mm512_set1_epi8(-1); 2];
        for (place, tables) in BUCKETS.iter().enumerate() {
            let b = if place == 0 { first } else { bytes(place) };
            for (found, table) in found.iter_mut().zip(tables) {
                // SAFETY: the table has 128 bytes.
                let (low, high) = unsafe {
                    (_mm512_loadu_epi8(table.as_ptr().cast()), _mm512_loadu_epi8(table.as_ptr().add(64).cast()))
                };
                // a byte beyond ASCII is looked up by its lower bits: at worst a place is looked at in vain
                *found = _mm512_and_si512(*found, _mm512_permutex2var_epi8(low, b, high));
            }
        }
        let any = _mm512_or_si512(found[0], found[1]);
        (_mm512_test_epi8_mask(any, any) | _mm512_cmpeq_epi8_mask(first, _mm512_set1_epi8(b'@' as i8))) & there
    }
}

#[cfg(target_arch = "x86_64")]
mod avx2 {
    use super::{TABLES, looking};
    use core::arch::x86_64::*;

    /// Positions that a window tells of.
    const POSITIONS: usize = 32;
    /// Bytes of a window: each position has three behind it.
    const READ: usize = POSITIONS + 3;

    /// Two windows at a time, as long as there are two. The last window ends where the line does, and tells again of positions that an
    /// earlier one has told of; a line shorter than a window is copied.
    #[target_feature(enable = "avx2,bmi1")]
    pub(super) fn each(s: &[u8], visit: &mut dyn FnMut(usize) -> usize) {
        let Some(positions) = s.len().checked_sub(3) else { return };
        let mut look = looking(s, visit);
        let Some(end) = s.len().checked_sub(READ) else {
            let mut padded = [0; READ];
            padded[..s.len()].copy_from_slice(s);
            let [mask] = may_begin([&padded]);
            return look(0, u64::from(mask));
        };
        let window = |from: usize| s[from..].first_chunk::<READ>().expect("a window");
        let mut from = 0;
        while from + POSITIONS < positions {
            let behind = (from + POSITIONS).min(end);
            let [first, second] = may_begin([window(from), window(behind)]);
            let mask = u64::from(first) | u64::from(second) << (behind - from);
            // most lines have none, which shall cost no call
            if mask != 0 {
                look(from, mask);
            }
            from += 2 * POSITIONS;
        }
        if from < positions {
            let from = from.min(end);
            let [mask] = may_begin([window(from)]);
            if mask != 0 {
                look(from, u64::from(mask));
            }
        }
    }

    /// The positions of each window of which the tables tell no other.
    #[inline]
    #[target_feature(enable = "avx2")]
    fn may_begin<const N: usize>(windows: [&[u8; READ]; N]) -> [u32; N] {
        let table = |t: &'static [u8; 16]| {
            // SAFETY: sixteen bytes are there.
            _mm256_broadcastsi128_si256(unsafe { _mm_loadu_si128(t.as_ptr().cast()) })
        };
        let half = _mm256_set1_epi8(15);
        // SAFETY: `place` and the 32 bytes from it on are within the window.
        let bytes = |window: &[u8; READ], place: usize| unsafe {
            _mm256_loadu_si256(window[place..place + POSITIONS].as_ptr().cast())
        };
        let mut found = [[_mm256_set1_epi8(-1); 2]; N];
        for place in 0..4 {
            for (found, window) in found.iter_mut().zip(windows) {
                let b = bytes(window, place);
                let high = _mm256_and_si256(_mm256_srli_epi16(b, 4), half);
                // a look into a table by a byte beyond ASCII finds nothing: only the fourth may be one
                let low = if place == 3 { _mm256_and_si256(b, half) } else { b };
                for (found, t) in found.iter_mut().zip(&TABLES) {
                    let of_low = _mm256_shuffle_epi8(table(&t.low[place]), low);
                    let of_high = _mm256_shuffle_epi8(table(&t.high[place]), high);
                    *found = _mm256_and_si256(*found, _mm256_and_si256(of_low, of_high));
                }
            }
        }
        let mut masks = [0; N];
        for ((mask, found), window) in masks.iter_mut().zip(found).zip(windows) {
            let ats = _mm256_cmpeq_epi8(bytes(window, 0), _mm256_set1_epi8(b'@' as i8));
            let any = _mm256_or_si256(_mm256_or_si256(found[0], found[1]), ats);
            *mask = !_mm256_movemask_epi8(_mm256_cmpeq_epi8(any, _mm256_setzero_si256())) as u32;
        }
        masks
    }
}

#[cfg(target_arch = "aarch64")]
mod neon {
    use super::{TABLES, looking};
    use core::arch::aarch64::*;

    /// Positions that a window tells of.
    const POSITIONS: usize = 16;
    /// Bytes of a window: each position has three behind it.
    const READ: usize = POSITIONS + 3;

    /// The last window ends where the line does, and tells again of positions that an earlier one has told of; a line shorter than a window
    /// is copied.
    #[target_feature(enable = "neon")]
    pub(super) fn each(s: &[u8], visit: &mut dyn FnMut(usize) -> usize) {
        let Some(positions) = s.len().checked_sub(3) else { return };
        let mut look = looking(s, visit);
        let Some(end) = s.len().checked_sub(READ) else {
            let mut padded = [0; READ];
            padded[..s.len()].copy_from_slice(s);
            return look(0, u64::from(may_begin(&padded)));
        };
        for from in (0..positions).step_by(POSITIONS) {
            let from = from.min(end);
            look(from, u64::from(may_begin(s[from..].first_chunk().expect("a window"))));
        }
    }

    /// The positions of which the tables tell no other.
    #[inline]
    #[target_feature(enable = "neon")]
    fn may_begin(window: &[u8; READ]) -> u32 {
        // SAFETY: sixteen bytes are there.
        let table = |t: &'static [u8; 16]| unsafe { vld1q_u8(t.as_ptr()) };
        let half = vdupq_n_u8(15);
        // SAFETY: `place` and the sixteen bytes from it on are within the window.
        let bytes = |place: usize| unsafe { vld1q_u8(window[place..place + POSITIONS].as_ptr()) };
        let mut found = [vdupq_n_u8(255); 2];
        for place in 0..4 {
            let b = bytes(place);
            let (low, high) = (vandq_u8(b, half), vshrq_n_u8(b, 4));
            for (found, t) in found.iter_mut().zip(&TABLES) {
                let of_low = vqtbl1q_u8(table(&t.low[place]), low);
                let of_high = vqtbl1q_u8(table(&t.high[place]), high);
                *found = vandq_u8(*found, vandq_u8(of_low, of_high));
            }
        }
        let ats = vceqq_u8(bytes(0), vdupq_n_u8(b'@'));
        let any = vorrq_u8(vorrq_u8(found[0], found[1]), ats);
        if vmaxvq_u8(any) == 0 {
            return 0;
        }
        // NEON has no movemask: a bit for each byte, added up in each half
        let bits = vcombine_u8(vcreate_u8(0x8040_2010_0804_0201), vcreate_u8(0x8040_2010_0804_0201));
        let set = vandq_u8(vtstq_u8(any, any), bits);
        u32::from(vaddv_u8(vget_low_u8(set))) | u32::from(vaddv_u8(vget_high_u8(set))) << 8
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NONE: [usize; 0] = [];

    type Each = fn(&[u8], &mut dyn FnMut(usize) -> usize);

    /// What this processor can look with, but for [`by_byte`].
    fn ways() -> Vec<Each> {
        #[cfg_attr(not(target_arch = "x86_64"), expect(unused_mut))]
        let mut ways: Vec<Each> = vec![each];
        #[cfg(target_arch = "x86_64")]
        if crate::scan::Unit::detect() == crate::scan::Unit::Avx512 {
            // SAFETY: what has AVX-512 has AVX2.
            ways.push(|s, visit| unsafe { avx2::each(s, visit) });
        }
        ways
    }

    fn found(s: &[u8], each: impl Fn(&[u8], &mut dyn FnMut(usize) -> usize)) -> Vec<usize> {
        let mut found = Vec::new();
        each(s, &mut |i| {
            found.push(i);
            i + 1
        });
        found
    }

    #[test]
    fn every_stem_at_every_place() {
        for stem in STEMS.iter().flat_map(|b| b.iter()).chain([&b"@???"]) {
            let text: Vec<u8> = stem
                .iter()
                .map(|&c| match c {
                    b'?' => b'x',
                    b'!' => b'=',
                    b'^' => b'Q',
                    b'#' => b'7',
                    c => c.to_ascii_uppercase(),
                })
                .collect();
            for before in 0..70 {
                for behind in [0, 1, 40] {
                    let mut s = vec![b'.'; before];
                    s.extend_from_slice(&text);
                    s.extend(vec![b'.'; behind]);
                    for each in ways() {
                        let stem = String::from_utf8_lossy(&text);
                        assert_eq!(found(&s, each), [before], "{stem} behind {before} bytes");
                        assert_eq!(found(&s[..before + 3], each), NONE);
                    }
                }
            }
        }
        assert_eq!(found(b"User 123 logged in from 10.0.0.7 after 20ms, nothing here", each), NONE);
        assert_eq!(found(b"pas", each), NONE);
        assert_eq!(found(b"", each), NONE);
    }

    /// Each stem with all bytes in each of its places, as its classes say.
    #[test]
    fn a_stem_is_what_its_classes_say() {
        let is_stem = |four: &[u8]| {
            let stem = |stem: &&[u8; 4]| stem.iter().zip(four).all(|(class, b)| stands_for(*class, *b));
            four[0] == b'@' || STEMS.iter().any(|bucket| bucket.iter().any(&stem))
        };
        for stem in STEMS.iter().flat_map(|b| b.iter()) {
            for place in 0..4 {
                for b in 0..=255u8 {
                    let mut four = stem.map(|c| match c {
                        b'?' | b'!' => b'.',
                        b'^' => b'Z',
                        b'#' => b'0',
                        c => c,
                    });
                    four[place] = b;
                    let expected: &[usize] = if is_stem(&four) { &[0] } else { &[] };
                    assert_eq!(found(&four, by_byte), expected, "{four:?}");
                    for each in ways() {
                        assert_eq!(found(&four, each), expected, "{four:?}");
                    }
                }
            }
        }
    }

    #[test]
    fn vectors_find_what_bytes_find() {
        let mut seed = 7u64;
        let alphabet = b"paswdectokniugh:/@-_%40 =.AKIZ9\xc3";
        for len in 0..300 {
            let s: Vec<u8> = (0..len)
                .map(|_| {
                    seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                    alphabet[(seed >> 40) as usize % alphabet.len()]
                })
                .collect();
            for each in ways() {
                assert_eq!(found(&s, each), found(&s, by_byte));
            }
            // where one goes on decides what is found next
            for step in [2, 5, 33, 70] {
                let skipping = |each: Each| {
                    let mut found = Vec::new();
                    each(&s, &mut |i| {
                        found.push(i);
                        i + step
                    });
                    found
                };
                for each in ways() {
                    assert_eq!(skipping(each), skipping(by_byte));
                }
            }
        }
    }
}
