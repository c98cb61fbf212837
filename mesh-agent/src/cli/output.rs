//! What goes to stdout: JSON for programs, tables for people.

use super::exit::{Code, Failure};
use std::io::{self, ErrorKind, IsTerminal, Write};

/// How to print.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Output {
    pub(crate) json: bool,
    color: bool,
}

impl Output {
    /// Colour only on a terminal, and never with NO_COLOR (<https://no-color.org>).
    pub(crate) fn new(json: bool) -> Self {
        let wanted = std::env::var_os("NO_COLOR").is_none_or(|v| v.is_empty());
        Output { json, color: wanted && !json && io::stdout().is_terminal() }
    }

    /// Writes text whole. A reader that is gone ends us quietly: that is `mesh-agent … | head`.
    pub(crate) fn print(self, text: &str) -> Result<(), Failure> {
        self.print_on(text).map(drop)
    }

    /// As [`Output::print`]; whether somebody still reads.
    pub(crate) fn print_on(self, text: &str) -> Result<bool, Failure> {
        let mut out = io::stdout().lock();
        match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
            Ok(()) => Ok(true),
            Err(e) if e.kind() == ErrorKind::BrokenPipe => Ok(false),
            Err(e) => Err(Failure::new(Code::Failure, format!("cannot write to stdout: {e}"))),
        }
    }

    /// One JSON document and a line end.
    pub(crate) fn json<T: serde::Serialize>(self, value: &T) -> Result<(), Failure> {
        let text = serde_json::to_string_pretty(value)
            .map_err(|e| Failure::new(Code::Failure, format!("cannot write JSON: {e}")))?;
        self.print(&format!("{text}\n"))
    }

    pub(crate) fn table(self, table: &Table) -> Result<(), Failure> {
        self.print(&table.render(self.color))
    }

    /// A word in red when it tells of trouble.
    pub(crate) fn alarm(self, text: &str, trouble: bool) -> String {
        let text = clean(text);
        if trouble && self.color { format!("\x1b[31m{text}\x1b[0m") } else { text }
    }

    /// A word in its colour.
    pub(crate) fn paint(self, text: &str) -> String {
        let text = clean(text);
        match color_of(&text).filter(|_| self.color) {
            Some(color) => format!("\x1b[{color}m{text}\x1b[0m"),
            None => text,
        }
    }
}

/// Rows with aligned columns. The last column is not padded.
#[derive(Debug)]
pub(crate) struct Table {
    rows: Vec<Vec<String>>,
}

impl Table {
    pub(crate) fn new(heads: &[&str]) -> Self {
        Table { rows: vec![heads.iter().map(|h| (*h).to_owned()).collect()] }
    }

    pub(crate) fn row(&mut self, mut cells: Vec<String>) {
        for cell in &mut cells {
            *cell = if cell.is_empty() { "-".to_owned() } else { clean(cell) };
        }
        self.rows.push(cells);
    }

    fn render(&self, color: bool) -> String {
        let columns = self.rows.iter().map(Vec::len).max().unwrap_or(0);
        let width = |c: usize| {
            self.rows.iter().filter_map(|r| r.get(c)).map(|t| t.chars().count()).max().unwrap_or(0)
        };
        let widths: Vec<usize> = (0..columns).map(width).collect();
        let mut out = String::new();
        for (number, row) in self.rows.iter().enumerate() {
            for (c, cell) in row.iter().enumerate() {
                let paint = if number == 0 { Some(1) } else { color_of(cell) };
                match paint.filter(|_| color) {
                    Some(code) => out.push_str(&format!("\x1b[{code}m{cell}\x1b[0m")),
                    None => out.push_str(cell),
                }
                if c + 1 < row.len() {
                    out.extend(std::iter::repeat_n(' ', widths[c] - cell.chars().count() + 2));
                }
            }
            out.push('\n');
        }
        out
    }
}

/// Control characters out: what others named must not drive this terminal.
pub(crate) fn clean(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect()
}

/// Green for what works, yellow for what is on its way out, red for what does not.
fn color_of(text: &str) -> Option<u8> {
    match text {
        "ready" | "alive" | "yes" | "healthy" | "synced" | "ok" => Some(32),
        "draining" | "suspect" | "waiting" | "warn" => Some(33),
        "not-ready" | "down" | "left" | "no" | "unhealthy" | "conflict" | "fail" => Some(31),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_align_and_control_characters_go() {
        let mut table = Table::new(&["NAME", "STATE"]);
        table.row(vec!["a-long-name".into(), "ready".into()]);
        table.row(vec!["x\x1b[2J".into(), String::new()]);
        let text = table.render(false);
        assert_eq!(text, "NAME         STATE\na-long-name  ready\nx\u{fffd}[2J        -\n");
        assert!(table.render(true).contains("\x1b[32mready\x1b[0m"));
    }
}
