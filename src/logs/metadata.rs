//! Metadata of a pattern: the objects of its lines merged key by key, the value of the latest line that had the key, bounded.
use std::borrow::Cow;
use std::collections::BTreeMap;

use pgedge_logminer as miner;

use super::MASK_SAMPLES;

/// Most bytes of JSON text that a pattern's metadata may have.
pub const MAX_BYTES: usize = 8192;

/// Keys with their values as JSON text, and the number of the line that each came from.
#[derive(Clone, Debug, Default)]
pub struct Metadata {
    keys: BTreeMap<String, (usize, String)>,
    bytes: usize,
}

impl Metadata {
    /// Sets a key from the given line, unless a later line set it. A key that does not fit is left out.
    pub fn set(&mut self, line: usize, key: &str, json: String) {
        if let Some((known, value)) = self.keys.get_mut(key) {
            if *known <= line && self.bytes - value.len() + json.len() <= MAX_BYTES {
                self.bytes = self.bytes - value.len() + json.len();
                (*known, *value) = (line, json);
            }
            return;
        }
        let more = key.len() + json.len() + 8;
        if self.bytes + more <= MAX_BYTES {
            self.bytes += more;
            self.keys.insert(key.to_owned(), (line, json));
        }
    }

    /// Sets every key of another object.
    pub fn merge(&mut self, other: &Metadata) {
        for (key, (line, json)) in &other.keys {
            self.set(*line, key, json.clone());
        }
    }

    /// The object as JSON text, masked when `pgedge.mask_samples` is on; `None` when no line had metadata.
    pub fn to_json(&self) -> Option<String> {
        if self.keys.is_empty() {
            return None;
        }
        let mut out = String::with_capacity(self.bytes + 2);
        let mask = MASK_SAMPLES.get();
        for (key, (_, json)) in &self.keys {
            let (key, json) = if mask {
                (miner::mask_secrets(key), miner::mask_json(key, json))
            } else {
                (Cow::from(key), Cow::from(json))
            };
            out.push(if out.is_empty() { '{' } else { ',' });
            out.push_str(&serde_json::Value::from(&*key).to_string());
            out.push(':');
            out.push_str(&json);
        }
        out.push('}');
        Some(out)
    }
}
