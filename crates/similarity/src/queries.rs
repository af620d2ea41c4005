//! The queries of one search, packed for the tile kernels.

use std::sync::OnceLock;

use crate::Error;
use crate::bound::{Margin, QueryTerms};
use crate::buffer::Aligned;
use crate::error::{filled, reserve};
use crate::kernels::scalar::largest_lane;
use crate::kernels::{I8_BLOCK, Kernels, PAD};
use crate::metric::Metric;
use crate::simd::Simd;

/// Dimensions of one pass over a panel: 256 × 16 floats are 16 kB, half of a first-level cache.
const BLOCK: usize = 256;

/// A batch of query vectors and their metric. Immutable, so it can be shared between threads.
pub struct Queries {
    pub(crate) simd: Simd,
    pub(crate) metric: Metric,
    dim: usize,
    count: usize,
    rows: Vec<f32>,
    pub(crate) terms: Vec<QueryTerms>,
    pub(crate) margin: Margin,
    f32_panels: OnceLock<PanelsF32>,
    i8_panels: OnceLock<PanelsI8>,
    pub(crate) interrupt: fn() -> Result<(), Error>,
}

/// Queries packed between two calls of the interrupt check.
const INTERRUPT_QUERIES: usize = 1024;

pub(crate) struct PanelsF32 {
    pub data: Aligned<f32>,
}

pub(crate) struct PanelsI8 {
    pub data: Aligned<i8>,
    pub init: Vec<i32>,
    /// Empty where the level has no 16-bit form.
    pub block_init: Vec<i16>,
    /// sp, and times |q| for L2; 0 for padding.
    pub scale: Vec<f32>,
    /// The terms with the quantisation's errors, and the margin with their maxima.
    pub terms: Vec<QueryTerms>,
    pub margin: Margin,
}

impl Queries {
    /// Takes `flat.len() / dim` queries, one after the other, of `dim` ≥ 1 values. No queries are allowed and find nothing.
    ///
    /// Errors: [`Error::Shape`] when the array is not a whole number of vectors or `dim` is 0, [`Error::OutOfMemory`].
    pub fn new(simd: Simd, metric: Metric, dim: usize, flat: &[f32]) -> Result<Queries, Error> {
        Self::with_interrupt(simd, metric, dim, flat, || Ok(()))
    }

    /// As [`new`](Queries::new); `interrupt` is called as queries are packed and, by a [`Scanner`](crate::Scanner), for each panel of queries in a tile.
    /// Its error ends the work.
    pub fn with_interrupt(
        simd: Simd,
        metric: Metric,
        dim: usize,
        flat: &[f32],
        interrupt: fn() -> Result<(), Error>,
    ) -> Result<Queries, Error> {
        if dim == 0 || !flat.len().is_multiple_of(dim) {
            return Err(Error::Shape("the queries must be whole vectors of at least one dimension"));
        }
        let count = flat.len() / dim;
        let mut rows = Vec::new();
        reserve(&mut rows, flat.len())?;
        rows.extend_from_slice(flat);
        let mut terms = Vec::new();
        reserve(&mut terms, count)?;
        for some in rows.chunks(dim * INTERRUPT_QUERIES) {
            interrupt()?;
            terms.extend(some.chunks_exact(dim).map(|q| QueryTerms { norm2: simd.exact_dot(q, q), error: 0.0 }));
        }
        let padded = dim.next_multiple_of(PAD);
        let margin = Margin::new(metric, dim, block_of(padded), padded.div_ceil(block_of(padded)));
        Ok(Queries {
            simd,
            metric,
            dim,
            count,
            rows,
            terms,
            margin,
            f32_panels: OnceLock::new(),
            i8_panels: OnceLock::new(),
            interrupt,
        })
    }

