// A line of progress with rate and time left: redrawn in place on a terminal, silent elsewhere (log lines tell there).
#pragma once

#include <cstdint>
#include <string>

namespace attune {

class Progress {
 public:
  Progress(std::string what, int64_t total);
  ~Progress();
  // `note` stands at the end of the line (loss, tokens/s …).
  void update(int64_t done, const std::string& note);
  double elapsed() const;
  double remaining(int64_t done) const;

 private:
  std::string what_;
  int64_t total_, first_ = -1;
  double start_, drawn_ = 0;
  bool terminal_;
};

}  // namespace attune
