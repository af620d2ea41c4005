//! Log patterns: lines in, patterns with counts, samples and times out.
//!
//! The miner is the crate `pgedge_logminer`; here is what keeps its state in tables.
//!
//! * [`input`] (and [`text`], for the usual body that comes as text) reads the arguments, [`batch`] groups their lines by source, level and shape.
//! * [`cache`] is what this session knows of each source: its learned shapes and the rows of its patterns.
//! * [`store`] keeps that knowledge in the support tables, [`table`] writes `aggregated_logs`, [`aggregate`] puts them together.
//! * [`lookup`], [`trends`], [`notice`] and [`prune`] are the rest of what SQL sees; [`mine`] is the aggregate without tables.
use std::borrow::Cow;

use pgrx::guc::{GucContext, GucFlags, GucRegistry, GucSetting};

mod aggregate;
mod batch;
mod cache;
mod direct;
mod input;
mod learn;
pub mod lookup;
mod metadata;
pub mod mine;
mod notice;
pub mod pattern;
pub mod prune;
mod samples;
mod store;
mod table;
mod text;
mod timestamp;
pub mod trends;

pub use input::excerpt;

/// `pgedge.mask_samples`: whether secrets are masked in samples and metadata. Those who write logs may not turn it off.
static MASK_SAMPLES: GucSetting<bool> = GucSetting::<bool>::new(true);

/// `pgedge.log_events`: whether `aggregate_logs` raises events.
static LOG_EVENTS: GucSetting<bool> = GucSetting::<bool>::new(false);
/// `pgedge.log_trend_hours`: hours for which the lines of a pattern are kept by hour.
static TREND_HOURS: GucSetting<i32> = GucSetting::<i32>::new(336);

/// The line as the miner may see it. A message inside JSON may have an escaped zero byte, which PostgreSQL's text cannot hold: it becomes the
/// replacement character. The same for every function, so that they agree on the line's pattern.
fn mineable(line: &str) -> Cow<'_, str> {
    let first = line.bytes().find(|b| *b > b' ');
    if matches!(first, Some(b'{' | 0x1b)) && line.contains("\\u0000") {
        return Cow::Owned(line.replace("\\u0000", "\\ufffd"));
    }
    Cow::Borrowed(line)
}

/// Declares the settings of the log functions. Called once, when the library is loaded.
pub fn define_settings() {
    GucRegistry::define_bool_guc(
        c"pgedge.mask_samples",
        c"Whether passwords, tokens, keys, e-mail addresses and card numbers are masked in sample lines and metadata.",
        c"What aggregate_logs() stores in sample_messages and metadata, and log_patterns() returns. Patterns and counts do not depend on it: a pattern has {SECRET} in any case. Only superusers and roles with SET granted on it may change it.",
        &MASK_SAMPLES,
        GucContext::Suset,
        GucFlags::default(),
    );
    GucRegistry::define_bool_guc(
        c"pgedge.log_events",
        c"Whether aggregate_logs() adds an event to claude_events for a new error pattern and for a spike.",
        c"Event types log.new_pattern and log.spike, priority 3, at most one an hour for a pattern, 20 for a source, 100 in all.",
        &LOG_EVENTS,
        GucContext::Userset,
        GucFlags::default(),
    );
    GucRegistry::define_int_guc(
        c"pgedge.log_trend_hours",
        c"Hours for which the lines of each log pattern are kept by hour.",
        c"What log_trends() shows and log_anomalies() compares with; two weeks by default.",
        &TREND_HOURS,
        1,
        24 * 366 * 10,
        GucContext::Userset,
        GucFlags::default(),
    );
}
