//! The engine against a plain scan: the same ids in the same order on every level, pass and tiling.

use std::sync::Arc;

use half::f16;
use pgedge_similarity::{Hit, Level, Metric, Pass, Queries, Scanner, Simd, TopK};

const METRICS: [Metric; 3] = [Metric::Cosine, Metric::L2, Metric::InnerProduct];
const PASSES: [Pass; 3] = [Pass::Direct, Pass::F32, Pass::Int8];

struct Rng(u64);

impl Rng {
    fn unit(&mut self) -> f32 {
        self.0 = self.0.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (self.0 >> 40) as f32 / (1u32 << 24) as f32
    }

    fn below(&mut self, n: usize) -> usize {
        ((self.unit() * n as f32) as usize).min(n - 1)
    }

    fn vector(&mut self, dim: usize) -> Vec<f32> {
        (0..dim).map(|_| self.unit() + self.unit() - 1.0).collect()
    }
}

fn levels() -> Vec<Simd> {
    static SAY: std::sync::Once = std::sync::Once::new();
    SAY.call_once(|| {
        for level in Level::ALL.into_iter().filter(|l| !l.is_available()) {
            println!("skipped: this CPU lacks {}", level.name());
        }
    });
    Simd::available()
}

/// Fewer tilings where the tests most likely run under emulation, twenty times as slow.
const TILES: &[usize] = if cfg!(target_arch = "aarch64") { &[40] } else { &[1, 40, 96] };

/// The score in f64, in a plain loop.
fn reference(metric: Metric, q: &[f32], x: &[f32]) -> f64 {
    let sum = |f: fn(f64, f64) -> f64| q.iter().zip(x).map(|(&a, &b)| f(a.into(), b.into())).sum::<f64>();
    match metric {
        Metric::L2 => sum(|a, b| (a - b) * (a - b)).sqrt(),
        Metric::InnerProduct => sum(|a, b| a * b),
        Metric::Cosine => {
            let norms = sum(|a, _| a * a) * sum(|_, b| b * b);
            if norms == 0.0 { f64::NAN } else { (sum(|a, b| a * b) / norms.sqrt()).clamp(-1.0, 1.0) }
        }
    }
}

/// All scores by `Simd::score` at the scalar level, sorted by (score, id): what every path must give.
fn expected(metric: Metric, q: &[f32], rows: &[(i64, Vec<f32>)], k: usize, limit: Option<f32>) -> Vec<Hit<i64>> {
    let simd = Simd::new(Level::Scalar).unwrap();
    let mut all: Vec<Hit<i64>> =
        rows.iter().map(|(id, x)| Hit { id: *id, score: simd.score(metric, q, x).unwrap() }).collect();
    let better = |a: f32, b: f32| if metric == Metric::L2 { a < b } else { a > b };
    if let Some(limit) = limit {
        all.retain(|h| !h.score.is_nan() && !better(limit, h.score));
    }
    all.sort_by(|a, b| {
        let by_score = match (a.score.is_nan(), b.score.is_nan()) {
            (false, false) => {
                let order = a.score.partial_cmp(&b.score).unwrap();
                if metric == Metric::L2 { order } else { order.reverse() }
            }
            (a, b) => a.cmp(&b),
        };
        by_score.then(a.id.cmp(&b.id))
    });
    all.truncate(k);
    all
}

fn same(a: &[Hit<i64>], b: &[Hit<i64>]) -> bool {
    a.len() == b.len() && a.iter().zip(b).all(|(a, b)| a.id == b.id && a.score.to_bits() == b.score.to_bits())
}

/// One search.
struct Search<'a> {
    dim: usize,
    queries: &'a [f32],
    rows: &'a [(i64, Vec<f32>)],
    k: usize,
    limit: Option<f32>,
}

impl Search<'_> {
    fn run(&self, simd: Simd, metric: Metric, pass: Pass, tile: usize) -> Vec<Vec<Hit<i64>>> {
        let packed = Arc::new(Queries::new(simd, metric, self.dim, self.queries).unwrap());
        let n = packed.len();
        let mut scan =
            Scanner::with_pass(packed, TopK::new(metric, n, self.k, self.limit).unwrap(), pass, tile).unwrap();
        for (id, row) in self.rows {
            scan.push(*id, row).unwrap();
        }
        let mut top = scan.finish().unwrap();
        (0..n).map(|q| top.take(q)).collect()
    }
}

/// Every level, pass and a few tilings against the plain scan.
fn check(what: &str, dim: usize, queries: &[f32], rows: &[(i64, Vec<f32>)], k: usize, limit: Option<f32>) {
    let search = Search { dim, queries, rows, k, limit };
    for metric in METRICS {
        let want: Vec<_> = queries.chunks(dim).map(|q| expected(metric, q, rows, k, limit)).collect();
        for simd in levels() {
            for pass in PASSES {
                for &tile in TILES {
                    let got = search.run(simd, metric, pass, tile);
                    for (q, (got, want)) in got.iter().zip(&want).enumerate() {
                        assert!(
                            same(got, want),
                            "{what} {metric:?} {simd:?} {pass:?} tile {tile} query {q}: {got:?} instead of {want:?}"
                        );
                    }
                }
            }
        }
    }
}

