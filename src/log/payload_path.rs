//! Paths into the payload that an index is to serve, as both logs that have one read them.

use serde_json::Value;

use crate::event::matching::Scalar;
use crate::log::pointer;

/// A path through the members of objects, written as a JSON pointer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct PayloadPath {
    pointer: String,
    members: Vec<String>,
}

/// How many paths a log may have.
pub(crate) const PATHS_MAX: usize = 16;

impl PayloadPath {
    /// Reads a pointer such as `/order/id`, in which `~1` stands for a slash and `~0` for a tilde. An error says what is wrong.
    pub(crate) fn parse(pointer: &str) -> Result<Self, &'static str> {
        Ok(Self {
            pointer: pointer.to_owned(),
            members: pointer::members(pointer)?,
        })
    }

    pub(crate) fn pointer(&self) -> &str {
        &self.pointer
    }

    /// The members that it goes through.
    #[cfg(feature = "postgres")]
    pub(crate) fn members(&self) -> &[String] {
        &self.members
    }

    /// The scalar that stands at the path. Arrays end a path: what a predicate's array demands is demanded of any element.
    pub(crate) fn scalar_in<'a>(&self, value: &'a Value) -> Option<Scalar<'a>> {
        let found = self
            .members
            .iter()
            .try_fold(value, |value, member| value.as_object()?.get(member))?;
        Scalar::of(found)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(pointer: &str) -> PayloadPath {
        PayloadPath::parse(pointer).unwrap()
    }

    #[test]
    fn pointers_are_read_as_the_standard_says() {
        assert_eq!(path("/a~1b/~0c//~01").members, ["a/b", "~c", "", "~1"]);
        assert_eq!(path("/").members, [""]);
        for pointer in ["", "order", "/a~", "/a~2", &"/a".repeat(200)] {
            assert!(PayloadPath::parse(pointer).is_err(), "{pointer}");
        }
    }
}
