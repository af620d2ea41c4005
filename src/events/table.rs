//! Direct access to `claude_events` and its indexes: no planner, so no plan that stale statistics could spoil, and a few microseconds a claim.
use std::cell::RefCell;

use pgrx::pg_sys::{self, Datum};
use pgrx::prelude::*;

use crate::errors;

/// Attribute numbers of the columns that the queue reads.
#[derive(Clone, Copy, Default)]
pub struct Columns {
    pub id: i16,
    pub event_type: i16,
    pub payload: i16,
    pub priority: i16,
    pub status: i16,
    pub created_at: i16,
    pub run_at: i16,
    pub attempts: i16,
    pub max_attempts: i16,
    pub ordering_key: i16,
    pub qx: i16,
    pub lane: i16,
}

/// The indexes that the queue reads.
#[derive(Clone, Copy)]
struct Indexes {
    table: pg_sys::Oid,
    primary: pg_sys::Oid,
    ready: pg_sys::Oid,
    due: pg_sys::Oid,
    ordering: pg_sys::Oid,
}

thread_local! {
    /// The indexes found last; checked against the table's list at each use.
    static INDEXES: RefCell<Option<Indexes>> = const { RefCell::new(None) };
}

/// The open table. Closed by [`Table::close`], or by the resource owner after an error.
pub struct Table {
    pub rel: pg_sys::Relation,
    pub cols: Columns,
    wide_id: bool,
    wide_priority: pg_sys::Oid,
    /// Primary, ready, due and ordering, open and locked: nobody waits for them while holding the queue's lock.
    indexes: [pg_sys::Relation; 4],
}

/// Whether a row that a snapshot shows is what it was, so that it may be handed out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Currency {
    /// Nobody has changed or locked it since.
    Current,
    /// Someone changed it, or has it locked; look again once this transaction is over (0: unknown, look at any time).
    Busy(u64),
}

/// The columns that the queue adds to the specified ones, and of those the one that only finishing writes.
const ADDED: [&core::ffi::CStr; 12] = [
    c"processed_at",
    c"run_at",
    c"attempts",
    c"max_attempts",
    c"dedup_key",
    c"ordering_key",
    c"claimed_by",
    c"claimed_at",
    c"last_error",
    c"history",
    c"qx",
    c"lane",
];

/// Raises the error for a table that lacks one of the queue's columns.
pub fn check_columns(table: pg_sys::Oid) {
    // SAFETY: lookups in a system cache.
    let has = |name: &core::ffi::CStr| unsafe {
        pg_sys::get_attnum(table, name.as_ptr()) != pg_sys::InvalidAttrNumber as i16
    };
    if has(c"lease_token") && !has(c"qx") {
        // A table and functions of 0.1.0, which work until ALTER EXTENSION pgedge UPDATE.
        return;
    }
    for name in ADDED {
        if !has(name) {
            missing(&format!("column \"{}\"", name.to_string_lossy()));
        }
    }
}

/// Raises the error for a table without `what`.
pub fn missing(what: &str) -> ! {
    errors::fail(
        PgSqlErrorCode::ERRCODE_UNDEFINED_COLUMN,
        format!("table claude_events has no {what}"),
        "The event queue needs it. Add what the table lacks with: SELECT pgedge.create_tables();",
    )
}

/// Raises the error for a column of another type than those that can be read.
fn wrong_type(column: &str, found: pg_sys::Oid, wanted: pg_sys::Oid) -> ! {
    // SAFETY: gives a string in the current context for any type id.
    let name = |oid| unsafe { core::ffi::CStr::from_ptr(pg_sys::format_type_be(oid)).to_string_lossy().into_owned() };
    errors::fail(
        PgSqlErrorCode::ERRCODE_DATATYPE_MISMATCH,
        format!("column \"{column}\" of table claude_events has type {}, not {}", name(found), name(wanted)),
        format!(
            "The event queue reads it as {0}: ALTER TABLE claude_events ALTER COLUMN {column} TYPE {0};",
            name(wanted)
        ),
    )
}

