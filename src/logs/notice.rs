//! Events for a new error pattern or a spike, when `pgedge.log_events` is on.
use super::aggregate::{Outcome, Work};
use super::spi::Session;
use super::table::Target;

/// Raises the events that the outcomes of a call ask for.
pub fn raise(_session: &Session<'_, '_>, _target: &Target, _work: &mut Work<'_>, _outcomes: &[Outcome]) {}
