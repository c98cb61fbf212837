//! Typed reading of a tree: a wrong value is reported and the reading goes on, so one run shows every problem.

use super::{
    duration::parse_duration,
    node::{Entry, Node, Value},
    problem::{Problem, Problems},
    suggest::nearest,
};
use std::{
    cell::{Cell, RefCell},
    fmt::Display,
    ops::RangeInclusive,
    str::FromStr,
    sync::Arc,
    time::Duration,
};

/// Most problems that are kept; a file with more is shown the first of them.
const MAX_PROBLEMS: usize = 100;

/// Collects the problems of one file.
#[derive(Debug)]
pub struct Report {
    file: Arc<str>,
    problems: RefCell<Vec<Problem>>,
    more: Cell<usize>,
    warnings: RefCell<Vec<String>>,
}

impl Report {
    /// An empty report on `file`.
    #[must_use]
    pub fn new(file: &str) -> Self {
        Report {
            file: file.into(),
            problems: RefCell::default(),
            more: Cell::new(0),
            warnings: RefCell::default(),
        }
    }

    /// Adds a problem; `message` holds the value, the rule and the fix.
    pub fn add(&self, line: u32, key: &str, message: impl Into<String>) {
        let mut problems = self.problems.borrow_mut();
        if problems.len() < MAX_PROBLEMS {
            problems.push(Problem {
                file: self.file.clone(),
                line,
                key: key.to_owned(),
                message: message.into(),
            });
        } else {
            self.more.set(self.more.get() + 1);
        }
    }

    fn is_full(&self) -> bool {
        self.problems.borrow().len() >= MAX_PROBLEMS
    }

    /// The root of a document.
    #[must_use]
    pub fn root<'a>(&'a self, node: &'a Node) -> Field<'a> {
        Field { report: self, path: String::new(), line: node.line, node }
    }

    /// What is not wrong but better changed, taken out.
    #[must_use]
    pub fn take_warnings(&self) -> Vec<String> {
        self.warnings.take()
    }

    /// Whether nothing is wrong so far.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.problems.borrow().is_empty()
    }

    /// `value` if nothing was wrong.
    ///
    /// # Errors
    /// Every problem, sorted by line.
    pub fn finish<T>(self, value: T) -> Result<T, Problems> {
        let mut problems = self.problems.into_inner();
        if problems.is_empty() {
            return Ok(value);
        }
        problems.sort_by_key(|p| p.line);
        if self.more.get() > 0 {
            let message = format!("{} more problems are not shown", self.more.get());
            problems.push(Problem { file: self.file, line: 0, key: String::new(), message });
        }
        Err(Problems(problems))
    }
}

/// A value at its place.
#[derive(Clone, Debug)]
pub struct Field<'a> {
    report: &'a Report,
    path: String,
    line: u32,
    node: &'a Node,
}

impl<'a> Field<'a> {
    /// The key, as `services.web.ports[1]`.
    #[must_use]
    pub fn path(&self) -> &str {
        &self.path
    }

    /// The line.
    #[must_use]
    pub fn line(&self) -> u32 {
        self.line
    }

