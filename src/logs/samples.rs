//! Sample lines of a pattern: at most five, distinct, the same whatever order the lines came in.
//!
//! A line's rank is the hash of the raw line; of the lines that look the same once masked and cut, the lowest rank counts. The five texts
//! with the lowest ranks are kept, so a summary of parts is the summary of the whole, and once five are kept a line changes them with
//! a probability of 5/n: the row is rarely rewritten.
use std::borrow::Cow;

use pgedge_logminer as miner;

use super::MASK_SAMPLES;

/// Longest sample, in bytes.
const MAX_LENGTH: usize = 2000;

/// Ranked texts, the lowest rank first.
#[derive(Clone, Debug, Default)]
pub struct Samples<'a> {
    kept: Vec<(u64, Cow<'a, str>)>,
    /// Raw lines that may be among them: most often none of a call's lines changes what is stored, and none is then masked.
    raw: Vec<(u64, &'a str)>,
}

/// Raw lines that are put off.
const MAX_RAW: usize = 2 * miner::MAX_SAMPLES;

/// The rank of a raw line.
pub fn rank(line: &str) -> u64 {
    miner::stable_hash(line.as_bytes())
}

/// Whether a rank can change samples with these ranks (lowest first).
pub fn matters(ranks: &[u64], rank: u64) -> bool {
    ranks.len() < miner::MAX_SAMPLES || ranks.last().is_some_and(|last| rank < *last)
}

/// The line as it is shown: cut, and masked when `pgedge.mask_samples` is on.
pub fn shown(line: &str) -> Cow<'_, str> {
    if !MASK_SAMPLES.get() {
        return Cow::Borrowed(miner::truncated(line, MAX_LENGTH));
    }
    // before it is cut, so that no secret is cut in two and shown
    match miner::mask_line(line) {
        Cow::Borrowed(line) => Cow::Borrowed(miner::truncated(line, MAX_LENGTH)),
        Cow::Owned(line) => Cow::Owned(miner::truncated(&line, MAX_LENGTH).to_owned()),
    }
}

impl<'a> Samples<'a> {
    /// Offers a raw line.
    pub fn add(&mut self, line: &'a str) {
        let rank = rank(line);
        let full = self.kept.len() == miner::MAX_SAMPLES;
        if full && self.kept.last().is_some_and(|(last, _)| rank >= *last) || self.offered().any(|r| r == rank) {
            return;
        }
        self.raw.push((rank, line));
        if self.raw.len() > MAX_RAW {
            self.settle();
        }
    }

    /// Masks and offers the raw lines.
    fn settle(&mut self) {
        for (rank, line) in std::mem::take(&mut self.raw) {
            self.offer(rank, shown(line));
        }
    }

    fn settled(&self) -> Cow<'_, Self> {
        if self.raw.is_empty() {
            return Cow::Borrowed(self);
        }
        let mut settled = self.clone();
        settled.settle();
        Cow::Owned(settled)
    }

    /// The ranks of all that may be kept.
    pub fn offered(&self) -> impl Iterator<Item = u64> {
        self.kept.iter().map(|(r, _)| *r).chain(self.raw.iter().map(|(r, _)| *r))
    }

    /// Offers a text of a known rank.
    pub fn offer(&mut self, rank: u64, text: Cow<'a, str>) {
        if let Some(i) = self.kept.iter().position(|(_, t)| *t == text) {
            if self.kept[i].0 <= rank {
                return;
            }
            self.kept.remove(i);
        }
        let at = self.kept.partition_point(|(r, t)| (*r, t) < (rank, &text));
        self.kept.insert(at, (rank, text));
        self.kept.truncate(miner::MAX_SAMPLES);
    }

    /// Offers all of another summary.
    pub fn merge(&mut self, other: &Samples<'a>) {
        for (rank, text) in &other.settled().kept {
            self.offer(*rank, text.clone());
        }
    }

    /// Reads what is stored: a JSON array and the ranks of its elements. Ranks that are missing (the user wrote the samples) are those
    /// of the texts. `None` when the JSON is something else, which is the user's and left alone.
    pub fn stored(json: Option<&str>, ranks: &[u64]) -> Option<Self> {
        let texts: Vec<serde_json::Value> = match json {
            None => Vec::new(),
            Some(json) => match serde_json::from_str(json) {
                Ok(serde_json::Value::Array(texts)) => texts,
                Ok(serde_json::Value::Null) => Vec::new(),
                _ => return None,
            },
        };
        let known = texts.len() == ranks.len();
        let mut samples = Self::default();
        for (i, text) in texts.into_iter().enumerate() {
            let text = match text {
                serde_json::Value::String(text) => text,
                other => other.to_string(),
            };
            samples.offer(if known { ranks[i] } else { rank(&text) }, Cow::Owned(text));
        }
        Some(samples)
    }

    /// The ranks, lowest first.
    pub fn ranks(&self) -> impl Iterator<Item = u64> {
        self.settled().into_owned().kept.into_iter().map(|(r, _)| r)
    }

    /// The first text.
    pub fn first(&self) -> Option<String> {
        self.settled().kept.first().map(|(_, text)| text.to_string())
    }

    /// The texts as a JSON array, by rank.
    pub fn to_json(&self) -> String {
        serde_json::Value::from_iter(self.settled().kept.iter().map(|(_, text)| &**text)).to_string()
    }
}
