//! The JSON schema of a configuration, with which editors complete and check it.

use crate::{
    declare::Key,
    registry::{self, TableSpec},
};
use serde_json::{Map, Value as Json, json};

/// The JSON schema (draft 2020-12) of a configuration file.
pub fn schema() -> Json {
    let tables: Vec<&TableSpec> = registry::tables().iter().filter(|table| !table.is_list).collect();
    let properties: Map<String, Json> =
        tables.iter().map(|spec| (spec.name.to_owned(), described(table(&spec.keys), &spec.about))).collect();
    let has_required = |spec: &&&TableSpec| spec.keys.iter().any(|key| key.default.is_none()) && spec.name != "lora";
    let required: Vec<&str> = tables.iter().filter(has_required).map(|spec| spec.name).collect();
    json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Loract configuration",
        "type": "object",
        "properties": properties,
        "required": required,
        "additionalProperties": false,
    })
}

/// The schema of a table that has these keys and no others.
pub(crate) fn table(keys: &[Key]) -> Json {
    let properties: Map<String, Json> =
        keys.iter().map(|key| (key.name.to_owned(), described(key.schema.clone(), &key.description()))).collect();
    let required: Vec<&str> = keys.iter().filter(|key| key.default.is_none()).map(|key| key.name).collect();
    json!({"type": "object", "properties": properties, "required": required, "additionalProperties": false})
}

fn described(mut schema: Json, description: &str) -> Json {
    if let Some(schema) = schema.as_object_mut() {
        schema.insert("description".into(), description.into());
    }
    schema
}
