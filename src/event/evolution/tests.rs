use serde_json::json;

use super::*;
use crate::error::EvolutionError;

type Refused = Result<Value, String>;

fn add(key: &'static str) -> impl Fn(Value) -> Refused {
    move |mut payload| {
        payload[key] = json!(true);
        Ok(payload)
    }
}

fn registered(register: impl FnOnce(&mut Registrations)) -> Result<Option<Arc<Evolution>>, EvolutionError> {
    let mut registrations = Registrations::default();
    register(&mut registrations);
    registrations.check()
}

fn evolution(register: impl FnOnce(&mut Registrations)) -> Arc<Evolution> {
    registered(register).unwrap().unwrap()
}

fn shown(evolution: &Evolution, event_type: &str, version: u32) -> (String, u32, Value) {
    match evolution.show(event_type, version, "{}").unwrap() {
        Shown::AsStored => (event_type.to_owned(), version, json!({})),
        Shown::As {
            event_type,
            version,
            payload,
        } => {
            let payload = payload.map_or(json!({}), |text| serde_json::from_str(&text).unwrap());
            (event_type.to_string(), version, payload)
        }
    }
}

#[test]
fn an_event_goes_through_the_upcasters_of_its_names_from_its_version_on() {
    let evolution = evolution(|registrations| {
        registrations.upcast("a".into(), 2, add("a2"));
        registrations.upcast("a".into(), 1, add("a1"));
        registrations.rename("a".into(), "b".into());
        registrations.rename("b".into(), "c".into());
        registrations.upcast("c".into(), 1, add("c1"));
        registrations.upcast("c".into(), 2, add("c2"));
        registrations.upcast("c".into(), 3, add("c3"));
    });
    let of = |event_type, version| shown(&evolution, event_type, version);
    let c = |payload| (String::from("c"), 4, payload);
    assert_eq!(of("a", 1), c(json!({"a1": true, "a2": true, "c3": true})));
    assert_eq!(of("a", 3), c(json!({"c3": true})));
    assert_eq!(of("b", 2), c(json!({"c2": true, "c3": true})));
    assert_eq!(of("c", 4), c(json!({})));
    assert_eq!(of("d", 9), (String::from("d"), 9, json!({})));
}

#[test]
fn a_rename_alone_keeps_version_and_text() {
    let evolution = evolution(|registrations| registrations.rename("a".into(), "b".into()));
    let expected = Shown::As {
        event_type: "b".into(),
        version: 7,
        payload: None,
    };
    assert_eq!(evolution.show("a", 7, "{ }").unwrap(), expected);
    assert_eq!(evolution.show("b", 7, "{ }").unwrap(), Shown::AsStored);
}

#[test]
fn what_cannot_be_brought_up_is_named() {
    let evolution = evolution(|registrations| {
        registrations.upcast("a".into(), 2, |_: Value| -> Refused { Err("no".into()) });
        registrations.upcast("a".into(), 3, |_: Value| -> Refused { panic!("oh") });
        registrations.newest("b".into(), 2);
        registrations.upcast("c".into(), 1, |n: u32| Ok::<_, String>(n));
        registrations.upcast("d".into(), 1, |_: Value| {
            Ok::<_, String>("x".repeat(UPCAST_BYTES_MAX))
        });
        registrations.upcast("e".into(), 1, |_: Value| {
            Ok::<_, String>((0..128).fold(json!(1), |inner, _| json!([inner])))
        });
    });
    let cause = |event_type, version| evolution.show(event_type, version, "{}").unwrap_err().to_string();
    for (event_type, version, expected) in [
        ("a", 1, "no upcaster from version 1, the oldest is from 2"),
        ("a", 2, "from version 2 failed: no"),
        ("a", 3, "from version 3 panicked: oh"),
        ("a", 5, "newer than this program knows, which is 4"),
        ("b", 1, "no upcaster from version 1"),
        ("b", 3, "newer than this program knows, which is 2"),
        ("c", 1, "invalid type"),
        ("d", 1, "at most 16777216"),
        ("e", 1, "nested 128 levels"),
    ] {
        let cause = cause(event_type, version);
        assert!(cause.contains(expected), "{cause:?} lacks {expected:?}");
    }
}

