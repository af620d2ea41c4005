//! `claim_events`: hands out events in memory, writing nothing to the table.
//!
//! A claim works under the segment's lock, in turns of a bounded number of rows. It takes, lane by lane, first what is remembered as
//! claimable (given back, expired, late, due), then heads of ordering keys and what stands in the index after its filter's cursor, by age.
use pgedge_leases::{KEY_BYTES, LANES, Leasing, Queue, Request};
use pgrx::pg_sys::{self, Datum};
use pgrx::prelude::*;

use super::ledger::{self, Deed, Move};
use super::segment::Segment;
use super::table::{Currency, Horizon, Scan, Table};
use super::{hash, limits, random_bits, settings};
use crate::{errors, session};

/// Rows looked at before the lock is let go and cancelling is possible.
pub(super) const TURN: usize = 5_000;
/// Most ordering keys looked at in one claim.
const KEYS: usize = 1_000;
/// Ordering keys looked at for each event wanted, once there are enough claimable ones; and how many at least.
const KEYS_EACH: usize = 3;
const KEYS_AT_LEAST: usize = 25;
/// Looking at keys walks over what was finished while a snapshot is held. When it takes longer than this (µs), a claim that has enough looks at no
/// more of them, and claims that find other events do without for so many times as long, at most so long.
const WALK: i64 = 1_000;
const WALK_PAUSE: i64 = 4;
const WALK_AT_MOST: i64 = 1_000_000;
/// Every so many claims one looks first for events that have waited too long behind more urgent ones.
const AGING_TURN: u64 = 16;

/// One claim's arguments.
pub struct Wish<'a> {
    pub want: usize,
    /// Length of the lease in microseconds.
    pub lease: i64,
    /// None for all types; sorted.
    pub types: Option<Vec<String>>,
    pub worker: &'a str,
    /// Only to see whether there is something: nothing is handed out.
    pub peek: bool,
}

/// An event whose attempts are spent: the last one expired.
pub struct Spent {
    pub id: i64,
    pub attempts: i32,
    pub error: String,
}

/// Takes a granted row.
pub type Sink<'a> = &'a mut dyn FnMut(&Scan, i32, i64, i64);

/// The types of one scan.
pub(super) struct Source {
    pub(super) group: usize,
    include: Option<Vec<String>>,
    exclude: Vec<String>,
    /// The type whose limits bound it.
    limited: Option<u64>,
    pub(super) scan: Scan,
    /// How far it has come in this lane.
    seen: (u64, i64),
    /// It came to something that cannot be remembered: the cursor stays before it.
    frozen: bool,
    stands: bool,
}

impl Source {
    pub(super) fn wants(&self) -> bool {
        if self.include.is_none() && self.exclude.is_empty() {
            return true;
        }
        let kind = self.scan.text(self.scan.columns().event_type).unwrap_or_default();
        self.include.as_ref().is_none_or(|i| i.binary_search(&kind).is_ok()) && !self.exclude.contains(&kind)
    }

    /// Moves over the row. Never to a transaction that the snapshot does not reach, which only this session's own can be: others between
    /// may be writing unseen.
    fn pass(&mut self, horizon: &Horizon) {
        let place = self.scan.place();
        self.frozen |= place.0 >= horizon.xmax;
        if !self.frozen {
            self.seen = place;
        }
    }

    /// Goes to the next row of its types; counts the rows looked at.
    fn step(&mut self, looked: &mut usize, horizon: &Horizon, foreign: &mut Vec<i64>) {
        loop {
            self.stands = self.scan.next();
            if !self.stands {
                // Nothing of a transaction that was over is left. What is known as a straggler is not waited for here.
                return;
            }
            *looked += 1;
            let (xid, id) = self.scan.place();
            if xid >= horizon.xmax && !horizon.writing.contains(&xid) {
                // Came from another server by a restore: its place means nothing here, and it is given one below.
                foreign.push(id);
                self.frozen = true;
                self.stands = false;
                return;
            }
            if self.wants() {
                return;
            }
            self.pass(horizon);
            if *looked >= TURN {
                self.stands = false;
                self.frozen = true;
                return;
            }
        }
    }
}

/// A head of an ordering key.
struct Head {
    id: i64,
    lane: u8,
}

