//! One way to say no: SQLSTATE, a message with the offending value, and a hint with the way out.
use pgrx::pg_sys::panic::ErrorReport;
use pgrx::prelude::*;

/// Raises an ERROR; never returns. Call on the main thread only.
#[track_caller]
pub fn fail(code: PgSqlErrorCode, message: impl Into<String>, hint: impl Into<String>) -> ! {
    ErrorReport::new(code, message.into(), "pgedge").set_hint(hint.into()).report(PgLogLevel::ERROR);
    unreachable!("ERROR does not return");
}

unsafe extern "C-unwind" {
    /// PostgreSQL's own, which pgrx does not declare.
    fn errcode(code: core::ffi::c_int) -> core::ffi::c_int;
}

type OnRaise = unsafe extern "C-unwind" fn(*mut core::ffi::c_void);

thread_local! {
    /// SQLSTATE of what was raised last inside [`keeping_sqlstates`], and whether a session is inside.
    static RAISED: core::cell::Cell<(i32, bool)> = const { core::cell::Cell::new((0, false)) };
}

/// Called by PostgreSQL as an error is raised: first inside the work, and again when the error has come through Rust, where only the
/// SQLSTATEs that pgrx knows survive.
#[pg_guard]
unsafe extern "C-unwind" fn on_raise(_arg: *mut core::ffi::c_void) {
    let (raised, inside) = RAISED.get();
    // SAFETY: an error is being raised; both read or change only its SQLSTATE.
    unsafe {
        let code = pg_sys::geterrcode();
        if inside {
            RAISED.set((code, true));
        } else if code == PgSqlErrorCode::ERRCODE_INTERNAL_ERROR as i32 && raised != 0 {
            errcode(raised);
        }
    }
}

/// Runs what may call triggers of users, whose errors keep the SQLSTATEs that they gave them.
pub fn keeping_sqlstates<T>(work: impl FnOnce() -> T) -> T {
    struct Inside;
    impl Drop for Inside {
        fn drop(&mut self) {
            RAISED.set((RAISED.get().0, false));
        }
    }
    // SAFETY: the callback's memory lives as long as the calling function's context, which an error outlives only after it was raised for the
    // last time; whoever catches it puts the stack back as it was.
    unsafe {
        let callback =
            pg_sys::palloc0(size_of::<pg_sys::ErrorContextCallback>()).cast::<pg_sys::ErrorContextCallback>();
        let before = pg_sys::error_context_stack;
        ((*callback).previous, (*callback).callback) = (before, Some(on_raise as OnRaise));
        pg_sys::error_context_stack = callback;
        RAISED.set((0, true));
        let inside = Inside;
        let done = work();
        drop(inside);
        pg_sys::error_context_stack = before;
        done
    }
}
