#include "util/hash.h"

#include <openssl/evp.h>
#include <xxhash.h>

#include <algorithm>
#include <memory>
#include <vector>

#include "util/error.h"
#include "util/files.h"

namespace attune {
namespace {

class Sha256 {
 public:
  Sha256() : context_(EVP_MD_CTX_new(), EVP_MD_CTX_free) {
    EVP_DigestInit_ex(context_.get(), EVP_sha256(), nullptr);
  }
  void update(const void* data, size_t bytes) { EVP_DigestUpdate(context_.get(), data, bytes); }
  std::string hex() {
    std::array<unsigned char, EVP_MAX_MD_SIZE> digest{};
    unsigned int size = 0;
    EVP_DigestFinal_ex(context_.get(), digest.data(), &size);
    std::string out;
    for (unsigned int i = 0; i < size; ++i) out += fmt::format("{:02x}", digest[i]);
    return out;
  }

 private:
  std::unique_ptr<EVP_MD_CTX, decltype(&EVP_MD_CTX_free)> context_;
};

template <class Hash>
void read_in_pieces(const std::filesystem::path& file, Hash& hash) {
  FileReader reader(file);
  std::vector<char> buffer(1 << 20);
  for (uint64_t at = 0; at < reader.size();) {
    const uint64_t n = std::min<uint64_t>(buffer.size(), reader.size() - at);
    reader.read_at(at, buffer.data(), n);
    hash.update(buffer.data(), n);
    at += n;
  }
}

}  // namespace

uint64_t hash64(std::string_view bytes, uint64_t seed) {
  return XXH3_64bits_withSeed(bytes.data(), bytes.size(), seed);
}

Hasher::Hasher(uint64_t seed) : state_(XXH3_createState()) {
  // One state for both lengths: the reset of either prepares the same accumulators.
  if (!state_ || XXH3_64bits_reset_withSeed(static_cast<XXH3_state_t*>(state_), seed) != XXH_OK) fail("out of memory for a hash");
}
Hasher::~Hasher() { XXH3_freeState(static_cast<XXH3_state_t*>(state_)); }

void Hasher::update(const void* data, size_t bytes) { XXH3_64bits_update(static_cast<XXH3_state_t*>(state_), data, bytes); }

uint64_t Hasher::digest64() const { return XXH3_64bits_digest(static_cast<XXH3_state_t*>(state_)); }

std::string Hasher::hex128() const {
  const XXH128_hash_t hash = XXH3_128bits_digest(static_cast<XXH3_state_t*>(state_));
  return fmt::format("{:016x}{:016x}", hash.high64, hash.low64);
}

std::string sha256_hex(std::string_view bytes) {
  Sha256 sha;
  sha.update(bytes.data(), bytes.size());
  return sha.hex();
}

std::string sha256_file(const std::filesystem::path& file) {
  Sha256 sha;
  read_in_pieces(file, sha);
  return sha.hex();
}

std::string hash128_file(const std::filesystem::path& file) {
  Hasher hasher;
  read_in_pieces(file, hasher);
  return hasher.hex128();
}

}  // namespace attune
