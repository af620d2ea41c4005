//! What identifies a row in SQL: a value of any type that can be ordered. Ties are broken in the order of that type, as `ORDER BY … , id` would.
use core::cell::Cell;
use core::cmp::Ordering;

use pgedge_similarity::RowId;
use pgrx::pg_sys;
use pgrx::prelude::*;

use super::call::owned;
use crate::errors::fail;

/// The value of an id column. Integers and uuids are kept and compared without the server's help; others as the server keeps them.
#[derive(Clone)]
pub enum Id {
    /// int2, int4, int8, oid.
    Int(i64),
    /// uuid, whose order is that of its bytes.
    Uuid([u8; 16]),
    /// Any other: the datum itself when it is passed by value, else its bytes, detoasted, padded with zeros to whole words.
    Other(Box<[u64]>),
}

/// How ids of [`Id::Other`] are ordered.
#[derive(Clone, Copy)]
struct Order {
    compare: *mut pg_sys::FmgrInfo,
    collation: pg_sys::Oid,
    by_value: bool,
}

thread_local! {
    /// `Ord` takes no context, so it is here: set by [`IdType::enter`] whenever ids of a type are worked with.
    static ORDER: Cell<Option<Order>> = const { Cell::new(None) };
}

impl Ord for Id {
    fn cmp(&self, other: &Self) -> Ordering {
        match (self, other) {
            (Id::Int(a), Id::Int(b)) => a.cmp(b),
            (Id::Uuid(a), Id::Uuid(b)) => a.cmp(b),
            (Id::Other(a), Id::Other(b)) => {
                let order = ORDER.get().expect("IdType::enter comes first");
                // SAFETY: both are values of the type that the comparison function, which lives in the type cache for ever, takes.
                let sign = unsafe {
                    let datum = |words: &[u64]| datum_of(words, order.by_value);
                    pg_sys::FunctionCall2Coll(order.compare, order.collation, datum(a), datum(b)).value() as i32
                };
                // The function may have searched, for ids of another type.
                ORDER.set(Some(order));
                // A collation may call different texts equal.
                sign.cmp(&0).then_with(|| a.cmp(b))
            }
            _ => unreachable!("ids of one column have one type"),
        }
    }
}

impl PartialOrd for Id {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Id {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Id {}

fn datum_of(words: &[u64], by_value: bool) -> pg_sys::Datum {
    if by_value { pg_sys::Datum::from(words[0]) } else { pg_sys::Datum::from(words.as_ptr()) }
}

impl RowId for Id {
    fn heap_bytes(&self) -> usize {
        match self {
            // What malloc adds is counted too.
            Id::Other(words) => size_of_val::<[u64]>(words) + 16,
            _ => 0,
        }
    }

    fn encode(&self, out: &mut Vec<u8>) {
        match self {
            Id::Int(v) => {
                out.push(0);
                v.encode(out);
            }
            Id::Uuid(bytes) => {
                out.push(1);
                out.extend_from_slice(bytes);
            }
            Id::Other(words) => {
                out.push(2);
                (words.len() as u32).encode(out);
                words.iter().for_each(|w| w.encode(out));
            }
        }
    }

