//! `[data] train` and `eval`: where samples come from.

use crate::{Error, place::Table};
use serde::de::value::{MapAccessDeserializer, SeqAccessDeserializer};
use serde::de::{MapAccess, SeqAccess, Visitor};
use serde::ser::SerializeSeq;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use std::fmt;
use std::path::{Path, PathBuf};

/// One place that samples come from: in TOML its path, or a table such as `{ path = "a.jsonl", weight = 2.0 }`.
#[derive(Debug, Clone, PartialEq)]
pub struct DataSource {
    /// `path`: a file, or a folder, of which all files with a known ending are taken, at any depth, in the order of their paths.
    pub path: PathBuf,
    /// `weight`: how often each of its training samples comes in an epoch. Of a fraction so many samples come once more, always the same ones, drawn
    /// by the run's seed. What is held out for evaluation is not weighted. Default: 1.
    pub weight: f64,
}

/// Where samples come from: in TOML one path, or a list of paths and tables; their samples come in this order before they are shuffled.
#[derive(Debug, Clone, PartialEq)]
pub struct DataSources(Vec<DataSource>);

impl DataSources {
    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = &DataSource> {
        self.0.iter()
    }

    /// Their paths.
    pub fn paths(&self) -> impl Iterator<Item = &Path> {
        self.iter().map(|source| source.path.as_path())
    }

    /// The first path; a classifier has no other.
    pub fn first(&self) -> &Path {
        self.0.first().map_or(Path::new(""), |source| &source.path)
    }

    /// The path, if there is one only.
    pub fn only(&self) -> Option<&Path> {
        self.paths().next().filter(|_| self.0.len() == 1)
    }

    pub(super) fn check(self, key: &str, at: Table<'_>) -> Result<Self, Error> {
        at.require(key, !self.0.is_empty(), "must not be empty")?;
        for DataSource { path, weight } in &self.0 {
            at.require(key, !path.as_os_str().is_empty(), "must not be empty")?;
            at.require(
                key,
                *weight > 0.0 && *weight <= 1000.0,
                &format!("has the weight {weight}, and a weight is above 0 and at most 1000"),
            )?;
            at.require(key, key == "train" || *weight == 1.0, "has a weight, which only training data may have")?;
        }
        Ok(self)
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Weighted {
    path: PathBuf,
    #[serde(default = "one")]
    weight: f64,
}

fn one() -> f64 {
    1.0
}

impl<'de> Deserialize<'de> for DataSource {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct PathOrTable;
        impl<'de> Visitor<'de> for PathOrTable {
            type Value = DataSource;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a path, or a table with a path")
            }

            fn visit_str<E>(self, path: &str) -> Result<DataSource, E> {
                Ok(DataSource { path: path.into(), weight: 1.0 })
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<DataSource, A::Error> {
                let Weighted { path, weight } = Weighted::deserialize(MapAccessDeserializer::new(map))?;
                Ok(DataSource { path, weight })
            }
        }
        deserializer.deserialize_any(PathOrTable)
    }
}

impl<'de> Deserialize<'de> for DataSources {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct OneOrMany;
        impl<'de> Visitor<'de> for OneOrMany {
            type Value = DataSources;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a path, or a list of paths and of tables with a path")
            }

            fn visit_str<E>(self, path: &str) -> Result<DataSources, E> {
                Ok(DataSources(vec![DataSource { path: path.into(), weight: 1.0 }]))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, list: A) -> Result<DataSources, A::Error> {
                Vec::deserialize(SeqAccessDeserializer::new(list)).map(DataSources)
            }
        }
        deserializer.deserialize_any(OneOrMany)
    }
}

impl Serialize for DataSource {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        #[derive(Serialize)]
        struct Written<'a> {
            path: &'a Path,
            weight: f64,
        }
        if self.weight == 1.0 {
            return self.path.serialize(serializer);
        }
        Written { path: &self.path, weight: self.weight }.serialize(serializer)
    }
}

impl Serialize for DataSources {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if let Some(path) = self.only().filter(|_| self.iter().all(|source| source.weight == 1.0)) {
            return path.serialize(serializer);
        }
        let mut list = serializer.serialize_seq(Some(self.0.len()))?;
        self.iter().try_for_each(|source| list.serialize_element(source))?;
        list.end()
    }
}
