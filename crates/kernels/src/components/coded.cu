// The passes of coded activations on a GPU: the arithmetic of pass.rs, spread.rs, scalar.rs and trellis.rs, in the same order, bit for bit.
//
// NVRTC compiles this text at run time, and g++ for the tests, beside host.h, which walks the grid one thread after another. Hence no thread
// waits for another but in `spread`, whose phases stand in EACH_THREAD; and hence every argument is 8 bytes wide. Products and sums must
// not be contracted: --fmad=false, -ffp-contract=off.
//
// A component is a row of `y` [components, rows]; tokens are its columns, in groups of eight. `active` components have bits.

#ifdef __CUDACC_RTC__
#define KERNEL extern "C" __global__ void
#define EACH_THREAD
#define TOGETHER __syncthreads()
#define SHARED __shared__
#define EITHER __device__ __forceinline__
#else
#include "host.h"
#endif

typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long long u64;
typedef long long i64;

// As pack.rs, pass.rs, quantizer.rs, spread.rs, trellis.rs and water_filling.rs have them.
constexpr int LANES = 8, BLOCK = 32, STATES = 8, EXACT = 16, AHEAD = 8;
constexpr int MOST_LEVELS = 512, CELLS = 3072;
constexpr float CELL = 16.0f, REACH = CELL * (CELLS / 2);
constexpr u32 BINS = 240, LEAST = (127 - 28) * 8;
constexpr i64 SUMMED = 16, PART = 64 * SUMMED;

// An active component, as kernels.rs packs it.
struct Component {
  i64 codes;  // where its codes begin
  int place;  // its row of y
  int width;
  float step, inverse;
  u32 key;  // of its random numbers
  u32 unused;  // 32 bytes in all
};

enum Rounding { TRELLIS, NEAREST, STOCHASTIC };

EITHER i64 thread() { return (i64)blockIdx.x * blockDim.x + threadIdx.x; }

EITHER i64 groups_of(i64 rows) { return (rows + LANES - 1) / LANES; }

// --- levels -------------------------------------------------------------------------------------------------------------------------------

EITHER int cell_of(float value) { return (int)fminf(fmaxf((value + REACH) * (1.0f / CELL), 0.0f), (float)(CELLS - 1)); }

// Of four consecutive places from `start`, that of this class modulo 4.
EITHER u32 of_class(u32 start, u32 wanted) { return start + ((wanted - start) & 3); }

// The class of levels to which four path bits lead, the newest lowest.
EITHER constexpr u32 class_of(u32 window) { return 2 * ((window ^ (window >> 1) ^ (window >> 3)) & 1) + ((window >> 2) & 1); }

// The place of a level from a code and the path bits of the three codes before it in the stream, the last first.
EITHER u32 place_of(u32 code, u32 before, u32 second, u32 third) {
  return ((code >> 1) << 2) | (((code ^ before ^ third) & 1) << 1) | (second & 1);
}

EITHER u32 mix(u32 bits) {
  bits ^= bits >> 16;
  bits *= 0x7feb352du;
  bits ^= bits >> 15;
  bits *= 0x846ca68bu;
  return bits ^ (bits >> 16);
}

// The place of the level nearest to `value`, or of one of the two around it, drawn.
EITHER u32 scalar_place(float value, int width, float const* levels, u16 const* starts, Rounding rounding, u32 key, i64 token) {
  u32 start = starts[cell_of(value)];
  if (start + 2 < (1u << width) && value >= levels[start + 1]) start += 1;
  float lower = levels[start], upper = levels[start + 1];
  float threshold = rounding == STOCHASTIC ? (float)(mix(key ^ mix((u32)token)) >> 8) * (1.0f / (1 << 24)) : 0.5f;
  return start + (value - lower > threshold * (upper - lower) ? 1 : 0);
}

// --- before coding ------------------------------------------------------------------------------------------------------------------------

