//! Mines patterns from log lines: which statement wrote a line, and with which parameters. Pure Rust, without PostgreSQL.
//!
//! 1. **Shape** ([`shape`]): one pass over a message, no regular expressions. Tokens are recognised by form and replaced by typed
//!    placeholders ([`Kind`]); white space is made one blank; runs of like values become `{LIST}`. A pure function of the message.
//! 2. **Closure** ([`PatternSet`]): over the *set* of the shapes of a source. A slot becomes `{*}` when enough different values occur in it
//!    between otherwise equal text. A monotone fixpoint, so the patterns depend on the set alone, never on the order of lines or on how
//!    they were split among workers, and more shapes only generalise.
//! 3. **Miner** ([`Miner`]): counts, samples and parameters by pattern; bounded, mergeable, serialisable.
//!
//! ```
//! use pgedge_logminer::*;
//!
//! assert_eq!(log_pattern("User 123 logged in"), "User {ID} logged in");
//!
//! // What a caller with its own storage does: remember the shapes of a source, ask the set for patterns.
//! let mut set = PatternSet::default();
//! let first = set.insert(&log_pattern("link eth0 to 10.0.0.1 is up after 20ms"));
//! assert_eq!(first.pattern, "link eth0 to {IP} is up after {TIME}ms");
//! let second = set.insert(&log_pattern("link eth1 to 10.0.0.2 is up after 35ms"));
//! // The row of the first pattern takes the new pattern; other rows with an old pattern of the list are merged into it.
//! let pattern = "link {*} to {IP} is up after {TIME}ms";
//! assert_eq!(second.pattern, pattern);
//! assert_eq!(second.generalised, [(first.pattern, pattern.to_owned())]);
//!
//! let line = "link wlan to 10.0.0.9 is up after 7ms";
//! assert_eq!(set.find(&log_pattern(line)).as_deref(), Some(pattern));
//! assert_eq!(parameters(line, pattern).unwrap(), ["wlan", "10.0.0.9", "7"]);
//!
//! let mut miner = Miner::default();
//! miner.add("disk sda1 is 91% full");
//! let mut other = Miner::default();
//! other.add("disk sda2 is 95% full");
//! miner.merge(&other);
//! assert_eq!(miner.summaries(5)[0].pattern, "disk {*} is {NUM}% full");
//! assert_eq!(miner.lines(), 2);
//! ```
//!
//! # Raw lines
//! [`log_pattern`], [`parameters`], [`parse`] and [`Miner::add`] take raw lines: colour codes are dropped, the message is found inside JSON
//! and logfmt, what log systems put before it (time, host, process, thread, level) is skipped, the frames of a stack trace become
//! `{STACK}`. [`shape`] and [`parameters_of`] take a bare message.
//!
//! # Braces
//! A brace stays itself unless the line holds the text of a placeholder (`{ID}`, `{*}`): that text becomes `{*}`, so that every placeholder
//! in a pattern stands for a part of the line.
//!
//! # Secrets
//! A password, token or key never becomes text of a shape: it is `{SECRET}`, recognised in the line as [`mask_secrets`] recognises it.
//! [`parameters`] gives the parts of the line that it is given, secrets too; a [`Miner`] keeps `***` for their values.
//!
//! # Bounds
//! A line is read up to [`MAX_SCANNED`] bytes and a shape ends soon after [`MAX_SHAPE`] bytes: the rest is `{REST}`. A word longer than
//! [`MAX_WORD`] is `{*}`. Forgetting of shapes is described at [`PatternSet`], of values at [`Values`].

mod closure;
mod dates;
mod event;
mod forms;
mod hash;
mod kept;
mod kind;
mod lists;
mod mask;
mod matching;
mod miner;
mod patterns;
mod phrases;
mod prefix;
mod quantities;
mod render;
mod scan;
mod secrets;
mod shape;
mod sketch;
mod slots;
mod weights;
mod words;
pub use event::{Event, Level, log_pattern, message_of, parse, shape_of_message, strip_ansi};
pub use hash::{ShapeState, stable_hash};
pub use kept::MAX_OF_STRUCTURE;
pub use kind::Kind;
pub use mask::{mask_json, mask_line, mask_secrets};
pub use matching::{parameter_kinds, parameters, parameters_of, pattern_regex};
pub use miner::{Miner, Parameter, PatternSummary, STATE_VERSION, ShapeCounts, ValueCount};
pub use patterns::{DEFAULT_LIMIT, Growth, Inserted, OTHER, PatternSet, structure};
pub use render::loghub_template;
pub use shape::{MAX_SCANNED, MAX_SHAPE, MAX_WORD, shape, shape_into};
pub use sketch::{MAX_SAMPLES, MAX_VALUES, Samples, Values, truncated};
