#include "bridge.h"

#include <ATen/Context.h>
#include <ATen/core/Generator.h>
#include <ATen/core/grad_mode.h>
#include <ATen/ops/empty.h>
#include <c10/core/Allocator.h>
#include <c10/core/CPUAllocator.h>
#include <c10/core/CachingDeviceAllocator.h>
#include <c10/core/Event.h>
#include <c10/core/impl/VirtualGuardImpl.h>
#include <torch/csrc/autograd/autograd.h>
#include <torch/csrc/autograd/function.h>
#include <torch/csrc/autograd/function_hook.h>
#include <torch/csrc/autograd/functions/utils.h>
#include <torch/csrc/autograd/saved_variable.h>

#include <atomic>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <mutex>
#include <stdexcept>
#include <string>
#include <vector>

using torch::autograd::Node;
using torch::autograd::SavedVariable;
using torch::autograd::variable_list;

// Written in Rust.
extern "C" {
char* loract_rust_backward(void* function, void* node, tensor const* gradients, size_t gradients_length, bool const* needs,
                           tensor* outputs, size_t outputs_length);
void loract_rust_drop_function(void* function);
char* loract_rust_hook(void* hook, tensor parameter);
void loract_rust_drop_hook(void* hook);
void loract_rust_free_message(char* message);
}

namespace {

template <typename Body>
char* protect(Body body) {
  try {
    body();
    return nullptr;
  } catch (std::exception const& error) {
    return strdup(error.what());
  } catch (...) {
    return strdup("an exception that is no std::exception");
  }
}

void raise(char* rust_message) {
  if (rust_message == nullptr) return;
  std::string message(rust_message);
  loract_rust_free_message(rust_message);
  throw std::runtime_error(message);
}

variable_list tensors(tensor const* pointers, size_t length) {
  variable_list list;
  list.reserve(length);
  for (size_t i = 0; i < length; ++i) list.push_back(pointers[i] ? *pointers[i] : at::Tensor());
  return list;
}

struct RustNode : public Node {
  RustNode(std::string name, size_t inputs) : name_(std::move(name)), inputs_(inputs) {}
  ~RustNode() override { release_variables(); }

  std::string name() const override { return name_; }

  variable_list apply(variable_list&& gradients) override {
    TORCH_CHECK(function_ != nullptr, name_,
                ": backward a second time through a graph that was already freed; keep the graph in the first call");
    TORCH_CHECK(!at::GradMode::is_enabled(), name_, " has no second derivative; call backward without create_graph");
    auto needs = std::make_unique<bool[]>(inputs_);
    for (size_t i = 0; i < inputs_; ++i) needs[i] = task_should_compute_output(i);
    std::vector<tensor> given;
    given.reserve(gradients.size());
    for (auto& gradient : gradients) given.push_back(gradient.defined() ? &gradient : nullptr);
    std::vector<tensor> answers(inputs_, nullptr);
    char* message = loract_rust_backward(function_, this, given.data(), given.size(), needs.get(), answers.data(), inputs_);
    variable_list list;
    list.reserve(inputs_);
    for (tensor answer : answers) {
      list.push_back(answer ? *answer : at::Tensor());
      delete answer;
    }
    raise(message);
    return list;
  }

  void release_variables() override {
    if (function_ != nullptr) loract_rust_drop_function(function_);
    function_ = nullptr;
    saved_.clear();
  }

  std::string name_;
  size_t inputs_;
  void* function_ = nullptr;
  std::vector<SavedVariable> saved_;
};

struct RustHook : public torch::autograd::PostAccumulateGradHook {
  explicit RustHook(void* hook) : hook_(hook) {}
  ~RustHook() override { loract_rust_drop_hook(hook_); }
  void operator()(at::Tensor const& parameter) override {
    at::Tensor handle = parameter;
    raise(loract_rust_hook(hook_, &handle));
  }
  void* hook_;
};

// Counts the bytes that tensors ask for, to the byte. A header in front of each block remembers its size; it is as long as the alignment,
// so the data keeps it.
class CountingAllocator final : public c10::Allocator {
 public:
  static constexpr size_t header = 64;

  c10::DataPtr allocate(size_t bytes) override {
    if (bytes == 0) return {nullptr, nullptr, &release, at::Device(at::DeviceType::CPU)};
    void* block = nullptr;
    if (posix_memalign(&block, header, bytes + header) != 0)
      throw std::runtime_error("out of memory: a tensor of " + std::to_string(bytes) + " bytes with " +
                               std::to_string(current_bytes.load()) + " bytes in tensors already");
    std::memcpy(block, &bytes, sizeof bytes);
    int64_t now = current_bytes.fetch_add(static_cast<int64_t>(bytes)) + static_cast<int64_t>(bytes);
    int64_t seen = peak_bytes.load();
    while (now > seen && !peak_bytes.compare_exchange_weak(seen, now)) {
    }
    void* data = static_cast<char*>(block) + header;
    return {data, data, &release, at::Device(at::DeviceType::CPU)};
  }
  c10::DeleterFnPtr raw_deleter() const override { return &release; }
  void copy_data(void* to, void const* from, size_t bytes) const override { default_copy_data(to, from, bytes); }

