// safetensors headers, data rows, configurations.
#include <vector>

#include "data/readers.h"
#include "formats/safetensors.h"
#include "formats/torch_file.h"
#include "fuzz/input.h"
#include "fuzz/targets.h"
#include "train/config.h"

namespace attune::fuzz {

int safetensors(const uint8_t* data, size_t size) {
  static const InputDirectory directory;
  const auto file = directory.write("x.safetensors", data, size);
  return guarded([&] {
    const formats::SafetensorsFile opened(file);
    for (const formats::TensorInfo& tensor : opened.tensors()) {
      std::vector<char> raw(tensor.bytes);
      opened.read_raw(tensor, raw.data());
    }
  });
}

int torch_bin(const uint8_t* data, size_t size) {
  static const InputDirectory directory;
  const auto file = directory.write("pytorch_model.bin", data, size);
  return guarded([&] {
    const formats::TorchFile opened(file);
    for (const formats::TensorInfo& tensor : opened.tensors()) {
      std::vector<char> raw(tensor.bytes);
      opened.read_raw(tensor, raw.data());
    }
  });
}

int records(const uint8_t* data, size_t size) {
  static const InputDirectory directory;
  for (const char* name : {"x.jsonl", "x.txt", "x.csv"}) {
    const auto file = directory.write(name, data, size);
    for (bool pretraining : {false, true})
      guarded([&] {
        data::Records rows;
        data::DataReport report;
        data::ReadOptions options;
        options.pretraining = pretraining;
        data::read_records(file, options, rows, report);
      });
  }
  return 0;
}

int config(const uint8_t* data, size_t size) {
  static const InputDirectory directory;
  const auto file = directory.write("x.yaml", data, size);
  return guarded([&] { train::load_config(file, {}); });
}

}  // namespace attune::fuzz
