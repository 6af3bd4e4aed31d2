// safetensors headers, data rows, configurations, tokenised data.
#include <algorithm>
#include <cstring>
#include <string>
#include <vector>

#include "data/readers.h"
#include "data/token_cache.h"
#include "formats/safetensors.h"
#include "formats/torch_file.h"
#include "fuzz/input.h"
#include "fuzz/targets.h"
#include "train/config.h"
#include "util/hash.h"

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
    for (data::RowKind kind : {data::RowKind::text, data::RowKind::conversation, data::RowKind::pair, data::RowKind::judged})
      guarded([&] {
        data::Records rows;
        data::DataReport report;
        data::ReadOptions options;
        options.kind = kind;
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

// What mutation breaks at once, the checksum, is made to fit again: the parts behind it are to be reached.
int token_file(const uint8_t* data, size_t size) {
  static const InputDirectory directory;
  constexpr size_t kHeader = 96, kKey = 24, kCounts = 56, kChecksum = 88;  // data/token_cache.cpp
  std::string file(reinterpret_cast<const char*>(data), size), key(32, 'a');
  if (size >= kHeader) {
    key = file.substr(kKey, 32);
    uint64_t counts[4];
    std::memcpy(counts, file.data() + kCounts, sizeof counts);
    uint64_t hash = hash64(std::string_view(file).substr(0, kChecksum));
    std::string_view rest = std::string_view(file).substr(kHeader);
    const uint64_t item[4] = {4, 8, 32, 1};
    for (size_t part = 0; part < 4; ++part) {
      const std::string_view bytes = rest.substr(0, std::min<uint64_t>(rest.size(), std::min<uint64_t>(counts[part], size) * item[part]));
      hash = hash64(bytes, hash);
      rest.remove_prefix(bytes.size());
    }
    std::memcpy(file.data() + kChecksum, &hash, sizeof hash);
  }
  const auto path = directory.write("x.tokens", reinterpret_cast<const uint8_t*>(file.data()), file.size());
  return guarded([&] {
    const data::TokenizedData tokens = data::read_token_file(path, key);
    for (int64_t i = 0; i < tokens.set.size(); ++i) tokens.set.where(i), tokens.set.weights(i).labels();
  });
}

}  // namespace attune::fuzz
