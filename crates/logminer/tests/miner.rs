//! The miner as a whole: order, shards, bounds, counts, parameters, regular expressions. Lines are written for these tests; with
//! PGEDGE_LOGHUB set the labelled sets are run as well.

mod common;

use pgedge_logminer::*;

/// A small deterministic generator (SplitMix64).
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
    fn below(&mut self, n: usize) -> usize {
        (self.next() % n as u64) as usize
    }
    fn pick<'a>(&mut self, of: &[&'a str]) -> &'a str {
        of[self.below(of.len())]
    }
    fn shuffle<T>(&mut self, v: &mut [T]) {
        for i in (1..v.len()).rev() {
            v.swap(i, self.below(i + 1));
        }
    }
}

fn stream(n: usize) -> Vec<String> {
    let mut r = Random(7);
    let people = ["ann", "bob", "carol", "dave", "eve", "frank", "grace", "heidi"];
    let things =
        ["pump", "valve", "fan", "lamp", "door", "lock", "heater", "sensor", "relay", "meter", "clock", "siren"];
    (0..n)
        .map(|_| match r.below(12) {
            0 => format!("User {} logged in", r.below(5000)),
            1 => format!("Query took 0.{:02}s", r.below(100)),
            2 => format!("Error: File not found: /var/data/{}/{}.txt", r.pick(&things), r.below(900)),
            3 => format!(
                "Accepted password for {} from 10.0.{}.{} port {} ssh2",
                r.pick(&people),
                r.below(256),
                r.below(256),
                r.below(65536)
            ),
            4 => format!("device {} switched {}", r.pick(&things), r.pick(&["on", "off"])),
            5 => format!("link eth{} is up at {} Mbps", r.below(4), r.pick(&["10", "100", "1000"])),
            6 => format!(
                "mqtt: connection from host-{}.local closed: reason={}",
                r.below(40),
                r.pick(&["timeout", "eof", "auth"])
            ),
            7 => format!(
                "GET \"{}\" returned {} in {}ms",
                r.pick(&["/index.html", "/api/v1/items", "/favicon.ico"]),
                200 + r.below(4),
                r.below(900)
            ),
            8 => format!(
                "backup {:08x}-{:04x}-4000-8000-{:012x} finished, {} KB",
                r.next() as u32,
                r.below(65536),
                r.next() & 0xffff_ffff_ffff,
                r.below(9999)
            ),
            9 => format!("cache (size {} MB) flushed ({} entries) [{}]", r.below(64), r.below(9999), r.pick(&things)),
            10 => format!(
                "temperature of {} = {}.{} C, ok={}",
                r.pick(&things),
                r.below(90),
                r.below(10),
                r.pick(&["true", "false"])
            ),
            _ => "heartbeat".to_owned(),
        })
        .collect()
}

fn bits(m: &Miner) -> String {
    serde_json::to_string(m).unwrap() + &serde_json::to_string(&m.summaries(10)).unwrap()
}

fn mined<'a>(lines: impl IntoIterator<Item = &'a String>, limit: usize) -> Miner {
    let mut m = Miner::new(limit);
    lines.into_iter().for_each(|l| m.add(l));
    m
}

/// 20 shuffles, split among 1, 2 and 8 miners each and merged in any order: the same state, bit for bit, and no line lost.
fn check_any_order(lines: &[String], limit: usize) {
    let expected = bits(&mined(lines, limit));
    let mut r = Random(1);
    let mut order: Vec<&String> = lines.iter().collect();
    for round in 0..20 {
        r.shuffle(&mut order);
        for shards in [1, 2, 8] {
            let mut parts: Vec<Miner> =
                (0..shards).map(|k| mined(order.iter().skip(k).step_by(shards).copied(), limit)).collect();
            while parts.len() > 1 {
                let a = parts.swap_remove(r.below(parts.len()));
                let b = r.below(parts.len());
                parts[b].merge(&a);
            }
            assert_eq!(bits(&parts[0]), expected, "shuffle {round}, {shards} shards, limit {limit}");
            assert_eq!(parts[0].lines(), lines.len() as u64);
        }
    }
    let again: Miner = serde_json::from_str(&serde_json::to_string(&mined(lines, limit)).unwrap()).unwrap();
    assert_eq!(bits(&again), expected);
}

#[test]
fn any_order_any_shards_same_bits() {
    for limit in [4096, 40] {
        check_any_order(&stream(3000), limit);
    }
    // more than one structure may keep, with more first words than are told apart
    let mut lines = services(900);
    lines.extend((0..900).map(|i| format!("{}{} was here", ["pa", "re", "ti"][i % 3], "ox".repeat(1 + i % 30))));
    lines.extend(services(900).iter().map(|l| l.split(' ').rev().collect::<Vec<_>>().join(" ")));
    for limit in [4096, 60] {
        check_any_order(&lines, limit);
    }
}

