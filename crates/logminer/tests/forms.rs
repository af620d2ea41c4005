//! What single lines become.

use pgedge_logminer::*;

fn check(cases: &[(&str, &str)]) {
    for (line, expected) in cases {
        assert_eq!(log_pattern(line), *expected, "{line}");
    }
}

#[test]
fn golden() {
    check(&[
        ("User 123 logged in", "User {ID} logged in"),
        ("Query took 0.05s", "Query took {TIME}s"),
        ("Error: File not found: /path/file.txt", "Error: File not found: {PATH}"),
    ]);
}

#[test]
fn typed() {
    check(&[
        ("", ""),
        ("   ", ""),
        ("  two   blanks\t here ", "two blanks here"),
        ("from 10.1.2.3:80 to fe80::1", "from {IP} to {IP}"),
        ("mac 00:11:43:e3:ba:c3 up", "mac {MAC} up"),
        ("id 7f3b1c2a-1234-4abc-8def-0123456789ab done", "id {UUID} done"),
        ("at 0xdeadbeef and ffffffff", "at {HEX} and {HEX}"),
        ("see https://a.b/c?d=e&f=g, please", "see {URL}, please"),
        ("mail to ann.b@example.org failed", "mail to {EMAIL} failed"),
        ("used 12MB of 3.5 GB", "used {SIZE} of {NUM} GB"),
        ("at Fri Jun 17 07:07:00 2005", "at {TIME}"),
        ("ok=true, x=null", "ok={BOOL}, x={*}"),
        (r"open C:\a\b.txt failed", "open {PATH} failed"),
        ("version v1.2.3 of 2.6.5-1.358", "version {VER} of {VER}"),
        ("user=root tag=\"a b\"", "user={ID} tag=\"{TEXT}\""),
        ("on eth0 by ssh2", "on eth0 by ssh2"),
        ("values 1 2 3 4 5", "values {LIST}"),
        ("a {ID} b", "a {*} b"),
        ("12%", "{NUM}%"),
        ("{\"a\":1}", "{\"a\":{NUM}}"),
    ]);
}

#[test]
fn envelopes() {
    check(&[
        (r#"{"level":"error","msg":"User 5 gone","x":1}"#, "User {ID} gone"),
        ("2024-01-15T10:30:00.123456789Z stdout F User 5 gone", "User {ID} gone"),
        ("I0102 15:04:05.678901    1234 server.go:42] User 5 gone", "User {ID} gone"),
        ("<34>Oct 11 22:14:15 edge app[230]: User 5 gone", "User {ID} gone"),
        ("level=info msg=\"User 5 gone\"", "User {ID} gone"),
        ("\u{1b}[1;31mUser 5 gone\u{1b}[0m", "User {ID} gone"),
        ("2024/01/05 10:00:00 [error] 123#0: *1 open() failed", "{NUM}#{NUM}: *{NUM} open() failed"),
        ("java.lang.X: bad 7\n\tat a.b.C.d(C.java:1)\n\tat a.b.C.e(C.java:2)", "{NAME}: bad {NUM} {STACK}"),
        (
            "Traceback (most recent call last):\n  File \"x.py\", line 3\nValueError: bad 42",
            "Traceback (most recent call last): {STACK} ValueError: bad {NUM}",
        ),
    ]);
    assert_eq!(parse(r#"{"level":"error","msg":"x","k":1}"#).level, Some(Level::Error));
    assert_eq!(parse(r#"{"level":"error","msg":"x","k":1}"#).metadata["k"], 1);
    assert_eq!(parse("E0102 15:04:05.678901 1 a.go:1] x").level, Some(Level::Error));
    assert_eq!(parse("2024-01-05 10:00:00 WARN low").level, Some(Level::Warn));
    assert_eq!(parse("[warn] low").level, Some(Level::Warn));
    assert_eq!(parse("Error: low").level, Some(Level::Error));
    assert_eq!(parse("all is well").level, None);
}

#[test]
fn parameters_are_the_raw_parts() {
    let found = |l: &str, p: &str| parameters(l, p);
    assert_eq!(found("User 123 logged in", "User {ID} logged in"), Some(vec!["123".into()]));
    assert_eq!(found("Query  took 0.05s", "Query took {TIME}s"), Some(vec!["0.05".into()]));
    assert_eq!(found("User 123 logged in", "User {*} logged in"), Some(vec!["123".into()]));
    assert_eq!(found("User ann logged in", "User {*} logged in"), Some(vec!["ann".into()]));
    assert_eq!(found("User ann logged out", "User {*} logged in"), None);
    assert_eq!(
        found("at Fri Jun 17 07:07:00 2005, n=1 2 3", "at {TIME}, n={LIST}"),
        Some(vec!["Fri Jun 17 07:07:00 2005".into(), "1 2 3".into()])
    );
}

#[test]
fn secrets() {
    for (line, expected) in [
        ("login password=hunter2 ok", "login password=*** ok"),
        ("{\"api_key\": \"abc def\", \"x\": 1}", "{\"api_key\": \"***\", \"x\": 1}"),
        ("Authorization: Bearer abcdefgh1234", "Authorization: ***"),
        ("get postgres://ann:pw@db/x", "get postgres://ann:***@db/x"),
        ("mail ann@example.org now", "mail *** now"),
        ("card 4111 1111 1111 1111 charged", "card *** charged"),
        ("order 4111111111111112 shipped", "order 4111111111111112 shipped"),
        ("key AKIAIOSFODNN7EXAMPLE used", "key *** used"),
        ("nothing here", "nothing here"),
    ] {
        assert_eq!(mask_secrets(line), expected);
    }
}
