//! The JSON schema of a configuration, with which editors complete and check it.

use crate::{
    declare::{described, table_schema},
    registry::{self, TableSpec},
};
use serde_json::{Map, Value as Json, json};

/// The JSON schema (draft 2020-12) of a configuration file.
pub fn schema() -> Json {
    let tables: Vec<&TableSpec> =
        registry::tables().iter().filter(|table| !table.is_list).collect();
    let properties: Map<String, Json> = tables
        .iter()
        .map(|spec| (spec.name.to_owned(), described(table_schema(&spec.keys), &spec.about)))
        .collect();
    let has_required = |spec: &&&TableSpec| {
        spec.keys.iter().any(|key| key.default.is_none()) && spec.name != "lora"
    };
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
