//! The settings of the queue.
use pgrx::guc::{GucContext, GucFlags, GucRegistry, GucSetting};

/// Attempts of an event that says nothing of them.
pub const DEFAULT_ATTEMPTS: i32 = 5;

/// `pgedge.retry_base`: the delay before the second attempt, in milliseconds; doubled with every further one.
static RETRY_BASE: GucSetting<i32> = GucSetting::<i32>::new(1_000);
/// `pgedge.retry_cap`: the longest delay between two attempts, in milliseconds.
static RETRY_CAP: GucSetting<i32> = GucSetting::<i32>::new(3_600_000);
/// `pgedge.notify`: whether what becomes ready notifies the channel `pgedge_events`.
static NOTIFY: GucSetting<bool> = GucSetting::<bool>::new(true);
/// `pgedge.max_leases`: events that the queue of a database can have in memory.
static MAX_LEASES: GucSetting<i32> = GucSetting::<i32>::new(32_768);
/// `pgedge.priority_aging`: in milliseconds, how long an event waits before it may go ahead of more urgent ones; 0 for always.
static PRIORITY_AGING: GucSetting<i32> = GucSetting::<i32>::new(600_000);
/// `pgedge.event_retention`: in seconds, how long finished events are kept; -1 for ever.
static RETENTION: GucSetting<i32> = GucSetting::<i32>::new(-1);

/// `pgedge.queue_check_interval`: in milliseconds, how often claims look for events that were put where they do not look.
static CHECK_INTERVAL: GucSetting<i32> = GucSetting::<i32>::new(60_000);

/// In microseconds.
pub fn check_interval() -> i64 {
    i64::from(CHECK_INTERVAL.get()) * 1_000
}

/// In seconds; negative for ever.
pub fn retention() -> i32 {
    RETENTION.get()
}

/// Whether inserts notify.
pub fn notify() -> bool {
    NOTIFY.get()
}

/// Events that a new segment has room for.
pub fn max_leases() -> usize {
    MAX_LEASES.get().max(1) as usize
}

/// In microseconds; 0 for never.
pub fn priority_aging() -> i64 {
    i64::from(PRIORITY_AGING.get()) * 1_000
}

fn int(
    name: &'static core::ffi::CStr,
    short: &'static core::ffi::CStr,
    long: &'static core::ffi::CStr,
    setting: &'static GucSetting<i32>,
    range: (i32, i32),
    flags: GucFlags,
    context: GucContext,
) {
    GucRegistry::define_int_guc(name, short, long, setting, range.0, range.1, context, flags);
}

/// Declares the settings. Called once, when the library is loaded.
pub fn define() {
    int(
        c"pgedge.retry_base",
        c"Delay before a failed event's second attempt; it doubles with every further attempt.",
        c"Jitter takes up to half of it off. fail_events(retry_after => ...) overrides it.",
        &RETRY_BASE,
        (0, i32::MAX),
        GucFlags::UNIT_MS,
        GucContext::Userset,
    );
    int(
        c"pgedge.retry_cap",
        c"Longest delay between two attempts of a failed event.",
        c"Caps the exponential backoff that starts at pgedge.retry_base.",
        &RETRY_CAP,
        (0, i32::MAX),
        GucFlags::UNIT_MS,
        GucContext::Userset,
    );
    int(
        c"pgedge.max_leases",
        c"Events of a database that can be leased, or remembered as claimable, at a time.",
        c"Some 150 bytes of shared memory each, reserved by the first claim after the server's start, which is when this is read.",
        &MAX_LEASES,
        (64, 16_777_216),
        GucFlags::default(),
        GucContext::Suset,
    );
    int(
        c"pgedge.priority_aging",
        c"How long an event waits before some claims hand it out ahead of more urgent ones; 0 for never.",
        c"One claim in 16 looks at one lower priority first, and takes up to a quarter of its events from there.",
        &PRIORITY_AGING,
        (0, i32::MAX),
        GucFlags::UNIT_MS,
        GucContext::Userset,
    );
    int(
        c"pgedge.queue_check_interval",
        c"How often claims look for events that were put where they do not look, as by a restore that disables triggers.",
        c"A little at a time, and with at most a hundredth of the time, however short this is.",
        &CHECK_INTERVAL,
        (10, i32::MAX),
        GucFlags::UNIT_MS,
        GucContext::Suset,
    );
    int(
        c"pgedge.event_retention",
        c"Age from which finished events are deleted; -1 for never.",
        c"complete_events() deletes some now and then, with a fifth of one session's time at most; purge_events() without an age deletes all.",
        &RETENTION,
        (-1, i32::MAX),
        GucFlags::UNIT_S,
        GucContext::Suset,
    );
    GucRegistry::define_bool_guc(
        c"pgedge.notify",
        c"Whether a transaction that makes events ready notifies the channel pgedge_events when it commits.",
        c"At most one notification a transaction, and only when a consumer found nothing to do since the last one, or a second has passed.",
        &NOTIFY,
        GucContext::Userset,
        GucFlags::default(),
    );
}
