//! How well the patterns group lines by statement, on labelled lines of many kinds of systems (`labelled/*.txt`, written for this test).
//!
//! GA: the share of lines in a group that is exactly the lines of one statement; FGA: the harmonic mean of the shares of patterns and of
//! statements that are right (Khan et al., ICSE 2022; Jiang et al., ISSTA 2024); PA and FTA: the same for the text of templates. With SHOW_WRONG set the wrong ones are printed.

mod common;
#[path = "../examples/csv/mod.rs"]
mod csv;

use pgedge_logminer::{PatternSet, log_pattern, loghub_template, pattern_regex, shape};
use std::collections::{HashMap, HashSet};

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
    assert!(files.len() >= 8);
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

/// GA, FGA, PA and FTA of predicted templates; see the comment at the top.
fn measures(labels: &[&str], predicted: &[String]) -> [f64; 4] {
    let count = |of: &[&str]| {
        let mut n = HashMap::<String, usize>::new();
        of.iter().for_each(|t| *n.entry((*t).to_owned()).or_default() += 1);
        n
    };
    let predicted: Vec<&str> = predicted.iter().map(String::as_str).collect();
    let (of_label, of_pattern) = (count(labels), count(&predicted));
    let mut pairs = HashMap::<(&str, &str), usize>::new();
    let mut labels_of = HashMap::<&str, HashSet<&str>>::new();
    for (l, p) in labels.iter().zip(&predicted) {
        *pairs.entry((l, p)).or_default() += 1;
        labels_of.entry(p).or_default().insert(l);
    }
    let good: Vec<usize> =
        pairs.iter().filter(|((l, p), n)| **n == of_label[*l] && **n == of_pattern[*p]).map(|(_, n)| *n).collect();
    let ratio = |a: usize, b: usize| a as f64 / b as f64;
    let f1 = |c: usize| 2.0 * c as f64 / (of_label.len() + of_pattern.len()) as f64;
    let same = labels.iter().zip(&predicted).filter(|(l, p)| l == p).count();
    let exact = labels_of.iter().filter(|(p, ls)| ls.len() == 1 && ls.contains(*p)).count();
    [ratio(good.iter().sum(), labels.len()), f1(good.len()), ratio(same, labels.len()), f1(exact)]
}

/// On Loghub-2k sets with corrected labels (Khan et al.), when PGEDGE_LOGHUB names a directory of them: accuracy, the share of lines whose
/// template was final when they arrived, and that raw messages and bare ones are the same.
#[test]
fn loghub() {
    let Some(suite) = std::env::var_os("PGEDGE_LOGHUB") else {
        println!("skipped: PGEDGE_LOGHUB names no directory of labelled sets");
        return;
    };
    let mut all: Vec<[f64; 6]> = Vec::new();
    for entry in std::fs::read_dir(suite).unwrap().flatten().filter(|e| e.path().is_dir()) {
        let name = entry.file_name().to_string_lossy().into_owned();
        let text = std::fs::read_to_string(entry.path().join(format!("{name}_2k.log_structured.csv"))).unwrap();
        let rows = csv::rows(&text);
        let column = |name: &str| rows[0].iter().position(|c| c == name).unwrap();
        let (content, label) = (column("Content"), column("EventTemplate"));
        let rows: Vec<_> = rows[1..].iter().filter(|r| !r[label].is_empty()).collect();
        let shapes: Vec<String> = rows.iter().map(|r| shape(&r[content])).collect();
        for (row, shape) in rows.iter().zip(&shapes) {
            assert_eq!(log_pattern(&row[content]), *shape, "no part of a message is taken for a prefix");
        }
        let mut set = PatternSet::default();
        let arrival: Vec<String> = shapes.iter().map(|s| set.insert(s).pattern).collect();
        let last: Vec<String> = shapes.iter().map(|s| set.pattern(s).unwrap()).collect();
        let templates = |patterns: &[String]| patterns.iter().map(|p| loghub_template(p)).collect::<Vec<_>>();
        let share =
            |a: &[String], b: &[String]| a.iter().zip(b).filter(|(a, b)| a == b).count() as f64 / a.len() as f64;
        let labels: Vec<&str> = rows.iter().map(|r| r[label].as_str()).collect();
        let [ga, fga, pa, fta] = measures(&labels, &templates(&last));
        let scores = [ga, fga, pa, fta, share(&templates(&arrival), &templates(&last)), share(&arrival, &last)];
        println!(
            "{name:<12} GA {ga:.4}  FGA {fga:.4}  PA {pa:.4}  FTA {fta:.4}  final on arrival {:.4}, with types {:.4}",
            scores[4], scores[5]
        );
        assert!(ga >= 0.93, "{name}: GA {ga:.4}");
        all.push(scores);
    }
    let mean: Vec<f64> = (0..6).map(|k| all.iter().map(|s| s[k]).sum::<f64>() / all.len() as f64).collect();
    println!(
        "average      GA {:.4}  FGA {:.4}  PA {:.4}  FTA {:.4}  final on arrival {:.4}, with types {:.4}",
        mean[0], mean[1], mean[2], mean[3], mean[4], mean[5]
    );
    for (k, floor) in [0.985, 0.965, 0.78, 0.74, 0.995].into_iter().enumerate() {
        assert!(mean[k] >= floor, "measure {k}: {:.4} < {floor}", mean[k]);
    }
}

/// Every expression of every pattern against every raw line of its set, when PGEDGE_LOGHUB is set: it finds the lines of its pattern, no other.
#[test]
fn expressions_find_exactly_their_lines() {
    let Some(suite) = std::env::var_os("PGEDGE_LOGHUB") else {
        println!("skipped: PGEDGE_LOGHUB names no directory of labelled sets");
        return;
    };
    for entry in std::fs::read_dir(suite).unwrap().flatten().filter(|e| e.path().is_dir()) {
        let name = entry.file_name().to_string_lossy().into_owned();
        let raw = std::fs::read(entry.path().join(format!("{name}_2k.log"))).unwrap();
        let text = String::from_utf8_lossy(&raw).into_owned();
        let shapes: Vec<String> = text.lines().map(log_pattern).collect();
        let mut set = PatternSet::default();
        shapes.iter().for_each(|s| drop(set.insert(s)));
        let own: Vec<String> = shapes.iter().map(|s| set.pattern(s).unwrap()).collect();
        for pattern in own.iter().collect::<HashSet<_>>() {
            let expression = regex::RegexBuilder::new(&pattern_regex(pattern))
                .dot_matches_new_line(true)
                .size_limit(1 << 28)
                .build()
                .unwrap();
            for (line, own) in text.lines().zip(&own) {
                assert_eq!(expression.is_match(line), own == pattern, "{name}: {line}\nis {own}\nnot {pattern}");
            }
        }
    }
}
