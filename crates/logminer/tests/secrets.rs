//! Secrets: what is masked in lines and in JSON, and that none becomes text of a shape; and prose that holds none.

use pgedge_logminer::*;

/// Lines with a secret in which `S3cr` stands, by form.
fn secret_lines() -> Vec<String> {
    serde_json::from_str(include_str!("secrets/secret.json")).unwrap()
}

/// Lines without any: they stay as they are, and so do their shapes' words.
fn prose_lines() -> Vec<String> {
    serde_json::from_str(include_str!("secrets/prose.json")).unwrap()
}

#[test]
fn secrets_are_masked() {
    for line in &secret_lines() {
        let masked = mask_secrets(line);
        assert!(!masked.contains("S3cr"), "{line:?} shows {masked:?}");
        assert!(masked.contains("***"), "{line:?}");
        assert_eq!(mask_secrets(&masked), masked, "masking {masked:?} again");
    }
}

#[test]
fn secrets_are_no_text_of_a_shape() {
    for line in &secret_lines() {
        for line in [
            line.to_string(),
            format!("INFO {line}"),
            format!("<34>Oct 11 22:14:15 edge app[7]: {line} "),
            format!("at 5 {line}, then"),
        ] {
            let pattern = log_pattern(&line);
            assert!(!pattern.contains("S3cr"), "{line:?} has {pattern:?}");
            let mut miner = Miner::default();
            miner.add(&line);
            let told = &miner.summaries(5)[0];
            assert_eq!(told.pattern, pattern);
            let shown = mask_secrets(&serde_json::to_string(&told.parameters).unwrap()).into_owned();
            assert!(!shown.contains("S3cr"), "{line:?}: {shown}");
            let found = regex::RegexBuilder::new(&pattern_regex(&pattern))
                .dot_matches_new_line(true)
                .build()
                .unwrap()
                .is_match(&line);
            assert!(found || line.starts_with('{'), "the expression of {pattern:?} does not find {line:?}");
            assert!(parameters(&line, &pattern).is_some(), "{line:?}");
        }
    }
}

#[test]
fn prose_holds_no_secret() {
    for line in &prose_lines() {
        assert_eq!(mask_secrets(line), *line);
        assert_eq!(mask_line(line), *line);
        assert!(!log_pattern(line).contains("{SECRET}"), "{line}: {}", log_pattern(line));
    }
}

#[test]
fn shapes_and_what_is_shown() {
    for (line, pattern, shown) in [
        ("login password=S3cr ok", "login password={SECRET} ok", "login password=*** ok"),
        ("login password=4711 ok", "login password={SECRET} ok", "login password=*** ok"),
        ("login password=\"a b, c\" ok", "login password=\"{SECRET}\" ok", "login password=\"***\" ok"),
        ("Authorization: Bearer abc.def", "Authorization: Bearer {SECRET}", "Authorization: Bearer ***"),
        ("x password=a,b=c", "x password={SECRET},b=c", "x password=***,b=c"),
        ("GET /x?token=abcd&y=1 done", "GET {PATH} done", "GET /x?token=***&y=1 done"),
        ("network_key: [1, 3, 5, 255] set", "network_key: [{SECRET}] set", "network_key: [***] set"),
        ("userPassword:: aHVudGVyMg==", "userPassword:: {SECRET}", "userPassword:: ***"),
        ("> PASS hunter2", "", "> PASS ***"),
        ("< PASS hunter2\r", "", "< PASS ***\r"),
        ("get postgres://a:b@db/x", "get {URL}", "get postgres://a:***@db/x"),
        ("mail ann@example.org now", "mail {EMAIL} now", "mail *** now"),
        ("mail a.b+c@example.org now", "mail {EMAIL} now", "mail *** now"),
        (
            "key -----BEGIN EC PRIVATE KEY-----\nMHc=\n-----END EC PRIVATE KEY----- read",
            "key {SECRET} read",
            "key *** read",
        ),
        ("card 3782 822463 10005 ok", "card {LIST} ok", "card *** ok"),
        ("card 4111.1111.1111.1111 ok", "card {VER} ok", "card *** ok"),
        ("card 4111-1111-1111-1111, 4111-1111-1111-1112", "", "card ***, 4111-1111-1111-1112"),
        ("ssn 123-45-6789 ok", "", "ssn *** ok"),
        ("iban DE89 3704 0044 0532 0130 00 ok", "iban {SECRET} ok", "iban *** ok"),
        ("iban GB82WEST12345698765432 ok", "iban {ID} ok", "iban *** ok"),
        ("iban DE88 3704 0044 0532 0130 00 ok", "", "iban DE88 3704 0044 0532 0130 00 ok"),
    ] {
        assert_eq!(mask_secrets(line), shown);
        if !pattern.is_empty() {
            assert_eq!(log_pattern(line), pattern);
            assert_eq!(parameters(line, pattern).map(|p| p.len()), Some(1));
        }
    }
    assert_eq!(parameters("login password=ab ok", "login password={SECRET} ok"), Some(vec!["***".into()]));
}

