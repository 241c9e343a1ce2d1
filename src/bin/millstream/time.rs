//! Times, as they are given and shown: in UTC.

use std::time::{Duration, SystemTime};

use jiff::civil::DateTime;
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Span, SpanRelativeTo, Timestamp};

/// Reads a time: a date, a date with a time, or how long ago it was.
pub(crate) fn parse_time(text: &str) -> Result<SystemTime, String> {
    at(text, Timestamp::now()).map(Into::into)
}

fn at(text: &str, now: Timestamp) -> Result<Timestamp, String> {
    if let Ok(moment) = text.parse::<Timestamp>() {
        return Ok(moment);
    }
    // `2026-05-01T12:00Z` and the like, whose seconds are left out, and what has no zone at all.
    if let Ok(civil) = text.trim_end_matches(['Z', 'z']).parse::<DateTime>() {
        let zoned = civil.to_zoned(TimeZone::UTC);
        return zoned
            .map(|zoned| zoned.timestamp())
            .map_err(|error| error.to_string());
    }
    let ago = text.parse::<Span>().ok().and_then(|span| duration(&span));
    ago.and_then(|ago| now.checked_sub(ago).ok())
        .ok_or_else(|| String::from("a time is a date (2026-05-01), a date with a time (2026-05-01T12:00Z), or how long ago it was (90m, 2h, 3d)"))
}

/// How long a span is, whichever way it points.
fn duration(span: &Span) -> Option<SignedDuration> {
    let days = SpanRelativeTo::days_are_24_hours();
    span.to_duration(days).ok().map(SignedDuration::abs)
}

/// The moment as a record has it: to the microsecond.
pub(crate) fn exact(time: SystemTime) -> String {
    shown(time, |moment| format!("{moment:.6}"))
}

/// The moment for people, to the second.
pub(crate) fn to_the_second(time: SystemTime) -> String {
    shown(time, |moment| moment.strftime("%Y-%m-%d %H:%M:%S").to_string())
}

/// How much of a moment is shown where there is little room.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Precision {
    Full,
    WithoutYear,
    WithoutYearAndSeconds,
}

impl Precision {
    pub(crate) fn show(self, time: SystemTime) -> String {
        match self {
            Self::Full => to_the_second(time),
            Self::WithoutYear => shown(time, |moment| moment.strftime("%m-%d %H:%M:%S").to_string()),
            Self::WithoutYearAndSeconds => shown(time, |moment| moment.strftime("%m-%d %H:%M").to_string()),
        }
    }

    /// How many columns it takes.
    pub(crate) fn columns(self) -> usize {
        match self {
            Self::Full => 19,
            Self::WithoutYear => 14,
            Self::WithoutYearAndSeconds => 11,
        }
    }
}

/// The day.
pub(crate) fn day(time: SystemTime) -> String {
    shown(time, |moment| moment.strftime("%Y-%m-%d").to_string())
}

/// How long something took or has lasted, for people: the two largest units.
pub(crate) fn span(duration: Duration) -> String {
    let seconds = duration.as_secs();
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86_400);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{seconds}s"),
        (0, 0, minutes) => format!("{minutes}m {}s", seconds % 60),
        (0, hours, minutes) => format!("{hours}h {}m", minutes % 60),
        (days, hours, _) => format!("{days}d {}h", hours % 24),
    }
}

/// Times that no calendar has are possible in a file that was written by hand.
fn shown(time: SystemTime, show: impl FnOnce(Timestamp) -> String) -> String {
    Timestamp::try_from(time).map_or_else(|_| String::from("?"), show)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_a_moment_a_day_or_so_long_ago() {
        let now: Timestamp = "2026-05-20T12:00:00Z".parse().unwrap();
        for (text, expected) in [
            ("2026-05-01", "2026-05-01T00:00:00Z"),
            ("2026-05-01T12:30", "2026-05-01T12:30:00Z"),
            ("2026-05-01T12:30Z", "2026-05-01T12:30:00Z"),
            ("2026-05-01T12:30:05.5+02:00", "2026-05-01T10:30:05.5Z"),
            ("2h", "2026-05-20T10:00:00Z"),
            ("3d", "2026-05-17T12:00:00Z"),
            ("90 minutes ago", "2026-05-20T10:30:00Z"),
        ] {
            assert_eq!(at(text, now).unwrap().to_string(), expected, "{text}");
        }
        for wrong in ["", "yesterday", "2026-13-01", "2 months"] {
            assert!(at(wrong, now).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_span_has_its_two_largest_units() {
        for (seconds, expected) in [
            (0, "0s"),
            (59, "59s"),
            (60, "1m 0s"),
            (3_599, "59m 59s"),
            (3_600, "1h 0m"),
            (86_399, "23h 59m"),
            (90_000, "1d 1h"),
        ] {
            assert_eq!(span(Duration::from_secs(seconds)), expected);
        }
    }
}
