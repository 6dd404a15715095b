//! A second queue of work on a GPU.

use std::ffi::c_void;

use tch::{Device, Tensor};

use crate::Error;
use crate::ffi::{self, check, device_index, pointers};

/// A second stream of a GPU, apart from the one on which forward and backward run. The host never
/// waits for either: events put the work in order.
#[derive(Debug)]
pub struct SideStream {
    device: i64,
    stream: i64,
}

impl SideStream {
    /// A stream of `device`; `None` on the CPU, which has none.
    ///
    /// # Errors
    /// If the device is not there.
    pub fn new(device: Device) -> Result<Option<Self>, Error> {
        if device == Device::Cpu {
            return Ok(None);
        }
        let device = device_index("side stream", device)?;
        let mut stream = 0;
        // SAFETY: writes an integer.
        check(unsafe { ffi::loract_side_stream(device, &mut stream) })?;
        Ok(Some(Self { device, stream }))
    }

    /// Runs `work` with this stream as the current one: after all that was queued so far, in
    /// parallel with all that is queued from here on. The memory of `reads` may be freed meanwhile;
    /// it is used again only when the work is done.
    ///
    /// # Errors
    /// Those of CUDA. What `work` answers is the caller's.
    pub fn run<T>(&self, reads: &[&Tensor], work: impl FnOnce() -> T) -> Result<(T, Ready), Error> {
        let reads = pointers(reads.iter().copied());
        let mut before = 0;
        // SAFETY: the tensors are valid for the length of the call; writes an integer.
        check(unsafe {
            ffi::loract_side_begin(
                self.device,
                self.stream,
                reads.as_ptr(),
                reads.len(),
                &mut before,
            )
        })?;
        let mut current = Current { device: self.device, before, ended: false };
        let done = work();
        let ready = current.end()?;
        Ok((done, ready))
    }
}

/// While the side stream is the current one; a panic in between brings the other back.
struct Current {
    device: i64,
    before: i64,
    ended: bool,
}

impl Current {
    fn end(&mut self) -> Result<Ready, Error> {
        self.ended = true;
        let mut event = std::ptr::null_mut();
        // SAFETY: `before` is the stream that was current; on success `event` is a new event handed
        // over to us.
        check(unsafe { ffi::loract_side_end(self.device, self.before, &mut event) })?;
        Ok(Ready { event })
    }
}

impl Drop for Current {
    fn drop(&mut self) {
        if !self.ended {
            let _ = self.end();
        }
    }
}

/// The end of some work on a [`SideStream`].
#[derive(Debug)]
pub struct Ready {
    event: *mut c_void,
}

// SAFETY: an event of CUDA belongs to no thread. Through `&Ready` it is only waited for, which does
// not change it.
unsafe impl Send for Ready {}
// SAFETY: as above.
unsafe impl Sync for Ready {}

impl Ready {
    /// Lets the current stream wait for the work before it continues, and not the host. `reads` are
    /// the tensors that the work made and that are read here: their memory is used again only after
    /// that.
    ///
    /// # Errors
    /// Those of CUDA.
    pub fn wait(&self, reads: &[&Tensor]) -> Result<(), Error> {
        let reads = pointers(reads.iter().copied());
        // SAFETY: the event is ours, the tensors are valid for the length of the call.
        check(unsafe { ffi::loract_ready_wait(self.event, reads.as_ptr(), reads.len()) })
    }
}

impl Drop for Ready {
    fn drop(&mut self) {
        // SAFETY: called once, with the event that is ours.
        unsafe { ffi::loract_ready_free(self.event) };
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn the_cpu_has_none_and_an_absent_gpu_is_said() {
        assert!(SideStream::new(Device::Cpu).unwrap().is_none());
        if !tch::Cuda::is_available() {
            let error = SideStream::new(Device::Cuda(0)).unwrap_err().to_string();
            assert!(error.contains("side stream: no Cuda(0) device here"), "{error}");
        }
    }

    #[test]
    fn work_on_the_side_stream_is_in_order() {
        let Device::Cuda(index) = Device::cuda_if_available() else { return };
        let device = Device::Cuda(index);
        let side = SideStream::new(device).unwrap().unwrap();
        for round in 0..50 {
            let x =
                Tensor::full([512, 512], 1.0 + f64::from(round), (tch::Kind::Float, device)) * 2.0;
            let (product, ready) = side.run(&[&x], || x.matmul(&x)).unwrap();
            drop(x);
            // Would take the memory of `x` if it were free already.
            let other = Tensor::zeros([512, 512], (tch::Kind::Float, device));
            ready.wait(&[&product]).unwrap();
            let expected = 512.0 * (2.0 + 2.0 * f64::from(round)).powi(2);
            assert_eq!((&product + other).max().double_value(&[]), expected);
        }
    }
}
