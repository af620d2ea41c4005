//! Secrets that need no key: tokens of known form, credentials in addresses and in command lines, private keys.

use super::{
    LOOK, Secret, behind_blanks, is_masked, is_opaque, is_quote, quoted, run, run_before, starts_ignoring_case,
    token_byte, value_end,
};
use crate::forms::is_word;

/// Tokens that are known by how they begin, the least length of each, and the least run of letters and digits in it.
const HEADS: [(&[u8], usize, usize); 51] = [
    (b"AKIA", 20, 16),
    (b"ASIA", 20, 16),
    (b"AIza", 30, 8),
    (b"ghp_", 16, 12),
    (b"gho_", 16, 12),
    (b"ghu_", 16, 12),
    (b"ghs_", 16, 12),
    (b"ghr_", 16, 12),
    (b"github_pat_", 20, 8),
    (b"glpat-", 16, 8),
    (b"gldt-", 16, 8),
    (b"glrt-", 16, 8),
    (b"glptt-", 16, 8),
    (b"glsa_", 20, 8),
    (b"gsk_", 20, 12),
    (b"xoxa-", 14, 8),
    (b"xoxb-", 14, 8),
    (b"xoxc-", 14, 8),
    (b"xoxd-", 14, 8),
    (b"xoxe-", 14, 8),
    (b"xoxe.", 14, 8),
    (b"xoxo-", 14, 8),
    (b"xoxp-", 14, 8),
    (b"xoxr-", 14, 8),
    (b"xoxs-", 14, 8),
    (b"xapp-", 14, 8),
    (b"sk_live_", 16, 8),
    (b"sk_test_", 16, 8),
    (b"rk_live_", 16, 8),
    (b"rk_test_", 16, 8),
    (b"whsec_", 16, 8),
    (b"sk-", 20, 16),
    (b"eyJ", 30, 8),
    (b"hf_", 16, 12),
    (b"hvs.", 16, 8),
    (b"hvb.", 16, 8),
    (b"ya29.", 16, 8),
    (b"npm_", 16, 16),
    (b"pypi-", 16, 16),
    (b"dckr_pat_", 16, 8),
    (b"dop_v1_", 16, 8),
    (b"shpat_", 16, 8),
    (b"shpss_", 16, 8),
    (b"shpca_", 16, 8),
    (b"SG.", 20, 12),
    (b"GOCSPX-", 16, 8),
    (b"nvapi-", 16, 8),
    (b"tskey-", 16, 8),
    (b"dapi", 36, 32),
    (b"ATATT3x", 20, 8),
    (b"AGE-SECRET-KEY-", 20, 12),
];

/// A token of a known form at the stem at `i`.
pub(super) fn known(s: &[u8], i: usize) -> Option<Secret> {
    // the stem may be within the head: `k_li` of `sk_live_`, `_pat` of `github_pat_`
    let start = i - run_before(s, i, 8, |b| b.is_ascii_alphanumeric() || b == b'_');
    for a in [i, start] {
        if a > 0 && is_word(s[a - 1]) {
            continue;
        }
        let Some((head, least, longest)) = HEADS.into_iter().find(|(head, ..)| s[a..].starts_with(head)) else {
            continue;
        };
        let body = a + head.len();
        let end = body + run(s, body, usize::MAX, |b| token_byte(b) || b == b'.');
        let to = end - run_before(s, end, end - body, |b| b == b'.');
        let text = &s[body..to];
        let in_one = text.split(|b| !b.is_ascii_alphanumeric()).map(<[u8]>::len).max().unwrap_or(0);
        let mixed = text.iter().any(|b| b.is_ascii_digit() || b.is_ascii_uppercase());
        if to - a >= least && in_one >= longest && mixed {
            return Secret::of(a, to);
        }
    }
    None
}

/// `Bearer x`, `Basic x` without the name of a header: what looks like a key, or is a name and a password in base64.
pub(super) fn scheme(s: &[u8], i: usize) -> Option<Secret> {
    let name = [&b"bearer"[..], b"basic"].into_iter().find(|w| starts_ignoring_case(&s[i..], w))?;
    if i > 0 && is_word(s[i - 1]) {
        return None;
    }
    let from = behind_blanks(s, i + name.len());
    let v = &s[from..value_end(s, from, LOOK)];
    if from == i + name.len() || v.is_empty() {
        return None;
    }
    let secret = is_masked(v)
        || match name {
            b"basic" => is_credentials(v),
            _ => {
                let marks = v[1..].iter().any(|b| b.is_ascii_uppercase() || b.is_ascii_digit());
                v.len() >= 8
                    && marks
                    && v.iter().all(|&b| token_byte(b) || matches!(b, b'.' | b'+' | b'/' | b'=' | b'~'))
            }
        };
    secret.then(|| Secret::of(from, value_end(s, from, usize::MAX)))?
}

