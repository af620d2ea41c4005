//! Writes SQL that tries the regular expressions of patterns in PostgreSQL: `expressions SUITE_DIR | psql -X -q`, on any server; it only
//! makes temporary tables. For each set: lines that the expression of their own pattern misses, lines that the expression of
//! another pattern finds as well, and the time of a match.

use pgedge_logminer::{PatternSet, log_pattern, pattern_regex};
use std::{collections::BTreeMap, env, fs, path::Path};

/// A value of COPY's text format.
fn copied(text: &str) -> String {
    text.replace('\\', "\\\\").replace('\t', "\\t").replace('\n', "\\n").replace('\r', "\\r")
}

fn main() -> std::io::Result<()> {
    let Some(suite) = env::args().nth(1).or_else(|| env::var("PGEDGE_LOGHUB").ok()) else {
        println!("\\echo skipped: give the directory of the log sets as an argument or in PGEDGE_LOGHUB");
        return Ok(());
    };
    println!("CREATE TEMP TABLE line (set text, n int, line text, pattern int);");
    println!("CREATE TEMP TABLE pattern (id int, pattern text, expression text);");
    let mut sets: Vec<String> =
        fs::read_dir(&suite)?.flatten().map(|e| e.file_name().to_string_lossy().into_owned()).collect();
    sets.sort();
    let (mut lines, mut patterns) = (String::new(), String::new());
    let mut id = 0;
    for set in sets {
        let Ok(raw) = fs::read(Path::new(&suite).join(&set).join(format!("{set}_2k.log"))) else {
            continue;
        };
        let text = String::from_utf8_lossy(&raw).replace('\0', " ");
        let shapes: Vec<String> = text.lines().map(log_pattern).collect();
        let mut known = PatternSet::default();
        shapes.iter().for_each(|s| drop(known.insert(s)));
        let mut ids: BTreeMap<String, u32> = BTreeMap::new();
        for (n, (line, shape)) in text.lines().zip(&shapes).enumerate() {
            let pattern = known.pattern(shape).unwrap_or_default();
            let of = *ids.entry(pattern).or_insert_with(|| {
                id += 1;
                id
            });
            lines += &format!("{set}\t{}\t{}\t{of}\n", n + 1, copied(line));
        }
        for (pattern, of) in ids {
            patterns += &format!("{of}\t{}\t{}\n", copied(&pattern), copied(&pattern_regex(&pattern)));
        }
    }
    println!("COPY line FROM stdin;\n{lines}\\.");
    println!("COPY pattern FROM stdin;\n{patterns}\\.");
    println!(
        r"ANALYZE line; ANALYZE pattern;
SELECT set, count(*) AS lines, count(*) FILTER (WHERE line ~ expression) AS found, count(DISTINCT id) AS patterns
  FROM line JOIN pattern ON id = line.pattern GROUP BY set ORDER BY set;
SELECT set, n, line, p.pattern, expression FROM line JOIN pattern p ON id = line.pattern WHERE line !~ expression LIMIT 10;
\timing on
CREATE TEMP TABLE stray AS
  SELECT l.set, l.n, l.line, l.pattern AS own, p.id AS other FROM pattern p
    JOIN (SELECT DISTINCT set, pattern FROM line) s ON s.pattern = p.id
    JOIN line l ON l.set = s.set AND l.pattern <> p.id AND l.line ~ p.expression;
SELECT count(*) AS matches_tried FROM line l JOIN (SELECT DISTINCT set, pattern FROM line) s USING (set);
SELECT count(*) FROM line JOIN pattern ON id = line.pattern WHERE line ~ expression;
\timing off
SELECT s.set, count(*) AS strays, count(DISTINCT (own, other)) AS pairs FROM stray s GROUP BY 1 ORDER BY 1;
SELECT DISTINCT ON (own, other) s.set, s.line, a.pattern AS own, b.pattern AS also
  FROM stray s JOIN pattern a ON a.id = own JOIN pattern b ON b.id = other ORDER BY own, other LIMIT 40;"
    );
    Ok(())
}
