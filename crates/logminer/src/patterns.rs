//! The set of shapes of one source and the pattern of each.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use crate::closure::Bucket;
use crate::hash::{ShapeState, stable_hash};
use crate::slots::{SLOT, is_preposition, skeleton, slots};
use crate::weights::place;

/// Shapes that a set keeps unless told otherwise.
pub const DEFAULT_LIMIT: usize = 4096;

/// Pattern of lines whose shape and structure were both forgotten.
pub const OTHER: &str = "{*}";

/// A set of shapes, each with its pattern, that never holds more than a given number of them.
///
/// Shapes with the same skeleton (the text around their slots) form a group; within it they are ranked by their hash. When there are too
/// many, the shape of the highest rank is forgotten, of the groups with one of that rank the one with the largest hash. So a flood of
/// unique lines of one structure pushes out itself and not the rest; what is kept is a function of the set of shapes ever seen,
/// whatever their order; and a shape that is kept at the end was kept all along.
#[derive(Debug)]
pub struct PatternSet {
    limit: usize,
    buckets: HashMap<Box<str>, Group, ShapeState>,
    shapes: HashMap<Box<str>, u32, ShapeState>,
    /// The groups by size and hash: the last one is where the next shape is forgotten.
    sizes: BTreeSet<(usize, u64, Box<str>)>,
}

#[derive(Debug)]
struct Group {
    hash: u64,
    bucket: Bucket,
    /// Hash of each shape, with its text.
    ranked: BTreeMap<(u64, Box<str>), ()>,
}

/// What became of a shape that was inserted.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Inserted {
    /// The pattern of the shape.
    pub pattern: String,
    /// Whether the shape was not in the set before and is now.
    pub is_new: bool,
    /// Whether the shape is in the set now; if not, the set is full and the pattern is one that covers it.
    pub is_kept: bool,
    /// Patterns that generalised: the pattern before and the pattern that took its place; each old pattern once, sorted.
    pub generalised: Vec<(String, String)>,
    /// The shape that was forgotten to make room.
    pub forgotten: Option<String>,
}

pub(crate) fn assemble<'a>(skeleton: &str, mut values: impl Iterator<Item = &'a str>) -> String {
    let mut out = String::with_capacity(skeleton.len() * 2);
    for (i, literal) in skeleton.split(SLOT as char).enumerate() {
        if i > 0 {
            out.push_str(values.next().unwrap_or("{*}"));
        }
        out.push_str(literal);
    }
    out
}

/// The skeleton of a shape or pattern: equal for a shape and every pattern that covers it.
pub fn structure(shape: &str) -> String {
    skeleton(shape, &slots(shape))
}

fn new_bucket(shape: &str, parts: &[(usize, usize)]) -> Bucket {
    let next = |i: usize, b: usize| parts.get(i + 1).is_some_and(|n| n.0 == b + 1 && shape.as_bytes()[b] == b' ');
    let places = parts.iter().enumerate().map(|(i, &(a, b))| place(shape, a, b, i == 0, next(i, b))).collect();
    let prepositions =
        skeleton(shape, parts).split([' ', SLOT as char]).filter(|w| is_preposition(w.as_bytes())).count();
    Bucket::new(places, prepositions)
}

impl Default for PatternSet {
    fn default() -> Self {
        Self::new(DEFAULT_LIMIT)
    }
}

impl PatternSet {
    /// An empty set that keeps at most `limit` shapes (at least one).
    pub fn new(limit: usize) -> Self {
        Self { limit: limit.max(1), buckets: HashMap::default(), shapes: HashMap::default(), sizes: BTreeSet::new() }
    }

    /// The number of shapes in the set.
    pub fn len(&self) -> usize {
        self.shapes.len()
    }

    /// Whether no shape is in the set.
    pub fn is_empty(&self) -> bool {
        self.shapes.is_empty()
    }

    /// The most shapes that the set keeps.
    pub fn limit(&self) -> usize {
        self.limit
    }

    /// Whether a shape of this structure is kept.
    pub fn has_structure(&self, structure: &str) -> bool {
        self.buckets.contains_key(structure)
    }

