//! Plain reads of this session's own state.
use pgrx::pg_sys;

/// The clock, in PostgreSQL's microseconds.
pub fn clock() -> i64 {
    // SAFETY: reads the clock.
    unsafe { pg_sys::GetCurrentTimestamp() }
}

/// Whether a time that was set for at most `longest` ahead has come. One further ahead was set before the clock was put back.
pub fn is_due(time: i64, now: i64, longest: i64) -> bool {
    time <= now || time.saturating_sub(now) > longest
}

/// Whether this transaction keeps its first snapshot: it does not see what others commit meanwhile.
pub fn keeps_snapshot() -> bool {
    // SAFETY: a plain read of this backend's state.
    unsafe { pg_sys::XactIsoLevel >= pg_sys::XACT_REPEATABLE_READ as i32 }
}

/// Waits for a condition, for so many milliseconds at most, and can be cancelled; whether it came true.
pub fn wait_until(most: u32, mut is_true: impl FnMut() -> bool) -> bool {
    for _ in 0..most * 4 {
        if is_true() {
            return true;
        }
        pgrx::check_for_interrupts!();
        std::thread::sleep(std::time::Duration::from_micros(250));
    }
    is_true()
}
