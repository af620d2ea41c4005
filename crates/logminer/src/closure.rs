//! The closure over a set of shapes with one skeleton.
//!
//! Derived elements: every shape is one; and when the shapes that agree with an element in all slots but one show enough different
//! values in that slot, the element with the slot opened is one as well. How many values are enough depends on the element alone, and
//! a larger set of shapes only shows more of them, so the derived elements are the least fixpoint of a monotone operator: unique,
//! whatever the order in which shapes arrive, and never fewer when shapes are added. The pattern of a shape is the join (slot by slot:
//! equal or wildcard) of all elements that cover it, and of all that cover a shape which that join covers.

use std::collections::{HashMap, HashSet};

use crate::forms::is_word;
use crate::slots::{is_preposition, word_before};

/// Weight at which a slot becomes a wildcard.
const ENOUGH: u32 = 120;

/// Elements with this many open slots open no more.
const MAX_OPEN: usize = 6;

/// A slot's value, as an index into [`Bucket::values`]; 0 is the wildcard.
pub(crate) type Value = u32;
const WILD: Value = 0;

/// What a value looks like: the likelier it is to be a parameter, the fewer different ones are needed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    /// A placeholder, or nothing between brackets.
    Typed,
    /// A word with a placeholder in it.
    Mixed,
    /// A word with digits (`eth0`).
    Digits,
    /// A name made of parts (`syslog-ng`, `rpc.statd`, `fooBar`).
    Parts,
    /// A constant (`RUNNING`).
    Upper,
    /// Any other word.
    Plain,
    /// One letter.
    Letter,
    /// Quoted text of several words.
    Phrase,
}

fn form(value: &str) -> Form {
    let b = value.as_bytes();
    if value.contains(' ') {
        Form::Phrase
    } else if b.is_empty()
        || b.starts_with(b"{") && b.iter().filter(|c| c.is_ascii_lowercase()).count() < 3
    {
        Form::Typed
    } else if b.contains(&b'{') {
        Form::Mixed
    } else if b.iter().any(u8::is_ascii_digit) {
        Form::Digits
    } else if b.len() > 1 && b.iter().all(|c| c.is_ascii_uppercase() || *c == b'_') {
        Form::Upper
    } else if b.iter().any(|c| !is_word(*c) || *c == b'_')
        || b.windows(2)
            .any(|w| w[0].is_ascii_lowercase() && w[1].is_ascii_uppercase())
    {
        Form::Parts
    } else if b.len() == 1 {
        Form::Letter
    } else {
        Form::Plain
    }
}

/// How strongly the place of a slot suggests a parameter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    First,
    Usual,
    /// Behind a preposition or in brackets.
    Likely,
    /// The value of a key, or quoted.
    Value,
}

#[derive(Debug)]
struct Class {
    pattern: Vec<Value>,
    members: Vec<u32>,
}

/// The shapes of one skeleton and their patterns.
#[derive(Debug)]
pub(crate) struct Bucket {
    values: Vec<(Box<str>, Form)>,
    ids: HashMap<Box<str>, Value>,
    shapes: Vec<Vec<Value>>,
    class_of: Vec<u32>,
    classes: Vec<Class>,
    places: Vec<Place>,
    derived: Vec<Vec<Value>>,
    is_derived: HashSet<Vec<Value>>,
}

/// What [`Bucket::insert`] changed: for each class whose pattern became another one, the old pattern and the class.
#[derive(Debug, Default)]
pub(crate) struct Changes {
    pub absorbed: Vec<(Vec<Value>, u32)>, // pattern before, a shape that had it,
}

impl Bucket {
    pub(crate) fn new(places: Vec<Place>) -> Self {
        let mut b = Self {
            values: Vec::new(),
            ids: HashMap::new(),
            shapes: Vec::new(),
            class_of: Vec::new(),
            classes: Vec::new(),
            places,
            derived: Vec::new(),
            is_derived: HashSet::new(),
        };
        b.intern("{*}");
        b
    }

    fn intern(&mut self, text: &str) -> Value {
        if let Some(&v) = self.ids.get(text) {
            return v;
        }
        let v = self.values.len() as Value;
        self.values.push((text.into(), form(text)));
        self.ids.insert(text.into(), v);
        v
    }

    /// Text of the slots of the pattern of a shape (by the number `insert` gave it).
    pub(crate) fn pattern(&self, shape: u32) -> impl Iterator<Item = &str> {
        let class = self.class_of[shape as usize];
        self.classes[class as usize]
            .pattern
            .iter()
            .map(|&v| &*self.values[v as usize].0)
    }

    pub(crate) fn text(&self, pattern: &[Value]) -> Vec<&str> {
        pattern
            .iter()
            .map(|&v| &*self.values[v as usize].0)
            .collect()
    }

    pub(crate) fn class_pattern(&self, class: u32) -> Vec<&str> {
        self.text(&self.classes[class as usize].pattern)
    }

    /// The number of shapes.
    pub(crate) fn len(&self) -> u32 {
        self.shapes.len() as u32
    }

