#include "util/progress.h"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>

#include "util/machine.h"

namespace attune {

Progress::Progress(std::string what, int64_t total)
    : what_(std::move(what)), total_(total), start_(seconds_now()), terminal_(::isatty(STDERR_FILENO) == 1) {}

Progress::~Progress() {
  if (terminal_ && drawn_ > 0) fmt::print(stderr, "\r\x1b[K");
}

double Progress::elapsed() const { return seconds_now() - start_; }

double Progress::remaining(int64_t done) const {
  const int64_t since = done - std::max<int64_t>(0, first_);
  return since <= 0 ? 0 : elapsed() / static_cast<double>(since) * static_cast<double>(total_ - done);
}

void Progress::update(int64_t done, const std::string& note) {
  if (first_ < 0) first_ = done - 1;
  const double now = seconds_now();
  if (!terminal_ || (now - drawn_ < 0.1 && done < total_)) return;
  drawn_ = now;
  constexpr int kWidth = 24;
  const int filled = total_ > 0 ? static_cast<int>(kWidth * done / total_) : 0;
  std::string bar;
  for (int i = 0; i < kWidth; ++i) bar += i < filled ? "█" : "░";
  fmt::print(stderr, "\r\x1b[K{} {} {}/{}  {}  {} left", what_, bar, done, total_, note, format_seconds(remaining(done)));
  std::fflush(stderr);
}

}  // namespace attune