#[test]
fn growing_only_generalises() {
    let mut set = PatternSet::default();
    let mut known: std::collections::BTreeMap<String, String> = Default::default();
    for line in stream(3000) {
        let shape = shape(&line);
        let outcome = set.insert(&shape);
        for (old, new) in &outcome.generalised {
            assert_ne!(old, new);
            for p in known.values_mut().filter(|p| *p == old) {
                p.clone_from(new);
            }
        }
        known.insert(shape.clone(), outcome.pattern);
        if outcome.is_new {
            for (s, p) in set.patterns() {
                assert_eq!(known[s], p, "the reported changes lead to the patterns of the set");
            }
        }
        assert!(parameters(&line, &known[&shape]).is_some());
    }
}

#[test]
fn floods_stay_bounded_and_counted() {
    let mut m = Miner::new(200);
    let mut r = Random(3);
    for i in 0..2000 {
        m.add("steady state reached");
        m.add(&format!("User {i} logged in"));
        let word: String = (0..12).map(|_| char::from(b'g' + r.below(16) as u8)).collect();
        m.add(&format!("flood {word} and {}", word.chars().rev().collect::<String>()));
        m.add(&word);
        m.add(&format!("{}{}", ["[", "(", "<", "=", ","][r.below(5)].repeat(1 + r.below(9)), word));
    }
    assert_eq!(m.lines(), 10_000);
    assert!(m.pattern_set().len() <= 200);
    let found = m.summaries(5);
    assert_eq!(found.iter().map(|p| p.count).sum::<u64>(), 10_000);
    assert!(found.iter().any(|p| p.pattern == "User {ID} logged in" && p.count == 2000));
    assert!(found.iter().any(|p| p.pattern == "steady state reached" && p.count == 2000));
    assert!(serde_json::to_string(&m).unwrap().len() < 2_000_000);
}

/// `n` lines of one structure: a word out of 8,000 between two others.
fn services(n: usize) -> Vec<String> {
    const PARTS: [&str; 20] = [
        "ka", "lo", "mi", "nu", "pe", "ra", "si", "to", "vu", "wa", "ze", "bo", "cy", "du", "fa", "go", "hi", "ju",
        "xo", "qi",
    ];
    let word = |i: usize| [PARTS[i % 20], PARTS[i / 20 % 20], PARTS[i / 400 % 20]].concat();
    (0..n).map(|i| format!("service {} moved", word(i))).collect()
}

#[test]
fn forgotten_shapes_are_counted_in_the_pattern_that_covers_them() {
    let mut lines = services(6000);
    lines.extend((0..300).map(|i| format!("steady {i}")));
    lines.extend(services(700).iter().map(|l| l.replace("service", "module").replace("moved", "went")));
    let mut r = Random(5);
    for limit in [100, 600, DEFAULT_LIMIT] {
        r.shuffle(&mut lines);
        let found: Vec<(String, u64)> =
            mined(&lines, limit).summaries(3).into_iter().map(|p| (p.pattern, p.count)).collect();
        let expected = [("service {*} moved", 6000), ("module {*} went", 700), ("steady {NUM}", 300)];
        assert_eq!(found, expected.map(|(p, n)| (p.to_owned(), n)), "limit {limit}");
    }
}

#[test]
fn what_is_kept_depends_on_the_set_alone() {
    let mut lines = services(5000);
    lines.extend(stream(3000));
    let words = ["gate", "mill", "farm", "barn", "dock", "yard", "hall", "shed"];
    let mut r = Random(9);
    lines.extend((0..3000).map(|i| {
        let text: Vec<&str> = (0..2 + r.below(6)).map(|_| r.pick(&words)).collect();
        text.join([" ", ": ", ", ", " - ", "/"][i % 5])
    }));
    let mut shapes: Vec<String> = lines.iter().map(|l| shape(l)).collect();
    for limit in [50, 700, DEFAULT_LIMIT] {
        let mut whole = PatternSet::new(limit);
        whole.insert_all(shapes.iter().map(String::as_str), || ());
        let expected: Vec<(String, String)> = whole.patterns().into_iter().map(|(s, p)| (s.to_owned(), p)).collect();
        assert!(expected.len() <= limit);
        for size in [1, 17, 1000] {
            r.shuffle(&mut shapes);
            let mut set = PatternSet::new(limit);
            let mut known = std::collections::BTreeSet::new();
            // one by one each forgotten shape has its group computed anew
            let some = if size == 1 && limit > 50 { 0 } else { shapes.len() };
            for batch in shapes[..some].chunks(size) {
                if let [shape] = batch {
                    let outcome = set.insert(shape);
                    if outcome.is_new {
                        known.insert(shape.clone());
                    }
                    outcome.forgotten.iter().for_each(|gone| assert!(known.remove(gone)));
                    assert_eq!(outcome.is_kept, set.contains(shape));
                } else {
                    let growth = set.insert_all(batch.iter().map(String::as_str), || ());
                    growth.forgotten.iter().for_each(|gone| assert!(known.remove(gone)));
                    growth.added.into_iter().for_each(|new| assert!(known.insert(new)));
                }
                assert!(set.len() <= limit);
            }
            if some > 0 {
                let found: Vec<(String, String)> = set.patterns().into_iter().map(|(s, p)| (s.to_owned(), p)).collect();
                assert_eq!(found, expected, "limit {limit}, batches of {size}");
                assert!(known.iter().eq(expected.iter().map(|(s, _)| s)));
                for shape in &shapes {
                    assert_eq!(set.cover(shape), whole.cover(shape));
                    assert!(parameters_of(shape, &set.cover(shape)).is_some() || shape.contains('{'));
                }
            }
        }
    }
}