pub(super) struct Turn<'c, 'q> {
    pub(super) q: &'c mut Queue<'static>,
    wish: &'c Wish<'q>,
    pub(super) segment: Segment,
    pub(super) horizon: Horizon,
    /// This session's transaction has written: its snapshot may miss events that are there again when it is rolled back.
    pub(super) own: bool,
    /// The snapshot is older than this turn.
    pub(super) fixed: bool,
    pub(super) now: i64,
    token: i64,
    got: usize,
    pub(super) looked: usize,
    full: bool,
    /// Another turn like this one would come to other events.
    pub(super) moved: bool,
    keys_left: bool,
    wrapped: bool,
    spent: Vec<Spent>,
    foreign: Vec<i64>,
    pub(super) displaced: Vec<i64>,
    pub(super) strays: Vec<i64>,
    kinds: Option<Vec<u64>>,
    sink: Sink<'c>,
}

/// What a claim came to.
pub struct Outcome {
    pub got: usize,
    pub spent: Vec<Spent>,
    /// Events restored from another server, whose place in the queue must be made anew.
    pub foreign: Vec<i64>,
    /// Claimable events that there is no room to remember: they need a new place too.
    pub displaced: Vec<i64>,
    /// Events found where none should be.
    pub strays: Vec<i64>,
    /// There are ordering keys that were not looked at; and whether the look went past the last one.
    pub keys_left: bool,
    pub wrapped: bool,
    /// Ordering keys were not looked at.
    pub unwalked: bool,
    /// No room for another lease.
    pub full: bool,
    /// It stopped because it had looked at many rows, not because there are no more.
    pub more: bool,
}

/// One turn of a claim, under the lock; with `walk` it looks at ordering keys in any case.
pub fn turn(
    segment: Segment,
    table: &Table,
    wish: &Wish<'_>,
    got: usize,
    walk: bool,
    token: i64,
    sink: Sink<'_>,
) -> Outcome {
    let mut locked = segment.lock();
    let q = &mut locked.queue;
    let (fixed, now) = (session::keeps_snapshot(), session::clock());
    // SAFETY: in a transaction; the snapshot is popped below, or by the transaction's abort.
    let snapshot = unsafe {
        if !fixed {
            pg_sys::PushActiveSnapshot(pg_sys::GetLatestSnapshot());
        }
        pg_sys::GetActiveSnapshot()
    };
    q.state.claims += 1;
    q.sweep(now);
    let mut t = Turn {
        horizon: Horizon::of(snapshot),
        // SAFETY: a plain read of this session's own state.
        own: unsafe { pg_sys::GetTopFullTransactionIdIfAny().value != 0 },
        kinds: wish.types.as_ref().map(|t| {
            let mut kinds: Vec<u64> = t.iter().map(|t| hash(t)).collect();
            kinds.sort_unstable();
            kinds
        }),
        q,
        wish,
        segment,
        fixed,
        now,
        token,
        got,
        looked: 0,
        full: false,
        moved: false,
        keys_left: false,
        wrapped: false,
        spent: vec![],
        foreign: vec![],
        displaced: vec![],
        strays: vec![],
        sink,
    };
    t.feed_late(table, snapshot);
    t.feed_due(table, snapshot);
    let walks = walk || session::is_due(t.q.state.walk_at, t.now, WALK_AT_MOST);
    let heads = if walks { t.heads(table, snapshot) } else { vec![] };
    let mut sources = t.sources(table, snapshot);
    if !t.fixed {
        t.patrol(&mut sources);
    }
    let mut lookup = table.by_id(snapshot);
    t.take(&mut lookup, &heads, &mut sources);
    lookup.end();
    if t.fixed && t.got < wish.want {
        t.forget_gone(table);
    }
    for source in sources {
        source.scan.end();
    }
    if t.full && !t.fixed {
        t.make_room();
    }
    let outcome = Outcome {
        got: t.got,
        more: t.moved && !t.full && t.got < wish.want,
        keys_left: t.keys_left,
        wrapped: t.wrapped,
        unwalked: !walks,
        spent: t.spent,
        foreign: t.foreign,
        displaced: t.displaced,
        strays: t.strays,
        full: t.full,
    };
    if !fixed {
        // SAFETY: pushed above.
        unsafe { pg_sys::PopActiveSnapshot() }
    }
    drop(locked);
    outcome
}

