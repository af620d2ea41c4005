//! The shared state of the event queue: leases, what is ready out of turn, and how far each claim's scan has come.
//!
//! Plain data in slices that the caller provides (a shared memory segment), so nothing here allocates or points outside them, all of
//! it is bounded, and every access is checked. The caller sees to it that one session at a time works on it.
//!
//! An event that the queue knows about has a [`Slot`]; all others have none:
//!
//! | state | meaning | what ends it |
//! | --- | --- | --- |
//! | `Free` | claimable, though the scan's cursor is past it: given back, expired, late, due | a claim, or the row turns out to be finished |
//! | `Leased` | handed out until `expires_at` | the holder, or a sweep after `expires_at` |
//! | `Held` | its holder is finishing it in a transaction that is not over | that transaction's end |
//! | `Idle` | not ready itself, but remembers attempts lost to expiry (events with an ordering key, which are found by their key) | as `Free`, or want of room |
//!
//! Scans pass an event that is leased or held, for its slot stands for it. But the row that they meet may be a later one than the slot is
//! about: whoever finishes the event may have made it ready anew in the same transaction, or a plain client has, and transactions are
//! over for others shortly before their end is noted here. So passing notes in the slot where it stands by now ([`Queue::meet`]), and such a
//! slot becomes `Free` where others are forgotten: a claim looks at the row and decides.
#![forbid(unsafe_code)]

/// Number of priorities; lane 1 goes first.
pub const LANES: usize = 10;
/// No slot.
pub const NONE: u32 = u32::MAX;
/// Bytes kept of a worker's name.
pub const WORKER_BYTES: usize = 40;
/// Writing transactions that cursors may be past.
pub const STRAGGLERS: usize = 256;
/// Different filters of claims whose place is remembered.
///
/// A claim uses one for each type with limits and one more, and must not drive out one that it uses itself.
pub const GROUPS: usize = 2 * LIMITS;
/// Event types with limits.
pub const LIMITS: usize = 64;
/// Bytes kept of the ordering key that the last claim ended at.
pub const KEY_BYTES: usize = 2048;

mod consumers;
mod limits;
mod scan;
#[cfg(test)]
mod tests;

pub use consumers::{Announcement, Consumers};
pub use limits::Limit;
pub use scan::{Group, Straggler};

/// Where an event stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Condition {
    /// The slot is not in use.
    Empty,
    /// See the module's table.
    Free,
    /// See the module's table.
    Leased,
    /// See the module's table.
    Held,
    /// See the module's table.
    Idle,
}

/// What the queue remembers of one event. Times are microseconds, all of one clock.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct Slot {
    /// The event.
    pub id: i64,
    /// Which claim holds it; of an expired one, which claim held it.
    pub token: i64,
    /// When the lease ends.
    pub expires_at: i64,
    /// When it was claimed.
    pub claimed_at: i64,
    /// Hash of its ordering key; 0 for none.
    pub key: u64,
    /// Hash of its type.
    pub kind: u64,
    /// A transaction that must end before it is worth looking at the row again; 0 for none.
    pub wait_xid: u64,
    /// Number of the attempt that the lease is for.
    pub attempt: i32,
    /// Attempts that ended by expiry and are not in the row.
    pub lost: i32,
    /// The transaction that put the row where the claim found it; 0 when it was not found in its place.
    pub place: u64,
    /// Hash of the type under which a scan passed it elsewhere.
    passed_kind: u64,
    next_id: u32,
    next_key: u32,
    next: u32,
    prev: u32,
    lane: u8,
    /// The lane in which a scan passed it elsewhere; 0 when none did.
    passed_lane: u8,
    state: u8,
    worker_len: u8,
    worker: [u8; WORKER_BYTES],
}

impl Slot {
    /// Where the event stands.
    #[must_use]
    pub fn condition(&self) -> Condition {
        match self.state {
            1 => Condition::Free,
            2 => Condition::Leased,
            3 => Condition::Held,
            4 => Condition::Idle,
            _ => Condition::Empty,
        }
    }

    /// Its lane.
    #[must_use]
    pub fn lane(&self) -> u8 {
        self.lane
    }