#[test]
fn one_structure_keeps_a_bounded_sample() {
    let shapes = services(6000);
    let mut set = PatternSet::default();
    let growth = set.insert_all(shapes.iter().map(String::as_str), || ());
    assert_eq!((set.len(), growth.added.len(), growth.forgotten.len()), (MAX_OF_STRUCTURE, MAX_OF_STRUCTURE, 0));
    assert!(shapes.iter().all(|s| set.cover(s) == "service {*} moved"));
    let mut ticks = 0;
    set.insert_all(shapes.iter().map(String::as_str), || ticks += 1);
    assert_eq!(ticks, shapes.len(), "known and rejected shapes compute nothing");
}

/// Every line is found again by the expression of its pattern and by no other, and has its parameters.
fn check_round_trip(lines: &[&str], exact: bool) -> (usize, usize) {
    let mut set = PatternSet::default();
    let shapes: Vec<String> = lines.iter().map(|l| log_pattern(l)).collect();
    shapes.iter().for_each(|s| {
        set.insert(s);
    });
    let mut patterns: Vec<String> = shapes.iter().map(|s| set.pattern(s).unwrap()).collect();
    let of_line = patterns.clone();
    patterns.sort();
    patterns.dedup();
    let mut strays = 0;
    for p in &patterns {
        let expression =
            regex::RegexBuilder::new(&pattern_regex(p)).dot_matches_new_line(true).size_limit(1 << 26).build().unwrap();
        for (line, own) in lines.iter().zip(&of_line) {
            let found = expression.is_match(line);
            if own == p {
                assert!(found, "{line}\n{p}\n{}", pattern_regex(p));
                assert_eq!(parameters(line, p).map(|v| v.len()), Some(parameter_kinds(p).len()), "{line}\n{p}");
            } else {
                assert_eq!(parameters(line, p), None, "{line}\n{p}");
                if found {
                    strays += 1;
                    if std::env::var_os("SHOW_STRAYS").is_some() {
                        println!("stray: {line}\n  own {own}\n  of {p}");
                    }
                    assert!(!exact, "{line}\n{p}");
                }
            }
        }
    }
    (patterns.len(), strays)
}

#[test]
fn lines_are_found_again() {
    let lines = stream(600);
    check_round_trip(&lines.iter().map(String::as_str).collect::<Vec<_>>(), true);
    check_round_trip(
        &[
            "2024-01-15T10:30:00.123Z stderr F Connection lost after 30s",
            "2024-01-15 10:30:00,123 ERROR Connection to 10.0.0.1:5432 refused",
            "I0102 15:04:05.678901    1234 server.go:42] Listening on [::1]:8080",
            "<34>Oct 11 22:14:15 edge su[230]: 'su root' failed for lonvick on /dev/pts/8",
            r#"{"level":"warn","msg":"disk 91% full","device":"sda1"}"#,
            "level=info ts=2024-01-01T00:00:00Z msg=\"scrape took 12ms\" target=node",
            "\u{1b}[31mred alert\u{1b}[0m in sector 7",
            "10.0.0.9 - - [05/Jan/2024:10:00:00 +0000] \"GET /a?b=c HTTP/1.1\" 200 612 \"-\" \"curl/8.1\"",
            r"copied C:\Users\ann\file.txt to \\nas\share\x",
            "java.lang.IllegalStateException: bad 7\n\tat a.b.C.d(C.java:1)\n\tat a.b.C.e(C.java:2)\nCaused by: x",
            "Traceback (most recent call last):\n  File \"x.py\", line 3, in f\nValueError: bad 42",
            "template {ID} and {*} in the text",
            "größe 12 überschritten: 東京 5",
        ],
        true,
    );
}

