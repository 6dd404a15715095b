//! Values of Arrow columns as JSON.

use arrow_array::cast::AsArray;
use arrow_array::types::{
    ArrowPrimitiveType, Float16Type, Float32Type, Float64Type, Int8Type, Int16Type, Int32Type,
    Int64Type, UInt8Type, UInt16Type, UInt32Type, UInt64Type,
};
use arrow_array::{Array, ArrayRef, downcast_dictionary_array};
use arrow_schema::DataType;
use serde_json::{Map, Value};

use crate::json;
use crate::record::{Fault, fault};

/// The first type within `found` whose values have no form in JSON here.
pub(crate) fn unread_type(found: &DataType) -> Option<&DataType> {
    use DataType::*;
    match found {
        Null | Boolean | Int8 | Int16 | Int32 | Int64 | UInt8 | UInt16 | UInt32 | UInt64
        | Float16 | Float32 | Float64 => None,
        Utf8 | LargeUtf8 | Utf8View | Binary | LargeBinary | BinaryView => None,
        List(field)
        | LargeList(field)
        | FixedSizeList(field, _)
        | ListView(field)
        | LargeListView(field)
        | Map(field, _) => unread_type(field.data_type()),
        Struct(fields) => fields.iter().find_map(|field| unread_type(field.data_type())),
        Dictionary(_, values) => unread_type(values),
        other => Some(other),
    }
}

/// The value in a row of the column `name`; bytes are text.
///
/// # Errors
/// If bytes are no UTF-8, or the type is none that is read.
pub(crate) fn value(array: &dyn Array, row: usize, name: &str) -> Result<Value, Fault> {
    use DataType::*;
    if array.is_null(row) {
        return Ok(Value::Null);
    }
    let text = |bytes: &[u8]| Ok(json::utf8(bytes)?.into());
    let list = |items: ArrayRef| {
        (0..items.len())
            .map(|item| value(&items, item, name))
            .collect::<Result<Vec<_>, _>>()
            .map(Value::from)
    };
    downcast_dictionary_array!(
        array => {
            let key = array.key(row).filter(|&key| key < array.values().len());
            key.map_or(Ok(Value::Null), |key| value(array.values(), key, name))
        },
        Null => Ok(Value::Null),
        Boolean => Ok(array.as_boolean().value(row).into()),
        Int8 => Ok(number::<Int8Type>(array, row).into()),
        Int16 => Ok(number::<Int16Type>(array, row).into()),
        Int32 => Ok(number::<Int32Type>(array, row).into()),
        Int64 => Ok(number::<Int64Type>(array, row).into()),
        UInt8 => Ok(number::<UInt8Type>(array, row).into()),
        UInt16 => Ok(number::<UInt16Type>(array, row).into()),
        UInt32 => Ok(number::<UInt32Type>(array, row).into()),
        UInt64 => Ok(number::<UInt64Type>(array, row).into()),
        Float16 => Ok(number::<Float16Type>(array, row).to_f64().into()),
        Float32 => Ok(number::<Float32Type>(array, row).into()),
        Float64 => Ok(number::<Float64Type>(array, row).into()),
        Utf8 => Ok(array.as_string::<i32>().value(row).into()),
        LargeUtf8 => Ok(array.as_string::<i64>().value(row).into()),
        Utf8View => Ok(array.as_string_view().value(row).into()),
        Binary => text(array.as_binary::<i32>().value(row)),
        LargeBinary => text(array.as_binary::<i64>().value(row)),
        BinaryView => text(array.as_binary_view().value(row)),
        List(_) => list(array.as_list::<i32>().value(row)),
        LargeList(_) => list(array.as_list::<i64>().value(row)),
        FixedSizeList(..) => list(array.as_fixed_size_list().value(row)),
        ListView(_) => list(array.as_list_view::<i32>().value(row)),
        LargeListView(_) => list(array.as_list_view::<i64>().value(row)),
        Map(..) => pairs(&array.as_map().value(row), name),
        Struct(fields) => {
            let columns = fields.iter().zip(array.as_struct().columns());
            let fields = columns.map(|(field, column)| Ok((field.name().clone(), value(column, row, name)?)));
            fields.collect::<Result<serde_json::Map<_, _>, Fault>>().map(Value::from)
        },
        other => fault(format!("`{name}` has a value of the type {other}, which is not read"), "write it as a string or a number"),
    )
}

fn number<T: ArrowPrimitiveType>(array: &dyn Array, row: usize) -> T::Native {
    array.as_primitive::<T>().value(row)
}

/// A map is an object; keys that are no strings are written as such.
fn pairs(entries: &dyn Array, name: &str) -> Result<Value, Fault> {
    let [keys, values] = entries.as_struct().columns() else {
        return fault(
            format!("`{name}` has a map without keys and values"),
            "write the table again",
        );
    };
    let pair = |row| {
        let key = match value(keys, row, name)? {
            Value::String(key) => key,
            other => other.to_string(),
        };
        Ok((key, value(values, row, name)?))
    };
    (0..entries.len()).map(pair).collect::<Result<Map<_, _>, Fault>>().map(Value::from)
}
