// Where libtorch queues work on a GPU right now: a handle of CUDA that libtorch has no C function for.
#include <c10/core/impl/VirtualGuardImpl.h>

// False if libtorch has no CUDA or does not know the device.
extern "C" bool loract_current_stream(int64_t device, void** stream) {
  try {
    c10::Device place(c10::DeviceType::CUDA, static_cast<c10::DeviceIndex>(device));
    *stream = c10::impl::VirtualGuardImpl(place.type()).getStream(place).native_handle();
    return true;
  } catch (...) {
    return false;
  }
}
