//! Values that are secret by the name of their key.
//!
//! A key says so by its last words. Names of which prose is made as well (`token`, `pin`, `key`) want a value that looks like a secret, and
//! every name wants a separator, the dashes of an option or quotes: `password is wrong` and `token expired` hold none.

use super::{
    LOOK, Secret, behind_blanks, bracket_end, is_masked, is_opaque, is_quote, quoted, run, run_before,
    starts_ignoring_case, token_byte, value_end,
};

/// What a key's value must be like to be secret.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wants {
    /// Anything but nothing, true, false and what prose says of a password.
    Any,
    /// No count, and no plain word behind a colon and a blank.
    Value,
    /// What looks like a key.
    Opaque,
    /// An authorization: a scheme and what it takes.
    Authorization,
    /// Cookies up to the end of the line.
    Cookie,
}

use Wants::{Any, Authorization, Cookie, Opaque, Value};

/// Names at the end of a key, joined; `true` when they must begin a word of it (`compass` names no `pass`).
static NAMES: [(&[u8], bool, Wants); 66] = [
    (b"password", false, Any),
    (b"passwd", false, Any),
    (b"passwort", false, Any),
    (b"passphrase", false, Any),
    (b"passcode", false, Any),
    (b"passkey", false, Any),
    (b"passwordhash", false, Any),
    (b"pwd", false, Any),
    (b"pw", true, Any),
    (b"bindpw", false, Any),
    (b"rootpw", false, Any),
    (b"userpw", false, Any),
    (b"dbpw", false, Any),
    (b"adminpw", false, Any),
    (b"secret", false, Any),
    (b"secretid", false, Any),
    (b"secretvalue", false, Any),
    (b"apikey", false, Any),
    (b"accesskey", false, Any),
    (b"accesskeyid", false, Any),
    (b"secretkey", false, Any),
    (b"privatekey", false, Any),
    (b"privkey", false, Any),
    (b"accountkey", false, Any),
    (b"authkey", false, Any),
    (b"encryptionkey", false, Any),
    (b"enckey", true, Any),
    (b"networkkey", false, Any),
    (b"signingkey", false, Any),
    (b"masterkey", false, Any),
    (b"sharedkey", false, Any),
    (b"presharedkey", false, Any),
    (b"storagekey", false, Any),
    (b"licensekey", false, Any),
    (b"clientkey", false, Any),
    (b"subscriptionkey", false, Any),
    (b"credential", false, Any),
    (b"creds", true, Any),
    (b"psk", true, Any),
    (b"cvv", true, Any),
    (b"cvc", true, Any),
    (b"authorization", false, Authorization),
    (b"cookie", false, Cookie),
    (b"token", false, Value),
    (b"pass", true, Value),
    (b"userpass", false, Value),
    (b"dbpass", false, Value),
    (b"otp", true, Value),
    (b"pin", true, Value),
    (b"pincode", true, Value),
    (b"passcodes", false, Value),
    (b"jwt", true, Value),
    (b"authcode", false, Value),
    (b"sessionid", false, Value),
    (b"sessid", false, Value),
    (b"sessionkey", false, Any),
    (b"sessioncookie", false, Value),
    (b"ssn", true, Value),
    (b"bearer", true, Opaque),
    (b"signature", false, Opaque),
    (b"sig", true, Opaque),
    (b"auth", true, Opaque),
    (b"sid", true, Opaque),
    (b"key", true, Opaque),
    (b"session", true, Opaque),
    (b"hmac", true, Opaque),
];

/// The names that end in a letter, as bits, by the last five bits of it: few do in any.
static NAMES_BY_END: [u128; 32] = {
    let mut t = [0; 32];
    let mut i = 0;
    while i < NAMES.len() {
        let name = NAMES[i].0;
        t[(name[name.len() - 1] & 31) as usize] |= 1 << i;
        i += 1;
    }
    t
};

/// Longest name that is looked at, in letters and digits.
const LONGEST: usize = 24;

/// Whether a word begins at each letter of a name that is one word in small letters.
static ONE_WORD: [bool; LONGEST] = {
    let mut t = [false; LONGEST];
    t[0] = true;
    t
};