  static void release(void* data) {
    if (data == nullptr) return;
    void* block = static_cast<char*>(data) - header;
    size_t bytes;
    std::memcpy(&bytes, block, sizeof bytes);
    current_bytes.fetch_sub(static_cast<int64_t>(bytes));
    std::free(block);
  }

  static std::atomic<int64_t> current_bytes;
  static std::atomic<int64_t> peak_bytes;
};
std::atomic<int64_t> CountingAllocator::current_bytes{0};
std::atomic<int64_t> CountingAllocator::peak_bytes{0};

at::Device device_of(int64_t index) {
  if (index < 0) return at::Device(at::DeviceType::CPU);
  return at::Device(at::DeviceType::CUDA, static_cast<c10::DeviceIndex>(index));
}

c10::Stream stream_of(int64_t device, int64_t stream) { return c10::Stream(c10::Stream::UNSAFE, device_of(device), stream); }

// Their memory is used again only when `stream` has done what it was given so far.
void record(tensor const* reads, size_t length, c10::Stream stream) {
  c10::impl::VirtualGuardImpl guard(stream.device_type());
  for (size_t i = 0; i < length; ++i) guard.recordDataPtrOnStream(reads[i]->storage().data_ptr(), stream);
}

}  // namespace

extern "C" {

char* loract_attach(void* function, char const* name, tensor const* inputs, size_t inputs_length, tensor const* outputs,
                    bool const* differentiable, size_t outputs_length, tensor const* saved, size_t saved_length) {
  return protect([&] {
    std::shared_ptr<RustNode> node(new RustNode(name, inputs_length), torch::autograd::deleteNode);
    node->function_ = function;  // from here on the node drops it
    auto given = tensors(inputs, inputs_length);
    node->set_next_edges(torch::autograd::collect_next_edges(given));
    auto raw = tensors(outputs, outputs_length);
    for (size_t i = 0; i < outputs_length; ++i) {
      for (auto const& input : given)
        TORCH_CHECK(!raw[i].is_same(input), name, ": output ", i, " is one of the inputs itself; return a new tensor");
      TORCH_CHECK(!raw[i].requires_grad(), name, ": output ", i,
                  " is already part of a graph; compute it with gradients off and return it once");
      if (!differentiable[i]) {
        node->add_input_metadata(Node::undefined_input());
        continue;
      }
      // A view made with gradients off must not be edited in place later; to a caller this output is no view of anything.
      if (raw[i].is_view()) *outputs[i] = raw[i].variable_data();
      torch::autograd::set_history(*outputs[i], node);
    }
    node->saved_.reserve(saved_length);
    for (size_t i = 0; i < saved_length; ++i) {
      size_t output = 0;
      while (output < outputs_length && !(differentiable[output] && raw[output].is_same(*saved[i]))) ++output;
      bool is_output = output < outputs_length;
      node->saved_.emplace_back(is_output ? *outputs[output] : *saved[i], is_output);
    }
  });
}

char* loract_saved(void* pointer, tensor* saved, size_t saved_length) {
  return protect([&] {
    auto* node = static_cast<RustNode*>(pointer);
    TORCH_CHECK(node->saved_.size() == saved_length, "the number of saved tensors changed");
    auto shared = std::static_pointer_cast<Node>(node->shared_from_this());
    for (size_t i = 0; i < saved_length; ++i) saved[i] = new at::Tensor(node->saved_[i].unpack(shared));
  });
}

char* loract_backward(tensor const* outputs, tensor const* gradients, size_t length, bool keep_graph) {
  return protect([&] { torch::autograd::backward(tensors(outputs, length), tensors(gradients, length), keep_graph, false); });
}

char* loract_grad(tensor const* outputs, tensor const* gradients, size_t length, tensor const* inputs, size_t inputs_length,
                  bool keep_graph, bool create_graph, tensor* answers) {
  return protect([&] {
    auto list = torch::autograd::grad(tensors(outputs, length), tensors(inputs, inputs_length), tensors(gradients, length), keep_graph,
                                      create_graph, /*allow_unused=*/true);
    for (size_t i = 0; i < inputs_length; ++i) answers[i] = list[i].defined() ? new at::Tensor(list[i]) : nullptr;
  });
}

char* loract_set_hook(tensor parameter, void* hook) {
  // Made first, so that the hook is dropped whatever happens.
  auto owner = std::make_unique<RustHook>(hook);
  return protect([&] {
    TORCH_CHECK(parameter->defined() && parameter->is_leaf() && parameter->requires_grad(),
                "a gradient hook needs a leaf tensor that requires gradients");
    torch::autograd::impl::set_post_acc_grad_hooks(*parameter, std::move(owner));
  });
}

char* loract_clear_hook(tensor parameter) {
  return protect([&] {
    if (parameter->requires_grad()) torch::autograd::impl::set_post_acc_grad_hooks(*parameter, nullptr);
  });
}

char* loract_set_gradient(tensor parameter, tensor gradient) {
  return protect([&] {
    TORCH_CHECK(parameter->defined() && parameter->is_leaf() && parameter->requires_grad(),
                "only a leaf tensor that requires gradients has one");
    if (gradient == nullptr) {
      parameter->mutable_grad().reset();
      return;
    }
    TORCH_CHECK(gradient->defined() && gradient->sizes() == parameter->sizes() && gradient->dtype() == parameter->dtype() &&
                    gradient->device() == parameter->device(),
                "a gradient has the shape, dtype and device of its parameter");
    // A handle of its own: no view for autograd, so that it may be detached and zeroed in place.
    parameter->mutable_grad() = gradient->variable_data();
  });
}

bool loract_grad_mode() { return at::GradMode::is_enabled(); }
void loract_set_grad_mode(bool enabled) { at::GradMode::set_enabled(enabled); }

char* loract_random_state(int64_t device, tensor* state) {
  return protect([&] {
    auto generator = at::globalContext().defaultGenerator(device_of(device));
    std::lock_guard<std::mutex> lock(generator.mutex());
    *state = new at::Tensor(generator.get_state());
  });
}

char* loract_set_random_state(int64_t device, tensor state) {
  return protect([&] {
    auto generator = at::globalContext().defaultGenerator(device_of(device));
    std::lock_guard<std::mutex> lock(generator.mutex());
    generator.set_state(*state);
  });
}

char* loract_random_fill(tensor target, uint64_t seed, int law, double p) {
  return protect([&] {
    // A copy of the default generator is of the right kind for the device and shares nothing with it.
    at::Generator generator;
    {
      auto shared = at::globalContext().defaultGenerator(target->device());
      std::lock_guard<std::mutex> lock(shared.mutex());
      generator = shared.clone();
    }
    generator.set_current_seed(seed);
    if (law == 0)
      target->uniform_(0.0, 1.0, generator);
    else if (law == 1)
      target->normal_(0.0, 1.0, generator);
    else
      target->bernoulli_(p, generator);
  });
}

void loract_memory_install() {
  static CountingAllocator allocator;
  static std::once_flag once;
  std::call_once(once, [] { c10::SetCPUAllocator(&allocator, /*priority=*/100); });
}

char* loract_memory(int64_t device, int64_t* current, int64_t* peak) {
  return protect([&] {
    if (device < 0) {
      *current = CountingAllocator::current_bytes.load();
      *peak = CountingAllocator::peak_bytes.load();
      return;
    }
    // The allocator knows its devices from then on.
    at::globalContext().lazyInitDevice(at::DeviceType::CUDA);
    auto statistics = c10::getDeviceAllocator(at::DeviceType::CUDA)->getDeviceStats(static_cast<c10::DeviceIndex>(device));
    auto& bytes = statistics.allocated_bytes[static_cast<size_t>(c10::CachingAllocator::StatType::AGGREGATE)];
    *current = bytes.current;
    *peak = bytes.peak;
  });
}

char* loract_memory_reset_peak(int64_t device) {
  return protect([&] {
    if (device < 0)
      CountingAllocator::peak_bytes.store(CountingAllocator::current_bytes.load());
    else {
      at::globalContext().lazyInitDevice(at::DeviceType::CUDA);
      c10::getDeviceAllocator(at::DeviceType::CUDA)->resetPeakStats(static_cast<c10::DeviceIndex>(device));
    }
  });
}

char* loract_side_stream(int64_t device, int64_t* stream) {
  return protect([&] {
    auto place = device_of(device);
    *stream = c10::impl::VirtualGuardImpl(place.type()).getStreamFromGlobalPool(place).id();
  });
}

char* loract_side_begin(int64_t device, int64_t stream, tensor const* reads, size_t length, int64_t* before) {
  return protect([&] {
    auto side = stream_of(device, stream);
    c10::impl::VirtualGuardImpl guard(side.device_type());
    auto current = guard.getStream(side.device());
    c10::Event queued(side.device_type());
    queued.record(current);
    queued.block(side);
    record(reads, length, side);
    guard.exchangeStream(side);
    *before = current.id();
  });
}

char* loract_side_end(int64_t device, int64_t before, void** event) {
  return protect([&] {
    auto place = device_of(device);
    c10::impl::VirtualGuardImpl guard(place.type());
    auto side = guard.exchangeStream(stream_of(device, before));
    auto done = std::make_unique<c10::Event>(place.type());
    done->record(side);
    *event = done.release();
  });
}

char* loract_ready_wait(void const* event, tensor const* reads, size_t length) {
  return protect([&] {
    auto const* done = static_cast<c10::Event const*>(event);
    auto current = c10::impl::VirtualGuardImpl(done->device_type()).getStream(done->device());
    done->block(current);
    record(reads, length, current);
  });
}

void loract_ready_free(void* event) { delete static_cast<c10::Event*>(event); }

void loract_free(char* message) { std::free(message); }
}
