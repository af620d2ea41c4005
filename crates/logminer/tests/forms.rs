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
        ("from ::1:54321 to fe80::18af:c98a:27395", "from {IP} to {IP}"),
        ("from ::1:5432 to std::1:2 now", "from {IP} to std::{NUM}:{NUM} now"),
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
        ("Setting up libc6:amd64 (1:2.36-9+deb12u7) ...", "Setting up libc6:amd64 ({VER}) ..."),
        ("upgrade openssl:amd64 3.0.11-1~deb12u2 3.0.14-1~deb12u1", "upgrade openssl:amd64 {VER} {VER}"),
        ("unpacked llvm-tools 1:19.1.7-3~deb12u1 at 10:19:33", "unpacked llvm-tools {VER} at {TIME}"),
        ("install bind9 1:9.18.24-1, pip 1.0~rc1.", "install bind9 {VER}, pip {VER}."),
        (
            "of 1.5+2.5 and 3-5~7 and 2+b3, 10:2 at 5.5+x",
            "of {NUM}+{NUM} and {NUM}-{NUM}~{NUM} and {NUM}+b3, {NUM}:{NUM} at {NUM}+x",
        ),
        ("user=root tag=\"a b\"", "user={ID} tag=\"{TEXT}\""),
        ("on eth0 by ssh2", "on eth0 by ssh2"),
        ("bssid aa:bb:cc:dd:ee:ff at /0:0:0:0:0:0:0:0:2181", "bssid {MAC} at {IP}"),
        ("since 2024-01-15T10:30:00Z watch *v1.Node", "since {TIME} watch *v1.Node"),
        ("values 1 2 3 4 5", "values {LIST}"),
        ("in sync: 0,1 of 0,1,2", "in sync: {LIST} of {LIST}"),
        ("at 1, 2", "at {NUM}, {NUM}"),
        ("pod default/web-7d9c5b8f6d-x2x4k on linux/amd64", "pod {PATH} on linux/amd64"),
        ("a {ID} b", "a {*} b"),
        ("status installed libc6:amd64 2.36-9+deb12u7", "status installed libc6:amd64 {VER}"),
        ("upgrade x:amd64 3.0.11-1~deb12u2 1:3.0.13-1~deb12u1", "upgrade x:amd64 {VER} {VER}"),
        ("unpacking x (5:4.0~rc1-1+b1) over (2.0-1.1+b2) ...", "unpacking x ({VER}) over ({VER}) ..."),
        ("status x 2024a-0+deb12u1 and 1:1.2.1-1.1 and 2.36-9", "status x {VER} and {VER} and {VER}"),
        ("epochs 1:7.7+23 and 12:3 and 1:2", "epochs {VER} and {NUM}:{NUM} and {NUM}:{NUM}"),
        ("at 5+3 and 2.5-7.5 and 1.5+2 and 3-4", "at {NUM}+{NUM} and {NUM}-{NUM} and {NUM}+{NUM} and {NUM}-{NUM}"),
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
        ("\u{1b}[2K\u{1b}[38:5:1mUs\u{1b}[0mer 5 \u{1b}(Bgone\u{1b}[?25h", "User {ID} gone"),
        ("\u{1b}]0;title\u{7}User 5 \u{1b}]8;;https://a.b\u{1b}\\gone\u{1b}]8;;\u{1b}\\", "User {ID} gone"),
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

