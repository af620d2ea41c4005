//! The state of a `top_k` aggregate: what it searches for, what it has found, and how that travels between workers.
use std::sync::Arc;

use half::f16;
use pgedge_similarity::{Ahead, Hit, Metric, Queries, RowId, Scanner, Simd, TopK};
use pgrx::pg_sys;
use pgrx::prelude::*;

use super::arrays::Flat;
use super::checked;
use super::id::{Id, IdType};
use super::toast::Waiting;
use crate::errors::fail;
use crate::pgvector::{Element, with_embedding};

/// An element type of rows.
pub trait RowElement: Element {
    /// Gives a row to a scanner.
    fn push(scan: &mut Scanner<Id, TopK<Id>>, id: Id, row: &[Self]) -> Result<(), pgedge_similarity::Error>
    where
        Self: Sized;
}

impl RowElement for f32 {
    fn push(scan: &mut Scanner<Id, TopK<Id>>, id: Id, row: &[f32]) -> Result<(), pgedge_similarity::Error> {
        scan.push(id, row)
    }
}

impl RowElement for f16 {
    fn push(scan: &mut Scanner<Id, TopK<Id>>, id: Id, row: &[f16]) -> Result<(), pgedge_similarity::Error> {
        scan.push_f16(id, row)
    }
}

/// The queries of a batch, packed, and their places in the array they came in.
pub struct Batch {
    /// The queries that are not NULL.
    pub queries: Arc<Queries>,
    /// Their places, from 0.
    pub places: Vec<u32>,
    /// Tells batches apart, when states of different workers are combined.
    pub fingerprint: u64,
}

impl Batch {
    /// Packs the vectors of an array.
    pub fn new(metric: Metric, flat: Flat) -> Batch {
        let fingerprint = fingerprint(metric, &flat);
        pgrx::check_for_interrupts!();
        // An array without vectors finds nothing, in any number of dimensions.
        let queries =
            checked(Queries::with_interrupt(Simd::detect(), metric, flat.dim.max(1), &flat.values, interrupt));
        Batch { queries: Arc::new(queries), places: flat.places, fingerprint }
    }
}

impl Batch {
    /// Whether these are the queries of the batch, bit for bit.
    pub fn is(&self, metric: Metric, flat: &Flat) -> bool {
        let queries = &self.queries;
        (queries.metric(), queries.len(), &self.places) == (metric, flat.count(), &flat.places)
            && (queries.is_empty() || queries.dim() == flat.dim)
            && flat
                .values
                .chunks_exact(flat.dim.max(1))
                .enumerate()
                .all(|(i, v)| v.iter().zip(queries.query(i)).all(|(a, b)| a.to_bits() == b.to_bits()))
    }
}

/// FNV-1a, a word at a time.
fn fingerprint(metric: Metric, flat: &Flat) -> u64 {
    let words = [metric as u32, flat.dim as u32, flat.len as u32];
    let values = flat.values.iter().map(|v| v.to_bits());
    words
        .into_iter()
        .chain(flat.places.iter().copied())
        .chain(values)
        .fold(0xcbf2_9ce4_8422_2325, |hash, word| (hash ^ u64::from(word)).wrapping_mul(0x0100_0000_01b3))
}

enum Work {
    Scanning(Box<Scanner<Id, TopK<Id>>>),
    Found(TopK<Id>),
    /// Only after an error.
    Lost,
}

/// What has been found for one group of rows.
pub struct State {
    /// The type of the ids.
    pub ids: IdType,
    /// k, as asked for.
    pub k: i32,
    /// The limit of the similarity, as asked for.
    pub limit: Option<f32>,
    /// The batch's.
    pub fingerprint: u64,
    /// Place of each query in its array, from 0.
    pub places: Vec<u32>,
    /// Rows whose embeddings are out of line.
    pub waiting: Waiting<Id>,
    /// Scores the rows that wait; it knows the type of their elements.
    fetch: fn(&mut State),
    work: Work,
    /// Bytes that the rows found may take.
    allowed: usize,
    /// Rows until the bytes are looked at again; never while even full heaps stay below what is allowed.
    look: u32,
    bounded: bool,
    /// Whether queries for which there is no room may be given up, the last first, because the caller asks for them again.
    may_give_up: bool,
    /// Rows seen, and the bytes of their ids outside of [`Id`].
    rows: usize,
    id_bytes: usize,
}

const LOOK_ROWS: u32 = 32;
const FORMAT: u32 = 0x7067_7402;
/// A state that travels to its reader as one value stays far below 1 GB.
const MOST_BYTES: usize = 512 << 20;

