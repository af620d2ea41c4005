//! Every pair within a limit: similarity joins and the search for near duplicates.

use crate::Error;
use crate::id::RowId;
use crate::metric::Metric;
use crate::queries::Queries;
use crate::scan::{Scanner, Sink};
use crate::simd::Simd;
use std::sync::Arc;

/// Collects the pairs whose score reaches a limit, in the order in which they are met. Take them out as they come: nothing bounds their number.
pub struct Range<I> {
    limit: u32,
    metric: Metric,
    found: Vec<(u32, I, f32)>,
}

impl<I: RowId> Range<I> {
    /// Pairs that score at least `limit` (cosine, inner product) or at most `limit` (L2). NaN scores are never taken, and with a NaN limit nothing is an error:
    /// [`Error::Shape`].
    pub fn new(metric: Metric, limit: f32) -> Result<Self, Error> {
        if limit.is_nan() {
            return Err(Error::Shape("the limit of the score must not be NaN"));
        }
        Ok(Range { limit: metric.key(limit), metric, found: Vec::new() })
    }

    /// Takes the pairs found since the last call: (query number, row, score).
    pub fn take(&mut self) -> Vec<(u32, I, f32)> {
        std::mem::take(&mut self.found)
    }

    /// Pairs waiting to be taken.
    pub fn len(&self) -> usize {
        self.found.len()
    }

    /// Whether none wait.
    pub fn is_empty(&self) -> bool {
        self.found.is_empty()
    }
}

impl<I: RowId> Sink<I> for Range<I> {
    fn limit(&self, _: usize) -> u32 {
        self.limit
    }

    fn offer(&mut self, q: usize, key: u32, id: &I) -> Result<bool, Error> {
        if key > self.limit {
            return Ok(false);
        }
        self.found
            .try_reserve(1)
            .map_err(|_| Error::OutOfMemory { bytes: self.found.len() * size_of::<(u32, I, f32)>() })?;
        self.found.push((q as u32, id.clone(), self.metric.score(key)));
        Ok(true)
    }
}

/// A [`Sink`] of pairs (i, j), i < j, among rows in memory: drops the mirror images and the row itself.
struct Pairs<F> {
    limit: u32,
    metric: Metric,
    first: u32,
    found: F,
}

impl<F: FnMut(u32, u32, f32) -> Result<(), Error>> Sink<u32> for Pairs<F> {
    fn limit(&self, _: usize) -> u32 {
        self.limit
    }

    fn useful(&self, id: &u32, queries: usize) -> usize {
        queries.min((*id - self.first) as usize)
    }

    fn offer(&mut self, q: usize, key: u32, id: &u32) -> Result<bool, Error> {
        let i = self.first + q as u32;
        let wanted = i < *id && key <= self.limit;
        if wanted {
            (self.found)(i, *id, self.metric.score(key))?;
        }
        Ok(wanted)
    }
}

/// Rows that take the part of the queries at a time.
const PAIR_BLOCK: usize = 2048;

/// All pairs i < j of `rows` (row-major, `dim` values each) whose score reaches `limit`, given to `found(i, j, score)` in an order that depends
/// on nothing but the input: by blocks of i, then by j. An error of `found` ends the search and is returned, as is one of `interrupt`, which is called
/// at least once for each 100 rows read.
///
/// Errors: [`Error::Shape`] for a NaN limit, zero dimensions, parts of vectors or more than 2³² rows; [`Error::OutOfMemory`].
pub fn similar_pairs(
    simd: Simd,
    metric: Metric,
    dim: usize,
    rows: &[f32],
    limit: f32,
    mut interrupt: impl FnMut() -> Result<(), Error>,
    mut found: impl FnMut(u32, u32, f32) -> Result<(), Error>,
) -> Result<(), Error> {
    if dim == 0 || !rows.len().is_multiple_of(dim) || rows.len() / dim > u32::MAX as usize || limit.is_nan() {
        return Err(Error::Shape("the rows must be whole vectors of at least one dimension, and the limit a number"));
    }
    for (block, queries) in rows.chunks(PAIR_BLOCK * dim).enumerate() {
        let first = (block * PAIR_BLOCK) as u32;
        let queries = Arc::new(Queries::new(simd, metric, dim, queries)?);
        let mut scan = Scanner::new(queries, Pairs { limit: metric.key(limit), metric, first, found: &mut found })?;
        for (j, row) in rows.chunks_exact(dim).enumerate().skip(first as usize) {
            if j % 64 == 0 {
                interrupt()?;
            }
            scan.push(j as u32, row)?;
        }
        scan.finish()?;
    }
    Ok(())
}
