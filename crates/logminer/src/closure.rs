//! The closure over a set of shapes with one skeleton.
//!
//! Derived elements: every shape is one; and when the shapes that agree with an element in all slots but one show enough different
//! values in that slot, the element with the slot opened is one as well. (Several slots count as one when they always hold the same word,
//! and when they hold nothing but placeholders of different types.) And where shapes agree in all but the values of keys and quoted ones, and
//! two or more of these show enough different values among them, all that do are opened at once in each of these shapes.
//! How many values are enough depends on the element alone, and
//! a larger set of shapes only shows more of them, so the derived elements are the least fixpoint of a monotone operator: unique,
//! whatever the order in which shapes arrive, and never fewer when shapes are added. The pattern of a shape is the join (slot by slot:
//! equal or wildcard) of all elements that cover it, and of all that cover a shape which that join covers.

use std::collections::{HashMap, HashSet};

use crate::weights::{Context, ENOUGH, Form, Place, form, says_wrong, weight};

/// Elements with this many open slots open no more.
const MAX_OPEN: usize = 6;

/// A slot's value, as an index into [`Bucket::values`]; 0 is the wildcard.
pub(crate) type Value = u32;
const WILD: Value = 0;

#[derive(Debug)]
struct Class {
    pattern: Vec<Value>,
    members: Vec<u32>,
}

/// Shapes that agree in all slots but the values of keys and quoted ones.
#[derive(Debug, Default)]
struct Agreeing {
    shapes: Vec<u32>,
    /// Those of these slots that show enough different values.
    open: Vec<usize>,
    /// The values that the others have shown.
    values: Vec<Vec<Value>>,
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
    prepositions: usize,
    /// Whether some shape has a wildcard.
    wild: bool,
    derived: Vec<Vec<Value>>,
    is_derived: HashSet<Vec<Value>>,
    /// The slots of keys' values and of quoted ones, if there are several.
    valued: Vec<usize>,
    /// The shapes that agree in all other slots.
    agreeing: HashMap<Vec<Value>, Agreeing>,
    /// The elements that opened several of those slots at once. Nothing follows from them: which of the slots are open depends on the shapes that came
    /// so far, and those with more of them open cover those with fewer.
    joint: HashSet<Vec<Value>>,
}

/// What [`Bucket::insert`] changed: for each class whose pattern became another one, the old pattern and the class.
#[derive(Debug, Default)]
pub(crate) struct Changes {
    pub absorbed: Vec<(Vec<Value>, u32)>, // pattern before, a shape that had it,
}