    fn decode(input: &mut &[u8]) -> Option<Self> {
        let (tag, rest) = input.split_first()?;
        *input = rest;
        match tag {
            0 => i64::decode(input).map(Id::Int),
            1 => {
                let (bytes, rest) = input.split_first_chunk()?;
                *input = rest;
                Some(Id::Uuid(*bytes))
            }
            2 => {
                let words = u32::decode(input)? as usize;
                // Before anything is allocated for it.
                (words <= input.len() / 8).then_some(())?;
                (0..words).map(|_| u64::decode(input)).collect::<Option<_>>().map(Id::Other)
            }
            _ => None,
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Int2,
    Int4,
    Int8,
    Oid,
    Uuid,
    ByValue,
    /// A varlena (-1), a C string (-2) or so many bytes.
    Reference(i16),
}

/// The SQL type of an id column.
#[derive(Clone, Copy)]
pub struct IdType {
    /// The type, domains resolved.
    pub oid: pg_sys::Oid,
    /// The collation of comparisons.
    pub collation: pg_sys::Oid,
    kind: Kind,
    order: Option<Order>,
}

impl IdType {
    /// The type `oid`. One without an order is an error (42883).
    pub fn new(oid: pg_sys::Oid, collation: pg_sys::Oid) -> IdType {
        // SAFETY: catalog look-ups; the type cache's entries live for ever.
        unsafe {
            let oid = pg_sys::getBaseType(oid);
            let kind = match oid {
                pg_sys::INT2OID => Kind::Int2,
                pg_sys::INT4OID => Kind::Int4,
                pg_sys::INT8OID => Kind::Int8,
                pg_sys::OIDOID => Kind::Oid,
                pg_sys::UUIDOID => Kind::Uuid,
                _ if pg_sys::get_typbyval(oid) => Kind::ByValue,
                _ => Kind::Reference(pg_sys::get_typlen(oid)),
            };
            let mut order = None;
            if let Kind::ByValue | Kind::Reference(_) = kind {
                let entry = pg_sys::lookup_type_cache(oid, pg_sys::TYPECACHE_CMP_PROC_FINFO as i32);
                if (*entry).cmp_proc == pg_sys::Oid::INVALID {
                    fail(
                        PgSqlErrorCode::ERRCODE_UNDEFINED_FUNCTION,
                        format!("ids of type {} have no order", type_name(oid)),
                        "Ties are broken by id: use a column whose type can be sorted, or cast it to text.",
                    );
                }
                order = Some(Order {
                    compare: &raw mut (*entry).cmp_proc_finfo,
                    collation,
                    by_value: kind == Kind::ByValue,
                });
            }
            IdType { oid, collation, kind, order }
        }
    }

    /// Makes this the type that ids are compared as, until another is.
    #[inline]
    pub fn enter(&self) {
        if self.order.is_some() {
            ORDER.set(self.order);
        }
    }

    /// Whether workers may compare ids.
    pub fn is_parallel_safe(&self) -> bool {
        // SAFETY: a catalog look-up of a function that the type cache has.
        self.order.is_none_or(|order| unsafe {
            pg_sys::func_parallel((*order.compare).fn_oid) as u8 == pg_sys::PROPARALLEL_SAFE
        })
    }

    /// About what an id owns outside an [`Id`], for planning.
    pub fn usual_heap_bytes(&self) -> usize {
        if let Kind::Reference(_) = self.kind { 56 } else { 0 }
    }

    /// The id in a datum.
    ///
    /// # Safety
    /// `datum` must be a value of this type, not NULL.
    #[inline]
    pub unsafe fn read(&self, datum: pg_sys::Datum) -> Id {
        match self.kind {
            Kind::Int2 => Id::Int(i64::from(datum.value() as i16)),
            Kind::Int4 => Id::Int(i64::from(datum.value() as i32)),
            Kind::Int8 => Id::Int(datum.value() as i64),
            Kind::Oid => Id::Int(i64::from(datum.value() as u32)),
            // SAFETY: a uuid is a pointer to sixteen bytes.
            Kind::Uuid => Id::Uuid(unsafe { *datum.cast_mut_ptr() }),
            Kind::ByValue => Id::Other(Box::new([datum.value() as u64])),
            // SAFETY: a value of that length.
            Kind::Reference(length) => unsafe { Id::Other(copied(datum, length)) },
        }
    }

    /// The id as a datum, which borrows from it where the type is passed by reference.
    pub fn datum(&self, id: &Id) -> pg_sys::Datum {
        match id {
            Id::Int(v) => pg_sys::Datum::from(*v),
            Id::Uuid(bytes) => pg_sys::Datum::from(bytes.as_ptr()),
            Id::Other(words) => datum_of(words, self.kind == Kind::ByValue),
        }
    }

    /// What writes ids as text.
    pub fn printer(&self) -> Printer {
        // SAFETY: catalog look-ups; a zeroed FmgrInfo is what fmgr_info fills.
        unsafe {
            let (mut function, mut varlena) = (pg_sys::Oid::INVALID, false);
            // What `id::text` calls, which for char(n), inet and boolean is not the output function.
            let path = pg_sys::find_coercion_pathway(
                pg_sys::TEXTOID,
                self.oid,
                pg_sys::CoercionContext::COERCION_EXPLICIT,
                &mut function,
            );
            let casts = path == pg_sys::CoercionPathType::COERCION_PATH_FUNC;
            if !casts {
                pg_sys::getTypeOutputInfo(self.oid, &mut function, &mut varlena);
            }
            let mut info: pg_sys::FmgrInfo = core::mem::zeroed();
            pg_sys::fmgr_info(function, &mut info);
            Printer { ids: *self, info, casts }
        }
    }
}

/// Writes ids of one type as SQL text.
pub struct Printer {
    ids: IdType,
    /// The cast to text where there is one, else the type's output function.
    info: pg_sys::FmgrInfo,
    casts: bool,
}

impl Printer {
    /// The id as a `text` datum in the current memory context.
    pub fn text(&mut self, id: &Id) -> pg_sys::Datum {
        if let Id::Int(v) = id {
            return v.to_string().into_datum().expect("not NULL");
        }
        // SAFETY: a value of the type whose cast or output function this is; their results are text and a C string. A cast function has one to three
        // arguments; the further ones are the length of the target, of which text has none, and that the cast is explicit.
        unsafe {
            if self.casts {
                let (value, collation) = (self.ids.datum(id), self.ids.collation);
                let (no_length, explicit) = (pg_sys::Datum::from(-1i32), pg_sys::Datum::from(true));
                let info = &raw mut self.info;
                return match self.info.fn_nargs {
                    1 => pg_sys::FunctionCall1Coll(info, collation, value),
                    2 => pg_sys::FunctionCall2Coll(info, collation, value, no_length),
                    _ => pg_sys::FunctionCall3Coll(info, collation, value, no_length, explicit),
                };
            }
            let written = pg_sys::OutputFunctionCall(&mut self.info, self.ids.datum(id));
            pg_sys::Datum::from(pg_sys::cstring_to_text(written))
        }
    }
}

/// A value passed by reference, detoasted, in whole words.
///
/// # Safety
/// `datum` must be a value of a type of that `typlen`.
unsafe fn copied(datum: pg_sys::Datum, length: i16) -> Box<[u64]> {
    // SAFETY: the caller's promise says what each branch may read.
    unsafe {
        let (from, bytes, owned): (*const u8, usize, bool) = match length {
            -1 => {
                // A short or toasted value becomes a plain one.
                let plain = pg_sys::pg_detoast_datum(datum.cast_mut_ptr());
                (plain.cast(), pgrx::varlena::varsize_4b(plain), plain != datum.cast_mut_ptr())
            }
            -2 => {
                let text: *const core::ffi::c_char = datum.cast_mut_ptr();
                (text.cast(), core::ffi::CStr::from_ptr(text).count_bytes() + 1, false)
            }
            n => (datum.cast_mut_ptr(), n as usize, false),
        };
        let mut words = vec![0u64; bytes.div_ceil(8)].into_boxed_slice();
        words.as_mut_ptr().cast::<u8>().copy_from_nonoverlapping(from, bytes);
        if owned {
            pg_sys::pfree(from.cast_mut().cast());
        }
        words
    }
}

/// A type's name in SQL.
pub fn type_name(oid: pg_sys::Oid) -> String {
    // SAFETY: format_type_be gives a C string for any oid.
    unsafe { owned(pg_sys::format_type_be(oid)) }
}
