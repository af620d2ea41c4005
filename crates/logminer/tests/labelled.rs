//! How well the patterns group lines by statement, on labelled lines of many kinds of systems (`labelled/*.txt`, written for this test).
//!
//! GA: the share of lines in a group that is exactly the lines of one statement; FGA: the harmonic mean of the shares of patterns and of
//! statements that are right (Khan et al., ICSE 2022; Jiang et al., ISSTA 2024). With SHOW_WRONG set the wrong ones are printed.

mod common;

use pgedge_logminer::{PatternSet, shape};
use std::collections::HashMap;

struct Score {
    ga: f64,
    fga: f64,
    final_on_arrival: f64,
}

fn score(name: &str, file: &str, seed: u64) -> Score {
    let (lines, templates) = common::lines(file, seed);
    let mut set = PatternSet::default();
    let shapes: Vec<String> = lines.iter().map(|(_, l)| shape(l)).collect();
    let arrival: Vec<String> = shapes.iter().map(|s| set.insert(s).pattern).collect();
    let patterns: Vec<String> = shapes.iter().map(|s| set.pattern(s).unwrap()).collect();
    let same = arrival.iter().zip(&patterns).filter(|(a, b)| a == b).count();
    let (mut of_label, mut of_pattern) = (HashMap::<usize, usize>::new(), HashMap::<&str, usize>::new());
    let mut pairs: HashMap<(usize, &str), usize> = HashMap::new();
    for ((label, _), pattern) in lines.iter().zip(&patterns) {
        *of_label.entry(*label).or_default() += 1;
        *of_pattern.entry(pattern).or_default() += 1;
        *pairs.entry((*label, pattern)).or_default() += 1;
    }
    let right = |label: usize, pattern: &str, n: usize| n == of_label[&label] && n == of_pattern[pattern];
    let good: Vec<usize> = pairs.iter().filter(|((l, p), n)| right(*l, p, **n)).map(|(_, n)| *n).collect();
    if std::env::var_os("SHOW_WRONG").is_some() {
        let mut wrong: Vec<_> = pairs.iter().filter(|((l, p), n)| !right(*l, p, **n)).collect();
        wrong.sort();
        let mut last = usize::MAX;
        for ((l, p), n) in wrong {
            if *l != last {
                println!("{name}: {} of {}", templates[*l], of_label[l]);
                last = *l;
            }
            println!("    {n} of {}\t{p}", of_pattern[p]);
        }
    }
    let ratio = |a: usize, b: usize| a as f64 / b as f64;
    let (precise, recalled) = (ratio(good.len(), of_pattern.len()), ratio(good.len(), of_label.len()));
    Score {
        ga: ratio(good.iter().sum(), lines.len()),
        fga: if good.is_empty() { 0.0 } else { 2.0 * precise * recalled / (precise + recalled) },
        final_on_arrival: ratio(same, lines.len()),
    }
}

#[test]
fn statements_are_told_apart() {
    let mut files: Vec<_> = std::fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/labelled"))
        .unwrap()
        .flatten()
        .map(|e| e.path())
        .collect();
    files.sort();
    assert!(files.len() >= 15);
    let seeds: &[u64] = if std::env::var_os("SHOW_WRONG").is_some() { &[1] } else { &[1, 2, 3] };
    let (mut all_ga, mut all_fga, mut all_final) = (Vec::new(), Vec::new(), Vec::new());
    for path in &files {
        let name = path.file_stem().unwrap().to_string_lossy();
        let text = std::fs::read_to_string(path).unwrap();
        let scores: Vec<Score> = seeds.iter().map(|&s| score(&name, &text, s)).collect();
        let mean = |of: fn(&Score) -> f64| scores.iter().map(of).sum::<f64>() / scores.len() as f64;
        let (ga, fga, arrived) = (mean(|s| s.ga), mean(|s| s.fga), mean(|s| s.final_on_arrival));
        println!("{name:<16} GA {ga:.4}  FGA {fga:.4}  final on arrival {arrived:.4}");
        all_ga.push(ga);
        all_fga.push(fga);
        all_final.push(arrived);
    }
    let mean = |v: &[f64]| v.iter().sum::<f64>() / v.len() as f64;
    println!(
        "{:<16} GA {:.4}  FGA {:.4}  final on arrival {:.4}",
        "average",
        mean(&all_ga),
        mean(&all_fga),
        mean(&all_final)
    );
    assert!(mean(&all_ga) >= 0.94, "GA {:.4}", mean(&all_ga));
    assert!(mean(&all_fga) >= 0.91, "FGA {:.4}", mean(&all_fga));
}
