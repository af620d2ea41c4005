//! What identifies a row: anything with an order. Equal scores are ordered by it.

/// A row's identity. Its `Ord` is the order of ties, so it must be the order of the SQL type: `i64` for integers, `u128` (big-endian bytes)
/// for uuid, bytes or `String` for text under the C collation.
pub trait RowId: Ord + Clone {
    /// Bytes owned outside the value, for the accounting of memory.
    fn heap_bytes(&self) -> usize {
        0
    }

    /// Appends the value to `out`.
    fn encode(&self, out: &mut Vec<u8>);

    /// Takes a value off the front of `input`; `None` when the bytes are not one.
    fn decode(input: &mut &[u8]) -> Option<Self>;
}

macro_rules! integer_ids {
    ($($t:ty),*) => {$(
        impl RowId for $t {
            fn encode(&self, out: &mut Vec<u8>) {
                out.extend_from_slice(&self.to_le_bytes());
            }

            fn decode(input: &mut &[u8]) -> Option<Self> {
                let (bytes, rest) = input.split_first_chunk()?;
                *input = rest;
                Some(<$t>::from_le_bytes(*bytes))
            }
        }
    )*};
}

integer_ids!(i32, i64, u32, u64, u128);

impl RowId for Box<[u8]> {
    fn heap_bytes(&self) -> usize {
        self.len()
    }

    fn encode(&self, out: &mut Vec<u8>) {
        // A value of PostgreSQL is below 1 GB.
        (self.len() as u32).encode(out);
        out.extend_from_slice(self);
    }

    fn decode(input: &mut &[u8]) -> Option<Self> {
        let len = u32::decode(input)? as usize;
        let (bytes, rest) = input.split_at_checked(len)?;
        *input = rest;
        Some(bytes.into())
    }
}

impl RowId for String {
    fn heap_bytes(&self) -> usize {
        self.capacity()
    }

    fn encode(&self, out: &mut Vec<u8>) {
        (self.len() as u32).encode(out);
        out.extend_from_slice(self.as_bytes());
    }

    fn decode(input: &mut &[u8]) -> Option<Self> {
        String::from_utf8(Box::<[u8]>::decode(input)?.into()).ok()
    }
}
