//! The part of OpenAPI's schemas that CRDs use.

use serde_json::Value;

/// The fields of the API server's own `ObjectMeta` that a job file gives.
const METADATA: [&str; 5] = ["name", "namespace", "labels", "annotations", "generateName"];

/// Adds to `found` where `value` is not as `schema` says; `place` is where it stands.
pub fn check(value: &Value, schema: &Value, place: &str, found: &mut Vec<String>) {
    let mut wrong = |what: String| found.push(format!("{place}: {what}"));
    if schema["x-kubernetes-int-or-string"] == true {
        if !value.is_i64() && !value.is_string() {
            wrong(format!("{value} is neither a number nor a text"));
        }
        return;
    }
    let is_of_type = match schema["type"].as_str().unwrap_or_default() {
        "object" => value.is_object(),
        "array" => value.is_array(),
        "string" => value.is_string(),
        "integer" => value.is_i64(),
        "number" => value.is_number(),
        "boolean" => value.is_boolean(),
        _ => true,
    };
    if !is_of_type {
        wrong(format!("{value} is not of type {}", schema["type"]));
    }
    if schema["enum"].as_array().is_some_and(|choices| !choices.contains(value)) {
        wrong(format!("{value} is none of {}", schema["enum"]));
    }
    let size = match value {
        Value::String(text) => Some(("Length", text.chars().count() as f64)),
        Value::Array(items) => Some(("Items", items.len() as f64)),
        Value::Number(number) => number.as_f64().map(|number| ("imum", number)),
        _ => None,
    };
    if let Some((what, size)) = size {
        let bound = |which: &str| schema[format!("{which}{what}")].as_f64();
        if bound("min").is_some_and(|least| size < least)
            || bound("max").is_some_and(|most| size > most)
        {
            wrong(format!("{value} is out of bounds"));
        }
    }
    match value {
        Value::Object(_) => check_fields(value, schema, place, found),
        Value::Array(items) => {
            for (index, item) in items.iter().enumerate() {
                check(item, &schema["items"], &format!("{place}[{index}]"), found);
            }
        }
        _ => {}
    }
}

fn check_fields(value: &Value, schema: &Value, place: &str, found: &mut Vec<String>) {
    let required = schema["required"].as_array().map(Vec::as_slice).unwrap_or_default();
    for name in required.iter().filter_map(Value::as_str) {
        if value.get(name).is_none() {
            found.push(format!("{place}: {name} is missing"));
        }
    }
    for (name, field) in value.as_object().into_iter().flatten() {
        let inner = format!("{place}.{name}");
        if let Some(known) = schema["properties"].get(name) {
            check(field, known, &inner, found);
        } else if schema["additionalProperties"].is_object() {
            check(field, &schema["additionalProperties"], &inner, found);
        } else if schema["x-kubernetes-preserve-unknown-fields"] == true {
        } else if place.ends_with(".metadata") && METADATA.contains(&name.as_str()) {
            let texts = field.as_object().into_iter().flatten().map(|(_, text)| text);
            if !texts.chain(field.is_string().then_some(field)).all(Value::is_string) {
                found.push(format!("{inner}: {field} is no text"));
            }
        } else {
            found.push(format!("{inner}: there is no such field"));
        }
    }
}