#[test]
fn lines_with_marks_are_found_again() {
    let names = ["Hall Motion", "TV light", "office_switch", "0x00158d0001a2b3c4", "Front Door", "a/b c/d"];
    let mut lines: Vec<String> = names.iter().map(|n| format!("Device '{n}' joined on topic 'home/{n}/set'")).collect();
    // two values that vary together
    lines.extend(names.iter().map(|n| format!("column \"{n}\" of relation \"the {n}\" does not exist")));
    lines.extend(names.iter().map(|n| format!("for volume \\\"{n}\\\" (UniqueName: \\\"{n}\\\") ok")));
    lines.extend(names.iter().map(|n| format!("Component \\042{n}\\042 is in the unavailable state")));
    lines.extend(
        ["::1", "::ffff:10.0.0.1", "10.0.0.1", "[::1]:80", "[fe80::1%eth0]:22", "[::]:443", "10.0.0.1:80"]
            .map(|a| format!("Accepted {a} now")),
    );
    lines.extend(["000000f2", "00000080"].map(|n| format!("{n}@2016/9/28:04:30:31.860 trace")));
    lines.extend(
        ["serving", "5", "a/b", ""]
            .map(|m| format!("time=\"2024-01-01T00:00:00Z\" level=info msg={m} address=/run/c.sock a=b")),
    );
    lines.extend(
        [("a-b; ", 400), ("[x] ", 600), ("payload {\"a\":\"b\"} ", 200)].map(|(part, times)| part.repeat(times)),
    );
    lines.push(format!("GET /x?{}", "a=1&".repeat(5000)));
    lines.extend(["nginx", "user@1000", "getty@tty1"].map(|u| format!("Started {u}.service now")));
    let (patterns, _) = check_round_trip(&lines.iter().map(String::as_str).collect::<Vec<_>>(), true);
    assert!(patterns <= 6 + 2 + 4 + 4 + 3, "{patterns}");
    check_any_order(&lines, 4096);
}

/// Lines of few words and all that is read as more than words, so that slots open in every place: a pattern is cut as its shapes are, whatever opened in it.
#[test]
fn patterns_have_the_structure_of_their_shapes() {
    let words = [
        "up",
        "Set",
        "GET",
        "PUT",
        "POST",
        "HEAD",
        "eth0",
        "rpc.statd",
        "to",
        "in",
        "a-b",
        "disk",
        "ID",
        "x",
        "Down",
        "lost",
        "on",
    ];
    let forms = [
        "7", "10.0.0.1", "::1", "/var/x", "12ms", "-", "*", "...", "it's", "{*}", "a@b.org", "8%", "é", "log.in",
        "{1:4}", "\"\"", "\"", "'", "[a", "w]", "{ID}", "failed",
    ];
    let between = [" ", " ", " ", " ", " ", ": ", ", ", "=", "= ", " = ", ":", "/", ".", ". ", "; ", " - "];
    let around = [
        ("(", ")"),
        ("[", "]"),
        ("{", "}"),
        ("\"", "\""),
        ("'", "'"),
        ("<", ">"),
        ("\\\"", "\\\""),
        ("x(", ")"),
        ("key=\"", "\""),
        ("k: [", "]"),
        ("Set(", ")"),
        ("call(", ")"),
        ("\\042", "\\042"),
        ("", ""),
    ];
    let mut r = Random(11);
    for round in 0..400 {
        // the same texts around others again and again
        let frames: Vec<Vec<(&str, usize)>> =
            (0..6).map(|_| (0..2 + r.below(6)).map(|_| (r.pick(&between), r.below(around.len()))).collect()).collect();
        let fixed: Vec<&str> = (0..8).map(|_| r.pick(&words)).collect();
        let mut set = PatternSet::default();
        let mut shapes = Vec::new();
        for _ in 0..150 {
            let mut line = String::new();
            for (i, &(gap, pair)) in frames[r.below(frames.len())].iter().enumerate() {
                let (open, close) = around[pair];
                line.push_str(if i == 0 { "" } else { gap });
                line.push_str(open);
                for n in 0..1 + r.below(3) * usize::from(pair < 6 || pair == 10) {
                    line.push_str(if n == 0 { "" } else { r.pick(&[" ", ", ", ","]) });
                    line.push_str(match r.below(5) {
                        0 | 1 => fixed[i],
                        2 => r.pick(&forms),
                        _ => r.pick(&words),
                    });
                }
                line.push_str(close);
            }
            let shape = log_pattern(&line);
            set.insert(&shape);
            shapes.push((line, shape));
        }
        for (line, shape) in &shapes {
            let pattern = set.pattern(shape).unwrap();
            assert_eq!(structure(&pattern), structure(shape), "round {round}\n{shape}\n{pattern}");
            let values = parameters(line, &pattern).map(|v| v.len());
            assert_eq!(values, Some(parameter_kinds(&pattern).len()), "round {round}\n{line}\n{shape}\n{pattern}");
            if round % 10 > 0 {
                continue;
            }
            let expression = pattern_regex(&pattern);
            let found = regex::RegexBuilder::new(&expression)
                .dot_matches_new_line(true)
                .size_limit(1 << 27)
                .build()
                .unwrap()
                .is_match(line);
            assert!(found, "round {round}\n{line}\n{pattern}\n{expression}");
        }
    }
}

