//! How much a set of values says that a slot holds a parameter: by what they look like, where the slot stands, and how much text
//! around it stays the same.

use std::collections::HashMap;

use crate::forms::is_word;
use crate::phrases::{OCTAL_QUOTE, is_phrase_byte, keys_follow};
use crate::quantities::is_size_unit;
use crate::slots::{is_preposition, word_before};

/// Weight at which a slot becomes a wildcard.
pub(crate) const ENOUGH: u32 = 120;

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
    /// Quoted text of several words, or a collection.
    Phrase,
    /// Several words and nothing else.
    Words,
}

pub(crate) fn form(value: &str) -> Form {
    let value = value.trim_end_matches('.');
    let b = value.as_bytes();
    if b.is_empty() || is_row(value) {
        Form::Typed
    } else if value.contains(' ') {
        if b.iter().all(|&b| is_phrase_byte(b)) { Form::Words } else { Form::Phrase }
    } else if b.starts_with(b"{") && b.iter().filter(|c| c.is_ascii_lowercase()).count() < 3 {
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
    } else if b.len() >= 5 && (b.ends_with(b"ed") || b.ends_with(b"ing")) {
        Form::Verb
    } else {
        Form::Plain
    }
}

/// Whether a collection has nothing but the same element again and again, with a placeholder in it, or placeholders of any types.
fn is_row(value: &str) -> bool {
    if !value.contains(',') {
        return false;
    }
    let mut elements = value.trim_end_matches(',').split(',').map(str::trim_start);
    let Some(first) = elements.next() else { return false };
    let placeholder =
        |text: &str| text.starts_with('{') && text.ends_with('}') && !text.contains(|c: char| c.is_ascii_lowercase());
    first.contains('{') && elements.clone().all(|e| e == first) || placeholder(first) && elements.all(placeholder)
}

/// How strongly the place of a slot suggests a parameter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    First,
    Usual,
    /// Behind a preposition or in brackets.
    Likely,
    /// Behind `to` and one blank before another slot: there stands a verb (`to open the file`) when that slot holds a word.
    To,
    /// The value of a key, or quoted.
    Value,
}

