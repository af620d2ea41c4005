//! Each kernel of each level against plain f64 and integer arithmetic, over every tail length and several alignments.
//! The AVX-512 levels are there in any case, with their instructions emulated, and once more where the CPU has them.

use half::f16;

use super::{I8_BLOCK, I8_LANE_NORM, MAX_MR, PAD, Quantised, Range8, Test, TileF32, TileI8};
use crate::simd::{Level, Simd};

fn levels() -> Vec<Simd> {
    for level in Level::ALL {
        if Simd::new(level).is_none() {
            println!("skipped: this CPU lacks {}", level.name());
        }
    }
    Simd::available().into_iter().chain(Simd::emulated()).collect()
}

fn noise(n: usize, seed: u32) -> Vec<f32> {
    let mut state = seed;
    (0..n)
        .map(|_| {
            state = state.wrapping_mul(1664525).wrapping_add(1013904223);
            (state >> 8) as f32 / (1u32 << 23) as f32 - 1.0
        })
        .collect()
}

fn lengths() -> impl Iterator<Item = usize> {
    (0..=70).chain([127, 128, 129, 384, 1000, 1536, 15999, 16000])
}

fn sum(x: &[f32], y: &[f32], f: fn(f64, f64) -> f64) -> f64 {
    x.iter().zip(y).map(|(&a, &b)| f(a.into(), b.into())).sum()
}

/// |x||y|, what the errors of inner products are measured by.
fn size(x: &[f32], y: &[f32]) -> f64 {
    sum(x, y, |a, _| a * a).sqrt() * sum(x, y, |_, b| b * b).sqrt()
}

#[test]
fn pair_kernels() {
    let (a, b) = (noise(16004, 1), noise(16004, 2));
    let halves: Vec<f16> = a.iter().map(|&v| f16::from_f32(v)).collect();
    for simd in levels() {
        let kernels = simd.kernels();
        for n in lengths() {
            for offset in 0..4 {
                let (x, y, h) = (&a[offset..][..n], &b[3 - offset..][..n], &halves[offset..][..n]);
                let wide: Vec<f32> = h.iter().map(|v| v.to_f32()).collect();
                // SAFETY: `levels` gives levels of this CPU.
                let ((dot, norm), (dot16, norm16)) =
                    unsafe { ((kernels.dot_norm)(x, y), (kernels.dot_norm_f16)(h, y)) };
                let near = |got: f32, want: f64, size: f64| {
                    (f64::from(got) - want).abs() <= 1e-5f64.min((n as f64 / 16.0 + 40.0) / (1 << 24) as f64) * size
                };
                assert!(near(dot, sum(x, y, |a, b| a * b), size(x, y)), "{simd:?} dot {n}");
                assert!(near(norm, sum(x, x, |a, b| a * b), size(x, x)), "{simd:?} norm {n}");
                assert!(near(dot16, sum(&wide, y, |a, b| a * b), size(&wide, y)), "{simd:?} f16 dot {n}");
                assert!(near(norm16, sum(&wide, &wide, |a, b| a * b), size(&wide, &wide)), "{simd:?} f16 norm {n}");
                let mut widened = vec![0.0; n];
                // SAFETY: as above.
                unsafe { (kernels.widen)(h, &mut widened) };
                assert_eq!(widened, wide, "{simd:?} widen {n}");
            }
        }
    }
}

#[test]
fn exact_kernels_are_exact_and_the_same_everywhere() {
    let (a, b) = (noise(16004, 3), noise(16004, 4));
    let scalar = Simd::new(Level::Scalar).unwrap().kernels();
    for simd in levels() {
        let kernels = simd.kernels();
        for n in lengths() {
            for offset in 0..4 {
                let (x, y) = (&a[offset..][..n], &b[3 - offset..][..n]);
                // SAFETY: `levels` gives levels of this CPU.
                let ((dot, l2), (want_dot, want_l2)) = unsafe {
                    (
                        ((kernels.exact_dot)(x, y), (kernels.exact_l2)(x, y)),
                        ((scalar.exact_dot)(x, y), (scalar.exact_l2)(x, y)),
                    )
                };
                assert_eq!((dot.to_bits(), l2.to_bits()), (want_dot.to_bits(), want_l2.to_bits()), "{simd:?} {n}");
                assert!((dot - sum(x, y, |a, b| a * b)).abs() <= 1e-13 * size(x, y));
                let want = sum(x, y, |a, b| (a - b) * (a - b));
                assert!((l2 - want).abs() <= 1e-13 * want);
            }
        }
        for special in [f32::NAN, -f32::NAN, f32::INFINITY, f32::NEG_INFINITY, f32::MAX, 1e-45] {
            for at in [0, 15, 16, 20] {
                let mut x = a[..21].to_vec();
                x[at] = special;
                for y in [&b[..21], &[0.0; 21], &x.clone()] {
                    // SAFETY: as above.
                    unsafe {
                        assert_eq!((kernels.exact_dot)(&x, y).to_bits(), (scalar.exact_dot)(&x, y).to_bits());
                        assert_eq!((kernels.exact_l2)(&x, y).to_bits(), (scalar.exact_l2)(&x, y).to_bits());
                    }
                }
            }
        }
    }
}