/// What another version made of lines that this one cuts elsewhere.
#[test]
fn patterns_of_another_version_have_a_successor() {
    let mut set = PatternSet::default();
    for agent in ["agent.", "updater.", "dism.", "backup.", "cron.", "hand."] {
        set.insert(&format!("started by {agent}"));
    }
    for line in ["sync of disk/a: {NUM}", "sync of share/b: {NUM}", "user {ID} of the pool logged in"] {
        set.insert(line);
    }
    for (old, now) in [
        ("started by {*}", Some("started by {*}.")),
        ("started by agent.", Some("started by {*}.")),
        // one pattern then, two now
        ("sync of {*}: {NUM}", None),
        ("never heard {*} of", Some(OTHER)),
        // a word that has become a value is no part of a sentence
        ("user {*} logged in", Some(OTHER)),
        (OTHER, None),
    ] {
        assert_eq!(set.successor(old).as_deref(), now, "{old}");
    }
}

/// The patterns of some lines.
fn patterns_of(lines: &[&str]) -> Vec<String> {
    let mut set = PatternSet::default();
    lines.iter().for_each(|l| {
        set.insert(&log_pattern(l));
    });
    let mut found: Vec<String> = set.patterns().into_iter().map(|(_, p)| p).collect();
    found.sort();
    found.dedup();
    found
}

#[test]
fn a_full_stop_is_the_sentences() {
    let lines = [
        "started by agent.",
        "started by updater.",
        "started by dism.",
        "started by backup.",
        "started by cron.",
        "started by hand.",
    ];
    assert_eq!(patterns_of(&lines), ["started by {*}."]);
    assert_eq!(
        patterns_of(&["Link Down on eth0. Reason 8", "Link Down on eth1. Reason 3"]),
        ["Link Down on {*}. Reason {NUM}"]
    );
    check_round_trip(&lines, true);
}

#[test]
fn missing_values_are_values() {
    let lines = [
        "recv() failed, client: 10.0.0.7, server: , host: \"a.example.org\"",
        "recv() failed, client: 10.0.0.8, server: example.org, host: \"a.example.org\"",
        "login failed uid=0 ruser= rhost=10.0.0.7",
        "login failed uid=0 ruser=ann rhost=10.0.0.7",
        "set name=\"\" now",
        "set name=\"x y\" now",
        "mode=- now and then it is",
        "mode=fast now and then it is",
        "srcintf=\"\" dstintf=\"\" action=deny",
        "srcintf=\"wan 1\" dstintf=\"\" action=deny",
        "srcintf=\"\" dstintf=\"lan\" action=deny",
    ];
    assert_eq!(
        patterns_of(&lines),
        [
            "login failed uid={ID} ruser={*} rhost={IP}",
            "mode={*} now and then it is",
            "recv() failed, client: {IP}, server: {*}, host: \"{NAME}\"",
            "set name=\"{*}\" now",
            "srcintf=\"{*}\" dstintf=\"{*}\" action=deny",
        ]
    );
    check_round_trip(&["login user=- from 10.0.0.1", "login user=ann from 10.0.0.1"], true);
    check_round_trip(&lines, true);
    assert_eq!(
        parameters(lines[0], "recv() failed, client: {IP}, server: {*}, host: \"{NAME}\"").unwrap(),
        ["10.0.0.7", "", "a.example.org"]
    );
}

