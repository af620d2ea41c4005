//! The batch engine: rows streamed past packed queries.

use std::sync::Arc;

use half::f16;

use crate::Error;
use crate::ahead::Ahead;
use crate::bound::{Margin, QueryTerms};
use crate::buffer::Aligned;
use crate::error::{filled, reserve};
use crate::id::RowId;
use crate::kernels::{MAX_MR, Quantised, Test, TileF32, TileI8};
use crate::queries::Queries;

/// Takes the pairs that the fast pass could not drop, with their exact scores.
pub trait Sink<I> {
    /// Pairs of query `q` whose key is larger than this are of no use; `u32::MAX` when all are.
    fn limit(&self, q: usize) -> u32;

    /// A scored pair of query `q`; `true` when it was taken.
    fn offer(&mut self, q: usize, key: u32, id: &I) -> Result<bool, Error>;

    /// How many of the `queries`, counted from the first, the row can be of use to. The scan may leave out the others.
    fn useful(&self, _id: &I, queries: usize) -> usize {
        queries
    }
}

/// How pairs are scored at first. The results are the same.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Pass {
    /// One pair at a time in f32, reading the row where it lies: for up to three queries.
    Direct,
    /// Tiles in f32.
    F32,
    /// Tiles in int8, with the error bound of `bound.rs`.
    Int8,
}

/// Up to this many queries a row is cheaper to read in place than to copy into a tile.
const DIRECT_QUERIES: usize = 3;
/// From here on int8 repays the quantising of each row.
const INT8_DIM: usize = 64;
/// Rows of a tile at most, and its bytes: half of a 512 kB second-level cache.
const TILE_ROWS: usize = 96;
const TILE_BYTES: usize = 256 * 1024;
/// The int8 pass gives way to f32 when more than one pair in this many was scored exactly in vain: an exact score costs about sixteen times what
/// int8 saves on a pair. Looked at each [`WASTE_ROWS`]; the first rows do not count, while the thresholds are low.
const WASTE: u64 = 16;
const WASTE_ROWS: u64 = 4096;

fn tile_rows(padded: usize) -> usize {
    (TILE_BYTES / (padded * 4)).clamp(MAX_MR, TILE_ROWS)
}

/// About what a scanner itself holds: a tile in f32 and in bytes.
pub(crate) fn tile_bytes(dim: usize) -> usize {
    let padded = dim.next_multiple_of(crate::kernels::PAD);
    tile_rows(padded).next_multiple_of(MAX_MR) * (padded * 5 + 256) + 1024
}

/// What a scan did, for `EXPLAIN`-like reports and for tests.
#[derive(Clone, Copy, Default, Debug, PartialEq, Eq)]
pub struct Stats {
    /// Rows pushed and scored.
    pub rows: u64,
    /// Rows × queries.
    pub pairs: u64,
    /// Pairs scored exactly.
    pub exact: u64,
    /// Pairs that the sink took.
    pub taken: u64,
}

/// Streams rows past [`Queries`] into a [`Sink`] (see [`TopK`](crate::TopK), [`Range`](crate::Range)).
///
/// Push rows, then [`finish`](Scanner::finish). Holds at most one tile of rows.
pub struct Scanner<I, S> {
    queries: Arc<Queries>,
    sink: S,
    pass: Pass,
    tile: Tile<I>,
    thresholds: Vec<f32>,
    partial: Vec<f32>,
    stats: Stats,
    /// `stats` when the waste of the int8 pass was last looked at.
    looked: Stats,
    /// Queries still searched for, from the first.
    kept: usize,
    ahead: Ahead,
}

/// The rows that wait for their turn.
struct Tile<I> {
    capacity: usize,
    ids: Vec<I>,
    rows: Aligned<f32>,
    bytes: Aligned<u8>,
    /// Squared norms for the scores (NaN: not known yet).
    exact_norms: Vec<f64>,
    scale: Vec<f32>,
    bias: Vec<f32>,
    /// What the int8 pass makes scale and bias of.
    quantised: Vec<Quantised>,
}

