// The forward of libtorch's flash attention, for which libtorch has no C function.
#include <string>

#include <ATen/core/Tensor.h>
#include <ATen/ops/_flash_attention_forward.h>

// Null, or what went wrong. Tensors are [batch, tokens, heads, width].
extern "C" const char* loract_flash_forward(at::Tensor* q, at::Tensor* k, at::Tensor* v, bool causal, double scale, at::Tensor** out,
                                            at::Tensor** log_sums) {
  static thread_local std::string fault;
  try {
    auto made = at::_flash_attention_forward(*q, *k, *v, std::nullopt, std::nullopt, q->size(1), k->size(1), 0.0, causal, false, scale);
    *out = new at::Tensor(std::get<0>(made));
    *log_sums = new at::Tensor(std::get<1>(made));
    return nullptr;
  } catch (const std::exception& error) {
    fault = error.what();
    return fault.c_str();
  }
}
