//! Every table with its keys, as they are declared.

use crate::declare::{Declared, Key};
use crate::tables::{
    Activations, Checkpoint, Cluster, Data, DataSource, Gradients, Lora, Model, Optimizer,
    Override, RunTable, Schedule,
};
use std::sync::LazyLock;

/// A table as the reference describes it.
pub(crate) struct TableSpec {
    pub name: &'static str,
    pub about: String,
    /// Whether there may be several of it, in the list that is a key's value.
    pub is_list: bool,
    pub keys: Vec<Key>,
}

/// All tables, each followed by the lists of tables that it has.
static TABLES: LazyLock<Vec<TableSpec>> = LazyLock::new(|| {
    fn spec<T: Declared>() -> TableSpec {
        TableSpec {
            name: T::NAME,
            about: T::about(),
            is_list: T::NAME.contains('.'),
            keys: T::keys(),
        }
    }
    vec![
        spec::<RunTable>(),
        spec::<Model>(),
        spec::<Lora>(),
        spec::<Activations>(),
        spec::<Override>(),
        spec::<Gradients>(),
        spec::<Data>(),
        spec::<DataSource>(),
        TableSpec { name: "data.eval", ..spec::<DataSource>() },
        spec::<Optimizer>(),
        spec::<Schedule>(),
        spec::<Checkpoint>(),
        spec::<Cluster>(),
    ]
});

/// All tables and lists of tables.
pub(crate) fn tables() -> &'static [TableSpec] {
    &TABLES
}

/// The table, or list of tables, of this name.
pub(crate) fn table(name: &str) -> Option<&'static TableSpec> {
    tables().iter().find(|table| table.name == name)
}

/// A key of a table, or of the tables in a list.
pub(crate) fn key(name: &str, key: &str) -> Option<&'static Key> {
    table(name)?.keys.iter().find(|known| known.name == key)
}
