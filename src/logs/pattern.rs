//! What can be said of a line or a pattern alone.
use pgedge_logminer as miner;
use pgrx::prelude::*;

use super::mineable;

/// The pattern of a line by itself. See the COMMENT in `sql/logs.sql`.
#[pg_extern(schema = "pgedge", immutable, strict, parallel_safe, cost = 50)]
fn log_pattern(message: &str) -> String {
    miner::log_pattern(&mineable(message))
}

/// What the placeholders of `pattern` stand for in `message`, in order; NULL when the message is none of that pattern.
#[pg_extern(schema = "pgedge", immutable, strict, parallel_safe, cost = 100)]
fn log_parameters(message: &str, pattern: &str) -> Option<Vec<String>> {
    miner::parameters(&mineable(message), pattern)
}

/// An anchored POSIX regular expression for the raw lines of a pattern.
#[pg_extern(schema = "pgedge", immutable, strict, parallel_safe, cost = 50)]
fn log_pattern_regex(pattern: &str) -> String {
    miner::pattern_regex(pattern)
}
