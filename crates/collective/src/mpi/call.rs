//! MPI's functions with slices for pointers and errors for codes.
//!
//! rsmpi's own collectives drop the codes, so its raw bindings are used.
#![allow(unsafe_code)]

use std::ffi::c_int;
use std::ptr;

use mpi::ffi;

use crate::payload::Element;
use crate::{Error, Result};

unsafe extern "C" {
    /// `MPI_IN_PLACE`, a macro of each MPI's header (`in_place.c`).
    #[allow(non_upper_case_globals, reason = "it is C's")]
    safe static loract_mpi_in_place: *const std::ffi::c_void;
}

/// A handle of MPI's to a type of number. Predefined, so it is never freed.
#[derive(Debug, Clone, Copy)]
pub(super) struct Datatype {
    handle: ffi::MPI_Datatype,
    size: usize,
}

impl Datatype {
    pub(super) fn from_element(element: Element) -> Datatype {
        // SAFETY: these are constants of the MPI library, set before `main`.
        let handle = unsafe {
            match element {
                Element::F32 => ffi::RSMPI_FLOAT,
                Element::F64 => ffi::RSMPI_DOUBLE,
                Element::F16 | Element::Bf16 => ffi::RSMPI_UINT16_T,
                Element::I64 => ffi::RSMPI_INT64_T,
            }
        };
        Datatype { handle, size: element.kind().elt_size_in_bytes() }
    }

    fn u64() -> Datatype {
        // SAFETY: as above.
        Datatype { handle: unsafe { ffi::RSMPI_UINT64_T }, size: 8 }
    }

    fn byte() -> Datatype {
        // SAFETY: as above.
        Datatype { handle: unsafe { ffi::RSMPI_UINT8_T }, size: 1 }
    }

    /// How many numbers `bytes` holds. Callers pass whole numbers of at most 2^30 bytes.
    fn count(self, bytes: &[u8]) -> c_int {
        debug_assert!(bytes.len().is_multiple_of(self.size));
        c_int::try_from(bytes.len() / self.size)
            .unwrap_or_else(|_| unreachable!("payloads are cut into pieces that MPI can count"))
    }
}

/// A combination of two numbers: predefined, or made by [`create_fold`] for the life of the
/// process.
#[derive(Debug, Clone, Copy)]
pub(super) struct Fold(ffi::MPI_Op);

// SAFETY: a handle names an object inside the MPI library, which is initialised for threads, and is
// never freed.
unsafe impl Send for Fold {}
// SAFETY: as above; no call changes the object.
unsafe impl Sync for Fold {}

impl Fold {
    pub(super) fn sum() -> Fold {
        // SAFETY: a constant of the MPI library, set before `main`.
        Fold(unsafe { ffi::RSMPI_SUM })
    }

    pub(super) fn max() -> Fold {
        // SAFETY: as above.
        Fold(unsafe { ffi::RSMPI_MAX })
    }

    pub(super) fn min() -> Fold {
        // SAFETY: as above.
        Fold(unsafe { ffi::RSMPI_MIN })
    }
}

/// Signature of a combination that MPI calls: `(input, input and output, number of elements,
/// datatype)`.
pub(super) type FoldFunction = unsafe extern "C" fn(
    *mut std::ffi::c_void,
    *mut std::ffi::c_void,
    *mut c_int,
    *mut ffi::MPI_Datatype,
);

/// Registers a commutative combination.
pub(super) fn create_fold(function: FoldFunction) -> Result<Fold> {
    // SAFETY: a null handle of either MPI's type is only overwritten.
    let mut op = unsafe { ffi::RSMPI_SUM };
    // SAFETY: the function keeps to the contract of MPI_User_function, and lives as long as the
    // program.
    check("initialize", unsafe { ffi::MPI_Op_create(Some(function), 1, &mut op) })?;
    Ok(Fold(op))
}

/// Turns a code into an error with MPI's words.
fn check(operation: &'static str, code: c_int) -> Result<()> {
    if code == ffi::MPI_SUCCESS as c_int {
        return Ok(());
    }
    let mut text = [0_u8; ffi::MPI_MAX_ERROR_STRING as usize + 1];
    let mut length = 0;
    // SAFETY: the buffer has the length that the standard asks for.
    let translated = unsafe { ffi::MPI_Error_string(code, text.as_mut_ptr().cast(), &mut length) };
    let length = if translated == ffi::MPI_SUCCESS as c_int {
        usize::try_from(length).unwrap_or(0).min(text.len())
    } else {
        0
    };
    let message = String::from_utf8_lossy(&text[..length]).into_owned();
    Err(Error::Mpi { operation, code, message, rank: rank().unwrap_or(0) })
}