    /// Who holds it, or held it; at most [`WORKER_BYTES`] bytes.
    #[must_use]
    pub fn worker(&self) -> &str {
        let bytes = &self.worker[..usize::from(self.worker_len).min(WORKER_BYTES)];
        std::str::from_utf8(bytes).unwrap_or("")
    }
}

/// The part of a name that a slot keeps: as many whole characters as fit.
fn kept(name: &str, bytes: usize) -> &[u8] {
    let mut end = name.len().min(bytes);
    while !name.is_char_boundary(end) {
        end -= 1;
    }
    &name.as_bytes()[..end]
}

/// Everything but the slots. All zero bytes are not a valid state: call [`Queue::reset`] first.
#[repr(C)]
pub struct State {
    empty: u32,
    /// Slots that stand for a claimable event.
    pub free: u32,
    /// Slots that are leased or held.
    pub leased: u32,
    heads: [u32; LANES],
    tails: [u32; LANES],
    /// No lease ends before this.
    pub next_expiry: i64,
    /// Claims so far; a clock for what is used least.
    pub claims: u64,
    /// Changes when all is forgotten.
    pub epoch: u64,
    /// Not before this is it worth looking for delayed events that are due.
    pub due_at: i64,
    /// Not before this is it worth looking for heads of ordering keys, if there is anything else to hand out.
    pub walk_at: i64,
    /// When to look again for finished events that are too old, and the page of the table to look at first.
    pub retain_at: i64,
    /// See `retain_at`.
    pub retain_page: u32,
    pub(crate) groups: [Group; GROUPS],
    pub(crate) stragglers: [Straggler; STRAGGLERS],
    pub(crate) straggler_count: u32,
    limits: [Limit; LIMITS],
    limit_count: u32,
    /// Changes whenever the limits were changed; the next claim reads them anew.
    pub limits_wanted: u32,
    /// For which value of `limits_wanted` they were read.
    pub limits_read: u32,
    key_from: [u8; KEY_BYTES],
    key_from_len: u32,
}

/// What [`Queue::lease`] came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Leasing {
    /// The event is the caller's.
    Granted,
    /// Someone has it.
    Taken,
    /// There is no room for another lease.
    Full,
}

/// What a claim says of the event that it wants.
#[derive(Clone, Copy, Debug)]
pub struct Request<'a> {
    /// The event.
    pub id: i64,
    /// Its lane, 1 to [`LANES`].
    pub lane: u8,
    /// The transaction that put it there; 0 for events that have no place in a lane.
    pub place: u64,
    /// Hash of its type.
    pub kind: u64,
    /// Hash of its ordering key, 0 for none.
    pub key: u64,
    /// The claim's token.
    pub token: i64,
    /// When the lease ends.
    pub expires_at: i64,
    /// Now.
    pub claimed_at: i64,
    /// Attempts that the row counts.
    pub attempts: i32,
    /// Who claims.
    pub worker: &'a str,
}

/// The state and its slots, to work on while nobody else does.
pub struct Queue<'a> {
    /// Everything but the slots.
    pub state: &'a mut State,
    /// All slots, used or not.
    slots: &'a mut [Slot],
    by_id: &'a mut [u32],
    by_key: &'a mut [u32],
}

fn spread(hash: u64, buckets: usize) -> usize {
    ((hash.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 32) as usize) % buckets.max(1)
}

impl<'a> Queue<'a> {
    /// `by_id` and `by_key` are hash buckets, as many as one likes.
    #[must_use]
    pub fn new(state: &'a mut State, slots: &'a mut [Slot], by_id: &'a mut [u32], by_key: &'a mut [u32]) -> Self {
        Self { state, slots, by_id, by_key }
    }