fn numbered(rows: Vec<Vec<f32>>, rng: &mut Rng) -> Vec<(i64, Vec<f32>)> {
    // Ids in no relation to the order of the rows.
    let mut ids: Vec<i64> = (0..rows.len() as i64).collect();
    for i in (1..ids.len()).rev() {
        ids.swap(i, rng.below(i + 1));
    }
    ids.into_iter().zip(rows).collect()
}

#[test]
fn random_vectors_of_many_dimensions() {
    let mut rng = Rng(1);
    for dim in [1, 2, 3, 4, 5, 7, 8, 15, 16, 17, 31, 32, 33, 63, 64, 65, 100, 384, 1000] {
        let rows = (0..150).map(|_| rng.vector(dim)).collect();
        let rows = numbered(rows, &mut rng);
        for count in [1, 5, 33] {
            let queries: Vec<f32> = (0..count).flat_map(|_| rng.vector(dim)).collect();
            check(&format!("dim {dim}"), dim, &queries, &rows, 7, None);
        }
    }
}

#[test]
fn many_queries() {
    let mut rng = Rng(2);
    let rows = (0..700).map(|_| rng.vector(48)).collect();
    let rows = numbered(rows, &mut rng);
    let queries: Vec<f32> = (0..300).flat_map(|_| rng.vector(48)).collect();
    check("300 queries", 48, &queries, &rows, 10, None);
}

/// Integers of few values: nearly everything ties, in f32 exactly.
#[test]
fn ties_and_duplicates() {
    let mut rng = Rng(3);
    for dim in [2, 40] {
        let distinct: Vec<Vec<f32>> = (0..12).map(|_| (0..dim).map(|_| rng.below(3) as f32 - 1.0).collect()).collect();
        let rows = (0..400).map(|_| distinct[rng.below(12)].clone()).collect();
        let rows = numbered(rows, &mut rng);
        let queries: Vec<f32> = distinct.iter().take(9).flatten().copied().collect();
        check("ties", dim, &queries, &rows, 25, None);
        check("ties within a limit", dim, &queries, &rows, 25, Some(0.5));
    }
}

#[test]
fn zero_huge_tiny_and_non_finite_values() {
    let mut rng = Rng(4);
    let dim = 70;
    let mut rows: Vec<Vec<f32>> = (0..60).map(|_| rng.vector(dim)).collect();
    let scales = [0.0, 1e-45, 1e-40, 1e-30, 1e-20, 1e-16, 1e-10, 1e10, 1e16, 1e20, 1e38, f32::MAX];
    for scale in scales {
        rows.push(rng.vector(dim).iter().map(|v| v * scale).collect());
        rows.push(rng.vector(dim).iter().map(|v| v * scale).collect());
    }
    for special in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        let mut row = rng.vector(dim);
        row[rng.below(dim)] = special;
        rows.push(row);
        rows.push(vec![special; dim]);
    }
    let mut one_hot = vec![0.0; dim];
    one_hot[3] = 1e-20;
    rows.push(one_hot);
    let queries: Vec<f32> = rows.iter().rev().step_by(2).take(45).flatten().copied().collect();
    let rows = numbered(rows, &mut rng);
    for k in [3, 80, 500] {
        check("irregular", dim, &queries, &rows, k, None);
    }
    check("irregular within a limit", dim, &queries, &rows, 500, Some(0.1));
}

/// Rows crowded around the queries, nearer to each other than int8 (and often f32) can tell.
#[test]
fn rows_nearer_than_the_first_pass_can_tell() {
    let mut rng = Rng(5);
    for (dim, noise) in [(96, 1e-2), (96, 1e-4), (96, 1e-6), (384, 1e-7)] {
        let centre = rng.vector(dim);
        let rows = (0..500).map(|_| centre.iter().map(|v| v + noise * (rng.unit() - 0.5)).collect()).collect();
        let rows = numbered(rows, &mut rng);
        let queries: Vec<f32> =
            (0..20).flat_map(|_| centre.iter().map(|v| v + noise * (rng.unit() - 0.5)).collect::<Vec<_>>()).collect();
        check("crowd", dim, &queries, &rows, 10, None);
    }
}