impl<I: RowId, S: Sink<I>> Scanner<I, S> {
    /// A scan by the pass that suits the number of queries.
    pub fn new(queries: Arc<Queries>, sink: S) -> Result<Self, Error> {
        let pass = match queries.len() {
            0..=DIRECT_QUERIES => Pass::Direct,
            n if n >= queries.kernels().i8_from && queries.dim() >= INT8_DIM => Pass::Int8,
            _ => Pass::F32,
        };
        let rows = tile_rows(queries.padded());
        Self::with_pass(queries, sink, pass, rows)
    }

    /// A scan by the given pass and tiles of about `rows` rows (tests and benchmarks).
    pub fn with_pass(queries: Arc<Queries>, sink: S, pass: Pass, rows: usize) -> Result<Self, Error> {
        let kernels = queries.kernels();
        let capacity = rows.max(1).next_multiple_of(kernels.mr);
        let padded = queries.padded();
        let direct = pass == Pass::Direct;
        let held = if direct { 0 } else { capacity };
        let mut ids = Vec::new();
        reserve(&mut ids, held)?;
        let tile = Tile {
            capacity,
            ids,
            rows: Aligned::zeroed(if direct { padded } else { held * padded })?,
            bytes: Aligned::zeroed(if pass == Pass::Int8 { held * padded } else { 0 })?,
            exact_norms: filled(f64::NAN, held.max(1))?,
            scale: filled(0.0, held)?,
            bias: filled(0.0, held)?,
            quantised: filled(Quantised::default(), if pass == Pass::Int8 { held } else { 0 })?,
        };
        // Padding queries are never hit: +∞ (and a NaN sum is filtered by their number).
        let thresholds = filled(f32::INFINITY, queries.panels() * kernels.nr)?;
        let partial = filled(0.0, if direct { 0 } else { capacity * kernels.nr })?;
        if pass == Pass::Int8 {
            queries.i8_panels()?;
        } else if pass == Pass::F32 {
            queries.f32_panels()?;
        }
        let mut scanner = Scanner {
            kept: queries.len(),
            queries,
            sink,
            pass,
            tile,
            thresholds,
            partial,
            stats: Stats::default(),
            looked: Stats::default(),
            ahead: Ahead::default(),
        };
        scanner.refresh_thresholds();
        Ok(scanner)
    }

    /// Searches for the first `queries` queries alone from now on. The sink must not want pairs of the others any more.
    pub fn keep_first(&mut self, queries: usize) {
        if queries < self.kept {
            self.kept = queries;
            self.thresholds[queries..].fill(f32::INFINITY);
        }
    }

    /// The queries.
    pub fn queries(&self) -> &Arc<Queries> {
        &self.queries
    }

    /// The pass in use now.
    pub fn pass(&self) -> Pass {
        self.pass
    }

    /// What was done so far; rows of the unfinished tile are not counted.
    pub fn stats(&self) -> Stats {
        self.stats
    }

    /// What the caller will read, to be asked for as tiles are scored.
    #[inline]
    pub fn ahead_mut(&mut self) -> &mut Ahead {
        &mut self.ahead
    }

    /// Rows of a tile; 0 when each is scored where it lies.
    pub fn tile_rows(&self) -> usize {
        if self.pass == Pass::Direct { 0 } else { self.tile.capacity }
    }

    /// The sink, without the rows that still wait in the tile.
    pub fn sink_mut(&mut self) -> &mut S {
        &mut self.sink
    }

    /// Bytes held by the scanner itself, without the queries and the sink.
    pub fn bytes(&self) -> usize {
        let tile = &self.tile;
        let waiting: usize = tile.ids.iter().map(RowId::heap_bytes).sum();
        size_of::<Self>()
            + tile.rows.bytes()
            + tile.bytes.bytes()
            + waiting
            + tile.capacity * (24 + size_of::<Quantised>() + size_of::<I>())
            + (self.thresholds.len() + self.partial.len()) * 4
    }

