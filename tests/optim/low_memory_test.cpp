// The low-memory optimizers against their published code (tools/reference/low_memory_fixtures.py), and what they promise
// beyond it: any storage, any thread count, exact resumption.
#include <gtest/gtest.h>
#include <omp.h>

#include "optim/matrix.h"
#include "support/fixtures.h"

namespace attune {
namespace {

using namespace test;

// The numbers of the script's wave().
std::vector<float> wave(double a, size_t count) {
  std::vector<float> out;
  for (size_t i = 0; i < count; ++i) {
    const auto x = static_cast<double>(i);
    out.push_back(static_cast<float>(std::floor(std::sin(0.7 * a + 1.3 * x + 0.011 * x * x) * 4096) / 4096));
  }
  return out;
}

optim::OptimizerOptions base(const std::string& name) {
  optim::OptimizerOptions o;
  o.name = name;
  o.beta1 = 0.9f, o.beta2 = 0.99f, o.eps = 1e-6f, o.weight_decay = 0.1f, o.seed = 42;
  return o;
}

optim::OptimizerOptions options_of(const Json& test) {
  optim::OptimizerOptions o = base(test["name"].get<std::string>());
  for (const auto& [key, value] : test["arguments"].items()) {
    if (key == "rank") o.low_rank.rank = value.get<int64_t>();
    else if (key == "update_gap") o.low_rank.update_gap = value.get<int64_t>();
    else if (key == "scale") o.low_rank.scale = value.get<float>();
    else if (key == "side") o.low_rank.side = value.get<std::string>();
    else if (key == "scale_type") o.low_rank.scale_type = value.get<std::string>();
    else if (key == "scale_front") o.low_rank.scale_front = value.get<bool>();
    else if (key == "random") o.low_rank.random = value.get<bool>();
    else if (key == "adjust_lr") o.muon.adjust_lr = value.get<std::string>();
    else if (key == "nesterov") o.muon.nesterov = value.get<bool>();
    else ADD_FAILURE() << key;
  }
  return o;
}

const Json& reference() {
  static const Json json = read_json(fixture("optim/low_memory.json"));
  return json;
}

TEST(LowMemory, FollowsThePublishedCode) {
  const auto lr = reference()["lr"].get<float>();
  for (const Json& test : reference()["cases"]) {
    const auto rows = test["shape"][0].get<int64_t>(), cols = test["shape"][1].get<int64_t>();
    for (float grad_scale : {1.0f, 0.25f}) {
      Matrix run(options_of(test), DType::f32, false, rows, cols);
      const auto count = static_cast<size_t>(rows * cols);
      Matrix::put(run.p().weight, wave(100, count));
      for (int64_t t = 1; t <= 20; ++t) {
        std::vector<float> g = wave(2.0 * static_cast<double>(t), count);
        for (float& x : g) x /= grad_scale;
        Matrix::put(run.p().gradient, g);
        run.optimizer->step(run.context, run.p(), t, lr, grad_scale);
        if (test["steps"].contains(std::to_string(t))) {
          EXPECT_LT(relative_error(floats(run.p().weight), test["steps"][std::to_string(t)].get<std::vector<float>>()), 1e-5)
              << test["name"] << " " << test["shape"] << " " << test["arguments"] << " step " << t;
        }
      }
    }
  }
}

// In bf16 as torch.optim.Muon: within what bf16 products leave of the update.
TEST(LowMemory, MuonInBf16StaysNearPyTorch) {
  const auto lr = reference()["lr"].get<float>();
  for (const Json& test : reference()["muon_bf16"]) {
    optim::OptimizerOptions o = base("muon");
    o.muon.adjust_lr = test["adjust_lr"].get<std::string>();
    const auto rows = test["shape"][0].get<int64_t>(), cols = test["shape"][1].get<int64_t>();
    Matrix run(o, DType::bf16, true, rows, cols);
    const auto start = wave(100, static_cast<size_t>(rows * cols));
    Matrix::put(run.p().master, start);
    Arena gradients(Place::host(), 1 << 16);
    run.p().gradient = gradients.matrix(Rows::exactly(rows), cols, DType::f32);
    for (int64_t t = 1; t <= 20; ++t) {
      Matrix::put(run.p().gradient, wave(2.0 * static_cast<double>(t), start.size()));
      run.optimizer->step(run.context, run.p(), t, lr, 1);
      if (!test["steps"].contains(std::to_string(t))) continue;
      const auto expected = test["steps"][std::to_string(t)].get<std::vector<float>>(), got = floats(run.p().master);
      double error = 0, moved = 0;
      for (size_t i = 0; i < start.size(); ++i) {
        error += std::pow(got[i] - expected[i], 2);
        moved += std::pow(expected[i] - start[i], 2);
      }
      EXPECT_LT(std::sqrt(error / moved), 0.06) << test["shape"] << " step " << t;
    }
  }
}

class EightBit : public ::testing::TestWithParam<const ops::Backend*> {};

// A hundred steps over blocks of zeros, outliers and subnormal numbers. Without fused multiply-add every code, scale and
// weight is numpy's; with it a moment on the border between two codes may fall to the other one.
TEST_P(EightBit, AdamWFollowsBitsandbytesForAHundredSteps) {
  const Json& test = reference()["adamw_8bit"];
  const auto rows = test["shape"][0].get<int64_t>(), cols = test["shape"][1].get<int64_t>();
  Matrix run(base("adamw_8bit"), DType::f32, false, rows, cols, *GetParam());
  const auto count = static_cast<size_t>(rows * cols);
  Matrix::put(run.p().weight, wave(100, count));
  for (int64_t t = 1; t <= 100; ++t) {
    std::vector<float> g = wave(2.0 * static_cast<double>(t), count);
    std::fill(g.begin(), g.begin() + 256, 0.0f);
    g[300] = 1e6f;
    for (size_t i = 0; i < 256; ++i) g[512 + i] = static_cast<float>(g[512 + i] * std::pow(10.0, -44.0 * static_cast<double>(i) / 255));
    for (size_t i = 768; i < 1024; ++i) g[i] = -std::abs(g[i]);
    for (size_t i = 1024; i < 1280; ++i) g[i] = static_cast<float>(g[i] * 1e-42);
    Matrix::put(run.p().gradient, g);
    run.optimizer->step(run.context, run.p(), t, reference()["lr"].get<float>(), 1);
  }
  const auto states = run.optimizer->states();
  ASSERT_EQ(states.size(), 4u);
  int64_t other = 0;
  for (const auto& [index, name] : {std::pair<size_t, const char*>{0, "m"}, {2, "v"}}) {
    const auto hex = test[name].get<std::string>();
    for (size_t i = 0; i < count; ++i) {
      const int expected = std::stoi(hex.substr(2 * i, 2), nullptr, 16), got = states[index].tensor.as<uint8_t>()[i];
      other += got != expected;
      EXPECT_LE(std::abs(got - expected), 1) << name << " " << i;
    }
  }
  const bool exact = std::string(GetParam()->name) == "cpu (portable)";
  EXPECT_LE(other, exact ? 0 : static_cast<int64_t>(count) / 200);
  EXPECT_LT(relative_error(floats(states[1].tensor), test["m_absmax"].get<std::vector<float>>()), 1e-5);
  EXPECT_LT(relative_error(floats(states[3].tensor), test["v_absmax"].get<std::vector<float>>()), 1e-5);
  const auto expected = test["weights"].get<std::vector<float>>();
  if (exact) EXPECT_EQ(floats(run.p().weight), expected);
  else EXPECT_LT(relative_error(floats(run.p().weight), expected), 1e-2);
}

// But for the last digit or two, where torch's linspace rounds on its way.
TEST(EightBitMap, IsThatOfBitsandbytes) {
  for (const auto& [map, name] : {std::pair{&ops::DynamicMap::with_sign(), "signed_map"}, {&ops::DynamicMap::unsigned_(), "unsigned_map"}})
    for (size_t i = 0; i < 256; ++i)
      EXPECT_NEAR(map->values[i], reference()["adamw_8bit"][name][i].get<float>(), 2.4e-7 * std::abs(map->values[i])) << name << " " << i;
}

// Lion with β₂ = 0 stores its gradient: codes against a search through the whole map.
TEST_P(EightBit, CodesAreTheNearestOfTheMap) {
  optim::OptimizerOptions o = base("lion_8bit");
  o.beta2 = 0;
  Matrix run(o, DType::f32, false, 80, 256, *GetParam());
  const auto& values = ops::DynamicMap::with_sign().values;
  std::vector<float> g(static_cast<size_t>(run.p().count()));
  for (size_t i = 0; i < g.size(); ++i) {
    const float u = uniform_float(element_bits(7, i)) - 0.5f;
    g[i] = i % 3 == 0 ? u : i % 3 == 1 ? u * u * u * u * u * u * u : 0.0f;  // down to the last decades
    if (i % 3 == 2) {  // on a border and just beside it
      const size_t k = i / 3 % 255;
      const float border = (std::abs(values[k]) + std::abs(values[k + 1])) * 0.5f;
      g[i] = (values[k] < 0 ? -1.0f : 1.0f) * std::nextafter(border, i % 2 ? 2.0f : i % 4 ? 0.0f : border);
    }
    if (i % 256 == 5) g[i] = 1;  // the scale
  }
  Matrix::put(run.p().gradient, g);
  run.optimizer->step(run.context, run.p(), 1, 0.01f, 1);
  const auto* codes = run.optimizer->states()[0].tensor.as<uint8_t>();
  for (size_t i = 0; i < g.size(); ++i) {
    const double x = std::abs(g[i]);
    const bool negative = std::signbit(g[i]);
    int best = negative ? 126 : 127;  // a negative number never becomes 0
    for (int c = best; c >= 0 && c < 256; c += negative ? -1 : 1) {
      const auto borders = (std::abs(values[static_cast<size_t>(best)]) + std::abs(values[static_cast<size_t>(c)])) * 0.5f;
      if (c != best && x > borders) best = c;
    }
    ASSERT_EQ(codes[i], best) << i << " " << g[i];
  }
}

INSTANTIATE_TEST_SUITE_P(Cpu, EightBit, ::testing::ValuesIn(ops::cpu_backends()));

TEST(LowMemory, SmallTensorsKeepFp32States) {
  Matrix small(base("adamw_8bit"), DType::f32, false, 63, 65), large(base("adamw_8bit"), DType::f32, false, 64, 64);
  EXPECT_EQ(small.optimizer->states()[0].tensor.dtype, DType::f32);
  EXPECT_EQ(large.optimizer->states()[0].tensor.dtype, DType::u8);
  Matrix wide(base("adamw_8bit"), DType::f32, false, 63, 65), plain(base("adamw"), DType::f32, false, 63, 65);
  wide.step(1), plain.step(1);
  EXPECT_EQ(bytes_of(wide.p().weight), bytes_of(plain.p().weight));
}

std::vector<optim::OptimizerOptions> all_of_them() {
  std::vector<optim::OptimizerOptions> all;
  for (const char* name : {"adamw_8bit", "lion_8bit", "lomo", "adalomo", "galore", "galore_8bit", "muon", "apollo"}) all.push_back(base(name));
  for (auto& o : all) o.low_rank.rank = 4, o.low_rank.update_gap = 3;
  all.push_back(all.back());
  all.back().low_rank.rank = 1, all.back().low_rank.scale_type = "tensor", all.back().low_rank.scale = 128;
  return all;
}

// A run that stops behind step 4, between two projections, and goes on from its states has the bits of one that did not.
TEST(LowMemory, StatesCarryEverythingThatContinues) {
  for (const optim::OptimizerOptions& o : all_of_them())
    for (bool tall : {true, false}) {
      const int64_t rows = tall ? 80 : 64, cols = tall ? 64 : 80;
      Matrix through(o, DType::bf16, false, rows, cols), before(o, DType::bf16, false, rows, cols), after(o, DType::bf16, false, rows, cols);
      for (int64_t t = 1; t <= 8; ++t) through.step(t);
      for (int64_t t = 1; t <= 4; ++t) before.step(t);
      std::memcpy(after.p().weight.data, before.p().weight.data, before.p().weight.bytes());
      const auto from = before.optimizer->states(), to = after.optimizer->states();
      for (size_t i = 0; i < from.size(); ++i) {
        EXPECT_EQ(from[i].name, to[i].name);
        std::memcpy(to[i].tensor.data, from[i].tensor.data, from[i].tensor.bytes());
      }
      for (int64_t t = 5; t <= 8; ++t) after.step(t);
      EXPECT_EQ(bytes_of(through.p().weight), bytes_of(after.p().weight)) << o.name;
      EXPECT_NE(bytes_of(through.p().weight), bytes_of(before.p().weight)) << o.name;
    }
}

TEST(LowMemory, AnyStorageStaysNearFp32) {
  for (const optim::OptimizerOptions& o : all_of_them())
    for (const auto& [dtype, masters] : {std::pair{DType::bf16, true}, {DType::f16, true}, {DType::bf16, false}}) {
      optim::OptimizerOptions narrow = o;
      if (!masters) narrow.state_dtype = DType::bf16;
      Matrix exact(o, DType::f32, false, 96, 64), run(narrow, dtype, masters, 96, 64);
      const auto start = floats(exact.p().weight);
      for (int64_t t = 1; t <= 6; ++t) exact.step(t), run.step(t);
      const auto a = floats(run.p().stepped()), b = floats(exact.p().weight);
      double error = 0, moved = 0;
      for (size_t i = 0; i < a.size(); ++i) error += std::pow(a[i] - b[i], 2), moved += std::pow(b[i] - start[i], 2);
      // Without a master each element is off by up to the distance between two bf16 numbers, which these steps do not exceed by much.
      const double limit = !masters ? 0.5 : o.name == "lion_8bit" || o.name.starts_with("galore") ? 0.3 : 0.1;
      EXPECT_LT(std::sqrt(error / moved), limit) << o.name << " " << name_of(dtype);
    }
}

// But for products of matrices, whose sums follow the threads.
TEST(LowMemory, ThreadsChangeNothing) {
  const int threads = omp_get_max_threads();
  for (optim::OptimizerOptions o : all_of_them()) {
    if (o.name.starts_with("galore") || o.name == "muon" || (o.name == "apollo" && o.low_rank.rank > 1)) continue;
    for (bool tall : {true, false}) {
      std::string one;
      for (int n : {1, 2, 3}) {
        omp_set_num_threads(n);
        Matrix run(o, DType::bf16, false, tall ? 300 : 130, tall ? 130 : 300);
        for (int64_t t = 1; t <= 3; ++t) run.step(t);
        if (n == 1) one = bytes_of(run.p().weight);
        EXPECT_EQ(bytes_of(run.p().weight), one) << o.name << " with " << n << " threads";
      }
    }
  }
  omp_set_num_threads(threads);
}

TEST(LowMemory, OnlyMatricesOfLayersAreTreatedApart) {
  for (const char* name : {"galore", "apollo", "muon"}) {
    optim::OptimizerOptions o = base(name);
    nn::ParameterStore store;
    store.add("model.embed_tokens.weight", {32, 16}).is_table = true;
    for (const char* p : {"model.layers.0.mlp.up_proj.weight", "model.layers.0.self_attn.q_proj.weight"}) store.add(p, {24, 16});
    store.add("model.norm.weight", {16});
    store.allocate_weights(Place::host(), DType::f32);
    const auto apart = [&] {
      const auto optimizer = optim::Optimizer::create(o);
      optimizer->allocate(Place::host(), store);
      std::vector<std::string> names;
      for (const auto& p : store.all())
        if (!optimizer->accepts_row_slabs(*p)) names.push_back(p->name);
      return names;
    };
    EXPECT_EQ(apart().size(), 2u) << name;
    o.targets = {"mlp"};
    EXPECT_EQ(apart(), std::vector<std::string>{"model.layers.0.mlp.up_proj.weight"}) << name;
    o.targets = {"mlp", "experts"};
    EXPECT_THROW(apart(), Error) << name;
  }
}

// A parameter whose first gradient comes late has a projection then.
TEST(LowMemory, ALateFirstGradientFindsAProjection) {
  for (const char* name : {"galore", "apollo"}) {
    Matrix run(base(name), DType::f32, false, 64, 32);
    const std::string start = bytes_of(run.p().weight);
    optim::OptimizerOptions o = base(name);
    run.step(5);
    const auto states = run.optimizer->states();
    double sum = 0;
    for (const auto& s : states)
      if (s.name.ends_with("projector"))
        for (float x : floats(s.tensor)) sum += x * x;
    EXPECT_GT(sum, 0) << name;
    EXPECT_NE(bytes_of(run.p().weight), start) << name;
  }
}

}  // namespace
}  // namespace attune
