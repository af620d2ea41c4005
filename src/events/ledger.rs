//! What becomes of leases when a transaction ends: those taken in a (sub)transaction that is rolled back are given back, and what a
//! transaction finishes is finished when it commits.
use std::cell::{Cell, RefCell};

use pgedge_leases::Condition;
use pgrx::prelude::*;

use super::segment::Segment;
use super::wake;

/// What a transaction did.
#[derive(Clone, Copy)]
pub enum Deed {
    /// Claimed an event.
    Claimed,
    /// Began to finish one, whose slot was in this condition: done with at commit.
    Finishes(Condition),
    /// Began to give one back, likewise: claimable at commit.
    Releases(Condition),
    /// Took an event out of the hands of the token's holder: at commit that one holds it no more.
    Revokes,
    /// Gave an event that the token's holder has another ordering key, of this hash.
    Rekeys(u64),
    /// Emptied the table: at commit nothing is remembered.
    Empties,
    /// Changed the limits: at commit they are to be read anew.
    Limits,
    /// Forgot a remembered event of this lane and type, since its row as this transaction sees it cannot be claimed or is about to get a new
    /// place. Remembered again if that is rolled back.
    Forgets(u8, u64),
}

/// How far a scan came in a transaction that had written already: what that transaction itself hid from it is behind the scan.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Move {
    /// A group's cursor in a lane, from where.
    Cursor(usize, u8, (u64, i64)),
    /// The events of a late transaction.
    Late(u64),
}

#[derive(Clone, Copy)]
struct Moved {
    segment: Segment,
    epoch: u64,
    subtransaction: pg_sys::SubTransactionId,
    what: Move,
}

impl Moved {
    /// Whether an earlier one says all that this one does.
    fn is_said_by(&self, other: &Self) -> bool {
        let same = match (self.what, other.what) {
            (Move::Cursor(group, lane, _), Move::Cursor(g, l, _)) => (group, lane) == (g, l),
            (a, b) => a == b,
        };
        same && other.segment.is(self.segment)
            && (other.epoch, other.subtransaction) == (self.epoch, self.subtransaction)
    }
}

#[derive(Clone, Copy)]
struct Entry {
    segment: Segment,
    epoch: u64,
    subtransaction: pg_sys::SubTransactionId,
    id: i64,
    token: i64,
    deed: Deed,
}

thread_local! {
    static ENTRIES: RefCell<Vec<Entry>> = const { RefCell::new(Vec::new()) };
    static MOVES: RefCell<Vec<Moved>> = const { RefCell::new(Vec::new()) };
    static REGISTERED: Cell<bool> = const { Cell::new(false) };
}

/// Hooks into the ends of this session's transactions; once.
pub fn register() {
    if !REGISTERED.replace(true) {
        // SAFETY: the callbacks stay in memory, since libraries are never unloaded.
        unsafe {
            pg_sys::RegisterXactCallback(Some(at_end), std::ptr::null_mut());
            pg_sys::RegisterSubXactCallback(Some(at_sub_end), std::ptr::null_mut());
        }
    }
}

/// Whether this transaction did something there.
pub fn mentions(segment: Segment) -> bool {
    ENTRIES.with_borrow(|entries| entries.iter().any(|e| e.segment.is(segment)))
        || MOVES.with_borrow(|moves| moves.iter().any(|m| m.segment.is(segment)))
}

/// Notes that a scan goes on from here, in a transaction that has written: if that is rolled back, scans begin here again. The first of each
/// cursor in a subtransaction counts.
pub fn note_move(segment: Segment, epoch: u64, what: Move) {
    register();
    // SAFETY: a plain read of this session's own state.
    let subtransaction = unsafe { pg_sys::GetCurrentSubTransactionId() };
    keep(Moved { segment, epoch, subtransaction, what });
}

fn keep(moved: Moved) {
    MOVES.with_borrow_mut(|moves| {
        if !moves.iter().any(|earlier| moved.is_said_by(earlier)) {
            moves.push(moved);
        }
    });
}

/// Begins scans anew where they went on from.
fn step_back(moves: &[Moved]) {
    for run in moves.chunk_by(|a, b| a.segment.is(b.segment)) {
        let mut locked = run[0].segment.lock();
        let epoch = locked.queue.state.epoch;
        for m in run.iter().filter(|m| m.epoch == epoch) {
            match m.what {
                Move::Cursor(group, lane, from) => locked.queue.step_back(group, lane, from),
                Move::Late(xid) => locked.queue.step_before(xid),
            }
        }
    }
}

/// Notes what this transaction did to an event; `epoch` is the segment's at that time.
pub fn note(segment: Segment, epoch: u64, id: i64, token: i64, deed: Deed) {
    register();
    // SAFETY: a plain read of this session's own state.
    let subtransaction = unsafe { pg_sys::GetCurrentSubTransactionId() };
    ENTRIES.with_borrow_mut(|entries| entries.push(Entry { segment, epoch, subtransaction, id, token, deed }));
}

/// Of these events, ascending, that the transaction began to finish nothing came: they are given back when it commits.
pub fn release_instead(segment: Segment, token: i64, ids: &[i64]) {
    ENTRIES.with_borrow_mut(|entries| {
        for e in entries.iter_mut().filter(|e| e.token == token && e.segment.is(segment)) {
            if let Deed::Finishes(before) = e.deed
                && ids.binary_search(&e.id).is_ok()
            {
                e.deed = Deed::Releases(before);
            }
        }
    });
}

