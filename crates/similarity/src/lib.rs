//! Exact batch similarity, without PostgreSQL: many queries against many rows, each row read once.
//!
//! ```
//! use std::sync::Arc;
//! use pgedge_similarity::{Metric, Queries, Scanner, Simd, TopK};
//!
//! let simd = Simd::detect();                                     // the best instructions of this CPU, found once
//! let flat = [1.0, 0.0, 0.0, 1.0];                               // two queries of two dimensions
//! let queries = Arc::new(Queries::new(simd, Metric::Cosine, 2, &flat)?);
//! let state = TopK::<i64>::new(Metric::Cosine, queries.len(), 10, None)?;
//! let mut scan = Scanner::new(Arc::clone(&queries), state)?;
//! for (id, row) in [(7, [1.0, 1.0]), (5, [2.0, 2.0]), (3, [0.0, 4.0])] {
//!     scan.push(id, &row)?;                                      // or push_f16 for halfvec
//! }
//! let mut state = scan.finish()?;                                // TopK: merge, serialise, deserialise
//! let hits = state.take(1);                                      // best first, ties by id
//! assert_eq!(hits.iter().map(|h| h.id).collect::<Vec<_>>(), [3, 5, 7]);
//! assert_eq!(hits[0].score, 1.0);
//! # Ok::<(), pgedge_similarity::Error>(())
//! ```
//!
//! # Exactness
//! A fast pass (f32 tiles, int8 tiles, or pair by pair) only decides which pairs cannot matter, by an error bound that is proved in `bound.rs`.
//! Every other pair is scored by [`Simd::score`]: f64 sums in one fixed order, rounded once to f32. Results are ordered by (score, id). So the same ids in the same
//! order come out on every instruction set, for every pass, tile size, order of rows and split among workers.
//! NaN (a zero vector under cosine, as in pgvector) is the worst score; with a limit it is never taken.
//!
//! # Parts
//! - [`Simd`], [`Level`], [`level_name`]: dispatch, and forcing a level.
//! - [`Queries`]: the packed batch. [`Scanner`]: streams rows past it. [`TopK`] and [`Range`]: what becomes of the pairs ([`Sink`]).
//! - [`similarity_matrix`], [`similar_pairs`]: over vectors in memory.
//! - [`queries_for_budget`]: how many queries to take at a time within a memory limit.
//!
//! Nothing here panics on data, aborts on lack of memory for the large buffers ([`Error::OutOfMemory`]), starts threads or does input or output.
//! A call of [`Scanner::push`] takes at most the time of one tile: about 0.1 µs × queries at 384 dimensions.

mod ahead;
mod bound;
mod buffer;
mod error;
mod id;
mod kernels;
mod matrix;
mod metric;
mod queries;
mod range;
mod scan;
mod simd;
mod topk;

#[doc(hidden)]
pub mod bench;

pub use ahead::{Ahead, touch};
pub use error::Error;
pub use id::RowId;
pub use matrix::similarity_matrix;
pub use metric::Metric;
pub use queries::Queries;
pub use range::{Range, similar_pairs};
pub use scan::{Pass, Scanner, Sink, Stats};
pub use simd::{Level, Simd, level_name};
pub use topk::{Hit, TopK};

/// The largest number of queries (at least 1) whose packed form, top-`k` state and tile stay within `budget` bytes.
/// A batch that has more is searched in several blocks.
pub fn queries_for_budget<I: RowId>(simd: Simd, dim: usize, k: usize, budget: usize) -> usize {
    let bytes = |n: usize| {
        Queries::bytes_for(simd, dim, n)
            .saturating_add(TopK::<I>::bytes_for(n, k))
            .saturating_add(scan::tile_bytes(dim))
    };
    let (mut low, mut high) = (1usize, 1 << 24);
    while low < high {
        let middle = low + (high - low).div_ceil(2);
        if bytes(middle) <= budget {
            low = middle;
        } else {
            high = middle - 1;
        }
    }
    low
}
