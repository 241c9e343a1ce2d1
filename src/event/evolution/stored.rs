//! What a log that stores events has to know of those that are shown otherwise.

use crate::error::{StoredAs, UndecodableEvent, UpcastError};
use crate::event::evolution::Evolution;
use crate::event::query::EventQuery;

impl Evolution {
    /// The types under which events may be stored that a query for this type is to be asked about: those that are called so
    /// today, and itself.
    pub(crate) fn stored_types<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        let renamed = self
            .plans
            .iter()
            .filter(move |(stored, plan)| &*plan.shown_type == name && &***stored != name);
        std::iter::once(name).chain(renamed.map(|(stored, _)| &**stored))
    }

    /// Whether what is stored as this type may be shown with another payload, or turn out to be undecodable.
    #[cfg(any(feature = "postgres", feature = "sqlite"))]
    pub(crate) fn changes_payloads_of(&self, stored_type: &str) -> bool {
        let mut next = self.plans.get(stored_type);
        while let Some(plan) = next {
            if plan.newest.is_some() {
                return true;
            }
            next = plan.renamed.as_ref().and_then(|renamed| self.plans.get(renamed));
        }
        false
    }

    /// All stored types of which that is so.
    #[cfg(any(feature = "postgres", feature = "sqlite"))]
    pub(crate) fn changed_types(&self) -> impl Iterator<Item = &str> {
        let types = self.plans.keys().map(|stored| &**stored);
        types.filter(|stored| self.changes_payloads_of(stored))
    }

    /// Whether a query may select events of this stored type, as far as types say.
    pub(crate) fn may_be_selected(&self, stored_type: &str, query: &EventQuery) -> bool {
        let Some(plan) = self.plans.get(stored_type) else {
            return true;
        };
        let names = [stored_type, &*plan.shown_type];
        query.filters().iter().any(|filter| filter.may_select_type(names))
    }

    /// Says of an event in the log why it cannot be brought up: it is an event all the same.
    pub(crate) fn undecodable(&self, stored: StoredAs, cause: UpcastError) -> UndecodableEvent {
        let shown_type = self.shown_type(&stored.event_type);
        UndecodableEvent::new(stored, shown_type, cause)
    }
}

#[cfg(all(test, feature = "sqlite"))]
mod tests {
    use std::sync::Arc;

    use serde_json::Value;

    use super::*;
    use crate::event::evolution::Registrations;

    #[test]
    fn a_type_stands_for_all_that_are_called_so_today() {
        let mut registrations = Registrations::default();
        registrations.rename("a".into(), "b".into());
        registrations.rename("b".into(), "c".into());
        registrations.rename("d".into(), "e".into());
        registrations.upcast("c".into(), 1, |payload: Value| Ok::<_, String>(payload));
        let evolution: Arc<Evolution> = registrations.check().unwrap().unwrap();
        let mut stored: Vec<&str> = evolution.stored_types("c").collect();
        stored.sort_unstable();
        assert_eq!(stored, ["a", "b", "c"]);
        assert_eq!(evolution.stored_types("b").collect::<Vec<_>>(), ["b"]);
        let changed: Vec<bool> = ["a", "b", "c", "d", "e", "f"]
            .map(|name| evolution.changes_payloads_of(name))
            .into();
        assert_eq!(changed, [true, true, true, false, false, false]);
        assert_eq!(evolution.changed_types().count(), 3);
    }
}
