//! Where the secrets of a line are: tokens, keys, passwords, e-mail addresses. Pure functions of the line.
//!
//! A key says that its value is secret by its last words. Names of which prose is made as well (`token`, `pin`, `key`) want a value that
//! looks like one, and every name wants a separator, an option's dashes or quotes: `password is wrong` holds no secret.

use crate::forms::is_word;
use crate::kind::Kind;
use crate::stems;

/// A part of a line that must not be shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Secret {
    /// Its first byte.
    pub from: usize,
    /// Behind its last.
    pub to: usize,
    /// What it becomes in a shape.
    pub kind: Kind,
}

impl Secret {
    fn of(from: usize, to: usize) -> Option<Self> {
        (to > from).then_some(Self { from, to, kind: Kind::Secret })
    }
}

/// The secrets of a line, in order; they do not overlap.
pub(crate) fn secrets(s: &[u8]) -> Vec<Secret> {
    let mut found: Vec<Secret> = Vec::new();
    let mut i = 0;
    while let Some(at) = stems::find(s, i) {
        i = at + 1;
        if let Some(mut secret) = secret_at(s, at) {
            let before = found.last().map_or(0, |last| last.to);
            secret.from = secret.from.max(before);
            if secret.to > secret.from {
                found.push(secret);
                i = i.max(secret.to);
            }
        }
    }
    found
}

/// The secret that the stem at `i` names or begins.
fn secret_at(s: &[u8], i: usize) -> Option<Secret> {
    match s[i] {
        b'@' => email(s, i, 1),
        b'%' => email(s, i, 3),
        b':' if s[i + 1] == b'/' => userinfo(s, i),
        b':' => telegram(s, i),
        b' ' => option(s, i),
        b'-' => private_key(s, i),
        b'h' | b'H' if s[i..].starts_with(b"hooks.slack.com/services/") => {
            Secret::of(i + 25, i + 25 + s[i + 25..].iter().take_while(|b| token_byte(**b) || **b == b'/').count())
        }
        _ => known_token(s, i)
            .or_else(|| iban(s, i))
            .or_else(|| scheme(s, i))
            .or_else(|| identified(s, i))
            .or_else(|| keyed(s, i)),
    }
}

fn starts_ignoring_case(s: &[u8], word: &[u8]) -> bool {
    s.len() >= word.len() && s[..word.len()].eq_ignore_ascii_case(word)
}

fn ends_ignoring_case(s: &[u8], word: &[u8]) -> bool {
    s.len() >= word.len() && s[s.len() - word.len()..].eq_ignore_ascii_case(word)
}

fn token_byte(b: u8) -> bool {
    b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-')
}

fn is_quote(b: u8) -> bool {
    matches!(b, b'"' | b'\'' | b'`')
}

fn get(s: &[u8], i: usize) -> u8 {
    s.get(i).copied().unwrap_or(0)
}

/// What already stands for a secret.
const MASKED: &[u8] = b"***";

/// Whether text looks like a key rather than like a word: long enough, with at least two of digits, capitals and small letters, the
/// capital not only at the start.
fn is_opaque(v: &[u8]) -> bool {
    let tokens = v.iter().all(|&b| token_byte(b) || matches!(b, b'+' | b'/' | b'=' | b'%' | b'.' | b'~'));
    let any = |f: fn(&u8) -> bool| v.iter().any(f);
    let (digit, upper, lower) =
        (any(u8::is_ascii_digit), v.iter().skip(1).any(u8::is_ascii_uppercase), any(u8::is_ascii_lowercase));
    let number = v.starts_with(b"0x") || v.iter().all(|&b| b.is_ascii_digit() || !b.is_ascii_alphanumeric());
    v == MASKED || v.len() >= 8 && tokens && v[0] != b'/' && !number && (digit && (upper || lower) || upper && lower)
}

// -- keys -----------------------------------------------------------------------------------------

/// What a key's value must be like to be secret.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Wants {
    /// Anything but nothing, true and false.
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

