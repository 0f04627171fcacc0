//! From what a program changed in its Rust type to a merge patch of the
//! document.
//!
//! The Rust type knows some fields of the document; others are nobody's but
//! their writers'. So the change is found between the typed value before and
//! after, carried over to the document as it is stored, and the patch is the
//! difference of that. Elements of arrays are matched, because a merge patch
//! can only replace an array as a whole: what the type does not know of an
//! element survives in it.

use serde_json::{Map, Value};

/// Fields that tell elements of an array apart, in the order in which they are
/// looked for.
const IDENTITIES: [&str; 4] = ["id", "uid", "name", "key"];

/// The RFC 7396 patch that carries the change from `before` to `after` into
/// `stored`. `None` if there is nothing to change.
pub(crate) fn patch_of(stored: &Value, before: &Value, after: &Value) -> Option<Value> {
    let changed = carry(stored, before, after);
    difference(stored, &changed)
}

/// `stored` with the change from `before` to `after`.
fn carry(stored: &Value, before: &Value, after: &Value) -> Value {
    if before == after {
        return stored.clone();
    }
    match (stored, before, after) {
        (Value::Object(stored), Value::Object(before), Value::Object(after)) => {
            Value::Object(carry_object(stored, before, after))
        }
        (Value::Array(stored), Value::Array(before), Value::Array(after))
            if stored.len() == before.len() =>
        {
            Value::Array(carry_array(stored, before, after))
        }
        _ => after.clone(),
    }
}

fn carry_object(
    stored: &Map<String, Value>,
    before: &Map<String, Value>,
    after: &Map<String, Value>,
) -> Map<String, Value> {
    let mut result = stored.clone();
    for name in before.keys().filter(|name| !after.contains_key(*name)) {
        result.remove(name);
    }
    for (name, now) in after {
        let was = before.get(name);
        if was == Some(now) {
            continue;
        }
        let value = match (stored.get(name), was) {
            (Some(stored), Some(was)) => carry(stored, was, now),
            _ => now.clone(),
        };
        result.insert(name.clone(), value);
    }
    result
}

/// Each element of `after` is the change of one of `before`, or new.
fn carry_array(stored: &[Value], before: &[Value], after: &[Value]) -> Vec<Value> {
    let origins = origins(before, after);
    let element = |(now, origin): (&Value, &Option<usize>)| match origin {
        Some(index) => carry(&stored[*index], &before[*index], now),
        None => now.clone(),
    };
    after.iter().zip(&origins).map(element).collect()
}

/// For each element of `after`, the element of `before` that it comes from:
/// an equal one, else one of the same identity, else, if none was added or
/// removed, the one at the same place.
fn origins(before: &[Value], after: &[Value]) -> Vec<Option<usize>> {
    let mut origins = vec![None; after.len()];
    let mut free = vec![true; before.len()];
    let mut claim = |origins: &mut Vec<Option<usize>>, matches: &dyn Fn(usize, usize) -> bool| {
        for (to, origin) in origins.iter_mut().enumerate().filter(|(_, origin)| origin.is_none()) {
            *origin = (0..free.len()).find(|from| free[*from] && matches(*from, to));
            if let Some(from) = *origin {
                free[from] = false;
            }
        }
    };
    let in_place = |from: usize, to: usize| from == to && before[from] == after[to];
    claim(&mut origins, &in_place);
    claim(&mut origins, &|from, to| before[from] == after[to]);
    claim(&mut origins, &|from, to| {
        identity(&before[from]).is_some_and(|name| identity(&after[to]) == Some(name))
    });
    if before.len() == after.len() {
        claim(&mut origins, &|from, to| {
            from == to && identity(&before[from]).is_none() && identity(&after[to]).is_none()
        });
    }
    origins
}

fn identity(value: &Value) -> Option<(&'static str, &Value)> {
    let object = value.as_object()?;
    IDENTITIES.iter().find_map(|name| {
        object.get(*name).filter(|value| !value.is_null()).map(|value| (*name, value))
    })
}

