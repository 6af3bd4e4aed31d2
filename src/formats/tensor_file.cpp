#include "formats/tensor_file.h"

#include <algorithm>
#include <cstring>

#include "util/error.h"

namespace attune::formats {
namespace {

constexpr size_t kBuffer = 1 << 22;

}  // namespace

int64_t TensorInfo::count() const {
  int64_t n = 1;
  for (int64_t s : shape) n *= s;
  return n;
}

// Sub-byte formats are known so that their files are read right, not refused.
uint64_t bits_of_dtype(const std::string& dtype) {
  static const std::map<std::string, uint64_t> known{
      {"BOOL", 8}, {"U8", 8}, {"I8", 8}, {"F8_E5M2", 8}, {"F8_E4M3", 8}, {"F8_E8M0", 8}, {"F8_E4M3FNUZ", 8},
      {"F8_E5M2FNUZ", 8}, {"I16", 16}, {"U16", 16}, {"F16", 16}, {"BF16", 16}, {"I32", 32}, {"U32", 32}, {"F32", 32},
      {"C64", 64}, {"F64", 64}, {"I64", 64}, {"U64", 64}, {"F4", 4}, {"F6_E2M3", 6}, {"F6_E3M2", 6}};
  const auto it = known.find(dtype);
  return it == known.end() ? 0 : it->second;
}

uint64_t bytes_of_tensor(const TensorInfo& t, const std::string& file) {
  unsigned __int128 total = bits_of_dtype(t.dtype);
  if (total == 0) fail("{}: tensor \"{}\" has the unknown dtype \"{}\"", file, t.name, t.dtype);
  for (int64_t n : t.shape) {
    total *= static_cast<uint64_t>(n);
    if (total >> 64) fail("{}: the shape of tensor \"{}\" overflows", file, t.name);
  }
  if (total % 8 != 0) fail("{}: tensor \"{}\" does not end on a whole byte", file, t.name);
  return static_cast<uint64_t>(total / 8);
}

void TensorFile::index_tensors() {
  std::sort(tensors_.begin(), tensors_.end(), [](const TensorInfo& a, const TensorInfo& b) {
    return a.offset != b.offset ? a.offset < b.offset : a.bytes < b.bytes;
  });
  for (size_t i = 0; i < tensors_.size(); ++i) by_name_[tensors_[i].name] = i;
}

const TensorInfo* TensorFile::find(const std::string& name) const {
  const auto it = by_name_.find(name);
  return it == by_name_.end() ? nullptr : &tensors_[it->second];
}

void TensorFile::read(const TensorInfo& t, DType as, void* into) const {
  read(t, as, 0, static_cast<uint64_t>(t.count()), into);
}

void TensorFile::read(const TensorInfo& t, DType as, uint64_t first, uint64_t elements, void* into) const {
  const bool wide = t.dtype == "F64";
  if (!wide && t.dtype != "F32" && t.dtype != "BF16" && t.dtype != "F16")
    fail("{}: tensor \"{}\" is {}; weights must be F32, BF16, F16 or F64", path().string(), t.name, t.dtype);
  const DType from = wide ? DType::f32 : parse_dtype(t.dtype, path().string());
  const size_t element = wide ? 8 : size_of(from);
  if (!wide && from == as) return reader_.read_at(t.offset + first * element, into, elements * element);
  std::vector<char> buffer(std::min<uint64_t>(kBuffer, elements * element));
  auto* out = static_cast<char*>(into);
  const uint64_t end = (first + elements) * element;
  for (uint64_t at = first * element; at < end;) {
    const uint64_t n = std::min<uint64_t>(buffer.size(), end - at);
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

}  // namespace attune::formats
