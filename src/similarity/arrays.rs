//! Arrays of vectors.
use pgrx::datum::{Array, FromDatum};
use pgrx::pg_sys;
use pgrx::prelude::*;

use super::dimensions_differ;
use crate::errors::fail;
use crate::pgvector::{Element, Embedding};

/// Vectors one after the other, in f32, and where they stood.
pub struct Flat {
    /// Dimensions; 0 when there is no vector.
    pub dim: usize,
    /// The vectors that are not NULL.
    pub values: Vec<f32>,
    /// The place (from 0) of each in the array.
    pub places: Vec<u32>,
    /// Elements of the array, NULLs included.
    pub len: usize,
}

impl Flat {
    /// Vectors of an array without NULLs.
    pub fn plain(dim: usize, values: Vec<f32>) -> Flat {
        let len = values.len() / dim.max(1);
        Flat { dim, values, places: (0..len as u32).collect(), len }
    }

    /// The number of vectors.
    pub fn count(&self) -> usize {
        self.places.len()
    }

    /// Whether an element is NULL.
    pub fn has_nulls(&self) -> bool {
        self.places.len() < self.len
    }

    /// The vectors of a `vector[]` or `halfvec[]`, in storage order whatever its shape. Different dimensions are an error (22000).
    ///
    /// # Safety
    /// `datum` must be an array of the pgvector type whose elements are `T`.
    pub unsafe fn read<T: Element + Into<f32>>(datum: pg_sys::Datum) -> Flat {
        // SAFETY: the caller's promise.
        let array = unsafe { Array::<Embedding<'_, T>>::from_datum(datum, false) }.expect("not NULL");
        let mut flat = Flat { dim: 0, values: Vec::new(), places: Vec::new(), len: array.len() };
        for (place, vector) in array.iter().enumerate() {
            let Some(vector) = vector else { continue };
            let vector = vector.as_slice();
            if flat.places.is_empty() {
                flat.dim = vector.len();
                reserve(&mut flat.values, flat.dim * (flat.len - place));
                reserve(&mut flat.places, flat.len - place);
            } else if vector.len() != flat.dim {
                dimensions_differ(flat.dim, vector.len());
            }
            flat.values.extend(vector.iter().map(|&v| v.into()));
            flat.places.push(place as u32);
            if place % 1024 == 0 {
                pgrx::check_for_interrupts!();
            }
        }
        flat
    }
}

/// Room for `more` values, or an ERROR (53200) instead of an abort.
pub fn reserve<T>(values: &mut Vec<T>, more: usize) {
    if values.try_reserve_exact(more).is_err() {
        fail(
            PgSqlErrorCode::ERRCODE_OUT_OF_MEMORY,
            format!("out of memory: {} bytes were asked for", more.saturating_mul(size_of::<T>())),
            "Give fewer vectors at a time.",
        );
    }
}

/// A `vector[]` of rows `from..to` of `values`.
pub fn vector_array(values: &[f32], dim: usize, vector_type: pg_sys::Oid) -> pg_sys::Datum {
    let mut elements: Vec<pg_sys::Datum> = Vec::new();
    reserve(&mut elements, values.len() / dim);
    elements.extend(values.chunks_exact(dim).map(|v| Embedding::palloc_from(v).into_datum().expect("not NULL")));
    // SAFETY: `elements` are datums of `vector_type`, a varlena of alignment int.
    unsafe {
        let array = pg_sys::construct_array(
            elements.as_mut_ptr(),
            elements.len() as i32,
            vector_type,
            -1,
            false,
            b'i' as core::ffi::c_char,
        );
        for element in elements {
            pg_sys::pfree(element.cast_mut_ptr());
        }
        pg_sys::Datum::from(array)
    }
}