// Multiplies each row with its factor, and then, if there are any, with its ratio; the sums of squares between the two, of 32 components each.
// y [components, rows], factors and ratios [rows], squares [blocks, rows]. A thread has a row and a block of components.
KERNEL scale_rows(float* y, float const* factors, float const* ratios, float* squares, i64 components, i64 rows) {
  i64 row = thread(), block = blockIdx.y;
  if (row >= rows) return;
  float factor = factors[row], ratio = ratios ? ratios[row] : 1.0f, sum = 0.0f;
  for (i64 component = block * BLOCK; component < components && component < (block + 1) * BLOCK; ++component) {
    float value = y[component * rows + row] * factor;
    sum += value * value;
    y[component * rows + row] = value * ratio;
  }
  squares[block * rows + row] = sum;
}

// parts [sums, blocks, rows] to sums [sums, rows], blocks in order. A thread has a row of a sum.
KERNEL add_blocks(float const* parts, float* sums, i64 blocks, i64 rows) {
  i64 row = thread(), which = blockIdx.y;
  if (row >= rows) return;
  float sum = 0.0f;
  for (i64 block = 0; block < blocks; ++block) sum += parts[(which * blocks + block) * rows + row];
  sums[which * rows + row] = sum;
}

// A histogram of each component's magnitudes, with the bits of the largest behind its bins, and sums of 64 squares each.
// counts [components, BINS + 1], zeros before; squares [components, parts, SUMMED]. A block of threads has a component and four parts of 1024
// rows, a thread every sixteenth row of a part.
KERNEL spread(float const* y, u32* counts, float* squares, i64 rows, i64 parts) {
  SHARED u32 own[BINS + 1];
  i64 component = blockIdx.x;
  EACH_THREAD {
    for (u32 bin = threadIdx.x; bin <= BINS; bin += blockDim.x) own[bin] = 0;
  }
  TOGETHER;
  EACH_THREAD {
    i64 part = (i64)blockIdx.y * (blockDim.x / SUMMED) + threadIdx.x / SUMMED, lane = threadIdx.x % SUMMED;
    if (part < parts) {
      float sum = 0.0f, most = 0.0f;
      i64 end = (part + 1) * PART < rows ? (part + 1) * PART : rows;
      for (i64 row = part * PART + lane; row < end; row += SUMMED) {
        float value = y[component * rows + row], size = fabsf(value);
        sum += value * value;
        most = size > most ? size : most;
        u32 bin = __float_as_uint(size) >> 20;
        bin = (bin > LEAST ? bin : LEAST) - LEAST;
        atomicAdd(&own[bin < BINS ? bin : BINS - 1], 1u);
      }
      squares[(component * parts + part) * SUMMED + lane] = sum;
      // Bits of magnitudes are in the order of the magnitudes.
      atomicMax(&own[BINS], __float_as_uint(most));
    }
  }
  TOGETHER;
  EACH_THREAD {
    for (u32 bin = threadIdx.x; bin < BINS; bin += blockDim.x) {
      if (own[bin]) atomicAdd(&counts[component * (BINS + 1) + bin], own[bin]);
    }
    if (threadIdx.x == 0) atomicMax(&counts[component * (BINS + 1) + BINS], own[BINS]);
  }
}

// squares [components, parts, SUMMED] to energies [components]. A thread has a component.
KERNEL energies(float const* squares, double* energies, i64 components, i64 parts) {
  i64 component = thread();
  if (component >= components) return;
  double energy = 0.0;
  for (i64 part = 0; part < parts; ++part) {
    double sum = 0.0;
    for (i64 lane = 0; lane < SUMMED; ++lane) sum += (double)squares[(component * parts + part) * SUMMED + lane];
    energy += sum;
  }
  energies[component] = energy;
}

// --- coding -------------------------------------------------------------------------------------------------------------------------------