    /// The number of queries.
    pub fn len(&self) -> usize {
        self.count
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Dimensions of each.
    pub fn dim(&self) -> usize {
        self.dim
    }

    /// The metric.
    pub fn metric(&self) -> Metric {
        self.metric
    }

    /// The instruction set.
    pub fn simd(&self) -> Simd {
        self.simd
    }

    /// Query `i`, as given.
    pub fn query(&self, i: usize) -> &[f32] {
        &self.rows[i * self.dim..][..self.dim]
    }

    /// Bytes held now.
    pub fn bytes(&self) -> usize {
        let f32_bytes = self.f32_panels.get().map_or(0, |p| p.data.bytes());
        let i8_bytes = self.i8_panels.get().map_or(0, |p| {
            p.data.bytes()
                + p.init.len() * 4
                + p.block_init.len() * 2
                + p.scale.len() * 4
                + p.terms.len() * size_of::<QueryTerms>()
        });
        size_of::<Queries>() + self.rows.len() * 4 + self.terms.len() * size_of::<QueryTerms>() + f32_bytes + i8_bytes
    }

    /// The most bytes that `count` queries of `dim` dimensions can come to hold, both kinds of panels included.
    pub fn bytes_for(simd: Simd, dim: usize, count: usize) -> usize {
        let (k, nr) = (dim.next_multiple_of(PAD), simd.kernels().nr);
        let per_query = k * 5 + k.div_ceil(I8_BLOCK) * 4 + 16;
        size_of::<Queries>()
            + count * (dim * 4 + 2 * size_of::<QueryTerms>())
            + count.next_multiple_of(nr) * per_query
            + 256
    }

    pub(crate) fn kernels(&self) -> &'static Kernels {
        self.simd.kernels()
    }

    pub(crate) fn padded(&self) -> usize {
        self.dim.next_multiple_of(PAD)
    }

    /// Dimensions of each pass over a panel.
    pub(crate) fn block(&self) -> usize {
        block_of(self.padded())
    }

    pub(crate) fn panels(&self) -> usize {
        self.count.div_ceil(self.kernels().nr)
    }

    pub(crate) fn f32_panels(&self) -> Result<&PanelsF32, Error> {
        if let Some(panels) = self.f32_panels.get() {
            return Ok(panels);
        }
        let panels = self.pack_f32()?;
        Ok(self.f32_panels.get_or_init(|| panels))
    }

    pub(crate) fn i8_panels(&self) -> Result<&PanelsI8, Error> {
        if let Some(panels) = self.i8_panels.get() {
            return Ok(panels);
        }
        let panels = self.pack_i8()?;
        Ok(self.i8_panels.get_or_init(|| panels))
    }

    pub(crate) fn i8_panels_if_packed(&self) -> Option<&PanelsI8> {
        self.i8_panels.get()
    }

    /// 1/|q| for the metrics whose panels hold q/|q|. Irregular queries are packed as zeros: they keep every row anyway.
    fn pack_factor(&self, i: usize) -> f64 {
        match (self.terms[i].is_regular(self.metric), self.metric) {
            (false, _) => 0.0,
            (true, Metric::L2) => 1.0,
            (true, _) => 1.0 / self.terms[i].norm2.sqrt(),
        }
    }

    /// What multiplies the f32 inner product with the query itself to give what a panel would.
    pub(crate) fn direct_factor(&self, i: usize) -> f32 {
        self.pack_factor(i) as f32
    }

    fn pack_f32(&self) -> Result<PanelsF32, Error> {
        let (k, nr) = (self.padded(), self.kernels().nr);
        let mut data = Aligned::zeroed(self.panels() * k * nr)?;
        for i in 0..self.count {
            if i % INTERRUPT_QUERIES == 0 {
                (self.interrupt)()?;
            }
            let factor = self.pack_factor(i);
            let panel = &mut data[i / nr * k * nr..][..k * nr];
            for (d, &v) in self.query(i).iter().enumerate() {
                panel[d * nr + i % nr] = if factor == 0.0 { 0.0 } else { (f64::from(v) * factor) as f32 };
            }
        }
        Ok(PanelsF32 { data })
    }

