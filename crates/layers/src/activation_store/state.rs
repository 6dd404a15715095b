//! The sites' states as tensors, to be saved and loaded.

use std::collections::BTreeMap;

use tch::{Device, Tensor};

use compression::SiteState;

use super::{ActivationStore, lock};
use crate::{Error, Site, SiteId};

/// Stands for a layer or a site that is absent.
const NONE: &str = "-";

impl ActivationStore {
    /// The state of each site after the steps so far, as copies on the CPU: `LAYER.SITE.PART`, such
    /// as `3.layer.basis`. Empty where no method has a state. Each rank has its own.
    ///
    /// # Errors
    /// Those of libtorch.
    pub fn state(&self) -> Result<Vec<(String, Tensor)>, Error> {
        let mut tensors = Vec::new();
        for (site_id, state) in &*lock(&self.states) {
            let parts = state
                .tensors()
                .map_err(|source| Error::Compression { site_id: *site_id, source })?;
            tensors.extend(
                parts
                    .into_iter()
                    .map(|(part, tensor)| (format!("{}.{part}", name(*site_id)), tensor)),
            );
        }
        Ok(tensors)
    }

    /// Loads what [`ActivationStore::state`] gave, on `device`; earlier states are dropped.
    ///
    /// # Errors
    /// [`Error::State`] for a name that no site's state has, or a state that is incomplete.
    pub fn load_state(&self, state: Vec<(String, Tensor)>, device: Device) -> Result<(), Error> {
        let mut parts: BTreeMap<SiteId, Vec<(String, Tensor)>> = BTreeMap::new();
        for (name, tensor) in state {
            let (site_id, part) =
                parse(&name).ok_or_else(|| Error::State { name: name.clone() })?;
            parts.entry(site_id).or_default().push((part.to_owned(), tensor));
        }
        let mut states = BTreeMap::new();
        for (site_id, parts) in parts {
            let parts = parts.iter().map(|(part, tensor)| (part.as_str(), tensor.shallow_clone()));
            let state = SiteState::from_tensors(parts, device)
                .map_err(|source| Error::Compression { site_id, source })?;
            states.insert(site_id, state);
        }
        *lock(&self.states) = states;
        Ok(())
    }
}

fn name(site_id: SiteId) -> String {
    let layer = site_id.layer.map_or_else(|| NONE.to_owned(), |layer| layer.to_string());
    format!("{layer}.{}", site_id.site.map_or(NONE, Site::name))
}

fn parse(name: &str) -> Option<(SiteId, &str)> {
    let (layer, rest) = name.split_once('.')?;
    let (site, part) = rest.rsplit_once('.')?;
    let layer = if layer == NONE { None } else { Some(layer.parse().ok()?) };
    let site = if site == NONE { None } else { Some(Site::from_name(site)?) };
    Some((SiteId { layer, site }, part))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use tch::Kind;

    #[test]
    fn every_place_is_found_by_its_name() {
        for (position, site) in Site::ALL.into_iter().enumerate() {
            assert_eq!(site as usize, position, "{site:?} stands where it is declared");
            let site_id = SiteId { layer: Some(position), site: Some(site) };
            assert_eq!(parse(&format!("{}.basis", name(site_id))), Some((site_id, "basis")));
        }
        assert_eq!(Site::ALL.last(), Some(&Site::HeadOut), "the last one declared");
        assert_eq!(
            parse(&format!("{}.basis", name(SiteId::default()))),
            Some((SiteId::default(), "basis"))
        );
        assert_eq!(
            (parse("3.nowhere.basis"), parse("x.layer.basis"), parse("3")),
            (None, None, None)
        );
    }

    #[test]
    fn states_are_loaded_at_their_sites() {
        let sites = ActivationStore::default();
        let basis = |value: f64| Tensor::full([4, 2], value, (Kind::Float, Device::Cpu));
        for layer in 0..3 {
            let site_id = SiteId { layer: Some(layer), site: Some(Site::AttentionNorm) };
            sites.with_state(site_id, |state| *state = SiteState::from_basis(basis(layer as f64)));
        }
        let again = ActivationStore::default();
        again.load_state(sites.state().unwrap(), Device::Cpu).unwrap();
        assert_eq!(again.state_bytes(), sites.state_bytes());
        let site_id = SiteId { layer: Some(2), site: Some(Site::AttentionNorm) };
        again.with_state(site_id, |state| assert_eq!(state.basis().unwrap(), &basis(2.0)));
        let refused = again
            .load_state(vec![("2.elsewhere.basis".into(), basis(0.0))], Device::Cpu)
            .unwrap_err();
        assert!(refused.to_string().contains("2.elsewhere.basis"), "{refused}");
    }
}
