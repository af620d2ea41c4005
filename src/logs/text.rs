//! The usual body read from its text, without the detour through jsonb that costs as much as all the rest.
//!
//! Anything unusual (another key, another type, an escaped zero byte, a syntax error) makes this give up before it did anything: the body is then
//! read as jsonb, which has the last word on what is right and what is wrong.
use std::borrow::Cow;
use std::fmt;

use serde::Deserialize;
use serde::de::{self, Deserializer, Visitor};
use serde_json::value::RawValue;

use super::batch::{Batch, Line, Object};
use super::input;
use super::table::Limits;
use super::timestamp;

/// A string that borrows from the text when nothing in it is escaped.
struct Text<'a>(Cow<'a, str>);

impl<'de: 'a, 'a> Deserialize<'de> for Text<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Borrowing;
        impl<'de> Visitor<'de> for Borrowing {
            type Value = Text<'de>;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a string")
            }
            fn visit_borrowed_str<E: de::Error>(self, text: &'de str) -> Result<Text<'de>, E> {
                Ok(Text(Cow::Borrowed(text)))
            }
            fn visit_str<E: de::Error>(self, text: &str) -> Result<Text<'de>, E> {
                if text.contains('\0') {
                    return Err(E::custom("a zero byte"));
                }
                Ok(Text(Cow::Owned(text.to_owned())))
            }
        }
        deserializer.deserialize_str(Borrowing)
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry<'a> {
    #[serde(borrow)]
    message: Text<'a>,
    #[serde(borrow, default)]
    level: Option<Text<'a>>,
    #[serde(borrow, default)]
    source: Option<Text<'a>>,
    #[serde(borrow, default)]
    metadata: Option<&'a RawValue>,
    #[serde(borrow, default)]
    timestamp: Option<Text<'a>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Wrapped<'a> {
    #[serde(borrow)]
    logs: Vec<Entry<'a>>,
}

/// The entries of a usual body.
pub struct Body<'a>(Vec<Entry<'a>>);

impl<'a> Body<'a> {
    /// Reads a body; None when it is anything but usual.
    pub fn parse(text: &'a str) -> Option<Self> {
        let entries = match text.bytes().find(|b| *b > b' ')? {
            b'{' => serde_json::from_str::<Wrapped<'_>>(text).ok()?.logs,
            b'[' => serde_json::from_str(text).ok()?,
            _ => return None,
        };
        let usual = |e: &Entry<'_>| e.metadata.is_none_or(|m| m.get().starts_with('{') && !m.get().contains("\\u"));
        entries.iter().all(usual).then_some(Self(entries))
    }

    /// Adds the lines to a batch.
    pub fn read<'b>(&'b self, limits: &Limits, batch: &mut Batch<'b>) {
        for (i, entry) in self.0.iter().enumerate() {
            let level = entry
                .level
                .as_ref()
                .map(|t| input::checked(|| format!("entries[{i}].level"), "level", &t.0, limits.level));
            let source = entry
                .source
                .as_ref()
                .map_or("", |t| input::checked(|| format!("entries[{i}].source"), "source", &t.0, limits.source));
            let at = entry
                .timestamp
                .as_ref()
                .filter(|t| !t.0.is_empty())
                .map_or_else(timestamp::of_call, |t| timestamp::parse(&t.0, || format!("entries[{i}].timestamp")));
            let line = Line {
                message: &entry.message.0,
                level: level.filter(|l| !l.is_empty()),
                source,
                at,
                metadata: entry.metadata.map(|m| Object::Text(m.get())),
            };
            batch.add(&line, |_, _| {});
        }
    }
}
