//! The lines of one call, grouped by source, level and shape. Everything that costs time per line happens here, before any lock.
use std::collections::{BTreeMap, HashMap};

use pgedge_logminer::{self as miner, ShapeState};
use pgrx::check_for_interrupts;

use super::metadata::Metadata;
use super::mineable;
use super::samples::Samples;
use super::timestamp::HOUR;
use crate::jsonb::Container;

/// A JSON object as it came.
#[derive(Clone, Copy)]
pub enum Object<'a> {
    /// Inside a jsonb.
    Jsonb(Container<'a>),
    /// As text that was parsed before.
    Text(&'a str),
}

impl<'a> Object<'a> {
    /// The bytes: equal ones are equal objects.
    fn raw(self) -> &'a [u8] {
        match self {
            Object::Jsonb(container) => container.raw(),
            Object::Text(text) => text.as_bytes(),
        }
    }

    /// Sets its keys.
    fn set_in(self, metadata: &mut Metadata, line: usize) {
        match self {
            Object::Jsonb(container) => {
                container.pairs().for_each(|(key, value)| metadata.set(line, key, value.to_json()));
            }
            Object::Text(text) => {
                let keys: BTreeMap<String, &serde_json::value::RawValue> =
                    serde_json::from_str(text).unwrap_or_default();
                keys.iter().for_each(|(key, value)| metadata.set(line, key, value.get().to_owned()));
            }
        }
    }
}

/// One line as the caller sent it.
pub struct Line<'a> {
    /// The raw line.
    pub message: &'a str,
    /// Its level when given; else the one that the line names holds.
    pub level: Option<&'a str>,
    /// Where it came from; empty when it was not said.
    pub source: &'a str,
    /// When it was written.
    pub at: i64,
    /// Its metadata.
    pub metadata: Option<Object<'a>>,
}

/// Lines of one source, level and shape.
pub struct Group<'a> {
    /// The level.
    pub level: Option<&'a str>,
    /// The shape.
    pub shape: String,
    /// What is known of them.
    pub tally: Tally<'a>,
    /// The metadata object that came last, which most often is the next one as well, and its line.
    last_metadata: Option<(usize, Object<'a>)>,
}

/// Counts, times, samples and metadata of some lines.
#[derive(Clone, Debug)]
pub struct Tally<'a> {
    /// Lines.
    pub count: i64,
    /// The earliest time.
    pub first: i64,
    /// The latest time.
    pub last: i64,
    /// Lines by hour since 2000-01-01 UTC.
    pub hours: BTreeMap<i64, i64>,
    /// Sample lines.
    pub samples: Samples<'a>,
    /// Merged metadata.
    pub metadata: Metadata,
}

impl Default for Tally<'_> {
    fn default() -> Self {
        Self {
            count: 0,
            first: i64::MAX,
            last: i64::MIN,
            hours: BTreeMap::new(),
            samples: Samples::default(),
            metadata: Metadata::default(),
        }
    }
}

impl<'a> Tally<'a> {
    /// Adds another tally.
    pub fn merge(&mut self, other: &Tally<'a>) {
        self.count += other.count;
        self.first = self.first.min(other.first);
        self.last = self.last.max(other.last);
        for (hour, n) in &other.hours {
            *self.hours.entry(*hour).or_default() += n;
        }
        self.samples.merge(&other.samples);
        self.metadata.merge(&other.metadata);
    }
}

/// The lines of one source.
#[derive(Default)]
pub struct SourceBatch<'a> {
    /// The source; empty when none was given.
    pub source: &'a str,
    /// Its groups.
    pub groups: Vec<Group<'a>>,
}

/// The lines of one call.
pub struct Batch<'a> {
    /// By source.
    pub sources: Vec<SourceBatch<'a>>,
    by_source: HashMap<&'a str, usize, ShapeState>,
    levels: Vec<&'a str>,
    /// Source and group of a shape, level number and source number.
    groups: HashMap<Box<[u8]>, usize, ShapeState>,
    lines: usize,
    key: Vec<u8>,
    /// The current hour. No line is counted in a later one: the clock that it was written by is ahead.
    this_hour: i64,
}