/// Names at the end of a key, joined; `true` when they must begin a word of it (`compass` names no `pass`).
const NAMES: [(&[u8], bool, Wants); 41] = [
    (b"password", false, Wants::Any),
    (b"passwd", false, Wants::Any),
    (b"passwort", false, Wants::Any),
    (b"passphrase", false, Wants::Any),
    (b"passcode", false, Wants::Any),
    (b"passwordhash", false, Wants::Any),
    (b"pwd", false, Wants::Any),
    (b"secret", false, Wants::Any),
    (b"apikey", false, Wants::Any),
    (b"accesskey", false, Wants::Any),
    (b"accesskeyid", false, Wants::Any),
    (b"secretkey", false, Wants::Any),
    (b"privatekey", false, Wants::Any),
    (b"accountkey", false, Wants::Any),
    (b"authkey", false, Wants::Any),
    (b"encryptionkey", false, Wants::Any),
    (b"signingkey", false, Wants::Any),
    (b"masterkey", false, Wants::Any),
    (b"sharedkey", false, Wants::Any),
    (b"presharedkey", false, Wants::Any),
    (b"storagekey", false, Wants::Any),
    (b"licensekey", false, Wants::Any),
    (b"credential", false, Wants::Any),
    (b"cvv", true, Wants::Any),
    (b"cvc", true, Wants::Any),
    (b"authorization", false, Wants::Authorization),
    (b"cookie", false, Wants::Cookie),
    (b"token", false, Wants::Value),
    (b"pass", true, Wants::Value),
    (b"userpass", false, Wants::Value),
    (b"otp", true, Wants::Value),
    (b"pin", true, Wants::Value),
    (b"pincode", true, Wants::Value),
    (b"jwt", true, Wants::Value),
    (b"sessionid", false, Wants::Value),
    (b"sessid", false, Wants::Value),
    (b"sessionkey", false, Wants::Value),
    (b"signature", false, Wants::Opaque),
    (b"sig", true, Wants::Opaque),
    (b"auth", true, Wants::Opaque),
    (b"sid", true, Wants::Opaque),
];

/// What the value of a key with this name must be like, and whether the name is a plural; `None` when it is no secret's.
fn wanted(key: &[u8]) -> Option<(Wants, bool)> {
    const MOST: usize = 24;
    let mut name = [0; MOST];
    let mut begins = [false; MOST];
    let mut at = MOST;
    // from the end, without what joins words
    for (i, &b) in key.iter().enumerate().rev() {
        if !b.is_ascii_alphanumeric() {
            continue;
        }
        if at == 0 {
            break;
        }
        if at == MOST && b.is_ascii_digit() {
            continue;
        }
        at -= 1;
        name[at] = b.to_ascii_lowercase();
        let before = i.checked_sub(1).map_or(0, |k| key[k]);
        begins[at] = !before.is_ascii_alphabetic() || b.is_ascii_uppercase() && before.is_ascii_lowercase();
    }
    let name = &name[at..];
    let find = |name: &[u8]| {
        let of = |&(word, whole, _): &(&[u8], bool, Wants)| {
            name.ends_with(word) && (!whole || begins[at + name.len() - word.len()])
        };
        NAMES.iter().find(|n| of(n)).map(|n| n.2)
    };
    match name {
        b"key" | b"session" | b"sessions" => Some((Wants::Opaque, false)),
        [one @ .., b's'] if find(one).is_some() => find(one).map(|w| (w, true)),
        _ => find(name).map(|w| (w, false)),
    }
}

fn key_byte(b: u8) -> bool {
    token_byte(b) || b == b'.'
}

/// Behind ANSI codes and, with `blanks`, behind a few blanks.
fn gap(s: &[u8], mut i: usize, blanks: bool) -> usize {
    let most = i + 40;
    while i < most {
        match get(s, i) {
            b' ' | b'\t' if blanks => i += 1,
            0x1b if get(s, i + 1) == b'[' => {
                let n = s[i + 2..].iter().take_while(|b| b.is_ascii_digit() || matches!(b, b';' | b':')).count();
                i += 3 + n;
            }
            _ => break,
        }
    }
    i.min(s.len())
}

