//! The process group over MPI. This module says what a collective does; [`call`] makes the calls,
//! [`agreement`] compares the ranks' calls beforehand, [`fold`] adds the numbers that MPI cannot,
//! [`gpus`] hands what is on a GPU to NCCL.

mod agreement;
pub(crate) mod call;
mod fold;
mod gpus;

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, TryLockError};

use tch::{Device, Tensor};

use self::agreement::{Header, Operation};
use self::call::{Communicator, Datatype, Fold};
use self::fold::Folds;
use crate::nccl::Nccl;
use crate::payload::{self, Payload};
use crate::{Error, ProcessGroup, Reduce, Result, activity, env, failure};

/// How [`Mpi`] makes its calls.
///
/// The ranks agree on one set of options when they start: checks are on if all ranks want them, and
/// the smallest `chunk_bytes` counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MpiOptions {
    /// Whether each collective first compares all ranks' calls, so that a disagreement is an error
    /// instead of a hang or wrong memory. It costs an all-reduce of 16 bytes: a few microseconds
    /// within a host, a round trip per doubling of the ranks between hosts.
    pub check: bool,
    /// Larger payloads are handed to MPI in pieces of this many bytes (at most 2^30, since MPI
    /// counts in 32 bits).
    pub chunk_bytes: usize,
}

impl Default for MpiOptions {
    fn default() -> Self {
        MpiOptions { check: true, chunk_bytes: 64 << 20 }
    }
}

impl MpiOptions {
    /// The defaults, with `check` as the environment says ([`env::LORACT_CHECK_COLLECTIVES`]).
    pub fn from_environment() -> MpiOptions {
        MpiOptions { check: env::check_collectives(), ..MpiOptions::default() }
    }

    /// The same with a `chunk_bytes` that every dtype divides and MPI can count.
    fn sanitized(self) -> MpiOptions {
        MpiOptions { chunk_bytes: self.chunk_bytes.clamp(8, 1 << 30) / 8 * 8, ..self }
    }
}

/// All ranks of an MPI job (`MPI_COMM_WORLD`, or a duplicate of it), tensors on the CPU, and on one
/// GPU of each rank after [`ProcessGroup::with_device`].
///
/// A duplicate ends with its last use, quietly. The group itself, dropped at the end of a run, it
/// waits for the other ranks and calls `MPI_Finalize`. Dropped during a panic, after an error of
/// MPI, or while other ranks still make collective calls, it ends the job ([`crate::abort`])
/// instead.
#[derive(Debug)]
pub struct Mpi {
    communicator: Communicator,
    is_duplicate: bool,
    rank: usize,
    local_rank: usize,
    hosts: Vec<String>,
    /// The way of tensors on a GPU.
    nccl: Option<Nccl>,
    options: MpiOptions,
    folds: Folds,
    /// Who holds it has the turn to call MPI; others get an error and do not wait, for two threads
    /// that take turns by chance would do so differently on each rank.
    turn: Mutex<()>,
    /// Shared with the duplicates, as is the next.
    sent: Arc<AtomicU64>,
    /// Whether the ranks can have lost step: then nothing collective is attempted any more.
    broken: Arc<AtomicBool>,
}

impl Mpi {
    /// Initialises MPI with the options of the environment.
    ///
    /// # Errors
    /// See [`Mpi::initialize_with`].
    pub fn initialize() -> Result<Mpi> {
        Mpi::initialize_with(MpiOptions::from_environment())
    }

    /// Initialises MPI and meets the other ranks.
    ///
    /// Asks for thread level *multiple*, so that any thread may make the calls and a panic on any
    /// thread can end the job. As MPI's own start, it sets environment variables (two for Open MPI,
    /// where they are not set): no other thread may be reading them.
    ///
    /// # Errors
    /// MPI was up already, it offers less than *serialized*, or one of the first calls failed.
    pub fn initialize_with(options: MpiOptions) -> Result<Mpi> {
        call::initialize()?;
        let (rank, world_size) = (call::rank()?, call::world_size()?);
        let host = failure::host_name();
        failure::set_identity(rank, &host);

        let options = options.sanitized();
        let communicator = Communicator::world();
        let agreed = communicator
            .all_reduce_min("initialize", [u64::from(options.check), options.chunk_bytes as u64])?;
        let options = MpiOptions { check: agreed[0] == 1, chunk_bytes: agreed[1] as usize };
        let mut group = Mpi {
            communicator,
            is_duplicate: false,
            rank,
            local_rank: communicator.local_rank()?,
            hosts: vec![host; world_size],
            nccl: None,
            options,
            folds: Folds::create()?,
            turn: Mutex::default(),
            sent: Arc::default(),
            broken: Arc::default(),
        };
        let names = group.all_gather_bytes(group.hosts[rank].as_bytes())?;
        group.hosts = names.iter().map(|name| String::from_utf8_lossy(name).into_owned()).collect();
        group.sent.store(0, Ordering::Relaxed);
        Ok(group)
    }

