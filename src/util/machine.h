// What this machine offers, and what this process takes of it.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace attune {

uint64_t peak_memory_bytes();     // VmHWM
uint64_t resident_memory_bytes(); // VmRSS
uint64_t total_memory_bytes();    // the smaller of RAM and the control group's limit
uint64_t available_memory_bytes();
uint64_t swapped_memory_bytes();  // VmSwap: of this process

// Notices when memory runs short while a program works. Cheap: a few lines of /proc a look.
class MemoryWatch {
 public:
  MemoryWatch() : swapped_(swapped_memory_bytes()) {}
  // What is wrong, the first time that something is; empty otherwise.
  std::string look();
  // The same from given numbers.
  std::string judge(uint64_t swapped, uint64_t available, uint64_t total);

 private:
  uint64_t swapped_;
  bool said_ = false;
};

// Gives whole pages between `from` and `from + bytes`, whose content is no longer needed, back to the system.
void release_memory(char* from, uint64_t bytes);
std::string processor_name();
std::string program_directory();  // that this program stands in
std::vector<std::string> instruction_sets();  // of those that matter here: avx2, avx512f, avx512_bf16, amx_bf16 …
double seconds_now();             // monotonic

// "1.53 GB" (10⁹ bytes), "3 h 12 min".
std::string format_bytes(uint64_t bytes);
std::string format_seconds(double seconds);

}  // namespace attune
