//! Bars made of text.

/// A bar of at most so many columns, in steps of an eighth. Whatever is not 0 can be seen.
pub(crate) fn bar(value: u64, largest: u64, columns: usize) -> String {
    const EIGHTHS: [char; 7] = ['▏', '▎', '▍', '▌', '▋', '▊', '▉'];
    if value == 0 || largest == 0 || columns == 0 {
        return String::new();
    }
    let columns = u128::try_from(columns).unwrap_or(u128::MAX);
    let eighths = (u128::from(value.min(largest)) * columns * 8 / u128::from(largest)).max(1);
    let whole = usize::try_from(eighths / 8).unwrap_or(0);
    let mut bar = "█".repeat(whole);
    if let Some(part) = usize::try_from(eighths % 8).unwrap_or(0).checked_sub(1) {
        bar.push(EIGHTHS[part]);
    }
    bar
}

/// A share in percent.
pub(crate) fn percent(part: u64, whole: u64) -> String {
    match whole {
        0 => String::from("0 %"),
        whole => format!("{:.1} %", part as f64 * 100.0 / whole as f64),
    }
}

/// Bytes in the unit that suits them.
pub(crate) fn bytes(count: u64) -> String {
    indicatif::BinaryBytes(count).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bar_is_as_long_as_its_share_and_never_invisible() {
        assert_eq!(bar(8, 8, 4), "████");
        assert_eq!(bar(4, 8, 4), "██");
        assert_eq!(bar(5, 8, 4), "██▌");
        assert_eq!(bar(1, 1_000_000, 10), "▏");
        assert_eq!(bar(0, 8, 4), "");
        assert_eq!(bar(u64::MAX, u64::MAX, 3), "███");
    }
}