    /// Forgets everything: leases, cursors, what is ready. Limits are to be read anew.
    pub fn reset(&mut self) {
        let n = self.slots.len() as u32;
        for (i, slot) in self.slots.iter_mut().enumerate() {
            slot.state = Condition::Empty as u8;
            slot.next = if i as u32 + 1 < n { i as u32 + 1 } else { NONE };
        }
        self.by_id.fill(NONE);
        self.by_key.fill(NONE);
        let s = &mut *self.state;
        s.empty = if n == 0 { NONE } else { 0 };
        (s.free, s.leased, s.straggler_count) = (0, 0, 0);
        s.heads = [NONE; LANES];
        s.tails = [NONE; LANES];
        (s.next_expiry, s.due_at) = (i64::MAX, i64::MIN);
        (s.walk_at, s.retain_at, s.retain_page) = (i64::MIN, i64::MIN, 0);
        s.epoch = s.epoch.wrapping_add(1);
        s.groups = [Group::default(); GROUPS];
        s.key_from_len = 0;
        s.limits_wanted = s.limits_wanted.wrapping_add(1);
        self.count_no_leases();
    }

    /// Forgets everything but these leases, of (event, token): the table was emptied, and then they were taken.
    pub fn reset_keeping(&mut self, keep: &[(i64, i64)]) {
        let held = |s: &Slot| matches!(s.condition(), Condition::Leased | Condition::Held);
        let kept: Vec<Slot> = keep
            .iter()
            .filter_map(|&(id, token)| self.find(id).map(|at| self.slot(at)).filter(|s| s.token == token && held(s)))
            .collect();
        self.reset();
        for was in kept {
            // There is room: there was before.
            let Some(at) = self.allocate(was.id, was.key) else { return };
            let slot = &mut self.slots[at as usize];
            (slot.state, slot.lane, slot.kind) = (was.state, was.lane, was.kind);
            (slot.token, slot.expires_at, slot.claimed_at) = (was.token, was.expires_at, was.claimed_at);
            (slot.attempt, slot.lost, slot.place) = (was.attempt, was.lost, was.place);
            (slot.worker, slot.worker_len) = (was.worker, was.worker_len);
            self.state.leased += 1;
            self.state.next_expiry = self.state.next_expiry.min(was.expires_at);
            self.count_limit(was.kind, 1);
        }
    }

    /// All slots, for reports.
    #[must_use]
    pub fn slots(&self) -> &[Slot] {
        self.slots
    }

    /// The slot of an event.
    #[must_use]
    pub fn find(&self, id: i64) -> Option<u32> {
        let mut at = *self.by_id.get(spread(id as u64, self.by_id.len()))?;
        while let Some(slot) = self.slots.get(at as usize) {
            if slot.id == id {
                return Some(at);
            }
            at = slot.next_id;
        }
        None
    }

    /// A slot that [`Queue::find`] or [`Queue::first_free`] named.
    #[must_use]
    pub fn slot(&self, at: u32) -> Slot {
        self.slots[at as usize]
    }

    /// Whether an event with an ordering key of this hash is in someone's hands.
    #[must_use]
    pub fn key_is_busy(&self, key: u64) -> bool {
        let mut at = self.by_key.get(spread(key, self.by_key.len())).copied().unwrap_or(NONE);
        while let Some(slot) = self.slots.get(at as usize) {
            if slot.key == key && matches!(slot.condition(), Condition::Leased | Condition::Held) {
                return true;
            }
            at = slot.next_key;
        }
        false
    }

    /// Hands an event out, unless someone has it.
    pub fn lease(&mut self, r: &Request<'_>) -> Leasing {
        let at = match self.find(r.id) {
            Some(at) => match self.slot(at).condition() {
                Condition::Leased | Condition::Held => return Leasing::Taken,
                _ => {
                    self.leave(at);
                    self.rekey(at, r.key);
                    at
                }
            },
            None => match self.allocate(r.id, r.key) {
                Some(at) => at,
                None => return Leasing::Full,
            },
        };
        let worker = kept(r.worker, WORKER_BYTES);
        let slot = &mut self.slots[at as usize];
        slot.state = Condition::Leased as u8;
        (slot.token, slot.expires_at, slot.claimed_at) = (r.token, r.expires_at, r.claimed_at);
        (slot.kind, slot.lane, slot.wait_xid) = (r.kind, r.lane, 0);
        (slot.place, slot.passed_lane) = (r.place, 0);
        slot.attempt = r.attempts.saturating_add(slot.lost).saturating_add(1);
        slot.worker[..worker.len()].copy_from_slice(worker);
        slot.worker_len = worker.len() as u8;
        self.state.leased += 1;
        self.state.next_expiry = self.state.next_expiry.min(r.expires_at);
        self.count_limit(r.kind, 1);
        Leasing::Granted
    }

