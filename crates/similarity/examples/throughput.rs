//! Time of the engine over 100,000 × 384 random unit vectors (or `throughput N DIM`), for 1 to 1000 queries, beside the multiply-add peak
//! of the same core in the same run; `EMBEDDINGS=file.npy` takes real vectors, `LEVEL`, `Q` and `TILE` choose one level, number of queries, rows of a tile: `cargo run --release -p pgedge-similarity --example throughput`.

use std::hint::black_box;
use std::sync::Arc;
use std::time::{Duration, Instant};

use pgedge_similarity::{Level, Metric, Pass, Queries, Scanner, Simd, TopK, bench, level_name};

/// Unit vectors of nearly normal values.
fn vectors(n: usize, dim: usize, seed: u64) -> Vec<f32> {
    let mut state = seed;
    let mut next = || {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (state >> 40) as f32 / (1u32 << 24) as f32 - 0.5
    };
    let mut flat: Vec<f32> = (0..n * dim).map(|_| next() + next() + next() + next()).collect();
    for row in flat.chunks_mut(dim) {
        let norm = row.iter().map(|v| v * v).sum::<f32>().sqrt();
        row.iter_mut().for_each(|v| *v /= norm);
    }
    flat
}

/// The rows of a NumPy file of two-dimensional `float16` values, repeated with a little noise up to `n`, and their dimensions.
fn embeddings(path: &str, n: usize) -> (Vec<f32>, usize) {
    let bytes = std::fs::read(path).expect("EMBEDDINGS names a file");
    let header = 10 + usize::from(u16::from_le_bytes([bytes[8], bytes[9]]));
    let text = String::from_utf8_lossy(&bytes[10..header]);
    assert!(text.contains("'<f2'") && text.contains("'fortran_order': False"), "float16 in C order: {text}");
    let shape = text.split("'shape': (").nth(1).and_then(|s| s.split(')').next()).expect("a shape");
    let dim: usize = shape.split(',').nth(1).and_then(|d| d.trim().parse().ok()).expect("two dimensions");
    let stored: Vec<f32> =
        bytes[header..].as_chunks::<2>().0.iter().map(|b| half::f16::from_le_bytes(*b).to_f32()).collect();
    let noise = vectors(n.max(1), dim, 3);
    let rows = (0..n * dim).map(|i| stored[i % stored.len()] + if i < stored.len() { 0.0 } else { 0.05 * noise[i] });
    (rows.collect(), dim)
}

/// Time this thread has had on a processor, or where the system does not tell, time: others may be using the machine as well.
fn now() -> Duration {
    static START: std::sync::OnceLock<Instant> = std::sync::OnceLock::new();
    let start = START.get_or_init(Instant::now);
    // The scheduler brings its figure up to date.
    std::thread::yield_now();
    let stat = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    stat.split(' ').next().and_then(|ns| ns.parse().ok()).map_or_else(|| start.elapsed(), Duration::from_nanos)
}

/// Asks for the row at `row` ahead of its turn, as the extension does for the next row of a page.
fn ask(row: *const f32, dim: usize) {
    #[cfg(target_arch = "x86_64")]
    for line in (0..dim).step_by(16) {
        // SAFETY: a prefetch may be given any address; SSE is part of x86-64.
        unsafe {
            use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
            _mm_prefetch::<_MM_HINT_T0>(row.wrapping_add(line).cast());
        }
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = (row, dim);
}

/// The median of `runs` rates of `work`, in GFLOP/s.
fn median_rate(runs: usize, mut work: impl FnMut() -> u64) -> f64 {
    let mut rates: Vec<f64> = (0..runs)
        .map(|_| {
            let start = now();
            let done = work();
            done as f64 / (now() - start).as_secs_f64() / 1e9
        })
        .collect();
    rates.sort_by(f64::total_cmp);
    rates[runs / 2]
}

fn main() {
    let args: Vec<usize> = std::env::args().skip(1).filter_map(|a| a.parse().ok()).collect();
    let n = args.first().copied().unwrap_or(100_000);
    let (rows, dim) = match std::env::var("EMBEDDINGS") {
        Ok(path) => embeddings(&path, n),
        Err(_) => {
            let dim = args.get(1).copied().unwrap_or(384);
            (vectors(n, dim, 1), dim)
        }
    };
    let real = std::env::var_os("EMBEDDINGS").is_some();
    println!("{} | {n} rows x {dim}, top 10, cosine", level_name());
    let only = std::env::var("LEVEL").ok();
    let tile_rows = std::env::var("TILE").ok().and_then(|t| t.parse().ok()).unwrap_or(96);
    for simd in Simd::available() {
        if only.as_deref().is_some_and(|o| o != simd.level().name()) {
            continue;
        }
        println!(
            "\n{}, medians of 5; the peak is that of multiply-adds in registers, measured before and after each",
            simd.level().name()
        );
        let tile = median_rate(9, || bench::tile_f32(simd, 384, 16, 1, 6000));
        println!(
            "f32 tile in cache: {tile:.1} GFLOP/s, peak {:.1}",
            median_rate(9, || bench::fma_peak(black_box(simd), 15_000_000))
        );
        println!("int8 tile in cache: {:.1} GOP/s", median_rate(9, || bench::tile_i8(simd, 384, 8, 1, 12000)));
        println!("{:>5} {:>7} {:>9} {:>9} {:>7} {:>12}", "Q", "pass", "ms", "GFLOP/s", "peak", "exact/query");
        let counts = std::env::var("Q")
            .ok()
            .and_then(|q| q.parse().ok())
            .map_or(vec![1, 3, 10, 32, 100, 1000], |q: usize| vec![q]);
        for count in counts {
            if count > 100 && simd.level() == Level::Scalar {
                continue;
            }
            // Queries: of their own, or rows spread over the real ones.
            let flat = if real {
                (0..count).flat_map(|q| rows[q * 19 % n * dim..][..dim].to_vec()).collect()
            } else {
                vectors(count, dim, 2)
            };
            for pass in [Pass::Direct, Pass::F32, Pass::Int8] {
                if (pass == Pass::Direct) && count > 10 {
                    continue;
                }
                let (mut times, mut peaks, mut exact) = (Vec::new(), Vec::new(), 0);
                for _ in 0..5 {
                    peaks.push(median_rate(3, || bench::fma_peak(black_box(simd), 15_000_000)));
                    let queries = Arc::new(Queries::new(simd, Metric::Cosine, dim, &flat).unwrap());
                    let start = now();
                    let top = TopK::<i64>::new(Metric::Cosine, count, 10, None).unwrap();
                    let mut scan = Scanner::with_pass(queries, top, pass, tile_rows).unwrap();
                    for (id, row) in rows.chunks_exact(dim).enumerate() {
                        ask(row.as_ptr().wrapping_add(dim), dim);
                        scan.push(id as i64, row).unwrap();
                    }
                    scan.flush().unwrap();
                    times.push((now() - start).as_secs_f64());
                    exact = scan.stats().exact;
                    black_box(scan.sink_mut().take(0));
                }
                times.sort_by(f64::total_cmp);
                peaks.sort_by(f64::total_cmp);
                let (best, peak) = (times[2], peaks[2]);
                let rate = 2.0 * (n * dim * count) as f64 / best / 1e9;
                let share = if peak > 0.0 { format!("{:.0} %", 100.0 * rate / peak) } else { "-".into() };
                println!(
                    "{count:>5} {:>7} {:>9.1} {rate:>9.1} {share:>7} {:>12}",
                    format!("{pass:?}"),
                    best * 1e3,
                    exact / count as u64
                );
            }
        }
    }
}