impl Turn<'_, '_> {
    /// The claimable heads of ordering keys, by lane and age; of very many keys, those after the one that the last claim ended at.
    fn heads(&mut self, table: &Table, snapshot: pg_sys::Snapshot) -> Vec<Head> {
        let began = session::clock();
        let mut scan = table.ordered(snapshot);
        let start = String::from_utf8_lossy(self.q.key_from()).into_owned();
        scan.after_key(Some(start.as_str()).filter(|s| !s.is_empty()));
        let (mut heads, mut first, mut last, mut wrapped) = (vec![], None::<String>, None::<String>, start.is_empty());
        let mut keys = 0;
        loop {
            if !scan.next() {
                if wrapped {
                    last = None;
                    break;
                }
                wrapped = true;
                self.wrapped = true;
                scan.after_key(None);
                continue;
            }
            let Some(key) = scan.text(scan.columns().ordering_key) else { break };
            if first.as_ref() == Some(&key) {
                last = None;
                break;
            }
            keys += 1;
            if self.head_is_claimable(&scan, &key) {
                heads.push(Head { id: scan.id(), lane: scan.lane() });
            }
            scan.after_key(Some(&key));
            first.get_or_insert_with(|| key.clone());
            last = Some(key);
            let enough = heads.len() >= self.wish.want
                && (keys >= (self.wish.want * KEYS_EACH).max(KEYS_AT_LEAST) || session::clock() - began > WALK);
            if keys >= KEYS || enough {
                // Of keys that are cut the next look would begin where this one did.
                self.keys_left = !enough && last.as_ref().is_none_or(|k| k.len() <= KEY_BYTES);
                break;
            }
        }
        scan.end();
        self.q.set_key_from(last.as_deref().unwrap_or(""));
        if !self.fixed {
            let took = session::clock() - began;
            let pause = if took > WALK { (took * WALK_PAUSE).min(WALK_AT_MOST) } else { 0 };
            self.q.state.walk_at = self.now + took + pause;
        }
        heads.sort_unstable_by_key(|h| (h.lane, h.id));
        heads
    }

    fn head_is_claimable(&self, scan: &Scan, key: &str) -> bool {
        scan.is_ready(self.now)
            && self.wants_kind(hash(&scan.text(scan.columns().event_type).unwrap_or_default()))
            && !self.q.key_is_busy(hash(key))
    }

    pub(super) fn wants_kind(&self, kind: u64) -> bool {
        self.kinds.as_ref().is_none_or(|k| k.binary_search(&kind).is_ok())
    }