    /// Adds a shape and answers its pattern, and which known patterns generalised because of it.
    pub fn insert(&mut self, shape: &str) -> Inserted {
        if let Some(pattern) = self.pattern(shape) {
            return Inserted { pattern, is_kept: true, ..Inserted::default() };
        }
        let parts = slots(shape);
        let skeleton = skeleton(shape, &parts);
        let hash = stable_hash(shape.as_bytes());
        let victim = if self.shapes.len() < self.limit { None } else { Some(self.victim(&skeleton, hash, shape)) };
        if victim.as_deref() == Some(shape) {
            return Inserted { pattern: self.cover(shape), ..Inserted::default() };
        }
        let group = self.buckets.entry(skeleton.as_str().into()).or_insert_with(|| Group {
            hash: stable_hash(skeleton.as_bytes()),
            bucket: new_bucket(shape, &parts),
            ranked: BTreeMap::new(),
        });
        self.sizes.remove(&(group.ranked.len(), group.hash, skeleton.as_str().into()));
        group.ranked.insert((hash, shape.into()), ());
        self.sizes.insert((group.ranked.len(), group.hash, skeleton.as_str().into()));
        let number = group.bucket.len();
        let values: Vec<&str> = parts.iter().map(|&(a, b)| &shape[a..b]).collect();
        let changes = group.bucket.insert(&values);
        let bucket = &group.bucket;
        let generalised: BTreeMap<String, String> = changes
            .absorbed
            .iter()
            .map(|(old, member)| {
                (assemble(&skeleton, bucket.text(old).into_iter()), assemble(&skeleton, bucket.pattern(*member)))
            })
            .filter(|(old, new)| old != new && old != shape)
            .collect();
        self.shapes.insert(shape.into(), number);
        if let Some(victim) = &victim {
            self.forget(victim);
        }
        Inserted {
            pattern: self.pattern(shape).unwrap_or_default(),
            is_new: true,
            is_kept: true,
            generalised: generalised.into_iter().collect(),
            forgotten: victim,
        }
    }

    /// The shape to forget once a new one of the given structure has come in: maybe the new one.
    fn victim(&self, skeleton: &str, hash: u64, shape: &str) -> String {
        let own = self.buckets.get(skeleton);
        let own_key =
            (own.map_or(0, |g| g.ranked.len()) + 1, own.map_or_else(|| stable_hash(skeleton.as_bytes()), |g| g.hash));
        let last = |group: &Group| group.ranked.last_key_value().map(|((h, s), ())| (*h, s.to_string()));
        match self.sizes.last() {
            Some((size, group_hash, key)) if (*size, *group_hash) > own_key => {
                self.buckets.get(key).and_then(last).map_or_else(|| shape.to_owned(), |(_, s)| s)
            }
            _ => match own.and_then(last) {
                Some((h, s)) if (h, s.as_str()) > (hash, shape) => s,
                _ => shape.to_owned(),
            },
        }
    }

    fn forget(&mut self, shape: &str) {
        let parts = slots(shape);
        let skeleton = skeleton(shape, &parts);
        self.shapes.remove(shape);
        let Some(group) = self.buckets.get_mut(skeleton.as_str()) else {
            return;
        };
        self.sizes.remove(&(group.ranked.len(), group.hash, skeleton.as_str().into()));
        group.ranked.remove(&(stable_hash(shape.as_bytes()), Box::from(shape)));
        if group.ranked.is_empty() {
            self.buckets.remove(skeleton.as_str());
            return;
        }
        self.sizes.insert((group.ranked.len(), group.hash, skeleton.as_str().into()));
        group.bucket = new_bucket(shape, &parts);
        for ((_, kept), ()) in &group.ranked {
            let values: Vec<&str> = slots(kept).iter().map(|&(a, b)| &kept[a..b]).collect();
            self.shapes.insert(kept.clone(), group.bucket.len());
            group.bucket.insert(&values);
        }
    }

    /// The pattern of a shape in the set; `None` when the shape is not in it.
    pub fn pattern(&self, shape: &str) -> Option<String> {
        let number = *self.shapes.get(shape)?;
        let skeleton = structure(shape);
        Some(assemble(&skeleton, self.buckets.get(skeleton.as_str())?.bucket.pattern(number)))
    }

    /// The pattern that covers a shape, in the set or not; `None` when no pattern does.
    pub fn find(&self, shape: &str) -> Option<String> {
        let parts = slots(shape);
        let skeleton = skeleton(shape, &parts);
        let bucket = &self.buckets.get(skeleton.as_str())?.bucket;
        let class = bucket.covering(parts.iter().map(|&(a, b)| &shape[a..b]))?;
        Some(assemble(&skeleton, bucket.class_pattern(class).into_iter()))
    }

    /// The pattern for a shape that is not kept: one that covers it, else its structure with every slot open, else [`OTHER`].
    fn cover(&self, shape: &str) -> String {
        self.find(shape).unwrap_or_else(|| self.open_structure(&structure(shape)))
    }

    /// A structure with every slot open when shapes of it are kept, else [`OTHER`].
    pub fn open_structure(&self, structure: &str) -> String {
        if self.has_structure(structure) { assemble(structure, std::iter::empty()) } else { OTHER.to_owned() }
    }

    /// Every shape with its pattern, in the order of the shapes' bytes.
    pub fn patterns(&self) -> Vec<(&str, String)> {
        let mut all: Vec<(&str, String)> =
            self.shapes.keys().map(|s| (&**s, self.pattern(s).unwrap_or_default())).collect();
        all.sort();
        all
    }
}
