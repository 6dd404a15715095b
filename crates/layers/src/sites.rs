mod state;

use crate::{Error, Ledger, Place};
use autograd::SideStream;
use lowrank::coded::Basis;
use lowrank::{SiteState, is_finite};
use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tch::{Device, Tensor};

/// Is shown every tensor that is about to be kept, as it is: `[.., width]`.
pub trait Observer: Send + Sync {
    /// `tensor` is about to be kept at `place`, in whatever form.
    fn observe(&self, place: Place, tensor: &Tensor);
}

/// What the sites of one rank's model share and remember from step to step: the ledger of what is kept, each site's memory, and the watch for
/// what is not finite.
#[derive(Default)]
pub struct Sites {
    ledger: Arc<Ledger>,
    /// A memory is taken out while its site is at work, so that no lock is held meanwhile.
    states: Mutex<BTreeMap<Place, SiteState>>,
    watched: Mutex<Vec<(Place, Tensor)>>,
    /// Neighbouring layers that share a memory; 0 stands for 1.
    shared_layers: usize,
    /// Whether shared bases see what is kept.
    looks: AtomicBool,
    observer: Option<Box<dyn Observer>>,
    side: Option<SideStream>,
}

impl Sites {
    /// Sites that show what they keep to `observer` first.
    pub fn observed(observer: impl Observer + 'static) -> Self {
        Self { observer: Some(Box::new(observer)), ..Self::default() }
    }

    /// Sites that compress on a second stream of `device` while the forward goes on; on the CPU, in line.
    ///
    /// # Errors
    /// If the device is not there.
    pub fn beside(device: Device) -> Result<Self, Error> {
        Ok(Self { side: SideStream::new(device)?, ..Self::default() })
    }

    /// The same sites, of which `layers` neighbouring ones share a memory.
    pub fn sharing(self, layers: usize) -> Self {
        Self { shared_layers: layers, ..self }
    }

    /// Counts what is kept.
    pub fn ledger(&self) -> &Arc<Ledger> {
        &self.ledger
    }

    /// Bytes that the sites' memories hold between steps.
    pub fn memory_bytes(&self) -> u64 {
        lock(&self.states).values().map(SiteState::bytes).sum()
    }

    /// The basis in which each place codes, of those that have one; of neighbours that share it, the place of the first.
    pub fn bases(&self) -> Vec<(Place, Arc<Basis>)> {
        let of = |(place, state): (&Place, &SiteState)| Some((self.first_of(*place), Arc::clone(state.coded_basis()?)));
        lock(&self.states).iter().filter_map(of).collect()
    }

    /// Whether the bases of [`lowrank::Method::Shared`] see what is kept from now on, for [`Sites::agree`].
    pub fn look(&self, looks: bool) {
        self.looks.store(looks, Ordering::Relaxed);
    }

    /// What those bases have seen since they were agreed on, each `[width, rank]`, by place; of neighbours that share one, the place of the first.
    /// All ranks add them up, and give the sums to [`Sites::agree`].
    pub fn seen(&self) -> Vec<(Place, Tensor)> {
        let of = |(place, state): (&Place, &SiteState)| Some((self.first_of(*place), state.accumulated()?.shallow_clone()));
        lock(&self.states).iter().filter_map(of).collect()
    }

    /// Turns the shared bases to what all ranks have seen: the sums of what [`Sites::seen`] gave. Between two steps, when nothing is kept.
    ///
    /// # Errors
    /// [`Error::Compression`] for a sum of another shape; those of libtorch.
    pub fn agree(&self, sums: &[(Place, Tensor)]) -> Result<(), Error> {
        let mut states = lock(&self.states);
        for (place, sum) in sums {
            let Some(state) = states.get_mut(&self.filed(*place)) else { continue };
            state.sync(sum).map_err(|source| Error::Compression { place: *place, source })?;
        }
        Ok(())
    }

    /// The basis on which the inputs kept at `place` are projected, `[width, rank]`, if there is one.
    pub fn shared_basis(&self, place: Place) -> Option<Tensor> {
        lock(&self.states).get(&self.filed(place))?.shared_basis().map(Tensor::shallow_clone)
    }

    /// Where the memory of a place is filed: by groups of neighbouring layers.
    fn filed(&self, place: Place) -> Place {
        Place { layer: place.layer.map(|layer| layer / self.shared_layers.max(1)), ..place }
    }

    /// The place of the first of the layers that share the memory which is filed here.
    fn first_of(&self, filed: Place) -> Place {
        Place { layer: filed.layer.map(|group| group * self.shared_layers.max(1)), ..filed }
    }

    /// The first place since the last call where something kept was not finite. Makes the host wait for a GPU, so call it where it waits anyway.
    ///
    /// # Errors
    /// [`Error::NotFinite`] with the place; those of libtorch.
    pub fn check_finite(&self) -> Result<(), Error> {
        let watched = std::mem::take(&mut *lock(&self.watched));
        if watched.is_empty() {
            return Ok(());
        }
        let flags: Vec<Tensor> = watched.iter().map(|(_, finite)| finite.shallow_clone()).collect();
        let finite = Vec::<bool>::try_from(Tensor::f_stack(&flags, 0)?.f_to_device(Device::Cpu)?)?;
        match watched.iter().zip(finite).find(|(_, finite)| !finite) {
            Some(((place, _), _)) => Err(Error::NotFinite { place: *place }),
            None => Ok(()),
        }
    }

    /// Notes on the device whether `tensor` is finite, to be asked later.
    pub(crate) fn watch(&self, place: Place, tensor: &Tensor) -> Result<(), Error> {
        let finite = is_finite(tensor)?;
        lock(&self.watched).push((place, finite));
        Ok(())
    }

    /// Runs `work` with the site's memory, which its neighbours may share.
    pub(crate) fn with_state<T>(&self, place: Place, work: impl FnOnce(&mut SiteState) -> T) -> T {
        let place = self.filed(place);
        let sharers = self.shared_layers.max(1) as u64;
        let mut state = lock(&self.states).remove(&place).unwrap_or_else(|| SiteState::shared_by(sharers));
        state.observe(self.looks.load(Ordering::Relaxed));
        let done = work(&mut state);
        if state.bytes() > 0 {
            lock(&self.states).insert(place, state);
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

impl fmt::Debug for Sites {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sites").field("ledger", &self.ledger).field("observed", &self.observer.is_some()).finish_non_exhaustive()
    }
}

/// A panic elsewhere has broken nothing in these maps.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
