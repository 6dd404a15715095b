// What Rust calls in libtorch beyond torch-sys: custom autograd nodes, gradients with given outputs, gradient hooks, memory counters, and
// generators of their own. A `tensor` is torch-sys' `C_tensor*`, i.e. a heap-allocated `torch::Tensor`.
//
// Every function that can fail answers null on success, else a message on the heap that Rust frees with `loract_free`.
#pragma once
#include <cstddef>
#include <cstdint>

#include <torch/csrc/autograd/variable.h>

using tensor = at::Tensor*;

extern "C" {

// A custom function's backward, as Rust sees it. `needs` has one flag per input. Fills `outputs` (one per input; null = no gradient) with
// tensors it hands over. Answers null, or a message on the heap that `loract_rust_free_message` frees.
using BackwardCallback = char* (*)(void* function, void* node, tensor const* gradients, size_t gradients_length, bool const* needs,
                                   tensor* outputs, size_t outputs_length);

char* loract_attach(void* function, char const* name, tensor const* inputs, size_t inputs_length, tensor const* outputs,
                    bool const* differentiable, size_t outputs_length, tensor const* saved, size_t saved_length);
// The tensors saved with a node, checked for edits made in place since; to be called from within its backward only.
char* loract_saved(void* node, tensor* saved, size_t saved_length);

char* loract_backward(tensor const* outputs, tensor const* gradients, size_t length, bool keep_graph);
char* loract_grad(tensor const* outputs, tensor const* gradients, size_t length, tensor const* inputs, size_t inputs_length,
                  bool keep_graph, bool create_graph, tensor* answers);

char* loract_set_hook(tensor parameter, void* hook);
char* loract_clear_hook(tensor parameter);
// Lets a leaf's `.grad` be this tensor's memory, or nothing at all if it is null.
char* loract_set_gradient(tensor parameter, tensor gradient);

bool loract_grad_mode();
void loract_set_grad_mode(bool enabled);

// A device is libtorch's index: -1 is the CPU, 0 and more are CUDA devices.
char* loract_random_state(int64_t device, tensor* state);
char* loract_set_random_state(int64_t device, tensor state);
// Fills a tensor in place from a generator seeded for this call alone. `law`: 0 uniform in [0, 1), 1 standard normal, 2 Bernoulli(p).
char* loract_random_fill(tensor target, uint64_t seed, int law, double p);

void loract_memory_install();
char* loract_memory(int64_t device, int64_t* current, int64_t* peak);
char* loract_memory_reset_peak(int64_t device);

// A second stream of a GPU. `begin` lets it wait for what the current stream has queued and makes it the current one; `end` marks its end by
// an event and makes `before` the current one again; `wait` lets the current stream wait for the event. The tensors read on another stream than
// the one they were made on are told to the allocator, so that their memory is not used again too early.
char* loract_side_stream(int64_t device, int64_t* stream);
char* loract_side_begin(int64_t device, int64_t stream, tensor const* reads, size_t length, int64_t* before);
char* loract_side_end(int64_t device, int64_t before, void** event);
char* loract_ready_wait(void const* event, tensor const* reads, size_t length);
void loract_ready_free(void* event);

void loract_free(char* message);
}