/// What is hardest for the quantiser: one large value beside many that round to half a step, and residuals that all point one way.
#[test]
fn adversarial_vectors_for_int8() {
    let mut rng = Rng(6);
    for dim in [64, 384] {
        let mut rows = Vec::new();
        for i in 0..400 {
            let step = [1.0 / 127.0, 1.0 / 90.0][i % 2];
            let aligned = i % 3 == 0;
            let mut row: Vec<f32> = (0..dim)
                .map(|_| {
                    (rng.below(4) as f32 + 0.4999 + 0.0002 * rng.unit())
                        * step
                        * if aligned || rng.unit() < 0.5 { 1.0 } else { -1.0 }
                })
                .collect();
            row[i % dim] = if i % 5 == 0 { -1.0 } else { 1.0 };
            rows.push(row);
        }
        let queries: Vec<f32> = rows.iter().step_by(7).flatten().copied().collect();
        let rows = numbered(rows, &mut rng);
        check("adversarial", dim, &queries, &rows, 10, None);
    }
    // All values at the quantiser's maximum: the 16-bit sums must not be used, or must not overflow.
    let dim = 320;
    let mut rows: Vec<Vec<f32>> =
        (0..200).map(|_| (0..dim).map(|_| if rng.unit() < 0.5 { 1.0 } else { -1.0 }).collect()).collect();
    rows.push(vec![1.0; dim]);
    rows.push(vec![-1.0; dim]);
    let queries: Vec<f32> = rows.iter().rev().take(40).flatten().copied().collect();
    let rows = numbered(rows, &mut rng);
    check("full scale", dim, &queries, &rows, 10, None);
}

#[test]
fn the_largest_dimensions() {
    let mut rng = Rng(7);
    let dim = 16000;
    let rows = (0..40).map(|_| rng.vector(dim)).collect();
    let rows = numbered(rows, &mut rng);
    let queries: Vec<f32> = (0..18).flat_map(|_| rng.vector(dim)).collect();
    check("16000", dim, &queries, &rows, 5, None);
}

#[test]
fn more_asked_than_there_is() {
    let mut rng = Rng(8);
    let rows = (0..5).map(|_| rng.vector(6)).collect();
    let rows = numbered(rows, &mut rng);
    let queries = rng.vector(6);
    check("k > N", 6, &queries, &rows, 1000, None);
    check("no rows", 6, &queries, &[], 10, None);
    check("no queries", 6, &[], &rows, 10, None);
    check("nothing within the limit", 6, &queries, &rows, 10, Some(-1e30));
}

#[test]
fn halves_give_what_their_values_give() {
    let mut rng = Rng(9);
    for dim in [1, 3, 17, 384] {
        let halves: Vec<Vec<f16>> =
            (0..200).map(|_| rng.vector(dim).iter().map(|&v| f16::from_f32(v)).collect()).collect();
        let rows: Vec<(i64, Vec<f32>)> =
            halves.iter().enumerate().map(|(i, r)| (i as i64, r.iter().map(|v| v.to_f32()).collect())).collect();
        let queries: Vec<f32> = (0..20).flat_map(|_| rng.vector(dim)).collect();
        for metric in METRICS {
            for simd in levels() {
                for pass in PASSES {
                    let packed = Arc::new(Queries::new(simd, metric, dim, &queries).unwrap());
                    let mut scan =
                        Scanner::with_pass(packed, TopK::new(metric, 20, 8, None).unwrap(), pass, 24).unwrap();
                    for (id, row) in halves.iter().enumerate() {
                        scan.push_f16(id as i64, row).unwrap();
                    }
                    let mut top = scan.finish().unwrap();
                    for (q, query) in queries.chunks(dim).enumerate() {
                        assert!(
                            same(&top.take(q), &expected(metric, query, &rows, 8, None)),
                            "{metric:?} {simd:?} {pass:?} {dim}"
                        );
                    }
                }
            }
        }
    }
}

#[test]
fn scores_are_within_1e_5_of_f64() {
    let mut rng = Rng(10);
    for dim in (1..70).chain([384, 1536, 16000]) {
        let (a, b) = (rng.vector(dim + 3), rng.vector(dim + 3));
        for offset in 0..3 {
            let (a, b) = (&a[offset..][..dim], &b[2 - offset..][..dim]);
            for metric in METRICS {
                let want = reference(metric, a, b);
                let scalar = Simd::new(Level::Scalar).unwrap().score(metric, a, b).unwrap();
                assert!(
                    (f64::from(scalar) - want).abs() <= 1e-5 * want.abs() + 1e-12,
                    "{metric:?} {dim}: {scalar} {want}"
                );
                for simd in levels() {
                    assert_eq!(
                        simd.score(metric, a, b).unwrap().to_bits(),
                        scalar.to_bits(),
                        "{metric:?} {dim} {simd:?}"
                    );
                }
            }
        }
    }
    for simd in levels() {
        let v = rng.vector(384);
        let opposite: Vec<f32> = v.iter().map(|v| -v * 3.0).collect();
        assert_eq!(simd.score(Metric::Cosine, &v, &v).unwrap(), 1.0);
        assert_eq!(simd.score(Metric::Cosine, &v, &opposite).unwrap(), -1.0);
        assert_eq!(simd.score(Metric::L2, &v, &v).unwrap(), 0.0);
        assert!(simd.score(Metric::Cosine, &v, &[0.0; 384]).unwrap().is_nan());
        assert!(simd.score(Metric::Cosine, &v, &v[1..]).is_err());
    }
}