/// Thresholds on either side of the true value of each pair: the kernel must tell which.
#[test]
fn f32_tiles() {
    for simd in levels() {
        let kernels = simd.kernels();
        let (mr, nr) = (kernels.mr, kernels.nr);
        for k in [0, 4, 8, 28, 32, 64, 384, 1000] {
            for offset in 0..3 {
                let stride = k + 5;
                let (rows, panel) = (noise(mr * stride + 3, 5), noise(k * nr + 3, 6));
                let (rows, panel) = (&rows[offset..], &panel[offset..]);
                let (scale, bias) = (noise(mr, 7), noise(mr, 8));
                let value = |r: usize, j: usize| {
                    let dot: f64 = (0..k).map(|d| f64::from(rows[r * stride + d]) * f64::from(panel[d * nr + j])).sum();
                    dot * f64::from(scale[r]) + f64::from(bias[r])
                };
                for r in 0..mr {
                    for split in [0, k / 8 * 4] {
                        // Query j's threshold lies above row r's value for odd j, below for even j.
                        let threshold: Vec<f32> =
                            (0..nr).map(|j| value(r, j) as f32 + if j % 2 == 1 { 1e-3 } else { -1e-3 }).collect();
                        let mut partial = vec![0.0; mr * nr];
                        let mut hits = [u32::MAX; MAX_MR];
                        let mut call = |from: usize, k: usize, first: bool, last: bool| {
                            let test = Test {
                                scale: scale.as_ptr(),
                                bias: bias.as_ptr(),
                                threshold: threshold.as_ptr(),
                                hits: hits.as_mut_ptr(),
                            };
                            let call = TileF32 {
                                rows: rows[from..].as_ptr(),
                                stride,
                                panel: panel[from * nr..].as_ptr(),
                                k,
                                partial: partial.as_mut_ptr(),
                                first,
                                last,
                                test,
                            };
                            // SAFETY: the arrays are as large as `TileF32` says, and the CPU has the level.
                            unsafe { (kernels.tile_f32)(&call) }
                        };
                        let any = if split == 0 {
                            call(0, k, true, true)
                        } else {
                            assert!(!call(0, split, true, false));
                            call(split, k - split, false, true)
                        };
                        assert!(any);
                        for (other, mask) in hits.iter().enumerate().take(mr) {
                            for (j, &threshold) in threshold.iter().enumerate() {
                                let above = value(other, j) - f64::from(threshold);
                                if above.abs() > 1e-4 {
                                    assert_eq!(mask >> j & 1 == 1, above > 0.0, "{simd:?} k {k} row {other} query {j}");
                                }
                            }
                        }
                    }
                }
            }
        }
    }
}

#[test]
fn tiles_keep_nan_and_report_nothing_when_nothing_passes() {
    for simd in levels() {
        let kernels = simd.kernels();
        let (mr, nr) = (kernels.mr, kernels.nr);
        let (mut rows, panel) = (noise(mr * 32, 1), noise(32 * nr, 2));
        let (scale, bias, threshold) = (vec![1.0; mr], vec![0.0; mr], vec![1e9; nr]);
        for nan in [false, true] {
            if nan {
                rows[(mr - 1) * 32 + 17] = f32::NAN;
            }
            let mut hits = [7; MAX_MR];
            let test = Test {
                scale: scale.as_ptr(),
                bias: bias.as_ptr(),
                threshold: threshold.as_ptr(),
                hits: hits.as_mut_ptr(),
            };
            let (rows, panel) = (rows.as_ptr(), panel.as_ptr());
            let call = TileF32 {
                rows,
                stride: 32,
                panel,
                k: 32,
                partial: std::ptr::null_mut(),
                first: true,
                last: true,
                test,
            };
            // SAFETY: as above; `partial` is not used in a single pass.
            assert_eq!(unsafe { (kernels.tile_f32)(&call) }, nan);
            if nan {
                assert_eq!(hits[mr - 1], u32::MAX >> (32 - nr));
                assert!(hits[..mr - 1].iter().all(|&m| m == 0));
            }
        }
    }
}

