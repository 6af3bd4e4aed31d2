// The CUDA kernels beside the portable CPU kernels. What is random has the same bits; what is rounded stochastically is rounded the
// same; where sums are made in another order, they are close.
#include <cmath>
#include <functional>

#include "ops/op_test.h"
#include "ops/optimizer_blockwise.h"
#include "ops/optimizer_low_rank.h"
#include "ops/embedding.h"

namespace attune {
namespace {

using namespace test;

constexpr DType kFloats[] = {DType::f32, DType::bf16, DType::f16};

// Runs the same calls on both; `f` makes its tensors by `make`, which remembers them.
class Both {
 public:
  using Make = std::function<Tensor(DType, int64_t, int64_t, const Doubles&, int64_t)>;
  using Body = std::function<void(ops::Context&, const Make&)>;

  explicit Both(const Body& f) {
    run(*ops::cpu_backends().front(), f, cpu_);
    run(cuda_for_tests(), f, cuda_);
  }
  void expect_same_bits() const {
    ASSERT_EQ(cpu_.size(), cuda_.size());
    for (size_t i = 0; i < cpu_.size(); ++i) EXPECT_EQ(cpu_[i]->bytes(), cuda_[i]->bytes()) << "tensor " << i;
  }
  void expect_close(double tolerance) const {
    ASSERT_EQ(cpu_.size(), cuda_.size());
    for (size_t i = 0; i < cpu_.size(); ++i) EXPECT_LT(test::error_of(cuda_[i]->doubles(), cpu_[i]->doubles()), tolerance) << "tensor " << i;
  }

