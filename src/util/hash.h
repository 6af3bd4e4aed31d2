// Hashes: XXH3 for fast integrity and keys, SHA-256 for manifests.
#pragma once

#include <array>
#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>

namespace attune {

uint64_t hash64(std::string_view bytes, uint64_t seed = 0);
std::string sha256_hex(std::string_view bytes);
// Reads the file in pieces; memory does not grow with its size.
std::string sha256_file(const std::filesystem::path& file);

}  // namespace attune
