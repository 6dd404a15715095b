//! What the configurations of image models say in the same way.

use serde_json::Value;

use super::description::ImageConfig;
use crate::Result;
use crate::config::families::positive;
use crate::config::fields::Fields;

/// Size, patches and colours, with these defaults of size and patch.
pub(super) fn read(fields: &Fields<'_>, size: i64, patch: i64) -> Result<ImageConfig> {
    let config = ImageConfig {
        size: pair(fields, "image_size", size)?,
        patch: pair(fields, "patch_size", patch)?,
        channels: positive(fields, "num_channels", 3)?,
        class_token: false,
        positions: true,
        any_size: false,
    };
    for (image, patch) in config.size.into_iter().zip(config.patch) {
        if patch > image {
            return Err(fields.invalid(
                "patch_size",
                format!("a patch of {patch} pixels does not fit an image of {image}"),
            ));
        }
    }
    Ok(config)
}

/// Height and width: two integers, or one for both.
fn pair(fields: &Fields<'_>, key: &str, default: i64) -> Result<[i64; 2]> {
    let Some(Value::Array(_)) = fields.value(key) else {
        let side = positive(fields, key, default)?;
        return Ok([side, side]);
    };
    match fields.integers(key)?.as_deref() {
        Some([height, width])
            if [height, width].iter().all(|side| (1..=1 << 20).contains(*side)) =>
        {
            Ok([*height, *width])
        }
        other => Err(fields
            .invalid(key, format!("{:?} is not a height and a width", other.unwrap_or_default()))),
    }
}
