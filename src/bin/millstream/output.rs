//! Where the results go: the standard output, as text or as JSON, in colours when somebody looks.

use std::io::{self, BufWriter, Stdout, Write};

use anstream::{AutoStream, ColorChoice};
use anstyle::{AnsiColor, Style};
use comfy_table::{Attribute, Cell, ColumnConstraint, ContentArrangement, Table, presets};
use serde::Serialize;
use unicode_width::UnicodeWidthStr;

use crate::columns::Columns;
use crate::failure::Failure;
use crate::terminal;

/// How results are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Format {
    Text,
    Json,
}

/// What a piece of text is, which says how it looks in a terminal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Tone {
    Heading,
    Name,
    Faint,
    Good,
    Bad,
}

/// The standard output. Nothing is printed by other means.
pub(crate) struct Output {
    stdout: BufWriter<Stdout>,
    format: Format,
    colours: Colours,
    width: Option<usize>,
}

/// The columns of the longest name of a field.
const FIELD_COLUMNS: usize = 16;

/// Whether tones are shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Colours {
    Shown,
    Hidden,
}

impl Colours {
    /// Colours on a terminal, unless `NO_COLOR` and the like say otherwise.
    pub(crate) fn of(choice: ColorChoice) -> Self {
        match choice {
            ColorChoice::Never => Self::Hidden,
            _ => Self::Shown,
        }
    }

    /// The text in its tone.
    pub(crate) fn paint(self, tone: Tone, text: &str) -> String {
        let style = match tone {
            _ if self == Self::Hidden => return text.to_owned(),
            Tone::Heading => Style::new().bold(),
            Tone::Name => AnsiColor::Cyan.on_default(),
            Tone::Faint => Style::new().dimmed(),
            Tone::Good => AnsiColor::Green.on_default().bold(),
            Tone::Bad => AnsiColor::Red.on_default().bold(),
        };
        format!("{style}{text}{style:#}")
    }
}

impl Output {
    pub(crate) fn new(format: Format) -> Self {
        let stdout = io::stdout();
        Self {
            format,
            colours: Colours::of(AutoStream::choice(&stdout)),
            width: terminal::width(&stdout),
            stdout: BufWriter::new(stdout),
        }
    }

    pub(crate) fn format(&self) -> Format {
        self.format
    }

    /// The columns of the terminal; nothing, when the output goes elsewhere.
    pub(crate) fn width(&self) -> Option<usize> {
        self.width
    }

    pub(crate) fn colours(&self) -> Colours {
        self.colours
    }

    pub(crate) fn paint(&self, tone: Tone, text: &str) -> String {
        self.colours.paint(tone, text)
    }

    pub(crate) fn line(&mut self, text: &str) -> Result<(), Failure> {
        writeln!(self.stdout, "{text}").map_err(|error| Failure::of_output(&error))
    }

    /// One line of JSON.
    pub(crate) fn json(&mut self, value: &impl Serialize) -> Result<(), Failure> {
        let written = serde_json::to_writer(&mut self.stdout, value)
            .map_err(io::Error::from)
            .and_then(|()| self.stdout.write_all(b"\n"));
        written.map_err(|error| Failure::of_output(&error))
    }

    /// What a command came to: an object, or a line for people.
    pub(crate) fn tell(
        &mut self,
        json: &impl Serialize,
        text: impl FnOnce() -> String,
    ) -> Result<(), Failure> {
        match self.format {
            Format::Json => self.json(json),
            Format::Text => self.line(&text()),
        }
    }

    pub(crate) fn bytes(&mut self, bytes: &[u8]) -> Result<(), Failure> {
        let written = self.stdout.write_all(bytes);
        written.map_err(|error| Failure::of_output(&error))
    }

    pub(crate) fn flush(&mut self) -> Result<(), Failure> {
        self.stdout.flush().map_err(|error| Failure::of_output(&error))
    }

    /// An empty table that fits the terminal, to be filled and given to [`Output::table`].
    pub(crate) fn new_table(&self) -> Table {
        let mut table = Table::new();
        table
            .load_style(presets::NOTHING)
            .set_content_arrangement(ContentArrangement::Dynamic);
        if let Some(width) = self.width {
            table.set_width(u16::try_from(width).unwrap_or(u16::MAX));
        }
        match self.colours {
            Colours::Shown => table.enforce_styling(),
            Colours::Hidden => table.force_no_tty(),
        };
        table
    }

    /// A table with a heading. A narrow terminal shows the columns that it has room for.
    pub(crate) fn listing(&mut self, columns: &Columns<'_>, rows: &[Vec<Cell>]) -> Result<(), Failure> {
        let widest = |place: usize| {
            let contents = rows.iter().map(|row| row[place].content().width());
            contents.max().unwrap_or(0).max(columns.titles[place].width())
        };
        let widths: Vec<usize> = (0..columns.titles.len()).map(widest).collect();
        let kept = columns.fitting(&widths, self.width.unwrap_or(usize::MAX));
        let mut table = self.new_table();
        let bold = |place: &usize| Cell::new(columns.titles[*place]).add_attribute(Attribute::Bold);
        table.set_header(kept.iter().map(bold));
        for row in rows {
            table.add_row(kept.iter().map(|place| row[*place].clone()));
        }
        for place in 0..kept.len().saturating_sub(1) {
            if let Some(column) = table.column_mut(place) {
                // What is a word or a number is not broken.
                column.set_constraint(ColumnConstraint::ContentWidth);
            }
        }
        self.table(&table)
    }

    /// A line with a name and what stands under it.
    pub(crate) fn field(&mut self, name: &str, value: &str) -> Result<(), Failure> {
        let name = self.paint(Tone::Faint, &format!("{name:<FIELD_COLUMNS$}"));
        self.line(&format!("{name}  {value}"))
    }

    /// Takes away what a terminal shows, so that the same can be shown as it is now.
    pub(crate) fn clear(&mut self) -> Result<(), Failure> {
        // To the upper left corner, and everything below it away.
        self.bytes(b"\x1b[H\x1b[J")
    }

    pub(crate) fn table(&mut self, table: &Table) -> Result<(), Failure> {
        for line in table.lines() {
            self.line(line.trim_end())?;
        }
        Ok(())
    }
}