/// The value of the key in which the stem at `i` lies.
fn keyed(s: &[u8], i: usize) -> Option<Secret> {
    let mut start = i - s[..i].iter().rev().take(64).take_while(|b| key_byte(**b)).count();
    let end = i + s[i..].iter().take(64).take_while(|b| key_byte(**b)).count();
    let dashes = s[start..end].iter().take_while(|b| **b == b'-').count();
    start += dashes;
    let (wants, many) = wanted(s.get(start..end)?)?;
    let key = Key { s, start, dashes, wants, many };
    // what closes the key: codes, quotes, a bracket
    let mut j = gap(s, end, false);
    while matches!(get(s, j), b'\\' | b'"' | b'\'' | b'`' | b']') {
        j += 1;
    }
    let quoted = j > end && matches!(get(s, j - 1), b'"' | b'\'' | b']');
    let j = gap(s, j, true);
    match get(s, j) {
        b'=' if get(s, j + 1) == b'=' => None,
        b'=' => key.value(j + 1 + usize::from(get(s, j + 1) == b'>'), false),
        b':' if get(s, j + 1) == b':' || s[j..].starts_with(b"://") => None,
        b':' if get(s, j + 1) == b'=' => key.value(j + 2, false),
        b':' => key.value(j + 1, !quoted && matches!(get(s, j + 1), b' ' | 0)),
        b'>' if start > 0 && s[start - 1] == b'<' => {
            let to = s[j..s.len().min(j + 4096)].windows(2).position(|w| w == b"</").map_or(s.len(), |n| j + n);
            key.accepts(&s[j + 1..to], false).then_some(())?;
            Secret::of(j + 1, to)
        }
        _ => key.without_separator(end),
    }
}

/// A key that may have a secret's name.
struct Key<'a> {
    s: &'a [u8],
    start: usize,
    /// Dashes before it: an option of a command line.
    dashes: usize,
    wants: Wants,
    many: bool,
}

