//! Ranks as threads of one process, gradients of their own, and PowerSGD in plain f64.
#![allow(dead_code, reason = "each test program uses its own part")]

#[path = "../../../test_device.rs"]
mod test_device;

pub use test_device::device;

use std::sync::{Arc, Barrier, Mutex};

use rand::SeedableRng as _;
use rand_distr::{Distribution as _, StandardNormal};
use tch::{Device, Kind, Tensor};

use collective::{ProcessGroup, Reduce as Reduction, Result};

/// One rank of a group of threads.
struct Thread {
    rank: usize,
    world_size: usize,
    shared: Arc<Shared>,
}

struct Shared {
    tensors: Mutex<Vec<Tensor>>,
    bytes: Mutex<Vec<Vec<u8>>>,
    barrier: Barrier,
    /// What the last duplicates of the ranks share.
    duplicate: Mutex<Option<Arc<Shared>>>,
}

impl Shared {
    fn new(world_size: usize) -> Arc<Shared> {
        Arc::new(Shared {
            tensors: Mutex::new((0..world_size).map(|_| Tensor::new()).collect()),
            bytes: Mutex::new(vec![Vec::new(); world_size]),
            barrier: Barrier::new(world_size),
            duplicate: Mutex::default(),
        })
    }
}

impl Thread {
    /// Every rank's tensor.
    fn exchange(&self, tensor: &Tensor) -> Vec<Tensor> {
        // Threads have streams of their own.
        let settle = || {
            if let Device::Cuda(index) = tensor.device() {
                tch::Cuda::synchronize(index as i64)
            }
        };
        self.shared.tensors.lock().unwrap()[self.rank] = tensor.copy();
        settle();
        self.shared.barrier.wait();
        let all = self.shared.tensors.lock().unwrap().iter().map(Tensor::copy).collect();
        settle();
        self.shared.barrier.wait();
        all
    }
}

impl ProcessGroup for Thread {
    fn rank(&self) -> usize {
        self.rank
    }

    fn world_size(&self) -> usize {
        self.world_size
    }

    fn local_rank(&self) -> usize {
        self.rank
    }

    fn host(&self, rank: usize) -> &str {
        ["node0", "node1", "node2"].get(rank).unwrap_or(&"unknown")
    }

    fn all_reduce(&self, tensor: &mut Tensor, operation: Reduction) -> Result<()> {
        let all = self.exchange(tensor);
        let first = all[0].copy();
        let reduced = all[1..].iter().fold(first, |reduced, next| match operation {
            Reduction::Sum => reduced + next,
            Reduction::Max => reduced.maximum(next),
            Reduction::Min => reduced.minimum(next),
        });
        tensor.copy_(&reduced);
        Ok(())
    }

    fn reduce_scatter(&self, tensor: &Tensor, operation: Reduction) -> Result<Tensor> {
        let mut all = tensor.copy();
        self.all_reduce(&mut all, operation)?;
        Ok(all.get(self.rank as i64))
    }

    fn broadcast(&self, tensor: &mut Tensor, root: usize) -> Result<()> {
        tensor.copy_(&self.exchange(tensor)[root]);
        Ok(())
    }

    fn all_gather(&self, tensor: &Tensor) -> Result<Tensor> {
        Ok(Tensor::stack(&self.exchange(tensor), 0))
    }

    fn barrier(&self) -> Result<()> {
        self.shared.barrier.wait();
        Ok(())
    }

    fn broadcast_bytes(&self, bytes: &mut Vec<u8>, root: usize) -> Result<()> {
        *bytes = self.all_gather_bytes(bytes)?.swap_remove(root);
        Ok(())
    }

    fn all_gather_bytes(&self, bytes: &[u8]) -> Result<Vec<Vec<u8>>> {
        self.shared.bytes.lock().unwrap()[self.rank] = bytes.to_vec();
        self.shared.barrier.wait();
        let all = self.shared.bytes.lock().unwrap().clone();
        self.shared.barrier.wait();
        Ok(all)
    }

    fn duplicate(&self) -> Result<Arc<dyn ProcessGroup>> {
        if self.shared.barrier.wait().is_leader() {
            *self.shared.duplicate.lock().unwrap() = Some(Shared::new(self.world_size));
        }
        self.shared.barrier.wait();
        let shared = self.shared.duplicate.lock().unwrap().clone().unwrap();
        Ok(Arc::new(Thread { rank: self.rank, world_size: self.world_size, shared }))
    }

    fn with_device(&self, _device: Device) -> Result<Arc<dyn ProcessGroup>> {
        self.duplicate()
    }

    fn sent_bytes(&self) -> u64 {
        0
    }
}

/// Runs `body` as `world_size` ranks and returns their answers, in order. A rank that panics ends
/// the program: the others would wait.
pub fn ranks<T: Send>(
    world_size: usize,
    body: impl Fn(Arc<dyn ProcessGroup>) -> T + Sync,
) -> Vec<T> {
    let shared = Shared::new(world_size);
    let body = &body;
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..world_size)
            .map(|rank| {
                let group = Arc::new(Thread { rank, world_size, shared: Arc::clone(&shared) });
                scope.spawn(move || {
                    std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| body(group)))
                        .unwrap_or_else(|_| std::process::exit(101))
                })
            })
            .collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    })
}

