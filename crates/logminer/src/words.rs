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

/// Words after which a number is an identifier, by their length.
static CUES: [&[&[u8]]; 12] = [
    &[],
    &[],
    &[b"id"],
    &[b"uid", b"gid", b"pid", b"tid", b"job", b"txn"],
    &[b"user", b"euid", b"ppid", b"task"],
    &[b"order", b"child"],
    &[b"thread", b"client", b"device", b"userid", b"worker", b"caller"],
    &[b"session", b"process", b"request", b"account"],
    &[b"customer"],
    &[b"sessionid", b"container"],
    &[],
    &[b"transaction"],
];

/// The lengths of such words, as bits, by the last five bits of their first letter: most other words have none of them.
static CUE_LENGTHS: [u16; 32] = {
    let mut t = [0; 32];
    let mut len = 0;
    while len < CUES.len() {
        let mut i = 0;
        while i < CUES[len].len() {
            t[(CUES[len][i][0] & 31) as usize] |= 1 << len;
            i += 1;
        }
        len += 1;
    }
    t
};

/// Whether a number behind the word is an identifier.
#[inline]
pub(crate) fn is_cue(word: &[u8]) -> bool {
    let [first, .., last] = *word else { return false };
    let listed = CUE_LENGTHS[usize::from(first & 31)].checked_shr(word.len() as u32).is_some_and(|l| l & 1 != 0);
    listed && CUES[word.len()].iter().any(|cue| word.eq_ignore_ascii_case(cue))
        || last | 0x20 == b'd' && matches!(word, [.., b'I', b'd' | b'D'] | [.., b'_', b'i', b'd'])
}
