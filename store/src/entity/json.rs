//! JSON as it was written: a tree over the caller's text.
//!
//! Each node knows the bytes that it came from, so that what an operation does
//! not touch is kept exactly: unknown fields, the order of members, big
//! integers, decimals. `serde_json::Value` would round numbers, and its
//! `arbitrary_precision` would break `serde(flatten)` for every user of this
//! workspace. It is strict where JSON leaves room: an object that has a member
//! twice is refused, because two readers would see two documents.

use std::borrow::Cow;
use std::fmt;

/// Levels of nested objects and arrays. Real documents have about fifteen.
pub const DEPTH_MAX: usize = 100;

/// From this many members on an object keeps an index of its names.
const INDEXED_FROM: usize = 12;

/// A node of a document, borrowed from its text.
#[derive(Clone, Debug)]
pub struct Json<'t> {
    /// The bytes that the node came from, without space around it.
    pub text: &'t str,
    /// What it is.
    pub value: Value<'t>,
}

/// What a node is.
#[derive(Clone, Debug)]
pub enum Value<'t> {
    /// `null`.
    Null,
    /// `true` or `false`.
    Bool(bool),
    /// A number; its digits are the node's text.
    Number,
    /// A string, unescaped.
    String(Cow<'t, str>),
    /// The elements.
    Array(Vec<Json<'t>>),
    /// The members.
    Object(Object<'t>),
}

/// The members of an object, in the order in which they were written.
#[derive(Clone, Debug, Default)]
pub struct Object<'t> {
    members: Vec<Member<'t>>,
    /// Positions in the order of the names; empty for a small object.
    by_name: Vec<u32>,
}

/// A member of an object.
#[derive(Clone, Debug)]
pub struct Member<'t> {
    /// Its name, unescaped.
    pub name: Cow<'t, str>,
    /// Its value.
    pub value: Json<'t>,
}

/// Why a text is not a document.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{problem} at line {line}, column {column}")]
pub struct JsonError {
    /// What is wrong.
    pub problem: JsonProblem,
    /// Counts from 1.
    pub line: usize,
    /// In bytes, counts from 1.
    pub column: usize,
}

/// What is wrong with a text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum JsonProblem {
    /// The text ends in the middle.
    Ends,
    /// Something else stands where this should.
    Expected(&'static str),
    /// A member twice.
    DuplicateName,
    /// Half of a surrogate pair, which is no character.
    LoneSurrogate,
    /// More levels than [`DEPTH_MAX`].
    TooDeep,
}

impl fmt::Display for JsonProblem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ends => f.write_str("the text ends in the middle of a value"),
            Self::Expected(what) => write!(f, "expected {what}"),
            Self::DuplicateName => f.write_str("an object has the same member twice"),
            Self::LoneSurrogate => f.write_str("a \\u escape is half of a surrogate pair"),
            Self::TooDeep => write!(f, "more than {DEPTH_MAX} levels of objects and arrays"),
        }
    }
}

impl<'t> Json<'t> {
    /// Reads a whole text, which may have space around the value.
    ///
    /// # Errors
    ///
    /// [`JsonError`] with the place of the first mistake.
    pub fn parse(text: &'t str) -> Result<Self, JsonError> {
        let mut parser = Parser { text, at: 0 };
        let parsed = parser.document();
        parsed.map_err(|problem| {
            let before = &text.as_bytes()[..parser.at.min(text.len())];
            let lines = before.split(|byte| *byte == b'\n');
            let (line, column) = lines.enumerate().last().unwrap_or_default();
            JsonError { problem, line: line + 1, column: column.len() + 1 }
        })
    }

