//! Counting lines by pattern: streaming, mergeable, bounded.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};

use serde::{Deserialize, Serialize};

use crate::event::{message_of, message_spans};
use crate::hash::{ShapeState, stable_hash};
use crate::kept::{Kept, Offered};
use crate::kind::Kind;
use crate::mask::mask_line;
use crate::matching::placeholders;
use crate::patterns::{DEFAULT_LIMIT, OTHER, PatternSet, assemble, structure};
use crate::secrets::{Hidden, MASK};
use crate::shape::shape;
use crate::sketch::{MAX_VALUE_LEN, Samples, Values};
use crate::slots::slots;

/// Version of the serialised form of a [`Miner`].
pub const STATE_VERSION: u32 = 2;

/// Parts into which the forgotten shapes of a structure are divided, by the value of their first slot, before the rest is put together.
const MAX_PARTS: usize = 16;

/// What is known of the lines of one shape.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Tally {
    count: u64,
    samples: Samples,
    /// One for each placeholder of the shape; none where shapes were lumped together.
    values: Vec<Values>,
}

impl Tally {
    fn merge(&mut self, other: &Tally) {
        self.count += other.count;
        self.samples.merge(&other.samples);
        if self.values.len() < other.values.len() {
            self.values.resize_with(other.values.len(), Values::default);
        }
        for (mine, theirs) in self.values.iter_mut().zip(&other.values) {
            mine.merge(theirs);
        }
    }

    /// Adds the count and samples of a shape that is forgotten.
    fn lump(&mut self, other: &Tally) {
        self.count += other.count;
        self.samples.merge(&other.samples);
    }
}

/// Lines of forgotten shapes that are counted together: what their shapes have in common, slot by slot, and the wildcard elsewhere. As it
/// needs no order to find that, nothing here depends on one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Part {
    slots: Vec<String>,
    tally: Tally,
}

impl Part {
    fn merge(&mut self, other: &Part) {
        for (mine, theirs) in self.slots.iter_mut().zip(&other.slots) {
            if mine != theirs {
                Kind::Any.placeholder().clone_into(mine);
            }
        }
        self.tally.lump(&other.tally);
    }
}

/// Lines of the forgotten shapes of a structure: parts by the value of the first slot, those with the lowest hashes, and the rest.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Lumped {
    parts: BTreeMap<String, Part>,
    rest: Option<Part>,
}

impl Lumped {
    fn add(&mut self, key: &str, part: &Part) {
        if let Some(mine) = self.parts.get_mut(key) {
            mine.merge(part);
            return;
        }
        if self.parts.len() < MAX_PARTS {
            self.parts.insert(key.to_owned(), part.clone());
            return;
        }
        let rank = |key: &str| (stable_hash(key.as_bytes()), key.to_owned());
        let last = self.parts.keys().max_by_key(|k| rank(k)).cloned().unwrap_or_default();
        if rank(&last) > rank(key)
            && let Some(gone) = self.parts.remove(&last)
        {
            self.add_rest(&gone);
            self.parts.insert(key.to_owned(), part.clone());
        } else {
            self.add_rest(part);
        }
    }

    fn add_rest(&mut self, part: &Part) {
        match &mut self.rest {
            Some(rest) => rest.merge(part),
            None => self.rest = Some(part.clone()),
        }
    }

    fn merge(&mut self, other: &Lumped) {
        other.parts.iter().for_each(|(key, part)| self.add(key, part));
        other.rest.iter().for_each(|part| self.add_rest(part));
    }

    fn all(&self) -> impl Iterator<Item = &Part> {
        self.parts.values().chain(&self.rest)
    }
}

/// One pattern as a [`Miner`] reports it.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct PatternSummary {
    /// The pattern.
    pub pattern: String,
    /// Lines of it.
    pub count: u64,
    /// Up to five different lines, masked unless [`Miner::mask_samples`] said otherwise.
    pub samples: Vec<String>,
    /// One entry for each placeholder, in order.
    pub parameters: Vec<Parameter>,
}

