//! What is usual for a pattern, from its lines by hour. The queries are in `sql/logs.sql`.
//!
//! Control limits for counts after Shewhart (c-chart; NIST/SEMATECH e-Handbook of Statistical Methods, 6.3.3.1), made robust: the median in
//! place of the mean and 1.4826 × the median absolute deviation in place of the standard deviation (Hampel, JASA 1974), but never less
//! than the √median of a Poisson process, so that a pattern as regular as a clock does not alarm at one line more. Median and deviation know
//! nothing of a job that runs once a night, so a spike must also exceed the largest hour of the week, the nonparametric upper prediction
//! limit (Hahn and Meeker, Statistical Intervals, 1991, chapter 5), by as many Poisson standard deviations of that hour.
use pgrx::prelude::*;

/// Hours that what is usual is taken from, at most: a week.
pub const BASELINE_HOURS: i64 = 168;
/// Hours before which nothing is called usual.
pub const LEAST_HOURS: i64 = 3;
/// Standard deviations from which a count is no longer usual.
pub const LIMIT: f64 = 3.0;
/// Lines in an hour below which nothing is a spike: a handful of lines of a rare pattern is none.
pub const LEAST_LINES: i64 = 10;

/// The usual number of lines in an hour, and how far it strays.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Baseline {
    /// The median.
    pub median: f64,
    /// The scale.
    pub scale: f64,
    /// The largest.
    pub most: f64,
}

/// The baseline of `hours` hours, of which those not in `lines` had no lines.
pub fn baseline(lines: impl IntoIterator<Item = i64>, hours: i64) -> Baseline {
    let mut values: Vec<f64> = lines.into_iter().map(|n| n as f64).collect();
    let hours = usize::try_from(hours.clamp(0, BASELINE_HOURS)).unwrap_or(0);
    values.resize(values.len().max(hours), 0.0);
    let median = median(&mut values);
    let mut deviations: Vec<f64> = values.iter().map(|v| (v - median).abs()).collect();
    let scale = (1.4826 * self::median(&mut deviations)).max(median.max(1.0).sqrt());
    Baseline { median, scale, most: values.last().copied().unwrap_or(0.0) }
}

fn median(values: &mut [f64]) -> f64 {
    if values.is_empty() {
        return 0.0;
    }
    values.sort_unstable_by(f64::total_cmp);
    let middle = values.len() / 2;
    if values.len() % 2 == 1 { values[middle] } else { (values[middle - 1] + values[middle]) / 2.0 }
}

impl Baseline {
    /// The least number of lines in an hour that is a spike.
    pub fn alarm(&self) -> i64 {
        let usual = self.median + LIMIT * self.scale;
        let most = self.most + LIMIT * self.most.max(1.0).sqrt();
        (usual.max(most).ceil() as i64).max(LEAST_LINES)
    }
}

/// The baseline for SQL: `{median, scale, most}`.
#[pg_extern(schema = "pgedge", immutable, strict, parallel_safe, name = "_log_baseline")]
fn log_baseline(lines: Array<'_, i64>, hours: i64) -> Vec<f64> {
    let b = baseline(lines.iter().flatten(), hours);
    vec![b.median, b.scale, b.most]
}

#[cfg(any(test, feature = "pg_test"))]
#[pg_schema]
mod tests {
    use super::{Baseline, baseline};
    use pgrx::prelude::*;

    #[pg_test]
    fn baselines() {
        // hours without lines count
        assert_eq!(baseline([4, 4], 5), Baseline { median: 0.0, scale: 1.0, most: 4.0 });
        // as regular as a clock: Poisson's scale
        assert_eq!(baseline([9; 24], 24), Baseline { median: 9.0, scale: 3.0, most: 9.0 });
        // what strays more widely than Poisson
        assert_eq!(baseline([0, 50, 100, 150, 200], 5), Baseline { median: 100.0, scale: 1.4826 * 50.0, most: 200.0 });
        assert_eq!(baseline([], 0), Baseline { median: 0.0, scale: 1.0, most: 0.0 });
        assert_eq!(baseline([9; 24], 24).alarm(), 18);
        // a nightly job: beyond the largest night
        assert_eq!(baseline([200; 7], 168).alarm(), 243);
    }
}