#[test]
fn a_masked_line_has_the_same_shape() {
    for line in secret_lines()
        .iter()
        .filter(|l| l.contains('=') && !l.contains(['\\', '{', '@', '\x1b', '(']) && !l.contains("://"))
    {
        assert_eq!(log_pattern(&mask_secrets(line)), log_pattern(line), "{line}");
    }
}

#[test]
fn json_is_masked_by_key_and_by_value() {
    for (key, json, shown) in [
        ("token", "\"abc\"", "\"***\""),
        ("user", "{\"name\": \"ann\", \"password\": \"x\"}", "{\"name\": \"ann\", \"password\": \"***\"}"),
        (
            "user",
            "{\"name\":\"ann\",\"credentials\":{\"a\":[1,\"b\",null,true]}}",
            "{\"name\":\"ann\",\"credentials\":{\"a\":[\"***\",\"***\",null,true]}}",
        ),
        ("pid", "12345678901234567890.12", "12345678901234567890.12"),
        ("mail", "\"ann@example.org\"", "\"***\""),
        ("list", "[1, {\"x\": \"password=\\\"a b\\\" c\"}, []]", "[1, {\"x\": \"password=\\\"***\\\" c\"}, []]"),
        ("card", "4111111111111111", "\"***\""),
        (
            "headers",
            "{\"Cookie\":\"a=b\",\"Authorization\":\"Bearer x\",\"Host\":\"h\"}",
            "{\"Cookie\":\"***\",\"Authorization\":\"***\",\"Host\":\"h\"}",
        ),
        ("total_tokens", "1500", "1500"),
        ("network_key", "[1, 13, 255]", "[\"***\", \"***\", \"***\"]"),
        ("creds", "{\"a\":\"x\"}", "{\"a\":\"***\"}"),
        ("sort_key", "[1, 13, 255]", "[1, 13, 255]"),
        ("password", "null", "null"),
        ("x", "{\"ann@example.org\": 1}", "{\"***\": 1}"),
        ("x", "not json password=abc", "not json password=***"),
    ] {
        assert_eq!(mask_json(key, json), shown);
    }
    // cut off, or wrong in other ways
    assert_eq!(mask_line("{\"logs\":[{\"password\":\"hunter2\"}"), "{\"logs\":[{\"password\":\"***\"}");
    let deep = format!("{}\"password=abc\"{}", "[".repeat(5000), "]".repeat(5000));
    assert!(!mask_json("x", &deep).contains("abc"));
}

/// Text made of pieces that mean something to the masker.
fn pieces(seed: &mut u64, most: u64) -> String {
    const PIECES: [&str; 72] = [
        "password",
        "token",
        "key",
        "pass",
        "auth",
        "Authorization",
        "Cookie",
        "Bearer ",
        "Basic ",
        "sig",
        "sessionid",
        "secret",
        "=",
        ": ",
        ":",
        "=>",
        " ",
        "  ",
        "\"",
        "'",
        "\\\"",
        "\\",
        ",",
        ";",
        "&",
        "{",
        "}",
        "[",
        "]",
        "(",
        ")",
        "<",
        ">",
        "</",
        "/",
        "://",
        "@",
        "%40",
        "%3D",
        "%22",
        "-----BEGIN PRIVATE KEY-----",
        "-----END ",
        "\n",
        "\u{1b}[31m",
        "\u{1b}",
        "é",
        "用",
        "***",
        "a",
        "b.org",
        "S3cr3tA1b2",
        "12",
        "4111111111111111",
        "hunter2",
        " -u ",
        " -p",
        "--",
        "mysql",
        "AKIAABCDEFGHIJ12KLMN",
        "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0",
        "SG.",
        "is ",
        "DE89",
        "\u{10fffe}\u{10ffff}",
        "bindpw ",
        "pw",
        "PASS ",
        "command ",
        "::",
        "{SSHA}",
        "curl",
        " --user ",
    ];
    let mut below = |n: u64| {
        *seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (*seed >> 33) % n
    };
    (0..1 + below(most)).map(|_| PIECES[below(PIECES.len() as u64) as usize]).collect()
}

