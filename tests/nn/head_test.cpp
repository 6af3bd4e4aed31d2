// The head's two uses, its hook, and its chunks.
#include "nn/head.h"

#include "ops/elementwise.h"
#include "toy.h"

namespace attune {
namespace {

using namespace test;

class HeadTest : public Toy {
 protected:
  std::vector<int32_t> label_rows, labels;
  std::vector<float> coefficients, logp;
  nn::Targets targets;

  void make_targets(int64_t rows, int64_t vocab, int64_t step = 2) {
    for (int32_t r = 0; r < rows; r += static_cast<int32_t>(step)) {
      label_rows.push_back(r);
      labels.push_back(static_cast<int32_t>((r * 7919 + 3) % vocab));
      coefficients.push_back(0.01f * static_cast<float>(r % 5 + 1));
    }
    logp.resize(labels.size());
    targets = part(0, static_cast<int64_t>(labels.size()));
  }
  nn::Targets part(int64_t begin, int64_t n) {
    nn::Targets t;
    t.rows = Rows::exactly(n);
    t.label_rows = Tensor::vector(label_rows.data() + begin, DType::i32, n);
    t.labels = Tensor::vector(labels.data() + begin, DType::i32, n);
    t.coefficient = Tensor::vector(coefficients.data() + begin, DType::f32, n);
    return t;
  }
  struct Result {
    std::vector<double> dhidden, dweight;
    std::vector<float> logp;
  };
  nn::HeadOptions options;
  Result loss(nn::Parameter& weight, int64_t rows, const nn::Targets& t, nn::LogitHook* hook = nullptr) {
    store.begin_step();
    ArenaScope scope(arena);
    tape.begin(true);
    nn::Value hidden = input(rows, weight.weight.cols);
    nn::Head(weight, options).loss(tape, hidden, t, {Tensor::vector(logp.data(), DType::f32, t.rows.count), {}, 0, hook});
    tape.backward();
    return {doubles(hidden->gradient), doubles(weight.gradient), logp};
  }
};

void expect_close(const std::vector<double>& a, const std::vector<double>& b, double tolerance = 1e-6) {
  ASSERT_EQ(a.size(), b.size());
  double scale = 1e-12, error = 0;
  for (size_t i = 0; i < a.size(); ++i) {
    scale = std::max(scale, std::abs(b[i]));
    error = std::max(error, std::abs(a[i] - b[i]));
  }
  EXPECT_LT(error / scale, tolerance);
}

class HeadOptionsTest : public HeadTest, public ::testing::WithParamInterface<nn::HeadOptions> {};

TEST_P(HeadOptionsTest, BothUsesGiveTheSameGradients) {
  nn::Parameter& weight = store.add("lm_head.weight", {301, 12});
  allocate();
  make_targets(33, 301);
  options = GetParam();
  options.z_loss = 0;  // it belongs to the loss, not to a log-probability
  const Result direct = loss(weight, 33, targets);
  store.begin_step();
  ArenaScope scope(arena);
  tape.begin(true);
  nn::Value hidden = input(33, 12);
  std::vector<float> lse(labels.size()), dlogp;
  for (float c : coefficients) dlogp.push_back(-c);
  nn::Value value = nn::Head(weight, options).logprob(tape, hidden, targets, Tensor::vector(lse.data(), DType::f32, targets.rows.count));
  for (size_t i = 0; i < labels.size(); ++i) EXPECT_EQ(value->value.as<float>()[i], direct.logp[i]);
  value->gradient = Tensor::vector(dlogp.data(), DType::f32, targets.rows.count);
  value->gradient_written = true;
  tape.backward();
  expect_close(doubles(hidden->gradient), direct.dhidden);
  expect_close(doubles(weight.gradient), direct.dweight);
  EXPECT_EQ(weight.pending_uses, 0);
}

TEST_P(HeadOptionsTest, LossAgainstADoublePrecisionSoftmax) {
  nn::Parameter& weight = store.add("lm_head.weight", {37, 5});
  allocate();
  make_targets(9, 37);
  options = GetParam();
  const Result r = loss(weight, 9, targets);
  ArenaScope scope(arena);
  tape.begin(true);
  std::vector<double> h = doubles(input(9, 5)->value), w = doubles(weight.weight);
  const auto reference = [&] {
    double total = 0;
    for (size_t i = 0; i < labels.size(); ++i) {
      double sum = 0, chosen = 0, top = -INFINITY;
      for (size_t v = 0; v < 37; ++v) {
        double z = 0, norm = 0;
        for (size_t c = 0; c < 5; ++c) z += h[static_cast<size_t>(label_rows[i]) * 5 + c] * w[v * 5 + c];
        for (size_t c = 0; c < 5; ++c) norm += w[v * 5 + c] * w[v * 5 + c];
        if (options.normalise_rows) z /= std::sqrt(norm);
        if (options.softcap > 0) z = options.softcap * std::tanh(z / options.softcap);
        top = std::max(top, z);
        sum += std::exp(z);
        if (v == static_cast<size_t>(labels[i])) chosen = z;
      }
      total -= static_cast<double>(coefficients[i]) * (chosen - std::log(sum) - options.z_loss * top * top);
    }
    return total;
  };
  std::vector<float> dh(r.dhidden.begin(), r.dhidden.end()), dw(r.dweight.begin(), r.dweight.end());
  expect_differences(Tensor::matrix(dh.data(), DType::f32, 9, 5), h, reference);
  expect_differences(Tensor::matrix(dw.data(), DType::f32, 37, 5), w, reference);
}

INSTANTIATE_TEST_SUITE_P(Options, HeadOptionsTest,
                         ::testing::Values(nn::HeadOptions{}, nn::HeadOptions{true, 0, 0}, nn::HeadOptions{false, 0.5f, 0},
                                           nn::HeadOptions{false, 0, 0.25f}, nn::HeadOptions{true, 0.7f, 0.25f}));

TEST_F(HeadTest, ZLossBelongsToTrainingOnly) {
  nn::Parameter& weight = store.add("lm_head.weight", {37, 5});
  allocate();
  make_targets(9, 37);
  options.z_loss = 0.5f;
  const Result training = loss(weight, 9, targets);
  ArenaScope scope(arena);
  tape.begin(false);
  nn::Head(weight, options).loss(tape, input(9, 5), targets, {Tensor::vector(logp.data(), DType::f32, targets.rows.count), {}, 0, nullptr});
  const auto evaluated = logp;
  tape.begin(false);
  nn::Head(weight).loss(tape, input(9, 5), targets, {Tensor::vector(logp.data(), DType::f32, targets.rows.count), {}, 0, nullptr});
  EXPECT_EQ(evaluated, logp);
  for (size_t i = 0; i < logp.size(); ++i) EXPECT_LT(training.logp[i], logp[i]);
}

// Doubles the logits that it sees; the head's own transforms lie before it.
class Doubling : public nn::LogitHook {
 public:
  void forward(ops::Context& context, const Tensor& logits, int64_t) override { ops::scale(context, {logits, logits, 2.0f, false}); }
  void backward(ops::Context& context, const Tensor& dlogits, int64_t) override { ops::scale(context, {dlogits, dlogits, 2.0f, false}); }
};

TEST_F(HeadTest, AHookThatDoublesLogitsIsADoubledWeight) {
  nn::Parameter& weight = store.add("lm_head.weight", {129, 8});
  allocate();
  make_targets(33, 129);
  Doubling hook;
  const Result hooked = loss(weight, 33, targets, &hook);
  for (int64_t i = 0; i < weight.count(); ++i) weight.weight.as<float>()[i] *= 2;
  Result doubled = loss(weight, 33, targets);
  for (double& g : doubled.dweight) g *= 2;
  EXPECT_EQ(hooked.logp, doubled.logp);
  expect_close(hooked.dhidden, doubled.dhidden);
  expect_close(hooked.dweight, doubled.dweight);
}

TEST_F(HeadTest, AHookSeesLogitsBehindTheSoftCapAndTheNorm) {
  nn::Parameter& weight = store.add("lm_head.weight", {37, 5});
  allocate();
  make_targets(9, 37);
  options = {true, 0.7f, 0};
  Doubling hook;
  const Result r = loss(weight, 9, targets, &hook);
  ArenaScope scope(arena);
  tape.begin(true);
  std::vector<double> h = doubles(input(9, 5)->value), w = doubles(weight.weight);
  const auto reference = [&] {
    double total = 0;
    for (size_t i = 0; i < labels.size(); ++i) {
      double sum = 0, chosen = 0;
      for (size_t v = 0; v < 37; ++v) {
        double z = 0, norm = 0;
        for (size_t c = 0; c < 5; ++c) z += h[static_cast<size_t>(label_rows[i]) * 5 + c] * w[v * 5 + c];
        for (size_t c = 0; c < 5; ++c) norm += w[v * 5 + c] * w[v * 5 + c];
        z = 2 * options.softcap * std::tanh(z / std::sqrt(norm) / options.softcap);
        sum += std::exp(z);
        if (v == static_cast<size_t>(labels[i])) chosen = z;
      }
      total -= static_cast<double>(coefficients[i]) * (chosen - std::log(sum));
    }
    return total;
  };
  std::vector<float> dh(r.dhidden.begin(), r.dhidden.end()), dw(r.dweight.begin(), r.dweight.end());
  expect_differences(Tensor::matrix(dh.data(), DType::f32, 9, 5), h, reference);
  expect_differences(Tensor::matrix(dw.data(), DType::f32, 37, 5), w, reference);
}

TEST_F(HeadTest, AFrozenHeadStillPassesTheGradientOn) {
  nn::Parameter& weight = store.add("lm_head.weight", {64, 8});
  allocate();
  make_targets(9, 64);
  const Result trained = loss(weight, 9, targets);
  weight.trainable = false;
  weight.gradient = {};
  store.begin_step();
  ArenaScope scope(arena);
  tape.begin(true);
  nn::Value hidden = input(9, 8);
  nn::Head(weight).loss(tape, hidden, targets, {Tensor::vector(logp.data(), DType::f32, targets.rows.count), {}, 0, nullptr});
  tape.backward();
  EXPECT_EQ(doubles(hidden->gradient), trained.dhidden);
  EXPECT_FALSE(weight.gradient.defined());
}

// Collects what the head hands over slab by slab.
class SlabHooks : public nn::StepHooks {
 public:
  explicit SlabHooks(nn::RowSlabs how) : how_(how) {}
  nn::RowSlabs row_slabs(const nn::Parameter&) override { return how_; }
  void rows_complete(nn::Parameter& p, int64_t first_row, const Tensor& gradient) override {
    EXPECT_EQ(first_row * p.weight.cols, static_cast<int64_t>(collected.size()));
    collected.insert(collected.end(), gradient.as<float>(), gradient.as<float>() + gradient.count());
    ++slabs;
    // The head may not look at these rows again: an optimizer has changed them.
    const Tensor rows = p.weight.slice(first_row, gradient.rows.count);
    std::fill(rows.as<float>(), rows.as<float>() + rows.count(), NAN);
  }
  void gradient_complete(nn::Parameter&) override { ++completions; }