/// Whether MPI's functions may be called: after its start and before its end.
pub(crate) fn is_up() -> bool {
    let (mut initialised, mut finalised) = (0, 0);
    // SAFETY: both may be called at any time, from any thread (MPI 3.1, section 8.7).
    let known =
        unsafe { (ffi::MPI_Initialized(&mut initialised), ffi::MPI_Finalized(&mut finalised)) };
    known == (0, 0) && initialised != 0 && finalised == 0
}

/// What Open MPI is told, unless the environment says otherwise; other MPIs do not look.
const OPEN_MPI: [(&str, &str); 2] = [
    // Over one connection its TCP sends and receives by turns for much of a large sum, which then
    // takes half as long again.
    ("OMPI_MCA_btl_tcp_links", "2"),
    // A thread that waits for other ranks polls. Where backward wants its core, that shall have it.
    ("OMPI_MCA_mpi_yield_when_idle", "1"),
];

/// Starts MPI and has it return codes instead of ending the process.
pub(super) fn initialize() -> Result<()> {
    let mut started = 0;
    // SAFETY: may be called at any time.
    check("initialize", unsafe { ffi::MPI_Initialized(&mut started) })?;
    if started != 0 {
        return Err(Error::AlreadyInitialised);
    }
    for (name, value) in OPEN_MPI.iter().filter(|(name, _)| std::env::var_os(name).is_none()) {
        // SAFETY: as the next call, which changes the environment too, this is for a time when no
        // other thread reads it.
        unsafe { std::env::set_var(name, value) };
    }
    let mut provided = 0;
    // SAFETY: null arguments are allowed since MPI 2.
    let code = unsafe {
        ffi::MPI_Init_thread(
            ptr::null_mut(),
            ptr::null_mut(),
            ffi::RSMPI_THREAD_MULTIPLE,
            &mut provided,
        )
    };
    if code != ffi::MPI_SUCCESS as c_int {
        // Not even the text of the code may be asked for now.
        return Err(Error::Mpi {
            operation: "initialize",
            code,
            message: "MPI_Init_thread failed".into(),
            rank: 0,
        });
    }
    // SAFETY: MPI is up, and both are its constants.
    check("initialize", unsafe {
        ffi::MPI_Comm_set_errhandler(ffi::RSMPI_COMM_WORLD, ffi::RSMPI_ERRORS_RETURN)
    })?;
    // SAFETY: a constant of the MPI library.
    if provided < unsafe { ffi::RSMPI_THREAD_SERIALIZED } {
        finalize()?;
        return Err(Error::ThreadLevel { provided, needed: "serialized (2) or multiple (3)" });
    }
    Ok(())
}

/// Fails unless several threads may be in MPI at once.
pub(super) fn check_multiple() -> Result<()> {
    let mut provided = 0;
    // SAFETY: MPI is up.
    check("duplicate", unsafe { ffi::MPI_Query_thread(&mut provided) })?;
    // SAFETY: a constant of the MPI library.
    if provided < unsafe { ffi::RSMPI_THREAD_MULTIPLE } {
        return Err(Error::ThreadLevel { provided, needed: "multiple (3)" });
    }
    Ok(())
}

/// Ends MPI; waits for the other ranks.
pub(super) fn finalize() -> Result<()> {
    // SAFETY: MPI is up: a group calls this once, at its end.
    let code = unsafe { ffi::MPI_Finalize() };
    if code == ffi::MPI_SUCCESS as c_int {
        return Ok(());
    }
    Err(Error::Mpi { operation: "finalize", code, message: "MPI_Finalize failed".into(), rank: 0 })
}

/// Has MPI end the whole job, if it is up.
pub(crate) fn abort_if_up(code: i32) {
    if is_up() {
        // SAFETY: MPI is up. Any thread may call this; should MPI be in a state where it cannot,
        // the caller ends the process.
        unsafe { ffi::MPI_Abort(ffi::RSMPI_COMM_WORLD, code) };
    }
}

