// A file of named tensors, whatever its format: what safetensors and torch checkpoints have in common.
#pragma once

#include <map>
#include <string>
#include <vector>

#include "tensor/dtype.h"
#include "util/files.h"

namespace attune::formats {

struct TensorInfo {
  std::string name;
  std::string dtype;           // as safetensors writes it: "F32", "BF16", "F16", "I64" …
  std::vector<int64_t> shape;  // may be empty (a scalar) or hold zeros
  uint64_t offset = 0;         // from the start of the file
  uint64_t bytes = 0;
  int64_t count() const;
};

class TensorFile {
 public:
  virtual ~TensorFile() = default;

  const std::vector<TensorInfo>& tensors() const { return tensors_; }  // in file order
  const TensorInfo* find(const std::string& name) const;
  const fs::path& path() const { return reader_.path(); }

  // Reads a floating-point tensor into `into`, converting from F32, BF16, F16 or F64; streams through a small buffer.
  void read(const TensorInfo& tensor, DType as, void* into) const;
  // The same of elements [first, first + elements).
  void read(const TensorInfo& tensor, DType as, uint64_t first, uint64_t elements, void* into) const;
  // Bytes as they stand in the file: all, or [first, first + n).
  void read_raw(const TensorInfo& tensor, void* into) const { reader_.read_at(tensor.offset, into, tensor.bytes); }
  void read_raw(const TensorInfo& tensor, uint64_t first, uint64_t n, void* into) const { reader_.read_at(tensor.offset + first, into, n); }

 protected:
  explicit TensorFile(const fs::path& file) : reader_(file) {}
  // Sorts by offset, which is the order to read in, and makes `find` work.
  void index_tensors();

  FileReader reader_;
  std::vector<TensorInfo> tensors_;

 private:
  std::map<std::string, size_t> by_name_;
};

// Bits of one element of a dtype as safetensors names it; 0 where it is not known.
uint64_t bits_of_dtype(const std::string& dtype);
// Bytes of a tensor by dtype and shape. An unknown dtype, an overflow and a tensor that ends within a byte are errors.
uint64_t bytes_of_tensor(const TensorInfo& tensor, const std::string& file);

}  // namespace attune::formats
