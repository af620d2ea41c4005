//! What webhooks cannot do in SQL, where their work is (`sql/webhook_delivery.sql`): the optional background worker that calls
//! `dispatch_webhooks()` and `reconcile_webhooks()` by itself, the call of pg_net's function, and errors that keep statements out of the log.
//!
//! The worker exists only where pgedge is in `shared_preload_libraries` and `pgedge.webhook_database` is set, and starts when recovery is over, so
//! not on a standby before its promotion. An error ends it, and the postmaster starts it anew [`RESTART`] later: nothing is kept between turns.
use core::ffi::CStr;
use std::ffi::CString;
use std::time::Duration;

use pgrx::bgworkers::{BackgroundWorker, BackgroundWorkerBuilder, BgWorkerStartTime, SignalWakeFlags};
use pgrx::guc::{GucContext, GucFlags, GucRegistry, GucSetting};
use pgrx::pg_sys::Datum;
use pgrx::prelude::*;

use crate::errors;

/// `pgedge.webhook_database`: the database whose webhooks the worker serves; none when empty.
static DATABASE: GucSetting<Option<CString>> = GucSetting::<Option<CString>>::new(Some(c""));
/// `pgedge.webhook_interval`: in milliseconds, the pause between two turns.
static INTERVAL: GucSetting<i32> = GucSetting::<i32>::new(1_000);

/// How long after an error the worker starts anew.
const RESTART: Duration = Duration::from_secs(5);
/// Its name in `pg_stat_activity`.
const NAME: &CStr = c"pgedge webhooks";

unsafe extern "C-unwind" {
    /// PostgreSQL's own handler of SIGTERM; pgrx's binding is a Rust function around it, which is no signal handler.
    fn die(signal: core::ffi::c_int);
}

/// Declares the settings. Called once, when the library is loaded.
pub fn define_settings() {
    GucRegistry::define_string_guc(
        c"pgedge.webhook_database",
        c"Database whose webhooks the background worker serves; none when empty.",
        c"Needs pgedge in shared_preload_libraries, and a restart when it was empty at the server's start. It should be that of pg_net.database_name.",
        &DATABASE,
        GucContext::Sighup,
        GucFlags::default(),
    );
    GucRegistry::define_int_guc(
        c"pgedge.webhook_interval",
        c"Pause of the webhooks' background worker between two turns.",
        c"In each turn it calls reconcile_webhooks() and dispatch_webhooks(). A turn with nothing to do writes nothing.",
        &INTERVAL,
        100,
        3_600_000,
        GucContext::Sighup,
        GucFlags::UNIT_MS,
    );
}

/// The database set now.
fn database() -> Option<CString> {
    DATABASE.get().filter(|name| !name.is_empty())
}

/// Asks the postmaster for the worker, if this is the server's start and a database is set.
pub fn register_worker() {
    // SAFETY: plain reads of this process's own state.
    let starting = unsafe { pg_sys::process_shared_preload_libraries_in_progress && !pg_sys::IsBinaryUpgrade };
    if starting && database().is_some() {
        BackgroundWorkerBuilder::new("pgedge webhooks")
            .set_type("pgedge webhooks")
            .set_library("pgedge")
            .set_function("pgedge_webhooks_worker")
            .enable_spi_access()
            .set_start_time(BgWorkerStartTime::RecoveryFinished)
            .set_restart_time(Some(RESTART))
            .load();
    }
}

/// The worker's main function, called by PostgreSQL. Never returns while the server runs, but by an error or [`leave`].
#[pg_guard]
#[unsafe(no_mangle)]
pub extern "C-unwind" fn pgedge_webhooks_worker(_argument: pg_sys::Datum) {
    let Some(name) = database() else { leave() };
    // SAFETY: a backend's own handler of SIGTERM, which ends queries as well; set before signals are let through.
    unsafe {
        #[cfg(not(feature = "pg18"))]
        pg_sys::pqsignal(pg_sys::SIGTERM as i32, Some(die));
        #[cfg(feature = "pg18")]
        pg_sys::pqsignal_be(pg_sys::SIGTERM as i32, Some(die));
    }
    BackgroundWorker::attach_signal_handlers(SignalWakeFlags::SIGHUP);
    BackgroundWorker::connect_worker_to_spi(name.to_str().ok(), None);
    // SAFETY: a static name.
    unsafe { pg_sys::pgstat_report_appname(NAME.as_ptr()) };
    loop {
        for call in ["pgedge.reconcile_webhooks()", "pgedge.dispatch_webhooks()"] {
            BackgroundWorker::transaction(|| turn(call));
        }
        // SAFETY: sends this process's counters, outside of a transaction.
        unsafe {
            pg_sys::pgstat_report_stat(false);
        }
        let _ = BackgroundWorker::wait_latch(Some(Duration::from_millis(INTERVAL.get().max(100) as u64)));
        if BackgroundWorker::sighup_received() {
            // SAFETY: between transactions, as in every main loop.
            unsafe { pg_sys::ProcessConfigFile(pg_sys::GucContext::PGC_SIGHUP) };
            if database().as_ref() != Some(&name) {
                leave();
            }
        }
    }
}

/// Ends the worker; the postmaster starts it anew, unless the server is shutting down.
fn leave() -> ! {
    // SAFETY: outside of a transaction; 1 is how a worker asks to be started again.
    #[allow(clippy::diverging_sub_expression, unreachable_code)]
    // PostgreSQL 18's binding does not say that it never returns
    unsafe {
        pg_sys::proc_exit(1);
        unreachable!("proc_exit does not return")
    }
}