/// What one placeholder stood for.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Parameter {
    /// Name of the placeholder without braces (`ID`, `*`).
    #[serde(rename = "type")]
    pub kind: &'static str,
    /// Number of different values: exact up to 64, estimated beyond.
    pub distinct: u64,
    /// The most frequent values with their counts.
    pub top: Vec<ValueCount>,
}

/// A value and how often it came.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ValueCount {
    /// The value.
    pub value: String,
    /// How often it came.
    pub count: u64,
}

/// Serialised form: everything that cannot be computed again.
#[derive(Serialize, Deserialize)]
struct State {
    version: u32,
    limit: usize,
    shapes: BTreeMap<String, Tally>,
    lumped: BTreeMap<String, Lumped>,
    other: Tally,
}

/// Patterns, counts, samples and parameters of a stream of lines. Bounded by the limit on shapes (see [`PatternSet`]); two miners
/// merge in any order to the same state; the counts always sum to the lines sent.
#[derive(Debug)]
pub struct Miner {
    kept: Kept,
    tallies: HashMap<Box<str>, Tally, ShapeState>,
    /// Lines of forgotten shapes by structure, for structures of which shapes are kept.
    lumped: BTreeMap<String, Lumped>,
    /// Lines of forgotten structures.
    other: Tally,
    /// Whether samples are masked.
    mask: bool,
}

impl Default for Miner {
    fn default() -> Self {
        Self::new(DEFAULT_LIMIT)
    }
}

impl Miner {
    /// A miner that keeps at most `limit` shapes.
    pub fn new(limit: usize) -> Self {
        Self {
            kept: Kept::new(limit),
            tallies: HashMap::default(),
            lumped: BTreeMap::new(),
            other: Tally::default(),
            mask: true,
        }
    }

    /// Whether the samples of lines that are added from now on are masked ([`crate::mask_line`]), as they are unless told.
    pub fn mask_samples(&mut self, mask: bool) {
        self.mask = mask;
    }

    /// Counts a raw line.
    pub fn add(&mut self, line: &str) {
        let message = message_of(line);
        let (shape, segments, text) = message_spans(&message);
        if let Some(tally) = self.tallies.get_mut(shape.as_str()) {
            tally.count += 1;
            tally.samples.add(line, self.mask);
            record(tally, &shape, &text, &segments);
            return;
        }
        let mut tally = Tally { count: 1, ..Tally::default() };
        tally.samples.add(line, self.mask);
        record(&mut tally, &shape, &text, &segments);
        self.put(&shape, &tally);
    }

    /// Adds a tally of a shape, kept or not.
    fn put(&mut self, shape: &str, tally: &Tally) {
        if let Some(mine) = self.tallies.get_mut(shape) {
            mine.merge(tally);
            return;
        }
        let skeleton = structure(shape);
        match self.kept.offer(shape, &skeleton) {
            Offered::Known => {}
            Offered::Kept(forgotten) => {
                self.tallies.insert(shape.into(), tally.clone());
                if let Some((gone, from)) = forgotten {
                    let tally = self.tallies.remove(&gone).unwrap_or_default();
                    self.lump_shape(&gone, &from, &tally);
                }
            }
            Offered::Rejected => self.lump_shape(shape, &skeleton, tally),
        }
    }

    /// Adds the lines of a shape that is not kept.
    fn lump_shape(&mut self, shape: &str, structure: &str, tally: &Tally) {
        let values: Vec<String> = slots(shape).iter().map(|&(a, b)| shape[a..b].to_owned()).collect();
        let key = values.first().cloned().unwrap_or_default();
        let mut part = Part { slots: values, tally: Tally::default() };
        part.tally.lump(tally);
        let mut lumped = Lumped::default();
        lumped.add(&key, &part);
        self.lump(structure, &lumped);
    }

