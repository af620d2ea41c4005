//! Labelled lines for the tests: `labelled/*.txt` hold what systems of many kinds write, one statement a line as `COUNT TEMPLATE`. A
//! part in `«»` varies: `«a|b»` one of the texts, or a form (`«#3»` a number of up to three digits, `«ip»` …, see [`value`]). The label of
//! a line is the number of its statement.

/// A small deterministic generator (SplitMix64).
pub struct Random(pub u64);

impl Random {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
    pub fn below(&mut self, n: usize) -> usize {
        (self.next() % n as u64) as usize
    }
}

fn digits(r: &mut Random, most: usize) -> String {
    let n = most - usize::from(most > 1 && r.below(4) == 0);
    (0..n)
        .map(|i| {
            char::from(b'0' + (r.below(if i == 0 && n > 1 { 9 } else { 10 }) + usize::from(i == 0 && n > 1)) as u8)
        })
        .collect()
}

fn hex(r: &mut Random, n: usize) -> String {
    (0..n).map(|_| char::from_digit(r.below(16) as u32, 16).unwrap()).collect()
}

/// A value for the text between `«` and `»`.
fn value(spec: &str, r: &mut Random) -> String {
    let ip = |r: &mut Random| format!("{}.{}.{}.{}", 10 + r.below(200), r.below(256), r.below(256), r.below(256));
    let word = |r: &mut Random| ["data", "home", "usr", "jobs", "run7", "lib", "test_a", "bench", "out"][r.below(9)];
    let number = |s: &str| s.parse::<usize>().ok();
    match spec {
        "#" => {
            let most = 1 + r.below(5);
            digits(r, most)
        }
        "ip" => ip(r),
        "ip,ip" => format!("{},{}", ip(r), ip(r)),
        "ipport" => format!("{}:{}", ip(r), 1024 + r.below(60000)),
        "mac" => (0..6).map(|_| hex(r, 2)).collect::<Vec<_>>().join(":"),
        "uuid" => [8, 4, 4, 4, 12].map(|n| hex(r, n)).join("-"),
        "path" => format!("/{}/{}/{}", word(r), word(r), word(r)),
        "host:" => match r.below(5) {
            0 => format!("{}:{}", ip(r), 80 + r.below(9000)),
            1 => format!("{}.com:443", word(r).trim_end_matches("_a")),
            _ => format!(
                "{}.{}.example.edu:{}",
                ["proxy", "www", "s-3", "mail"][r.below(4)],
                word(r).replace('_', ""),
                [80, 443, 5070][r.below(3)]
            ),
        },
        _ if spec.starts_with('#') => match spec[1..].split_once('.') {
            Some((a, b)) => {
                let whole = digits(r, number(a).unwrap_or(2));
                let part: String = (0..number(b).unwrap_or(1)).map(|_| char::from(b'0' + r.below(10) as u8)).collect();
                format!("{whole}.{part}")
            }
            None => digits(r, number(&spec[1..]).unwrap_or(3)),
        },
        _ if number(spec.strip_prefix('x').unwrap_or("-")).is_some() => hex(r, number(&spec[1..]).unwrap_or(8)),
        _ if spec != "0x0" && number(spec.strip_prefix("0x").unwrap_or("-")).is_some_and(|n| n < 20) => {
            format!("0x{}", hex(r, number(&spec[2..]).unwrap_or(8)))
        }
        _ => {
            // what comes first is the most frequent
            let of: Vec<&str> = spec.split('|').collect();
            of[r.below(of.len()).min(r.below(of.len()))].to_owned()
        }
    }
}

/// One line of a statement.
pub fn fill(template: &str, r: &mut Random) -> String {
    let mut out = String::new();
    let mut rest = template;
    while let Some((before, more)) = rest.split_once('«') {
        let (spec, after) = more.split_once('»').expect("« without »");
        out.push_str(before);
        out.push_str(&value(spec, r));
        rest = after;
    }
    out + rest
}

/// Lines with the number of their statement, in random order, and the statements.
pub fn lines(file: &str, seed: u64) -> (Vec<(usize, String)>, Vec<String>) {
    let mut r = Random(seed);
    let mut lines = Vec::new();
    let mut templates = Vec::new();
    for row in file.lines().filter(|l| !l.is_empty()) {
        let (count, template) = row.split_once(' ').expect("COUNT TEMPLATE");
        for _ in 0..count.parse::<usize>().expect("a count") {
            lines.push((templates.len(), fill(template, &mut r)));
        }
        templates.push(template.to_owned());
    }
    for i in (1..lines.len()).rev() {
        lines.swap(i, r.below(i + 1));
    }
    (lines, templates)
}
