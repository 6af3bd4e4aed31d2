// Human output: everything here goes to stderr. Results go to stdout and are printed by the commands.
#pragma once

#include <fmt/format.h>

#include <string_view>

namespace attune {

enum class LogLevel { info, notice, warning };

void log_line(LogLevel level, std::string_view text);

template <class... Args>
void info(fmt::format_string<Args...> format, Args&&... args) {
  log_line(LogLevel::info, fmt::format(format, std::forward<Args>(args)...));
}
// Something the user should know but need not act on.
template <class... Args>
void notice(fmt::format_string<Args...> format, Args&&... args) {
  log_line(LogLevel::notice, fmt::format(format, std::forward<Args>(args)...));
}
// Something that is probably not what the user wants.
template <class... Args>
void warn(fmt::format_string<Args...> format, Args&&... args) {
  log_line(LogLevel::warning, fmt::format(format, std::forward<Args>(args)...));
}

}  // namespace attune
