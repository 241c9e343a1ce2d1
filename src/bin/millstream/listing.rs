//! Events as lines for people: one each, as wide as the terminal.

use millstream::EventRecord;
use unicode_width::{UnicodeWidthChar, UnicodeWidthStr};

use crate::output::{Colours, Tone};
use crate::time::Precision;

/// The widths of the columns, which only grow, so that lines can be written while events come.
pub(crate) struct Listing {
    colours: Colours,
    /// Nothing: lines are as long as they are.
    width: Option<usize>,
    sequence_width: usize,
    type_width: usize,
}

/// From this width on there is room for the year, and from this one on for the seconds.
const WIDTH_WITH_YEAR: usize = 100;
const WIDTH_WITH_SECONDS: usize = 80;
/// What the type has at the least, and in a terminal no more than a fifth before a longer one comes.
const TYPE_WIDTH_MIN: usize = 16;
/// Tags that would be cut to less than this are left out.
const TAGS_WIDTH_MIN: usize = 8;
/// How much of a line the type may take.
const TYPE_SHARE: usize = 3;
const TYPE_WIDTH_MAX: usize = 40;

impl Listing {
    /// A listing of events up to about this sequence.
    pub(crate) fn new(colours: Colours, width: Option<usize>, last_sequence: u64) -> Self {
        Self {
            colours,
            width,
            sequence_width: last_sequence.to_string().len().max("sequence".len()),
            type_width: width.map_or(TYPE_WIDTH_MIN, |width| TYPE_WIDTH_MIN.min(width / 5)),
        }
    }

    /// The line above the events.
    pub(crate) fn heading(&self) -> String {
        let heading = self.line(
            "sequence",
            &pad("recorded", self.precision().columns()),
            "type",
            "payload and tags",
        );
        let heading = cut(&heading, self.width.unwrap_or(usize::MAX));
        self.colours.paint(Tone::Heading, heading.trim_end())
    }

    /// The line of an event.
    pub(crate) fn row(&mut self, event: &EventRecord) -> String {
        let event_type = printable(&named(event));
        let widest = self
            .width
            .map_or(TYPE_WIDTH_MAX, |width| (width / TYPE_SHARE).min(TYPE_WIDTH_MAX));
        self.type_width = self.type_width.max(event_type.width()).min(widest);
        let recorded_at = self.precision().show(event.recorded_at());
        let sequence = event.sequence().to_string();
        let used = self.line(&sequence, &recorded_at, "", "").width();
        let room = self.width.map_or(usize::MAX, |width| width.saturating_sub(used));
        let tags: Vec<&str> = event.tags().collect();
        let payload = printable(event.payload().as_str());
        let payload = cut(&payload, room);
        let tags = match tags.is_empty() {
            true => String::new(),
            false => format!("  {}", printable(&tags.join(" "))),
        };
        let room = room.saturating_sub(payload.width());
        let tags = match tags.width() > room && room < TAGS_WIDTH_MIN {
            true => String::new(),
            false => cut(&tags, room),
        };
        let event_type = match self.width {
            Some(_) => cut(&event_type, self.type_width),
            None => event_type,
        };
        let painted = self.colours.paint(Tone::Name, &pad(&event_type, self.type_width));
        let recorded_at = self.colours.paint(Tone::Faint, &recorded_at);
        let rest = format!("{payload}{}", self.colours.paint(Tone::Faint, &tags));
        let line = format!(
            "{sequence:>width$}  {recorded_at}  {painted}  {rest}",
            width = self.sequence_width
        );
        line.trim_end().to_owned()
    }

    fn line(&self, sequence: &str, recorded_at: &str, event_type: &str, rest: &str) -> String {
        let event_type = pad(event_type, self.type_width);
        format!(
            "{sequence:>width$}  {recorded_at}  {event_type}  {rest}",
            width = self.sequence_width
        )
    }

    fn precision(&self) -> Precision {
        match self.width {
            Some(width) if width < WIDTH_WITH_SECONDS => Precision::WithoutYearAndSeconds,
            Some(width) if width < WIDTH_WITH_YEAR => Precision::WithoutYear,
            _ => Precision::Full,
        }
    }
}

/// The type, with its schema version where that is not the first.
fn named(event: &EventRecord) -> String {
    match event.schema_version() {
        1 => event.event_type().to_owned(),
        version => format!("{} v{version}", event.event_type()),
    }
}

/// Text that does nothing to a terminal: what is no visible character is shown as something that is.
pub(crate) fn printable(text: &str) -> String {
    let shown = |character: char| match character {
        '\n' | '\r' | '\t' => ' ',
        // Characters that turn the direction of a line would show it other than it is.
        '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{200e}' | '\u{200f}' => '\u{fffd}',
        character if character.is_control() => '\u{fffd}',
        character => character,
    };
    text.chars().map(shown).collect()
}

/// The text in so many columns, with a sign that something was left out.
pub(crate) fn cut(text: &str, columns: usize) -> String {
    if text.width() <= columns {
        return text.to_owned();
    }
    let mut left = columns.saturating_sub(1);
    let mut shown = String::new();
    for character in text.chars() {
        let width = character.width().unwrap_or(0);
        if width > left {
            break;
        }
        left -= width;
        shown.push(character);
    }
    if columns > 0 {
        shown.push('…');
    }
    shown
}

fn pad(text: &str, columns: usize) -> String {
    let missing = columns.saturating_sub(text.width());
    format!("{text}{}", " ".repeat(missing))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cut_text_fits_whatever_its_characters() {
        for text in ["plain text", "grüße an alle", "日本語のテキスト", "🦀🦀🦀🦀🦀"] {
            for columns in 0..12 {
                let shown = cut(text, columns);
                assert!(shown.width() <= columns, "{text} in {columns}: {shown}");
            }
        }
        assert_eq!(cut("four", 4), "four");
        assert_eq!(cut("fours", 4), "fou…");
    }

    #[test]
    fn nothing_in_a_text_reaches_the_terminal_as_a_command() {
        let shown = printable("a\u{1b}[31mb\u{9b}c\nd\u{202e}e");
        assert_eq!(shown, "a\u{fffd}[31mb\u{fffd}c d\u{fffd}e");
    }
}
