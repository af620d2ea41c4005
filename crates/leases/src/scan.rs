//! How far the scans have come.
//!
//! Ready events stand in an index by (lane, inserting transaction, id). A scan begins after the last event it saw, so it never meets
//! what is finished. It may pass a transaction that is still writing: such a straggler is remembered, and once it is over its events
//! are looked for by its number.
use crate::{GROUPS, LANES, Queue, STRAGGLERS};

/// The place of all claims with one filter: for each lane the last (transaction, id) that was looked at.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct Group {
    filter: u64,
    used_at: u64,
    /// One for each lane.
    pub cursors: [(u64, i64); LANES],
    /// When to look behind the cursors again.
    pub patrol_due: i64,
    /// The lane of the look behind that is under way; 0 for none.
    pub patrol_lane: u8,
    /// How far it has come.
    pub patrol_at: (u64, i64),
    /// How long it has taken.
    pub patrol_took: i64,
}

impl Default for Group {
    fn default() -> Self {
        Self {
            filter: 0,
            used_at: 0,
            cursors: [(0, i64::MIN); LANES],
            patrol_due: i64::MIN,
            patrol_lane: 0,
            patrol_at: (0, i64::MIN),
            patrol_took: 0,
        }
    }
}

/// A transaction that cursors are past, and once it is over how far its events have been looked at.
#[derive(Clone, Copy, Debug, Default)]
#[repr(C)]
pub struct Straggler {
    /// The transaction.
    pub xid: u64,
    /// The lane being looked through.
    pub lane: u32,
    /// The last event seen in it.
    pub id: i64,
}

impl Queue<'_> {
    /// The place of a filter (never 0). When there are too many filters, the one not used for longest starts again from the beginning.
    pub fn group(&mut self, filter: u64) -> usize {
        let now = self.state.claims;
        let groups = &mut self.state.groups;
        let at = groups.iter().position(|g| g.filter == filter).unwrap_or_else(|| {
            let oldest = (0..GROUPS).min_by_key(|&i| (groups[i].filter != 0, groups[i].used_at)).unwrap_or(0);
            groups[oldest] = Group { filter, ..Group::default() };
            oldest
        });
        groups[at].used_at = now;
        at
    }

    /// The cursor of a group; `lane` is 1 to [`LANES`].
    #[must_use]
    pub fn cursor(&self, group: usize, lane: u8) -> (u64, i64) {
        self.state.groups[group].cursors[usize::from(lane) - 1]
    }

    /// Moves a cursor on, unless `writing` holds transactions at or before it that there is no room to remember. Whether it moved.
    pub fn advance(&mut self, group: usize, lane: u8, to: (u64, i64), writing: &[u64]) -> bool {
        for &xid in writing.iter().filter(|&&xid| xid <= to.0) {
            if !self.remember_straggler(xid) {
                return false;
            }
        }
        let cursor = &mut self.state.groups[group].cursors[usize::from(lane) - 1];
        *cursor = (*cursor).max(to);
        true
    }

    /// Whether any cursor of a lane is at a transaction or past it. If not, all scans are still to come to its events there.
    #[must_use]
    pub fn is_passed(&self, lane: u8, xid: u64) -> bool {
        let groups = self.state.groups.iter().filter(|g| g.filter != 0);
        groups.map(|g| g.cursors[usize::from(lane) - 1].0).any(|at| at >= xid)
    }

    /// Puts a cursor back, if it is further. What is between is looked at again.
    pub fn step_back(&mut self, group: usize, lane: u8, to: (u64, i64)) {
        let cursor = &mut self.state.groups[group].cursors[usize::from(lane) - 1];
        *cursor = (*cursor).min(to);
    }

    /// Puts all cursors before the events of a transaction.
    pub fn step_before(&mut self, xid: u64) {
        for cursor in self.state.groups.iter_mut().flat_map(|g| &mut g.cursors) {
            *cursor = (*cursor).min((xid, i64::MIN));
        }
    }

    /// What is kept of a filter.
    pub fn place(&mut self, group: usize) -> &mut Group {
        &mut self.state.groups[group]
    }

    fn remember_straggler(&mut self, xid: u64) -> bool {
        let n = self.state.straggler_count as usize;
        // One that is half looked through and still writing cannot be: it is over once looking has begun.
        if self.stragglers().iter().any(|s| s.xid == xid) {
            return true;
        }
        if n >= STRAGGLERS {
            return false;
        }
        self.state.stragglers[n] = Straggler { xid, lane: 1, id: i64::MIN };
        self.state.straggler_count += 1;
        true
    }

    /// The transactions that cursors are past.
    #[must_use]
    pub fn stragglers(&self) -> &[Straggler] {
        &self.state.stragglers[..(self.state.straggler_count as usize).min(STRAGGLERS)]
    }

    /// Notes how far a straggler's events were looked at; past the last lane it is forgotten.
    pub fn set_straggler(&mut self, xid: u64, lane: u8, id: i64) {
        let n = self.state.straggler_count as usize;
        if let Some(i) = self.stragglers().iter().position(|s| s.xid == xid) {
            if usize::from(lane) > LANES {
                self.state.stragglers[i] = self.state.stragglers[n - 1];
                self.state.straggler_count -= 1;
            } else {
                self.state.stragglers[i] = Straggler { xid, lane: u32::from(lane), id };
            }
        }
    }
}
