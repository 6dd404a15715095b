//! A communicator of NCCL's. It never blocks: calls are begun, and asked for until they are done,
//! so that a deadline can end them.

use std::ffi::{c_char, c_int, c_void};
use std::ptr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use cudarc::nccl::sys::{ncclComm_t, ncclConfig_t, ncclDataType_t, ncclRedOp_t, ncclUniqueId};

use cuda::Gpu;

use super::library::{Code, IN_PROGRESS, Library, SUCCESS};
use crate::Reduce;
use crate::payload::Element;

/// By which ranks find each other: made by one, passed on to all.
pub(crate) type Id = [u8; ID_BYTES];
pub(crate) const ID_BYTES: usize = size_of::<ncclUniqueId>();

/// To queue a call takes microseconds; what takes so long does not come.
const QUEUEING: Duration = Duration::from_secs(60);

/// To leave waits for what is on its way to other ranks, and those may be elsewhere.
const LEAVING: Duration = Duration::from_secs(10);

/// How often it is asked whether NCCL has met an error after a call was queued.
const WATCH: Duration = Duration::from_secs(1);

/// What `NCCL_CONFIG_INITIALIZER` sets: the header's macro in numbers.
const MAGIC: u32 = 0xcafe_beef;
const UNDEFINED: c_int = c_int::MIN;
/// The version whose configuration cudarc's feature `nccl-02024` describes; later ones read it,
/// too.
const VERSION: u32 = 22403;

/// The ranks of a group, one GPU each.
pub(crate) struct Communicator {
    library: &'static Library,
    /// Held during a call.
    handle: Mutex<Handle>,
    /// Absent in tests: memory of the host, and no stream.
    gpu: Option<Gpu>,
}

struct Handle(ncclComm_t);

// SAFETY: a communicator belongs to no thread; one at a time uses it, by the lock around it.
unsafe impl Send for Handle {}

/// A new identity.
pub(crate) fn new_id() -> Result<Id, String> {
    let library = Library::get()?;
    let mut id = ncclUniqueId { internal: [0; ID_BYTES] };
    // SAFETY: writes an identity.
    match unsafe { (library.get_unique_id)(&mut id) } {
        SUCCESS => Ok(id.internal.map(|byte| byte as u8)),
        code => Err(library.words(code, ptr::null_mut())),
    }
}

impl Communicator {
    /// Meets the other ranks that were given the same `id`, within `deadline`.
    pub(crate) fn meet(
        id: Id,
        rank: usize,
        world_size: usize,
        gpu: Option<Gpu>,
        deadline: Duration,
    ) -> Result<Arc<Communicator>, String> {
        let library = Library::get()?;
        let id = ncclUniqueId { internal: id.map(|byte| byte as c_char) };
        let mut config = ncclConfig_t {
            size: size_of::<ncclConfig_t>(),
            magic: MAGIC,
            version: VERSION,
            blocking: 0,
            cgaClusterSize: UNDEFINED,
            minCTAs: UNDEFINED,
            maxCTAs: UNDEFINED,
            netName: ptr::null(),
            splitShare: UNDEFINED,
        };
        let entered = gpu.map(|gpu| gpu.enter()).transpose()?;
        let mut handle = ptr::null_mut();
        // SAFETY: writes a handle; the configuration is of the version that it states, and is read
        // during the call.
        let code = unsafe {
            (library.comm_init_rank_config)(
                &mut handle,
                world_size as c_int,
                id,
                rank as c_int,
                &mut config,
            )
        };
        drop(entered);
        let communicator =
            Arc::new(Communicator { library, handle: Mutex::new(Handle(handle)), gpu });
        let met = communicator.settle(&communicator.lock(), code, deadline);
        if let Err(error) = met {
            communicator.abandon();
            return Err(error);
        }
        watch(Arc::downgrade(&communicator))
            .map_err(|error| format!("no thread can be started: {error}"))?;
        Ok(communicator)
    }

    /// Replaces `count` numbers at `memory` by their combination over the ranks.
    ///
    /// # Safety
    /// They are there, on this communicator's GPU, and stay until what is queued now is done; all
    /// ranks make the same call.
    pub(crate) unsafe fn all_reduce(
        &self,
        memory: *mut c_void,
        count: usize,
        element: Element,
        reduce: Reduce,
    ) -> Result<(), String> {
        self.call(|library, handle, stream| {
            // SAFETY: the caller's promise; in place is allowed.
            unsafe {
                (library.all_reduce)(
                    memory,
                    memory,
                    count,
                    datatype(element),
                    operation(reduce),
                    handle,
                    stream,
                )
            }
        })
    }

    /// Combines the numbers at `all` over the ranks, `count` for each, and puts this rank's into
    /// `own`.
    ///
    /// # Safety
    /// As for [`Communicator::all_reduce`]; `own` has room for `count`.
    pub(crate) unsafe fn reduce_scatter(
        &self,
        all: *const c_void,
        own: *mut c_void,
        count: usize,
        element: Element,
        reduce: Reduce,
    ) -> Result<(), String> {
        self.call(|library, handle, stream| {
            // SAFETY: the caller's promise.
            unsafe {
                (library.reduce_scatter)(
                    all,
                    own,
                    count,
                    datatype(element),
                    operation(reduce),
                    handle,
                    stream,
                )
            }
        })
    }

