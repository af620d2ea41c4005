//! `pgedge.event_limits`, as the segment has it.
use pgedge_leases::Limit;
use pgrx::prelude::*;

use super::hash;
use super::ledger::{self, Deed};
use super::segment::{self, Segment};
use crate::session;

/// Reads the limits into the segment when they were changed since.
pub fn refresh(segment: Segment) {
    let wanted = {
        let locked = segment.lock();
        let state = &locked.queue.state;
        if state.limits_read == state.limits_wanted {
            return;
        }
        state.limits_wanted
    };
    let (mut user, mut context) = (pg_sys::InvalidOid, 0);
    // SAFETY: the user is put back here, or by the transaction's abort; the statement reads a table of the extension and nothing else.
    unsafe {
        pg_sys::GetUserIdAndSecContext(&mut user, &mut context);
        pg_sys::SetUserIdAndSecContext(
            pg_sys::Oid::from(pg_sys::BOOTSTRAP_SUPERUSERID),
            context | pg_sys::SECURITY_LOCAL_USERID_CHANGE as i32,
        );
    }
    let now = session::clock();
    // SAFETY: popped below, or by the transaction's abort. The snapshot of the statement, or of the whole transaction, may be older than the change.
    unsafe { pg_sys::PushActiveSnapshot(pg_sys::GetLatestSnapshot()) };
    let read = Spi::connect(|client| {
        let sql = "SELECT event_type, max_concurrent, max_per_second, paused FROM pgedge.event_limits \
                   WHERE paused OR max_concurrent IS NOT NULL OR max_per_second IS NOT NULL \
                   ORDER BY NOT paused, max_concurrent, max_per_second, event_type";
        // Read-only, so that a claim takes no transaction id.
        let rows = client.select(sql, None, &[])?;
        let mut limits = vec![];
        for row in rows {
            let name = row.get::<String>(1)?.unwrap_or_default();
            let most = row.get::<i32>(2)?.map(i64::from);
            limits.push(Limit::new(
                &name,
                hash(&name),
                most,
                row.get::<f64>(3)?,
                row.get::<bool>(4)?.unwrap_or(false),
                now,
            ));
        }
        Ok::<_, pgrx::spi::SpiError>(limits)
    });
    // SAFETY: as above.
    unsafe {
        pg_sys::PopActiveSnapshot();
        pg_sys::SetUserIdAndSecContext(user, context);
    }
    if let Ok(limits) = read {
        let mut locked = segment.lock();
        locked.queue.set_limits(&limits);
        locked.queue.state.limits_read = wanted;
    }
}

/// Trigger on `pgedge.event_limits`: claims read it anew once this transaction commits.
#[pg_extern(schema = "pgedge", volatile, parallel_unsafe, strict, name = "_events_limits_changed")]
fn limits_changed(relation: pg_sys::Oid) {
    // Made if need be: a claim that makes it while this transaction goes on would read the limits as they were.
    let segment = segment::get(relation, super::settings::max_leases());
    let epoch = segment.lock().queue.state.epoch;
    ledger::note(segment, epoch, 0, 0, Deed::Limits);
    // What a limit kept back may go now.
    super::wake::pend(relation);
}
