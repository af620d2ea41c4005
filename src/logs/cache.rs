//! What this session knows of each source. Always a copy of what the support tables hold: validated by the source's generation at
//! each call, loaded incrementally, and thrown away when the transaction or subtransaction that changed it is rolled back.
use std::cell::RefCell;
use std::collections::{HashMap, HashSet};
use std::rc::Rc;

use pgedge_logminer::{PatternSet, ShapeState};
use pgrx::prelude::*;

use super::direct::Place;

/// Shapes that all cached sources may have together; beyond it the source that was used least recently is dropped (some 1 kB a shape).
const MAX_CACHED: usize = 65_536;

/// A row of `aggregated_logs` that belongs to a pattern.
#[derive(Clone, Debug)]
pub struct Row {
    /// Its id.
    pub id: i64,
    /// Its level.
    pub level: Option<Box<str>>,
    /// Where this session last found it in the table. Only ever cached.
    pub place: Option<Place>,
    /// Ranks of its samples, lowest first.
    pub ranks: Vec<u64>,
    /// The first hour that it has lines of, as microseconds since 2000-01-01 UTC; None when other clients may have had some before.
    pub first_hour: Option<i64>,
    /// The latest hour that it has lines of, as microseconds since 2000-01-01 UTC.
    pub open_hour: i64,
    /// Its count without the lines of that hour.
    pub lines_before: i64,
    /// When an event was last raised for it; the least number for never.
    pub noticed_at: i64,
    /// The hour for which, and the number of lines from which, it is a spike; what was expected. Only ever cached.
    pub alarm: Option<Alarm>,
}

/// From how many lines an hour is a spike.
#[derive(Clone, Copy, Debug)]
pub struct Alarm {
    /// The hour.
    pub hour: i64,
    /// The least number of lines that is one.
    pub from: i64,
    /// The usual number.
    pub expected: f64,
}

/// What is known of a source.
#[derive(Debug)]
pub struct Learned {
    /// Its number.
    pub no: i32,
    /// Changes when something is forgotten other than by learning: a copy of another epoch is worthless.
    pub epoch: i64,
    /// The last change that this copy has.
    pub last_no: i64,
    /// The shapes and their patterns.
    pub set: PatternSet,
    /// The patterns of shapes that lines had: as long as the set stays the same they need not be put together again.
    pub assembled: HashMap<Box<str>, Rc<str>, ShapeState>,
    /// Whether rows may have patterns that are none any more.
    pub recheck: bool,
    rows: HashMap<Box<str>, Vec<Row>, ShapeState>,
    patterns: HashMap<i64, Box<str>, ShapeState>,
    used: u64,
}

impl Learned {
    /// A source of which nothing is known yet.
    pub fn new(no: i32, epoch: i64) -> Self {
        Self {
            no,
            epoch,
            last_no: 0,
            set: PatternSet::default(),
            assembled: HashMap::default(),
            recheck: false,
            rows: HashMap::default(),
            patterns: HashMap::default(),
            used: 0,
        }
    }

    /// The rows of a pattern, one for each level.
    pub fn rows(&self, pattern: &str) -> &[Row] {
        self.rows.get(pattern).map_or(&[], Vec::as_slice)
    }

    /// The row of a pattern and level.
    pub fn row(&self, pattern: &str, level: Option<&str>) -> Option<&Row> {
        self.rows(pattern).iter().find(|r| r.level.as_deref() == level)
    }

    /// The row with this id and its pattern.
    pub fn by_id(&mut self, id: i64) -> Option<(&str, &mut Row)> {
        let pattern = self.patterns.get(&id)?;
        let row = self.rows.get_mut(pattern)?.iter_mut().find(|r| r.id == id)?;
        Some((pattern, row))
    }

    /// Every pattern with its rows.
    pub fn all_rows(&self) -> impl Iterator<Item = (&str, &[Row])> {
        self.rows.iter().map(|(p, rows)| (&**p, rows.as_slice()))
    }

    /// Puts a row in, in place of what its id stood for before.
    pub fn put_row(&mut self, pattern: &str, row: Row) {
        self.remove_row(row.id);
        self.patterns.insert(row.id, pattern.into());
        self.rows.entry(pattern.into()).or_default().push(row);
    }

    /// Takes out all rows but these.
    pub fn retain_rows(&mut self, ids: &HashSet<i64>) {
        let gone: Vec<i64> = self.patterns.keys().copied().filter(|id| !ids.contains(id)).collect();
        for id in gone {
            self.remove_row(id);
        }
    }