impl Table {
    /// Opens the table. Error 42703 with the way out when it lacks columns or indexes, 42804 when a column has another type.
    pub fn open(oid: pg_sys::Oid) -> Self {
        // SAFETY: table_open gives a valid open relation or raises an error; its descriptor lives as long as it is open.
        unsafe {
            let rel = pg_sys::table_open(oid, pg_sys::AccessShareLock as pg_sys::LOCKMODE);
            if (*(*rel).rd_rel).relkind != pg_sys::RELKIND_RELATION as core::ffi::c_char {
                errors::fail(
                    PgSqlErrorCode::ERRCODE_WRONG_OBJECT_TYPE,
                    "claude_events is not an ordinary table",
                    "The event queue needs an ordinary, unpartitioned table: rename this one and run SELECT pgedge.create_tables();",
                );
            }
            let desc = (*rel).rd_att;
            #[cfg(not(feature = "pg18"))]
            let attributes = (*desc).attrs.as_slice((*desc).natts as usize);
            // From 18 on they stand behind an array of what is needed most.
            #[cfg(feature = "pg18")]
            let attributes = core::slice::from_raw_parts(
                (*desc).compact_attrs.as_ptr().add((*desc).natts as usize).cast::<pg_sys::FormData_pg_attribute>(),
                (*desc).natts as usize,
            );
            let (mut cols, mut id_type, mut priority_type) =
                (Columns::default(), pg_sys::InvalidOid, pg_sys::InvalidOid);
            const NUMBERS: &[pg_sys::Oid] = &[pg_sys::INT4OID, pg_sys::INT2OID, pg_sys::INT8OID];
            const TEXTS: &[pg_sys::Oid] = &[pg_sys::VARCHAROID, pg_sys::TEXTOID];
            let wanted: [(&mut i16, &str, &[pg_sys::Oid]); 12] = [
                (&mut cols.id, "id", &[pg_sys::INT4OID, pg_sys::INT8OID]),
                (&mut cols.event_type, "event_type", TEXTS),
                (&mut cols.payload, "payload", &[pg_sys::JSONBOID]),
                (&mut cols.priority, "priority", NUMBERS),
                (&mut cols.status, "status", TEXTS),
                (&mut cols.created_at, "created_at", &[pg_sys::TIMESTAMPOID]),
                (&mut cols.run_at, "run_at", &[pg_sys::TIMESTAMPTZOID]),
                (&mut cols.attempts, "attempts", &[pg_sys::INT4OID]),
                (&mut cols.max_attempts, "max_attempts", &[pg_sys::INT4OID]),
                (&mut cols.ordering_key, "ordering_key", &[pg_sys::TEXTOID]),
                (&mut cols.qx, "qx", &[pg_sys::XID8OID]),
                (&mut cols.lane, "lane", &[pg_sys::INT2OID]),
            ];
            for (place, name, types) in wanted {
                let found = attributes.iter().find(|a| !a.attisdropped && pgrx::name_data_to_str(&a.attname) == name);
                let Some(a) = found else { missing(&format!("column \"{name}\"")) };
                // What follows reads the values as these types: another owner's choice must not become a wild pointer.
                if !types.contains(&a.atttypid) {
                    wrong_type(name, a.atttypid, types[0]);
                }
                *place = a.attnum;
                match name {
                    "id" => id_type = a.atttypid,
                    "priority" => priority_type = a.atttypid,
                    _ => {}
                }
            }
            let indexes = Self::indexes(rel, oid, &cols);
            let indexes = [indexes.primary, indexes.ready, indexes.due, indexes.ordering]
                .map(|oid| pg_sys::index_open(oid, pg_sys::AccessShareLock as pg_sys::LOCKMODE));
            Self { rel, cols, wide_id: id_type == pg_sys::INT8OID, wide_priority: priority_type, indexes }
        }
    }

    /// Closes it; its lock stays until the transaction ends, as usual.
    pub fn close(self) {
        // SAFETY: opened in open().
        unsafe {
            for index in self.indexes {
                pg_sys::index_close(index, pg_sys::NoLock as pg_sys::LOCKMODE);
            }
            pg_sys::table_close(self.rel, pg_sys::NoLock as pg_sys::LOCKMODE)
        }
    }

