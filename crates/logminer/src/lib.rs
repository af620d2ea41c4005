//! Mines stable patterns from log lines: a pure function of the set of lines, without PostgreSQL.
mod closure;
mod forms;
mod kind;
mod patterns;
mod render;
mod shape;
mod slots;
pub use kind::Kind;
pub use patterns::{Inserted, PatternSet};
pub use render::loghub_template;
pub use shape::{MAX_SCANNED, MAX_SHAPE, shape, shape_into};
