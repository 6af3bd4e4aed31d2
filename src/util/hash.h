// Hashes: XXH3 for fast integrity and keys, SHA-256 for manifests.
#pragma once

#include <array>
#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>

namespace attune {

uint64_t hash64(std::string_view bytes, uint64_t seed = 0);

// XXH3 of what comes in pieces: `digest64` is hash64 of all of it, `hex128` the longer one, for keys.
class Hasher {
 public:
  explicit Hasher(uint64_t seed = 0);
  ~Hasher();
  Hasher(const Hasher&) = delete;
  Hasher& operator=(const Hasher&) = delete;
  void update(const void* data, size_t bytes);
  uint64_t digest64() const;
  std::string hex128() const;  // 32 digits

 private:
  void* state_;
};
// Reads the file in pieces; memory does not grow with its size.
std::string hash128_file(const std::filesystem::path& file);

std::string sha256_hex(std::string_view bytes);
// Reads the file in pieces; memory does not grow with its size.
std::string sha256_file(const std::filesystem::path& file);

}  // namespace attune