    /// Remembers a claimable event that cursors are past, or may be: in `lane` by transaction `place` (0: elsewhere). False when there is no
    /// room: at most half of all slots are for these.
    pub fn remember(&mut self, id: i64, lane: u8, place: u64, kind: u64, wait_xid: u64) -> bool {
        if self.meet(id, lane, place, kind) {
            return true;
        }
        let at = match self.find(id) {
            Some(at) => {
                self.leave(at);
                self.rekey(at, 0);
                at
            }
            None if self.room() == 0 => return false,
            None => match self.allocate(id, 0) {
                Some(at) => at,
                None => return false,
            },
        };
        let slot = &mut self.slots[at as usize];
        (slot.lane, slot.kind, slot.wait_xid, slot.passed_lane) = (lane, kind, wait_xid, 0);
        self.free(at);
        true
    }

    /// A scan comes to an event in a lane. True when someone has it: then it is the slot that stands for it from here on, whatever the holder
    /// does to it. One that is free to take is the scan's.
    pub fn meet(&mut self, id: i64, lane: u8, place: u64, kind: u64) -> bool {
        let Some(at) = self.find(id) else { return false };
        let slot = &mut self.slots[at as usize];
        if !matches!(slot.condition(), Condition::Leased | Condition::Held) {
            return false;
        }
        if place == 0 || slot.place != place {
            (slot.passed_lane, slot.passed_kind) = (lane.clamp(1, LANES as u8), kind);
        }
        true
    }

    /// A remembered event is in another lane, or of another type, than was known.
    pub fn relocate(&mut self, at: u32, lane: u8, kind: u64) {
        if self.slot(at).condition() == Condition::Free {
            self.unlink(at);
            let slot = &mut self.slots[at as usize];
            (slot.lane, slot.kind) = (lane, kind);
            self.free(at);
        }
    }

    /// How many more events [`Queue::remember`] takes.
    #[must_use]
    pub fn room(&self) -> u32 {
        (self.slots.len() as u32 / 2).saturating_sub(self.state.free)
    }

    /// Sets for which transaction a remembered event waits.
    pub fn wait_for(&mut self, at: u32, xid: u64) {
        self.slots[at as usize].wait_xid = xid;
    }

    /// Forgets an event, whatever its state.
    pub fn forget(&mut self, at: u32) {
        self.leave(at);
        let slot = self.slots[at as usize];
        let bucket = spread(slot.id as u64, self.by_id.len());
        Self::unchain(self.slots, &mut self.by_id[bucket], at, |s| &mut s.next_id);
        self.rekey(at, 0);
        let slot = &mut self.slots[at as usize];
        slot.state = Condition::Empty as u8;
        slot.next = self.state.empty;
        self.state.empty = at;
    }

    /// The holder of `token` holds an event no more, nor may finish it late. Whoever claimed it since does.
    pub fn revoke(&mut self, id: i64, token: i64) {
        let Some(at) = self.find(id) else { return };
        let slot = &mut self.slots[at as usize];
        match slot.condition() {
            _ if slot.token != token => {}
            Condition::Leased | Condition::Held => self.dismiss(at),
            _ => slot.token = 0,
        }
    }

    /// What the holder of `token` holds is of another ordering key, of this hash (0: of none), as its row says by now.
    pub fn change_key(&mut self, id: i64, token: i64, key: u64) {
        if let Some(at) = self.find(id)
            && self.slot(at).token == token
            && matches!(self.slot(at).condition(), Condition::Leased | Condition::Held)
        {
            self.rekey(at, key);
        }
    }

    /// Nobody holds an event any more, as its row says by now. It is forgotten, unless a scan relied on its slot.
    fn dismiss(&mut self, at: u32) {
        if self.slot(at).passed_lane == 0 {
            self.forget(at);
            return;
        }
        let slot = &mut self.slots[at as usize];
        // The row counts them.
        (slot.token, slot.lost, slot.attempt) = (0, 0, 0);
        self.give_back(at);
    }