    /// The members, if it is an object.
    pub fn as_object(&self) -> Option<&Object<'t>> {
        match &self.value {
            Value::Object(object) => Some(object),
            _ => None,
        }
    }

    /// Whether it is `null`.
    pub fn is_null(&self) -> bool {
        matches!(self.value, Value::Null)
    }

    /// The node that a JSON pointer (RFC 6901) leads to.
    pub fn pointer(&self, pointer: &str) -> Option<&Self> {
        let mut node = self;
        for step in steps(pointer) {
            node = match &node.value {
                Value::Object(object) => object.get(&step)?,
                Value::Array(elements) => elements.get(step.parse::<usize>().ok()?)?,
                _ => return None,
            };
        }
        Some(node)
    }

    /// Takes the member that a JSON pointer leads to out of its object. Array
    /// elements are never taken, since that would move the others. The texts
    /// of the nodes above keep it. Returns whether there was one.
    pub fn remove(&mut self, pointer: &str) -> bool {
        let Some((parent, last)) = pointer.rsplit_once('/') else { return false };
        let mut node = self;
        for step in steps(parent) {
            let child = match &mut node.value {
                Value::Object(object) => object.get_mut(&step),
                Value::Array(elements) => {
                    step.parse::<usize>().ok().and_then(|at| elements.get_mut(at))
                }
                _ => None,
            };
            let Some(child) = child else { return false };
            node = child;
        }
        match &mut node.value {
            Value::Object(object) => object.remove(&unescape_step(last)),
            _ => false,
        }
    }

    /// Whether both mean the same: the order of members and the spelling of
    /// strings do not matter, the spelling of numbers does.
    pub fn same(&self, other: &Json<'_>) -> bool {
        if self.text == other.text {
            return true;
        }
        match (&self.value, &other.value) {
            (Value::Null, Value::Null) => true,
            (Value::Bool(left), Value::Bool(right)) => left == right,
            (Value::String(left), Value::String(right)) => left == right,
            (Value::Array(left), Value::Array(right)) => {
                left.len() == right.len()
                    && left.iter().zip(right).all(|(left, right)| left.same(right))
            }
            (Value::Object(left), Value::Object(right)) => {
                left.len() == right.len()
                    && left.iter().all(|member| {
                        right.get(&member.name).is_some_and(|other| member.value.same(other))
                    })
            }
            _ => false,
        }
    }

    /// The canonical form: members in the order of their names' bytes, no
    /// space, the shortest spelling of strings, numbers as they are written.
    /// Equal for two texts exactly if they are the [`same`](Json::same).
    pub fn canonical(&self) -> String {
        let mut out = String::with_capacity(self.text.len());
        self.write_canonical(&mut out);
        out
    }

    fn write_canonical(&self, out: &mut String) {
        match &self.value {
            Value::Null | Value::Bool(_) | Value::Number => out.push_str(self.text),
            Value::String(text) => write_string(text, out),
            Value::Array(elements) => {
                out.push('[');
                for (at, element) in elements.iter().enumerate() {
                    if at > 0 {
                        out.push(',');
                    }
                    element.write_canonical(out);
                }
                out.push(']');
            }
            Value::Object(object) => {
                let mut members: Vec<&Member<'_>> = object.iter().collect();
                members.sort_by(|left, right| left.name.cmp(&right.name));
                out.push('{');
                for (at, member) in members.into_iter().enumerate() {
                    if at > 0 {
                        out.push(',');
                    }
                    write_string(&member.name, out);
                    out.push(':');
                    member.value.write_canonical(out);
                }
                out.push('}');
            }
        }
    }

    /// What kind of value it is, for people.
    pub fn kind(&self) -> &'static str {
        match &self.value {
            Value::Null => "null",
            Value::Bool(_) => "a boolean",
            Value::Number => "a number",
            Value::String(_) => "a string",
            Value::Array(_) => "an array",
            Value::Object(_) => "an object",
        }
    }
}

impl<'o, 't> IntoIterator for &'o Object<'t> {
    type Item = &'o Member<'t>;
    type IntoIter = std::slice::Iter<'o, Member<'t>>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

impl<'t> Object<'t> {
    /// The members, in the order in which they were written.
    pub fn iter(&self) -> std::slice::Iter<'_, Member<'t>> {
        self.members.iter()
    }

    /// How many members there are.
    pub fn len(&self) -> usize {
        self.members.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.members.is_empty()
    }

    /// The value of the member of this name.
    pub fn get(&self, name: &str) -> Option<&Json<'t>> {
        self.position(name).map(|at| &self.members[at].value)
    }

