// A NCCL for tests: the functions that Loract uses, for ranks of one host and tensors in its memory. Ranks meet in a shared file that their
// identity names. It begins calls and finishes them later, as NCCL does when it may not block. NCCL_FAKE tells it to misbehave:
// "absent": rank 1 never comes to the meeting; "late error": the calls after the first three fail after they were queued, so that only others
// than the thread that made them see it.
#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <fcntl.h>
#include <random>
#include <sched.h>
#include <string>
#include <sys/mman.h>
#include <thread>
#include <unistd.h>

namespace {

constexpr size_t ROOM = 1 << 16;
constexpr int MOST = 8;
enum Code { SUCCESS = 0, SYSTEM_ERROR = 2, INVALID_USAGE = 5, REMOTE_ERROR = 6, IN_PROGRESS = 7 };

struct Shared {
  std::atomic<int> joined, arrived, turn, aborted;
  alignas(64) char slots[MOST][ROOM];
};

struct Communicator {
  Shared* shared;
  int ranks, rank, calls;
  bool began;
  std::thread::id caller;
};

struct Id { char bytes[128]; };
struct Config { size_t size; unsigned magic, version; int blocking; };

bool fails(const char* how) {
  const char* fake = std::getenv("NCCL_FAKE");
  return fake && std::string(fake) == how;
}

void barrier(Communicator* of) {
  int turn = of->shared->turn;
  if (++of->shared->arrived == of->ranks) {
    of->shared->arrived = 0;
    ++of->shared->turn;
  }
  while (of->shared->turn == turn) sched_yield();
}

struct Bf16 {
  uint16_t bits;
  operator float() const {
    uint32_t wide = uint32_t(bits) << 16;
    float value;
    std::memcpy(&value, &wide, 4);
    return value;
  }
  Bf16() = default;
  explicit Bf16(float value) {
    uint32_t wide;
    std::memcpy(&wide, &value, 4);
    bits = std::isnan(value) ? 0x7fc0 : (wide + 0x7fff + ((wide >> 16) & 1)) >> 16;
  }
};

template <class T, class Wide> Wide fold(Wide a, Wide b, int operation) {
  if (operation == 0) return a + b;
  // As NCCL has it: of a number and NaN the number.
  if (a != a) return b;
  if (b != b) return a;
  return operation == 2 ? std::max(a, b) : std::min(a, b);
}

template <class T, class Wide> void reduce(Communicator* of, char* out, size_t bytes, int operation) {
  T* result = reinterpret_cast<T*>(out);
  for (size_t i = 0; i < bytes / sizeof(T); ++i) {
    Wide value = Wide(reinterpret_cast<T*>(of->shared->slots[0])[i]);
    for (int rank = 1; rank < of->ranks; ++rank)
      value = Wide(T(fold<T, Wide>(value, Wide(reinterpret_cast<T*>(of->shared->slots[rank])[i]), operation)));
    result[i] = T(value);
  }
}

void reduce(Communicator* of, char* out, size_t bytes, int type, int operation) {
  switch (type) {
    case 4: return reduce<int64_t, int64_t>(of, out, bytes, operation);
    case 6: return reduce<_Float16, float>(of, out, bytes, operation);
    case 7: return reduce<float, float>(of, out, bytes, operation);
    case 8: return reduce<double, double>(of, out, bytes, operation);
    case 9: return reduce<Bf16, float>(of, out, bytes, operation);
  }
}

int size_of(int type) { return type == 4 || type == 8 ? 8 : type == 7 ? 4 : type == 6 || type == 9 ? 2 : 0; }

// Every rank's piece is in its slot while `take` runs.
template <class Take> int call(Communicator* of, const void* send, size_t bytes, Take take) {
  ++of->calls;
  of->caller = std::this_thread::get_id();
  of->began = true;
  for (size_t start = 0; start < bytes; start += ROOM) {
    size_t length = std::min(ROOM, bytes - start);
    std::memcpy(of->shared->slots[of->rank], static_cast<const char*>(send) + start, length);
    barrier(of);
    take(start, length);
    barrier(of);
  }
  return IN_PROGRESS;
}

}  // namespace

