//! Where a secret may begin or be named: four bytes that are the stem of a key (`pass`, `toke`), the head of a token (`AKIA`) or the mark of
//! an address (`@`, `://`). Sixteen or thirty-two bytes at a time, so that lines without any cost next to nothing.

/// The stems by bucket, together such as have few parts that make other text, in lower case for either case. `?` is any byte, `!` one that goes on no word in lower case, `^` a capital, `#` a digit.
const STEMS: [&[&[u8; 4]]; 8] = [
    &[b"auth", b"iden", b"cred", b"k_li", b"atat", b"age-", b"cook", b"-beg", b"_pat"],
    &[b"pass", b"@???", b"pwd!", b"pypi", b"xapp"],
    &[b"sess", b"secr", b" -p?", b"%40?", b"xox?", b"shps", b"shpa", b"shpc"],
    &[b"^^##", b"ya29"],
    &[b"pin!", b"psk!", b"ssn!", b"pinc", b"sk-?", b"eyj?", b"npm_", b"gsk_", b"sg.?", b"nvap", b"lpat"],
    &[
        b"sign", b"sig!", b"sid!", b"otp!", b"cvv!", b"jwt!", b"glsa", b"gldt", b"glrt", b"glpt", b"cvc!", b"ghr_",
        b"hvb.", b"whse",
    ],
    &[
        b"key!", b"://?", b"keys", b"basi", b"akia", b"asia", b"aiza", b"gocs", b"gho_", b"ghs_", b"hf_?", b"bear",
        b":aa?", b"hvs.",
    ],
    &[b"toke", b"hook", b" -u ", b"hmac", b"k_te", b"ghu_", b"dop_", b"ghp_", b"tske", b"dapi"],
];