    fn get_mut(&mut self, name: &str) -> Option<&mut Json<'t>> {
        let at = self.position(name)?;
        Some(&mut self.members[at].value)
    }

    fn position(&self, name: &str) -> Option<usize> {
        if self.by_name.is_empty() {
            return self.members.iter().position(|member| member.name == name);
        }
        let name_at = |at: &u32| self.members[*at as usize].name.as_ref();
        let found = self.by_name.binary_search_by(|at| name_at(at).cmp(name)).ok()?;
        Some(self.by_name[found] as usize)
    }

    fn remove(&mut self, name: &str) -> bool {
        let Some(at) = self.position(name) else { return false };
        self.members.remove(at);
        self.index();
        true
    }

    fn index(&mut self) {
        self.by_name.clear();
        if self.members.len() >= INDEXED_FROM {
            self.by_name = self.sorted();
        }
    }

    fn sorted(&self) -> Vec<u32> {
        let count = u32::try_from(self.members.len()).expect("a document is far below 4 GiB");
        let mut order: Vec<u32> = (0..count).collect();
        order.sort_by(|left, right| {
            self.members[*left as usize].name.cmp(&self.members[*right as usize].name)
        });
        order
    }

    /// A member whose name an earlier one has.
    fn duplicate(&self) -> Option<&Member<'t>> {
        if self.by_name.is_empty() {
            let mut members = self.members.iter().enumerate();
            let found = members.find(|(at, member)| {
                self.members[..*at].iter().any(|earlier| earlier.name == member.name)
            });
            return found.map(|(_, member)| member);
        }
        let member = |at: u32| &self.members[at as usize];
        let mut pairs = self.by_name.windows(2);
        let pair = pairs.find(|pair| member(pair[0]).name == member(pair[1]).name)?;
        Some(member(pair[1]))
    }
}

/// Writes `text` as a JSON string, escaping only what has to be.
pub fn write_string(text: &str, out: &mut String) {
    use fmt::Write as _;
    out.push('"');
    for character in text.chars() {
        match character {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            control if control < ' ' => {
                write!(out, "\\u{:04x}", u32::from(control)).expect("a String never fails");
            }
            other => out.push(other),
        }
    }
    out.push('"');
}

/// Appends a step to a JSON pointer.
pub fn push_step(pointer: &mut String, step: &str) {
    pointer.push('/');
    pointer.push_str(&step.replace('~', "~0").replace('/', "~1"));
}

fn steps(pointer: &str) -> impl Iterator<Item = String> + '_ {
    pointer.split('/').skip(1).map(unescape_step)
}

fn unescape_step(step: &str) -> String {
    step.replace("~1", "/").replace("~0", "~")
}

struct Parser<'t> {
    text: &'t str,
    at: usize,
}