    /// The options that the ranks agreed on.
    pub fn options(&self) -> MpiOptions {
        self.options
    }

    /// Takes the turn to call MPI, and notes for the heartbeat which call it is.
    fn take_turn(&self, operation: Operation) -> Result<Turn<'_>> {
        let lock = match self.turn.try_lock() {
            Ok(lock) => lock,
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            Err(TryLockError::WouldBlock) => {
                return Err(Error::Busy { operation: operation.name(), rank: self.rank });
            }
        };
        Ok(Turn { _lock: lock, _inside: activity::enter(operation.name()) })
    }

    /// Compares this call with those of the other ranks. A call that is wrong here (`local` is an
    /// error) takes part too, or the others would wait for it.
    fn agree<T>(&self, header: Header, local: Result<T>) -> Result<T> {
        if self.options.check {
            let agreement = agreement::compare(header, self.communicator, self.rank, &self.hosts);
            self.note_failure(&agreement);
            // A mistake of this rank says more than that the others made none.
            return local.and_then(|value| agreement.map(|()| value));
        }
        if local.is_err() {
            self.broken.store(true, Ordering::Relaxed);
        }
        local
    }

    /// After an error of MPI or NCCL itself, the ranks may be anywhere.
    fn note_failure<T>(&self, result: &Result<T>) {
        if matches!(result, Err(Error::Mpi { .. } | Error::Nccl { .. })) {
            self.broken.store(true, Ordering::Relaxed);
        }
    }

    /// Agrees on a call that carries a tensor.
    fn agree_on_tensor(
        &self,
        operation: Operation,
        tensor: &Tensor,
        detail: u64,
    ) -> Result<Payload> {
        let gpu = self.nccl.as_ref().map(Nccl::device);
        let payload = match operation {
            Operation::ReduceScatter => Payload::from_rows(tensor, gpu, self.world_size()),
            _ => Payload::new(tensor, gpu),
        };
        match payload {
            Ok(payload) => {
                let root = if operation == Operation::Broadcast {
                    self.valid_root(operation, detail as usize)
                } else {
                    Ok(())
                };
                let header = match root {
                    Ok(()) => Header::with_payload(operation, detail, payload),
                    Err(_) => Header::refused(operation, payload::Refusal::Root),
                };
                self.agree(header, root.map(|()| payload))
            }
            Err(refusal) => {
                let (shape, dtype) = payload::describe(tensor);
                let error = Error::Unsupported {
                    operation: operation.name(),
                    reason: refusal.reason(),
                    shape,
                    dtype,
                    rank: self.rank,
                };
                self.agree(Header::refused(operation, refusal), Err(error))
            }
        }
    }

    fn valid_root(&self, operation: Operation, root: usize) -> Result<()> {
        if root < self.world_size() {
            return Ok(());
        }
        Err(Error::Root {
            operation: operation.name(),
            root,
            world_size: self.world_size(),
            rank: self.rank,
        })
    }

    /// Broadcasts memory whose length all ranks know.
    fn broadcast_memory(
        &self,
        operation: &'static str,
        bytes: &mut [u8],
        root: usize,
    ) -> Result<()> {
        bytes
            .chunks_mut(self.options.chunk_bytes)
            .try_for_each(|chunk| self.communicator.broadcast(operation, chunk, root))
    }

    /// Gathers memory, `lengths[rank]` bytes from each rank, one after the other into `all`.
    fn gather_memory(
        &self,
        operation: &'static str,
        own: &[u8],
        lengths: &[usize],
        all: &mut [u8],
    ) -> Result<()> {
        if all.len() <= self.options.chunk_bytes {
            return self.communicator.all_gather(operation, own, lengths, all);
        }
        // Too much for MPI's 32-bit counts in one call: rank after rank.
        let mut rest = all;
        for (root, &length) in lengths.iter().enumerate() {
            let (part, others) = rest.split_at_mut(length);
            if root == self.rank {
                part.copy_from_slice(own);
            }
            self.broadcast_memory(operation, part, root)?;
            rest = others;
        }
        Ok(())
    }

    /// Combines memory, one part of equal length for each rank, and leaves this rank's part in
    /// `own`.
    fn scatter_memory(
        &self,
        bytes: &[u8],
        own: &mut [u8],
        datatype: Datatype,
        fold: Fold,
    ) -> Result<()> {
        const OPERATION: &str = "reduce_scatter";
        if bytes.is_empty() {
            return Ok(());
        }
        if bytes.len() <= self.options.chunk_bytes {
            return self.communicator.reduce_scatter(OPERATION, bytes, own, datatype, fold);
        }
        // Too much for MPI's 32-bit counts in one call: rank after rank.
        for (root, part) in bytes.chunks(own.len()).enumerate() {
            for (send, receive) in
                part.chunks(self.options.chunk_bytes).zip(own.chunks_mut(self.options.chunk_bytes))
            {
                self.communicator.reduce(
                    OPERATION,
                    send,
                    (root == self.rank).then_some(receive),
                    datatype,
                    fold,
                    root,
                )?;
            }
        }
        Ok(())
    }

    /// Another group of the same ranks, which all make it now.
    fn another(&self, nccl: Option<Nccl>) -> Result<Mpi> {
        let communicator = self.communicator.duplicate();
        self.note_failure(&communicator);
        Ok(Mpi {
            communicator: communicator?,
            is_duplicate: true,
            rank: self.rank,
            local_rank: self.local_rank,
            hosts: self.hosts.clone(),
            nccl,
            options: self.options,
            folds: self.folds,
            turn: Mutex::default(),
            sent: self.sent.clone(),
            broken: self.broken.clone(),
        })
    }

    fn count_sent(&self, bytes: usize) {
        self.sent.fetch_add(bytes as u64, Ordering::Relaxed);
    }
}

