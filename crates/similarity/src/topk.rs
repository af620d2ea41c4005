//! The k best rows of each query: the state of the aggregate, which can be merged and carried between processes.

use crate::Error;
use crate::error::reserve;
use crate::id::RowId;
use crate::metric::Metric;
use crate::scan::Sink;

/// A row found for a query.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Hit<I> {
    /// The row.
    pub id: I,
    /// Its exact score, as SQL's `real`.
    pub score: f32,
}

/// One candidate; the order is best first: by key, then by id.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Entry<I> {
    key: u32,
    id: I,
}

/// For each query at most `k` rows: the best by (score, id), whatever the order in which they came.
pub struct TopK<I> {
    metric: Metric,
    k: usize,
    /// Keys above this are never taken (`min_similarity`).
    limit: u32,
    /// A binary heap for each query, the worst at the front.
    heaps: Vec<Vec<Entry<I>>>,
    /// Bytes behind the entries, counted as they come and go.
    bytes: usize,
}

/// First bytes of a serialised state; the last is the version.
const MAGIC: [u8; 4] = *b"pgk\x01";

/// Rows between two calls of an interrupt check.
const INTERRUPT_ROWS: usize = 4096;

/// Bytes of a heap, its ids included.
fn held<I: RowId>(heap: &Vec<Entry<I>>) -> usize {
    heap.capacity() * size_of::<Entry<I>>() + heap.iter().map(|e| e.id.heap_bytes()).sum::<usize>()
}

impl<I: RowId> TopK<I> {
    /// An empty state for `queries` queries. `limit` is the worst score to take: at least it (cosine, inner product) or at most (L2);
    /// a NaN score is then never taken. Without a limit NaN counts as the worst score.
    ///
    /// Errors: [`Error::Shape`] for `k` = 0 or a NaN limit, [`Error::OutOfMemory`].
    pub fn new(metric: Metric, queries: usize, k: usize, limit: Option<f32>) -> Result<Self, Error> {
        if k == 0 {
            return Err(Error::Shape("k must be at least 1"));
        }
        if limit.is_some_and(f32::is_nan) {
            return Err(Error::Shape("the limit of the score must not be NaN"));
        }
        let mut heaps = Vec::new();
        reserve(&mut heaps, queries)?;
        heaps.resize_with(queries, Vec::new);
        let bytes = size_of::<Self>() + queries * size_of::<Vec<Entry<I>>>();
        Ok(TopK { metric, k, limit: limit.map_or(u32::MAX, |l| metric.key(l)), heaps, bytes })
    }

    /// The number of queries.
    pub fn queries(&self) -> usize {
        self.heaps.len()
    }

    /// The `k` asked for.
    pub fn k(&self) -> usize {
        self.k
    }

    /// The metric.
    pub fn metric(&self) -> Metric {
        self.metric
    }

    /// Bytes held now.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// The most bytes that a state can come to hold, without what ids own elsewhere.
    pub fn bytes_for(queries: usize, k: usize) -> usize {
        let each = size_of::<Vec<Entry<I>>>() + k.saturating_mul(size_of::<Entry<I>>());
        size_of::<Self>().saturating_add(queries.saturating_mul(each))
    }

    /// Forgets all but the first `queries` queries. Pairs of the others are no longer taken.
    pub fn keep_first(&mut self, queries: usize) {
        while self.heaps.len() > queries.max(1) {
            let heap = self.heaps.pop().expect("longer than that");
            self.bytes -= size_of::<Vec<Entry<I>>>() + held(&heap);
        }
        self.heaps.shrink_to_fit();
    }

    /// Offers a row with a score computed elsewhere (by [`Simd::score`](crate::Simd::score)). `true` when it was taken.
    pub fn offer_score(&mut self, q: usize, score: f32, id: &I) -> Result<bool, Error> {
        self.offer(q, self.metric.key(score), id)
    }

    /// Takes over what `other` found. The result does not depend on how rows were spread over states.
    ///
    /// Errors: [`Error::Mismatch`] when they are not of one search, [`Error::OutOfMemory`].
    pub fn merge(&mut self, other: &TopK<I>) -> Result<(), Error> {
        self.merge_with(other, || Ok(()))
    }

    /// As [`merge`](TopK::merge); `interrupt` is called for each query and at least each 4096 rows, and its error ends the work.
    pub fn merge_with(
        &mut self,
        other: &TopK<I>,
        mut interrupt: impl FnMut() -> Result<(), Error>,
    ) -> Result<(), Error> {
        if (self.metric, self.k, self.limit, self.heaps.len())
            != (other.metric, other.k, other.limit, other.heaps.len())
        {
            return Err(Error::Mismatch("metric, k, limit or number of queries differ"));
        }
        for (q, heap) in other.heaps.iter().enumerate() {
            interrupt()?;
            for some in heap.chunks(INTERRUPT_ROWS) {
                interrupt()?;
                for entry in some {
                    self.offer(q, entry.key, &entry.id)?;
                }
            }
        }
        Ok(())
    }

    /// Takes the rows of query `q`, best first, ties by id, and leaves it empty.
    pub fn take(&mut self, q: usize) -> Vec<Hit<I>> {
        let mut heap = std::mem::take(&mut self.heaps[q]);
        self.bytes -= held(&heap);
        heap.sort_unstable();
        heap.into_iter().map(|e| Hit { id: e.id, score: self.metric.score(e.key) }).collect()
    }

