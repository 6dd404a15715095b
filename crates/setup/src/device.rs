use tch::{Cuda, Device, Kind};

use config::{Dtype, Run};

use crate::{Error, Result};

const NO_GPU: &str = "libtorch sees no GPU here; set it to \"cpu\", or build against a PyTorch with CUDA (LIBTORCH=…/site-packages/torch) on a \
                      machine with a driver";

/// The tensor kind of `[model] dtype`.
pub fn tensor_kind(dtype: Dtype) -> Kind {
    match dtype {
        Dtype::F32 => Kind::Float,
        Dtype::Bf16 => Kind::BFloat16,
    }
}

/// The device of the rank `local_rank` of its host: the GPU of that number, or the CPU.
///
/// # Errors
/// CUDA was asked for where there is none, or has too few GPUs for the ranks of this host.
pub fn rank_device(run: &Run, local_rank: usize) -> Result<Device> {
    let gpus = Cuda::device_count().max(0) as usize;
    match run.device {
        config::Device::Cpu => return Ok(Device::Cpu),
        config::Device::Auto if !Cuda::is_available() => return Ok(Device::Cpu),
        config::Device::Auto | config::Device::Cuda => {}
    }
    if !Cuda::is_available() {
        return Err(run.error_at("run", "device", &format!("is \"cuda\", but {NO_GPU}")).into());
    }
    // With this variable, NCCL takes the ranks of one host for several hosts: the way to try many
    // ranks on few GPUs.
    if std::env::var_os("NCCL_HOSTID").is_some() {
        return Ok(Device::Cuda(local_rank % gpus));
    }
    if local_rank >= gpus {
        let which = run.device;
        let what = format!(
            "is \"{which}\", but rank {local_rank} of this host finds {gpus} GPUs only; start fewer ranks here, or set it to \"cpu\""
        );
        return Err(run.error_at("run", "device", &what).into());
    }
    Ok(Device::Cuda(local_rank))
}

/// Whether the run computes on a GPU, as far as this machine can tell.
pub fn is_gpu(run: &Run) -> bool {
    match run.device {
        config::Device::Cpu => false,
        config::Device::Cuda => true,
        config::Device::Auto => Cuda::is_available(),
    }
}

/// The device of a single process without a configuration: the first GPU, if `device` asks for one.
///
/// # Errors
/// [`Error::Input`] if CUDA was asked for where there is none.
pub fn single_device(device: config::Device) -> Result<Device> {
    match device {
        config::Device::Cuda if !Cuda::is_available() => {
            Err(Error::Input(format!("--device is \"cuda\", but {NO_GPU}")))
        }
        config::Device::Auto | config::Device::Cuda if Cuda::is_available() => Ok(Device::Cuda(0)),
        _ => Ok(Device::Cpu),
    }
}