/// The RFC 7396 patch from `from` to `to`; `None` if they are equal.
///
/// A field that is to be null is taken away: a merge patch cannot say null,
/// and to real documents null is absent.
fn difference(from: &Value, to: &Value) -> Option<Value> {
    if from == to {
        return None;
    }
    let (Value::Object(from), Value::Object(to)) = (from, to) else { return Some(to.clone()) };
    let mut patch = Map::new();
    for name in from.keys().filter(|name| !to.contains_key(*name)) {
        patch.insert(name.clone(), Value::Null);
    }
    for (name, value) in to {
        match from.get(name) {
            Some(was) => patch.extend(difference(was, value).map(|value| (name.clone(), value))),
            // To take away what is not there changes nothing.
            None if value.is_null() => {}
            None => {
                patch.insert(name.clone(), value.clone());
            }
        }
    }
    (!patch.is_empty()).then_some(Value::Object(patch))
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::rngs::StdRng;
    use rand::{Rng as _, SeedableRng as _};
    use serde_json::json;

    /// RFC 7396, section 2.
    fn apply(target: Value, patch: &Value) -> Value {
        let Value::Object(patch) = patch else { return patch.clone() };
        let mut target = match target {
            Value::Object(target) => target,
            _ => Map::new(),
        };
        for (name, value) in patch {
            if value.is_null() {
                target.remove(name);
            } else {
                let was = target.remove(name).unwrap_or(Value::Null);
                target.insert(name.clone(), apply(was, value));
            }
        }
        Value::Object(target)
    }

    #[expect(clippy::needless_pass_by_value, reason = "so that cases are literals")]
    fn check(stored: Value, before: Value, after: Value, expected: Value) {
        let patch = patch_of(&stored, &before, &after).unwrap_or_else(|| json!({}));
        assert_eq!(apply(stored, &patch), expected, "patch {patch}");
    }

    #[test]
    fn fields_that_the_type_does_not_know_survive() {
        check(
            json!({"a": 1, "foreign": {"x": 1}, "deep": {"b": 1, "foreign": 2}}),
            json!({"a": 1, "deep": {"b": 1}}),
            json!({"a": 2, "deep": {"b": 2}}),
            json!({"a": 2, "foreign": {"x": 1}, "deep": {"b": 2, "foreign": 2}}),
        );
    }

    #[test]
    fn the_patch_names_only_what_changed() {
        let stored = json!({"big": "x".repeat(1000), "deep": {"a": 1, "b": 2}});
        let after = json!({"big": "x".repeat(1000), "deep": {"a": 1, "b": 3}});
        assert_eq!(patch_of(&stored, &stored, &after), Some(json!({"deep": {"b": 3}})));
        assert_eq!(patch_of(&stored, &stored, &stored), None);
    }

    #[test]
    fn an_option_that_was_never_there_stays_away() {
        check(
            json!({"a": 1}),
            json!({"a": 1, "b": null}),
            json!({"a": 1, "b": null}),
            json!({"a": 1}),
        );
        check(
            json!({"a": 1}),
            json!({"a": 1, "b": null}),
            json!({"a": 2, "b": null}),
            json!({"a": 2}),
        );
        check(json!({"b": 5}), json!({"b": 5}), json!({"b": null}), json!({}));
    }

    #[test]
    fn an_explicit_null_that_nobody_touched_stays() {
        check(
            json!({"a": null, "b": 1}),
            json!({"a": null, "b": 1}),
            json!({"a": null, "b": 2}),
            json!({"a": null, "b": 2}),
        );
    }

    #[test]
    fn elements_keep_what_the_type_does_not_know() {
        let stored = json!({"pools": [
            {"name": "a", "size": 1, "foreign": "A"},
            {"name": "b", "size": 2, "foreign": "B"},
            {"name": "c", "size": 3, "foreign": "C"},
        ]});
        let before = json!({"pools": [{"name": "a", "size": 1}, {"name": "b", "size": 2}, {"name": "c", "size": 3}]});
        // One removed, one changed, one new, and all in another order.
        let after = json!({"pools": [{"name": "d", "size": 9}, {"name": "c", "size": 4}, {"name": "a", "size": 1}]});
        let expected = json!({"pools": [
            {"name": "d", "size": 9},
            {"name": "c", "size": 4, "foreign": "C"},
            {"name": "a", "size": 1, "foreign": "A"},
        ]});
        check(stored, before, after, expected);
    }

    #[test]
    fn elements_without_identity_are_matched_by_place_when_none_came_or_went() {
        check(
            json!([{"v": 1, "foreign": 1}, {"v": 2, "foreign": 2}]),
            json!([{"v": 1}, {"v": 2}]),
            json!([{"v": 1}, {"v": 3}]),
            json!([{"v": 1, "foreign": 1}, {"v": 3, "foreign": 2}]),
        );
        check(
            json!([{"v": 1, "foreign": 1}, {"v": 2, "foreign": 2}]),
            json!([{"v": 1}, {"v": 2}]),
            json!([{"v": 2}]),
            json!([{"v": 2, "foreign": 2}]),
        );
    }

    #[test]
    fn a_renamed_element_is_a_new_one() {
        check(
            json!([{"name": "a", "foreign": 1}]),
            json!([{"name": "a"}]),
            json!([{"name": "b"}]),
            json!([{"name": "b"}]),
        );
    }

    #[test]
    fn a_map_loses_the_key_that_was_removed() {
        check(
            json!({"labels": {"a": "1", "b": "2"}, "x": 1}),
            json!({"labels": {"a": "1", "b": "2"}}),
            json!({"labels": {"b": "2"}}),
            json!({"labels": {"b": "2"}, "x": 1}),
        );
    }

    /// What a type sees that does not know fields beginning with `f`.
    fn seen(value: &Value) -> Value {
        match value {
            Value::Object(object) => {
                let known = object.iter().filter(|(name, _)| !name.starts_with('f'));
                Value::Object(known.map(|(name, value)| (name.clone(), seen(value))).collect())
            }
            Value::Array(array) => Value::Array(array.iter().map(seen).collect()),
            value => value.clone(),
        }
    }

    fn foreign(value: &Value, path: &str, found: &mut Vec<String>) {
        let Value::Object(object) = value else { return };
        for (name, value) in object {
            let path = format!("{path}/{name}");
            if name.starts_with('f') {
                found.push(format!("{path}={value}"));
            } else {
                foreign(value, &path, found);
            }
        }
    }

    fn random(rng: &mut StdRng, depth: u32) -> Value {
        let kind = if depth == 0 { 0 } else { rng.random_range(0..4) };
        match kind {
            2 => (0..rng.random_range(0..4)).map(|_| random(rng, depth - 1)).collect(),
            3 => {
                let names = ["a", "b", "name", "f1", "f2"];
                let mut object = Map::new();
                for name in names {
                    if rng.random_bool(0.6) {
                        object.insert(name.to_owned(), random(rng, depth - 1));
                    }
                }
                Value::Object(object)
            }
            _ => json!(rng.random_range(0..5)),
        }
    }

    /// Changes, adds and removes here and there.
    fn mutate(rng: &mut StdRng, value: &mut Value) {
        match value {
            Value::Object(object) => {
                if rng.random_bool(0.2) {
                    object.insert("new".to_owned(), json!(rng.random_range(0..9)));
                }
                object.retain(|_, _| rng.random_bool(0.9));
                object.values_mut().for_each(|value| mutate(rng, value));
            }
            Value::Array(array) => {
                array.retain(|_| rng.random_bool(0.9));
                for value in array.iter_mut() {
                    mutate(rng, value);
                }
                if rng.random_bool(0.2) {
                    array.insert(rng.random_range(0..=array.len()), json!({"name": 7, "b": 1}));
                }
            }
            value if rng.random_bool(0.2) => *value = json!(rng.random_range(0..5)),
            _ => {}
        }
    }

    #[test]
    fn the_type_sees_what_it_wrote_and_the_rest_survives() {
        let seed = rand::random::<u64>();
        let mut rng = StdRng::seed_from_u64(seed);
        for round in 0..2000 {
            let stored = json!({"a": random(&mut rng, 3), "b": random(&mut rng, 3), "f": 1});
            let before = seen(&stored);
            let mut after = before.clone();
            after.as_object_mut().unwrap().values_mut().for_each(|value| mutate(&mut rng, value));
            let patch = patch_of(&stored, &before, &after).unwrap_or_else(|| json!({}));
            let result = apply(stored.clone(), &patch);
            assert_eq!(seen(&result), after, "seed {seed}, round {round}: {stored} by {patch}");

            // Foreign fields of objects that are still there, outside of arrays.
            let (mut was, mut is) = (Vec::new(), Vec::new());
            foreign(&stored, "", &mut was);
            foreign(&result, "", &mut is);
            for field in was {
                let path = field.split('=').next().unwrap_or_default();
                let parent = path.rsplit_once('/').map_or("", |(parent, _)| parent);
                let stays = after.pointer(parent).is_some_and(Value::is_object);
                assert!(!stays || is.contains(&field), "seed {seed}, round {round}: {field}");
            }
        }
    }
}
