// safetensors (https://github.com/huggingface/safetensors): named tensors in one flat file.
//
//   u64 header size N | N bytes of JSON | tensors, back to back
//
// Files are untrusted: sizes are checked with overflow in mind, tensors must cover the data exactly (no holes, no
// overlap, nothing behind), nothing is allocated beyond what the file itself holds.
#pragma once

#include <map>
#include <memory>
#include <string>
#include <vector>

#include "tensor/dtype.h"
#include "util/files.h"

namespace attune::formats {

struct TensorInfo {
  std::string name;
  std::string dtype;           // as written: "F32", "BF16", "F16", "I64" …
  std::vector<int64_t> shape;  // may be empty (a scalar) or hold zeros
  uint64_t offset = 0;         // from the start of the file
  uint64_t bytes = 0;
  int64_t count() const;
};

class SafetensorsFile {
 public:
  explicit SafetensorsFile(const fs::path& file);

  const std::vector<TensorInfo>& tensors() const { return tensors_; }  // in file order
  const TensorInfo* find(const std::string& name) const;
  const std::map<std::string, std::string>& metadata() const { return metadata_; }
  const fs::path& path() const { return reader_.path(); }

  // Reads a floating-point tensor into `into`, converting from F32, BF16, F16 or F64; streams through a small buffer.
  void read(const TensorInfo& tensor, DType as, void* into) const;
  void read_raw(const TensorInfo& tensor, void* into) const { reader_.read_at(tensor.offset, into, tensor.bytes); }

 private:
  FileReader reader_;
  std::vector<TensorInfo> tensors_;
  std::map<std::string, size_t> by_name_;
  std::map<std::string, std::string> metadata_;
};

// What is to be written: tensors are streamed one by one, converted on the way.
struct TensorSource {
  std::string name;
  std::vector<int64_t> shape;
  const void* data = nullptr;
  DType from = DType::f32;
  DType to = DType::f32;
  uint64_t bytes() const;
};

// Writes by name order (all of one alignment class), with {"format":"pt"} as transformers expects, and makes it durable.
void write_safetensors(const fs::path& file, std::vector<TensorSource> tensors,
                       const std::map<std::string, std::string>& metadata = {{"format", "pt"}});

}  // namespace attune::formats
