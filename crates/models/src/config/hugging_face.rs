//! `config.json`, with the meaning and the defaults of the configuration classes of transformers
//! (4.57).

use std::io::ErrorKind;
use std::path::Path;

use serde_json::{Map, Value};

use super::architecture::Architecture;
use super::encoder;
use super::families::{FAMILIES, SUPPORTED_MODEL_TYPES};
use super::fields::Fields;
use super::model::ModelConfig;
use crate::{Error, Result};

impl Architecture {
    /// Reads the `config.json` of a Hugging Face model.
    ///
    /// # Errors
    /// [`Error::MissingFile`], [`Error::Io`], [`Error::Corrupt`], or what is wrong with the
    /// configuration ([`Error::UnsupportedModel`], [`Error::UnsupportedOption`],
    /// [`Error::InvalidConfig`]).
    pub fn read(file: &Path) -> Result<Self> {
        let text = crate::file::read_to_string(file).map_err(|source| match source.kind() {
            ErrorKind::NotFound => Error::MissingFile {
                path: file.to_owned(),
                remedy: "give the config.json of a Hugging Face model".into(),
            },
            _ => Error::io(file, "read")(source),
        })?;
        let table = serde_json::from_str(&text)
            .map_err(|why| Error::corrupt(file, format!("it is not a JSON table: {why}")))?;
        read(file, &table)
    }
}

impl ModelConfig {
    /// Reads the `config.json` of a Hugging Face model that is a decoder.
    ///
    /// # Errors
    /// Those of [`Architecture::read`]; [`Error::Task`] if it is none.
    pub fn read(file: &Path) -> Result<Self> {
        Architecture::read(file)?.into_decoder(file)
    }
}

/// Reads the table of the `config.json` at `file`.
pub(crate) fn read(file: &Path, table: &Map<String, Value>) -> Result<Architecture> {
    let fields = Fields::new(file, table);
    let model_type =
        fields.text("model_type")?.ok_or_else(|| fields.invalid("model_type", "it is absent"))?;
    fields.none("quantization_config")?;
    if let Some(family) = FAMILIES.iter().find(|family| family.model_type == model_type) {
        return family.read(&fields).map(Architecture::Decoder);
    }
    if let Some(family) =
        encoder::FAMILIES.iter().find(|family| family.model_types.contains(&model_type))
    {
        return (family.read)(&fields).map(Architecture::Encoder);
    }
    Err(Error::UnsupportedModel {
        model_type: model_type.to_owned(),
        file: file.to_owned(),
        supported: SUPPORTED_MODEL_TYPES,
    })
}

#[cfg(test)]
mod tests;
