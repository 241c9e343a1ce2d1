//! Who runs a durable stream, or stands by for it, as users see it.

use std::fmt;
use std::time::{SystemTime, UNIX_EPOCH};

/// A store that runs a durable stream, or stands by for it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Instance {
    /// The name of its machine, as far as that is known.
    pub host: String,
    /// The number of its process there.
    pub process: u32,
    /// Since when it runs the stream, or stands by for it.
    pub since: SystemTime,
}

impl Instance {
    pub(crate) fn new(host: &str, process: u32, since: SystemTime) -> Self {
        let host = host.to_owned();
        Self { host, process, since }
    }
}

impl fmt::Display for Instance {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { host, process, since } = self;
        write!(formatter, "process {process} on {host:?} since {}", utc(*since))
    }
}

/// A moment in UTC, to the second: `2026-02-28T23:59:07Z`.
fn utc(time: SystemTime) -> String {
    let seconds = match time.duration_since(UNIX_EPOCH) {
        Ok(after) => i64::try_from(after.as_secs()).unwrap_or(i64::MAX),
        Err(_) => 0,
    };
    let (days, second) = (seconds / 86_400, seconds % 86_400);
    let (hour, minute) = (second / 3_600, second / 60 % 60);
    // Days are counted from the first of March of the year 0 in eras of 400 years, so that a leap day is the last of its year.
    let since_march = days + 719_468;
    let (era, day) = (since_march / 146_097, since_march % 146_097);
    let year = (day - day / 1_460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month_from_march = (5 * day + 2) / 153;
    let day = day - (153 * month_from_march + 2) / 5 + 1;
    let month = (month_from_march + 2) % 12 + 1;
    let year = year + era * 400 + i64::from(month <= 2);
    format!(
        "{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{:02}Z",
        second % 60
    )
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn an_instance_says_who_it_is_and_since_when() {
        for (seconds, expected) in [
            (0, "1970-01-01T00:00:00Z"),
            (951_782_399, "2000-02-28T23:59:59Z"),
            (951_782_400, "2000-02-29T00:00:00Z"),
            (1_709_251_199, "2024-02-29T23:59:59Z"),
            (1_709_251_200, "2024-03-01T00:00:00Z"),
            (4_107_542_400, "2100-03-01T00:00:00Z"),
        ] {
            let since = UNIX_EPOCH + Duration::from_millis(seconds * 1_000 + 999);
            let text = Instance::new("shop-1", 42, since).to_string();
            assert_eq!(text, format!("process 42 on \"shop-1\" since {expected}"));
        }
    }
}