    fn lump(&mut self, structure: &str, lumped: &Lumped) {
        if self.kept.has_structure(structure) {
            self.lumped.entry(structure.to_owned()).or_default().merge(lumped);
            return;
        }
        let gone = self.lumped.remove(structure);
        for part in lumped.all().chain(gone.iter().flat_map(Lumped::all)) {
            self.other.lump(&part.tally);
        }
    }

    /// Adds everything that another miner counted. The smaller limit of the two holds.
    pub fn merge(&mut self, other: &Miner) {
        if other.kept.limit() < self.kept.limit() {
            let mine = std::mem::replace(self, Miner::new(other.kept.limit()));
            self.merge(&mine);
        }
        let mut shapes: Vec<_> = other.tallies.iter().collect();
        shapes.sort_by(|a, b| a.0.cmp(b.0));
        for (shape, tally) in shapes {
            self.put(shape, tally);
        }
        for (structure, lumped) in &other.lumped {
            self.lump(structure, lumped);
        }
        self.other.lump(&other.other);
    }

    /// Lines counted.
    pub fn lines(&self) -> u64 {
        let lumped = self.lumped.values().flat_map(Lumped::all).map(|p| &p.tally);
        self.tallies.values().chain(lumped).map(|t| t.count).sum::<u64>() + self.other.count
    }

    /// The shapes and their patterns, computed now.
    pub fn pattern_set(&self) -> PatternSet {
        let mut set = PatternSet::new(self.kept.limit());
        set.insert_all(self.kept.shapes(), || ());
        set
    }

    /// Every pattern with its count, samples and parameters (`top` values for each), the most frequent first, ties by the pattern.
    pub fn summaries(&self, top: usize) -> Vec<PatternSummary> {
        let mut found: BTreeMap<String, Tally> = BTreeMap::new();
        let set = self.pattern_set();
        for (shape, pattern) in set.patterns() {
            let Some(tally) = self.tallies.get(shape) else {
                continue;
            };
            let mut of_pattern = Tally { values: pattern_values(shape, &pattern, tally), ..Tally::default() };
            of_pattern.lump(tally);
            found.entry(pattern).or_default().merge(&of_pattern);
        }
        for (structure, lumped) in &self.lumped {
            for part in lumped.all() {
                let common = assemble(structure, part.slots.iter().map(String::as_str));
                found.entry(set.cover(&common)).or_default().lump(&part.tally);
            }
        }
        if self.other.count > 0 {
            found.entry(OTHER.to_owned()).or_default().lump(&self.other);
        }
        let mut all: Vec<PatternSummary> =
            found.into_iter().map(|(pattern, tally)| summary(pattern, tally, top)).collect();
        all.sort_by(|a, b| b.count.cmp(&a.count).then_with(|| a.pattern.cmp(&b.pattern)));
        all
    }

    fn state(&self) -> State {
        State {
            version: STATE_VERSION,
            limit: self.kept.limit(),
            shapes: self.tallies.iter().map(|(s, t)| (s.to_string(), t.clone())).collect(),
            lumped: self.lumped.clone(),
            other: self.other.clone(),
        }
    }
}

/// Counts the values of a line: `text` is its message with the secrets hidden, which the segments are of.
fn record(tally: &mut Tally, shape: &str, text: &Hidden<'_>, segments: &[crate::shape::Segment]) {
    if !shape.contains('{') {
        return;
    }
    let spans = placeholders(shape);
    if tally.values.len() < spans.len() {
        tally.values.resize_with(spans.len(), Values::default);
    }
    let mut next = segments.iter();
    for ((kind, a, b), values) in spans.into_iter().zip(&mut tally.values) {
        let segment = if kind == Kind::Secret { None } else { next.clone().position(|s| s.out == (a, b)) };
        let Some(n) = segment else {
            // a hidden one may lie within a segment
            values.add(MASK, 1);
            continue;
        };
        if let Some(s) = next.nth(n) {
            let value = text.told(s.raw.0, s.raw.1);
            // before it is cut
            let value = if value.len() > MAX_VALUE_LEN { Cow::Owned(mask_line(&value).into_owned()) } else { value };
            values.add(&value, 1);
        }
    }
}

