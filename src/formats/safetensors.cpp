#include "formats/safetensors.h"

#include <algorithm>
#include <nlohmann/json.hpp>

#include "tensor/transfer.h"
#include "util/error.h"
#include "util/json.h"

namespace attune::formats {
namespace {

constexpr uint64_t kMaxHeader = 100'000'000;
constexpr size_t kBuffer = 1 << 22;

uint64_t unsigned_of(const Json& value, const std::string& file, const std::string& name, const char* field) {
  if (!value.is_number_unsigned()) fail("{}: tensor \"{}\": {} must hold whole numbers of at least 0", file, name, field);
  return value.get<uint64_t>();
}

TensorInfo parse_entry(const std::string& file, const std::string& name, const Json& entry, uint64_t data_start) {
  if (!entry.is_object() || entry.size() != 3 || !entry.contains("dtype") || !entry.contains("shape") ||
      !entry.contains("data_offsets") || !entry["dtype"].is_string() || !entry["shape"].is_array() ||
      !entry["data_offsets"].is_array() || entry["data_offsets"].size() != 2)
    fail("{}: tensor \"{}\" must have exactly dtype, shape and data_offsets [begin, end]", file, name);
  TensorInfo t;
  t.name = name;
  t.dtype = entry["dtype"].get<std::string>();
  for (const Json& n : entry["shape"]) {
    const uint64_t size = unsigned_of(n, file, name, "shape");
    if (size > (uint64_t{1} << 62)) fail("{}: the shape of tensor \"{}\" overflows", file, name);
    t.shape.push_back(static_cast<int64_t>(size));
  }
  const uint64_t begin = unsigned_of(entry["data_offsets"][0], file, name, "data_offsets");
  const uint64_t end = unsigned_of(entry["data_offsets"][1], file, name, "data_offsets");
  if (end < begin) fail("{}: tensor \"{}\" ends ({}) before it begins ({})", file, name, end, begin);
  t.bytes = end - begin;
  if (t.bytes != bytes_of_tensor(t, file))
    fail("{}: tensor \"{}\" of dtype {} needs {} bytes by its shape but data_offsets give {}", file, name, t.dtype,
         bytes_of_tensor(t, file), t.bytes);
  if (begin > (uint64_t{1} << 62)) fail("{}: tensor \"{}\" lies outside of the file", file, name);
  t.offset = data_start + begin;
  return t;
}

}  // namespace

SafetensorsFile::SafetensorsFile(const fs::path& file) : TensorFile(file) {
  const std::string where = file.string();
  if (reader_.size() < 8) fail("{}: too short for a safetensors file ({} bytes)", where, reader_.size());
  uint64_t header_size = 0;
  reader_.read_at(0, &header_size, 8);
  if (header_size > kMaxHeader) fail("{}: the header claims {} bytes; at most {} are allowed", where, header_size, kMaxHeader);
  if (header_size > reader_.size() - 8)
    fail("{}: the header claims {} bytes but the file holds {}", where, header_size, reader_.size() - 8);
  std::string header(header_size, '\0');
  reader_.read_at(8, header.data(), header_size);
  if (header.empty() || header[0] != '{') fail("{}: the header does not begin with '{{'", where);
  const uint64_t data_start = 8 + header_size;
  const Json root = parse_json(header, where + " (header)");
  for (const auto& [name, entry] : root.items()) {
    if (name == "__metadata__") {
      if (!entry.is_object()) fail("{}: __metadata__ must be an object", where);
      for (const auto& [key, value] : entry.items()) {
        if (!value.is_string()) fail("{}: __metadata__ \"{}\" must be a string", where, key);
        metadata_[key] = value.get<std::string>();
      }
    } else {
      tensors_.push_back(parse_entry(where, name, entry, data_start));
    }
  }
  index_tensors();
  uint64_t at = data_start;
  for (const TensorInfo& t : tensors_) {
    if (t.offset != at)
      fail("{}: tensor \"{}\" begins at byte {} but the data before it ends at {} (a hole or an overlap)", where, t.name,
           t.offset, at);
    at += t.bytes;
  }
  if (at != reader_.size())
    fail("{}: the tensors end at byte {} but the file has {}: it is cut off or has something behind", where, at, reader_.size());
}

uint64_t TensorSource::bytes() const {
  uint64_t n = size_of(to);
  for (int64_t s : shape) n *= static_cast<uint64_t>(s);
  return n;
}

namespace {

// Elements [first, first + n) of what lies in memory.
const void* on_host(const TensorSource& t, uint64_t first, uint64_t n, std::vector<char>& buffer) {
  const char* from = static_cast<const char*>(t.data) + first * size_of(t.from);
  if (t.device->is_host()) return from;
  buffer.resize(n * size_of(t.from));
  t.device->download(buffer.data(), from, buffer.size());
  return buffer.data();
}

}  // namespace

void write_safetensors(const fs::path& file, std::vector<TensorSource> tensors,
                       const std::map<std::string, std::string>& metadata) {
  std::sort(tensors.begin(), tensors.end(), [](const TensorSource& a, const TensorSource& b) {
    return size_of(a.to) != size_of(b.to) ? size_of(a.to) > size_of(b.to) : a.name < b.name;
  });
  Json header = Json::object();
  if (!metadata.empty()) header["__metadata__"] = metadata;
  uint64_t at = 0;
  for (const TensorSource& t : tensors) {
    const char* dtype = t.to == DType::f32    ? "F32"
                        : t.to == DType::bf16 ? "BF16"
                        : t.to == DType::f16  ? "F16"
                        : t.to == DType::i64  ? "I64"
                        : t.to == DType::i32  ? "I32"
                                              : "U8";
    header[t.name] = {{"dtype", dtype}, {"shape", t.shape}, {"data_offsets", {at, at + t.bytes()}}};
    at += t.bytes();
  }
  std::string text = header.dump();
  text.append((8 - text.size() % 8) % 8, ' ');
  FileWriter writer(file);
  const uint64_t size = text.size();
  writer.write(&size, 8);
  writer.write(text.data(), text.size());
  std::vector<char> buffer, wide;
  for (const TensorSource& t : tensors) {
    if (t.data && t.from == t.to) {
      read_pieces(*t.device, t.data, t.bytes(), [&](uint64_t, std::span<const char> piece) { writer.write(piece.data(), piece.size()); });
      continue;
    }
    const uint64_t count = t.bytes() / size_of(t.to), step = kBuffer / size_of(t.to);
    buffer.resize(kBuffer);
    for (uint64_t i = 0; i < count; i += step) {
      const uint64_t n = std::min(step, count - i);
      if (t.make) t.make(i, n, buffer.data());
      else if (t.file) t.file->read(*t.info, t.to, i, n, buffer.data());
      else convert(on_host(t, i, n, wide), t.from, buffer.data(), t.to, n);
      writer.write(buffer.data(), n * size_of(t.to));
    }
  }
  writer.close();
}

}  // namespace attune::formats