    /// # Safety
    /// `rel` is open.
    unsafe fn indexes(rel: pg_sys::Relation, table: pg_sys::Oid, cols: &Columns) -> Indexes {
        // SAFETY: the list is a copy in the current context; each index is open while it is read.
        unsafe {
            let list = pgrx::PgList::<core::ffi::c_void>::from_pg(pg_sys::RelationGetIndexList(rel));
            let oids: Vec<pg_sys::Oid> = list.iter_oid().collect();
            let cached = INDEXES.with_borrow(|i| i.filter(|i| i.table == table));
            if let Some(i) = cached
                && [i.primary, i.ready, i.due, i.ordering].iter().all(|o| oids.contains(o))
            {
                return i;
            }
            let none = pg_sys::InvalidOid;
            let mut found = Indexes { table, primary: none, ready: none, due: none, ordering: none };
            // Users add indexes of their own, which may look the same but for what they leave out: the queue's has the name, or is the oldest.
            let take = |place: &mut pg_sys::Oid, oid: pg_sys::Oid, named: bool| {
                if named || *place == none {
                    *place = oid;
                }
            };
            for &oid in &oids {
                let index = pg_sys::index_open(oid, pg_sys::AccessShareLock as pg_sys::LOCKMODE);
                let form = (*index).rd_index;
                let keys = (*form).indkey.values.as_slice((*form).indnkeyatts as usize);
                let partial = !(*index).rd_indpred.is_null() || !pg_sys::RelationGetIndexPredicate(index).is_null();
                let btree = (*(*index).rd_rel).relam == pg_sys::BTREE_AM_OID;
                let ascending =
                    btree && core::slice::from_raw_parts((*index).rd_indoption, keys.len()).iter().all(|&o| o == 0);
                if ascending && (*form).indisvalid {
                    let name = pgrx::name_data_to_str(&(*(*index).rd_rel).relname);
                    if keys == [cols.id] && !partial && (*form).indisunique {
                        take(&mut found.primary, oid, (*form).indisprimary);
                    } else if keys == [cols.lane, cols.qx, cols.id] && partial {
                        take(&mut found.ready, oid, name == "idx_events_ready");
                    } else if keys == [cols.run_at] && partial {
                        take(&mut found.due, oid, name == "idx_events_due");
                    } else if keys == [cols.ordering_key, cols.id] && partial {
                        take(&mut found.ordering, oid, name == "idx_events_ordering");
                    }
                }
                pg_sys::index_close(index, pg_sys::AccessShareLock as pg_sys::LOCKMODE);
            }
            for (oid, what) in [
                (found.primary, "primary key on (id)"),
                (found.ready, "valid index on (lane, qx, id)"),
                (found.due, "valid index on (run_at)"),
                (found.ordering, "valid index on (ordering_key, id)"),
            ] {
                if oid == none {
                    missing(what);
                }
            }
            INDEXES.set(Some(found));
            found
        }
    }

    /// Begins a scan of ready events.
    pub fn ready(&self, snapshot: pg_sys::Snapshot) -> Scan {
        Scan::begin(self, self.indexes[1], 3, snapshot)
    }

    /// Begins a scan of delayed events.
    pub fn due(&self, snapshot: pg_sys::Snapshot) -> Scan {
        Scan::begin(self, self.indexes[2], 1, snapshot)
    }

    /// Begins a scan of unfinished events by ordering key.
    pub fn ordered(&self, snapshot: pg_sys::Snapshot) -> Scan {
        Scan::begin(self, self.indexes[3], 1, snapshot)
    }

    /// Begins looking up events by id.
    pub fn by_id(&self, snapshot: pg_sys::Snapshot) -> Scan {
        Scan::begin(self, self.indexes[0], 1, snapshot)
    }
}

/// An index scan, and the row it stands on. Ended by [`Scan::end`], or by the resource owner after an error.
pub struct Scan {
    desc: pg_sys::IndexScanDesc,
    index: pg_sys::Relation,
    slot: *mut pg_sys::TupleTableSlot,
    cols: Columns,
    wide_id: bool,
    priority_type: pg_sys::Oid,
    keys: [pg_sys::ScanKeyData; 3],
    /// Members of a row comparison; must not move while the scan goes on.
    members: Box<[pg_sys::ScanKeyData; 2]>,
}

