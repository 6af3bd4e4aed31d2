#include "tensor/transfer.h"

#include <algorithm>

namespace attune {
namespace {

constexpr int64_t kPiece = 4 << 20;  // elements that pass through the host at a time

char* at(const Tensor& t, int64_t first) { return static_cast<char*>(t.data) + static_cast<uint64_t>(first) * size_of(t.dtype); }

}  // namespace

void put(Device& device, const Tensor& to, int64_t first, std::span<const float> values) {
  if (device.is_host()) return convert(values.data(), DType::f32, at(to, first), to.dtype, values.size());
  if (to.dtype == DType::f32) return device.upload(at(to, first), values.data(), values.size_bytes());
  std::vector<char> narrow(values.size() * size_of(to.dtype));
  convert(values.data(), DType::f32, narrow.data(), to.dtype, values.size());
  device.upload(at(to, first), narrow.data(), narrow.size());
}

void get(Device& device, const Tensor& from, int64_t first, std::span<float> values) {
  if (device.is_host()) return convert(at(from, first), from.dtype, values.data(), DType::f32, values.size());
  if (from.dtype == DType::f32) return device.download(values.data(), at(from, first), values.size_bytes());
  std::vector<char> narrow(values.size() * size_of(from.dtype));
  device.download(narrow.data(), at(from, first), narrow.size());
  convert(narrow.data(), from.dtype, values.data(), DType::f32, values.size());
}

std::vector<float> floats_of(Device& device, const Tensor& from) {
  std::vector<float> values(static_cast<size_t>(from.count()));
  get(device, from, 0, values);
  return values;
}

void swap_on(Device& device, const Tensor& a, const Tensor& b) {
  const auto bytes = static_cast<uint64_t>(a.count()) * size_of(a.dtype);
  auto *x = static_cast<char*>(a.data), *y = static_cast<char*>(b.data);
  if (device.is_host()) {
    std::swap_ranges(x, x + bytes, y);
    return;
  }
  std::vector<char> first(std::min<uint64_t>(bytes, kPiece)), second(first.size());
  for (uint64_t i = 0; i < bytes; i += first.size()) {
    const uint64_t n = std::min<uint64_t>(first.size(), bytes - i);
    device.download(first.data(), x + i, n);
    device.download(second.data(), y + i, n);
    device.upload(x + i, second.data(), n);
    device.upload(y + i, first.data(), n);
  }
}

void convert_on(Device& device, const Tensor& from, const Tensor& to) {
  if (device.is_host()) return convert(from.data, from.dtype, to.data, to.dtype, static_cast<size_t>(from.count()));
  if (from.dtype == to.dtype) return device.copy(to.data, from.data, static_cast<uint64_t>(from.count()) * size_of(from.dtype));
  std::vector<float> values(static_cast<size_t>(std::min(kPiece, from.count())));
  for (int64_t first = 0; first < from.count(); first += kPiece) {
    const auto piece = std::span(values).first(static_cast<size_t>(std::min(kPiece, from.count() - first)));
    get(device, from, first, piece);
    put(device, to, first, piece);
  }
}

}  // namespace attune