/// Traces that say what happened on the lines between the place and the frames, and frames of more languages.
#[test]
fn traces() {
    let cases = [
        (
            "/app/server.js:12\n    throw new Error('no pool');\n    ^\n\nError: no pool 5\n    at Object.<anonymous> (/app/server.js:12:9)\n\nNode.js v20.1.0",
            "{PATH}:{NUM} throw new Error('no pool'); ^ Error: no pool {NUM} {STACK}",
        ),
        (
            "thread 'main' panicked at src/main.rs:5:10:\nlost 3 of 7\nstack backtrace:\n   0: rust_begin_unwind\n             at /rustc/x/library/std/src/panicking.rs:1:5",
            "thread 'main' panicked at {PATH}:{NUM}:{NUM}: lost {NUM} of {NUM} {STACK}",
        ),
        (
            "thread 'main' panicked at src/main.rs:7:1:\nlost 3 of 7\nstack backtrace:\n   0: rust_begin_unwind\n             at /rustc/x/library/std/src/panicking.rs:1:5",
            "thread 'main' panicked at {PATH}:{NUM}:{NUM}: lost {NUM} of {NUM} {STACK}",
        ),
        (
            "fail: a.b.Server[13]\n      Request was lost.\r\n      System.InvalidOperationException: no 5\r\n         at X.Y() in /src/x.cs:line 5",
            "fail: {NAME}[{NUM}] Request was lost. System.InvalidOperationException: no {NUM} {STACK}",
        ),
        (
            "Uncaught Exception: no 5 in /x.php:7\nStack trace:\n#0 /x.php(7): f()\n#1 {main}\n  thrown in /x.php on line 7",
            "Uncaught Exception: no {NUM} in {PATH}:{NUM} {STACK}",
        ),
        ("Uncaught no 5\n#0 /x.php(7): f()\n#1 /x.php(9): g()\n#2 {main}", "Uncaught no {NUM} {STACK}"),
        ("crashed 5\n#0  0x00007f12 in raise () from /lib/c.so\n#1  main () at x.c:3", "crashed {NUM} {STACK}"),
        (
            "** (RuntimeError) no 5\n    (app 0.1.0) lib/x.ex:5: X.f/1\n    (stdlib 5.0) gen_server.erl:1077: :gen_server.try/3",
            "** (RuntimeError) no {NUM} {STACK}",
        ),
        (
            "failed 5\nTraceback (most recent call last):\n  File \"x.py\", line 3\nValueError: bad 42",
            "failed {NUM} {STACK} ValueError: bad {NUM}",
        ),
        // no frames: several lines of prose
        ("two lines\n#5 is odd", "two lines #{NUM} is odd"),
    ];
    for (message, pattern) in cases {
        assert_eq!(log_pattern(message), pattern, "{message}");
        let expression = regex::RegexBuilder::new(&pattern_regex(pattern)).dot_matches_new_line(true).build().unwrap();
        assert!(expression.is_match(message), "{message}\n{expression}");
        let found = parameters(message, pattern).unwrap();
        assert_eq!(found.len(), parameter_kinds(pattern).len(), "{message}");
    }
}

/// The records of auditd are not logfmt with a message of a few numbers.
#[test]
fn audit_records() {
    let line = "type=SYSCALL msg=audit(1700000000.123:55): arch=c000003e syscall=59 success=yes";
    let pattern = log_pattern(line);
    assert!(pattern.starts_with("type=SYSCALL msg=audit(") && pattern.contains(" syscall={NUM} success="), "{pattern}");
    assert!(regex::Regex::new(&pattern_regex(&pattern)).unwrap().is_match(line));
    assert!(log_pattern("type=LOGIN msg=audit(1700000000.123:56): pid=7 uid=0").starts_with("type=LOGIN msg=audit("));
    assert!(parse(line).metadata.is_empty());
    // a message that ends the line may end in a colon
    assert_eq!(log_pattern("level=info msg=done:"), "done:");
    assert_eq!(log_pattern("level=info msg=\"done 5:\" x=1"), "done {NUM}:");
}

