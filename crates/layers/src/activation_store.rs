mod state;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tch::{Device, Tensor};

use autograd::SideStream;
use compression::coded::Basis;
use compression::{SiteState, is_finite};

use crate::{Error, SavedBytes, SiteId};

/// Is shown every tensor that is about to be saved, as it is: `[.., width]`.
pub trait Observer: Send + Sync {
    /// `tensor` is about to be saved at `site_id`, in whatever form.
    fn observe(&self, site_id: SiteId, tensor: &Tensor);
}

/// What the sites of one rank's model share and remember from step to step: the bytes that are
/// saved, each site's state, and the watch for what is not finite.
#[derive(Default)]
pub struct ActivationStore {
    saved_bytes: Arc<SavedBytes>,
    /// A state is taken out while its site is at work, so that no lock is held meanwhile.
    states: Mutex<BTreeMap<SiteId, SiteState>>,
    watched: Mutex<Vec<(SiteId, Tensor)>>,
    /// Neighbouring layers that share a state; 0 stands for 1.
    shared_layers: usize,
    /// Whether shared bases observe what is saved.
    observes: AtomicBool,
    observer: Option<Box<dyn Observer>>,
    side: Option<SideStream>,
}

impl ActivationStore {
    /// A store that shows what it saves to `observer` first.
    pub fn with_observer(observer: impl Observer + 'static) -> Self {
        Self { observer: Some(Box::new(observer)), ..Self::default() }
    }

    /// A store that compresses on a second stream of `device` while the forward continues; on the
    /// CPU, in line.
    ///
    /// # Errors
    /// If the device is not there.
    pub fn on_side_stream(device: Device) -> Result<Self, Error> {
        Ok(Self { side: SideStream::new(device)?, ..Self::default() })
    }

    /// The same store, in which `layers` neighbouring layers share the state of a site.
    pub fn shared_over(self, layers: usize) -> Self {
        Self { shared_layers: layers, ..self }
    }

    /// The bytes saved for backward.
    pub fn saved_bytes(&self) -> &Arc<SavedBytes> {
        &self.saved_bytes
    }

    /// Bytes that the sites' states hold between steps.
    pub fn state_bytes(&self) -> u64 {
        lock(&self.states).values().map(SiteState::bytes).sum()
    }

    /// The basis in which each site codes, of those that have one; of neighbours that share it, the
    /// site of the first.
    pub fn bases(&self) -> Vec<(SiteId, Arc<Basis>)> {
        let of = |(site_id, state): (&SiteId, &SiteState)| {
            Some((self.first_layer(*site_id), Arc::clone(state.coded_basis()?)))
        };
        lock(&self.states).iter().filter_map(of).collect()
    }

    /// Whether the bases of [`compression::Method::Shared`] observe what is saved from now on, for
    /// [`ActivationStore::sync`].
    pub fn observe(&self, observes: bool) {
        self.observes.store(observes, Ordering::Relaxed);
    }

    /// What those bases have accumulated since the last sync, each `[width, rank]`, by site; of
    /// neighbours that share one, the site of the first. All ranks all-reduce them, and give the
    /// sums to [`ActivationStore::sync`].
    pub fn accumulated(&self) -> Vec<(SiteId, Tensor)> {
        let of = |(site_id, state): (&SiteId, &SiteState)| {
            Some((self.first_layer(*site_id), state.accumulated()?.shallow_clone()))
        };
        lock(&self.states).iter().filter_map(of).collect()
    }

    /// Updates the shared bases from the sums over all ranks of what
    /// [`ActivationStore::accumulated`] gave. Call it between two steps, when nothing is saved.
    ///
    /// # Errors
    /// [`Error::Compression`] for a sum of another shape; those of libtorch.
    pub fn sync(&self, sums: &[(SiteId, Tensor)]) -> Result<(), Error> {
        let mut states = lock(&self.states);
        for (site_id, sum) in sums {
            let Some(state) = states.get_mut(&self.group_key(*site_id)) else { continue };
            state.sync(sum).map_err(|source| Error::Compression { site_id: *site_id, source })?;
        }
        Ok(())
    }

    /// The basis on which the inputs saved at `site_id` are projected, `[width, rank]`, if there is
    /// one.
    pub fn shared_basis(&self, site_id: SiteId) -> Option<Tensor> {
        lock(&self.states).get(&self.group_key(site_id))?.shared_basis().map(Tensor::shallow_clone)
    }

    /// The key of a site's state: that of its group of neighbouring layers.
    fn group_key(&self, site_id: SiteId) -> SiteId {
        SiteId { layer: site_id.layer.map(|layer| layer / self.shared_layers.max(1)), ..site_id }
    }

    /// The site of the first of the layers that share the state with this key.
    fn first_layer(&self, group_key: SiteId) -> SiteId {
        SiteId {
            layer: group_key.layer.map(|group| group * self.shared_layers.max(1)),
            ..group_key
        }
    }

    /// Checks that what was saved since the last call is finite. Makes the host wait for a GPU, so
    /// call it where it waits anyway.
    ///
    /// # Errors
    /// [`Error::NotFinite`] with the first site where it is not; those of libtorch.
    pub fn check_finite(&self) -> Result<(), Error> {
        let watched = std::mem::take(&mut *lock(&self.watched));
        if watched.is_empty() {
            return Ok(());
        }
        let flags: Vec<Tensor> = watched.iter().map(|(_, finite)| finite.shallow_clone()).collect();
        let finite = Vec::<bool>::try_from(Tensor::f_stack(&flags, 0)?.f_to_device(Device::Cpu)?)?;
        match watched.iter().zip(finite).find(|(_, finite)| !finite) {
            Some(((site_id, _), _)) => Err(Error::NotFinite { site_id: *site_id }),
            None => Ok(()),
        }
    }

    /// Notes on the device whether `tensor` is finite, to be asked later.
    pub(crate) fn watch(&self, site_id: SiteId, tensor: &Tensor) -> Result<(), Error> {
        let finite = is_finite(tensor)?;
        lock(&self.watched).push((site_id, finite));
        Ok(())
    }

    /// Runs `work` with the site's state, which its neighbours may share.
    pub(crate) fn with_state<T>(
        &self,
        site_id: SiteId,
        work: impl FnOnce(&mut SiteState) -> T,
    ) -> T {
        let site_id = self.group_key(site_id);
        let sharers = self.shared_layers.max(1) as u64;
        let mut state =
            lock(&self.states).remove(&site_id).unwrap_or_else(|| SiteState::shared_by(sharers));
        state.observe(self.observes.load(Ordering::Relaxed));
        let done = work(&mut state);
        if state.bytes() > 0 {
            lock(&self.states).insert(site_id, state);
        }
        done
    }

    pub(crate) fn observer(&self) -> Option<&dyn Observer> {
        self.observer.as_deref()
    }

    pub(crate) fn side(&self) -> Option<&SideStream> {
        self.side.as_ref()
    }
}

impl fmt::Debug for ActivationStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ActivationStore")
            .field("saved_bytes", &self.saved_bytes)
            .field("observed", &self.observer.is_some())
            .finish_non_exhaustive()
    }
}

/// A panic elsewhere has broken nothing in these maps.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
