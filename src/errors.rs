//! One way to say no: SQLSTATE, a message with the offending value, and a hint with the way out.
use pgrx::pg_sys::panic::ErrorReport;
use pgrx::prelude::*;

/// Raises an ERROR; never returns. Call on the main thread only.
#[track_caller]
pub fn fail(code: PgSqlErrorCode, message: impl Into<String>, hint: impl Into<String>) -> ! {
    ErrorReport::new(code, message.into(), "pgedge").set_hint(hint.into()).report(PgLogLevel::ERROR);
    unreachable!("ERROR does not return");
}
