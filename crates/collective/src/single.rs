use std::sync::Arc;

use tch::{Device, Tensor};

use crate::payload::{Payload, Refusal, describe, gathered_like, row_like};
use crate::{Error, ProcessGroup, Reduce, Result, failure};

/// A job of one process. Every collective is the identity, refuses what other groups refuse, and
/// sends nothing.
#[derive(Debug)]
pub struct Single {
    host: String,
}

impl Single {
    /// The group of this process alone.
    pub fn new() -> Single {
        Single { host: failure::host_name() }
    }
}

impl Default for Single {
    fn default() -> Self {
        Single::new()
    }
}

fn check_tensor(tensor: &Tensor, operation: &'static str) -> Result<Payload> {
    Payload::new(tensor, anywhere(tensor)).map_err(|refusal| refused(tensor, operation, refusal))
}

/// Nothing moves: one device is as good as another.
fn anywhere(tensor: &Tensor) -> Option<Device> {
    tensor.defined().then(|| tensor.device())
}

fn refused(tensor: &Tensor, operation: &'static str, refusal: Refusal) -> Error {
    let (shape, dtype) = describe(tensor);
    Error::Unsupported { operation, reason: refusal.reason(), shape, dtype, rank: 0 }
}

fn check_root(root: usize, operation: &'static str) -> Result<()> {
    if root == 0 { Ok(()) } else { Err(Error::Root { operation, root, world_size: 1, rank: 0 }) }
}

impl ProcessGroup for Single {
    fn rank(&self) -> usize {
        0
    }

    fn world_size(&self) -> usize {
        1
    }

    fn local_rank(&self) -> usize {
        0
    }

    fn host(&self, rank: usize) -> &str {
        if rank == 0 { &self.host } else { "unknown" }
    }

    fn all_reduce(&self, tensor: &mut Tensor, _operation: Reduce) -> Result<()> {
        check_tensor(tensor, "all_reduce").map(drop)
    }

    fn reduce_scatter(&self, tensor: &Tensor, _operation: Reduce) -> Result<Tensor> {
        Payload::from_rows(tensor, anywhere(tensor), 1)
            .map_err(|refusal| refused(tensor, "reduce_scatter", refusal))?;
        let _no_grad = tch::no_grad_guard();
        let mut own = row_like(tensor)?;
        own.f_copy_(&tensor.f_select(0, 0)?)?;
        Ok(own)
    }

    fn broadcast(&self, tensor: &mut Tensor, root: usize) -> Result<()> {
        check_root(root, "broadcast")?;
        check_tensor(tensor, "broadcast").map(drop)
    }

    fn all_gather(&self, tensor: &Tensor) -> Result<Tensor> {
        let payload = check_tensor(tensor, "all_gather")?;
        let _no_grad = tch::no_grad_guard();
        let mut gathered = gathered_like(tensor, &payload, 1)?;
        gathered.f_copy_(&tensor.f_unsqueeze(0)?)?;
        Ok(gathered)
    }

    fn barrier(&self) -> Result<()> {
        Ok(())
    }

    fn broadcast_bytes(&self, _bytes: &mut Vec<u8>, root: usize) -> Result<()> {
        check_root(root, "broadcast_bytes")
    }

    fn all_gather_bytes(&self, bytes: &[u8]) -> Result<Vec<Vec<u8>>> {
        Ok(vec![bytes.to_vec()])
    }

    fn duplicate(&self) -> Result<Arc<dyn ProcessGroup>> {
        Ok(Arc::new(Single { host: self.host.clone() }))
    }

    fn with_device(&self, _device: Device) -> Result<Arc<dyn ProcessGroup>> {
        self.duplicate()
    }

    fn sent_bytes(&self) -> u64 {
        0
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use tch::Kind;

    #[test]
    fn every_collective_is_the_identity() {
        let group = Single::new();
        assert_eq!((group.rank(), group.world_size()), (0, 1));
        assert!(!group.host(0).is_empty());
        assert_eq!(group.host(1), "unknown");
        for kind in [Kind::Float, Kind::Double, Kind::Half, Kind::BFloat16, Kind::Int64] {
            let original = Tensor::arange(6, (kind, Device::Cpu)).view([2, 3]);
            let mut tensor = original.copy();
            for operation in [Reduce::Sum, Reduce::Max, Reduce::Min] {
                group.all_reduce(&mut tensor, operation).unwrap();
            }
            group.broadcast(&mut tensor, 0).unwrap();
            assert_eq!(tensor, original);
            let gathered = group.all_gather(&tensor).unwrap();
            assert_eq!(gathered, original.unsqueeze(0));
            assert_ne!(gathered.data_ptr(), tensor.data_ptr(), "what is gathered owns its memory");
            let own = group.reduce_scatter(&gathered, Reduce::Sum).unwrap();
            assert_eq!(own, original);
            assert_ne!(own.data_ptr(), gathered.data_ptr(), "and so does a row");
        }
        let mut bytes = vec![1, 2, 3];
        group.broadcast_bytes(&mut bytes, 0).unwrap();
        assert_eq!(group.all_gather_bytes(&bytes).unwrap(), [[1, 2, 3]]);
        group.barrier().unwrap();
        assert_eq!(group.duplicate().unwrap().host(0), group.host(0));
        assert_eq!(group.sent_bytes(), 0);
    }

    #[test]
    fn wrong_uses_are_refused_as_on_many_ranks() {
        let group = Single::new();
        let error = group
            .all_reduce(&mut Tensor::zeros([2, 3], (Kind::Float, Device::Cpu)).tr(), Reduce::Sum)
            .unwrap_err();
        let Error::Unsupported { operation, shape, dtype, rank, .. } = &error else {
            panic!("{error}")
        };
        assert_eq!(
            (*operation, shape.as_slice(), dtype.as_str(), *rank),
            ("all_reduce", &[3, 2][..], "Float", 0)
        );
        assert!(group.all_gather(&Tensor::new()).is_err());
        let error = group
            .reduce_scatter(&Tensor::zeros([2, 3], (Kind::Float, Device::Cpu)), Reduce::Sum)
            .unwrap_err();
        assert!(matches!(error, Error::Unsupported { operation: "reduce_scatter", .. }), "{error}");
        assert!(group.broadcast(&mut Tensor::zeros([1], (Kind::Bool, Device::Cpu)), 0).is_err());
        let error = group.broadcast_bytes(&mut Vec::new(), 1).unwrap_err();
        assert!(matches!(error, Error::Root { root: 1, world_size: 1, .. }), "{error}");
    }
}