/// The last letters and digits of a key, in lower case, without what joins words and without a number behind the last one; and whether a word
/// of it begins at each.
#[inline(always)]
fn name_of<'a>(key: &'a [u8], name: &'a mut [u8; LONGEST], begins: &'a mut [bool; LONGEST]) -> (&'a [u8], &'a [bool]) {
    // most are one word, which needs no copy
    if key.len() <= LONGEST && key.iter().all(u8::is_ascii_lowercase) {
        return (key, &ONE_WORD[..key.len()]);
    }
    let mut at = LONGEST;
    for (i, &b) in key.iter().enumerate().rev() {
        if !b.is_ascii_alphanumeric() || at == LONGEST && b.is_ascii_digit() {
            continue;
        }
        if at == 0 {
            break;
        }
        at -= 1;
        name[at] = b.to_ascii_lowercase();
        let before = i.checked_sub(1).map_or(0, |k| key[k]);
        begins[at] = !before.is_ascii_alphabetic() || b.is_ascii_uppercase() && before.is_ascii_lowercase();
    }
    (&name[at..], &begins[at..])
}

/// What the value of a key with this name must be like, and whether the name is a plural; `None` when it is no secret's.
pub(crate) fn wanted(key: &[u8]) -> Option<(Wants, bool)> {
    let (mut name, mut begins) = ([0; LONGEST], [false; LONGEST]);
    let (name, begins) = name_of(key, &mut name, &mut begins);
    let find = |name: &[u8]| {
        let of = |&(word, whole, _): &(&[u8], bool, Wants)| {
            name.ends_with(word) && (!whole || begins[name.len() - word.len()])
        };
        let mut ending = NAMES_BY_END[usize::from(*name.last()? & 31)];
        while ending != 0 {
            let found = &NAMES[ending.trailing_zeros() as usize];
            if of(found) {
                return Some(found.2);
            }
            ending &= ending - 1;
        }
        None
    };
    // sudo's NOPASSWD
    if name.ends_with(b"nopasswd") || name.ends_with(b"nopassword") {
        return None;
    }
    match name {
        [one @ .., b's'] if find(one).is_some() => find(one).map(|wants| (wants, true)),
        _ => find(name).map(|wants| (wants, name.ends_with(b"creds"))),
    }
}

static KEY_BYTES: [bool; 256] = {
    let mut t = [false; 256];
    let mut b = 0;
    while b < 256 {
        t[b] = token_byte(b as u8) || b == b'.' as usize;
        b += 1;
    }
    t
};

#[inline(always)]
pub(super) fn key_byte(b: u8) -> bool {
    KEY_BYTES[b as usize]
}

/// Whether a stem is one of a name and of nothing else.
#[inline(always)]
pub(super) fn is_name(s: &[u8]) -> bool {
    const fn three(name: &[u8; 3]) -> u32 {
        u32::from_le_bytes([name[0], name[1], name[2], 0])
    }
    // no other stem has one of these heads
    const HEADS: [u32; 9] = [
        three(b"PAS"),
        three(b"TOK"),
        three(b"UTH"),
        three(b"THO"),
        three(b"HCO"),
        three(b"SIG"),
        three(b"SEC"),
        three(b"CRE"),
        three(b"SES"),
    ];
    s.first_chunk().is_some_and(|four| HEADS.contains(&(u32::from_le_bytes(*four) & 0x00df_dfdf)))
}

/// What prose has between a password and its value. See [`may_be_key`].
const VERBS: [&[u8]; 7] = [b"is: ", b"is ", b"was ", b"set to ", b"to ", b"by ", b"as "];

/// Bytes behind a key and blanks: [`SEPARATES`], or the first letter of one of [`VERBS`].
static BEHIND: [u8; 256] = {
    let mut t = [0; 256];
    let separators = b"=:%>(\"'`\\]*";
    let mut i = 0;
    while i < separators.len() {
        t[separators[i] as usize] = SEPARATES;
        i += 1;
    }
    i = 0;
    while i < VERBS.len() {
        t[VERBS[i][0] as usize] = BEGINS_VERB;
        t[VERBS[i][0].to_ascii_uppercase() as usize] = BEGINS_VERB;
        i += 1;
    }
    t
};
const SEPARATES: u8 = 1;
const BEGINS_VERB: u8 = 2;

/// Whether what is behind the word that ends at `end` may make it a key: most words of prose have a blank and a letter there.
#[inline(always)]
fn may_be_key(s: &[u8], start: usize, end: usize, i: usize) -> bool {
    let next = s.get(behind_blanks(s, end)).map_or(0, |&b| BEHIND[usize::from(b)]);
    next == SEPARATES
        || s[start] == b'-'
        || is_directive(&s[start..end])
        || is_tag(s, start)
        // `password is x7`: the first letter of what may stand between
        || next == BEGINS_VERB && s[i] | 0x20 == b'p'
}