    /// Replaces `count` numbers at `memory` by those of rank `root`.
    ///
    /// # Safety
    /// As for [`Communicator::all_reduce`]; `root` is a rank.
    pub(crate) unsafe fn broadcast(
        &self,
        memory: *mut c_void,
        count: usize,
        element: Element,
        root: usize,
    ) -> Result<(), String> {
        self.call(|library, handle, stream| {
            // SAFETY: the caller's promise; in place is allowed.
            unsafe {
                (library.broadcast)(
                    memory,
                    memory,
                    count,
                    datatype(element),
                    root as c_int,
                    handle,
                    stream,
                )
            }
        })
    }

    /// Puts `count` numbers of each rank one after the other into `all`.
    ///
    /// # Safety
    /// As for [`Communicator::all_reduce`]; `all` has room for them.
    pub(crate) unsafe fn all_gather(
        &self,
        own: *const c_void,
        all: *mut c_void,
        count: usize,
        element: Element,
    ) -> Result<(), String> {
        self.call(|library, handle, stream| {
            // SAFETY: the caller's promise.
            unsafe { (library.all_gather)(own, all, count, datatype(element), handle, stream) }
        })
    }

    /// Queues a call where libtorch queues its own work now: it sees what came before, and what
    /// comes later sees its result.
    fn call(
        &self,
        begin: impl FnOnce(&Library, ncclComm_t, *mut c_void) -> Code,
    ) -> Result<(), String> {
        let handle = self.lock();
        let stream = self.gpu.map_or(Ok(ptr::null_mut()), |gpu| gpu.stream())?;
        let _entered = self.gpu.map(|gpu| gpu.enter()).transpose()?;
        let code = begin(self.library, handle.0, stream);
        self.settle(&handle, code, QUEUEING)
    }

    /// Waits until a call that was begun is done or queued.
    fn settle(&self, handle: &Handle, mut code: Code, deadline: Duration) -> Result<(), String> {
        let begun = Instant::now();
        while code == IN_PROGRESS {
            match begun.elapsed() {
                waited if waited > deadline => {
                    return Err(format!("it is not done after {} s", deadline.as_secs()));
                }
                waited if waited > Duration::from_millis(1) => {
                    std::thread::sleep(Duration::from_millis(1))
                }
                _ => std::thread::yield_now(),
            }
            code = self.state(handle);
        }
        if code == SUCCESS { Ok(()) } else { Err(self.library.words(code, handle.0)) }
    }

    /// How its last call fares.
    fn state(&self, handle: &Handle) -> Code {
        let mut state = SUCCESS;
        // SAFETY: the handle is NCCL's, valid until it is aborted; writes a code.
        let code = unsafe { (self.library.comm_get_async_error)(handle.0, &mut state) };
        if code == SUCCESS { state } else { code }
    }

    /// Ends it without a word to the others.
    fn abandon(&self) {
        let mut handle = self.lock();
        let gone = std::mem::replace(&mut handle.0, ptr::null_mut());
        if !gone.is_null() {
            // SAFETY: the handle is NCCL's, and this is its last use.
            unsafe { (self.library.comm_abort)(gone) };
        }
    }

    fn lock(&self) -> MutexGuard<'_, Handle> {
        self.handle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Communicator {
    fn drop(&mut self) {
        if let Some(gpu) = self.gpu {
            // What is queued is done first.
            tch::Cuda::synchronize(gpu.index() as i64);
        }
        let handle = self.lock();
        if handle.0.is_null() {
            return;
        }
        // The GPU may be done, and what it sent still on its way: to abort would take it from the
        // ranks that wait for it. SAFETY: the handle is NCCL's.
        let code = unsafe { (self.library.comm_finalize)(handle.0) };
        let end = match self.settle(&handle, code, LEAVING) {
            Ok(()) => self.library.comm_destroy,
            Err(_) => self.library.comm_abort,
        };
        // SAFETY: as above, and this is its last use.
        unsafe { end(handle.0) };
    }
}

/// Asks now and then whether what was queued has failed, as nobody else would: then the job ends.
fn watch(communicator: Weak<Communicator>) -> std::io::Result<()> {
    let body = move || {
        loop {
            std::thread::sleep(WATCH);
            let Some(communicator) = communicator.upgrade() else { return };
            // Who holds the lock looks for errors, too.
            let Ok(handle) = communicator.handle.try_lock() else { continue };
            let state = communicator.state(&handle);
            if state != SUCCESS && state != IN_PROGRESS {
                crate::abort(&format!(
                    "NCCL failed: {}",
                    communicator.library.words(state, handle.0)
                ));
            }
        }
    };
    std::thread::Builder::new().name("nccl".into()).spawn(body).map(drop)
}

fn datatype(element: Element) -> ncclDataType_t {
    match element {
        Element::F32 => ncclDataType_t::ncclFloat32,
        Element::F64 => ncclDataType_t::ncclFloat64,
        Element::F16 => ncclDataType_t::ncclFloat16,
        Element::Bf16 => ncclDataType_t::ncclBfloat16,
        Element::I64 => ncclDataType_t::ncclInt64,
    }
}

fn operation(reduce: Reduce) -> ncclRedOp_t {
    match reduce {
        Reduce::Sum => ncclRedOp_t::ncclSum,
        Reduce::Max => ncclRedOp_t::ncclMax,
        Reduce::Min => ncclRedOp_t::ncclMin,
    }
}
