//! An array of texts, read where it lies in a row: nothing is copied or allocated for it.

use std::error::Error;
use std::str;

use tokio_postgres::types::{FromSql, Kind, Type};

/// The texts of an array, in their order, of whatever dimensions it has. NULL is left out.
#[derive(Clone, Debug)]
pub(super) struct Texts<'a> {
    /// Elements, each behind its length. Invariant: each of them is whole, and a text.
    left: &'a [u8],
}

/// The number of dimensions, whether there is a NULL, and the type of the elements.
const HEADER_BYTES: usize = 12;
/// The length and the lower bound of a dimension.
const DIMENSION_BYTES: usize = 8;

impl<'a> FromSql<'a> for Texts<'a> {
    fn from_sql(_: &Type, raw: &'a [u8]) -> Result<Self, Box<dyn Error + Sync + Send>> {
        let (header, _) = raw.split_first_chunk::<4>().ok_or("an array without a header")?;
        let dimensions = usize::try_from(i32::from_be_bytes(*header))?;
        let header_bytes = DIMENSION_BYTES
            .checked_mul(dimensions)
            .and_then(|bytes| bytes.checked_add(HEADER_BYTES));
        let elements = header_bytes.and_then(|bytes| raw.get(bytes..));
        let elements = elements.ok_or("an array whose header is cut off")?;
        let mut left = elements;
        while !left.is_empty() {
            let (element, behind) = next(left).ok_or("an array whose elements are cut off")?;
            str::from_utf8(element.unwrap_or_default())?;
            left = behind;
        }
        Ok(Self { left: elements })
    }

    fn accepts(found: &Type) -> bool {
        matches!(found.kind(), Kind::Array(of) if *of == Type::TEXT)
    }
}

/// The first element, unless it is NULL, and what lies behind it.
fn next(left: &[u8]) -> Option<(Option<&[u8]>, &[u8])> {
    let (length, behind) = left.split_first_chunk::<4>()?;
    match i32::from_be_bytes(*length) {
        -1 => Some((None, behind)),
        length => {
            let (element, behind) = behind.split_at_checked(usize::try_from(length).ok()?)?;
            Some((Some(element), behind))
        }
    }
}

impl<'a> Iterator for Texts<'a> {
    type Item = &'a str;

    fn next(&mut self) -> Option<&'a str> {
        loop {
            let (element, behind) = next(self.left)?;
            self.left = behind;
            if let Some(element) = element {
                return Some(
                    str::from_utf8(element).expect("it was found to be a text when the row was read"),
                );
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As the server sends it.
    fn raw(dimensions: &[i32], elements: &[Option<&[u8]>]) -> Vec<u8> {
        let mut raw = Vec::new();
        let mut put = |number: i32| raw.extend(number.to_be_bytes());
        put(i32::try_from(dimensions.len()).unwrap());
        put(0);
        put(25);
        for length in dimensions {
            put(*length);
            put(1);
        }
        for element in elements {
            raw.extend(element.map_or(-1, |element| element.len() as i32).to_be_bytes());
            raw.extend(element.unwrap_or_default());
        }
        raw
    }

    fn texts(raw: &[u8]) -> Result<Vec<&str>, String> {
        let texts = Texts::from_sql(&Type::TEXT_ARRAY, raw);
        texts.map(Iterator::collect).map_err(|error| error.to_string())
    }

    #[test]
    fn the_texts_of_an_array_are_read_in_their_order_and_null_is_none() {
        assert_eq!(texts(&raw(&[], &[])).unwrap(), [""; 0]);
        let elements = [Some(&b"a:1"[..]), None, Some(b""), Some("ü".as_bytes())];
        assert_eq!(texts(&raw(&[4], &elements)).unwrap(), ["a:1", "", "ü"]);
        assert_eq!(texts(&raw(&[2, 2], &elements)).unwrap(), ["a:1", "", "ü"]);
        assert!(<Texts<'_> as FromSql<'_>>::accepts(&Type::TEXT_ARRAY));
        assert!(!<Texts<'_> as FromSql<'_>>::accepts(&Type::INT4_ARRAY));
    }

    #[test]
    fn an_array_that_is_cut_off_or_no_text_is_an_error() {
        let whole = raw(&[2], &[Some(b"ab"), Some(b"cd")]);
        for end in [0, 3, 11, 19, 22, 25, 31] {
            assert!(texts(&whole[..end]).is_err(), "cut at {end}");
        }
        assert!(texts(&whole).is_ok());
        assert!(texts(&raw(&[1], &[Some(b"\xff")])).is_err());
        let negative = [&whole[..20], &(-2_i32).to_be_bytes()].concat();
        assert!(texts(&negative).is_err());
    }
}
