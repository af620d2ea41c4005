//! What is searched: a relation with an id and an embedding column, found by name, checked, and quoted for SQL.
use pgrx::pg_sys;
use pgrx::prelude::*;

use super::call::{c_string, owned};
use super::id::{IdType, type_name};
use super::spi::Statement;
use crate::errors::fail;

/// pgvector's types.
#[derive(Clone, Copy)]
pub struct VectorTypes {
    /// `vector`
    pub vector: pg_sys::Oid,
    /// `halfvec`
    pub halfvec: pg_sys::Oid,
    /// `vector[]`
    pub array: pg_sys::Oid,
}

impl VectorTypes {
    /// Looks them up in the schema that the extension `vector` is in. Needs an SPI connection.
    pub fn find() -> VectorTypes {
        let schema = Statement::new(
            "SELECT e.extnamespace FROM pg_catalog.pg_extension e WHERE e.extname OPERATOR(pg_catalog.=) 'vector'",
            &[],
        )
        .value();
        // SAFETY: a catalog look-up.
        let find = |name: &str| unsafe {
            let name = c_string(name);
            let oid = pg_sys::GetSysCacheOid(
                pg_sys::SysCacheIdentifier::TYPENAMENSP as i32,
                1,
                pg_sys::Datum::from(name.as_ptr()),
                schema.unwrap_or(pg_sys::Datum::from(0)),
                pg_sys::Datum::from(0),
                pg_sys::Datum::from(0),
            );
            if oid == pg_sys::Oid::INVALID {
                fail(
                    PgSqlErrorCode::ERRCODE_UNDEFINED_OBJECT,
                    format!("type \"{}\" does not exist", name.to_string_lossy()),
                    "CREATE EXTENSION vector;",
                );
            }
            oid
        };
        let vector = find("vector");
        // SAFETY: a catalog look-up.
        VectorTypes { vector, halfvec: find("halfvec"), array: unsafe { pg_sys::get_array_type(vector) } }
    }
}

/// What is to be searched, as the caller names it.
pub struct Wanted<'a> {
    /// The relation; the extension's `vectors` when there is none.
    pub relation: Option<pg_sys::Oid>,
    /// Column of the embeddings.
    pub embedding: &'a str,
    /// Column of the ids.
    pub id: &'a str,
    /// Whether rows are chosen by a column `source`.
    pub by_source: bool,
}

/// A relation that can be searched.
pub struct Source {
    /// The relation, which is locked.
    pub oid: pg_sys::Oid,
    /// Its name, quoted and with its schema.
    pub name: String,
    /// The id column, quoted.
    pub id: String,
    /// Its number.
    pub id_number: pg_sys::AttrNumber,
    /// The embedding column, quoted.
    pub embedding: String,
    /// Its number.
    pub embedding_number: pg_sys::AttrNumber,
    /// The type of the ids.
    pub id_type: IdType,
    /// The condition on `source`, with `$n` for the value wanted; empty without one.
    source: Option<&'static str>,
    /// Whether the embeddings are `halfvec`.
    pub half: bool,
    /// Whether rows have a place of their own, `(tableoid, ctid)`, that the caller may read.
    pub has_ctid: bool,
    /// Whether all its rows are of this very table: no partitions, no children.
    pub is_one_table: bool,
}

impl Source {
    /// Finds the relation and its columns. Errors: 42P01, 42809, 42703, 42804, 42883 (ids without an order), 42501.
    /// Takes an ACCESS SHARE lock on it until the transaction ends. Needs an SPI connection.
    pub fn find(wanted: &Wanted<'_>, types: &VectorTypes) -> Source {
        let oid = wanted.relation.unwrap_or_else(vectors_table);
        let Opened { name, kind, has_children } = Opened::open(oid);
        let (embedding, id) = (column(oid, &name, wanted.embedding), column(oid, &name, wanted.id));
        let mut columns = vec![embedding, id];
        let half = is_half(oid, &name, embedding, wanted.embedding, types);
        let source = wanted.by_source.then(|| {
            columns.push(column(oid, &name, "source"));
            source_condition(oid, columns[2])
        });
        let whole = check_privileges(oid, &name, &columns);
        let (mut id_type, mut typmod, mut collation) = (pg_sys::Oid::INVALID, 0, pg_sys::Oid::INVALID);
        // SAFETY: a catalog look-up of a column that is there.
        unsafe { pg_sys::get_atttypetypmodcoll(oid, id, &mut id_type, &mut typmod, &mut collation) };
        let table = matches!(kind, pg_sys::RELKIND_RELATION | pg_sys::RELKIND_MATVIEW);
        Source {
            oid,
            id: quoted(wanted.id),
            id_number: id,
            embedding: quoted(wanted.embedding),
            embedding_number: embedding,
            id_type: IdType::new(id_type, collation),
            half,
            has_ctid: whole
                && (table || kind == pg_sys::RELKIND_PARTITIONED_TABLE)
                && !(has_children && has_foreign_part(oid)),
            is_one_table: table && !has_children,
            source,
            name,
        }
    }

