//! Rows of a relation, read in blocks that become the queries of a pass, or streamed past one.
use half::f16;
use pgedge_similarity::RowId;
use pgrx::pg_sys;
use pgrx::prelude::*;

use super::arrays::reserve;
use super::dimensions_differ;
use super::id::{Id, IdType};
use super::relation::Source;
use super::spi::{Cursor, Param, Statement};
use super::toast::Waiting;
use crate::pgvector::{Element, with_embedding};

/// Where a row lies: table and ctid; zeros where rows are told apart by their ids alone.
type Place = (u32, u64);

/// A row of a relation.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Row {
    place: Place,
    /// Its id.
    pub id: Id,
}

impl RowId for Row {
    fn heap_bytes(&self) -> usize {
        self.id.heap_bytes()
    }

    fn encode(&self, out: &mut Vec<u8>) {
        self.place.0.encode(out);
        self.place.1.encode(out);
        self.id.encode(out);
    }

    fn decode(input: &mut &[u8]) -> Option<Self> {
        Some(Row { place: (u32::decode(input)?, u64::decode(input)?), id: Id::decode(input)? })
    }
}

/// A relation to read, with the value of `source` to keep to.
pub struct Reader<'a> {
    /// The relation.
    pub source: &'a Source,
    /// The value of its column `source`.
    pub wanted_source: Option<&'a str>,
    /// Whether to read where each row lies; not in views and foreign tables.
    pub with_places: bool,
}

impl<'a> Reader<'a> {
    /// Reads ids and embeddings, and places where rows have them and they are wanted.
    pub fn new(source: &'a Source, wanted_source: Option<&'a str>, with_places: bool) -> Self {
        Reader { source, wanted_source, with_places: with_places && source.has_ctid }
    }

    /// The rows; those after the place of `after`, where all rows are of one table and SQL can say so.
    fn statement(&self, after: Option<pg_sys::Datum>) -> Statement {
        let source = self.source;
        let mut params: Vec<Param> = Vec::new();
        if self.wanted_source.is_some() {
            params.push((pg_sys::TEXTOID, self.wanted_source.into_datum()));
        }
        let place = if self.with_places { "t.tableoid, t.ctid, " } else { "" };
        let mut text = format!("SELECT {place}t.{}, t.{}{}", source.id, source.embedding, source.scanned_part(1));
        if let Some(after) = after {
            params.push((pg_sys::TIDOID, Some(after)));
            let keyword = if params.len() > 1 { "AND" } else { "WHERE" };
            text += &format!(" {keyword} t.ctid OPERATOR(pg_catalog.>) ${}", params.len());
        }
        Statement::new(&text, &params)
    }

    /// The row and its embedding; `None` without an embedding. A NULL id is an error (22004).
    fn read(&self, ids: &IdType, values: &[pg_sys::Datum], nulls: &[bool]) -> Option<(Row, pg_sys::Datum)> {
        let n = values.len();
        if nulls[n - 1] {
            return None;
        }
        if nulls[n - 2] {
            super::null_id();
        }
        // SAFETY: the columns of `statement`: tableoid, ctid, id, embedding.
        unsafe {
            let place = if self.with_places { (values[0].value() as u32, place_of(values[1])) } else { (0, 0) };
            Some((Row { place, id: ids.read(values[n - 2]) }, values[n - 1]))
        }
    }

    /// Gives every row that has an embedding and comes after `first` to `each`, where it lies.
    pub fn stream_after<T: Element>(&self, first: &Row, mut each: impl FnMut(Row, &[T])) {
        let ids = self.source.id_type;
        let mut tid = tid_of(first.place.1);
        let mut waiting = Waiting::new();
        let after = (self.with_places && self.source.is_one_table).then(|| pg_sys::Datum::from(&raw mut tid));
        self.statement(after).stream(&mut |values, nulls| {
            let Some((row, embedding)) = self.read(&ids, values, nulls) else { return };
            ids.enter();
            if row <= *first {
                return;
            }
            // SAFETY: the column's type was checked, and the statement's snapshot is held.
            unsafe {
                match waiting.take(row, embedding) {
                    Err(row) => with_embedding(embedding, |vector| each(row, vector)),
                    Ok(()) => {
                        waiting.note(embedding);
                        if waiting.is_full() {
                            waiting.fetch(&mut each);
                        }
                    }
                }
            }
        });
        waiting.fetch(&mut each);
    }

    /// Starts to read the rows in blocks.
    pub fn blocks(self) -> Blocks<'a> {
        let cursor = Some(self.statement(None).open());
        Blocks { reader: self, cursor }
    }
}

/// Rows with an embedding, which are of one number of dimensions.
#[derive(Default)]
pub struct Block {
    /// The rows.
    pub rows: Vec<Row>,
    /// Their embeddings, one after the other.
    pub values: Vec<f32>,
    /// Dimensions.
    pub dim: usize,
}

/// A relation being read in blocks.
pub struct Blocks<'a> {
    reader: Reader<'a>,
    cursor: Option<Cursor>,
}

/// Rows read to see how many dimensions they have.
const FIRST: usize = 16;

impl Blocks<'_> {
    /// The next block, of about `rows(dimensions)` rows; `None` at the end.
    pub fn next(&mut self, rows: impl Fn(usize) -> usize) -> Option<Block> {
        let mut block = Block::default();
        let mut wanted = FIRST;
        while block.rows.len() < wanted {
            let more = wanted - block.rows.len();
            let cursor = self.cursor.as_mut()?;
            let (reader, half) = (&self.reader, self.reader.source.half);
            let ids = reader.source.id_type;
            let fetched = cursor.fetch(more, |values, nulls| {
                let Some((row, embedding)) = reader.read(&ids, values, nulls) else { return };
                // SAFETY: the column's type was checked.
                unsafe {
                    if half {
                        with_embedding::<f16, _>(embedding, |vector| block.push(row, vector, more));
                    } else {
                        with_embedding::<f32, _>(embedding, |vector| block.push(row, vector, more));
                    }
                }
            });
            if fetched < more
                && let Some(cursor) = self.cursor.take()
            {
                cursor.close();
                break;
            }
            if !block.rows.is_empty() {
                wanted = rows(block.dim).max(FIRST);
            }
        }
        (!block.rows.is_empty()).then_some(block)
    }
}

impl Block {
    fn push<T: Element + Into<f32>>(&mut self, row: Row, vector: &[T], expected: usize) {
        if self.rows.is_empty() {
            self.dim = vector.len();
        } else if vector.len() != self.dim {
            dimensions_differ(self.dim, vector.len());
        }
        if self.values.capacity() - self.values.len() < vector.len() {
            reserve(&mut self.values, vector.len() * expected);
            reserve(&mut self.rows, expected);
        }
        self.values.extend(vector.iter().map(|&v| v.into()));
        self.rows.push(row);
    }
}

/// # Safety
/// `datum` must be a `tid`.
unsafe fn place_of(datum: pg_sys::Datum) -> u64 {
    // SAFETY: the caller's promise.
    let tid = unsafe { *datum.cast_mut_ptr::<pg_sys::ItemPointerData>() };
    u64::from(tid.ip_blkid.bi_hi) << 32 | u64::from(tid.ip_blkid.bi_lo) << 16 | u64::from(tid.ip_posid)
}

fn tid_of(place: u64) -> pg_sys::ItemPointerData {
    pg_sys::ItemPointerData {
        ip_blkid: pg_sys::BlockIdData { bi_hi: (place >> 32) as u16, bi_lo: (place >> 16) as u16 },
        ip_posid: place as u16,
    }
}