impl State {
    /// An empty state. `may_give_up`: see [`State::complete`].
    pub fn new<T: RowElement>(batch: &Batch, ids: IdType, k: i32, limit: Option<f32>, may_give_up: bool) -> State {
        let (queries, rows) = (&batch.queries, super::positive_k(k));
        let found = checked(TopK::new(queries.metric(), queries.len(), rows, super::limit_of(limit)));
        pgrx::check_for_interrupts!();
        let scan = checked(Scanner::new(Arc::clone(queries), found));
        let allowed = allowed_bytes(may_give_up);
        let most = TopK::<Id>::bytes_for(queries.len(), rows);
        State {
            ids,
            k,
            limit,
            fingerprint: batch.fingerprint,
            places: batch.places.clone(),
            waiting: Waiting::new(),
            fetch: fetch::<T>,
            work: Work::Scanning(Box::new(scan)),
            allowed,
            look: LOOK_ROWS,
            bounded: ids.usual_heap_bytes() == 0 && most <= allowed,
            may_give_up,
            rows: 0,
            id_bytes: 0,
        }
    }

    /// A row as it lies in its table, or as an expression gave it. One whose embedding is out of line waits. `note` gets the elements of an embedding that
    /// does not, before they are read.
    ///
    /// # Safety
    /// `id` must be a value of the ids' type, and `embedding` one of pgvector's with such elements, of a row that the statement's snapshot sees.
    #[inline]
    pub unsafe fn row<T: RowElement>(
        &mut self,
        id: pg_sys::Datum,
        embedding: pg_sys::Datum,
        note: impl FnOnce(&mut State, Option<&[T]>),
    ) {
        // SAFETY: the caller's promise.
        unsafe {
            let id = self.ids.read(id);
            if let Err(id) = self.waiting.take(id, embedding) {
                with_embedding(embedding, |row| {
                    note(self, Some(row));
                    self.push(id, row);
                });
            } else {
                note(self, None);
                if self.waiting.is_full() {
                    self.fetch();
                }
            }
        }
    }

    /// A row.
    #[inline]
    pub fn push<T: RowElement>(&mut self, id: Id, row: &[T]) {
        self.ids.enter();
        if !self.bounded {
            self.rows += 1;
            self.id_bytes += id.heap_bytes();
        }
        let Work::Scanning(scan) = &mut self.work else { self.lost() };
        checked(T::push(scan, id, row));
        if !self.bounded {
            self.look -= 1;
            if self.look == 0 {
                self.look = LOOK_ROWS;
                let bytes = scan.sink_mut().bytes();
                self.make_room(bytes);
            }
        }
    }

    /// Where tiles are told what memory to ask for, and their rows.
    #[inline]
    pub fn ahead(&mut self) -> Option<(&mut Ahead, usize)> {
        match &mut self.work {
            Work::Scanning(scan) => {
                let rows = scan.tile_rows();
                Some((scan.ahead_mut(), rows))
            }
            _ => None,
        }
    }

    /// The number of queries, from the first, for which the result is complete: all, but for a state that may give queries up; at least one.
    pub fn complete(&self) -> usize {
        self.places.len()
    }

    /// Gives up queries for which there is no room, so that at least one is left; or refuses to go on (54000).
    fn make_room(&mut self, bytes: usize) {
        if !self.may_give_up {
            return self.check_memory(bytes);
        }
        let count = self.places.len();
        // As the ids seen so far are, this is what all will take; whatever they are, what is there must fit.
        let each = TopK::<Id>::bytes_for(1, self.k as usize)
            .saturating_add((self.k as usize).saturating_mul(self.id_bytes / self.rows.max(1)));
        let mut fits = self.allowed / each;
        if bytes > self.allowed {
            fits = fits.min(count / 2);
        }
        self.keep_first(fits.max(1));
    }

    /// Before and after the last tile is scored.
    fn look_again(&mut self) {
        if self.may_give_up && !self.bounded {
            let bytes = match &mut self.work {
                Work::Scanning(scan) => scan.sink_mut().bytes(),
                Work::Found(found) => found.bytes(),
                Work::Lost => 0,
            };
            self.make_room(bytes);
        }
    }

    fn keep_first(&mut self, queries: usize) {
        if queries >= self.places.len() {
            return;
        }
        self.places.truncate(queries);
        match &mut self.work {
            Work::Scanning(scan) => {
                scan.sink_mut().keep_first(queries);
                scan.keep_first(queries);
            }
            Work::Found(found) => found.keep_first(queries),
            Work::Lost => {}
        }
    }

    /// Fetches and scores the rows that wait.
    pub fn fetch(&mut self) {
        (self.fetch)(self);
    }

    fn check_memory(&self, bytes: usize) {
        if bytes > self.allowed {
            fail(
                PgSqlErrorCode::ERRCODE_PROGRAM_LIMIT_EXCEEDED,
                format!(
                    "the rows found for {} queries with k = {} take more than {} kB",
                    self.places.len(),
                    self.k,
                    self.allowed / 1024
                ),
                "Raise work_mem, lower k, or use pgedge.batch_search, which takes the queries in blocks that fit.",
            );
        }
    }

    fn lost(&self) -> ! {
        fail(
            PgSqlErrorCode::ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE,
            "the search has already given its result",
            "Call pgedge.top_k, not its parts.",
        )
    }