impl Key<'_> {
    /// Whether a value may be secret; `prose`: a colon and a blank are before it, as in a sentence.
    fn accepts(&self, v: &[u8], prose: bool) -> bool {
        const NOTHING: [&[u8]; 12] = [
            b"true",
            b"false",
            b"null",
            b"none",
            b"nil",
            b"yes",
            b"no",
            b"on",
            b"off",
            b"undefined",
            b"(null)",
            b"<none>",
        ];
        if v.is_empty() || NOTHING.iter().any(|w| v.eq_ignore_ascii_case(w)) {
            return false;
        }
        if v == MASKED {
            return true;
        }
        let number = v.iter().all(u8::is_ascii_digit);
        match self.wants {
            // PWD=/root is where a shell is
            Wants::Any => {
                v[0] != b'/' || v.len() > 1 && !ends_ignoring_case(&self.s[self.start..self.start + 3], b"pwd")
            }
            Wants::Opaque => is_opaque(v),
            Wants::Value | Wants::Authorization | Wants::Cookie => {
                let word = v.iter().all(|&b| b.is_ascii_lowercase() || matches!(b, b'.' | b',' | b'-' | b'\''));
                v.len() >= 3 && !(number && (v.len() < 4 || self.many)) && !v.starts_with(b"0x") && !(prose && word)
            }
        }
    }

    /// The value behind the separator that ends at `i`.
    fn value(&self, i: usize, prose: bool) -> Option<Secret> {
        let s = self.s;
        let a = gap(s, i, true);
        if let Some((from, to)) = quoted(s, a) {
            return match self.wants {
                Wants::Authorization => self.authorization(from, to, false),
                _ => self.accepts(&s[from..to], false).then(|| Secret::of(from, to))?,
            };
        }
        if matches!(get(s, a), b'[' | b'{') {
            return self.many_values(a);
        }
        let from = gap(s, a, true);
        match self.wants {
            Wants::Authorization => self.authorization(from, self.line_end(from), prose),
            Wants::Cookie
                if s[from..].iter().take(256).take_while(|b| **b != b'\n').any(|b| *b == b'=')
                    || s[from..].starts_with(MASKED) =>
            {
                let to = if prose { self.line_end(from) } else { value_end(s, from) };
                Secret::of(from, to)
            }
            _ => {
                let to = value_end(s, from);
                self.accepts(&s[from..to], prose).then(|| Secret::of(from, to))?
            }
        }
    }

    /// The end of the line or of the quotes that the key begins.
    fn line_end(&self, from: usize) -> usize {
        let s = self.s;
        let quote = self.start.checked_sub(1 + self.dashes).map(|k| s[k]).filter(|q| is_quote(*q));
        from + s[from..].iter().take_while(|b| !matches!(b, b'\n' | b'\r') && Some(**b) != quote).count()
    }

    /// An array or an object.
    fn many_values(&self, a: usize) -> Option<Secret> {
        let s = self.s;
        if self.wants == Wants::Opaque || self.wants != Wants::Any && s[a] == b'{' {
            return None;
        }
        let to = bracket_end(s, a);
        let inside = &s[a + 1..to];
        let numbers = !inside.iter().any(|b| b.is_ascii_alphabetic() || is_quote(*b));
        let all = match self.wants {
            Wants::Any => true,
            _ => !numbers,
        };
        (all && !inside.trim_ascii().is_empty()).then(|| Secret::of(a + 1, to))?
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
        let word = from + s[from..to].iter().take_while(|b| token_byte(**b)).count();
        let next = gap(s, word, true);
        if next > word && next < to {
            if ONE.iter().any(|w| s[from..word].eq_ignore_ascii_case(w)) {
                return Secret::of(next, value_end(s, next).min(to));
            }
            if s[next..to].contains(&b'=') {
                return Secret::of(next, to);
            }
        }
        let to = value_end(s, from).min(to);
        self.accepts(&s[from..to], prose).then(|| Secret::of(from, to))?
    }

    /// `--password x`, `PASSWORD 'x'`, `password is x7`.
    fn without_separator(&self, end: usize) -> Option<Secret> {
        let s = self.s;
        if self.dashes > 0 && self.wants != Wants::Opaque && self.start >= self.dashes {
            let before = self.start - self.dashes;
            if before == 0 || matches!(s[before - 1], b' ' | b'"' | b'\'' | b'[' | b',') {
                // a list of arguments has quotes and commas between
                let a = end + s[end..].iter().take_while(|b| matches!(b, b' ' | b'"' | b'\'' | b',')).count();
                if a > end && get(s, a) != b'-' {
                    let (from, to) =
                        if a > end && is_quote(s[a - 1]) { quoted(s, a - 1)? } else { (a, value_end(s, a)) };
                    return self.accepts(&s[from..to], false).then(|| Secret::of(from, to))?;
                }
            }
            return None;
        }
        if self.wants != Wants::Any || get(s, end) != b' ' {
            return None;
        }
        let a = gap(s, end, true);
        if matches!(get(s, a), b'\'' | b'"') {
            let (from, to) = quoted(s, a)?;
            return Secret::of(from, to);
        }
        let verb = [&b"is "[..], b"was ", b"set to ", b"is: "].into_iter().find(|v| s[a..].starts_with(v))?;
        let from = a + verb.len();
        let to = value_end(s, from);
        let v = &s[from..to];
        let digits = v.iter().filter(|b| b.is_ascii_digit()).count();
        (v == MASKED || v.len() >= 6 && digits > 0 && v.iter().any(u8::is_ascii_alphabetic))
            .then(|| Secret::of(from, to))?
    }
}

/// What is between the quotes that open at `i`, be they escaped (`\"`) or not; to the end of the line when they do not close.
fn quoted(s: &[u8], i: usize) -> Option<(usize, usize)> {
    let slashes = s[i.min(s.len())..].iter().take_while(|b| **b == b'\\').count();
    let quote = get(s, i + slashes);
    if !is_quote(quote) {
        return None;
    }
    let from = i + slashes + 1;
    let mut run = 0;
    let mut p = from;
    while p < s.len() && s[p] != b'\n' {
        if s[p] == quote {
            // with as many backslashes as the opening one had; an ordinary one closes unless it is escaped itself
            let closes = if slashes == 0 { run % 2 == 0 } else { run <= slashes };
            if closes && slashes == 0 && quote == b'\'' && get(s, p + 1) == b'\'' {
                p += 1;
            } else if closes {
                return Some((from, p - if slashes == 0 { 0 } else { run }));
            }
        }
        run = if s[p] == b'\\' { run + 1 } else { 0 };
        p += 1;
    }
    Some((from, p))
}

