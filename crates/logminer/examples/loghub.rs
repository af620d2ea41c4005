//! Writes predicted templates for labelled Loghub sets: `loghub SUITE_DIR PRED_DIR`, for an evaluator of GA, FGA, PA and FTA.
//! SUITE_DIR defaults to the environment variable PGEDGE_LOGHUB; without either there is nothing to do, and it says so.
//! Also prints the share of lines whose final pattern was known when they arrived.

mod csv;

use pgedge_logminer::{PatternSet, loghub_template, shape};
use std::{collections::HashMap, env, fs, path::Path};

fn main() -> std::io::Result<()> {
    let mut args = env::args().skip(1);
    let Some(suite) = args.next().or_else(|| env::var("PGEDGE_LOGHUB").ok()) else {
        println!("skipped: give the directory of the labelled sets as an argument or in PGEDGE_LOGHUB");
        return Ok(());
    };
    let out = args.next().unwrap_or_else(|| "pred".into());
    let debug = args.next();
    fs::create_dir_all(&out)?;
    let mut sets: Vec<String> = fs::read_dir(&suite)?
        .flatten()
        .filter(|e| e.path().is_dir())
        .map(|e| e.file_name().to_string_lossy().into_owned())
        .collect();
    sets.sort();
    let (mut shares, mut typed) = (Vec::new(), Vec::new());
    for set in sets {
        let file = Path::new(&suite).join(&set).join(format!("{set}_2k.log_structured.csv"));
        let Ok(text) = fs::read_to_string(&file) else {
            continue;
        };
        let rows = csv::rows(&text);
        let column = |name: &str| rows[0].iter().position(|c| c == name).unwrap_or(0);
        let (content, label) = (column("Content"), column("EventTemplate"));
        let mut patterns = PatternSet::default();
        let lines: Vec<&str> = rows[1..].iter().map(|r| r[content].as_str()).collect();
        let shapes: Vec<String> = lines.iter().map(|l| shape(l)).collect();
        let arrival: Vec<String> = shapes.iter().map(|s| patterns.insert(s).pattern).collect();
        let last: Vec<String> = shapes.iter().map(|s| patterns.pattern(s).unwrap_or_default()).collect();
        let templates: Vec<String> = last.iter().map(|p| loghub_template(p)).collect();
        fs::write(Path::new(&out).join(format!("{set}.txt")), templates.join("\n") + "\n")?;
        if debug.is_some() {
            let mut moved: HashMap<(&str, &str), usize> = HashMap::new();
            for (a, b) in arrival.iter().zip(&last).filter(|(a, b)| a != b) {
                *moved.entry((a, b)).or_default() += 1;
            }
            let mut moved: Vec<_> = moved.into_iter().collect();
            moved.sort_by_key(|m| std::cmp::Reverse(m.1));
            for ((a, b), n) in moved.into_iter().take(6) {
                println!("   {n}\t{a}\n\t{b}");
            }
        }
        let same = arrival.iter().zip(&last).filter(|(a, b)| a == b).count();
        let alike = arrival.iter().zip(&last).filter(|(a, b)| loghub_template(a) == loghub_template(b)).count();
        let share = |n: usize| n as f64 / last.len() as f64;
        shares.push(share(alike));
        typed.push(share(same));
        println!(
            "{set}: {} lines, {} shapes, final on arrival {:.2} % ({:.2} % with the types of the placeholders)",
            last.len(),
            patterns.len(),
            100.0 * share(alike),
            100.0 * share(same)
        );
        if debug.is_some() {
            // every label with the patterns its lines got, and the reverse
            let mut map: HashMap<(&str, &str), usize> = HashMap::new();
            for (r, p) in rows[1..].iter().zip(&last) {
                *map.entry((r[label].as_str(), p)).or_default() += 1;
            }
            let mut pairs: Vec<_> = map.into_iter().collect();
            pairs.sort();
            let mut report = String::new();
            for ((l, p), n) in pairs {
                report += &format!("{}{n}\t{l}\n\t{p}\n", if loghub_template(p) == l { " " } else { "!" });
            }
            fs::write(Path::new(&out).join(format!("{set}.report")), report)?;
        }
    }
    let average = |v: &[f64]| 100.0 * v.iter().sum::<f64>() / v.len().max(1) as f64;
    println!("{:.2} % on average ({:.2} % with the types of the placeholders)", average(&shares), average(&typed));
    Ok(())
}
