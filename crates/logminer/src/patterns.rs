//! The set of shapes of one source and the pattern of each.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use crate::closure::Bucket;
use crate::hash::ShapeState;
use crate::kept::{Kept, Offered};
use crate::kind::Kind;
use crate::slots::{SLOT, is_preposition, skeleton, slots};
use crate::weights::place;

/// Shapes that a set keeps unless told otherwise.
pub const DEFAULT_LIMIT: usize = 4096;

/// Pattern of lines whose shape and structure were both forgotten.
pub const OTHER: &str = "{*}";

/// A set of shapes, each with its pattern, that never holds more than a given number of them.
///
/// Shapes with the same structure (the text around their slots) form a group; within it they are ranked by their hash. When there are too
/// many, the shape of the highest rank is forgotten, of the groups with one of that rank the one with the largest hash; and no group has
/// more than [`MAX_OF_STRUCTURE`](crate::MAX_OF_STRUCTURE). So a flood of unique lines of one structure pushes out itself and not the
/// rest; what is kept is a function of the set of shapes ever seen, whatever their order; and a shape that is kept at the end was kept all
/// along.
#[derive(Debug)]
pub struct PatternSet {
    kept: Kept,
    buckets: HashMap<Box<str>, Bucket, ShapeState>,
    /// The number of each shape in its bucket.
    shapes: HashMap<Box<str>, u32, ShapeState>,
}

/// What adding shapes did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Growth {
    /// Shapes that were not in the set before and are now, sorted.
    pub added: Vec<String>,
    /// Shapes that were in the set before and are no longer, sorted.
    pub forgotten: Vec<String>,
    /// Structures of which a pattern of before may be gone: it became a more general one, or all its shapes were forgotten.
    pub changed: BTreeSet<String>,
}

/// Shapes to add to and take out of a bucket.
#[derive(Default)]
struct Touched {
    added: BTreeSet<Box<str>>,
    removed: BTreeSet<Box<str>>,
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

/// Whether a text is a pattern with other text in place of each `{*}`: of one word but in quotes, in brackets and at the end.
fn reads_like(text: &str, pattern: &str) -> bool {
    let any = Kind::Any.placeholder();
    let Some((first, mut rest)) = pattern.split_once(any) else { return text == pattern };
    let Some(mut text) = text.strip_prefix(first) else { return false };
    let mut before = first;
    loop {
        let (part, behind) = rest.split_once(any).map_or((rest, None), |(part, behind)| (part, Some(behind)));
        // at the first place where it may be, and the last part at the end
        let at = if behind.is_some() {
            text.find(part)
        } else {
            text.len().checked_sub(part.len()).filter(|_| text.ends_with(part))
        };
        let Some(at) = at else { return false };
        let phrase =
            before.ends_with(['"', '\'', '(', '[', '{']) || behind.is_none() && part.trim_end_matches('.').is_empty();
        if text[..at].contains(' ') && !phrase {
            return false;
        }
        let Some(behind) = behind else { return true };
        (text, rest, before) = (&text[at + part.len()..], behind, part);
    }
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
        Self { kept: Kept::new(limit), buckets: HashMap::default(), shapes: HashMap::default() }
    }

    /// The number of shapes in the set.
    pub fn len(&self) -> usize {
        self.kept.len()
    }

    /// Whether no shape is in the set.
    pub fn is_empty(&self) -> bool {
        self.kept.len() == 0
    }

    /// The most shapes that the set keeps.
    pub fn limit(&self) -> usize {
        self.kept.limit()
    }

    /// Whether a shape is in the set.
    pub fn contains(&self, shape: &str) -> bool {
        self.shapes.contains_key(shape)
    }

    /// Whether a shape of this structure is kept.
    pub fn has_structure(&self, structure: &str) -> bool {
        self.kept.has_structure(structure)
    }

    /// Adds a shape and answers its pattern, and which known patterns generalised because of it. Where shapes are forgotten their
    /// groups are computed anew: for many shapes use [`PatternSet::insert_all`].
    pub fn insert(&mut self, shape: &str) -> Inserted {
        if let Some(pattern) = self.pattern(shape) {
            return Inserted { pattern, is_kept: true, ..Inserted::default() };
        }
        let skeleton = structure(shape);
        let Offered::Kept(forgotten) = self.kept.offer(shape, &skeleton) else {
            return Inserted { pattern: self.cover(shape), ..Inserted::default() };
        };
        let generalised = match &forgotten {
            Some((gone, from)) if **from == *skeleton => {
                self.shapes.remove(gone);
                self.rebuild(&skeleton);
                BTreeMap::new()
            }
            Some((gone, from)) => {
                self.shapes.remove(gone);
                self.rebuild(from);
                self.extend(&skeleton, shape)
            }
            None => self.extend(&skeleton, shape),
        };
        Inserted {
            pattern: self.pattern(shape).unwrap_or_default(),
            is_new: true,
            is_kept: true,
            generalised: generalised.into_iter().collect(),
            forgotten: forgotten.map(|(gone, _)| gone.into()),
        }
    }

