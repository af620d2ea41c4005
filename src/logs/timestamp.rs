//! Times of log entries, in microseconds since 2000-01-01 UTC as PostgreSQL counts them.
use pgrx::prelude::*;

use crate::errors;
use crate::jsonb::Number;

/// Microseconds of a second.
const SECOND: i64 = 1_000_000;
/// Microseconds of an hour.
pub const HOUR: i64 = 3_600_000_000;
/// Seconds from 1970 to 2000.
const UNIX_TO_POSTGRES: i64 = 946_684_800;

/// The start of the current transaction, as `now()`.
pub fn now() -> i64 {
    // SAFETY: a plain read of this backend's state.
    unsafe { pg_sys::GetCurrentTransactionStartTimestamp() }
}

/// The time of lines that have none of their own: the start of the current transaction, to the second. `last_seen` is indexed, so a row
/// whose `last_seen` changed gets an entry in every index of the table; so it changes once a second, and not with each call.
pub fn of_call() -> i64 {
    let at = now();
    at - at.rem_euclid(SECOND)
}

/// The ends of PostgreSQL's time, 4714-11-24 BC and the year 294277, less three days: so that the times of all zones, and those a day
/// before and after, are times as well.
const USABLE: std::ops::Range<i64> = -211_813_488_000_000_000 + 72 * HOUR..9_223_371_331_200_000_000 - 72 * HOUR;

/// A time from an SQL argument; refuses infinity, and what is next to it.
pub fn finite(at: TimestampWithTimeZone, what: &str) -> i64 {
    if !at.is_finite() {
        bad(what, if at.into_inner() == i64::MIN { "-infinity" } else { "infinity" });
    }
    if !USABLE.contains(&at.into_inner()) {
        bad(what, &at.to_iso_string());
    }
    at.into_inner()
}

fn bad(what: &str, text: &str) -> ! {
    errors::fail(
        PgSqlErrorCode::ERRCODE_INVALID_DATETIME_FORMAT,
        format!("{what}: invalid timestamp \"{}\"", super::input::excerpt(text)),
        "Use ISO 8601, e.g. \"2026-11-22T20:40:50.123Z\"; without a zone the session's TimeZone holds.",
    )
}

/// A time as JSON text: ISO 8601, or whatever PostgreSQL takes for a timestamp with time zone.
pub fn parse(text: &str, what: impl FnOnce() -> String) -> i64 {
    iso(text).unwrap_or_else(|| by_postgres(text, &what()))
}

/// A time as a JSON number: Unix time in seconds or, from 1e11 on (the year 5138 in seconds), in milliseconds.
pub fn from_number(number: Number<'_>, what: &str) -> i64 {
    let text = number.text();
    let value: f64 = text.parse().unwrap_or(f64::NAN);
    let seconds = if value.abs() >= 1e11 { value / 1e3 } else { value };
    // PostgreSQL's range is 4713 BC to 294276 AD.
    if !(-2.1e11..9.2e12).contains(&seconds) {
        bad(what, &text);
    }
    ((seconds - UNIX_TO_POSTGRES as f64) * 1e6).round() as i64
}

fn by_postgres(text: &str, what: &str) -> i64 {
    let Ok(c) = std::ffi::CString::new(text) else { bad(what, text) };
    let found = pgrx::PgTryBuilder::new(|| {
        // SAFETY: the input function of timestamptz with its three arguments; the string outlives the call.
        unsafe {
            pgrx::direct_function_call::<TimestampWithTimeZone>(
                pg_sys::timestamptz_in,
                &[
                    Some(pg_sys::Datum::from(c.as_ptr())),
                    Some(pg_sys::Datum::from(pg_sys::InvalidOid)),
                    Some(pg_sys::Datum::from(-1)),
                ],
            )
        }
    })
    // Caught only to raise the error again with the entry that it is about.
    .catch_when(PgSqlErrorCode::ERRCODE_INVALID_DATETIME_FORMAT, |_| None)
    .catch_when(PgSqlErrorCode::ERRCODE_DATETIME_FIELD_OVERFLOW, |_| None)
    .catch_when(PgSqlErrorCode::ERRCODE_INVALID_TIME_ZONE_DISPLACEMENT_VALUE, |_| None)
    .catch_when(PgSqlErrorCode::ERRCODE_INVALID_PARAMETER_VALUE, |_| None)
    .execute();
    match found {
        Some(at) if USABLE.contains(&at.into_inner()) => at.into_inner(),
        _ => bad(what, text),
    }
}