/// Whether a word of the configuration of LDAP has a password behind a blank.
fn is_directive(word: &[u8]) -> bool {
    [&b"bindpw"[..], b"rootpw"].iter().any(|w| word.eq_ignore_ascii_case(w))
}

/// Whether the key at `start` is the name of an XML element that opens, perhaps with that of its namespace before it.
fn is_tag(s: &[u8], start: usize) -> bool {
    match start.checked_sub(1).map(|k| s[k]) {
        Some(b'<') => true,
        Some(b':') => {
            let space = run_before(s, start - 1, 64, key_byte);
            (start - 1 - space).checked_sub(1).is_some_and(|k| s[k] == b'<')
        }
        _ => false,
    }
}

/// The value of the key in which the stem at `i` lies.
pub(super) fn keyed(s: &[u8], i: usize) -> Option<Secret> {
    let mut start = i - run_before(s, i, 64, key_byte);
    let end = i + run(s, i, 64, key_byte);
    if start == end || !may_be_key(s, start, end, i) {
        return None;
    }
    let dashes = run(s, start, 64, |b| b == b'-');
    start += dashes;
    let (wants, many) = wanted(s.get(start..end)?)?;
    let key = Key { s, start, dashes, wants, many };
    let byte = |i: usize| s.get(i).copied().unwrap_or(0);
    let closed = end + run(s, end, 32, |b| matches!(b, b'\\' | b'"' | b'\'' | b'`' | b']'));
    let quotes = closed > end;
    let j = behind_blanks(s, closed);
    match byte(j) {
        b'=' if matches!(byte(j + 1), b'=' | b'~') => None,
        b'=' => key.value(j + 1 + usize::from(byte(j + 1) == b'>'), false),
        // base64 in LDIF; `Session::start`
        b':' if byte(j + 1) == b':' && byte(j + 2) == b' ' => key.value(j + 2, true),
        b':' if byte(j + 1) == b':' || s[j..].starts_with(b"://") => None,
        b':' if byte(j + 1) == b'=' => key.value(j + 2, false),
        b':' => key.value(j + 1, !quotes && matches!(byte(j + 1), b' ' | b'\t' | 0)),
        b'%' => key.encoded(j),
        b'>' if key.is_tag() => key.element(j + 1),
        b'(' if j == end && matches!(wants, Any) && is_quote(byte(j + 1)) => {
            // PASSWORD('x')
            let (from, to) = quoted(s, j + 1)?;
            Secret::of(from, to)
        }
        _ => key.named_value(closed, quotes).or_else(|| key.attributes(j)).or_else(|| key.without_separator(end)),
    }
}

/// Values that say that there is none.
const NOTHING: [&[u8]; 17] = [
    b"true",
    b"false",
    b"null",
    b"none",
    b"nil",
    b"yes",
    b"no",
    b"on",
    b"off",
    b"0",
    b"1",
    b"undefined",
    b"(null)",
    b"<none>",
    b"<nil>",
    // what PAM says of passwd
    b"chauthtok",
    b"auth",
];

/// What prose says behind `password:`, be it of the password or of who asks for it.
const SAID: [&[u8]; 96] = [
    b"wrong",
    b"incorrect",
    b"invalid",
    b"expired",
    b"missing",
    b"required",
    b"empty",
    b"blank",
    b"too",
    b"must",
    b"not",
    b"is",
    b"was",
    b"are",
    b"were",
    b"failed",
    b"failure",
    b"fail",
    b"changed",
    b"change",
    b"changing",
    b"accepted",
    b"rejected",
    b"denied",
    b"unknown",
    b"reset",
    b"ok",
    b"okay",
    b"does",
    b"do",
    b"did",
    b"cannot",
    b"can",
    b"can't",
    b"could",
    b"has",
    b"have",
    b"had",
    b"will",
    b"should",
    b"may",
    b"the",
    b"a",
    b"an",
    b"for",
    b"mismatch",
    b"mismatched",
    b"correct",
    b"weak",
    b"strong",
    b"set",
    b"unset",
    b"updated",
    b"needed",
    b"authentication",
    b"password",
    b"passwords",
    b"permission",
    b"connection",
    b"error",
    b"files",
    b"locked",
    b"user",
    b"username",
    b"unauthorized",
    b"forbidden",
    b"please",
    b"enter",
    b"try",
    b"use",
    b"using",
    b"this",
    b"that",
    b"your",
    b"and",
    b"or",
    b"in",
    b"on",
    b"at",
    b"of",
    b"to",
    b"from",
    b"with",
    b"by",
    b"if",
    b"when",
    b"old",
    b"new",
    b"same",
    b"provided",
    b"given",
    b"found",
    b"length",
    b"minimum",
    b"key",
    b"value",
];

