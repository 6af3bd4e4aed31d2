// Seams that show on a whole decoder: hooks, completion, recomputation, the KV cache, groups.
#include <algorithm>
#include <map>
#include <set>

#include "support/fixtures.h"

namespace attune {
namespace {

using namespace test;

std::vector<Sample> samples_of(const std::string& model) {
  std::vector<Sample> out;
  const Json reference = read_json(fixture("models") / model / "reference.json");
  for (const Json& s : reference["sequences"]) out.push_back(sample_of(s));
  return out;
}

class Recorder : public nn::StepHooks {
 public:
  void acquire(int block) override {
    EXPECT_EQ(held, -1) << "two blocks are held at once";
    held = block;
    acquired.push_back(block);
  }
  void release(int block) override {
    EXPECT_EQ(held, block);
    held = -1;
  }
  void gradient_complete(nn::Parameter& p) override {
    ++completed[p.name];
    EXPECT_TRUE(p.gradient_written) << p.name;
    EXPECT_EQ(p.pending_uses, 0) << p.name;
    if (const auto at = p.name.find("layers."); at != std::string::npos) {
      EXPECT_EQ(held, std::stoi(p.name.substr(at + 7))) << p.name << " completes outside of its block";
    }
  }
  int held = -1;
  std::vector<int> acquired;
  std::map<std::string, int> completed;
};

class Hooks : public ::testing::TestWithParam<std::tuple<const char*, nn::Recompute>> {};

TEST_P(Hooks, ArePairedAndEachParameterCompletesOncePerStep) {
  const auto [name, recompute] = GetParam();
  auto model = load_model(fixture("models") / name);
  std::vector<nn::Parameter*> all;
  for (const auto& p : model->parameters().all()) all.push_back(p.get());
  model->parameters().allocate_gradients(Place::host(), all);
  model->prepare(Place::host(), 64);
  const auto samples = samples_of(name);
  const std::vector<MicroBatch> batches{batch_of({samples[0]}), batch_of({samples[1], samples[2]})};
  Arena arena(Place::host(), 64 << 20);
  ops::Context context(ops::cpu_backend(), arena);
  Recorder hooks;
  nn::Tape tape(context, hooks);
  objectives::CausalLm objective;
  model->parameters().begin_step();
  for (size_t i = 0; i < batches.size(); ++i) {
    const bool last = i + 1 == batches.size();
    ArenaScope scope(arena);
    objectives::BatchView view;
    view.bind(batches[i], {64, 2, 64, 64}, 40.0);
    hooks.acquired.clear();
    tape.begin(true, recompute, last);
    objective.run(tape, *model, view, DType::f32, {});
    EXPECT_EQ(hooks.acquired, (std::vector<int>{0, 1, 1, 0})) << "forward, then backward in reverse";
    EXPECT_EQ(hooks.held, -1);
    if (!last) {
      EXPECT_TRUE(hooks.completed.empty()) << "complete before the last micro-batch";
    }
  }
  EXPECT_EQ(hooks.completed.size(), all.size());
  for (const auto& [parameter, times] : hooks.completed) EXPECT_EQ(times, 1) << parameter;
}

INSTANTIATE_TEST_SUITE_P(Models, Hooks,
                         ::testing::Combine(::testing::Values("llama2_tiny", "qwen2_tiny"),
                                            ::testing::Values(nn::Recompute::none, nn::Recompute::light, nn::Recompute::block)));

class RecomputeTest : public ::testing::TestWithParam<float> {};

TEST_P(RecomputeTest, GivesTheSameBits) {
  objectives::CausalLm objective;
  const Step step = step_of({batch_of(samples_of("qwen2_tiny"))});
  train::EngineOptions options;
  options.capacity = capacity_of(step);
  options.attention_dropout = options.hidden_dropout = GetParam();
  std::map<std::string, std::vector<float>> first;
  double loss = 0;
  for (nn::Recompute recompute : {nn::Recompute::none, nn::Recompute::light, nn::Recompute::block}) {
    auto model = load_model(fixture("models/qwen2_tiny"));
    options.recompute = recompute;
    auto engine = make_engine(*model, objective, options);
    const double l = engine->step(step, 1, 0.0f).loss;
    for (const auto& p : model->parameters().all()) {
      if (recompute == nn::Recompute::none) {
        first[p->name] = floats(p->gradient);
      } else {
        EXPECT_EQ(floats(p->gradient), first[p->name]) << p->name;
      }
    }
    if (recompute != nn::Recompute::none) {
      EXPECT_EQ(l, loss);
    }
    loss = l;
  }
}

INSTANTIATE_TEST_SUITE_P(Dropout, RecomputeTest, ::testing::Values(0.0f, 0.2f));

TEST(Decoder, FrozenBlocksStillPassTheGradientThrough) {
  auto model = load_model(fixture("models/qwen2_tiny")), reference = load_model(fixture("models/qwen2_tiny"));
  for (const auto& p : model->parameters().all())
    p->trainable = p->name.find("layers.0.self_attn.k_proj") != std::string::npos;
  objectives::CausalLm objective;
  const Step step = step_of({batch_of(samples_of("qwen2_tiny"))});
  for (nn::Recompute recompute : {nn::Recompute::none, nn::Recompute::light, nn::Recompute::block}) {
    train::EngineOptions options;
    options.capacity = capacity_of(step);
    options.recompute = recompute;
    auto all = make_engine(*reference, objective, options), some = make_engine(*model, objective, options);
    all->step(step, 1, 0.0f);
    some->step(step, 1, 0.0f);
    for (const auto& p : model->parameters().all()) {
      if (p->trainable) {
        EXPECT_LT(relative_error(floats(p->gradient), floats(reference->parameters().find(p->name)->gradient)), 1e-5);
      } else {
        EXPECT_FALSE(p->gradient.defined()) << p->name;
      }
    }
  }
}

TEST(Decoder, DecodingWithAKvCacheEqualsTheFullForward) {
  for (const char* name : {"qwen2_tiny", "llama3_tiny"}) {
    auto model = load_model(fixture("models") / name);
    model->prepare(Place::host(), 64);
    const std::vector<int32_t> ids = samples_of(name)[0].ids;
    const auto n = static_cast<int64_t>(ids.size());
    Arena arena(Place::host(), 64 << 20), cache_memory(Place::host(), 8 << 20);
    ops::Context context(ops::cpu_backend(), arena);
    nn::StepHooks hooks;
    nn::Tape tape(context, hooks);
    models::KvCache cache = model->make_cache(cache_memory, 64, DType::f32);

    // Rows [begin, end) of the sequence, with the cache or without.
    const auto hidden = [&](int64_t begin, int64_t end, models::KvCache* kv) {
      ArenaScope scope(arena);
      const auto rows = static_cast<int32_t>(end - begin);
      std::vector<int32_t> tokens(ids.begin() + begin, ids.begin() + end), positions, cu{0, rows}, cu_keys{0, static_cast<int32_t>(end)};
      for (int64_t p = begin; p < end; ++p) positions.push_back(static_cast<int32_t>(p));
      nn::Stream stream;
      stream.rows = Rows::exactly(rows);
      stream.tokens = Tensor::vector(tokens.data(), DType::i32, rows);
      stream.positions = Tensor::vector(positions.data(), DType::i32, rows);
      stream.cu_seqlens = Tensor::vector(cu.data(), DType::i32, 2);
      stream.max_seqlen = rows;
      stream.past = begin;
      if (kv) stream.cu_keys = Tensor::vector(cu_keys.data(), DType::i32, 2);
      models::ForwardOptions options;
      options.cache = kv;
      tape.begin(false);
      const nn::Value h = model->forward(tape, stream, DType::f32, options);
      return floats(model->head().logits(context, h->value));
    };
    const std::vector<float> full = hidden(0, n, nullptr);
    std::vector<float> decoded = hidden(0, 5, &cache);
    for (int64_t p = 5; p < n; ++p) {
      const auto more = p == 8 ? hidden(p, p + 3, &cache) : hidden(p, p + 1, &cache);
      if (p == 8) p += 2;
      decoded.insert(decoded.end(), more.begin(), more.end());
    }
    EXPECT_LT(relative_error(decoded, full), 1e-4) << name;
    EXPECT_EQ(arena.used(), 0u);
  }
}

// A preference-like objective: the members of a group are compared, so the unit of normalisation is the group.
class Pairwise : public objectives::Objective {
 public:
  objectives::Normaliser normaliser() const override { return objectives::Normaliser::groups; }
  double run(nn::Tape& tape, models::Decoder& model, const objectives::BatchView& batch, DType compute,
             const models::ForwardOptions& options) const override {
    nn::Value hidden = model.forward(tape, batch.stream(), compute, options);
    const Tensor lse = tape.context().arena().vector(batch.targets().rows.capacity, DType::f32);
    nn::Value logp = model.head().logprob(tape, hidden, batch.targets(), lse);
    const Tensor gradient = tape.context().arena().vector(batch.targets().rows.capacity, DType::f32);
    if (tape.context().dry()) {
      logp->gradient = gradient;
      logp->gradient_written = true;
      tape.backward();
      return 0;
    }
    // Sequences 2g and 2g+1 are a pair; their labelled rows lie within cu_seqlens.
    const auto* cu = batch.stream().cu_seqlens.as<int32_t>();
    const auto* rows = batch.targets().label_rows.as<int32_t>();
    const auto sequence_of = [&](int64_t i) {
      int64_t s = 0;
      while (cu[s + 1] <= rows[i]) ++s;
      return s;
    };
    std::vector<double> sums(static_cast<size_t>(batch.stream().cu_seqlens.cols));
    const int64_t n = batch.targets().rows.count;
    for (int64_t i = 0; i < n; ++i) sums[static_cast<size_t>(sequence_of(i))] += logp->value.as<float>()[i];
    double loss = 0;
    std::vector<double> slope(sums.size());
    for (size_t s = 0; s + 2 < sums.size(); s += 2) {
      const double margin = 0.1 * (sums[s] - sums[s + 1]);
      loss += std::log1p(std::exp(-margin)) / groups;
      slope[s] = -0.1 / (1 + std::exp(margin)) / groups;
      slope[s + 1] = -slope[s];
    }
    for (int64_t i = 0; i < n; ++i) gradient.as<float>()[i] = static_cast<float>(slope[static_cast<size_t>(sequence_of(i))]);
    logp->gradient = gradient;
    logp->gradient_written = true;
    if (tape.training()) tape.backward();
    return loss;
  }
  double groups = 2;
};

TEST(Groups, PairsStayTogetherAndNormaliseByGroup) {
  auto samples = samples_of("qwen2_tiny");
  samples.push_back(samples[0]);
  std::reverse(samples[3].ids.begin(), samples[3].ids.end());
  const auto pair = [&](MicroBatch& b, size_t first, int32_t group) {
    for (size_t i = first; i < first + 2; ++i) b.add_sequence(static_cast<int64_t>(i), samples[i].ids, samples[i].weights, group);
  };
  MicroBatch both, one, two;
  pair(both, 0, 0), pair(both, 2, 1), pair(one, 0, 0), pair(two, 2, 0);
  EXPECT_EQ(both.groups, 2);
  EXPECT_EQ(both.sequence_count(), 4);
  EXPECT_EQ(both.sequence_groups, (std::vector<int32_t>{0, 0, 1, 1}));
  const Step together = step_of({both}), apart = step_of({one, two});
  Pairwise objective;
  EXPECT_EQ(objectives::normaliser_of(objective, together), 2);
  EXPECT_EQ(objectives::normaliser_of(objective, apart), 2);

  auto model = load_model(fixture("models/qwen2_tiny"));
  std::map<std::string, std::vector<float>> gradients;
  double loss = 0;
  for (const Step* step : {&together, &apart}) {
    train::EngineOptions options;
    options.capacity = capacity_of(*step);
    options.micro_batches = static_cast<int64_t>(step->micro_batches.size());
    auto engine = make_engine(*model, objective, options);
    const double l = engine->step(*step, 1, 0.0f).loss;
    if (step == &together) {
      loss = l;
    } else {
      EXPECT_NEAR(l, loss, 1e-5);
    }
    for (const auto& p : model->parameters().all()) {
      if (step == &together) {
        gradients[p->name] = floats(p->gradient);
      } else {
        EXPECT_LT(relative_error(floats(p->gradient), gradients[p->name]), 1e-4) << p->name;
      }
    }
  }
  // The slope along the gradient is its squared length.
  double squared = 0;
  for (const auto& [name, g] : gradients)
    for (float x : g) squared += static_cast<double>(x) * x;
  const double h = 1e-3 / std::sqrt(squared);
  double moved[2];
  for (int side : {0, 1}) {
    auto shifted = load_model(fixture("models/qwen2_tiny"));
    for (const auto& p : shifted->parameters().all())
      for (size_t i = 0; i < gradients[p->name].size(); ++i)
        p->weight.as<float>()[i] += static_cast<float>((side ? -h : h) * gradients[p->name][i]);
    train::EngineOptions options;
    options.capacity = capacity_of(together);
    auto engine = make_engine(*shifted, objective, options);
    moved[side] = engine->step(together, 1, 0.0f).loss;
  }
  EXPECT_NEAR((moved[0] - moved[1]) / (2 * h) / squared, 1, 0.02);
}

}  // namespace
}  // namespace attune
