//! The closure over a set of shapes with one skeleton.
//!
//! A slot of a pattern becomes a wildcard when the shapes that agree with the pattern in every other slot show enough different values
//! there. The rule only ever counts shapes, and a more general pattern agrees with more of them: the operator is monotone, so its least
//! fixpoint is unique (Knaster–Tarski) and the same whatever the order in which shapes arrive or rules fire.

use std::collections::HashMap;

use crate::forms::is_word;
use crate::slots::{is_preposition, word_before};

/// Weight at which a slot becomes a wildcard.
const ENOUGH: u32 = 120;

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
    } else if b.is_empty() || b.starts_with(b"{") && b.iter().filter(|c| c.is_ascii_lowercase()).count() < 3 {
        Form::Typed
    } else if b.contains(&b'{') {
        Form::Mixed
    } else if b.iter().any(u8::is_ascii_digit) {
        Form::Digits
    } else if b.len() > 1 && b.iter().all(|c| c.is_ascii_uppercase() || *c == b'_') {
        Form::Upper
    } else if b.iter().any(|c| !is_word(*c) || *c == b'_')
        || b.windows(2).any(|w| w[0].is_ascii_lowercase() && w[1].is_ascii_uppercase())
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
        self.classes[class as usize].pattern.iter().map(|&v| &*self.values[v as usize].0)
    }

    pub(crate) fn text(&self, pattern: &[Value]) -> Vec<&str> {
        pattern.iter().map(|&v| &*self.values[v as usize].0).collect()
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
        let shape: Vec<Value> = slots.map(|t| self.ids.get(t).copied().unwrap_or(Value::MAX)).collect();
        let live = |c: &Class| !c.members.is_empty() && covers(&c.pattern, &shape);
        self.classes.iter().position(live).map(|c| c as u32)
    }

    /// Adds a shape that is not there yet; its number is the count of shapes before it.
    pub(crate) fn insert(&mut self, slots: &[&str]) -> Changes {
        let shape: Vec<Value> = slots.iter().map(|t| self.intern(t)).collect();
        let number = self.shapes.len() as u32;
        let mut changes = Changes::default();
        let mut dirty: Vec<u32> = Vec::new();
        for (c, class) in self.classes.iter().enumerate() {
            if !class.members.is_empty()
                && let Some(slot) = single_mismatch(&class.pattern, &shape)
                && self.may_fire(&class.pattern, slot)
            {
                dirty.push(c as u32);
            }
        }
        let own = self.classes.len() as u32;
        self.classes.push(Class { pattern: shape.clone(), members: vec![number] });
        self.shapes.push(shape);
        self.class_of.push(own);
        self.absorb(own, &mut changes);
        dirty.push(self.class_of[number as usize]);
        while let Some(c) = dirty.pop() {
            if self.classes[c as usize].members.is_empty() {
                continue;
            }
            if let Some(pattern) = self.fire(c) {
                let old = std::mem::replace(&mut self.classes[c as usize].pattern, pattern);
                changes.absorbed.push((old, self.classes[c as usize].members[0]));
                self.absorb(c, &mut changes);
                dirty.push(c);
            }
        }
        changes
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
            let joined: Vec<Value> = self.classes[c as usize]
                .pattern
                .iter()
                .zip(&taken.pattern)
                .map(|(&x, &y)| if x == y { x } else { WILD })
                .collect();
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

    /// The pattern of class `c` with every slot opened that shows enough values; `None` when none does.
    fn fire(&self, c: u32) -> Option<Vec<Value>> {
        let pattern = &self.classes[c as usize].pattern;
        let mut seen: Vec<Vec<Value>> = pattern.iter().map(|&v| vec![v]).collect();
        for shape in &self.shapes {
            if let Some(slot) = single_mismatch(pattern, shape)
                && !seen[slot].contains(&shape[slot])
            {
                seen[slot].push(shape[slot]);
            }
        }
        let mut opened = pattern.clone();
        for (slot, values) in seen.iter().enumerate() {
            if pattern[slot] != WILD && values.len() > 1 && self.weight(pattern, slot, values) >= ENOUGH {
                opened[slot] = WILD;
            }
        }
        (opened != *pattern).then_some(opened)
    }

    fn may_fire(&self, pattern: &[Value], slot: usize) -> bool {
        pattern[slot] != WILD
    }

    fn weight(&self, pattern: &[Value], slot: usize, values: &[Value]) -> u32 {
        let mut place = self.places[slot];
        if place == Place::Usual && slot > 0 && is_noun_cue(&self.values[pattern[slot - 1] as usize].0) {
            place = Place::Likely;
        }
        // Words that stay the same are the evidence that it is one statement.
        let same = pattern
            .iter()
            .enumerate()
            .filter(|&(i, &v)| {
                i != slot && v != WILD && !matches!(self.values[v as usize].1, Form::Typed | Form::Mixed)
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
            *if f == Form::Upper { &mut constants } else { &mut sum } += part;
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
    } else if matches!((before, after), (b'[', b']') | (b'(', b')') | (b'<', b'>') | (b'\'', b'\'')) {
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
    pattern.iter().zip(shape).all(|(&p, &s)| p == WILD || p == s)
}

/// The only slot in which `shape` disagrees with `pattern`.
fn single_mismatch(pattern: &[Value], shape: &[Value]) -> Option<usize> {
    let mut found = None;
    for (i, (&p, &s)) in pattern.iter().zip(shape).enumerate() {
        if p != WILD && p != s {
            if found.is_some() {
                return None;
            }
            found = Some(i);
        }
    }
    found
}
