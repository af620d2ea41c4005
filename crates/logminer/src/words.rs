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
    let mut low = [0u8; 16];
    let Some(low) = low.get_mut(..word.len()) else {
        return word.ends_with(b"Id") || word.ends_with(b"ID") || word.ends_with(b"_id");
    };
    low.copy_from_slice(word);
    low.make_ascii_lowercase();
    matches!(
        &*low,
        b"user"
            | b"id"
            | b"uid"
            | b"gid"
            | b"pid"
            | b"tid"
            | b"euid"
            | b"ppid"
            | b"session"
            | b"process"
            | b"thread"
            | b"job"
            | b"task"
            | b"order"
            | b"request"
            | b"customer"
            | b"account"
            | b"transaction"
            | b"txn"
            | b"client"
            | b"device"
            | b"userid"
            | b"sessionid"
            | b"child"
            | b"worker"
            | b"container"
            | b"caller"
    ) || word.ends_with(b"Id")
        || word.ends_with(b"ID")
        || word.ends_with(b"_id")
}
