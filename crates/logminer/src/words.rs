//! Words that say what stands beside them.

/// Words for the two positions of a switch that are also words of sentences.
pub(crate) fn is_switch(w: &[u8]) -> bool {
    matches!(w, b"on" | b"off" | b"yes" | b"no" | b"On" | b"Off" | b"Yes" | b"No" | b"ON" | b"OFF" | b"YES" | b"NO")
}

pub(crate) fn is_identity_key(key: &[u8]) -> bool {
    matches!(
        key,
        b"user"
            | b"username"
            | b"login"
            | b"account"
            | b"host"
            | b"hostname"
            | b"rhost"
            | b"name"
            | b"email"
            | b"from"
            | b"to"
            | b"ctladdr"
    )
}

/// Words after which a number is an identifier, by their first letter.
const fn cues(first: u8) -> &'static [&'static [u8]] {
    match first {
        b'a' => &[b"account"],
        b'c' => &[b"child", b"client", b"caller", b"customer", b"container"],
        b'd' => &[b"device"],
        b'e' => &[b"euid"],
        b'g' => &[b"gid"],
        b'i' => &[b"id"],
        b'j' => &[b"job"],
        b'o' => &[b"order"],
        b'p' => &[b"pid", b"ppid", b"process"],
        b'r' => &[b"request"],
        b's' => &[b"session", b"sessionid"],
        b't' => &[b"tid", b"txn", b"task", b"thread", b"transaction"],
        b'u' => &[b"uid", b"user", b"userid"],
        b'w' => &[b"worker"],
        _ => &[],
    }
}

/// The lengths of such words, as bits, by the last five bits of their first letter: most other words have none of them.
static CUE_LENGTHS: [u16; 32] = {
    let mut t = [0; 32];
    let mut letter = b'a';
    while letter <= b'z' {
        let cues = cues(letter);
        let mut i = 0;
        while i < cues.len() {
            t[(letter & 31) as usize] |= 1 << cues[i].len();
            i += 1;
        }
        letter += 1;
    }
    t
};

/// Whether a number behind the word is an identifier.
#[inline(always)]
pub(crate) fn is_cue(word: &[u8]) -> bool {
    let [first, .., last] = *word else { return false };
    let may_be_one = CUE_LENGTHS[usize::from(first & 31)].checked_shr(word.len() as u32).is_some_and(|l| l & 1 != 0);
    may_be_one && is_listed(word)
        || last | 0x20 == b'd' && matches!(word, [.., b'I', b'd' | b'D'] | [.., b'_', b'i', b'd'])
}

#[inline(never)]
fn is_listed(word: &[u8]) -> bool {
    // of all bytes only the letter in either case becomes a small letter so
    let same = |cue: &&[u8]| cue.len() == word.len() && cue.iter().zip(word).all(|(c, w)| *c == w | 0x20);
    word.first().is_some_and(|first| cues(first | 0x20).iter().any(same))
}
