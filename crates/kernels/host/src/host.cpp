// The kernels as functions of the CPU, for the tests: launched as CUDA launches them, by name, with pointers to the arguments.
#include "coded.cu"

#include <utility>

namespace {

template <class... Arguments, std::size_t... At>
void call(void (*kernel)(Arguments...), void* const* arguments, std::index_sequence<At...>) {
  static_assert(((sizeof(Arguments) == 8) && ...), "every argument of a kernel is 8 bytes wide");
  kernel(*static_cast<Arguments*>(arguments[At])...);
}

// `phases`: the kernel walks the threads of a block itself.
template <class... Arguments>
void walk(void (*kernel)(Arguments...), bool phases, void* const* arguments) {
  for (blockIdx.y = 0; blockIdx.y < gridDim.y; ++blockIdx.y) {
    for (blockIdx.x = 0; blockIdx.x < gridDim.x; ++blockIdx.x) {
      for (threadIdx.x = 0; threadIdx.x < (phases ? 1 : blockDim.x); ++threadIdx.x) {
        call(kernel, arguments, std::index_sequence_for<Arguments...>{});
        if (phases) break;
      }
    }
  }
}

}  // namespace

extern "C" bool loract_host_launch(char const* name, unsigned grid_x, unsigned grid_y, unsigned block, void* const* arguments) {
  gridDim = {grid_x, grid_y};
  blockDim = {block, 1};
  auto is = [&](char const* other) { return std::strcmp(name, other) == 0; };
  if (is("scale_rows")) return walk(scale_rows, false, arguments), true;
  if (is("add_blocks")) return walk(add_blocks, false, arguments), true;
  if (is("spread")) return walk(spread, true, arguments), true;
  if (is("energies")) return walk(energies, false, arguments), true;
  if (is("trellis")) return walk(trellis, false, arguments), true;
  if (is("encode")) return walk(encode, false, arguments), true;
  if (is("decode")) return walk(decode, false, arguments), true;
  return false;
}
