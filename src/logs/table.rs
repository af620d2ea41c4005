//! The table `aggregated_logs`: where it is, what fits, and the statements that write it.
//!
//! The functions are SECURITY DEFINER, so a writer of logs needs EXECUTE on them and no right on any table. They belong to a superuser, but
//! the table belongs to whoever the user made its owner, and may have triggers: statements on it run with the rights of its owner.
use std::cell::{OnceCell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;

use pgrx::prelude::*;

use super::batch::Tally;
use super::direct::{self, Added, Addition};
use super::store;
use crate::catalog;
use crate::errors;
use crate::spi::{self, Planned, Session};

/// Longest source that the support tables index.
const MAX_SOURCE: usize = 500;

/// Most characters that a level and a source may have; None is any number.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Of the level.
    pub level: Option<usize>,
    /// Of the source.
    pub source: Option<usize>,
    /// The largest count.
    pub count: i64,
    /// The columns.
    pub columns: Columns,
}

/// A column that the functions read or write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Column {
    Id,
    Pattern,
    Count,
    Level,
    Source,
    FirstSeen,
    LastSeen,
    Metadata,
    Samples,
}

/// The table's name.
const TABLE: &str = "aggregated_logs";

/// Names of the columns, in the order of [`Column`].
const COLUMNS: [&core::ffi::CStr; 9] = [
    c"id",
    c"message_pattern",
    c"count",
    c"level",
    c"source",
    c"first_seen",
    c"last_seen",
    c"metadata",
    c"sample_messages",
];

/// Number, type and modifier of each column, in the order of [`Column`].
#[derive(Clone, Copy, Debug)]
pub struct Columns([(pg_sys::AttrNumber, pg_sys::Oid, i32); COLUMNS.len()]);

impl Columns {
    /// The number of a column in the table.
    pub fn number(&self, column: Column) -> pg_sys::AttrNumber {
        self.0[column as usize].0
    }

    /// The type of a column.
    pub fn type_of(&self, column: Column) -> pg_sys::Oid {
        self.0[column as usize].1
    }

    /// The most characters of a column; None for any number.
    fn chars(&self, column: Column) -> Option<usize> {
        let (_, type_oid, modifier) = self.0[column as usize];
        (type_oid == pg_sys::VARCHAROID && modifier > 4).then_some((modifier - 4) as usize)
    }

    /// Whether the columns have the types that they are made with, or wider ones of the same sort.
    pub fn are_usual(&self) -> bool {
        let is = |types: &[pg_sys::Oid], columns: &[Column]| columns.iter().all(|c| types.contains(&self.type_of(*c)));
        is(&[pg_sys::INT4OID, pg_sys::INT8OID], &[Column::Id, Column::Count])
            && is(&[pg_sys::TEXTOID, pg_sys::VARCHAROID], &[Column::Pattern, Column::Level, Column::Source])
            && is(&[pg_sys::TIMESTAMPOID], &[Column::FirstSeen, Column::LastSeen])
            // one of fewer digits is rounded by the statement
            && [Column::FirstSeen, Column::LastSeen].iter().all(|c| self.0[*c as usize].2 < 0)
            && is(&[pg_sys::JSONBOID], &[Column::Metadata, Column::Samples])
    }
}

/// Where `aggregated_logs` is, and what is known of it.
#[derive(Debug)]
pub struct Target {
    /// See [`catalog::version`].
    version: u64,
    /// A support table of the extension: another one when the extension was made anew.
    pub extension: pg_sys::Oid,
    /// The type `pgedge._log_delta`: another one when the extension, or the type alone, was made anew.
    pub delta_type: pg_sys::Oid,
    /// Its quoted name with schema.
    pub name: String,
    /// The table itself.
    pub relation: pg_sys::Oid,
    schema: pg_sys::Oid,
    schema_name: String,
    owner: pg_sys::Oid,
    limits: OnceCell<Limits>,
    plain_indexes: OnceCell<bool>,
}

thread_local! {
    static TARGET: RefCell<Option<Rc<Target>>> = const { RefCell::new(None) };
}

