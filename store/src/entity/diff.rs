//! How two schemas differ, for a person to read.
//!
//! One line for each place: `-` is only in the first, `+` only in the second,
//! `~` has changed. Lists of names, such as `required`, are compared as sets.
//! It is bounded in lines and in characters; what is left out is counted.

use super::json::{Json, Object, Value, push_step};
use std::fmt;

const LINES_MAX: usize = 40;
const VALUE_CHARS_MAX: usize = 100;
const POINTER_CHARS_MAX: usize = 200;

/// How two JSON texts differ.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Difference {
    /// One for each place, in the order of the first text.
    pub lines: Vec<String>,
    /// How many more there are.
    pub more: usize,
}

impl Difference {
    /// Compares two texts.
    pub fn between(old: &Json<'_>, new: &Json<'_>) -> Self {
        let mut difference = Self::default();
        difference.compare(&mut String::new(), old, new);
        difference
    }

    /// Whether they mean the same.
    pub fn is_empty(&self) -> bool {
        self.lines.is_empty()
    }

    fn compare(&mut self, pointer: &mut String, old: &Json<'_>, new: &Json<'_>) {
        if old.same(new) {
            return;
        }
        match (&old.value, &new.value) {
            (Value::Object(left), Value::Object(right)) => self.objects(pointer, left, right),
            (Value::Array(left), Value::Array(right)) => match (names(left), names(right)) {
                (Some(left), Some(right)) => self.names(pointer, &left, &right),
                _ => self.arrays(pointer, left, right),
            },
            _ => self.line('~', pointer, &format!("{} -> {}", short(old.text), short(new.text))),
        }
    }

    fn objects(&mut self, pointer: &mut String, old: &Object<'_>, new: &Object<'_>) {
        for member in old {
            at(pointer, &member.name, |pointer| match new.get(&member.name) {
                Some(other) => self.compare(pointer, &member.value, other),
                None => self.line('-', pointer, &short(member.value.text)),
            });
        }
        for member in new.iter().filter(|member| old.get(&member.name).is_none()) {
            at(pointer, &member.name, |pointer| self.line('+', pointer, &short(member.value.text)));
        }
    }

    fn arrays(&mut self, pointer: &mut String, old: &[Json<'_>], new: &[Json<'_>]) {
        for index in 0..old.len().max(new.len()) {
            at(pointer, &index.to_string(), |pointer| match (old.get(index), new.get(index)) {
                (Some(left), Some(right)) => self.compare(pointer, left, right),
                (Some(left), None) => self.line('-', pointer, &short(left.text)),
                (None, Some(right)) => self.line('+', pointer, &short(right.text)),
                (None, None) => {}
            });
        }
    }

    fn names(&mut self, pointer: &str, old: &[&str], new: &[&str]) {
        let before = self.lines.len() + self.more;
        for name in old.iter().filter(|name| !new.contains(name)) {
            self.line('-', pointer, &format!("\"{name}\""));
        }
        for name in new.iter().filter(|name| !old.contains(name)) {
            self.line('+', pointer, &format!("\"{name}\""));
        }
        if self.lines.len() + self.more == before {
            self.line('~', pointer, "the same names in another order");
        }
    }

    fn line(&mut self, mark: char, pointer: &str, text: &str) {
        if self.lines.len() >= LINES_MAX {
            self.more += 1;
            return;
        }
        let pointer: String = pointer.chars().take(POINTER_CHARS_MAX).collect();
        let place = if pointer.is_empty() { "/" } else { &pointer };
        self.lines.push(format!("{mark} {place}: {text}"));
    }
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.lines.join("\n"))?;
        if self.more == 0 { Ok(()) } else { write!(f, "\nand {} more differences", self.more) }
    }
}

/// Calls `then` with the pointer one step longer.
fn at(pointer: &mut String, step: &str, then: impl FnOnce(&mut String)) {
    let length = pointer.len();
    push_step(pointer, step);
    then(pointer);
    pointer.truncate(length);
}

/// The elements, if all are strings.
fn names<'j>(elements: &'j [Json<'_>]) -> Option<Vec<&'j str>> {
    let name = |element: &'j Json<'_>| match &element.value {
        Value::String(text) => Some(text.as_ref()),
        _ => None,
    };
    elements.iter().map(name).collect()
}

/// The text on one line, cut.
fn short(text: &str) -> String {
    let mut words = text.split_whitespace();
    let mut line = words.next().unwrap_or_default().to_owned();
    for word in words {
        if line.len() > VALUE_CHARS_MAX * 4 {
            break;
        }
        line.push(' ');
        line.push_str(word);
    }
    let mut cut: String = line.chars().take(VALUE_CHARS_MAX).collect();
    if cut.len() < line.len() {
        cut.push('…');
    }
    cut
}

#[cfg(test)]
mod tests {
    use super::*;

    fn between(old: &str, new: &str) -> Difference {
        Difference::between(&Json::parse(old).unwrap(), &Json::parse(new).unwrap())
    }

    #[test]
    fn each_place_has_a_line() {
        let check = |old: &str, new: &str, expected: &[&str]| {
            assert_eq!(between(old, new).lines, expected, "{old} {new}");
        };
        check(r#"{"a": 1, "b": [1]}"#, r#"{"b": [ 1 ], "a": 1}"#, &[]);
        check(r#"{"a": 1}"#, r#"{"a": 2}"#, &["~ /a: 1 -> 2"]);
        check(r#"{"a": 1}"#, "[]", &["~ /: {\"a\": 1} -> []"]);
        check(
            r#"{"a/b": {"x": 1}, "c": null}"#,
            r#"{"a/b": {"y": "two\nlines"}, "d": {"e":   1}}"#,
            &["- /a~1b/x: 1", "+ /a~1b/y: \"two\\nlines\"", "- /c: null", "+ /d: {\"e\": 1}"],
        );
        check(
            r#"{"required": ["a", "b", "c"]}"#,
            r#"{"required": ["c", "d", "a"]}"#,
            &["- /required: \"b\"", "+ /required: \"d\""],
        );
        check(
            r#"{"required": ["a", "b"]}"#,
            r#"{"required": ["b", "a"]}"#,
            &["~ /required: the same names in another order"],
        );
        check(
            r#"{"items": [{"a": 1}, 2]}"#,
            r#"{"items": [{"a": 2}]}"#,
            &["~ /items/0/a: 1 -> 2", "- /items/1: 2"],
        );
    }

    #[test]
    fn it_is_bounded() {
        let old: Vec<_> = (0..90).map(|at| format!("\"k{at}\": \"{}\"", "x".repeat(900))).collect();
        let difference = between(&format!("{{{}}}", old.join(",")), "{}");
        assert_eq!((difference.lines.len(), difference.more), (LINES_MAX, 50));
        let text = difference.to_string();
        assert!(text.len() < 8_000, "{} bytes", text.len());
        assert!(text.ends_with("and 50 more differences"));
    }
}
