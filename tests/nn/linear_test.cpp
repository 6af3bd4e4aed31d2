// linear: fused groups, frozen members, adapter slots, and what it keeps.
#include "nn/linear.h"

#include "nn/layers.h"
#include "ops/dequantize.h"
#include "ops/quantize.h"
#include "toy.h"

namespace attune {
namespace {

using namespace test;
using V = std::vector<double>;

// Σ dy∘y of y = x·Wᵀ + b + scale·(x·Aᵀ)·Bᵀ placed at out_begin.
struct Dense {
  size_t n, in, out, rank = 0, begin = 0, width = 0;
  double scale = 0;
  V x, w, b, a, bb, dy, mask{};  // mask: what dropout multiplies x with before A reads it
  V y() const {
    V result(n * out);
    for (size_t r = 0; r < n; ++r) {
      for (size_t o = 0; o < out; ++o) {
        double sum = b.empty() ? 0 : b[o];
        for (size_t i = 0; i < in; ++i) sum += x[r * in + i] * w[o * in + i];
        result[r * out + o] = sum;
      }
      for (size_t q = 0; q < rank; ++q) {
        double h = 0;
        for (size_t i = 0; i < in; ++i) h += x[r * in + i] * (mask.empty() ? 1 : mask[r * in + i]) * a[q * in + i];
        for (size_t o = 0; o < width; ++o) result[r * out + begin + o] += scale * h * bb[o * rank + q];
      }
    }
    return result;
  }
  double loss() const {
    const V values = y();
    double sum = 0;
    for (size_t i = 0; i < values.size(); ++i) sum += values[i] * dy[i];
    return sum;
  }
};

class LinearTest : public Toy {
 protected:
  static constexpr int64_t kRows = 7, kIn = 9;
  nn::Linear layer;

