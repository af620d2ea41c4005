//! Limits by event type: how many may be leased at a time, and how many may be handed out per second (a token bucket).
use crate::{Condition, LIMITS, Queue, kept};

/// Bytes of an event type: 50 characters.
const NAME_BYTES: usize = 200;

/// The limits of one type.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct Limit {
    /// Hash of the type.
    pub kind: u64,
    /// Most leases at a time; negative for any number.
    pub max_leased: i64,
    /// Most events handed out per second; negative for any number.
    pub rate: f64,
    tokens: f64,
    filled_at: i64,
    leased: i64,
    name: [u8; NAME_BYTES],
    name_len: u32,
    /// Nothing of this type is handed out.
    pub paused: bool,
}

/// What a bucket holds: a second's worth, at least one event, and nothing where nothing is allowed.
fn bucket(rate: f64) -> f64 {
    if rate > 0.0 { rate.max(1.0) } else { 0.0 }
}

impl Limit {
    /// The limits of `name`, with a full bucket: a second's worth, and at least one.
    #[must_use]
    pub fn new(name: &str, kind: u64, max_leased: Option<i64>, rate: Option<f64>, paused: bool, now: i64) -> Self {
        let bytes = kept(name, NAME_BYTES);
        let mut limit = Self {
            kind,
            max_leased: max_leased.unwrap_or(-1),
            rate: rate.unwrap_or(-1.0),
            tokens: rate.map_or(0.0, bucket),
            filled_at: now,
            leased: 0,
            name: [0; NAME_BYTES],
            name_len: bytes.len() as u32,
            paused,
        };
        limit.name[..bytes.len()].copy_from_slice(bytes);
        limit
    }

    /// The type's name.
    #[must_use]
    pub fn name(&self) -> &str {
        std::str::from_utf8(&self.name[..(self.name_len as usize).min(NAME_BYTES)]).unwrap_or("")
    }

    fn fill(&mut self, now: i64) {
        if self.rate >= 0.0 {
            let seconds = (now.saturating_sub(self.filled_at)).max(0) as f64 / 1e6;
            self.tokens = (self.tokens + seconds * self.rate).min(bucket(self.rate));
            self.filled_at = now;
        }
    }
}

impl Queue<'_> {
    /// The types that have limits.
    #[must_use]
    pub fn limits(&self) -> &[Limit] {
        &self.state.limits[..(self.state.limit_count as usize).min(LIMITS)]
    }

    /// Replaces all limits (at most [`LIMITS`]); a bucket that was there keeps its level.
    pub fn set_limits(&mut self, limits: &[Limit]) {
        let old: Vec<Limit> = self.limits().to_vec();
        let n = limits.len().min(LIMITS);
        for (i, limit) in limits.iter().take(n).enumerate() {
            let mut limit = *limit;
            if let Some(was) = old.iter().find(|o| o.kind == limit.kind && o.rate == limit.rate) {
                (limit.tokens, limit.filled_at) = (was.tokens, was.filled_at);
            }
            limit.leased = self
                .slots()
                .iter()
                .filter(|s| s.kind == limit.kind && matches!(s.condition(), Condition::Leased | Condition::Held))
                .count() as i64;
            self.state.limits[i] = limit;
        }
        self.state.limit_count = n as u32;
    }

    /// How many events of a type may be handed out now, at most `wanted`.
    pub fn allowance(&mut self, kind: u64, wanted: usize, now: i64) -> usize {
        let n = (self.state.limit_count as usize).min(LIMITS);
        let Some(limit) = self.state.limits[..n].iter_mut().find(|l| l.kind == kind) else { return wanted };
        if limit.paused {
            return 0;
        }
        limit.fill(now);
        let mut allowed = wanted;
        if limit.max_leased >= 0 {
            allowed = allowed.min((limit.max_leased - limit.leased).max(0) as usize);
        }
        if limit.rate >= 0.0 {
            allowed = allowed.min(limit.tokens.max(0.0) as usize);
        }
        allowed
    }

    /// One event of a type was handed out: takes a token.
    pub fn spend(&mut self, kind: u64) {
        let n = (self.state.limit_count as usize).min(LIMITS);
        if let Some(limit) = self.state.limits[..n].iter_mut().find(|l| l.kind == kind && l.rate >= 0.0) {
            limit.tokens -= 1.0;
        }
    }

    pub(crate) fn count_no_leases(&mut self) {
        let n = (self.state.limit_count as usize).min(LIMITS);
        self.state.limits[..n].iter_mut().for_each(|l| l.leased = 0);
    }

    pub(crate) fn count_limit(&mut self, kind: u64, by: i64) {
        let n = (self.state.limit_count as usize).min(LIMITS);
        if let Some(limit) = self.state.limits[..n].iter_mut().find(|l| l.kind == kind) {
            limit.leased += by;
        }
    }
}
