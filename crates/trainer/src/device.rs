use crate::Result;
use crate::config::{self, Run};
use tch::{Cuda, Device};

/// Where this rank computes, the `local_rank`-th of its host: on the GPU of that number.
///
/// # Errors
/// CUDA was asked for where there is none, or has too few GPUs for the ranks of this host.
pub(crate) fn choose(run: &Run, local_rank: usize) -> Result<Device> {
    let gpus = Cuda::device_count();
    let wanted = match run.device {
        config::Device::Cpu => return Ok(Device::Cpu),
        config::Device::Auto if !Cuda::is_available() => return Ok(Device::Cpu),
        config::Device::Auto | config::Device::Cuda => local_rank,
    };
    if !Cuda::is_available() {
        let what = "is \"cuda\", but libtorch sees no GPU here; set it to \"cpu\", or build against a PyTorch with CUDA \
                    (LIBTORCH=…/site-packages/torch) on a machine with a driver";
        return Err(run.refuse("run", "device", what).into());
    }
    if wanted as i64 >= gpus {
        let which = if run.device == config::Device::Cuda { "cuda" } else { "auto" };
        let what =
            format!("is \"{which}\", but rank {wanted} of this host finds {gpus} GPUs only; start fewer ranks here, or set it to \"cpu\"");
        return Err(run.refuse("run", "device", &what).into());
    }
    Ok(Device::Cuda(wanted))
}