    /// One scan for all types without limits, and one for each type that has some.
    fn sources(&mut self, table: &Table, snapshot: pg_sys::Snapshot) -> Vec<Source> {
        let limited: Vec<(String, u64)> = self.q.limits().iter().map(|l| (l.name().to_owned(), l.kind)).collect();
        let mut sources = vec![];
        let mut add = |q: &mut Queue<'_>, include: Option<Vec<String>>, exclude: Vec<String>, limited| {
            let filter = filter_hash(include.as_deref(), &exclude);
            let group = q.group(filter);
            let scan = table.ready(snapshot);
            sources.push(Source {
                group,
                include,
                exclude,
                limited,
                scan,
                seen: (0, i64::MIN),
                frozen: false,
                stands: false,
            });
        };
        let names: Vec<String> = limited.iter().map(|(n, _)| n.clone()).collect();
        match &self.wish.types {
            None => add(self.q, None, names, None),
            Some(types) => {
                let free: Vec<String> = types.iter().filter(|t| !names.contains(t)).cloned().collect();
                if !free.is_empty() {
                    add(self.q, Some(free), vec![], None);
                }
            }
        }
        for (name, kind) in limited {
            let wanted = self.wish.types.as_ref().is_none_or(|t| t.binary_search(&name).is_ok());
            if wanted && self.q.allowance(kind, 1, self.now) > 0 {
                add(self.q, Some(vec![name]), vec![], Some(kind));
            }
        }
        sources
    }

    fn take(&mut self, lookup: &mut Scan, heads: &[Head], sources: &mut [Source]) {
        let aging = settings::priority_aging();
        let turn = self.q.state.claims;
        if aging > 0 && turn.is_multiple_of(AGING_TURN) {
            let lane = 2 + (turn / AGING_TURN % (LANES as u64 - 1)) as u8;
            let most = self.got + (self.wish.want / 4).max(1);
            // SAFETY: reads the clock and the time zone.
            let oldest = unsafe { pg_sys::GetSQLLocalTimestamp(-1) } - aging;
            self.lane(lookup, lane, heads, sources, most.min(self.wish.want), Some(oldest));
        }
        for lane in 1..=LANES as u8 {
            if self.done(self.wish.want) {
                return;
            }
            self.lane(lookup, lane, heads, sources, self.wish.want, None);
        }
    }

    /// In a claim that only looks: notes that there is something.
    fn peeked(&mut self, scan: &Scan) -> bool {
        if !self.wish.peek || self.is_spent(scan).is_some() {
            return false;
        }
        self.got += 1;
        true
    }

    fn done(&self, most: usize) -> bool {
        self.full || self.got >= most || self.looked >= TURN
    }

    /// Takes what one lane has; with `before`, only what was created before.
    fn lane(
        &mut self,
        lookup: &mut Scan,
        lane: u8,
        heads: &[Head],
        sources: &mut [Source],
        most: usize,
        before: Option<i64>,
    ) {
        self.take_remembered(lookup, lane, most, before);
        for source in sources.iter_mut() {
            source.frozen = false;
            source.seen = self.q.cursor(source.group, lane);
            source.scan.after(lane, source.seen);
            source.stands = false;
            if !self.done(most) {
                source.step(&mut self.looked, &self.horizon, &mut self.foreign);
            }
        }
        let mut heads = heads.iter().filter(|h| h.lane == lane).peekable();
        while !self.done(most) {
            let next = sources.iter_mut().filter(|s| s.stands).min_by_key(|s| s.scan.place());
            let head_first = heads.peek().is_some_and(|h| next.as_ref().is_none_or(|s| h.id < s.scan.id()));
            if head_first {
                if let Some(head) = heads.next() {
                    self.take_head(lookup, head, before);
                }
                continue;
            }
            let Some(source) = next else { break };
            if before.is_some_and(|b| source.scan.time(source.scan.columns().created_at).is_some_and(|t| t > b)) {
                source.stands = false;
                source.frozen = true;
                continue;
            }
            self.take_ready(lane, source);
            if source.stands {
                source.step(&mut self.looked, &self.horizon, &mut self.foreign);
            }
        }
        for source in sources.iter_mut() {
            let exhausted = !source.stands && !source.frozen && !self.done(most);
            if exhausted {
                // Everything of transactions that were over has been seen, up to the first that was still writing and is no straggler yet.
                let known = self.q.stragglers();
                let open = self.horizon.writing.iter().filter(|&&x| !known.iter().any(|s| s.xid == x)).min();
                // This session's own transaction may be beyond the snapshot, with others unseen before it.
                let end = open.copied().unwrap_or(u64::MAX).min(self.horizon.xmax).saturating_sub(1);
                source.seen = source.seen.max((end, i64::MAX));
            }
            let before = self.q.cursor(source.group, lane);
            if self.q.advance(source.group, lane, source.seen, &self.horizon.writing) {
                if self.own && source.seen > before {
                    let what = Move::Cursor(source.group, lane, before);
                    ledger::note_move(self.segment, self.q.state.epoch, what);
                }
                // Past rows, not only past the transactions of this moment.
                self.moved |= source.seen > before && self.looked >= TURN;
            }
        }
    }

    /// Takes what is remembered as claimable.
    fn take_remembered(&mut self, lookup: &mut Scan, lane: u8, most: usize, before: Option<i64>) {
        let mut next = self.q.first_free(lane);
        while let Some(at) = next {
            if self.done(most) {
                return;
            }
            next = self.q.next_free(at);
            let slot = self.q.slot(at);
            if !self.wants_kind(slot.kind)
                || self.q.allowance(slot.kind, 1, self.now) == 0
                || slot.wait_xid != 0 && self.horizon.is_writing(slot.wait_xid)
            {
                continue;
            }
            self.looked += 1;
            if !lookup.stands_ready(slot.id, self.now) {
                // A fixed snapshot may only be too old to see.
                if !self.fixed {
                    if self.own {
                        self.note_forgotten(at);
                    }
                    self.q.forget(at);
                    self.moved |= self.looked >= TURN;
                }
                continue;
            }
            let (kind, its_lane) = (scan_kind(lookup), lookup.lane());
            if kind != slot.kind || its_lane != lane {
                self.q.relocate(at, its_lane, kind);
                self.moved = true;
                continue;
            }
            if before.is_some_and(|b| lookup.time(lookup.columns().created_at).is_some_and(|t| t > b)) {
                continue;
            }
            match lookup.currency() {
                Currency::Busy(xid) => self.q.wait_for(at, xid),
                Currency::Current => {
                    if !self.peeked(lookup) {
                        self.grant_looked_up(lookup, lane, 0);
                    }
                }
            }
        }
    }

    /// What this transaction has written, or is about to write, keeps a remembered event from being claimed: that may be rolled back.
    pub(super) fn note_forgotten(&self, at: u32) {
        let slot = self.q.slot(at);
        ledger::note(self.segment, self.q.state.epoch, slot.id, 0, Deed::Forgets(slot.lane(), slot.kind));
    }

    fn take_head(&mut self, lookup: &mut Scan, head: &Head, before: Option<i64>) {
        self.looked += 1;
        if !lookup.look_up(head.id) || lookup.currency() != Currency::Current {
            return;
        }
        let Some(key) = lookup.text(lookup.columns().ordering_key) else { return };
        if before.is_some_and(|b| lookup.time(lookup.columns().created_at).is_some_and(|t| t > b))
            || self.q.key_is_busy(hash(&key))
        {
            return;
        }
        if self.q.allowance(scan_kind(lookup), 1, self.now) > 0 && !self.peeked(lookup) {
            self.grant_looked_up(lookup, head.lane, hash(&key));
        }
    }

    fn take_ready(&mut self, lane: u8, source: &mut Source) {
        if source.limited.is_some_and(|kind| self.q.allowance(kind, 1, self.now) == 0) {
            source.stands = false;
            source.frozen = true;
            return;
        }
        let (id, kind, place) = (source.scan.id(), scan_kind(&source.scan), source.scan.place().0);
        if self.q.meet(id, lane, place, kind) {
            source.pass(&self.horizon);
            return;
        }
        match source.scan.currency() {
            Currency::Current if self.peeked(&source.scan) => source.frozen = true,
            Currency::Current => match self.grant(&source.scan, lane, place, 0) {
                Leasing::Full => {
                    self.full = true;
                    source.frozen = true;
                }
                Leasing::Granted | Leasing::Taken => source.pass(&self.horizon),
            },
            Currency::Busy(xid) => {
                if self.q.remember(id, lane, place, kind, xid) {
                    source.pass(&self.horizon);
                } else {
                    source.frozen = true;
                }
            }
        }
    }

    fn grant_looked_up(&mut self, lookup: &Scan, lane: u8, key: u64) {
        if self.grant(lookup, lane, 0, key) == Leasing::Full {
            self.full = true;
        }
    }

    /// Leases the row that a scan stands on, or finds its attempts spent.
    fn grant(&mut self, scan: &Scan, lane: u8, place: u64, key: u64) -> Leasing {
        let (id, attempts) = (scan.id(), scan.int(scan.columns().attempts).unwrap_or(0));
        let kind = scan_kind(scan);
        let spent = self.is_spent(scan);
        let expires_at = self.now.saturating_add(self.wish.lease);
        let request = Request {
            id,
            lane,
            place,
            kind,
            key,
            token: self.token,
            expires_at,
            claimed_at: self.now,
            attempts,
            worker: self.wish.worker,
        };
        let leasing = self.q.lease(&request);
        if leasing != Leasing::Granted {
            return leasing;
        }
        let epoch = self.q.state.epoch;
        match spent {
            Some(spent) => {
                // It may be what kills its workers: it is not handed out again.
                ledger::note(self.segment, epoch, id, self.token, Deed::Claimed);
                if let Some(slot) = self.q.hold(id, self.token) {
                    ledger::note(self.segment, epoch, id, self.token, Deed::Finishes(slot.condition()));
                }
                self.spent.push(spent);
            }
            None => {
                ledger::note(self.segment, epoch, id, self.token, Deed::Claimed);
                self.q.spend(kind);
                self.got += 1;
                let attempt = self.q.find(id).map_or(1, |at| self.q.slot(at).attempt);
                (self.sink)(scan, attempt, self.token, expires_at);
            }
        }
        Leasing::Granted
    }

    /// Whether an event's last attempt expired.
    fn is_spent(&self, scan: &Scan) -> Option<Spent> {
        let (id, attempts) = (scan.id(), scan.int(scan.columns().attempts).unwrap_or(0));
        let most = scan.int(scan.columns().max_attempts).unwrap_or(settings::DEFAULT_ATTEMPTS);
        let slot = self.q.find(id).map(|at| self.q.slot(at)).filter(|s| s.lost > 0)?;
        let attempts = attempts.saturating_add(slot.lost);
        if attempts < most {
            return None;
        }
        let worker = if slot.worker().is_empty() { "unnamed" } else { slot.worker() };
        let error = format!("lease expired in attempt {} of {most}, worker {worker}", slot.attempt);
        Some(Spent { id, attempts, error })
    }
}

