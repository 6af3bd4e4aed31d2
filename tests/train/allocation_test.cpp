// A step in its steady state takes nothing from the heap. oneDNN's threaded sgemm takes a small piece per call for itself;
// that is not counted.
#include <dlfcn.h>

#include <atomic>
#include <cstdlib>
#include <cstring>
#include <new>

#include "support/fixtures.h"

namespace {
std::atomic<bool> counting{false};
std::atomic<long> allocations{0};

void* counted(size_t bytes, void* caller) {
  if (counting.load(std::memory_order_relaxed)) {
    Dl_info info{};
    const bool onednn = ::dladdr(caller, &info) && info.dli_fname && std::strstr(info.dli_fname, "libdnnl");
    if (!onednn) allocations.fetch_add(1, std::memory_order_relaxed);
  }
  void* p = std::malloc(bytes ? bytes : 1);
  if (!p) throw std::bad_alloc();
  return p;
}
}  // namespace

[[gnu::noinline]] void* operator new(size_t bytes) { return counted(bytes, __builtin_return_address(0)); }
[[gnu::noinline]] void* operator new[](size_t bytes) { return counted(bytes, __builtin_return_address(0)); }
[[gnu::noinline]] void operator delete(void* p) noexcept { std::free(p); }
[[gnu::noinline]] void operator delete[](void* p) noexcept { std::free(p); }
[[gnu::noinline]] void operator delete(void* p, size_t) noexcept { std::free(p); }
[[gnu::noinline]] void operator delete[](void* p, size_t) noexcept { std::free(p); }

namespace attune {
namespace {

using namespace test;

long allocations_per_step(int64_t layers, nn::Recompute recompute, const tuning::TunerOptions& tuning = {}) {
  const models::DecoderConfig small = load_model(fixture("models/llama2_tiny"))->config();
  models::DecoderConfig config = small;
  config.num_hidden_layers = layers;
  models::Decoder model(config);
  train::EngineOptions options;
  options.tuning = tuning;
  train::allocate_model(model, options, Place::host());
  models::initialise_weights(model, 1);
  std::vector<Sample> samples;
  const Json reference = read_json(fixture("models/llama2_tiny/reference.json"));
  for (const Json& s : reference["sequences"]) samples.push_back(sample_of(s));
  const Step step = step_of({batch_of(samples)});
  objectives::CausalLm objective;
  options.capacity = capacity_of(step);
  options.recompute = recompute;
  auto engine = make_engine(model, objective, options);
  for (int64_t s = 1; s <= 3; ++s) engine->step(step, s, 1e-3f);
  allocations = 0;
  counting = true;
  engine->step(step, 4, 1e-3f);
  counting = false;
  return allocations;
}

TEST(Allocation, AStepInItsSteadyStateTakesNothingFromTheHeap) {
  for (nn::Recompute recompute : {nn::Recompute::none, nn::Recompute::light, nn::Recompute::block}) {
    EXPECT_EQ(allocations_per_step(2, recompute), 0);
    EXPECT_EQ(allocations_per_step(6, recompute), 0);
  }
}

TEST(Allocation, AQuantisedBaseTakesNoMoreThanADenseOne) {
  tuning::TunerOptions lora;
  lora.type = "lora";
  lora.lora.config.target_modules = {"all"};
  for (nn::Recompute recompute : {nn::Recompute::light, nn::Recompute::block}) {
    lora.quantization = {};
    const long dense = allocations_per_step(2, recompute, lora);
    lora.quantization = {QuantType::nf4, true};
    EXPECT_EQ(allocations_per_step(2, recompute, lora), dense);
  }
}

TEST(Allocation, ATensorTrainTakesNoMoreThanPlainLora) {
  tuning::TunerOptions lora;
  lora.type = "lora";
  lora.lora.config.target_modules = {"all"};
  const long plain = allocations_per_step(2, nn::Recompute::light, lora);
  lora.lora.tensor_train = {3, true};
  EXPECT_EQ(allocations_per_step(2, nn::Recompute::light, lora), plain);
}

}  // namespace
}  // namespace attune
