//! Aligned tables without lines. On a terminal they keep to its width; elsewhere nothing is cut or wrapped.

use crate::terminal;
use comfy_table::{ContentArrangement, Table, presets};

/// The table as text.
pub(crate) fn table(header: &[&str], rows: impl IntoIterator<Item = Vec<String>>) -> String {
    let width = terminal::has_output().then(terminal::size).flatten();
    render(header, rows, width.map(|w| w.columns))
}

fn render(
    header: &[&str],
    rows: impl IntoIterator<Item = Vec<String>>,
    width: Option<u16>,
) -> String {
    let mut table = Table::new();
    table
        .load_style(presets::NOTHING)
        .set_header(header.to_vec());
    match width {
        Some(width) => table
            .set_content_arrangement(ContentArrangement::Dynamic)
            .set_width(width),
        None => table.set_content_arrangement(ContentArrangement::Disabled),
    };
    table.add_rows(rows);
    for column in table.column_iter_mut() {
        column.set_padding((0, 2));
    }
    let mut text = table.trim_fmt();
    text.push('\n');
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_aligned_and_nothing_trails() {
        let rows =
            [["web.1", "host1"], ["longer.12", "h"]].map(|row| row.map(str::to_owned).to_vec());
        assert_eq!(
            render(&["NAME", "NODE"], rows, None),
            "NAME       NODE\nweb.1      host1\nlonger.12  h\n"
        );
    }

    #[test]
    fn a_long_cell_is_whole_where_there_is_no_terminal_and_wrapped_where_there_is() {
        let long = "host1: no label disk; host2: no label disk; host3: no label disk";
        let rows = || [vec!["web.1".to_owned(), long.to_owned()]];
        assert!(render(&["NAME", "MESSAGE"], rows(), None).contains(long));
        let narrow = render(&["NAME", "MESSAGE"], rows(), Some(40));
        assert!(narrow.lines().all(|l| l.chars().count() <= 40), "{narrow}");
    }
}
