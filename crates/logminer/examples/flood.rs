//! Lines per second of learning where every shape is new, through [`PatternSet::insert_all`] in batches of 10,000: what a flood of unique
//! lines costs. `flood [LINES] [FILE]` (100,000 unless told); with a file its lines are learned as well, in one batch.

use pgedge_logminer::{Miner, PatternSet, message_of, shape_of_message};
use std::time::Instant;

fn learn(name: &str, shapes: &[String]) {
    let start = Instant::now();
    let mut set = PatternSet::default();
    let mut worst = 0f64;
    for batch in shapes.chunks(10_000) {
        let begun = Instant::now();
        set.insert_all(batch.iter().map(String::as_str), || ());
        worst = worst.max(begun.elapsed().as_secs_f64());
    }
    let learned = start.elapsed().as_secs_f64();
    let start = Instant::now();
    let mut miner = Miner::default();
    shapes.iter().for_each(|s| miner.add(s));
    let patterns = miner.summaries(5).len();
    println!(
        "{name:<16} {:>9.0} lines/s, a batch at most {:>6.0} ms; miner {:>9.0} lines/s ({} shapes, {patterns} patterns)",
        shapes.len() as f64 / learned,
        worst * 1e3,
        shapes.len() as f64 / start.elapsed().as_secs_f64(),
        set.len()
    );
}

fn main() -> std::io::Result<()> {
    let n = std::env::args().nth(1).and_then(|n| n.parse().ok()).unwrap_or(100_000);
    let mut seed = 1u64;
    let mut below = |n: u64| {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (seed >> 33) % n
    };
    let word = |k: u64| -> String { (0..4).map(|i| char::from(b'g' + (k >> (4 * i)) as u8 % 16)).collect() };
    let mut kinds: [Vec<String>; 5] = Default::default();
    for _ in 0..n {
        kinds[0].push(format!("service {} moved", word(below(65536))));
        kinds[1].push(format!("node {} was {} by {} in 5ms", word(below(4)), word(below(19)), word(below(95))));
        kinds[2].push((0..6).map(|_| word(below(200))).collect::<Vec<_>>().join(" "));
        let words = 3 + below(6);
        kinds[3].push((0..words).map(|_| word(below(400))).collect::<Vec<_>>().join(" "));
        let mixed = |w: String, i: u64| format!("{w}{}", [" ", ": ", ", ", "/", " [", "] ", "=", " ("][i as usize % 8]);
        kinds[4].push((0..words).map(|_| mixed(word(below(400)), below(8))).collect());
    }
    let names = ["one statement", "combinations", "six words", "3 to 8 words", "any structure"];
    for (name, lines) in names.into_iter().zip(kinds) {
        learn(name, &lines);
    }
    if let Some(path) = std::env::args().nth(2) {
        let text = String::from_utf8_lossy(&std::fs::read(&path)?).into_owned();
        let shapes: Vec<String> = text.lines().map(|l| shape_of_message(&message_of(l))).collect();
        learn("file", &shapes);
    }
    Ok(())
}