/// Standard normal numbers that depend on the arguments alone.
pub fn normal(shape: &[i64], seed: &[u8; 4]) -> Tensor {
    let mut key = [7; 32];
    key[..4].copy_from_slice(seed);
    let mut generator = rand_chacha::ChaCha8Rng::from_seed(key);
    let numbers: Vec<f64> =
        (0..shape.iter().product::<i64>()).map(|_| StandardNormal.sample(&mut generator)).collect();
    Tensor::from_slice(&numbers).view(shape)
}

/// Leaf parameters called `p0`, `p1`, ...
pub fn parameters(shapes: &[&[i64]], kind: Kind) -> Vec<(String, Tensor)> {
    let leaf = |shape: &[i64]| Tensor::zeros(shape, (kind, device())).set_requires_grad(true);
    shapes.iter().enumerate().map(|(index, shape)| (format!("p{index}"), leaf(shape))).collect()
}

/// Makes `gradient` the gradient of a leaf, in place of any it has.
pub fn set_gradient(parameter: &Tensor, gradient: &Tensor) {
    parameter.shallow_clone().zero_grad();
    let gradient = gradient.to_kind(parameter.kind()).to_device(parameter.device());
    (parameter * gradient).sum(parameter.kind()).backward();
}

/// The gradient of `rank` for parameter `index` at `step`, f64: half of it common to all ranks,
/// with singular values that fall off.
pub fn gradient(shape: &[i64], rank: usize, step: u64, index: usize) -> Tensor {
    let seed = |rank: usize| [rank as u8, step as u8, (step >> 8) as u8, index as u8];
    let noise = normal(shape, &seed(255)) + normal(shape, &seed(rank));
    match shape {
        [] | [_] => noise,
        [m, rest @ ..] => {
            let n: i64 = rest.iter().product();
            let falling = |length: i64| {
                Tensor::arange(length, (Kind::Double, Device::Cpu)).multiply_scalar(-0.7).exp()
            };
            // The directions are the same in all steps, as the paper's warm start assumes; their
            // order is not.
            (noise.view([*m, n]) * 0.1
                + falling(*m).unsqueeze(1) * normal(&[*m, n], &[9, 9, 9, index as u8]) * falling(n))
            .view(shape)
        }
    }
}

/// The same bits: equal, and NaN where the other is.
pub fn same_bits(a: &Tensor, b: &Tensor) -> bool {
    let bytes = |tensor: &Tensor| {
        let mut bytes = vec![0; tensor.numel() * tensor.kind().elt_size_in_bytes()];
        tensor.contiguous().copy_data_u8(&mut bytes, tensor.numel());
        bytes
    };
    a.kind() == b.kind() && a.size() == b.size() && bytes(a) == bytes(b)
}

/// The largest difference, relative to the largest value of `expected`.
pub fn relative_error(actual: &Tensor, expected: &Tensor) -> f64 {
    if expected.numel() == 0 {
        return 0.0;
    }
    let largest = |tensor: &Tensor| tensor.abs().max().double_value(&[]);
    largest(&(actual.to_device(Device::Cpu).to_kind(Kind::Double) - expected))
        / largest(expected).max(1e-30)
}

/// PowerSGD for one matrix and all ranks at once, step by step from the paper, in f64.
pub struct Reference {
    /// `[n, k]`
    query: Tensor,
    /// `[m, n]` of each rank
    errors: Vec<Tensor>,
    error_feedback: bool,
}

impl Reference {
    pub fn new(query: &Tensor, m: i64, world_size: usize, error_feedback: bool) -> Reference {
        let query = query.to_device(Device::Cpu).to_kind(Kind::Double);
        let errors = (0..world_size)
            .map(|_| Tensor::zeros([m, query.size()[0]], (Kind::Double, Device::Cpu)))
            .collect();
        Reference { query, errors, error_feedback }
    }

    /// The update of one step for the ranks' gradients, `[m, n]`.
    pub fn step(&mut self, gradients: &[Tensor]) -> Tensor {
        let inputs: Vec<Tensor> =
            gradients.iter().zip(&self.errors).map(|(gradient, error)| gradient + error).collect();
        let mean = inputs.iter().fold(inputs[0].zeros_like(), |sum, input| sum + input)
            / inputs.len() as f64;
        let p = gram_schmidt(&mean.mm(&self.query));
        self.query = mean.tr().mm(&p);
        let update = p.mm(&self.query.tr());
        if self.error_feedback {
            self.errors = inputs.iter().map(|input| input - &update).collect();
        }
        update
    }
}

/// Orthonormal columns by the modified Gram-Schmidt process, twice over.
fn gram_schmidt(matrix: &Tensor) -> Tensor {
    let mut columns: Vec<Tensor> = Vec::new();
    for index in 0..matrix.size()[1] {
        let mut column = matrix.select(1, index).copy();
        for _ in 0..2 {
            for earlier in &columns {
                column = &column - earlier * earlier.dot(&column);
            }
        }
        columns.push(&column / column.norm());
    }
    Tensor::stack(&columns, 1)
}