    /// The class whose pattern covers a shape that was not inserted.
    pub(crate) fn covering<'a>(&self, slots: impl Iterator<Item = &'a str>) -> Option<u32> {
        let shape: Vec<Value> = slots
            .map(|t| self.ids.get(t).copied().unwrap_or(Value::MAX))
            .collect();
        let live = |c: &Class| !c.members.is_empty() && covers(&c.pattern, &shape);
        self.classes.iter().position(live).map(|c| c as u32)
    }

    /// Adds a shape that is not there yet; its number is the count of shapes before it.
    pub(crate) fn insert(&mut self, slots: &[&str]) -> Changes {
        let shape: Vec<Value> = slots.iter().map(|t| self.intern(t)).collect();
        let number = self.shapes.len() as u32;
        let mut changes = Changes::default();
        let mut tried: HashSet<(Vec<Value>, usize)> = HashSet::new();
        let mut opened: Vec<(Vec<Value>, usize)> = Vec::new();
        for element in &self.derived {
            if let Some(slot) = single_mismatch(element, &shape) {
                let mut open = element.clone();
                open[slot] = WILD;
                if !self.is_derived.contains(&open) && tried.insert((open.clone(), slot)) {
                    opened.push((open, slot));
                }
            }
        }
        let own = self.classes.len() as u32;
        self.classes.push(Class {
            pattern: shape.clone(),
            members: vec![number],
        });
        self.is_derived.insert(shape.clone());
        self.derived.push(shape.clone());
        self.shapes.push(shape);
        self.class_of.push(own);
        self.absorb(own, &mut changes);
        let mut fresh: Vec<Vec<Value>> = Vec::new();
        for (open, slot) in opened {
            let values = self.values_in(&open, slot);
            if self.weight(&open, slot, &values) >= ENOUGH {
                fresh.push(open);
            }
        }
        while let Some(element) = fresh.pop() {
            if !self.is_derived.insert(element.clone()) {
                continue;
            }
            self.derived.push(element.clone());
            self.apply(&element, &mut changes);
            if element.iter().filter(|&&v| v == WILD).count() < MAX_OPEN {
                fresh.extend(self.fire(&element));
            }
        }
        changes
    }

    /// Different values that the shapes agreeing with `open` show in `slot`.
    fn values_in(&self, open: &[Value], slot: usize) -> Vec<Value> {
        let mut values: Vec<Value> = self
            .shapes
            .iter()
            .filter(|s| covers(open, s))
            .map(|s| s[slot])
            .collect();
        values.sort_unstable();
        values.dedup();
        values
    }

    /// Joins the classes of all shapes that a new element covers.
    fn apply(&mut self, element: &[Value], changes: &mut Changes) {
        let Some(first) = self.shapes.iter().position(|s| covers(element, s)) else {
            return;
        };
        let c = self.class_of[first];
        let class = &mut self.classes[c as usize];
        let joined = join(&class.pattern, element);
        if joined != class.pattern {
            let old = std::mem::replace(&mut class.pattern, joined);
            changes.absorbed.push((old, class.members[0]));
        }
        self.absorb(c, changes);
    }

    /// A class whose pattern agrees with a shape of another class, or is agreed with, becomes one class with it.
    fn absorb(&mut self, c: u32, changes: &mut Changes) {
        loop {
            let pattern = &self.classes[c as usize].pattern;
            let other = (0..self.shapes.len()).find_map(|s| {
                let k = self.class_of[s];
                (k != c && (covers(pattern, &self.shapes[s]))).then_some(k)
            });
            let other = other.or_else(|| {
                let covered = |k: &Class| {
                    !k.members.is_empty()
                        && self.classes[c as usize]
                            .members
                            .iter()
                            .any(|&m| covers(&k.pattern, &self.shapes[m as usize]))
                };
                self.classes
                    .iter()
                    .enumerate()
                    .find(|(k, class)| *k as u32 != c && covered(class))
                    .map(|(k, _)| k as u32)
            });
            let Some(k) = other else { return };
            let taken = Class {
                pattern: std::mem::take(&mut self.classes[k as usize].pattern),
                members: std::mem::take(&mut self.classes[k as usize].members),
            };
            let joined = join(&self.classes[c as usize].pattern, &taken.pattern);
            for &m in &taken.members {
                self.class_of[m as usize] = c;
            }
            let class = &mut self.classes[c as usize];
            class.members.extend(taken.members);
            if joined != taken.pattern {
                changes.absorbed.push((taken.pattern, class.members[0]));
            }
            if joined != class.pattern {
                let old = std::mem::replace(&mut class.pattern, joined);
                changes.absorbed.push((old, class.members[0]));
            }
        }
    }

    /// The elements that follow from a new element: one for each slot that shows enough values.
    fn fire(&self, element: &[Value]) -> Vec<Vec<Value>> {
        let mut seen: Vec<Vec<Value>> = vec![Vec::new(); element.len()];
        for shape in &self.shapes {
            match mismatches(element, shape) {
                Mismatch::None => {
                    for (values, &v) in seen.iter_mut().zip(shape) {
                        values.push(v);
                    }
                }
                Mismatch::One(slot) => seen[slot].push(shape[slot]),
                Mismatch::Many => {}
            }
        }
        let mut found = Vec::new();
        for (slot, values) in seen.iter_mut().enumerate() {
            values.sort_unstable();
            values.dedup();
            if element[slot] != WILD && values.len() > 1 {
                let mut open = element.to_vec();
                open[slot] = WILD;
                if self.weight(&open, slot, values) >= ENOUGH {
                    found.push(open);
                }
            }
        }
        found
    }

    /// Sum of the weights of the values in the slot that `open` opens; never less for more values.
    fn weight(&self, open: &[Value], slot: usize, values: &[Value]) -> u32 {
        let mut place = self.places[slot];
        if place == Place::Usual && slot > 0 && is_noun_cue(&self.values[open[slot - 1] as usize].0)
        {
            place = Place::Likely;
        }
        // Words that stay the same are the evidence that it is one statement.
        let same = open
            .iter()
            .enumerate()
            .filter(|&(i, &v)| {
                i != slot
                    && v != WILD
                    && !matches!(self.values[v as usize].1, Form::Typed | Form::Mixed)
            })
            .count();
        let mut sum = 0;
        let mut constants = 0;
        let mut typed = 0;
        for &v in values {
            let f = self.values[v as usize].1;
            typed += u32::from(f == Form::Typed);
            let part = match (f, place) {
                (Form::Typed, _) => 80,
                (Form::Mixed, _) => 60,
                (Form::Digits, Place::First) => 40,
                (Form::Digits, _) => 60,
                (Form::Parts, Place::First) => 10,
                (Form::Parts, Place::Usual) => 20,
                (Form::Parts, Place::Likely) => 30,
                (Form::Parts, Place::Value) => 40,
                (Form::Upper, Place::Likely) => 30,
                (Form::Upper, Place::Value) => 20,
                (Form::Upper, _) => 5,
                (Form::Plain, Place::First) => 6,
                (Form::Plain, Place::Usual) => 20,
                (Form::Plain, Place::Likely) => 40,
                (Form::Plain, Place::Value) => 40,
                (Form::Letter, _) => 30,
                (Form::Phrase, _) => 20,
            };
            *if f == Form::Upper {
                &mut constants
            } else {
                &mut sum
            } += part;
        }
        if typed >= 2 {
            return ENOUGH;
        }
        match same {
            0 => 0,
            1 => (constants + sum) / 2,
            2 | 3 => constants + sum,
            4 => constants + sum * 3 / 2,
            _ => constants + sum * 2,
        }
    }
}

