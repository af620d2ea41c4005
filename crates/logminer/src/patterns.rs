//! The set of shapes of one source and the pattern of each.

use std::collections::HashMap;

use crate::closure::{Bucket, place};
use crate::slots::{SLOT, skeleton, slots};

/// A set of shapes, each with its pattern. See the crate documentation.
#[derive(Debug, Default)]
pub struct PatternSet {
    buckets: HashMap<Box<str>, Bucket>,
    shapes: HashMap<Box<str>, u32>,
}

/// What became of a shape that was inserted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Inserted {
    /// The pattern of the shape.
    pub pattern: String,
    /// Whether the shape is new to the set.
    pub is_new: bool,
    /// Patterns that generalised: the pattern before, the pattern that took its place. Each old pattern once, sorted.
    pub generalised: Vec<(String, String)>,
}

fn assemble<'a>(skeleton: &str, mut values: impl Iterator<Item = &'a str>) -> String {
    let mut out = String::with_capacity(skeleton.len() * 2);
    for (i, literal) in skeleton.split(SLOT as char).enumerate() {
        if i > 0 {
            out.push_str(values.next().unwrap_or("{*}"));
        }
        out.push_str(literal);
    }
    out
}

impl PatternSet {
    /// An empty set.
    pub fn new() -> Self {
        Self::default()
    }

    /// The shapes in the set.
    pub fn len(&self) -> usize {
        self.shapes.len()
    }

    /// Whether no shape is in the set.
    pub fn is_empty(&self) -> bool {
        self.shapes.is_empty()
    }

    /// Adds a shape and answers its pattern and which known patterns generalised because of it.
    pub fn insert(&mut self, shape: &str) -> Inserted {
        if let Some(pattern) = self.pattern(shape) {
            return Inserted { pattern, is_new: false, generalised: Vec::new() };
        }
        let parts = slots(shape);
        let skeleton = skeleton(shape, &parts);
        let bucket = self.buckets.entry(skeleton.as_str().into()).or_insert_with(|| {
            Bucket::new(parts.iter().enumerate().map(|(i, &(a, b))| place(shape, a, b, i == 0)).collect())
        });
        let number = bucket.len();
        let values: Vec<&str> = parts.iter().map(|&(a, b)| &shape[a..b]).collect();
        let changes = bucket.insert(&values);
        let mut generalised: Vec<(String, String)> = changes
            .absorbed
            .iter()
            .map(|(old, member)| {
                (assemble(&skeleton, bucket.text(old).into_iter()), assemble(&skeleton, bucket.pattern(*member)))
            })
            .filter(|(old, new)| old != new && old != shape)
            .collect();
        generalised.sort();
        generalised.dedup();
        let pattern = assemble(&skeleton, bucket.pattern(number));
        self.shapes.insert(shape.into(), number);
        Inserted { pattern, is_new: true, generalised }
    }

    /// The pattern of a shape in the set; `None` when the shape is not in it.
    pub fn pattern(&self, shape: &str) -> Option<String> {
        let number = *self.shapes.get(shape)?;
        let skeleton = skeleton(shape, &slots(shape));
        Some(assemble(&skeleton, self.buckets.get(skeleton.as_str())?.pattern(number)))
    }

    /// The pattern that a shape belongs to, in the set or not; `None` when no pattern covers it.
    pub fn find(&self, shape: &str) -> Option<String> {
        let parts = slots(shape);
        let skeleton = skeleton(shape, &parts);
        let bucket = self.buckets.get(skeleton.as_str())?;
        let class = bucket.covering(parts.iter().map(|&(a, b)| &shape[a..b]))?;
        Some(assemble(&skeleton, bucket.class_pattern(class).into_iter()))
    }

    /// Every shape with its pattern, in the order of the shapes' bytes.
    pub fn patterns(&self) -> Vec<(&str, String)> {
        let mut all: Vec<(&str, String)> =
            self.shapes.keys().map(|s| (&**s, self.pattern(s).unwrap_or_default())).collect();
        all.sort();
        all
    }
}