    /// One row.
    ///
    /// Errors: [`Error::Dimension`], and what the sink gives; the row is then not searched.
    pub fn push(&mut self, id: I, row: &[f32]) -> Result<(), Error> {
        self.check(row.len())?;
        if self.pass == Pass::Direct {
            return self.direct(&id, row, |scanner, q| {
                // SAFETY: a `Simd` exists only for levels of this CPU.
                unsafe { (scanner.queries.kernels().dot_norm)(row, q) }
            });
        }
        let (queries, tile) = (&*self.queries, &mut self.tile);
        let (padded, at) = (queries.padded(), tile.ids.len());
        let place = &mut tile.rows[at * padded..][..padded];
        if self.pass == Pass::Int8 {
            let (kernels, bytes) = (queries.kernels(), &mut tile.bytes[at * padded..][..padded]);
            // SAFETY: a `Simd` exists only for levels of this CPU.
            tile.quantised[at] = unsafe { (kernels.take)(row, place, bytes, kernels.i8_range) };
        } else {
            place[..row.len()].copy_from_slice(row);
            self.measure();
        }
        self.pushed(id)
    }

    /// One row in half precision.
    pub fn push_f16(&mut self, id: I, row: &[f16]) -> Result<(), Error> {
        self.check(row.len())?;
        let widen = self.queries.kernels().widen;
        if self.pass == Pass::Direct {
            let dim = row.len();
            let mut wide = std::mem::replace(&mut self.tile.rows, Aligned::zeroed(0)?);
            // SAFETY: a `Simd` exists only for levels of this CPU.
            unsafe { widen(row, &mut wide[..dim]) };
            let done = self.direct(&id, &wide[..dim], |scanner, q| {
                // SAFETY: as above.
                unsafe { (scanner.queries.kernels().dot_norm_f16)(row, q) }
            });
            self.tile.rows = wide;
            return done;
        }
        let padded = self.queries.padded();
        let at = self.tile.ids.len();
        // SAFETY: as above.
        unsafe { widen(row, &mut self.tile.rows[at * padded..][..row.len()]) };
        self.measure();
        self.pushed(id)
    }

    /// Scores the waiting rows and gives back the sink.
    pub fn finish(mut self) -> Result<S, Error> {
        self.flush()?;
        Ok(self.sink)
    }

    /// Scores the waiting rows, so that the sink has seen every row pushed.
    pub fn flush(&mut self) -> Result<(), Error> {
        let rows = self.tile.ids.len();
        if rows == 0 || self.pass == Pass::Direct {
            return Ok(());
        }
        self.fill_up(rows);
        let done = match self.pass {
            Pass::Int8 => self.flush_i8(rows),
            _ => self.flush_f32(rows),
        };
        self.tile.ids.clear();
        done?;
        self.ahead.share(self.tile.capacity);
        self.stats.rows += rows as u64;
        self.stats.pairs += (rows * self.queries.len()) as u64;
        self.look_at_waste();
        Ok(())
    }

    fn check(&self, found: usize) -> Result<(), Error> {
        let expected = self.queries.dim();
        if found == expected { Ok(()) } else { Err(Error::Dimension { expected, found }) }
    }

    /// What the pass needs to know of the row that was put last into the tile: worked out now, while it is in the first-level cache.
    fn measure(&mut self) {
        let (queries, tile) = (&*self.queries, &mut self.tile);
        let (dim, padded, kernels) = (queries.dim(), queries.padded(), queries.kernels());
        let at = tile.ids.len();
        let row = &tile.rows[at * padded..][..padded];
        if self.pass == Pass::Int8 {
            let bytes = &mut tile.bytes[at * padded..][..padded];
            // SAFETY: a `Simd` exists only for levels of this CPU.
            tile.quantised[at] = unsafe { (kernels.quantise)(row, bytes, kernels.i8_range) };
            return;
        }
        let row = &row[..dim];
        // SAFETY: as above.
        let (_, norm2) = unsafe { (kernels.dot_norm)(row, row) };
        (tile.scale[at], tile.bias[at]) = queries.margin.row(norm2, || row);
    }

    /// The row in the tile is complete.
    #[inline]
    fn pushed(&mut self, id: I) -> Result<(), Error> {
        let tile = &mut self.tile;
        tile.exact_norms[tile.ids.len()] = f64::NAN;
        tile.ids.push(id);
        if tile.ids.len() == tile.capacity { self.flush() } else { Ok(()) }
    }