#[test]
fn a_batch_does_not_grow_without_bounds() {
    assert!(check_batch_bytes("a", 1 << 30).is_ok());
    let refused = check_batch_bytes("a", (1 << 30) + 1).unwrap_err().to_string();
    assert!(refused.contains("at most 1073741824"), "{refused}");
}

#[test]
fn what_does_not_fit_together_is_refused() {
    let is = |event_type: &str| event_type.to_owned();
    let refused = |register: fn(&mut Registrations)| registered(register).unwrap_err();
    assert_eq!(
        refused(|all| all.upcast(String::from("a"), 0, add("x"))),
        EvolutionError::VersionOutOfRange {
            event_type: is("a"),
            version: 0
        }
    );
    assert!(registered(|all| all.upcast(String::from("a"), u32::MAX, add("x"))).is_err());
    assert_eq!(
        refused(|all| {
            all.upcast(String::from("a"), 1, add("x"));
            all.upcast(String::from("a"), 1, add("y"));
        }),
        EvolutionError::DuplicateUpcaster {
            event_type: is("a"),
            version: 1
        }
    );
    assert_eq!(
        refused(|all| {
            all.upcast(String::from("a"), 4, add("x"));
            all.upcast(String::from("a"), 2, add("y"));
        }),
        EvolutionError::Gap {
            event_type: is("a"),
            missing: 3,
            next: 4
        }
    );
    assert_eq!(
        refused(|all| {
            all.upcast(String::from("a"), 1, add("x"));
            all.newest(String::from("a"), 3);
        }),
        EvolutionError::NewestVersion {
            event_type: is("a"),
            said: 3,
            found: 2
        }
    );
    let cycle = refused(|all| {
        all.rename(String::from("a"), String::from("b"));
        all.rename(String::from("b"), String::from("c"));
        all.rename(String::from("c"), String::from("b"));
    });
    let EvolutionError::RenameCycle { types } = &cycle else {
        panic!("{cycle}")
    };
    assert_eq!(types, &["b", "c", "b"]);
    assert!(registered(|all| all.rename(is("a"), is("a"))).is_err());
    assert!(matches!(
        refused(|all| {
            all.rename(String::from("a"), String::from("b"));
            all.rename(String::from("a"), String::from("c"));
        }),
        EvolutionError::DuplicateRename { .. }
    ));
    assert_eq!(
        refused(|all| {
            all.upcast(String::from("a"), 1, add("x"));
            all.rename(String::from("a"), String::from("b"));
            all.upcast(String::from("b"), 3, add("x"));
        }),
        EvolutionError::RenameOutOfRange {
            event_type: is("a"),
            version: 2,
            renamed: is("b"),
            oldest: 3,
            newest: 4
        }
    );
    assert!(registered(|_| ()).unwrap().is_none());
}

#[test]
fn a_batch_keeps_what_is_stored_of_the_events_that_change() {
    let evolution = evolution(|registrations| {
        registrations.upcast("a".into(), 1, add("new"));
        registrations.rename("a".into(), "b".into());
    });
    let event = |event_type, version| {
        crate::event::new_event::NewEvent::raw(event_type, "{ }").schema_version(version)
    };
    let events = [event("a", 1).tag("t"), event("c", 3).metadata("k", 1)];
    let limits = crate::event::limits::Limits::default();
    let (events, _) = crate::event::new_event::check_batch(events, &limits).unwrap();
    let events = evolution.show_batch(events).unwrap();
    let of = |event: &EventRecord| (event.event_type().to_owned(), event.schema_version());
    assert_eq!(
        (of(&events[0]), of(&events[1])),
        (("b".into(), 2), ("c".into(), 3))
    );
    assert_eq!(events[0].payload().as_str(), r#"{"new":true}"#);
    assert_eq!((&**events[0].stored_type(), events[0].stored_version()), ("a", 1));
    assert_eq!(
        (events[0].stored_payload(), events[1].stored_payload()),
        ("{ }", "{ }")
    );
    assert!(events[0].has_tag("t") && events[1].metadata().is_some());
    assert_eq!(events[0].texts(), 0.."t{\"new\":true}{ }".len());
}