/// Hash of a row's type.
pub(super) fn scan_kind(scan: &Scan) -> u64 {
    hash(&scan.text(scan.columns().event_type).unwrap_or_default())
}

fn filter_hash(include: Option<&[String]>, exclude: &[String]) -> u64 {
    let mut parts: Vec<&str> = include.unwrap_or(exclude).iter().map(String::as_str).collect();
    parts.sort_unstable();
    parts.dedup();
    // NUL cannot occur in a PostgreSQL string.
    hash(&format!("{}\0{}", if include.is_some() { "+" } else { "-" }, parts.join("\0")))
}

#[doc(hidden)]
#[unsafe(no_mangle)]
pub extern "C" fn pg_finfo_pgedge_claim_events() -> &'static pg_sys::Pg_finfo_record {
    const V1: pg_sys::Pg_finfo_record = pg_sys::Pg_finfo_record { api_version: 1 };
    &V1
}

/// `claim_events(max_events, lease, event_types, worker)`: see its COMMENT. Written for the function manager directly, so that a row goes
/// from the table to the result without being taken apart.
///
/// # Safety
/// Called by the function manager, as sql/events.sql declares it.
#[doc(hidden)]
#[unsafe(no_mangle)]
#[pg_guard]
pub unsafe extern "C-unwind" fn pgedge_claim_events(fcinfo: pg_sys::FunctionCallInfo) -> Datum {
    // SAFETY: the arguments have the types that the declaration says.
    let wish_parts = unsafe {
        (
            pgrx::fcinfo::pg_getarg::<i32>(fcinfo, 0),
            pgrx::fcinfo::pg_getarg::<pgrx::datum::Interval>(fcinfo, 1),
            pgrx::fcinfo::pg_getarg::<Vec<Option<String>>>(fcinfo, 2),
            pgrx::fcinfo::pg_getarg::<String>(fcinfo, 3),
        )
    };
    let (want, lease) = checked(wish_parts.0, wish_parts.1);
    super::check_may_write();
    let types = wish_parts.2.map(|t| sorted(t.into_iter().flatten()));
    let worker = wish_parts.3.unwrap_or_default();
    // SAFETY: materialize mode, as every caller of a set-returning function in FROM or the select list offers.
    let result = unsafe {
        pg_sys::InitMaterializedSRF(fcinfo, 0);
        (*fcinfo).resultinfo.cast::<pg_sys::ReturnSetInfo>()
    };
    if types.as_ref().is_some_and(Vec::is_empty) {
        return Datum::from(0);
    }
    // SAFETY: flinfo is that of this call.
    let table_oid = super::table_oid(unsafe { (*(*fcinfo).flinfo).fn_oid });
    let segment = super::segment::get(table_oid, settings::max_leases());
    let wish = Wish { want, lease, types, worker: &worker, peek: false };
    limits::refresh(segment);
    let mut sink = |scan: &Scan, attempt: i32, token: i64, expires_at: i64| {
        let c = scan.columns();
        let columns = [
            Some(Datum::from(scan.id())),
            scan.datum(c.event_type),
            scan.datum(c.payload),
            scan.priority().map(Datum::from),
            Some(Datum::from(attempt)),
            Some(Datum::from(token)),
            Some(Datum::from(expires_at)),
            scan.datum(c.created_at),
        ];
        let mut nulls = columns.map(|d| d.is_none());
        let mut values = columns.map(|d| d.unwrap_or(Datum::from(0)));
        // SAFETY: InitMaterializedSRF made the store and the descriptor, which has these eight columns; the row is copied.
        unsafe {
            pg_sys::tuplestore_putvalues(
                (*result).setResult,
                (*result).setDesc,
                values.as_mut_ptr(),
                nulls.as_mut_ptr(),
            )
        }
    };
    run(segment, table_oid, &wish, &mut sink);
    Datum::from(0)
}