    /// What stands there.
    #[must_use]
    pub fn value(&self) -> &'a Value {
        &self.node.value
    }

    /// Whether there is a key without a value.
    #[must_use]
    pub fn is_null(&self) -> bool {
        self.node.value == Value::Null
    }

    /// Reports `message` here.
    pub fn fail(&self, message: impl Into<String>) {
        self.report.add(self.line, &self.path, message);
    }

    /// Warns of what stands here, which is taken all the same.
    pub fn warn(&self, message: impl Display) {
        let place = format!("{}:{}: {}", self.report.file, self.line, self.path);
        let mut warnings = self.report.warnings.borrow_mut();
        if warnings.len() < MAX_PROBLEMS {
            warnings.push(format!("{place}: {message}"));
        }
    }

    /// Reports `message` at a key that is not there, on this field's line.
    pub fn fail_at(&self, key: &str, message: impl Into<String>) {
        self.report.add(self.line, key, message);
    }

    /// Reports `message` at another place of the same file.
    pub fn fail_on(&self, line: u32, key: &str, message: impl Into<String>) {
        self.report.add(line, key, message);
    }

    /// Whether nothing was reported yet at a key that begins with `prefix`.
    #[must_use]
    pub fn is_clean_under(&self, prefix: &str) -> bool {
        !self.report.problems.borrow().iter().any(|p| p.key.starts_with(prefix))
    }

    /// Reports `"TEXT" RULE`, the value cut to a readable length.
    pub fn fail_value(&self, text: &str, rule: impl Display) {
        let mut shown: String = text.chars().take(80).collect();
        if shown.len() < text.len() {
            shown.push('…');
        }
        self.fail(format!("{shown:?} {rule}"));
    }

    /// The mapping here; nothing counts as an empty one.
    #[must_use]
    pub fn map(&self) -> Option<Map<'a>> {
        match &self.node.value {
            Value::Map(_) | Value::Null => {
                Some(Map { field: self.clone(), known: RefCell::default(), ignored: &[] })
            }
            other => {
                self.fail(format!("is {}: write a mapping of keys and values", other.kind()));
                None
            }
        }
    }

    /// The items of the list here; nothing counts as an empty one.
    #[must_use]
    pub fn list(&self) -> Vec<Field<'a>> {
        match &self.node.value {
            Value::List(nodes) => nodes.iter().enumerate().map(|(i, node)| self.item(i, node)).collect(),
            Value::Null => Vec::new(),
            other => {
                self.fail(format!("is {}: write a list, as [a, b]", other.kind()));
                Vec::new()
            }
        }
    }

    /// The items of the list here, or the one value that stands for a list of one.
    #[must_use]
    pub fn one_or_list(&self) -> Vec<Field<'a>> {
        if matches!(self.node.value, Value::Scalar { .. }) { vec![self.clone()] } else { self.list() }
    }

    fn item(&self, index: usize, node: &'a Node) -> Field<'a> {
        Field { report: self.report, path: format!("{}[{index}]", self.path), line: node.line, node }
    }

    /// The entries of a mapping with free keys.
    #[must_use]
    pub fn entries(&self) -> Vec<(&'a str, Field<'a>)> {
        let Some(map) = self.map() else { return Vec::new() };
        match &self.node.value {
            Value::Map(entries) => entries.iter().map(|e| (e.key.as_str(), map.entry(e))).collect(),
            _ => Vec::new(),
        }
    }

    /// The scalar's text, quoted or not.
    #[must_use]
    pub fn text(&self) -> Option<&'a str> {
        match &self.node.value {
            Value::Scalar { text, .. } => Some(text),
            Value::Null => {
                self.fail("has no value: give one or remove the key");
                None
            }
            other => {
                self.fail(format!("is {}: write a single value", other.kind()));
                None
            }
        }
    }

    /// The text as read by `read`, whose error is the rule and the fix to show behind the value.
    pub fn with<T, E: Display>(&self, read: impl FnOnce(&str) -> Result<T, E>) -> Option<T> {
        let text = self.text()?;
        read(text).map_err(|rule| self.fail_value(text, rule)).ok()
    }

    /// The text as a `T` whose own error already shows the value, such as a name.
    #[must_use]
    pub fn parse<T: FromStr<Err: Display>>(&self) -> Option<T> {
        self.text()?.parse().map_err(|e: T::Err| self.fail(e.to_string())).ok()
    }

    /// One of `words`.
    #[must_use]
    pub fn word<T: Copy>(&self, words: &[(&str, T)]) -> Option<T> {
        self.with(|text| {
            words.iter().find(|(w, _)| *w == text).map(|(_, t)| *t).ok_or_else(|| {
                let all: Vec<&str> = words.iter().map(|(w, _)| *w).collect();
                format!("is not known: use {}", all.join(", "))
            })
        })
    }

    /// `true` or `false`.
    #[must_use]
    pub fn bool(&self) -> Option<bool> {
        self.with(|text| match text {
            "true" | "True" | "TRUE" => Ok(true),
            "false" | "False" | "FALSE" => Ok(false),
            _ => Err("is neither true nor false"),
        })
    }

    /// A whole number within `range`.
    #[must_use]
    pub fn number<T>(&self, range: RangeInclusive<T>) -> Option<T>
    where
        T: FromStr + PartialOrd + Display + Copy,
    {
        self.with(|text| match text.replace('_', "").parse::<T>() {
            Ok(n) if range.contains(&n) => Ok(n),
            _ => Err(format!("is no whole number from {} to {}", range.start(), range.end())),
        })
    }

    /// A duration within `range`.
    #[must_use]
    pub fn duration(&self, range: RangeInclusive<Duration>) -> Option<Duration> {
        self.with(|text| {
            let found = parse_duration(text)?;
            if range.contains(&found) {
                return Ok(found);
            }
            let show = humantime::format_duration;
            Err(format!(
                "is out of range: use {} to {}",
                show(*range.start()).to_string().replace(' ', ""),
                show(*range.end()).to_string().replace(' ', "")
            ))
        })
    }
}

