//! Dates and times of day.

use crate::forms::{boundary, byte, digits, is_word};

fn month(s: &[u8], a: usize) -> bool {
    let names = |name: &[u8]| {
        matches!(
            name,
            b"Jan" | b"Feb" | b"Mar" | b"Apr" | b"May" | b"Jun" | b"Jul" | b"Aug" | b"Sep" | b"Oct" | b"Nov" | b"Dec"
        )
    };
    s.get(a..a + 3).is_some_and(names) && boundary(s, a + 3)
}

fn weekday(s: &[u8], a: usize) -> bool {
    let names = |name: &[u8]| matches!(name, b"Mon" | b"Tue" | b"Wed" | b"Thu" | b"Fri" | b"Sat" | b"Sun");
    s.get(a..a + 3).is_some_and(names) && boundary(s, a + 3)
}

fn blanks(s: &[u8], a: usize) -> usize {
    s[a.min(s.len())..].iter().take_while(|&&b| b == b' ').count()
}

/// `hh:mm[:ss[.frac]]`, with an optional zone.
pub(crate) fn clock(s: &[u8], a: usize) -> Option<usize> {
    let h = digits(s, a);
    if !(1..=2).contains(&h) || byte(s, a + h) != b':' || digits(s, a + h + 1) != 2 {
        return None;
    }
    let mut i = a + h + 3;
    if byte(s, i) == b':' && digits(s, i + 1) == 2 {
        i += 3;
        if matches!(byte(s, i), b'.' | b',' | b':') {
            let n = digits(s, i + 1);
            if (1..=9).contains(&n) && (boundary(s, i + 1 + n) || byte(s, i + 1 + n) == b'Z') {
                i += 1 + n;
            }
        }
    } else if byte(s, i) == b':' && is_word(byte(s, i + 1)) {
        return None;
    }
    if byte(s, i) == b'Z' && boundary(s, i + 1) {
        return Some(i + 1);
    }
    if !boundary(s, i) {
        return None;
    }
    Some(zone(s, i))
}

/// End of a `+hh[:]mm` zone at `i`, after an optional blank; `i` when there is none.
fn zone(s: &[u8], i: usize) -> usize {
    let j = i + usize::from(byte(s, i) == b' ');
    if matches!(byte(s, j), b'+' | b'-') {
        let n = digits(s, j + 1);
        if n == 4 && boundary(s, j + 5) {
            return j + 5;
        }
        if n == 2 && byte(s, j + 3) == b':' && digits(s, j + 4) == 2 && boundary(s, j + 6) {
            return j + 6;
        }
    }
    i
}

/// The time of day that may follow a date at `i`; `i` when none does.
fn then_clock(s: &[u8], i: usize) -> usize {
    let j = match byte(s, i) {
        b'T' | b'_' | b':' => i + 1,
        b' ' => i + blanks(s, i),
        b'-' => i + 1,
        _ => return i,
    };
    clock(s, j).unwrap_or(i)
}

/// Dates that begin with a digit: `2005-06-09`, `2005/06/09`, `2005.06.09`, `09/06/2005`, `05/Jan/2024:10:00:00 +0000`.
pub(crate) fn date(s: &[u8], a: usize) -> Option<usize> {
    let n = digits(s, a);
    let sep = byte(s, a + n);
    if n == 4 && matches!(sep, b'-' | b'/' | b'.') {
        let m = digits(s, a + 5);
        if (1..=2).contains(&m) && byte(s, a + 5 + m) == sep {
            let d = digits(s, a + 6 + m);
            let e = a + 6 + m + d;
            if (1..=2).contains(&d) && (sep != b'.' || m == 2 && d == 2) {
                let t = then_clock(s, e);
                let t = if t == e { date_dash_clock(s, e) } else { t };
                return (boundary(s, t) && !(t == e && matches!(byte(s, t), b'-' | b'.') && is_word(byte(s, t + 1))))
                    .then_some(t);
            }
        }
        return None;
    }
    if (1..=2).contains(&n) && matches!(sep, b'/' | b'-') && month(s, a + n + 1) {
        let e = a + n + 4;
        let y = digits(s, e + 1);
        if byte(s, e) == sep && y == 4 {
            return Some(then_clock(s, e + 5));
        }
        return None;
    }
    if (1..=2).contains(&n) && sep == b'/' {
        let m = digits(s, a + n + 1);
        let e = a + n + 1 + m;
        if (1..=2).contains(&m) && byte(s, e) == b'/' && matches!(digits(s, e + 1), 2 | 4) {
            let e = e + 1 + digits(s, e + 1);
            return boundary(s, e).then(|| then_clock(s, e));
        }
    }
    None
}

/// PostgreSQL-like oddity `2005-06-09-07.06.20.123456` (also used by HPC systems).
fn date_dash_clock(s: &[u8], e: usize) -> usize {
    if byte(s, e) != b'-'
        || digits(s, e + 1) != 2
        || byte(s, e + 3) != b'.'
        || digits(s, e + 4) != 2
        || byte(s, e + 6) != b'.'
    {
        return e;
    }
    let sec = digits(s, e + 7);
    if sec != 2 {
        return e;
    }
    let mut i = e + 9;
    if byte(s, i) == b'.' {
        i += 1 + digits(s, i + 1);
    }
    i
}

/// Dates that begin with a name: `Fri Jun 17 07:07:00 2005`, `Jun 17 07:07:00`, `Jun 17`, `Mon, 02 Jan 2006 15:04:05 GMT`.
pub(crate) fn named_date(s: &[u8], a: usize) -> Option<usize> {
    let mut i = a;
    let mut day = false;
    if weekday(s, a) {
        day = true;
        i += 3;
        i += usize::from(byte(s, i) == b',');
        i += blanks(s, i);
    }
    let e = if month(s, i) {
        let j = i + 3 + blanks(s, i + 3);
        let n = digits(s, j);
        if !(1..=2).contains(&n) || j == i + 3 || !boundary(s, j + n) {
            return None;
        }
        j + n
    } else {
        let n = digits(s, i);
        let j = i + n + blanks(s, i + n);
        if !day || !(1..=2).contains(&n) || !month(s, j) {
            return None;
        }
        j + 3
    };
    let mut e = year(s, e + usize::from(byte(s, e) == b',')).unwrap_or(e);
    let t = then_clock(s, e);
    if t > e {
        e = t;
        let z = e + blanks(s, e);
        if s.len() >= z + 3 {
            let abbreviation = s[z..].iter().take_while(|b| b.is_ascii_uppercase()).count();
            if (3..=4).contains(&abbreviation)
                && matches!(s[z + abbreviation - 1], b'T' | b'C')
                && boundary(s, z + abbreviation)
            {
                e = z + abbreviation;
            }
        }
        e = year(s, e).unwrap_or(e);
    }
    boundary(s, e).then_some(e)
}

fn year(s: &[u8], i: usize) -> Option<usize> {
    let j = i + blanks(s, i);
    let plausible = j > i && digits(s, j) == 4 && matches!(byte(s, j), b'1' | b'2') && boundary(s, j + 4);
    (plausible && byte(s, j + 4) != b':').then_some(j + 4)
}