/// The end of a value that has no quotes: white space, or what separates values where it does so here.
fn value_end(s: &[u8], a: usize) -> usize {
    let mut p = a;
    while p < s.len() {
        let next = get(s, p + 1);
        let ends = match s[p] {
            0..=b' ' | 0x7f => true,
            b',' | b';' | b'&' => next <= b' ' || is_pair(&s[p + 1..]),
            b')' | b']' | b'}' | b'>' | b'"' | b'\'' | b'`' => {
                next <= b' '
                    || matches!(
                        next,
                        b',' | b';'
                            | b'&'
                            | b')'
                            | b']'
                            | b'}'
                            | b'>'
                            | b'"'
                            | b'\''
                            | b'`'
                            | b'.'
                            | b':'
                            | b'\\'
                            | b'<'
                    )
            }
            b'<' => next == b'/',
            b'\\' => is_quote(next),
            _ => false,
        };
        if ends {
            break;
        }
        p += 1;
    }
    p
}

/// Whether text begins with a key and its separator.
fn is_pair(s: &[u8]) -> bool {
    let s = &s[s.iter().take_while(|b| matches!(b, b' ' | b'"' | b'\'' | b'\\')).count()..];
    let n = s.iter().take(64).take_while(|b| key_byte(**b)).count();
    let s = &s[n..];
    let s = &s[s.iter().take_while(|b| matches!(b, b' ' | b'"' | b'\'' | b'\\')).count()..];
    n > 0 && matches!(s.first(), Some(b'=' | b':'))
}

/// Where the bracket that opens at `a` closes; the end when it does not.
fn bracket_end(s: &[u8], a: usize) -> usize {
    let (mut depth, mut p, mut inside) = (0usize, a, false);
    while p < s.len() {
        match s[p] {
            b'\\' if inside => p += 1,
            b'"' => inside = !inside,
            b'[' | b'{' if !inside => depth += 1,
            b']' | b'}' if !inside => {
                depth -= 1;
                if depth == 0 {
                    return p;
                }
            }
            _ => {}
        }
        p += 1;
    }
    s.len()
}

// -- forms without a key --------------------------------------------------------------------------

/// `Bearer x`, `Basic x`: what looks like a key behind the name of a scheme.
fn scheme(s: &[u8], i: usize) -> Option<Secret> {
    let len = [&b"bearer"[..], b"basic"].into_iter().find(|w| starts_ignoring_case(&s[i..], w))?.len();
    if i > 0 && is_word(s[i - 1]) {
        return None;
    }
    let from = gap(s, i + len, true);
    let to = value_end(s, from);
    (from > i + len && is_opaque(&s[from..to])).then(|| Secret::of(from, to))?
}

/// SQL's `IDENTIFIED BY 'x'`.
fn identified(s: &[u8], i: usize) -> Option<Secret> {
    if !starts_ignoring_case(&s[i..], b"identified by ") {
        return None;
    }
    let mut a = gap(s, i + 14, true);
    if starts_ignoring_case(&s[a..], b"password ") {
        a = gap(s, a + 9, true);
    }
    let (from, to) = quoted(s, a)?;
    Secret::of(from, to)
}

/// Options of commands that take a password without naming it: `curl -u user:x`, `mysql -px`.
fn option(s: &[u8], i: usize) -> Option<Secret> {
    let near = i.saturating_sub(256);
    let line = s[near..i].iter().rposition(|b| *b == b'\n').map_or(near, |n| near + n + 1);
    let called = |names: &[&[u8]]| names.iter().any(|n| s[line..i].windows(n.len()).any(|w| w == *n));
    if s[i..].starts_with(b" -u ") {
        let a = i + 4 + usize::from(is_quote(get(s, i + 4)));
        let to = value_end(s, a);
        let colon = s[a..to].iter().position(|b| *b == b':')?;
        return called(&[b"curl", b"wget", b"http"]).then(|| Secret::of(a + colon + 1, to))?;
    }
    let a = i + 3 + usize::from(is_quote(get(s, i + 3)));
    (get(s, a) > b' ' && called(&[b"mysql", b"mariadb", b"sshpass"])).then(|| Secret::of(a, value_end(s, a)))?
}

