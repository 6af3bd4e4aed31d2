#include "formats/safetensors.h"

#include <algorithm>
#include <cstring>
#include <nlohmann/json.hpp>
#include <optional>

#include "util/error.h"
#include "util/json.h"

namespace attune::formats {
namespace {

constexpr uint64_t kMaxHeader = 100'000'000;
constexpr size_t kBuffer = 1 << 22;

// Bits per element; sub-byte formats are known so that their files are read right, not refused.
std::optional<uint64_t> bits_of(const std::string& dtype) {
  static const std::map<std::string, uint64_t> known{
      {"BOOL", 8}, {"U8", 8}, {"I8", 8}, {"F8_E5M2", 8}, {"F8_E4M3", 8}, {"F8_E8M0", 8}, {"F8_E4M3FNUZ", 8},
      {"F8_E5M2FNUZ", 8}, {"I16", 16}, {"U16", 16}, {"F16", 16}, {"BF16", 16}, {"I32", 32}, {"U32", 32}, {"F32", 32},
      {"C64", 64}, {"F64", 64}, {"I64", 64}, {"U64", 64}, {"F4", 4}, {"F6_E2M3", 6}, {"F6_E3M2", 6}};
  const auto it = known.find(dtype);
  return it == known.end() ? std::nullopt : std::optional(it->second);
}

uint64_t expected_bytes(const std::string& file, const TensorInfo& t) {
  const auto bits = bits_of(t.dtype);
  if (!bits) fail("{}: tensor \"{}\" has the unknown dtype \"{}\"", file, t.name, t.dtype);
  unsigned __int128 total = *bits;
  for (int64_t n : t.shape) {
    total *= static_cast<uint64_t>(n);
    if (total >> 64) fail("{}: the shape of tensor \"{}\" overflows", file, t.name);
  }
  if (total % 8 != 0) fail("{}: tensor \"{}\" does not end on a whole byte", file, t.name);
  return static_cast<uint64_t>(total / 8);
}

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
  if (t.bytes != expected_bytes(file, t))
    fail("{}: tensor \"{}\" of dtype {} needs {} bytes by its shape but data_offsets give {}", file, name, t.dtype,
         expected_bytes(file, t), t.bytes);
  if (begin > (uint64_t{1} << 62)) fail("{}: tensor \"{}\" lies outside of the file", file, name);
  t.offset = data_start + begin;
  return t;
}

}  // namespace

int64_t TensorInfo::count() const {
  int64_t n = 1;
  for (int64_t s : shape) n *= s;
  return n;
}

SafetensorsFile::SafetensorsFile(const fs::path& file) : reader_(file) {
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
  std::sort(tensors_.begin(), tensors_.end(), [](const TensorInfo& a, const TensorInfo& b) {
    return a.offset != b.offset ? a.offset < b.offset : a.bytes < b.bytes;
  });
  uint64_t at = data_start;
  for (size_t i = 0; i < tensors_.size(); ++i) {
    const TensorInfo& t = tensors_[i];
    if (t.offset != at)
      fail("{}: tensor \"{}\" begins at byte {} but the data before it ends at {} (a hole or an overlap)", where, t.name,
           t.offset, at);
    at += t.bytes;
    by_name_[t.name] = i;
  }
  if (at != reader_.size())
    fail("{}: the tensors end at byte {} but the file has {}: it is cut off or has something behind", where, at, reader_.size());
}

const TensorInfo* SafetensorsFile::find(const std::string& name) const {
  const auto it = by_name_.find(name);
  return it == by_name_.end() ? nullptr : &tensors_[it->second];
}

void SafetensorsFile::read(const TensorInfo& t, DType as, void* into) const {
  const bool wide = t.dtype == "F64";
  if (!wide && t.dtype != "F32" && t.dtype != "BF16" && t.dtype != "F16")
    fail("{}: tensor \"{}\" is {}; weights must be F32, BF16, F16 or F64", path().string(), t.name, t.dtype);
  const DType from = wide ? DType::f32 : parse_dtype(t.dtype, path().string());
  if (!wide && from == as) return read_raw(t, into);
  const size_t element = wide ? 8 : size_of(from);
  std::vector<char> buffer(std::min<uint64_t>(kBuffer, t.bytes));
  auto* out = static_cast<char*>(into);
  for (uint64_t at = 0; at < t.bytes;) {
    const uint64_t n = std::min<uint64_t>(buffer.size(), t.bytes - at);
    reader_.read_at(t.offset + at, buffer.data(), n);
    const size_t count = n / element;
    if (wide) {
      std::vector<float> narrow(count);
      for (size_t i = 0; i < count; ++i) {
        double x;
        std::memcpy(&x, buffer.data() + 8 * i, 8);
        narrow[i] = static_cast<float>(x);
      }
      convert(narrow.data(), DType::f32, out, as, count);
    } else {
      convert(buffer.data(), from, out, as, count);
    }
    out += count * size_of(as);
    at += n;
  }
}

uint64_t TensorSource::bytes() const {
  uint64_t n = size_of(to);
  for (int64_t s : shape) n *= static_cast<uint64_t>(s);
  return n;
}

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
  std::vector<char> buffer;
  for (const TensorSource& t : tensors) {
    if (t.from == t.to) {
      writer.write(t.data, t.bytes());
      continue;
    }
    const uint64_t count = t.bytes() / size_of(t.to), step = kBuffer / size_of(t.to);
    buffer.resize(kBuffer);
    for (uint64_t i = 0; i < count; i += step) {
      const uint64_t n = std::min(step, count - i);
      convert(static_cast<const char*>(t.data) + i * size_of(t.from), t.from, buffer.data(), t.to, n);
      writer.write(buffer.data(), n * size_of(t.to));
    }
  }
  writer.close();
}

}  // namespace attune::formats
