//! PostgreSQL's `jsonb` read in place. Its layout (`src/include/utils/jsonb.h`, unchanged since 9.4) is known in this file alone.
//!
//! A container is a word of flags and a count, one word for each element (keys first, then values, in an object), and the elements'
//! bytes. Reading it here rather than through text makes a batch of log entries cost a few nanoseconds a key.
use core::marker::PhantomData;
use core::slice;

use pgrx::callconv::{Arg, ArgAbi};
use pgrx::pgrx_sql_entity_graph::metadata::{
    ArgumentError, ReturnsError, ReturnsRef, SqlMappingRef, SqlTranslatable, TypeOrigin,
};
use pgrx::prelude::*;
use pgrx::{direct_function_call, varlena};

use crate::errors;

const COUNT: u32 = 0x0FFF_FFFF;
const IS_SCALAR: u32 = 0x1000_0000;
const IS_OBJECT: u32 = 0x2000_0000;
const ENTRY_LENGTH: u32 = 0x0FFF_FFFF;
const ENTRY_TYPE: u32 = 0x7000_0000;
const ENTRY_HAS_OFFSET: u32 = 0x8000_0000;

/// A detoasted `jsonb` argument, valid for the current function call.
pub struct Jsonb<'a> {
    bytes: &'a [u8],
}

/// An array or object.
#[derive(Clone, Copy)]
pub struct Container<'a> {
    bytes: &'a [u8],
}

/// A JSON value.
#[derive(Clone, Copy)]
pub enum Value<'a> {
    /// `null`
    Null,
    /// `true` or `false`
    Bool(bool),
    /// A string, escapes resolved.
    String(&'a str),
    /// A number.
    Number(Number<'a>),
    /// An array.
    Array(Container<'a>),
    /// An object.
    Object(Container<'a>),
}

/// A `numeric` datum inside a `jsonb`.
#[derive(Clone, Copy)]
pub struct Number<'a> {
    datum: pg_sys::Datum,
    _life: PhantomData<&'a [u8]>,
}

impl Number<'_> {
    /// The digits as PostgreSQL prints them, which is valid JSON.
    pub fn text(&self) -> String {
        // SAFETY: the datum is a numeric inside the detoasted argument.
        let text = unsafe { direct_function_call::<&core::ffi::CStr>(pg_sys::numeric_out, &[Some(self.datum)]) };
        text.map(|t| t.to_string_lossy().into_owned()).unwrap_or_default()
    }
}

impl<'a> Jsonb<'a> {
    /// # Safety
    /// `datum` must be a non-null datum of type jsonb that stays valid for `'a`.
    unsafe fn from_raw(datum: pg_sys::Datum) -> Self {
        // SAFETY: detoasting makes it aligned, with a long header, and valid until the current memory context is reset.
        unsafe {
            let raw = pg_sys::pg_detoast_datum(datum.cast_mut_ptr());
            let (data, size) = (varlena::vardata_any(raw).cast::<u8>(), varlena::varsize_any_exhdr(raw));
            Self { bytes: slice::from_raw_parts(data, size) }
        }
    }

    /// JSON text as PostgreSQL reads it, in the current memory context. Errors 22P02 and 22P05 as `jsonb`'s own input gives them.
    pub fn parse(text: &str) -> Jsonb<'static> {
        let refuse = |code, why: &str, hint: &str| -> ! {
            errors::fail(code, format!("{why}: {}", crate::logs::excerpt(text)), hint)
        };
        let c = std::ffi::CString::new(text).expect("text of PostgreSQL has no zero byte");
        pgrx::PgTryBuilder::new(|| {
            // SAFETY: jsonb's input function with its argument, which outlives the call; its result is a jsonb in the current context.
            unsafe {
                let datum =
                    pgrx::direct_function_call_as_datum(pg_sys::jsonb_in, &[Some(pg_sys::Datum::from(c.as_ptr()))]);
                Jsonb::from_raw(datum.expect("jsonb_in never answers NULL"))
            }
        })
        // Caught only to raise the error again with the text and a hint.
        .catch_when(PgSqlErrorCode::ERRCODE_INVALID_TEXT_REPRESENTATION, |_| {
            refuse(
                PgSqlErrorCode::ERRCODE_INVALID_TEXT_REPRESENTATION,
                "entries is not valid JSON",
                "Give JSON: [{\"message\": \"…\"}, …] or {\"logs\": […]}; for an array of lines, ARRAY['…', …] or a text[].",
            )
        })
        .catch_when(PgSqlErrorCode::ERRCODE_UNTRANSLATABLE_CHARACTER, |_| {
            refuse(
                PgSqlErrorCode::ERRCODE_UNTRANSLATABLE_CHARACTER,
                "\\u0000 cannot be text",
                "PostgreSQL's text cannot hold the character \\u0000: leave it out, or put \\ufffd in its place.",
            )
        })
        .execute()
    }

    /// The value.
    pub fn value(&self) -> Value<'a> {
        let root = Container { bytes: self.bytes };
        if root.header() & IS_SCALAR != 0 {
            return root.values().next().unwrap_or(Value::Null);
        }
        root.as_value()
    }
}

impl<'a> Container<'a> {
    fn word(&self, at: usize) -> u32 {
        let mut word = [0; 4];
        word.copy_from_slice(&self.bytes[at..at + 4]);
        u32::from_ne_bytes(word)
    }

    fn header(&self) -> u32 {
        self.word(0)
    }