/// `-----BEGIN … PRIVATE KEY-----` to its end.
fn private_key(s: &[u8], i: usize) -> Option<Secret> {
    let dashes = s[..i].iter().rev().take_while(|b| **b == b'-').count();
    let head = &s[i..s.len().min(i + 64)];
    if dashes < 4 || !starts_ignoring_case(head, b"-begin ") || !head.windows(11).any(|w| w == b"PRIVATE KEY") {
        return None;
    }
    let from = i - dashes;
    let to = match s[i..].windows(9).position(|w| w == b"-----END ") {
        Some(n) => {
            let end = i + n + 9;
            let text = s[end..].iter().take_while(|b| b.is_ascii_alphanumeric() || **b == b' ').count();
            end + text + s[end + text..].iter().take_while(|b| **b == b'-').count()
        }
        None => s.len(),
    };
    Secret::of(from, to)
}

/// The password of `scheme://user:password@host`, to the last `@` before the host; or a token in the place of the user.
fn userinfo(s: &[u8], i: usize) -> Option<Secret> {
    if i == 0 || !s[i - 1].is_ascii_alphanumeric() || get(s, i + 2) != b'/' {
        return None;
    }
    let a = i + 3;
    let end = a + s[a..]
        .iter()
        .take(2048)
        .take_while(|b| **b > b' ' && !matches!(b, b'"' | b'\'' | b'<' | b'>' | b'`'))
        .count();
    let at = a + s[a..end]
        .iter()
        .position(|b| *b == b'?')
        .map_or(&s[a..end], |q| &s[a..a + q])
        .iter()
        .rposition(|b| *b == b'@')?;
    match s[a..at].iter().position(|b| *b == b':').map(|n| a + n) {
        Some(colon) => {
            // `//host/a:b@c` and `//host:80/@name` hold none
            let before = &s[a..colon];
            let first = colon + 1 + s[colon + 1..at].iter().take_while(|b| **b != b'/').count();
            let port = first < at && s[colon + 1..first].iter().all(u8::is_ascii_digit);
            (!before.contains(&b'/') && !port).then(|| Secret::of(colon + 1, at))?
        }
        None => (at - a >= 20 && is_opaque(&s[a..at])).then(|| Secret::of(a, at))?,
    }
}

/// A Telegram bot's token: `123456789:AA…`.
fn telegram(s: &[u8], i: usize) -> Option<Secret> {
    let digits = s[..i].iter().rev().take(13).take_while(|b| b.is_ascii_digit()).count();
    let rest = s[i + 1..].iter().take(256).take_while(|b| token_byte(**b)).count();
    ((6..=12).contains(&digits) && rest >= 30).then(|| Secret::of(i - digits, i + 1 + rest))?
}

/// Tokens that are known by how they begin, and the least length of each.
const HEADS: [(&[u8], usize); 37] = [
    (b"AKIA", 20),
    (b"ASIA", 20),
    (b"AIza", 30),
    (b"ghp_", 16),
    (b"gho_", 16),
    (b"ghu_", 16),
    (b"ghs_", 16),
    (b"ghr_", 16),
    (b"github_pat_", 20),
    (b"glpat-", 16),
    (b"xoxa-", 14),
    (b"xoxb-", 14),
    (b"xoxc-", 14),
    (b"xoxd-", 14),
    (b"xoxe-", 14),
    (b"xoxo-", 14),
    (b"xoxp-", 14),
    (b"xoxr-", 14),
    (b"xoxs-", 14),
    (b"xapp-", 14),
    (b"sk_live_", 16),
    (b"sk_test_", 16),
    (b"pk_live_", 16),
    (b"rk_live_", 16),
    (b"rk_test_", 16),
    (b"whsec_", 16),
    (b"sk-", 20),
    (b"eyJ", 30),
    (b"hf_", 16),
    (b"hvs.", 16),
    (b"ya29.", 16),
    (b"npm_", 16),
    (b"pypi-", 16),
    (b"dckr_pat_", 16),
    (b"dop_v1_", 16),
    (b"SG.", 20),
    (b"AGE-SECRET-KEY-", 20),
];

