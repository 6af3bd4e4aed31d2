#include "ops/embedding.h"

#include "op_test.h"

namespace attune {
namespace {

using namespace test;

class Embedding : public EveryBackend {};

TEST_P(Embedding, ForwardTakesRows) {
  const std::vector<int32_t> ids{3, 0, 3, 6, 1};
  for (int64_t d : {1, 33, 129}) {
    const Doubles w = rounded(random_doubles(7 * d, 1), DType::bf16);
    for (DType from : {DType::f32, DType::bf16})
      for (DType to : {DType::f32, DType::bf16}) {
        Owned tw(from, 7, d, w), y(to, 5, d);
        ops::embedding_forward(context, {vector_of(ids), tw, y});
        const Doubles out = y.doubles();
        for (size_t i = 0; i < ids.size(); ++i)
          for (int64_t j = 0; j < d; ++j)
            EXPECT_EQ(out[i * static_cast<size_t>(d) + static_cast<size_t>(j)], w[static_cast<size_t>(ids[i] * d + j)]);
      }
  }
}

Doubles summed(const std::vector<int32_t>& ids, const Doubles& dy, Doubles dw, int64_t d) {
  for (size_t i = 0; i < ids.size(); ++i)
    for (int64_t j = 0; j < d; ++j) dw[static_cast<size_t>(ids[i] * d + j)] += dy[i * static_cast<size_t>(d) + static_cast<size_t>(j)];
  return dw;
}

TEST_P(Embedding, BackwardAddsEveryUseOfARepeatedIdToWhatIsThere) {
  for (int64_t d : {1, 7, 300}) {
    std::vector<int32_t> ids;
    for (int i = 0; i < 129; ++i) ids.push_back(i % 5 == 0 ? 2 : i % 11);
    const Doubles dy = random_doubles(129 * d, 1), start = random_doubles(11 * d, 2);
    for (DType dtype : {DType::f32, DType::bf16, DType::f16}) {
      const Doubles in = rounded(dy, dtype), before = rounded(start, dtype);
      Owned tdy(dtype, 129, d, in), dw(dtype, 11, d, before);
      ops::embedding_backward(context, {vector_of(ids), tdy, dw, {}});
      EXPECT_LT(error_of(dw.doubles(), summed(ids, in, before, d)), dtype == DType::f32 ? 1e-5 : 5e-3);
    }
  }
}

TEST_P(Embedding, BackwardOnSeveralThreadsIsExactAndTheSameTwice) {
  // 600×64 elements: beyond the parallel threshold, with runs of equal ids across the threads' borders.
  std::vector<int32_t> ids(600);
  for (size_t i = 0; i < ids.size(); ++i) ids[i] = i % 3 ? 4 : static_cast<int32_t>(i % 9);
  const Doubles dy = rounded(random_doubles(600 * 64, 1), DType::f32);
  Owned tdy(DType::f32, 600, 64, dy), once(DType::f32, 9, 64, Doubles(9 * 64)), again(DType::f32, 9, 64, Doubles(9 * 64));
  ops::embedding_backward(context, {vector_of(ids), tdy, once, {}});
  ops::embedding_backward(context, {vector_of(ids), tdy, again, {}});
  EXPECT_LT(error_of(once.doubles(), summed(ids, dy, Doubles(9 * 64), 64)), 1e-5);
  EXPECT_EQ(once.bytes(), again.bytes());
}

TEST_P(Embedding, TheScaleIsAppliedBothWays) {
  const std::vector<int32_t> ids{1, 0, 1};
  Owned w(DType::f32, 2, 2, {1, 2, 3, 4}), y(DType::f32, 3, 2), dw(DType::f32, 2, 2, {0, 0, 0, 0});
  ops::embedding_forward(context, {vector_of(ids), w, y, 3.0f});
  EXPECT_EQ(y.doubles(), (Doubles{9, 12, 3, 6, 9, 12}));
  ops::embedding_backward(context, {vector_of(ids), y, dw, {}, 0.5f});
  EXPECT_EQ(dw.doubles(), (Doubles{1.5, 3, 9, 12}));
}

TEST_P(Embedding, NoTokensChangeNothing) {
  Owned dw(DType::f32, 3, 2, Doubles(6, 1.0)), dy(DType::f32, 0, 2);
  ops::embedding_backward(context, {vector_of(std::vector<int32_t>{}), dy, dw, {}});
  EXPECT_EQ(dw.doubles(), Doubles(6, 1.0));
}

// NEFTune: uniform in ±alpha/√(L·d) by the length of each token's own sequence, the same however sequences are packed.
TEST_P(Embedding, NoiseIsUniformScaledByTheSequenceAndAFunctionOfTheToken) {
  const int64_t d = 64;
  std::vector<int32_t> cu{0, 5, 45}, positions;
  std::vector<int64_t> samples;
  for (int64_t s = 0; s < 2; ++s)
    for (int32_t i = 0; i < cu[static_cast<size_t>(s) + 1] - cu[static_cast<size_t>(s)]; ++i) positions.push_back(i), samples.push_back(70 + s);
  const auto run = [&](std::vector<int32_t>& c, std::vector<int32_t>& p, std::vector<int64_t>& s, uint64_t key) {
    Owned x(DType::f32, static_cast<int64_t>(p.size()), d, Doubles(p.size() * static_cast<size_t>(d), 0.0));
    ops::embedding_noise(context, {x, 5.0f, key, vector_of(c), Tensor::vector(s.data(), DType::i64, static_cast<int64_t>(s.size())), vector_of(p)});
    return x.doubles();
  };
  const Doubles noise = run(cu, positions, samples, 9);
  for (int64_t s = 0; s < 2; ++s) {
    const auto begin = static_cast<size_t>(cu[static_cast<size_t>(s)] * d), end = static_cast<size_t>(cu[static_cast<size_t>(s) + 1] * d);
    const double bound = 5.0 / std::sqrt(static_cast<double>(end - begin));
    double squares = 0, highest = 0, mean = 0;
    for (size_t i = begin; i < end; ++i) squares += noise[i] * noise[i], mean += noise[i], highest = std::max(highest, std::abs(noise[i]));
    const auto n = static_cast<double>(end - begin);
    EXPECT_LE(highest, bound);
    EXPECT_GT(highest, 0.95 * bound);
    EXPECT_NEAR(mean / n, 0, 0.1 * bound);
    EXPECT_NEAR(squares / n, bound * bound / 3, 0.15 * bound * bound / 3);
  }
  // The second sequence alone.
  std::vector<int32_t> alone{0, 40}, own(positions.begin() + 5, positions.end());
  std::vector<int64_t> its(samples.begin() + 5, samples.end());
  EXPECT_EQ(run(alone, own, its, 9), Doubles(noise.begin() + 5 * d, noise.end()));
  EXPECT_NE(run(cu, positions, samples, 10), noise);
}

ATTUNE_EVERY_BACKEND(Embedding);

}  // namespace
}  // namespace attune