/// The int8 products are integers and must be right to the last unit, for the largest values that the quantiser gives as well.
#[test]
fn int8_tiles() {
    for simd in levels() {
        let kernels = simd.kernels();
        let (mr, nr, range) = (kernels.mr, kernels.nr, kernels.i8_range);
        // What all values of a vector can be, and what one of a lane of a block can be.
        let even = ((range.lane_norm / (I8_BLOCK as f32 / 2.0).sqrt()) as i32).min(range.max);
        for k in [PAD, 2 * PAD, 3 * PAD, 4 * PAD, 5 * PAD, 12 * PAD, 500 * PAD] {
            for full in [false, true] {
                let spread = |v: f32| if full { even * if v < 0.0 { -1 } else { 1 } } else { (v * 20.0) as i32 };
                let mut x: Vec<i32> = noise(mr * k, 9).into_iter().map(spread).collect();
                let mut q: Vec<i32> = noise(k * nr, 10).into_iter().map(spread).collect();
                if full {
                    // The largest sums of either sign, evenly spread and of few large values.
                    x[..k].fill(even);
                    q[..k].fill(even);
                    q[k..2 * k].fill(-even);
                    let peaks = ((range.lane_norm / range.max as f32).powi(2) as usize).clamp(1, 8);
                    let (up, down) = q[2 * k..].split_at_mut(k);
                    for (vector, sign) in [(&mut x[k..2 * k], 1), (up, 1), (&mut down[..k], -1)] {
                        for block in vector.chunks_mut(I8_BLOCK) {
                            block.fill(0);
                            for d in 0..peaks {
                                block[d / 2 * 4 + d % 2] = sign * range.max;
                            }
                        }
                    }
                }
                for v in x.chunks(k).chain(q.chunks(k)) {
                    assert!(
                        lane2(v) as f32 <= range.lane_norm.powi(2),
                        "the test keeps to what the quantiser promises"
                    );
                }
                check_int8(simd, k, &x, &q);
            }
        }
    }
}

/// The largest sum of squares over the dimensions of a block that share a 16-bit lane.
fn lane2(v: &[i32]) -> i32 {
    let lane = |block: &[i32], lane: usize| {
        block.iter().enumerate().filter(|(d, _)| d / 2 % 2 == lane).map(|(_, v)| v * v).sum::<i32>()
    };
    v.chunks(I8_BLOCK).map(|block| lane(block, 0).max(lane(block, 1))).max().unwrap_or(0)
}

/// `x` rows of k values, `q` queries of k values.
fn check_int8(simd: Simd, k: usize, x: &[i32], q: &[i32]) {
    let kernels = simd.kernels();
    let (mr, nr, offset) = (kernels.mr, kernels.nr, kernels.i8_range.offset);
    let bytes: Vec<u8> = x.iter().map(|&v| (v + offset) as u8).collect();
    let mut panel = vec![0i8; k * nr];
    let mut block_init = vec![0i16; k.div_ceil(I8_BLOCK) * nr * 2];
    for (j, q) in q.chunks(k).enumerate() {
        for (d, &v) in q.iter().enumerate() {
            panel[d / 4 * nr * 4 + j * 4 + d % 4] = v as i8;
            let init = &mut block_init[d / I8_BLOCK * nr * 2 + j * 2 + d / 2 % 2];
            *init = init.wrapping_sub((offset * v) as i16);
        }
    }
    let init: Vec<i32> = q.chunks(k).map(|q| -offset * q.iter().sum::<i32>()).collect();
    let products: Vec<i64> = x
        .chunks(k)
        .flat_map(|x| q.chunks(k).map(move |q| x.iter().zip(q).map(|(&a, &b)| i64::from(a) * i64::from(b)).sum()))
        .collect();
    assert!(products.iter().all(|p| p.abs() < 1 << 31));
    let scale = vec![1.0; mr];
    // 2⁻²⁰ makes every product exact in the f32 the test uses, if it has no more than 24 significant bits; the others are compared rounded.
    let query_scale = vec![1.0 / (1 << 20) as f32; nr];
    for r in 0..mr {
        for above in [0, 1] {
            // The threshold is the rounded product itself (a hit), or the next f32 above it (none).
            let threshold: Vec<f32> = (0..nr)
                .map(|j| {
                    let t = products[r * nr + j] as i32 as f32 / (1 << 20) as f32;
                    if above == 1 { t.next_up() } else { t }
                })
                .collect();
            let mut hits = [0; MAX_MR];
            let bias = vec![0.0; mr];
            let call = TileI8 {
                rows: bytes.as_ptr(),
                stride: k,
                panel: panel.as_ptr(),
                k,
                init: init.as_ptr(),
                block_init: block_init.as_ptr(),
                query_scale: query_scale.as_ptr(),
                ahead: panel.as_ptr().cast(),
                ahead_step: 64,
                test: Test {
                    scale: scale.as_ptr(),
                    bias: bias.as_ptr(),
                    threshold: threshold.as_ptr(),
                    hits: hits.as_mut_ptr(),
                },
            };
            // SAFETY: the arrays are as large as `TileI8` says, and the CPU has the level.
            unsafe { (kernels.tile_i8)(&call) };
            let want = if above == 1 { 0 } else { u32::MAX >> (32 - nr) };
            assert_eq!(hits[r], want, "{simd:?} k {k} row {r}");
        }
    }
}

