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
// Gives whole pages between `from` and `from + bytes`, whose content is no longer needed, back to the system.
void release_memory(char* from, uint64_t bytes);
std::string processor_name();
std::vector<std::string> instruction_sets();  // of those that matter here: avx2, avx512f, avx512_bf16, amx_bf16 …
double seconds_now();             // monotonic

// "1.53 GB" (10⁹ bytes), "3 h 12 min".
std::string format_bytes(uint64_t bytes);
std::string format_seconds(double seconds);

}  // namespace attune
