//! The queue's shared memory: a dynamic segment for each `claude_events`, made by the first claim and kept until the server stops.
//!
//! It needs no `shared_preload_libraries`. Its handle stands in a file in `pg_stat_tmp`, which no backup and no standby has; a segment
//! that the handle does not lead to, or that is not the one the file means, is replaced by a new one. After a crash or a restart there
//! is none, so no lease: whatever is pending is claimable, and all tokens from before are stale.
use std::cell::RefCell;
use std::fs;

use pgedge_leases::{Consumers, Queue, Slot, State};
use pgrx::prelude::*;

use crate::{errors, session};

const MAGIC: u64 = 0x7067_6564_6765_5131;
const LAYOUT: u32 = 5;
const FOLDER: &str = "pg_stat_tmp";

/// How long a claim waits for those that commit without a notification.
pub const PATIENCE_MS: u32 = 200;

/// What stands at the segment's beginning; the state, the slots and two arrays of hash buckets follow. Up to the nonce it is the same in
/// every layout.
#[repr(C)]
struct Root {
    magic: u64,
    layout: u32,
    slots: u32,
    buckets: u32,
    database: u32,
    relation: u32,
    tranche: i32,
    nonce: u64,
    consumers: Consumers,
    lock: pg_sys::LWLock,
}

/// Where the parts lie, in bytes from the beginning.
struct Layout {
    state: usize,
    slots: usize,
    by_id: usize,
    by_key: usize,
    size: usize,
}

fn layout(slots: usize, buckets: usize) -> Layout {
    let state = size_of::<Root>().next_multiple_of(64);
    let first = (state + size_of::<State>()).next_multiple_of(64);
    let by_id = first + slots * size_of::<Slot>();
    let by_key = by_id + buckets * size_of::<u32>();
    Layout { state, slots: first, by_id, by_key, size: by_key + buckets * size_of::<u32>() }
}

/// A segment that this session has mapped. It stays so until the session ends, or has to do with the segment of another table
/// while this one's is gone.
#[derive(Clone, Copy)]
pub struct Segment {
    root: *mut Root,
    relation: pg_sys::Oid,
    mapping: *mut pg_sys::dsm_segment,
}

thread_local! {
    /// The segments that this session has mapped.
    static ATTACHED: RefCell<Vec<Segment>> = const { RefCell::new(Vec::new()) };
}

/// The queue of a segment, for this session alone until it is dropped. Nothing in it can be interrupted meanwhile.
pub struct Locked {
    /// What the segment holds.
    pub queue: Queue<'static>,
    lock: *mut pg_sys::LWLock,
}

impl Drop for Locked {
    fn drop(&mut self) {
        // SAFETY: taken in Segment::lock, and only released here; after an error too, since unwinding comes before the transaction's abort.
        // An error has let interrupts in again, which releasing is about to do once more.
        unsafe {
            if pg_sys::InterruptHoldoffCount == 0 {
                pg_sys::InterruptHoldoffCount = 1;
            }
            pg_sys::LWLockRelease(self.lock);
        }
    }
}

impl Segment {
    /// Waits for the segment's lock.
    pub fn lock(self) -> Locked {
        // SAFETY: the segment is mapped until the session ends and was checked when it was attached, so the parts lie where layout() says,
        // are aligned (multiples of 64, then of 4) and initialized; the exclusive lock makes these the only references to them.
        unsafe {
            let root = self.root;
            let lock = &raw mut (*root).lock;
            pg_sys::LWLockAcquire(lock, pg_sys::LWLockMode::LW_EXCLUSIVE);
            let (slots, buckets) = ((*root).slots as usize, (*root).buckets as usize);
            let parts = layout(slots, buckets);
            let base = root.cast::<u8>();
            let queue = Queue::new(
                &mut *base.add(parts.state).cast::<State>(),
                std::slice::from_raw_parts_mut(base.add(parts.slots).cast::<Slot>(), slots),
                std::slice::from_raw_parts_mut(base.add(parts.by_id).cast::<u32>(), buckets),
                std::slice::from_raw_parts_mut(base.add(parts.by_key).cast::<u32>(), buckets),
            );
            Locked { queue, lock }
        }
    }

    /// Who waits for events; needs no lock.
    pub fn consumers(self) -> &'static Consumers {
        // SAFETY: the segment was checked when it was attached, or filled with zeros, which are valid, when it was made. It stays mapped until
        // this session has no more to do with it (detach_dropped), and nobody keeps the reference for longer than a call.
        unsafe { &(*self.root).consumers }
    }

    /// Whether no transaction is on its way any more that began to commit when this segment was not there.
    pub fn is_known_to_all(self) -> bool {
        let (tag, exclusive) = (tag(self.relation, 1), pg_sys::ExclusiveLock as pg_sys::LOCKMODE);
        let alone = acquire(&tag, exclusive);
        if alone {
            release(&tag, exclusive);
        }
        alone
    }

    /// Events that it has room for.
    pub fn room(self) -> u32 {
        // SAFETY: as in consumers(); set before anybody else knew of the segment.
        unsafe { (*self.root).slots }
    }

    /// Whether this is the same segment.
    pub fn is(self, other: Self) -> bool {
        std::ptr::eq(self.root, other.root)
    }
}