/// A mapping whose keys are known; [`Map::finish`] reports the others.
#[derive(Debug)]
pub struct Map<'a> {
    field: Field<'a>,
    known: RefCell<Vec<&'static str>>,
    ignored: &'static [&'static str],
}

impl<'a> Map<'a> {
    /// Where the mapping itself stands.
    #[must_use]
    pub fn field(&self) -> &Field<'a> {
        &self.field
    }

    /// The value of `key`, if the key is there.
    #[must_use]
    pub fn get(&self, key: &'static str) -> Option<Field<'a>> {
        let mut known = self.known.borrow_mut();
        if !known.contains(&key) {
            known.push(key);
        }
        self.child(key)
    }

    fn child(&self, key: &str) -> Option<Field<'a>> {
        let Value::Map(entries) = &self.field.node.value else { return None };
        entries.iter().find(|e| e.key == key).map(|e| self.entry(e))
    }

    fn entry(&self, entry: &'a Entry) -> Field<'a> {
        let key: String = entry.key.chars().take(80).collect();
        let path = if self.field.path.is_empty() { key } else { format!("{}.{key}", self.field.path) };
        Field { report: self.field.report, path, line: entry.line, node: &entry.value }
    }

    /// Accepts these keys without reading them.
    pub fn ignore(&mut self, keys: &'static [&'static str]) {
        self.ignored = keys;
    }

    /// Reports every key that nobody asked for, with the nearest one that is known.
    pub fn finish(self) {
        let Value::Map(entries) = &self.field.node.value else { return };
        let known = self.known.borrow();
        let all = || known.iter().chain(self.ignored).copied();
        for entry in entries.iter().filter(|e| !all().any(|k| k == e.key) && !e.key.starts_with("x-")) {
            self.unknown(&entry.key, entry.line, all());
        }
        // `x-` keys are free, but one that nearly is ours is a slip.
        for entry in entries.iter().filter(|e| e.key.starts_with("x-") && !known.contains(&e.key.as_str())) {
            if nearest(&entry.key, known.iter().copied().filter(|k| k.starts_with("x-"))).is_some() {
                self.unknown(&entry.key, entry.line, known.iter().copied());
            }
        }
    }

    fn unknown(&self, key: &str, line: u32, all: impl Iterator<Item = &'static str>) {
        let path = match (self.field.path.is_empty(), key.chars().take(80).collect::<String>()) {
            (true, key) => key,
            (false, key) => format!("{}.{key}", self.field.path),
        };
        // Not worth the search when it is not shown; this keeps a hostile file cheap.
        let near = if self.field.report.is_full() { None } else { nearest(key, all) };
        let fix = match near {
            Some(near) => format!("did you mean {near:?}?"),
            None => {
                let mut keys: Vec<&str> = self.known.borrow().clone();
                keys.sort_unstable();
                format!("use one of {}", keys.join(", "))
            }
        };
        self.field.report.add(line, &path, format!("is no known key: {fix}"));
    }
}