    /// Whether not all of its rows are wanted.
    pub fn is_filtered(&self) -> bool {
        self.source.is_some()
    }

    /// ` FROM … AS t WHERE …`, where the source is parameter `$n`.
    pub fn scanned_part(&self, n: usize) -> String {
        match self.source {
            Some(condition) => format!(" FROM {} AS t WHERE {condition}${n}", self.name),
            None => format!(" FROM {} AS t", self.name),
        }
    }
}

/// What the relation cache knows of a relation.
struct Opened {
    name: String,
    kind: u8,
    has_children: bool,
}

impl Opened {
    /// Locks the relation; one that is not there (42P01) or has no rows (42809) is an error.
    fn open(oid: pg_sys::Oid) -> Opened {
        // SAFETY: the relation is locked once it has been found, so it keeps its name and schema.
        let opened = unsafe {
            let relation = pg_sys::try_relation_open(oid, pg_sys::AccessShareLock as i32);
            if relation.is_null() {
                fail(
                    PgSqlErrorCode::ERRCODE_UNDEFINED_TABLE,
                    format!("relation with OID {} does not exist", oid.to_u32()),
                    "Give a table's name, as in relation => 'my_schema.my_table'.",
                );
            }
            let class = &*(*relation).rd_rel;
            let opened =
                Opened { name: quoted_name(oid), kind: class.relkind as u8, has_children: class.relhassubclass };
            pg_sys::relation_close(relation, pg_sys::NoLock as i32);
            opened
        };
        if !matches!(
            opened.kind,
            pg_sys::RELKIND_RELATION
                | pg_sys::RELKIND_PARTITIONED_TABLE
                | pg_sys::RELKIND_VIEW
                | pg_sys::RELKIND_MATVIEW
                | pg_sys::RELKIND_FOREIGN_TABLE
        ) {
            fail(
                PgSqlErrorCode::ERRCODE_WRONG_OBJECT_TYPE,
                format!("{} is not a table, view or foreign table", opened.name),
                "Search a relation that has rows.",
            );
        }
        opened
    }
}

/// Whether a partition or child, however far down, is a foreign table: what it reads may have no ctid.
fn has_foreign_part(relation: pg_sys::Oid) -> bool {
    Statement::new(
        "WITH RECURSIVE part(oid) AS (SELECT $1 UNION ALL SELECT i.inhrelid FROM pg_catalog.pg_inherits i JOIN part p \
         ON i.inhparent OPERATOR(pg_catalog.=) p.oid) \
         SELECT true FROM part p JOIN pg_catalog.pg_class c ON c.oid OPERATOR(pg_catalog.=) p.oid WHERE c.relkind OPERATOR(pg_catalog.=) 'f' LIMIT 1",
        &[(pg_sys::OIDOID, relation.into_datum())],
    )
    .value()
    .is_some()
}

/// Whether the embeddings are `halfvec`; what is neither that nor `vector` is an error (42804).
fn is_half(relation: pg_sys::Oid, name: &str, number: pg_sys::AttrNumber, wanted: &str, types: &VectorTypes) -> bool {
    // SAFETY: catalog look-ups of a column that is there.
    let base = unsafe { pg_sys::getBaseType(pg_sys::get_atttype(relation, number)) };
    if base != types.vector && base != types.halfvec {
        fail(
            PgSqlErrorCode::ERRCODE_DATATYPE_MISMATCH,
            format!("column \"{wanted}\" of {name} is of type {}, not vector or halfvec", type_name(base)),
            "Name the column with embedding_column, or search a view that casts it to vector.",
        );
    }
    base == types.halfvec
}