  void declare(bool adapter) {
    layer.weights = store.add_group({{"q.weight", {6, kIn}}, {"k.weight", {4, kIn}}, {"v.weight", {4, kIn}}});
    layer.biases = store.add_group({{"q.bias", {6}}, {"k.bias", {4}}, {"v.bias", {4}}});
    if (!adapter) return;
    nn::Parameter& a = store.add("k.lora_A", {3, kIn});
    nn::Parameter& b = store.add("k.lora_B", {4, 3});
    layer.adapters.push_back({&a, &b, 1.75f, 6});
  }
  static double furthest(const Tensor& a, const Tensor& b) {
    double most = 0;
    for (int64_t i = 0; i < a.count(); ++i) most = std::max(most, static_cast<double>(std::abs(a.as<float>()[i] - b.as<float>()[i])));
    return most;
  }
  Dense dense(nn::Value x, const Tensor& dy) const {
    Dense d{kRows, kIn, 14, 0, 0, 0, 0, doubles(x->value), doubles(layer.weight().dense), doubles(layer.bias()), {}, {}, doubles(dy)};
    if (!layer.adapters.empty()) {
      const nn::Adapter& a = layer.adapters[0];
      d.rank = 3, d.begin = 6, d.width = 4, d.scale = a.scale;
      d.a = doubles(a.a->weight), d.bb = doubles(a.b->weight);
    }
    return d;
  }
};

TEST_F(LinearTest, GradientsOfAFusedGroup) {
  declare(false);
  allocate();
  tape.begin(true);
  nn::Value x = input(kRows, kIn), y = nn::linear(tape, x, layer);
  Dense d = dense(x, seed_gradient(y));
  const V expected = d.y();
  for (size_t i = 0; i < expected.size(); ++i) EXPECT_NEAR(y->value.as<float>()[i], expected[i], 1e-5);
  tape.backward();
  expect_differences(x->gradient, d.x, [&] { return d.loss(); });
  const Tensor dw = Tensor::matrix(layer.weights[0]->gradient.data, DType::f32, 14, kIn);
  expect_differences(dw, d.w, [&] { return d.loss(); });
  expect_differences(Tensor::vector(layer.biases[0]->gradient.data, DType::f32, 14), d.b, [&] { return d.loss(); });
}

TEST_F(LinearTest, AFrozenMemberOfAGroupGetsNoGradientAndTheOthersGetTheirs) {
  declare(false);
  store.find("k.weight")->trainable = store.find("q.bias")->trainable = false;
  allocate();
  tape.begin(true);
  nn::Value x = input(kRows, kIn), y = nn::linear(tape, x, layer);
  Dense d = dense(x, seed_gradient(y));
  tape.backward();
  EXPECT_FALSE(store.find("k.weight")->gradient.defined());
  EXPECT_FALSE(store.find("q.bias")->gradient.defined());
  // dW[o, i] = Σ dy[o]·x[i], computed by hand for the rows of v.
  const Tensor dv = store.find("v.weight")->gradient;
  for (size_t o = 0; o < 4; ++o)
    for (size_t i = 0; i < kIn; ++i) {
      double sum = 0;
      for (size_t r = 0; r < kRows; ++r) sum += d.dy[r * 14 + 10 + o] * d.x[r * kIn + i];
      EXPECT_NEAR(dv.row<float>(static_cast<int64_t>(o))[i], sum, 1e-4);
    }
  for (size_t o = 0; o < 4; ++o) {
    double sum = 0;
    for (size_t r = 0; r < kRows; ++r) sum += d.dy[r * 14 + 6 + o];
    EXPECT_NEAR(store.find("k.bias")->gradient.as<float>()[o], sum, 1e-4);
  }
}

TEST_F(LinearTest, ALowRankAdapterAddsToItsColumnsAndAloneIsTrained) {
  declare(true);
  for (nn::Parameter* p : layer.weights) p->trainable = false;
  for (nn::Parameter* p : layer.biases) p->trainable = false;
  allocate();
  tape.begin(true);
  nn::Value x = input(kRows, kIn), y = nn::linear(tape, x, layer);
  Dense d = dense(x, seed_gradient(y));
  const V expected = d.y();
  for (size_t i = 0; i < expected.size(); ++i) EXPECT_NEAR(y->value.as<float>()[i], expected[i], 1e-4);
  tape.backward();
  expect_differences(layer.adapters[0].a->gradient, d.a, [&] { return d.loss(); });
  expect_differences(layer.adapters[0].b->gradient, d.bb, [&] { return d.loss(); });
  expect_differences(x->gradient, d.x, [&] { return d.loss(); });
  for (nn::Parameter* p : layer.weights) EXPECT_FALSE(p->gradient.defined()) << p->name;
  for (const auto& p : store.all()) EXPECT_EQ(p->pending_uses, 0) << p->name;
}

TEST_F(LinearTest, DropoutOfWhatAdaptersReadIsTheSameOnTheWayBack) {
  declare(true);
  for (nn::Parameter* p : layer.weights) p->trainable = false;
  for (nn::Parameter* p : layer.biases) p->trainable = false;
  allocate();
  std::vector<int64_t> samples(kRows, 3);
  std::vector<int32_t> positions(kRows);
  for (size_t i = 0; i < positions.size(); ++i) positions[i] = static_cast<int32_t>(i);
  nn::AdapterDropout dropout;
  dropout.p = 0.4f, dropout.key = 11;
  dropout.sample_ids = Tensor::vector(samples.data(), DType::i64, kRows);
  dropout.positions = Tensor::vector(positions.data(), DType::i32, kRows);
  std::vector<float> mask(kRows * kIn, 1.0f);
  ops::Dropout ones = dropout;
  ones.x = ones.y = Tensor::matrix(mask.data(), DType::f32, kRows, kIn);
  ops::dropout(context, ones);
  tape.begin(true);
  nn::Value x = input(kRows, kIn), y = nn::linear(tape, x, layer, {}, dropout);
  Dense d = dense(x, seed_gradient(y));
  d.mask.assign(mask.begin(), mask.end());
  const V expected = d.y();
  for (size_t i = 0; i < expected.size(); ++i) EXPECT_NEAR(y->value.as<float>()[i], expected[i], 1e-4);
  tape.backward();
  expect_differences(layer.adapters[0].a->gradient, d.a, [&] { return d.loss(); });
  expect_differences(layer.adapters[0].b->gradient, d.bb, [&] { return d.loss(); });
  expect_differences(x->gradient, d.x, [&] { return d.loss(); });
}

// DoRA of k and v, q without an adapter: y = W·x + (g − 1)·W·d + g·s·B·A·d + b with g = m/‖rows‖ held constant.
class MagnitudeTest : public LinearTest {
 protected:
  struct Numbers {
    V x, w, bias, a[2], b[2], m[2], mask, dy;
    V norms;  // of k's and v's rows; constant in the gradient
    double scale = 1.5;
    V norms_now() const {
      V out;
      for (size_t s = 0; s < 2; ++s)
        for (size_t o = 0; o < 4; ++o) {
          double squares = 0;
          for (size_t i = 0; i < kIn; ++i) {
            double v = w[(6 + 4 * s + o) * kIn + i];
            for (size_t q = 0; q < 2; ++q) v += scale * b[s][o * 2 + q] * a[s][q * kIn + i];
            squares += v * v;
          }
          out.push_back(std::sqrt(squares));
        }
      return out;
    }
    V y() const {
      V out;
      for (size_t r = 0; r < kRows; ++r)
        for (size_t o = 0; o < 14; ++o) {
          double plain = 0, read = 0, low = 0, g = 1;
          for (size_t i = 0; i < kIn; ++i) {
            const double d = x[r * kIn + i] * mask[r * kIn + i];
            plain += w[o * kIn + i] * x[r * kIn + i];
            read += w[o * kIn + i] * d;
            for (size_t q = 0; o >= 6 && q < 2; ++q) low += scale * b[o / 10][((o - 6) % 4) * 2 + q] * a[o / 10][q * kIn + i] * d;
          }
          if (o >= 6) g = m[o / 10][(o - 6) % 4] / norms[o - 6];
          out.push_back(plain + (g - 1) * read + g * low + bias[o]);
        }
      return out;
    }
    double loss() const {
      const V values = y();
      double sum = 0;
      for (size_t i = 0; i < values.size(); ++i) sum += values[i] * dy[i];
      return sum;
    }
  };

