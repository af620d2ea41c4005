//! Bounded summaries that merge in any order to the same bits: the values with the smallest hashes are kept.
//!
//! A value that is kept at the end was kept all along, so its count is exact; the number of different values is exact until the limit is
//! reached and estimated by the k-th smallest hash beyond it (Bar-Yossef et al., RANDOM 2002).

use std::borrow::Cow;
use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::hash::stable_hash;
use crate::mask::mask_line;

/// Different values kept per placeholder.
pub const MAX_VALUES: usize = 64;
/// Longest value kept, in bytes; longer ones are cut.
pub const MAX_VALUE_LEN: usize = 200;
/// Samples kept per pattern.
pub const MAX_SAMPLES: usize = 5;
/// Longest sample kept, in bytes.
pub const MAX_SAMPLE_LEN: usize = 2000;

/// `text` cut to `max` bytes at a character boundary.
pub fn truncated(text: &str, max: usize) -> &str {
    let mut cut = text.len().min(max);
    while !text.is_char_boundary(cut) {
        cut -= 1;
    }
    &text[..cut]
}

/// Values with their counts: those with the smallest hashes, [`MAX_VALUES`] at most.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "StoredValues", into = "StoredValues")]
pub struct Values {
    kept: BTreeMap<(u64, String), u64>,
    full: bool,
}

/// Serialised form of [`Values`]: the values with their counts, and whether some were dropped.
#[derive(Serialize, Deserialize)]
struct StoredValues(Vec<(String, u64)>, bool);

impl From<Values> for StoredValues {
    fn from(v: Values) -> Self {
        Self(v.kept.into_iter().map(|((_, value), n)| (value, n)).collect(), v.full)
    }
}

impl From<StoredValues> for Values {
    fn from(v: StoredValues) -> Self {
        Self {
            kept: v.0.into_iter().map(|(value, n)| ((stable_hash(value.as_bytes()), value), n)).collect(),
            full: v.1,
        }
    }
}

impl Values {
    /// Counts a value `n` times.
    pub fn add(&mut self, value: &str, n: u64) {
        let value = truncated(value, MAX_VALUE_LEN);
        let hash = stable_hash(value.as_bytes());
        if self.kept.len() == MAX_VALUES
            && self.kept.last_key_value().is_some_and(|(k, _)| (k.0, k.1.as_str()) < (hash, value))
        {
            self.full = true;
            return;
        }
        *self.kept.entry((hash, value.to_owned())).or_default() += n;
        self.shrink();
    }

    fn shrink(&mut self) {
        while self.kept.len() > MAX_VALUES {
            self.kept.pop_last();
            self.full = true;
        }
    }

    /// Adds what another summary counted.
    pub fn merge(&mut self, other: &Values) {
        for (k, n) in &other.kept {
            *self.kept.entry(k.clone()).or_default() += n;
        }
        self.full |= other.full;
        self.shrink();
    }

    /// The number of different values: exact up to [`MAX_VALUES`], an estimate (standard error about 13 %) beyond.
    pub fn distinct(&self) -> u64 {
        match self.kept.last_key_value() {
            Some(((hash, _), _)) if self.full => {
                let share = (*hash as f64 + 1.0) / 2f64.powi(64);
                (((MAX_VALUES - 1) as f64 / share).round() as u64).max(MAX_VALUES as u64 + 1)
            }
            _ => self.kept.len() as u64,
        }
    }

    /// The most frequent of the kept values with their counts, the most frequent first, ties by the value.
    pub fn top(&self, k: usize) -> Vec<(&str, u64)> {
        let mut all: Vec<(&str, u64)> = self.kept.iter().map(|((_, v), n)| (v.as_str(), *n)).collect();
        all.sort_by(|a, b| b.1.cmp(&a.1).then(a.0.cmp(b.0)));
        all.truncate(k);
        all
    }

    /// The kept values and counts.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&str, u64)> {
        self.kept.iter().map(|((_, v), n)| (v.as_str(), *n))
    }
}

/// Different sample lines: those with the smallest hashes, [`MAX_SAMPLES`] at most.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Samples {
    kept: BTreeMap<u64, String>,
}

impl Samples {
    /// Offers a line; `mask`: without its secrets.
    pub fn add(&mut self, line: &str, mask: bool) {
        let hash = stable_hash(line.as_bytes());
        if self.kept.len() == MAX_SAMPLES && self.kept.last_key_value().is_some_and(|(k, _)| *k <= hash)
            || self.kept.contains_key(&hash)
        {
            return;
        }
        // before it is cut
        let line = if mask { mask_line(line) } else { Cow::Borrowed(line) };
        self.kept.insert(hash, truncated(&line, MAX_SAMPLE_LEN).to_owned());
        if self.kept.len() > MAX_SAMPLES {
            self.kept.pop_last();
        }
    }

    /// Adds the samples of another summary.
    pub fn merge(&mut self, other: &Samples) {
        for (hash, line) in &other.kept {
            self.kept.entry(*hash).or_insert_with(|| line.clone());
        }
        while self.kept.len() > MAX_SAMPLES {
            self.kept.pop_last();
        }
    }

    /// The samples, in the order of their hashes.
    pub fn lines(&self) -> impl Iterator<Item = &str> {
        self.kept.values().map(String::as_str)
    }
}