// The best path of each stream through the trellis (Viterbi). trace [active, groups of rows · 8], in which its codes then stand, one to a byte; on
// the way there, for each state of a step, the oldest path bit before it. A thread has a stream, so every eighth token of a component.
KERNEL trellis(float const* __restrict__ y, Component const* components, i64 active, i64 rows, u16 const* __restrict__ starts,
               float4 const* __restrict__ classes, u8* __restrict__ trace) {
  i64 slot = thread() / LANES, lane = thread() % LANES, groups = groups_of(rows);
  if (slot >= active || components[slot].width == EXACT) return;
  Component component = components[slot];
  float const* exact = y + component.place * rows;
  starts += (component.width - 1) * CELLS;
  classes += (component.width - 1) * CELLS;
  u8* own = trace + slot * groups * LANES + lane;

  // Few threads, each with a long chain of steps: what a step reads from memory is asked for AHEAD steps before.
  auto read = [&](i64 group) {
    i64 token = group * LANES + lane;
    return group >= 0 && token < rows ? exact[token] * component.inverse : 0.0f;
  };
  float costs[STATES], ahead[AHEAD];
#pragma unroll
  for (int state = 0; state < STATES; ++state) costs[state] = state == 0 ? 0.0f : __uint_as_float(0x7f800000u);
#pragma unroll
  for (int step = 0; step < AHEAD; ++step) ahead[step] = read(step);
  for (i64 first = 0; first < groups; first += AHEAD) {
    float values[AHEAD];
    float4 levels[AHEAD];
#pragma unroll
    for (int step = 0; step < AHEAD; ++step) {
      values[step] = ahead[step];
      levels[step] = classes[cell_of(values[step])];
    }
#pragma unroll
    for (int step = 0; step < AHEAD; ++step) ahead[step] = read(first + AHEAD + step);
#pragma unroll
    for (int step = 0; step < AHEAD; ++step) {
      if (first + step >= groups) break;
      float value = values[step];
      float off[4] = {value - levels[step].x, value - levels[step].y, value - levels[step].z, value - levels[step].w};
      float near[4] = {off[0] * off[0], off[1] * off[1], off[2] * off[2], off[3] * off[3]};
      float next[STATES];
      u32 from = 0;
#pragma unroll
      for (int state = 0; state < STATES; ++state) {
        float zero = costs[state >> 1] + near[class_of(state)], one = costs[(state >> 1) | 4] + near[class_of(state | 8)];
        next[state] = one < zero ? one : zero;
        from |= (one < zero ? 1u : 0u) << state;
      }
#pragma unroll
      for (int state = 0; state < STATES; ++state) costs[state] = next[state];
      own[(first + step) * LANES] = (u8)from;
    }
  }

  u32 state = 0;
  float least = costs[0];
#pragma unroll
  for (int other = 1; other < STATES; ++other) {
    if (costs[other] < least) {
      least = costs[other];
      state = other;
    }
  }
  // Back along it: of each step the cell's first level, and the path bits that lead there.
  u8 from[AHEAD];
#pragma unroll
  for (int step = 0; step < AHEAD; ++step) {
    i64 group = groups - 1 - step;
    ahead[step] = read(group);
    from[step] = group >= 0 ? own[group * LANES] : 0;
  }
  for (i64 last = groups - 1; last >= 0; last -= AHEAD) {
    u16 levels[AHEAD];
    u8 bits[AHEAD];
#pragma unroll
    for (int step = 0; step < AHEAD; ++step) {
      levels[step] = starts[cell_of(ahead[step])];
      bits[step] = from[step];
    }
#pragma unroll
    for (int step = 0; step < AHEAD; ++step) {
      i64 group = last - AHEAD - step;
      ahead[step] = read(group);
      from[step] = group >= 0 ? own[group * LANES] : 0;
    }
#pragma unroll
    for (int step = 0; step < AHEAD; ++step) {
      if (last - step < 0) break;
      u32 window = state | (((u32)bits[step] >> state & 1) << 3);
      u32 place = of_class(levels[step], class_of(window));
      own[(last - step) * LANES] = (u8)((place >> 2 << 1) | (state & 1));
      state = window >> 1;
    }
  }
}