    /// All queries against one row where it lies. `dot_norm` gives (x·q, x·x).
    fn direct(&mut self, id: &I, row: &[f32], dot_norm: impl Fn(&Self, &[f32]) -> (f32, f32)) -> Result<(), Error> {
        self.tile.exact_norms[0] = f64::NAN;
        for q in 0..self.kept {
            let (dot, norm2) = dot_norm(self, self.queries.query(q));
            let (scale, bias) = self.queries.margin.row(norm2, || row);
            let value = dot * self.queries.direct_factor(q) * scale + bias;
            // As in the tiles: NaN is not less than anything.
            let below = value < self.thresholds[q];
            if !below {
                offer(&self.queries, &mut self.sink, &mut self.stats, q, row, &mut self.tile.exact_norms[0], id)?;
                self.thresholds[q] = self.queries.margin.threshold(self.sink.limit(q), self.queries.terms[q]);
            }
        }
        self.stats.rows += 1;
        self.stats.pairs += self.queries.len() as u64;
        Ok(())
    }

    fn terms(&self) -> (Margin, &[QueryTerms]) {
        match (self.pass, self.queries.i8_panels_if_packed()) {
            (Pass::Int8, Some(panels)) => (panels.margin, &panels.terms),
            _ => (self.queries.margin, &self.queries.terms),
        }
    }

    fn refresh_thresholds(&mut self) {
        for q in 0..self.kept {
            let (margin, terms) = self.terms();
            self.thresholds[q] = margin.threshold(self.sink.limit(q), terms[q]);
        }
    }

    /// The rows that fill up the last register tile get what never passes.
    fn fill_up(&mut self, rows: usize) {
        for r in rows..rows.next_multiple_of(self.queries.kernels().mr) {
            (self.tile.scale[r], self.tile.bias[r]) = (0.0, f32::NEG_INFINITY);
        }
    }

    fn flush_f32(&mut self, rows: usize) -> Result<(), Error> {
        let queries = Arc::clone(&self.queries);
        let (padded, block) = (queries.padded(), queries.block());
        let kernels = queries.kernels();
        let panels = queries.f32_panels()?;
        let mut hits = [0; MAX_MR];
        for panel in 0..self.useful_panels() {
            (queries.interrupt)()?;
            for from in (0..padded).step_by(block) {
                let k = block.min(padded - from);
                for r in (0..rows).step_by(kernels.mr) {
                    let call = TileF32 {
                        rows: self.tile.rows[r * padded + from..].as_ptr(),
                        stride: padded,
                        panel: panels.data[(panel * padded + from) * kernels.nr..].as_ptr(),
                        k,
                        partial: self.partial[r * kernels.nr..].as_mut_ptr(),
                        first: from == 0,
                        last: from + k == padded,
                        test: self.test(panel, r, &mut hits),
                    };
                    // SAFETY: the CPU has the level. The tile holds a multiple of mr rows of `padded` floats, the panel `padded` × nr, the other
                    // arrays mr or nr values from where they point.
                    if unsafe { (kernels.tile_f32)(&call) } {
                        self.take_hits(panel, r, rows, &hits)?;
                    }
                }
            }
        }
        Ok(())
    }

    fn flush_i8(&mut self, rows: usize) -> Result<(), Error> {
        let queries = Arc::clone(&self.queries);
        let padded = queries.padded();
        let kernels = queries.kernels();
        let panels = queries.i8_panels()?;
        let blocks = panels.block_init.len() / (queries.panels() * kernels.nr).max(1);
        // For all rows in one go: roots and divisions of one row would be waited for, those of several overlap.
        let tile = &mut self.tile;
        for (r, row) in tile.rows.chunks_exact(padded).take(rows).enumerate() {
            (tile.scale[r], tile.bias[r]) = panels.margin.row_i8(&tile.quantised[r], &row[..queries.dim()]);
        }
        let mut hits = [0; MAX_MR];
        for panel in 0..self.useful_panels() {
            (queries.interrupt)()?;
            let first = panel * kernels.nr;
            for r in (0..rows).step_by(kernels.mr) {
                let panel_data = panels.data[first * padded..].as_ptr();
                // A line that is in the cache where there is nothing to ask for.
                let (ahead, ahead_step) = match self.ahead.next(padded / kernels.asks_ahead) {
                    (_, _, 0) => (panel_data.cast(), 0),
                    (ahead, step, _) => (ahead, step),
                };
                let call = TileI8 {
                    rows: self.tile.bytes[r * padded..].as_ptr(),
                    stride: padded,
                    panel: panel_data,
                    k: padded,
                    init: panels.init[first..].as_ptr(),
                    block_init: panels.block_init[first * blocks..].as_ptr(),
                    query_scale: panels.scale[first..].as_ptr(),
                    ahead,
                    ahead_step,
                    test: self.test(panel, r, &mut hits),
                };
                // SAFETY: as in `flush_f32`, with bytes.
                if unsafe { (kernels.tile_i8)(&call) } {
                    self.take_hits(panel, r, rows, &hits)?;
                }
            }
        }
        Ok(())
    }

