//! Log patterns: lines in, patterns with counts, samples and times out.
//!
//! The miner is the crate `pgedge_logminer`; here is what keeps its state in tables.
//!
//! * [`input`] reads the arguments, [`batch`] groups their lines by source, level and shape.
//! * [`cache`] is what this session knows of each source: its learned shapes and the rows of its patterns.
//! * [`store`] keeps that knowledge in the support tables, [`table`] writes `aggregated_logs`, [`aggregate`] puts them together.
//! * [`lookup`], [`trends`], [`notice`] and [`prune`] are the rest of what SQL sees; [`mine`] is the aggregate without tables.
use pgrx::guc::{GucContext, GucFlags, GucRegistry, GucSetting};

pub mod aggregate;
mod batch;
mod cache;
mod input;
mod learn;
mod metadata;
mod notice;
pub mod pattern;
mod samples;
mod spi;
mod store;
mod table;
mod timestamp;

/// `pgedge.mask_samples`: whether secrets are masked in samples.
static MASK_SAMPLES: GucSetting<bool> = GucSetting::<bool>::new(true);

/// Declares the settings of the log functions. Called once, when the library is loaded.
pub fn define_settings() {
    GucRegistry::define_bool_guc(
        c"pgedge.mask_samples",
        c"Whether passwords, tokens, keys, e-mail addresses and card numbers are masked in sample lines.",
        c"What aggregate_logs() stores in sample_messages and log_patterns() returns; counts and patterns do not depend on it.",
        &MASK_SAMPLES,
        GucContext::Userset,
        GucFlags::default(),
    );
}