/// Whether a value of a secret's key is secret itself; `prose`: a colon and a blank are before it, as in a sentence.
fn accepts(wants: Wants, many: bool, name: &[u8], v: &[u8], prose: bool) -> bool {
    if v.is_empty() || NOTHING.iter().any(|w| v.eq_ignore_ascii_case(w)) {
        return false;
    }
    if is_masked(v) {
        return true;
    }
    let word = v.trim_ascii_end();
    let word = &word[..word.len() - run_before(word, word.len(), 3, |b| matches!(b, b'.' | b',' | b'!' | b';' | b':'))];
    let said = prose && (word.is_empty() || SAID.iter().any(|w| word.eq_ignore_ascii_case(w)));
    let number = v.iter().all(|b| b.is_ascii_digit() || matches!(b, b'.' | b',' | b'/' | b'%' | b':' | b'-' | b'+'));
    match wants {
        // PWD=/root is where a shell is
        Any => {
            let directory = v[0] == b'/'
                && (v.len() == 1 || name.len() >= 3 && name[name.len() - 3..].eq_ignore_ascii_case(b"pwd"));
            !(said || directory || many && number)
        }
        Opaque => is_opaque(v),
        Value | Authorization | Cookie => {
            let plain = |b: &u8| b.is_ascii_lowercase() || matches!(b, b'-' | b'\'' | b'_');
            let prosaic = prose && word.iter().skip(1).all(plain) && word.first().is_some_and(u8::is_ascii_alphabetic);
            let count = number && (many || v.len() < 4 || !v.iter().all(u8::is_ascii_digit));
            v.len() >= 3 && !count && !is_object(v) && !v.starts_with(b"0x") && !prosaic && !said
        }
    }
}

/// Whether a value is what a program prints of an object: `Token{1f2e user=…`, `org.example.Token@1f2e`.
fn is_object(v: &[u8]) -> bool {
    let name = run(v, 0, LOOK, |b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'$'));
    match v.get(name) {
        Some(b'{') => name > 0,
        Some(b'@') => {
            v[..name].contains(&b'.') && v.len() > name + 1 && v[name + 1..].iter().all(u8::is_ascii_hexdigit)
        }
        _ => false,
    }
}

/// Whether text begins with a scheme and the hash of a password: `{SSHA}x`.
fn is_hash(s: &[u8]) -> bool {
    let close = 1 + run(s, 1, 24, token_byte);
    let next = s.get(close + 1).copied().unwrap_or(0);
    s[0] == b'{'
        && close > 1
        && s[close..].first() == Some(&b'}')
        && (next.is_ascii_alphanumeric() || matches!(next, b'+' | b'/' | b'$'))
}

/// A key that has a secret's name.
struct Key<'a> {
    s: &'a [u8],
    start: usize,
    /// Dashes before it: an option of a command line.
    dashes: usize,
    wants: Wants,
    many: bool,
}