impl<'t> Parser<'t> {
    fn document(&mut self) -> Result<Json<'t>, JsonProblem> {
        self.space();
        let node = self.node(0)?;
        self.space();
        if self.at < self.text.len() {
            return Err(JsonProblem::Expected("nothing more after the value"));
        }
        Ok(node)
    }

    fn node(&mut self, depth: usize) -> Result<Json<'t>, JsonProblem> {
        if depth > DEPTH_MAX {
            return Err(JsonProblem::TooDeep);
        }
        let start = self.at;
        let value = match self.peek().ok_or(JsonProblem::Ends)? {
            b'{' => self.object(depth)?,
            b'[' => self.array(depth)?,
            b'"' => Value::String(self.string()?),
            b't' => self.literal("true", Value::Bool(true))?,
            b'f' => self.literal("false", Value::Bool(false))?,
            b'n' => self.literal("null", Value::Null)?,
            b'-' | b'0'..=b'9' => self.number()?,
            _ => return Err(JsonProblem::Expected("a JSON value")),
        };
        Ok(Json { text: &self.text[start..self.at], value })
    }

    fn object(&mut self, depth: usize) -> Result<Value<'t>, JsonProblem> {
        let mut object = Object::default();
        self.at += 1;
        self.space();
        if self.take(b'}') {
            return Ok(Value::Object(object));
        }
        loop {
            self.space();
            if self.peek() != Some(b'"') {
                return Err(self.expected("a member's name in quotes"));
            }
            let name = self.string()?;
            self.space();
            self.expect(b':', "`:` after a member's name")?;
            self.space();
            let value = self.node(depth + 1)?;
            object.members.push(Member { name, value });
            self.space();
            if self.take(b',') {
                continue;
            }
            self.expect(b'}', "`,` or `}` in an object")?;
            object.index();
            if let Some(member) = object.duplicate() {
                self.at = member.value.text.as_ptr() as usize - self.text.as_ptr() as usize;
                return Err(JsonProblem::DuplicateName);
            }
            return Ok(Value::Object(object));
        }
    }

    fn array(&mut self, depth: usize) -> Result<Value<'t>, JsonProblem> {
        let mut elements = Vec::new();
        self.at += 1;
        self.space();
        if self.take(b']') {
            return Ok(Value::Array(elements));
        }
        loop {
            self.space();
            elements.push(self.node(depth + 1)?);
            self.space();
            if !self.take(b',') {
                self.expect(b']', "`,` or `]` in an array")?;
                return Ok(Value::Array(elements));
            }
        }
    }

    fn string(&mut self) -> Result<Cow<'t, str>, JsonProblem> {
        self.at += 1;
        let mut start = self.at;
        let mut unescaped = String::new();
        loop {
            match self.peek().ok_or(JsonProblem::Ends)? {
                b'"' => {
                    let rest = &self.text[start..self.at];
                    self.at += 1;
                    if unescaped.is_empty() {
                        return Ok(Cow::Borrowed(rest));
                    }
                    unescaped.push_str(rest);
                    return Ok(Cow::Owned(unescaped));
                }
                b'\\' => {
                    unescaped.push_str(&self.text[start..self.at]);
                    self.at += 1;
                    unescaped.push(self.escape()?);
                    start = self.at;
                }
                0..=0x1f => return Err(JsonProblem::Expected("an escape for a control character")),
                _ => self.at += 1,
            }
        }
    }

    fn escape(&mut self) -> Result<char, JsonProblem> {
        let escape = self.peek().ok_or(JsonProblem::Ends)?;
        self.at += 1;
        Ok(match escape {
            b'"' => '"',
            b'\\' => '\\',
            b'/' => '/',
            b'b' => '\u{8}',
            b'f' => '\u{c}',
            b'n' => '\n',
            b'r' => '\r',
            b't' => '\t',
            b'u' => return self.unicode_escape(),
            _ => {
                self.at -= 1;
                return Err(JsonProblem::Expected("one of \" \\ / b f n r t u after `\\`"));
            }
        })
    }

    fn unicode_escape(&mut self) -> Result<char, JsonProblem> {
        let high = self.hex4()?;
        let code = match high {
            0xd800..=0xdbff => {
                if !self.text.as_bytes()[self.at..].starts_with(b"\\u") {
                    return Err(JsonProblem::LoneSurrogate);
                }
                self.at += 2;
                let low = self.hex4()?;
                if !(0xdc00..=0xdfff).contains(&low) {
                    return Err(JsonProblem::LoneSurrogate);
                }
                0x10000 + ((high - 0xd800) << 10) + (low - 0xdc00)
            }
            other => other,
        };
        char::from_u32(code).ok_or(JsonProblem::LoneSurrogate)
    }

    fn hex4(&mut self) -> Result<u32, JsonProblem> {
        let digits = self.text.as_bytes().get(self.at..self.at + 4).ok_or(JsonProblem::Ends)?;
        let mut code = 0;
        for digit in digits {
            let digit = char::from(*digit).to_digit(16);
            code = code * 16 + digit.ok_or(JsonProblem::Expected("four hex digits after `\\u`"))?;
        }
        self.at += 4;
        Ok(code)
    }

    fn number(&mut self) -> Result<Value<'t>, JsonProblem> {
        self.take(b'-');
        if !self.take(b'0') {
            self.digits()?;
        }
        if self.take(b'.') {
            self.digits()?;
        }
        if self.take(b'e') || self.take(b'E') {
            let _sign = self.take(b'+') || self.take(b'-');
            self.digits()?;
        }
        Ok(Value::Number)
    }

    fn digits(&mut self) -> Result<(), JsonProblem> {
        let start = self.at;
        while matches!(self.peek(), Some(b'0'..=b'9')) {
            self.at += 1;
        }
        if self.at == start { Err(self.expected("a digit")) } else { Ok(()) }
    }

    fn literal(&mut self, literal: &str, value: Value<'t>) -> Result<Value<'t>, JsonProblem> {
        if !self.text[self.at..].starts_with(literal) {
            return Err(JsonProblem::Expected("a JSON value"));
        }
        self.at += literal.len();
        Ok(value)
    }

    fn space(&mut self) {
        while matches!(self.peek(), Some(b' ' | b'\t' | b'\n' | b'\r')) {
            self.at += 1;
        }
    }

    fn peek(&self) -> Option<u8> {
        self.text.as_bytes().get(self.at).copied()
    }

    fn take(&mut self, byte: u8) -> bool {
        let found = self.peek() == Some(byte);
        if found {
            self.at += 1;
        }
        found
    }

    fn expect(&mut self, byte: u8, what: &'static str) -> Result<(), JsonProblem> {
        if self.take(byte) { Ok(()) } else { Err(self.expected(what)) }
    }

    fn expected(&self, what: &'static str) -> JsonProblem {
        if self.at >= self.text.len() { JsonProblem::Ends } else { JsonProblem::Expected(what) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn mistakes_have_a_place() {
        let check = |text: &str, expected: &str| {
            assert_eq!(Json::parse(text).unwrap_err().to_string(), expected, "{text}");
        };
        check("", "the text ends in the middle of a value at line 1, column 1");
        check("{\"a\": 1,\n \"a\": 2}", "an object has the same member twice at line 2, column 7");
        check("{\"a\": tru}", "expected a JSON value at line 1, column 7");
        check("[1,]", "expected a JSON value at line 1, column 4");
        check("01", "expected nothing more after the value at line 1, column 2");
        check("{\"a\" 1}", "expected `:` after a member's name at line 1, column 6");
        check("\"\\ud800\"", "a \\u escape is half of a surrogate pair at line 1, column 8");
        check("\"a\u{1}\"", "expected an escape for a control character at line 1, column 3");
        let deep = "[".repeat(DEPTH_MAX + 2);
        let too_deep = "more than 100 levels of objects and arrays at line 1, column 102";
        check(&deep, too_deep);
    }

    #[test]
    fn a_member_twice_is_found_in_large_objects_too() {
        let members: Vec<String> = (0..40).map(|at| format!("\"m{at}\":{at}")).collect();
        let text = format!("{{{}}}", members.join(","));
        let object = Json::parse(&text).unwrap();
        assert_eq!(object.as_object().unwrap().get("m17").unwrap().text, "17");
        let text = format!("{{{},\"m17\":0}}", members.join(","));
        assert_eq!(Json::parse(&text).unwrap_err().problem, JsonProblem::DuplicateName);
    }

    #[test]
    fn pointers_lead_to_nodes_and_out_of_objects() {
        let text = r#"{"a/b": [{"c~d": null, "e": 1}]}"#;
        let mut json = Json::parse(text).unwrap();
        assert!(json.pointer("/a~1b/0/c~0d").unwrap().is_null());
        assert_eq!(json.pointer("").unwrap().text, text);
        assert!(json.pointer("/a~1b/1").is_none());
        assert!(json.remove("/a~1b/0/c~0d"));
        assert!(!json.remove("/a~1b/0/c~0d"));
        assert!(!json.remove("/a~1b/0"));
        assert_eq!(json.canonical(), r#"{"a/b":[{"e":1}]}"#);
    }

    #[test]
    fn sameness_ignores_order_and_spelling_but_not_digits() {
        let check = |left: &str, right: &str, expected: bool| {
            let (left, right) = (Json::parse(left).unwrap(), Json::parse(right).unwrap());
            assert_eq!(left.same(&right), expected);
            assert_eq!(left.canonical() == right.canonical(), expected);
        };
        check(r#"{"a":1, "b":"\u00e9"}"#, r#"{"b":"é","a":1}"#, true);
        check(r"[1,2]", r"[2,1]", false);
        check("12345678901234567890123", "12345678901234567890124", false);
        check("1.0", "1", false);
    }

    fn value() -> impl Strategy<Value = serde_json::Value> {
        let leaf = prop_oneof![
            Just(serde_json::Value::Null),
            any::<bool>().prop_map(Into::into),
            any::<i64>().prop_map(Into::into),
            (-1e9..1e9).prop_map(Into::into),
            any::<String>().prop_map(Into::into),
        ];
        leaf.prop_recursive(4, 64, 16, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..6).prop_map(Into::into),
                prop::collection::vec((any::<String>(), inner), 0..20).prop_map(|members| members
                    .into_iter()
                    .collect::<serde_json::Map<_, _>>()
                    .into()),
            ]
        })
    }

    proptest! {
        #[test]
        fn it_reads_what_serde_json_writes(value in value(), pretty in any::<bool>()) {
            let text = if pretty {
                serde_json::to_string_pretty(&value).unwrap()
            } else {
                value.to_string()
            };
            let json = Json::parse(&text).unwrap();
            let again: serde_json::Value = serde_json::from_str(&json.canonical()).unwrap();
            prop_assert_eq!(again, value);
        }

        #[test]
        fn it_accepts_what_serde_json_accepts(text in "[\\[\\]{},:\"\\\\ u0-9a-ftrunlse.+-]{0,24}") {
            let ours = Json::parse(&text);
            let theirs = serde_json::from_str::<serde_json::Value>(&text);
            let stricter = matches!(&ours, Err(error) if error.problem == JsonProblem::DuplicateName);
            let range = matches!(&theirs, Err(error) if error.to_string().contains("out of range"));
            prop_assert!(stricter || range || ours.is_ok() == theirs.is_ok(), "{:?} {:?}", ours, theirs);
        }
    }
}