/// The turn to call MPI.
struct Turn<'a> {
    _lock: MutexGuard<'a, ()>,
    _inside: activity::Inside,
}

impl ProcessGroup for Mpi {
    fn rank(&self) -> usize {
        self.rank
    }

    fn world_size(&self) -> usize {
        self.hosts.len()
    }

    fn local_rank(&self) -> usize {
        self.local_rank
    }

    fn host(&self, rank: usize) -> &str {
        self.hosts.get(rank).map_or("unknown", String::as_str)
    }

    fn all_reduce(&self, tensor: &mut Tensor, operation: Reduce) -> Result<()> {
        let _turn = self.take_turn(Operation::AllReduce)?;
        let payload = self.agree_on_tensor(Operation::AllReduce, tensor, operation as u64)?;
        self.count_sent(payload.bytes());
        if payload.on_gpu {
            return self.by_nccl(Operation::AllReduce, &payload, |nccl| {
                nccl.all_reduce(tensor, &payload, operation)
            });
        }
        let bytes = payload::bytes_mut(tensor, &payload);
        let datatype = Datatype::from_element(payload.element);
        let fold = self.folds.get(payload.element, operation);
        let mut pieces = bytes.chunks_mut(self.options.chunk_bytes);
        let result = pieces.try_for_each(|piece| {
            self.communicator.all_reduce("all_reduce", piece, datatype, fold)
        });
        self.note_failure(&result);
        result
    }

    fn reduce_scatter(&self, tensor: &Tensor, operation: Reduce) -> Result<Tensor> {
        let _turn = self.take_turn(Operation::ReduceScatter)?;
        let payload = self.agree_on_tensor(Operation::ReduceScatter, tensor, operation as u64)?;
        self.count_sent(payload.bytes());
        let mut own = payload::row_like(tensor)?;
        if payload.on_gpu {
            self.by_nccl(Operation::ReduceScatter, &payload, |nccl| {
                nccl.reduce_scatter(tensor, &payload, operation, &mut own)
            })?;
            return Ok(own);
        }
        let row = Payload { numel: payload.numel / self.world_size(), ..payload };
        let fold = self.folds.get(payload.element, operation);
        let (bytes, into) = (payload::bytes(tensor, &payload), payload::bytes_mut(&mut own, &row));
        let result =
            self.scatter_memory(bytes, into, Datatype::from_element(payload.element), fold);
        self.note_failure(&result);
        result.map(|()| own)
    }

    fn broadcast(&self, tensor: &mut Tensor, root: usize) -> Result<()> {
        let _turn = self.take_turn(Operation::Broadcast)?;
        let payload = self.agree_on_tensor(Operation::Broadcast, tensor, root as u64)?;
        if root == self.rank {
            self.count_sent(payload.bytes());
        }
        if payload.on_gpu {
            return self.by_nccl(Operation::Broadcast, &payload, |nccl| {
                nccl.broadcast(tensor, &payload, root)
            });
        }
        let bytes = payload::bytes_mut(tensor, &payload);
        let result = self.broadcast_memory("broadcast", bytes, root);
        self.note_failure(&result);
        result
    }