#[test]
fn quoted_text_is_a_statement_or_a_value() {
    // what a line begins with, in front of keys, is no value
    let lines = [
        "\"Failed to update lease\" err=\"timed out\"",
        "\"Skipping pod synchronization\" err=\"runtime is down\"",
        "\"Starting volume manager\" err=\"none\"",
        "\"Deleting stale records\" err=\"of the node\"",
        "\"Unable to read config\" err=\"no file\"",
        "\"Attempting to sync node\" err=\"not yet\"",
    ];
    assert_eq!(patterns_of(&lines).len(), lines.len());
    check_round_trip(&lines, true);
    // a request by itself is a statement with its method, as the value of a key it is a value
    let requests = ["GET", "POST", "HEAD"].map(|m| format!("10.0.0.7 \"{m} /x HTTP/1.1\" status: 200"));
    assert_eq!(patterns_of(&requests.each_ref().map(String::as_str)).len(), 3);
    let keyed = ["GET", "POST", "HEAD", "PUT", "DELETE", "PATCH"]
        .map(|m| format!("upstream timed out while reading, request: \"{m} /x HTTP/1.1\""));
    assert_eq!(
        patterns_of(&keyed.each_ref().map(String::as_str)),
        ["upstream timed out while reading, request: \"{*}\""]
    );
}

#[test]
fn four_constants_are_values_and_two_are_states() {
    let states =
        ["LOOKING", "FOLLOWING", "LEADING", "OBSERVING"].map(|s| format!("peer of the ensemble goes to state {s} now"));
    let states = states.each_ref().map(String::as_str);
    assert_eq!(patterns_of(&states[..2]).len(), 2);
    assert_eq!(patterns_of(&states), ["peer of the ensemble goes to state {*} now"]);
}

#[test]
fn words_of_errors_are_one_value() {
    let errors =
        ["Permission denied", "No such file or directory", "Input/output error", "Exec format error", "Timeout"];
    let lines = errors.map(|e| format!("loader: change to directory /home/x failed: {e}."));
    let all = lines.each_ref().map(String::as_str);
    // three may be three statements
    assert_eq!(patterns_of(&all[..3]).len(), 3);
    assert_eq!(patterns_of(&all), ["loader: change to directory {PATH} failed: {*}."]);
    check_round_trip(&all, true);
    assert_eq!(
        parameters(&lines[1], "loader: change to directory {PATH} failed: {*}.").unwrap(),
        ["/home/x", "No such file or directory"]
    );
    for between in [", ", ": [113] "] {
        let lines = errors.map(|e| format!("error while reading from socket to 10.0.0.7{between}{e}"));
        assert_eq!(patterns_of(&lines.each_ref().map(String::as_str)).len(), 1, "{between}");
    }
    let remarks =
        ["station leaving now", "Unspecified", "auth no longer valid", "too many clients", "inactive for long"];
    let lines = remarks.map(|r| format!("link down on radio 7, reason 8 ({r})"));
    assert_eq!(patterns_of(&lines.each_ref().map(String::as_str)), ["link down on radio {NUM}, reason {NUM} ({*})"]);
}

/// What has the form of an error, a collection or a constant, and is another statement each time.
#[test]
fn statements_that_look_like_values_stay_apart() {
    let apart: [&[&str]; 5] = [
        &[
            "e1000 slot 3 of eth0: link is up",
            "e1000 slot 3 of eth0: link is down",
            "e1000 slot 3 of eth0: reset adapter now",
            "e1000 slot 3 of eth0: detected hardware unit hang",
            "e1000 slot 3 of eth0: changing the MTU",
        ],
        &[
            "received {\"cmd\":\"start\",\"id\":7}",
            "received {\"fatal\":\"disk\",\"code\":5}",
            "received {\"op\":true}",
        ],
        &[
            "ALLOW traffic from zone dmz to zone lan",
            "DENY traffic from zone dmz to zone lan",
            "DROP traffic from zone dmz to zone lan",
            "REJECT traffic from zone dmz to zone lan",
        ],
        &["\"Created\" pod=\"a/b\"", "\"Deleted\" pod=\"a/b\"", "\"Evicted\" pod=\"a/b\""],
        &[
            "door 7 event (opened by key)",
            "door 7 event (closed by key)",
            "door 7 event (forced open)",
            "door 7 event (held open)",
        ],
    ];
    for lines in apart {
        assert_eq!(patterns_of(lines).len(), lines.len(), "{lines:?}");
        check_round_trip(lines, true);
    }
}

/// A shape that has a wildcard itself agrees with others whichever came first.
#[test]
fn words_that_are_too_long_come_in_any_order() {
    let long = "w".repeat(200);
    let lines = [
        format!("file {long} of {long} failed: --"),
        format!("file a-b of started failed: {long}"),
        "file a-b of RUN failed: started".into(),
    ];
    let [a, b, c] = lines.each_ref().map(String::as_str);
    let expected = patterns_of(&[a, b, c]);
    for order in [[a, c, b], [b, a, c], [b, c, a], [c, a, b], [c, b, a]] {
        assert_eq!(patterns_of(&order), expected);
    }
}