    /// Appends the state to `out`, for another process of the same build.
    pub fn serialise(&self, out: &mut Vec<u8>) -> Result<(), Error> {
        self.serialise_with(out, || Ok(()))
    }

    /// As [`serialise`](TopK::serialise); `interrupt` is called for each query and at least each 4096 rows, and its error ends the work.
    pub fn serialise_with(
        &self,
        out: &mut Vec<u8>,
        mut interrupt: impl FnMut() -> Result<(), Error>,
    ) -> Result<(), Error> {
        let entries: usize = self.heaps.iter().map(Vec::len).sum();
        reserve(out, 32 + self.heaps.len() * 4 + entries * (size_of::<Entry<I>>() + 4) + self.bytes)?;
        out.extend_from_slice(&MAGIC);
        out.push(self.metric.code());
        (self.k as u64).encode(out);
        self.limit.encode(out);
        (self.heaps.len() as u64).encode(out);
        for heap in &self.heaps {
            interrupt()?;
            (heap.len() as u64).encode(out);
            for some in heap.chunks(INTERRUPT_ROWS) {
                interrupt()?;
                for entry in some {
                    entry.key.encode(out);
                    entry.id.encode(out);
                }
            }
        }
        Ok(())
    }

    /// A state that [`serialise`](TopK::serialise) wrote. Errors: [`Error::Corrupt`] for anything else, [`Error::OutOfMemory`].
    pub fn deserialise(bytes: &[u8]) -> Result<Self, Error> {
        Self::deserialise_with(bytes, || Ok(()))
    }

    /// As [`deserialise`](TopK::deserialise); `interrupt` is called for each query and at least each 4096 rows, and its error ends the work.
    pub fn deserialise_with(bytes: &[u8], mut interrupt: impl FnMut() -> Result<(), Error>) -> Result<Self, Error> {
        let input = &mut &bytes[..];
        let cut = Error::Corrupt("it ends too early");
        let (magic, rest) = input.split_first_chunk().ok_or(cut)?;
        if *magic != MAGIC {
            return Err(Error::Corrupt("unknown kind or version"));
        }
        let (&code, rest) = rest.split_first().ok_or(cut)?;
        *input = rest;
        let metric = Metric::from_code(code).ok_or(Error::Corrupt("unknown metric"))?;
        let k = u64::decode(input).ok_or(cut)? as usize;
        let limit = u32::decode(input).ok_or(cut)?;
        let queries = u64::decode(input).ok_or(cut)? as usize;
        // Each query takes eight bytes at least, so this bounds what is allocated below.
        if queries > input.len() / 8 {
            return Err(cut);
        }
        let mut state = TopK::new(metric, queries, k, None)?;
        state.limit = limit;
        for q in 0..queries {
            interrupt()?;
            let len = u64::decode(input).ok_or(cut)?;
            if len > k as u64 {
                return Err(Error::Corrupt("more rows than k"));
            }
            for n in 1..=len {
                if n % INTERRUPT_ROWS as u64 == 0 {
                    interrupt()?;
                }
                let key = u32::decode(input).ok_or(cut)?;
                let id = I::decode(input).ok_or(cut)?;
                state.offer(q, key, &id)?;
            }
        }
        if input.is_empty() { Ok(state) } else { Err(Error::Corrupt("bytes follow it")) }
    }
}

impl<I: RowId> Sink<I> for TopK<I> {
    fn limit(&self, q: usize) -> u32 {
        let heap = &self.heaps[q];
        if heap.len() < self.k { self.limit } else { heap[0].key }
    }

    fn useful(&self, _: &I, queries: usize) -> usize {
        queries.min(self.heaps.len())
    }

    fn offer(&mut self, q: usize, key: u32, id: &I) -> Result<bool, Error> {
        if key > self.limit {
            return Ok(false);
        }
        let heap = &mut self.heaps[q];
        if heap.len() < self.k {
            if heap.len() == heap.capacity() {
                let more = heap.len().max(4).min(self.k - heap.len());
                reserve(heap, more)?;
                self.bytes += more * size_of::<Entry<I>>();
            }
            heap.push(Entry { key, id: id.clone() });
            self.bytes += id.heap_bytes();
            sift_up(heap);
            return Ok(true);
        }
        let worst = &heap[0];
        if (key, id) >= (worst.key, &worst.id) {
            return Ok(false);
        }
        self.bytes = self.bytes + id.heap_bytes() - worst.id.heap_bytes();
        heap[0] = Entry { key, id: id.clone() };
        sift_down(heap);
        Ok(true)
    }
}

/// Restores the heap after a push.
fn sift_up<T: Ord>(heap: &mut [T]) {
    let mut at = heap.len() - 1;
    while at > 0 {
        let parent = (at - 1) / 2;
        if heap[at] <= heap[parent] {
            break;
        }
        heap.swap(at, parent);
        at = parent;
    }
}

/// Restores the heap after its front was replaced.
fn sift_down<T: Ord>(heap: &mut [T]) {
    let mut at = 0;
    loop {
        let mut child = 2 * at + 1;
        if child >= heap.len() {
            return;
        }
        if child + 1 < heap.len() && heap[child + 1] > heap[child] {
            child += 1;
        }
        if heap[at] >= heap[child] {
            return;
        }
        heap.swap(at, child);
        at = child;
    }
}