extern "C" {

int ncclGetVersion(int* version) { *version = 22809; return SUCCESS; }

int ncclGetUniqueId(Id* id) {
  std::random_device random;
  std::memset(id, 0, sizeof *id);
  std::string name = "/loract-test-" + std::to_string(random()) + "-" + std::to_string(getpid());
  std::memcpy(id->bytes, name.data(), name.size());
  return SUCCESS;
}

int ncclCommInitRankConfig(Communicator** made, int ranks, Id id, int rank, Config* config) {
  if (config->magic != 0xcafebeef || config->blocking != 0 || ranks > MOST || rank >= ranks) return INVALID_USAGE;
  int file = shm_open(id.bytes, O_CREAT | O_RDWR, 0600);
  if (file < 0 || ftruncate(file, sizeof(Shared)) != 0) return SYSTEM_ERROR;
  void* memory = mmap(nullptr, sizeof(Shared), PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
  close(file);
  if (memory == MAP_FAILED) return SYSTEM_ERROR;
  *made = new Communicator{static_cast<Shared*>(memory), ranks, rank, 0, true, {}};
  if (!(fails("absent") && rank == 1) && ++(*made)->shared->joined == ranks) shm_unlink(id.bytes);
  return IN_PROGRESS;
}

int ncclCommGetAsyncError(Communicator* of, int* state) {
  if (of->shared->joined < of->ranks) *state = IN_PROGRESS;
  else if (of->shared->aborted) *state = REMOTE_ERROR;
  else if (of->began) *state = (of->began = false, IN_PROGRESS);
  else {
    bool late = std::this_thread::get_id() != of->caller;
    *state = fails("late error") && of->calls > 3 && late ? SYSTEM_ERROR : SUCCESS;
  }
  return SUCCESS;
}

int ncclCommFinalize(Communicator* of) { of->began = true; return IN_PROGRESS; }
int ncclCommDestroy(Communicator* of) { munmap(of->shared, sizeof(Shared)); delete of; return SUCCESS; }
// What it had sent may be on its way: the others feel it.
int ncclCommAbort(Communicator* of) { of->shared->aborted = 1; return ncclCommDestroy(of); }
const char* ncclGetErrorString(int code) { return code == SYSTEM_ERROR ? "unhandled system error" : code == INVALID_USAGE ? "invalid usage" : code == REMOTE_ERROR ? "remote process exited" : "?"; }
const char* ncclGetLastError(Communicator*) { return ""; }

int ncclAllReduce(const void* send, void* receive, size_t count, int type, int operation, Communicator* of, void*) {
  if (!size_of(type)) return INVALID_USAGE;
  // In place, so that the own piece is read before it is written: each piece is copied to its slot first.
  return call(of, send, count * size_of(type), [&](size_t start, size_t length) {
    reduce(of, static_cast<char*>(receive) + start, length, type, operation);
  });
}

int ncclReduceScatter(const void* send, void* receive, size_t count, int type, int operation, Communicator* of, void*) {
  if (!size_of(type)) return INVALID_USAGE;
  size_t own = count * size_of(type), first = of->rank * own;
  return call(of, send, own * of->ranks, [&](size_t start, size_t length) {
    alignas(8) static thread_local char piece[ROOM];
    reduce(of, piece, length, type, operation);
    size_t from = std::max(start, first), to = std::min(start + length, first + own);
    if (from < to) std::memcpy(static_cast<char*>(receive) + from - first, piece + from - start, to - from);
  });
}

int ncclBroadcast(const void* send, void* receive, size_t count, int type, int root, Communicator* of, void*) {
  return call(of, send, count * size_of(type), [&](size_t start, size_t length) {
    std::memcpy(static_cast<char*>(receive) + start, of->shared->slots[root], length);
  });
}

int ncclAllGather(const void* send, void* receive, size_t count, int type, Communicator* of, void*) {
  size_t bytes = count * size_of(type);
  return call(of, send, bytes, [&](size_t start, size_t length) {
    for (int rank = 0; rank < of->ranks; ++rank) std::memcpy(static_cast<char*>(receive) + rank * bytes + start, of->shared->slots[rank], length);
  });
}

}
