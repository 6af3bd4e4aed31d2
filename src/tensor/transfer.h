// Numbers between the host and a tensor that may lie elsewhere. Where the tensor is the host's own, nothing is copied twice.
#pragma once

#include <algorithm>
#include <span>
#include <vector>

#include "tensor/arena.h"

namespace attune {

// Elements [first, first + values.size()) of a contiguous tensor, rounded to its dtype; and back, as fp32.
void put(Device& device, const Tensor& to, int64_t first, std::span<const float> values);
void get(Device& device, const Tensor& from, int64_t first, std::span<float> values);
std::vector<float> floats_of(Device& device, const Tensor& from);

// `to` ← `from`, converted. Two contiguous tensors of one size on one device.
void convert_on(Device& device, const Tensor& from, const Tensor& to);

// Exchanges what two contiguous tensors of one size and dtype hold.
void swap_on(Device& device, const Tensor& a, const Tensor& b);

// Calls f(first byte, bytes of the host) for pieces of a device's memory, in order: reading them, or filling them.
template <class F>
void read_pieces(Device& device, const void* from, uint64_t bytes, F&& f) {
  if (device.is_host()) return f(uint64_t{0}, std::span(static_cast<const char*>(from), bytes));
  std::vector<char> piece(std::min<uint64_t>(bytes, uint64_t{16} << 20));
  for (uint64_t at = 0; at < bytes; at += piece.size()) {
    const uint64_t n = std::min<uint64_t>(piece.size(), bytes - at);
    device.download(piece.data(), static_cast<const char*>(from) + at, n);
    f(at, std::span<const char>(piece.data(), n));
  }
}
template <class F>
void write_pieces(Device& device, void* to, uint64_t bytes, F&& f) {
  if (device.is_host()) return f(uint64_t{0}, std::span(static_cast<char*>(to), bytes));
  std::vector<char> piece(std::min<uint64_t>(bytes, uint64_t{16} << 20));
  for (uint64_t at = 0; at < bytes; at += piece.size()) {
    const uint64_t n = std::min<uint64_t>(piece.size(), bytes - at);
    f(at, std::span(piece.data(), n));
    device.upload(static_cast<char*>(to) + at, piece.data(), n);
  }
}

// Values of the host as a tensor for ops of the arena's device: the values themselves, or a copy on the arena. A dry arena gets
// a look at the host's own, so that it can be told how much work they mean.
template <class T>
Tensor on_device(Arena& arena, std::span<const T> values) {
  const auto n = static_cast<int64_t>(values.size());
  // Ops only read through it; Tensor has one pointer type for both directions.
  if (arena.dry() || arena.device().is_host()) return Tensor::vector(const_cast<T*>(values.data()), DTypeOf<T>::value, n);
  const Tensor copy = arena.vector(n, DTypeOf<T>::value);
  arena.device().upload(copy.data, values.data(), values.size_bytes());
  return copy;
}
template <class T>
Tensor on_device(Arena& arena, const std::vector<T>& values) { return on_device(arena, std::span<const T>(values)); }

}  // namespace attune