 private:
  using Tensors = std::vector<std::unique_ptr<Owned>>;
  static void run(const ops::Backend& backend, const Body& f, Tensors& tensors) {
    Arena arena(Place(backend.device()), uint64_t{64} << 20);
    ops::Context context(backend, arena);
    f(context, [&](DType dtype, int64_t rows, int64_t cols, const Doubles& values, int64_t stride) {
      tensors.push_back(std::make_unique<Owned>(dtype, rows, cols, values, stride));
      return tensors.back()->tensor;
    });
  }
  Tensors cpu_, cuda_;
};

Doubles normal(int64_t n, uint64_t seed, double scale = 1) { return random_doubles(n, seed, scale); }

std::vector<int64_t> samples_of(int64_t n) {
  std::vector<int64_t> ids;
  for (int64_t i = 0; i < n; ++i) ids.push_back(i / 5 * 1000003 + 7);
  return ids;
}
std::vector<int32_t> positions_of(int64_t n) {
  std::vector<int32_t> at;
  for (int64_t i = 0; i < n; ++i) at.push_back(static_cast<int32_t>(i % 5 + 11));
  return at;
}

TEST(CudaParity, DropoutMasksAreTheCpusBitForBit) {
  for (DType dtype : kFloats)
    for (int64_t d : {5, 33, 64})
      Both([&](ops::Context& c, const Both::Make& make) {
        const auto samples = samples_of(23);
        const auto positions = positions_of(23);
        const Tensor x = make(dtype, 23, d, normal(23 * d, 1), 0);
        ops::dropout(c, {x, x, 0.3f, 77, vector_of(samples), vector_of(positions)});
      }).expect_same_bits();
}

TEST(CudaParity, EmbeddingNoiseIsTheCpusBitForBit) {
  for (DType dtype : kFloats)
    for (int64_t d : {7, 64})
      Both([&](ops::Context& c, const Both::Make& make) {
        const auto samples = samples_of(20);
        const auto positions = positions_of(20);
        const std::vector<int32_t> cu{0, 5, 5, 18, 20};
        ops::embedding_noise(c, {make(dtype, 20, d, normal(20 * d, 1), d + 3), 5.0f, 99, vector_of(cu), vector_of(samples), vector_of(positions)});
      }).expect_same_bits();
}

TEST(CudaParity, RandomProjectionsAreTheCpusBitForBit) {
  for (DType dtype : {DType::f32, DType::bf16}) {
    const Both both([&](ops::Context& c, const Both::Make& make) { ops::random_projection(c, {make(dtype, 7, 33, Doubles(7 * 33), 0), 1234567}); });
    if (emulated()) both.expect_same_bits();
    else both.expect_close(1e-2);  // a GPU's logarithm and sine are its own
  }
}

struct Storage {
  DType parameter, gradient, state;
  bool copy, anchor, decoupled;
};
constexpr Storage kStorages[] = {{DType::f32, DType::f32, DType::f32, false, false, true}, {DType::f32, DType::bf16, DType::f32, true, false, true},
                                 {DType::bf16, DType::bf16, DType::bf16, false, true, true}, {DType::bf16, DType::f16, DType::f32, false, true, false},
                                 {DType::f32, DType::f32, DType::bf16, true, true, false}};

// A stepped parameter of n elements. Random bits change their upper half within it.
ops::Stepped stepped(const Both::Make& make, const Storage& s, int64_t rows, int64_t cols) {
  const int64_t n = rows * cols;
  ops::Stepped of;
  of.parameter = make(s.parameter, rows, cols, normal(n, 1), 0);
  of.gradient = make(s.gradient, rows, cols, normal(n, 2), 0);
  if (s.copy) of.copy = make(DType::bf16, rows, cols, Doubles(static_cast<size_t>(n)), 0);
  if (s.anchor) of.anchor = make(DType::bf16, rows, cols, normal(n, 3), 0), of.anchor_decay = 0.05f;
  of.grad_scale = 0.37f, of.lr = 1e-3f, of.weight_decay = 0.1f, of.decoupled = s.decoupled;
  of.rounding_key = 0xABCDEF0123456789ull, of.first_element = (int64_t{1} << 32) - 256;
  return of;
}

void each_storage(const std::function<void(ops::Context&, const Both::Make&, const Storage&, int64_t rows, int64_t cols)>& f) {
  for (const Storage& s : kStorages)
    for (const auto& [rows, cols] : {std::pair<int64_t, int64_t>{1, 1}, {7, 33}, {16, 64}}) {
      SCOPED_TRACE(::testing::Message() << name_of(s.parameter) << name_of(s.gradient) << name_of(s.state) << rows << "x" << cols);
      Both([&](ops::Context& c, const Both::Make& make) { f(c, make, s, rows, cols); }).expect_same_bits();
    }
}

TEST(CudaParity, OptimizersStepAndRoundAsTheCpuBitForBit) {
  each_storage([](ops::Context& c, const Both::Make& make, const Storage& s, int64_t rows, int64_t cols) {
    const int64_t n = rows * cols;
    const Doubles zero(static_cast<size_t>(n));
    ops::Adam adam;
    adam.of = stepped(make, s, rows, cols);
    adam.m = make(s.state, rows, cols, normal(n, 4, 0.1), 0), adam.v = make(s.state, rows, cols, Doubles(static_cast<size_t>(n), 0.02), 0);
    adam.highest = make(s.state, rows, cols, Doubles(static_cast<size_t>(n), 0.03), 0);
    adam.correction1 = 0.3f, adam.correction2 = 0.2f;
    ops::adam(c, adam);
    adam.highest = {};
    ops::adam(c, adam);
    ops::Sgd sgd;
    sgd.of = stepped(make, s, rows, cols), sgd.buffer = make(s.state, rows, cols, zero, 0), sgd.momentum = 0.9f, sgd.first = true;
    ops::sgd(c, sgd);
    sgd.first = false, sgd.nesterov = true;
    ops::sgd(c, sgd);
    sgd.buffer = {};
    ops::sgd(c, sgd);
    ops::Lion lion;
    lion.of = stepped(make, s, rows, cols), lion.m = make(s.state, rows, cols, normal(n, 5), 0);
    ops::lion(c, lion);
    ops::ScaledStep scaled;
    scaled.of = stepped(make, s, rows, cols), scaled.rate = 0.01f, scaled.factors = make(DType::f32, 1, rows, normal(rows, 6), 0);
    ops::scaled_step(c, scaled);
    scaled.columns = true, scaled.factors = make(DType::f32, 1, cols, normal(cols, 7), 0);
    ops::scaled_step(c, scaled);
  });
}

TEST(CudaParity, EightBitStatesAreTheCpusBitForBit) {
  for (DType parameter : {DType::f32, DType::bf16})
    for (int64_t n : {1, 255, 1000})
      Both([&](ops::Context& c, const Both::Make& make) {
        const int64_t blocks = ops::state_blocks(n);
        const auto state = [&](uint8_t zero, std::vector<uint8_t>& codes) {
          codes.assign(static_cast<size_t>(n), zero);
          return ops::State8bit{vector_of(codes), make(DType::f32, 1, blocks, Doubles(static_cast<size_t>(blocks)), 0)};
        };
        std::vector<uint8_t> m, v, moment;
        const Storage s{parameter, DType::f32, DType::f32, false, false, true};
        ops::Adam8bit adam;
        adam.of = stepped(make, s, 1, n), adam.m = state(127, m), adam.v = state(0, v), adam.correction1 = 0.3f, adam.correction2 = 0.2f;
        ops::Lion8bit lion;
        lion.of = stepped(make, s, 1, n), lion.m = state(127, moment);
        for (int step = 0; step < 5; ++step) {
          ops::adam_8bit(c, adam);
          ops::lion_8bit(c, lion);
        }
        const Tensor seen = make(DType::f32, 3, n, Doubles(static_cast<size_t>(3 * n)), 0);
        for (int64_t i = 0; i < n; ++i) {
          const auto at = static_cast<size_t>(i);
          seen.row<float>(0)[i] = m[at], seen.row<float>(1)[i] = v[at], seen.row<float>(2)[i] = moment[at];
        }
      }).expect_same_bits();
}

TEST(CudaParity, AdafactorOfVectorsAndWithScaledParameters) {
  for (const Storage& s : kStorages)
    for (int64_t rows : {1, 13})
      for (bool vector : {false, true})
        Both([&](ops::Context& c, const Both::Make& make) {
          ops::Adafactor a;
          a.of = stepped(make, s, rows, 70), a.beta = 0.3f, a.scale_parameter = true, a.clip_threshold = 0.5f;
          if (vector) a.v = make(DType::f32, rows, 70, Doubles(static_cast<size_t>(rows * 70), 0.1), 0);
          else a.rows = make(DType::f32, 1, rows, Doubles(static_cast<size_t>(rows), 0.1), 0), a.cols = make(DType::f32, 1, 70, Doubles(70, 0.1), 0);
          ops::adafactor(c, a);
        }).expect_close(s.parameter == DType::f32 ? 1e-5 : 1e-2);
}

TEST(CudaParity, ChannelSumsAndApolloFactors) {
  for (bool columns : {false, true})
    for (bool per_tensor : {false, true})
      for (DType gradient : kFloats)
        Both([&](ops::Context& c, const Both::Make& make) {
          const int64_t rows = 37, cols = 90, channels = columns ? cols : rows, other = columns ? rows : cols, rank = 5;
          ops::ChannelSums sums;
          sums.gradient = make(gradient, rows, cols, normal(rows * cols, 1), 0), sums.columns = columns;
          sums.direction = make(DType::f32, 1, other, normal(other, 2), 0);
          sums.squares = make(DType::f32, 1, channels, Doubles(static_cast<size_t>(channels)), 0);
          sums.products = make(DType::f32, 1, channels, Doubles(static_cast<size_t>(channels)), 0);
          ops::channel_sums(c, sums);
          const auto matrix = [&](const Doubles& x) { return columns ? make(DType::f32, rank, channels, x, 0) : make(DType::f32, channels, rank, x, 0); };
          ops::ApolloFactors a;
          a.low = matrix(normal(channels * rank, 3)), a.m = matrix(normal(channels * rank, 4, 0.1)), a.v = matrix(Doubles(static_cast<size_t>(channels * rank), 0.2));
          a.columns = columns, a.per_tensor = per_tensor, a.squares = sums.squares;
          a.previous = make(DType::f32, 1, 1, Doubles(1), 0);
          a.factors = make(DType::f32, 1, channels, Doubles(static_cast<size_t>(channels)), 0);
          a.grad_scale = 0.5f, a.scale = 2, a.scale_front = per_tensor;
          ops::apollo_factors(c, a);
          ops::apollo_factors(c, a);
        }).expect_close(1e-5);
}

// Rows longer than a warp takes, in the wide and the narrow form.
TEST(CudaParity, LongRowsOfNorms) {
  for (DType dtype : kFloats)
    for (int64_t d : {1024, 1025, 1600})
      Both([&](ops::Context& c, const Both::Make& make) {
        const int64_t n = 9;
        const Tensor x = make(dtype, n, d, normal(n * d, 1), 0), w = make(DType::f32, 1, d, normal(d, 2), 0), y = make(dtype, n, d, normal(n * d, 3), 0),
                     rstd = make(DType::f32, 1, n, Doubles(static_cast<size_t>(n)), 0), dw = make(DType::f32, 1, d, normal(d, 4), 0);
        ops::rms_norm_forward(c, {x, w, 1e-5f, y, rstd, 1});
        ops::RmsNormBackward b;
        b.x = x, b.weight = w, b.rstd = rstd, b.dy = y, b.dx = x, b.dweight = dw, b.accumulate_dweight = true, b.offset = 1;
        ops::rms_norm_backward(c, b);
      }).expect_close(dtype == DType::f32 ? 1e-5 : 2e-2);
}

TEST(CudaParity, AttentionOverSeveralTilesOfWideHeads) {
  struct Heads {
    int64_t heads, kv, d;
  };
  for (const Heads& h : {Heads{2, 1, 64}, {2, 2, 96}, {2, 1, 256}, {1, 1, 130}})
    for (DType dtype : kFloats)
      Both([&](ops::Context& c, const Both::Make& make) {
        const std::vector<int32_t> cu_q{0, 70, 79}, cu_k{0, 100, 109};
        const auto samples = samples_of(79);
        const auto positions = positions_of(79);
        const int64_t nq = 79, nk = 109, qc = h.heads * h.d, kc = h.kv * h.d;
        const auto q = make(dtype, nq, qc, normal(nq * qc, 1), 0), k = make(dtype, nk, kc, normal(nk * kc, 2), 0), v = make(dtype, nk, kc, normal(nk * kc, 3), 0),
                   out = make(dtype, nq, qc, normal(nq * qc, 4), 0), lse = make(DType::f32, nq, h.heads, normal(nq * h.heads, 5), 0),
                   dout = make(dtype, nq, qc, normal(nq * qc, 6), 0);
        ops::AttentionShape s;
        s.heads = h.heads, s.kv_heads = h.kv, s.head_dim = h.d, s.scale = static_cast<float>(1 / std::sqrt(static_cast<double>(h.d)));
        s.max_q = 70, s.max_k = 100, s.dropout = 0.2f, s.dropout_key = 5, s.sample_ids = vector_of(samples), s.positions = vector_of(positions);
        ops::attention_forward(c, {s, q, k, v, vector_of(cu_q), vector_of(cu_k), out, lse, {}});
        ops::attention_backward(c, {s, q, k, v, vector_of(cu_q), vector_of(cu_k), out, lse, dout, q, k, v, {}});
      }).expect_close(dtype == DType::f32 ? 2e-5 : 2e-2);
}

}  // namespace
}  // namespace attune
