//! pgedge: one PostgreSQL as the whole data layer of an edge AI box.
//!
//! This crate is the thin layer that speaks PostgreSQL: it converts arguments, calls the pure crates under `crates/`
//! and reports errors. SQL objects that are SQL live in `sql/*.sql`, one file a feature.
use pgrx::prelude::*;

::pgrx::pg_module_magic!(name, version);

mod catalog;
mod errors;
mod events;
mod jsonb;
mod logs;
mod ops;
mod pgvector;
mod session;
mod similarity;
mod spi;
mod webhooks;

/// Everything but the four data tables lives here. The tables go into the schema that the extension is created in.
#[pg_schema]
mod pgedge {}

extension_sql_file!("../sql/schema.sql", name = "schema", requires = [pgedge]);
extension_sql_file!(
    "../sql/events.sql",
    name = "events",
    requires = [
        "schema",
        events::_events_as_owner,
        events::events_table,
        events::lease::hold,
        events::lease::extend,
        events::lease::revoke,
        events::lease::rekey,
        events::lease::empty,
        events::lease::leases,
        events::limits::limits_changed,
        events::wake::made_ready,
        events::wake::wait_for_events
    ]
);
extension_sql_file!(
    "../sql/ops.sql",
    name = "ops",
    requires = [
        "schema",
        ops::device_temperature,
        ops::device_temperature_at,
        ops::throttling,
        ops::disk_space,
        ops::host,
        ops::recommended
    ]
);
extension_sql_file!("../sql/webhooks.sql", name = "webhooks", requires = ["events"]);
extension_sql_file!("../sql/webhook_delivery.sql", name = "webhook_delivery", requires = ["webhooks"]);
extension_sql_file!("../sql/health.sql", name = "health", requires = ["ops", "events", "webhook_delivery"]);
extension_sql_file!(
    "../sql/logs.sql",
    name = "logs",
    requires = [
        "schema",
        events::_events_as_owner,
        logs::pattern::log_pattern,
        logs::pattern::log_parameters,
        logs::pattern::log_pattern_regex,
        logs::lookup::match_log,
        logs::mine::log_patterns_trans,
        logs::mine::log_patterns_combine,
        logs::mine::log_patterns_serial,
        logs::mine::log_patterns_deserial,
        logs::mine::log_patterns_final,
        logs::prune::prune_logs,
        logs::trends::log_baseline,
    ]
);
extension_sql_file!("../sql/install.sql", name = "install", finalize);

/// Called by PostgreSQL when the library is loaded: declares the settings.
#[pg_guard]
pub extern "C-unwind" fn _PG_init() {
    events::define_settings();
    logs::define_settings();
    webhooks::define_settings();
    webhooks::register_worker();
}

/// Required by `cargo pgrx test`.
#[cfg(test)]
pub mod pg_test {
    /// Called once before the tests.
    pub fn setup(_options: Vec<&str>) {}

    /// Lines added to the test server's `postgresql.conf`.
    #[must_use]
    pub fn postgresql_conf_options() -> Vec<&'static str> {
        vec![]
    }
}