/// What there is for a table.
pub enum Found {
    /// No segment.
    Nothing,
    /// Its segment.
    Ours(Segment),
    /// One of another version of the library.
    Foreign,
}

/// The segment of a table, if there is one. Makes none. Error 55000 for one of another version of the library: a second one beside it would
/// hand events out twice.
pub fn find(relation: pg_sys::Oid) -> Option<Segment> {
    match look(relation) {
        Found::Nothing => None,
        Found::Ours(segment) => Some(segment),
        Found::Foreign => errors::fail(
            PgSqlErrorCode::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
            "the event queue's shared memory was made by another version of pgedge's library",
            "The library was replaced while the server was running: restart the server.",
        ),
    }
}

/// Likewise, without that error.
pub fn look(relation: pg_sys::Oid) -> Found {
    if let Some(found) = ATTACHED.with_borrow(|a| a.iter().find(|s| s.relation == relation).copied()) {
        return Found::Ours(found);
    }
    let file = path(database(), relation);
    let text = match fs::read_to_string(&file) {
        Ok(text) => text,
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Found::Nothing,
        // A second segment beside one that only cannot be found at the moment would hand events out twice.
        Err(e) => errors::fail(
            PgSqlErrorCode::ERRCODE_IO_ERROR,
            format!("could not read file \"{file}\": {e}"),
            "It says where the event queue's shared memory is. Try again; see that the server may read its data directory.",
        ),
    };
    let parts = text.trim().split_once(' ').and_then(|(h, n)| Some((h.parse().ok()?, n.parse().ok()?)));
    parts.map_or(Found::Nothing, |(handle, nonce)| attach(relation, handle, nonce))
}

/// The segment of a table, made if need be, with room for `slots` events. Error 53200 or 53000 when the system has no memory for it.
pub fn get(relation: pg_sys::Oid, slots: usize) -> Segment {
    if let Some(found) = find(relation) {
        return found;
    }
    let (making, committing) = (tag(relation, 2), tag(relation, 1));
    let exclusive = pg_sys::ExclusiveLock as pg_sys::LOCKMODE;
    // SAFETY: a lock that only those take who are about to make the segment, released below or at the transaction's end.
    unsafe { pg_sys::LockAcquire(&raw const making, exclusive, false, false) };
    let segment = find(relation).unwrap_or_else(|| {
        // Those that commit without a segment are over, or it is remembered that some may not be.
        let alone = session::wait_until(PATIENCE_MS, || acquire(&committing, exclusive));
        let segment = create(relation, slots);
        segment.consumers().set_doubtful(!alone);
        if alone {
            release(&committing, exclusive);
        }
        segment
    });
    release(&making, exclusive);
    segment
}

/// Whether the table has no segment, so that whoever makes it knows of this transaction until it is over.
pub fn stays_absent(relation: pg_sys::Oid) -> bool {
    acquire(&tag(relation, 1), pg_sys::ShareLock as pg_sys::LOCKMODE) && matches!(look(relation), Found::Nothing)
}

/// Takes a lock if nobody is in the way; it is held until the transaction's end.
fn acquire(tag: &pg_sys::LOCKTAG, mode: pg_sys::LOCKMODE) -> bool {
    // SAFETY: does not wait.
    unsafe { pg_sys::LockAcquire(tag, mode, false, true) != pg_sys::LockAcquireResult::LOCKACQUIRE_NOT_AVAIL }
}

/// Gives a lock back before that.
fn release(tag: &pg_sys::LOCKTAG, mode: pg_sys::LOCKMODE) {
    // SAFETY: a lock that this session does not hold is a WARNING.
    unsafe { pg_sys::LockRelease(tag, mode, false) };
}

/// Locks of this module for a table, whose own lock has another tag: 1 is shared by transactions that commit without a segment, 2 is that of
/// whoever makes it.
fn tag(relation: pg_sys::Oid, number: u16) -> pg_sys::LOCKTAG {
    pg_sys::LOCKTAG {
        locktag_field1: database().to_u32(),
        locktag_field2: pg_sys::RelationRelationId.to_u32(),
        locktag_field3: relation.to_u32(),
        locktag_field4: number,
        locktag_type: pg_sys::LockTagType::LOCKTAG_OBJECT as u8,
        locktag_lockmethodid: pg_sys::DEFAULT_LOCKMETHOD as u8,
    }
}

