#include "formats/zip_archive.h"

#include <vector>

#include "util/error.h"

namespace attune::formats {
namespace {

constexpr uint64_t kMaxDirectory = 64 << 20;
constexpr uint32_t kLocal = 0x04034b50, kCentral = 0x02014b50, kEnd = 0x06054b50, kEnd64 = 0x06064b50, kLocator64 = 0x07064b50;

// Little-endian fields of a record whose size has been checked.
struct Fields {
  const std::string& bytes;
  uint64_t base = 0;
  uint64_t at(uint64_t offset, int width) const {
    uint64_t x = 0;
    for (int i = width - 1; i >= 0; --i) x = x << 8 | static_cast<uint8_t>(bytes[base + offset + static_cast<uint64_t>(i)]);
    return x;
  }
};

std::string read_range(const FileReader& file, uint64_t offset, uint64_t bytes, const char* what) {
  if (bytes > file.size() || offset > file.size() - bytes)
    fail("{}: {} lies outside of the file: the archive is cut off or damaged", file.path().string(), what);
  std::string out(bytes, '\0');
  file.read_at(offset, out.data(), bytes);
  return out;
}

struct Directory {
  uint64_t offset, bytes, entries;
  uint64_t end;  // where the records behind the directory begin
};

Directory find_directory(const FileReader& file) {
  const std::string where = file.path().string();
  if (file.size() < 22) fail("{}: too short for a zip archive ({} bytes)", where, file.size());
  const uint64_t end = file.size() - 22;
  const std::string tail = read_range(file, end, 22, "the end record");
  const Fields f{tail};
  if (f.at(0, 4) != kEnd || f.at(20, 2) != 0)
    fail("{}: does not end with a zip directory: the archive is cut off, or has something behind it", where);
  if (f.at(4, 2) != 0 || f.at(6, 2) != 0) fail("{}: a zip archive in several parts is not supported", where);
  Directory d{f.at(16, 4), f.at(12, 4), f.at(10, 2), end};
  if (end >= 20) {
    const std::string locator = read_range(file, end - 20, 20, "the zip64 locator");
    const Fields l{locator};
    if (l.at(0, 4) == kLocator64) {
      const uint64_t at = l.at(8, 8);
      if (at > end - 20) fail("{}: the zip64 record lies outside of the file", where);
      const std::string record = read_range(file, at, 56, "the zip64 record");
      const Fields r{record};
      if (r.at(0, 4) != kEnd64) fail("{}: the zip64 record is damaged", where);
      d = {r.at(48, 8), r.at(40, 8), r.at(32, 8), at};
    }
  }
  if (d.bytes > kMaxDirectory) fail("{}: the zip directory claims {} bytes; at most {} are allowed", where, d.bytes, kMaxDirectory);
  if (d.offset > d.end || d.bytes != d.end - d.offset) fail("{}: the zip directory does not lie where it is said to", where);
  return d;
}

struct CentralEntry {
  std::string name;
  uint64_t local = 0, bytes = 0, stored = 0;
};

// Sizes that do not fit into 32 bits stand in the zip64 extra field, in this order.
void widen(CentralEntry& e, const std::string& directory, uint64_t at, uint64_t length, const std::string& where) {
  const auto wanted = [](uint64_t x) { return x == 0xFFFFFFFFu; };
  if (!wanted(e.bytes) && !wanted(e.stored) && !wanted(e.local)) return;
  for (const uint64_t end = at + length; at + 4 <= end;) {
    const Fields f{directory, at};
    const uint64_t id = f.at(0, 2), size = f.at(2, 2);
    if (size > end - at - 4) break;
    if (id == 1) {
      uint64_t field = 4;
      for (uint64_t* x : {&e.bytes, &e.stored, &e.local}) {
        if (!wanted(*x)) continue;
        if (field + 8 > size + 4) fail("{}: the zip64 field of \"{}\" is too short", where, e.name);
        *x = f.at(field, 8);
        field += 8;
      }
      return;
    }
    at += 4 + size;
  }
  fail("{}: entry \"{}\" has no zip64 field", where, e.name);
}

CentralEntry next_entry(const std::string& directory, uint64_t& at, const std::string& where) {
  if (directory.size() - at < 46) fail("{}: the zip directory is cut off", where);
  const Fields f{directory, at};
  if (f.at(0, 4) != kCentral) fail("{}: the zip directory is damaged", where);
  const uint64_t name = f.at(28, 2), extra = f.at(30, 2), comment = f.at(32, 2);
  if (directory.size() - at - 46 < name + extra + comment) fail("{}: the zip directory is cut off", where);
  CentralEntry e;
  e.name = directory.substr(at + 46, name);
  e.stored = f.at(20, 4), e.bytes = f.at(24, 4), e.local = f.at(42, 4);
  if (f.at(8, 2) & 1) fail("{}: entry \"{}\" is encrypted", where, e.name);
  if (f.at(10, 2) != 0) fail("{}: entry \"{}\" is compressed; torch stores its tensors as they are", where, e.name);
  widen(e, directory, at + 46 + name, extra, where);
  if (e.bytes != e.stored) fail("{}: entry \"{}\" has two sizes, {} and {}", where, e.name, e.bytes, e.stored);
  at += 46 + name + extra + comment;
  return e;
}

// The content begins behind the local header, whose name must be that of the directory.
ZipEntry locate(const FileReader& file, const CentralEntry& e, uint64_t limit) {
  const std::string where = file.path().string();
  if (e.local > limit || limit - e.local < 30) fail("{}: entry \"{}\" lies outside of the archive", where, e.name);
  const std::string header = read_range(file, e.local, 30, "a local header");
  const Fields f{header};
  const uint64_t name = f.at(26, 2), extra = f.at(28, 2);
  if (f.at(0, 4) != kLocal || name != e.name.size() || limit - e.local - 30 < name + extra ||
      read_range(file, e.local + 30, name, "a local header") != e.name)
    fail("{}: entry \"{}\" has no local header of its name", where, e.name);
  const uint64_t offset = e.local + 30 + name + extra;
  if (e.bytes > limit - offset) fail("{}: entry \"{}\" claims {} bytes, beyond the archive", where, e.name, e.bytes);
  return {offset, e.bytes};
}

}  // namespace

bool looks_like_zip(const FileReader& file) {
  if (file.size() < 4) return false;
  const std::string begin = read_range(file, 0, 4, "the beginning");
  return Fields{begin}.at(0, 4) == kLocal;
}

std::map<std::string, ZipEntry> read_zip_directory(const FileReader& file) {
  const std::string where = file.path().string();
  const Directory d = find_directory(file);
  const std::string directory = read_range(file, d.offset, d.bytes, "the zip directory");
  std::map<std::string, ZipEntry> entries;
  std::map<uint64_t, uint64_t> ranges;  // local header → end of content
  uint64_t at = 0;
  while (at < directory.size()) {
    const CentralEntry e = next_entry(directory, at, where);
    const ZipEntry entry = locate(file, e, d.offset);
    if (!entries.emplace(e.name, entry).second || !ranges.emplace(e.local, entry.offset + entry.bytes).second)
      fail("{}: entry \"{}\" is there twice", where, e.name);
  }
  if (entries.size() != d.entries) fail("{}: the zip directory counts {} entries but holds {}", where, d.entries, entries.size());
  uint64_t end = 0;
  for (const auto& [begin, stop] : ranges) {
    if (begin < end) fail("{}: two entries of the archive overlap", where);
    end = stop;
  }
  return entries;
}

}  // namespace attune::formats