#[test]
fn quantisers_keep_their_promises() {
    for simd in levels() {
        let kernels = simd.kernels();
        // Levels share these functions: each with the ranges of all levels, but that one for VNNI alone knows no bound on lanes.
        let vnni = simd.level() == Level::Avx512Vnni;
        let ranges = [(127, 0, f32::INFINITY), (90, 90, I8_LANE_NORM), (127, 128, f32::INFINITY)]
            .map(|(max, offset, lane_norm)| Range8 { max, offset, lane_norm });
        let ranges: Vec<Range8> = ranges.into_iter().filter(|r| !vnni || r.lane_norm == f32::INFINITY).collect();
        assert!(ranges.contains(&kernels.i8_range));
        let lengths = [(PAD, 1), (3 * PAD, 5), (384, 2), (1536, 3), (16000, 4)];
        for ((n, seed), range) in lengths.into_iter().flat_map(|l| ranges.iter().map(move |&c| (l, c))) {
            let mut peaked = noise(n, seed);
            peaked[n / 3] *= 3.0;
            let signs: Vec<f32> = noise(n, seed).iter().map(|v| v.signum()).collect();
            let mut one_block = vec![0.0; n];
            one_block[..PAD].copy_from_slice(&signs[..PAD]);
            for (x, factor) in [peaked, signs.clone(), vec![1.0; n], one_block]
                .iter()
                .flat_map(|x| [1.0, 0.0, 1e-12, 1e12].map(|factor| (x, factor)))
            {
                let x: Vec<f32> = x.iter().map(|v| v * factor).collect();
                let mut bytes = vec![0; n];
                // SAFETY: `levels` gives levels of this CPU.
                let got = unsafe { (kernels.quantise)(&x, &mut bytes, range) };
                // A row that is copied on the way comes to the same, whatever its tail.
                let dim = n - seed as usize;
                let (mut row, mut taken, mut cut) = (vec![0.0; n], vec![0; n], x.clone());
                cut[dim..].fill(0.0);
                let mut want = vec![0; n];
                // SAFETY: as above.
                let (a, b) = unsafe {
                    let a = (kernels.take)(&x[..dim], &mut row, &mut taken, range);
                    (a, (kernels.quantise)(&cut, &mut want, range))
                };
                assert!(row == cut && taken == want, "{simd:?} {n}");
                let bits = |q: Quantised| [q.scale, q.residual2, q.norm2].map(f32::to_bits);
                assert_eq!(bits(a), bits(b), "{simd:?} {n}");
                let signed = |b: u8| if range.offset == 0 { i32::from(b as i8) } else { i32::from(b) - range.offset };
                let ints: Vec<i32> = bytes.iter().map(|&b| signed(b)).collect();
                assert!(ints.iter().all(|v| v.abs() <= range.max), "{simd:?}");
                // What the sums in 16 bits rest on: the product of two such norms fits.
                assert!(range.lane_norm == f32::INFINITY || lane2(&ints) <= 32767, "{simd:?} {n}");
                let residual2: f64 = x
                    .iter()
                    .zip(&ints)
                    .map(|(&x, &v)| (f64::from(x) - f64::from(got.scale) * f64::from(v)).powi(2))
                    .sum();
                let size = sum(&x, &x, |a, b| a * b);
                // As `bound.rs` counts on.
                let most = (n as f64 / 16.0 + 40.0) / (1 << 24) as f64;
                assert!((f64::from(got.norm2) - size).abs() <= most * size, "{simd:?} {n}");
                assert!(
                    (f64::from(got.residual2) - residual2).abs() <= 1e-3 * residual2 + 1e-12 * size,
                    "{simd:?} {n}"
                );
                let steps = f64::from(got.scale) * (n as f64).sqrt() / 2.0;
                assert!(residual2.sqrt() <= steps * 1.001);
                if x.iter().all(|v| v.abs() == factor) {
                    assert!(residual2 <= 1e-12 * size, "vectors of one magnitude stay exact: {simd:?} {n} {range:?}");
                }
            }
        }
    }
}

