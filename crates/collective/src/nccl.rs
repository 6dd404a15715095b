//! Tensors on a GPU, by NCCL: [`library`] finds its functions, [`communicator`] makes the calls.
//! MPI brings the ranks together, compares their calls beforehand, and carries what is not on the
//! GPU.
#![allow(unsafe_code)]

mod communicator;
mod library;

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tch::{Device, Tensor};

use cuda::Gpu;

use self::communicator::{Communicator, ID_BYTES};
use self::library::Library;
use crate::payload::{Element, Payload};
use crate::{Reduce, env};

pub(crate) use self::communicator::Id;

/// How one group's tensors travel from one GPU.
pub(crate) struct Nccl {
    device: Device,
    gpu: Option<Gpu>,
    /// Made with the first call, as each takes memory of the GPU.
    communicator: Mutex<Option<Arc<Communicator>>>,
    deadline: Duration,
}

impl std::fmt::Debug for Nccl {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("Nccl").field("device", &self.device).finish_non_exhaustive()
    }
}

impl Nccl {
    /// Looks for NCCL and the GPU. [`Device::Cpu`] hands over memory of the host, which only a NCCL
    /// made for tests takes. Otherwise, what is missing.
    pub(crate) fn open(device: Device) -> Result<Nccl, String> {
        let gpu = match device {
            Device::Cuda(index) => Some(Gpu::open(index)?),
            Device::Cpu => None,
            _ => return Err(format!("NCCL knows no {device:?}")),
        };
        Library::get()?;
        Ok(Nccl::with(device, gpu))
    }

    /// The same GPU, for another group.
    pub(crate) fn duplicate(&self) -> Nccl {
        Nccl::with(self.device, self.gpu)
    }

    fn with(device: Device, gpu: Option<Gpu>) -> Nccl {
        Nccl { device, gpu, communicator: Mutex::default(), deadline: env::nccl_deadline() }
    }

    /// The device whose tensors it carries.
    pub(crate) fn device(&self) -> Device {
        self.device
    }

    /// What no other rank's GPU may have, as NCCL refuses it: the host, and the GPU's number. Two
    /// hosts of one machine are told apart as NCCL does.
    pub(crate) fn identity(&self, host: &str, rank: usize) -> Result<String, String> {
        let Some(gpu) = self.gpu else { return Ok(format!("rank {rank}")) };
        let host = std::env::var("NCCL_HOSTID").unwrap_or_else(|_| host.to_owned());
        let uuid: String = gpu.uuid()?.iter().map(|byte| format!("{byte:02x}")).collect();
        Ok(format!("{host} {uuid}"))
    }

    /// Whether the ranks have met.
    pub(crate) fn has_met(&self) -> bool {
        self.communicator.lock().unwrap_or_else(PoisonError::into_inner).is_some()
    }

    /// A new identity for the ranks to meet by.
    pub(crate) fn new_id() -> Result<Id, String> {
        communicator::new_id()
    }

    /// Room for an identity.
    pub(crate) const NO_ID: Id = [0; ID_BYTES];

    /// Meets the other ranks that were given the same `id`.
    pub(crate) fn meet(&self, id: Id, rank: usize, world_size: usize) -> Result<(), String> {
        let communicator = Communicator::meet(id, rank, world_size, self.gpu, self.deadline)?;
        *self.communicator.lock().unwrap_or_else(PoisonError::into_inner) = Some(communicator);
        Ok(())
    }

    /// Replaces `tensor` by its combination over the ranks.
    pub(crate) fn all_reduce(
        &self,
        tensor: &mut Tensor,
        payload: &Payload,
        reduce: Reduce,
    ) -> Result<(), String> {
        if keeps_nan(payload, reduce) {
            return self.combine(tensor, payload, reduce);
        }
        let mut nan = nan_of(tensor).map_err(words)?;
        self.combine(&mut nan, payload, Reduce::Sum)?;
        self.combine(tensor, payload, reduce)?;
        tensor.f_add_(&nan).map(drop).map_err(words)
    }

    /// Combines `tensor` over the ranks, of which it has a row for each; `own` has room for this
    /// rank's.
    pub(crate) fn reduce_scatter(
        &self,
        tensor: &Tensor,
        payload: &Payload,
        reduce: Reduce,
        own: &mut Tensor,
    ) -> Result<(), String> {
        self.scatter(tensor, payload, reduce, own)?;
        if keeps_nan(payload, reduce) {
            return Ok(());
        }
        let mut nan = own.f_empty_like().map_err(words)?;
        self.scatter(&nan_of(tensor).map_err(words)?, payload, Reduce::Sum, &mut nan)?;
        own.f_add_(&nan).map(drop).map_err(words)
    }

    fn scatter(
        &self,
        tensor: &Tensor,
        payload: &Payload,
        reduce: Reduce,
        own: &mut Tensor,
    ) -> Result<(), String> {
        // SAFETY: as in `combine`; `own` was made for it, and the tensors' memory goes to nothing
        // that is queued earlier than this.
        self.after_rendezvous(|communicator| unsafe {
            communicator.reduce_scatter(
                tensor.data_ptr(),
                own.data_ptr(),
                own.numel(),
                payload.element,
                reduce,
            )
        })
    }

    fn combine(
        &self,
        tensor: &mut Tensor,
        payload: &Payload,
        reduce: Reduce,
    ) -> Result<(), String> {
        // SAFETY: the payload was accepted: a dense, contiguous tensor of so many elements on this
        // device, whose memory libtorch hands on only to what it queues later. That all ranks call
        // the same was found out before.
        self.after_rendezvous(|communicator| unsafe {
            communicator.all_reduce(tensor.data_ptr(), payload.numel, payload.element, reduce)
        })
    }

    /// Replaces `tensor` by that of rank `root`.
    pub(crate) fn broadcast(
        &self,
        tensor: &mut Tensor,
        payload: &Payload,
        root: usize,
    ) -> Result<(), String> {
        // SAFETY: as in `combine`.
        self.after_rendezvous(|communicator| unsafe {
            communicator.broadcast(tensor.data_ptr(), payload.numel, payload.element, root)
        })
    }

    /// Gathers `tensor` of every rank into `all`, which has room for them.
    pub(crate) fn all_gather(
        &self,
        tensor: &Tensor,
        payload: &Payload,
        all: &mut Tensor,
    ) -> Result<(), String> {
        // SAFETY: as in `combine`; `all` was made for it.
        self.after_rendezvous(|communicator| unsafe {
            communicator.all_gather(
                tensor.data_ptr(),
                all.data_ptr(),
                payload.numel,
                payload.element,
            )
        })
    }

    fn after_rendezvous(
        &self,
        call: impl FnOnce(&Communicator) -> Result<(), String>,
    ) -> Result<(), String> {
        let communicator = self.communicator.lock().unwrap_or_else(PoisonError::into_inner).clone();
        communicator.as_deref().map_or_else(|| Err("the ranks have not met".to_owned()), call)
    }
}

/// Whether NaN of one rank reaches all: the larger of a number and NaN is the number to NCCL.
fn keeps_nan(payload: &Payload, reduce: Reduce) -> bool {
    reduce == Reduce::Sum || payload.element == Element::I64
}

/// NaN where it is in `tensor`, otherwise zeros: a sum keeps it.
fn nan_of(tensor: &Tensor) -> Result<Tensor, tch::TchError> {
    tensor.f_zeros_like()?.f_masked_fill(&tensor.f_isnan()?, f64::NAN)
}

fn words(error: tch::TchError) -> String {
    error.to_string()
}
