use super::augmentation::{Augmentation, Drawn};
use super::labelled::LabelledImages;
use super::settings::{Settings, Size};
use crate::error::{Error, Result};
use fast_image_resize::images::Image;
use fast_image_resize::{PixelType, ResizeAlg, ResizeOptions, Resizer};
use image::DynamicImage;
use rayon::prelude::*;
use std::path::Path;

/// Makes of images what a model reads.
#[derive(Clone, Debug)]
pub struct ImageProcessor {
    settings: Settings,
    channels: usize,
    /// Height and width of what comes out.
    size: [u32; 2],
}

impl ImageProcessor {
    /// By a `preprocessor_config.json`, or, without one, to the model's size with pixels between -1
    /// and 1. The model reads `channels` (3, or 1: grey) of `size` (height and width).
    ///
    /// # Errors
    /// If the file is broken, asks for something that is not known, or for another size than the
    /// model's.
    pub fn new(file: Option<&Path>, channels: usize, size: [u32; 2]) -> Result<Self> {
        let settings = file.map_or_else(|| Ok(Settings::of_size(size)), Settings::read)?;
        let path = file.unwrap_or(Path::new("the model"));
        if channels != 1 && channels != 3 {
            return Err(Error::file(
                path,
                format!("it reads {channels} channels"),
                "give a model that reads 3, or 1",
            ));
        }
        let of_channels = |numbers: &Vec<f64>| numbers.len() == 1 || numbers.len() == channels;
        if let Some((mean, deviation)) = &settings.normalize
            && !(of_channels(mean) && of_channels(deviation))
        {
            let problem = format!(
                "it has {} means and {} deviations, and the model reads {channels} channels",
                mean.len(),
                deviation.len()
            );
            return Err(Error::file(path, problem, "give one for each channel"));
        }
        let made = match (settings.center_crop, settings.resize) {
            (Some(size), _) | (None, Some(Size::Exact(size))) => Some(size),
            (None, None | Some(Size::ShortestEdge(_))) => None,
        };
        if let Some(made) = made.filter(|made| *made != size) {
            let problem = format!(
                "it makes images of {} x {} pixels, and the model reads {} x {}",
                made[0], made[1], size[0], size[1]
            );
            return Err(Error::file(
                path,
                problem,
                "write the model's image_size as size (and as crop_size, if it crops)",
            ));
        }
        Ok(Self { settings, channels, size })
    }

    /// Numbers of one image: channels, height and width, the last running fastest.
    pub fn numbers(&self) -> usize {
        self.channels * self.size[0] as usize * self.size[1] as usize
    }

    /// Images as the model reads them, one after the other, each of [`ImageProcessor::numbers`];
    /// with what `augmentation` draws by its seed.
    ///
    /// # Errors
    /// If an image cannot be read, or, where the processor leaves the size as it is, has another
    /// than the model's.
    pub fn batch(
        &self,
        images: &LabelledImages,
        indices: &[usize],
        augmentation: Option<(Augmentation, u64)>,
    ) -> Result<Vec<f32>> {
        let mut numbers = vec![0.0; indices.len() * self.numbers()];
        let places = numbers.par_chunks_mut(self.numbers().max(1)).zip(indices);
        places.try_for_each(|(place, &index)| {
            let image = images.image(index)?;
            let size = [image.width(), image.height()];
            let drawn = augmentation
                .map(|(augmentation, seed)| augmentation.draw(seed, index, size))
                .unwrap_or_default();
            self.fill(place, &image, drawn).map_err(|problem| images.unfit(index, problem))
        })?;
        Ok(numbers)
    }