  void expect_gradients(bool borrowed, float p) {
    declare(false);
    const auto downs = store.add_group({{"k.A", {2, kIn}}, {"v.A", {2, kIn}}});
    for (size_t s = 0; s < 2; ++s)
      layer.adapters.push_back({downs[s], &store.add(s ? "v.B" : "k.B", {4, 2}), 1.5f, s ? 10 : 6, &store.add(s ? "v.m" : "k.m", {4})});
    for (nn::Parameter* w : layer.weights) w->trainable = false;
    allocate();
    std::vector<int64_t> samples(kRows, 3);
    std::vector<int32_t> positions(kRows);
    for (size_t i = 0; i < positions.size(); ++i) positions[i] = static_cast<int32_t>(i);
    nn::AdapterDropout dropout;
    dropout.p = p, dropout.key = 5;
    dropout.sample_ids = Tensor::vector(samples.data(), DType::i64, kRows);
    dropout.positions = Tensor::vector(positions.data(), DType::i32, kRows);
    std::vector<float> mask(kRows * kIn, 1.0f);
    ops::Dropout ones = dropout;
    ones.x = ones.y = Tensor::matrix(mask.data(), DType::f32, kRows, kIn);
    if (p > 0) ops::dropout(context, ones);

    tape.begin(true);
    nn::Value x = input(kRows, kIn), y = nn::linear(tape, x, layer, {}, dropout);
    const Tensor dy = seed_gradient(y);
    y->gradient_borrowed = borrowed;
    Numbers n;
    n.x = doubles(x->value), n.w = doubles(layer.weight().dense), n.bias = doubles(layer.bias()), n.dy = doubles(dy);
    n.mask.assign(mask.begin(), mask.end());
    for (size_t s = 0; s < 2; ++s) {
      const nn::Adapter& a = layer.adapters[s];
      n.a[s] = doubles(a.a->weight), n.b[s] = doubles(a.b->weight), n.m[s] = doubles(a.magnitude->weight);
    }
    n.norms = n.norms_now();
    const V expected = n.y();
    for (size_t i = 0; i < expected.size(); ++i) EXPECT_NEAR(y->value.as<float>()[i], expected[i], 1e-4);
    tape.backward();
    const auto loss = [&] { return n.loss(); };
    expect_differences(x->gradient, n.x, loss);
    expect_differences(Tensor::vector(layer.biases[0]->gradient.data, DType::f32, 14), n.bias, loss);
    for (size_t s = 0; s < 2; ++s) {
      const nn::Adapter& a = layer.adapters[s];
      expect_differences(a.a->gradient, n.a[s], loss);
      expect_differences(a.b->gradient, n.b[s], loss);
      expect_differences(a.magnitude->gradient, n.m[s], loss);
    }
    for (const auto& q : store.all()) EXPECT_EQ(q->pending_uses, 0) << q->name;
    if (borrowed) {
      EXPECT_EQ(doubles(dy), n.dy) << "a gradient that others read was written to";
    }
  }
};

TEST_F(MagnitudeTest, GradientsInPlace) { expect_gradients(false, 0); }
TEST_F(MagnitudeTest, GradientsBesideABorrowedOne) { expect_gradients(true, 0); }
TEST_F(MagnitudeTest, DropoutLeavesWhatTheBaseReadsAlone) { expect_gradients(false, 0.4f); }

// The half of a block that ends in the down projection, as models write it: output first, then a scope.
class MlpMemory : public Toy {
 protected:
  static constexpr int64_t kRows = 33, kHidden = 16, kInner = 40;
  nn::Parameter* norm = nullptr;
  nn::Linear gate_up, down;

