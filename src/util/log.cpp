#include "util/log.h"

#include <unistd.h>

#include <cstdio>

namespace attune {

void log_line(LogLevel level, std::string_view text) {
  static const bool terminal = ::isatty(STDERR_FILENO) == 1;
  const char* prefix = level == LogLevel::info ? "" : level == LogLevel::notice ? "note: " : "warning: ";
  // A progress bar may stand on the current line of a terminal: clear it first.
  const char* clear = terminal ? "\r\x1b[K" : "";
  fmt::print(stderr, "{}{}{}\n", clear, prefix, text);
  std::fflush(stderr);
}

}  // namespace attune