  std::vector<double> collected;
  int slabs = 0, completions = 0;

 private:
  nn::RowSlabs how_;
};

TEST_P(HeadOptionsTest, SlabsOfTheVocabularyGiveWhatChunksOfTokensGive) {
  nn::Parameter& weight = store.add("lm_head.weight", {1000, 12});
  allocate();
  make_targets(201, 1000);
  options = GetParam();
  for (const auto& [smoothing, by_probability] : {std::pair{0.0f, false}, {0.1f, false}, {0.0f, true}}) {
    const auto run = [&, smoothing = smoothing, by_probability = by_probability](nn::StepHooks& with) {
      std::vector<float> correct(labels.size());
      nn::Tape own(context, with);
      store.begin_step();
      ArenaScope scope(arena);
      own.begin(true);
      nn::Value hidden = own.make(Rows::exactly(201), 12, DType::f32, true);
      own.keep(hidden);
      fill(hidden->value, 99);
      nn::HeadOptions small = options;
      small.chunk_bytes = 300'000;
      nn::Head(weight, small).loss(own, hidden, targets, {Tensor::vector(logp.data(), DType::f32, targets.rows.count),
                                                         Tensor::vector(correct.data(), DType::f32, targets.rows.count), smoothing, nullptr,
                                                         by_probability});
      own.backward();
      std::vector<float> known = logp;
      known.insert(known.end(), correct.begin(), correct.end());
      return Result{doubles(hidden->gradient), doubles(weight.gradient), known};
    };
    const auto weights = doubles(weight.weight);
    const Result chunks = run(hooks);
    SlabHooks kept(nn::RowSlabs::kept), freed(nn::RowSlabs::freed);
    const Result whole = run(kept);
    const Result pieces = run(freed);
    std::copy(weights.begin(), weights.end(), weight.weight.as<float>());
    EXPECT_EQ(kept.completions, 1);
    EXPECT_EQ(kept.slabs, 0);
    EXPECT_EQ(freed.completions, 0);
    EXPECT_GT(freed.slabs, 1);
    EXPECT_EQ(weight.pending_uses, 0);
    for (size_t i = 0; i < chunks.logp.size(); ++i) EXPECT_NEAR(whole.logp[i], chunks.logp[i], 1e-5);
    EXPECT_EQ(whole.logp, pieces.logp);
    expect_close(whole.dhidden, chunks.dhidden, 1e-5);
    expect_close(whole.dweight, chunks.dweight, 1e-5);
    EXPECT_EQ(pieces.dhidden, whole.dhidden);
    EXPECT_EQ(freed.collected, whole.dweight);
  }
}

TEST_F(HeadTest, ALossThatIsNotFiniteReachesNoSlab) {
  nn::Parameter& weight = store.add("lm_head.weight", {1000, 12});
  allocate();
  make_targets(201, 1000);
  SlabHooks freed(nn::RowSlabs::freed);
  nn::Tape own(context, freed);
  own.begin(true);
  nn::Value hidden = own.make(Rows::exactly(201), 12, DType::f32, true);
  own.keep(hidden);
  fill(hidden->value, 99);
  hidden->value.row<float>(label_rows[5])[3] = NAN;
  options.chunk_bytes = 300'000;
  nn::Head(weight, options).loss(own, hidden, targets, {Tensor::vector(logp.data(), DType::f32, targets.rows.count), {}, 0, nullptr});
  EXPECT_EQ(freed.slabs, 0);
  EXPECT_TRUE(std::isnan(logp[5]));
}

TEST_F(HeadTest, ChunksChangeNothing) {
  constexpr int64_t kVocab = 1'250'001;  // so many that only 64 rows fit a chunk
  nn::Parameter& weight = store.add("lm_head.weight", {kVocab, 2});
  allocate();
  make_targets(68, kVocab, 1);
  const nn::Head head(weight);
  ASSERT_EQ(head.chunk_rows(68), 64);
  const Result whole = loss(weight, 68, targets);
  Result first = loss(weight, 68, part(0, 60));
  std::vector<float> values(first.logp.begin(), first.logp.begin() + 60);
  const Result second = loss(weight, 68, part(60, 8));
  values.insert(values.end(), second.logp.begin(), second.logp.begin() + 8);
  for (size_t i = 0; i < values.size(); ++i) EXPECT_NEAR(values[i], whole.logp[i], 1e-5);
  for (size_t i = 0; i < first.dhidden.size(); ++i) first.dhidden[i] += second.dhidden[i];
  for (size_t i = 0; i < first.dweight.size(); ++i) first.dweight[i] += second.dweight[i];
  expect_close(whole.dhidden, first.dhidden, 1e-5);
  expect_close(whole.dweight, first.dweight, 1e-5);
}

}  // namespace
}  // namespace attune
