//! Patterns in other notations.

use crate::forms;
use crate::kind::Kind;
use crate::quantities::is_time_unit;

/// A pattern in the notation of log-parsing benchmarks: every placeholder is `<*>`, with the unit of a duration taken in
/// (`{TIME}ms` → `<*>`).
pub fn loghub_template(pattern: &str) -> String {
    let s = pattern.as_bytes();
    let mut out = Vec::with_capacity(s.len());
    let mut i = 0;
    while i < s.len() {
        if let Some((kind, len)) = Kind::at_start(&s[i..]) {
            i += len;
            if kind == Kind::Time {
                let e = forms::word_end(s, i);
                if is_time_unit(&s[i..e]) {
                    i = e;
                }
            }
            out.extend_from_slice(b"<*>");
        } else {
            out.push(s[i]);
            i += 1;
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}