impl Default for Batch<'_> {
    fn default() -> Self {
        Self {
            sources: Vec::new(),
            by_source: HashMap::default(),
            levels: Vec::new(),
            groups: HashMap::default(),
            lines: 0,
            key: Vec::new(),
            this_hour: crate::session::clock().div_euclid(HOUR),
        }
    }
}

impl<'a> Batch<'a> {
    /// Adds a line. `extra` is called with the metadata of the line's group for what is not in `line.metadata`.
    pub fn add(&mut self, line: &Line<'a>, extra: impl FnOnce(&mut Metadata, usize)) {
        if self.lines.is_multiple_of(256) {
            check_for_interrupts!();
        }
        let number = self.lines;
        self.lines += 1;
        let message = mineable(line.message);
        let event = miner::parse(&message);
        let level = line.level.or(event.level.map(miner::Level::name));
        let source = self.source_number(line.source);
        if event.message.as_bytes().contains(&b'\n') {
            self.key.clear();
            self.key.extend_from_slice(miner::shape_of_message(&event.message).as_bytes());
        } else {
            miner::shape_into(&event.message, &mut self.key);
        }
        let group = self.group(source, level);
        let hour = line.at.div_euclid(HOUR).min(self.this_hour);
        let group = &mut self.sources[source].groups[group];
        group.tally.count += 1;
        group.tally.first = group.tally.first.min(line.at);
        group.tally.last = group.tally.last.max(line.at);
        *group.tally.hours.entry(hour).or_default() += 1;
        group.tally.samples.add(line.message);
        for (key, value) in event.metadata {
            group.tally.metadata.set(number, &key, value.to_string());
        }
        if let Some(metadata) = line.metadata {
            group.metadata(number, metadata);
        }
        extra(&mut group.tally.metadata, number);
    }

    /// The different levels, those that the lines name included.
    pub fn levels(&self) -> impl Iterator<Item = &'a str> {
        self.levels.iter().copied()
    }

    /// The lines added.
    pub fn len(&self) -> usize {
        self.lines
    }

    /// Merges what was kept back; call it once all lines are in.
    pub fn finish(&mut self) {
        for group in self.sources.iter_mut().flat_map(|s| &mut s.groups) {
            group.flush_metadata();
        }
    }

    fn source_number(&mut self, source: &'a str) -> usize {
        if let Some(last) = self.sources.last().filter(|s| s.source == source) {
            debug_assert_eq!(last.source, source);
            return self.sources.len() - 1;
        }
        let sources = &mut self.sources;
        *self.by_source.entry(source).or_insert_with(|| {
            sources.push(SourceBatch { source, groups: Vec::new() });
            sources.len() - 1
        })
    }

    /// The group of the shape in `self.key`.
    fn group(&mut self, source: usize, level: Option<&'a str>) -> usize {
        let shape = self.key.len();
        let level_number = match level {
            None => 0,
            // there are a handful of levels
            Some(level) => match self.levels.iter().position(|l| *l == level) {
                Some(i) => i + 1,
                None => {
                    self.levels.push(level);
                    self.levels.len()
                }
            },
        };
        self.key.extend_from_slice(&(level_number as u32).to_ne_bytes());
        self.key.extend_from_slice(&(source as u32).to_ne_bytes());
        if let Some(&group) = self.groups.get(self.key.as_slice()) {
            return group;
        }
        let groups = &mut self.sources[source].groups;
        groups.push(Group {
            level,
            shape: String::from_utf8_lossy(&self.key[..shape]).into_owned(),
            tally: Tally::default(),
            last_metadata: None,
        });
        self.groups.insert(self.key.as_slice().into(), groups.len() - 1);
        groups.len() - 1
    }
}

impl<'a> Group<'a> {
    fn metadata(&mut self, number: usize, metadata: Object<'a>) {
        match &mut self.last_metadata {
            Some((line, last)) if last.raw() == metadata.raw() => *line = number,
            _ => {
                self.flush_metadata();
                self.last_metadata = Some((number, metadata));
            }
        }
    }

    fn flush_metadata(&mut self) {
        if let Some((line, metadata)) = self.last_metadata.take() {
            metadata.set_in(&mut self.tally.metadata, line);
        }
    }
}