/// What many systems put before their messages: the message is found, the level is read, and the expression of the pattern finds the line.
#[test]
fn prefixes() {
    let cases = [
        (
            "2024-01-15 10:30:00,123 - myapp.module - ERROR - gone after 3 tries",
            "gone after {NUM} tries",
            Some(Level::Error),
        ),
        ("2024-01-15 10:30:00,123 - worker - INFO - gone after 3 tries", "gone after {NUM} tries", Some(Level::Info)),
        (
            "2015-07-30 17:43:58,186 - WARN  [QuorumPeer[myid=1]/0:0:0:0:0:0:0:0:2181:Election@774] - time out: 3200",
            "time out: {NUM}",
            Some(Level::Warn),
        ),
        (
            "[Wed Oct 11 14:32:52.123456 2000] [core:error] [pid 12:tid 56] denied: 5",
            "[pid {ID}:tid {ID}] denied: {NUM}",
            Some(Level::Error),
        ),
        ("[Wed Oct 11 14:32:52 2000] [notice] denied: 5", "denied: {NUM}", Some(Level::Info)),
        ("2024-01-15 10:30:00.123 UTC [1234] LOG:  waited 5 s", "waited {NUM} s", Some(Level::Info)),
        ("2024-01-15 10:30:00 CEST [1234-1] app@db FATAL:  no user \"bob\"", "no user \"bob\"", Some(Level::Fatal)),
        ("2024-01-15 10:30:00 UTC [1234] @ ERROR:  no user \"bob\"", "no user \"bob\"", Some(Level::Error)),
        ("2024-01-15 10:30:00 UTC [1234] DETAIL:  Key 5", "[{NUM}] DETAIL: Key {NUM}", None),
        (
            "2024-01-15T10:30:00.123456Z 8 [Warning] [MY-010055] [Server] no 5",
            "[MY-{NUM}] [Server] no {NUM}",
            Some(Level::Warn),
        ),
        (
            "1234:M 15 Jan 2024 10:30:00.123 * Saving started by pid 5678",
            "Saving started by pid {ID}",
            Some(Level::Info),
        ),
        (
            "1234:M 15 Jan 2024 10:30:00.123 # Saving started by pid 5678",
            "Saving started by pid {ID}",
            Some(Level::Warn),
        ),
        ("Jan 15 10:30:00 edge kernel: [    0.000000] port 5 up", "port {NUM} up", None),
        ("[12345.678901] port 5 up", "port {NUM} up", None),
        ("<3>[12345.678901] port 5 up", "port {NUM} up", Some(Level::Error)),
        ("2024-01-15T10:30:00.123456+00:00 edge systemd[1]: Started Session 5.", "Started Session {ID}.", None),
        ("2024-01-15T10:30:00+01:00 edge kernel: [   12.345678] port 5 up", "port {NUM} up", None),
        ("<34>1 2024-01-15T10:30:00.003Z host.example.com su - ID47 - gone 5", "gone {NUM}", Some(Level::Fatal)),
        (
            "<165>1 2003-10-11T22:14:15.003Z host app 77 ID47 [ex@32473 iut=\"3\"][x y=\"z\"] gone 5",
            "gone {NUM}",
            Some(Level::Info),
        ),
        ("<11>Oct 11 22:14:15 edge app[230]: gone 5", "gone {NUM}", Some(Level::Error)),
        ("1705314600: Client sensor-12 disconnected.", "Client sensor-{NUM} disconnected.", None),
        (
            "2024-01-15 10:30:00.123  INFO 1234 --- [           main] c.e.demo.DemoApplication                 : Started in 2.345 seconds",
            "Started in {NUM} seconds",
            Some(Level::Info),
        ),
        (
            "2024-01-15T10:30:00.1+01:00  WARN 12 --- [app] [exec-1] o.a.c.C : Started in 2 s",
            "Started in {NUM} s",
            Some(Level::Warn),
        ),
        ("10:30:00.123 [main] DEBUG com.example.Foo - Loaded 5", "Loaded {NUM}", Some(Level::Debug)),
        ("2024-01-15 10:30:00 [main] ERROR c.e.Foo - Loaded 5", "Loaded {NUM}", Some(Level::Error)),
        (
            "[2024-01-15T10:30:00,123][INFO ][o.e.n.Node               ] [node-1] started",
            "[{NAME} ] [node-{NUM}] started",
            Some(Level::Info),
        ),
        ("[2024-01-15 10:30:00 +0000] [1234] [INFO] Booted 5", "Booted {NUM}", Some(Level::Info)),
        (
            "[2024-01-15 10:30:00] production.ERROR: SQLSTATE[42S02]: none 5",
            "SQLSTATE[{ID}]: none {NUM}",
            Some(Level::Error),
        ),
        ("[2024-01-15T10:30:00Z WARN  my_crate::queue] length 17", "length {NUM}", Some(Level::Warn)),
        ("F, [2024-01-15T10:30:00.123456 #1234] FATAL -- : length 17", "length {NUM}", Some(Level::Fatal)),
        ("2016-09-28 04:30:30, Info                  CBS    Loaded 5", "CBS Loaded {NUM}", Some(Level::Info)),
        (
            "01-15 10:30:00.123  1234  5678 I ActivityManager: Start 5",
            "ActivityManager: Start {NUM}",
            Some(Level::Info),
        ),
        ("E (54321) MQTT_CLIENT: failed, errno=104", "MQTT_CLIENT: failed, errno={NUM}", Some(Level::Error)),
        (
            "17/06/09 20:10:40 INFO executor.Backend: Registered 5",
            "executor.Backend: Registered {NUM}",
            Some(Level::Info),
        ),
        (
            "2024-01-15 10:30:00.123 1234 INFO nova.compute [req-1 - -] took 5",
            "nova.compute [req-{NUM} - -] took {NUM}",
            Some(Level::Info),
        ),
        (
            "2024-01-15 10:30:00.123 | WARNING  | app.module:run:12 - Disk 91% full",
            "Disk {NUM}% full",
            Some(Level::Warn),
        ),
        ("2024-01-15 10:30:00.123 | INFO | Disk 91% full", "Disk {NUM}% full", Some(Level::Info)),
        (
            "2024-01-15 10:30:00.123456: W tensorflow/core/cpu_feature_guard.cc:193] took 5 s",
            "took {NUM} s",
            Some(Level::Warn),
        ),
        (
            "[15-Jan-2024 10:30:00 Europe/Berlin] PHP Warning:  no 5 in /x.php on line 3",
            "PHP Warning: no {NUM} in {PATH} on line {NUM}",
            Some(Level::Warn),
        ),
        ("[15-Jan-2024 10:30:00 UTC] PHP Fatal error:  no 5", "PHP Fatal error: no {NUM}", Some(Level::Fatal)),
        ("10:30:00 INFO  Started 5", "Started {NUM}", Some(Level::Info)),
        ("10:30:00.123 ERROR [main] c.e.App - Started 5", "Started {NUM}", Some(Level::Error)),
        (
            "0:00:01.123456789  1234 0x55818be0 WARN             v4l2 gstv4l2object.c:4000:probe:<src0> no 5",
            "no {NUM}",
            Some(Level::Warn),
        ),
        ("[00:00:01.123,000] <err> main: no 5", "main: no {NUM}", Some(Level::Error)),
        ("web-1  | no 5", "no {NUM}", None),
        ("edge_db_12 | 2024-01-15 10:30:00 ERROR no 5", "no {NUM}", Some(Level::Error)),
        ("web-1  | web-2  | no 5", "web-{NUM} | no {NUM}", None),
        ("web-1  | {\"level\":\"warn\",\"msg\":\"no 5\"}", "no {NUM}", Some(Level::Warn)),
        ("2024-01-15T10:30:00Z edge app[12]: {\"level\":\"error\",\"msg\":\"no 5\"}", "no {NUM}", Some(Level::Error)),
        ("2024-01-15 10:30:00 ERROR {\"msg\":\"no 5\",\"code\":7}", "no {NUM}", Some(Level::Error)),
        ("Jan 15 10:30:00 edge app[12]: level=warn msg=\"no 5\" code=7", "no {NUM}", Some(Level::Warn)),
        (
            "[ WARN:0@1.234] global cap.cpp:902 no 5",
            "[ WARN:{NUM}@{NUM}] global cap.cpp:{NUM} no {NUM}",
            Some(Level::Warn),
        ),
        ("E: Unable to locate package foo", "E: Unable to locate package foo", Some(Level::Error)),
        // no level: only the time is taken off
        ("2024-01-15 10:30:00 [7] Error opening 5", "[{NUM}] Error opening {NUM}", None),
        (
            "2024/01/15 10:30:00 http: TLS handshake error from 10.0.0.5:54321: EOF",
            "http: TLS handshake error from {IP}: EOF",
            None,
        ),
        // what only looks like a prefix
        ("10:30:00 up 5 days", "{TIME} up {NUM} days", None),
        ("[5] is 7", "[{NUM}] is {NUM}", None),
        ("<b>5", "<b>{NUM}", None),
        ("I (am) 5", "I (am) {NUM}", None),
        ("12:M is 5", "{NUM}:M is {NUM}", None),
        ("web | 5", "web | {NUM}", None),
        ("sensor-7 |5", "sensor-{NUM} |{NUM}", None),
        ("10:30:00 Info at 5", "{TIME} Info at {NUM}", None),
        ("W: 5 H: 7", "W: {NUM} H: {NUM}", None),
        ("2024-01-15 10:30:00 {5}", "{{NUM}}", None),
        ("until 2024-01-15T10:30:00Z, then 2024-01-15T10:30 and node-3:80", "until {TIME}, then {TIME} and {IP}", None),
    ];
    for (line, pattern, level) in cases {
        assert_eq!(log_pattern(line), pattern, "{line}");
        assert_eq!(parse(line).level, level, "{line}");
        assert_eq!(parse(line).message, message_of(line), "{line}");
        let expression = pattern_regex(pattern);
        assert!(regex::Regex::new(&expression).unwrap().is_match(line), "{line}\n{expression}");
        // every cut of the line is a line as well
        for (cut, _) in line.char_indices() {
            log_pattern(&line[..cut]);
        }
    }
    for (line, level) in [
        (r#"{"t":{"$date":"2024-01-15"},"s":"W","msg":"x"}"#, Some(Level::Warn)),
        (r#"{"PRIORITY":"3","MESSAGE":"x"}"#, Some(Level::Error)),
        (r#"{"version":"1.1","short_message":"x","level":4}"#, Some(Level::Warn)),
        (r#"{"level":50,"msg":"x"}"#, Some(Level::Error)),
        (r#"{"@l":"Fatal","@m":"x"}"#, Some(Level::Fatal)),
        (r#"{"log":{"level":"error"},"message":"x"}"#, Some(Level::Error)),
        (r#"{"log.level":"debug","message":"x"}"#, Some(Level::Debug)),
        (r#"{"severity_text":"INFO","body":"x"}"#, Some(Level::Info)),
        (r#"{"message":"x","s":"small"}"#, None),
    ] {
        assert_eq!(parse(line).level, level, "{line}");
        assert_eq!(log_pattern(line), "x");
    }
}

/// What repeats itself without end is no deeper for that.
#[test]
fn long_lines_of_prefixes() {
    for part in [
        "web-1 | ",
        "<34>",
        "[1.000000] ",
        "2024-01-15 10:30:00 | ",
        "\u{1b}[",
        "\u{1b}]",
        "PHP ",
        "{\"msg\":",
        "level=info msg=",
    ] {
        let line = part.repeat(1_000_000 / part.len());
        assert_eq!(parse(&line).message, message_of(&line), "{part}");
        log_pattern(&line);
    }
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
        ("Authorization: Bearer abcdefgh1234", "Authorization: Bearer ***"),
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

/// An open slot holds a colon only where a form has one, and a path begins at a slash that follows no word: so an expression does not find
/// the lines of a pattern with other slots.
#[test]
fn expressions_stop_where_slots_stop() {
    let found = |pattern: &str, line: &str| regex::Regex::new(&pattern_regex(pattern)).unwrap().is_match(line);
    for (pattern, line, own) in [
        ("window (name={*}) closed", "window (name=Popup7:9b04a07) closed", false),
        ("window (name={*}) closed", "window (name=Popup7) closed", true),
        ("window (name={*}) closed", "window (name=10.0.0.7:8080) closed", true),
        ("window (name={*}) closed", "window (name=10.0.0.7:8080-x) closed", true),
        ("window (name={*}) closed", "window (name=fe80::1) closed", true),
        ("window (name={*}) closed", "window (name=00:1b:44:11:3a:b7) closed", true),
        ("setting {*}={*}", "setting home=/", false),
        ("setting {*}={*}", "setting home=/srv/x", true),
        ("setting {*}={*}", "setting home=C:\\x", true),
        ("from {*}/{*} now", "from #8#/#8# now", false),
        ("from {*}/{*} now", "from node7/node8 now", true),
        ("from {*}/{*} now", "from a/b now", true),
    ] {
        assert_eq!(found(pattern, line), own, "{pattern} {line} {}", log_pattern(line));
    }
}

/// Colours around words, marks and values, one at a time and all at once, hide a line from the expression of its pattern no more than from the pattern.
#[test]
fn expressions_look_through_colours() {
    let lines = [
        "ERROR: disk 5 full",
        "[  OK  ] Started Daily Cleanup.",
        "[ERROR] [net]: peer=10.0.0.7 (tls=on), took 12ms; path=/etc/x",
        "2026-11-22 10:00:07 WARN disk 5 full",
        "2026-11-22T10:00:07.123Z  INFO tokio::net: accepted addr=10.0.0.7 id=42",
        "2026-11-22 10:00:07,123 [main] INFO  net - took 5 ms",
        "2026-11-22 10:00:07.123 | INFO     | app.net:run:12 - took 5 ms",
        "INFO  app::net > listening on 0.0.0.0:8080",
        "10:00:07 [vite] page reload src/main.ts (x3)",
        "GET /index.html 200 12.5ms - 1024",
        "password=hunter2secret user=bob tried 5 times",
    ];
    // what a value holds is not looked into
    let inside = regex::Regex::new(r"[0-9A-Za-z]\x1b\[0m[-.:/][0-9A-Za-z/]|[-.:/]\x1b\[1;32m[0-9A-Za-z]").unwrap();
    let mut tried = [0; 2];
    for line in lines {
        let pattern = log_pattern(line);
        let expression = regex::Regex::new(&pattern_regex(&pattern)).unwrap();
        // where a word begins or ends
        let ends: Vec<usize> = (0..=line.len())
            .filter(|&i| {
                let word = |b: Option<&u8>| b.is_some_and(u8::is_ascii_alphanumeric);
                let s = line.as_bytes();
                word(s.get(i)) != word(i.checked_sub(1).and_then(|k| s.get(k)))
            })
            .collect();
        let words: Vec<(usize, usize)> = ends.chunks_exact(2).map(|w| (w[0], w[1])).collect();
        let coloured = |which: &dyn Fn(usize) -> bool| {
            let (mut out, mut at) = (String::new(), 0);
            for (_, &(a, b)) in words.iter().enumerate().filter(|(n, _)| which(*n)) {
                out += &format!("{}\x1b[1;32m{}\x1b[0m", &line[at..a], &line[a..b]);
                at = b;
            }
            out + &line[at..]
        };
        let each = (0..words.len()).map(|k| coloured(&|n| n == k));
        for line in each.chain([coloured(&|_| true), format!("\x1b[31m{line}\x1b[0m")]) {
            let same = log_pattern(&line) == pattern;
            tried[usize::from(same)] += 1;
            assert!(!same || inside.is_match(&line) || expression.is_match(&line), "{line:?}\n{pattern}\n{expression}");
        }
    }
    assert!(tried[1] > 80, "{tried:?}");
}