/// Whether base64 text says `name:password`.
fn is_credentials(v: &[u8]) -> bool {
    let digits = &v[..v.len() - run_before(v, v.len(), 2, |b| b == b'=')];
    let value = |b: u8| match b {
        b'A'..=b'Z' => Some(b - b'A'),
        b'a'..=b'z' => Some(b - b'a' + 26),
        b'0'..=b'9' => Some(b - b'0' + 52),
        b'+' | b'-' => Some(62),
        b'/' | b'_' => Some(63),
        _ => None,
    };
    let (mut bits, mut n, mut colon) = (0u32, 0, false);
    for &b in digits {
        let Some(six) = value(b) else { return false };
        bits = bits << 6 | u32::from(six);
        n += 6;
        if n >= 8 {
            n -= 8;
            let byte = (bits >> n) as u8;
            if byte < b' ' || byte == 0x7f {
                return false;
            }
            colon |= byte == b':';
        }
    }
    v.len() >= 4 && colon
}

/// SQL's `IDENTIFIED BY 'x'`, with the name of a method between or not.
pub(super) fn identified(s: &[u8], i: usize) -> Option<Secret> {
    if !starts_ignoring_case(&s[i..], b"identified ") {
        return None;
    }
    let window = &s[i..s.len().min(i + 96)];
    let by = window.windows(4).position(|w| w.eq_ignore_ascii_case(b" by ") || w.eq_ignore_ascii_case(b" as "))?;
    let mut a = behind_blanks(s, i + by + 4);
    if starts_ignoring_case(&s[a..], b"password ") {
        a = behind_blanks(s, a + 9);
    }
    let (from, to) = quoted(s, a)?;
    Secret::of(from, to)
}

/// What FTP and POP3 are told: `command PASS x`, `> PASS x`, `"PASS x"`. At the start of a line it is rather the result of
/// a test.
pub(super) fn command(s: &[u8], i: usize) -> Option<Secret> {
    if !s[i..].starts_with(b"PASS ") {
        return None;
    }
    // not a message within JSON
    let quote = s[..i].ends_with(b"\"") && !matches!(s[..i - 1].trim_ascii_end().last(), Some(b':' | b'=') | None);
    let named = starts_ignoring_case(&s[i.saturating_sub(8)..i], b"command ");
    if !quote && !named && ![&b"> "[..], b"< "].iter().any(|w| s[..i].ends_with(w)) {
        return None;
    }
    let from = i + 5;
    let to = value_end(s, from, usize::MAX);
    let v = &s[from..to.min(from + LOOK)];
    let last = matches!(s.get(behind_blanks(s, to)), None | Some(b'\r' | b'\n'));
    // `command PASS failed: …`
    let said = v.iter().all(|b| b.is_ascii_lowercase() || *b == b':');
    let ends = if quote { matches!(s.get(to), Some(b'"' | b'\\')) } else { last || named && !said };
    // of a test: its file, the number of them
    let number = v.len() < 6 && v.iter().all(u8::is_ascii_digit);
    let told = v.len() < 4 || number || v.contains(&b'/') || v.starts_with(b"(");
    (ends && (!told || is_masked(v))).then(|| Secret::of(from, to))?
}

/// Options of commands that take a password without naming it: `curl -u user:x`, `mysql -px`, `sshpass -p x`.
pub(super) fn option(s: &[u8], i: usize) -> Option<Secret> {
    let near = i.saturating_sub(256);
    let line = s[near..i].iter().rposition(|b| *b == b'\n').map_or(near, |n| near + n + 1);
    let called = |names: &[&[u8]]| names.iter().any(|n| s[line..i].windows(n.len()).any(|w| w == *n));
    let at = |a: usize| a + usize::from(s.get(a).is_some_and(|b| is_quote(*b)));
    if s[i..].starts_with(b" -u ") {
        let a = at(i + 4);
        let colon = a + s[a..value_end(s, a, LOOK)].iter().position(|b| *b == b':')?;
        return called(&[b"curl", b"wget", b"http"]).then(|| Secret::of(colon + 1, value_end(s, a, usize::MAX)))?;
    }
    if s[i..].starts_with(b" --user") && matches!(s.get(i + 7), Some(b' ' | b'=')) {
        let a = at(i + 8);
        let to = value_end(s, a, usize::MAX);
        let colon = a + s[a..to.min(a + LOOK)].iter().position(|b| *b == b':')?;
        return called(&[b"curl"]).then(|| Secret::of(colon + 1, to))?;
    }
    if !s[i..].starts_with(b" -p") {
        return None;
    }
    let blank = s.get(i + 3) == Some(&b' ');
    if blank && !called(&[b"sshpass", b"docker login", b"podman login"])
        || !blank && (s[i + 3..].starts_with(b"ort") || !called(&[b"mysql", b"mariadb", b"sshpass"]))
    {
        return None;
    }
    let a = at(i + 3 + usize::from(blank));
    Secret::of(a, value_end(s, a, usize::MAX))
}