fn known_token(s: &[u8], i: usize) -> Option<Secret> {
    // the stem may be within the head: `k_li` of `sk_live_`, `_pat` of `github_pat_`
    let start = i - s[..i].iter().rev().take(8).take_while(|b| b.is_ascii_alphanumeric() || **b == b'_').count();
    for a in [i, start] {
        if a > 0 && is_word(s[a - 1]) {
            continue;
        }
        let Some((head, least)) = HEADS.into_iter().find(|(head, _)| s[a..].starts_with(head)) else { continue };
        let to = a + s[a..].iter().take_while(|b| token_byte(**b) || **b == b'.').count();
        let to = to - s[a..to].iter().rev().take_while(|b| **b == b'.').count();
        let body = &s[a + head.len()..to];
        if to - a >= least && (body.iter().any(u8::is_ascii_digit) || body.iter().any(u8::is_ascii_uppercase)) {
            return Secret::of(a, to);
        }
    }
    None
}

/// An e-mail address whose `@` (or `%40`) of `len` bytes is at `i`.
fn email(s: &[u8], i: usize, len: usize) -> Option<Secret> {
    let mut from = i;
    if i > 1 && s[i - 1] == b'"' {
        // a quoted name
        from = s[..i - 1].iter().rev().take(64).position(|b| *b == b'"').map(|n| i - 2 - n)?;
    } else {
        let local = |b: &u8| is_word(*b) || matches!(b, b'.' | b'-' | b'+' | b'%' | b'\'' | b'&' | b'!' | b'#' | b'~');
        from -= s[..i].iter().rev().take(64).take_while(|b| local(b)).count();
        while from < i && (!is_word(s[from]) || s[from] & 0xc0 == 0x80) {
            from += 1;
        }
    }
    let a = i + len;
    let domain = |b: &u8| is_word(*b) && *b != b'_' || matches!(b, b'.' | b'-');
    let mut to = a + s[a..].iter().take(255).take_while(|b| domain(b)).count();
    while to > a && matches!(s[to - 1], b'.' | b'-') {
        to -= 1;
    }
    let dot = s[a..to].iter().rposition(|b| *b == b'.')?;
    let top = &s[a + dot + 1..to];
    let named = dot > 0 && top.len() >= 2 && top.iter().all(|b| b.is_ascii_alphabetic() || *b >= 0x80);
    if from == i || !named {
        return None;
    }
    let plain = len == 1 && s[from..i].iter().all(|b| is_word(*b) || matches!(b, b'.' | b'-' | b'+' | b'%'));
    Some(Secret { from, to, kind: if plain { Kind::Email } else { Kind::Secret } })
}

/// An international bank account number, in one or in groups of four, by its check digits (ISO 13616).
fn iban(s: &[u8], i: usize) -> Option<Secret> {
    if i > 0 && is_word(s[i - 1])
        || !s[i].is_ascii_uppercase()
        || !get(s, i + 1).is_ascii_uppercase()
        || !get(s, i + 2).is_ascii_digit()
    {
        return None;
    }
    let (mut number, mut best) = (Vec::with_capacity(34), None);
    let mut p = i;
    while number.len() < 34 {
        match get(s, p) {
            b @ (b'0'..=b'9' | b'A'..=b'Z') => number.push(b),
            b' ' if number.len().is_multiple_of(4) => {}
            _ => break,
        }
        p += 1;
        if (15..=34).contains(&number.len()) && !is_word(get(s, p)) && checks(&number) {
            best = Some(p);
        }
    }
    best.and_then(|to| Secret::of(i, to))
}

