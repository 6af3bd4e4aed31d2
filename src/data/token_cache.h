// Tokenised data on disk: one file a key in one directory. What is read is checked and never trusted; what cannot be written is
// left out. Neither ever stops a run. The files hold the training text in another notation: only their owner may read them.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>

#include "data/tokenized.h"

namespace attune::data {

class TokenCache {
 public:
  // `most_bytes`: of all files together; those that were used longest ago go first. 0: no limit, nothing is ever deleted.
  TokenCache(std::filesystem::path directory, uint64_t most_bytes) : directory_(std::move(directory)), most_bytes_(most_bytes) {}

  // `key`: of `key_of`. Nothing where there is none, or with a notice where it is not intact.
  std::optional<TokenizedData> load(const std::string& key) const;
  // With a notice where it cannot be written (a full disk, no permission). Several processes may store at once.
  void store(const std::string& key, const TokenizedData& data) const;
  bool has(const std::string& key) const;
  std::filesystem::path file_of(const std::string& key) const;

 private:
  void make_room(const std::filesystem::path& newest) const;

  std::filesystem::path directory_;
  uint64_t most_bytes_;
};

// The file itself. `read_token_file` throws where it is not one of ours, not that of `key`, or not intact.
void write_token_file(const std::filesystem::path& file, const std::string& key, const TokenizedData& data);
TokenizedData read_token_file(const std::filesystem::path& file, const std::string& key);

}  // namespace attune::data