/// `YYYY-MM-DD[T ]HH:MM:SS[.f…](Z|±HH[:MM])`, the form that nearly all senders use, without the detour through PostgreSQL's parser.
fn iso(text: &str) -> Option<i64> {
    let s = text.as_bytes();
    let number = |a: usize, n: usize| -> Option<i64> {
        s.get(a..a + n)?.iter().try_fold(0i64, |v, b| b.is_ascii_digit().then(|| v * 10 + i64::from(b - b'0')))
    };
    let at = |i: usize, allowed: &[u8]| s.get(i).is_some_and(|b| allowed.contains(b));
    if !(at(4, b"-") && at(7, b"-") && at(10, b"T ") && at(13, b":") && at(16, b":")) {
        return None;
    }
    let (year, month, day) = (number(0, 4)?, number(5, 2)?, number(8, 2)?);
    let (hour, minute, second) = (number(11, 2)?, number(14, 2)?, number(17, 2)?);
    if !(1..=12).contains(&month)
        || day < 1
        || day > days_in_month(year, month)
        || hour > 23
        || minute > 59
        || second > 59
        || year < 1
    {
        return None;
    }
    let mut i = 19;
    let mut micros = 0;
    if at(i, b".") {
        let digits = s[i + 1..].iter().take_while(|b| b.is_ascii_digit()).count();
        if !(1..=6).contains(&digits) {
            return None;
        }
        micros = number(i + 1, digits)? * 10i64.pow(6 - digits as u32);
        i += 1 + digits;
    }
    let offset = match s.get(i)? {
        b'Z' => {
            i += 1;
            0
        }
        sign @ (b'+' | b'-') => {
            let (hours, mut minutes) = (number(i + 1, 2)?, 0);
            i += 3;
            if at(i, b":") {
                minutes = number(i + 1, 2)?;
                i += 3;
            }
            if hours > 15 || minutes > 59 {
                return None;
            }
            (hours * 60 + minutes) * if *sign == b'-' { -60 } else { 60 }
        }
        _ => return None,
    };
    if i != s.len() {
        return None;
    }
    let seconds = days_from_2000(year, month, day) * 86_400 + hour * 3600 + minute * 60 + second - offset;
    Some(seconds * 1_000_000 + micros)
}

fn days_in_month(year: i64, month: i64) -> i64 {
    match month {
        4 | 6 | 9 | 11 => 30,
        2 if year % 4 == 0 && (year % 100 != 0 || year % 400 == 0) => 29,
        2 => 28,
        _ => 31,
    }
}

/// Days from 2000-01-01 in the Gregorian calendar (Hinnant, "chrono-Compatible Low-Level Date Algorithms").
fn days_from_2000(year: i64, month: i64, day: i64) -> i64 {
    let y = if month <= 2 { year - 1 } else { year };
    let era = y.div_euclid(400);
    let year_of_era = y.rem_euclid(400);
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    era * 146_097 + year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year - 730_425
}

#[cfg(any(test, feature = "pg_test"))]
#[pg_schema]
mod tests {
    use pgrx::prelude::*;

    /// The fast path reads what it reads as PostgreSQL does.
    #[pg_test]
    fn iso_agrees_with_postgres() {
        for text in [
            "2000-01-01T00:00:00Z",
            "1999-12-31 23:59:59.999999+00",
            "2024-02-29T12:00:00.5-03:30",
            "0001-01-01T00:00:00Z",
            "2026-11-22T20:40:50.123Z",
            "9999-12-31T23:59:59+15:59",
            "1900-03-01T00:00:00-15",
        ] {
            assert_eq!(super::iso(text), Some(super::by_postgres(text, "test")), "{text}");
        }
        for text in [
            "2023-02-29T00:00:00Z",
            "2026-11-22T20:40:50",
            "2026-11-22T24:00:00Z",
            "2026-11-22T20:40:50.1234567Z",
            "2026-11-22",
        ] {
            assert_eq!(super::iso(text), None, "{text}");
        }
    }
}