/// `-----BEGIN … PRIVATE KEY-----` to its end, or to the end of the line when that is not there.
pub(super) fn private_key(s: &[u8], i: usize) -> Option<Secret> {
    let dashes = run_before(s, i, 8, |b| b == b'-');
    let head = &s[i..s.len().min(i + 64)];
    if dashes < 4 || !starts_ignoring_case(head, b"-begin ") || !head.windows(11).any(|w| w == b"PRIVATE KEY") {
        return None;
    }
    let to = match s[i..].windows(9).position(|w| w == b"-----END ") {
        Some(n) => {
            let end = i + n + 9;
            let text = end + run(s, end, 64, |b| b.is_ascii_alphanumeric() || b == b' ');
            text + run(s, text, 8, |b| b == b'-')
        }
        None => s.len(),
    };
    Secret::of(i - dashes, to)
}

/// A line of a private key by itself: nothing but base64 as long as its lines are.
#[inline]
pub(super) fn key_body(s: &[u8]) -> Option<Secret> {
    // all but few lines have a blank among their last bytes, which shall be all that is asked of them
    let tail = s.last_chunk::<64>()?;
    if tail[32..].iter().fold(false, |any, b| any | (*b == b' ')) {
        return None;
    }
    key_line(s)
}

#[inline(never)]
fn key_line(s: &[u8]) -> Option<Secret> {
    let of_length = |n: usize| {
        let from = s.len().checked_sub(n)?;
        let alone = from == 0 || s[from - 1] == b' ';
        let base64 = |b: &u8| b.is_ascii_alphanumeric() || matches!(b, b'+' | b'/' | b'=');
        if !alone || !s[from..].iter().rev().all(base64) {
            return None;
        }
        let v = &s[from..];
        let any = |f: fn(&u8) -> bool| v.iter().any(f);
        (any(u8::is_ascii_digit) && any(u8::is_ascii_uppercase) && any(u8::is_ascii_lowercase))
            .then(|| Secret::of(from, s.len()))?
    };
    [64, 70, 76].into_iter().find_map(of_length)
}

/// The password of `scheme://user:password@host`, to the last `@` before the host; or a token in the place of the user.
pub(super) fn userinfo(s: &[u8], i: usize) -> Option<Secret> {
    if i == 0 || !s[i - 1].is_ascii_alphanumeric() || s.get(i + 2) != Some(&b'/') {
        return None;
    }
    let a = i + 3;
    let end = a + run(s, a, 2048, |b| b > b' ' && !matches!(b, b'"' | b'\'' | b'<' | b'>' | b'`'));
    let query = s[a..end].iter().position(|b| *b == b'?').map_or(end, |n| a + n);
    let at = a + s[a..query].iter().rposition(|b| *b == b'@')?;
    match s[a..at].iter().position(|b| *b == b':').map(|n| a + n) {
        Some(colon) => {
            // `//host/a:b@c` and `//host:80/@name` hold none
            let before = &s[a..colon];
            let first = colon + 1 + run(&s[..at], colon + 1, LOOK, |b| b != b'/');
            let port = first < at && s[colon + 1..first].iter().all(u8::is_ascii_digit);
            (!before.contains(&b'/') && !port).then(|| Secret::of(colon + 1, at))?
        }
        None => (at - a >= 20 && is_opaque(&s[a..at])).then(|| Secret::of(a, at))?,
    }
}

/// `user:password@tcp(host)/database`, as Go names a database.
pub(super) fn data_source(s: &[u8], i: usize) -> Option<Secret> {
    if ![&b"@tcp("[..], b"@unix(", b"@udp("].into_iter().any(|w| s[i..].starts_with(w)) {
        return None;
    }
    let start = i - run_before(s, i, 256, |b| b > b' ' && !matches!(b, b'"' | b'\'' | b'`' | b'='));
    let start = s[start..i].windows(2).position(|w| w == b"//").map_or(start, |n| start + n + 2);
    let colon = start + s[start..i].iter().position(|b| *b == b':')?;
    Secret::of(colon + 1, i)
}

/// A Telegram bot's token: `123456789:AA…`.
pub(super) fn telegram(s: &[u8], i: usize) -> Option<Secret> {
    let digits = run_before(s, i, 13, |b| b.is_ascii_digit());
    let rest = run(s, i + 1, 256, token_byte);
    let mixed = s[i + 1..i + 1 + rest].iter().any(u8::is_ascii_lowercase);
    ((6..=12).contains(&digits) && rest >= 30 && mixed).then(|| Secret::of(i - digits, i + 1 + rest))?
}

/// The secret part of a webhook's address.
pub(super) fn webhook(s: &[u8], i: usize) -> Option<Secret> {
    const HOOKS: [&[u8]; 3] = [b"hooks.slack.com/services/", b"hooks.slack.com/workflows/", b"hooks/"];
    let head = HOOKS.into_iter().find(|head| s[i..].starts_with(head))?;
    // Discord's `…/api/webhooks/1/x`
    if head.len() < 10 && (i < 9 || !s[..i].ends_with(b"/api/web")) {
        return None;
    }
    let from = i + head.len();
    Secret::of(from, from + run(s, from, usize::MAX, |b| token_byte(b) || b == b'/'))
}