/// Every score of a matrix is that of the pair alone, for every tail of dimensions, rows and columns.
#[test]
fn matrices_are_the_scores_of_their_pairs() {
    use crate::{Metric, similarity_matrix};
    let scalar = Simd::new(Level::Scalar).unwrap();
    for simd in levels() {
        for dim in (1..=40).chain([383, 384, 1000]) {
            let (rows, columns) = (1 + dim % 9, 1 + dim * 7 % 75);
            let (mut a, mut b) = (noise(rows * dim, 21), noise(columns * dim, 22));
            // A zero vector, and numbers that are none.
            b[..dim].fill(0.0);
            if dim % 4 == 0 {
                (a[dim - 1], b[columns * dim - 1]) = (f32::NAN, f32::INFINITY);
            }
            for metric in [Metric::Cosine, Metric::L2, Metric::InnerProduct] {
                for (a, b) in [(&a, &b), (&b, &b)] {
                    let mut got = vec![7.0; a.len() / dim * columns];
                    similarity_matrix(simd, metric, dim, a, b, &mut got, || Ok(())).unwrap();
                    let pairs = a.chunks(dim).flat_map(|x| b.chunks(dim).map(move |y| (x, y)));
                    for ((x, y), got) in pairs.zip(&got) {
                        let want = scalar.score(metric, x, y).unwrap();
                        assert_eq!(got.to_bits(), want.to_bits(), "{simd:?} {metric:?} {dim}: {got} not {want}");
                    }
                }
            }
        }
        assert_eq!(similarity_matrix(simd, Metric::L2, 3, &[], &[1.0; 6], &mut [], || Ok(())), Ok(()));
        assert_eq!(similarity_matrix(simd, Metric::L2, 3, &[1.0; 6], &[], &mut [], || Ok(())), Ok(()));
    }
}

/// The whole engine on the emulated levels: what the tests of `tests/engine.rs` check on the real ones.
#[test]
fn the_engine_gives_the_same_with_emulated_instructions() {
    use crate::{Metric, Pass, Queries, Scanner, TopK};
    use std::sync::Arc;
    for dim in [1, 31, 64, 100, 384] {
        let (queries, rows) = (noise(40 * dim, 11), noise(130 * dim, 12));
        for metric in [Metric::Cosine, Metric::L2, Metric::InnerProduct] {
            let search = |simd: Simd, pass: Pass| {
                let packed = Arc::new(Queries::new(simd, metric, dim, &queries).unwrap());
                let mut scan = Scanner::with_pass(packed, TopK::new(metric, 40, 7, None).unwrap(), pass, 48).unwrap();
                // Every row twice: ties.
                for (id, row) in rows.chunks(dim).chain(rows.chunks(dim)).enumerate() {
                    scan.push(id as i64, row).unwrap();
                }
                let mut top = scan.finish().unwrap();
                (0..40).flat_map(|q| top.take(q)).map(|h| (h.id, h.score.to_bits())).collect::<Vec<_>>()
            };
            let want = search(Simd::new(Level::Scalar).unwrap(), Pass::Direct);
            for simd in Simd::emulated() {
                for pass in [Pass::Direct, Pass::F32, Pass::Int8] {
                    assert_eq!(search(simd, pass), want, "{simd:?} {pass:?} {metric:?} {dim}");
                }
            }
        }
    }
}
