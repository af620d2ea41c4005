//! What a claim looks after before it hands out: events that cursors are past without having seen them.
use pgrx::pg_sys;

use super::claim::{Source, TURN, Turn, scan_kind};
use super::ledger::{self, Move};
use super::settings;
use super::table::Table;
use crate::session;
use pgedge_leases::{Condition, LANES};

/// Delayed events that are taken over at a time when they are due.
const DUE: u32 = 1_000;
/// How much longer than a scan for due events took, the next one waits, at most [`DUE_AT_LEAST`]: it walks over what was finished while a
/// snapshot is held.
const DUE_PAUSE: i64 = 10;
const DUE_AT_LEAST: i64 = 5_000_000;
/// Events that are given a new place at a time.
const DISPLACED: usize = 1_000;
/// With which share of the time, one in so many, claims look behind their cursors.
const PATROL_SHARE: i64 = 100;
/// The longest that a slow look keeps the next one waiting (µs).
const PATROL_PAUSE: i64 = 3_600_000_000;
/// Rows that one turn looks at there.
const PATROL_ROWS: usize = 1_000;

impl Turn<'_, '_> {
    /// Remembers the events of transactions that cursors had passed while they were writing, and that are over now: those in the lanes where a
    /// cursor did. In the others they stand in line as any event does.
    pub(super) fn feed_late(&mut self, table: &Table, snapshot: pg_sys::Snapshot) {
        let over: Vec<_> =
            self.q.stragglers().iter().filter(|s| !self.horizon.is_writing(s.xid)).copied().take(64).collect();
        if over.is_empty() {
            return;
        }
        let mut scan = table.ready(snapshot);
        'stragglers: for s in over {
            if self.own {
                ledger::note_move(self.segment, self.q.state.epoch, Move::Late(s.xid));
            }
            for lane in s.lane as u8..=LANES as u8 {
                if !self.q.is_passed(lane, s.xid) {
                    continue;
                }
                let from = if u32::from(lane) == s.lane { s.id } else { i64::MIN };
                scan.of_transaction(lane, s.xid, from.saturating_add(1));
                while scan.next() {
                    if self.q.remember(scan.id(), lane, s.xid, scan_kind(&scan), 0) {
                        self.q.set_straggler(s.xid, lane, scan.id());
                        continue;
                    }
                    // They get a place before the cursors, and this one is looked at again until none is left here.
                    self.displaced.push(scan.id());
                    if self.displaced.len() >= DISPLACED {
                        break 'stragglers;
                    }
                }
            }
            if !self.displaced.is_empty() {
                break;
            }
            self.q.set_straggler(s.xid, LANES as u8 + 1, 0);
        }
        scan.end();
    }

    /// The slot that stands for an event, so that it is handed out when the slot's state ends. An idle one only remembers its attempts.
    fn standing(&self, id: i64) -> Option<u32> {
        self.q.find(id).filter(|&at| self.q.slot(at).condition() != Condition::Idle)
    }

    /// Takes the least urgent of what is remembered out of memory when leases need the room: these events get a new place instead.
    pub(super) fn make_room(&mut self) {
        for lane in (1..=LANES as u8).rev() {
            while let Some(at) = self.q.last_free(lane)
                && self.displaced.len() < DISPLACED
            {
                self.displaced.push(self.q.slot(at).id);
                self.note_forgotten(at);
                self.q.forget(at);
            }
        }
    }

    /// Forgets what is remembered and finished by now, which a fixed snapshot cannot tell from what it is too old to see. Only of what this claim
    /// wants: that is what it could not hand out.
    pub(super) fn forget_gone(&mut self, table: &Table) {
        // What this transaction has written itself would be gone only until it is rolled back.
        if self.own {
            return;
        }
        // SAFETY: popped below, or by the transaction's abort.
        let snapshot = unsafe {
            pg_sys::PushActiveSnapshot(pg_sys::GetLatestSnapshot());
            pg_sys::GetActiveSnapshot()
        };
        let mut lookup = table.by_id(snapshot);
        let mut left = TURN;
        for lane in 1..=LANES as u8 {
            let mut next = self.q.first_free(lane);
            while let Some(at) = next.filter(|_| left > 0) {
                next = self.q.next_free(at);
                let slot = self.q.slot(at);
                if !self.wants_kind(slot.kind) {
                    continue;
                }
                left -= 1;
                if !lookup.stands_ready(slot.id, self.now) {
                    self.q.forget(at);
                    self.moved |= self.looked >= TURN;
                }
            }
        }
        lookup.end();
        // SAFETY: pushed above.
        unsafe { pg_sys::PopActiveSnapshot() }
    }

    /// Remembers delayed events that are due.
    pub(super) fn feed_due(&mut self, table: &Table, snapshot: pg_sys::Snapshot) {
        if !session::is_due(self.q.state.due_at, self.now, DUE_AT_LEAST) {
            return;
        }
        let mut scan = table.due(snapshot);
        scan.until(self.now);
        let mut left = DUE;
        while left > 0 && scan.next() {
            if scan.datum(scan.columns().ordering_key).is_some() {
                continue;
            }
            if let Some(at) = self.standing(scan.id()) {
                // Its type or priority may have changed since it was remembered.
                let (slot, lane, kind) = (self.q.slot(at), scan.lane(), scan_kind(&scan));
                if !self.fixed && (slot.lane(), slot.kind) != (lane, kind) {
                    self.q.relocate(at, lane, kind);
                }
                continue;
            }
            if !self.q.remember(scan.id(), scan.lane(), 0, scan_kind(&scan), 0) {
                self.displaced.push(scan.id());
            }
            left -= 1;
        }
        scan.end();
        let took = session::clock() - self.now;
        let pause = if took > 1_000 { (took * DUE_PAUSE).min(DUE_AT_LEAST) } else { 0 };
        self.q.state.due_at = self.now + pause;
    }

    /// Looks behind the cursors now and then, a little at a time: whatever is claimable there and not remembered was put there past the
    /// triggers (by a restore that disables them, say), or missed. It is claimable again within minutes, and reported.
    pub(super) fn patrol(&mut self, sources: &mut [Source]) {
        let now = self.now;
        let longest = settings::check_interval().max(PATROL_PAUSE);
        let due = |t: i64| session::is_due(t, now, longest);
        let Some(source) = sources.iter_mut().find(|s| due(self.q.place(s.group).patrol_due)) else { return };
        let group = source.group;
        let (mut lane, mut from) = match self.q.place(group) {
            g if g.patrol_lane == 0 => (1, (0, i64::MIN)),
            g => (g.patrol_lane, g.patrol_at),
        };
        let mut rows = 0;
        while usize::from(lane) <= LANES && rows < PATROL_ROWS {
            source.scan.after(lane, from);
            let cursor = self.q.cursor(group, lane);
            loop {
                if rows >= PATROL_ROWS {
                    break;
                }
                if !source.scan.next() || source.scan.place() > cursor {
                    (lane, from) = (lane + 1, (0, i64::MIN));
                    break;
                }
                rows += 1;
                from = source.scan.place();
                let (id, kind) = (source.scan.id(), scan_kind(&source.scan));
                let known = self.standing(id).is_some()
                    || !source.wants()
                    || self.horizon.is_writing(from.0)
                    || self.q.stragglers().iter().any(|s| s.xid == from.0);
                if !known && self.q.remember(id, lane, from.0, kind, 0) {
                    self.strays.push(id);
                }
            }
        }
        let took = session::clock() - now;
        let place = self.q.place(group);
        place.patrol_took += took;
        if usize::from(lane) > LANES {
            let pause = (place.patrol_took * PATROL_SHARE).min(PATROL_PAUSE);
            place.patrol_due = now + settings::check_interval().max(pause);
            (place.patrol_lane, place.patrol_took) = (0, 0);
        } else {
            (place.patrol_lane, place.patrol_at) = (lane, from);
        }
    }
}
