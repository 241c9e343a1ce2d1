//! Texts that users choose and PostgreSQL cannot hold: it has no room for the character NUL.
//!
//! In JSON the character is written as an escape, and types, tags and names have no control characters; what is left are the keys of
//! dead letters, and what handlers say when they fail.

use std::borrow::Cow;

/// Comes before the sign that stands for a character which is written otherwise.
const ESCAPE: char = '\u{1}';

/// A text without NUL that stands for this one, and for no other.
pub(crate) fn stored(text: &str) -> Cow<'_, str> {
    if !text.contains(['\0', ESCAPE]) {
        return Cow::Borrowed(text);
    }
    let mut stored = String::with_capacity(text.len() + 8);
    for character in text.chars() {
        match character {
            '\0' => stored.extend([ESCAPE, '0']),
            ESCAPE => stored.extend([ESCAPE, '1']),
            other => stored.push(other),
        }
    }
    Cow::Owned(stored)
}

/// The text that it stands for.
pub(crate) fn loaded(stored: String) -> String {
    if !stored.contains(ESCAPE) {
        return stored;
    }
    let mut text = String::with_capacity(stored.len());
    let mut characters = stored.chars();
    while let Some(character) = characters.next() {
        match (character, character == ESCAPE) {
            (_, true) => text.push(match characters.next() {
                Some('0') => '\0',
                _ => ESCAPE,
            }),
            (other, false) => text.push(other),
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_text_comes_back_and_none_has_a_nul() {
        let texts = [
            "",
            "a",
            "\0",
            "\u{1}",
            "\u{1}0",
            "\u{1}\0",
            "a\0b\u{1}1",
            "ü\0\0🙂",
        ];
        for text in texts {
            let stored = stored(text);
            assert!(!stored.contains('\0'), "{text:?}");
            assert_eq!(loaded(stored.into_owned()), text);
        }
        let mut all: Vec<_> = texts.iter().map(|text| stored(text)).collect();
        all.sort();
        all.dedup();
        assert_eq!(all.len(), texts.len());
    }
}
