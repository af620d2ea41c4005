//! Lines per second of one core for the shape pass, shape and count, and the whole miner: `speed SUITE_DIR [ROUNDS [PASSES]]` (or PGEDGE_LOGHUB),
//! which holds `*/*_2k.log_structured.csv`; the messages of all sets, one after another. Prints the medians of several rounds in turns, in CPU time
//! of the thread where the system tells it (so that other work on the machine does not count), else in elapsed time. Given a number of
//! rounds, it prints nothing else: a benchmark that takes turns with something else runs it for one round at a time.

mod csv;

use pgedge_logminer::{Miner, PatternSet, ShapeCounts, shape_into};
use std::{env, fs, hint::black_box, time::Instant};

/// Seconds that this thread ran; `None` where the kernel does not tell.
fn cpu_time() -> Option<f64> {
    let text = fs::read_to_string("/proc/thread-self/schedstat").ok()?;
    Some(text.split(' ').next()?.parse::<u64>().ok()? as f64 / 1e9)
}

/// Passes a round when no number is given: the kernel counts CPU time in ticks of some milliseconds, which shall be less than a hundredth of what is measured.
const PASSES: u32 = 100;

/// Rounds when no number is given; in each, everything is measured once, so that a slow moment of the machine hits all of it.
const ROUNDS: usize = 9;

/// Seconds of one pass.
fn timed(passes: u32, mut f: impl FnMut()) -> f64 {
    let (start, cpu) = (Instant::now(), cpu_time());
    (0..passes).for_each(|_| f());
    let took = match (cpu, cpu_time()) {
        (Some(a), Some(b)) => b - a,
        _ => start.elapsed().as_secs_f64(),
    };
    took / f64::from(passes)
}

fn median(mut times: Vec<f64>) -> f64 {
    times.sort_by(f64::total_cmp);
    times[times.len() / 2]
}

fn main() -> std::io::Result<()> {
    let Some(suite) = env::args().nth(1).or_else(|| env::var("PGEDGE_LOGHUB").ok()) else {
        println!("skipped: give the directory of the log sets as an argument or in PGEDGE_LOGHUB");
        return Ok(());
    };
    let rounds: Option<usize> = env::args().nth(2).and_then(|n| n.parse().ok());
    let passes = env::args().nth(3).and_then(|n| n.parse().ok()).unwrap_or(PASSES).max(1);
    let mut lines: Vec<String> = Vec::new();
    for set in fs::read_dir(&suite)?.flatten().filter(|e| e.path().is_dir()) {
        let name = set.file_name().to_string_lossy().into_owned();
        let Ok(text) = fs::read_to_string(set.path().join(format!("{name}_2k.log_structured.csv"))) else {
            continue;
        };
        let rows = csv::rows(&text);
        let Some(content) = rows[0].iter().position(|c| c == "Content") else {
            continue;
        };
        lines.extend(rows[1..].iter().map(|r| r[content].clone()));
    }
    let bytes: usize = lines.iter().map(String::len).sum();
    println!("{} lines, {} bytes each on average", lines.len(), bytes / lines.len().max(1));
    let n = lines.len() as f64;
    let mut buffer = Vec::new();
    let (mut counts, mut miner) = (ShapeCounts::default(), Miner::default());
    let mut times: [Vec<f64>; 3] = Default::default();
    for _ in 0..rounds.unwrap_or(ROUNDS).max(1) {
        times[0].push(timed(passes, || {
            lines.iter().for_each(|l| {
                shape_into(l, &mut buffer);
                black_box(&buffer);
            })
        }));
        times[1].push(timed(passes, || lines.iter().for_each(|l| counts.add(l))));
        times[2].push(timed(passes, || lines.iter().for_each(|l| miner.add(l))));
    }
    let [shape, counted, mined] = times.map(|t| n / median(t));
    println!("shape            {shape:>10.0} lines/s");
    println!("shape and count  {counted:>10.0} lines/s ({} shapes)", counts.len());
    println!("miner            {mined:>10.0} lines/s ({} shapes)", miner.pattern_set().len());
    if rounds.is_none() {
        learning();
    }
    Ok(())
}

/// Time of adding one shape to four hundred known ones that all have the same structure, the dearest case: four words of a vocabulary
/// each, so that few patterns form, and one word that varies, so that one does.
fn learning() {
    let mut seed = 1u64;
    let mut word = |n: u64| {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        let k = (seed >> 33) % n;
        [b'g' + (k % 16) as u8, b'g' + (k / 16 % 16) as u8, b'g' + (k / 256 % 16) as u8]
            .iter()
            .map(|&b| char::from(b))
            .collect::<String>()
    };
    let mut shapes: [Vec<String>; 2] = [Vec::new(), Vec::new()];
    for _ in 0..500 {
        shapes[0].push(format!("{} {} {} {}", word(200), word(200), word(200), word(200)));
        shapes[1].push(format!("cannot start unit {}", word(4096)));
    }
    for (name, shapes) in ["free text", "one word varies"].into_iter().zip(shapes) {
        let mut set = PatternSet::default();
        shapes[..400].iter().for_each(|s| drop(set.insert(s)));
        let mut rest = shapes[400..].iter();
        let mut times: Vec<f64> = Vec::new();
        for shape in rest.by_ref() {
            let start = Instant::now();
            black_box(set.insert(shape));
            times.push(start.elapsed().as_secs_f64());
        }
        times.sort_by(f64::total_cmp);
        println!(
            "one shape more, {name}: median {:.0} µs, 99 % below {:.0} µs",
            times[times.len() / 2] * 1e6,
            times[times.len() * 99 / 100] * 1e6
        );
    }
}
