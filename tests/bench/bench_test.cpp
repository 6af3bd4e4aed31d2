#include "bench/bench.h"

#include <gtest/gtest.h>

#include <nlohmann/json.hpp>
#include <set>

#include "models/families/family.h"
#include "support/fixtures.h"
#include "util/json.h"

namespace attune {
namespace {

train::RunSetup tiny(const std::vector<std::string>& more = {}) {
  std::vector<std::string> settings{"model_name_or_path=" + test::fixture("models/qwen2_tiny").string(), "finetuning_type=full", "cutoff_len=32",
                                    "per_device_train_batch_size=3"};
  settings.insert(settings.end(), more.begin(), more.end());
  return train::prepare_without_data(train::load_config("", settings, false));
}

TEST(Bench, FlopsPerTokenAreThoseOfTheFormula) {
  models::DecoderConfig c;  // Qwen2.5-0.5B: 3.03 GFLOP a token at 512 tokens, 3.23 at 2048
  c.hidden_size = 896, c.intermediate_size = 4864, c.num_hidden_layers = 24, c.num_attention_heads = 14, c.num_key_value_heads = 2;
  c.head_dim = 64, c.vocab_size = 151936;
  EXPECT_NEAR(bench::flops_per_token(c, 512) / 1e9, 3.03, 0.005);
  EXPECT_NEAR(bench::flops_per_token(c, 2048) / 1e9, 3.23, 0.005);
}

TEST(Bench, TheBreakdownAddsUpToTheStep) {
  for (const std::vector<std::string>& more : {std::vector<std::string>{}, {"bf16=true", "gradient_accumulation_steps=2"},
                                               {"pure_bf16=true", "optim=adafactor", "optimizer_in_backward=true"}}) {
    const auto setup = tiny(more);
    const bench::Result r = bench::run(setup, 2);
    double sum = 0, kernels = 0;
    for (const bench::Part& p : r.parts) sum += p.seconds;
    for (const bench::Kernel& k : r.kernels) kernels += k.seconds;
    EXPECT_NEAR(sum, r.step_seconds, 1e-6);
    EXPECT_LE(kernels, r.step_seconds);
    EXPECT_GT(kernels, 0);
    EXPECT_EQ(r.tokens, 32 * 3 * setup.config.gradient_accumulation_steps);
    EXPECT_NEAR(r.tokens_per_second, static_cast<double>(r.tokens) / r.step_seconds, 1e-6);
    std::set<std::string> roles;
    for (const bench::Kernel& k : r.kernels)
      if (k.op == "gemm") roles.insert(k.role);
    EXPECT_EQ(roles, (std::set<std::string>{"forward", "input gradient", "weight gradient"}));
  }
}

TEST(Bench, EveryShareIsOfWhatTheMachineCanDo) {
  const bench::Result r = bench::run(tiny(), 1);
  for (const bench::Kernel& k : r.kernels)
    EXPECT_NEAR(k.share, k.rate / (k.by_bytes ? r.axpy_bytes : r.fp32_flops), 1e-9) << k.op << " " << k.role;
  for (const double rate : {r.bf16_flops, r.fp32_flops, r.axpy_bytes, r.read_bytes}) EXPECT_GT(rate, 0);
}

TEST(Bench, JsonKeepsItsContract) {
  const Json json = parse_json(bench::result_json(bench::run(tiny(), 1)), "bench");
  for (const char* key : {"bf16_tflops", "fp32_tflops", "axpy_gbs"}) EXPECT_GT(json["calibration"][key].get<double>(), 0) << key;
  ASSERT_FALSE(json["kernels"].empty());
  for (const Json& k : json["kernels"])
    for (const char* key : {"op", "role", "shape", "share"}) EXPECT_TRUE(k.contains(key)) << key;
  for (const char* key : {"model", "tokens_per_second", "mfu", "peak_memory_bytes"}) EXPECT_TRUE(json["step"].contains(key)) << key;
  EXPECT_GT(json["generation"]["tokens_per_second"].get<double>(), 0);
}

}  // namespace
}  // namespace attune