    /// Adds shapes: first is chosen which are kept, then every group that lost a shape is computed anew, once. `tick` is called all along;
    /// should it unwind, the set is worthless.
    pub fn insert_all<'a>(&mut self, shapes: impl IntoIterator<Item = &'a str>, mut tick: impl FnMut()) -> Growth {
        let mut touched: BTreeMap<Box<str>, Touched> = BTreeMap::new();
        for shape in shapes {
            tick();
            let skeleton = structure(shape);
            let Offered::Kept(forgotten) = self.kept.offer(shape, &skeleton) else { continue };
            touched.entry(skeleton.into()).or_default().added.insert(shape.into());
            if let Some((gone, from)) = forgotten {
                let from = touched.entry(from).or_default();
                if !from.added.remove(&gone) {
                    from.removed.insert(gone);
                }
            }
        }
        let mut growth = Growth::default();
        for (skeleton, Touched { added, removed }) in touched {
            if removed.is_empty() {
                let mut changed = false;
                for shape in &added {
                    tick();
                    changed |= !self.extend(&skeleton, shape).is_empty();
                }
                if changed {
                    growth.changed.insert(skeleton.into());
                }
            } else {
                tick();
                removed.iter().for_each(|shape| {
                    self.shapes.remove(shape);
                });
                self.rebuild(&skeleton);
                growth.changed.insert(skeleton.into());
            }
            growth.added.extend(added.into_iter().map(String::from));
            growth.forgotten.extend(removed.into_iter().map(String::from));
        }
        growth.added.sort_unstable();
        growth.forgotten.sort_unstable();
        growth
    }

    /// Adds a chosen shape to its bucket; answers the patterns that generalised.
    fn extend(&mut self, skeleton: &str, shape: &str) -> BTreeMap<String, String> {
        let parts = slots(shape);
        let bucket = self.buckets.entry(skeleton.into()).or_insert_with(|| new_bucket(shape, &parts));
        self.shapes.insert(shape.into(), bucket.len());
        let values: Vec<&str> = parts.iter().map(|&(a, b)| &shape[a..b]).collect();
        let changes = bucket.insert(&values);
        let assembled = |old: &Vec<u32>, member| {
            (assemble(skeleton, bucket.text(old).into_iter()), assemble(skeleton, bucket.pattern(member)))
        };
        let all = changes.absorbed.iter().map(|(old, member)| assembled(old, *member));
        all.filter(|(old, new)| old != new && old != shape).collect()
    }

    /// Computes the bucket of a structure anew from the shapes that are kept.
    fn rebuild(&mut self, skeleton: &str) {
        self.buckets.remove(skeleton);
        let mut bucket: Option<Bucket> = None;
        for shape in self.kept.of_structure(skeleton) {
            let parts = slots(shape);
            let bucket = bucket.get_or_insert_with(|| new_bucket(shape, &parts));
            self.shapes.insert(shape.into(), bucket.len());
            let values: Vec<&str> = parts.iter().map(|&(a, b)| &shape[a..b]).collect();
            bucket.insert(&values);
        }
        if let Some(bucket) = bucket {
            self.buckets.insert(skeleton.into(), bucket);
        }
    }

    /// The pattern of a shape in the set; `None` when the shape is not in it.
    pub fn pattern(&self, shape: &str) -> Option<String> {
        let number = *self.shapes.get(shape)?;
        let skeleton = structure(shape);
        Some(assemble(&skeleton, self.buckets.get(skeleton.as_str())?.pattern(number)))
    }

    /// The pattern that covers a shape or pattern, in the set or not: of several the one with the fewest open slots, of those the first by
    /// its bytes; `None` when no pattern does.
    pub fn find(&self, shape: &str) -> Option<String> {
        let parts = slots(shape);
        let skeleton = skeleton(shape, &parts);
        let bucket = self.buckets.get(skeleton.as_str())?;
        let class = bucket.covering(parts.iter().map(|&(a, b)| &shape[a..b]))?;
        Some(assemble(&skeleton, bucket.class_pattern(class).into_iter()))
    }

    /// The pattern for a shape that is not kept, or for a pattern of which no shape is: one that covers it, else its structure with every
    /// slot open when shapes of it are kept, else [`OTHER`].
    pub fn cover(&self, shape: &str) -> String {
        self.find(shape).unwrap_or_else(|| self.open_structure(&structure(shape)))
    }

    /// [`Self::cover`] for a pattern that another version may have made, which may have cut its shapes elsewhere: where no kept shape has its structure, the one pattern
    /// of all kept shapes that read like it, with any text in place of each `{*}`. `None` when these have several patterns: it became none of them.
    pub fn successor(&self, pattern: &str) -> Option<String> {
        if self.has_structure(&structure(pattern)) {
            return Some(self.cover(pattern));
        }
        let mut found: Option<String> = None;
        for shape in self.kept.shapes().filter(|shape| reads_like(shape, pattern)) {
            let now = self.pattern(shape)?;
            if found.as_ref().is_some_and(|found| *found != now) {
                return None;
            }
            found = Some(now);
        }
        Some(found.unwrap_or_else(|| self.cover(pattern)))
    }

    fn open_structure(&self, structure: &str) -> String {
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
