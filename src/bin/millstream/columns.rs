//! Which columns of a table a terminal has room for. Pure.

/// The columns of a table. The last one is text, which is broken into lines where there is little room.
pub(crate) struct Columns<'a> {
    pub(crate) titles: &'a [&'a str],
    /// Those that a narrow terminal goes without, the first one first.
    pub(crate) expendable: &'a [&'a str],
}

/// The last column is not made narrower than this as long as another can be left out.
const TEXT_MIN: usize = 16;
/// The blanks on both sides of a column.
const PADDING: usize = 2;

impl Columns<'_> {
    /// The places of the columns that are shown, where each needs so much and there is room for so much.
    pub(crate) fn fitting(&self, widths: &[usize], width: usize) -> Vec<usize> {
        let mut kept: Vec<usize> = (0..self.titles.len()).collect();
        for title in self.expendable {
            if needed(widths, &kept) <= width {
                break;
            }
            kept.retain(|place| self.titles[*place] != *title);
        }
        kept
    }
}

fn needed(widths: &[usize], kept: &[usize]) -> usize {
    let Some((last, others)) = kept.split_last() else {
        return 0;
    };
    let others: usize = others.iter().map(|place| widths[*place] + PADDING).sum();
    others + widths[*last].min(TEXT_MIN) + PADDING
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_narrow_terminal_goes_without_what_can_be_spared_and_no_more() {
        let columns = Columns {
            titles: &["sequence", "state", "parked", "cause"],
            expendable: &["parked", "state"],
        };
        let widths = [8, 6, 19, 80];
        // 10 + 8 + 21 + 18.
        assert_eq!(columns.fitting(&widths, 57), [0, 1, 2, 3]);
        assert_eq!(columns.fitting(&widths, 56), [0, 1, 3]);
        assert_eq!(columns.fitting(&widths, 36), [0, 1, 3]);
        assert_eq!(columns.fitting(&widths, 35), [0, 3]);
        assert_eq!(columns.fitting(&widths, 5), [0, 3]);
    }
}
