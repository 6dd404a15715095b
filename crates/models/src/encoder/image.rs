use tch::{TchError, Tensor};

use autograd::Parameter;
use layers::{Error, Projection, SavePolicy, Scope, Site, dropout, project};

use crate::Result;
use crate::config::{EncoderConfig, ImageConfig, LAYER_NORM};
use crate::norm::Norm;
use crate::tensors::Tensors;

/// A linear map of each patch of an image, with what stands for its place (`ViTEmbeddings` and
/// `SwinEmbeddings` of transformers). A convolution whose stride is its size is such a map.
#[derive(Debug)]
pub(super) struct ImageEmbedding {
    config: ImageConfig,
    dropout: f64,
    /// `[width, channels, height, width of a patch]`.
    weight: Parameter,
    bias: Parameter,
    /// `[1, 1, width]`.
    class_token: Option<Parameter>,
    /// `[tokens, width]`, or `[1, tokens, width]`.
    positions: Option<Parameter>,
    norm: Option<Norm>,
}

/// The epsilon of the norm after the patches in Swin, whatever the model's is.
const EPS: f64 = 1e-5;

impl ImageEmbedding {
    pub fn new(tensors: &Tensors<'_>, config: &EncoderConfig, image: &ImageConfig) -> Result<Self> {
        let (names, width, [height, across]) = (config.names, config.stages[0].width, image.patch);
        let tokens = image.grid().iter().product::<i64>() + i64::from(image.class_token);
        // An embedding is a matrix; a parameter of its own has a dimension for the batch.
        let shape = if names.positions.ends_with(".weight") {
            vec![tokens, width]
        } else {
            vec![1, tokens, width]
        };
        Ok(Self {
            config: image.clone(),
            dropout: config.dropout.embedding,
            weight: tensors.parameter(names.known(), &[width, image.channels, height, across])?,
            bias: tensors.parameter(format!("{}.bias", names.embedding), &[width])?,
            class_token: match image.class_token {
                true => Some(tensors.parameter(names.class_token.to_owned(), &[1, 1, width])?),
                false => None,
            },
            positions: match image.positions {
                true => Some(tensors.parameter(names.positions.to_owned(), &shape)?),
                false => None,
            },
            norm: match names.embedding_norm {
                Some(name) => Some(Norm::new(tensors, (LAYER_NORM, EPS), name, &[width])?),
                None => None,
            },
        })
    }

    pub fn parameters(&self) -> Vec<&Parameter> {
        let norm = self.norm.iter().flat_map(Norm::parameters);
        [&self.weight, &self.bias]
            .into_iter()
            .chain(&self.class_token)
            .chain(&self.positions)
            .chain(norm)
            .collect()
    }

    /// `pixels` `[batch, channels, height, width]` to `[batch, tokens, width]`, and the map that
    /// the patches make, rows and columns.
    pub fn forward(&self, pixels: &Tensor, scope: &Scope) -> layers::Result<(Tensor, [i64; 2])> {
        let (size, [height, width]) = (pixels.size(), self.config.size);
        let fits = size.len() == 4
            && size[1] == self.config.channels
            && (self.config.any_size || size[2..] == [height, width]);
        if !fits {
            let sides = if self.config.any_size {
                "any height, any width".to_owned()
            } else {
                format!("{height}, {width}")
            };
            return Err(Error::Shape {
                operation: "patches",
                expected: format!("[batch, {}, {sides}]", self.config.channels),
                got: size,
            });
        }
        let (patches, grid) = self.patches(&pixels.f_to_kind(self.weight.kind())?)?;
        let weight = self.weight.f_flatten(1, -1)?;
        let map = Projection { bias: Some(&self.bias), ..Projection::new(&weight) };
        let mut x =
            project(&patches, &[map], SavePolicy::Exact, &scope.site(Site::Patches))?.remove(0);
        if let Some(token) = &self.class_token {
            x = Tensor::f_cat(&[token.f_expand([size[0], 1, -1], false)?, x], 1)?;
        }
        let scope = scope.site(Site::EmbeddingNorm);
        if let Some(norm) = &self.norm {
            x = norm.forward(&x, &SavePolicy::Exact, &scope)?;
        }
        if let Some(positions) = &self.positions {
            x = x.f_add(positions.tensor())?;
        }
        Ok((dropout(&x, self.dropout, &scope)?, grid))
    }

    /// The pixels of each patch `[batch, patches, channels · height · width]`.
    fn patches(&self, pixels: &Tensor) -> std::result::Result<(Tensor, [i64; 2]), TchError> {
        let (size, [height, width]) = (pixels.size(), self.config.patch);
        let grid = ImageConfig { size: [size[2], size[3]], ..self.config.clone() }.grid();
        let whole = [grid[0] * height, grid[1] * width];
        // Negative padding cuts off.
        let pixels = pixels.f_constant_pad_nd([0, whole[1] - size[3], 0, whole[0] - size[2]])?;
        let cut = pixels.f_view([size[0], size[1], grid[0], height, grid[1], width])?;
        Ok((cut.f_permute([0, 2, 4, 1, 3, 5])?.f_reshape([size[0], grid[0] * grid[1], -1])?, grid))
    }
}
