//! The metrics, the exact score of a pair, and the order of scores.

use crate::Error;
use crate::simd::Simd;

/// How two vectors are compared.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub enum Metric {
    /// Cosine similarity: 1 for the same direction, −1 for the opposite, NaN when either vector is zero (as pgvector). Larger is better.
    Cosine,
    /// Euclidean distance, 0 for equal vectors. Smaller is better.
    L2,
    /// Inner product. Larger is better.
    InnerProduct,
}

impl Metric {
    /// The metric that SQL calls `name`: `cosine`, `l2` or `ip`.
    pub fn from_name(name: &str) -> Option<Metric> {
        [Metric::Cosine, Metric::L2, Metric::InnerProduct].into_iter().find(|m| m.name() == name)
    }

    /// The name in SQL.
    pub fn name(self) -> &'static str {
        match self {
            Metric::Cosine => "cosine",
            Metric::L2 => "l2",
            Metric::InnerProduct => "ip",
        }
    }

    pub(crate) fn code(self) -> u8 {
        self as u8
    }

    pub(crate) fn from_code(code: u8) -> Option<Metric> {
        [Metric::Cosine, Metric::L2, Metric::InnerProduct].into_iter().find(|m| m.code() == code)
    }

    /// The place of a score in the order best first: smaller keys are better, NaN is the worst, +0 and −0 are equal.
    pub(crate) fn key(self, score: f32) -> u32 {
        if score.is_nan() {
            return u32::MAX;
        }
        let bits = (score + 0.0).to_bits();
        let ascending = if bits >> 31 == 1 { !bits } else { bits | 1 << 31 };
        if self == Metric::L2 { ascending } else { !ascending }
    }

    /// The score of a [`Metric::key`].
    pub(crate) fn score(self, key: u32) -> f32 {
        if key == u32::MAX {
            return f32::NAN;
        }
        let ascending = if self == Metric::L2 { key } else { !key };
        f32::from_bits(if ascending >> 31 == 1 { ascending & !(1 << 31) } else { !ascending })
    }
}

impl Simd {
    /// x·y summed in f64 in one fixed order: the same bits on every level. Both must have one length.
    pub(crate) fn exact_dot(self, x: &[f32], y: &[f32]) -> f64 {
        // SAFETY: a `Simd` exists only for levels of this CPU.
        unsafe { (self.kernels().exact_dot)(x, y) }
    }

    /// The score of one pair: f64 arithmetic in one fixed order, rounded once to f32; identical on every level.
    ///
    /// Relative error against an exact sum below 1e-6 unless an inner product or a cosine nearly cancels. Cosine lies in [-1, 1].
    /// NaN in, NaN out (always the same bit pattern); infinities propagate as IEEE 754 says. Empty vectors: 0 (cosine NaN).
    pub fn score(self, metric: Metric, x: &[f32], y: &[f32]) -> Result<f32, Error> {
        if x.len() != y.len() {
            return Err(Error::Dimension { expected: x.len(), found: y.len() });
        }
        let norms = match metric {
            Metric::Cosine => (self.exact_dot(x, x), self.exact_dot(y, y)),
            _ => (0.0, 0.0),
        };
        Ok(self.score_with_norms(metric, x, norms.0, y, norms.1))
    }

    /// [`Simd::score`] of one vector with many, whose own norm is computed once.
    pub fn scores_with(self, metric: Metric, x: &[f32]) -> impl Fn(&[f32]) -> Result<f32, Error> {
        let norm = move |v: &[f32]| if metric == Metric::Cosine { self.exact_dot(v, v) } else { 0.0 };
        let x2 = norm(x);
        move |y| {
            if x.len() != y.len() {
                return Err(Error::Dimension { expected: x.len(), found: y.len() });
            }
            Ok(self.score_with_norms(metric, x, x2, y, norm(y)))
        }
    }

    /// [`Simd::score`] with the squared norms (used by cosine alone) given.
    pub(crate) fn score_with_norms(self, metric: Metric, x: &[f32], x2: f64, y: &[f32], y2: f64) -> f32 {
        let sum = match metric {
            Metric::Cosine | Metric::InnerProduct => self.exact_dot(x, y),
            // SAFETY: a `Simd` exists only for levels of this CPU.
            Metric::L2 => unsafe { (self.kernels().exact_l2)(x, y) },
        };
        metric.of_sum(sum, x2, y2)
    }
}

impl Metric {
    /// The score of a pair, of whose exact sum (of products, for L2 of squared differences) and squared norms it is made.
    pub(crate) fn of_sum(self, sum: f64, x2: f64, y2: f64) -> f32 {
        let score = match self {
            Metric::Cosine => cosine(sum, x2, y2),
            Metric::L2 => sum.sqrt(),
            Metric::InnerProduct => sum,
        } as f32;
        if score.is_nan() { f32::NAN } else { score + 0.0 }
    }
}

/// The squares of f32 norms and their product are far inside the range of f64. `sqrt(a·a)` is `a` exactly, so a vector is 1 to itself.
fn cosine(dot: f64, x2: f64, y2: f64) -> f64 {
    if x2 == 0.0 || y2 == 0.0 {
        return f64::NAN;
    }
    (dot / (x2 * y2).sqrt()).clamp(-1.0, 1.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_order_scores_and_come_back() {
        let scores = [
            f32::INFINITY,
            f32::MAX,
            1.0,
            f32::MIN_POSITIVE,
            1e-45,
            0.0,
            -1e-45,
            -0.5,
            -1.0,
            f32::MIN,
            f32::NEG_INFINITY,
        ];
        for metric in [Metric::Cosine, Metric::InnerProduct, Metric::L2] {
            let keys: Vec<u32> = scores.iter().map(|&s| metric.key(s)).collect();
            let ordered =
                if metric == Metric::L2 { keys.is_sorted_by(|a, b| a > b) } else { keys.is_sorted_by(|a, b| a < b) };
            assert!(ordered, "{metric:?}");
            assert!(keys.iter().all(|&k| k < metric.key(f32::NAN)));
            for (&score, &key) in scores.iter().zip(&keys) {
                assert_eq!(metric.score(key).to_bits(), score.to_bits());
            }
            assert_eq!(metric.key(-0.0), metric.key(0.0));
            assert_eq!(Metric::from_code(metric.code()), Some(metric));
            assert_eq!(Metric::from_name(metric.name()), Some(metric));
        }
    }
}