    /// What was found, every row pushed so far included.
    pub fn found(&mut self) -> &mut TopK<Id> {
        if !self.waiting.is_empty() {
            self.fetch();
        }
        self.ids.enter();
        self.look_again();
        if let Work::Scanning(_) = self.work
            && let Work::Scanning(scan) = core::mem::replace(&mut self.work, Work::Lost)
        {
            self.work = Work::Found(checked(scan.finish()));
            self.look_again();
        }
        if let Work::Lost = self.work {
            self.lost();
        }
        let Work::Found(found) = &mut self.work else { unreachable!("just set") };
        found
    }

    /// Takes over what another worker found.
    pub fn merge(&mut self, other: &mut State) {
        if self.fingerprint != other.fingerprint || self.k != other.k || self.ids.oid != other.ids.oid {
            checked::<()>(Err(pgedge_similarity::Error::Mismatch("they were asked different things")));
        }
        self.found();
        other.found();
        let complete = self.complete().min(other.complete());
        self.keep_first(complete);
        other.keep_first(complete);
        checked(self.found().merge_with(other.found(), interrupt));
        let bytes = self.found().bytes();
        if !self.may_give_up {
            self.check_memory(bytes);
        } else if bytes > self.allowed {
            self.keep_first((complete / 2).max(1));
        }
    }

    /// Leaves `self` empty-handed and gives its contents to a longer life.
    pub fn take(&mut self) -> State {
        self.found();
        State {
            work: core::mem::replace(&mut self.work, Work::Lost),
            places: core::mem::take(&mut self.places),
            waiting: Waiting::new(),
            ..*self
        }
    }

    /// The state in bytes, for another process of this server.
    pub fn serialise(&mut self) -> Vec<u8> {
        let mut out = Vec::new();
        // Gives up what it must before the places are written.
        self.found();
        for word in [
            FORMAT,
            u32::from(self.may_give_up),
            self.ids.oid.to_u32(),
            self.ids.collation.to_u32(),
            self.k as u32,
            self.places.len() as u32,
        ] {
            word.encode(&mut out);
        }
        self.fingerprint.encode(&mut out);
        let places = core::mem::take(&mut self.places);
        places.iter().for_each(|p| p.encode(&mut out));
        self.places = places;
        checked(self.found().serialise_with(&mut out, interrupt));
        out
    }

    /// What [`State::serialise`] wrote. Anything else is an error.
    pub fn deserialise(bytes: &[u8]) -> State {
        Self::decode(bytes).unwrap_or_else(|| {
            fail(
                PgSqlErrorCode::ERRCODE_INVALID_BINARY_REPRESENTATION,
                "not a search state",
                "Call pgedge.top_k, not its parts.",
            )
        })
    }

    fn decode(bytes: &[u8]) -> Option<State> {
        let input = &mut &bytes[..];
        let mut word = || u32::decode(input);
        (word()? == FORMAT).then_some(())?;
        let may_give_up = word()? != 0;
        let (oid, collation, k, count) = (word()?, word()?, word()? as i32, word()? as usize);
        let fingerprint = u64::decode(input)?;
        (count <= input.len() / 4).then_some(())?;
        let places = (0..count).map(|_| u32::decode(input)).collect::<Option<Vec<_>>>()?;
        let ids = IdType::new(pg_sys::Oid::from(oid), pg_sys::Oid::from(collation));
        ids.enter();
        let found = checked(TopK::deserialise_with(input, interrupt));
        (found.queries() == count).then_some(())?;
        Some(State {
            ids,
            k,
            limit: None,
            fingerprint,
            places,
            waiting: Waiting::new(),
            fetch: |_| {},
            work: Work::Found(found),
            allowed: allowed_bytes(may_give_up),
            look: LOOK_ROWS,
            bounded: false,
            may_give_up,
            rows: 0,
            id_bytes: 0,
        })
    }

    /// All that was found, by query: its place from 0, and its rows, best first. Leaves nothing behind.
    pub fn drain(&mut self, mut take: impl FnMut(u32, Vec<Hit<Id>>)) {
        let places = core::mem::take(&mut self.places);
        for (q, place) in places.into_iter().enumerate() {
            self.ids.enter();
            let hits = self.found().take(q);
            take(place, hits);
            pgrx::check_for_interrupts!();
        }
    }
}

/// Lets a cancel through.
pub fn interrupt() -> Result<(), pgedge_similarity::Error> {
    pgrx::check_for_interrupts!();
    Ok(())
}

fn fetch<T: RowElement>(state: &mut State) {
    let mut waiting = core::mem::replace(&mut state.waiting, Waiting::new());
    waiting.fetch(|id, row: &[T]| state.push(id, row));
    state.waiting = waiting;
}

/// What an aggregate may keep: work_mem times hash_mem_multiplier, as for a hash table; a megabyte at least, so that k = 10,000 always works.
fn allowed_bytes(travels: bool) -> usize {
    // SAFETY: settings of this backend.
    let bytes = unsafe { pg_sys::get_hash_memory_limit() }.max(1 << 20);
    if travels { bytes.min(MOST_BYTES) } else { bytes }
}
