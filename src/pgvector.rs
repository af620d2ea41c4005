//! pgvector's `vector` and `halfvec` datums. Their layout is known in this file alone.
use core::marker::PhantomData;
use core::{mem::size_of, ptr::NonNull, slice};

use half::f16;
use pgrx::callconv::{Arg, ArgAbi, BoxRet, FcInfo};
use pgrx::datum::{Datum, FromDatum, IntoDatum, UnboxDatum};
use pgrx::pg_sys;
use pgrx::pgrx_sql_entity_graph::metadata::{
    ArgumentError, ReturnsError, ReturnsRef, SqlMappingRef, SqlTranslatable, TypeOrigin,
};

/// The largest number of dimensions that pgvector allows in a `vector` or `halfvec`.
pub const MAX_DIM: usize = 16_000;

/// The header that both types share (pgvector `src/vector.h`, `src/halfvec.h`); `dim` elements follow it.
#[repr(C)]
struct Header {
    vl_len: u32,
    dim: i16,
    unused: i16,
}

/// An element type of a pgvector type.
pub trait Element: Copy + 'static {
    /// The SQL name of the type that holds such elements.
    const SQL_TYPE: &'static str;
    /// What identifies the Rust type to pgrx.
    const TYPE_IDENT: &'static str;
}

impl Element for f32 {
    const SQL_TYPE: &'static str = "vector";
    const TYPE_IDENT: &'static str = "pgedge::pgvector::Vector";
}

impl Element for f16 {
    const SQL_TYPE: &'static str = "halfvec";
    const TYPE_IDENT: &'static str = "pgedge::pgvector::HalfVector";
}

/// A detoasted pgvector datum, valid for the current function call.
pub struct Embedding<'a, T: Element> {
    raw: NonNull<Header>,
    _life: PhantomData<&'a [T]>,
}

impl<'a, T: Element> Embedding<'a, T> {
    /// # Safety
    /// `datum` must be a non-null datum of the pgvector type whose elements are `T`.
    pub unsafe fn from_raw(datum: pg_sys::Datum) -> Self {
        // SAFETY: a non-null varlena by the caller's promise; detoasting returns a valid one or raises ERROR.
        let raw = unsafe { pg_sys::pg_detoast_datum(datum.cast_mut_ptr()) };
        let raw = NonNull::new(raw.cast::<Header>()).expect("a detoasted datum is never null");
        Self { raw, _life: PhantomData }
    }

    /// The elements.
    pub fn as_slice(&self) -> &'a [T] {
        // SAFETY: pgvector guarantees that `dim` elements follow the 8-byte header.
        unsafe {
            let dim = (*self.raw.as_ptr()).dim as usize;
            slice::from_raw_parts(self.raw.as_ptr().add(1).cast::<T>(), dim)
        }
    }

    /// A new datum in the current memory context. `values` has 1 to [`MAX_DIM`] elements.
    pub fn palloc_from(values: &[T]) -> Embedding<'static, T> {
        assert!((1..=MAX_DIM).contains(&values.len()), "pgvector allows 1 to {MAX_DIM} dimensions");
        let bytes = size_of::<Header>() + size_of_val(values);
        // SAFETY: palloc0 returns `bytes` writable, maximally aligned bytes or raises ERROR; both sizes fit (see the assertion).
        unsafe {
            let raw = pg_sys::palloc0(bytes).cast::<Header>();
            pgrx::varlena::set_varsize_4b(raw.cast(), bytes as i32);
            (*raw).dim = values.len() as i16;
            raw.add(1).cast::<T>().copy_from_nonoverlapping(values.as_ptr(), values.len());
            Embedding { raw: NonNull::new_unchecked(raw), _life: PhantomData }
        }
    }
}

