//! Which pairs the fast passes may drop: the proofs.
//!
//! A fast pass computes an approximation of a monotone image of the score and drops the pair only when even the largest error could not bring it
//! to the threshold. All pairs that remain are scored exactly ([`Simd::score`](crate::Simd::score)), so the result does not depend on the pass.
//!
//! # Notation
//! u = 2⁻²⁴, n dimensions, x a row, q a query, |·| Euclidean norms. A kernel computes `v = sum·s(x) + b(x)` and drops the pair when `v < t(q)`.
//!
//! # f32
//! The panel holds p = q/|q| (cosine, inner product) or q (L2), each element rounded once. A sum of products by fused or unfused operations
//! with a longest chain of m additions has |sum − x·p| ≤ γ·|x||p| with γ = (m+1)u/(1−(m+1)u) (Higham, §3.1, with Cauchy–Schwarz).
//! Tiles: m = dimensions of one block + number of blocks; pair kernels: at least sixteen lanes, so m ≤ n/16 + 40.
//! The norm of the row is an f32 sum of squares by a pair kernel or the quantiser: relative error ≤ (n/16 + 40)u before the root.
//! [`Margin::relative`] M = (m + n/8 + 128)·u·1.05 exceeds the sum of: γ, the error of the norm, the rounding of p (u), of s, b, t and of v
//! (a few u each), and the rounding of the scale products in the int8 pass (4u). M < 0.01 for the 16,000 dimensions pgvector allows (blocks are ≤ 512).
//! - cosine: s = 1/|x|, b = 0. Score ≥ τ implies v ≥ τ − M.
//! - inner product: s = 1, b = M|x|. x·q ≥ τ implies x·p ≥ τ/|q|, hence v ≥ τ/|q|.
//! - L2: distance ≤ D iff x·q − |x|²/2 ≥ (|q|² − D²)/2. s = 1, b = −|x|²/2 + M|x|², t = (|q|² − D²)/2 − M|q|², since |x||q| ≤ (|x|² + |q|²)/2.
//!
//! Scores are rounded to f32 before they are compared, so τ is the threshold less one part in 2²³ (and D more).
//! Underflow adds at most n·2⁻¹²⁶ < 2e-34 to a sum of squares and n·2⁻¹⁴⁹ to a sum of products, so at most 1.4e-17 to a norm: the absolute
//! constants below cover it.
//!
//! # int8
//! x̂ = sx·X and p̂ = sp·P with integers X, P; the integer product is exact, so v's sum is x̂·p̂ but for rounding. With p = q/|q|, r = |x − x̂|, e = |p − p̂|:
//! x·p = x̂·p̂ + (x − x̂)·p + x̂·(p − p̂) ≤ x̂·p̂ + r + e|x̂|, and |x̂| ≤ |x| + r. With E the largest e of the queries:
//! - cosine: s = sx/|x|, b = (r/|x|)(1 + E), t = τ − e − M, since (r + e|x̂|)/|x| ≤ r/|x| + e + E·r/|x|.
//! - inner product: s = sx, b = r + E(|x| + r) + M|x|, t = τ/|q|.
//! - L2: P scaled by |q|, s = sx, b = −|x|²/2 + M|x|² + Q(r + E(|x| + r)) with Q the largest |q|, t as in f32.
//!
//! r is an f32 sum of squares of differences rounded once each: a factor 1.001 covers it. e is computed in f64.
//!
//! # Irregular vectors
//! Norms outside [1e-15, 1e15], NaN and infinities would break the bounds by overflow or underflow. Such a row gets b = +∞ and such a query
//! t = −∞: never dropped, always scored exactly. A zero row under cosine is NaN, the worst score: b = −∞, kept only while everything is.

use crate::kernels::Quantised;
use crate::metric::Metric;

const U: f64 = 1.0 / (1u64 << 24) as f64;
/// Covers underflow in squared norms and products, in norms times M, and in norms.
const TINY2: f64 = 1e-33;
const TINY: f64 = 1e-18;
const TINY_RESIDUAL: f64 = 1e-16;
/// Squares of the norms that the bounds admit.
const SMALL2: f32 = 1e-30;
const LARGE2: f32 = 1e30;

/// Scale and bias of a row.
pub(crate) type RowTerms = (f32, f32);

/// The error bound of one search: metric, dimensions and blocking.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Margin {
    metric: Metric,
    relative: f64,
    /// Largest |p − p̂| and |q| of the queries, 0 without int8.
    pub largest_error: f64,
    pub largest_norm: f64,
}

