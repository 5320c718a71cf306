//! Tables in plain text.

use clap::builder::styling::Style;

/// Two spaces read as a column border.
const GAP: &str = "  ";

const HEADING: Style = Style::new().bold();

/// A column: its title, and how its cells are set.
#[derive(Clone)]
pub(crate) struct Column {
    title: &'static str,
    align: Align,
    width: usize,
}

#[derive(Clone, Copy)]
enum Align {
    Left,
    Right,
}

impl Column {
    /// A column of words.
    pub(crate) fn left(title: &'static str) -> Column {
        Column { title, align: Align::Left, width: title.chars().count() }
    }

    /// A column of numbers.
    pub(crate) fn right(title: &'static str) -> Column {
        Column { title, align: Align::Right, width: title.chars().count() }
    }

    /// At least `width` characters wide: for rows that are printed before the last one is known.
    pub(crate) fn at_least(mut self, width: usize) -> Column {
        self.width = self.width.max(width);
        self
    }

    fn set(&self, cell: &str) -> String {
        match self.align {
            Align::Left => format!("{cell:<width$}", width = self.width),
            Align::Right => format!("{cell:>width$}", width = self.width),
        }
    }
}

/// The columns of a table, which turn rows of cells into lines.
pub(crate) struct Columns(Vec<Column>);

impl Columns {
    pub(crate) fn new(columns: impl IntoIterator<Item = Column>) -> Columns {
        Columns(columns.into_iter().collect())
    }

    /// The headings, as a line.
    pub(crate) fn heading(&self) -> String {
        let titles = self.0.iter().map(|column| column.set(column.title));
        format!("{HEADING}{}{HEADING:#}\n", join(titles))
    }

    /// One row, as a line.
    pub(crate) fn row(&self, cells: &[String]) -> String {
        let mut line = join(self.0.iter().zip(cells).map(|(column, cell)| column.set(cell)));
        line.push('\n');
        line
    }

    /// The whole table, every column as wide as its widest cell.
    pub(crate) fn table(mut self, rows: &[Vec<String>]) -> String {
        for row in rows {
            for (column, cell) in self.0.iter_mut().zip(row) {
                column.width = column.width.max(cell.chars().count());
            }
        }
        rows.iter().fold(self.heading(), |text, row| text + &self.row(row))
    }
}

fn join(cells: impl Iterator<Item = String>) -> String {
    let line = cells.collect::<Vec<_>>().join(GAP);
    line.trim_end().to_owned()
}

/// Labels and values, one pair a line, values aligned: for summaries.
pub(crate) fn pairs(pairs: &[(&str, String)]) -> String {
    let width = pairs.iter().map(|(label, _)| label.chars().count()).max().unwrap_or(0);
    pairs.iter().map(|(label, value)| format!("{label:<width$}{GAP}{value}\n")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_fit_their_widest_cell() {
        let columns = Columns::new([Column::left("type"), Column::right("bits")]);
        let rows = [["Q4_K_M", "5.08"], ["F32", "32.00"]].map(|row| row.map(String::from).to_vec());
        let plain = anstream::adapter::strip_str(&columns.table(&rows)).to_string();
        assert_eq!(plain, "type     bits\nQ4_K_M   5.08\nF32     32.00\n");
    }
}