fn commit(entries: &[Entry]) {
    for run in entries.chunk_by(|a, b| a.segment.is(b.segment)) {
        if run.iter().all(|e| matches!(e.deed, Deed::Claimed | Deed::Forgets(..))) {
            continue;
        }
        let mut locked = run[0].segment.lock();
        let q = &mut locked.queue;
        let epoch = q.state.epoch;
        // What was done before the table was emptied is void with it, what was done since is not.
        let emptied = run.iter().rposition(|e| e.epoch == epoch && matches!(e.deed, Deed::Empties));
        let run = emptied.map_or(run, |at| &run[at + 1..]);
        if emptied.is_some() {
            let since = run.iter().filter(|e| e.epoch == epoch && matches!(e.deed, Deed::Claimed));
            q.reset_keeping(&since.map(|e| (e.id, e.token)).collect::<Vec<_>>());
        }
        for e in run.iter().filter(|e| e.epoch == epoch) {
            match e.deed {
                Deed::Claimed | Deed::Empties | Deed::Forgets(..) => {}
                Deed::Finishes(_) => q.finish(e.id, e.token),
                Deed::Releases(_) => q.release(e.id, e.token),
                Deed::Revokes => q.revoke(e.id, e.token),
                Deed::Rekeys(key) => q.change_key(e.id, e.token, key),
                Deed::Limits => q.state.limits_wanted = q.state.limits_wanted.wrapping_add(1),
            }
        }
    }
}

fn abort(entries: &[Entry]) {
    for run in entries.chunk_by(|a, b| a.segment.is(b.segment)) {
        let mut locked = run[0].segment.lock();
        let q = &mut locked.queue;
        let epoch = q.state.epoch;
        let ours = || run.iter().filter(|e| e.epoch == epoch);
        for e in ours().rev() {
            if let Deed::Finishes(before) | Deed::Releases(before) = e.deed {
                q.unhold(e.id, e.token, before);
            }
        }
        // In the order in which they were claimed, which is the order of their age.
        for e in ours().filter(|e| matches!(e.deed, Deed::Claimed)) {
            q.release(e.id, e.token);
        }
        for e in ours() {
            if let Deed::Forgets(lane, kind) = e.deed {
                q.remember(e.id, lane, 0, kind, 0);
            }
        }
    }
}

#[pg_guard]
unsafe extern "C-unwind" fn at_end(event: pg_sys::XactEvent::Type, _arg: *mut core::ffi::c_void) {
    use pg_sys::XactEvent::{
        XACT_EVENT_ABORT, XACT_EVENT_COMMIT, XACT_EVENT_PRE_COMMIT, XACT_EVENT_PRE_PREPARE, XACT_EVENT_PREPARE,
    };
    match event {
        XACT_EVENT_PRE_COMMIT => wake::before_commit(),
        XACT_EVENT_COMMIT => {
            MOVES.take();
            commit(&ENTRIES.take());
            wake::after_end(true);
        }
        XACT_EVENT_ABORT => {
            let entries = ENTRIES.take();
            abort(&entries);
            step_back(&MOVES.take());
            wake::after_end(false);
            // Who listens cannot be notified now, but who waits can be woken.
            if let Some(e) = entries.iter().find(|e| matches!(e.deed, Deed::Claimed)) {
                wake::wake(e.segment);
            }
        }
        XACT_EVENT_PRE_PREPARE if ENTRIES.with_borrow(|e| !e.is_empty()) || MOVES.with_borrow(|m| !m.is_empty()) => {
            crate::errors::fail(
                PgSqlErrorCode::ERRCODE_FEATURE_NOT_SUPPORTED,
                "cannot PREPARE a transaction that has claimed, finished, revoked or waited for events, or changed their limits",
                "Commit it in one phase; transactions that only enqueue can be prepared.",
            )
        }
        XACT_EVENT_PREPARE => wake::after_end(false),
        _ => {}
    }
}

#[pg_guard]
unsafe extern "C-unwind" fn at_sub_end(
    event: pg_sys::SubXactEvent::Type,
    mine: pg_sys::SubTransactionId,
    parent: pg_sys::SubTransactionId,
    _arg: *mut core::ffi::c_void,
) {
    use pg_sys::SubXactEvent::{SUBXACT_EVENT_ABORT_SUB, SUBXACT_EVENT_COMMIT_SUB};
    if event == SUBXACT_EVENT_COMMIT_SUB {
        ENTRIES.with_borrow_mut(|entries| {
            entries.iter_mut().filter(|e| e.subtransaction == mine).for_each(|e| e.subtransaction = parent)
        });
        take_moves(mine).into_iter().for_each(|m| keep(Moved { subtransaction: parent, ..m }));
    } else if event == SUBXACT_EVENT_ABORT_SUB {
        let undone: Vec<Entry> = ENTRIES.with_borrow_mut(|entries| {
            let undone = entries.iter().filter(|e| e.subtransaction == mine).copied().collect();
            entries.retain(|e| e.subtransaction != mine);
            undone
        });
        abort(&undone);
        step_back(&take_moves(mine));
        wake::leave();
    }
}

/// The moves of a subtransaction, in their order.
fn take_moves(subtransaction: pg_sys::SubTransactionId) -> Vec<Moved> {
    MOVES.with_borrow_mut(|moves| {
        let taken = moves.iter().filter(|m| m.subtransaction == subtransaction).copied().collect();
        moves.retain(|m| m.subtransaction != subtransaction);
        taken
    })
}