/// ISO 7064 MOD 97-10 with the first four characters last.
fn checks(number: &[u8]) -> bool {
    let rest = number[4..].iter().chain(&number[..4]).fold(0u32, |rest, &b| {
        if b.is_ascii_digit() {
            (rest * 10 + u32::from(b - b'0')) % 97
        } else {
            (rest * 100 + u32::from(b - b'A') + 10) % 97
        }
    });
    rest == 1
}

// -- numbers of persons ---------------------------------------------------------------------------

/// Card numbers and social security numbers of the USA: digits that a shape replaces in any case.
pub(crate) fn numbers(s: &[u8]) -> Vec<Secret> {
    let mut found = Vec::new();
    let mut i = 0;
    while i < s.len() {
        let run = s[i..].iter().take_while(|b| b.is_ascii_digit()).count();
        if run == 0 {
            i += 1;
            continue;
        }
        let begins = i == 0 || !is_word(s[i - 1]);
        match begins.then(|| card(s, i).or_else(|| social_security(s, i))).flatten() {
            Some(secret) => {
                i = secret.to;
                found.push(secret);
            }
            None => i += run,
        }
    }
    found
}

/// 13 to 19 digits that pass the Luhn test: in one, or in groups as cards have them, with the same separator between.
fn card(s: &[u8], i: usize) -> Option<Secret> {
    let mut number = Vec::with_capacity(20);
    let mut groups = Vec::with_capacity(6);
    let mut p = i;
    let mut separator = 0;
    loop {
        let n = s[p..].iter().take(20).take_while(|b| b.is_ascii_digit()).count();
        if n == 0 {
            break;
        }
        number.extend(s[p..p + n].iter().map(|b| u32::from(b - b'0')));
        groups.push(n);
        p += n;
        let b = get(s, p);
        let goes_on =
            matches!(b, b' ' | b'-' | b'.') && (separator == 0 || separator == b) && get(s, p + 1).is_ascii_digit();
        if number.len() >= 19 || groups.len() >= 5 || !goes_on || n < 4 {
            break;
        }
        // a whole number is not continued by the next one
        if groups.len() == 1 && n > 6 || matches!(&groups[..], [4, 4, 4, 4] | [4, 6, 5]) {
            break;
        }
        separator = b;
        p += 1;
    }
    let grouped = matches!(
        &groups[..],
        [_] | [4, 4, 4, 1..=4] | [4, 4, 4, 4, 1..=3] | [4, 6, 4 | 5] | [6, 13] | [4, 4, 5] | [6, 7..=13]
    );
    if !grouped || !(13..=19).contains(&number.len()) || is_word(get(s, p)) || !matches!(number[0], 2..=6) {
        return None;
    }
    let sum: u32 = number
        .iter()
        .rev()
        .enumerate()
        .map(|(k, &d)| if k % 2 == 1 { if d > 4 { 2 * d - 9 } else { 2 * d } } else { d })
        .sum();
    sum.is_multiple_of(10).then(|| Secret::of(i, p))?
}

/// `123-45-6789`, without the numbers that are never given out.
fn social_security(s: &[u8], i: usize) -> Option<Secret> {
    let t: &[u8; 11] = s[i..].first_chunk()?;
    let form = t.iter().enumerate().all(|(k, b)| if k == 3 || k == 6 { *b == b'-' } else { b.is_ascii_digit() });
    let given = t[0] != b'9' && !matches!(&t[..3], b"000" | b"666") && &t[4..6] != b"00" && &t[7..] != b"0000";
    (form && given && !is_word(get(s, i + 11)) && get(s, i + 11) != b'-').then(|| Secret::of(i, i + 11))?
}

/// Whether the value of a key of an object is a secret, whatever it is. Where only the look of a value would tell (`key`, `signature`) it
/// is left to [`mask_value`].
pub(crate) fn key_is_secret(key: &str) -> bool {
    matches!(wanted(key.as_bytes()), Some((Wants::Any | Wants::Authorization | Wants::Cookie, _)))
        || matches!(wanted(key.as_bytes()), Some((Wants::Value, false)))
}
