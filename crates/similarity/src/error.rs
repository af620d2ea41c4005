//! What can go wrong; the extension maps each to its SQLSTATE.

use std::fmt;

/// Every failure of this crate. Nothing is changed by a call that fails, except that rows pushed before stay.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Error {
    /// A vector has another number of dimensions than the queries (SQLSTATE 22000 in pgvector).
    Dimension {
        /// Dimensions of the queries.
        expected: usize,
        /// Dimensions of the vector.
        found: usize,
    },
    /// A length does not fit: a flat array that is not a whole number of vectors, an output of the wrong size, zero dimensions, `k` = 0.
    Shape(&'static str),
    /// Memory could not be had.
    OutOfMemory {
        /// How many bytes were asked for.
        bytes: usize,
    },
    /// Two states do not belong to the same search.
    Mismatch(&'static str),
    /// Bytes are not a serialised state.
    Corrupt(&'static str),
    /// The caller's interrupt check asked to stop.
    Interrupted,
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::Dimension { expected, found } => write!(f, "different vector dimensions {expected} and {found}"),
            Error::Shape(what) => write!(f, "{what}"),
            Error::OutOfMemory { bytes } => write!(f, "out of memory: {bytes} bytes were asked for"),
            Error::Mismatch(what) => write!(f, "states of different searches cannot be combined: {what}"),
            Error::Corrupt(what) => write!(f, "not a search state: {what}"),
            Error::Interrupted => write!(f, "interrupted"),
        }
    }
}

impl std::error::Error for Error {}

/// Reserves room for `more` values, or says how much was lacking.
pub(crate) fn reserve<T>(v: &mut Vec<T>, more: usize) -> Result<(), Error> {
    v.try_reserve_exact(more).map_err(|_| Error::OutOfMemory { bytes: more.saturating_mul(size_of::<T>()) })
}

/// `n` copies of `value`, or [`Error::OutOfMemory`].
pub(crate) fn filled<T: Clone>(value: T, n: usize) -> Result<Vec<T>, Error> {
    let mut v = Vec::new();
    reserve(&mut v, n)?;
    v.resize(n, value);
    Ok(v)
}
