//! Which names tenants and their files may have. Pure.
//!
//! A name is the name of a folder as it stands, so that whoever looks into the folder sees the tenants. What is accepted is so
//! little that every file system takes it, tells any two of it apart, and finds nothing in it that leads elsewhere.

use crate::error::NameProblem;

/// The longest name.
pub(crate) const NAME_BYTES_MAX: usize = 64;

/// Names of devices on Windows; with `com` and `lpt` goes a digit.
const DEVICES: [&str; 4] = ["con", "prn", "aux", "nul"];
const NUMBERED_DEVICES: [&str; 2] = ["com", "lpt"];

/// Whether this is a name: 1 to 64 of `a` to `z`, `0` to `9`, `-`, `_` and `.`, with a letter or a digit at the beginning, no dot
/// at the end, and no device of Windows before the first dot.
pub(crate) fn check(name: &str) -> Result<(), NameProblem> {
    let Some(first) = name.chars().next() else {
        return Err(NameProblem::Empty);
    };
    let accepted = |character: char| matches!(character, 'a'..='z' | '0'..='9' | '-' | '_' | '.');
    // Only so much of a long name is looked at.
    let bytes = name.len();
    if bytes > NAME_BYTES_MAX {
        return Err(NameProblem::TooLong {
            bytes,
            bytes_max: NAME_BYTES_MAX,
        });
    }
    if let Some((at, character)) = name.char_indices().find(|(_, character)| !accepted(*character)) {
        return Err(NameProblem::Character { character, at });
    }
    if !first.is_ascii_alphanumeric() {
        return Err(NameProblem::Beginning { found: first });
    }
    if name.ends_with('.') {
        return Err(NameProblem::EndingDot);
    }
    let stem = name.split('.').next().unwrap_or(name);
    if is_device(stem) {
        let device = stem.to_owned();
        return Err(NameProblem::Device { device });
    }
    Ok(())
}

fn is_device(stem: &str) -> bool {
    let is_numbered = |device: &&str| {
        let number = stem.strip_prefix(*device);
        number.is_some_and(|number| number.len() == 1 && number.as_bytes()[0].is_ascii_digit())
    };
    DEVICES.contains(&stem) || NUMBERED_DEVICES.iter().any(is_numbered)
}

/// What an error shows of a name that was refused: of a long one the beginning.
pub(crate) fn shown(name: &str) -> String {
    if name.len() <= NAME_BYTES_MAX {
        return name.to_owned();
    }
    let mut shown: String = name.chars().take(NAME_BYTES_MAX).collect();
    shown.push('…');
    shown
}

#[cfg(test)]
mod tests {
    use std::path::{Component, Path};

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn ordinary_names_are_accepted() {
        let longest = "a".repeat(NAME_BYTES_MAX);
        for name in [
            "acme",
            "7",
            "acme-corp_2.eu",
            "a..b",
            "console",
            "com",
            "com10",
            "nul0",
            &longest,
        ] {
            assert_eq!(check(name), Ok(()), "{name}");
        }
    }

    #[test]
    fn each_problem_is_named() {
        let character = |character, at| NameProblem::Character { character, at };
        let device = |device: &str| NameProblem::Device {
            device: device.into(),
        };
        let cases = [
            ("", NameProblem::Empty),
            ("..", NameProblem::Beginning { found: '.' }),
            (".acme", NameProblem::Beginning { found: '.' }),
            ("-rf", NameProblem::Beginning { found: '-' }),
            ("acme.", NameProblem::EndingDot),
            ("Acme", character('A', 0)),
            ("a/b", character('/', 1)),
            ("../acme", character('/', 2)),
            ("a\\b", character('\\', 1)),
            ("c:", character(':', 1)),
            ("a\0", character('\0', 1)),
            ("a b", character(' ', 1)),
            ("acme\n", character('\n', 4)),
            ("ca\u{301}fe", character('\u{301}', 2)),
            ("\u{2024}\u{2024}", character('\u{2024}', 0)),
            ("progra~1", character('~', 6)),
            ("nul", device("nul")),
            ("con.db", device("con")),
            ("com1", device("com1")),
            ("lpt0.a.b", device("lpt0")),
        ];
        for (name, problem) in cases {
            assert_eq!(check(name), Err(problem), "{name:?}");
        }
        let bytes = NAME_BYTES_MAX + 1;
        let bytes_max = NAME_BYTES_MAX;
        assert_eq!(
            check(&"a".repeat(bytes)),
            Err(NameProblem::TooLong { bytes, bytes_max })
        );
    }

    #[test]
    fn a_refused_name_is_shown_in_short() {
        let long = "ä".repeat(1 << 20);
        assert_eq!(shown(&long).chars().count(), NAME_BYTES_MAX + 1);
        assert_eq!(shown("..").as_str(), "..");
    }

    proptest! {
        #[test]
        fn no_name_leads_outside_and_none_is_another_in_disguise(
            name in prop_oneof![any::<String>(), "[a-zA-Z0-9._/\\\\:~ -]{0,70}", "[.]{0,3}[a-z]{0,4}[.]{0,3}"],
        ) {
            if check(&name).is_ok() {
                let inside = Path::new("folder").join(&name);
                let parts: Vec<_> = inside.components().collect();
                prop_assert_eq!(parts.len(), 2);
                prop_assert!(matches!(parts[1], Component::Normal(part) if part == name.as_str()));
                // Neither a file system without case nor one that normalizes maps two of them on one.
                prop_assert_eq!(name.to_lowercase(), name.clone());
                prop_assert!(name.is_ascii());
            }
        }
    }
}