fn database() -> pg_sys::Oid {
    // SAFETY: a plain read of this session's own state.
    unsafe { pg_sys::MyDatabaseId }
}

fn path(database: pg_sys::Oid, relation: pg_sys::Oid) -> String {
    format!("{FOLDER}/pgedge.{}.{}", database.to_u32(), relation.to_u32())
}

fn keep(root: *mut Root, relation: pg_sys::Oid, mapping: *mut pg_sys::dsm_segment) -> Segment {
    // SAFETY: the segment is mapped and initialized; the name is static.
    unsafe { pg_sys::LWLockRegisterTranche((*root).tranche, c"pgedge_events".as_ptr()) };
    let segment = Segment { root, relation, mapping };
    ATTACHED.with_borrow_mut(|a| a.push(segment));
    segment
}

fn attach(relation: pg_sys::Oid, handle: pg_sys::dsm_handle, nonce: u64) -> Found {
    // SAFETY: dsm_attach gives NULL for a handle that is no segment of this server; whatever else it gives is mapped with the length that
    // dsm_segment_map_length says. The header is read only when it fits, and the parts are used only when all of them do.
    unsafe {
        if !pg_sys::dsm_find_mapping(handle).is_null() {
            return Found::Nothing;
        }
        let mapping = pg_sys::dsm_attach(handle);
        if mapping.is_null() {
            return Found::Nothing;
        }
        let length = pg_sys::dsm_segment_map_length(mapping);
        let root = pg_sys::dsm_segment_address(mapping).cast::<Root>();
        let of_the_table = length >= size_of::<Root>()
            && (*root).magic == MAGIC
            && (*root).database == database().to_u32()
            && (*root).relation == relation.to_u32()
            && (*root).nonce == nonce;
        let ours = of_the_table
            && (*root).layout == LAYOUT
            && layout((*root).slots as usize, (*root).buckets as usize).size <= length;
        if !ours {
            pg_sys::dsm_detach(mapping);
            return if of_the_table { Found::Foreign } else { Found::Nothing };
        }
        pg_sys::dsm_pin_mapping(mapping);
        detach_dropped();
        Found::Ours(keep(root, relation, mapping))
    }
}

fn create(relation: pg_sys::Oid, slots: usize) -> Segment {
    detach_dropped();
    forget_dropped();
    let buckets = slots.next_power_of_two();
    let parts = layout(slots, buckets);
    let nonce = super::random_bits();
    // SAFETY: the segment is at least as long as layout() says, zero-filled, and nobody else knows it before the file names it.
    let (segment, handle) = unsafe {
        let mapping = pg_sys::dsm_create(parts.size, pg_sys::DSM_CREATE_NULL_IF_MAXSEGMENTS as i32);
        if mapping.is_null() {
            errors::fail(
                PgSqlErrorCode::ERRCODE_INSUFFICIENT_RESOURCES,
                "too many dynamic shared memory segments: none is left for the event queue",
                "Raise max_connections, on which their number depends, and restart the server.",
            );
        }
        let root = pg_sys::dsm_segment_address(mapping).cast::<Root>();
        std::ptr::write_bytes(root.cast::<u8>(), 0, parts.size);
        (*root).layout = LAYOUT;
        (*root).slots = slots as u32;
        (*root).buckets = buckets as u32;
        (*root).database = database().to_u32();
        (*root).relation = relation.to_u32();
        (*root).tranche = pg_sys::LWLockNewTrancheId();
        (*root).nonce = nonce;
        pg_sys::LWLockInitialize(&raw mut (*root).lock, (*root).tranche);
        (*root).magic = MAGIC;
        let handle = pg_sys::dsm_segment_handle(mapping);
        pg_sys::dsm_pin_segment(mapping);
        pg_sys::dsm_pin_mapping(mapping);
        (keep(root, relation, mapping), handle)
    };
    segment.lock().queue.reset();
    let (file, draft) = (path(database(), relation), format!("{}.new", path(database(), relation)));
    if let Err(error) = fs::write(&draft, format!("{handle} {nonce}\n")).and_then(|()| fs::rename(&draft, &file)) {
        ATTACHED.with_borrow_mut(|a| a.retain(|s| !s.is(segment)));
        // SAFETY: pinned above; without the file nobody would ever find it.
        unsafe { pg_sys::dsm_unpin_segment(handle) };
        errors::fail(
            PgSqlErrorCode::ERRCODE_IO_ERROR,
            format!("cannot write \"{file}\" in the data directory: {error}"),
            "The event queue keeps the handle of its shared memory there: see to the disk and the folder's permissions.",
        );
    }
    segment
}