/// One call in a transaction of its own, if there is anything to do.
fn turn(call: &str) {
    // SAFETY: static strings; every statement of this worker sees PostgreSQL alone, whatever the database's or the role's settings say.
    unsafe {
        pg_sys::SetConfigOption(
            c"search_path".as_ptr(),
            c"pg_catalog, pg_temp".as_ptr(),
            pg_sys::GucContext::PGC_USERSET,
            pg_sys::GucSource::PGC_S_SESSION,
        );
    }
    // A schema pgedge that is not the extension's could hold anybody's functions, and this runs as superuser.
    let ours = "SELECT EXISTS (SELECT FROM pg_extension e JOIN pg_depend d ON d.refclassid = 'pg_extension'::regclass AND d.refobjid = e.oid AND d.deptype = 'e' \
                JOIN pg_proc p ON d.classid = 'pg_proc'::regclass AND p.oid = d.objid JOIN pg_namespace n ON n.oid = p.pronamespace \
                WHERE e.extname = 'pgedge' AND n.nspname = 'pgedge' AND p.proname = '_webhook_has_work')";
    let ask = |sql: &str| Spi::get_one::<bool>(sql).ok().flatten().unwrap_or(false);
    if ask(ours) && ask("SELECT pgedge._webhook_has_work()") {
        report_activity(call);
        if let Err(error) = Spi::run(&format!("SELECT {call}")) {
            pgrx::warning!("pgedge: {call}: {error}");
        }
    }
}

/// What `pg_stat_activity` shows.
fn report_activity(call: &str) {
    let Ok(text) = CString::new(call) else { return };
    // SAFETY: the text is copied.
    unsafe { pg_sys::pgstat_report_activity(pg_sys::BackendState::STATE_RUNNING, text.as_ptr()) };
}

#[doc(hidden)]
#[unsafe(no_mangle)]
pub extern "C" fn pg_finfo_pgedge_webhook_http_post() -> &'static pg_sys::Pg_finfo_record {
    const V1: pg_sys::Pg_finfo_record = pg_sys::Pg_finfo_record { api_version: 1 };
    &V1
}

/// `_webhook_http_post(url, body, params, headers, timeout_milliseconds)`: calls pg_net's function of exactly this signature, whatever others of
/// its name there are. Error 55000 when there is none.
///
/// # Safety
/// Called by the function manager, as sql/webhook_delivery.sql declares it: STRICT, so no argument is NULL.
#[doc(hidden)]
#[unsafe(no_mangle)]
#[pg_guard]
pub unsafe extern "C-unwind" fn pgedge_webhook_http_post(fcinfo: pg_sys::FunctionCallInfo) -> Datum {
    const TYPES: [pg_sys::Oid; 5] =
        [pg_sys::TEXTOID, pg_sys::JSONBOID, pg_sys::JSONBOID, pg_sys::JSONBOID, pg_sys::INT4OID];
    // SAFETY: a lookup by name and types; the function found takes and gives what the arguments and the result of the declaration are.
    unsafe {
        let names = [c"net", c"http_post"].map(|n| pg_sys::makeString(n.as_ptr().cast_mut()).cast());
        let name = names.into_iter().fold(core::ptr::null_mut(), |list, n| pg_sys::lappend(list, n));
        let post = pg_sys::LookupFuncName(name, TYPES.len() as i32, TYPES.as_ptr(), true);
        if post == pg_sys::InvalidOid
            || pg_sys::get_func_rettype(post) != pg_sys::INT8OID
            || pg_sys::get_func_retset(post)
            || pg_sys::get_func_prokind(post) != pg_sys::PROKIND_FUNCTION as core::ffi::c_char
        {
            errors::fail(
                PgSqlErrorCode::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
                "pg_net has no function net.http_post(text, jsonb, jsonb, jsonb, integer) that returns bigint",
                "ALTER EXTENSION pg_net UPDATE; a later pg_net with another signature needs a later pgedge.",
            );
        }
        let argument = |n| pgrx::fcinfo::pg_getarg_datum_raw(fcinfo, n);
        let (url, body, params, headers, timeout) = (argument(0), argument(1), argument(2), argument(3), argument(4));
        errors::intact(|| pg_sys::OidFunctionCall5Coll(post, pg_sys::InvalidOid, url, body, params, headers, timeout))
    }
}

#[doc(hidden)]
#[unsafe(no_mangle)]
pub extern "C" fn pg_finfo_pgedge_webhook_reject() -> &'static pg_sys::Pg_finfo_record {
    const V1: pg_sys::Pg_finfo_record = pg_sys::Pg_finfo_record { api_version: 1 };
    &V1
}

/// `_webhook_reject(problem, hint, code)`: raises an error without its statement, which may hold secrets.
///
/// # Safety
/// Called by the function manager, as sql/webhooks.sql declares it: STRICT, so no argument is NULL.
#[doc(hidden)]
#[unsafe(no_mangle)]
#[pg_guard]
pub unsafe extern "C-unwind" fn pgedge_webhook_reject(fcinfo: pg_sys::FunctionCallInfo) -> Datum {
    // SAFETY: three texts.
    let argument = |n| unsafe { pgrx::fcinfo::pg_getarg::<String>(fcinfo, n) }.unwrap_or_default();
    let code = match argument(2).as_str() {
        "22001" => PgSqlErrorCode::ERRCODE_STRING_DATA_RIGHT_TRUNCATION,
        "22003" => PgSqlErrorCode::ERRCODE_NUMERIC_VALUE_OUT_OF_RANGE,
        "22004" => PgSqlErrorCode::ERRCODE_NULL_VALUE_NOT_ALLOWED,
        _ => PgSqlErrorCode::ERRCODE_INVALID_PARAMETER_VALUE,
    };
    errors::fail_discreetly(code, argument(0), argument(1))
}