/// Turns until enough is handed out or nothing is left.
fn run(segment: Segment, table_oid: pg_sys::Oid, wish: &Wish<'_>, sink: Sink<'_>) -> usize {
    let table = Table::open(table_oid);
    let token = random_bits() as i64 & 0xFFFF_FFFF_FFFF | 1;
    // Before the first snapshot is taken: then it is known whether what that does not show is announced.
    let mut last_look = wish.peek || segment.consumers().will_be_told();
    let (mut got, mut rounds, mut walk) = (0, 0, false);
    loop {
        let outcome = turn(segment, &table, wish, got, walk, token, sink);
        got = outcome.got;
        super::write_spent(segment, table_oid, token, &outcome.spent);
        let replaced =
            super::replace_foreign(table_oid, &outcome.foreign) + super::displace(table_oid, &outcome.displaced);
        super::report_strays(&outcome.strays);
        pgrx::check_for_interrupts!();
        if outcome.full && got == 0 && outcome.spent.is_empty() && outcome.displaced.is_empty() {
            errors::fail(
                PgSqlErrorCode::ERRCODE_CONFIGURATION_LIMIT_EXCEEDED,
                format!("all {} leases are in use", segment.room()),
                "Complete events sooner or use shorter leases; or raise pgedge.max_leases and restart the server.",
            );
        }
        rounds += usize::from(outcome.wrapped);
        let keys_left = got == 0 && outcome.keys_left && rounds < 2;
        let room_made = outcome.full && !outcome.displaced.is_empty();
        if outcome.more || keys_left || (replaced > 0 || room_made) && got < wish.want {
            continue;
        }
        // There is nothing else. Who only waits for an event looks again soon.
        walk = got == 0 && outcome.unwalked && !wish.peek;
        if walk {
            continue;
        }
        if got == 0 && !last_look && super::wake::nothing_found(segment) {
            (last_look, rounds) = (true, 0);
            continue;
        }
        break;
    }
    table.close();
    got
}