/// What the bounds need to know of a query.
#[derive(Clone, Copy, Debug)]
pub(crate) struct QueryTerms {
    /// |q|² in f64.
    pub norm2: f64,
    /// e = |p − p̂|, 0 in f32.
    pub error: f64,
}

impl QueryTerms {
    pub(crate) fn is_regular(&self, metric: Metric) -> bool {
        let large = f64::from(LARGE2);
        // A zero query is no trouble under L2, where nothing is divided by its norm.
        self.norm2 <= large && (metric == Metric::L2 || self.norm2 >= 1.0 / large)
    }
}

impl Margin {
    pub(crate) fn new(metric: Metric, dim: usize, block: usize, blocks: usize) -> Margin {
        let m = (block + blocks) as f64;
        Margin { metric, relative: (m + dim as f64 / 8.0 + 128.0) * U * 1.05, largest_error: 0.0, largest_norm: 0.0 }
    }

    /// A row that must always, or for cosine of zero never, be kept; `None` for ordinary rows. `norm2` is the f32 sum of squares.
    fn irregular(&self, row: &[f32], norm2: f32) -> Option<RowTerms> {
        let small = self.metric == Metric::Cosine && norm2 < SMALL2;
        if norm2 <= LARGE2 && !small {
            return None;
        }
        let zero = small && row.iter().all(|&v| v == 0.0);
        Some((0.0, if zero { f32::NEG_INFINITY } else { f32::INFINITY }))
    }

    /// Scale and bias of a row for the f32 passes. `row` is asked for only when the norm is out of range.
    pub(crate) fn row<'a>(&self, norm2: f32, row: impl FnOnce() -> &'a [f32]) -> RowTerms {
        if !(SMALL2..=LARGE2).contains(&norm2)
            && let Some(terms) = self.irregular(row(), norm2)
        {
            return terms;
        }
        let n2 = f64::from(norm2);
        match self.metric {
            Metric::Cosine => ((1.0 / n2.sqrt()) as f32, 0.0),
            Metric::InnerProduct => (1.0, (self.relative * n2.sqrt() + TINY) as f32),
            Metric::L2 => (1.0, ((self.relative - 0.5) * n2) as f32),
        }
    }

    /// Scale and bias of a row for the int8 pass.
    #[inline]
    pub(crate) fn row_i8(&self, quantised: &Quantised, row: &[f32]) -> RowTerms {
        let &Quantised { scale, residual2, norm2 } = quantised;
        if let Some(terms) = self.irregular(row, norm2) {
            return terms;
        }
        // Below this the quantiser's own arithmetic would meet subnormal numbers.
        if !(scale == 0.0 || (1e-15..=1e15).contains(&scale)) || !residual2.is_finite() {
            return (0.0, f32::INFINITY);
        }
        let (scale, n2) = (f64::from(scale), f64::from(norm2));
        let norm = n2.sqrt() * (1.0 + self.relative);
        let r = f64::from(residual2).sqrt() * 1.001 + TINY_RESIDUAL;
        let dot_error = r + self.largest_error * (norm + r);
        let (s, b) = match self.metric {
            Metric::Cosine => (scale / n2.sqrt(), r / n2.sqrt() * (1.0 + self.relative) * (1.0 + self.largest_error)),
            Metric::InnerProduct => (scale, dot_error + self.relative * norm + TINY),
            Metric::L2 => (scale, (self.relative - 0.5) * n2 + self.largest_norm * dot_error),
        };
        (s as f32, b as f32)
    }

    /// t(q): no pair whose score would have a key of at most `limit` is below it.
    pub(crate) fn threshold(&self, limit: u32, q: QueryTerms) -> f32 {
        if limit == u32::MAX || !q.is_regular(self.metric) {
            return f32::NEG_INFINITY;
        }
        let score = f64::from(self.metric.score(limit));
        let t = match self.metric {
            Metric::Cosine => score - 2.0 * U - self.relative - q.error,
            Metric::InnerProduct => (score - score.abs() * 2.0 * U - 1e-44) / q.norm2.sqrt(),
            Metric::L2 => {
                let d = score.max(0.0) * (1.0 + 2.0 * U) + 1e-44;
                // A distance below any threshold of −∞ or a negative one cannot be, but keeping too much is always right.
                (q.norm2 - d * d) / 2.0 - self.relative * q.norm2
            }
        };
        // The conversion rounds by at most u; TINY2 covers a result in the subnormal range.
        (t - t.abs() * 4.0 * U - TINY2) as f32
    }
}
