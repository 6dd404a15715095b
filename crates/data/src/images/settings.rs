//! `preprocessor_config.json`, as the image processors of ViT, Swin and SigLIP in transformers read
//! it.

use crate::error::{Error, Result};
use fast_image_resize::FilterType;
use serde_json::{Map, Value};
use std::path::Path;

/// To what size an image is brought.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Size {
    /// This height and width.
    Exact([u32; 2]),
    /// Its shorter side is this long, and the other in proportion.
    ShortestEdge(u32),
}

/// What is done to an image, in this order.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Settings {
    pub resize: Option<Size>,
    /// None: the nearest pixel.
    pub filter: Option<FilterType>,
    /// Height and width of what is cut out of the middle.
    pub center_crop: Option<[u32; 2]>,
    /// What pixels are multiplied with.
    pub scale: f64,
    /// Mean and standard deviation of each channel, which are then taken away and divided by.
    pub normalize: Option<(Vec<f64>, Vec<f64>)>,
}

/// Keys that say nothing about pixels.
const SILENT: [&str; 12] = [
    "image_processor_type",
    "feature_extractor_type",
    "processor_class",
    "_valid_processor_keys",
    "data_format",
    "input_data_format",
    "device",
    "return_tensors",
    "default_to_square",
    "disable_grouping",
    "do_convert_rgb",
    "auto_map",
];

impl Settings {
    /// Without a file: the model's size, and pixels between -1 and 1.
    pub fn of_size(size: [u32; 2]) -> Self {
        let normalize = Some((vec![0.5], vec![0.5]));
        Self {
            resize: Some(Size::Exact(size)),
            filter: Some(FilterType::Bilinear),
            center_crop: None,
            scale: 1.0 / 255.0,
            normalize,
        }
    }

    /// Reads the file; what it does not say is as in the class that it names.
    ///
    /// # Errors
    /// If it is broken, or says something that is not understood and may matter.
    pub fn read(path: &Path) -> Result<Self> {
        let text = crate::file::read(path)?;
        let table: Map<String, Value> = serde_json::from_slice(&text).map_err(|why| {
            Error::file(
                path,
                format!("it is not a JSON table: {why}"),
                "save the model's processor again",
            )
        })?;
        Fields { path, table: &table }.settings()
    }
}

struct Fields<'a> {
    path: &'a Path,
    table: &'a Map<String, Value>,
}

impl Fields<'_> {
    fn settings(&self) -> Result<Settings> {
        const READ: [&str; 10] = [
            "do_resize",
            "size",
            "resample",
            "do_center_crop",
            "crop_size",
            "do_rescale",
            "rescale_factor",
            "do_normalize",
            "image_mean",
            "image_std",
        ];
        let is_off = |value: &Value| value.is_null() || *value == Value::Bool(false);
        let unknown = self.table.iter().find(|(key, value)| {
            !READ.contains(&key.as_str()) && !SILENT.contains(&key.as_str()) && !is_off(value)
        });
        if let Some((key, value)) = unknown {
            return Err(self.refuse(key, &format!("{value} is not supported")));
        }
        let siglip = ["image_processor_type", "feature_extractor_type"].iter().any(|key| {
            self.table
                .get(*key)
                .and_then(Value::as_str)
                .is_some_and(|class| class.starts_with("Siglip"))
        });
        let crops = self.switch("do_center_crop", false)?;
        Ok(Settings {
            resize: if self.switch("do_resize", true)? {
                Some(self.size("size")?.unwrap_or(Size::Exact([224, 224])))
            } else {
                None
            },
            filter: self.filter(if siglip { 3 } else { 2 })?,
            center_crop: match self.size("crop_size")? {
                _ if !crops => None,
                None => Some([224, 224]),
                Some(Size::Exact(size)) => Some(size),
                Some(Size::ShortestEdge(_)) => {
                    return Err(self.refuse("crop_size", "needs height and width"));
                }
            },
            scale: if self.switch("do_rescale", true)? {
                self.number("rescale_factor")?.unwrap_or(1.0 / 255.0)
            } else {
                1.0
            },
            normalize: if self.switch("do_normalize", true)? {
                Some((self.list("image_mean")?, self.list("image_std")?))
            } else {
                None
            },
        })
    }

    fn refuse(&self, key: &str, problem: &str) -> Error {
        Error::file(
            self.path,
            format!("`{key}` {problem}"),
            "correct the file, or remove it if the model's defaults are meant",
        )
    }

    fn given(&self, key: &str) -> Option<&Value> {
        self.table.get(key).filter(|value| !value.is_null())
    }

    fn switch(&self, key: &str, default: bool) -> Result<bool> {
        let given = self.given(key).map(|value| {
            value
                .as_bool()
                .ok_or_else(|| self.refuse(key, &format!("is {value} and neither true nor false")))
        });
        given.unwrap_or(Ok(default))
    }

    fn number(&self, key: &str) -> Result<Option<f64>> {
        self.given(key)
            .map(|value| {
                value.as_f64().ok_or_else(|| self.refuse(key, &format!("is {value} and no number")))
            })
            .transpose()
    }

    fn list(&self, key: &str) -> Result<Vec<f64>> {
        let Some(value) = self.given(key) else { return Ok(vec![0.5]) };
        let numbers = match value {
            Value::Array(values) => values.iter().map(Value::as_f64).collect(),
            one => one.as_f64().map(|one| vec![one]),
        };
        let is_divisor = key == "image_std";
        let numbers = numbers.filter(|numbers: &Vec<f64>| {
            !(numbers.is_empty() || is_divisor && numbers.contains(&0.0))
        });
        numbers.ok_or_else(|| {
            self.refuse(
                key,
                &format!(
                    "is {value} and no list of numbers{}",
                    if is_divisor { " other than 0" } else { "" }
                ),
            )
        })
    }

    fn size(&self, key: &str) -> Result<Option<Size>> {
        let Some(value) = self.given(key) else { return Ok(None) };
        let side = |value: &Value| {
            value.as_u64().filter(|side| (1..=1 << 16).contains(side)).map(|side| side as u32)
        };
        let found = match value {
            Value::Object(table) => {
                match (table.get("height"), table.get("width"), table.get("shortest_edge")) {
                    (Some(height), Some(width), None) => side(height)
                        .zip(side(width))
                        .map(|(height, width)| Size::Exact([height, width])),
                    (None, None, Some(edge)) if table.len() == 1 => {
                        side(edge).map(Size::ShortestEdge)
                    }
                    _ => None,
                }
            }
            one => side(one).map(|side| Size::Exact([side, side])),
        };
        found.map(Some).ok_or_else(|| {
            self.refuse(
                key,
                &format!("is {value}, and no size: a number, height and width, or shortest_edge"),
            )
        })
    }

    /// By the numbers of the Python Imaging Library.
    fn filter(&self, default: u64) -> Result<Option<FilterType>> {
        let number = match self.given("resample") {
            None => default,
            Some(value) => value.as_u64().unwrap_or(u64::MAX),
        };
        Ok(Some(match number {
            0 => return Ok(None),
            1 => FilterType::Lanczos3,
            2 => FilterType::Bilinear,
            3 => FilterType::CatmullRom,
            4 => FilterType::Box,
            5 => FilterType::Hamming,
            _ => {
                return Err(self.refuse("resample", "is none of 0 (nearest), 1 (lanczos), 2 (bilinear), 3 (bicubic), 4 (box), 5 (hamming)"));
            }
        }))
    }
}