#[test]
fn collections_are_one_value() {
    let lines = [
        "removed fetcher for partitions Set(orders-3)",
        "removed fetcher for partitions Set(orders-3, clicks-1)",
        "removed fetcher for partitions Set(orders-7, clicks-1, __offsets-12)",
        "removed fetcher for partitions Set(payments.v2-4, orders-1)",
        "compacting [Reader(path='/a/b')]",
        "compacting [Reader(path='/a/b'), Reader(path='/c/d')]",
        "counts were {1:4}",
        "counts were {1:4, 2:7}",
        "sync pods=[\"a/b\"]",
        "sync pods=[\"a/b\",\"c/d\"]",
    ];
    assert_eq!(
        patterns_of(&lines),
        ["compacting [{*}]", "counts were {{*}}", "removed fetcher for partitions Set({*})", "sync pods=[{*}]"]
    );
    check_round_trip(&lines, true);
    assert_eq!(parameters(lines[7], "counts were {{*}}").unwrap(), ["1:4, 2:7"]);
    // keys with values are no elements, and one word is none of several
    assert_eq!(patterns_of(&["got {a=1, b=up}", "got {a=1, b=down}", "got {a=1, b=off}"])[0], "got {a={NUM}, b={*}}");
}

#[test]
fn values_that_vary_together_open_together() {
    let mut r = Random(23);
    let lines: Vec<String> = (0..400)
        .map(|_| {
            let [a, b, c] = [r.below(90), r.below(4), r.below(30)];
            let kind = ["GET", "PUT"][r.below(2)];
            format!("op {} path=p{a:x}q mode=m{b:x}z verb={kind} by 'user {c}' done", ["read", "write"][r.below(2)])
        })
        .collect();
    check_any_order(&lines, 4096);
    let mut set = PatternSet::default();
    lines.iter().for_each(|l| drop(set.insert(&log_pattern(l))));
    let mut patterns: Vec<String> = lines.iter().map(|l| set.pattern(&log_pattern(l)).unwrap()).collect();
    patterns.sort();
    patterns.dedup();
    assert!(patterns.len() <= 4, "{patterns:?}");
    assert!(
        patterns.iter().all(|p| p.contains("path={*} mode={*} verb=") && p.ends_with("by 'user {ID}' done")),
        "{patterns:?}"
    );
}

#[test]
fn lines_of_many_systems_are_found_again() {
    for entry in std::fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/labelled")).unwrap().flatten() {
        let text = std::fs::read_to_string(entry.path()).unwrap();
        let lines = common::lines(&text, 1).0;
        let lines: Vec<&str> = lines.iter().map(|(_, l)| l.as_str()).collect();
        let (patterns, strays) = check_round_trip(&lines, false);
        println!("{:?}: {patterns} patterns, {strays} lines matched by an expression of another", entry.file_name());
        assert!(strays * 20 <= lines.len(), "{strays} of {}", lines.len());
    }
}

#[test]
fn labelled_sets() {
    let Some(suite) = std::env::var_os("PGEDGE_LOGHUB") else {
        println!("skipped: PGEDGE_LOGHUB names no directory of labelled sets");
        return;
    };
    for entry in std::fs::read_dir(suite).unwrap().flatten().filter(|e| e.path().is_dir()) {
        let name = entry.file_name().to_string_lossy().into_owned();
        let raw = std::fs::read(entry.path().join(format!("{name}_2k.log"))).unwrap();
        let text = String::from_utf8_lossy(&raw);
        let lines: Vec<&str> = text.lines().collect();
        let (patterns, strays) = check_round_trip(&lines, false);
        println!("{name}: {patterns} patterns, {strays} lines matched by an expression of another pattern");
        assert!(strays * 100 <= lines.len(), "{name}: {strays} of {}", lines.len());
        check_any_order(&lines.iter().map(|l| l.to_string()).collect::<Vec<_>>(), 4096);
    }
}

