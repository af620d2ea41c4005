//! Plain reads of this session's own state.
use pgrx::pg_sys;

/// The clock, in PostgreSQL's microseconds.
pub fn clock() -> i64 {
    // SAFETY: reads the clock.
    unsafe { pg_sys::GetCurrentTimestamp() }
}

/// Whether this transaction keeps its first snapshot: it does not see what others commit meanwhile.
pub fn keeps_snapshot() -> bool {
    // SAFETY: a plain read of this backend's state.
    unsafe { pg_sys::XactIsoLevel >= pg_sys::XACT_REPEATABLE_READ as i32 }
}
