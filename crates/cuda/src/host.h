// What coded.cu needs of CUDA, for g++: a grid that is walked one thread after another.
#pragma once
#include <cmath>
#include <cstdint>
#include <cstring>

#define KERNEL static void
#define EACH_THREAD for (threadIdx.x = 0; threadIdx.x < blockDim.x; ++threadIdx.x)
#define TOGETHER
#define SHARED static thread_local
#define EITHER static inline

struct Place {
  unsigned x, y;
};
static thread_local Place gridDim, blockDim, blockIdx, threadIdx;

struct alignas(16) float4 {
  float x, y, z, w;
};

static inline unsigned __float_as_uint(float value) {
  unsigned bits;
  std::memcpy(&bits, &value, sizeof bits);
  return bits;
}

static inline float __uint_as_float(unsigned bits) {
  float value;
  std::memcpy(&value, &bits, sizeof value);
  return value;
}

static inline void atomicAdd(unsigned* at, unsigned value) { *at += value; }

static inline void atomicMax(unsigned* at, unsigned value) {
  if (value > *at) *at = value;
}