/// Whether a table of this database is gone for good: no transaction that is not over, this one included, has dropped or made it.
fn is_gone(relation: pg_sys::Oid) -> bool {
    let exists = |id: pg_sys::SysCacheIdentifier::Type, oid: pg_sys::Oid| {
        // SAFETY: a lookup in a system cache.
        unsafe { pg_sys::SearchSysCacheExists(id as i32, oid.into(), 0.into(), 0.into(), 0.into()) }
    };
    // SAFETY: locks and releases an oid, which need not be one of a table. Who drops or makes a table has it locked until it is over.
    unsafe {
        let tag = pg_sys::LOCKTAG {
            locktag_field1: database().to_u32(),
            locktag_field2: relation.to_u32(),
            locktag_type: pg_sys::LockTagType::LOCKTAG_RELATION as u8,
            locktag_lockmethodid: pg_sys::DEFAULT_LOCKMETHOD as u8,
            ..Default::default()
        };
        let exclusive = pg_sys::AccessExclusiveLock as pg_sys::LOCKMODE;
        #[cfg(any(feature = "pg15", feature = "pg16"))]
        let mine = pg_sys::LockHeldByMe(&raw const tag, exclusive);
        #[cfg(not(any(feature = "pg15", feature = "pg16")))]
        let mine = pg_sys::LockHeldByMe(&raw const tag, exclusive, false);
        if mine || !pg_sys::ConditionalLockRelationOid(relation, pg_sys::AccessShareLock as pg_sys::LOCKMODE) {
            return false;
        }
        let gone = !exists(pg_sys::SysCacheIdentifier::RELOID, relation);
        pg_sys::UnlockRelationOid(relation, pg_sys::AccessShareLock as pg_sys::LOCKMODE);
        gone
    }
}

/// Lets go of segments of tables that were dropped, which so go once no session has them mapped.
fn detach_dropped() {
    let attached = ATTACHED.with_borrow(Clone::clone);
    for s in attached.into_iter().filter(|s| !super::ledger::mentions(*s) && !super::wake::mentions(*s)) {
        if is_gone(s.relation) {
            ATTACHED.with_borrow_mut(|a| a.retain(|other| !other.is(s)));
            // SAFETY: mapped by this session, which from here on knows nothing of it.
            unsafe { pg_sys::dsm_detach(s.mapping) };
        }
    }
}

/// Gives back the segments of databases, and of tables of this database, that were dropped.
fn forget_dropped() {
    let Ok(entries) = fs::read_dir(FOLDER) else { return };
    for entry in entries.flatten() {
        let name = entry.file_name();
        let numbers = name.to_str().and_then(|n| {
            let (of, relation) = n.strip_prefix("pgedge.")?.split_once('.')?;
            Some((pg_sys::Oid::from(of.parse::<u32>().ok()?), pg_sys::Oid::from(relation.parse::<u32>().ok()?)))
        });
        let Some((of, relation)) = numbers else { continue };
        let gone = if of == database() {
            is_gone(relation)
        } else {
            // SAFETY: a lookup in a system cache.
            unsafe {
                let id = pg_sys::SysCacheIdentifier::DATABASEOID as i32;
                !pg_sys::SearchSysCacheExists(id, of.into(), 0.into(), 0.into(), 0.into())
            }
        };
        if !gone {
            continue;
        }
        let handle =
            fs::read_to_string(entry.path()).ok().and_then(|t| t.split(' ').next()?.parse::<pg_sys::dsm_handle>().ok());
        // Of two that come to this, the one that removes the file lets go of the segment.
        if let (Ok(()), Some(handle)) = (fs::remove_file(entry.path()), handle) {
            unpin(handle, of, relation);
        }
    }
}

/// Lets go of a segment of this server, if the handle is that of the one of this table.
fn unpin(handle: pg_sys::dsm_handle, database: pg_sys::Oid, relation: pg_sys::Oid) {
    // SAFETY: as in attach(); nobody can be in a dropped database or open a dropped table, so nobody uses the segment.
    unsafe {
        let mapped = pg_sys::dsm_find_mapping(handle);
        let mapping = if mapped.is_null() { pg_sys::dsm_attach(handle) } else { mapped };
        if mapping.is_null() {
            return;
        }
        let root = pg_sys::dsm_segment_address(mapping).cast::<Root>();
        let ours = pg_sys::dsm_segment_map_length(mapping) >= size_of::<Root>()
            && (*root).magic == MAGIC
            && (*root).database == database.to_u32()
            && (*root).relation == relation.to_u32();
        if mapped.is_null() {
            pg_sys::dsm_detach(mapping);
        }
        if ours {
            pg_sys::dsm_unpin_segment(handle);
        }
    }
}