    /// Takes a row out.
    pub fn remove_row(&mut self, id: i64) -> Option<Row> {
        let pattern = self.patterns.remove(&id)?;
        let rows = self.rows.get_mut(&pattern)?;
        let row = rows.iter().position(|r| r.id == id).map(|i| rows.swap_remove(i));
        if rows.is_empty() {
            self.rows.remove(&pattern);
        }
        row
    }
}

#[derive(Default)]
struct Cache {
    /// The extension that it belongs to: one made anew starts with other tables.
    extension: Option<pg_sys::Oid>,
    sources: HashMap<String, Learned>,
    /// Sources changed in this transaction, and the subtransaction that did it.
    dirty: Vec<(pg_sys::SubTransactionId, String)>,
    clock: u64,
    watching: bool,
}

thread_local! {
    static CACHE: RefCell<Cache> = RefCell::default();
}

/// Takes what is known of a source out of the cache: a caller that fails leaves nothing behind.
pub fn take(extension: pg_sys::Oid, source: &str) -> Option<Learned> {
    CACHE.with_borrow_mut(|cache| {
        if cache.extension != Some(extension) {
            cache.sources.clear();
            cache.extension = Some(extension);
        }
        cache.sources.remove(source)
    })
}

/// Puts it back. `changed` says whether this transaction changed it, so that a rollback must forget it.
pub fn put_back(source: &str, mut learned: Learned, changed: bool) {
    CACHE.with_borrow_mut(|cache| {
        if changed {
            cache.watch();
            // SAFETY: a plain read of this backend's transaction state.
            cache.dirty.push((unsafe { pg_sys::GetCurrentSubTransactionId() }, source.to_owned()));
        }
        cache.clock += 1;
        learned.used = cache.clock;
        cache.sources.insert(source.to_owned(), learned);
        while cache.sources.len() > 1 && cache.sources.values().map(|l| l.set.len() + 16).sum::<usize>() > MAX_CACHED {
            let oldest = cache.sources.iter().min_by_key(|(_, l)| l.used).map(|(s, _)| s.clone());
            cache.sources.remove(&oldest.unwrap_or_default());
        }
    });
}

/// Forgets what is known of a source; the next call loads it.
pub fn forget(extension: pg_sys::Oid, source: &str) {
    take(extension, source);
}

impl Cache {
    fn watch(&mut self) {
        if !self.watching {
            // SAFETY: registered once a session; the functions live as long as the library, which is never unloaded.
            unsafe {
                pg_sys::RegisterXactCallback(Some(transaction_ended), core::ptr::null_mut());
                pg_sys::RegisterSubXactCallback(Some(subtransaction_ended), core::ptr::null_mut());
            }
            self.watching = true;
        }
    }

    /// Forgets the sources changed in subtransaction `from` or one inside it: those have larger ids.
    fn forget(&mut self, from: pg_sys::SubTransactionId) {
        let (gone, kept) = std::mem::take(&mut self.dirty).into_iter().partition(|(id, _)| *id >= from);
        self.dirty = kept;
        let gone: Vec<(pg_sys::SubTransactionId, String)> = gone;
        for (_, source) in gone {
            self.sources.remove(&source);
        }
    }
}

#[pg_guard]
unsafe extern "C-unwind" fn transaction_ended(event: pg_sys::XactEvent::Type, _arg: *mut core::ffi::c_void) {
    use pg_sys::XactEvent::{XACT_EVENT_ABORT, XACT_EVENT_COMMIT, XACT_EVENT_PREPARE};
    CACHE.with_borrow_mut(|cache| match event {
        XACT_EVENT_COMMIT => cache.dirty.clear(),
        // What a prepared transaction learned may still be rolled back.
        XACT_EVENT_ABORT | XACT_EVENT_PREPARE => cache.forget(0),
        _ => {}
    });
}

#[pg_guard]
unsafe extern "C-unwind" fn subtransaction_ended(
    event: pg_sys::SubXactEvent::Type,
    id: pg_sys::SubTransactionId,
    _parent: pg_sys::SubTransactionId,
    _arg: *mut core::ffi::c_void,
) {
    if event == pg_sys::SubXactEvent::SUBXACT_EVENT_ABORT_SUB {
        CACHE.with_borrow_mut(|cache| cache.forget(id));
    }
}