impl Bucket {
    /// A bucket for shapes with slots in these places and so many prepositions around them.
    pub(crate) fn new(places: Vec<Place>, prepositions: usize) -> Self {
        let valued: Vec<usize> = (0..places.len()).filter(|&i| places[i] == Place::Value).collect();
        let mut b = Self {
            valued: if valued.len() > 1 { valued } else { Vec::new() },
            agreeing: HashMap::new(),
            joint: HashSet::new(),
            prepositions,
            wild: false,
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

    /// The class whose pattern covers a shape that was not inserted: the one with the fewest open slots, of those the first by its text.
    pub(crate) fn covering<'a>(&self, slots: impl Iterator<Item = &'a str>) -> Option<u32> {
        let shape: Vec<Value> = slots.map(|t| self.ids.get(t).copied().unwrap_or(Value::MAX)).collect();
        let live = |c: &Class| !c.members.is_empty() && covers(&c.pattern, &shape);
        let open = |c: &Class| c.pattern.iter().filter(|&&v| v == WILD).count();
        let covering = self.classes.iter().enumerate().filter(|(_, c)| live(c));
        covering.min_by_key(|(_, c)| (open(c), self.text(&c.pattern))).map(|(i, _)| i as u32)
    }

    /// Adds a shape that is not there yet; its number is the count of shapes before it.
    pub(crate) fn insert(&mut self, slots: &[&str]) -> Changes {
        let shape: Vec<Value> = slots.iter().map(|t| self.intern(t)).collect();
        let number = self.shapes.len() as u32;
        let mut changes = Changes::default();
        let mut tried: HashSet<(Vec<Value>, Vec<usize>, bool)> = HashSet::new();
        for element in &self.derived {
            let (slots, typed) = match self.mismatches(element, &shape) {
                Mismatch::Slots(slots) => (slots, false),
                Mismatch::Typed(slots) => (slots, true),
                Mismatch::None | Mismatch::Many => continue,
            };
            let open = opened(element, &slots);
            if !self.is_derived.contains(&open) {
                tried.insert((open, slots, typed));
            }
        }
        let own = self.classes.len() as u32;
        self.classes.push(Class { pattern: shape.clone(), members: vec![number] });
        self.is_derived.insert(shape.clone());
        self.derived.push(shape.clone());
        self.shapes.push(shape);
        self.class_of.push(own);
        self.absorb(own, &mut changes);
        // a shape that has a wildcard itself may agree with shapes that were there before
        self.wild |= self.shapes[number as usize].contains(&WILD);
        let mut fresh = if self.wild { self.fire(&self.shapes[number as usize]) } else { Vec::new() };
        for (open, slots, typed) in tried {
            if self.follows(&open, &slots, typed) {
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
        for element in self.open_values(number) {
            self.apply(&element, &mut changes);
        }
        changes
    }

    /// The elements that open several values at once, as far as they are new with a shape.
    fn open_values(&mut self, shape: u32) -> Vec<Vec<Value>> {
        if self.valued.is_empty() {
            return Vec::new();
        }
        let context = opened(&self.shapes[shape as usize], &self.valued);
        let mut group = self.agreeing.remove(&context).unwrap_or_default();
        let before = group.open.len();
        group.values.resize_with(self.valued.len(), Vec::new);
        for (&slot, values) in self.valued.iter().zip(&mut group.values) {
            let value = self.shapes[shape as usize][slot];
            if group.open.contains(&slot) || values.contains(&value) {
                continue;
            }
            values.push(value);
            if values.len() > 1 && self.weight(&context, slot, values) >= ENOUGH {
                group.open.push(slot);
            }
        }
        group.shapes.push(shape);
        let mut found = Vec::new();
        if group.open.len() > 1 {
            // the shapes before have theirs, unless more is open now
            let first = if group.open.len() > before { 0 } else { group.shapes.len() - 1 };
            let elements = group.shapes[first..].iter().map(|&s| opened(&self.shapes[s as usize], &group.open));
            found.extend(elements.filter(|e| !self.joint.contains(e)).collect::<HashSet<_>>());
            self.joint.extend(found.iter().cloned());
        }
        self.agreeing.insert(context, group);
        found
    }

    /// Different values that the shapes agreeing with `open` show in `slots`, the same one in each of them.
    fn values_in(&self, open: &[Value], slots: &[usize]) -> Vec<Value> {
        let first = slots[0];
        let mut values: Vec<Value> = self
            .shapes
            .iter()
            .filter(|s| covers(open, s) && slots.iter().all(|&i| s[i] == s[first]))
            .map(|s| s[first])
            .collect();
        values.sort_unstable();
        values.dedup();
        values
    }

    /// Whether an element that opens these slots follows. `typed`: an element and a shape were found that differ in placeholders of
    /// another type only; for several slots that is all the rule asks for.
    fn follows(&self, open: &[Value], slots: &[usize], typed: bool) -> bool {
        if typed && slots.len() > 1 {
            return self.same(open) > 0;
        }
        self.weight(open, slots[0], &self.values_in(open, slots)) >= ENOUGH
    }

    /// Words that stay the same when slots are opened: the evidence that it is one statement.
    fn same(&self, open: &[Value]) -> usize {
        open.iter().filter(|&&v| v != WILD && !matches!(self.values[v as usize].1, Form::Typed | Form::Mixed)).count()
    }

    fn is_typed(&self, v: Value) -> bool {
        self.values[v as usize].1 == Form::Typed
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
        let mut tried: HashSet<(Vec<usize>, bool)> = HashSet::new();
        for shape in &self.shapes {
            match self.mismatches(element, shape) {
                Mismatch::Slots(slots) => tried.insert((slots, false)),
                Mismatch::Typed(slots) => tried.insert((slots, true)),
                Mismatch::None | Mismatch::Many => false,
            };
        }
        let mut found = Vec::new();
        for (slots, typed) in tried {
            let open = opened(element, &slots);
            if !self.is_derived.contains(&open) && self.follows(&open, &slots, typed) {
                found.push(open);
            }
        }
        found
    }

    /// In which slots a shape disagrees with an element.
    fn mismatches(&self, element: &[Value], shape: &[Value]) -> Mismatch {
        let mut slots: Vec<usize> = Vec::new();
        let mut typed = 0;
        for (i, (&e, &s)) in element.iter().zip(shape).enumerate() {
            if e == WILD || e == s {
                continue;
            }
            let both = self.is_typed(e) && self.is_typed(s);
            typed += usize::from(both);
            // beyond the first slot: types everywhere, or the same word in all of them on either side
            if let Some(&first) = slots.first()
                && !(both && typed > slots.len())
                && (typed > 0 || e != element[first] || s != shape[first])
            {
                return Mismatch::Many;
            }
            slots.push(i);
        }
        match slots.len() {
            0 => Mismatch::None,
            n if n == typed => Mismatch::Typed(slots),
            _ => Mismatch::Slots(slots),
        }
    }

    /// What the values in a slot that `open` opens weigh; never less for more values.
    fn weight(&self, open: &[Value], slot: usize, values: &[Value]) -> u32 {
        let value = |v: Value| (&*self.values[v as usize].0, self.values[v as usize].1);
        let values: Vec<(&str, Form)> = values.iter().map(|&v| value(v)).collect();
        let context = Context {
            before: slot.checked_sub(1).map(|i| value(open[i])),
            next: open.get(slot + 1).map(|&v| value(v)),
            same: self.same(open) + self.prepositions,
            went_wrong: open[..slot].iter().any(|&v| says_wrong(value(v).0)),
        };
        weight(&values, self.places[slot], &context)
    }
}

/// Whether `pattern` agrees with `shape` in every slot.
fn covers(pattern: &[Value], shape: &[Value]) -> bool {
    pattern.iter().zip(shape).all(|(&p, &s)| p == WILD || p == s)
}

/// Slot by slot: the value that both have, or the wildcard.
fn join(a: &[Value], b: &[Value]) -> Vec<Value> {
    a.iter().zip(b).map(|(&x, &y)| if x == y { x } else { WILD }).collect()
}

/// How a shape disagrees with an element.
enum Mismatch {
    None,
    /// In one slot, or in several that hold one word each time (a host named twice).
    Slots(Vec<usize>),
    /// In slots that hold a placeholder of another type.
    Typed(Vec<usize>),
    Many,
}

fn opened(element: &[Value], slots: &[usize]) -> Vec<Value> {
    let mut open = element.to_vec();
    for &i in slots {
        open[i] = WILD;
    }
    open
}