impl Scan {
    fn begin(table: &Table, index: pg_sys::Relation, keys: i32, snapshot: pg_sys::Snapshot) -> Self {
        // SAFETY: the table is open and the index is one of its own; the snapshot is active while the scan goes on.
        unsafe {
            #[cfg(not(feature = "pg18"))]
            let desc = pg_sys::index_beginscan(table.rel, index, snapshot, keys, 0);
            #[cfg(feature = "pg18")]
            let desc = pg_sys::index_beginscan(table.rel, index, snapshot, std::ptr::null_mut(), keys, 0);
            let slot = pg_sys::table_slot_create(table.rel, std::ptr::null_mut());
            Self {
                desc,
                index,
                slot,
                cols: table.cols,
                wide_id: table.wide_id,
                priority_type: table.wide_priority,
                keys: [pg_sys::ScanKeyData::default(); 3],
                members: Box::new([pg_sys::ScanKeyData::default(); 2]),
            }
        }
    }

    /// The columns of the table that it scans.
    pub fn columns(&self) -> Columns {
        self.cols
    }

    /// Ends the scan.
    pub fn end(self) {
        // SAFETY: begun in begin().
        unsafe {
            pg_sys::index_endscan(self.desc);
            pg_sys::ExecDropSingleTupleTableSlot(self.slot);
        }
    }

    fn key(&mut self, n: usize, column: i16, strategy: u32, function: u32, argument: Datum) {
        // SAFETY: the key is ours; the function is a comparison of the column's type.
        unsafe {
            let collation = (*self.index).rd_indcollation.add(column as usize - 1).read();
            pg_sys::ScanKeyEntryInitialize(
                &raw mut self.keys[n],
                0,
                column,
                strategy as pg_sys::StrategyNumber,
                pg_sys::InvalidOid,
                collation,
                pg_sys::Oid::from(function),
                argument,
            );
        }
    }

    fn rescan(&mut self, n: usize) {
        // SAFETY: n of the keys are initialized and no more than begin() asked for... fewer would leave old ones, so n is that number, or the
        // scan is told anew how many there are.
        unsafe {
            (*self.desc).numberOfKeys = n as i32;
            pg_sys::index_rescan(self.desc, self.keys.as_mut_ptr(), n as i32, std::ptr::null_mut(), 0);
        }
    }

    fn id_datum(&self, id: i64) -> Datum {
        if self.wide_id { Datum::from(id) } else { Datum::from(id.clamp(i32::MIN.into(), i32::MAX.into()) as i32) }
    }

    /// Ready scan: the events of a lane after (transaction, id).
    pub fn after(&mut self, lane: u8, (xid, id): (u64, i64)) {
        self.key(0, 1, pg_sys::BTEqualStrategyNumber, pg_sys::F_INT2EQ, Datum::from(i16::from(lane)));
        let id_function = if self.wide_id { pg_sys::F_BTINT8CMP } else { pg_sys::F_BTINT4CMP };
        let id = self.id_datum(id);
        let greater = pg_sys::BTGreaterStrategyNumber as pg_sys::StrategyNumber;
        // SAFETY: as execIndexing builds the comparison (qx, id) > (a, b): a header whose argument points to the members.
        unsafe {
            for (n, flags, column, function, argument) in [
                (0, pg_sys::SK_ROW_MEMBER, 2, pg_sys::F_XID8CMP, Datum::from(xid)),
                (1, pg_sys::SK_ROW_MEMBER | pg_sys::SK_ROW_END, 3, id_function, id),
            ] {
                pg_sys::ScanKeyEntryInitialize(
                    &raw mut self.members[n],
                    flags as i32,
                    column,
                    greater,
                    pg_sys::InvalidOid,
                    pg_sys::InvalidOid,
                    pg_sys::Oid::from(function),
                    argument,
                );
            }
            self.keys[1] = pg_sys::ScanKeyData::default();
            self.keys[1].sk_flags = pg_sys::SK_ROW_HEADER as i32;
            self.keys[1].sk_attno = 2;
            self.keys[1].sk_strategy = greater;
            self.keys[1].sk_argument = Datum::from(self.members.as_mut_ptr());
        }
        self.rescan(2);
    }

