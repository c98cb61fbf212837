//! Tables for people and lines of JSON for programs.

use serde_json::{Map, Value};

/// A table of texts.
#[derive(Clone, Debug)]
pub(crate) struct Table {
    title: String,
    head: Vec<String>,
    rows: Vec<Vec<String>>,
}

impl Table {
    /// An empty table.
    #[must_use]
    pub(crate) fn new(title: &str, head: &[&str]) -> Self {
        Table {
            title: title.to_owned(),
            head: head.iter().map(|h| (*h).to_owned()).collect(),
            rows: Vec::new(),
        }
    }

    /// Adds a row; it has as many cells as the head.
    pub(crate) fn row(&mut self, cells: &[String]) {
        assert_eq!(cells.len(), self.head.len(), "a row of {} has the wrong length", self.title);
        self.rows.push(cells.to_vec());
    }

    /// Prints it: aligned, or one JSON object a row.
    pub(crate) fn print(&self, json: bool) {
        if json {
            for row in &self.rows {
                let mut object = Map::new();
                object.insert("table".to_owned(), Value::from(self.title.clone()));
                object.extend(self.head.iter().cloned().zip(row.iter().cloned().map(Value::from)));
                println!("{}", Value::Object(object));
            }
            return;
        }
        println!("\n{}", self.title);
        let width = |i: usize| {
            let cells = self.rows.iter().map(|r| r[i].chars().count());
            cells.chain([self.head[i].chars().count()]).max().unwrap_or(0)
        };
        let line = |cells: &[String]| {
            let padded = cells.iter().enumerate().map(|(i, c)| format!("{c:>w$}", w = width(i)));
            println!("  {}", padded.collect::<Vec<_>>().join("  "));
        };
        line(&self.head);
        self.rows.iter().for_each(|r| line(r));
    }
}

/// The middle value; of an even number the upper middle. Zero of none.
#[must_use]
pub(crate) fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted.get(sorted.len() / 2).copied().unwrap_or(0.0)
}
