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
    // PostgreSQL's own, which pgrx does not declare.
    fn errcode(code: core::ffi::c_int) -> core::ffi::c_int;
    fn errcontext_msg(format: *const core::ffi::c_char, ...) -> core::ffi::c_int;
}

/// What [`intact`] keeps for the time of a call, in the memory of its caller.
struct Kept {
    /// The work goes on: what is raised now is PostgreSQL's.
    inside: bool,
    /// The last error raised meanwhile, as it was.
    error: *mut pg_sys::ErrorData,
    /// Where it is kept.
    memory: pg_sys::MemoryContext,
}

/// Called by PostgreSQL as an error is raised: first inside the work, and again when the error has come through Rust, where only message,
/// DETAIL, HINT and the SQLSTATEs that pgrx knows survive. The rest is put back then.
#[pg_guard]
unsafe extern "C-unwind" fn on_raise(kept: *mut core::ffi::c_void) {
    // SAFETY: an error is being raised, of which a copy is made outside of the context for errors; `kept` is as in intact(). Every string of the
    // copy is NULL or ends with NUL, and is copied by what takes it.
    unsafe {
        let kept = &mut *kept.cast::<Kept>();
        if pg_sys::geterrcode() == PgSqlErrorCode::ERRCODE_OUT_OF_MEMORY as i32 {
            // A copy would need more of it; pgrx knows this one.
            return;
        }
        let before = pg_sys::MemoryContextSwitchTo(kept.memory);
        let now = pg_sys::CopyErrorData();
        pg_sys::MemoryContextSwitchTo(before);
        let (raised, known) = (&*now, kept.error);
        if raised.elevel < PgLogLevel::ERROR as i32 {
            pg_sys::FreeErrorData(now);
            return;
        }
        if kept.inside {
            if !known.is_null() {
                pg_sys::FreeErrorData(known);
            }
            kept.error = now;
            return;
        }
        // One that Rust raised after PostgreSQL had caught the kept one is another.
        if !known.is_null() && same(raised.message, (*known).message) && same(raised.hint, (*known).hint) {
            put_back(&*known);
        }
        pg_sys::FreeErrorData(now);
    }
}

/// # Safety
/// Both are NULL or end with NUL.
unsafe fn same(a: *const core::ffi::c_char, b: *const core::ffi::c_char) -> bool {
    // SAFETY: as above.
    let text = |p: *const core::ffi::c_char| (!p.is_null()).then(|| unsafe { core::ffi::CStr::from_ptr(p) });
    text(a) == text(b)
}

/// Gives the error that is being raised what another had.
///
/// # Safety
/// An error is being raised.
unsafe fn put_back(known: &pg_sys::ErrorData) {
    // SAFETY: as for on_raise().
    unsafe {
        errcode(known.sqlerrcode);
        if !known.context.is_null() {
            errcontext_msg(c"%s".as_ptr(), known.context);
        }
        if known.hide_stmt {
            pg_sys::errhidestmt(true);
        }
        if known.hide_ctx {
            pg_sys::errhidecontext(true);
        }
        for (field, text) in [
            (pg_sys::PG_DIAG_SCHEMA_NAME, known.schema_name),
            (pg_sys::PG_DIAG_TABLE_NAME, known.table_name),
            (pg_sys::PG_DIAG_COLUMN_NAME, known.column_name),
            (pg_sys::PG_DIAG_DATATYPE_NAME, known.datatype_name),
            (pg_sys::PG_DIAG_CONSTRAINT_NAME, known.constraint_name),
        ] {
            if !text.is_null() {
                pg_sys::err_generic_string(field.into(), text);
            }
        }
        if !known.internalquery.is_null() {
            pg_sys::internalerrquery(known.internalquery);
            pg_sys::internalerrposition(known.internalpos);
        }
    }
}

/// Puts a function with an argument among those that PostgreSQL calls as an error is raised; what was there before.
///
/// # Safety
/// The argument is what the function expects, and lives as long as the error can be raised.
unsafe fn call_on_raise(
    function: unsafe extern "C-unwind" fn(*mut core::ffi::c_void),
    argument: *mut core::ffi::c_void,
) -> *mut pg_sys::ErrorContextCallback {
    // SAFETY: the callback's memory lives as long as the calling function's context, which an error outlives only after it was raised for the
    // last time; whoever catches it puts the stack back as it was.
    unsafe {
        let callback =
            pg_sys::palloc0(size_of::<pg_sys::ErrorContextCallback>()).cast::<pg_sys::ErrorContextCallback>();
        let before = pg_sys::error_context_stack;
        ((*callback).previous, (*callback).callback, (*callback).arg) = (before, Some(function), argument);
        pg_sys::error_context_stack = callback;
        before
    }
}

/// Runs what may call functions and triggers of users, whose errors reach the client as they were raised: with their SQLSTATE, CONTEXT, and the
/// names of table, column and constraint.
pub fn intact<T>(work: impl FnOnce() -> T) -> T {
    struct Inside(*mut Kept);
    impl Drop for Inside {
        fn drop(&mut self) {
            // SAFETY: in the memory of the calling function's context, which is still there while its errors are raised.
            unsafe { (*self.0).inside = false };
        }
    }
    // SAFETY: as for call_on_raise().
    unsafe {
        let kept = pg_sys::palloc0(size_of::<Kept>()).cast::<Kept>();
        *kept = Kept { inside: true, error: core::ptr::null_mut(), memory: pg_sys::CurrentMemoryContext };
        let before = call_on_raise(on_raise, kept.cast());
        let inside = Inside(kept);
        let done = work();
        drop(inside);
        pg_sys::error_context_stack = before;
        if !(*kept).error.is_null() {
            pg_sys::FreeErrorData((*kept).error);
        }
        done
    }
}

#[pg_guard]
unsafe extern "C-unwind" fn hide_statement(_argument: *mut core::ffi::c_void) {
    // SAFETY: an error is being raised.
    unsafe {
        pg_sys::errhidestmt(true);
        // Where log_parameter_max_length_on_error puts the parameters.
        pg_sys::errhidecontext(true);
    }
}

/// As [`fail`], for a statement that may hold a secret: neither it nor its parameters are written to the server's log along with the error.
#[track_caller]
pub fn fail_discreetly(code: PgSqlErrorCode, message: impl Into<String>, hint: impl Into<String>) -> ! {
    // SAFETY: the function expects nothing.
    unsafe { call_on_raise(hide_statement, core::ptr::null_mut()) };
    fail(code, message, hint)
}