#[test]
fn any_text_is_safe() {
    let mut r = Random(11);
    let alphabet: Vec<char> = "aZ09 .:/-_{}[]()<>\"'=,;|@#%*\\\t\n\u{1b}é東\u{1F600}\u{85}xX".chars().collect();
    let forms = [
        "{NUM}",
        "12.5ms",
        "10.0.0.1:80",
        "/a/b",
        "Jan 5",
        "2024-01-01",
        "true",
        "null",
        "a@b.co",
        "0x1f",
        "=\"",
        "\n\tat x(",
        "{\"msg\":\"",
        "a1 a2 ",
        "1 2 3 ",
    ];
    let mut m = Miner::new(100);
    for _ in 0..20_000 {
        let mut line = String::new();
        for _ in 0..r.below(30) {
            match r.below(4) {
                0 => line.push_str(forms[r.below(forms.len())]),
                _ => line.push(alphabet[r.below(alphabet.len())]),
            }
        }
        let message = message_of(&line);
        let pattern = shape_of_message(&message);
        let found = parameters_of(&message, &pattern).unwrap_or_else(|| panic!("{line:?} {pattern:?}"));
        assert_eq!(found.len(), parameter_kinds(&pattern).len(), "{line:?} {pattern:?}");
        mask_secrets(&line);
        m.add(&line);
    }
    assert_eq!(m.lines(), 20_000);
    let long = "x1 ".repeat(400_000) + &"word ".repeat(100_000) + &"é".repeat(100_000);
    assert!(shape(&long).len() < MAX_SHAPE + 1000);
    assert!(shape(&"ab, (cd) ".repeat(100_000)).len() < MAX_SHAPE + 1000);
}

/// Seconds of CPU that this thread took; elapsed time where the system does not tell.
fn seconds(f: impl FnOnce()) -> f64 {
    let cpu = || {
        let text = std::fs::read_to_string("/proc/thread-self/schedstat").ok()?;
        Some(text.split(' ').next()?.parse::<u64>().ok()? as f64 / 1e9)
    };
    let (start, before) = (std::time::Instant::now(), cpu());
    f();
    match (before, cpu()) {
        (Some(a), Some(b)) => b - a,
        _ => start.elapsed().as_secs_f64(),
    }
}

#[test]
fn pathological_lines_take_bounded_work() {
    let mb = 1 << 20;
    let pairs: String = (0..100_000).map(|i| format!("key{i}=value{i} ")).collect();
    let lines = [
        ("one word", "x".repeat(mb)),
        ("digits", "7".repeat(mb)),
        ("blanks", " ".repeat(mb)),
        ("commas", ",".repeat(mb)),
        ("slashes", "/".repeat(mb)),
        ("backslashes", r"\".repeat(mb)),
        ("dots", "a.".repeat(mb / 2)),
        ("dashes", "a-1".repeat(mb / 3)),
        ("colons", "ab:".repeat(mb / 3)),
        ("stars", "** ".repeat(mb / 3)),
        ("less than", "<1 ".repeat(mb / 3)),
        ("at", "a@".repeat(mb / 2)),
        ("quotes", "\"a".repeat(mb / 2)),
        ("open quotes", "=\"".repeat(mb / 2)),
        ("brackets", "[".repeat(mb / 2) + &"]".repeat(mb / 2)),
        ("braces", "{".repeat(mb)),
        ("objects", "{\"msg\":".repeat(mb / 7)),
        ("switches", "on off ".repeat(mb / 7)),
        ("pairs", pairs),
        ("logfmt", format!("msg=x {}", "a=b ".repeat(mb / 4))),
        ("frames", format!("E\n{}", "\tat a.b(C.java:1)\n".repeat(mb / 18))),
        ("colours", "\u{1b}[31m".repeat(mb / 5)),
        ("wide", "é".repeat(mb / 2)),
        ("lists", "a1 a2 ".repeat(mb / 6)),
        ("queries", "/a?b=c&".repeat(mb / 7)),
    ];
    let mut m = Miner::new(100);
    for (name, line) in &lines {
        let message = message_of(line);
        let pattern = shape_of_message(&message);
        assert!(pattern.len() < 2 * MAX_SHAPE + 1000, "{name}: {}", pattern.len());
        assert!(parameters_of(&message, &pattern).is_some(), "{name}");
        let took = seconds(|| {
            m.add(line);
            mask_secrets(line);
        });
        // a quadratic pass over a megabyte takes minutes; a linear one in a debug build well under a second
        assert!(took < 20.0, "{name}: {took} s");
        println!("{name}: {:.1} ms", took * 1e3);
    }
    assert_eq!(m.lines(), lines.len() as u64);
}

#[test]
fn random_bytes_are_safe() {
    let mut r = Random(17);
    let mut m = Miner::new(50);
    for _ in 0..5000 {
        let n = r.below(200);
        let bytes: Vec<u8> = (0..n).map(|_| r.next() as u8).collect();
        let line = String::from_utf8_lossy(&bytes);
        let message = message_of(&line);
        let pattern = shape_of_message(&message);
        let found = parameters_of(&message, &pattern).unwrap_or_else(|| panic!("{line:?} {pattern:?}"));
        assert_eq!(found.len(), parameter_kinds(&pattern).len(), "{line:?} {pattern:?}");
        assert_eq!(shape(&pattern).is_empty(), pattern.is_empty());
        mask_secrets(&line);
        m.add(&line);
    }
    assert_eq!(m.lines(), 5000);
}
