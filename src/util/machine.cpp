#include "util/machine.h"

#include <fmt/format.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <filesystem>
#include <fstream>
#include <limits>
#include <sstream>

namespace attune {
namespace {

uint64_t field_kb(const char* file, const std::string& name) {
  std::ifstream in(file);
  std::string line;
  while (std::getline(in, line))
    if (line.starts_with(name + ":")) return std::strtoull(line.c_str() + name.size() + 1, nullptr, 10) * 1024;
  return 0;
}

uint64_t cgroup_number(const char* file) {
  std::ifstream in(file);
  std::string text;
  if (!(in >> text) || text == "max") return std::numeric_limits<uint64_t>::max();
  return std::strtoull(text.c_str(), nullptr, 10);
}

std::string cpuinfo(const std::string& name) {
  std::ifstream in("/proc/cpuinfo");
  std::string line;
  while (std::getline(in, line))
    if (line.starts_with(name)) {
      const size_t colon = line.find(':');
      return colon + 2 < line.size() ? line.substr(colon + 2) : "";
    }
  return "";
}

}  // namespace

uint64_t peak_memory_bytes() { return field_kb("/proc/self/status", "VmHWM"); }
uint64_t resident_memory_bytes() { return field_kb("/proc/self/status", "VmRSS"); }

uint64_t total_memory_bytes() {
  return std::min(field_kb("/proc/meminfo", "MemTotal"), cgroup_number("/sys/fs/cgroup/memory.max"));
}

uint64_t available_memory_bytes() {
  const uint64_t limit = cgroup_number("/sys/fs/cgroup/memory.max"), used = cgroup_number("/sys/fs/cgroup/memory.current");
  uint64_t free = field_kb("/proc/meminfo", "MemAvailable");
  if (limit != std::numeric_limits<uint64_t>::max() && used < limit) free = std::min(free, limit - used);
  return free;
}

uint64_t swapped_memory_bytes() { return field_kb("/proc/self/status", "VmSwap"); }

std::string MemoryWatch::look() { return said_ ? "" : judge(swapped_memory_bytes(), available_memory_bytes(), total_memory_bytes()); }

std::string MemoryWatch::judge(uint64_t swapped, uint64_t available, uint64_t total) {
  constexpr uint64_t kNoise = 16'000'000;
  if (said_) return "";
  if (swapped > swapped_ + kNoise)
    return said_ = true, fmt::format("{} of this run have been swapped out: it will be many times slower", format_bytes(swapped - swapped_));
  if (available < total / 33)  // 3 %
    return said_ = true, fmt::format("only {} of {} are still available: the machine is about to swap, or to end a process", format_bytes(available), format_bytes(total));
  return "";
}

std::string program_directory() { return std::filesystem::read_symlink("/proc/self/exe").parent_path().string(); }

std::string processor_name() {
  const std::string name = cpuinfo("model name");
  return name.empty() ? "unknown processor" : name;
}

std::vector<std::string> instruction_sets() {
  std::istringstream flags(cpuinfo("flags"));
  const std::vector<std::string> known{"avx", "fma", "avx2", "avx512f", "avx512bw", "avx512_vnni", "avx512_bf16", "avx512_fp16", "amx_bf16"};
  std::vector<std::string> found;
  for (std::string flag; flags >> flag;)
    if (std::find(known.begin(), known.end(), flag) != known.end()) found.push_back(flag);
  return found;
}

void release_memory(char* from, uint64_t bytes) {
  const auto page = static_cast<uint64_t>(::sysconf(_SC_PAGESIZE)), address = reinterpret_cast<uint64_t>(from);
  const uint64_t begin = (address + page - 1) / page * page, end = (address + bytes) / page * page;
  if (begin < end) ::madvise(from + (begin - address), end - begin, MADV_DONTNEED);  // only advice: it need not succeed
}

double seconds_now() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

std::string format_bytes(uint64_t bytes) {
  const auto b = static_cast<double>(bytes);
  if (b >= 1e9) return fmt::format("{:.2f} GB", b / 1e9);
  if (b >= 1e6) return fmt::format("{:.1f} MB", b / 1e6);
  return fmt::format("{:.1f} kB", b / 1e3);
}

std::string format_seconds(double seconds) {
  const auto s = static_cast<int64_t>(seconds + 0.5);
  if (s < 60) return fmt::format("{} s", s);
  if (s < 3600) return fmt::format("{} min {:02} s", s / 60, s % 60);
  return fmt::format("{} h {:02} min", s / 3600, s % 3600 / 60);
}

}  // namespace attune