/// Tables by place within a stem: buckets by the byte, by its low half and by its high half.
struct Tables {
    byte: [[u8; 256]; 4],
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

static TABLES: Tables = {
    let mut t = Tables { byte: [[0; 256]; 4], low: [[0; 16]; 4], high: [[0; 16]; 4] };
    let mut bucket = 0;
    while bucket < 8 {
        let mut k = 0;
        while k < STEMS[bucket].len() {
            let mut place = 0;
            while place < 4 {
                let mut b = 0;
                while b < 256 {
                    if stands_for(STEMS[bucket][k][place], b as u8) {
                        t.byte[place][b] |= 1 << bucket;
                        t.low[place][b & 15] |= 1 << bucket;
                        t.high[place][b >> 4] |= 1 << bucket;
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

/// Whether a stem begins at `i`.
#[inline]
fn at(s: &[u8], i: usize) -> bool {
    let Some(four) = s[i..].first_chunk::<4>() else { return false };
    let t = &TABLES.byte;
    let buckets = t[0][four[0] as usize] & t[1][four[1] as usize] & t[2][four[2] as usize] & t[3][four[3] as usize];
    buckets != 0 && is_stem(four, buckets)
}

/// The letters of each stem as one number, and which bits of four bytes they are compared with; none for an empty place.
static LETTERS: [[(u32, u32); MOST]; 8] = {
    let mut all = [[(u32::MAX, 0); MOST]; 8];
    let mut bucket = 0;
    while bucket < 8 {
        let mut k = 0;
        while k < STEMS[bucket].len() {
            let (mut value, mut mask) = (0, 0);
            let mut place = 0;
            while place < 4 {
                let class = STEMS[bucket][k][place];
                if !matches!(class, b'?' | b'!' | b'^' | b'#') {
                    // letters in either case
                    let bits = if class.is_ascii_lowercase() { 0xdf } else { 0xff };
                    value |= ((class & bits) as u32) << (8 * place);
                    mask |= (bits as u32) << (8 * place);
                }
                place += 1;
            }
            all[bucket][k] = (value, mask);
            k += 1;
        }
        bucket += 1;
    }
    all
};

/// Most stems of a bucket.
const MOST: usize = 16;

/// A bucket's tables also let through what is made of parts of its stems (`tion`).
fn is_stem(four: &[u8; 4], mut buckets: u8) -> bool {
    let word = u32::from_le_bytes(*four);
    while buckets != 0 {
        let bucket = buckets.trailing_zeros() as usize;
        let alike = LETTERS[bucket].iter().position(|&(value, mask)| word & mask == value);
        if alike.is_some_and(|_| {
            STEMS[bucket].iter().any(|stem| stem.iter().zip(four).all(|(class, b)| stands_for(*class, *b)))
        }) {
            return true;
        }
        buckets &= buckets - 1;
    }
    false
}

/// The first place from `from` on where a stem begins.
#[inline]
pub(crate) fn find(s: &[u8], from: usize) -> Option<usize> {
    #[cfg(target_arch = "x86_64")]
    if is_x86_feature_detected!("avx2") {
        // SAFETY: the processor has AVX2.
        return unsafe { avx2::find(s, from) };
    }
    #[cfg(target_arch = "aarch64")]
    {
        // SAFETY: every AArch64 has NEON.
        return unsafe { neon::find(s, from) };
    }
    #[cfg_attr(target_arch = "aarch64", allow(unreachable_code))]
    by_byte(s, from)
}

fn by_byte(s: &[u8], from: usize) -> Option<usize> {
    (from..s.len().saturating_sub(3)).find(|&i| at(s, i))
}

/// The bytes from `from` on with `N` of them behind each, filled up with zero bytes at the end.
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64"))]
#[inline]
fn window<'a, const N: usize>(s: &'a [u8], from: usize, padded: &'a mut [u8; N]) -> &'a [u8; N] {
    let rest = &s[from..];
    match rest.first_chunk() {
        Some(window) => window,
        None => {
            padded[..rest.len()].copy_from_slice(rest);
            padded
        }
    }
}

#[cfg(target_arch = "x86_64")]
mod avx2 {
    use super::{TABLES, at, window};
    use core::arch::x86_64::*;

    #[target_feature(enable = "avx2")]
    pub(super) fn find(s: &[u8], mut from: usize) -> Option<usize> {
        let table = |t: &[u8; 16]| {
            let word = |k: usize| i64::from_le_bytes(t[k..k + 8].try_into().expect("8 bytes"));
            _mm256_set_epi64x(word(8), word(0), word(8), word(0))
        };
        let half = _mm256_set1_epi8(15);
        let (low, high) = (TABLES.low.each_ref().map(table), TABLES.high.each_ref().map(table));
        while from + 4 <= s.len() {
            let mut padded = [0; 40];
            let bytes: &[u8; 40] = window(s, from, &mut padded);
            let mut found = _mm256_set1_epi8(-1);
            for place in 0..4 {
                let word = |k: usize| i64::from_le_bytes(bytes[place + k..place + k + 8].try_into().expect("8 bytes"));
                let b = _mm256_set_epi64x(word(24), word(16), word(8), word(0));
                let of_low = _mm256_shuffle_epi8(low[place], _mm256_and_si256(b, half));
                let of_high = _mm256_shuffle_epi8(high[place], _mm256_and_si256(_mm256_srli_epi16(b, 4), half));
                found = _mm256_and_si256(found, _mm256_and_si256(of_low, of_high));
            }
            let mut mask = !_mm256_movemask_epi8(_mm256_cmpeq_epi8(found, _mm256_setzero_si256())) as u32;
            while mask != 0 {
                let i = from + mask.trailing_zeros() as usize;
                if i + 4 <= s.len() && at(s, i) {
                    return Some(i);
                }
                mask &= mask - 1;
            }
            from += 32;
        }
        None
    }
}

#[cfg(target_arch = "aarch64")]
mod neon {
    use super::{TABLES, at, window};
    use core::arch::aarch64::*;

    #[target_feature(enable = "neon")]
    pub(super) fn find(s: &[u8], mut from: usize) -> Option<usize> {
        let vector = |bytes: &[u8]| {
            let word = |k: usize| u64::from_le_bytes(bytes[k..k + 8].try_into().expect("8 bytes"));
            vcombine_u8(vcreate_u8(word(0)), vcreate_u8(word(8)))
        };
        let half = vdupq_n_u8(15);
        while from + 4 <= s.len() {
            let mut padded = [0; 24];
            let bytes: &[u8; 24] = window(s, from, &mut padded);
            let mut found = vdupq_n_u8(255);
            for place in 0..4 {
                let b = vector(&bytes[place..place + 16]);
                let of_low = vqtbl1q_u8(vector(&TABLES.low[place]), vandq_u8(b, half));
                let of_high = vqtbl1q_u8(vector(&TABLES.high[place]), vshrq_n_u8(b, 4));
                found = vandq_u8(found, vandq_u8(of_low, of_high));
            }
            if vmaxvq_u8(found) != 0
                && let Some(i) = (from..(from + 16).min(s.len() - 3)).find(|&i| at(s, i))
            {
                return Some(i);
            }
            from += 16;
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_stem_at_every_place() {
        for stem in STEMS.iter().flat_map(|b| b.iter()) {
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
                    assert_eq!(find(&s, 0), Some(before), "{} behind {before} bytes", String::from_utf8_lossy(&text));
                    assert_eq!(find(&s, before + 1), by_byte(&s, before + 1));
                }
            }
        }
        assert_eq!(find(b"User 123 logged in from 10.0.0.7 after 20ms, nothing here", 0), None);
        assert_eq!(find(b"pas", 0), None);
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
            let mut from = 0;
            while let Some(i) = find(&s, from) {
                assert_eq!(Some(i), by_byte(&s, from));
                from = i + 1;
            }
            assert_eq!(by_byte(&s, from.min(s.len())), None);
        }
    }
}
