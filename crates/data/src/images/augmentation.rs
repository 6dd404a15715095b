use crate::generator::{Purpose, generator};
use rand::RngExt;

/// What chance changes of an image in training.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Augmentation {
    /// Half of the images are mirrored, left to right.
    pub flip: bool,
    /// A rectangle is cut out and brought to size, whose part of the image is drawn between these
    /// two, and the ratio of its sides between 3/4 and 4/3 (`RandomResizedCrop` of torchvision).
    pub crop: Option<[f64; 2]>,
}

/// A rectangle of pixels: left, top, width, height.
pub(super) type Area = [u32; 4];

/// What was drawn for one image.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Drawn {
    pub is_mirrored: bool,
    pub area: Option<Area>,
}

impl Augmentation {
    /// What an image of this size gets by `seed` and its `index`.
    pub(super) fn draw(&self, seed: u64, index: usize, [width, height]: [u32; 2]) -> Drawn {
        let mut random = generator(seed, Purpose::Image, index as u64);
        let is_mirrored = self.flip && random.random_bool(0.5);
        let area = self.crop.map(|[least, most]| {
            let pixels = f64::from(width) * f64::from(height);
            let ratios = [0.75_f64.ln(), (4.0_f64 / 3.0).ln()];
            for _ in 0..10 {
                let target = pixels * random.random_range(least..=most);
                let ratio = random.random_range(ratios[0]..=ratios[1]).exp();
                let (across, down) = (
                    (target * ratio).sqrt().round() as u32,
                    (target / ratio).sqrt().round() as u32,
                );
                if (1..=width).contains(&across) && (1..=height).contains(&down) {
                    return [
                        random.random_range(0..=width - across),
                        random.random_range(0..=height - down),
                        across,
                        down,
                    ];
                }
            }
            middle([width, height])
        });
        Drawn { is_mirrored, area }
    }
}

/// The largest rectangle in the middle whose sides are within the ratios.
fn middle([width, height]: [u32; 2]) -> Area {
    let ratio = f64::from(width) / f64::from(height);
    let (across, down) = match ratio {
        _ if ratio < 0.75 => (width, (f64::from(width) / 0.75).round() as u32),
        _ if ratio > 4.0 / 3.0 => ((f64::from(height) * 4.0 / 3.0).round() as u32, height),
        _ => (width, height),
    };
    [(width - across) / 2, (height - down) / 2, across, down]
}