    /// Ready scan: the events of a lane that a transaction put there, after an id.
    pub fn of_transaction(&mut self, lane: u8, xid: u64, id: i64) {
        self.key(0, 1, pg_sys::BTEqualStrategyNumber, pg_sys::F_INT2EQ, Datum::from(i16::from(lane)));
        self.key(1, 2, pg_sys::BTEqualStrategyNumber, pg_sys::F_XID8EQ, Datum::from(xid));
        let function = if self.wide_id { pg_sys::F_INT8GE } else { pg_sys::F_INT4GE };
        let id = self.id_datum(id);
        self.key(2, 3, pg_sys::BTGreaterEqualStrategyNumber, function, id);
        self.rescan(3);
    }

    /// Due scan: everything delayed until `now` or earlier.
    pub fn until(&mut self, now: i64) {
        self.key(0, 1, pg_sys::BTLessEqualStrategyNumber, pg_sys::F_TIMESTAMPTZ_LE, Datum::from(now));
        self.rescan(1);
    }

    /// Ordering scan: from the first key after `key`, or the first of all.
    pub fn after_key(&mut self, key: Option<&str>) {
        match key.and_then(|k| k.into_datum()) {
            Some(key) => {
                self.key(0, 1, pg_sys::BTGreaterStrategyNumber, pg_sys::F_TEXT_GT, key);
                self.rescan(1);
            }
            None => self.rescan(0),
        }
    }

    /// Lookup: goes to the event of this id; false when the snapshot shows none.
    pub fn look_up(&mut self, id: i64) -> bool {
        if !self.wide_id && i32::try_from(id).is_err() {
            return false;
        }
        let function = if self.wide_id { pg_sys::F_INT8EQ } else { pg_sys::F_INT4EQ };
        let id = self.id_datum(id);
        self.key(0, 1, pg_sys::BTEqualStrategyNumber, function, id);
        self.rescan(1);
        self.next()
    }

    /// Goes to the next row that the snapshot shows; false at the end.
    pub fn next(&mut self) -> bool {
        // SAFETY: scan and slot are live.
        unsafe { pg_sys::index_getnext_slot(self.desc, pg_sys::ScanDirection::ForwardScanDirection, self.slot) }
    }

    /// A column of the row, None for NULL. Valid until the scan moves.
    pub fn datum(&self, column: i16) -> Option<Datum> {
        let mut null = false;
        // SAFETY: the slot holds a row of the table, whose descriptor has this column.
        let datum = unsafe { pg_sys::slot_getattr(self.slot, column.into(), &raw mut null) };
        (!null).then_some(datum)
    }

    /// A text column; None for NULL.
    pub fn text(&self, column: i16) -> Option<String> {
        // SAFETY: varchar and text are stored alike.
        self.datum(column).and_then(|d| unsafe { String::from_datum(d, false) })
    }

    /// The row's id.
    pub fn id(&self) -> i64 {
        let datum = self.datum(self.cols.id).map_or(0, |d| d.value());
        if self.wide_id { datum as i64 } else { i64::from(datum as i32) }
    }

    /// The row's place in the ready queue.
    pub fn place(&self) -> (u64, i64) {
        (self.datum(self.cols.qx).map_or(0, |d| d.value() as u64), self.id())
    }

    /// The row's priority as it stands there.
    pub fn priority(&self) -> Option<i32> {
        self.datum(self.cols.priority).map(|d| match self.priority_type {
            pg_sys::INT2OID => i32::from(d.value() as i16),
            pg_sys::INT8OID => (d.value() as i64).clamp(i32::MIN.into(), i32::MAX.into()) as i32,
            _ => d.value() as i32,
        })
    }

    /// The lane that the row's priority means: 1 to 10, 5 for none.
    pub fn lane(&self) -> u8 {
        self.priority().unwrap_or(5).clamp(1, 10) as u8
    }