/// Names, each once, to be searched quickly while the lock is held.
fn sorted(names: impl Iterator<Item = String>) -> Vec<String> {
    let mut names: Vec<String> = names.collect();
    names.sort_unstable();
    names.dedup();
    names
}

/// Whether something of these types can be claimed now.
pub fn anything(segment: Segment, table_oid: pg_sys::Oid, types: Option<&[String]>) -> bool {
    if types.is_some_and(<[String]>::is_empty) {
        return false;
    }
    let types = types.map(|t| sorted(t.iter().cloned()));
    let wish = Wish { want: 1, lease: 60_000_000, types, worker: "", peek: true };
    run(segment, table_oid, &wish, &mut |_: &Scan, _, _, _| {}) > 0
}

fn checked(want: Option<i32>, lease: Option<pgrx::datum::Interval>) -> (usize, i64) {
    let out_of_range = |code, shown: String| -> ! {
        errors::fail(code, format!("max_events {shown} is out of range"), "Claim 1 to 10000 events at a time.")
    };
    let want = match want {
        None => out_of_range(PgSqlErrorCode::ERRCODE_NULL_VALUE_NOT_ALLOWED, "NULL".into()),
        Some(n) if !(1..=10_000).contains(&n) => {
            out_of_range(PgSqlErrorCode::ERRCODE_NUMERIC_VALUE_OUT_OF_RANGE, n.to_string())
        }
        Some(n) => n as usize,
    };
    (want, super::lease_micros(lease))
}
