// safetensors (https://github.com/huggingface/safetensors): named tensors in one flat file.
//
//   u64 header size N | N bytes of JSON | tensors, back to back
//
// Files are untrusted: sizes are checked with overflow in mind, tensors must cover the data exactly (no holes, no
// overlap, nothing behind), nothing is allocated beyond what the file itself holds.
#pragma once

#include <functional>
#include <map>
#include <string>
#include <vector>

#include "formats/tensor_file.h"
#include "tensor/device.h"

namespace attune::formats {

class SafetensorsFile : public TensorFile {
 public:
  explicit SafetensorsFile(const fs::path& file);

  const std::map<std::string, std::string>& metadata() const { return metadata_; }

 private:
  std::map<std::string, std::string> metadata_;
};

// What is to be written: tensors are streamed one by one, converted on the way. They lie in memory, are to come out of
// another file, or are made while they are written.
struct TensorSource {
  std::string name;
  std::vector<int64_t> shape;
  const void* data = nullptr;
  DType from = DType::f32;
  DType to = DType::f32;
  const TensorFile* file = nullptr;
  const TensorInfo* info = nullptr;
  std::function<void(uint64_t first, uint64_t n, void* out)> make = {};  // elements [first, first + n), as `to`
  Device* device = &host();  // where `data` lies
  uint64_t bytes() const;
};

// Writes by name order (all of one alignment class), with {"format":"pt"} as transformers expects, and makes it durable.
void write_safetensors(const fs::path& file, std::vector<TensorSource> tensors,
                       const std::map<std::string, std::string>& metadata = {{"format", "pt"}});

}  // namespace attune::formats