/// What is around a slot: the values of the slots before and behind it, and the number of words that stay the same.
pub(crate) struct Context<'a> {
    pub before: Option<(&'a str, Form)>,
    pub next: Option<(&'a str, Form)>,
    pub same: usize,
    /// Whether a word before the slot says that something went wrong.
    pub went_wrong: bool,
}

/// Sum of the weights of different values in a slot; never less for more values.
pub(crate) fn weight(values: &[(&str, Form)], place: Place, context: &Context) -> u32 {
    let before = context.before;
    let typed = values.iter().filter(|v| v.1 == Form::Typed).count();
    let units = values.iter().filter(|v| is_size_unit(v.0.as_bytes())).count();
    if typed >= 2 || units >= 2 && before.is_some_and(|b| b.1 == Form::Typed) {
        return ENOUGH;
    }
    let sentence = context
        .next
        .is_some_and(|n| matches!(n.1, Form::Plain | Form::Verb) && n.0.starts_with(|c: char| c.is_ascii_lowercase()));
    let place = match place {
        Place::Usual if before.is_some_and(|b| is_noun_cue(b.0)) => Place::Likely,
        Place::To if !sentence => Place::Likely,
        p => p,
    };
    let mut stems: HashMap<String, usize> = HashMap::new();
    for s in values.iter().filter_map(|v| stem(v.0, v.1)) {
        *stems.entry(s).or_default() += 1;
    }
    let (mut sum, mut constants) = (0, 0);
    for v in values {
        let kin = stem(v.0, v.1).is_some_and(|s| stems[&s] > 1);
        let own = value_weight(v.1, place, context.went_wrong);
        let part = match v.1 {
            _ if kin => KIN,
            Form::Upper if context.same >= 4 && place != Place::First => CONSTANT.max(own),
            _ => own,
        };
        let phrase = matches!(v.1, Form::Phrase | Form::Words) && place != Place::Value;
        *if v.1 == Form::Upper || place == Place::To || phrase { &mut constants } else { &mut sum } += part;
    }
    // The more text stays the same, the less it is chance that two statements differ in one word alone.
    match context.same {
        0 => 0,
        1..=3 => constants + sum,
        _ => constants + 2 * sum,
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

/// Weight of a constant among much text that stays the same: the states of a machine are few, and each may be a statement.
const CONSTANT: u32 = 30;

/// Weight of a value that shares its stem with another one.
const KIN: u32 = 60;

fn value_weight(form: Form, place: Place, went_wrong: bool) -> u32 {
    let base = match form {
        Form::Typed => return 80,
        Form::Mixed | Form::Digits => return 60,
        Form::Phrase | Form::Words if place == Place::Value => return 20,
        Form::Phrase => return 30,
        // of words the statement is made as well
        Form::Words => return if went_wrong { 30 } else { 10 },
        Form::Parts | Form::Letter => 30,
        Form::Verb if matches!(place, Place::Likely | Place::Value) => 20,
        Form::Plain => 20,
        Form::Upper | Form::Verb => 10,
    };
    let scaled = match place {
        Place::First => base / 2,
        Place::Usual => base,
        // two verbs are two statements
        Place::To => base / 2,
        Place::Likely => 2 * base,
        Place::Value => 3 * base,
    };
    scaled.min(60)
}

/// The place of the slot `a..b` of a shape: `first` when no slot is before it, `next` when another one is one blank behind it. Depends
/// on the skeleton alone.
pub(crate) fn place(shape: &str, a: usize, b: usize, first: bool, next: bool) -> Place {
    let s = shape.as_bytes();
    let before = if a > 0 { s[a - 1] } else { 0 };
    let after = s.get(b).copied().unwrap_or(0);
    // the key of a JSON object is none
    let key =
        matches!(s[..a.saturating_sub(1)].trim_ascii_end().last(), Some(b'{' | b',')) && s.get(b + 1) == Some(&b':');
    let quoted = matches!((before, after), (b'"', b'"' | b'\\') | (b'\'', b'\'' | b'\\')) && !key;
    if first && a == 1 && before == b'"' && after == b'"' && keys_follow(s, b + 1) {
        // a statement of one word
        Place::First
    } else if before == b'=' || quoted || s[..a].ends_with(OCTAL_QUOTE) && s[b..].starts_with(OCTAL_QUOTE) {
        Place::Value
    } else if matches!((before, after), (b'[', b']') | (b'(', b')') | (b'<', b'>')) {
        Place::Likely
    } else if first {
        Place::First
    } else if next && word_before(s, a) == b"to" {
        Place::To
    } else if is_preposition(word_before(s, a)) {
        Place::Likely
    } else {
        Place::Usual
    }
}

/// Whether a word says that something went wrong: what follows may be the text of an error, which no statement of the program is.
pub(crate) fn says_wrong(word: &str) -> bool {
    const BEGINNINGS: [&str; 16] = [
        "fail",
        "err",
        "exception",
        "abort",
        "reject",
        "refus",
        "denied",
        "problem",
        "reason",
        "cause",
        "because",
        "cannot",
        "could",
        "unable",
        "invalid",
        "unexpected",
    ];
    let begins = |with: &&str| word.get(..with.len()).is_some_and(|head| head.eq_ignore_ascii_case(with));
    word.eq_ignore_ascii_case("not") || BEGINNINGS.iter().any(begins)
}

/// Words that are followed by the name of a thing of their kind.
fn is_noun_cue(word: &str) -> bool {
    let mut low = [0u8; 10];
    let Some(low) = low.get_mut(..word.len()) else {
        return false;
    };
    low.copy_from_slice(word.as_bytes());
    low.make_ascii_lowercase();
    const NOUNS: &[u8] = b" user group role client account host hostname node server service process module device interface port file directory volume disk partition filesystem domain cluster container pod image unit target table database index column schema topic queue channel session task job worker thread plugin package class component signal command method ";
    NOUNS.split(|&b| b == b' ').any(|n| n == &*low && !n.is_empty())
}