    fn fill(
        &self,
        place: &mut [f32],
        image: &DynamicImage,
        drawn: Drawn,
    ) -> std::result::Result<(), String> {
        let [height, width] = self.size;
        // The library is built for pixels of four bytes only; the fourth, and of a grey image the
        // second and third, are not used.
        let pixels = if self.channels == 1 {
            DynamicImage::from(image.to_luma8()).to_rgba8()
        } else {
            image.to_rgba8()
        };
        let (across, down) = pixels.dimensions();
        let source = Image::from_vec_u8(across, down, pixels.into_raw(), PixelType::U8x4)
            .map_err(|why| why.to_string())?;
        let resized = match (drawn.area, self.settings.resize) {
            (Some([left, top, across, down]), _) => {
                let area = [f64::from(left), f64::from(top), f64::from(across), f64::from(down)];
                Some(self.resized(&source, [height, width], Some(area))?)
            }
            (None, Some(Size::Exact(size))) => Some(self.resized(&source, size, None)?),
            (None, Some(Size::ShortestEdge(edge))) => Some(self.resized(
                &source,
                in_proportion([source.height(), source.width()], edge),
                None,
            )?),
            (None, None) => None,
        };
        let image = resized.as_ref().unwrap_or(&source);
        let (made, crops) = (
            [image.height(), image.width()],
            self.settings.center_crop.is_some() && drawn.area.is_none(),
        );
        if made != self.size && !crops {
            return Err(format!(
                "it has {} x {} pixels, and the model reads {height} x {width}",
                made[0], made[1]
            ));
        }
        // What a crop leaves outside of the image is black, as in transformers.
        let [top, left] =
            [0, 1].map(|side| (i64::from(made[side]) - i64::from(self.size[side])).div_euclid(2));
        let pixels = image.buffer();
        let of_channel = |numbers: &[f64], channel: usize| numbers[channel.min(numbers.len() - 1)];
        for (channel, plane) in place.chunks_mut(height as usize * width as usize).enumerate() {
            let (mean, deviation) =
                self.settings.normalize.as_ref().map_or((0.0, 1.0), |(mean, deviation)| {
                    (of_channel(mean, channel), of_channel(deviation, channel))
                });
            let number =
                |byte: u8| ((f64::from(byte) * self.settings.scale - mean) / deviation) as f32;
            let numbers: Vec<f32> = (0..=u8::MAX).map(number).collect();
            for (row, line) in plane.chunks_mut(width as usize).enumerate() {
                for (column, target) in line.iter_mut().enumerate() {
                    let column =
                        if drawn.is_mirrored { width as usize - 1 - column } else { column };
                    let (y, x) = (row as i64 + top, column as i64 + left);
                    let inside = (0..i64::from(made[0])).contains(&y)
                        && (0..i64::from(made[1])).contains(&x);
                    let byte = if inside {
                        pixels[(y as usize * made[1] as usize + x as usize) * 4 + channel]
                    } else {
                        0
                    };
                    *target = numbers[usize::from(byte)];
                }
            }
        }
        Ok(())
    }

    /// To this height and width, as the Python Imaging Library does it: a pixel is at most one of
    /// 256 steps off.
    fn resized(
        &self,
        source: &Image<'_>,
        [height, width]: [u32; 2],
        area: Option<[f64; 4]>,
    ) -> std::result::Result<Image<'static>, String> {
        let mut target = Image::new(width, height, PixelType::U8x4);
        let algorithm = self.settings.filter.map_or(ResizeAlg::Nearest, ResizeAlg::Convolution);
        let mut options = ResizeOptions::new().resize_alg(algorithm).use_alpha(false);
        if let Some([left, top, across, down]) = area {
            options = options.crop(left, top, across, down);
        }
        Resizer::new().resize(source, &mut target, &options).map_err(|why| why.to_string())?;
        Ok(target)
    }
}

/// Height and width with the shorter side this long (`get_resize_output_image_size` of
/// transformers).
fn in_proportion([height, width]: [u32; 2], edge: u32) -> [u32; 2] {
    let other = |long: u32, short: u32| {
        (u64::from(edge) * u64::from(long) / u64::from(short.max(1))) as u32
    };
    if width <= height { [other(height, width), edge] } else { [edge, other(width, height)] }
}