/// Owner, name and schema of a relation; None when there is none with this OID.
fn relation(oid: pg_sys::Oid) -> Option<(pg_sys::Oid, String, pg_sys::Oid)> {
    // SAFETY: the tuple is released after its fields were copied.
    unsafe {
        let tuple = pg_sys::SearchSysCache1(pg_sys::SysCacheIdentifier::RELOID as i32, pg_sys::Datum::from(oid));
        if tuple.is_null() {
            return None;
        }
        let class = pg_sys::GETSTRUCT(tuple).cast::<pg_sys::FormData_pg_class>();
        let name = core::ffi::CStr::from_ptr((*class).relname.data.as_ptr()).to_string_lossy().into_owned();
        let found = ((*class).relowner, name, (*class).relnamespace);
        pg_sys::ReleaseSysCache(tuple);
        Some(found)
    }
}

fn schema_name(oid: pg_sys::Oid) -> Option<String> {
    // SAFETY: a palloc'd string or null.
    unsafe {
        let name = pg_sys::get_namespace_name(oid);
        (!name.is_null()).then(|| {
            let owned = core::ffi::CStr::from_ptr(name).to_string_lossy().into_owned();
            pg_sys::pfree(name.cast());
            owned
        })
    }
}

/// The type `_log_delta` of the schema.
fn delta_type(schema: pg_sys::Oid) -> pg_sys::Oid {
    // SAFETY: a lookup by name and schema.
    unsafe {
        pg_sys::GetSysCacheOid(
            pg_sys::SysCacheIdentifier::TYPENAMENSP as i32,
            pg_sys::Anum_pg_type_oid as i16,
            pg_sys::Datum::from(c"_log_delta".as_ptr()),
            pg_sys::Datum::from(schema),
            pg_sys::Datum::from(0),
            pg_sys::Datum::from(0),
        )
    }
}

impl Target {
    /// The table, found by the extension's schema; error 42P01 when it is not there. It is looked up again when something changed.
    pub fn find() -> Rc<Self> {
        let version = catalog::version();
        let known = TARGET.with_borrow(Option::clone);
        if let Some(known) = known.as_ref().filter(|t| t.version == version) {
            return known.clone();
        }
        // SAFETY: lookups by name. pg_extension itself has no cache to look into.
        let (ours, extension) = unsafe {
            let ours = pg_sys::get_namespace_oid(c"pgedge".as_ptr(), false);
            (ours, pg_sys::get_relname_relid(c"_log_sources".as_ptr(), ours))
        };
        let table = known.filter(|t| t.extension == extension && t.is_there()).map(|t| (t.schema, t.relation));
        let (schema, relation) = table.unwrap_or_else(Self::look_up);
        let target = Rc::new(Self::new(version, extension, ours, schema, relation));
        TARGET.set(Some(target.clone()));
        target
    }

    /// The table as it is once this session has its turn in the sources with these locks, whatever others did to it, or to the extension, meanwhile.
    /// It is locked as an UPDATE does it until the transaction ends, and so is the extension: nobody drops, rebuilds or gives them away any more.
    pub fn find_locked(mut target: Rc<Self>, locks: impl IntoIterator<Item = u32>) -> Rc<Self> {
        store::lock(locks);
        // What goes on changing all the time (a server built to discard its caches) is written by statements.
        for _ in 0..8 {
            // SAFETY: locks of relations by their OIDs, be they still there or not. Who gets one hears of all changes committed before.
            unsafe {
                pg_sys::LockRelationOid(target.extension, pg_sys::AccessShareLock as i32);
                pg_sys::LockRelationOid(target.relation, pg_sys::RowExclusiveLock as i32);
            }
            if target.is_current() {
                break;
            }
            target = Self::find();
        }
        target
    }

    /// Whether the table still has its name and is in the same schema, and that has its name.
    fn is_there(&self) -> bool {
        relation(self.relation).is_some_and(|(_, name, schema)| {
            name == TABLE && schema == self.schema && schema_name(schema).as_ref() == Some(&self.schema_name)
        })
    }

