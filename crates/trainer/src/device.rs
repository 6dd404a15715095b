use crate::Result;
use crate::config::{self, Run};
use tch::{Cuda, Device};

/// Where this rank computes.
///
/// # Errors
/// CUDA was asked for where there is none, or has too few GPUs for the ranks of this host.
pub(crate) fn choose(run: &Run, ranks: usize) -> Result<Device> {
    let gpus = Cuda::device_count();
    let wanted = match run.device {
        config::Device::Cpu => return Ok(Device::Cpu),
        config::Device::Auto if !Cuda::is_available() || ranks > 1 => return Ok(Device::Cpu),
        config::Device::Auto | config::Device::Cuda => collective::local_rank_hint().unwrap_or(0),
    };
    if !Cuda::is_available() {
        let what = "is \"cuda\", but libtorch sees no GPU here; set it to \"cpu\", or build against a PyTorch with CUDA \
                    (LIBTORCH=…/site-packages/torch) on a machine with a driver";
        return Err(run.refuse("run", "device", what).into());
    }
    if ranks > 1 {
        let what = "is \"cuda\", but several ranks can sum their gradients on the CPU only so far; start one rank, or set it to \"cpu\"";
        return Err(run.refuse("run", "device", what).into());
    }
    if wanted as i64 >= gpus {
        let what = format!("is \"cuda\", but rank {wanted} of this host finds {gpus} GPUs only; start fewer ranks here");
        return Err(run.refuse("run", "device", &what).into());
    }
    Ok(Device::Cuda(wanted))
}