/// This process's number.
pub(super) fn rank() -> Result<usize> {
    let mut rank = 0;
    // SAFETY: MPI is up.
    let code = unsafe { ffi::MPI_Comm_rank(ffi::RSMPI_COMM_WORLD, &mut rank) };
    // `check` asks for the rank: not for this error.
    if code != ffi::MPI_SUCCESS as c_int {
        return Err(Error::Mpi {
            operation: "initialize",
            code,
            message: "MPI_Comm_rank failed".into(),
            rank: 0,
        });
    }
    Ok(usize::try_from(rank).unwrap_or(0))
}

/// The number of processes.
pub(super) fn world_size() -> Result<usize> {
    let mut size = 0;
    // SAFETY: MPI is up.
    check("initialize", unsafe { ffi::MPI_Comm_size(ffi::RSMPI_COMM_WORLD, &mut size) })?;
    Ok(usize::try_from(size).unwrap_or(1))
}

/// The ranks among which a call is made: a handle of MPI's, valid until its end.
#[derive(Debug, Clone, Copy)]
pub(super) struct Communicator(ffi::MPI_Comm);

// SAFETY: a handle names an object inside the MPI library, which is initialised for threads, and is
// never freed.
unsafe impl Send for Communicator {}
// SAFETY: as above; that two threads do not call at the same time on one communicator is the
// caller's part.
unsafe impl Sync for Communicator {}

impl Communicator {
    /// All ranks of the job.
    pub(super) fn world() -> Communicator {
        // SAFETY: a constant of the MPI library, set before `main`.
        Communicator(unsafe { ffi::RSMPI_COMM_WORLD })
    }

    /// Another communicator of the same ranks, for the life of the process: calls on the two know
    /// nothing of each other. All ranks call it.
    pub(super) fn duplicate(self) -> Result<Communicator> {
        // The handle is only overwritten.
        let mut duplicate = self.0;
        // SAFETY: MPI is up, and all ranks of this communicator come here. Its error handler is
        // handed on.
        check("duplicate", unsafe { ffi::MPI_Comm_dup(self.0, &mut duplicate) })?;
        Ok(Communicator(duplicate))
    }

    /// This rank's number among those that share memory with it. All ranks call it.
    pub(super) fn local_rank(self) -> Result<usize> {
        let (mut shared, mut rank) = (self.0, 0);
        // SAFETY: MPI is up, all ranks of this communicator come here, and the handle is only
        // overwritten.
        let code = unsafe {
            ffi::MPI_Comm_split_type(
                self.0,
                ffi::RSMPI_COMM_TYPE_SHARED,
                0,
                ffi::RSMPI_INFO_NULL,
                &mut shared,
            )
        };
        check("initialize", code)?;
        // SAFETY: MPI has just made the communicator, which is freed after its only use.
        let codes =
            unsafe { [ffi::MPI_Comm_rank(shared, &mut rank), ffi::MPI_Comm_free(&mut shared)] };
        codes.into_iter().try_for_each(|code| check("initialize", code))?;
        Ok(usize::try_from(rank).unwrap_or(0))
    }

    /// Replaces `bytes` by their combination over all ranks. They are aligned for the datatype.
    pub(super) fn all_reduce(
        self,
        operation: &'static str,
        bytes: &mut [u8],
        datatype: Datatype,
        fold: Fold,
    ) -> Result<()> {
        let count = datatype.count(bytes);
        // SAFETY: the buffer holds `count` numbers; all ranks pass the same count, datatype and
        // fold.
        let code = unsafe {
            ffi::MPI_Allreduce(
                loract_mpi_in_place,
                bytes.as_mut_ptr().cast(),
                count,
                datatype.handle,
                fold.0,
                self.0,
            )
        };
        check(operation, code)
    }

    /// Combines `send` of all ranks, as many equal parts as there are ranks, and leaves this rank's
    /// part in `receive`. Both are aligned for the datatype.
    pub(super) fn reduce_scatter(
        self,
        operation: &'static str,
        send: &[u8],
        receive: &mut [u8],
        datatype: Datatype,
        fold: Fold,
    ) -> Result<()> {
        debug_assert!(receive.is_empty() || send.len().is_multiple_of(receive.len()));
        // SAFETY: `send` holds `count` numbers for each rank and `receive` so many; they do not
        // overlap; all ranks pass the same count, datatype and fold.
        let code = unsafe {
            let count = datatype.count(receive);
            ffi::MPI_Reduce_scatter_block(
                send.as_ptr().cast(),
                receive.as_mut_ptr().cast(),
                count,
                datatype.handle,
                fold.0,
                self.0,
            )
        };
        check(operation, code)
    }

