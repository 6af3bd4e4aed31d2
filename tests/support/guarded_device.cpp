#include "support/guarded_device.h"

#include <sys/mman.h>

#include <cstring>
#include <map>
#include <type_traits>

#include "util/error.h"

namespace attune::testing {
namespace {

class Guarded : public Device {
 public:
  const char* name() const override { return "guarded (test)"; }
  uint64_t total_memory() const override { return host().total_memory(); }
  uint64_t free_memory() const override { return host().free_memory(); }

  uint64_t held_memory() const override {
    uint64_t sum = 0;
    for (const auto& [base, r] : ranges_) sum += r.committed;
    return sum;
  }

  void* reserve(uint64_t bytes) override {
    void* p = ::mmap(nullptr, bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (p == MAP_FAILED) return nullptr;
    ranges_[static_cast<char*>(p)] = {bytes, 0};
    return p;
  }
  bool commit(void* base, uint64_t bytes) override {
    Range& r = ranges_.at(static_cast<char*>(base));
    // As on a real device: fresh memory holds anything.
    const Open open(*this);
    ::mprotect(base, bytes, PROT_READ | PROT_WRITE);
    std::memset(static_cast<char*>(base) + r.committed, 0xA5, bytes - r.committed);
    r.committed = bytes;
    return true;
  }
  void release(void* base, uint64_t bytes) override {
    ranges_.erase(static_cast<char*>(base));
    ::munmap(base, bytes);
  }
  void upload(void* to, const void* from, uint64_t bytes) override {
    check(to, bytes);
    const Open open(*this);
    std::memcpy(to, from, bytes);
  }
  void download(void* to, const void* from, uint64_t bytes) override {
    check(from, bytes);
    const Open open(*this);
    std::memcpy(to, from, bytes);
  }
  void copy(void* to, const void* from, uint64_t bytes) override {
    check(to, bytes), check(from, bytes);
    const Open open(*this);
    std::memmove(to, from, bytes);
  }
  void zero(void* to, uint64_t bytes) override {
    check(to, bytes);
    const Open open(*this);
    std::memset(to, 0, bytes);
  }
  void synchronize() override {}

  // While one lives, the host may touch what is committed.
  class Open {
   public:
    explicit Open(Guarded& device) : device_(device) {
      if (device_.open_++ == 0) device_.protect(PROT_READ | PROT_WRITE);
    }
    ~Open() {
      if (--device_.open_ == 0) device_.protect(PROT_NONE);
    }

   private:
    Guarded& device_;
  };

  bool holds(const void* p, uint64_t bytes) const {
    const auto* from = static_cast<const char*>(p);
    auto it = ranges_.upper_bound(const_cast<char*>(from));
    if (it == ranges_.begin()) return false;
    --it;
    return from + bytes <= it->first + it->second.committed;
  }
  void check(const void* p, uint64_t bytes) const {
    if (bytes > 0 && !holds(p, bytes)) fail("{} bytes at {} do not lie on the device", bytes, p);
  }

 private:
  struct Range {
    uint64_t reserved, committed;
  };
  void protect(int access) {
    for (const auto& [base, r] : ranges_)
      if (r.committed > 0) ::mprotect(base, r.committed, access);
  }

  std::map<char*, Range> ranges_;
  int open_ = 0;
};

Guarded& device() {
  static Guarded guarded;
  return guarded;
}

int64_t calls = 0;

// Looks for what reads like a Tensor anywhere in the arguments of an op: structs of Tensors, numbers and pointers.
template <class Args>
void check_tensors(const Args& args) {
  static_assert(std::is_trivially_copyable_v<Args>);
  const auto* bytes = reinterpret_cast<const char*>(&args);
  for (size_t at = 0; at + sizeof(Tensor) <= sizeof(Args); at += 8) {
    Tensor t;
    std::memcpy(static_cast<void*>(&t), bytes + at, sizeof t);
    const auto address = reinterpret_cast<uint64_t>(t.data);
    const bool pointer = address >= uint64_t{1} << 40 && address < uint64_t{1} << 47 && address % size_of(DType::bf16) == 0;
    const bool shape = static_cast<uint8_t>(t.dtype) <= static_cast<uint8_t>(DType::u8) && t.rows.count > 0 && t.rows.capacity >= t.rows.count &&
                       t.rows.capacity < int64_t{1} << 40 && t.cols > 0 && t.cols < int64_t{1} << 40 && t.stride >= t.cols && t.stride < int64_t{1} << 40;
    if (!pointer || !shape) continue;
    const uint64_t span = static_cast<uint64_t>((t.rows.count - 1) * t.stride + t.cols) * size_of(t.dtype);
    if (!device().holds(t.data, span)) fail("{}: at byte {} a tensor [{}, {}] of {} that does not lie on the device", __PRETTY_FUNCTION__, at, t.rows.count, t.cols, name_of(t.dtype));
    at += sizeof(Tensor) - 8;  // padding inside of it may read like anything
  }
}

template <auto Entry>
struct Call;
template <class Result, class... Args, Result (*ops::Backend::*Entry)(Args...)>
struct Call<Entry> {
  static Result on_device(Args... args) {
    (check_tensors(args), ...);
    ++calls;
    const Guarded::Open open(device());
    return (ops::cpu_backend().*Entry)(args...);
  }
  static Result of_shapes(Args... args) { return (ops::cpu_backend().*Entry)(args...); }
};

}  // namespace

const ops::Backend& guarded_backend() {
  static const ops::Backend table{
      .name = "guarded (test)",
      .device = []() -> Device& { return device(); },
      .threads = Call<&ops::Backend::threads>::of_shapes,
      .gemm_workspace = Call<&ops::Backend::gemm_workspace>::of_shapes,
      .gemm = Call<&ops::Backend::gemm>::on_device,
      .attention_workspace = Call<&ops::Backend::attention_workspace>::of_shapes,
      .attention_forward = Call<&ops::Backend::attention_forward>::on_device,
      .attention_backward = Call<&ops::Backend::attention_backward>::on_device,
      .embedding_forward = Call<&ops::Backend::embedding_forward>::on_device,
      .embedding_backward = Call<&ops::Backend::embedding_backward>::on_device,
      .rms_norm_forward = Call<&ops::Backend::rms_norm_forward>::on_device,
      .rms_norm_backward = Call<&ops::Backend::rms_norm_backward>::on_device,
      .rope = Call<&ops::Backend::rope>::on_device,
      .rope_table = Call<&ops::Backend::rope_table>::on_device,
      .swiglu_forward = Call<&ops::Backend::swiglu_forward>::on_device,
      .swiglu_backward = Call<&ops::Backend::swiglu_backward>::on_device,
      .add = Call<&ops::Backend::add>::on_device,
      .add_bias = Call<&ops::Backend::add_bias>::on_device,
      .sum_rows = Call<&ops::Backend::sum_rows>::on_device,
      .scale = Call<&ops::Backend::scale>::on_device,
      .fill_zero = Call<&ops::Backend::fill_zero>::on_device,
      .gather_rows = Call<&ops::Backend::gather_rows>::on_device,
      .scatter_rows = Call<&ops::Backend::scatter_rows>::on_device,
      .dropout = Call<&ops::Backend::dropout>::on_device,
      .dequantize = Call<&ops::Backend::dequantize>::on_device,
      .token_logprob = Call<&ops::Backend::token_logprob>::on_device,
      .logprob_slab = Call<&ops::Backend::logprob_slab>::on_device,
      .finish_logprob = Call<&ops::Backend::finish_logprob>::on_device,
      .logit_gradient = Call<&ops::Backend::logit_gradient>::on_device,
      .inverse_row_norms = Call<&ops::Backend::inverse_row_norms>::on_device,
      .scale_columns = Call<&ops::Backend::scale_columns>::on_device,
      .project_rows = Call<&ops::Backend::project_rows>::on_device,
      .softcap = Call<&ops::Backend::softcap>::on_device,
      .softcap_backward = Call<&ops::Backend::softcap_backward>::on_device,
      .embedding_noise = Call<&ops::Backend::embedding_noise>::on_device,
      .adapted_row_norms = Call<&ops::Backend::adapted_row_norms>::on_device,
      .magnitude_forward = Call<&ops::Backend::magnitude_forward>::on_device,
      .magnitude_backward = Call<&ops::Backend::magnitude_backward>::on_device,
      .adam = Call<&ops::Backend::adam>::on_device,
      .sgd = Call<&ops::Backend::sgd>::on_device,
      .lion = Call<&ops::Backend::lion>::on_device,
      .adafactor = Call<&ops::Backend::adafactor>::on_device,
      .adam_8bit = Call<&ops::Backend::adam_8bit>::on_device,
      .lion_8bit = Call<&ops::Backend::lion_8bit>::on_device,
      .random_projection = Call<&ops::Backend::random_projection>::on_device,
      .singular_vectors_workspace = nullptr,
      .singular_vectors = nullptr,
      .channel_sums = Call<&ops::Backend::channel_sums>::on_device,
      .apollo_factors = Call<&ops::Backend::apollo_factors>::on_device,
      .scaled_step = Call<&ops::Backend::scaled_step>::on_device,
      .squared_norm = Call<&ops::Backend::squared_norm>::on_device,
  };
  return table;
}

int64_t guarded_calls() { return calls; }

}  // namespace attune::testing
