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

/// Words after which a number is an identifier.
pub(crate) fn is_cue(word: &[u8]) -> bool {
    let known = |known: &[u8]| word.eq_ignore_ascii_case(known);
    let listed = match word.len() {
        2 => known(b"id"),
        3 => [b"uid", b"gid", b"pid", b"tid", b"job", b"txn"].iter().any(|k| known(*k)),
        4 => [b"user", b"euid", b"ppid", b"task"].iter().any(|k| known(*k)),
        5 => [b"order", b"child"].iter().any(|k| known(*k)),
        6 => [b"thread", b"client", b"device", b"userid", b"worker", b"caller"].iter().any(|k| known(*k)),
        7 => [b"session", b"process", b"request", b"account"].iter().any(|k| known(*k)),
        8 => known(b"customer"),
        9 => known(b"sessionid") || known(b"container"),
        11 => known(b"transaction"),
        _ => false,
    };
    listed || matches!(word, [.., b'I', b'd' | b'D'] | [.., b'_', b'i', b'd'])
}