/// The place of the slot `a..b` of a shape: `first` when no slot is before it. Depends on the skeleton and, for cue words, on nothing
/// that may vary (a cue is part of the key of its bucket).
pub(crate) fn place(shape: &str, a: usize, b: usize, first: bool) -> Place {
    let s = shape.as_bytes();
    let before = if a > 0 { s[a - 1] } else { 0 };
    let after = s.get(b).copied().unwrap_or(0);
    if matches!(before, b'=' | b'"') {
        Place::Value
    } else if matches!(
        (before, after),
        (b'[', b']') | (b'(', b')') | (b'<', b'>') | (b'\'', b'\'')
    ) {
        Place::Likely
    } else if first {
        Place::First
    } else if is_preposition(word_before(s, a)) {
        Place::Likely
    } else {
        Place::Usual
    }
}

/// Words that are followed by the name of a thing of their kind.
fn is_noun_cue(word: &str) -> bool {
    matches!(
        word,
        "user"
            | "host"
            | "name"
            | "file"
            | "module"
            | "device"
            | "interface"
            | "service"
            | "process"
            | "node"
            | "server"
            | "port"
            | "class"
    )
}

/// Whether `pattern` agrees with `shape` in every slot.
fn covers(pattern: &[Value], shape: &[Value]) -> bool {
    pattern
        .iter()
        .zip(shape)
        .all(|(&p, &s)| p == WILD || p == s)
}

/// Slot by slot: the value that both have, or the wildcard.
fn join(a: &[Value], b: &[Value]) -> Vec<Value> {
    a.iter()
        .zip(b)
        .map(|(&x, &y)| if x == y { x } else { WILD })
        .collect()
}

enum Mismatch {
    None,
    One(usize),
    Many,
}

/// The slots in which `shape` disagrees with `pattern`.
fn mismatches(pattern: &[Value], shape: &[Value]) -> Mismatch {
    let mut found = Mismatch::None;
    for (i, (&p, &s)) in pattern.iter().zip(shape).enumerate() {
        if p != WILD && p != s {
            if matches!(found, Mismatch::One(_)) {
                return Mismatch::Many;
            }
            found = Mismatch::One(i);
        }
    }
    found
}

fn single_mismatch(pattern: &[Value], shape: &[Value]) -> Option<usize> {
    match mismatches(pattern, shape) {
        Mismatch::One(slot) => Some(slot),
        _ => None,
    }
}