    /// A plain integer column.
    pub fn int(&self, column: i16) -> Option<i32> {
        self.datum(column).map(|d| d.value() as i32)
    }

    /// A timestamp column, in microseconds.
    pub fn time(&self, column: i16) -> Option<i64> {
        self.datum(column).map(|d| d.value() as i64)
    }

    /// Whether the row is pending and not delayed beyond `now`.
    pub fn is_ready(&self, now: i64) -> bool {
        self.text(self.cols.status).is_some_and(|s| s == "pending")
            && self.time(self.cols.run_at).is_none_or(|t| t <= now)
    }

    /// Lookup: goes to a remembered event; false when it is finished, or gone, or has another place by now.
    pub fn stands_ready(&mut self, id: i64, now: i64) -> bool {
        self.look_up(id) && self.is_ready(now) && self.datum(self.cols.ordering_key).is_none()
    }

    /// Whether the row is still what the snapshot shows.
    pub fn currency(&self) -> Currency {
        // SAFETY: a row that an index scan returned stands in a buffer that the slot has pinned.
        unsafe {
            let buffer_slot = self.slot.cast::<pg_sys::BufferHeapTupleTableSlot>();
            let (tuple, buffer) = ((*buffer_slot).base.tuple, (*buffer_slot).buffer);
            pg_sys::LockBuffer(buffer, pg_sys::BUFFER_LOCK_SHARE as i32);
            let result = pg_sys::HeapTupleSatisfiesUpdate(tuple, pg_sys::GetCurrentCommandId(false), buffer);
            let header = (*tuple).t_data;
            let multi = (*header).t_infomask & pg_sys::HEAP_XMAX_IS_MULTI as u16 != 0;
            let xmax = (*header).t_choice.t_heap.t_xmax;
            let only_locked = (*header).t_infomask & pg_sys::HEAP_XMAX_LOCK_ONLY as u16 != 0;
            pg_sys::LockBuffer(buffer, pg_sys::BUFFER_LOCK_UNLOCK as i32);
            match result {
                // Locked by this transaction itself, as by its own update that a trigger saw.
                pg_sys::TM_Result::TM_BeingModified
                    if !multi && only_locked && pg_sys::TransactionIdIsCurrentTransactionId(xmax) =>
                {
                    Currency::Current
                }
                pg_sys::TM_Result::TM_Ok => Currency::Current,
                pg_sys::TM_Result::TM_BeingModified if !multi => Currency::Busy(full_xid(xmax)),
                _ => Currency::Busy(0),
            }
        }
    }
}

/// A transaction id of now with its epoch.
pub fn full_xid(xid: pg_sys::TransactionId) -> u64 {
    // SAFETY: reads a shared counter.
    let next = unsafe { pg_sys::ReadNextFullTransactionId().value };
    let xid = u64::from(xid.into_inner());
    let epoch = next >> 32 << 32;
    if xid <= next & 0xFFFF_FFFF { epoch | xid } else { epoch.saturating_sub(1 << 32) | xid }
}

/// What a snapshot says of transactions.
pub struct Horizon {
    /// Transactions from this one on had not begun.
    pub xmax: u64,
    /// Those before it that were writing, this session's own included.
    pub writing: Vec<u64>,
}

impl Horizon {
    /// Reads a live MVCC snapshot.
    pub fn of(snapshot: pg_sys::Snapshot) -> Self {
        // SAFETY: an MVCC snapshot's xip has xcnt elements.
        unsafe {
            let s = &*snapshot;
            let mut writing: Vec<u64> = (0..s.xcnt as usize).map(|i| full_xid(*s.xip.add(i))).collect();
            let own = pg_sys::GetTopFullTransactionIdIfAny().value;
            if own != 0 && !writing.contains(&own) {
                writing.push(own);
            }
            Self { xmax: full_xid(s.xmax), writing }
        }
    }

    /// Whether a transaction may still be writing, as far as this snapshot can tell.
    pub fn is_writing(&self, xid: u64) -> bool {
        xid >= self.xmax || self.writing.contains(&xid)
    }
}