    /// Schema and OID of the table; no OID when there is none.
    fn look_up() -> (pg_sys::Oid, pg_sys::Oid) {
        // Read-only: `Spi::get_one` would assign a transaction id, which a standby cannot.
        let schema = Spi::connect(|client| {
            let query = "SELECT n.oid FROM pg_catalog.pg_namespace n WHERE n.nspname = pgedge._schema()";
            client.select(query, Some(1), &[])?.first().get_one::<pg_sys::Oid>()
        });
        let schema = schema.ok().flatten().unwrap_or(pg_sys::InvalidOid);
        // SAFETY: a lookup by name and schema.
        (schema, unsafe { pg_sys::get_relname_relid(c"aggregated_logs".as_ptr(), schema) })
    }

    fn new(version: u64, extension: pg_sys::Oid, ours: pg_sys::Oid, schema: pg_sys::Oid, oid: pg_sys::Oid) -> Self {
        let schema_name = schema_name(schema).unwrap_or_default();
        let Some((owner, _, _)) = relation(oid) else {
            errors::fail(
                PgSqlErrorCode::ERRCODE_UNDEFINED_TABLE,
                format!("table \"{schema_name}.{TABLE}\" does not exist"),
                "Create it with: SELECT pgedge.create_tables();",
            )
        };
        Self {
            version,
            extension,
            delta_type: delta_type(ours),
            name: format!("{}.{TABLE}", pgrx::spi::quote_identifier(&schema_name)),
            relation: oid,
            schema,
            schema_name,
            owner,
            limits: OnceCell::new(),
            plain_indexes: OnceCell::new(),
        }
    }

    /// Whether this session heard of no change since all this was looked up.
    pub fn is_current(&self) -> bool {
        self.version == catalog::version()
    }

    /// Whether the table's indexes ask for no more than an entry, as `look` finds out.
    pub fn has_plain_indexes(&self, look: impl FnOnce() -> bool) -> bool {
        *self.plain_indexes.get_or_init(look)
    }

    /// The columns; refuses a table that lost one which the statements name.
    pub fn columns(&self) -> Columns {
        Columns(COLUMNS.map(|name| {
            let (mut type_oid, mut typmod, mut collation) = (pg_sys::InvalidOid, -1, pg_sys::InvalidOid);
            // SAFETY: lookups in the system cache; the second is made only for a column that is there.
            unsafe {
                let number = pg_sys::get_attnum(self.relation, name.as_ptr());
                if number == pg_sys::InvalidAttrNumber as i16 {
                    errors::fail(
                        PgSqlErrorCode::ERRCODE_UNDEFINED_COLUMN,
                        format!("column \"{}\" of table {} does not exist", name.to_string_lossy(), self.name),
                        "Add it with: SELECT pgedge.create_tables();",
                    );
                }
                pg_sys::get_atttypetypmodcoll(self.relation, number, &mut type_oid, &mut typmod, &mut collation);
                (number, type_oid, typmod)
            }
        }))
    }

    /// What fits into the table as it is now.
    pub fn limits(&self) -> &Limits {
        self.limits.get_or_init(|| self.look_up_limits())
    }

    fn look_up_limits(&self) -> Limits {
        let columns = self.columns();
        let count = if columns.type_of(Column::Count) == pg_sys::INT4OID { i64::from(i32::MAX) } else { i64::MAX };
        Limits {
            level: columns.chars(Column::Level),
            source: Some(columns.chars(Column::Source).map_or(MAX_SOURCE, |n| n.min(MAX_SOURCE))),
            count,
            columns,
        }
    }

    /// Name and owner of another table of the same schema; None when it is not there.
    pub fn sibling(&self, name: &core::ffi::CStr) -> Option<(String, pg_sys::Oid)> {
        // SAFETY: a lookup by name and schema.
        let oid = unsafe { pg_sys::get_relname_relid(name.as_ptr(), self.schema) };
        let (owner, name, _) = relation(oid)?;
        Some((
            format!("{}.{}", pgrx::spi::quote_identifier(&self.schema_name), pgrx::spi::quote_identifier(&name)),
            owner,
        ))
    }

    /// Runs `f` with the rights of the table's owner.
    pub fn as_owner<R>(&self, f: impl FnOnce() -> R) -> R {
        as_user(self.owner, f)
    }
}

