// A typed view of a matrix (or vector) in somebody else's memory. Copying a Tensor copies the view.
#pragma once

#include <cstdint>

#include "tensor/dtype.h"

namespace attune {

// Rows of a flat token stream. Memory is laid out for `capacity`, work is done for `count`: offsets stay the
// same whatever a micro-batch really holds.
struct Rows {
  int64_t count = 0;
  int64_t capacity = 0;
  static Rows exactly(int64_t n) { return {n, n}; }
};

struct Tensor {
  void* data = nullptr;
  DType dtype = DType::f32;
  Rows rows;           // vectors have one row
  int64_t cols = 0;
  int64_t stride = 0;  // elements from one row to the next; ≥ cols for column slices of a fused tensor

  bool defined() const { return data != nullptr; }
  int64_t count() const { return rows.count * cols; }
  bool contiguous() const { return stride == cols; }
  uint64_t bytes() const { return static_cast<uint64_t>(rows.capacity * cols) * size_of(dtype); }

  template <class T>
  T* as() const { return static_cast<T*>(data); }
  template <class T>
  T* row(int64_t r) const { return static_cast<T*>(data) + r * stride; }

  // Columns [begin, begin + n) of every row.
  Tensor columns(int64_t begin, int64_t n) const {
    Tensor t = *this;
    t.data = static_cast<char*>(data) + static_cast<uint64_t>(begin) * size_of(dtype);
    t.cols = n;
    return t;
  }
  // Rows from `begin` on; `n` may bring the capacity of a chunk along.
  Tensor slice(int64_t begin, Rows n) const {
    Tensor t = *this;
    t.data = static_cast<char*>(data) + static_cast<uint64_t>(begin * stride) * size_of(dtype);
    t.rows = n;
    return t;
  }
  Tensor slice(int64_t begin, int64_t n) const { return slice(begin, Rows::exactly(n)); }

  static Tensor matrix(void* data, DType dtype, int64_t rows, int64_t cols) {
    return {data, dtype, Rows::exactly(rows), cols, cols};
  }
  static Tensor vector(void* data, DType dtype, int64_t n) { return {data, dtype, Rows::exactly(1), n, n}; }
};

}  // namespace attune