// Quantises (or takes the codes of the trellis), packs, and sums `q q` and `q y` of each row over 32 components at a time.
// levels and starts [2, 8, ..], of scalar quantisers and of trellises; codes, zeros before; parts [2, blocks, rows]. A thread has a group of
// eight rows and a block of components.
KERNEL encode(float const* __restrict__ y, Component const* components, i64 active, i64 rows, i64 rounding, float const* __restrict__ levels,
              u16 const* __restrict__ starts, u8 const* __restrict__ trace, u8* __restrict__ codes, float* __restrict__ parts) {
  i64 group = thread(), groups = groups_of(rows), first = group * LANES, block = blockIdx.y, blocks = gridDim.y;
  if (group >= groups) return;
  float energies[LANES] = {}, along[LANES] = {};
  for (i64 slot = block * BLOCK; slot < active && slot < (block + 1) * BLOCK; ++slot) {
    Component component = components[slot];
    int width = component.width, table = (rounding == TRELLIS ? 8 : 0) + width - 1;
    float const* own_levels = levels + table * MOST_LEVELS;
    u16 const* own_starts = starts + table * CELLS;
    u8 const* path = trace + slot * groups * LANES + first;
    u8* bytes = codes + component.codes + group * width;
    u64 word = 0;
#pragma unroll
    for (int lane = 0; lane < LANES; ++lane) {
      i64 token = first + lane;
      float exact = token < rows ? y[component.place * rows + token] : 0.0f, coded;
      if (width == EXACT) {
        float integer = fminf(fmaxf(rintf(exact * component.inverse), -32767.0f), 32767.0f);
        u32 bits = (u32)(int)integer;
        bytes[2 * lane] = (u8)bits;
        bytes[2 * lane + 1] = (u8)(bits >> 8);
        coded = integer * component.step;
      } else {
        u32 code, place;
        if (rounding == TRELLIS) {
          code = path[lane];
          place = place_of(code, group > 0 ? path[lane - LANES] : 0, group > 1 ? path[lane - 2 * LANES] : 0,
                           group > 2 ? path[lane - 3 * LANES] : 0);
        } else {
          float value = exact * component.inverse;
          code = place = scalar_place(value, width, own_levels, own_starts, (Rounding)rounding, component.key, token);
        }
        word |= (u64)code << (lane * width);
        coded = own_levels[place] * component.step;
      }
      energies[lane] += coded * coded;
      along[lane] += coded * exact;
    }
    if (width != EXACT) {
      for (int byte = 0; byte < width; ++byte) bytes[byte] = (u8)(word >> (8 * byte));
    }
  }
#pragma unroll
  for (int lane = 0; lane < LANES; ++lane) {
    if (first + lane < rows) {
      parts[block * rows + first + lane] = energies[lane];
      parts[(blocks + block) * rows + first + lane] = along[lane];
    }
  }
}

// --- decoding -----------------------------------------------------------------------------------------------------------------------------

// The lowest `bits` bits of the code of a token; of one before the first, zero.
EITHER u32 code_of(u8 const* codes, int width, i64 token, int bits) {
  if (token < 0) return 0;
  i64 at = token / LANES * (LANES * width) + token % LANES * width;
  int shift = (int)(at & 7);
  u32 window = codes[at >> 3];
  if (shift + bits > 8) window |= (u32)codes[(at >> 3) + 1] << 8;
  return (window >> shift) & ((1u << bits) - 1);
}

// Unpacks and scales: the level, times `step`, times the token's gain; to f32, or to the nearest bf16.
// gains [rows], y [active, rows]. A thread has a token of a component.
KERNEL decode(u8 const* codes, Component const* components, i64 rows, i64 along_trellis, float const* levels, u16 const* gains, i64 to_bf16,
              void* y) {
  i64 slot = blockIdx.x, token = (i64)blockIdx.y * blockDim.x + threadIdx.x;
  if (token >= rows) return;
  Component component = components[slot];
  u8 const* own = codes + component.codes;
  int width = component.width;
  float value;
  if (width == EXACT) {
    value = (float)(short)(own[2 * token] | own[2 * token + 1] << 8);
  } else {
    u32 place = code_of(own, width, token, width);
    if (along_trellis) {
      place = place_of(place, code_of(own, width, token - LANES, 1), code_of(own, width, token - 2 * LANES, 1),
                       code_of(own, width, token - 3 * LANES, 1));
    }
    value = levels[((along_trellis ? 8 : 0) + width - 1) * MOST_LEVELS + place];
  }
  value = value * component.step * __uint_as_float((u32)gains[token] << 15);
  if (to_bf16) {
    u32 bits = __float_as_uint(value);
    ((u16*)y)[slot * rows + token] = (u16)((bits + 0x7fffu + (bits >> 16 & 1)) >> 16);
  } else {
    ((float*)y)[slot * rows + token] = value;
  }
}