impl Key<'_> {
    fn name(&self) -> &[u8] {
        &self.s[self.start..self.start + run(self.s, self.start, 64, key_byte)]
    }

    fn accepts(&self, v: &[u8], prose: bool) -> bool {
        accepts(self.wants, self.many, self.name(), v, prose)
    }

    fn before(&self) -> u8 {
        self.start.checked_sub(1 + self.dashes).map_or(0, |k| self.s[k])
    }

    /// The value that begins at `from` and has no quotes.
    fn bare(&self, from: usize, prose: bool) -> Option<Secret> {
        let seen = value_end(self.s, from, LOOK);
        if !self.accepts(&self.s[from..seen], prose) {
            return None;
        }
        Secret::of(from, value_end(self.s, seen, usize::MAX))
    }

    fn between(&self, (from, to): (usize, usize)) -> Option<Secret> {
        self.accepts(&self.s[from..to], false).then(|| Secret::of(from, to))?
    }

    /// The value behind the separator that ends at `i`.
    fn value(&self, i: usize, prose: bool) -> Option<Secret> {
        let s = self.s;
        let from = behind_blanks(s, i);
        // `/etc/passwd: Permission denied`
        if prose && matches!(self.before(), b'/' | b'\\') {
            return None;
        }
        if let Some((from, to)) = quoted(s, from) {
            return match self.wants {
                Authorization => self.authorization(from, to, false),
                _ => self.between((from, to)),
            };
        }
        if matches!(s.get(from), Some(b'[' | b'{')) && !is_hash(&s[from..]) {
            return self.many_values(from);
        }
        match self.wants {
            Authorization => self.authorization(from, self.line_end(from), prose),
            Cookie => {
                let to = if prose { self.line_end(from) } else { value_end(s, from, usize::MAX) };
                let seen = &s[from..to.min(from + LOOK)];
                (seen.contains(&b'=') || is_masked(seen)).then(|| Secret::of(from, to))?
            }
            _ => self.bare(from, prose),
        }
    }

    /// The end of the line or of the quotes that the key begins.
    fn line_end(&self, from: usize) -> usize {
        let quote = Some(self.before()).filter(|q| is_quote(*q));
        from + run(self.s, from, usize::MAX, |b| !matches!(b, b'\n' | b'\r') && Some(b) != quote)
    }

    /// An array or an object.
    fn many_values(&self, a: usize) -> Option<Secret> {
        let s = self.s;
        if self.wants == Opaque || self.wants != Any && s[a] == b'{' {
            return None;
        }
        let seen = &s[a + 1..bracket_end(s, a, LOOK).max(a + 1)];
        let counts = !seen.iter().any(|b| b.is_ascii_alphabetic() || is_quote(*b)) && !seen.contains(&b'*');
        if seen.trim_ascii().is_empty() || counts && self.wants != Any {
            return None;
        }
        Secret::of(a + 1, bracket_end(s, a, usize::MAX))
    }

    /// `Bearer x`, `Digest a=b, c=d`, or one word.
    fn authorization(&self, from: usize, to: usize, prose: bool) -> Option<Secret> {
        const ONE: [&[u8]; 11] = [
            b"bearer",
            b"basic",
            b"token",
            b"apikey",
            b"api-key",
            b"negotiate",
            b"ntlm",
            b"splunk",
            b"key",
            b"jwt",
            b"bot",
        ];
        let s = self.s;
        let word = from + run(&s[..to], from, LOOK, token_byte);
        let next = behind_blanks(s, word);
        if next > word && next < to {
            if ONE.iter().any(|w| s[from..word].eq_ignore_ascii_case(w)) {
                let end = value_end(s, next, usize::MAX).min(to);
                let said = prose && SAID.iter().any(|w| s[next..end].eq_ignore_ascii_case(w));
                return if said { None } else { Secret::of(next, end) };
            }
            // several of them, or what stands for them
            if s[next..to.min(next + LOOK)].contains(&b'=') || is_masked(&s[next..to]) {
                return Secret::of(next, to);
            }
        }
        let to = value_end(s, from, usize::MAX).min(to);
        self.accepts(&s[from..to], prose).then(|| Secret::of(from, to))?
    }

    /// `password%3Dx%26`, `%22password%22%3A%22x%22`: a query or JSON within a query.
    fn encoded(&self, i: usize) -> Option<Secret> {
        let s = self.s;
        let behind_quote = |i: usize| i + if s[i..].starts_with(b"%22") { 3 } else { 0 };
        let separator = behind_quote(i);
        if ![&b"%3d"[..], b"%3a"].into_iter().any(|w| starts_ignoring_case(&s[separator..], w)) {
            return None;
        }
        let from = behind_quote(separator + 3);
        let end = value_end(s, from, usize::MAX);
        let to = s[from..end]
            .windows(3)
            .position(|w| matches!(w, b"%26" | b"%22" | b"%2C" | b"%2c"))
            .map_or(end, |n| from + n);
        self.between((from, to))
    }

    fn is_tag(&self) -> bool {
        self.dashes == 0 && is_tag(self.s, self.start)
    }

    /// The text of an element, from `from` on.
    fn element(&self, from: usize) -> Option<Secret> {
        let s = self.s;
        let until = |most: usize| {
            let end = s.len().min(from.saturating_add(most));
            s[from..end].windows(2).position(|w| w == b"</").map_or(end, |n| from + n)
        };
        self.accepts(s[from..until(LOOK)].trim_ascii(), false).then(|| Secret::of(from, until(usize::MAX)))?
    }

    /// `<password type="text">x</password>`: the element's text behind attributes that begin at `i`.
    fn attributes(&self, i: usize) -> Option<Secret> {
        if !self.is_tag() {
            return None;
        }
        let inside = run(self.s, i, 256, |b| !matches!(b, b'<' | b'>' | b'\n'));
        let close = i + inside;
        (self.s.get(close) == Some(&b'>') && self.s[close - 1] != b'/').then(|| self.element(close + 1))?
    }

    /// `name="password" value="x"`, `"name":"DB_PASSWORD","value":"x"`: a key that is a value itself, and `value` behind it.
    fn named_value(&self, closed: usize, quotes: bool) -> Option<Secret> {
        let s = self.s;
        if !quotes {
            return None;
        }
        let word = closed + run(s, closed, 16, |b| matches!(b, b' ' | b',' | b'"' | b'\'' | b'\\' | b'\n'));
        if word == closed || !starts_ignoring_case(&s[word.min(s.len())..], b"value") {
            return None;
        }
        let end = word + 5;
        let j = end + run(s, end, 8, |b| matches!(b, b'\\' | b'"' | b'\'' | b' '));
        (matches!(s.get(j), Some(b'=' | b':'))).then(|| self.value(j + 1, false))?
    }

    /// `--password x`, `bindpw x`, `PASSWORD 'x'`, `password is x7`.
    fn without_separator(&self, end: usize) -> Option<Secret> {
        let s = self.s;
        if self.dashes > 0 && self.wants != Opaque {
            if !matches!(self.before(), 0 | b' ' | b'"' | b'\'' | b'[' | b',') {
                return None;
            }
            // a list of arguments has quotes and commas between
            let a = end + run(s, end, 16, |b| matches!(b, b' ' | b'"' | b'\'' | b','));
            if a == end || matches!(s.get(a), None | Some(b'-')) {
                return None;
            }
            return if is_quote(s[a - 1]) { self.between(quoted(s, a - 1)?) } else { self.bare(a, false) };
        }
        if is_directive(self.name()) && s.get(end).is_some_and(|b| matches!(b, b' ' | b'\t')) {
            return self.value(end, true);
        }
        let word = |w: &[u8]| {
            let name = self.name();
            name.len() >= w.len() && name[name.len() - w.len()..].eq_ignore_ascii_case(w)
        };
        let password = [&b"password"[..], b"passwd", b"passphrase", b"pwd", b"passcode"].into_iter().any(word);
        if !password || s.get(end) != Some(&b' ') {
            return None;
        }
        let a = behind_blanks(s, end);
        if matches!(s.get(a), Some(b'\'' | b'"')) {
            let (from, to) = quoted(s, a)?;
            return Secret::of(from, to);
        }
        let verb = VERBS.into_iter().find(|v| starts_ignoring_case(&s[a..], v))?;
        let from = behind_blanks(s, a + verb.len());
        if matches!(s.get(from), Some(b'\'' | b'"')) {
            let (from, to) = quoted(s, from)?;
            return Secret::of(from, to);
        }
        // without quotes only what is no word
        let to = value_end(s, from, LOOK);
        let v = &s[from..to];
        let mixed = v.iter().any(u8::is_ascii_alphabetic)
            && v[..v.len() - 1]
                .iter()
                .any(|b| b.is_ascii_digit() || matches!(b, b'!' | b'$' | b'#' | b'@' | b'%' | b'^' | b'&' | b'*'));
        (is_masked(v) || v.len() >= 6 && mixed).then(|| Secret::of(from, value_end(s, to, usize::MAX)))?
    }
}

/// Whether a value of an object is a secret by its key, whatever the value holds: a string, or a number as its text.
pub(crate) fn is_secret_value(key: &str, value: &str) -> bool {
    wanted(key.as_bytes()).is_some_and(|(wants, many)| accepts(wants, many, key.as_bytes(), value.as_bytes(), false))
}

/// Whether everything within an object or array is a secret by its key.
pub(crate) fn hides_all(key: &str) -> bool {
    matches!(wanted(key.as_bytes()), Some((Any | Authorization | Cookie, _)))
}
