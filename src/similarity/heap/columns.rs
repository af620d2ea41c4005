//! Two columns of a tuple, read where it lies.
use pgrx::pg_sys;
use pgrx::varlena::varsize_any;

use super::scan::Tuple;

/// What is needed of a column to find the next one.
struct Column {
    /// Bytes, −1 for a varlena, −2 for a C string.
    length: i16,
    alignment: usize,
    by_value: bool,
}

/// Two columns of a table, and what stands before them.
pub struct Columns {
    descriptor: pg_sys::TupleDesc,
    /// The columns up to the last one wanted.
    before: Vec<Column>,
    /// Places, from 0, of the two.
    wanted: [usize; 2],
}

impl Columns {
    /// # Safety
    /// `descriptor` must be that of a table with columns of these numbers.
    pub unsafe fn new(descriptor: pg_sys::TupleDesc, numbers: [pg_sys::AttrNumber; 2]) -> Columns {
        let wanted = numbers.map(|number| number as usize - 1);
        // SAFETY: the caller's promise.
        let attributes = unsafe { (*descriptor).attrs.as_slice((*descriptor).natts as usize) };
        let column = |a: &pg_sys::FormData_pg_attribute| Column {
            length: a.attlen,
            alignment: match a.attalign as u8 {
                b'c' => 1,
                b's' => 2,
                b'i' => 4,
                _ => 8,
            },
            by_value: a.attbyval,
        };
        let before = attributes[..=wanted[0].max(wanted[1])].iter().map(column).collect();
        Columns { descriptor, before, wanted }
    }

    /// The two values, `None` for NULL. Those passed by reference lie in the tuple.
    ///
    /// # Safety
    /// `tuple` must be a row of the table, and its page pinned.
    #[inline]
    pub unsafe fn read(&self, tuple: &Tuple) -> [Option<pg_sys::Datum>; 2] {
        let mut values = [None; 2];
        // SAFETY: a tuple is laid out as htup_details.h and tupmacs.h say.
        unsafe {
            let header = &*tuple.header;
            let stored = (u32::from(header.t_infomask2) & pg_sys::HEAP_NATTS_MASK) as usize;
            let nulls = (u32::from(header.t_infomask) & pg_sys::HEAP_HASNULL != 0).then(|| header.t_bits.as_ptr());
            let mut at = tuple.header.cast::<u8>().add(header.t_hoff as usize);
            let start = at;
            for (n, column) in self.before.iter().enumerate().take(stored) {
                if nulls.is_some_and(|bits| *bits.add(n / 8) & 1 << (n % 8) == 0) {
                    continue;
                }
                at = column.begin(at, start);
                for (value, &wanted) in values.iter_mut().zip(&self.wanted) {
                    if n == wanted {
                        *value = Some(column.datum(at));
                    }
                }
                at = column.end(at);
            }
            for (value, &wanted) in values.iter_mut().zip(&self.wanted) {
                if wanted >= stored {
                    *value = missing(self.descriptor, wanted);
                }
            }
        }
        values
    }
}

/// The value of a column that was added after the row was written.
///
/// # Safety
/// The column must be one of the descriptor's.
#[cold]
unsafe fn missing(descriptor: pg_sys::TupleDesc, place: usize) -> Option<pg_sys::Datum> {
    let mut null = false;
    // SAFETY: the caller's promise.
    let value = unsafe { pg_sys::getmissingattr(descriptor, place as i32 + 1, &mut null) };
    (!null).then_some(value)
}

impl Column {
    /// Where the value begins that comes next after `at`.
    ///
    /// # Safety
    /// `at` must be the end of the value before, in a tuple whose data begin at `start`, which is aligned to 8.
    #[inline]
    unsafe fn begin(&self, at: *const u8, start: *const u8) -> *const u8 {
        // SAFETY: the caller's promise. A varlena with a short header is not aligned; the padding before another is zeros, a short header is not.
        unsafe {
            if self.length == -1 && *at != 0 {
                return at;
            }
            let offset = at.offset_from(start) as usize;
            start.add(offset.next_multiple_of(self.alignment))
        }
    }

    /// # Safety
    /// The column's value must begin at `at`.
    #[inline]
    unsafe fn datum(&self, at: *const u8) -> pg_sys::Datum {
        // SAFETY: the caller's promise; values passed by value have 1, 2, 4 or 8 bytes, and are aligned.
        unsafe {
            match (self.by_value, self.length) {
                (false, _) => pg_sys::Datum::from(at.cast_mut()),
                (true, 1) => pg_sys::Datum::from(*at.cast::<i8>()),
                (true, 2) => pg_sys::Datum::from(*at.cast::<i16>()),
                (true, 4) => pg_sys::Datum::from(*at.cast::<i32>()),
                (true, _) => pg_sys::Datum::from(*at.cast::<i64>()),
            }
        }
    }

    /// # Safety
    /// The column's value must begin at `at`.
    #[inline]
    unsafe fn end(&self, at: *const u8) -> *const u8 {
        // SAFETY: the caller's promise.
        unsafe {
            at.add(match self.length {
                -1 => varsize_any(at.cast()),
                -2 => core::ffi::CStr::from_ptr(at.cast()).count_bytes() + 1,
                bytes => bytes as usize,
            })
        }
    }
}
