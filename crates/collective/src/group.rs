use std::sync::Arc;

use tch::{Device, Tensor};

use crate::Result;

/// How [`ProcessGroup::all_reduce`] and [`ProcessGroup::reduce_scatter`] combine the ranks' values,
/// element by element.
///
/// f16 and bf16 are added in f32 and rounded after each addition. The maximum and the minimum of
/// anything with NaN are NaN. On a GPU both are as NCCL has them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reduce {
    /// The sum.
    Sum,
    /// The largest value.
    Max,
    /// The smallest value.
    Min,
}

/// The ranks of a job, and this process as one of them.
///
/// Every rank makes the same calls in the same order. Tensors are dense and contiguous, of f32,
/// f64, f16, bf16 or i64, on the CPU or on the GPU of [`ProcessGroup::with_device`], and are
/// written in place, without autograd's knowledge: pass no tensor that autograd has saved. A wrong
/// use is an `Err`, never a panic.
///
/// A call on the CPU returns when it is done. On a GPU it is queued on libtorch's current stream:
/// what is queued later sees its result, and the host does not wait. An error that shows later ends
/// the job.
///
/// A group may be shared between threads, but only one at a time may call it
/// ([`Error::Busy`](crate::Error::Busy) otherwise); [`ProcessGroup::duplicate`] makes one for
/// another thread.
pub trait ProcessGroup: Send + Sync {
    /// This process's number, from 0.
    fn rank(&self) -> usize;

    /// The number of ranks.
    fn world_size(&self) -> usize;

    /// This process's number among those that share its host's memory, from 0: which of the host's
    /// GPUs is its own.
    fn local_rank(&self) -> usize;

    /// The host on which `rank` runs; `unknown` for a number that is no rank.
    fn host(&self, rank: usize) -> &str;

    /// Replaces `tensor` by its combination over all ranks, the same bits on each.
    fn all_reduce(&self, tensor: &mut Tensor, operation: Reduce) -> Result<()>;

    /// The combination of `tensor` (`[world_size, ...]`) over all ranks, of which each keeps the
    /// row of its number: `[...]`. That is half of what [`ProcessGroup::all_reduce`] does
    /// ([`ProcessGroup::all_gather`] of the rows is the rest), for half of the traffic. Sums may be
    /// added up in another order than there.
    fn reduce_scatter(&self, tensor: &Tensor, operation: Reduce) -> Result<Tensor>;

    /// Replaces `tensor` by that of rank `root`; shape and dtype are already equal.
    fn broadcast(&self, tensor: &mut Tensor, root: usize) -> Result<()>;

    /// Every rank's `tensor`, in order: `[world_size, ...]`.
    fn all_gather(&self, tensor: &Tensor) -> Result<Tensor>;

    /// Returns when every rank has come here.
    fn barrier(&self) -> Result<()>;

    /// Replaces `bytes`, whatever its length, by that of rank `root`.
    fn broadcast_bytes(&self, bytes: &mut Vec<u8>, root: usize) -> Result<()>;

    /// Every rank's `bytes`, in order; lengths may differ.
    fn all_gather_bytes(&self, bytes: &[u8]) -> Result<Vec<Vec<u8>>>;

    /// Another group of the same ranks. Calls on the two know nothing of each other, so that one
    /// thread may use this group while another uses the other: that is how gradients travel during
    /// the backward pass. All ranks call it; what the other sends counts here too.
    ///
    /// # Errors
    /// Where the network library does not allow two threads in it at once.
    fn duplicate(&self) -> Result<Arc<dyn ProcessGroup>>;

    /// A group of the same ranks that also carries tensors on `device`, one GPU for each rank, by
    /// NCCL; on the CPU, another group. All ranks call it. Its calls know nothing of this group's;
    /// what it sends counts here too. Unlike with [`ProcessGroup::duplicate`], one thread at a time
    /// may use the two.
    ///
    /// # Errors
    /// On every rank, if on any NCCL, the driver or the GPU is missing, if two ranks would share a
    /// GPU, or if some ranks compute on a GPU and others do not.
    fn with_device(&self, device: Device) -> Result<Arc<dyn ProcessGroup>>;

    /// The payload in bytes that this rank has handed to the network so far: tensors it reduced,
    /// gathered, or broadcast as the root.
    fn sent_bytes(&self) -> u64;

    /// Ends the whole job with exit code 1 and `rank 1 (host NAME): message` on stderr.
    fn abort(&self, message: &str) -> ! {
        crate::abort(message)
    }
}
