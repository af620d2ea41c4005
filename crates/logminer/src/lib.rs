//! Mines stable patterns from log lines: a pure function of the set of lines, without PostgreSQL.
mod closure;
mod forms;
mod hash;
mod kind;
mod patterns;
mod render;
mod shape;
mod sketch;
mod slots;
pub use kind::Kind;
pub use hash::stable_hash;
pub use patterns::{DEFAULT_LIMIT, Inserted, OTHER, PatternSet, structure};
pub use sketch::{MAX_SAMPLES, MAX_VALUES, Samples, Values, truncated};
pub use render::loghub_template;
pub use shape::{MAX_SCANNED, MAX_SHAPE, shape, shape_into};
