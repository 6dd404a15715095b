//! The passes over components as kernels of a GPU: what [`cpu`](super::cpu) and
//! [`Spread`](super::spread::Spread) do on the CPU, bit for bit. The components stay on the GPU;
//! what comes to the host are a few numbers for each component and each row.
//!
//! `coded.cu` holds the kernels, [`cuda::Module`] compiles and queues them, [`passes`] says what
//! they are given. Tests run the same text on the CPU.

mod passes;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::ffi::{CStr, c_void};
use std::sync::{Mutex, PoisonError};

use tch::{Cuda, Device, Tensor};

use cuda::{Gpu, Module};

use super::quantizer::{Quantizer, SCALARS, TRELLISES};
use crate::Error;

/// The kernels' text, and what messages call it.
const SOURCE: &str = include_str!("coded.cu");
const FILE: &CStr = c"coded.cu";

/// How the kernels are run on the CPU, by name, grid, threads of a block and arguments:
/// `loract_kernels_host::launch`.
pub type HostLaunch = unsafe fn(&CStr, [u32; 2], u32, &[*mut c_void]) -> bool;

/// What `coded.cu` holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kernel {
    ScaleRows,
    AddBlocks,
    Spread,
    Energies,
    Trellis,
    Encode,
    Decode,
}

impl Kernel {
    const ALL: [Self; 7] = [
        Self::ScaleRows,
        Self::AddBlocks,
        Self::Spread,
        Self::Energies,
        Self::Trellis,
        Self::Encode,
        Self::Decode,
    ];

    fn name(self) -> &'static CStr {
        match self {
            Self::ScaleRows => c"scale_rows",
            Self::AddBlocks => c"add_blocks",
            Self::Spread => c"spread",
            Self::Energies => c"energies",
            Self::Trellis => c"trellis",
            Self::Encode => c"encode",
            Self::Decode => c"decode",
        }
    }
}

/// The kernels on one device, with the quantizers' tables there.
#[derive(Debug)]
pub struct Kernels {
    machine: Machine,
    device: Device,
    /// `[2, 8, MOST_LEVELS]`, f32: of scalar quantizers and of trellises.
    levels: Tensor,
    /// `[2, 8 · CELLS]`, int16.
    starts: Tensor,
    /// `[8, CELLS, 4]`, f32: of trellises.
    classes: Tensor,
}

#[derive(Clone, Copy, Debug)]
enum Machine {
    Gpu(Module),
    Host(HostLaunch),
}

/// What a kernel is given.
#[derive(Clone, Copy)]
enum Argument<'a> {
    Of(&'a Tensor),
    Absent,
    Number(i64),
}

impl Kernels {
    /// The kernels on a GPU; `None` on the CPU, and where the driver or NVRTC is missing, of which
    /// one warning tells.
    pub fn on(device: Device) -> Option<Self> {
        static KNOWN: Mutex<BTreeMap<usize, Option<Kernels>>> = Mutex::new(BTreeMap::new());
        let Device::Cuda(index) = device else { return None };
        let mut known = KNOWN.lock().unwrap_or_else(PoisonError::into_inner);
        let kernels = known.entry(index).or_insert_with(|| {
            let loaded = load(index).and_then(|module| {
                let kernels = Self::with(Machine::Gpu(module), device).map_err(|error| error.to_string())?;
                // Other streams are to find the tables whole.
                Cuda::synchronize(index as i64);
                Ok(kernels)
            });
            let warn = |reason: &String| tracing::warn!("GPU {index}: the CPU codes its activations, which is slow; no kernels: {reason}");
            loaded.inspect_err(warn).ok()
        });
        kernels.as_ref().map(Self::shallow_clone)
    }

    /// The kernels on the CPU, run by `launch`, for tests: the CPU needs none.
    ///
    /// # Errors
    /// Those of libtorch.
    ///
    /// # Safety
    /// `launch` runs the kernels of `coded.cu` on arguments of 8 bytes each, pointers among them to
    /// memory of the CPU.
    #[allow(unsafe_code, reason = "memory is handed to a kernel by its address")]
    pub unsafe fn on_host(launch: HostLaunch) -> Result<Self, Error> {
        Self::with(Machine::Host(launch), Device::Cpu)
    }

    fn with(machine: Machine, device: Device) -> Result<Self, Error> {
        let of_both = || SCALARS.iter().chain(TRELLISES.iter());
        let levels: Vec<f32> = of_both().flat_map(|quantizer| quantizer.levels).collect();
        let starts: Vec<i16> =
            of_both().flat_map(Quantizer::starts).map(|&start| start.cast_signed()).collect();
        let classes: Vec<f32> =
            TRELLISES.iter().flat_map(Quantizer::class_levels).flatten().copied().collect();
        Ok(Self {
            machine,
            device,
            levels: Tensor::f_from_slice(&levels)?.f_to_device(device)?,
            starts: Tensor::f_from_slice(&starts)?.f_view([2, -1])?.f_to_device(device)?,
            classes: Tensor::f_from_slice(&classes)?.f_to_device(device)?,
        })
    }

    /// The same kernels, sharing their tables.
    pub fn shallow_clone(&self) -> Self {
        Self {
            levels: self.levels.shallow_clone(),
            starts: self.starts.shallow_clone(),
            classes: self.classes.shallow_clone(),
            ..*self
        }
    }

    /// Queues a kernel on a grid of blocks of `threads` threads. The caller gives it what
    /// `coded.cu` states, in this order and of these shapes.
    #[allow(unsafe_code, reason = "memory is handed to a kernel by its address")]
    fn launch(
        &self,
        kernel: Kernel,
        grid: [usize; 2],
        threads: usize,
        arguments: &[Argument<'_>],
    ) -> Result<(), Error> {
        let mut values: Vec<u64> = Vec::with_capacity(arguments.len());
        for argument in arguments {
            values.push(match argument {
                Argument::Of(tensor) => {
                    assert!(
                        tensor.device() == self.device && tensor.is_contiguous(),
                        "{kernel:?} reads {tensor:?}"
                    );
                    tensor.data_ptr() as u64
                }
                Argument::Absent => 0,
                Argument::Number(number) => number.cast_unsigned(),
            });
        }
        let mut pointers: Vec<*mut c_void> =
            values.iter_mut().map(|value| std::ptr::from_mut(value).cast()).collect();
        let refused = |reason: String| Error::Kernel {
            kernel: kernel.name().to_string_lossy().into_owned(),
            reason,
        };
        let number = |number: usize| {
            u32::try_from(number).map_err(|_| refused(format!("{number} blocks are too many")))
        };
        let (grid, threads) = ([number(grid[0])?, number(grid[1])?], number(threads)?);
        match &self.machine {
            Machine::Gpu(module) => {
                // SAFETY: the arguments are contiguous tensors of this device, of the shapes that
                // `passes` gives them, and numbers of 8 bytes; the tensors live until the kernel is
                // queued, and their memory is used again only by what libtorch queues after it.
                unsafe { module.launch(kernel as usize, grid, threads, &mut pointers) }
                    .map_err(refused)
            }
            Machine::Host(launch) => {
                // SAFETY: as above, on the CPU.
                match unsafe { launch(kernel.name(), grid, threads, &pointers) } {
                    true => Ok(()),
                    false => Err(refused("the host has no such kernel".to_owned())),
                }
            }
        }
    }
}

/// Compiles the kernels for the GPU that libtorch calls `index`. Otherwise, what is missing.
fn load(index: usize) -> Result<Module, String> {
    Module::compile(Gpu::open(index)?, FILE, SOURCE, &Kernel::ALL.map(Kernel::name))
}