/// Runs `f` with the rights of `user`.
pub fn as_user<R>(user: pg_sys::Oid, f: impl FnOnce() -> R) -> R {
    struct Back(pg_sys::Oid, i32);
    impl Drop for Back {
        fn drop(&mut self) {
            // SAFETY: what was current before.
            unsafe { pg_sys::SetUserIdAndSecContext(self.0, self.1) }
        }
    }
    let (mut before, mut context) = (pg_sys::InvalidOid, 0);
    // SAFETY: the user is a role; on an error the guard, and again the abort of the transaction, bring the previous one back.
    unsafe {
        pg_sys::GetUserIdAndSecContext(&mut before, &mut context);
        let _back = Back(before, context);
        pg_sys::SetUserIdAndSecContext(user, context | pg_sys::SECURITY_LOCAL_USERID_CHANGE as i32);
        f()
    }
}

/// Refuses to write where that is not possible.
pub fn check_writable() {
    // SAFETY: plain reads of this backend's state.
    if unsafe { pg_sys::XactReadOnly || pg_sys::RecoveryInProgress() } {
        errors::fail(
            PgSqlErrorCode::ERRCODE_READ_ONLY_SQL_TRANSACTION,
            "cannot aggregate logs in a read-only transaction",
            "Run it in a transaction that may write (SET TRANSACTION READ WRITE), on the primary server.",
        );
    }
}

/// Lines to add to a row.
pub struct Delta<'a> {
    /// The row's pattern.
    pub pattern: String,
    /// Its level.
    pub level: Option<&'a str>,
    /// Its source; empty for none.
    pub source: &'a str,
    /// What is added.
    pub tally: Tally<'a>,
    /// All of the row's samples as JSON when they change.
    pub samples: Option<String>,
}

fn source(source: &str) -> Option<&str> {
    (!source.is_empty()).then_some(source)
}

/// The deltas as an array of `pgedge._log_delta`.
fn records<'a>(target: &Target, deltas: &[(i64, &Delta<'_>)]) -> pgrx::datum::DatumWithOid<'a> {
    let rows = deltas.iter().map(|(id, d)| {
        [
            (*id).into_datum(),
            d.pattern.as_str().into_datum(),
            d.level.into_datum(),
            source(d.source).into_datum(),
            d.tally.count.into_datum(),
            // a timestamptz is its microseconds
            d.tally.first.into_datum(),
            d.tally.last.into_datum(),
            d.tally.metadata.to_json().into_datum(),
            d.samples.as_deref().into_datum(),
        ]
    });
    spi::records(target.delta_type, rows)
}