/// The condition on the column `source`, short of the parameter. Text is compared as it is, so that an index on it can be used.
fn source_condition(relation: pg_sys::Oid, number: pg_sys::AttrNumber) -> &'static str {
    // SAFETY: catalog look-ups of a column that is there.
    match unsafe { pg_sys::getBaseType(pg_sys::get_atttype(relation, number)) } {
        pg_sys::TEXTOID | pg_sys::VARCHAROID | pg_sys::BPCHAROID | pg_sys::NAMEOID => {
            "t.source OPERATOR(pg_catalog.=) "
        }
        _ => "t.source::pg_catalog.text OPERATOR(pg_catalog.=) ",
    }
}

/// The extension's table `vectors`, wherever the extension was created.
fn vectors_table() -> pg_sys::Oid {
    let found = Statement::new(
        "SELECT c.oid FROM pg_catalog.pg_extension e JOIN pg_catalog.pg_class c ON c.relnamespace OPERATOR(pg_catalog.=) e.extnamespace \
         WHERE e.extname OPERATOR(pg_catalog.=) 'pgedge' AND c.relname OPERATOR(pg_catalog.=) 'vectors'",
        &[],
    )
    .value();
    match found {
        Some(oid) => pg_sys::Oid::from(oid.value() as u32),
        None => fail(
            PgSqlErrorCode::ERRCODE_UNDEFINED_TABLE,
            "table \"vectors\" does not exist in the schema of the extension",
            "SELECT * FROM pgedge.create_tables() makes it; or name another with relation => '…'.",
        ),
    }
}

/// # Safety
/// The relation must be locked.
unsafe fn quoted_name(relation: pg_sys::Oid) -> String {
    // SAFETY: the caller's promise: it has a name and a schema.
    unsafe {
        let schema = pg_sys::get_namespace_name(pg_sys::get_rel_namespace(relation));
        owned(pg_sys::quote_qualified_identifier(schema, pg_sys::get_rel_name(relation)))
    }
}

fn quoted(identifier: &str) -> String {
    // SAFETY: a C string.
    unsafe { owned(pg_sys::quote_identifier(c_string(identifier).as_ptr())) }
}

/// The number of a column, or 42703.
fn column(relation: pg_sys::Oid, name: &str, wanted: &str) -> pg_sys::AttrNumber {
    // SAFETY: a catalog look-up.
    let number = unsafe { pg_sys::get_attnum(relation, c_string(wanted).as_ptr()) };
    if number == 0 {
        fail(
            PgSqlErrorCode::ERRCODE_UNDEFINED_COLUMN,
            format!("column \"{wanted}\" of {name} does not exist"),
            format!("Its columns are {}.", columns(relation)),
        );
    }
    number
}

/// The names of a relation's columns, for a hint.
fn columns(relation: pg_sys::Oid) -> String {
    let mut names = Vec::new();
    for number in 1..=i16::MAX {
        // SAFETY: a catalog look-up; NULL for a number that is not in use. Dropped columns have a name of dots.
        let name = unsafe {
            let name = pg_sys::get_attname(relation, number, true);
            if name.is_null() {
                break;
            }
            owned(name)
        };
        if !name.starts_with("........pg.dropped") {
            names.push(quoted(&name));
        }
    }
    names.join(", ")
}

/// The caller may read the whole relation (true) or at least these columns (false), or 42501.
fn check_privileges(relation: pg_sys::Oid, name: &str, columns: &[pg_sys::AttrNumber]) -> bool {
    // SAFETY: catalog look-ups.
    let (whole, allowed) = unsafe {
        let user = pg_sys::GetUserId();
        let select = pg_sys::ACL_SELECT.into();
        let whole = pg_sys::pg_class_aclcheck(relation, user, select) == pg_sys::AclResult::ACLCHECK_OK;
        let allowed = whole
            || columns
                .iter()
                .all(|&c| pg_sys::pg_attribute_aclcheck(relation, c, user, select) == pg_sys::AclResult::ACLCHECK_OK);
        (whole, allowed)
    };
    if !allowed {
        fail(
            PgSqlErrorCode::ERRCODE_INSUFFICIENT_PRIVILEGE,
            format!("permission denied for {name}"),
            format!("As its owner: GRANT SELECT ON {name} TO {};", current_user()),
        );
    }
    whole
}

fn current_user() -> String {
    // SAFETY: the present user exists.
    unsafe { quoted(&owned(pg_sys::GetUserNameFromId(pg_sys::GetUserId(), false))) }
}
