use super::description::EncoderConfig;
use crate::Result;
use crate::config::fields::Fields;

/// A family of encoders.
pub(in crate::config) struct EncoderFamily {
    /// The `model_type`s that the file may say; the first is the one it is called by.
    pub model_types: &'static [&'static str],
    /// What its configuration class says.
    pub read: fn(&Fields<'_>) -> Result<EncoderConfig>,
}
