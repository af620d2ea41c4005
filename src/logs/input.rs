//! The arguments of `aggregate_logs`, checked.
use pgrx::prelude::*;

use super::batch::{Batch, Line, Object};
use super::table::Limits;
use super::timestamp;
use crate::errors;
use crate::jsonb::{Container, Jsonb, Value};

/// The start of a text that goes into an error message, which a server writes into its own log: without secrets.
pub fn excerpt(text: &str) -> String {
    let text = pgedge_logminer::mask_line(text);
    let cut = pgedge_logminer::truncated(&text, 100);
    if cut.len() < text.len() { format!("{cut}…") } else { text.into_owned() }
}

fn invalid(message: String) -> ! {
    errors::fail(
        PgSqlErrorCode::ERRCODE_INVALID_PARAMETER_VALUE,
        message,
        "Give an array of objects like {\"message\": \"…\", \"level\": \"INFO\", \"source\": \"…\", \"metadata\": {…}, \"timestamp\": \"…\"}, or {\"logs\": [ … ]}; only message is required.",
    )
}

fn too_long(what: &str, column: &str, value: &str, limit: usize) -> ! {
    errors::fail(
        PgSqlErrorCode::ERRCODE_STRING_DATA_RIGHT_TRUNCATION,
        format!("{what} is longer than {limit} characters: \"{}\"", excerpt(value)),
        format!("Shorten it, or widen the column: ALTER TABLE aggregated_logs ALTER COLUMN {column} TYPE text;"),
    )
}

/// Refuses a level or source that the table has no room for. Empty is as not given.
pub fn checked<'a>(what: impl Fn() -> String, column: &str, value: &'a str, limit: Option<usize>) -> &'a str {
    match limit {
        Some(limit) if value.len() > limit && value.chars().count() > limit => too_long(&what(), column, value, limit),
        _ => value,
    }
}

/// Reads the lines of `entries`: an array of objects, or `{"logs": […]}`.
pub fn entries<'a>(entries: &Jsonb<'a>, limits: &Limits, batch: &mut Batch<'a>) {
    let list = match entries.value() {
        Value::Array(list) => list,
        Value::Object(body) => match body.pairs().find(|(key, _)| *key == "logs") {
            Some((_, Value::Array(list))) => list,
            Some((_, other)) => invalid(format!("\"logs\" must be an array, not {}", excerpt(&other.to_json()))),
            None => invalid(format!("the object has no \"logs\": {}", excerpt(&Value::Object(body).to_json()))),
        },
        other => invalid(format!("entries must be an array, not {}", excerpt(&other.to_json()))),
    };
    for (i, entry) in list.values().enumerate() {
        match entry {
            Value::Object(object) => add_entry(i, object, limits, batch),
            other => invalid(format!("entries[{i}] must be an object, not {}", excerpt(&other.to_json()))),
        }
    }
}

fn add_entry<'a>(i: usize, entry: Container<'a>, limits: &Limits, batch: &mut Batch<'a>) {
    let wrong = |key: &str, must: &str, value: Value<'_>| -> ! {
        invalid(format!("entries[{i}].{key} must be {must}, not {}", excerpt(&value.to_json())))
    };
    let mut message = None;
    let mut line = Line { message: "", level: None, source: "", at: 0, metadata: None };
    let mut at = None;
    let mut others = false;
    for (key, value) in entry.pairs() {
        match (key, value) {
            ("message", Value::String(text)) => message = Some(text),
            ("message", other) => wrong(key, "a string", other),
            ("level" | "source" | "metadata" | "timestamp", Value::Null) => {}
            ("level", Value::String(text)) => {
                line.level =
                    Some(checked(|| format!("entries[{i}].level"), key, text, limits.level)).filter(|l| !l.is_empty())
            }
            ("source", Value::String(text)) => {
                line.source = checked(|| format!("entries[{i}].source"), key, text, limits.source)
            }
            ("level" | "source", other) => wrong(key, "a string", other),
            ("metadata" | "timestamp", Value::String("")) => {}
            ("metadata", Value::Object(object)) => line.metadata = Some(Object::Jsonb(object)),
            ("metadata", other) => wrong(key, "an object", other),
            ("timestamp", Value::String(text)) => at = Some(timestamp::parse(text, || format_lazy(i))),
            ("timestamp", Value::Number(number)) => at = Some(timestamp::from_number(number, &format_lazy(i))),
            ("timestamp", other) => wrong(key, "a string or a number", other),
            _ => others = true,
        }
    }
    line.message = message.unwrap_or_else(|| {
        invalid(format!("entries[{i}] has no message: {}", excerpt(&Value::Object(entry).to_json())))
    });
    line.at = at.unwrap_or_else(timestamp::of_call);
    batch.add(&line, |metadata, number| {
        if others {
            for (key, value) in entry
                .pairs()
                .filter(|(key, _)| !matches!(*key, "message" | "level" | "source" | "metadata" | "timestamp"))
            {
                metadata.set(number, key, value.to_json());
            }
        }
    });
}

fn format_lazy(i: usize) -> String {
    format!("entries[{i}].timestamp")
}