/// Calls `f` with the elements of a datum, and frees what detoasting them took: for loops whose memory context lives on.
///
/// # Safety
/// As [`Embedding::from_raw`].
pub unsafe fn with_embedding<T: Element, R>(datum: pg_sys::Datum, f: impl FnOnce(&[T]) -> R) -> R {
    // SAFETY: the caller's promise.
    let embedding = unsafe { Embedding::<T>::from_raw(datum) };
    let result = f(embedding.as_slice());
    if embedding.raw.as_ptr() != datum.cast_mut_ptr() {
        // SAFETY: a copy that detoasting made, used by nothing any more.
        unsafe { pg_sys::pfree(embedding.raw.as_ptr().cast()) };
    }
    result
}

/// The elements of a value without its length word, as TOAST stores it. `None` when the bytes are not such a value or do not lie aligned for `T`.
pub fn elements_of_body<T: Element>(body: &[u8]) -> Option<&[T]> {
    let header = size_of::<Header>() - size_of::<u32>();
    let dim = i16::from_ne_bytes(*body.first_chunk()?);
    let elements = body.get(header..)?;
    if dim < 1 || elements.len() != dim as usize * size_of::<T>() || !elements.as_ptr().cast::<T>().is_aligned() {
        return None;
    }
    // SAFETY: so many bytes, aligned, and any bits are a number.
    Some(unsafe { slice::from_raw_parts(elements.as_ptr().cast(), dim as usize) })
}

impl<T: Element> FromDatum for Embedding<'_, T> {
    unsafe fn from_polymorphic_datum(datum: pg_sys::Datum, is_null: bool, _typoid: pg_sys::Oid) -> Option<Self> {
        // SAFETY: pgrx asks for this type only where the SQL signature has the pgvector type.
        (!is_null).then(|| unsafe { Self::from_raw(datum) })
    }
}

impl<T: Element> IntoDatum for Embedding<'_, T> {
    fn into_datum(self) -> Option<pg_sys::Datum> {
        Some(pg_sys::Datum::from(self.raw.as_ptr()))
    }
    fn type_oid() -> pg_sys::Oid {
        pg_sys::Oid::INVALID
    }
}

// SAFETY: the datum is a varlena of the type that the SQL signature names.
unsafe impl<'a, T: Element> UnboxDatum for Embedding<'a, T> {
    type As<'src>
        = Embedding<'src, T>
    where
        'a: 'src;
    unsafe fn unbox<'src>(datum: Datum<'src>) -> Embedding<'src, T>
    where
        'a: 'src,
    {
        // SAFETY: the caller promises a non-null datum of this type.
        unsafe { Embedding::from_raw(datum.sans_lifetime()) }
    }
}

// SAFETY: unboxing goes through FromDatum, which detoasts.
unsafe impl<'fcx, T: Element> ArgAbi<'fcx> for Embedding<'fcx, T> {
    unsafe fn unbox_arg_unchecked(arg: Arg<'_, 'fcx>) -> Self {
        // SAFETY: as above; a NULL argument never reaches a non-Option parameter.
        unsafe { arg.unbox_arg_using_from_datum() }.expect("vector argument must not be null")
    }
}

// SAFETY: the datum returned was palloc'd by `palloc_from` or is an argument of this call.
unsafe impl<T: Element> BoxRet for Embedding<'_, T> {
    unsafe fn box_into<'fcx>(self, fcinfo: &mut FcInfo<'fcx>) -> Datum<'fcx> {
        match self.into_datum() {
            // SAFETY: a datum of the declared return type.
            Some(d) => unsafe { fcinfo.return_raw_datum(d) },
            None => fcinfo.return_null(),
        }
    }
}

// SAFETY: SQL_TYPE is the type whose layout this file knows; pgvector is in `requires`, so it resolves at install.
unsafe impl<T: Element> SqlTranslatable for Embedding<'_, T> {
    const TYPE_IDENT: &'static str = T::TYPE_IDENT;
    const TYPE_ORIGIN: TypeOrigin = TypeOrigin::External;
    const ARGUMENT_SQL: Result<SqlMappingRef, ArgumentError> = Ok(SqlMappingRef::literal(T::SQL_TYPE));
    const RETURN_SQL: Result<ReturnsRef, ReturnsError> = Ok(ReturnsRef::One(SqlMappingRef::literal(T::SQL_TYPE)));
}
