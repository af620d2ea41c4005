//! `log_patterns(message)`: the miner as an aggregate over any query, with a state that parallel workers can hand over.
use pgedge_logminer::Miner;
use pgrx::JsonB;
use pgrx::datum::Internal;
use pgrx::prelude::*;

use super::{MASK_SAMPLES, mineable, samples};
use crate::errors;

/// Values shown of each placeholder.
const TOP: usize = 5;

/// Runs `f` with the aggregate's memory context current.
fn in_aggregate<R>(fcinfo: pg_sys::FunctionCallInfo, f: impl FnOnce() -> R) -> R {
    // SAFETY: fcinfo is the live call frame; the previous context is brought back unless an error throws everything away.
    unsafe {
        let mut context = core::ptr::null_mut();
        if pg_sys::AggCheckCallContext(fcinfo, &mut context) == 0 {
            errors::fail(
                PgSqlErrorCode::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
                "a support function of log_patterns() was called outside of an aggregate",
                "Call pgedge.log_patterns(message).",
            );
        }
        let before = pg_sys::MemoryContextSwitchTo(context);
        let out = f();
        pg_sys::MemoryContextSwitchTo(before);
        out
    }
}

#[pg_extern(schema = "pgedge", immutable, parallel_safe, name = "_log_patterns_trans", cost = 100)]
fn log_patterns_trans(mut state: Internal, message: Option<&str>, fcinfo: pg_sys::FunctionCallInfo) -> Internal {
    in_aggregate(fcinfo, || {
        // SAFETY: the state of this aggregate is a Miner, here and below.
        let miner = unsafe { state.get_or_insert_default::<Miner>() };
        // A NULL is no line.
        if let Some(message) = message {
            miner.mask_samples(MASK_SAMPLES.get());
            miner.add(&mineable(message));
        }
    });
    state
}

#[pg_extern(schema = "pgedge", immutable, parallel_safe, name = "_log_patterns_combine")]
fn log_patterns_combine(mut into: Internal, from: Internal, fcinfo: pg_sys::FunctionCallInfo) -> Internal {
    in_aggregate(fcinfo, || {
        // SAFETY: see above.
        unsafe {
            let into = into.get_or_insert_default::<Miner>();
            if let Some(from) = from.get::<Miner>() {
                into.merge(from);
            }
        }
    });
    into
}

#[pg_extern(schema = "pgedge", immutable, strict, parallel_safe, name = "_log_patterns_serial")]
fn log_patterns_serial(state: Internal) -> Vec<u8> {
    // SAFETY: see above.
    let miner = unsafe { state.get::<Miner>() };
    miner
        .map_or_else(Vec::new, |m| serde_json::to_vec(m).unwrap_or_else(|e| panic!("the state of log_patterns(): {e}")))
}

#[pg_extern(schema = "pgedge", immutable, strict, parallel_safe, name = "_log_patterns_deserial")]
fn log_patterns_deserial(bytes: &[u8], _unused: Internal, fcinfo: pg_sys::FunctionCallInfo) -> Internal {
    let miner: Miner = if bytes.is_empty() {
        Miner::default()
    } else {
        serde_json::from_slice(bytes).unwrap_or_else(|e| panic!("the state of log_patterns(): {e}"))
    };
    in_aggregate(fcinfo, || Internal::new(miner))
}

#[pg_extern(schema = "pgedge", immutable, parallel_safe, name = "_log_patterns_final")]
fn log_patterns_final(state: Internal) -> JsonB {
    // SAFETY: see above.
    let Some(miner) = (unsafe { state.get::<Miner>() }) else { return JsonB(serde_json::Value::Array(Vec::new())) };
    let summaries = miner.summaries(TOP).into_iter().map(|mut summary| {
        let mut shown: Vec<String> = Vec::new();
        for sample in &summary.samples {
            let sample = samples::shown(sample).into_owned();
            if !shown.contains(&sample) {
                shown.push(sample);
            }
        }
        summary.samples = shown;
        for value in summary.parameters.iter_mut().flat_map(|p| &mut p.top) {
            value.value = samples::shown(&value.value).into_owned();
        }
        serde_json::to_value(summary).unwrap_or_else(|e| panic!("the result of log_patterns(): {e}"))
    });
    JsonB(summaries.collect())
}