    fn all_gather(&self, tensor: &Tensor) -> Result<Tensor> {
        let _turn = self.take_turn(Operation::AllGather)?;
        let payload = self.agree_on_tensor(Operation::AllGather, tensor, 0)?;
        self.count_sent(payload.bytes());
        let mut gathered = payload::gathered_like(tensor, &payload, self.world_size())?;
        if payload.on_gpu {
            self.by_nccl(Operation::AllGather, &payload, |nccl| {
                nccl.all_gather(tensor, &payload, &mut gathered)
            })?;
            return Ok(gathered);
        }
        let own = payload::bytes(tensor, &payload);
        let everything = Payload { numel: payload.numel * self.world_size(), ..payload };
        let lengths = vec![own.len(); self.world_size()];
        let result = self.gather_memory(
            "all_gather",
            own,
            &lengths,
            payload::bytes_mut(&mut gathered, &everything),
        );
        self.note_failure(&result);
        result.map(|()| gathered)
    }

    fn barrier(&self) -> Result<()> {
        let _turn = self.take_turn(Operation::Barrier)?;
        self.agree(Header::new(Operation::Barrier, 0), Ok(()))?;
        let result = self.communicator.barrier("barrier");
        self.note_failure(&result);
        result
    }

    fn broadcast_bytes(&self, bytes: &mut Vec<u8>, root: usize) -> Result<()> {
        let _turn = self.take_turn(Operation::BroadcastBytes)?;
        let local = self.valid_root(Operation::BroadcastBytes, root);
        let header = match local {
            Ok(()) => Header::new(Operation::BroadcastBytes, root as u64),
            Err(_) => Header::refused(Operation::BroadcastBytes, payload::Refusal::Root),
        };
        self.agree(header, local)?;
        let result = (|| {
            let mut length = (bytes.len() as u64).to_ne_bytes();
            self.communicator.broadcast("broadcast_bytes", &mut length, root)?;
            bytes.resize(u64::from_ne_bytes(length) as usize, 0);
            self.broadcast_memory("broadcast_bytes", bytes, root)
        })();
        if root == self.rank {
            self.count_sent(bytes.len());
        }
        self.note_failure(&result);
        result
    }

    fn all_gather_bytes(&self, bytes: &[u8]) -> Result<Vec<Vec<u8>>> {
        let _turn = self.take_turn(Operation::AllGatherBytes)?;
        self.agree(Header::new(Operation::AllGatherBytes, 0), Ok(()))?;
        self.count_sent(bytes.len());
        let result = (|| {
            let own = (bytes.len() as u64).to_ne_bytes();
            let mut lengths = vec![0_u64; self.world_size()];
            let sizes = vec![own.len(); self.world_size()];
            self.communicator.all_gather(
                "all_gather_bytes",
                &own,
                &sizes,
                call::as_bytes_mut(&mut lengths),
            )?;
            let lengths: Vec<usize> = lengths.iter().map(|&length| length as usize).collect();
            let mut all = vec![0; lengths.iter().sum()];
            self.gather_memory("all_gather_bytes", bytes, &lengths, &mut all)?;
            let mut rest = all.as_slice();
            let mut parts = Vec::with_capacity(lengths.len());
            for length in lengths {
                let (part, others) = rest.split_at(length);
                parts.push(part.to_vec());
                rest = others;
            }
            Ok(parts)
        })();
        self.note_failure(&result);
        result
    }

    fn duplicate(&self) -> Result<Arc<dyn ProcessGroup>> {
        let _turn = self.take_turn(Operation::Duplicate)?;
        self.agree(Header::new(Operation::Duplicate, 0), Ok(()))?;
        call::check_multiple()?;
        Ok(Arc::new(self.another(self.nccl.as_ref().map(Nccl::duplicate))?))
    }

    fn with_device(&self, device: Device) -> Result<Arc<dyn ProcessGroup>> {
        if device == Device::Cpu { self.join_gpus(None) } else { self.join_gpus(Some(device)) }
            .map(|group| Arc::new(group) as Arc<dyn ProcessGroup>)
    }

    fn sent_bytes(&self) -> u64 {
        self.sent.load(Ordering::Relaxed)
    }
}

impl Drop for Mpi {
    fn drop(&mut self) {
        if self.is_duplicate {
            return;
        }
        if std::thread::panicking() || self.broken.load(Ordering::Relaxed) {
            crate::abort("leaves the job after an error");
        }
        // `MPI_Finalize` waits for all ranks. One that still makes collective calls would not come:
        // then both learn it here.
        if let Err(error) = self.agree(Header::new(Operation::Leave, 0), Ok(())) {
            crate::abort(&error.to_string());
        }
        if let Err(error) = call::finalize() {
            crate::abort(&error.to_string());
        }
    }
}
