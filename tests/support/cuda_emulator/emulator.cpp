// Kernels on the host: see cuda_runtime.h.
#include <sys/mman.h>

#include <algorithm>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "cuda_runtime.h"

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/common_interface_defs.h>
#endif
#if !defined(__x86_64__)
#include <ucontext.h>
#endif

#if defined(__x86_64__)
// Puts the running stack away and goes on with another.
extern "C" void attune_emulator_switch(void** save, void* load);
asm(R"(
.text
.type attune_emulator_switch, @function
attune_emulator_switch:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
.size attune_emulator_switch, .-attune_emulator_switch
)");
#endif

uint3 threadIdx, blockIdx;
dim3 blockDim, gridDim;

namespace attune::ops::cuda {

// What kernels name as their shared memory (src/ops/cuda/kernel.h).
constexpr size_t kMostShared = 99 << 10;  // a block's on sm_86 and sm_89, the least of all from sm_80 on
constexpr size_t kCanary = 4 << 10;
extern thread_local __align__(16) unsigned char attune_shared[];
thread_local __align__(16) unsigned char attune_shared[kMostShared + kCanary];

}  // namespace attune::ops::cuda

namespace cuda_emulator {
namespace {

constexpr size_t kStack = 256 << 10, kPage = 4096;
constexpr unsigned kWarp = 32, kMostThreads = 1024;

// Switching stacks ----------------------------------------------------------------------------------------------------------

#if defined(__x86_64__)

struct Continuation {
  void* stack = nullptr;
  // Begins at `entry`, which never returns.
  void begin(char* memory, size_t size, void (*entry)()) {
    auto** top = reinterpret_cast<void**>(memory + size) - 1;  // a function begins with the stack 8 bytes off a multiple of 16
    *--top = reinterpret_cast<void*>(entry);
    for (int i = 0; i < 6; ++i) *--top = nullptr;
    stack = top;
  }
  void leave_for(Continuation& other) { attune_emulator_switch(&stack, other.stack); }
};
#else
struct Continuation {
  ucontext_t context{};
  void begin(char* memory, size_t size, void (*entry)()) {
    ::getcontext(&context);
    context.uc_stack.ss_sp = memory, context.uc_stack.ss_size = size, context.uc_link = nullptr;
    ::makecontext(&context, entry, 0);
  }
  void leave_for(Continuation& other) { ::swapcontext(&context, &other.context); }
};
#endif

// A block's threads -----------------------------------------------------------------------------------------------------------

enum class State { ready, at_warp_barrier, at_block_barrier, done };

struct Thread {
  Continuation self;
  char* stack = nullptr;
  State state = State::done;
  uint3 index;
  unsigned exchanges = 0;
  void* fake_stack = nullptr;  // AddressSanitizer's
};
struct Warp {
  unsigned arrived = 0;
  Slot slots[2][kWarp];
};

std::vector<Thread> threads;
std::vector<Warp> warps;
Continuation scheduler;
unsigned now = 0;  // the running thread
void (*kernel_call)(void*);
void* kernel_arguments;
std::string error;
std::map<const void*, int> shared_limits;

#if defined(__SANITIZE_ADDRESS__)
void* scheduler_fake_stack;
const void* scheduler_bottom;
size_t scheduler_size;
#endif

void enter(Thread& t) {
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_start_switch_fiber(&scheduler_fake_stack, t.stack, kStack);
#endif
  scheduler.leave_for(t.self);
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_finish_switch_fiber(scheduler_fake_stack, nullptr, nullptr);
#endif
}

void leave(State state) {
  Thread& t = threads[now];
  t.state = state;
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_start_switch_fiber(state == State::done ? nullptr : &t.fake_stack, scheduler_bottom, scheduler_size);
#endif
  t.self.leave_for(scheduler);
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_finish_switch_fiber(t.fake_stack, &scheduler_bottom, &scheduler_size);
#endif
}

void thread_main() {
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_finish_switch_fiber(nullptr, &scheduler_bottom, &scheduler_size);
#endif
  kernel_call(kernel_arguments);
  leave(State::done);
}

void prepare(unsigned count) {
  while (threads.size() < count) {
    void* memory = ::mmap(nullptr, kStack + kPage, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (memory == MAP_FAILED) throw std::bad_alloc();
    ::mprotect(memory, kPage, PROT_NONE);
    Thread t;
    t.stack = static_cast<char*>(memory) + kPage;
    threads.push_back(t);
  }
  warps.resize(kMostThreads / kWarp);
}

// Until all threads of the warp are done or wait for the block.
void run_warp(unsigned first, unsigned end, bool backwards) {
  for (bool moved = true; moved && error.empty();) {
    moved = false;
    for (unsigned turn = first; turn < end && error.empty(); ++turn) {
      const unsigned i = backwards ? end - 1 - (turn - first) : turn;
      if (threads[i].state != State::ready) continue;
      moved = true;
      now = i;
      threadIdx = threads[i].index;
      enter(threads[i]);
    }
  }
  for (unsigned i = first; i < end && error.empty(); ++i)
    if (threads[i].state == State::at_warp_barrier) error = "some threads of a warp wait for others that never come";
}

// Every other block runs backwards: what threads do to each other without a barrier between shows in the results.
void run_block(unsigned count) {
  const bool backwards = (blockIdx.x + blockIdx.y + blockIdx.z) % 2 != 0;
  for (unsigned i = 0; i < count; ++i) {
    Thread& t = threads[i];
    t.index = {i % blockDim.x, i / blockDim.x % blockDim.y, i / blockDim.x / blockDim.y};
    t.state = State::ready;
    t.exchanges = 0;
    t.self.begin(t.stack, kStack, thread_main);
  }
  for (Warp& w : warps) w.arrived = 0;
  while (error.empty()) {
    const unsigned all = (count + kWarp - 1) / kWarp;
    for (unsigned w = 0; w < all; ++w) {
      const unsigned first = (backwards ? all - 1 - w : w) * kWarp;
      run_warp(first, std::min(first + kWarp, count), backwards);
    }
    if (!error.empty()) return;
    const auto done = std::count_if(threads.begin(), threads.begin() + count, [](const Thread& t) { return t.state == State::done; });
    if (done == count) return;
    if (done > 0) {
      error = "some threads of a block wait at a barrier, and " + std::to_string(done) + " of " + std::to_string(count) + " have ended";
      return;
    }
    for (unsigned i = 0; i < count; ++i) threads[i].state = State::ready;
  }
}

// Device memory ------------------------------------------------------------------------------------------------------------

std::map<void*, size_t> device_memory;
int on_device = 0;

void protect(int access) {
  for (const auto& [base, bytes] : device_memory) ::mprotect(base, bytes, access);
}

}  // namespace

void add_device_memory(void* base, size_t bytes) {
  device_memory[base] = bytes;
  ::mprotect(base, bytes, on_device ? PROT_READ | PROT_WRITE : PROT_NONE);
}
void remove_device_memory(void* base) { device_memory.erase(base); }
OnDevice::OnDevice() {
  if (on_device++ == 0) protect(PROT_READ | PROT_WRITE);
}
OnDevice::~OnDevice() {
  if (--on_device == 0) protect(PROT_NONE);
}

void fail(const char* what) {
  error = what;
  leave(State::done);
}

int lane() { return static_cast<int>(now % kWarp); }

void sync_block() { leave(State::at_block_barrier); }

void sync_warp() {
  Warp& w = warps[now / kWarp];
  const unsigned first = now / kWarp * kWarp, end = std::min(first + kWarp, blockDim.x * blockDim.y * blockDim.z);
  if (++w.arrived < end - first) return leave(State::at_warp_barrier);
  w.arrived = 0;
  for (unsigned i = first; i < end; ++i)
    if (threads[i].state == State::at_warp_barrier) threads[i].state = State::ready;
}

const Slot* exchange(const void* mine, size_t size) {
  Slot* slots = warps[now / kWarp].slots[threads[now].exchanges++ % 2];
  std::memcpy(slots[now % kWarp].bytes, mine, size);
  sync_warp();
  return slots;
}

cudaError_t allow_shared(const void* kernel, int bytes) {
  if (bytes < 0 || static_cast<size_t>(bytes) > attune::ops::cuda::kMostShared) return cudaErrorInvalidValue;
  shared_limits[kernel] = bytes;
  return cudaSuccess;
}

cudaError_t launch(const cudaLaunchConfig_t& c, const void* kernel, void (*call)(void*), void* arguments) {
  using attune::ops::cuda::attune_shared, attune::ops::cuda::kCanary;
  error.clear();
  const unsigned count = c.blockDim.x * c.blockDim.y * c.blockDim.z;
  const auto limit = shared_limits.find(kernel);
  const size_t most = std::max<size_t>(48 << 10, limit == shared_limits.end() ? 0 : static_cast<size_t>(limit->second));
  if (count == 0 || count > kMostThreads || c.blockDim.z > 64 || c.gridDim.x == 0 || c.gridDim.x > 0x7FFFFFFFu || c.gridDim.y == 0 ||
      c.gridDim.y > 65535 || c.gridDim.z == 0 || c.gridDim.z > 65535 || c.dynamicSmemBytes > most) {
    error = "a launch beyond the limits of the device";
    return cudaErrorInvalidConfiguration;
  }
  const OnDevice device;
  prepare(count);
  kernel_call = call, kernel_arguments = arguments;
  blockDim = c.blockDim, gridDim = c.gridDim;
  for (unsigned z = 0; z < gridDim.z; ++z)
    for (unsigned y = 0; y < gridDim.y; ++y)
      for (unsigned x = 0; x < gridDim.x; ++x) {
        blockIdx = {x, y, z};
        std::memset(attune_shared, 0xFF, c.dynamicSmemBytes);  // NaN: nobody may count on zeros
        std::memset(attune_shared + c.dynamicSmemBytes, 0xA5, kCanary);
        run_block(count);
        const unsigned char* behind = attune_shared + c.dynamicSmemBytes;
        if (error.empty() && std::any_of(behind, behind + kCanary, [](unsigned char b) { return b != 0xA5; })) error = "a block wrote behind its shared memory";
        if (!error.empty()) return cudaErrorLaunchFailure;
      }
  return cudaSuccess;
}

}  // namespace cuda_emulator

// The runtime ---------------------------------------------------------------------------------------------------------------

namespace {

constexpr size_t kPage = 4096;
std::map<void*, std::pair<void*, size_t>> allocations;  // what was given out, and the mapping around it

// Pages before and behind are not there; the end is as near to the last page as alignment to 256 bytes lets it be.
cudaError_t allocate(void** memory, size_t bytes, bool on_device) {
  if (bytes > size_t{8} << 30) return cudaErrorMemoryAllocation;
  const size_t rounded = (bytes + 255) / 256 * 256, pages = (rounded + kPage - 1) / kPage * kPage, all = pages + 2 * kPage;
  void* mapping = ::mmap(nullptr, all, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (mapping == MAP_FAILED) return cudaErrorMemoryAllocation;
  char* first = static_cast<char*>(mapping) + kPage;
  if (on_device) cuda_emulator::add_device_memory(first, pages);
  else ::mprotect(first, pages, PROT_READ | PROT_WRITE);
  *memory = first + (pages - rounded);
  allocations[*memory] = {mapping, all};
  return cudaSuccess;
}

}  // namespace

const char* cudaGetErrorString(cudaError_t e) {
  if (e == cudaErrorLaunchFailure || e == cudaErrorInvalidConfiguration) return cuda_emulator::error.c_str();
  return e == cudaErrorMemoryAllocation ? "out of memory" : e == cudaSuccess ? "no error" : "invalid value";
}
const char* cudaGetErrorName(cudaError_t e) { return e == cudaErrorMemoryAllocation ? "cudaErrorMemoryAllocation" : "emulated"; }
cudaError_t cudaGetLastError() { return cudaSuccess; }
cudaError_t cudaDriverGetVersion(int* version) { return *version = CUDART_VERSION, cudaSuccess; }
cudaError_t cudaGetDeviceCount(int* count) { return *count = 1, cudaSuccess; }
cudaError_t cudaSetDevice(int) { return cudaSuccess; }
cudaError_t cudaGetDeviceProperties(cudaDeviceProp* p, int) {
  std::strcpy(p->name, "emulated");
  p->major = 8, p->minor = 0;
  return cudaSuccess;
}
cudaError_t cudaMemGetInfo(size_t* free, size_t* total) { return *free = *total = size_t{8} << 30, cudaSuccess; }

cudaError_t cudaMalloc(void** memory, size_t bytes) { return allocate(memory, bytes, true); }
cudaError_t cudaFree(void* memory) {
  const auto at = allocations.find(memory);
  if (at == allocations.end()) return cudaErrorInvalidValue;
  cuda_emulator::remove_device_memory(static_cast<char*>(at->second.first) + kPage);
  ::munmap(at->second.first, at->second.second);
  allocations.erase(at);
  return cudaSuccess;
}
cudaError_t cudaMallocHost(void** memory, size_t bytes) { return allocate(memory, bytes, false); }
cudaError_t cudaMemcpyAsync(void* to, const void* from, size_t bytes, cudaMemcpyKind, cudaStream_t) {
  const cuda_emulator::OnDevice device;
  std::memmove(to, from, bytes);
  return cudaSuccess;
}
cudaError_t cudaMemsetAsync(void* to, int value, size_t bytes, cudaStream_t) {
  const cuda_emulator::OnDevice device;
  std::memset(to, value, bytes);
  return cudaSuccess;
}
cudaError_t cudaMemset2DAsync(void* to, size_t pitch, int value, size_t width, size_t height, cudaStream_t) {
  if (width > pitch) return cudaErrorInvalidValue;
  const cuda_emulator::OnDevice device;
  for (size_t i = 0; i < height; ++i) std::memset(static_cast<char*>(to) + i * pitch, value, width);
  return cudaSuccess;
}
cudaError_t cudaStreamCreateWithFlags(cudaStream_t* stream, unsigned) { return *stream = nullptr, cudaSuccess; }
cudaError_t cudaStreamSynchronize(cudaStream_t) { return cudaSuccess; }
cudaError_t cudaEventCreateWithFlags(cudaEvent_t* event, unsigned) { return *event = nullptr, cudaSuccess; }
cudaError_t cudaEventRecord(cudaEvent_t, cudaStream_t) { return cudaSuccess; }
cudaError_t cudaEventSynchronize(cudaEvent_t) { return cudaSuccess; }
