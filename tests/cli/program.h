// Runs the program as a user does.
#pragma once

#include <fcntl.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <functional>
#include <string>
#include <thread>
#include <vector>

#include "support/workspace.h"

namespace attune::test {

struct Result {
  int code = -1;    // exit code, or −signal
  std::string out, err;
  double seconds = 0;
};

// `when`, asked with the seconds that the program has run, says when `signal` is sent, once. A run that takes two minutes hangs.
inline Result run_until(const std::vector<std::string>& arguments, const std::function<bool(double)>& when, int signal = SIGKILL) {
  const Workspace work;
  const std::string out = (work / "out").string(), err = (work / "err").string();
  std::vector<char*> argv{const_cast<char*>(ATTUNE_PROGRAM)};
  for (const std::string& a : arguments) argv.push_back(const_cast<char*>(a.c_str()));
  argv.push_back(nullptr);
  const auto begin = std::chrono::steady_clock::now();
  const auto elapsed = [&] { return std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count(); };
  const pid_t child = ::fork();
  if (child == 0) {
    ::dup2(::open("/dev/null", O_RDONLY), 0);
    ::dup2(::open(out.c_str(), O_WRONLY | O_CREAT | O_TRUNC, 0644), 1);
    ::dup2(::open(err.c_str(), O_WRONLY | O_CREAT | O_TRUNC, 0644), 2);
    ::execv(ATTUNE_PROGRAM, argv.data());
    ::_exit(127);
  }
  int status = 0;
  bool sent = false;
  while (::waitpid(child, &status, WNOHANG) == 0) {
    if (!sent && when(elapsed())) ::kill(child, signal), sent = true;
    if (elapsed() > 120) ::kill(child, SIGKILL);
    std::this_thread::sleep_for(std::chrono::milliseconds(2));
  }
  Result r;
  r.seconds = elapsed();
  r.code = WIFEXITED(status) ? WEXITSTATUS(status) : -WTERMSIG(status);
  r.out = read_file(out), r.err = read_file(err);
  return r;
}

// `kill_after`: seconds until `signal`; 0: never.
inline Result run(const std::vector<std::string>& arguments, double kill_after = 0, int signal = SIGKILL) {
  return run_until(arguments, [kill_after](double seconds) { return kill_after > 0 && seconds > kill_after; }, signal);
}

inline std::vector<std::string> lines_of(const std::string& text) {
  std::vector<std::string> lines;
  for (size_t at = 0; at < text.size();) {
    size_t end = text.find('\n', at);
    if (end == std::string::npos) end = text.size();
    lines.push_back(text.substr(at, end - at));
    at = end + 1;
  }
  return lines;
}

inline bool says(const std::string& text, const std::string& part) { return text.find(part) != std::string::npos; }

// The request was wrong (2) or the work failed (1): a message that says so on stderr, and nothing on stdout.
inline void expect_failure(const Result& r, int code, const std::string& part) {
  EXPECT_EQ(r.code, code) << r.err;
  EXPECT_TRUE(says(r.err, part)) << "expected \"" << part << "\" in: " << r.err;
  EXPECT_TRUE(says(r.err, "error: ")) << r.err;
  EXPECT_EQ(r.out, "");
  EXPECT_FALSE(says(r.err, "json.exception")) << r.err;
}

}  // namespace attune::test