    /// The holder of `token` begins to finish an event: nobody can take it until that is over. Also once the lease has expired, as long
    /// as nobody has claimed it since. Gives the slot as it was.
    pub fn hold(&mut self, id: i64, token: i64) -> Option<Slot> {
        let at = self.find(id)?;
        let slot = self.slot(at);
        if token == 0 || slot.token != token || matches!(slot.condition(), Condition::Held | Condition::Empty) {
            return None;
        }
        self.leave(at);
        self.slots[at as usize].state = Condition::Held as u8;
        self.state.leased += 1;
        self.count_limit(slot.kind, 1);
        Some(slot)
    }

    /// What was held is not finished after all: it is as it was before.
    pub fn unhold(&mut self, id: i64, token: i64, before: Condition) {
        let Some(at) = self.find(id) else { return };
        let slot = self.slot(at);
        if slot.token != token || slot.condition() != Condition::Held {
            return;
        }
        match before {
            Condition::Leased => self.slots[at as usize].state = Condition::Leased as u8,
            _ => self.give_back(at),
        }
        if before == Condition::Leased {
            self.state.next_expiry = self.state.next_expiry.min(slot.expires_at);
        }
    }

    /// What was held is finished.
    pub fn finish(&mut self, id: i64, token: i64) {
        if let Some(at) = self.find(id)
            && self.slot(at).token == token
            && self.slot(at).condition() == Condition::Held
        {
            self.dismiss(at);
        }
    }

    /// A lease, or what was held, comes back unused: claimable at once, and the attempt does not count.
    pub fn release(&mut self, id: i64, token: i64) {
        if let Some(at) = self.find(id)
            && self.slot(at).token == token
            && matches!(self.slot(at).condition(), Condition::Leased | Condition::Held)
        {
            self.slots[at as usize].token = 0;
            self.give_back(at);
        }
    }

    /// Lets a lease that has not expired end later, or earlier. Whether it did.
    pub fn extend(&mut self, id: i64, token: i64, now: i64, expires_at: i64) -> bool {
        let Some(at) = self.find(id) else { return false };
        let slot = &mut self.slots[at as usize];
        if slot.token != token || slot.condition() != Condition::Leased || slot.expires_at <= now {
            return false;
        }
        slot.expires_at = expires_at;
        self.state.next_expiry = self.state.next_expiry.min(expires_at);
        true
    }

    /// Ends the leases that have expired: their events are claimable, and the attempts count.
    pub fn sweep(&mut self, now: i64) {
        if now < self.state.next_expiry {
            return;
        }
        let mut next = i64::MAX;
        for at in 0..self.slots.len() as u32 {
            let slot = self.slots[at as usize];
            if slot.condition() != Condition::Leased {
                continue;
            }
            if slot.expires_at > now {
                next = next.min(slot.expires_at);
                continue;
            }
            self.slots[at as usize].lost = slot.lost.saturating_add(1);
            self.give_back(at);
        }
        self.state.next_expiry = next;
    }

    /// The first of a lane's claimable events that are remembered; `lane` is 1 to [`LANES`].
    #[must_use]
    pub fn first_free(&self, lane: u8) -> Option<u32> {
        Some(self.state.heads[usize::from(lane) - 1]).filter(|&at| at != NONE)
    }

    /// The last of them.
    #[must_use]
    pub fn last_free(&self, lane: u8) -> Option<u32> {
        Some(self.state.tails[usize::from(lane) - 1]).filter(|&at| at != NONE)
    }

    /// The one after it.
    #[must_use]
    pub fn next_free(&self, at: u32) -> Option<u32> {
        Some(self.slots[at as usize].next).filter(|&at| at != NONE)
    }

    /// The ordering key after which the next claim looks first.
    #[must_use]
    pub fn key_from(&self) -> &[u8] {
        &self.state.key_from[..(self.state.key_from_len as usize).min(KEY_BYTES)]
    }

    /// Sets it. A key longer than [`KEY_BYTES`] is cut: the next look begins before all keys that begin as it does.
    pub fn set_key_from(&mut self, key: &str) {
        let key = kept(key, KEY_BYTES);
        self.state.key_from[..key.len()].copy_from_slice(key);
        self.state.key_from_len = key.len() as u32;
    }