/// The values of a shape by the placeholders of its pattern: an open slot takes the text that the shape has there.
fn pattern_values(shape: &str, pattern: &str, tally: &Tally) -> Vec<Values> {
    let mut found = Vec::new();
    let mut of_shape = tally.values.iter();
    for (&(a, b), &(p, q)) in slots(shape).iter().zip(&slots(pattern)) {
        let (have, want) = (&shape[a..b], &pattern[p..q]);
        let inside = placeholders(have);
        let values: Vec<Values> = inside.iter().map(|_| of_shape.next().cloned().unwrap_or_default()).collect();
        if want != Kind::Any.placeholder() || have == want {
            found.extend(values);
            continue;
        }
        let mut open = Values::default();
        match (&*inside, values.first()) {
            ([(_, x, y)], Some(of_slot)) => {
                for (v, n) in of_slot.iter() {
                    open.add(&format!("{}{v}{}", &have[..*x], &have[*y..]), n);
                }
            }
            _ => open.add(have, tally.count),
        }
        found.push(open);
    }
    found
}

fn summary(pattern: String, tally: Tally, top: usize) -> PatternSummary {
    let kinds = placeholders(&pattern);
    let parameters = kinds
        .iter()
        .enumerate()
        .map(|(i, (kind, _, _))| {
            let values = tally.values.get(i);
            Parameter {
                kind: kind.name(),
                distinct: values.map_or(0, Values::distinct),
                top: values.map_or_else(Vec::new, |v| {
                    v.top(top).into_iter().map(|(value, count)| ValueCount { value: value.to_owned(), count }).collect()
                }),
            }
        })
        .collect();
    PatternSummary {
        count: tally.count,
        samples: tally.samples.lines().map(str::to_owned).collect(),
        parameters,
        pattern,
    }
}

impl Serialize for Miner {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.state().serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Miner {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let state = State::deserialize(deserializer)?;
        if state.version != STATE_VERSION {
            return Err(serde::de::Error::custom(format!(
                "miner state has version {}, this is version {STATE_VERSION}",
                state.version
            )));
        }
        let mut miner = Miner::new(state.limit);
        for (shape, tally) in &state.shapes {
            miner.put(shape, tally);
        }
        for (structure, lumped) in &state.lumped {
            miner.lump(structure, lumped);
        }
        miner.other.merge(&state.other);
        Ok(miner)
    }
}

/// A counter of shapes alone: the fastest way to know which shapes lines have and how often.
#[derive(Debug, Default)]
pub struct ShapeCounts {
    counts: HashMap<Box<[u8]>, u64, ShapeState>,
    buffer: Vec<u8>,
}

impl ShapeCounts {
    /// Counts a message (not a raw line: prefixes are not looked for).
    pub fn add(&mut self, message: &str) {
        crate::shape::shape_into(message, &mut self.buffer);
        if let Some(n) = self.counts.get_mut(&*self.buffer) {
            *n += 1;
        } else {
            self.counts.insert(self.buffer.as_slice().into(), 1);
        }
    }

    /// The number of different shapes.
    pub fn len(&self) -> usize {
        self.counts.len()
    }

    /// Whether nothing was counted.
    pub fn is_empty(&self) -> bool {
        self.counts.is_empty()
    }

    /// The shapes with their counts, by the shape's bytes.
    pub fn into_counts(self) -> Vec<(String, u64)> {
        let mut all: Vec<(String, u64)> = self
            .counts
            .into_iter()
            .map(|(s, n)| {
                (String::from_utf8(s.into_vec()).unwrap_or_else(|e| shape(&String::from_utf8_lossy(e.as_bytes()))), n)
            })
            .collect();
        all.sort();
        all
    }
}