    /// Combines `send` of all ranks into `receive`, which rank `root` alone has. Both are aligned
    /// for the datatype.
    pub(super) fn reduce(
        self,
        operation: &'static str,
        send: &[u8],
        receive: Option<&mut [u8]>,
        datatype: Datatype,
        fold: Fold,
        root: usize,
    ) -> Result<()> {
        assert!(receive.as_ref().is_none_or(|receive| receive.len() == send.len()));
        let into = receive.map_or(ptr::null_mut(), <[u8]>::as_mut_ptr);
        // SAFETY: `send` holds `count` numbers, and so does `into` on the root; no other rank's is
        // looked at. All ranks pass the same count, datatype, fold, and a root below the number of
        // ranks, which is a c_int.
        let code = unsafe {
            ffi::MPI_Reduce(
                send.as_ptr().cast(),
                into.cast(),
                datatype.count(send),
                datatype.handle,
                fold.0,
                root as c_int,
                self.0,
            )
        };
        check(operation, code)
    }

    /// The smallest of each number over all ranks.
    pub(super) fn all_reduce_min<const N: usize>(
        self,
        operation: &'static str,
        mut numbers: [u64; N],
    ) -> Result<[u64; N]> {
        self.all_reduce(operation, as_bytes_mut(&mut numbers), Datatype::u64(), Fold::min())?;
        Ok(numbers)
    }

    /// Replaces `bytes` by those of `root`.
    pub(super) fn broadcast(
        self,
        operation: &'static str,
        bytes: &mut [u8],
        root: usize,
    ) -> Result<()> {
        let byte = Datatype::byte();
        // SAFETY: the buffer holds `count` bytes; all ranks pass the same count and a root below
        // the number of ranks, which is a c_int.
        let code = unsafe {
            ffi::MPI_Bcast(
                bytes.as_mut_ptr().cast(),
                byte.count(bytes),
                byte.handle,
                root as c_int,
                self.0,
            )
        };
        check(operation, code)
    }

    /// Puts every rank's `own`, of `lengths[rank]` bytes, one after the other into `all`.
    pub(super) fn all_gather(
        self,
        operation: &'static str,
        own: &[u8],
        lengths: &[usize],
        all: &mut [u8],
    ) -> Result<()> {
        assert_eq!(all.len(), lengths.iter().sum::<usize>());
        if all.is_empty() {
            return Ok(());
        }
        // The pointer of an empty slice is a small number, and may be the one that means
        // MPI_IN_PLACE.
        const NOTHING: &[u8] = &[0];
        let start = if own.is_empty() { NOTHING.as_ptr() } else { own.as_ptr() };
        let byte = Datatype::byte();
        // No length and no offset is larger than the sum, which the caller keeps below 2^31.
        let total = byte.count(all);
        let counts: Vec<c_int> = lengths.iter().map(|&length| length as c_int).collect();
        let offsets: Vec<c_int> = counts
            .iter()
            .scan(0, |offset, &count| {
                let start = *offset;
                *offset += count;
                Some(start)
            })
            .collect();
        debug_assert_eq!(total, counts.iter().sum::<c_int>());
        // SAFETY: `own` and `all` hold what counts and offsets say; all ranks pass the same counts,
        // and the arrays outlive the call.
        let code = unsafe {
            ffi::MPI_Allgatherv(
                start.cast(),
                byte.count(own),
                byte.handle,
                all.as_mut_ptr().cast(),
                counts.as_ptr(),
                offsets.as_ptr(),
                byte.handle,
                self.0,
            )
        };
        check(operation, code)
    }

    /// Returns when all ranks have come here.
    pub(super) fn barrier(self, operation: &'static str) -> Result<()> {
        // SAFETY: MPI is up.
        check(operation, unsafe { ffi::MPI_Barrier(self.0) })
    }
}

/// Numbers as their bytes.
pub(super) fn as_bytes_mut(numbers: &mut [u64]) -> &mut [u8] {
    // SAFETY: the same memory; every bit pattern is a u64 and a byte, and bytes need no alignment.
    unsafe {
        std::slice::from_raw_parts_mut(numbers.as_mut_ptr().cast(), std::mem::size_of_val(numbers))
    }
}