/// Adds lines to rows. Answers the new count of each row that is still as it was: its id, pattern, level and source; None for the others.
pub fn update(
    session: &Session<'_>,
    target: &Target,
    additions: &[Addition<'_>],
    limits: &Limits,
) -> Vec<Option<Added>> {
    let mut answer = direct::update(target, additions, limits);
    let left: Vec<usize> = (0..answer.len()).filter(|&i| answer[i].is_none()).collect();
    if !left.is_empty() {
        let deltas: Vec<(i64, &Delta<'_>)> = left.iter().map(|&i| (additions[i].id, additions[i].delta)).collect();
        let counts = update_by_statement(session, target, &deltas, limits);
        for i in left {
            answer[i] = counts.get(&additions[i].id).map(|&count| Added { count, place: None });
        }
    }
    answer
}

fn update_by_statement(
    session: &Session<'_>,
    target: &Target,
    deltas: &[(i64, &Delta<'_>)],
    limits: &Limits,
) -> HashMap<i64, i64> {
    let args = [records(target, deltas), spi::int8(limits.count), spi::int4(super::metadata::MAX_BYTES as i32)];
    let counts = session.rows(
        "UPDATE %T a SET
            count = CASE WHEN coalesce(a.count, 0)::int8 + v.n <= $2 THEN coalesce(a.count, 0)::int8 + v.n END,
            first_seen = least(a.first_seen, v.first_seen::timestamp),
            last_seen = greatest(a.last_seen, v.last_seen::timestamp),
            metadata = CASE WHEN v.metadata IS NULL THEN a.metadata
                            WHEN a.metadata IS NULL THEN v.metadata::jsonb
                            WHEN jsonb_typeof(a.metadata) <> 'object' OR a.metadata || v.metadata::jsonb = a.metadata THEN a.metadata
                            WHEN octet_length((a.metadata || v.metadata::jsonb)::text) <= $3 THEN a.metadata || v.metadata::jsonb
                            ELSE a.metadata END,
            sample_messages = CASE WHEN v.samples IS NULL THEN a.sample_messages ELSE v.samples::jsonb END
         FROM unnest($1) AS v
         WHERE a.id = v.id AND a.message_pattern = v.pattern AND a.level IS NOT DISTINCT FROM v.level AND a.source IS NOT DISTINCT FROM v.source
         RETURNING a.id::int8, a.count::int8",
        &args,
        |row| (row.get(1), row.opt::<i64>(2)),
    );
    counts.into_iter().map(|(id, count)| (id, count.unwrap_or_else(|| overflow(session.table, id, limits)))).collect()
}

fn overflow(table: &str, id: i64, limits: &Limits) -> ! {
    errors::fail(
        PgSqlErrorCode::ERRCODE_NUMERIC_VALUE_OUT_OF_RANGE,
        format!("the count of row {id} of {table} would exceed {}", limits.count),
        format!("Widen the column: ALTER TABLE {table} ALTER COLUMN count TYPE bigint;"),
    )
}

/// Ids of rows that are there already for these patterns, levels and one source: written by clients that know nothing of pgedge, or left
/// from before the extension was created anew. The oldest of each; None where there is none.
pub fn existing(session: &Session<'_>, of: &str, deltas: &[&Delta<'_>]) -> Vec<Option<i64>> {
    let mut found = vec![None; deltas.len()];
    let rows = session.planned(
        Planned::Anew,
        "SELECT DISTINCT ON (v.n) v.n, a.id::int8
         FROM unnest($1, $2) WITH ORDINALITY AS v(pattern, level, n)
         JOIN %T a ON a.message_pattern = v.pattern AND a.level IS NOT DISTINCT FROM v.level
         WHERE CASE WHEN $3 = '' THEN a.source IS NULL ELSE a.source = $3 END
         ORDER BY v.n, a.id",
        &[
            spi::texts(deltas.iter().map(|d| d.pattern.as_str())),
            spi::text_options(deltas.iter().map(|d| d.level)),
            spi::text(of),
        ],
        |row| (row.get::<i64>(1), row.get::<i64>(2)),
    );
    for (n, id) in rows {
        found[n as usize - 1] = Some(id);
    }
    found
}

/// Adds rows; answers their ids in the same order.
pub fn insert(session: &Session<'_>, target: &Target, deltas: &[&Delta<'_>], limits: &Limits) -> Vec<i64> {
    let numbered: Vec<(i64, &Delta<'_>)> = deltas.iter().enumerate().map(|(i, d)| (i as i64, *d)).collect();
    if let Some((id, _)) = numbered.iter().find(|(_, d)| d.tally.count > limits.count) {
        overflow(session.table, *id, limits);
    }
    let ids = session.rows(
        "INSERT INTO %T (message_pattern, count, level, source, first_seen, last_seen, metadata, sample_messages)
         SELECT v.pattern, v.n, v.level, v.source, v.first_seen::timestamp, v.last_seen::timestamp, v.metadata::jsonb, v.samples::jsonb
         FROM unnest($1) AS v
         ORDER BY v.id RETURNING id::int8",
        &[records(target, &numbered)],
        |row| row.get::<i64>(1),
    );
    if ids.len() != deltas.len() {
        errors::fail(
            PgSqlErrorCode::ERRCODE_TRIGGERED_DATA_CHANGE_VIOLATION,
            format!(
                "{} of {} rows could not be inserted into {}",
                deltas.len() - ids.len(),
                deltas.len(),
                session.table
            ),
            "A trigger or rule on the table leaves rows out; lines would be lost.",
        );
    }
    ids
}

impl Stored {
    /// Whether it is still the row of this pattern, level and source (empty for none): nobody changed it.
    pub fn is_of(&self, pattern: &str, level: Option<&str>, of: &str) -> bool {
        self.pattern == pattern && self.level.as_deref() == level && self.source.as_deref() == source(of)
    }
}

/// A row as it is stored.
pub struct Stored {
    /// Its id.
    pub id: i64,
    /// Its pattern.
    pub pattern: String,
    /// Its level.
    pub level: Option<String>,
    /// Its source.
    pub source: Option<String>,
    /// Its count.
    pub count: i64,
    /// Its metadata as JSON text.
    pub metadata: Option<String>,
    /// Its samples as JSON text.
    pub samples: Option<String>,
}

/// Rows by id, locked, in the order of their ids.
pub fn read(session: &Session<'_>, ids: impl IntoIterator<Item = i64>) -> Vec<Stored> {
    session.rows(
        "SELECT a.id::int8, a.message_pattern, a.level::text, a.source::text, coalesce(a.count, 0)::int8, a.metadata::text, a.sample_messages::text
         FROM %T a WHERE a.id = ANY ($1) ORDER BY a.id FOR UPDATE",
        &[spi::int8s(ids)],
        |row| Stored {
            id: row.get(1),
            pattern: row.get(2),
            level: row.opt(3),
            source: row.opt(4),
            count: row.get(5),
            metadata: row.opt(6),
            samples: row.opt(7),
        },
    )
}

/// A row that takes others in, or only another pattern.
pub struct Merge {
    /// The row that stays.
    pub id: i64,
    /// Its new pattern.
    pub pattern: String,
    /// Whether one of the rows that end in it has that pattern until it is deleted: a unique index would not have both.
    pub taken: bool,
    /// The rows that end in it, itself included.
    pub members: Vec<i64>,
    /// Metadata of all.
    pub metadata: Option<String>,
    /// Samples of all.
    pub samples: Option<String>,
}

/// Gives rows their new patterns and adds to them, then deletes, the rows that end in them.
pub fn merge(session: &Session<'_>, merges: &[Merge], limits: &Limits) {
    let members = merges.iter().flat_map(|m| m.members.iter().map(|&id| (id, m.id)));
    let (ids, ends): (Vec<i64>, Vec<i64>) = members.unzip();
    let counts = session.rows(
        "UPDATE %T a SET message_pattern = CASE WHEN v.taken THEN a.message_pattern ELSE v.pattern END, metadata = v.metadata::jsonb, sample_messages = v.samples::jsonb,
            count = CASE WHEN s.n <= $7 THEN s.n END, first_seen = s.first_seen, last_seen = s.last_seen
         FROM unnest($1, $2, $3, $4, $8) AS v(id, pattern, metadata, samples, taken),
              (SELECT m.ends, sum(coalesce(o.count, 0))::int8 AS n, min(o.first_seen) AS first_seen, max(o.last_seen) AS last_seen
               FROM unnest($5, $6) AS m(id, ends) JOIN %T o ON o.id = m.id GROUP BY m.ends) s
         WHERE a.id = v.id AND s.ends = v.id RETURNING a.id::int8, a.count::int8",
        &[
            spi::int8s(merges.iter().map(|m| m.id)),
            spi::texts(merges.iter().map(|m| m.pattern.as_str())),
            spi::text_options(merges.iter().map(|m| m.metadata.as_deref())),
            spi::text_options(merges.iter().map(|m| m.samples.as_deref())),
            spi::int8s(ids.iter().copied()),
            spi::int8s(ends.iter().copied()),
            spi::int8(limits.count),
            spi::bools(merges.iter().map(|m| m.taken)),
        ],
        |row| (row.get::<i64>(1), row.opt::<i64>(2)),
    );
    if let Some((id, _)) = counts.iter().find(|(_, count)| count.is_none()) {
        overflow(session.table, *id, limits);
    }
    let absorbed = merges.iter().flat_map(|m| m.members.iter().copied().filter(|id| *id != m.id));
    session.run("DELETE FROM %T WHERE id = ANY ($1)", &[spi::int8s(absorbed)]);
    let taken: Vec<&Merge> = merges.iter().filter(|m| m.taken).collect();
    if !taken.is_empty() {
        session.run(
            "UPDATE %T a SET message_pattern = v.pattern FROM unnest($1, $2) AS v(id, pattern) WHERE a.id = v.id",
            &[spi::int8s(taken.iter().map(|m| m.id)), spi::texts(taken.iter().map(|m| m.pattern.as_str()))],
        );
    }
}
