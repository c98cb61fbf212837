//! From text to the tree, with bounds on everything.

use super::{
    node::{Entry, Node, Value},
    problem::{Problem, Problems},
};
use crate::sys;
use granit_parser::{Event, Parser, ScalarStyle, Span, Tag};
use std::{borrow::Cow, collections::HashMap, io::Read, path::Path, sync::Arc};

/// Largest document, in bytes.
pub const MAX_BYTES: usize = 4 << 20;
/// Deepest nesting, aliases expanded. The tree is walked by recursion, so this bounds the stack as well.
const MAX_DEPTH: usize = 64;
/// Largest tree in bytes, roughly, aliases expanded: a bomb of aliases ends here.
const MAX_TREE: usize = 64 << 20;
/// What a node costs beside its text.
const NODE_COST: usize = 64;

/// Reads a regular file of at most [`MAX_BYTES`] of UTF-8.
///
/// # Errors
/// [`Problems`] naming the file and why it cannot be read.
pub fn read_file(path: &Path) -> Result<String, Problems> {
    let file = path.display().to_string();
    let fail = |e: std::io::Error| Problems::of_file(&file, format!("cannot be read: {e}"));
    let opened = sys::file::open(path).map_err(fail)?;
    let mut bytes = Vec::new();
    opened.take(MAX_BYTES as u64 + 1).read_to_end(&mut bytes).map_err(fail)?;
    if bytes.len() > MAX_BYTES {
        return Err(Problems::of_file(&file, too_large()));
    }
    String::from_utf8(bytes).map_err(|e| {
        let upto = e.utf8_error().valid_up_to();
        let line = 1 + e.as_bytes()[..upto].iter().filter(|b| **b == b'\n').count();
        Problems::of_file(&file, format!("line {line} is not UTF-8: save the file as UTF-8"))
    })
}

fn too_large() -> String {
    format!("is larger than {} MiB: split it", MAX_BYTES >> 20)
}

/// Parses one document. An empty one is [`Value::Null`].
///
/// # Errors
/// [`Problems`] with the line, when it is no YAML or passes a bound.
pub fn parse(file: &str, text: &str) -> Result<Node, Problems> {
    if text.len() > MAX_BYTES {
        return Err(Problems::of_file(file, too_large()));
    }
    let mut builder = Builder { file: file.into(), ..Builder::default() };
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    for event in Parser::new_from_str(text) {
        let (event, span) = event.map_err(|e| {
            let line = u32::try_from(e.marker().line()).unwrap_or(0);
            builder.problem(line, "", format!("is no YAML: {}", e.info()))
        })?;
        builder.event(event, &span)?;
    }
    Ok(builder.root.unwrap_or(Node { line: 1, value: Value::Null }))
}

/// A collection that is not closed yet.
struct Open {
    line: u32,
    anchor: usize,
    /// The tree's cost when it was opened.
    cost: usize,
    /// Deepest child so far, itself included.
    height: usize,
    items: Items,
}

enum Items {
    List(Vec<Node>),
    Map { entries: Vec<Entry>, keys: HashMap<String, u32>, merged: Vec<Node>, key: Option<(String, u32)> },
}

struct Anchored {
    node: Node,
    height: usize,
    cost: usize,
}

#[derive(Default)]
struct Builder {
    file: Arc<str>,
    stack: Vec<Open>,
    anchors: HashMap<usize, Anchored>,
    cost: usize,
    root: Option<Node>,
}

impl Builder {
    fn problem(&self, line: u32, key: &str, message: String) -> Problems {
        Problems(vec![Problem { file: self.file.clone(), line, key: key.to_owned(), message }])
    }

    fn event(&mut self, event: Event<'_>, span: &Span) -> Result<(), Problems> {
        let line = u32::try_from(span.start.line()).unwrap_or(0);
        match event {
            Event::Scalar(text, style, anchor, tag) => {
                let plain = style == ScalarStyle::Plain && self.tag(line, tag.as_ref())?;
                let value = if plain && matches!(&*text, "" | "~" | "null" | "Null" | "NULL") {
                    Value::Null
                } else {
                    Value::Scalar { text: text.into_owned(), plain }
                };
                self.value(Node { line, value }, anchor, 1)
            }
            Event::SequenceStart(_, anchor, tag) => {
                self.tag(line, tag.as_ref())?;
                self.open(line, anchor, Items::List(Vec::new()))
            }
            Event::MappingStart(_, anchor, tag) => {
                self.tag(line, tag.as_ref())?;
                let items =
                    Items::Map { entries: Vec::new(), keys: HashMap::new(), merged: Vec::new(), key: None };
                self.open(line, anchor, items)
            }
            Event::SequenceEnd | Event::MappingEnd => self.close(),
            Event::Alias(id) => {
                let Some(found) = self.anchors.get(&id) else {
                    return Err(self.problem(line, "", "an alias to what encloses it: write it out".into()));
                };
                // Checked before the copy is made.
                let (height, cost) = (found.height, found.cost);
                self.charge(line, cost)?;
                let mut node = self.anchors[&id].node.clone();
                self.cost -= own_cost(&node);
                node.line = line;
                self.value(node, 0, height)
            }
            Event::DocumentStart(..) if self.root.is_some() => {
                Err(self.problem(line, "", "a second document begins: use one file for each".into()))
            }
            _ => Ok(()),
        }
    }