  void SetUp() override {
    norm = &store.add("norm.weight", {kHidden});
    gate_up.weights = store.add_group({{"gate", {kInner, kHidden}}, {"up", {kInner, kHidden}}});
    down.weights = {&store.add("down", {kHidden, kInner})};
  }
  // Returns bytes in use after the forward pass; runs backward and hands out the input's gradient.
  uint64_t run(V& dx) {
    store.begin_step();
    ArenaScope all(arena);
    tape.begin(true);
    nn::Value x = input(kRows, kHidden);
    nn::Value y = tape.make(x->value.rows, kHidden, DType::f32, true);
    {
      nn::Tape::Scope scope(tape);
      nn::Value n = nn::rms_norm(tape, x, {norm, 1e-5f});
      nn::Value gu = nn::linear(tape, n, gate_up);
      nn::Value act = nn::swiglu(tape, gu);
      nn::linear(tape, act, down, {y});
    }
    const uint64_t used = arena.used();
    std::vector<float> output_gradient(kRows * kHidden), input_gradient(kRows * kHidden);
    y->gradient = Tensor::matrix(output_gradient.data(), DType::f32, kRows, kHidden);
    y->gradient_written = true;
    fill(y->gradient, 77);
    x->gradient_storage = Tensor::matrix(input_gradient.data(), DType::f32, kRows, kHidden);
    tape.backward();
    dx.assign(input_gradient.begin(), input_gradient.end());
    return used;
  }
};

TEST_F(MlpMemory, AFrozenLinearKeepsNoInput) {
  allocate();
  V trainable_dx, frozen_dx;
  const uint64_t trainable = run(trainable_dx);
  down.weights[0]->trainable = false;
  const uint64_t frozen = run(frozen_dx);
  const uint64_t input_bytes = (kRows * kInner * sizeof(float) + 63) / 64 * 64;
  EXPECT_EQ(trainable - frozen, input_bytes);
  EXPECT_EQ(trainable_dx, frozen_dx);
}

TEST_F(MlpMemory, NothingIsKeptOutsideOfTraining) {
  allocate();
  tape.begin(false);
  nn::Value x = input(kRows, kHidden);
  nn::Value y = tape.make(x->value.rows, kHidden, DType::f32, true);
  const uint64_t before = arena.used();
  {
    nn::Tape::Scope scope(tape);
    nn::Value n = nn::rms_norm(tape, x, {norm, 1e-5f});
    nn::linear(tape, nn::swiglu(tape, nn::linear(tape, n, gate_up)), down, {y});
  }
  EXPECT_EQ(arena.used(), before);
}

// Wider and longer than a slab, and groups whose members begin within one.
TEST_F(LinearTest, QuantisedWeightsMultiplyAsTheirNumbersDo) {
  const int64_t widths[] = {1000, 70, 1030};
  // Few rows of whole blocks never see the numbers written down.
  for (const auto& [how, in, rows] : {std::tuple<Quantization, int64_t, int64_t>{{QuantType::nf4, true}, 1100, kRows}, {{QuantType::fp4, false}, 1100, kRows},
                                      {{QuantType::int8, false}, 1100, kRows}, {{QuantType::nf4, true}, 1088, 3}, {{QuantType::fp4, false}, 1088, 1}}) {
    nn::ParameterStore held, plain;
    nn::Linear quantized, dense;
    for (auto [store, layer] : {std::pair(&held, &quantized), {&plain, &dense}})
      layer->weights = store->add_group({{"q", {widths[0], in}}, {"k", {widths[1], in}}, {"v", {widths[2], in}}});
    for (nn::Parameter* p : quantized.weights) p->quantized.how = how, p->trainable = false;
    const uint64_t bytes = held.allocate_weights(Place::host(), DType::f32);
    EXPECT_LT(static_cast<double>(bytes), 1.01 * how.bits() / 8 * static_cast<double>(held.count()));
    plain.allocate_weights(Place::host(), DType::f32);
    for (size_t i = 0; i < 3; ++i) {
      nn::Parameter &p = *quantized.weights[i], &d = *dense.weights[i];
      fill(d.weight, i + 1);
      ops::Quantizer quantizer(p.quantized);
      ASSERT_TRUE(quantizer.add(d.weight.as<float>(), widths[i]));
      quantizer.finish();
      ops::dequantize(context, {p.quantized, 0, 0, d.weight});
      d.trainable = false;
    }
    tape.begin(true);
    nn::Value x = input(rows, in), x2 = input(rows, in);
    nn::Value y = nn::linear(tape, x, quantized), y2 = nn::linear(tape, x2, dense);
    EXPECT_LT(furthest(y->value, y2->value), 1e-3);
    seed_gradient(y2), seed_gradient(y);
    tape.backward();
    EXPECT_LT(furthest(x->gradient, x2->gradient), 1e-3);
  }
}

}  // namespace
}  // namespace attune