    fn give_back(&mut self, at: u32) {
        self.leave(at);
        let slot = &mut self.slots[at as usize];
        if slot.passed_lane != 0 {
            (slot.lane, slot.kind, slot.passed_lane) = (slot.passed_lane, slot.passed_kind, 0);
            self.rekey(at, 0);
            self.free(at);
        } else if slot.key == 0 {
            self.free(at);
        } else if slot.lost == 0 {
            self.forget(at);
        } else {
            slot.state = Condition::Idle as u8;
        }
    }

    /// Takes a slot out of its state: its list, its counts.
    fn leave(&mut self, at: u32) {
        let slot = self.slots[at as usize];
        match slot.condition() {
            Condition::Free => self.unlink(at),
            Condition::Leased | Condition::Held => {
                self.state.leased -= 1;
                self.count_limit(slot.kind, -1);
            }
            Condition::Idle | Condition::Empty => {}
        }
        self.slots[at as usize].state = Condition::Idle as u8;
    }

    fn free(&mut self, at: u32) {
        let lane = usize::from(self.slots[at as usize].lane.clamp(1, LANES as u8)) - 1;
        let tail = self.state.tails[lane];
        let slot = &mut self.slots[at as usize];
        slot.state = Condition::Free as u8;
        (slot.prev, slot.next) = (tail, NONE);
        if tail == NONE {
            self.state.heads[lane] = at;
        } else {
            self.slots[tail as usize].next = at;
        }
        self.state.tails[lane] = at;
        self.state.free += 1;
    }

    fn unlink(&mut self, at: u32) {
        let slot = self.slots[at as usize];
        let lane = usize::from(slot.lane.clamp(1, LANES as u8)) - 1;
        if slot.prev == NONE {
            self.state.heads[lane] = slot.next;
        } else {
            self.slots[slot.prev as usize].next = slot.next;
        }
        if slot.next == NONE {
            self.state.tails[lane] = slot.prev;
        } else {
            self.slots[slot.next as usize].prev = slot.prev;
        }
        self.state.free -= 1;
    }

    fn allocate(&mut self, id: i64, key: u64) -> Option<u32> {
        if self.state.empty == NONE {
            self.reclaim();
        }
        let at = self.state.empty;
        let slot = self.slots.get_mut(at as usize)?;
        self.state.empty = slot.next;
        let bucket = spread(id as u64, self.by_id.len());
        (slot.id, slot.key, slot.token) = (id, 0, 0);
        (slot.lost, slot.attempt, slot.wait_xid, slot.worker_len) = (0, 0, 0, 0);
        (slot.place, slot.passed_lane) = (0, 0);
        slot.state = Condition::Idle as u8;
        slot.next_id = self.by_id[bucket];
        self.by_id[bucket] = at;
        self.rekey(at, key);
        Some(at)
    }

    /// Forgets attempts lost to expiry, of which some may be of events that are no more: leases need the room.
    fn reclaim(&mut self) {
        if self.state.free + self.state.leased >= self.slots.len() as u32 {
            return;
        }
        for at in 0..self.slots.len() as u32 {
            if self.slot(at).condition() == Condition::Idle {
                self.forget(at);
            }
        }
    }

    /// Gives a slot another ordering key's hash, 0 for none.
    fn rekey(&mut self, at: u32, key: u64) {
        let was = self.slot(at).key;
        if was == key {
            return;
        }
        if was != 0 {
            let bucket = spread(was, self.by_key.len());
            Self::unchain(self.slots, &mut self.by_key[bucket], at, |s| &mut s.next_key);
        }
        let slot = &mut self.slots[at as usize];
        slot.key = key;
        if key != 0 {
            let bucket = spread(key, self.by_key.len());
            slot.next_key = self.by_key[bucket];
            self.by_key[bucket] = at;
        }
    }

    fn unchain(slots: &mut [Slot], head: &mut u32, at: u32, link: impl Fn(&mut Slot) -> &mut u32) {
        let after = *link(&mut slots[at as usize]);
        if *head == at {
            *head = after;
            return;
        }
        let mut before = *head;
        while let Some(slot) = slots.get_mut(before as usize) {
            let next = link(slot);
            if *next == at {
                *next = after;
                return;
            }
            before = *next;
        }
    }
}
