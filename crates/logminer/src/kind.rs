//! The placeholder types and their text form.

use serde::{Deserialize, Serialize};

/// What a placeholder stands for. Written `{NAME}` in a pattern.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Kind {
    /// `{*}`: variable, of no recognised form.
    Any,
    /// `{ID}`: an identifier: a number after a cue such as `user`, or a token like `blk_42`.
    Id,
    /// `{NUM}`: a number.
    Num,
    /// `{TIME}`: a date, a time of day, or a duration (whose unit stays in the text: `{TIME}ms`).
    Time,
    /// `{PATH}`: a Unix or Windows path; of a request with its query.
    Path,
    /// `{IP}`: an IP address or host with optional port.
    Ip,
    /// `{MAC}`: a hardware address.
    Mac,
    /// `{UUID}`
    Uuid,
    /// `{HEX}`: hexadecimal digits.
    Hex,
    /// `{URL}`
    Url,
    /// `{EMAIL}`
    Email,
    /// `{SIZE}`: a number with its unit of size, frequency or rate.
    Size,
    /// `{BOOL}`: `true` or `false`; `on`, `off`, `yes` or `no` where they are a value.
    Bool,
    /// `{NAME}`: a dotted name of three or more parts (host, class, package).
    Name,
    /// `{VER}`: a version number.
    Ver,
    /// `{LIST}`: a run of like values.
    List,
    /// `{TEXT}`: quoted text that is the value of a key.
    Text,
    /// `{STACK}`: the frames of a stack trace.
    Stack,
    /// `{REST}`: the rest of a line that was too long.
    Rest,
    /// `{SECRET}`: a password, token, key or other secret.
    Secret,
}

impl Kind {
    /// Every kind, in the order of declaration.
    pub const ALL: [Kind; 20] = [
        Kind::Any,
        Kind::Id,
        Kind::Num,
        Kind::Time,
        Kind::Path,
        Kind::Ip,
        Kind::Mac,
        Kind::Uuid,
        Kind::Hex,
        Kind::Url,
        Kind::Email,
        Kind::Size,
        Kind::Bool,
        Kind::Name,
        Kind::Ver,
        Kind::List,
        Kind::Text,
        Kind::Stack,
        Kind::Rest,
        Kind::Secret,
    ];

    /// The placeholder as it is written, with its braces.
    pub const fn placeholder(self) -> &'static str {
        match self {
            Kind::Any => "{*}",
            Kind::Id => "{ID}",
            Kind::Num => "{NUM}",
            Kind::Time => "{TIME}",
            Kind::Path => "{PATH}",
            Kind::Ip => "{IP}",
            Kind::Mac => "{MAC}",
            Kind::Uuid => "{UUID}",
            Kind::Hex => "{HEX}",
            Kind::Url => "{URL}",
            Kind::Email => "{EMAIL}",
            Kind::Size => "{SIZE}",
            Kind::Bool => "{BOOL}",
            Kind::Name => "{NAME}",
            Kind::Ver => "{VER}",
            Kind::List => "{LIST}",
            Kind::Text => "{TEXT}",
            Kind::Stack => "{STACK}",
            Kind::Rest => "{REST}",
            Kind::Secret => "{SECRET}",
        }
    }

    /// The placeholder in eight bytes, and its length.
    #[inline]
    pub(crate) fn padded(self) -> ([u8; 8], usize) {
        const PADDED: [([u8; 8], usize); 20] = {
            let mut all = [([0; 8], 0); 20];
            let mut k = 0;
            while k < all.len() {
                let text = Kind::ALL[k].placeholder().as_bytes();
                let mut i = 0;
                while i < text.len() {
                    all[k].0[i] = text[i];
                    i += 1;
                }
                all[k].1 = i;
                k += 1;
            }
            all
        };
        PADDED[self as usize]
    }

    /// The name between the braces: `NUM`, `*`.
    pub fn name(self) -> &'static str {
        let p = self.placeholder();
        &p[1..p.len() - 1]
    }

    /// The placeholder at the start of `text`, and its length; `None` when `text` starts with none.
    pub fn at_start(text: &[u8]) -> Option<(Kind, usize)> {
        if text.len() < 3 || text[0] != b'{' || !(text[1] == b'*' || text[1].is_ascii_uppercase()) {
            return None;
        }
        let end = text.iter().take(8).position(|&b| b == b'}')?;
        let kind = match &text[1..end] {
            b"*" => Kind::Any,
            b"ID" => Kind::Id,
            b"NUM" => Kind::Num,
            b"TIME" => Kind::Time,
            b"PATH" => Kind::Path,
            b"IP" => Kind::Ip,
            b"MAC" => Kind::Mac,
            b"UUID" => Kind::Uuid,
            b"HEX" => Kind::Hex,
            b"URL" => Kind::Url,
            b"EMAIL" => Kind::Email,
            b"SIZE" => Kind::Size,
            b"BOOL" => Kind::Bool,
            b"NAME" => Kind::Name,
            b"VER" => Kind::Ver,
            b"LIST" => Kind::List,
            b"TEXT" => Kind::Text,
            b"STACK" => Kind::Stack,
            b"REST" => Kind::Rest,
            b"SECRET" => Kind::Secret,
            _ => return None,
        };
        Some((kind, end + 1))
    }
}
