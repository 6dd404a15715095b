/// What can go wrong in a process group.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A tensor that no group carries: this rank's own mistake.
    #[error(
        "rank {rank}: {operation} cannot carry a tensor of shape {shape:?} and dtype {dtype}: {reason}; \
         pass a defined, contiguous tensor of f32, f64, f16, bf16 or i64 on the CPU, or on the GPU that the group was made for"
    )]
    Unsupported {
        /// The collective that was called.
        operation: &'static str,
        /// What is wrong with the tensor.
        reason: &'static str,
        /// Its shape.
        shape: Vec<i64>,
        /// Its dtype in tch's words, or `unknown`.
        dtype: String,
        /// The rank that passed it.
        rank: usize,
    },

    /// A root that is no rank of the group.
    #[error("rank {rank}: {operation} from root {root}, but the ranks are 0 to {}; name one of them", world_size - 1)]
    Root {
        /// The collective that was called.
        operation: &'static str,
        /// The root it was given.
        root: usize,
        /// The ranks of the group.
        world_size: usize,
        /// The rank that called.
        rank: usize,
    },

    /// The ranks did not make the same call. Every rank gets this error (or [`Error::Unsupported`],
    /// where the mistake was made).
    #[error(
        "rank {rank}: the ranks disagree in {operation}: {calls}; \
         every rank must make the same calls in the same order, with equal sizes and dtypes"
    )]
    Mismatch {
        /// The collective this rank called.
        operation: &'static str,
        /// This rank.
        rank: usize,
        /// Which rank called what.
        calls: String,
    },

    /// Two threads used one group at the same time; their order, which all ranks must share, would
    /// be left to chance.
    #[error(
        "rank {rank}: {operation} was called while another thread is using the group; make all calls from one thread"
    )]
    Busy {
        /// The collective that was called.
        operation: &'static str,
        /// The rank that called.
        rank: usize,
    },

    /// MPI returned an error code.
    #[error(
        "rank {rank}: MPI failed in {operation}: {message} (code {code}); see the messages of mpirun above, and run `loract doctor`"
    )]
    Mpi {
        /// The collective that was called.
        operation: &'static str,
        /// MPI's error code.
        code: i32,
        /// MPI's words for it.
        message: String,
        /// The rank that called.
        rank: usize,
    },

    /// NCCL, or the GPU under it, failed.
    #[error(
        "rank {rank}: NCCL failed in {operation}: {message}; NCCL_DEBUG=INFO makes it say more"
    )]
    Nccl {
        /// The collective that was called.
        operation: &'static str,
        /// NCCL's words.
        message: String,
        /// The rank that called.
        rank: usize,
    },

    /// The ranks cannot use their GPUs together.
    #[error("the ranks cannot join over NCCL: {ranks}")]
    Gpus {
        /// Which rank cannot, and why.
        ranks: String,
    },

    /// MPI is up already, or has been: it starts once in a process.
    #[error("MPI was initialised before in this process; make one group, and share it")]
    AlreadyInitialised,

    /// The MPI library does not allow calls from a thread other than the first.
    #[error(
        "MPI offers thread level {provided}, but {needed} is needed; use an MPI built with thread support"
    )]
    ThreadLevel {
        /// The level MPI gave.
        provided: i32,
        /// The level that is needed, in words.
        needed: &'static str,
    },

    /// Several ranks were started, but this program cannot talk to the others.
    #[error(
        "this rank was started by {launcher} in a job of {ranks}, but the program was built without MPI; build it with the feature `mpi`"
    )]
    BuiltWithoutMpi {
        /// Who started the ranks.
        launcher: &'static str,
        /// How many ranks there are, in words.
        ranks: String,
    },

    /// A launcher started this process as one of several, and MPI knows of another number: each
    /// would train on its own, in one directory.
    #[error(
        "{variable} is {value}, and MPI has found {world_size} rank{}; {remedy}",
        if *world_size == 1 { "" } else { "s" }
    )]
    Alone {
        /// What the launcher set.
        variable: &'static str,
        /// Its value.
        value: usize,
        /// The ranks that MPI has found; 1 without MPI.
        world_size: usize,
        /// What to do.
        remedy: &'static str,
    },

    /// The ranks cannot reach rank 0 for the heartbeat.
    #[error(
        "rank {rank}: no heartbeat with rank 0: {reason}; allow TCP connections between the hosts on any port, or run without a heartbeat"
    )]
    Heartbeat {
        /// The first rank that cannot.
        rank: usize,
        /// Why not.
        reason: String,
    },

    /// libtorch refused to make or copy a tensor.
    #[error("libtorch failed in a collective")]
    Torch(#[from] tch::TchError),
}

/// The result of a collective.
pub type Result<T, E = Error> = std::result::Result<T, E>;
