//! How the schema library sees a [`Json`] tree: without a copy, and with
//! numbers of any length. Nothing but that; the validation is `schema`'s.

use super::json::{Json, Member, Object, Value};
use jsonschema::JsonType;
use jsonschema::json;
use std::borrow::Cow;

/// Names this representation to the library.
pub(super) enum Tree {}

impl json::Json for Tree {
    type Node<'a> = &'a Json<'a>;
    type PreparedKey = String;
    type StringBuffer = ();

    fn prepare_key(key: &str) -> String {
        key.to_owned()
    }

    fn with_string_node<T>((): &mut (), string: &str, f: impl FnOnce(Self::Node<'_>) -> T) -> T {
        f(&Json { text: "", value: Value::String(Cow::Borrowed(string)) })
    }
}

impl<'a> json::Node<'a, Tree> for &'a Json<'a> {
    type Object = &'a Object<'a>;
    type Array = &'a [Json<'a>];
    type Number = Digits<'a>;

    fn as_object(&self) -> Option<&'a Object<'a>> {
        Json::as_object(self)
    }

    fn as_array(&self) -> Option<&'a [Json<'a>]> {
        match &self.value {
            Value::Array(elements) => Some(elements),
            _ => None,
        }
    }

    fn as_string(&self) -> Option<Cow<'a, str>> {
        match &self.value {
            Value::String(text) => Some(Cow::Borrowed(text)),
            _ => None,
        }
    }

    fn as_number(&self) -> Option<Digits<'a>> {
        matches!(self.value, Value::Number).then_some(Digits(self.text))
    }

    fn as_boolean(&self) -> Option<bool> {
        match self.value {
            Value::Bool(value) => Some(value),
            _ => None,
        }
    }

    fn is_null(&self) -> bool {
        Json::is_null(self)
    }

    fn json_type(&self) -> JsonType {
        match &self.value {
            Value::Null => JsonType::Null,
            Value::Bool(_) => JsonType::Boolean,
            Value::Number => JsonType::Number,
            Value::String(_) => JsonType::String,
            Value::Array(_) => JsonType::Array,
            Value::Object(_) => JsonType::Object,
        }
    }

    fn to_value(&self) -> Cow<'a, serde_json::Value> {
        Cow::Owned(to_value(self))
    }

    fn identity(&self) -> Option<json::NodeIdentity> {
        Some(json::NodeIdentity::new(std::ptr::from_ref::<Json<'_>>(self) as usize))
    }
}

/// The node in the library's own form, in which very long numbers are rounded.
/// It is asked for by `const`, `enum` and `uniqueItems`.
pub(super) fn to_value(json: &Json<'_>) -> serde_json::Value {
    match &json.value {
        Value::Null => serde_json::Value::Null,
        Value::Bool(value) => (*value).into(),
        Value::Number => json::JsonNumber::to_number(&Digits(json.text)).into_owned().into(),
        Value::String(text) => text.as_ref().into(),
        Value::Array(elements) => elements.iter().map(to_value).collect(),
        Value::Object(object) => object
            .iter()
            .map(|member| (member.name.clone().into_owned(), to_value(&member.value)))
            .collect(),
    }
}

impl<'a> json::Object<'a, Tree> for &'a Object<'a> {
    type Node = &'a Json<'a>;
    type MemberName = &'a str;
    type MembersIter = Members<'a>;

    fn len(&self) -> usize {
        Object::len(self)
    }

    fn get(&self, key: &String) -> Option<&'a Json<'a>> {
        Object::get(self, key)
    }

    fn members(&self) -> Members<'a> {
        Members(self.iter())
    }
}

/// The members of an object, one by one.
pub(super) struct Members<'a>(std::slice::Iter<'a, Member<'a>>);

impl<'a> Iterator for Members<'a> {
    type Item = (&'a str, &'a Json<'a>);

    fn next(&mut self) -> Option<Self::Item> {
        self.0.next().map(|member| (member.name.as_ref(), &member.value))
    }
}

impl<'a> json::Array<'a, Tree> for &'a [Json<'a>] {
    type Node = &'a Json<'a>;
    type ElementsIter = std::slice::Iter<'a, Json<'a>>;

    fn len(&self) -> usize {
        <[Json<'a>]>::len(self)
    }

    fn elements(&self) -> Self::ElementsIter {
        self.iter()
    }
}

/// A number as it is written.
pub(super) struct Digits<'a>(&'a str);

impl json::JsonNumber for Digits<'_> {
    fn as_u64(&self) -> Option<u64> {
        self.0.parse().ok()
    }

    fn as_i64(&self) -> Option<i64> {
        self.0.parse().ok()
    }

    fn as_f64(&self) -> Option<f64> {
        // A JSON number is always in Rust's grammar; one beyond the range of a
        // double becomes the greatest there is, so that bounds still hold.
        let value: f64 = self.0.parse().ok()?;
        Some(value.clamp(f64::MIN, f64::MAX))
    }

    fn as_str(&self) -> Cow<'_, str> {
        Cow::Borrowed(self.0)
    }

    fn to_number(&self) -> Cow<'_, serde_json::Number> {
        let integer = self.as_u64().map(Into::into).or_else(|| self.as_i64().map(Into::into));
        let number = integer.or_else(|| serde_json::Number::from_f64(self.as_f64()?));
        Cow::Owned(number.expect("a clamped double is finite"))
    }

    fn is_integer(&self) -> bool {
        if self.is_written_as_integer() {
            return true;
        }
        self.as_f64().is_some_and(|value| value.fract() == 0.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use jsonschema::json::JsonNumber as _;

    #[test]
    fn numbers_of_any_length_are_integers_if_they_are_written_so() {
        let check = |digits: &str, written: bool, integer: bool| {
            assert_eq!(Digits(digits).is_written_as_integer(), written, "{digits}");
            assert_eq!(Digits(digits).is_integer(), integer, "{digits}");
        };
        check("0", true, true);
        check("-17", true, true);
        check("123456789012345678901234567890", true, true);
        check("1.0", false, true);
        check("1e3", false, true);
        check("1.5", false, false);
        assert_eq!(Digits("-1e999").as_f64(), Some(f64::MIN));
        assert_eq!(Digits("-0").to_number().to_string(), "0");
    }
}
