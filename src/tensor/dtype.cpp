#include "tensor/dtype.h"

#include <cstring>

#include "util/error.h"

namespace attune {
namespace {

template <class From, class To>
void convert_loop(const void* from, void* to, size_t count) {
  const auto* a = static_cast<const From*>(from);
  auto* b = static_cast<To*>(to);
#pragma omp parallel for if (count > 65536)
  for (size_t i = 0; i < count; ++i) {
    const float x = to_float(a[i]);
    if constexpr (std::is_same_v<To, float>) b[i] = x;
    else if constexpr (std::is_same_v<To, BFloat16>) b[i] = to_bf16(x);
    else b[i] = to_f16(x);
  }
}

template <class From>
void convert_from(const void* from, void* to, DType to_type, size_t count) {
  switch (to_type) {
    case DType::f32: return convert_loop<From, float>(from, to, count);
    case DType::bf16: return convert_loop<From, BFloat16>(from, to, count);
    case DType::f16: return convert_loop<From, Float16>(from, to, count);
    default: fail("cannot convert to {}: only floating-point types convert", name_of(to_type));
  }
}

}  // namespace

const char* name_of(DType t) {
  switch (t) {
    case DType::f32: return "float32";
    case DType::bf16: return "bfloat16";
    case DType::f16: return "float16";
    case DType::i32: return "int32";
    case DType::i64: return "int64";
    case DType::u8: return "uint8";
  }
  return "?";
}

DType parse_dtype(std::string_view name, const std::string& where) {
  if (name == "float32" || name == "fp32" || name == "F32" || name == "float") return DType::f32;
  if (name == "bfloat16" || name == "bf16" || name == "BF16") return DType::bf16;
  if (name == "float16" || name == "fp16" || name == "F16" || name == "half") return DType::f16;
  refuse("{}: unknown dtype \"{}\"; known are float32, bfloat16, float16", where, name);
}

void convert(const void* from, DType from_type, void* to, DType to_type, size_t count) {
  if (from_type == to_type) {
    if (count) std::memcpy(to, from, count * size_of(from_type));
    return;
  }
  switch (from_type) {
    case DType::f32: return convert_from<float>(from, to, to_type, count);
    case DType::bf16: return convert_from<BFloat16>(from, to, to_type, count);
    case DType::f16: return convert_from<Float16>(from, to, to_type, count);
    default: fail("cannot convert from {}: only floating-point types convert", name_of(from_type));
  }
}

}  // namespace attune
