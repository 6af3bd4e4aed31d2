// The directory of a zip archive (APPNOTE 6.3, with zip64), as far as torch checkpoints use it: entries that are stored, not
// compressed, so that a tensor is a range of the file.
//
// Archives are untrusted: every offset and size is checked against the file, entries must not overlap, names are unique,
// and nothing is allocated beyond what the file holds.
#pragma once

#include <map>
#include <string>

#include "util/files.h"

namespace attune::formats {

struct ZipEntry {
  uint64_t offset = 0;  // of the content, from the start of the file
  uint64_t bytes = 0;
};

// Whether the file begins like a zip archive.
bool looks_like_zip(const FileReader& file);

// Entries by name. Compressed or encrypted entries, archives in several parts and anything malformed are errors.
std::map<std::string, ZipEntry> read_zip_directory(const FileReader& file);

}  // namespace attune::formats
