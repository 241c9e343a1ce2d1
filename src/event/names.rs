//! The types or the tags that a filter names.

use serde::{Deserialize, Serialize};

/// Names in order, and without repetitions. They lie in one piece of memory of the size they need, because each of very many streams may
/// have a query of its own.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(from = "Vec<String>")]
pub(crate) struct Names(Box<[String]>);

impl Names {
    pub(crate) fn contains(&self, name: &str) -> bool {
        let found = self.0.binary_search_by(|known| known.as_str().cmp(name));
        found.is_ok()
    }

    /// In order.
    pub(crate) fn iter(&self) -> std::slice::Iter<'_, String> {
        self.0.iter()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// These names, and more of them.
    #[must_use]
    pub(crate) fn and(self, more: impl IntoIterator<Item = String>) -> Self {
        self.0.into_iter().chain(more).collect()
    }
}

impl From<Vec<String>> for Names {
    fn from(mut names: Vec<String>) -> Self {
        names.sort_unstable();
        names.dedup();
        Self(names.into())
    }
}

impl FromIterator<String> for Names {
    fn from_iter<T: IntoIterator<Item = String>>(names: T) -> Self {
        Vec::from_iter(names).into()
    }
}

impl<'a> IntoIterator for &'a Names {
    type Item = &'a String;
    type IntoIter = std::slice::Iter<'a, String>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(names: &[&str]) -> Names {
        names.iter().map(|&name| name.to_owned()).collect()
    }

    #[test]
    fn names_are_in_order_and_each_is_there_once_however_they_came() {
        let all = names(&["b", "a"]).and(["c".to_owned(), "a".to_owned()]);
        assert_eq!(all.iter().collect::<Vec<_>>(), ["a", "b", "c"]);
        assert_eq!(all, serde_json::from_str(r#"["c","b","c","a"]"#).unwrap());
        assert_eq!(serde_json::to_string(&all).unwrap(), r#"["a","b","c"]"#);
        for (name, is_there) in [("", false), ("a", true), ("aa", false), ("c", true), ("d", false)] {
            assert_eq!(all.contains(name), is_there, "{name}");
        }
        assert!(!all.is_empty() && names(&[]).is_empty());
    }
}
