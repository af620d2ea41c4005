//! How much a set of values says that a slot holds a parameter: by what they look like, where the slot stands, and how much text
//! around it stays the same.

use std::collections::HashMap;

use crate::forms::{is_size_unit, is_word};
use crate::slots::{is_preposition, word_before};

/// Weight at which a slot becomes a wildcard.
pub(crate) const ENOUGH: u32 = 120;

pub(crate) fn k(i: usize, default: u32) -> u32 {
    static K: std::sync::OnceLock<HashMap<usize, u32>> = std::sync::OnceLock::new();
    let m = K.get_or_init(|| {
        std::env::var("KK")
            .unwrap_or_default()
            .split(',')
            .filter_map(|p| {
                let (a, b) = p.split_once('=')?;
                Some((a.parse().ok()?, b.parse().ok()?))
            })
            .collect()
    });
    m.get(&i).copied().unwrap_or(default)
}

/// What a value looks like: the likelier it is to be a parameter, the fewer different ones are needed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Form {
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
    /// A participle: it says what happened, so it is rather the statement than its parameter.
    Verb,
    /// Any other word.
    Plain,
    /// One letter.
    Letter,
    /// Quoted text of several words.
    Phrase,
}

pub(crate) fn form(value: &str) -> Form {
    let value = value.trim_end_matches('.');
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
    } else if b.len() >= 5 && k(22, 1) == 1 && (b.ends_with(b"ed") || b.ends_with(b"ing")) {
        Form::Verb
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
    /// Behind `to` and one blank before another slot: a verb (`to open the`) when that holds a word.
    To,
    /// The value of a key, or quoted.
    Value,
}

/// Sum of the weights of different values in a slot; never less for more values. `before` and `next` are the values of the slots
/// around it; `same` counts the words that stay the same.
pub(crate) fn weight(
    values: &[(&str, Form)],
    place: Place,
    before: Option<(&str, Form)>,
    next: Option<(&str, Form)>,
    same: usize,
) -> u32 {
    let typed = values.iter().filter(|v| v.1 == Form::Typed).count();
    let units = before.is_some_and(|b| b.1 == Form::Typed)
        && values.iter().filter(|v| is_size_unit(v.0.as_bytes())).count() >= 2;
    if typed >= 2 || units && k(18, 1) == 1 {
        return ENOUGH;
    }
    let infinitive = place == Place::To
        && next.is_some_and(|n| matches!(n.1, Form::Plain | Form::Verb) && n.0.as_bytes()[0].is_ascii_lowercase());
    let place = match place {
        Place::To if infinitive && k(20, 1) == 1 => Place::Usual,
        Place::To => Place::Likely,
        Place::Usual if before.is_some_and(|b| k(23, 1) == 1 && is_noun_cue(b.0)) => Place::Likely,
        Place::First if typed > 0 && k(21, 1) == 1 => Place::Usual,
        p => p,
    };
    let mut stems: HashMap<String, usize> = HashMap::new();
    for v in values {
        if let Some(s) = stem(v.0, v.1) {
            *stems.entry(s).or_default() += 1;
        }
    }
    let (mut sum, mut constants) = (0, 0);
    for v in values {
        let kin = k(19, 1) == 1 && stem(v.0, v.1).is_some_and(|s| stems[&s] > 1);
        let form = if infinitive && v.1 == Form::Plain { Form::Verb } else { v.1 };
        let part = if kin { k(10, 60) } else { value_weight(form, place) };
        *if matches!(form, Form::Upper | Form::Verb) { &mut constants } else { &mut sum } += part;
    }
    match same {
        0 => 0,
        1 => (constants + sum) * k(15, 50) / 100,
        2 | 3 => constants + sum,
        4 => constants + sum * k(16, 150) / 100,
        _ => constants + sum * k(17, 200) / 100,
    }
}

/// What instances of one kind share: the text without its digits (`eth0`, `eth1`), or the ending behind a dot (`a.service`).
fn stem(value: &str, form: Form) -> Option<String> {
    match form {
        Form::Digits => Some(value.chars().filter(|c| !c.is_ascii_digit()).collect()),
        Form::Parts => value.trim_end_matches('.').rsplit_once('.').map(|(_, ending)| format!(".{ending}")),
        _ => None,
    }
}

fn value_weight(form: Form, place: Place) -> u32 {
    let base = match form {
        Form::Typed => return k(0, 100),
        Form::Mixed => return k(1, 60),
        Form::Digits => k(2, 60),
        Form::Parts => k(3, 25),
        Form::Plain => k(4, 20),
        Form::Upper => k(5, 10),
        Form::Verb if matches!(place, Place::Likely | Place::Value) => k(4, 20),
        Form::Verb => k(6, 10),
        Form::Letter => k(7, 30),
        Form::Phrase => return k(8, 20),
    };
    let scaled = match place {
        Place::First if form == Form::Digits => k(11, 60),
        Place::First => base * k(12, 50) / 100,
        Place::Usual => base,
        Place::Likely | Place::To => k(13, 200) * base / 100,
        Place::Value => k(14, 300) * base / 100,
    };
    scaled.min(k(9, 60).max(base))
}

/// The place of the slot `a..b` of a shape: `first` when no slot is before it, `next` when another one is one blank behind it. Depends on
/// the skeleton alone.
pub(crate) fn place(shape: &str, a: usize, b: usize, first: bool, next: bool) -> Place {
    let s = shape.as_bytes();
    let before = if a > 0 { s[a - 1] } else { 0 };
    let after = s.get(b).copied().unwrap_or(0);
    let cue = word_before(s, a);
    if before == b'=' || (before, after) == (b'"', b'"') {
        Place::Value
    } else if matches!((before, after), (b'[', b']') | (b'(', b')') | (b'<', b'>') | (b'\'', b'\'')) {
        Place::Likely
    } else if first {
        Place::First
    } else if cue == b"to" && next {
        Place::To
    } else if is_preposition(cue) {
        Place::Likely
    } else {
        Place::Usual
    }
}

/// Words that are followed by the name of a thing of their kind.
fn is_noun_cue(word: &str) -> bool {
    let mut low = [0u8; 10];
    let Some(low) = low.get_mut(..word.len()) else {
        return false;
    };
    low.copy_from_slice(word.as_bytes());
    low.make_ascii_lowercase();
    const NOUNS: &[u8] = b" user group role client account host hostname node server service process module device interface port file directory volume disk partition filesystem domain cluster container pod image unit target table database index column schema topic queue channel session task job worker thread plugin package class component key signal command method ";
    NOUNS.split(|&b| b == b' ').any(|n| n == &*low && !n.is_empty())
}
