use tch::{TchError, Tensor};

use layers::{Error, Mask, RotaryTable};

use crate::config::LayerRope;

/// What all blocks of one forward share.
#[derive(Debug)]
pub(crate) struct AttentionContext {
    /// The rotary table of the model, and that of its local layers.
    pub tables: [Option<RotaryTable>; 2],
    /// The mask of each window that layers have.
    pub masks: Vec<(Option<i64>, Mask)>,
    /// Height and width of the map that the tokens are laid out in row by row, where they are
    /// patches of images.
    pub grid: Option<[i64; 2]>,
}

impl AttentionContext {
    pub fn shallow_clone(&self) -> Self {
        Self {
            tables: self
                .tables
                .each_ref()
                .map(|table| table.as_ref().map(RotaryTable::shallow_clone)),
            grid: self.grid,
            masks: self
                .masks
                .iter()
                .map(|(window, mask)| (*window, mask.shallow_clone()))
                .collect(),
        }
    }

    /// One mask for all, and no rotary embeddings.
    pub fn masked(mask: Mask, grid: Option<[i64; 2]>) -> Self {
        Self { tables: [None, None], masks: vec![(None, mask)], grid }
    }

    /// The table of a layer, if it has one.
    pub fn table(&self, rope: LayerRope) -> Option<&RotaryTable> {
        match rope {
            LayerRope::Global => self.tables[0].as_ref(),
            LayerRope::Local => self.tables[1].as_ref(),
            LayerRope::Absent => None,
        }
    }

    /// The mask of a window.
    pub fn mask(&self, window: Option<i64>) -> Result<&Mask, Error> {
        let found = self.masks.iter().find(|(known, _)| *known == window);
        let missing = || Error::Shape {
            operation: "attention",
            expected: format!("a mask for {window:?}"),
            got: vec![],
        };
        Ok(&found.ok_or_else(missing)?.1)
    }
}

/// The keys and values of the tokens already seen while generating, `[1, tokens, kv_heads, width]`
/// each.
#[derive(Debug, Default)]
pub(crate) struct KvCache(Option<(Tensor, Tensor)>);

impl KvCache {
    /// Appends new ones, and gives all.
    pub fn extend(&mut self, k: Tensor, v: Tensor) -> Result<(Tensor, Tensor), TchError> {
        let (k, v) = match &self.0 {
            Some((keys, values)) => {
                (Tensor::f_cat(&[keys, &k], 1)?, Tensor::f_cat(&[values, &v], 1)?)
            }
            None => (k, v),
        };
        self.0 = Some((k.shallow_clone(), v.shallow_clone()));
        Ok((k, v))
    }
}
