//! Which shapes a set keeps once it is full: a function of all shapes it ever saw, whatever their order.

use std::collections::{BTreeSet, HashMap};

use crate::hash::{ShapeState, stable_hash};

/// Shapes kept of one structure. What a slot of a structure needs to open shows in far fewer, and the work of the closure grows with
/// their square.
pub const MAX_OF_STRUCTURE: usize = 512;

/// The choice of shapes, without their patterns. Shapes of one structure are ranked by their hash; kept are those of the lowest ranks, of
/// the structures that have a shape of the last rank those with the lowest hash, and of no structure more than [`MAX_OF_STRUCTURE`]. So
/// a shape that is kept at the end was kept all along, and what two choices keep of their own shapes is enough to choose from both.
#[derive(Debug)]
pub(crate) struct Kept {
    limit: usize,
    len: usize,
    groups: HashMap<Box<str>, Ranks, ShapeState>,
    /// The structures by size and hash: the last one is where the next shape is forgotten.
    sizes: BTreeSet<(usize, u64, Box<str>)>,
}

#[derive(Debug)]
struct Ranks {
    hash: u64,
    shapes: BTreeSet<(u64, Box<str>)>,
}

/// What became of a shape.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Offered {
    /// It was kept before.
    Known,
    /// It is kept now, and another one, of the structure given, is no longer.
    Kept(Option<(Box<str>, Box<str>)>),
    /// It is not kept and never will be.
    Rejected,
}

impl Kept {
    pub(crate) fn new(limit: usize) -> Self {
        Self { limit: limit.max(1), len: 0, groups: HashMap::default(), sizes: BTreeSet::new() }
    }

    pub(crate) fn len(&self) -> usize {
        self.len
    }

    pub(crate) fn limit(&self) -> usize {
        self.limit
    }

    pub(crate) fn has_structure(&self, structure: &str) -> bool {
        self.groups.contains_key(structure)
    }

    /// The shapes of a structure, by their hash.
    pub(crate) fn of_structure(&self, structure: &str) -> impl Iterator<Item = &str> {
        self.groups.get(structure).into_iter().flat_map(|g| g.shapes.iter().map(|(_, s)| &**s))
    }

    /// All shapes, in no order.
    pub(crate) fn shapes(&self) -> impl Iterator<Item = &str> {
        self.groups.values().flat_map(|g| g.shapes.iter().map(|(_, s)| &**s))
    }

    /// Takes a shape in, or rejects it: a few comparisons, whatever is kept.
    pub(crate) fn offer(&mut self, shape: &str, structure: &str) -> Offered {
        let key = (stable_hash(shape.as_bytes()), Box::<str>::from(shape));
        let group = self.groups.get(structure);
        if group.is_some_and(|g| g.shapes.contains(&key)) {
            return Offered::Known;
        }
        let size = group.map_or(0, |g| g.shapes.len());
        let full = size >= MAX_OF_STRUCTURE;
        if !full && self.len < self.limit {
            self.put(structure, key);
            return Offered::Kept(None);
        }
        let hash = group.map_or_else(|| stable_hash(structure.as_bytes()), |g| g.hash);
        let largest = if full { None } else { self.sizes.last().filter(|(n, h, _)| (*n, *h) > (size + 1, hash)) };
        let from: Box<str> = largest.map_or_else(|| structure.into(), |(_, _, s)| s.clone());
        // of its own structure the one with the largest hash goes, which may be the new one
        if *from == *structure && group.and_then(|g| g.shapes.last()).is_none_or(|last| *last < key) {
            return Offered::Rejected;
        }
        self.put(structure, key);
        let gone = self.take_last(&from);
        Offered::Kept(gone.map(|shape| (shape, from)))
    }

    fn put(&mut self, structure: &str, key: (u64, Box<str>)) {
        let group = self
            .groups
            .entry(structure.into())
            .or_insert_with(|| Ranks { hash: stable_hash(structure.as_bytes()), shapes: BTreeSet::new() });
        self.sizes.remove(&(group.shapes.len(), group.hash, structure.into()));
        group.shapes.insert(key);
        self.sizes.insert((group.shapes.len(), group.hash, structure.into()));
        self.len += 1;
    }

    fn take_last(&mut self, structure: &str) -> Option<Box<str>> {
        let group = self.groups.get_mut(structure)?;
        self.sizes.remove(&(group.shapes.len(), group.hash, structure.into()));
        let (_, gone) = group.shapes.pop_last()?;
        self.len -= 1;
        if group.shapes.is_empty() {
            self.groups.remove(structure);
        } else {
            self.sizes.insert((group.shapes.len(), group.hash, structure.into()));
        }
        Some(gone)
    }
}