    /// Panels that a row of the tile can be of use to.
    fn useful_panels(&self) -> usize {
        let queries = self.kept;
        let useful = self.tile.ids.iter().map(|id| self.sink.useful(id, queries)).max().unwrap_or(0);
        useful.min(queries).div_ceil(self.queries.kernels().nr)
    }

    fn test(&self, panel: usize, r: usize, hits: &mut [u32; MAX_MR]) -> Test {
        Test {
            scale: self.tile.scale[r..].as_ptr(),
            bias: self.tile.bias[r..].as_ptr(),
            threshold: self.thresholds[panel * self.queries.kernels().nr..].as_ptr(),
            hits: hits.as_mut_ptr(),
        }
    }

    /// Scores the pairs that passed, and tightens the thresholds they move.
    fn take_hits(&mut self, panel: usize, first_row: usize, rows: usize, hits: &[u32; MAX_MR]) -> Result<(), Error> {
        let kernels = self.queries.kernels();
        let (dim, padded) = (self.queries.dim(), self.queries.padded());
        for (r, &mask) in hits.iter().enumerate().take(kernels.mr.min(rows - first_row)) {
            let r = first_row + r;
            let mut mask = mask;
            while mask != 0 {
                let q = panel * kernels.nr + mask.trailing_zeros() as usize;
                mask &= mask - 1;
                if q >= self.kept {
                    break;
                }
                let row = &self.tile.rows[r * padded..][..dim];
                if offer(
                    &self.queries,
                    &mut self.sink,
                    &mut self.stats,
                    q,
                    row,
                    &mut self.tile.exact_norms[r],
                    &self.tile.ids[r],
                )? {
                    let (margin, terms) = self.terms();
                    let threshold = margin.threshold(self.sink.limit(q), terms[q]);
                    self.thresholds[q] = threshold;
                }
            }
        }
        Ok(())
    }

    /// Where rows crowd within int8's error of the thresholds, exact scores cost more than the pass saves: back to f32.
    fn look_at_waste(&mut self) {
        if self.pass != Pass::Int8 || self.stats.rows - self.looked.rows < WASTE_ROWS {
            return;
        }
        let exact = self.stats.exact - self.looked.exact;
        let vain = exact - (self.stats.taken - self.looked.taken);
        // Without memory for the other panels int8 goes on: slower, never wrong.
        if self.looked.rows > 0
            && vain * WASTE > self.stats.pairs - self.looked.pairs
            && self.queries.f32_panels().is_ok()
        {
            self.pass = Pass::F32;
            self.refresh_thresholds();
        }
        self.looked = self.stats;
    }
}

/// Scores one pair exactly and offers it. `norm2` caches the row's squared norm.
fn offer<I, S: Sink<I>>(
    queries: &Queries,
    sink: &mut S,
    stats: &mut Stats,
    q: usize,
    row: &[f32],
    norm2: &mut f64,
    id: &I,
) -> Result<bool, Error> {
    let (simd, metric) = (queries.simd, queries.metric);
    if norm2.is_nan() && metric == crate::Metric::Cosine {
        *norm2 = simd.exact_dot(row, row);
    }
    let score = simd.score_with_norms(metric, queries.query(q), queries.terms[q].norm2, row, *norm2);
    let taken = sink.offer(q, metric.key(score), id)?;
    stats.exact += 1;
    stats.taken += u64::from(taken);
    Ok(taken)
}