    fn pack_i8(&self) -> Result<PanelsI8, Error> {
        let kernels = self.kernels();
        let (k, nr, panels) = (self.padded(), kernels.nr, self.panels());
        let blocks = if kernels.i8_blocks { k.div_ceil(I8_BLOCK) } else { 0 };
        let mut out = PanelsI8 {
            data: Aligned::zeroed(panels * k * nr)?,
            init: filled(0, panels * nr)?,
            block_init: filled(0, panels * blocks * nr * 2)?,
            scale: filled(0.0, panels * nr)?,
            terms: filled(QueryTerms { norm2: 0.0, error: 0.0 }, self.count)?,
            margin: self.margin,
        };
        let mut ints = filled(0i32, k)?;
        for i in 0..self.count {
            if i % INTERRUPT_QUERIES == 0 {
                (self.interrupt)()?;
            }
            let (panel, j) = (i / nr, i % nr);
            let (scale, error) = self.quantise_query(i, &mut ints);
            let norm = self.terms[i].norm2.sqrt();
            out.scale[i] =
                if self.metric == Metric::L2 && scale != 0.0 { (f64::from(scale) * norm) as f32 } else { scale };
            out.terms[i] = QueryTerms { error, ..self.terms[i] };
            if self.terms[i].is_regular(self.metric) {
                out.margin.largest_error = out.margin.largest_error.max(error);
                out.margin.largest_norm = out.margin.largest_norm.max(norm);
            }
            let data = &mut out.data[panel * k * nr..][..k * nr];
            for (four, out) in ints.chunks_exact(4).zip(data.chunks_exact_mut(nr * 4)) {
                out[j * 4..][..4].copy_from_slice(&[four[0] as i8, four[1] as i8, four[2] as i8, four[3] as i8]);
            }
            let offset = kernels.i8_range.offset;
            out.init[i] = -offset * ints.iter().sum::<i32>();
            for (block, ints) in ints.chunks(I8_BLOCK).enumerate().take(blocks) {
                for lane in 0..2 {
                    let in_lane = ints.iter().enumerate().filter(|(d, _)| d / 2 % 2 == lane).map(|(_, &v)| v);
                    // Modulo 2¹⁶, as the kernel's sums.
                    out.block_init[(panel * blocks + block) * nr * 2 + j * 2 + lane] =
                        (-offset * in_lane.sum::<i32>()) as i16;
                }
            }
        }
        Ok(out)
    }

    /// Fills `ints` with P, gives sp and e = |q/|q| − sp·P|.
    fn quantise_query(&self, i: usize, ints: &mut [i32]) -> (f32, f64) {
        ints.fill(0);
        let norm = self.terms[i].norm2.sqrt();
        if !self.terms[i].is_regular(self.metric) || norm < 1e-15 {
            // Zero (or nearly, under L2): p is taken for 0, which is wrong by at most the norm 1 it would have.
            return (0.0, if norm == 0.0 { 0.0 } else { 1.0 });
        }
        let q = self.query(i);
        let range = self.kernels().i8_range;
        let largest = q.iter().fold(0f32, |m, v| m.max(v.abs()));
        let steps = range.steps(largest, largest_lane(q));
        let scale = (f64::from(largest) / norm / f64::from(steps)) as f32;
        let (to_int, to_p, step) = (1.0 / (norm * f64::from(scale)), 1.0 / norm, f64::from(scale));
        let mut error2 = [0f64; 8];
        for (q, out) in q.chunks(8).zip(ints.chunks_mut(8)) {
            for ((&v, out), error2) in q.iter().zip(out).zip(&mut error2) {
                let v = f64::from(v);
                // To the nearest integer: `round` is a call where SSE4.1 is not the baseline.
                let int = ((v * to_int + ROUND) - ROUND).clamp(-f64::from(range.max), f64::from(range.max));
                *out = int as i32;
                *error2 += (v * to_p - step * int).powi(2);
            }
        }
        (scale, error2.iter().sum::<f64>().sqrt() * (1.0 + 1e-9) + 1e-12)
    }
}

/// What makes f64 drop all bits behind the point.
const ROUND: f64 = 1.5 * (1u64 << 52) as f64;

/// At most [`BLOCK`] dimensions (a little more rather than two blocks), in equal parts.
fn block_of(padded: usize) -> usize {
    let blocks = (padded * 4).div_ceil(BLOCK * 5).max(1);
    padded.div_ceil(blocks).next_multiple_of(PAD)
}