/// Whatever the text: no panic, masking again changes nothing, a line is of its own pattern.
#[test]
fn any_pieces() {
    let mut seed = 3;
    for round in 0..60_000 {
        let line = pieces(&mut seed, if round % 10 == 0 { 60 } else { 12 });
        let masked = mask_secrets(&line);
        assert_eq!(mask_secrets(&masked), masked, "{line:?}");
        let json = mask_json("x", &line);
        assert_eq!(mask_json("x", &json), json, "{line:?}");
        let pattern = log_pattern(&line);
        let strange = |text: &str| text.contains(['\u{10fffe}', '\u{10ffff}', '\u{fffe}']);
        assert!(strange(&line) || !strange(&pattern), "{line:?}: {pattern:?}");
        let found = parameters(&line, &pattern).unwrap_or_else(|| panic!("{line:?} is not of {pattern:?}"));
        assert_eq!(found.len(), parameter_kinds(&pattern).len(), "{line:?}");
    }
}

/// What is behind 16 kB of a line is not told, and a secret that lies across is hidden.
#[test]
fn long_lines() {
    let head = "x ".repeat(8180);
    let line = format!("{head} password=S3cr{}", "S3cr".repeat(300_000));
    assert!(!log_pattern(&line).contains("S3cr"));
    assert!(!mask_line(&line).contains("S3cr"));
    let found = parameters(&line, &log_pattern(&line)).unwrap();
    assert!(!found.concat().contains("S3cr"), "{}", found.concat().len());
    let mut miner = Miner::default();
    miner.add(&line);
    miner.add(&format!("get {}postgres://ann:{}@db/x", "y".repeat(1900), "S3cr".repeat(400)));
    assert!(!serde_json::to_string(&miner).unwrap().contains("S3cr"));
}

/// E-mail addresses in any surroundings are no text of a shape, and are told by the parameters.
#[test]
fn addresses() {
    for address in
        ["ann@example.org", "a.b+c@example.org", "ann_b@mail.example.co.uk", "ü@exämple.org", "o'ann@example.org"]
    {
        for (before, behind) in [
            ("mail ", " x"),
            ("<", ">"),
            ("to=<", ">, x"),
            ("(", ")"),
            ("\"", "\""),
            ("a=", ";"),
            ("user=", " x"),
            ("x:", ":25"),
            ("[", "]:"),
            ("", ""),
        ] {
            let line = format!("{before}{address}{behind}");
            let pattern = log_pattern(&line);
            assert!(
                !pattern.contains("ann") && !pattern.contains("example") && !pattern.contains('@'),
                "{line}: {pattern}"
            );
            assert!(parameters(&line, &pattern).unwrap().iter().any(|v| v.contains(address)), "{line}: {pattern}");
            assert!(!mask_secrets(&line).contains("example"), "{line}");
        }
    }
}

/// Hostile lines take time in proportion to their length, and never panic.
#[test]
fn any_bytes() {
    for piece in [
        "auth={",
        "password=\"",
        "token=[1 ",
        "http://",
        " -px",
        "> PASS x",
        "command PASS x       ",
        "bindpw {a}",
        " --user a",
        "<sig>",
        "cookie: ",
        "@",
        "%40a.bc",
        "-----BEGIN PRIVATE KEY",
        "é@é.éé",
        "key=\\\"",
        "\"@",
    ] {
        let line = piece.repeat(16 * 1024 / piece.len());
        mask_secrets(&line);
        log_pattern(&line);
        mask_json("x", &line);
    }
    for line in &secret_lines() {
        for (cut, _) in line.char_indices() {
            mask_secrets(&line[cut..]);
            log_pattern(&line[..cut]);
            mask_json("x", &line[cut..]);
        }
    }
}
