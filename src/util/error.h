// Errors carry a message that helps: what is wrong, where, what was expected, what to do.
#pragma once

#include <fmt/format.h>

#include <stdexcept>
#include <string>

namespace attune {

// What the process exits with: 1 the work failed, 2 the request was wrong.
enum class Blame { work = 1, request = 2 };

class Error : public std::runtime_error {
 public:
  Error(Blame blame, const std::string& message) : std::runtime_error(message), blame_(blame) {}
  Blame blame() const { return blame_; }

 private:
  Blame blame_;
};

// The work failed: a file is broken, the disk is full, a number is not finite.
template <class... Args>
[[noreturn]] void fail(fmt::format_string<Args...> format, Args&&... args) {
  throw Error(Blame::work, fmt::format(format, std::forward<Args>(args)...));
}

// The request was wrong: an unknown key, a missing file, a model family that is not supported.
template <class... Args>
[[noreturn]] void refuse(fmt::format_string<Args...> format, Args&&... args) {
  throw Error(Blame::request, fmt::format(format, std::forward<Args>(args)...));
}

}  // namespace attune