    /// The number of elements of an array, or of pairs of an object.
    pub fn len(&self) -> usize {
        (self.header() & COUNT) as usize
    }

    fn is_object(&self) -> bool {
        self.header() & IS_OBJECT != 0
    }

    fn as_value(self) -> Value<'a> {
        if self.is_object() { Value::Object(self) } else { Value::Array(self) }
    }

    /// The bytes, to compare containers cheaply: equal bytes are equal values.
    pub fn raw(&self) -> &'a [u8] {
        self.bytes
    }

    /// The elements of an array.
    pub fn values(self) -> impl Iterator<Item = Value<'a>> {
        Elements { container: self, entries: self.len(), next: 0, offset: 0 }
    }

    /// The pairs of an object, by jsonb's order of keys.
    pub fn pairs(self) -> impl Iterator<Item = (&'a str, Value<'a>)> {
        let n = self.len();
        let keys = Elements { container: self, entries: 2 * n, next: 0, offset: 0 };
        let mut values = keys;
        for _ in 0..n {
            values.skip_one();
        }
        keys.take(n).zip(values).map(|(key, value)| match key {
            Value::String(key) => (key, value),
            _ => unreachable!("a key of a jsonb object is a string"),
        })
    }
}

#[derive(Clone, Copy)]
struct Elements<'a> {
    container: Container<'a>,
    /// Entries of the container: elements, or keys and values.
    entries: usize,
    next: usize,
    /// Where the next element begins, from the first byte behind the entries.
    offset: usize,
}

impl Elements<'_> {
    /// The entry of the next element and where it ends; moves on.
    fn skip_one(&mut self) -> (u32, usize) {
        let entry = self.container.word(4 + 4 * self.next);
        let length = (entry & ENTRY_LENGTH) as usize;
        self.offset = if entry & ENTRY_HAS_OFFSET != 0 { length } else { self.offset + length };
        self.next += 1;
        (entry, self.offset)
    }
}

impl<'a> Iterator for Elements<'a> {
    type Item = Value<'a>;

    fn next(&mut self) -> Option<Value<'a>> {
        if self.next == self.entries {
            return None;
        }
        let start = self.offset;
        let (entry, end) = self.skip_one();
        let base = 4 + 4 * self.entries;
        let bytes = self.container.bytes;
        Some(match entry & ENTRY_TYPE {
            0x0000_0000 => Value::String(utf8(&bytes[base + start..base + end])),
            0x1000_0000 => {
                let aligned = &bytes[base + start.next_multiple_of(4)..base + end];
                Value::Number(Number { datum: pg_sys::Datum::from(aligned.as_ptr()), _life: PhantomData })
            }
            0x2000_0000 => Value::Bool(false),
            0x3000_0000 => Value::Bool(true),
            0x4000_0000 => Value::Null,
            _ => Container { bytes: &bytes[base + start.next_multiple_of(4)..base + end] }.as_value(),
        })
    }
}

/// The bytes as text; error 22021 when they are none.
pub fn utf8(bytes: &[u8]) -> &str {
    core::str::from_utf8(bytes).unwrap_or_else(|_| {
        errors::fail(
            PgSqlErrorCode::ERRCODE_CHARACTER_NOT_IN_REPERTOIRE,
            "text is not valid UTF-8",
            "pgedge works in databases whose encoding is UTF8.",
        )
    })
}

impl Value<'_> {
    /// The value as JSON text.
    pub fn to_json(self) -> String {
        match self {
            Value::Null => "null".into(),
            Value::Bool(b) => b.to_string(),
            Value::String(s) => serde_json::Value::from(s).to_string(),
            Value::Number(n) => n.text(),
            Value::Array(c) | Value::Object(c) => {
                // SAFETY: the bytes are a whole container, aligned as it was in its parent; the text is palloc'd.
                unsafe {
                    let text = pg_sys::JsonbToCString(
                        core::ptr::null_mut(),
                        c.bytes.as_ptr().cast_mut().cast(),
                        c.bytes.len().min(1 << 20) as i32,
                    );
                    let owned = core::ffi::CStr::from_ptr(text).to_string_lossy().into_owned();
                    pg_sys::pfree(text.cast());
                    owned
                }
            }
        }
    }
}

// SAFETY: unboxing detoasts; the SQL type is jsonb, whose layout this file knows.
unsafe impl<'fcx> ArgAbi<'fcx> for Jsonb<'fcx> {
    unsafe fn unbox_arg_unchecked(arg: Arg<'_, 'fcx>) -> Self {
        // SAFETY: the functions that take this type are strict, so the datum is a non-null varlena; detoasting makes it aligned, with a
        // long header, and valid for the call.
        unsafe {
            Self::from_raw(arg.unbox_arg_using_from_datum::<pg_sys::Datum>().expect("jsonb argument must not be null"))
        }
    }
}

// SAFETY: the SQL type is the one whose layout this file knows.
unsafe impl SqlTranslatable for Jsonb<'_> {
    const TYPE_IDENT: &'static str = "pgedge::jsonb::Jsonb";
    const TYPE_ORIGIN: TypeOrigin = TypeOrigin::External;
    const ARGUMENT_SQL: Result<SqlMappingRef, ArgumentError> = Ok(SqlMappingRef::literal("jsonb"));
    const RETURN_SQL: Result<ReturnsRef, ReturnsError> = Ok(ReturnsRef::One(SqlMappingRef::literal("jsonb")));
}
