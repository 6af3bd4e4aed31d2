// Input of a fuzz target as a file, for readers that take a path.
#pragma once

#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <string>

#include "util/error.h"

namespace attune::fuzz {

// A directory of this process, in memory where there is such a file system.
class InputDirectory {
 public:
  InputDirectory() {
    const std::filesystem::path memory = "/dev/shm";
    const auto base = std::filesystem::is_directory(memory) ? memory : std::filesystem::temp_directory_path();
    static int count = 0;
    path_ = base / ("attune_fuzz_" + std::to_string(getpid()) + "_" + std::to_string(count++));
    std::filesystem::create_directories(path_);
  }
  ~InputDirectory() { std::filesystem::remove_all(path_); }
  const std::filesystem::path& path() const { return path_; }
  std::filesystem::path write(const std::string& name, const uint8_t* data, size_t size) const {
    std::ofstream(path_ / name, std::ios::binary)
        .write(reinterpret_cast<const char*>(data), static_cast<std::streamsize>(size));
    return path_ / name;
  }

 private:
  std::filesystem::path path_;
};

// Runs `action`; an error of ours is how bad input ends.
template <class Action>
int guarded(Action action) {
  try {
    action();
  } catch (const Error&) {
  }
  return 0;
}

}  // namespace attune::fuzz
