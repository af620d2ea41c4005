//! Lines per second of the shape pass, of shape and count, and of the whole miner: `speed SUITE_DIR` (or PGEDGE_LOGHUB), which holds
//! `*/*_2k.log`. Prints the median of several rounds over all lines.

use pgedge_logminer::{Miner, ShapeCounts, shape_into};
use std::{env, fs, hint::black_box, time::Instant};

fn median(rounds: usize, mut f: impl FnMut()) -> f64 {
    let mut times: Vec<f64> = (0..rounds)
        .map(|_| {
            let start = Instant::now();
            f();
            start.elapsed().as_secs_f64()
        })
        .collect();
    times.sort_by(f64::total_cmp);
    times[rounds / 2]
}

fn main() -> std::io::Result<()> {
    let Some(suite) = env::args()
        .nth(1)
        .or_else(|| env::var("PGEDGE_LOGHUB").ok())
    else {
        println!("skipped: give the directory of the log sets as an argument or in PGEDGE_LOGHUB");
        return Ok(());
    };
    let mut lines: Vec<String> = Vec::new();
    for set in fs::read_dir(&suite)?
        .flatten()
        .filter(|e| e.path().is_dir())
    {
        for file in fs::read_dir(set.path())?
            .flatten()
            .filter(|f| f.path().extension().is_some_and(|e| e == "log"))
        {
            lines.extend(
                String::from_utf8_lossy(&fs::read(file.path())?)
                    .lines()
                    .map(str::to_owned),
            );
        }
    }
    let bytes: usize = lines.iter().map(String::len).sum();
    println!(
        "{} lines, {} bytes each on average",
        lines.len(),
        bytes / lines.len().max(1)
    );
    let n = lines.len() as f64;
    let mut buffer = Vec::new();
    let shapes = median(21, || {
        lines.iter().for_each(|l| {
            shape_into(l, &mut buffer);
            black_box(&buffer);
        })
    });
    println!("shape            {:>10.0} lines/s", n / shapes);
    let mut counts = ShapeCounts::default();
    let counted = median(21, || lines.iter().for_each(|l| counts.add(l)));
    println!(
        "shape and count  {:>10.0} lines/s ({} shapes)",
        n / counted,
        counts.len()
    );
    let mut miner = Miner::default();
    let mined = median(7, || lines.iter().for_each(|l| miner.add(l)));
    println!(
        "miner            {:>10.0} lines/s ({} shapes)",
        n / mined,
        miner.pattern_set().len()
    );
    Ok(())
}