    /// Whether a plain scalar stays plain; tags beyond YAML's own are refused, as nothing here gives them a meaning.
    fn tag(&self, line: u32, tag: Option<&Cow<'_, Tag>>) -> Result<bool, Problems> {
        match tag {
            None => Ok(true),
            Some(tag) if tag.is_yaml_core_schema() => Ok(tag.suffix() != "str"),
            Some(tag) => {
                let tag: String = tag.original().chars().take(40).collect();
                Err(self.problem(line, "", format!("the tag {tag} has no meaning here: leave it out")))
            }
        }
    }

    fn charge(&mut self, line: u32, cost: usize) -> Result<(), Problems> {
        self.cost = self.cost.saturating_add(cost);
        if self.cost > MAX_TREE {
            return Err(self.problem(line, "", "too large once its aliases are expanded: use fewer".into()));
        }
        Ok(())
    }

    fn too_deep(&self, line: u32) -> Problems {
        self.problem(line, "", format!("nested deeper than {MAX_DEPTH}: flatten it"))
    }

    fn open(&mut self, line: u32, anchor: usize, items: Items) -> Result<(), Problems> {
        if self.stack.len() >= MAX_DEPTH {
            return Err(self.too_deep(line));
        }
        if let Some(Open { items: Items::Map { key: None, .. }, .. }) = self.stack.last() {
            return Err(self.problem(line, "", "a key must be a single value".into()));
        }
        self.stack.push(Open { line, anchor, cost: self.cost, height: 1, items });
        Ok(())
    }

    fn close(&mut self) -> Result<(), Problems> {
        let Some(open) = self.stack.pop() else { return Ok(()) };
        let value = match open.items {
            Items::List(nodes) => Value::List(nodes),
            Items::Map { mut entries, mut keys, merged, .. } => {
                self.merge(&mut entries, &mut keys, merged)?;
                Value::Map(entries)
            }
        };
        let node = Node { line: open.line, value };
        let cost = self.cost - open.cost + NODE_COST;
        self.keep(open.anchor, &node, open.height, cost)?;
        self.value(node, 0, open.height)
    }

    /// `<<: *base` gives the keys that are not written out (YAML merge key type, yaml.org/type/merge).
    fn merge(
        &self,
        entries: &mut Vec<Entry>,
        keys: &mut HashMap<String, u32>,
        merged: Vec<Node>,
    ) -> Result<(), Problems> {
        let mut queue: Vec<Node> = merged.into_iter().rev().collect();
        while let Some(node) = queue.pop() {
            match node.value {
                Value::Map(from) => {
                    for entry in from {
                        if !keys.contains_key(&entry.key) {
                            keys.insert(entry.key.clone(), entry.line);
                            entries.push(entry);
                        }
                    }
                }
                Value::List(items) if items.iter().all(|i| matches!(i.value, Value::Map(_))) => {
                    queue.extend(items.into_iter().rev());
                }
                _ => return Err(self.problem(node.line, "<<", "must be a mapping or a list of them".into())),
            }
        }
        Ok(())
    }

    /// Remembers an anchored node; the copy is charged as well.
    fn keep(&mut self, anchor: usize, node: &Node, height: usize, cost: usize) -> Result<(), Problems> {
        if anchor != 0 {
            self.charge(node.line, cost)?;
            self.anchors.insert(anchor, Anchored { node: node.clone(), height, cost });
        }
        Ok(())
    }

    /// Puts a finished node where it belongs; `height` counts the node's own levels.
    fn value(&mut self, node: Node, anchor: usize, height: usize) -> Result<(), Problems> {
        let cost = own_cost(&node);
        self.charge(node.line, cost)?;
        self.keep(anchor, &node, height, cost)?;
        if self.stack.len() + height > MAX_DEPTH {
            return Err(self.too_deep(node.line));
        }
        let Some(open) = self.stack.last_mut() else {
            self.root = Some(node);
            return Ok(());
        };
        open.height = open.height.max(height + 1);
        match &mut open.items {
            Items::List(nodes) => nodes.push(node),
            Items::Map { entries, keys, merged, key } => match key.take() {
                None => {
                    let Value::Scalar { text, plain } = node.value else {
                        return Err(self.problem(node.line, "", "a key must be a single value".into()));
                    };
                    if text == "<<" && plain {
                        *key = Some((text, node.line));
                    } else if let Some(first) = keys.insert(text.clone(), node.line) {
                        let shown: String = text.chars().take(80).collect();
                        return Err(self.problem(
                            node.line,
                            &shown,
                            format!("is written twice, first on line {first}: keep one"),
                        ));
                    } else {
                        *key = Some((text, node.line));
                    }
                }
                Some((name, _)) if name == "<<" => merged.push(node),
                Some((name, line)) => entries.push(Entry { key: name, line, value: node }),
            },
        }
        Ok(())
    }
}

/// What a node costs without its children.
fn own_cost(node: &Node) -> usize {
    match &node.value {
        Value::Scalar { text, .. } => NODE_COST + text.len(),
        _ => NODE_COST,
    }
}
